//! `login`: clients of MySQL and MariaDB that know no password, and a daemon that signs in for them, against a real
//! MariaDB and a scripted server that authenticates as MySQL does.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;

use crate::harness::secrets::Secrets;
use crate::harness::server::{PASSWORD, Server, mariadb};
use crate::harness::{
    Ambassador, Config, Conn, Finished, Pki, ServerTls, Upstream, ambassador, demand, finish, until,
};
use crate::mysql_clients::{greeting, login_of, packet, read_packet};

fn config(address: &str, cluster: &str) -> Config {
    Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone").cluster(
        "up",
        &[address],
        &format!("protocol: mysql\n{cluster}"),
    )
}

fn to_mariadb(secrets: &Secrets, user: &str, more: &str) -> Config {
    let server = mariadb();
    let from = format!("connect: {{ local_address: {} }}", own_address());
    config(&server.address(0), &format!("{}\n{from}\n{}", server.tls(""), secrets.login(user, more)))
}

/// An address for each test, so that the shared server's log tells them apart.
fn own_address() -> String {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let number = name.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    format!("127.0.0.{}", 100 + number % 150)
}

/// The server's log entries against that address. An authenticated client that leaves without a word is none.
fn faults_here(server: &Server) -> usize {
    let host = format!("host: '{}'", own_address());
    let log = server.log();
    let its = log.lines().filter(|line| line.contains(&host));
    its.filter(|line| line.contains("user: 'unauthenticated'") || line.contains("Bad handshake")).count()
}

/// As root, directly to the server.
fn administer(sql: &str) -> String {
    let mut client = Command::new(demand("mariadb", "mariadb-client"));
    client.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names", "--socket"]);
    finish(client.arg(mariadb().dir().join("socket")).args(["-e", sql])).must_succeed().stdout
}

/// MariaDB's own client, as nobody in particular.
fn query(ambassador: &Ambassador, options: &[&str], sql: &str) -> Finished {
    let port = format!("--port={}", ambassador.address("app").port());
    let mut command = Command::new(demand("mariadb", "mariadb-client"));
    command.args([
        "--no-defaults",
        "--skip-ssl",
        "--batch",
        "--skip-column-names",
        "--host=127.0.0.1",
        &port,
        "--user=anybody",
    ]);
    finish(command.args(options).args(["-e", sql]))
}

const WHO: &str = "select substring_index(current_user(), '@', 1), coalesce(database(), '-')";

fn denials(server: &Server, user: &str) -> usize {
    server.log().matches(&format!("Access denied for user '{user}'")).count()
}

#[test]
fn the_mariadb_client_is_signed_in_whatever_it_knows_and_prefers() {
    let secrets = Secrets::of(PASSWORD);
    let faults_before = faults_here(mariadb());
    for user in ["app", "ed"] {
        let ambassador = Ambassador::start(&to_mariadb(&secrets, user, ""));
        for options in [
            &[][..],
            &["--password=placeholder"],
            &["shop"],
            &["--default-auth=client_ed25519"],
            &["--default-auth=client_ed25519", "--password=placeholder"],
            &["--default-auth=caching_sha2_password"],
            &["--default-auth=caching_sha2_password", "--password=placeholder"],
            &["--default-auth=sha256_password", "--password=placeholder"],
            &["--default-auth=mysql_clear_password", "--password=placeholder"],
            &["--default-auth=dialog", "--password=placeholder"],
            &["--default-auth=none_such"],
            &["--compress"],
        ] {
            let told = query(&ambassador, options, &format!("{WHO}; select length(repeat('x', 5000000))"));
            let told = told.must_succeed().stdout;
            let database = if options == ["shop"] { "shop" } else { "-" };
            assert_eq!(told, format!("{user}\t{database}\n5000000\n"), "{options:?}");
        }
        for record in ambassador.wait_records(12) {
            assert_eq!((&record["outcome"], &record["login_as"]), (&"completed".into(), &user.into()));
        }
        assert_eq!(ambassador.metrics().sum("logins_total", &[("result", "ok")]), 12.0);
    }
    assert_eq!(faults_here(mariadb()), faults_before, "{}", mariadb().log());
}

#[test]
#[ignore = "MariaDB 11.6 and newer: scripts/test-matrix mariadb-11.8"]
fn parsec_is_answered() {
    let secrets = Secrets::of(PASSWORD);
    administer(&format!(
        "install soname 'auth_parsec'; create user par identified via parsec using password('{PASSWORD}')"
    ));
    let ambassador = Ambassador::start(&to_mariadb(&secrets, "par", ""));
    for options in [&[][..], &["--password=placeholder"]] {
        assert_eq!(query(&ambassador, options, WHO).must_succeed().stdout, "par\t-\n");
    }
}

#[test]
fn pymysql_is_signed_in() {
    let secrets = Secrets::of(PASSWORD);
    let script = "
import sys, pymysql
for password in ['', 'placeholder']:
    connection = pymysql.connect(host='127.0.0.1', port=int(sys.argv[1]), user='x', password=password, database='shop')
    with connection.cursor() as cursor:
        cursor.execute('select current_user(), database()')
        print(cursor.fetchone())
    connection.close()
";
    for user in ["app", "ed"] {
        let ambassador = Ambassador::start(&to_mariadb(&secrets, user, ""));
        let port = ambassador.address("app").port().to_string();
        let finished = finish(Command::new("/usr/bin/python3").args(["-c", script, &port])).must_succeed();
        assert_eq!(finished.stdout, format!("('{user}@%', 'shop')\n").repeat(2));
    }
}

#[test]
fn connector_j_is_signed_in() {
    let jar = Path::new("/usr/share/java/mariadb-java-client.jar");
    assert!(jar.exists(), "MariaDB Connector/J is missing: apt-get install libmariadb-java");
    demand("javac", "default-jdk-headless");
    let secrets = Secrets::of(PASSWORD);
    let ambassador = Ambassador::start(&to_mariadb(&secrets, "ed", ""));
    let url = format!("jdbc:mariadb://127.0.0.1:{}/shop", ambassador.address("app").port());
    for password in [None, Some(""), Some("placeholder")] {
        let mut java = Command::new(demand("java", "default-jdk-headless"));
        java.args(["-XX:TieredStopAtLevel=1", "-cp"]).arg(jar);
        java.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour/drivers/ConnectorJ.java"));
        let finished = finish(java.args([&url, "anybody"]).args(password)).must_succeed();
        assert_eq!(finished.stdout.trim(), "Connector/J is content");
    }
}

#[test]
fn a_rejected_password_is_tried_once_and_a_replaced_one_at_once() {
    let server = mariadb();
    administer(&format!("create user rejected identified by '{PASSWORD}'"));
    let secrets = Secrets::of("battery staple");
    let ambassador = Ambassador::start(&to_mariadb(&secrets, "rejected", ""));
    let faults_before = faults_here(server);
    for round in 0..10 {
        let told = query(&ambassador, &[], "select 1").must_exit(1).stderr;
        assert!(
            told.contains("ERROR 1045 (") && told.contains("ambassador: login_failed: "),
            "{round}: {told}"
        );
        assert!(told.contains("Access denied for user 'rejected'"), "{round}: {told}");
    }
    assert_eq!(denials(server, "rejected"), 1, "the server was asked once");
    assert_eq!(faults_here(server), faults_before, "{}", server.log());
    let records = ambassador.wait_records(10);
    assert!(records.iter().all(|record| record["outcome"] == "login_failed"), "{records:?}");
    let metrics = ambassador.metrics();
    assert_eq!(metrics.sum("logins_total", &[("result", "rejected")]), 1.0);
    assert_eq!(metrics.sum("logins_total", &[("result", "paused")]), 9.0);
    assert_eq!((metrics.sum("ejections_total", &[]), metrics.sum("breaker_state", &[])), (0.0, 0.0));

    secrets.write(PASSWORD);
    ambassador.wait_line("a credential for signing in was read");
    assert_eq!(query(&ambassador, &[], WHO).must_succeed().stdout, "rejected\t-\n");
    for text in
        [ambassador.lines().join("\n"), ambassador.get("/metrics").body, ambassador.status().to_string()]
    {
        assert!(!text.contains(PASSWORD) && !text.contains("battery staple"), "a secret is shown");
    }
}

#[test]
fn accounts_that_are_locked_full_or_expired_are_told_apart() {
    let secrets = Secrets::of(PASSWORD);
    administer(&format!(
        "create user locked identified by '{PASSWORD}' account lock; \
         create user expired identified by '{PASSWORD}' password expire; \
         create user single identified by '{PASSWORD}' with max_user_connections 1"
    ));
    administer("set global disconnect_on_expired_password = 1");
    for (user, code, words) in
        [("locked", 4151, "this account is locked"), ("expired", 1862, "Your password has expired")]
    {
        let ambassador = Ambassador::start(&to_mariadb(&secrets, user, ""));
        let told = query(&ambassador, &[], "select 1").must_exit(1).stderr;
        assert!(told.contains("ERROR 1045 (28000)") && told.contains(words), "{told}");
        assert!(told.contains(&format!("MySQL error {code}")), "{told}");
        assert_eq!(ambassador.record()["outcome"], "login_failed");
    }
    let ambassador = Ambassador::start(&to_mariadb(&secrets, "single", ""));
    let mut held = ambassador.connect();
    let head = held.receive(4);
    held.receive(usize::from(head[0]));
    held.send(login_of("x"));
    assert_eq!(held.receive(5)[4], 0xfe, "its plugin is not known, so it is asked");
    let told = query(&ambassador, &[], "select 1").must_exit(1).stderr;
    assert!(told.contains("ERROR 1226 (08004)") || told.contains("ERROR 1226 (08S01)"), "{told}");
    assert!(told.contains("max_user_connections"), "{told}");
    drop(held);
    ambassador.wait_active(0);
}

#[test]
fn the_clients_own_mistakes_are_told_by_the_server() {
    let secrets = Secrets::of(PASSWORD);
    let ambassador = Ambassador::start(&to_mariadb(&secrets, "app", ""));
    let none = query(&ambassador, &["no_such"], "select 1").must_exit(1).stderr;
    assert!(
        none.contains("ERROR 1049 (42000): Unknown database 'no_such'")
            || none.contains("ERROR 1044 (42000): Access denied for user 'app'"),
        "{none}"
    );
    assert!(!none.contains("ambassador"), "{none}");
    assert_eq!(ambassador.record()["outcome"], "completed");
    // Nothing was wrong with the password.
    query(&ambassador, &[], "select 1").must_succeed();
}

#[test]
fn the_database_may_be_set_and_another_is_refused() {
    let secrets = Secrets::of(PASSWORD);
    let faults_before = faults_here(mariadb());
    let ambassador = Ambassador::start(&to_mariadb(&secrets, "app", ", database: shop"));
    for options in [&[][..], &["shop"]] {
        assert_eq!(query(&ambassador, options, WHO).must_succeed().stdout, "app\tshop\n");
    }
    let told = query(&ambassador, &["mysql"], WHO).must_exit(1).stderr;
    assert!(told.contains("it asks for another database than login.database"), "{told}");
    assert_eq!(ambassador.record_of("login_failed")["closed_by"], "ambassador");
    assert_eq!(faults_here(mariadb()), faults_before, "{}", mariadb().log());
}

/// Scenario: a client that has read the greeting and says nothing, as a pool's spare connection or a scan, held the credential that no
/// server had accepted yet, for 8 s; all others waited.
#[test]
fn a_client_that_is_silent_behind_the_greeting_keeps_nobody_waiting() {
    let secrets = Secrets::of(PASSWORD);
    let ambassador = Ambassador::start(&to_mariadb(&secrets, "app", ""));
    let mut silent: Vec<_> = (0..3).map(|_| ambassador.connect()).collect();
    for client in &mut silent {
        let head = client.receive(4);
        client.receive(usize::from(head[0]));
    }
    assert_eq!(query(&ambassador, &["--connect-timeout=5"], WHO).must_succeed().stdout, "app\t-\n");
    // They are still waited for, so the other one did not go after them.
    for client in &mut silent {
        client.send(login_of("x"));
        assert_eq!(client.receive(5)[4], 0xfe, "its plugin is not known, so it is asked");
    }
    drop(silent);
    ambassador.wait_active(0);
}

/// No connection may end within its login: the server would count it against this host.
#[test]
fn clients_that_leave_or_stammer_cost_the_server_no_half_handshake() {
    let secrets = Secrets::of(PASSWORD);
    let server = mariadb();
    let ambassador = Ambassador::start(&to_mariadb(&secrets, "app", ""));
    let faults_before = faults_here(server);
    let mut stammers = login_of("x");
    // The proof's length leads out of the packet.
    let at = stammers.iter().position(|byte| *byte == b'x').expect("the user") + 2;
    stammers[at] = 200;
    for said in [None, Some(login_of("x")), Some(stammers)] {
        let mut client = ambassador.connect();
        let head = client.receive(4);
        client.receive(usize::from(head[0]));
        if let Some(said) = said {
            client.send(said);
        }
        drop(client);
    }
    ambassador.wait_records(3);
    ambassador.wait_active(0);
    query(&ambassador, &[], "select 1").must_succeed();
    assert_eq!(faults_here(server), faults_before, "{}", server.log());
}

/// A user whose plugin asks a person is no reason to be blocked either.
#[test]
fn a_plugin_that_cannot_be_answered_is_named() {
    let secrets = Secrets::of(PASSWORD);
    administer("install soname 'auth_pam_v1'; create user pam identified via pam using 'other'");
    let faults_before = faults_here(mariadb());
    let ambassador = Ambassador::start(&to_mariadb(&secrets, "pam", ""));
    let told = query(&ambassador, &[], "select 1").must_exit(1).stderr;
    assert!(told.contains("no login that suits a password: dialog"), "{told}");
    assert_eq!(faults_here(mariadb()), faults_before, "{}", mariadb().log());
}

#[test]
fn check_connect_signs_in_once() {
    let server = mariadb();
    for (user, password, more, code, expected) in [
        ("app", PASSWORD, "", 0, "  login      ok      as app, "),
        ("ed", PASSWORD, ", database: shop", 0, "  login      ok      as ed, "),
        ("app", "battery staple", "", 1, "  login      FAILED  127.0.0.1:"),
    ] {
        let secrets = Secrets::of(password);
        let faults_before = faults_here(server);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("listeners.yaml");
        fs::write(&path, to_mariadb(&secrets, user, more).render(dir.path())).expect("a file to check");
        let finished = finish(ambassador().args(["check", "--connect", "--config"]).arg(&path));
        let told = finished.must_exit(code).stdout;
        assert!(told.contains(expected) && told.contains("  handshake  ok"), "{told}");
        // A check that is signed in closes without COM_QUIT, which is logged, and does not count against this host.
        assert!(code == 0 || faults_here(server) == faults_before, "{}", server.log());
    }
}

#[test]
fn tls_with_the_first_byte_leaves_no_room_for_a_login_of_ours() {
    let secrets = Secrets::of(PASSWORD);
    let server = mariadb();
    let cluster = format!("{}\n{}", server.tls(", start: direct"), secrets.login("app", ""));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("listeners.yaml");
    fs::write(&path, config(&server.address(0), &cluster).render(dir.path())).expect("a file to check");
    let told = finish(ambassador().args(["check", "--config"]).arg(&path)).must_exit(78).stderr;
    assert!(told.contains("and not with `tls.start: direct`"), "{told}");
}

// ---------------------------------------------------------------------------------------------------
// A server that authenticates as MySQL does

/// Lets in whoever proves `PASSWORD` by caching_sha2_password: `is_cold` asks for the password itself.
async fn sha2_server(mut conn: Conn, tls: Arc<ServerConfig>, is_cold: bool) -> Option<()> {
    conn.write_all(&greeting("caching_sha2_password")).await.ok()?;
    let (_, request) = read_packet(&mut conn).await?;
    let mut conn = conn.start_tls(tls).await?;
    let (sequence, response) = read_packet(&mut conn).await?;
    conn.note(format!("login {sequence}, the same capabilities: {}", response[..32] == request[..]));
    conn.note(format!("user {}", String::from_utf8_lossy(response[32..].split(|byte| *byte == 0).next()?)));
    let mut next = sequence + 1;
    if is_cold {
        conn.write_all(&packet(next, &[1, 4])).await.ok()?;
        let (sequence, password) = read_packet(&mut conn).await?;
        conn.note(format!(
            "password {:?}, in order: {}",
            String::from_utf8_lossy(&password),
            sequence == next + 1
        ));
        next = sequence + 1;
    } else {
        conn.write_all(&packet(next, &[1, 3])).await.ok()?;
        next += 1;
    }
    while let Ok(()) = conn.write_all(&packet(next, b"\0\0\0\x02\0\0\0")).await {
        next = match read_packet(&mut conn).await? {
            (0, command) if command.first() == Some(&1) => return Some(()),
            (0, _) => 1,
            _ => return None,
        };
    }
    None
}

#[test]
fn caching_sha2_password_is_answered_with_a_warm_cache_and_a_cold_one() {
    let pki = Pki::new();
    let secrets = Secrets::of(PASSWORD);
    for is_cold in [false, true] {
        let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).build();
        let upstream = Upstream::plain(move |conn| {
            let tls = Arc::clone(&tls);
            async move { sha2_server(conn, tls, is_cold).await.unwrap_or_default() }
        });
        let cluster = format!("tls: {{ ca: {} }}\n{}", pki.ca().display(), secrets.login("ours", ""));
        let ambassador = Ambassador::start(&config(&upstream.address(), &cluster));
        let script = "
import sys, pymysql
for password in ['', 'placeholder']:
    connection = pymysql.connect(host='127.0.0.1', port=int(sys.argv[1]), user='app', password=password)
    connection.ping()
    connection.close()
print('content')
";
        let port = ambassador.address("app").port().to_string();
        let finished = finish(Command::new("/usr/bin/python3").args(["-c", script, &port])).must_succeed();
        assert_eq!(finished.stdout.trim(), "content");
        upstream.wait_note("login 2, the same capabilities: true");
        upstream.wait_note("user ours");
        if is_cold {
            upstream.wait_note(&format!("password {:?}, in order: true", format!("{PASSWORD}\0")));
        }
        until("both were signed in", || {
            (ambassador.metrics().sum("logins_total", &[("result", "ok")]) == 2.0).then_some(())
        });
    }
}
