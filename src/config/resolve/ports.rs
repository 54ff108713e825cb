//! Ports that are registered with a way in which TLS begins, compared with what the file says: only for a warning,
//! since a server may use any port.

use super::SettingsBuilder;
use crate::config::mistakes::SourceLocation;
use crate::protocol::{Protocol, Service};
use crate::tls::TlsStart;

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
        let Service { ports, tls_ports, .. } = protocol.service();
        let message = match start {
            Some(TlsStart::Upgrade) if tls_ports.contains(&port) => format!(
                "port {port} is for {label} with TLS from the first byte, whose servers wait for our hello: write \
                 `tls: {{ start: direct }}`"
            ),
            Some(TlsStart::Direct) if ports.contains(&port) && protocol.upgrade().is_some() => {
                format!("port {port} is for {label} that asks for TLS first: leave `start: direct` out")
            }
            None if tls_ports.contains(&port) => {
                format!(
                    "port {port} is for {label} with TLS from the first byte, and the cluster has no `tls`"
                )
            }
            Some(TlsStart::Upgrade | TlsStart::Direct | TlsStart::EitherWay) | None => return,
        };
        self.findings.warning(at, message);
    }
}
