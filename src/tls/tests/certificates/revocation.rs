//! Certificates beside revocation lists.

use super::*;

/// A certificate of version 1 that a CA signed is not taken beside lists: webpki, which reads them, does not take it. One
/// that is itself in the file, and signed by itself, nobody else could revoke.
#[test]
fn version_1_is_not_taken_beside_revocation_lists() {
    let workshop = Workshop::new();
    let path = workshop.path("crl.pem");
    std::fs::write(workshop.path("index.txt"), "").unwrap();
    std::fs::write(workshop.path("number"), "01\n").unwrap();
    // With a number, which makes it a list of version 2: webpki reads no other.
    let ca = "[ca]\ndefault_ca=it\n[it]\ndatabase=index.txt\ncrlnumber=number\ndefault_md=sha256\n\
              default_crl_days=9\ncrl_extensions=list\n[list]\nauthorityKeyIdentifier=keyid\n";
    std::fs::write(workshop.path("ca.cnf"), ca).unwrap();
    let list = ["ca", "-config", "ca.cnf", "-gencrl", "-keyfile", "ca.key", "-cert", "ca.pem", "-out"];
    workshop.openssl(&[&list[..], &["crl.pem"]].concat());
    let signed = workshop.make(Order { extensions: "", ..ORDER });
    let itself = workshop.make(Order { name: "itself", extensions: "", by: None, ..ORDER });
    let modern = workshop.make(Order { name: "modern", ..ORDER });
    let client = |ca, crls| Client { crls, ..Client::of(&workshop, Verify::Ca, ca) };
    let (lists, ca) = ([path], [workshop.certificate("ca")]);
    let lone = Err("is of X.509 version 1: it is taken with `verify: ca`, without `crl`");
    for (shown, trusted, beside_lists) in
        [(&modern, &ca, TAKEN), (&signed, &ca, lone), (&itself, &[itself.own().clone()], TAKEN)]
    {
        client(trusted, &[]).meets(shown, TAKEN);
        client(trusted, &lists).meets(shown, beside_lists);
    }
}

/// Files with a server's own certificate, which may have been revoked.
#[test]
fn what_revocation_lists_say_comes_first() {
    let workshop = Workshop::new();
    let (ca, leaf) = (ca("A"), named(&["db.test"]));
    let shown = issued(&leaf, &ca);
    let list = rcgen::CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(3000, 1, 1),
        crl_number: rcgen::SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let path = workshop.path("crl.pem");
    std::fs::write(&path, list.signed_by(&ca).unwrap().pem().unwrap()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let judged = |certificates: &[CertificateDer<'static>]| {
        let roots = Roots::File(workshop.file(certificates));
        let terms = PeerVerification {
            verify: Verify::Full,
            roots,
            crls: vec![path.clone()],
            extra_checks: ExtraChecks::default(),
        };
        let trust = Trust::load(Some(terms), &provider, &CredentialFiles::default()).unwrap();
        let trusted: Arc<Trusted> = trust.current();
        let now =
            rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
        let name = ServerName::try_from("db.test").unwrap();
        trusted.verifier.verify_server_cert(shown.own(), &[], &name, &[], now).is_ok()
    };
    assert!(judged(&[ca.der().clone()]));
    // In the file itself, without the CA whose list would be required.
    assert!(!judged(&[shown.own().clone()]));
    let mut revoking = list;
    let serial = x509_parser::parse_x509_certificate(shown.own()).unwrap().1.raw_serial().to_vec();
    revoking.revoked_certs = vec![rcgen::RevokedCertParams {
        serial_number: rcgen::SerialNumber::from_slice(&serial),
        revocation_time: date_time_ymd(2020, 1, 1),
        reason_code: None,
        invalidity_date: None,
    }];
    std::fs::write(&path, revoking.signed_by(&ca).unwrap().pem().unwrap()).unwrap();
    assert!(!judged(&[ca.der().clone()]));
    assert!(!judged(&[ca.der().clone(), shown.own().clone()]), "revoked, though named");
}
