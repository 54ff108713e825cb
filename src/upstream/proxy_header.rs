//! What a server hears of a session in front of its bytes: a PROXY header, where the cluster sends one.

use std::net::SocketAddr;

use rustls::pki_types::ServerName;

use super::endpoint;
use crate::head::proxy::{AddressPair, Extensions, write_v1, write_v2};

/// Which header, and what it says of every session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendProxy {
    /// Version 1: addresses of TCP, and nothing else.
    V1,
    /// Version 2.
    V2 {
        /// This host's name, for the server to know its ambassadors apart.
        host: String,
        /// How many bytes the header may have in all.
        most: usize,
    },
}

/// A session, as a server is to hear of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProxyInfo {
    /// From where to where the client connected, where it did so over TCP.
    pub addresses: Option<AddressPair>,
    /// The session's id.
    pub session: String,
    /// The caller's user, by number.
    pub uid: Option<u32>,
    /// The caller's systemd unit.
    pub unit: Option<String>,
    /// What the client says of itself.
    pub context: Option<String>,
}

impl SendProxy {
    /// The word in the file.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 { .. } => "v2",
        }
    }

    /// The header for that endpoint, on a connection of ours that goes from the first address to the second. That is what is said
    /// of a client that has no addresses of its own, and of a probe, which has no announcement: it is what the server would see
    /// without a header, and so no more than the truth, and no server refuses it, as many do what the specification has for such
    /// cases. So a probe sees what a session would meet.
    pub(super) fn header(
        &self,
        of: Option<&ProxyInfo>,
        endpoint: &endpoint::Settings,
        (from, to): (SocketAddr, SocketAddr),
    ) -> Vec<u8> {
        let pair =
            of.and_then(|proxy_info| proxy_info.addresses).unwrap_or_else(|| AddressPair::new(from, to));
        let (host, most) = match self {
            Self::V1 => return write_v1(pair),
            Self::V2 { host, most } => (host, *most),
        };
        let name = &endpoint.server_name;
        let authority = if let ServerName::DnsName(name) = name { Some(name.as_ref()) } else { None };
        let extensions = Extensions {
            authority,
            unique_id: of.map(|of| of.session.as_str()),
            host: Some(host),
            unit: of.and_then(|of| of.unit.as_deref()),
            uid: of.and_then(|of| of.uid),
            context: of.and_then(|of| of.context.as_deref()),
        };
        write_v2(pair, &extensions, most)
    }
}
