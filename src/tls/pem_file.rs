//! Explains a file that has something else than expected, with the command that converts it.
//!
//! Formats are recognized by their framing alone: nothing is decrypted, and no part of a key is
//! quoted.

use std::path::Path;

use x509_parser::asn1_rs::Any;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpectedContent {
    Certificate,
    Key,
    RevocationList,
}

/// What the file has instead, and what to do; `None`, where that is unknown.
pub(super) fn explain_mismatch(path: &Path, bytes: &[u8], wanted: ExpectedContent) -> Option<String> {
    let file = path.display();
    let words = match bytes {
        [] => "is empty".into(),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => {
            format!("is UTF-16 text, and PEM is ASCII: `iconv -f UTF-16 -t ASCII {file} > PEM`")
        }
        [0xFE, 0xED, 0xFE, 0xED, ..] => format!(
            "is a Java keystore, not PEM: `keytool -importkeystore -srckeystore {file} -destkeystore NEW.p12 \
             -deststoretype pkcs12` makes a PKCS#12 file of it, and `openssl pkcs12 -in NEW.p12 -nodes` PEM of that"
        ),
        [0x30, ..] if Any::from_der(bytes).is_ok() => in_der(&file.to_string(), bytes, wanted),
        _ => in_pem(&file.to_string(), &labels(bytes), bytes, wanted)?,
    };
    Some(format!("{file} {words}"))
}

fn in_der(file: &str, bytes: &[u8], wanted: ExpectedContent) -> String {
    // content-type signedData, PKCS#7 (RFC 2315 §14).
    const SIGNED_DATA: &[u8] = &[0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07, 0x02];
    // A PFX begins with its version, 3, and a key with 0 or 1 (RFC 7292 §4, RFC 5958 §2).
    const PFX: &[u8] = &[0x02, 0x01, 0x03];
    let contents = Any::from_der(bytes).map(|(_, any)| any.data).unwrap_or_default();
    let which = match wanted {
        ExpectedContent::Key => "-nocerts -nodes",
        ExpectedContent::Certificate | ExpectedContent::RevocationList => "-nokeys",
    };
    if contents.starts_with(PFX) {
        format!(
            "is PKCS#12, not PEM: `openssl pkcs12 -in {file} {which} -out PEM` takes out what is wanted here"
        )
    } else if contents.starts_with(SIGNED_DATA) {
        format!("is PKCS#7, not PEM: `openssl pkcs7 -inform der -in {file} -print_certs -out PEM`")
    } else if X509Certificate::from_der(bytes).is_ok() {
        format!("is a certificate in DER, not PEM: `openssl x509 -inform der -in {file} -out PEM`")
    } else if CertificateRevocationList::from_der(bytes).is_ok() {
        format!("is a revocation list in DER, not PEM: `openssl crl -inform der -in {file} -out PEM`")
    } else if wanted == ExpectedContent::Key {
        format!("is DER, not PEM: `openssl pkey -inform der -in {file} -out PEM`")
    } else {
        "is DER, not PEM, and neither a certificate nor a revocation list; it may be a private key".into()
    }
}

/// The labels of the `-----BEGIN` lines.
fn labels(bytes: &[u8]) -> Vec<&[u8]> {
    let lines = bytes.split(|byte| matches!(byte, b'\n' | b'\r'));
    lines.filter_map(|line| line.trim_ascii().strip_prefix(b"-----BEGIN ")?.strip_suffix(b"-----")).collect()
}

fn in_pem(file: &str, labels: &[&[u8]], bytes: &[u8], wanted: ExpectedContent) -> Option<String> {
    let has = |label: &str| labels.contains(&label.as_bytes());
    let has_key = labels.iter().any(|label| label.ends_with(b"PRIVATE KEY"));
    let words = match wanted {
        ExpectedContent::Key if is_encrypted(labels, bytes) => format!(
            "is encrypted, and a daemon has nobody to ask for the passphrase; store it decrypted and readable by this user \
             only: `openssl pkey -in {file} -out PLAIN`"
        ),
        ExpectedContent::Key if has("OPENSSH PRIVATE KEY") => format!(
            "is a key in OpenSSH's own form; `ssh-keygen -p -N '' -m PKCS8 -f COPY` rewrites a copy of {file} as PKCS#8"
        ),
        ExpectedContent::Key if has_key => return None,
        ExpectedContent::Key if has("CERTIFICATE") => {
            "holds a certificate, and no PEM private key (PKCS#8, PKCS#1 or SEC1); it may belong to `cert`"
                .into()
        }
        ExpectedContent::Key if has("PUBLIC KEY") || has("RSA PUBLIC KEY") => {
            "holds a public key; the private one is wanted".into()
        }
        ExpectedContent::Certificate if has("CERTIFICATE") => return None,
        ExpectedContent::RevocationList if has("X509 CRL") => return None,
        _ if has("TRUSTED CERTIFICATE") || has("X509 CERTIFICATE") => {
            format!("holds a certificate in a form of OpenSSL's own: `openssl x509 -in {file} -out PEM`")
        }
        _ if has("CERTIFICATE REQUEST") || has("NEW CERTIFICATE REQUEST") => {
            "holds a request for a certificate; the CA that gets it gives the certificate".into()
        }
        _ if has("PKCS7") || has("CMS") => {
            format!(
                "is PKCS#7: `openssl pkcs7 -in {file} -print_certs -out PEM` makes PEM certificates of it"
            )
        }
        ExpectedContent::Certificate if has_key => {
            "holds a private key, and no PEM certificate; it may belong to `key`".into()
        }
        ExpectedContent::Certificate if has("X509 CRL") => {
            "holds a revocation list, and no PEM certificate; it may belong to `crl`".into()
        }
        ExpectedContent::RevocationList if has("CERTIFICATE") => {
            "holds a certificate, and no PEM revocation list (X509 CRL)".into()
        }
        ExpectedContent::Certificate | ExpectedContent::Key | ExpectedContent::RevocationList => return None,
    };
    Some(words)
}

/// PKCS#8 encryption, or the traditional one (RFC 1421 §4.6.1.1).
fn is_encrypted(labels: &[&[u8]], bytes: &[u8]) -> bool {
    const TRADITIONAL: &[u8] = b"Proc-Type: 4,ENCRYPTED";
    labels.iter().any(|label| *label == b"ENCRYPTED PRIVATE KEY")
        || bytes.windows(TRADITIONAL.len()).any(|part| part == TRADITIONAL)
}
