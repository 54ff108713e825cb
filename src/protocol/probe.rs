//! Conversations that show a server at work.

use core::net::IpAddr;
use std::borrow::Cow;
use std::fmt;

/// A conversation with a server, behind its TLS, that needs no credentials, ends politely, and shows whether it would
/// serve a client.
pub trait Probe: fmt::Debug + Send {
    /// The address that the connection is made from, before anything else; protocols that name it override this.
    fn comes_from(&mut self, local: IpAddr) {
        let _ = local;
    }

    /// What comes first; nothing where the server speaks first.
    fn begin(&mut self) -> Vec<u8>;

    /// More bytes of the server; none at all means that it closed.
    ///
    /// # Errors
    /// The server would serve nobody; in words.
    fn received(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError>;
}

/// How far a probe is.
#[derive(Debug, PartialEq, Eq)]
pub enum ProbeStep {
    /// Not enough yet: read more.
    Incomplete,
    /// Send this, then read more.
    Send(Vec<u8>),
    /// It serves. Send this goodbye and close.
    Serves {
        /// What the protocol wants to hear at the end; often nothing.
        goodbye: Vec<u8>,
    },
}

/// A server would serve nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProbeError(pub Cow<'static, str>);
