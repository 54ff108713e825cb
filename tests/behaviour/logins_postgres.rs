//! `login`: PostgreSQL's clients that know no password, and a daemon that signs in for them, against a real server.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::postgres::{PASSWORD, psql, psql_command};
use crate::harness::secrets::Secrets;
use crate::harness::{
    Ambassador, Config, Postgres, ServerTls, Upstream, ambassador, demand, finish, until, wait,
};

fn cluster(server: &Postgres, login: &str) -> String {
    format!(
        "protocol: postgres\ntls: {{ ca: {}, server_name: db.test }}\nlogin: {login}",
        server.pki().ca().display()
    )
}

fn config(server: &Postgres, login: &str) -> Config {
    Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone").cluster(
        "up",
        &[&server.address()],
        &cluster(server, login),
    )
}

fn start(server: &Postgres, user: &str, secrets: &Secrets) -> Ambassador {
    let login = format!("{{ as: {user}, password: {{ file: {} }} }}", secrets.path().display());
    Ambassador::start(&config(server, &login))
}

fn conninfo(ambassador: &Ambassador, more: &str) -> String {
    format!("host=127.0.0.1 port={} {more}", ambassador.address("app").port())
}

#[test]
fn psql_without_a_password_is_signed_in_by_every_method() {
    let server = Postgres::by_method();
    let secrets = Secrets::of(PASSWORD);
    for user in ["trusted", "plain", "hashed", "scrammed"] {
        let ambassador = start(server, user, &secrets);
        let conninfo = conninfo(&ambassador, "user=anybody dbname=orders sslmode=prefer");
        let mut psql = psql_command(&conninfo);
        let sql = "select current_user, session_user, current_database()";
        psql.env_remove("PGPASSWORD").args(["-w", "-c", sql]);
        let told = finish(&mut psql).must_succeed().stdout;
        assert_eq!(told.trim(), format!("{user}|{user}|orders"));
        let record = ambassador.record();
        assert_eq!((&record["outcome"], &record["login_as"]), (&"completed".into(), &user.into()));
        assert!(record["login_ms"].as_f64().is_some_and(|took| took > 0.0), "{record}");
        assert_eq!(ambassador.metrics().sum("logins_total", &[("result", "ok")]), 1.0);
    }
}

#[test]
fn jdbc_is_signed_in_without_a_password_and_with_a_wrong_one() {
    let jar = Path::new("/usr/share/java/postgresql.jar");
    assert!(jar.exists(), "pgjdbc is missing: apt-get install libpostgresql-jdbc-java");
    demand("javac", "default-jdk-headless");
    let server = Postgres::by_method();
    let secrets = Secrets::of(PASSWORD);
    let ambassador = start(server, "scrammed", &secrets);
    let url = format!("jdbc:postgresql://127.0.0.1:{}/orders", ambassador.address("app").port());
    let mut java = Command::new(demand("java", "default-jdk-headless"));
    java.args(["-XX:TieredStopAtLevel=1", "-cp"]).arg(jar);
    java.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour/drivers/JdbcSignedIn.java"));
    let finished = finish(java.arg(&url)).must_succeed();
    assert_eq!(finished.stdout, "scrammed orders\n".repeat(4) + "JDBC is content\n");
    for record in ambassador.wait_records(4) {
        assert_eq!((&record["outcome"], &record["login_as"]), (&"completed".into(), &"scrammed".into()));
    }
}

/// Scenario: somebody between the daemon and the server, with a certificate that the daemon trusts, passes everything on. The
/// login is bound to the connection's own certificate, so the server finds out.
#[test]
fn scram_is_bound_to_the_tls_connection() {
    let server = Postgres::by_method();
    let secrets = Secrets::of(PASSWORD);
    // Its own way to the server; the offer of SCRAM-SHA-256-PLUS is kept.
    let behind = format!(
        "protocol: postgres\nscram_plus: keep\ntls: {{ ca: {}, server_name: db.test }}",
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
    let login = format!("{{ as: scrammed, password: {{ file: {} }} }}", secrets.path().display());
    let config = Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone").cluster(
        "up",
        &[&between.address()],
        &cluster(server, &login),
    );
    let ambassador = Ambassador::start(&config);
    let told = psql(&conninfo(&ambassador, "user=x dbname=orders"), "select 1").must_exit(2).stderr;
    assert!(told.contains("login_failed"), "{told}");
    until("the server tells", || server.log().contains("SCRAM channel binding check failed").then_some(()));
}

#[test]
fn a_rejected_password_is_tried_once_and_a_replaced_one_at_once() {
    let server = Postgres::by_method();
    let secrets = Secrets::of("battery staple");
    let ambassador = start(server, "scrammed", &secrets);
    let conninfo = conninfo(&ambassador, "user=x dbname=orders application_name=rejected");
    let failures = || server.log().matches("password authentication failed for user \"scrammed\"").count();
    let before = failures();
    for round in 0..10 {
        let told = psql(&conninfo, "select 1").must_exit(2).stderr;
        assert!(told.contains("ambassador: login_failed: "), "{round}: {told}");
        assert!(told.contains("password authentication failed for user \"scrammed\""), "{round}: {told}");
    }
    assert_eq!(failures() - before, 1, "the server was asked once");
    let records = ambassador.wait_records(10);
    assert!(records.iter().all(|record| record["outcome"] == "login_failed"), "{records:?}");
    let metrics = ambassador.metrics();
    assert_eq!(metrics.sum("logins_total", &[("result", "rejected")]), 1.0);
    assert_eq!(metrics.sum("logins_total", &[("result", "paused")]), 9.0);
    assert_eq!((metrics.sum("ejections_total", &[]), metrics.sum("breaker_state", &[])), (0.0, 0.0));
    let status = ambassador.status();
    let login = status["credentials"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["kind"] == "login"))
        .cloned();
    let login = login.expect("the login is in /status");
    assert_eq!(login["name"], "up as scrammed (password)");
    assert!(
        login["error"].as_str().is_some_and(|error| error.contains("rejected the login as scrammed")),
        "{login}"
    );

    secrets.write(PASSWORD);
    ambassador.wait_line("a credential for signing in was read");
    psql(&conninfo, "select 1").must_succeed();
    for text in [ambassador.lines().join("\n"), ambassador.get("/metrics").body, status.to_string()] {
        assert!(!text.contains(PASSWORD) && !text.contains("battery staple"), "a secret is shown");
    }
}

#[test]
fn a_client_may_still_cancel_ask_for_another_database_and_replicate() {
    let server = Postgres::by_method();
    let secrets = Secrets::of(PASSWORD);
    let ambassador = start(server, "scrammed", &secrets);
    let none = psql(&conninfo(&ambassador, "user=x dbname=none"), "select 1").must_exit(2).stderr;
    assert!(none.contains("FATAL:  database \"none\" does not exist"), "{none}");
    let replication =
        psql(&conninfo(&ambassador, "user=x dbname=orders replication=database"), "IDENTIFY_SYSTEM");
    assert!(replication.must_succeed().stdout.contains("|orders"));
    let sql = "select pg_sleep(20)";
    let mut sleeping = psql_command(&conninfo(&ambassador, "user=x dbname=orders application_name=sleeper"));
    let child = sleeping.args(["-c", sql]);
    child.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = child.spawn().expect("psql");
    let runs = "select count(*) from pg_stat_activity where application_name = 'sleeper' and query like '%pg_sleep%'";
    until("the query runs", || (server.as_superuser(runs) == "1").then_some(()));
    kill_process(Pid::from_child(&child), Signal::INT).expect("psql");
    wait(child).must_print("canceling statement due to user request");
    let records = ambassador.wait_records(4);
    assert!(records.iter().all(|record| record["outcome"] == "completed"), "{records:?}");
}

#[test]
fn the_database_may_be_set_and_another_is_refused() {
    let server = Postgres::by_method();
    let secrets = Secrets::of(PASSWORD);
    let login =
        format!("{{ as: scrammed, database: orders, password: {{ file: {} }} }}", secrets.path().display());
    let ambassador = Ambassador::start(&config(server, &login));
    let ask = "select current_database()";
    assert_eq!(psql(&conninfo(&ambassador, "user=x"), ask).must_succeed().stdout.trim(), "orders");
    let other = psql(&conninfo(&ambassador, "user=x dbname=postgres"), ask).must_exit(2).stderr;
    assert!(other.contains("it asks for another database than login.database"), "{other}");
    assert_eq!(ambassador.record_of("login_failed")["closed_by"], "ambassador");
}

#[test]
fn check_connect_signs_in_once() {
    let server = Postgres::by_method();
    for (password, code, expected) in [
        (PASSWORD, 0, "  login      ok      as plain, "),
        ("battery staple", 1, "  login      FAILED  127.0.0.1:"),
    ] {
        let secrets = Secrets::of(password);
        let login = format!("{{ as: plain, password: {{ file: {} }} }}", secrets.path().display());
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("listeners.yaml");
        fs::write(&path, config(server, &login).render(dir.path())).expect("a file to check");
        let finished = finish(ambassador().args(["check", "--connect", "--config"]).arg(&path));
        let told = finished.must_exit(code).stdout;
        assert!(told.contains(expected) && told.contains("  handshake  ok"), "{told}");
    }
}

#[test]
fn each_guard_that_is_missing_is_a_mistake_with_its_place() {
    let server = Postgres::by_method();
    let secrets = Secrets::of(PASSWORD);
    let file = secrets.path();
    let password = format!("password: {{ file: {} }}", file.display());
    let ca = server.pki().ca().display().to_string();
    let tls = format!("tls: {{ ca: {ca}, server_name: db.test }}");
    for (listener, cluster, expected) in [
        (
            "bind: 127.0.0.1:0",
            format!("protocol: postgres\n{tls}\nlogin: {{ as: app, {password} }}"),
            "so whoever connects here is its user: say who may by `allow`",
        ),
        (
            "bind: \"unix:{dir}/s\"\nmode: \"0666\"",
            format!("protocol: postgres\n{tls}\nlogin: {{ as: app, {password} }}"),
            "so whoever connects here is its user",
        ),
        (
            "bind: 127.0.0.1:0\nallow: anyone",
            format!("protocol: postgres\nlogin: {{ as: app, {password} }}"),
            "needs `tls`: without it the secret would cross the network in plaintext",
        ),
        (
            "bind: 127.0.0.1:0\nallow: anyone",
            format!(
                "protocol: postgres\ntls: {{ insecure_skip_verify: true }}\nlogin: {{ as: app, {password} }}"
            ),
            "does not go with `insecure_skip_verify`: the secret would go to whoever answers",
        ),
        (
            "bind: 127.0.0.1:0\nallow: anyone",
            format!("protocol: tcp\n{tls}\nlogin: {{ as: app, {password} }}"),
            "protocol tcp cannot be signed in with `password`; these can: postgres",
        ),
        (
            "bind: 127.0.0.1:0\nallow: anyone",
            format!("protocol: redis\n{tls}\nlogin: {{ as: app, database: d, {password} }}"),
            "`database` is for protocols postgres, mysql, mongodb, and this is redis",
        ),
        (
            "bind: 127.0.0.1:0\nallow: anyone",
            format!("protocol: postgres\n{tls}\nlogin: {{ as: app }}"),
            "names no source of the secret: one of password",
        ),
        (
            "bind: 127.0.0.1:0\nallow: anyone",
            format!("protocol: postgres\n{tls}\nlogin: {{ {password} }}"),
            "has no `username` and `password`: without `as`, a file has both",
        ),
        (
            "bind: 127.0.0.1:0\nallow: anyone",
            format!("protocol: postgres\n{tls}\nlogin: {{ as: app, password: {{ file: /no/such }} }}"),
            "cannot read /no/such: No such file or directory",
        ),
        (
            "bind: 127.0.0.1:0\nallow: anyone",
            format!(
                "protocol: postgres\n{tls}\nlogin: [ {{ as: a, {password} }}, {{ user: root, as: b, {password} }} ]"
            ),
            "is never reached: the one before it has no condition",
        ),
        (
            "bind: 127.0.0.1:0\nallow: anyone\ncontext: connect",
            format!("protocol: postgres\n{tls}\nlogin: {{ as: app, {password} }}"),
            "`connect` does not go with `login` of cluster up",
        ),
    ] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = Config::new().listener("app", &format!("cluster: up\n{listener}")).cluster(
            "up",
            &[&server.address()],
            &cluster,
        );
        let path = dir.path().join("listeners.yaml");
        fs::write(&path, config.render(dir.path())).expect("a file to check");
        let finished = finish(ambassador().args(["check", "--config"]).arg(&path));
        let told = finished.must_exit(78).stderr;
        let line = told.lines().find(|line| line.contains(expected));
        let line = line.unwrap_or_else(|| panic!("no {expected:?} in {told}"));
        assert!(line.contains("listeners.yaml:"), "{line}");
        assert!(!told.contains(PASSWORD));
    }
}

/// A client that opens a session for each query pays neither TLS nor login.
#[test]
fn kept_connections_are_signed_in_and_end_with_their_credential() {
    let server = Postgres::by_method();
    let secrets = Secrets::of(PASSWORD);
    let login = format!("{{ as: rotated, password: {{ file: {} }} }}", secrets.path().display());
    let kept = format!("{}\nconnect: {{ preconnect: 2 }}", cluster(server, &login));
    let config = Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone").cluster(
        "up",
        &[&server.address()],
        &kept,
    );
    let ambassador = Ambassador::start(&config);
    let signed_in = || {
        let idle = "select count(*) from pg_stat_activity where application_name = 'kept'";
        server.as_superuser(idle).parse::<u32>().expect("a number")
    };
    let conninfo_of =
        |database: &str| conninfo(&ambassador, &format!("user=x dbname={database} application_name=kept"));
    let ask = "select current_user, current_database()";
    assert_eq!(psql(&conninfo_of("orders"), ask).must_succeed().stdout.trim(), "rotated|orders");
    // The first connections were made before any client had shown what it asks for.
    for _ in 0..4 {
        psql(&conninfo_of("orders"), ask).must_succeed();
    }
    until("two are signed in", || (signed_in() == 2).then_some(()));
    assert_eq!(psql(&conninfo_of("orders"), ask).must_succeed().stdout.trim(), "rotated|orders");
    let record = ambassador.wait_records(6).pop().expect("a record");
    assert_eq!(
        (&record["connect_ms"], &record["login_ms"]),
        (&serde_json::Value::Null, &0.0.into()),
        "{record}"
    );
    // Another database is another login.
    assert_eq!(psql(&conninfo_of("postgres"), ask).must_succeed().stdout.trim(), "rotated|postgres");
    server.as_superuser("alter role rotated password 'battery staple'");
    secrets.write("battery staple");
    until("those of the old password are gone", || {
        let lines = ambassador.lines().join("\n");
        lines.contains("a credential for signing in was read").then_some(())
    });
    assert_eq!(psql(&conninfo_of("orders"), ask).must_succeed().stdout.trim(), "rotated|orders");
}
