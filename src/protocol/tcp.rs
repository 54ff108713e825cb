//! Any protocol: nothing is parsed, TLS starts at once, and a refusal is a reset.

use super::{Protocol, Refusal, Service};

/// Bytes of an unknown protocol, which are relayed unread.
#[derive(Debug)]
pub(super) struct Tcp;

impl Protocol for Tcp {
    fn label(&self) -> &'static str {
        "tcp"
    }

    fn service(&self) -> Service {
        Service { names: &["http"], tls_names: &["https", "tls", "ssl"], ..Service::UNKNOWN }
    }

    fn refusal(&self, _: &Refusal<'_>) -> Option<Vec<u8>> {
        None
    }
}
