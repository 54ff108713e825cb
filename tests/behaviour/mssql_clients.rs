//! Clients of SQL Server against a scripted one, over TDS 7: FreeTDS (tsql, pymssql, ODBC), pytds, and raw ones where
//! the client's library does not matter. No SQL Server itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::server::PASSWORD;
use crate::harness::sqlserver::{Temper, USER, sql_server};
use crate::harness::{
    Ambassador, Client, Config, Finished, Pki, ServerTls, Upstream, ambassador, demand, finish,
};

/// A TDS 7 server that demands a client certificate, and an ambassador in front of it.
pub(crate) struct Served {
    pub(crate) server: Upstream,
    pub(crate) ambassador: Ambassador,
    pki: Pki,
}

fn served_by(temper: Temper, tls: &str) -> Served {
    let pki = Pki::new();
    let server = sql_server(ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build(), temper);
    let ambassador = Ambassador::start(&config(&server, &pki, tls));
    Served { server, ambassador, pki }
}

pub(crate) fn served() -> Served {
    served_by(Temper::default(), "")
}

fn config(server: &Upstream, pki: &Pki, tls: &str) -> Config {
    let app = pki.client("app");
    let (ca, cert, key) = (pki.ca(), app.cert.display(), app.key.display());
    let ca = ca.display();
    let tls = format!("{{ ca: {ca}, cert: {cert}, key: {key}{tls} }}");
    Config::app(&[&server.address()], &format!("protocol: mssql\nconnect: {{ attempts: 1 }}\ntls: {tls}"))
}

fn tsql(ambassador: &Ambassador, version: &str, script: &str) -> Finished {
    let port = ambassador.address("app").port().to_string();
    let mut tsql = fed(&format!("{script}\ngo\nexit\n"), &demand("tsql", "freetds-bin"));
    tsql.args(["-H", "127.0.0.1", "-p", &port, "-U", USER, "-P", PASSWORD]).env("TDSVER", version);
    finish(&mut tsql)
}

/// A program that reads this from its standard input, with these arguments.
fn fed(input: &str, program: &Path) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "input=$1; shift; printf %s \"$input\" | \"$@\"", "sh", input]).arg(program);
    shell
}

fn python(served: &Served, script: &str) -> Finished {
    let port = served.ambassador.address("app").port().to_string();
    let finished = finish(Command::new("/usr/bin/python3").args(["-c", script, &port, USER, PASSWORD]));
    println!("{:?}", served.server.notes());
    finished
}

// ---------------------------------------------------------------------------------------------------
// FreeTDS

#[test]
fn tsql_logs_in_by_each_version_of_tds_7() {
    let served = served();
    for (version, tds) in [("7.0", "70"), ("7.1", "71"), ("7.2", "72"), ("7.3", "73"), ("7.4", "74")] {
        let finished = tsql(&served.ambassador, version, "select 42 as answer");
        let told = format!("{}{}", finished.stdout, finished.stderr);
        assert!(finished.stdout.contains("42"), "{version}: {told}\n{:?}", served.server.notes());
        served.server.wait_note(&format!("login user=app tds={tds}"));
    }
    let handshake = served.server.wait_note("handshake");
    assert_eq!(handshake, "handshake TLSv1_2 sni=None alpn=None client=true kind=Some(Full)");
    served.server.wait_note("prelogin encryption=1 mars=0");
}

#[test]
fn pymssql_sends_and_receives_many_packets() {
    let served = served();
    let script = "
import sys, pymssql
conn = pymssql.connect(server='127.0.0.1', port=sys.argv[1], user=sys.argv[2], password=sys.argv[3], tds_version='7.3')
cursor = conn.cursor()
cursor.execute('select wide /* ' + 'x' * 100000 + ' */')
print(sum(row[0] for row in cursor.fetchall()))
";
    assert_eq!(python(&served, script).must_succeed().stdout.trim(), "840000", "{:?}", served.server.notes());
    served.server.wait_note("batch of 1000");
}

#[test]
fn odbc_by_freetds_logs_in() {
    let served = served();
    let port = served.ambassador.address("app").port().to_string();
    let source =
        format!("Driver=FreeTDS;Server=127.0.0.1;Port={port};UID={USER};PWD={PASSWORD};TDS_Version=7.4");
    let finished = finish(fed("select 42\n", &demand("isql", "unixodbc")).args(["-v", "-b", "-k", &source]));
    assert!(finished.stdout.contains("42"), "{}{}", finished.stdout, finished.stderr);
}

#[test]
fn a_client_that_demands_encryption_says_so_itself() {
    let served = served();
    let script = "
import sys, pymssql
try:
    pymssql.connect(server='127.0.0.1', port=sys.argv[1], user=sys.argv[2], password=sys.argv[3], encryption='require')
except TypeError:
    print('too old')
except pymssql.Error as error:
    print(error)
";
    let told = python(&served, script).must_succeed().stdout;
    assert!(told.contains("too old") || told.contains("onnection"), "{told}");
    assert!(!served.server.notes().iter().any(|note| note.starts_with("login")));
}

#[test]
fn a_wrong_password_is_told_in_the_servers_words() {
    let served = served();
    let script = "
import sys, pymssql
try:
    pymssql.connect(server='127.0.0.1', port=sys.argv[1], user=sys.argv[2], password='wrong')
except pymssql.Error as error:
    print(error)
";
    assert!(python(&served, script).must_succeed().stdout.contains("18456"), "{:?}", served.server.notes());
}

// ---------------------------------------------------------------------------------------------------
// pytds

#[test]
fn pytds_logs_in_and_asks() {
    let served = served();
    let script = "
import sys, pytds
with pytds.connect('127.0.0.1', 'master', sys.argv[2], sys.argv[3], port=int(sys.argv[1]), autocommit=True) as conn:
    with conn.cursor() as cursor:
        cursor.execute('select wide')
        print(sum(row[0] for row in cursor.fetchall()))
        cursor.execute('select %s', ('x' * 3000,))
        print(cursor.fetchall())
";
    let finished = python(&served, script).must_succeed();
    assert_eq!(finished.stdout.trim(), "840000\n[(42,)]", "{:?}", served.server.notes());
}

#[test]
fn several_active_result_sets_of_pytds_pass() {
    let served = served();
    let script = "
import sys, pytds
with pytds.connect('127.0.0.1', 'master', sys.argv[2], sys.argv[3], port=int(sys.argv[1]), autocommit=True, use_mars=True) as conn:
    first, second = conn.cursor(), conn.cursor()
    first.execute('select 1')
    second.execute('select 2 /* ' + 'x' * 9000 + ' */')
    print(first.fetchall(), second.fetchall())
";
    let finished = python(&served, script).must_succeed();
    assert_eq!(finished.stdout.trim(), "[(42,)] [(42,)]", "{:?}", served.server.notes());
    served.server.wait_note("prelogin encryption=1 mars=1");
}

#[test]
fn pytds_follows_a_route_past_us() {
    let elsewhere = Upstream::plain(|_| async {});
    let temper = Temper { routes_to: Some(("127.0.0.1", elsewhere.port())), ..Temper::default() };
    let served = served_by(temper, "");
    let script = "
import sys, pytds
try:
    pytds.connect('127.0.0.1', 'master', sys.argv[2], sys.argv[3], port=int(sys.argv[1]), readonly=True, login_timeout=3)
except Exception as error:
    print(error)
";
    python(&served, script).must_succeed();
    elsewhere.wait_accepted(1);
    assert_eq!(served.server.notes().iter().filter(|note| note.starts_with("login")).count(), 1);
}

// ---------------------------------------------------------------------------------------------------
// What servers do

#[test]
fn a_handshake_in_packets_of_type_4_is_taken() {
    let served = served_by(Temper { carrier: Some(4), ..Temper::default() }, "");
    assert!(
        tsql(&served.ambassador, "7.4", "select 42").stdout.contains("42"),
        "{:?}",
        served.server.notes()
    );
}

#[test]
fn a_server_that_encrypts_nothing_or_the_login_only_gets_no_login() {
    for (encryption, words) in [(0, "the login only"), (2, "no encryption to offer")] {
        let served = served_by(Temper { encryption: Some(encryption), ..Temper::default() }, "");
        let finished = tsql(&served.ambassador, "7.4", "select 42");
        let told = format!("{}{}", finished.stdout, finished.stderr);
        assert!(told.contains(words), "{told}");
        assert!(!served.server.notes().iter().any(|note| note.starts_with("login")));
    }
}

/// A server with a wrong certificate: the handshake fails with the alert in a packet, as the server expects it.
#[test]
fn a_server_that_is_not_trusted_is_told_in_a_packet_and_the_client_in_words() {
    let (pki, other) = (Pki::new(), Pki::new());
    let server = sql_server(ServerTls::new(&other.server(&["127.0.0.1"])).build(), Temper::default());
    let ambassador = Ambassador::start(&config(&server, &pki, ""));
    let finished = tsql(&ambassador, "7.4", "select 42");
    let told = format!("{}{}", finished.stdout, finished.stderr);
    assert!(told.contains("tls_failed"), "{told}");
    assert!(server.wait_note("ended:").contains("handshake failed: received fatal alert"));
}

#[test]
fn a_client_whose_server_ends_at_the_login_ends_too() {
    let served = served_by(Temper { drops_logins: true, ..Temper::default() }, "");
    let finished = tsql(&served.ambassador, "7.4", "select 42");
    served.server.wait_note("prelogin");
    assert!(finished.code != 0 && !finished.stdout.contains("42"), "{}", finished.stdout);
}

#[test]
fn check_connect_goes_as_far_as_the_handshake_and_logs_nobody_in() {
    let Served { server, pki, .. } = served();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("listeners.yaml");
    fs::write(&file, config(&server, &pki, "").render(dir.path())).expect("a file to check");
    let finished = finish(ambassador().args(["check", "--connect", "--config"]).arg(&file)).must_succeed();
    assert!(finished.stdout.contains("upgrade    ok"), "{}", finished.stdout);
    assert!(finished.stdout.contains("TLSv1.2"), "{}", finished.stdout);
    assert!(!server.notes().iter().any(|note| note.starts_with("login") || note.starts_with("ended")));
}

// ---------------------------------------------------------------------------------------------------
// Either way

/// A server that accepts TDS 8.0 only, as SQL Server does with strict encryption forced: before TDS 7 was supported,
/// every configuration without `start` was served so, and must still be.
#[test]
fn a_server_of_tds_8_only_is_found_without_a_word_in_the_file_and_remembered() {
    const ASKED: &[u8] = b"\x12\x01\x00\x0f\0\0\x01\0\x01\x00\x06\x00\x01\xff\x00";
    const ANSWERED: &[u8] = b"\x04\x01\x00\x0f\0\0\x01\0\x01\x00\x06\x00\x01\xff\x03";
    let pki = Pki::new();
    let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).alpn(&["tds/8.0"]).build();
    let upstream = Upstream::tls(tls, |mut conn| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut asked = [0; ASKED.len()];
        if conn.read_exact(&mut asked).await.is_ok() {
            conn.note(format!("encryption {}", asked[14]));
            drop(conn.write_all(ANSWERED).await);
            drop(conn.read(&mut asked).await);
        }
    });
    let ambassador = Ambassador::start(&config(&upstream, &pki, ""));
    let ask = |ambassador: &Ambassador| -> Client {
        let mut client = ambassador.connect();
        client.send(ASKED);
        client.expect([&ANSWERED[..14], &[2]].concat());
        client
    };
    let first = ask(&ambassador);
    assert_eq!(upstream.accepted(), 2, "PRELOGIN, then TLS: {:?}", upstream.notes());
    let second = ask(&ambassador);
    assert_eq!(upstream.accepted(), 3, "what led there is known: {:?}", upstream.notes());
    drop((first, second));
}

#[test]
fn tds_7_that_was_asked_for_is_not_left_for_tds_8() {
    let pki = Pki::new();
    let upstream = Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), |_| async {});
    let ambassador = Ambassador::start(&config(&upstream, &pki, ", start: upgrade"));
    let finished = tsql(&ambassador, "7.4", "select 42");
    let told = format!("{}{}", finished.stdout, finished.stderr);
    assert!(told.contains("upgrade_failed") && told.contains("start"), "{told}");
    assert_eq!(upstream.accepted(), 1);
}
