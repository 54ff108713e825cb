//! `login.mechanisms`: what may carry the secret, against real servers that ask for less; and what the configuration says of
//! names.

use std::fs;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::postgres::{PASSWORD as OF_POSTGRES, psql, psql_command};
use crate::harness::secrets::Secrets;
use crate::harness::server::{PASSWORD, dovecot, dovecot_with_scram, mariadb};
use crate::harness::submission::submission;
use crate::harness::{
    Ambassador, Config, Finished, Postgres, ServerTls, Upstream, ambassador, demand, finish,
};

fn start(address: &str, cluster: &str) -> Ambassador {
    let listener = "bind: 127.0.0.1:0\ncluster: up\nallow: anyone";
    Ambassador::start(&Config::new().listener("app", listener).cluster("up", &[address], cluster))
}

fn to_postgres(address: &str, user: &str, allowed: &str, secrets: &Secrets) -> Ambassador {
    let tls = format!("tls: {{ ca: {}, server_name: db.test }}", Postgres::by_method().pki().ca().display());
    let login = secrets.login(user, &format!(", mechanisms: [{allowed}]"));
    start(address, &format!("protocol: postgres\n{tls}\n{login}"))
}

fn ask_postgres(ambassador: &Ambassador) -> Finished {
    let port = ambassador.address("app").port();
    psql(&format!("host=127.0.0.1 port={port} user=x dbname=orders"), "select current_user")
}

/// The session is refused in words that name what is allowed and what there is; nobody is ejected, and nothing is paused.
fn was_not_signed_in(ambassador: &Ambassador, secret: &str) {
    let record = ambassador.record_of("login_failed");
    assert!(
        record["error"].as_str().is_some_and(|error| error.contains("is allowed by `mechanisms`")),
        "{record}"
    );
    assert_eq!(ambassador.metrics().sum("ejections_total", &[]), 0.0);
    for text in
        [ambassador.lines().join("\n"), ambassador.get("/metrics").body, ambassador.status().to_string()]
    {
        assert!(!text.contains(secret), "a secret is shown");
    }
}

#[test]
fn postgres_that_asks_for_less_than_is_allowed_is_left() {
    let (server, secrets) = (Postgres::by_method(), Secrets::of(OF_POSTGRES));
    for (user, allowed, offered) in [
        ("plain", "scram-sha-256", Some("password")),
        ("hashed", "scram-sha-256, password", Some("md5")),
        ("trusted", "scram-sha-256", Some("none")),
        ("scrammed", "md5, password", Some("SCRAM-SHA-256-PLUS, SCRAM-SHA-256")),
        ("plain", "scram-sha-256, password", None),
        ("hashed", "md5", None),
        ("trusted", "none", None),
        ("scrammed", "scram-sha-256", None),
        ("scrammed", "scram-sha-256-plus", None),
    ] {
        let ambassador = to_postgres(&server.address(), user, allowed, &secrets);
        let Some(offered) = offered else {
            assert_eq!(ask_postgres(&ambassador).must_succeed().stdout.trim(), user);
            continue;
        };
        let told = ask_postgres(&ambassador).must_exit(2).stderr;
        let expected =
            format!("no login that suits a password and is allowed by `mechanisms` ({allowed}): {offered}");
        assert!(told.contains("login_failed") && told.contains(&expected), "{told}");
        was_not_signed_in(&ambassador, OF_POSTGRES);
    }
}

/// Scenario: somebody between the daemon and the server, with a certificate that the daemon trusts, takes PLUS out of the offer.
#[test]
fn postgres_without_channel_binding_is_left_where_plus_is_required() {
    let server = Postgres::by_method();
    let secrets = Secrets::of(OF_POSTGRES);
    let behind = format!(
        "protocol: postgres\nscram_plus: strip\ntls: {{ ca: {}, server_name: db.test }}",
        server.pki().ca().display()
    );
    let onward = Ambassador::start(&Config::app(&[&server.address()], &behind));
    let (to, tls) = (onward.address("app"), ServerTls::new(&server.pki().server(&["db.test"])).build());
    let between = Upstream::plain(move |mut conn| {
        let tls = Arc::clone(&tls);
        async move {
            let mut request = [0; 8];
            conn.read_exact(&mut request).await.expect("SSLRequest");
            conn.write_all(b"S").await.expect("an answer");
            let Some(mut inside) = conn.start_tls(tls).await else { return };
            let mut outside = tokio::net::TcpStream::connect(to).await.expect("the way on");
            let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
        }
    });
    let ambassador = to_postgres(&between.address(), "scrammed", "scram-sha-256-plus", &secrets);
    let told = ask_postgres(&ambassador).must_exit(2).stderr;
    assert!(told.contains("is allowed by `mechanisms` (scram-sha-256-plus): SCRAM-SHA-256"), "{told}");
    was_not_signed_in(&ambassador, OF_POSTGRES);
}

#[test]
fn mariadb_that_goes_by_another_plugin_is_left() {
    let secrets = Secrets::of(PASSWORD);
    let query = |ambassador: &Ambassador| {
        let port = format!("--port={}", ambassador.address("app").port());
        let mut client = std::process::Command::new(demand("mariadb", "mariadb-client"));
        client.args([
            "--no-defaults",
            "--skip-ssl",
            "--batch",
            "--skip-column-names",
            "--host=127.0.0.1",
            &port,
        ]);
        finish(client.args(["--user=x", "-e", "select substring_index(current_user(), '@', 1)"]))
    };
    for (user, allowed, offered) in [
        ("app", "client_ed25519", Some("mysql_native_password")),
        ("ed", "mysql_native_password", Some("client_ed25519")),
        ("ed", "client_ed25519", None),
        ("app", "client_ed25519, mysql_native_password", None),
    ] {
        let login = secrets.login(user, &format!(", mechanisms: [{allowed}]"));
        let ambassador =
            start(&mariadb().address(0), &format!("protocol: mysql\n{}\n{login}", mariadb().tls("")));
        let Some(offered) = offered else {
            assert_eq!(query(&ambassador).must_succeed().stdout.trim(), user);
            continue;
        };
        let expected = format!("is allowed by `mechanisms` ({allowed}): {offered}");
        for _ in 0..3 {
            let told = query(&ambassador).must_exit(1).stderr;
            assert!(told.contains("login_failed") && told.contains(&expected), "{told}");
        }
        // The server has counted it as a wrong password, so it is not asked again at once.
        assert_eq!(ambassador.metrics().sum("logins_total", &[("result", "paused")]), 2.0);
        was_not_signed_in(&ambassador, PASSWORD);
    }
}

#[test]
fn mail_servers_with_weaker_mechanisms_are_left() {
    let secrets = Secrets::of(PASSWORD);
    let login = secrets.login("app", ", mechanisms: [SCRAM-SHA-256]");
    let curl = |ambassador: &Ambassador, scheme: &str| {
        let mut curl = std::process::Command::new(demand("curl", "curl"));
        curl.args(["-sS", "-v", "--max-time", "20"])
            .arg(format!("{scheme}://{}/", ambassador.address("app")));
        finish(&mut curl)
    };
    // IMAP's and POP3's own commands for a password are no way out.
    for (scheme, port, offered) in
        [("imap", 0, "PLAIN, CRAM-MD5, the command LOGIN"), ("pop3", 1, "PLAIN CRAM-MD5")]
    {
        let cluster =
            |server: &crate::harness::Server| format!("protocol: {scheme}\n{}\n{login}", server.tls(""));
        let strong = start(&dovecot_with_scram().address(port), &cluster(dovecot_with_scram()));
        curl(&strong, scheme).must_succeed();
        let weak = start(&dovecot().address(port), &cluster(dovecot()));
        assert_ne!(curl(&weak, scheme).code, 0);
        let error = weak.record_of("login_failed")["error"].as_str().expect("words").to_owned();
        let words = error.rsplit(": ").next().expect("words").replace(", ", " ");
        assert!(words.contains(&offered.replace(", ", " ")), "{error}");
        was_not_signed_in(&weak, PASSWORD);
    }
    // The ports of the submission server: SCRAM, PLAIN with TLS from the first byte.
    for (port, start_at, is_served) in [(0, "", true), (1, ", start: direct", false)] {
        let cluster = format!("protocol: smtp\n{}\n{login}", submission().tls(start_at));
        let ambassador = start(&submission().address(port), &cluster);
        let script = "
import smtplib, sys
with smtplib.SMTP('127.0.0.1', int(sys.argv[1])) as smtp:
    assert smtp.noop()[0] == 250
";
        let port = ambassador.address("app").port().to_string();
        let finished = finish(std::process::Command::new("/usr/bin/python3").args(["-c", script, &port]));
        assert_eq!(finished.code == 0, is_served, "{}", finished.stderr);
        if !is_served {
            assert!(finished.stderr.contains("`mechanisms` (SCRAM-SHA-256): PLAIN"), "{}", finished.stderr);
            was_not_signed_in(&ambassador, PASSWORD);
        }
    }
}

#[test]
fn a_name_that_no_login_can_go_by_is_a_mistake_with_its_place() {
    let server = Postgres::by_method();
    let secrets = Secrets::of(OF_POSTGRES);
    let token =
        "oauth2: { token_url: \"https://127.0.0.1/t\", client_id: c, client_secret: { file: {file} } }";
    let password = "password: { file: {file} }";
    for (protocol, mechanisms, source, column, expected) in [
        (
            "smtp",
            "[PLAIN, CRAM-MD5]",
            password,
            true,
            "`CRAM-MD5` is no mechanism that protocol smtp can be signed in by; with a \
          password there is SCRAM-SHA-256-PLUS, SCRAM-SHA-256, PLAIN, LOGIN",
        ),
        (
            "imap",
            "[PLAIN]",
            token,
            true,
            "`PLAIN` does not carry an OAuth token; with an OAuth token there is OAUTHBEARER, XOAUTH2",
        ),
        (
            "postgres",
            "[scram]",
            password,
            true,
            "with a password there is scram-sha-256-plus, scram-sha-256, md5, password, none",
        ),
        ("postgres", "[oauth]", password, true, "`oauth` does not carry a password"),
        (
            "mysql",
            "[ed25519]",
            password,
            true,
            "`ed25519` is no mechanism that protocol mysql can be signed in by; with a password \
          there is parsec, client_ed25519, caching_sha2_password, sha256_password, mysql_native_password, mysql_clear_password",
        ),
        ("mongodb", "[PLAIN]", password, true, "with a password there is SCRAM-SHA-256"),
        (
            "postgres",
            "[]",
            password,
            false,
            "the list is empty, and would permit no login; with a password there is scram",
        ),
        (
            "redis",
            "[PLAIN]",
            password,
            false,
            "protocol redis has one way to sign in; `mechanisms` is for postgres, mysql, smtp, \
          lmtp, imap, pop3, sieve, mongodb, amqp",
        ),
    ] {
        let source = source.replace("{file}", &secrets.path().display().to_string());
        let cluster = format!(
            "protocol: {protocol}\ntls: {{ ca: {} }}\nlogin: {{ as: app, mechanisms: {mechanisms}, {source} }}",
            server.pki().ca().display()
        );
        let listener = "cluster: up\nbind: 127.0.0.1:0\nallow: anyone";
        let config = Config::new().listener("app", listener).cluster("up", &[&server.address()], &cluster);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("listeners.yaml");
        fs::write(&path, config.render(dir.path())).expect("a file to check");
        let told = finish(ambassador().args(["check", "--config"]).arg(&path)).must_exit(78).stderr;
        let line = told.lines().find(|line| line.contains(expected));
        let line = line.unwrap_or_else(|| panic!("no {expected:?} in {told}"));
        let place = if column { "login.mechanisms[" } else { "login.mechanisms" };
        assert!(line.contains("listeners.yaml:") && line.contains(place), "{line}");
    }
}

/// Scenario: a port scan, or a pool that opens connections early, holds connections on which it says nothing.
#[test]
fn a_client_of_postgres_that_is_silent_keeps_nobody_waiting() {
    let secrets = Secrets::of(OF_POSTGRES);
    let ambassador = to_postgres(&Postgres::by_method().address(), "scrammed", "scram-sha-256", &secrets);
    let mut silent = ambassador.connect();
    silent.send([0, 0, 0, 40]);
    let port = ambassador.address("app").port();
    let mut psql =
        psql_command(&format!("host=127.0.0.1 port={port} user=x dbname=orders connect_timeout=5"));
    finish(psql.args(["-c", "select 1"])).must_succeed();
    drop(silent);
}
