//! The client's untyped first packets: requests for encryption, then a StartupMessage or CancelRequest.

use std::borrow::Cow;

use super::startup::Startup;
use super::{
    CANCEL_REQUEST_CODE, CANCELS, GSSENC_REQUEST_CODE, OPENING_MAX, Postgres, SSL_REQUEST_CODE, be_u32,
};
use crate::protocol::{
    CancelKey, ClientOpening, Dialogue, Opening as AnyOpening, OpeningError, OpeningState, TLS_HANDSHAKE,
};

/// A CancelRequest: length, code, process id, and a key of 1 to 256 bytes.
const CANCEL_MAX: usize = 12 + 256;

/// Reads the client's untyped first packets, one at a time.
#[derive(Debug)]
pub(super) struct StartupOpening {
    protocol: Postgres,
    pub(super) held: Vec<u8>,
    ssl_answered: bool,
    gss_answered: bool,
}

impl AnyOpening for StartupOpening {
    fn receive(&mut self, bytes: &[u8]) -> Result<OpeningState, OpeningError> {
        self.held.extend_from_slice(bytes);
        // 0x16 begins a TLS record. As a length it would announce a packet of 370 MB.
        if self.held.first() == Some(&TLS_HANDSHAKE) {
            return Err(OpeningError::speaks_tls(
                "the client speaks TLS to a plaintext port; set sslmode=disable (or prefer, without \
                 sslnegotiation=direct) in the client",
            ));
        }
        let Some(length) = be_u32(&self.held, 0) else { return Ok(OpeningState::Incomplete) };
        let length = length as usize;
        if !(8..=OPENING_MAX).contains(&length) {
            return Err(malformed("the client's first packet is not PostgreSQL: impossible length"));
        }
        if self.held.len() < length {
            return Ok(OpeningState::Incomplete);
        }
        match be_u32(&self.held, 4).unwrap_or_default() {
            SSL_REQUEST_CODE if !self.ssl_answered => {
                self.ssl_answered = true;
                self.decline(length)
            }
            GSSENC_REQUEST_CODE if !self.gss_answered => {
                self.gss_answered = true;
                self.decline(length)
            }
            SSL_REQUEST_CODE | GSSENC_REQUEST_CODE => {
                Err(malformed("the client asked for encryption again after it was declined"))
            }
            CANCEL_REQUEST_CODE => self.cancel(length),
            // Every minor version of 3 is passed on: the server negotiates it with NegotiateProtocolVersion.
            version if version >> 16 == 3 => self.startup(length),
            _ => Err(malformed("the client's first packet is not PostgreSQL protocol 3")),
        }
    }
}

impl StartupOpening {
    pub(super) const fn new(protocol: Postgres) -> Self {
        Self { protocol, held: Vec::new(), ssl_answered: false, gss_answered: false }
    }

    /// `N`: this hop is not encrypted. The client continues with the next packet on the same connection. It must not
    /// have sent it already: one side would take it for encrypted and the other for plaintext.
    fn decline(&mut self, length: usize) -> Result<OpeningState, OpeningError> {
        if self.held.len() > length || length != 8 {
            return Err(malformed("the client sent data behind its request for encryption"));
        }
        self.held.clear();
        Ok(OpeningState::Answer(Cow::Borrowed(b"N")))
    }

    fn cancel(&mut self, length: usize) -> Result<OpeningState, OpeningError> {
        if !(13..=CANCEL_MAX).contains(&length) {
            return Err(malformed("the client's CancelRequest has an impossible length"));
        }
        let bytes = std::mem::take(&mut self.held);
        let process = be_u32(&bytes, 8).unwrap_or_default();
        let cancels = Some(CancelKey { process, secret: bytes[12..length].into() });
        Ok(OpeningState::Opened(ClientOpening {
            bytes,
            cancels,
            reply_to: CANCELS,
            ..ClientOpening::default()
        }))
    }

    fn startup(&mut self, length: usize) -> Result<OpeningState, OpeningError> {
        let is_npgsql = parameter_names(&self.held[8..length]).take(2).eq(NPGSQL_BEGINS_WITH);
        let strips_plus = self.protocol.strips_plus(is_npgsql);
        // Bytes after the packet are sent with it; the server judges them.
        let bytes = std::mem::take(&mut self.held);
        let dialogue: Box<dyn Dialogue> = Box::new(Startup::new(strips_plus));
        Ok(OpeningState::Opened(ClientOpening {
            bytes,
            dialogue: Some(dialogue),
            ..ClientOpening::default()
        }))
    }
}

/// The first two parameters of Npgsql 5 to 10. It needs PLUS in the list to send the gs2 flag `n` (with `Channel
/// Binding=Disable`); libpq and pgjdbc continue with `database`.
const NPGSQL_BEGINS_WITH: [&[u8]; 2] = [b"user", b"client_encoding"];

/// Names of the `name\0value\0 … \0` parameters of a StartupMessage.
fn parameter_names(parameters: &[u8]) -> impl Iterator<Item = &[u8]> {
    parameters.split(|byte| *byte == 0).step_by(2)
}

const fn malformed(reason: &'static str) -> OpeningError {
    OpeningError::new(reason)
}
