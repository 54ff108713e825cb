//! Conversations that show that a server works.

use core::net::IpAddr;
use std::borrow::Cow;
use std::fmt;

/// A conversation with a server, after its TLS, that needs no credentials, ends politely, and shows whether the server
/// would serve a client.
pub trait Probe: fmt::Debug + Send {
    /// The local address of the connection, before anything else; protocols that name it override this.
    fn comes_from(&mut self, local: IpAddr) {
        let _ = local;
    }

    /// The first bytes to send; none if the server speaks first.
    fn begin(&mut self) -> Vec<u8>;

    /// More bytes of the server; none at all means that it closed.
    ///
    /// # Errors
    /// The server would not serve a client; the reason is included.
    fn receive(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError>;
}

/// The state of a probe.
#[derive(Debug, PartialEq, Eq)]
pub enum ProbeStep {
    /// The answer is incomplete: read more.
    Incomplete,
    /// Send this, then read more.
    Send(Vec<u8>),
    /// The server works. Send this goodbye and close.
    Serves {
        /// The protocol's last message; often empty.
        goodbye: Vec<u8>,
    },
}

/// Why a server would not serve a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProbeError(pub Cow<'static, str>);
