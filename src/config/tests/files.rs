//! Files that a file names, and the shipped example.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;

use crate::cluster;
use crate::config::{Config, Mistakes};

/// A folder with `listeners.yaml`, and in `certs/` a CA, client certificates, and files that are neither.
fn folder(yaml: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let certs = folder.path().join("certs");
    fs::create_dir(&certs).expect("a folder");
    let write = |name: &str, text: String| fs::write(certs.join(name), text).expect("a file");

    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    write("ca.pem", ca.pem());
    for (name, year) in [("client", 2099), ("billing", 2099), ("expired", 2001)] {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([]).expect("no names");
        params.not_after = date_time_ymd(year, 1, 1);
        params.not_before = date_time_ymd(2000, 1, 1);
        let leaf = params.signed_by(&key, &ca).expect("a certificate");
        write(&format!("{name}.pem"), leaf.pem());
        write(&format!("{name}.key"), key.serialize_pem());
        fs::set_permissions(certs.join(format!("{name}.key")), Permissions::from_mode(0o600))
            .expect("a mode");
    }
    write("junk.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into());
    write("empty.pem", String::new());
    fs::write(folder.path().join("listeners.yaml"), yaml).expect("a file");
    folder
}

fn load(folder: &TempDir) -> Result<Config, Mistakes> {
    Config::load(&folder.path().join("listeners.yaml"))
}

fn with_tls(tls: &str) -> String {
    format!(
        "identities:\n  billing: {{ cert: certs/billing.pem, key: certs/billing.key }}\nlisteners:\n  \
         a: {{ bind: 127.0.0.1:1, cluster: b }}\nclusters:\n  b: {{ endpoints: [x:1], tls: {{ {tls} }} }}\n"
    )
}

fn targets(cluster: &cluster::Settings) -> usize {
    cluster.source.as_ref().map_or(cluster.endpoints.len(), |source| source.listed().len())
}

#[test]
fn the_shipped_example_is_right() {
    let config =
        load(&folder(include_str!("../../../listeners.yaml"))).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.warnings, Vec::<String>::new());
    let clusters: Vec<_> = config
        .clusters
        .iter()
        .map(|cluster| (cluster.name.as_str(), cluster.protocol.label(), targets(cluster)))
        .collect();
    assert_eq!(clusters, [("orders", "postgres", 2), ("mail-relay", "smtp", 1)]);
    assert!(config.clusters[0].tls.as_ref().is_some_and(|tls| !tls.identities().all().is_empty()));
}

/// The example calls its commented lines defaults or examples, so they must be accepted, too.
#[test]
fn the_commented_lines_of_the_example_are_right() {
    let shipped = include_str!("../../../listeners.yaml");
    let uncommented: Vec<_> = shipped
        .lines()
        .map(|line| {
            let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
            let key = rest.strip_prefix("# ").filter(|rest| {
                let name = rest.trim_start().split_once(':').map_or("", |(name, _)| name);
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            });
            key.map_or_else(|| line.to_owned(), |key| format!("{indent}{key}"))
        })
        // Only one of the two ways to give a certificate is possible at once; users and groups depend on the host, and
        // revocation lists on the CA; a secret is not shipped.
        .filter(|line| {
            !["identity:", "owner:", "group:", "crl:", "login:"]
                .iter()
                .any(|key| line.trim_start().starts_with(key))
        })
        .collect();
    let config = load(&folder(&uncommented.join("\n"))).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.warnings.len(), 1, "the identities that nobody uses: {:?}", config.warnings);
    assert_eq!(config.workers, 2);
    assert_eq!(config.clusters[0].dial.local_address, Some([10, 0, 0, 7].into()));
}

#[test]
fn identities_come_from_files_or_by_name() {
    for tls in ["ca: certs/ca.pem, cert: certs/client.pem, key: certs/client.key", "identity: billing"] {
        let config = load(&folder(&with_tls(tls))).unwrap_or_else(|error| panic!("{error}"));
        let tls = config.clusters[0].tls.as_ref().expect("tls is given");
        assert!(!tls.identities().all().is_empty());
    }
}

#[test]
fn an_agent_says_whom_to_trust_unless_identities_come_from_several_places() {
    let agent = "identities:\n  host: { spiffe: \"unix:///run/agent.sock\" }\n";
    let with = |tls: &str| with_tls(tls).replace("identities:\n", agent);
    let config = load(&folder(&with("identity: host"))).unwrap_or_else(|error| panic!("{error}"));
    let identities = config.clusters[0].tls.as_ref().expect("tls is given").identities().clone();
    assert_eq!(identities.all()[0].paths(), [Path::new("/run/agent.sock")]);
    let mistakes = load(&folder(&with("identity: [{ user: root, use: host }, { use: billing }]")));
    let mistakes = mistakes.expect_err("nobody says whom to trust").to_string();
    assert!(
        mistakes.contains("clusters.b.tls.identity: the identities come from several places"),
        "{mistakes}"
    );
    let both = "ca: certs/ca.pem, identity: [{ user: root, use: host }, { use: billing }]";
    load(&folder(&with(both))).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn identities_may_be_chosen_by_who_connects() {
    let rules =
        "identity: [{ user: root, use: billing }, { unit: a.service, use: client }, { use: billing }]";
    let yaml = with_tls(rules).replace(
        "identities:\n",
        "identities:\n  client: { cert: certs/client.pem, key: certs/client.key }\n",
    );
    let config = load(&folder(&yaml)).unwrap_or_else(|error| panic!("{error}"));
    let tls = config.clusters[0].tls.as_ref().expect("tls is given");
    let names: Vec<_> = tls.identities().all().iter().map(|identity| identity.name().as_str()).collect();
    assert_eq!(names, ["billing", "client", "billing"]);
    assert!(tls.identities().needs().is_some_and(|needs| needs.unit && !needs.groups));
    let never = yaml.replace("{ unit: a.service, use: client }", "{ use: client }");
    let mistakes = load(&folder(&never)).expect_err("a rule behind the rest").to_string();
    assert!(mistakes.contains("tls.identity[2]: is never reached"), "{mistakes}");
}

#[test]
fn a_file_that_is_wrong_is_the_fault_of_its_key() {
    for (tls, path, part) in [
        ("ca: certs/none.pem", "tls.ca", "certs/none.pem"),
        ("ca: certs/empty.pem", "tls.ca", "is empty"),
        ("ca: certs/junk.pem", "tls.ca", "trust anchor"),
        ("ca: certs/none.pem, insecure_skip_verify: true", "tls.ca", "certs/none.pem"),
        ("ca: certs", "tls.ca", "cannot read"),
        ("cert: certs/none.pem, key: certs/client.key", "tls.cert", "cannot read"),
        ("cert: certs/junk.pem, key: certs/client.key", "tls.cert", "not valid X.509"),
        ("cert: certs/client.pem, key: certs/none.key", "tls.key", "cannot read"),
        (
            "cert: certs/client.pem, key: certs/ca.pem",
            "tls.key",
            "holds a certificate, and no PEM private key",
        ),
        ("cert: certs/client.key, key: certs/client.key", "tls.cert", "may belong to `key`"),
        ("ca: certs/client.key", "tls.ca", "holds a private key, and no PEM certificate"),
        ("crl: certs/ca.pem", "tls.crl", "holds a certificate, and no PEM revocation list"),
        ("cert: certs/client.pem, key: certs/billing.key", "tls.key", "does not belong to the certificate"),
        ("identity: biling", "tls.identity", "there is no identity `biling`; did you mean `billing`?"),
        (
            "identity: billing, cert: certs/client.pem, key: certs/client.key",
            "tls.identity",
            "given together with `cert` or `key`",
        ),
    ] {
        let mistakes = load(&folder(&with_tls(tls))).expect_err(tls);
        let found: Vec<_> = mistakes.iter().collect();
        let [one] = found[..] else { panic!("{mistakes}") };
        assert_eq!(one.path, format!("clusters.b.{path}"), "{mistakes}");
        assert!(one.message.contains(part), "{part:?} is not in {mistakes}");
    }
}

#[test]
fn an_identity_of_wrong_files_is_reported_once_however_many_use_it() {
    let yaml = with_tls("identity: billing").replace("certs/billing.key", "certs/client.key");
    let mistakes = load(&folder(&yaml)).expect_err("a mismatch");
    let paths: Vec<_> = mistakes.iter().map(|mistake| mistake.path.as_str()).collect();
    assert_eq!(paths, ["identities.billing.key"], "{mistakes}");
}

/// A traditionally encrypted key was reported as "base64 decode error", and a PKCS#12 file as having no PEM. Each of
/// these is some tool's default output; the command in the message converts it to an accepted key.
#[test]
fn keys_and_certificates_of_other_forms_are_refused_with_the_command_that_converts_them() {
    for (key, made_by, words) in [
        (
            "locked.key",
            "pkcs8 -topk8 -passout pass:x -in client.key -out locked.key",
            "pkey -in {}/locked.key -out PLAIN",
        ),
        (
            "old.key",
            "ec -aes128 -passout pass:x -in client.key -out old.key",
            "pkey -in {}/old.key -out PLAIN",
        ),
        (
            "key.der",
            "pkey -in client.key -outform der -out key.der",
            "pkey -inform der -in {}/key.der -out PEM",
        ),
        (
            "all.p12",
            "pkcs12 -export -passout pass:x -inkey client.key -in client.pem -out all.p12",
            "pkcs12 -in {}/all.p12 -nocerts -nodes -out PEM",
        ),
        (
            "client.der",
            "x509 -in client.pem -outform der -out client.der",
            "x509 -inform der -in {}/client.der -out PEM",
        ),
        (
            "public.key",
            "pkey -in client.key -pubout -out public.key",
            "holds a public key; the private one is wanted",
        ),
    ] {
        let folder = folder(&with_tls(&format!("cert: certs/client.pem, key: certs/{key}")));
        openssl(&folder, made_by);
        refused_once(&folder, "clusters.b.tls.key", words);
    }
    for (cert, made_by, words) in [
        (
            "client.der",
            "x509 -in client.pem -outform der -out client.der",
            "x509 -inform der -in {}/client.der -out PEM",
        ),
        (
            "all.p7b",
            "crl2pkcs7 -nocrl -certfile client.pem -out all.p7b",
            "pkcs7 -in {}/all.p7b -print_certs -out PEM",
        ),
        (
            "all.p7c",
            "crl2pkcs7 -nocrl -certfile client.pem -outform der -out all.p7c",
            "pkcs7 -inform der -in {}/all.p7c -print_certs -out PEM",
        ),
        (
            "all.p12",
            "pkcs12 -export -passout pass:x -inkey client.key -in client.pem -out all.p12",
            "pkcs12 -in {}/all.p12 -nokeys -out PEM",
        ),
        ("trusted.pem", "x509 -in client.pem -trustout -out trusted.pem", "x509 -in {}/trusted.pem -out PEM"),
        (
            "client.csr",
            "req -new -key client.key -subj /CN=x -out client.csr",
            "holds a request for a certificate",
        ),
    ] {
        let folder = folder(&with_tls(&format!("cert: certs/{cert}, key: certs/client.key")));
        openssl(&folder, made_by);
        refused_once(&folder, "clusters.b.tls.cert", words);
    }
}

/// Runs openssl in the folder's `certs`.
#[track_caller]
fn openssl(folder: &TempDir, arguments: &str) {
    let mut openssl = Command::new("openssl");
    openssl.args(arguments.split(' ')).current_dir(folder.path().join("certs"));
    let made = openssl.output().expect("the openssl command");
    assert!(made.status.success(), "{arguments}: {made:?}");
}

#[track_caller]
fn refused_once(folder: &TempDir, path: &str, words: &str) {
    let words = words.replace("{}", &folder.path().join("certs").display().to_string());
    let mistakes = load(folder).expect_err(&words);
    let found: Vec<_> = mistakes.iter().collect();
    let [one] = found[..] else { panic!("{mistakes}") };
    assert!(one.path == path && one.message.contains(&words), "{words:?} is not in {mistakes}");
}

/// A CA's certificate before the leaf: the message "does not belong" alone made users look for another key.
#[test]
fn a_key_that_belongs_to_a_later_certificate_of_the_file_tells_of_the_order() {
    let folder = folder(&with_tls("cert: certs/all.pem, key: certs/client.key"));
    let certs = folder.path().join("certs");
    let both = ["ca.pem", "client.pem"].map(|file| fs::read_to_string(certs.join(file)).expect("a file"));
    fs::write(certs.join("all.pem"), both.concat()).expect("a file");
    refused_once(
        &folder,
        "clusters.b.tls.key",
        "it belongs to number 2 of its file, which has to be the first",
    );
}

/// What MySQL's manual makes: as our own certificate it was refused as "invalid peer certificate", which it is not.
#[test]
fn our_own_certificate_may_be_of_version_1() {
    let folder = folder(&with_tls("cert: certs/v1.pem, key: certs/client.key"));
    openssl(&folder, "req -new -key client.key -subj /CN=billing -out v1.csr");
    openssl(&folder, "x509 -req -in v1.csr -days 30 -signkey client.key -out v1.pem");
    load(&folder).unwrap_or_else(|error| panic!("{error}"));
}

/// 42 clusters with one world-readable key gave 42 warnings.
#[test]
fn what_is_wrong_with_a_file_is_said_once() {
    let folder =
        folder(&with_tls("cert: certs/expired.pem, key: certs/expired.key").replace("billing", "client"));
    let path = folder.path().join("listeners.yaml");
    let text = fs::read_to_string(&path).expect("the file");
    let cluster = text.split("clusters:\n").nth(1).expect("clusters");
    let more: String = (0..41).map(|number| cluster.replacen("  b:", &format!("  b{number}:"), 1)).collect();
    fs::write(&path, format!("{}\n{more}", text.trim_end())).expect("a file");
    let key = folder.path().join("certs/expired.key");
    fs::set_permissions(key, PermissionsExt::from_mode(0o644)).expect("a mode");
    let config = load(&folder).unwrap_or_else(|error| panic!("{error}"));
    for words in ["has expired (and so for ", "0600, or 0640 with a group of its own (and so for "] {
        let warned = config.warnings.iter().filter(|warning| warning.contains(words)).count();
        assert_eq!(warned, 1, "{words:?} in {:#?}", config.warnings);
    }
}

/// The warning came only after the other mistake was corrected.
#[test]
fn an_expired_certificate_is_told_beside_another_mistake() {
    let tls = "cert: certs/expired.pem, key: certs/expired.key, serve_name: x";
    let mistakes =
        load(&folder(&with_tls(tls).replace("billing", "client"))).expect_err("a wrong key").to_string();
    let last = mistakes.lines().last().expect("a line");
    assert!(last.starts_with("warning: ") && last.contains("has expired"), "{mistakes}");
    assert!(!mistakes.contains("no cluster uses"), "{mistakes}");
    assert!(mistakes.contains("serve_name"), "{mistakes}");
}

#[test]
fn an_expired_certificate_is_a_warning() {
    let tls = "cert: certs/expired.pem, key: certs/expired.key";
    let yaml = with_tls(tls).replace("billing", "client");
    let config = load(&folder(&yaml)).unwrap_or_else(|error| panic!("{error}"));
    let [unused, expired] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert!(unused.contains("identities.client: no cluster uses this identity"), "{unused}");
    assert!(expired.contains("clusters.b.tls.cert: ") && expired.contains("has expired"), "{expired}");
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let folder = folder("");
    let file = folder.path().join("listeners.yaml");
    let check = |path: &Path, part: &str| {
        let mistakes = Config::load(path).expect_err(part).to_string();
        assert!(mistakes.starts_with(&format!("{}: ", path.display())), "{mistakes}");
        assert!(mistakes.contains(part), "{part:?} is not in {mistakes:?}");
    };
    check(&folder.path().join("none.yaml"), "No such file");
    check(folder.path(), "Is a directory");
    fs::write(&file, b"a: 1\nb: \xff\n").expect("a file");
    check(&file, "line 2 is not UTF-8 text");
    fs::write(&file, vec![b' '; 1024 * 1024 + 1]).expect("a file");
    check(&file, "is larger than 1 MiB");
}

#[test]
fn a_mistake_shows_file_line_column_path_and_the_line_itself() {
    let folder = folder("");
    let text =
        "listeners:\n  a: { bind: 127.0.0.1:1, cluster: b }\nclusters:\n  b: { endpoints: [x], tsl: {} }\n";
    let file = folder.path().join("l.yaml");
    let shown = Config::parse(text, &file, &|_| None).expect_err("two mistakes").to_string();
    let expected = "\
FILE:4:20: clusters.b.endpoints[0]: the port of `x` is missing: write HOST:PORT
   4 |   b: { endpoints: [x], tsl: {} }
     |                    ^

FILE:4:24: clusters.b.tsl: unknown key `tsl`; did you mean `tls`?
   4 |   b: { endpoints: [x], tsl: {} }
     |                        ^^^

2 mistakes in FILE";
    assert_eq!(shown, expected.replace("FILE", &file.display().to_string()));
}

/// A private CA may sign one server alone, without a name (Cloud SQL's), so `verify: ca` goes with `login`; public CAs sign
/// everybody.
#[test]
fn a_login_goes_by_the_name_of_the_server_or_by_a_private_ca() {
    let with_login = |tls: &str| {
        let login = "protocol: postgres, login: { as: app, password: { file: certs/secret } }";
        let yaml = with_tls(tls).replace("cluster: b }", "cluster: b, allow: anyone }");
        let folder = folder(&yaml.replace("endpoints:", &format!("{login}, endpoints:")));
        let secret = folder.path().join("certs/secret");
        fs::write(&secret, "hunter2").expect("a file");
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("a mode");
        load(&folder)
    };
    for tls in ["verify: ca", "verify: ca, ca: system", "verify: ca, ca: webpki"] {
        let mistakes = with_login(tls).expect_err(tls).to_string();
        assert!(
            mistakes.contains("anybody would do who has a certificate of any public CA"),
            "{tls}: {mistakes}"
        );
    }
    for (tls, warning) in [
        ("ca: certs/ca.pem", None),
        ("verify: ca, ca: certs/ca.pem", Some("the secret goes to whoever has a certificate of that CA")),
    ] {
        let config = with_login(tls).unwrap_or_else(|mistakes| panic!("{tls}: {mistakes}"));
        let told: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
        let of_login: Vec<_> = told.iter().filter(|told| told.contains("with `login`")).collect();
        assert_eq!(of_login.len(), usize::from(warning.is_some()), "{tls}: {told:?}");
        assert!(warning.is_none_or(|warning| of_login[0].contains(warning)), "{told:?}");
    }
}
