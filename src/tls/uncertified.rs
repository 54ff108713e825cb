//! What we answer to a server that asks for a certificate where the cluster has none: nothing, and a note that it asked. A server
//! that wants one often ends the connection without saying why (slapd with GnuTLS, nginx' stream), and then that is why.

use std::cell::Cell;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

thread_local! {
    /// Whether a server has asked in what was processed last on this thread. rustls tells nobody else of it.
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// A portion of a handshake is processed now.
pub(super) fn watch() {
    ASKED.set(false);
}

/// Whether the server has asked in it.
pub(super) fn has_asked() -> bool {
    ASKED.get()
}

/// No certificate.
#[derive(Debug)]
pub(super) struct Uncertified;

impl ResolvesClientCert for Uncertified {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        ASKED.set(true);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
