//! Clients of MySQL and MariaDB against a MariaDB that demands TLS and a client certificate, and against a scripted
//! server that asks for a password as MySQL's caching_sha2_password does.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::server::{PASSWORD, Server, mariadb};
use crate::harness::{
    Ambassador, Client, ClosedPort, Config, Conn, Finished, Pki, ServerTls, Upstream, ambassador, demand,
    finish, until,
};

fn to_mariadb() -> Ambassador {
    let server = mariadb();
    Ambassador::start(&Config::app(&[&server.address(0)], &format!("protocol: mysql\n{}", server.tls(""))))
}

/// The same from an address of its own, by which the log of the shared server tells tests apart.
fn to_mariadb_from(address: &str) -> Ambassador {
    let server = mariadb();
    let from = format!("connect: {{ local_address: {address} }}");
    let cluster = format!("protocol: mysql\n{from}\n{}", server.tls(""));
    Ambassador::start(&Config::app(&[&server.address(0)], &cluster))
}

/// MariaDB's own client, with TLS disabled.
fn client(user: &str) -> Command {
    let mut command = Command::new(demand("mariadb", "mariadb-client"));
    command.args(["--no-defaults", "--skip-ssl", "--batch", "--skip-column-names", "shop"]);
    command.arg(format!("--user={user}")).arg(format!("--password={PASSWORD}"));
    command
}

fn query(ambassador: &Ambassador, user: &str, sql: &str) -> Finished {
    let port = ambassador.address("app").port();
    finish(client(user).args(["--host=127.0.0.1", &format!("--port={port}"), "-e", sql]))
}

fn python(script: &str, arguments: &[&str]) -> Finished {
    let mut command = Command::new("/usr/bin/python3");
    let present = finish(Command::new("/usr/bin/python3").args(["-c", "import pymysql, cryptography"]));
    assert_eq!(
        present.code, 0,
        "PyMySQL is missing: apt-get install python3-pymysql python3-cryptography\n{}",
        present.stderr
    );
    finish(command.args(["-c", script]).args(arguments))
}

const PYMYSQL: &str = "
import sys, pymysql
port, user, password = int(sys.argv[1]), sys.argv[2], sys.argv[3]
connection = pymysql.connect(host='127.0.0.1', port=port, user=user, password=password, database='shop')
with connection.cursor() as cursor:
    cursor.execute(\"select repeat('x', 3000000), %s\", ('né',))
    row = cursor.fetchone()
    assert len(row[0]) == 3000000 and row[1] == 'né', row
    cursor.execute('create temporary table t (n int)')
    cursor.executemany('insert into t values (%s)', [(n,) for n in range(1000)])
    cursor.execute('select sum(n) from t')
    assert cursor.fetchone()[0] == 499500
connection.close()
print('PyMySQL is content')
";

#[test]
fn the_mariadb_client_reaches_a_server_that_demands_mtls() {
    let ambassador = to_mariadb();
    for user in ["app", "ed"] {
        let finished = query(
            &ambassador,
            user,
            "show session status like 'Ssl_cipher'; select length(repeat('x', 5000000))",
        );
        let finished = finished.must_succeed();
        let lines: Vec<_> = finished.stdout.lines().collect();
        assert!(lines[0].starts_with("Ssl_cipher\tTLS_"), "the server sees TLS: {lines:?}");
        assert_eq!(lines[1], "5000000");
    }
    assert!(ambassador.wait_records(2).iter().all(|record| record["outcome"] == "completed"));
}

#[test]
fn the_mariadb_client_reaches_it_through_a_unix_socket() {
    let server = mariadb();
    let config = Config::new().listener("app", "bind: unix:{dir}/mysql.sock\ncluster: up").cluster(
        "up",
        &[&server.address(0)],
        &format!("protocol: mysql\n{}", server.tls("")),
    );
    let ambassador = Ambassador::start(&config);
    let socket = format!("--socket={}", ambassador.dir().join("mysql.sock").display());
    assert_eq!(
        finish(client("app").args([&socket, "-e", "select 6 * 7"])).must_succeed().stdout.trim(),
        "42"
    );
}

#[test]
fn pymysql_works_through_a_plaintext_port() {
    let ambassador = to_mariadb();
    let port = ambassador.address("app").port().to_string();
    assert_eq!(python(PYMYSQL, &[&port, "app", PASSWORD]).must_succeed().stdout.trim(), "PyMySQL is content");
}

#[test]
fn connector_j_works_through_a_plaintext_port() {
    let ambassador = to_mariadb();
    let jar = Path::new("/usr/share/java/mariadb-java-client.jar");
    assert!(jar.exists(), "MariaDB Connector/J is missing: apt-get install libmariadb-java");
    demand("javac", "default-jdk-headless");
    let url = format!("jdbc:mariadb://127.0.0.1:{}/shop", ambassador.address("app").port());
    let mut java = Command::new(demand("java", "default-jdk-headless"));
    java.args(["-XX:TieredStopAtLevel=1", "-cp"]).arg(jar);
    java.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour/drivers/ConnectorJ.java"));
    let finished = finish(java.args([&url, "app", PASSWORD])).must_succeed();
    assert_eq!(finished.stdout.trim(), "Connector/J is content");
}

#[test]
fn a_wrong_password_is_told_by_the_server_itself() {
    let ambassador = to_mariadb();
    let port = ambassador.address("app").port();
    let mut command = client("app");
    command.args(["--password=wrong", "--host=127.0.0.1", &format!("--port={port}"), "-e", "select 1"]);
    finish(&mut command).must_exit(1).must_print("ERROR 1045 (28000): Access denied for user 'app'");
    assert_eq!(ambassador.record()["outcome"], "completed", "to us a refused login is a session that ended");
}

#[test]
fn a_client_that_insists_on_tls_is_told_in_its_librarys_own_words() {
    let ambassador = to_mariadb();
    let port = ambassador.address("app").port();
    let mut command = Command::new(demand("mariadb", "mariadb-client"));
    command.args(["--no-defaults", "--ssl", "--ssl-verify-server-cert", "--user=app", "--host=127.0.0.1"]);
    let finished = finish(command.args([&format!("--port={port}"), "-e", "select 1"]));
    finished.must_exit(1).must_print("SSL is required");
    until("the server saw the visit out", || mariadb().log().contains("'ambassador-probe'").then_some(()));
}

/// No connection may end between greeting and login: the server would count it against this host.
#[test]
fn a_client_that_leaves_in_the_middle_costs_the_server_a_login_and_no_half_handshake() {
    const FROM: &str = "127.0.0.94";
    let ambassador = to_mariadb_from(FROM);
    let server = mariadb();
    let count = |words: &str| server.log().matches(words).count();
    let (before, faults_before) = (count("'ambassador-probe'"), faults_from(server, FROM));
    let mut client = ambassador.connect();
    let head = client.receive(5);
    assert_eq!(head[3..], [0, 10], "a greeting of protocol 10");
    client.receive(usize::from(head[0]) - 1);
    drop(client);
    let record = ambassador.record_of("downstream_gone");
    assert!(record["error"].as_str().expect("words").contains("closed the connection"), "{record}");
    until("the server refused the stand-in", || (count("'ambassador-probe'") > before).then_some(()));
    assert_eq!(faults_from(server, FROM), faults_before, "{}", server.log());
}

/// The server's log entries against that address.
pub(crate) fn faults_from(server: &Server, address: &str) -> usize {
    let words = ["reading communication packets", "without authentication", "Bad handshake"];
    let (log, host) = (server.log(), format!("host: '{address}'"));
    let lines = log.lines().filter(|line| line.contains(&host));
    lines.filter(|line| words.iter().any(|word| line.contains(word))).count()
}

/// A login of that user without an authentication method, so that the server has to ask.
pub(crate) fn login_of(user: &str) -> Vec<u8> {
    let mut payload = b"\x01\x82\x08\0\0\0\0\x01\x21".to_vec();
    payload.resize(32, 0);
    payload.extend_from_slice(user.as_bytes());
    payload.extend_from_slice(b"\0\0none\0");
    packet(1, &payload)
}

/// The same in the middle of the login: an unanswered message of the server would count.
#[test]
fn a_client_that_leaves_in_the_middle_of_its_login_is_seen_out_of_it() {
    const FROM: &str = "127.0.0.95";
    let ambassador = to_mariadb_from(FROM);
    let server = mariadb();
    let count = |words: &str| server.log().matches(words).count();
    let faults_before = faults_from(server, FROM);
    for reads_the_question in [true, false] {
        let denied = count("Access denied for user 'ed'");
        let mut client = ambassador.connect();
        let head = client.receive(4);
        client.receive(usize::from(head[0]));
        client.send(login_of("ed"));
        let question = client.receive(4);
        assert_eq!(question[3], 2, "the question is numbered for this leg");
        if reads_the_question {
            client.receive(usize::from(question[0]));
        }
        // With bytes unread, closing sends a reset.
        drop(client);
        until("the login was seen through", || (count("Access denied for user 'ed'") > denied).then_some(()));
    }
    ambassador.wait_active(0);
    assert_eq!(faults_from(server, FROM), faults_before, "{}", server.log());
}

#[test]
fn the_ambassadors_refusal_is_what_clients_show() {
    let dead = ClosedPort::new();
    let pki = Pki::new();
    let tls = format!("tls: {{ ca: {} }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(
        &[&dead.address()],
        &format!("protocol: mysql\n{tls}\nconnect: {{ attempts: 1 }}"),
    ));
    let finished = query(&ambassador, "app", "select 1").must_exit(1);
    finished.must_print("ERROR 1105 (HY000): ambassador: connect_failed: cannot connect to 127.0.0.1:");
    finished.must_print(ambassador.record()["session"].as_str().expect("a session id"));
    let port = ambassador.address("app").port().to_string();
    // PyMySQL takes the first six characters for an SQLSTATE, which no server sends before its greeting.
    python(PYMYSQL, &[&port, "app", PASSWORD])
        .must_exit(1)
        .must_print("ador: connect_failed: cannot connect");
}

#[test]
fn a_refusal_behind_the_login_is_numbered_so_that_clients_read_it() {
    let server = mariadb();
    let other = Pki::new();
    // The greeting is right; the certificate is not issued by this CA.
    let cluster = format!("protocol: mysql\ntls: {{ ca: {}, server_name: srv.test }}", other.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&server.address(0)], &cluster));
    let finished = query(&ambassador, "app", "select 1").must_exit(1);
    finished.must_print("ERROR 1105 (08S01)");
    finished.must_print("not signed by a CA of tls.ca");
    assert_eq!(ambassador.record()["outcome"], "tls_failed");
}

#[test]
fn check_connect_asks_the_server_and_leaves_no_half_handshake() {
    let server = mariadb();
    let config = Config::app(&[&server.address(0)], &format!("protocol: mysql\n{}", server.tls("")));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("listeners.yaml");
    std::fs::write(&file, config.render(dir.path())).expect("a file to check");
    let finished = finish(ambassador().args(["check", "--connect", "--config"]).arg(&file)).must_succeed();
    assert!(finished.stdout.contains("answer     ok"), "{}", finished.stdout);
}

#[test]
fn a_tls_client_on_the_plaintext_port_gets_an_alert() {
    let ambassador = to_mariadb();
    let mut client = ambassador.connect();
    client.send(b"\x16\x03\x01\x00\x05hello");
    let (bytes, _) = client.read_out();
    // Whether its hello came before or after the greeting was sent, the alert is the last message.
    assert!(bytes.ends_with(b"\x15\x03\x01\x00\x02\x02\x28"), "{bytes:?}");
    assert_eq!(ambassador.record()["outcome"], "bad_opening");
}

// ---------------------------------------------------------------------------------------------------
// A server that authenticates as MySQL does

pub(crate) fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small packet").to_le_bytes();
    [&length[..3], &[sequence], payload].concat()
}

pub(crate) async fn read_packet(conn: &mut Conn) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 4];
    conn.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
    conn.read_exact(&mut payload).await.ok()?;
    Some((head[3], payload))
}

/// HandshakeV10 with that plugin; scramble `ABCDEFGHIJKLMNOPQRST`.
pub(crate) fn greeting(plugin: &str) -> Vec<u8> {
    let mut payload = b"\x0a8.4.0\0\x07\0\0\0ABCDEFGH\0\xff\xff\x2d\x02\0\xff\xdf\x15".to_vec();
    payload.extend([0; 10]);
    payload.extend_from_slice(b"IJKLMNOPQRST\0");
    payload.extend_from_slice(plugin.as_bytes());
    payload.push(0);
    packet(0, &payload)
}

/// Asks for the full password, as with a cold cache, then answers queries with OK.
async fn cold_cache(mut conn: Conn, tls: Arc<ServerConfig>, plugin: &'static str) -> Option<()> {
    conn.write_all(&greeting(plugin)).await.ok()?;
    let (sequence, request) = read_packet(&mut conn).await?;
    if (sequence, request.len()) != (1, 32) {
        conn.note(format!("no SSLRequest: {sequence} {}", request.len()));
        return None;
    }
    let mut conn = conn.start_tls(tls).await?;
    let (sequence, response) = read_packet(&mut conn).await?;
    conn.note(format!("login {sequence}, the same capabilities: {}", response[..32] == request[..]));
    let mut sequence = sequence + 1;
    if plugin == "sha256_password" {
        let switch = b"\xfesha256_password\0abcdefghijklmnopqrst\0";
        conn.write_all(&packet(sequence, switch)).await.ok()?;
    } else {
        conn.write_all(&packet(sequence, &[1, 4])).await.ok()?;
    }
    sequence += 1;
    let (got, password) = read_packet(&mut conn).await?;
    conn.note(format!("password {:?}, in order: {}", String::from_utf8_lossy(&password), got == sequence));
    while let Ok(()) = conn.write_all(&packet(sequence + 1, b"\0\0\0\x02\0\0\0")).await {
        sequence = match read_packet(&mut conn).await? {
            (0, command) if command.first() == Some(&1) => return Some(()),
            (0, _) => 0,
            _ => return None,
        };
    }
    None
}

fn hashes(plugin: &'static str) {
    let pki = Pki::new();
    let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).build();
    let upstream = Upstream::plain(move |conn| {
        let tls = Arc::clone(&tls);
        async move { cold_cache(conn, tls, plugin).await.unwrap_or_default() }
    });
    let cluster = format!("protocol: mysql\ntls: {{ ca: {} }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let script = "
import sys, pymysql
connection = pymysql.connect(host='127.0.0.1', port=int(sys.argv[1]), user='app', password=sys.argv[2])
connection.ping()
connection.close()
print('content')
";
    let port = ambassador.address("app").port().to_string();
    assert_eq!(python(script, &[&port, PASSWORD]).must_succeed().stdout.trim(), "content");
    upstream.wait_note("login 2, the same capabilities: true");
    upstream.wait_note(&format!("password {:?}, in order: true", format!("{PASSWORD}\0")));
}

#[test]
fn a_cold_cache_of_caching_sha2_password_is_no_trap() {
    hashes("caching_sha2_password");
}

#[test]
fn sha256_password_works_without_tls_on_the_clients_hop() {
    hashes("sha256_password");
}

/// Scenario: servers behind one address with different ticket keys ended a handshake that offered to resume a session.
/// A client that had answered the greeting of that server was lost with it, since it answers no other. So no
/// resumption is offered there.
#[test]
fn no_session_is_resumed_behind_a_greeting() {
    let ambassador = to_mariadb();
    for _ in 0..3 {
        query(&ambassador, "app", "select 6 * 7").must_succeed();
    }
    let records = ambassador.wait_records(3);
    assert!(records.iter().all(|record| record["tls"]["resumed"] == false), "{records:?}");
}

#[test]
fn a_server_that_turns_everybody_away_is_told_by_its_number() {
    let upstream = Upstream::plain(|mut conn| async move {
        drop(conn.write_all(&packet(0, b"\xff\x10\x04Too many connections")).await);
        drop(conn.shutdown().await);
    });
    let pki = Pki::new();
    let cluster =
        format!("protocol: mysql\ntls: {{ ca: {} }}\nconnect: {{ attempts: 1 }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    query(&ambassador, "app", "select 1")
        .must_exit(1)
        .must_print("ERROR 1040 (HY000): Too many connections [ambassador: upstream_refused, session ");
    let record = ambassador.record();
    assert_eq!(record["outcome"], "upstream_refused");
    let error = record["error"].as_str().expect("words");
    assert!(error.contains("turned the connection away (MySQL error 1040: Too many connections)"), "{error}");
}

#[test]
fn a_port_scan_that_has_left_by_the_time_it_is_accepted_costs_no_dial() {
    let upstream = Upstream::plain(|conn| async move { drop(conn) });
    let pki = Pki::new();
    let cluster = format!("protocol: mysql\ntls: {{ ca: {} }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    ambassador.frozen(|| drop(Client::tcp(ambassador.address("app")).expect("a connection")));
    ambassador.record_of("downstream_gone");
    assert_eq!(upstream.accepted(), 0);
}
