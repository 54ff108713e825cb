//! A throw-away PKI: one CA whose key is never written to disk, a server certificate and a client
//! certificate.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustix::fs::OFlags;

/// Writes `ca.pem`, `server.{pem,key}` (for localhost, 127.0.0.1 and ::1) and `client.{pem,key}`.
pub(super) fn write(folder: &Path) -> io::Result<()> {
    let ca_key = KeyPair::generate().map_err(io::Error::other)?;
    let ca = ca_params().self_signed(&ca_key).map_err(io::Error::other)?;
    let issuer = Issuer::new(ca_params(), ca_key);
    write_file(folder, "ca.pem", 0o644, &ca.pem())?;
    let server = leaf("localhost", ExtendedKeyUsagePurpose::ServerAuth)?;
    sign(folder, "server", &server, &issuer)?;
    let client = leaf("ambassador", ExtendedKeyUsagePurpose::ClientAuth)?;
    sign(folder, "client", &client, &issuer)
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "ambassador development CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(name: &str, purpose: ExtendedKeyUsagePurpose) -> io::Result<CertificateParams> {
    let names = ["localhost", "127.0.0.1", "::1"].map(String::from);
    let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    Ok(params)
}

fn sign(
    folder: &Path,
    name: &str,
    params: &CertificateParams,
    issuer: &Issuer<'_, KeyPair>,
) -> io::Result<()> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let certificate = params.signed_by(&key, issuer).map_err(io::Error::other)?;
    write_file(folder, &format!("{name}.pem"), 0o644, &certificate.pem())?;
    write_file(folder, &format!("{name}.key"), 0o600, &key.serialize_pem())
}

fn write_file(folder: &Path, name: &str, mode: u32, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    // Follows no link, as another user may have put one there.
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let mut file = options.open(folder.join(name))?;
    // The mode above counts only for a new file.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())
}
