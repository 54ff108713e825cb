//! One throw-away CA with a server and a client certificate, created at the start in a temporary folder.
//!
//! ECDSA P-256 throughout, the common choice and equally expensive for all contestants. Lacks revocation,
//! intermediates and any use after the process ends.
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// The name in the server's certificate, which every contestant must verify.
pub(crate) const SERVER_NAME: &str = "localhost";

pub(crate) struct Pki {
    folder: PathBuf,
}

impl Pki {
    pub(crate) fn make(folder: &Path) -> io::Result<Self> {
        write(folder).map_err(|error| io::Error::other(format!("cannot make certificates: {error}")))?;
        Ok(Self::at(folder))
    }

    /// The files of an existing one.
    pub(crate) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    pub(crate) fn certificate(&self, who: &str) -> PathBuf {
        self.folder.join(format!("{who}.pem"))
    }

    pub(crate) fn key(&self, who: &str) -> PathBuf {
        self.folder.join(format!("{who}.key"))
    }

    /// Certificate and key in one file, as HAProxy needs them.
    pub(crate) fn bundle(&self, who: &str) -> PathBuf {
        self.folder.join(format!("{who}.bundle"))
    }
}

fn write(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "compare CA");
    fs::write(folder.join("ca.pem"), ca.self_signed(&ca_key)?.pem())?;

    let issuer = Issuer::new(ca, ca_key);
    for (who, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new([SERVER_NAME.to_owned()])?;
        leaf.extended_key_usages = vec![usage];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.distinguished_name.push(DnType::CommonName, who);
        let certificate = leaf.signed_by(&key, &issuer)?.pem();
        let key = key.serialize_pem();
        fs::write(folder.join(format!("{who}.pem")), &certificate)?;
        let key_file = folder.join(format!("{who}.key"));
        fs::write(&key_file, &key)?;
        // libpq rejects a key that others may read.
        fs::set_permissions(key_file, Permissions::from_mode(0o600))?;
        fs::write(folder.join(format!("{who}.bundle")), certificate + &key)?;
    }
    Ok(())
}
