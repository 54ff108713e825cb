//! The TLS side of an upstream: its certificate, the CA of its clients' certificates, its versions and ALPN names.

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, crypto, version};

use super::{Leaf, Pki};

/// Builds a `ServerConfig`. One built config is one session cache, so resumption is seen only through a clone of the
/// same.
pub(crate) struct ServerTls<'a> {
    leaf: &'a Leaf,
    clients: Option<&'a Pki>,
    is_optional: bool,
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: Vec<Vec<u8>>,
    only_p384: bool,
}

impl<'a> ServerTls<'a> {
    pub(crate) fn new(leaf: &'a Leaf) -> Self {
        Self {
            leaf,
            clients: None,
            is_optional: false,
            versions: rustls::ALL_VERSIONS.to_vec(),
            alpn: Vec::new(),
            only_p384: false,
        }
    }

    /// Demands a client certificate of this CA.
    pub(crate) fn clients_of(mut self, pki: &'a Pki) -> Self {
        self.clients = Some(pki);
        self
    }

    /// Asks for a client certificate, and accepts none.
    pub(crate) fn asks_for_clients_of(mut self, pki: &'a Pki) -> Self {
        (self.clients, self.is_optional) = (Some(pki), true);
        self
    }

    pub(crate) fn only_1_2(mut self) -> Self {
        self.versions = vec![&version::TLS12];
        self
    }

    pub(crate) fn only_1_3(mut self) -> Self {
        self.versions = vec![&version::TLS13];
        self
    }

    /// Supports one key exchange only, for which no client sends a share.
    pub(crate) fn only_p384(mut self) -> Self {
        self.only_p384 = true;
        self
    }

    pub(crate) fn alpn(mut self, names: &[&str]) -> Self {
        self.alpn = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    pub(crate) fn build(self) -> Arc<ServerConfig> {
        let mut provider = crypto::aws_lc_rs::default_provider();
        if self.only_p384 {
            provider.kx_groups = vec![crypto::aws_lc_rs::kx_group::SECP384R1];
        }
        let provider = Arc::new(provider);
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(&self.versions).expect("versions the provider has");
        let builder = match self.clients {
            None => builder.with_no_client_auth(),
            Some(pki) => {
                let mut roots = RootCertStore::empty();
                roots.add(pki.ca_der()).expect("a usable CA");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = if self.is_optional { verifier.allow_unauthenticated() } else { verifier };
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let chain = vec![self.leaf.der.clone()];
        let mut config =
            builder.with_single_cert(chain, self.leaf.key_der.clone_key()).expect("a matching key");
        config.alpn_protocols = self.alpn;
        Arc::new(config)
    }
}
