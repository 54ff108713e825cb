//! SCRAM-SHA-256 as a client, with or without binding to the TLS connection (RFC 5802, RFC 7677). The nonce is an
//! argument; hashing is aws-lc's.

use std::num::NonZeroU32;
use std::str;

use aws_lc_rs::hmac;
use aws_lc_rs::{digest, pbkdf2};
use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::escaped_name;
use crate::protocol::login::{Derivation, LoginError, Secret};

/// How the exchange is bound to its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocol) enum Binding {
    /// `n`: not at all.
    None,
    /// `y`: we could, and the server does not offer it. A server that does sees that somebody has taken it out.
    NotOffered,
    /// `p=tls-server-end-point` with the hash of the server's certificate.
    EndPoint(Vec<u8>),
}

/// The client of one exchange.
#[derive(Debug)]
pub(in crate::protocol) struct Scram {
    secret: Secret,
    gs2: Vec<u8>,
    /// The header and the binding, in base64: the client's final `c=`.
    bound: String,
    first_bare: String,
    state: State,
}

#[derive(Debug)]
enum State {
    ExpectsServerFirst,
    /// The signature that proves that the server knows the password.
    ExpectsServerFinal(Vec<u8>),
    Over,
}

/// Rounds that a server may demand. PostgreSQL has 4,096 unless set otherwise; more than this is an attack on our time.
const ITERATIONS_MAX: u32 = 1_000_000;
/// A salt or nonce is shorter.
const MESSAGE_MAX: usize = 4096;

const fn malformed(reason: &'static str) -> LoginError {
    LoginError::Malformed { protocol: "SCRAM", reason }
}

impl Scram {
    /// `user` is empty where the protocol has named the user already (PostgreSQL).
    pub(in crate::protocol) fn new(secret: Secret, user: &str, binding: &Binding, nonce: &[u8]) -> Self {
        let (gs2, bound): (&[u8], &[u8]) = match binding {
            Binding::None => (b"n,,", b""),
            Binding::NotOffered => (b"y,,", b""),
            Binding::EndPoint(hash) => (b"p=tls-server-end-point,,", hash),
        };
        let first_bare = format!("n={},r={}", escaped_name(&prepared(user)), BASE64.encode(nonce));
        let bound = BASE64.encode(&[gs2, bound].concat());
        Self { secret, gs2: gs2.to_vec(), bound, first_bare, state: State::ExpectsServerFirst }
    }

    /// The client's first message.
    pub(in crate::protocol) fn first(&self) -> Vec<u8> {
        [&self.gs2, self.first_bare.as_bytes()].concat()
    }

    /// The client's final message, in answer to the server's first.
    pub(in crate::protocol) fn last(&mut self, server_first: &[u8]) -> Result<Vec<u8>, LoginError> {
        if !matches!(self.state, State::ExpectsServerFirst) {
            return Err(malformed("a message too many"));
        }
        let text = str::from_utf8(server_first).ok().filter(|text| text.len() <= MESSAGE_MAX);
        let text = text.ok_or(malformed("its first message is no text, or too long"))?;
        let mut attributes = text.split(',');
        let mut next = |key: &str| attributes.next().and_then(|attribute| attribute.strip_prefix(key));
        let (nonce, salt, iterations) = (next("r="), next("s="), next("i="));
        let own = self.first_bare.rsplit_once("r=").map_or("", |(_, nonce)| nonce);
        let nonce = nonce
            .filter(|nonce| nonce.len() > own.len() && nonce.starts_with(own))
            .ok_or(malformed("its nonce does not begin with ours"))?;
        let salt = salt
            .and_then(|salt| BASE64.decode(salt.as_bytes()).ok())
            .filter(|salt| !salt.is_empty())
            .ok_or(malformed("it has no salt"))?;
        let iterations = iterations
            .and_then(|rounds| rounds.parse::<NonZeroU32>().ok())
            .filter(|rounds| rounds.get() <= ITERATIONS_MAX)
            .ok_or(malformed("its number of rounds is none, or too high"))?;
        let parameters = Derivation { salt, iterations: iterations.get() };
        let salted = self.secret.derived(&parameters, |password| {
            let mut key = Zeroizing::new([0; 32]);
            let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
            let password = Zeroizing::new(prepared(password));
            pbkdf2::derive(algorithm, iterations, &parameters.salt, password.as_bytes(), key.as_mut());
            key
        });
        let without_proof = format!("c={},r={nonce}", self.bound);
        let signed = format!("{},{text},{without_proof}", self.first_bare);
        let client_key = Zeroizing::new(sign(&*salted, b"Client Key"));
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        let signature = sign(stored_key.as_ref(), signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(key, bit)| key ^ bit).collect();
        let server_key = Zeroizing::new(sign(&*salted, b"Server Key"));
        self.state = State::ExpectsServerFinal(sign(&server_key, signed.as_bytes()));
        Ok(format!("{without_proof},p={}", BASE64.encode(&proof)).into_bytes())
    }

    /// Checks the server's final message. `Ok(Some)`: it carries an error instead of a signature, such as `invalid-proof`.
    pub(in crate::protocol) fn verify(&mut self, server_final: &[u8]) -> Result<Option<String>, LoginError> {
        let State::ExpectsServerFinal(expected) = std::mem::replace(&mut self.state, State::Over) else {
            return Err(malformed("a final message before its time"));
        };
        let attribute = server_final.split(|byte| *byte == b',').next().unwrap_or_default();
        if let Some(error) = attribute.strip_prefix(b"e=") {
            return Ok(Some(String::from_utf8_lossy(error).into_owned()));
        }
        let signature = attribute.strip_prefix(b"v=").and_then(|text| BASE64.decode(text).ok());
        match signature.is_some_and(|signature| signature == expected) {
            true => Ok(None),
            false => Err(LoginError::Unproven("its signature is wrong")),
        }
    }

    /// Whether the server has proved that it knows the password.
    pub(in crate::protocol) const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }
}

fn sign(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

/// SASLprep (RFC 4013) for names and passwords. What it does not permit is used as it is, as PostgreSQL does
/// (pg_saslprep in src/common/saslprep.c).
fn prepared(text: &str) -> String {
    stringprep::saslprep(text).map_or_else(|_| text.to_owned(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::login::SecretKind;

    /// RFC 7677 §3. Our nonce is base64, which its `rOprNGfwEbeRWgbNEkqO` happens to be.
    fn example() -> Scram {
        let secret = Secret::new(SecretKind::Password, Zeroizing::new("pencil".into()));
        let nonce = BASE64.decode(b"rOprNGfwEbeRWgbNEkqO").unwrap();
        Scram::new(secret, "user", &Binding::None, &nonce)
    }

    const SERVER_FIRST: &[u8] =
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    #[test]
    fn the_example_of_the_standard() {
        let mut scram = example();
        assert_eq!(scram.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        assert_eq!(
            scram.last(SERVER_FIRST).unwrap(),
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
              p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert!(!scram.is_over());
        assert_eq!(scram.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap(), None);
        assert!(scram.is_over());
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_found_out() {
        for (answer, expected) in [
            (&b"v=AAAA"[..], LoginError::Unproven("its signature is wrong")),
            (b"", LoginError::Unproven("its signature is wrong")),
            (b"v=!", LoginError::Unproven("its signature is wrong")),
        ] {
            let mut scram = example();
            scram.last(SERVER_FIRST).unwrap();
            assert_eq!(scram.verify(answer).unwrap_err(), expected);
        }
        let mut scram = example();
        scram.last(SERVER_FIRST).unwrap();
        assert_eq!(scram.verify(b"e=invalid-proof").unwrap().as_deref(), Some("invalid-proof"));
        assert!(example().verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").is_err());
    }

    #[test]
    fn a_first_message_that_is_none_is_refused() {
        for message in [
            &b""[..],
            b"r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            b"r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            b"r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096",
            b"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0",
            b"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1000001",
            b"r=rOprNGfwEbeRWgbNEkqOx,i=4096,s=W22ZaJ0SNY7soEsUEjb6gQ==",
            b"m=ext,r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        ] {
            assert!(example().last(message).is_err(), "{}", String::from_utf8_lossy(message));
        }
    }

    #[test]
    fn the_connection_is_part_of_what_is_signed() {
        let secret = Secret::new(SecretKind::Password, Zeroizing::new("pencil".into()));
        let mut bound = Scram::new(secret.clone(), "", &Binding::EndPoint(vec![1, 2, 3]), &[7; 18]);
        assert!(bound.first().starts_with(b"p=tls-server-end-point,,n=,r="));
        let own = String::from_utf8(bound.first()).unwrap().rsplit_once("r=").unwrap().1.to_owned();
        let last = bound.last(format!("r={own}x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096").as_bytes()).unwrap();
        let bound = BASE64.encode(b"p=tls-server-end-point,,\x01\x02\x03");
        assert!(last.starts_with(format!("c={bound},").as_bytes()));
        assert!(Scram::new(secret, "", &Binding::NotOffered, &[7; 18]).first().starts_with(b"y,,"));
    }
}
