//! TDS 7's upgrade to TLS: the client's PRELOGIN, or one of ours, with a demand to encrypt everything; then the
//! handshake.
//!
//! The server's answer is not authenticated, so only what we know of it is passed on to the client, made anew. Source:
//! MS-TDS §2.2.6.5. A server that can encrypt answers ENCRYPT_ON to ENCRYPT_ON, whatever its settings; ENCRYPT_OFF,
//! which would encrypt the login alone, is never accepted.

use super::{
    ENCRYPTION, First, HEAD, LOGIN_ONLY, NOT_SUPPORTED, ON, PACKET_MAX, PRELOGIN, REQUIRED, RESPONSE,
    Wrapping, choices, encryption_at, first, prelogin, prelogin_of,
};
use crate::protocol::{NothingBuffered, Upgrade, UpgradeError, UpgradeStep, Upgraded};

/// The first byte of a TLS record with an alert (RFC 8446 §5.1).
pub(super) const TLS_ALERT: u8 = 0x15;

/// The options of a server's answer, with the allowed lengths of their values: version, instance, thread, MARS, trace,
/// federated login, nonce.
const ANSWERS: &[(u8, &[usize])] =
    &[(0, &[6]), (2, &[0, 1]), (3, &[0, 4]), (4, &[1]), (5, &[0, 16, 20, 36]), (6, &[1]), (7, &[32])];

/// PRELOGIN, and the server's answer so far.
#[derive(Debug)]
pub(super) struct AskEncryption {
    request: Vec<u8>,
    held: Vec<u8>,
}

impl AskEncryption {
    /// `preface`: the client's PRELOGIN; empty without a client or if it has sent none.
    pub(super) fn of(preface: &[u8]) -> Self {
        let mut request = if preface.is_empty() { prelogin(PRELOGIN) } else { preface.to_vec() };
        let wish = request.get(HEAD..).and_then(encryption_at).expect("who opened looked");
        request[HEAD + wish] = ON;
        Self { request, held: Vec::new() }
    }

    /// Reads no further than the current packet, because TLS begins after it.
    fn missing(&self) -> Result<UpgradeStep, UpgradeError> {
        match first(RESPONSE, &self.held) {
            First::Incomplete if self.held.len() < HEAD => {
                Ok(UpgradeStep::ReadAtMost(HEAD - self.held.len()))
            }
            First::Incomplete => {
                let length = usize::from(u16::from_be_bytes([self.held[2], self.held[3]]));
                Ok(UpgradeStep::ReadAtMost(length - self.held.len()))
            }
            First::Whole(length) => self.answered(length),
            First::Foreign if self.held.first() == Some(&TLS_ALERT) => Err(UpgradeError::SpeaksTls),
            First::Foreign if self.held.first() == Some(&RESPONSE) => {
                Err(UpgradeError::Unsuitable("the server's answer to PRELOGIN is not one packet of TDS"))
            }
            First::Foreign => Err(UpgradeError::NotTheProtocol {
                protocol: "TDS",
                byte: self.held.first().copied().unwrap_or_default(),
            }),
        }
    }

    fn answered(&self, length: usize) -> Result<UpgradeStep, UpgradeError> {
        let (packet, rest) = self.held.split_at(length);
        let payload = &packet[HEAD..];
        let refused = |why| Err(UpgradeError::Unsuitable(why));
        let Some(choices) = choices(payload) else {
            return refused("the server's answer to PRELOGIN is malformed");
        };
        match encryption_at(payload).map(|at| payload[at]) {
            Some(ON | REQUIRED) => {}
            Some(LOGIN_ONLY) => {
                return refused(
                    "the server would encrypt the login only (ENCRYPT_OFF), though all was asked for",
                );
            }
            Some(NOT_SUPPORTED) | None => {
                return refused(
                    "the server has no encryption to offer (ENCRYPT_NOT_SUP): it has no certificate that it can use",
                );
            }
            Some(_) => return refused("the server's answer to PRELOGIN has an encryption that nobody knows"),
        }
        let mut options: Vec<(u8, &[u8])> = Vec::new();
        for choice in choices {
            let value = &payload[choice.value];
            let is_known = ANSWERS
                .iter()
                .any(|(token, lengths)| *token == choice.token && lengths.contains(&value.len()));
            if is_known && options.iter().all(|(token, _)| *token != choice.token) {
                options.push((choice.token, value));
            }
        }
        // The version comes first.
        options.insert(options.len().min(1), (ENCRYPTION, &[ON]));
        Ok(UpgradeStep::Upgrade(Upgraded {
            wrapping: Some(Wrapping::default()),
            answer: Some(prelogin_of(RESPONSE, &options)),
            ..Upgraded::new(NothingBuffered::behind(rest)?)
        }))
    }
}

impl Upgrade for AskEncryption {
    fn begin(&mut self) -> UpgradeStep {
        UpgradeStep::Send(std::mem::take(&mut self.request).into())
    }

    fn note_sent(&mut self) -> UpgradeStep {
        UpgradeStep::ReadAtMost(HEAD)
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<UpgradeStep, UpgradeError> {
        if bytes.is_empty() {
            return Err(UpgradeError::Closed);
        }
        self.held.extend_from_slice(bytes);
        if self.held.len() > PACKET_MAX {
            return Err(UpgradeError::Endless(PACKET_MAX));
        }
        self.missing()
    }
}
