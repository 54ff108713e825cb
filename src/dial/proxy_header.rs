//! The PROXY header sent to a server in front of a session's bytes, where the cluster sends one.

use std::net::SocketAddr;

use rustls::pki_types::ServerName;

use crate::cluster::{EndpointSettings, SendProxy};
use crate::head::proxy::{AddressPair, Extensions, write_v1, write_v2};

/// What the header says of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProxyInfo {
    /// From where to where the client connected, if over TCP.
    pub addresses: Option<AddressPair>,
    /// The session's id.
    pub session: String,
    /// The caller's user, by number.
    pub uid: Option<u32>,
    /// The caller's systemd unit.
    pub unit: Option<String>,
    /// The context that the client sent.
    pub context: Option<String>,
}

/// The header for the endpoint, on our connection between the given addresses. These stand for a client without TCP
/// addresses, and for a probe: the server would see them without a header. Many servers refuse what the
/// specification has for such cases (`UNKNOWN`, `LOCAL`); none refuses these, so a probe gets the answer that a
/// session would get.
pub(super) fn header(
    send_proxy: &SendProxy,
    of: Option<&ProxyInfo>,
    endpoint: &EndpointSettings,
    (from, to): (SocketAddr, SocketAddr),
) -> Vec<u8> {
    let pair = of.and_then(|proxy_info| proxy_info.addresses).unwrap_or_else(|| AddressPair::new(from, to));
    let (host, most) = match send_proxy {
        SendProxy::V1 => return write_v1(pair),
        SendProxy::V2 { host, most } => (host, *most),
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
