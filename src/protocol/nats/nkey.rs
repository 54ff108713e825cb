//! nkeys: Ed25519 keys of NATS' users, written in base32 with a type and a checksum, and the files that hold them: a seed as
//! `nk` writes it, or a `.creds` file, which has the user's JWT besides.
//!
//! Sources: github.com/nats-io/nkeys (main.go, strkey.go, crc16.go: a seed's first two bytes hold two types, its last two
//! CRC-16/XMODEM, lowest byte first); docs.nats.io, "NKeys" and "Decentralized JWT Authentication" (.creds). Deliberately
//! absent: keys of operators, accounts and servers, which sign in nowhere; whether a JWT has expired, which the server says.

use data_encoding::BASE32_NOPAD;
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

use crate::protocol::login::{LoginCredentials, Secret, SecretKind};

/// Types, in the upper five bits of a byte, so that a seed begins with `SU` and a public key with `U`.
const SEED: u8 = 18 << 3;
const USER: u8 = 20 << 3;
/// Two bytes of types, 32 of the seed, two of the checksum: 58 letters.
const SEED_LENGTH: usize = 36;
const SEED_LETTERS: usize = 58;

/// A user's key.
pub(super) struct Nkey<'a> {
    key: SigningKey,
    jwt: Option<&'a str>,
}

impl<'a> Nkey<'a> {
    /// Of a file: lines around them, such as warnings and comments, are left alone.
    ///
    /// # Errors
    /// What is wrong with the text, after the name of its file.
    pub(super) fn parse(text: &'a str) -> Result<Self, &'static str> {
        let lines = || text.lines().map(str::trim);
        let is_of_jwt = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.=".contains(&byte);
        let is_jwt = |line: &&str| {
            line.starts_with("eyJ") && line.matches('.').count() == 2 && line.bytes().all(is_of_jwt)
        };
        if text.contains("NATS USER JWT") && !lines().any(|line| is_jwt(&line)) {
            return Err("has no JWT where it says that it has one");
        }
        let seed = lines().find(|line| line.len() == SEED_LETTERS && line.starts_with("SU"));
        let seed = seed.ok_or("has no seed of a user's nkey (a line of 58 letters, which begins with SU)")?;
        Ok(Self {
            key: key(seed).ok_or("has an nkey with a letter that is wrong")?,
            jwt: lines().find(is_jwt),
        })
    }

    /// The JWT of a `.creds` file.
    pub(super) const fn jwt(&self) -> Option<&'a str> {
        self.jwt
    }

    /// The public key, as the server has it in its configuration.
    pub(super) fn public(&self) -> String {
        let mut bytes = vec![USER];
        bytes.extend_from_slice(self.key.verifying_key().as_bytes());
        let sum = checksum(&bytes).to_le_bytes();
        BASE32_NOPAD.encode(&[&bytes[..], &sum].concat())
    }

    pub(super) fn sign(&self, challenge: &[u8]) -> [u8; 64] {
        self.key.sign(challenge).to_bytes()
    }
}

/// The key of a seed; `None`: it is not a user's, or damaged.
fn key(letters: &str) -> Option<SigningKey> {
    let mut bytes = Zeroizing::new([0; SEED_LENGTH]);
    let length = BASE32_NOPAD.decode_len(letters.len()).ok().filter(|length| *length == SEED_LENGTH)?;
    BASE32_NOPAD.decode_mut(letters.as_bytes(), &mut bytes[..length]).ok()?;
    let (signed, sum) = bytes.split_at(SEED_LENGTH - 2);
    let types = (signed[0] & 0b1111_1000, (signed[0] & 0b111) << 5 | signed[1] >> 3);
    if types != (SEED, USER) || *sum != checksum(signed).to_le_bytes() {
        return None;
    }
    signed[2..].first_chunk().map(SigningKey::from_bytes)
}

/// CRC-16/XMODEM.
fn checksum(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum: u16, byte| {
        (0..8).fold(sum ^ u16::from(*byte) << 8, |sum, _| sum << 1 ^ if sum >> 15 == 1 { 0x1021 } else { 0 })
    })
}

/// What a file with an nkey signs in as: the user is the public key.
///
/// # Errors
/// What is wrong with the text, without any of it.
pub fn nkey_credentials(text: &str) -> Result<LoginCredentials, &'static str> {
    let user = Nkey::parse(text)?.public();
    Ok(LoginCredentials { user, secret: Secret::new(SecretKind::Nkey, Zeroizing::new(text.to_owned())) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the documentation of nkeys and of its tests' form: made by another implementation (tests/behaviour/logins_nats.rs
    /// has the server read the public key).
    const SEED_OF_DOCS: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    const PUBLIC_OF_DOCS: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

    #[test]
    fn a_seed_has_the_public_key_that_nats_says() {
        assert_eq!(nkey_credentials(SEED_OF_DOCS).unwrap().user, PUBLIC_OF_DOCS);
        let decorated = format!(
            "# {PUBLIC_OF_DOCS}\n-----BEGIN USER NKEY SEED-----\r\n{SEED_OF_DOCS}\r\n------END USER NKEY SEED------\n"
        );
        let nkey = Nkey::parse(&decorated).unwrap();
        assert_eq!((nkey.public().as_str(), nkey.jwt()), (PUBLIC_OF_DOCS, None));
        assert!(nkey.key.verifying_key().verify_strict(b"n", &nkey.sign(b"n").into()).is_ok());
    }

    #[test]
    fn a_creds_file_has_a_jwt_besides() {
        let creds = |jwt: &str| {
            format!(
                "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\nIMPORTANT: sensitive\n\n\
                 -----BEGIN USER NKEY SEED-----\n{SEED_OF_DOCS}\n------END USER NKEY SEED------\n"
            )
        };
        assert_eq!(Nkey::parse(&creds("eyJ0.eyJq.c2ln-_")).unwrap().jwt(), Some("eyJ0.eyJq.c2ln-_"));
        for not in ["", "eyJ0.eyJq", "eyJ0.\"}.x"] {
            assert_eq!(Nkey::parse(&creds(not)).err(), Some("has no JWT where it says that it has one"));
        }
    }

    #[test]
    fn what_is_no_seed_of_a_user_is_told_without_showing_it() {
        let damaged = SEED_OF_DOCS.replace('Q', "A");
        // Of an account: the same type of key with another second type.
        let account = format!("SA{}", &SEED_OF_DOCS[2..]);
        for text in ["", "hunter2", &damaged, &account, &SEED_OF_DOCS[..57], &SEED_OF_DOCS.to_lowercase()] {
            let reason = nkey_credentials(text).unwrap_err();
            assert!(text.is_empty() || !reason.contains(text), "{reason}");
        }
        let mut rng = fastrand::Rng::with_seed(29);
        for _ in 0..5_000 {
            let mut text = SEED_OF_DOCS.to_owned().into_bytes();
            let at = rng.usize(..text.len());
            text[at] = rng.u8(..);
            let _ = nkey_credentials(&String::from_utf8_lossy(&text));
        }
    }
}
