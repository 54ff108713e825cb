//! Mail clients against Postfix and Dovecot that demand TLS and a client certificate.

use std::process::Command;

use crate::harness::server::{PASSWORD, dovecot, postfix};
use crate::harness::{
    Ambassador, ClosedPort, Config, Finished, Pki, Server, ServerTls, Upstream, ambassador, demand, finish,
    roles, until,
};

fn to(server: &Server, port: usize, protocol: &str) -> Ambassador {
    Ambassador::start(&Config::app(
        &[&server.address(port)],
        &format!("protocol: {protocol}\n{}", server.tls("")),
    ))
}

fn dead(protocol: &str) -> Ambassador {
    let pki = Pki::new();
    let cluster =
        format!("protocol: {protocol}\nconnect: {{ attempts: 1 }}\ntls: {{ ca: {} }}", pki.ca().display());
    Ambassador::start(&Config::app(&[&ClosedPort::new().address()], &cluster))
}

fn python(script: &str, ambassador: &Ambassador) -> Finished {
    let port = ambassador.address("app").port().to_string();
    finish(Command::new("/usr/bin/python3").args(["-c", script, &port, PASSWORD]))
}

fn swaks(ambassador: &Ambassador) -> Finished {
    let mut command = Command::new(demand("swaks", "swaks"));
    command.args([
        "--server",
        &ambassador.address("app").to_string(),
        "--from",
        "a@app.test",
        "--to",
        "b@mx.test",
    ]);
    finish(command.args(["--helo", "app.test"]))
}

fn checks(server: &Server, port: usize, protocol: &str) {
    let config = Config::app(&[&server.address(port)], &format!("protocol: {protocol}\n{}", server.tls("")));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("listeners.yaml");
    std::fs::write(&file, config.render(dir.path())).expect("a file to check");
    let finished = finish(ambassador().args(["check", "--connect", "--config"]).arg(&file)).must_succeed();
    assert!(finished.stdout.contains("answer     ok"), "{}", finished.stdout);
}

// ---------------------------------------------------------------------------------------------------
// SMTP

#[test]
fn swaks_hands_mail_to_a_postfix_that_demands_mtls() {
    let ambassador = to(postfix(), 0, "smtp");
    let finished = swaks(&ambassador).must_succeed();
    assert!(finished.stdout.contains("ESMTP ambassador"), "{}", finished.stdout);
    assert!(!finished.stdout.contains("250-STARTTLS"), "{}", finished.stdout);
    assert!(finished.stdout.contains("queued as"), "{}", finished.stdout);
    let record = ambassador.record();
    assert_eq!(record["outcome"], "completed", "{record}");
    until("Postfix took the mail over TLS", || {
        postfix().log().contains("Trusted TLS connection").then_some(())
    });
}

#[test]
fn smtplib_hands_over_a_mail_of_a_megabyte() {
    let ambassador = to(postfix(), 0, "smtp");
    let script = "
import smtplib, sys
with smtplib.SMTP('127.0.0.1', int(sys.argv[1])) as smtp:
    smtp.ehlo('app.test')
    assert not smtp.has_extn('starttls')
    body = 'Subject: big\\r\\n\\r\\n' + ('.' + 'x' * 70 + '\\r\\n') * 14000
    assert smtp.sendmail('a@app.test', ['b@mx.test'], body) == {}
print('smtplib is content')
";
    assert_eq!(python(script, &ambassador).must_succeed().stdout.trim(), "smtplib is content");
}

#[test]
fn smtp_source_sends_many_mails_at_once() {
    let ambassador = to(postfix(), 0, "smtp");
    let mut command = Command::new(demand("smtp-source", "postfix"));
    command.args(["-s", "8", "-m", "40", "-l", "5000", "-f", "a@app.test", "-t", "b@mx.test"]);
    finish(command.arg(format!("inet:{}", ambassador.address("app")))).must_succeed();
    // It sends QUIT and closes without reading the answer, which makes its kernel send a reset.
    let records = ambassador.wait_records(40);
    let is_over = |record: &serde_json::Value| {
        record["outcome"] == "completed" || record["outcome"] == "downstream_reset"
    };
    assert!(records.iter().all(is_over), "{records:?}");
}

#[test]
fn swaks_is_told_why_the_ambassador_refuses() {
    let ambassador = dead("smtp");
    let finished = swaks(&ambassador);
    assert_ne!(finished.code, 0);
    let told = format!("{}{}", finished.stdout, finished.stderr);
    assert!(told.contains("421 4.4.1 ambassador: connect_failed: cannot connect to"), "{told}");
    assert!(told.contains(ambassador.record()["session"].as_str().expect("a session id")), "{told}");
}

#[test]
fn a_mail_server_without_starttls_gets_no_mail() {
    let upstream = Upstream::plain(roles::greet("220 mx.test ESMTP\r\n"));
    let pki = Pki::new();
    let cluster =
        format!("protocol: smtp\nconnect: {{ attempts: 1 }}\ntls: {{ ca: {} }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let finished = swaks(&ambassador);
    // The echo answers EHLO with EHLO, which is no reply.
    assert!(finished.stdout.contains("421 4.4.1 ambassador: upgrade_failed"), "{}", finished.stdout);
    assert_eq!(ambassador.record()["outcome"], "upgrade_failed");
}

#[test]
fn a_client_that_begins_with_tls_gets_an_alert() {
    let ambassador = to(postfix(), 0, "smtp");
    let openssl = demand("openssl", "openssl");
    let address = ambassador.address("app").to_string();
    let finished = finish(Command::new(openssl).args(["s_client", "-connect", &address]));
    assert_ne!(finished.code, 0);
    assert_eq!(ambassador.record()["outcome"], "bad_opening");
}

#[test]
fn implicit_tls_passes_the_servers_own_greeting() {
    let pki = Pki::new();
    let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).build();
    let upstream = Upstream::tls(tls, roles::greet("220 mx.test ESMTP Real\r\n"));
    let cluster = format!("protocol: smtp\ntls: {{ ca: {}, start: direct }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    ambassador.connect().expect("220 mx.test ESMTP Real\r\n");
}

#[test]
fn check_connect_says_hello_to_postfix_and_quits() {
    checks(postfix(), 0, "smtp");
    // No other test greets twice and leaves.
    let visit = "ehlo=2 starttls=1 quit=1 commands=4";
    until("Postfix saw it leave", || postfix().log().contains(visit).then_some(()));
}

// ---------------------------------------------------------------------------------------------------
// IMAP, POP3, ManageSieve, LMTP

#[test]
fn imaplib_reads_and_writes_a_mailbox_of_a_dovecot_that_demands_mtls() {
    let ambassador = to(dovecot(), 0, "imap");
    let script = "
import imaplib, sys, time
imap = imaplib.IMAP4('127.0.0.1', int(sys.argv[1]))
assert b'IMAP4rev1 ambassador' in imap.welcome, imap.welcome
assert 'STARTTLS' not in imap.capabilities and 'LOGINDISABLED' not in imap.capabilities, imap.capabilities
imap.login('app', sys.argv[2])
imap.create('Box')
body = b'Subject: hi\\r\\n\\r\\n' + b'x' * 300000
status, _ = imap.append('Box', None, imaplib.Time2Internaldate(time.time()), body)
assert status == 'OK'
imap.select('Box')
status, data = imap.fetch('1', '(RFC822)')
assert data[0][1] == body
imap.logout()
print('imaplib is content')
";
    assert_eq!(python(script, &ambassador).must_succeed().stdout.trim(), "imaplib is content");
    assert_eq!(ambassador.record()["outcome"], "completed");
}

#[test]
fn curl_lists_a_mailbox_and_is_told_why_it_is_refused() {
    let curl = demand("curl", "curl");
    let list = |ambassador: &Ambassador| {
        let url = format!("imap://{}/", ambassador.address("app"));
        finish(Command::new(&curl).args(["-sS", "-v", "--user", &format!("app:{PASSWORD}"), &url]))
    };
    let finished = list(&to(dovecot(), 0, "imap")).must_succeed();
    assert!(finished.stdout.contains("INBOX"), "{}", finished.stdout);
    let finished = list(&dead("imap"));
    assert_ne!(finished.code, 0);
    finished.must_print("* BYE [UNAVAILABLE] ambassador: connect_failed");
}

#[test]
fn poplib_logs_in_by_password_and_by_apop() {
    let ambassador = to(dovecot(), 1, "pop3");
    let script = "
import poplib, sys
for how in ['user', 'apop']:
    pop = poplib.POP3('127.0.0.1', int(sys.argv[1]))
    assert b'ambassador ready <' in pop.welcome, pop.welcome
    if how == 'user':
        pop.user('app'); pop.pass_(sys.argv[2])
    else:
        pop.apop('app', sys.argv[2])
    pop.stat(); pop.quit()
print('poplib is content')
";
    assert_eq!(python(script, &ambassador).must_succeed().stdout.trim(), "poplib is content");
}

#[test]
fn poplib_is_told_why_the_ambassador_refuses() {
    let script = "import poplib, sys; poplib.POP3('127.0.0.1', int(sys.argv[1]))";
    python(script, &dead("pop3")).must_exit(1).must_print("-ERR [SYS/TEMP] ambassador: connect_failed");
}

#[test]
fn a_sieve_client_is_greeted_by_the_server_behind_tls() {
    let ambassador = to(dovecot(), 2, "sieve");
    let script = "
import base64, socket, sys
s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
f = s.makefile('rwb')
def answer():
    lines = []
    while True:
        line = f.readline()
        assert line, lines
        lines.append(line)
        if line.startswith((b'OK', b'NO', b'BYE')):
            return lines
greeting = answer()
assert greeting[-1].startswith(b'OK') and not any(b'STARTTLS' in line for line in greeting), greeting
login = base64.b64encode(('\\0app\\0' + sys.argv[2]).encode())
f.write(b'AUTHENTICATE \"PLAIN\" \"' + login + b'\"\\r\\n'); f.flush()
assert answer()[-1].startswith(b'OK')
f.write(b'PUTSCRIPT \"s\" {5+}\\r\\nkeep;\\r\\nLISTSCRIPTS\\r\\nLOGOUT\\r\\n'); f.flush()
assert answer()[-1].startswith(b'OK')
assert b'\"s\"' in answer()[0]
print('sieve is content')
";
    assert_eq!(python(script, &ambassador).must_succeed().stdout.trim(), "sieve is content");
}

#[test]
fn lmtp_delivers_over_tls() {
    let ambassador = to(dovecot(), 3, "lmtp");
    let script = "
import smtplib, sys
with smtplib.LMTP('127.0.0.1', int(sys.argv[1])) as lmtp:
    assert lmtp.sendmail('a@app.test', ['app'], 'Subject: hi\\r\\n\\r\\nhello\\r\\n') == {}
print('LMTP is content')
";
    assert_eq!(python(script, &ambassador).must_succeed().stdout.trim(), "LMTP is content");
}

#[test]
fn check_connect_talks_to_each_of_dovecots_services() {
    for (port, protocol) in ["imap", "pop3", "sieve", "lmtp"].iter().enumerate() {
        checks(dovecot(), port, protocol);
    }
}

/// A client that leaves while the server waits for TLS must not leave the session or the server hanging.
#[test]
fn a_client_that_leaves_at_once_leaves_nothing_behind() {
    let ambassador = to(dovecot(), 0, "imap");
    for _ in 0..5 {
        drop(ambassador.connect());
    }
    ambassador.wait_records(5);
    ambassador.wait_active(0);
}
