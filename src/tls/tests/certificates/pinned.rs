//! Certificates under `verify: pin`, and in the file of `tls.ca` themselves.

use super::*;

/// A pin selects a key, and the handshake proves possession of it: a copy of the certificate does not suffice.
#[test]
fn a_copy_of_a_pinned_certificate_is_worth_nothing_without_its_key() {
    let workshop = Workshop::new();
    let lacks = Err("the server does not hold the key of the certificate that it shows");
    let kind = Err("the server signed the handshake in a way that the key of its certificate is not for");
    for extensions in ["", "subjectAltName=DNS:db.test"] {
        let right = workshop.make(Order { extensions, ..ORDER });
        let pins = [pin(&right)];
        for (key, expected) in [(P256, lacks), (RSA, kind), (&["-algorithm", "ED25519"][..], kind)] {
            let other = workshop.make(Order { name: "other", key, ..ORDER });
            let copy = Server { chain: right.chain.clone(), key: other.key };
            let trusted = [right.own().clone()];
            let client = |verify, ca, pins| Client { pins, ..Client::of(&workshop, verify, ca) };
            client(Verify::Pin, &trusted[..], &[][..]).meets(&copy, expected);
            client(Verify::Pin, &[], &pins).meets(&copy, expected);
            client(Verify::Ca, &trusted, &[]).meets(&copy, expected);
            client(Verify::Ca, &[workshop.certificate("ca")], &[]).meets(&copy, expected);
        }
        let pinned = |ca: &[CertificateDer<'static>], pins: &[Pin], shown: &Server, expected| {
            let client = Client { pins, name: "else.test", ..Client::of(&workshop, Verify::Pin, ca) };
            client.meets(shown, expected);
        };
        pinned(&[], &pins, &right, TAKEN);
        // The same key in another certificate: the same server for `pins`, another one for a pinned certificate.
        let renewal =
            ["x509", "-in", "server.pem", "-signkey", "server.key", "-days", "3", "-out", "server.pem"];
        workshop.openssl(&renewal);
        let renewed = workshop.server("server");
        pinned(&[], &pins, &renewed, TAKEN);
        let other = Err("is none of tls.ca, which `verify: pin` asks for; its key is sha256//");
        pinned(&right.chain, &[], &renewed, other);
        let stranger = workshop.make(ORDER);
        pinned(&right.chain, &[], &stranger, other);
        pinned(&[], &pins, &stranger, Err("none of tls.pins; it is sha256//"));
        // A pinned CA does not count for what it signed.
        pinned(&[workshop.certificate("ca")], &[], &stranger, other);
    }
}

/// Two servers' own certificates in one file: the key of one could have signed for the other, since webpki does not
/// check that an anchor is a CA.
#[test]
fn a_server_in_the_file_speaks_for_itself_alone() {
    let workshop = Workshop::new();
    for extensions in ["basicConstraints=CA:FALSE", "subjectAltName=DNS:other.test"] {
        let own = workshop.make(Order { name: "own", subject: "/CN=own", by: None, extensions, ..ORDER });
        let forged = workshop.make(Order { by: Some("own"), ..ORDER });
        let client = |verify| Client::of(&workshop, verify, &own.chain);
        for verify in [Verify::Full, Verify::Ca] {
            client(verify).meets(&forged, Err("not signed by a CA of tls.ca"));
        }
    }
}

fn pin(server: &Server) -> Pin {
    Pin::of(crate::tls::signed::PublicKey::of(server.own()).unwrap().info)
}

#[test]
fn a_certificate_is_told_by_what_openssl_shows_of_it() {
    let workshop = Workshop::new();
    workshop.openssl(&["x509", "-in", "ca.pem", "-outform", "der", "-out", "ca.der"]);
    workshop.openssl(&["dgst", "-sha256", "-c", "-out", "digest", "ca.der"]);
    let digest = std::fs::read_to_string(workshop.path("digest")).unwrap().to_uppercase();
    let told = crate::tls::refusal::describe(&workshop.certificate("ca"));
    let start = "certificate of `O=Shop, CN=CA`, issued by `O=Shop, CN=CA`, SHA-256 ";
    assert!(told.starts_with(start), "{told}");
    assert!(digest.trim_end().ends_with(told.rsplit(' ').next().unwrap()), "{told} {digest}");
}
