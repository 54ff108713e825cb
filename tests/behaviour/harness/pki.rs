//! A certificate authority per test, and the certificates it issues: right ones, expired ones, ones for another name.
//!
//! Keys are P-256 in PKCS#8 unless a test asks for another key or another encoding, which the `openssl`
//! command makes: a converter of our own would only prove that we agree with ourselves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{demand, finish};

pub(crate) struct Pki {
    dir: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, as files for the ambassador and as values for a server in the test process.
pub(crate) struct Leaf {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key_der: PrivateKeyDer<'static>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let key = KeyPair::generate().expect("a key for the CA");
        let ca =
            CertifiedIssuer::self_signed(ca_params("Behaviour Tests CA"), key).expect("a self-signed CA");
        fs::write(dir.path().join("ca.pem"), ca.pem()).expect("ca.pem is written");
        Self { dir, ca }
    }

    /// The CA certificate, PEM, for `tls.ca`.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub(crate) fn ca_der(&self) -> CertificateDer<'static> {
        self.ca.der().clone()
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// A server certificate for these DNS names or addresses.
    pub(crate) fn server(&self, names: &[&str]) -> Leaf {
        self.leaf("server", &server_params(names), &KeyPair::generate().expect("a key"))
    }

    /// A server certificate that expired years ago.
    pub(crate) fn expired_server(&self, names: &[&str]) -> Leaf {
        let mut params = server_params(names);
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
        self.leaf("expired", &params, &KeyPair::generate().expect("a key"))
    }

    /// A server certificate that expires after this time.
    pub(crate) fn server_until(&self, names: &[&str], left: Duration) -> Leaf {
        let mut params = server_params(names);
        params.not_after = (SystemTime::now() + left).into();
        self.leaf("ending", &params, &KeyPair::generate().expect("a key"))
    }

    /// A server certificate that also has URIs.
    pub(crate) fn server_with_uris(&self, names: &[&str], uris: &[&str]) -> Leaf {
        let mut params = server_params(names);
        let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("an ASCII URI")));
        params.subject_alt_names.extend(uris);
        self.leaf("server", &params, &KeyPair::generate().expect("a key"))
    }

    /// A certificate with this SPIFFE ID, for either side; the common name tells them apart.
    pub(crate) fn svid(&self, common_name: &str, uri: &str) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("an ASCII URI"))];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.leaf(common_name, &params, &KeyPair::generate().expect("a key"))
    }

    /// A revocation list of this CA with these certificates, valid for this long, as a file with that name.
    pub(crate) fn crl(&self, file: &str, revoked: &[&Leaf], good_for: Duration) -> PathBuf {
        let begin = SystemTime::now() - Duration::from_secs(24 * 60 * 60);
        let revoked = revoked.iter().map(|leaf| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial(&leaf.der)),
            revocation_time: begin.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: begin.into(),
            next_update: (begin + good_for).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.ca).expect("a signed list").pem().expect("PEM");
        let path = self.path(file);
        fs::write(&path, list).expect("the list is written");
        path
    }

    /// A client certificate with this common name.
    pub(crate) fn client(&self, common_name: &str) -> Leaf {
        self.leaf(common_name, &client_params(common_name), &KeyPair::generate().expect("a key"))
    }

    /// The same, expiring after this time.
    pub(crate) fn client_until(&self, common_name: &str, left: Duration) -> Leaf {
        let mut params = client_params(common_name);
        params.not_after = (SystemTime::now() + left).into();
        self.leaf(common_name, &params, &KeyPair::generate().expect("a key"))
    }

    /// The same with an RSA key, for the encodings only RSA has.
    pub(crate) fn rsa_client(&self, common_name: &str) -> Leaf {
        let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("an RSA key");
        self.leaf(common_name, &client_params(common_name), &key)
    }

    /// A client certificate from an intermediate of the CA; the file has both.
    pub(crate) fn client_by_intermediate(&self, common_name: &str) -> Leaf {
        let key = KeyPair::generate().expect("a key");
        let intermediate =
            CertifiedIssuer::signed_by(ca_params("Behaviour Tests Intermediate"), key, &self.ca);
        let intermediate = intermediate.expect("an intermediate");
        let key = KeyPair::generate().expect("a key");
        let signed = client_params(common_name).signed_by(&key, &intermediate).expect("a signed certificate");
        self.write(common_name, &signed, &intermediate.pem(), &key)
    }

    fn leaf(&self, name: &str, params: &CertificateParams, key: &KeyPair) -> Leaf {
        let signed = params.signed_by(key, &self.ca).expect("a signed certificate");
        self.write(name, &signed, "", key)
    }

    fn write(&self, name: &str, signed: &Certificate, above: &str, key: &KeyPair) -> Leaf {
        let cert = self.path(&format!("{name}.pem"));
        let key_path = self.path(&format!("{name}.key"));
        fs::write(&cert, signed.pem() + above).expect("the certificate is written");
        fs::write(&key_path, key.serialize_pem()).expect("the key is written");
        fs::set_permissions(&key_path, fs::Permissions::from_mode(0o600)).expect("the key is private");
        let key_der = PrivateKeyDer::try_from(key.serialize_der()).expect("a PKCS#8 key");
        Leaf { cert, key: key_path, der: signed.der().clone(), key_der }
    }
}

impl Leaf {
    /// The key in PKCS#1 (`BEGIN RSA PRIVATE KEY`).
    pub(crate) fn key_in_pkcs1(&self) -> PathBuf {
        self.converted("pkcs1", "BEGIN RSA PRIVATE KEY", &["rsa", "-traditional"])
    }

    /// The key in SEC1 (`BEGIN EC PRIVATE KEY`).
    pub(crate) fn key_in_sec1(&self) -> PathBuf {
        self.converted("sec1", "BEGIN EC PRIVATE KEY", &["ec"])
    }

    /// The key, encrypted with a pass phrase that the ambassador does not have.
    pub(crate) fn key_encrypted(&self) -> PathBuf {
        let arguments = ["pkcs8", "-topk8", "-passout", "pass:secret"];
        self.converted("encrypted", "BEGIN ENCRYPTED PRIVATE KEY", &arguments)
    }

    fn converted(&self, suffix: &str, banner: &str, arguments: &[&str]) -> PathBuf {
        let to = self.key.with_extension(suffix);
        let mut openssl = Command::new(demand("openssl", "openssl"));
        openssl.args(arguments).arg("-in").arg(&self.key).arg("-out").arg(&to);
        finish(&mut openssl).must_succeed();
        let text = read(&to);
        assert!(text.contains(banner), "openssl wrote something else than {banner}");
        to
    }
}

fn serial<'a>(certificate: &'a CertificateDer<'_>) -> &'a [u8] {
    X509Certificate::from_der(certificate).expect("we made it").1.raw_serial()
}

fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn server_params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("names fit for a certificate");
    params.distinguished_name.push(DnType::CommonName, "upstream");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn client_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("a readable file")
}
