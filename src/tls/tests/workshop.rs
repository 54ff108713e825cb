//! Certificates of every kind that occurs, with their keys. Usual ones are rcgen's; the others are made by the openssl
//! command, as most of those in the field were.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::{default_provider, sign::any_supported_type};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, SupportedProtocolVersion};

pub(in crate::tls) type Ca = CertifiedIssuer<'static, KeyPair>;

/// What a server sends, and the key that it has.
pub(in crate::tls) struct Server {
    pub(in crate::tls) chain: Vec<CertificateDer<'static>>,
    pub(in crate::tls) key: PrivateKeyDer<'static>,
}

impl Server {
    pub(in crate::tls) fn own(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// Appends these CAs to its chain.
    pub(in crate::tls) fn with(mut self, above: &[CertificateDer<'static>]) -> Self {
        self.chain.extend_from_slice(above);
        self
    }
}

pub(in crate::tls) fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

pub(in crate::tls) fn ca(name: &str) -> Ca {
    CertifiedIssuer::self_signed(ca_params(name), KeyPair::generate().unwrap()).unwrap()
}

/// Parameters of a certificate with these names.
pub(in crate::tls) fn named(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
}

/// A server's certificate issued by that CA.
pub(in crate::tls) fn issued(params: &CertificateParams, ca: &Ca) -> Server {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    Server { chain: vec![certificate.der().clone()], key: pkcs8(&key) }
}

/// One for `localhost` that is self-signed and no CA's.
pub(in crate::tls) fn self_signed() -> Server {
    let key = KeyPair::generate().unwrap();
    let certificate = named(&["localhost"]).self_signed(&key).unwrap();
    Server { chain: vec![certificate.der().clone()], key: pkcs8(&key) }
}

fn pkcs8(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

/// A server's configuration for one version, without a check that key and certificate match.
pub(in crate::tls) fn server(
    server: &Server,
    version: &'static SupportedProtocolVersion,
) -> Arc<ServerConfig> {
    let key = any_supported_type(&server.key).unwrap();
    let certified = CertifiedKey::new(server.chain.clone(), key);
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    Arc::new(config)
}

/// A temporary folder in which openssl works.
pub(in crate::tls) struct Workshop(tempfile::TempDir);

/// How openssl is to make a certificate.
#[derive(Clone, Copy)]
pub(in crate::tls) struct Order<'a> {
    /// The base name of the files.
    pub(in crate::tls) name: &'a str,
    /// Arguments of `openssl genpkey`.
    pub(in crate::tls) key: &'a [&'a str],
    pub(in crate::tls) subject: &'a str,
    /// The name of the CA that signs; `None`: self-signed.
    pub(in crate::tls) by: Option<&'a str>,
    /// Lines of extensions; without any, the certificate is of version 1.
    pub(in crate::tls) extensions: &'a str,
    /// More arguments of `x509`.
    pub(in crate::tls) more: &'a [&'a str],
}

pub(in crate::tls) const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
/// The extension that makes a CA.
pub(in crate::tls) const CA: &str = "basicConstraints=critical,CA:TRUE";

/// For `db.test`, by the workshop's first CA.
pub(in crate::tls) const ORDER: Order<'static> = Order {
    name: "server",
    key: P256,
    subject: "/CN=db.test",
    by: Some("ca"),
    extensions: "subjectAltName=DNS:db.test",
    more: &[],
};

impl Workshop {
    /// With a CA named `ca`.
    pub(in crate::tls) fn new() -> Self {
        let workshop = Self(tempfile::tempdir().unwrap());
        workshop.make(Order { name: "ca", subject: "/O=Shop/CN=CA", by: None, extensions: CA, ..ORDER });
        workshop
    }

    pub(in crate::tls) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    #[track_caller]
    pub(in crate::tls) fn openssl(&self, arguments: &[&str]) {
        let made = Command::new("openssl").args(arguments).current_dir(self.0.path()).output();
        let made = made.expect("the openssl command");
        assert!(made.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&made.stderr));
    }

    #[track_caller]
    pub(in crate::tls) fn make(&self, order: Order<'_>) -> Server {
        self.make_key(order.name, order.key);
        self.make_for_key(order);
        self.server(order.name)
    }

    #[track_caller]
    pub(in crate::tls) fn make_key(&self, name: &str, arguments: &[&str]) {
        self.openssl(&[&["genpkey", "-out", &format!("{name}.key")], arguments].concat());
    }

    /// For the key that is there already under that name.
    #[track_caller]
    pub(in crate::tls) fn make_for_key(&self, order: Order<'_>) {
        let Order { name, subject, by, extensions, more, .. } = order;
        let file = |suffix: &str| format!("{name}.{suffix}");
        let (pem, private, request) = (file("pem"), file("key"), file("csr"));
        self.openssl(&["req", "-new", "-key", &private, "-subj", subject, "-out", &request]);
        let mut arguments = vec!["x509", "-req", "-in", &request, "-days", "9", "-out", &pem];
        let (ca, ca_key) = by.map(|by| (format!("{by}.pem"), format!("{by}.key"))).unwrap_or_default();
        match by {
            Some(_) => arguments.extend(["-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"]),
            None => arguments.extend(["-signkey", &private]),
        }
        let extended = file("ext");
        if !extensions.is_empty() {
            fs::write(self.path(&extended), extensions).unwrap();
            arguments.extend(["-extfile", &extended]);
        }
        arguments.extend(more);
        self.openssl(&arguments);
    }

    /// The certificate and key made under that name.
    pub(in crate::tls) fn server(&self, name: &str) -> Server {
        let chain = vec![self.certificate(name)];
        let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
        Server { chain, key }
    }

    pub(in crate::tls) fn certificate(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).unwrap()
    }

    /// A PEM file of these certificates.
    pub(in crate::tls) fn file(&self, certificates: &[CertificateDer<'static>]) -> PathBuf {
        let pem = |der: &CertificateDer<'_>| pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec()));
        let path = self.path("trusted.pem");
        write(&path, &certificates.iter().map(pem).collect::<String>());
        path
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}
