//! The table of docs/CREDENTIALS.md, "Which certificates are taken", row by row: whole handshakes, with TLS 1.2 and
//! 1.3, under each `verify`; and attacks under each.

mod pinned;
mod revocation;

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertifiedIssuer, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsAcceptor;

use super::workshop::{CA, ORDER, Order, P256, Server, Workshop, ca, ca_params, issued, named, server};
use super::{TLS12, TLS13, tcp, within_a_minute};
use crate::tls::CredentialFiles;
use crate::tls::verify::Trusted;
use crate::tls::{
    ExtraChecks, HandshakeError, Identities, LastFlight, MinVersion, Originator, PeerVerification, Pin,
    Roots, Settings, Stream, TlsStart, Trust, Verify,
};

/// Accepted, or refused with a message that has this text.
type Verdict = Result<(), &'static str>;
const TAKEN: Verdict = Ok(());

struct Client<'a> {
    workshop: &'a Workshop,
    verify: Verify,
    ca: &'a [CertificateDer<'static>],
    pins: &'a [Pin],
    crls: &'a [PathBuf],
    name: &'a str,
}

impl<'a> Client<'a> {
    /// Of `db.test`, without further checks.
    fn of(workshop: &'a Workshop, verify: Verify, ca: &'a [CertificateDer<'static>]) -> Self {
        Self { workshop, verify, ca, pins: &[], crls: &[], name: "db.test" }
    }

    fn originator(&self) -> Originator {
        let roots = match self.ca {
            [] => Roots::Nobody,
            some => Roots::File(self.workshop.file(some)),
        };
        let extra_checks = ExtraChecks { pins: self.pins.to_vec(), uris: Vec::new() };
        let settings = Settings {
            terms: Some(PeerVerification {
                verify: self.verify,
                roots,
                crls: self.crls.to_vec(),
                extra_checks,
            }),
            identities: Identities::default(),
            server_name: None,
            alpn: Vec::new(),
            min_version: MinVersion::Tls12,
            start: TlsStart::Direct,
        };
        Originator::new(&settings, &CredentialFiles::default()).unwrap()
    }

    /// Does a handshake with that server, for each version.
    #[track_caller]
    fn meets(&self, shown: &Server, expected: Verdict) {
        let originator = self.originator();
        for version in [TLS12, TLS13] {
            let name = ServerName::try_from(self.name.to_owned()).unwrap();
            within_a_minute(async {
                let trusted = originator.trust().current();
                let config = originator.0.client_config(None, &trusted, Arc::default(), false).unwrap();
                let (socket, peer) = tcp().await;
                let hello = Stream::hello(Arc::new(config), name).unwrap();
                let acceptor = TlsAcceptor::from(server(shown, version));
                let (met, _) = tokio::join!(
                    Stream::handshake(socket, hello, None, LastFlight::AtOnce),
                    acceptor.accept(peer)
                );
                check(met.map(drop), self.verify, expected);
            });
        }
    }
}

#[track_caller]
fn check(met: Result<(), HandshakeError>, verify: Verify, expected: Verdict) {
    match (met, expected) {
        (Ok(()), Ok(())) => {}
        (Err(error), Err(words)) => {
            let error = error.to_string();
            assert!(error.contains(words), "{verify:?}: {words:?} is not in {error:?}");
        }
        (Ok(()), Err(words)) => panic!("{verify:?}: taken, instead of {words:?}"),
        (Err(error), Ok(())) => panic!("{verify:?}: {error}"),
    }
}

/// A row: with that `ca`, under `full` and `ca`; pinned by itself the certificate is always accepted.
#[track_caller]
fn row(workshop: &Workshop, shown: &Server, ca: &[CertificateDer<'static>], full: Verdict, by_ca: Verdict) {
    let client = |verify, ca| Client::of(workshop, verify, ca);
    client(Verify::Full, ca).meets(shown, full);
    client(Verify::Ca, ca).meets(shown, by_ca);
    client(Verify::Pin, &[shown.own().clone()]).meets(shown, TAKEN);
}

/// A row of a certificate that openssl makes, signed by its CA.
#[track_caller]
fn made(order: Order<'_>, full: Verdict, by_ca: Verdict) {
    let workshop = Workshop::new();
    let shown = workshop.make(order);
    row(&workshop, &shown, &[workshop.certificate("ca")], full, by_ca);
}

const RSA: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];

#[test]
fn names() {
    made(ORDER, TAKEN, TAKEN);
    // A wildcard for a whole top-level domain matches nothing.
    made(
        Order { extensions: "subjectAltName=DNS:*.test", ..ORDER },
        Err("it is for *.test; see tls.server_name"),
        TAKEN,
    );
    made(
        Order { extensions: "subjectAltName=DNS:*.other.test", ..ORDER },
        Err("for another name than db.test: it is for *.other.test; see tls.server_name"),
        TAKEN,
    );
    // As Cloud SQL issues them: with a common name only.
    made(
        Order { extensions: "basicConstraints=CA:FALSE", ..ORDER },
        Err(
            "it has no subject alternative name, and a common name is not looked at (RFC 9525); see tls.verify",
        ),
        TAKEN,
    );
    let workshop = Workshop::new();
    let names = "subjectAltName=IP:192.0.2.7,IP:2001:db8::7,DNS:*.db.test";
    let shown = workshop.make(Order { extensions: names, ..ORDER });
    let ca = [workshop.certificate("ca")];
    for (name, expected) in [
        ("192.0.2.7", TAKEN),
        ("2001:db8::7", TAKEN),
        ("one.db.test", TAKEN),
        ("db.test", Err("for another name than db.test")),
        ("one.two.db.test", Err("for another name than one.two.db.test")),
        ("192.0.2.8", Err("for another name than 192.0.2.8: it is for 192.0.2.7, 2001:db8::7, *.db.test;")),
    ] {
        let client = Client { name, ..Client::of(&workshop, Verify::Full, &ca) };
        client.meets(&shown, expected);
    }
}

/// `openssl req -x509`, as in PostgreSQL's manual, makes the server's certificate a CA: named as its own `ca` it was
/// refused as `CaUsedAsEndEntity`.
#[test]
fn self_signed() {
    let workshop = Workshop::new();
    for constraints in ["CA:TRUE", "CA:FALSE"] {
        let extensions = format!("basicConstraints={constraints}\nsubjectAltName=DNS:db.test");
        let shown = workshop.make(Order { name: "self", by: None, extensions: &extensions, ..ORDER });
        row(&workshop, &shown, &[shown.own().clone()], TAKEN, TAKEN);
        row(
            &workshop,
            &shown,
            &[workshop.certificate("ca")],
            Err(match constraints {
                "CA:TRUE" => "counts as a server's only where it is itself in the file of tls.ca",
                _ => "it is self-signed; if it is the right one, name it",
            }),
            Err("tls.ca"),
        );
    }
    let nameless = workshop.make(Order { name: "nameless", by: None, extensions: CA, ..ORDER });
    row(&workshop, &nameless, &[nameless.own().clone()], Err("it has no subject alternative name"), TAKEN);
    let for_clients = "extendedKeyUsage=clientAuth\nsubjectAltName=DNS:db.test";
    let misused = workshop.make(Order { name: "misused", by: None, extensions: for_clients, ..ORDER });
    let lacks = Err("lacks serverAuth");
    row(&workshop, &misused, &[misused.own().clone()], lacks, lacks);
    // Signed by another CA, and itself in the file.
    let leaf = workshop.make(Order { name: "leaf", ..ORDER });
    row(&workshop, &leaf, &[leaf.own().clone()], TAKEN, TAKEN);
    let is_a_ca = format!("{CA}\nsubjectAltName=DNS:db.test");
    let leaf = workshop.make(Order { name: "subca", extensions: &is_a_ca, ..ORDER });
    let words =
        Err("is a CA's (CA:TRUE), which counts as a server's only where it is itself in the file of tls.ca");
    row(&workshop, &leaf, &[workshop.certificate("ca")], words, words);
    row(&workshop, &leaf, &[leaf.own().clone()], TAKEN, TAKEN);
}

/// What `openssl x509 -req` makes without an extension file, as in PostgreSQL's and MySQL's manuals.
#[test]
fn version_1() {
    let nameless = Err("it has no subject alternative name, being of X.509 version 1");
    made(Order { extensions: "", ..ORDER }, nameless, TAKEN);
    made(Order { extensions: "", key: RSA, ..ORDER }, nameless, TAKEN);
    let workshop = Workshop::new();
    let itself = workshop.make(Order { extensions: "", by: None, ..ORDER });
    row(&workshop, &itself, &[itself.own().clone()], nameless, TAKEN);
    let lone = Err("is of X.509 version 1: it is taken with `verify: ca`");
    row(&workshop, &itself, &[workshop.certificate("ca")], lone, lone);
    // Not signed by a CA of the same name, by a server's certificate, or by a CA with name constraints.
    let shown = workshop.make(Order { extensions: "", ..ORDER });
    let order = Order { subject: "/O=Shop/CN=CA", by: None, extensions: CA, ..ORDER };
    workshop.make(Order { name: "other", ..order });
    row(&workshop, &shown, &[workshop.certificate("other")], Err("another key"), Err("another key"));
    workshop.make(Order { name: "server2", extensions: "basicConstraints=CA:FALSE", ..order });
    let by_server = workshop.make(Order { name: "a", extensions: "", by: Some("server2"), ..ORDER });
    let no_ca = Err("that of `O=Shop, CN=CA` in tls.ca is no CA's");
    row(&workshop, &by_server, &[workshop.certificate("server2")], no_ca, no_ca);
    workshop.make(Order { name: "between", subject: "/CN=B", extensions: CA, ..ORDER });
    let below = workshop.make(Order { name: "c", extensions: "", by: Some("between"), ..ORDER });
    let below = below.with(&[workshop.certificate("between")]);
    row(&workshop, &below, &[workshop.certificate("ca")], lone, lone);
    let limits = format!("{CA}\nnameConstraints=permitted;DNS:db.test");
    workshop.make(Order { name: "limited", extensions: &limits, ..order });
    let limited = workshop.make(Order { name: "b", extensions: "", by: Some("limited"), ..ORDER });
    row(&workshop, &limited, &[workshop.certificate("limited")], lone, lone);
}

#[test]
fn intermediates() {
    let (root, workshop) = (ca("Root"), Workshop::new());
    let between =
        CertifiedIssuer::signed_by(ca_params("Between"), KeyPair::generate().unwrap(), &root).unwrap();
    let trusted = [root.der().clone()];
    row(
        &workshop,
        &issued(&named(&["db.test"]), &between).with(&[between.der().clone()]),
        &trusted,
        TAKEN,
        TAKEN,
    );
    let lacks =
        Err("has the CA `CN=Between`: the server lacks intermediate certificates, or tls.ca is another CA's");
    row(&workshop, &issued(&named(&["db.test"]), &between), &trusted, lacks, lacks);
    // A chain that ends with a root that is not in `tls.ca`.
    let chain = [between.der().clone(), root.der().clone()];
    let foreign = Err("its chain ends with the root `CN=Root`, which tls.ca does not have");
    let shown = issued(&named(&["db.test"]), &between).with(&chain);
    row(&workshop, &shown, &[workshop.certificate("ca")], foreign, foreign);
}

#[test]
fn algorithms() {
    made(Order { key: RSA, ..ORDER }, TAKEN, TAKEN);
    made(Order { key: &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"], ..ORDER }, TAKEN, TAKEN);
    made(Order { key: &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"], ..ORDER }, TAKEN, TAKEN);
    made(Order { key: &["-algorithm", "ED25519"], ..ORDER }, TAKEN, TAKEN);
    let forgeable = Err(
        "is signed with SHA-1, which anybody can forge; it has to be issued anew (certificate of `CN=db.test`",
    );
    made(Order { more: &["-sha1"], ..ORDER }, forgeable, forgeable);
    let workshop = Workshop::new();
    let itself = workshop.make(Order { by: None, more: &["-sha1"], ..ORDER });
    row(&workshop, &itself, &[itself.own().clone()], TAKEN, TAKEN);
    // A CA that signs with RSA-PSS, with a salt as long as the digest and with openssl's default.
    let ca = Order { name: "rsa", subject: "/CN=R", key: RSA, by: None, extensions: CA, more: &[] };
    workshop.make(ca);
    let order = Order { by: Some("rsa"), ..ORDER };
    for digest in ["-sha256", "-sha384", "-sha512"] {
        let pss = [digest, "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:-1"];
        let shown = workshop.make(Order { more: &pss, ..order });
        row(&workshop, &shown, &[workshop.certificate("rsa")], TAKEN, TAKEN);
    }
    let long = Err("is signed with RSA-PSS, of parameters that are not taken");
    let shown = workshop.make(Order {
        more: &["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:222"],
        ..order
    });
    row(&workshop, &shown, &[workshop.certificate("rsa")], long, long);
    // The openssl command of today's Debian makes no ML-DSA: its OID is as long as that of RSA with SHA-256.
    let mut shown = workshop.make(order);
    let (rsa, ml_dsa) =
        ([0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 11], [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 0x12]);
    let mut der = shown.own().to_vec();
    while let Some(at) = der.windows(rsa.len()).position(|bytes| bytes == rsa) {
        der[at..at + rsa.len()].copy_from_slice(&ml_dsa);
    }
    shown.chain = vec![der.into()];
    let unknown = Err("is signed with ML-DSA-65, which is not known here");
    row(&workshop, &shown, &[workshop.certificate("rsa")], unknown, unknown);
    // For a server's own key of that length see tests/behaviour/certificates.rs.
    let short = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"];
    workshop.make(Order { name: "short", key: &short, ..ca });
    let shown = workshop.make(Order { by: Some("short"), ..ORDER });
    let weak = Err(
        "is signed with a key that is RSA of 1024 bits, of which it must have 2048: the CA needs a new one",
    );
    row(&workshop, &shown, &[workshop.certificate("short")], weak, weak);
}

/// Signed by a CA with a key of that length, which is the server's too. For a server's key of 8192 bits see
/// tests/behaviour/certificates.rs.
#[test]
fn lengths_of_rsa_keys() {
    for (bits, primes) in [("3072", "2"), ("4096", "2"), ("8192", "5")] {
        let workshop = Workshop::new();
        // More primes take openssl seconds instead of a minute to find; whoever verifies sees their product alone.
        let options = [format!("rsa_keygen_bits:{bits}"), format!("rsa_keygen_primes:{primes}")];
        let key = ["-algorithm", "RSA", "-pkeyopt", &options[0], "-pkeyopt", &options[1]];
        workshop.make_key("big", &key);
        workshop.make_for_key(Order { name: "big", subject: "/CN=B", by: None, extensions: CA, ..ORDER });
        let trusted = [workshop.certificate("big")];
        // The key of several primes is one that only openssl signs with.
        let shown = if primes == "2" {
            std::fs::copy(workshop.path("big.key"), workshop.path("server.key")).unwrap();
            workshop.make_for_key(Order { by: Some("big"), ..ORDER });
            workshop.server("server")
        } else {
            workshop.make(Order { by: Some("big"), ..ORDER })
        };
        row(&workshop, &shown, &trusted, TAKEN, TAKEN);
    }
}

#[test]
fn name_constraints() {
    let workshop = Workshop::new();
    let violated = Err("the constraints of a CA above it do not permit");
    let directory = Err("has a directory name that the CA of tls.ca is not permitted to sign for");
    for (constraints, subject, expected) in [
        ("permitted;DNS:test", "/CN=x", TAKEN),
        ("permitted;DNS:other.test", "/CN=x", violated),
        ("excluded;DNS:test", "/CN=x", violated),
        ("permitted;dirName:shop", "/O=Shop/CN=x", TAKEN),
        ("permitted;dirName:shop", "/O=SHOP/CN=x", TAKEN),
        ("permitted;dirName:shop", "/O=Shopping/CN=x", directory),
        ("permitted;dirName:shop", "/CN=x/O=Shop", directory),
        ("permitted;dirName:shop,permitted;DNS:test", "/O=Shop/CN=x", TAKEN),
        ("permitted;dirName:shop,permitted;DNS:other.test", "/O=Shop/CN=x", violated),
        ("permitted;dirName:shop,excluded;DNS:test", "/O=Shop/CN=x", violated),
        // Fails closed: an excluded name could be hidden by another spelling.
        ("excluded;dirName:shop", "/O=Other/CN=x", violated),
    ] {
        let extensions = format!("{CA}\nnameConstraints=critical,{constraints}\n[shop]\nO=Shop\n");
        workshop.make(Order {
            name: "limited",
            subject: "/CN=L",
            by: None,
            extensions: &extensions,
            ..ORDER
        });
        let shown = workshop.make(Order { by: Some("limited"), subject, ..ORDER });
        // Beside another CA, and with a root that the server sends.
        let trusted = [workshop.certificate("ca"), workshop.certificate("limited")];
        let shown = shown.with(&[workshop.certificate("limited")]);
        row(&workshop, &shown, &trusted, expected, expected);
    }
    // On addresses, whichever name is asked for.
    for (constraints, expected) in [
        ("permitted;IP:192.0.2.0/255.255.255.0", TAKEN),
        ("permitted;IP:198.51.100.0/255.255.255.0", violated),
        ("excluded;IP:192.0.2.0/255.255.255.0", violated),
        ("excluded;IP:198.51.100.0/255.255.255.0", TAKEN),
    ] {
        let extensions = format!("{CA}\nnameConstraints=critical,{constraints}");
        let limited = Order { name: "limited", subject: "/CN=L", by: None, extensions: &extensions, ..ORDER };
        workshop.make(limited);
        let names = "subjectAltName=DNS:db.test,IP:192.0.2.7";
        let shown = workshop.make(Order { by: Some("limited"), extensions: names, ..ORDER });
        let trusted = [workshop.certificate("limited")];
        row(&workshop, &shown, &trusted, expected, expected);
        let client = Client { name: "192.0.2.7", ..Client::of(&workshop, Verify::Full, &trusted) };
        client.meets(&shown, expected);
    }
    // Constraints of a CA below the root are left to webpki, which refuses them.
    let extensions = format!("{CA}\nnameConstraints=critical,permitted;dirName:shop\n[shop]\nO=Shop\n");
    workshop.make(Order { name: "below", subject: "/O=Shop/CN=B", extensions: &extensions, ..ORDER });
    let shown = workshop.make(Order { by: Some("below"), subject: "/O=Shop/CN=x", ..ORDER });
    let shown = shown.with(&[workshop.certificate("below")]);
    row(&workshop, &shown, &[workshop.certificate("ca")], violated, violated);
    // A CA below a constrained root must conform, too.
    let extensions = format!("{CA}\nnameConstraints=critical,permitted;dirName:shop\n[shop]\nO=Shop\n");
    workshop.make(Order { name: "limited", subject: "/O=Shop", by: None, extensions: &extensions, ..ORDER });
    workshop.make(Order { name: "below", subject: "/O=Other", by: Some("limited"), extensions: CA, ..ORDER });
    let shown = workshop.make(Order { by: Some("below"), subject: "/O=Shop/CN=x", ..ORDER });
    let shown = shown.with(&[workshop.certificate("below")]);
    row(&workshop, &shown, &[workshop.certificate("limited")], directory, directory);
}

/// As when AddTrust's and IdenTrust's roots expired: the dates of a root do not count, and an expired cross-signature
/// on it does no harm.
#[test]
fn dates() {
    let workshop = Workshop::new();
    let ended = |params: &mut rcgen::CertificateParams| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    };
    let mut params = ca_params("Old");
    ended(&mut params);
    let old = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let shown = issued(&named(&["db.test"]), &old);
    row(&workshop, &shown, &[old.der().clone()], TAKEN, TAKEN);
    let key = KeyPair::generate().unwrap();
    let mut cross = ca_params("New");
    ended(&mut cross);
    let cross = cross.signed_by(&key, &old).unwrap().der().clone();
    let new = CertifiedIssuer::self_signed(ca_params("New"), key).unwrap();
    let shown = issued(&named(&["db.test"]), &new).with(&[cross]);
    row(&workshop, &shown, &[old.der().clone(), new.der().clone()], TAKEN, TAKEN);
    let ca_ended =
        Err("the certificate of a CA that the server sent with its own has expired; it ended on Jan");
    row(&workshop, &shown, &[old.der().clone()], ca_ended, ca_ended);
    let mut params = named(&["db.test"]);
    ended(&mut params);
    let expired = Err("the server's certificate has expired; it ended on Jan");
    row(&workshop, &issued(&params, &new), &[new.der().clone()], expired, expired);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let itself = Server { chain: vec![certificate.clone()], key };
    row(&workshop, &itself, &[certificate], expired, expired);
    params.not_before = date_time_ymd(3001, 1, 1);
    params.not_after = date_time_ymd(3002, 1, 1);
    let early = Err("is not valid before Jan  1 00:00:00 3001");
    row(&workshop, &issued(&params, &new), &[new.der().clone()], early, early);
}

#[test]
fn purposes_and_extensions() {
    let with = |extensions: &str, expected| {
        let extensions = format!("subjectAltName=DNS:db.test\n{extensions}");
        made(Order { extensions: &extensions, ..ORDER }, expected, expected);
    };
    with("extendedKeyUsage=serverAuth,clientAuth", TAKEN);
    with("extendedKeyUsage=clientAuth", Err("its extended key usage lacks serverAuth"));
    with("extendedKeyUsage=anyExtendedKeyUsage", Err("its extended key usage lacks serverAuth"));
    // RFC 8446 §4.4.2.2 requires digitalSignature; this is not checked here.
    with("keyUsage=critical,keyEncipherment", TAKEN);
    with(
        "1.2.3.4=critical,DER:0500",
        Err("has an extension that is marked critical and that is not known here (1.2.3.4)"),
    );
    with("1.2.3.4=DER:0500", TAKEN);
    let workshop = Workshop::new();
    let extensions = "subjectAltName=DNS:db.test\n1.2.3.4=critical,DER:0500";
    let itself = workshop.make(Order { by: None, extensions, ..ORDER });
    let unknown = Err("marked critical");
    row(&workshop, &itself, &[itself.own().clone()], unknown, unknown);
}
