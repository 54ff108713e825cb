//! What proves a secret to each plugin.
//!
//! Sources: MySQL's "Authentication Methods" (native, caching_sha2, sha256, clear); MariaDB's documentation of
//! `client_ed25519` and `parsec`, and their servers in plugin/auth_ed25519 and plugin/auth_parsec. Deliberately absent:
//! mysql_old_password, dialog (PAM asks a person), GSSAPI, LDAP, WebAuthn, OpenID.

use aws_lc_rs::{digest, pbkdf2};
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{Sha512, Signer as _, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::super::SCRAMBLE;
use crate::protocol::login::{Derivation, Secret, secret_message};

pub(super) const NATIVE: &[u8] = b"mysql_native_password";
pub(super) const CACHING_SHA2: &[u8] = b"caching_sha2_password";
pub(super) const SHA256: &[u8] = b"sha256_password";
pub(super) const CLEAR: &[u8] = b"mysql_clear_password";
pub(super) const PARSEC: &[u8] = b"parsec";
const ED25519: &[u8] = b"client_ed25519";

/// All of them, the best first.
pub(in super::super) const PLUGINS: &[&str] = &[
    "parsec",
    "client_ed25519",
    "caching_sha2_password",
    "sha256_password",
    "mysql_native_password",
    "mysql_clear_password",
];

/// The challenge of the plugins with Ed25519.
const NONCE: usize = 32;
const PARSEC_SALT: usize = 18;
/// The server's hash rounds are 1024, doubled up to so many times.
const PARSEC_DOUBLINGS_MAX: u8 = 3;

type Proof = Result<Zeroizing<Vec<u8>>, &'static str>;

/// The first answer to that challenge; `None`: the plugin is not known.
pub(super) fn proof(plugin: &[u8], challenge: &[u8], secret: &Secret) -> Option<Proof> {
    let scramble = challenge.get(..SCRAMBLE).ok_or("a challenge that is too short");
    Some(match plugin {
        NATIVE => scramble.map(|scramble| native(scramble, secret)),
        CACHING_SHA2 => scramble.map(|scramble| caching_sha2(scramble, secret)),
        // Inside TLS both want the password itself.
        SHA256 | CLEAR => Ok(in_clear(secret)),
        ED25519 => match challenge.get(..NONCE) {
            Some(nonce) => Ok(ed25519(nonce, secret)),
            None => Err("a challenge that is too short"),
        },
        // It asks for the salt.
        PARSEC => Ok(Zeroizing::default()),
        _ => return None,
    })
}

/// The password and a NUL.
pub(super) fn in_clear(secret: &Secret) -> Zeroizing<Vec<u8>> {
    secret_message(&[secret.expose().as_bytes(), b"\0"])
}

/// SHA1(password) XOR SHA1(scramble, SHA1(SHA1(password))); empty for an empty password.
fn native(scramble: &[u8], secret: &Secret) -> Zeroizing<Vec<u8>> {
    let sha1 = |parts: &[&[u8]]| hash(&digest::SHA1_FOR_LEGACY_USE_ONLY, parts);
    let once = sha1(&[secret.expose().as_bytes()]);
    let mask = sha1(&[scramble, &sha1(&[&once])]);
    masked(once, &mask, secret)
}

/// SHA256(password) XOR SHA256(SHA256(SHA256(password)), scramble); empty for an empty password.
fn caching_sha2(scramble: &[u8], secret: &Secret) -> Zeroizing<Vec<u8>> {
    let sha256 = |parts: &[&[u8]]| hash(&digest::SHA256, parts);
    let once = sha256(&[secret.expose().as_bytes()]);
    let mask = sha256(&[&sha256(&[&once]), scramble]);
    masked(once, &mask, secret)
}

fn masked(mut once: Zeroizing<Vec<u8>>, mask: &[u8], secret: &Secret) -> Zeroizing<Vec<u8>> {
    if secret.expose().is_empty() {
        return Zeroizing::default();
    }
    once.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    once
}

/// An Ed25519 signature of the nonce. The key is made of the password itself, where RFC 8032 has a seed of 32 bytes.
fn ed25519(nonce: &[u8], secret: &Secret) -> Zeroizing<Vec<u8>> {
    let mut expanded = Zeroizing::new([0; 64]);
    expanded.copy_from_slice(&hash(&digest::SHA512, &[secret.expose().as_bytes()]));
    let key = ExpandedSecretKey::from_bytes(&expanded);
    let signature = raw_sign::<Sha512>(&key, nonce, &VerifyingKey::from(&key));
    secret_message(&[&signature.to_bytes()])
}

/// Our nonce, and an Ed25519 signature of both nonces. `salt`: `P`, the rounds, and the salt of the key.
pub(super) fn parsec_proof(challenge: &[u8], salt: &[u8], nonce: &[u8], secret: &Secret) -> Proof {
    let Some(challenge) = challenge.get(..NONCE) else { return Err("a challenge that is too short") };
    let [b'P', doublings @ ..=PARSEC_DOUBLINGS_MAX, salt @ ..] = salt else {
        return Err("a salt of an unknown form");
    };
    if salt.len() != PARSEC_SALT {
        return Err("a salt of an unknown form");
    }
    let iterations = 1024 << doublings;
    let parameters = Derivation { salt: salt.to_vec(), iterations };
    let seed = secret.derived(&parameters, |password| {
        let mut key = Zeroizing::new([0; 32]);
        let iterations = iterations.try_into().expect("there are rounds");
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
        pbkdf2::derive(algorithm, iterations, salt, password.as_bytes(), key.as_mut());
        key
    });
    // 32 bytes, of as much entropy as the nonce has.
    let nonce = hash(&digest::SHA256, &[nonce, challenge]);
    let signature = SigningKey::from_bytes(&seed).sign(&[challenge, &nonce].concat());
    Ok(secret_message(&[&nonce, &signature.to_bytes()]))
}

fn hash(algorithm: &'static digest::Algorithm, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut context = digest::Context::new(algorithm);
    parts.iter().for_each(|part| context.update(part));
    secret_message(&[context.finish().as_ref()])
}
