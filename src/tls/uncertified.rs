//! The response to a server that asks for a certificate where the cluster has none: no certificate, and a note that it
//! asked. A server that requires one often closes the connection without an alert (slapd with GnuTLS, nginx' stream);
//! the note explains that.

use std::cell::Cell;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

thread_local! {
    /// Whether the server asked for a certificate in the input processed last on this thread. rustls does not report it
    /// elsewhere.
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// To be called before a portion of a handshake is processed.
pub(super) fn watch() {
    ASKED.set(false);
}

/// Whether the server asked in that portion.
pub(super) fn has_asked() -> bool {
    ASKED.get()
}

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
