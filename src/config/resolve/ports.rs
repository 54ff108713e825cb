//! Ports that are registered with a way in which TLS begins, compared with what the file says: only for a warning,
//! since a server may use any port.
//!
//! Source: IANA's registry of service names and port numbers; RFC 8314 §3 (465, 993, 995), RFC 4642 §1 (563), RFC 4217 (990).

use super::SettingsBuilder;
use crate::config::mistakes::SourceLocation;
use crate::protocol::Protocol;
use crate::tls::TlsStart;

/// A protocol's ports with TLS from the first byte, and those with an upgrade or without TLS.
const PORTS: &[(&str, &[u16], &[u16])] = &[
    ("smtp", &[465], &[25, 587]),
    ("imap", &[993], &[143]),
    ("pop3", &[995], &[110]),
    ("nntp", &[563], &[119]),
    ("ldap", &[636, 3269], &[389, 3268]),
    ("ftp-control", &[990], &[21]),
    ("xmpp", &[5223, 5270], &[5222, 5269]),
    ("irc", &[6697], &[6667]),
    ("mqtt", &[8883], &[1883]),
    ("amqp", &[5671], &[5672]),
];

impl SettingsBuilder<'_> {
    /// `start`: `None` where there is no TLS.
    pub(super) fn warn_of_port(
        &mut self,
        port: u16,
        at: &SourceLocation,
        protocol: &dyn Protocol,
        start: Option<TlsStart>,
    ) {
        let label = protocol.label();
        let Some((_, direct, others)) = PORTS.iter().find(|(word, ..)| *word == label) else { return };
        let message = match start {
            Some(TlsStart::Upgrade) if direct.contains(&port) => format!(
                "port {port} is for {label} with TLS from the first byte, whose servers wait for our hello: write \
                 `tls: {{ start: direct }}`"
            ),
            Some(TlsStart::Direct) if others.contains(&port) && protocol.upgrade().is_some() => {
                format!("port {port} is for {label} that asks for TLS first: leave `start: direct` out")
            }
            None if direct.contains(&port) => {
                format!(
                    "port {port} is for {label} with TLS from the first byte, and the cluster has no `tls`"
                )
            }
            Some(TlsStart::Upgrade | TlsStart::Direct | TlsStart::EitherWay) | None => return,
        };
        self.findings.warning(at, message);
    }
}
