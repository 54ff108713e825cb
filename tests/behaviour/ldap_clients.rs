//! LDAP clients against an OpenLDAP that demands StartTLS with a client certificate.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::command::wait;
use crate::harness::server::{PASSWORD, slapd};
use crate::harness::{Ambassador, ClosedPort, Config, Finished, Pki, ambassador, demand, finish, until};

fn to_slapd() -> Ambassador {
    let server = slapd();
    Ambassador::start(&Config::app(&[&server.address(0)], &format!("protocol: ldap\n{}", server.tls(""))))
}

fn ldap(program: &str, ambassador: &Ambassador) -> Command {
    let mut command = Command::new(demand(program, "ldap-utils"));
    command.args(["-x", "-H", &format!("ldap://{}/", ambassador.address("app"))]);
    command.args(["-D", "cn=admin,dc=test", "-w", PASSWORD]).env("LDAPNOINIT", "1");
    command
}

fn search(ambassador: &Ambassador) -> Finished {
    finish(ldap("ldapsearch", ambassador).args(["-LLL", "-b", "dc=test", "(o=*)", "o"]))
}

/// Adds `dc=test`, which may exist already.
fn add(ambassador: &Ambassador) -> i32 {
    let mut child = ldap("ldapadd", ambassador)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ldapadd");
    let entry = b"dn: dc=test\nobjectClass: organization\nobjectClass: dcObject\no: Test\ndc: test\n";
    child.stdin.take().expect("a piped stdin").write_all(entry).expect("ldapadd reads");
    wait(child).code
}

#[test]
fn ldapsearch_reaches_a_server_that_demands_starttls_and_a_certificate() {
    let ambassador = to_slapd();
    let code = add(&ambassador);
    assert!(code == 0 || code == 68, "ldapadd: {code}");
    let finished = search(&ambassador).must_succeed();
    assert!(
        finished.stdout.contains("dn: dc=test") && finished.stdout.contains("o: Test"),
        "{}",
        finished.stdout
    );
    assert!(ambassador.wait_records(2).iter().all(|record| record["outcome"] == "completed"));
    until("slapd saw TLS", || slapd().log().contains("TLS established").then_some(()));
}

#[test]
fn python_ldap3_binds_and_searches() {
    let ambassador = to_slapd();
    let script = "
import ldap3, sys
server = ldap3.Server('127.0.0.1', port=int(sys.argv[1]), get_info=ldap3.NONE)
connection = ldap3.Connection(server, 'cn=admin,dc=test', sys.argv[2], auto_bind=True)
assert connection.search('dc=test', '(objectClass=*)', 'BASE') or connection.result['result'] == 32
connection.unbind()
print('ldap3 is content')
";
    let port = ambassador.address("app").port().to_string();
    let finished = finish(Command::new("/usr/bin/python3").args(["-c", script, &port, PASSWORD]));
    assert_eq!(finished.must_succeed().stdout.trim(), "ldap3 is content", "apt-get install python3-ldap3");
}

#[test]
fn a_wrong_password_is_told_by_the_server_itself() {
    let ambassador = to_slapd();
    let finished = finish(ldap("ldapsearch", &ambassador).args(["-w", "wrong", "-b", "dc=test"]));
    finished.must_exit(49).must_print("Invalid credentials (49)");
}

#[test]
fn a_client_that_wants_starttls_itself_is_answered_by_the_server() {
    let ambassador = to_slapd();
    let finished = finish(ldap("ldapsearch", &ambassador).args(["-ZZ", "-b", "dc=test"]));
    assert_ne!(finished.code, 0);
    finished.must_print("ldap_start_tls: Operations error (1)");
    finished.must_print("TLS already started");
}

#[test]
fn ldapsearch_is_told_why_the_ambassador_refuses() {
    let pki = Pki::new();
    let cluster =
        format!("protocol: ldap\nconnect: {{ attempts: 1 }}\ntls: {{ ca: {} }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&ClosedPort::new().address()], &cluster));
    let finished = search(&ambassador).must_exit(52);
    finished.must_print("ldap_bind: Server is unavailable (52)");
    finished.must_print("additional info: ambassador: connect_failed: cannot connect to 127.0.0.1:");
    finished.must_print(ambassador.record()["session"].as_str().expect("a session id"));
}

/// Scenario: slapd with GnuTLS ends the connection without an alert when a client certificate is missing: the client
/// reported "Can't contact LDAP server", the record said `completed`, and `check --connect` "handshake ok".
#[test]
fn a_missing_certificate_is_told_though_the_server_says_nothing() {
    let cluster = format!("protocol: ldap\n{}", slapd().tls_without_certificate());
    let config = Config::app(&[&slapd().address(0)], &cluster);
    let ambassador = Ambassador::start(&config);
    let finished = search(&ambassador).must_exit(52);
    finished.must_print("ambassador: tls_failed: the server asked for a client certificate, got none");
    let record = ambassador.record();
    assert_eq!(
        (&record["outcome"], &record["closed_by"]),
        (&"tls_failed".into(), &"upstream".into()),
        "{record}"
    );
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("listeners.yaml");
    std::fs::write(&file, config.render(dir.path())).expect("a file to check");
    let finished = finish(crate::harness::ambassador().args(["check", "--connect", "--config"]).arg(&file));
    assert!(finished.stdout.contains("handshake  FAILED"), "{}", finished.stdout);
    assert!(
        finished.stdout.contains("the server asked for a client certificate, got none"),
        "{}",
        finished.stdout
    );
}

#[test]
fn what_is_not_ldap_costs_the_server_nothing() {
    let ambassador = to_slapd();
    for (bytes, end) in
        [(&b"GET / HTTP/1.0\r\n\r\n"[..], &b"20036"[..]), (b"\x16\x03\x01\x00\x05", b"\x02\x28")]
    {
        let mut client = ambassador.connect();
        client.send(bytes);
        assert!(client.read_out().0.ends_with(end));
    }
    let records = ambassador.wait_records(2);
    assert!(records.iter().all(|record| record["outcome"] == "bad_opening" && record["attempts"] == 0));
}

#[test]
fn check_connect_binds_as_nobody_and_unbinds() {
    let server = slapd();
    let config = Config::app(&[&server.address(0)], &format!("protocol: ldap\n{}", server.tls("")));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("listeners.yaml");
    std::fs::write(&file, config.render(dir.path())).expect("a file to check");
    let finished = finish(ambassador().args(["check", "--connect", "--config"]).arg(&file)).must_succeed();
    assert!(finished.stdout.contains("answer     ok"), "{}", finished.stdout);
    until("slapd saw it unbind", || server.log().contains("UNBIND").then_some(()));
}
