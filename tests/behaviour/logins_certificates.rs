//! `login.certificate`: clients without a secret, and a daemon without one, whose TLS client certificate signs in, against real
//! servers that know users by their certificates.

use std::fs;
use std::process::Command;

use crate::harness::postgres::{PASSWORD, psql, psql_command};
use crate::harness::server::{dovecot_with_external, nats_with, rabbitmq, slapd};
use crate::harness::{
    Ambassador, Config, Finished, Leaf, Pki, Postgres, Server, ambassador, demand, finish, until,
};

fn config(protocol: &str, address: &str, tls: &str, login: &str) -> Config {
    let cluster = format!("protocol: {protocol}\n{tls}\nlogin: {login}");
    Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone").cluster(
        "up",
        &[address],
        &cluster,
    )
}

fn start(protocol: &str, server: &Server, leaf: &Leaf, login: &str) -> Ambassador {
    Ambassador::start(&config(protocol, &server.address(0), &server.tls_of(leaf), login))
}

fn python(script: &str, ambassador: &Ambassador) -> Finished {
    let port = ambassador.address("app").port().to_string();
    finish(Command::new("/usr/bin/python3").args(["-c", script, &port]))
}

/// `check --connect` with the same configuration.
fn checks(config: &Config, user: &str) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("listeners.yaml");
    fs::write(&path, config.render(dir.path())).expect("a file to check");
    let told = finish(ambassador().args(["check", "--connect", "--config"]).arg(&path)).must_succeed().stdout;
    assert!(told.contains(&format!("  login      ok      as {user}")), "{told}");
}

#[test]
fn postgres_signs_in_by_method_cert() {
    let server = Postgres::shared();
    let config = config(
        "postgres",
        &server.address(),
        &Postgres::tls_of_certonly(),
        "{ as: certonly, certificate: true }",
    );
    let ambassador = Ambassador::start(&config);
    let conninfo = format!(
        "host=127.0.0.1 port={} user=anybody dbname=postgres sslmode=disable",
        ambassador.address("app").port()
    );
    for password in [None, Some("whatever")] {
        let mut psql = psql_command(&conninfo);
        match password {
            Some(password) => psql.env("PGPASSWORD", password),
            None => psql.env_remove("PGPASSWORD"),
        };
        let told = finish(psql.args(["-w", "-c", "select session_user"])).must_succeed().stdout;
        assert_eq!(told.trim(), "certonly");
    }
    for record in ambassador.wait_records(2) {
        assert_eq!((&record["outcome"], &record["login_as"]), (&"completed".into(), &"certonly".into()));
    }
    checks(&config, "certonly");
}

/// A server that wants a password besides gets none, whichever the method; one that knows the certificate as another's is asked
/// once.
#[test]
fn postgres_gets_no_password_and_is_asked_once_with_a_certificate_of_another() {
    let server = Postgres::shared();
    let conninfo = |ambassador: &Ambassador| {
        format!("host=127.0.0.1 port={} user=x dbname=postgres", ambassador.address("app").port())
    };
    let of_app = |user: &str| {
        let login = format!("{{ as: {user}, certificate: true }}");
        Ambassador::start(&config("postgres", &server.address(), &server.tls(), &login))
    };
    let told = psql(&conninfo(&of_app("app")), "select 1").must_exit(2).stderr;
    assert!(told.contains("no login that suits a client certificate: SCRAM-SHA-256"), "{told}");
    let ambassador = of_app("certonly");
    for round in 0..ROUNDS {
        let told = psql(&conninfo(&ambassador), "select 1").must_exit(2).stderr;
        assert!(told.contains("certificate authentication failed for user"), "{round}: {told}");
    }
    was_asked_once(&ambassador);
}

/// Clients are started one after the other, and a rejected certificate is tried again after a minute.
const ROUNDS: usize = 3;

fn was_asked_once(ambassador: &Ambassador) {
    let records = ambassador.wait_records(ROUNDS);
    assert!(records.iter().all(|record| record["outcome"] == "login_failed"), "{records:?}");
    let metrics = ambassador.metrics();
    assert_eq!(metrics.sum("logins_total", &[("result", "rejected")]), 1.0);
    assert_eq!(metrics.sum("logins_total", &[("result", "paused")]), (ROUNDS - 1) as f64);
    assert_eq!((metrics.sum("ejections_total", &[]), metrics.sum("breaker_state", &[])), (0.0, 0.0));
}

const PIKA: &str = "
import sys, pika
login = pika.PlainCredentials('guest', 'guest')
where = pika.ConnectionParameters('127.0.0.1', int(sys.argv[1]), credentials=login, connection_attempts=1)
try:
    connection = pika.BlockingConnection(where)
except Exception as error:
    sys.exit(repr(error))
channel = connection.channel()
channel.confirm_delivery()
queue = channel.queue_declare('', exclusive=True).method.queue
channel.basic_publish('', queue, b'hello', pika.BasicProperties(user_id='app'))
method, _, body = next(channel.consume(queue, auto_ack=True, inactivity_timeout=20))
assert body == b'hello'
connection.close()
print('pika is content')
";

/// The broker checks `user_id` against the user of the connection. Sessions with a certificate of nobody ask it once; a
/// replaced certificate is tried at once.
#[test]
fn rabbitmq_takes_the_user_from_the_certificate() {
    let server = rabbitmq();
    let app = server.app();
    let nobody = server.pki().client("nobody");
    let ambassador = start("amqp", server, app, "{ certificate: true }");
    assert_eq!(python(PIKA, &ambassador).must_succeed().stdout.trim(), "pika is content");
    let record = ambassador.record();
    let user = "the certificate's subject";
    assert_eq!((&record["outcome"], &record["login_as"]), (&"completed".into(), &user.into()), "{record}");
    checks(&config("amqp", &server.address(0), &server.tls_of(app), "{ as: app, certificate: true }"), "app");

    let dir = tempfile::tempdir().expect("a temporary directory");
    let leaf_of = |from: &Leaf| {
        for (from, name) in [(&from.key, "key"), (&from.cert, "cert")] {
            fs::copy(from, dir.path().join("new")).expect("a copy");
            fs::rename(dir.path().join("new"), dir.path().join(name)).expect("a replaced file");
        }
    };
    leaf_of(&nobody);
    let (cert, key) = (dir.path().join("cert"), dir.path().join("key"));
    let tls = format!(
        "tls: {{ ca: {}, cert: {}, key: {}, server_name: srv.test }}",
        server.pki().ca().display(),
        cert.display(),
        key.display()
    );
    let ambassador = Ambassador::start(&config("amqp", &server.address(0), &tls, "{ certificate: true }"));
    let refusals = || server.log().matches("user 'nobody' - ").count();
    let before = refusals();
    for round in 0..ROUNDS {
        let told = python(PIKA, &ambassador).must_exit(1).stderr;
        assert!(told.contains("ACCESS_REFUSED"), "{round}: {told}");
    }
    assert_eq!(refusals() - before, 1);
    was_asked_once(&ambassador);
    leaf_of(app);
    ambassador.wait_line("a credential for signing in was read");
    python(PIKA, &ambassador).must_succeed();
}

const SERVICE: &str = "cn=service,dc=test";

#[test]
fn slapd_is_bound_to_by_external() {
    let server = slapd();
    let leaf = server.pki().client("service");
    let whoami = |ambassador: &Ambassador, options: &[&str]| {
        let mut command = Command::new(demand("ldapwhoami", "ldap-utils"));
        let uri = format!("ldap://{}/", ambassador.address("app"));
        finish(command.args(["-x", "-H", &uri]).args(options).env("LDAPNOINIT", "1"))
    };
    let login = format!("{{ as: \"{SERVICE}\", certificate: true }}");
    let ambassador = start("ldap", server, &leaf, &login);
    for options in [&[][..], &["-D", SERVICE, "-w", "x"]] {
        let told = whoami(&ambassador, options).must_succeed().stdout;
        assert_eq!(told.trim(), format!("dn:{SERVICE}"), "{options:?}");
    }
    checks(&config("ldap", &server.address(0), &server.tls_of(&leaf), &login), SERVICE);
    // The certificate is of another than `as` says.
    let ambassador = start("ldap", server, &leaf, "{ as: \"cn=admin,dc=test\", certificate: true }");
    for _ in 0..ROUNDS {
        let told = whoami(&ambassador, &[]).must_exit(50).stderr;
        assert!(told.contains("ambassador: login_failed: "), "{told}");
    }
    was_asked_once(&ambassador);
}

#[test]
fn dovecot_lets_a_certificate_in_by_external() {
    let server = dovecot_with_external();
    let ambassador = start("imap", server, server.app(), "{ as: app, certificate: true }");
    let script = "
import imaplib, sys
imap = imaplib.IMAP4('127.0.0.1', int(sys.argv[1]))
imap.login('x', 'y')
imap.select('INBOX')
imap.logout()
print('imaplib is content')
";
    assert_eq!(python(script, &ambassador).must_succeed().stdout.trim(), "imaplib is content");
    until("Dovecot logs it", || server.log().contains("Login: user=<app>, method=EXTERNAL").then_some(()));
}

/// `verify_and_map`: the certificate's subject is the user.
#[test]
fn nats_maps_a_certificate_to_a_user() {
    let server = nats_with("verify_and_map: true,", "authorization { users = [ { user: \"CN=mapped\" } ] }");
    let mapped = server.pki().client("mapped");
    for (leaf, expected) in
        [(&mapped, "INFO {"), (&server.pki().client("nobody"), "-ERR 'ambassador: login_failed: ")]
    {
        let ambassador = start("nats", &server, leaf, "{ certificate: true }");
        let mut client = ambassador.connect();
        client.expect(expected);
    }
}

#[test]
fn what_a_certificate_needs_is_a_mistake_with_its_place() {
    let pki = Pki::new();
    let leaf = pki.client("app");
    let secret = pki.path("token");
    fs::write(&secret, PASSWORD).expect("a file");
    let secret = secret.display();
    let ca = pki.ca().display().to_string();
    let with = format!("tls: {{ ca: {ca}, cert: {}, key: {} }}", leaf.cert.display(), leaf.key.display());
    let without = format!("tls: {{ ca: {ca} }}");
    for (protocol, tls, login, expected) in [
        (
            "amqp",
            &without,
            "{ certificate: true }".into(),
            "needs a client certificate in `tls`: `cert` and `key`, or `identity`",
        ),
        ("postgres", &with, "{ certificate: true }".into(), "`as` is missing: only with protocols"),
        ("amqp", &with, "{ certificate: false }".into(), "is `true`, or absent"),
        (
            "redis",
            &with,
            "{ as: a, certificate: true }".into(),
            "protocol redis cannot be signed in with `certificate`; these can: ",
        ),
        (
            "redis",
            &with,
            format!("{{ token: {{ file: {secret} }} }}"),
            "cannot be signed in with `token`; these can: nats",
        ),
        (
            "nats",
            &with,
            format!("{{ as: a, token: {{ file: {secret} }} }}"),
            "does not go with `token`, which says itself who is signed in",
        ),
        ("nats", &with, format!("{{ nkey: {{ file: {secret} }} }}"), "has no seed of a user's nkey"),
    ] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("listeners.yaml");
        fs::write(&path, config(protocol, "127.0.0.1:1", tls, &login).render(dir.path())).expect("a file");
        let told = finish(ambassador().args(["check", "--config"]).arg(&path)).must_exit(78).stderr;
        let line = told.lines().find(|line| line.contains(expected));
        let line = line.unwrap_or_else(|| panic!("no {expected:?} in {told}"));
        assert!(line.contains("listeners.yaml:") && !told.contains(PASSWORD), "{line}");
    }
}
