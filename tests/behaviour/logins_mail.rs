//! `login`: mail clients that know no password, and a daemon that signs in for them, against Postfix with Dovecot SASL.

use std::fs;
use std::io::Write;
use std::process::Command;

use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::harness::server::{PASSWORD, dovecot};
use crate::harness::submission::submission;
use crate::harness::{
    Ambassador, Client, Config, Conn, Finished, Pki, ServerTls, Upstream, ambassador, demand, finish, until,
};

/// A file with that password.
fn secret(password: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    writeln!(file, "{password}").expect("a password");
    file
}

fn config(address: &str, secret: &NamedTempFile, more: &str) -> Config {
    let cluster = format!("login: {{ as: app, password: {{ file: {} }} }}\n{more}", secret.path().display());
    Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone").cluster(
        "up",
        &[address],
        &cluster,
    )
}

/// The keys of a cluster of the submission server on that port.
fn keys(port: usize) -> String {
    format!("protocol: smtp\n{}", submission().tls(if port == 1 { ", start: direct" } else { "" }))
}

fn to(port: usize, secret: &NamedTempFile) -> Ambassador {
    Ambassador::start(&config(&submission().address(port), secret, &keys(port)))
}

fn python(script: &str, ambassador: &Ambassador) -> Finished {
    let port = ambassador.address("app").port().to_string();
    finish(Command::new("/usr/bin/python3").args(["-c", script, &port]))
}

/// Sends a mail from that sender with smtplib, after these lines.
fn smtplib(ambassador: &Ambassador, sender: &str, before: &str) -> Finished {
    let script = format!(
        "
import smtplib, sys
with smtplib.SMTP('127.0.0.1', int(sys.argv[1])) as smtp:
    {before}
    assert smtp.sendmail('{sender}', ['b@mx.test'], 'Subject: hi\\r\\n\\r\\nhello\\r\\n') == {{}}
print('smtplib is content')
"
    );
    python(&script, ambassador)
}

/// Waits until Postfix has taken mail from that sender, and returns the method of the session that brought it.
fn method_of(sender: &str) -> String {
    until(format!("Postfix took mail from {sender}"), || {
        let log = submission().log();
        let from = log.lines().find(|line| line.contains(&format!("from=<{sender}>")))?;
        let id = from.split(": ").nth(1)?.to_owned();
        let client = log.lines().find(|line| line.contains(&format!("{id}: client=")))?;
        let method = client.split("sasl_method=").nth(1)?.split(',').next()?;
        assert!(client.contains("sasl_username=app"), "{client}");
        Some(method.to_owned())
    })
}

#[test]
fn smtplib_without_a_password_is_signed_in_by_every_mechanism() {
    let secret = secret(PASSWORD);
    for (port, method, greeting) in [
        (0, "SCRAM-SHA-256", "ESMTP ambassador"),
        (1, "PLAIN", "220 mx.test ESMTP Postfix"),
        (2, "LOGIN", "ESMTP ambassador"),
    ] {
        let ambassador = to(port, &secret);
        let sender = format!("none{port}@app.test");
        smtplib(&ambassador, &sender, "pass").must_succeed();
        assert_eq!(method_of(&sender), method);
        let record = ambassador.record();
        assert_eq!((&record["outcome"], &record["login_as"]), (&"completed".into(), &"app".into()));
        assert_eq!(ambassador.metrics().sum("logins_total", &[("result", "ok")]), 1.0);
        let mut client = ambassador.connect();
        assert!(line(&mut client).contains(greeting));
    }
}

fn line(client: &mut Client) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.extend(client.receive(1));
    }
    String::from_utf8(line).expect("text")
}

#[test]
fn clients_that_insist_on_auth_are_taken_at_their_word() {
    let secret = secret(PASSWORD);
    let ambassador = to(0, &secret);
    let (port, address) = (ambassador.address("app").port(), ambassador.address("app").to_string());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mail = dir.path().join("mail");
    fs::write(&mail, "Subject: hi\n\nhello\n").expect("a mail");
    let mail = mail.display().to_string();

    smtplib(&ambassador, "smtplib@app.test", "smtp.login('printer', 'wrong')").must_succeed();
    let mut senders = vec!["smtplib@app.test".to_owned()];
    for auth in ["off", "plain", "login"] {
        let sender = format!("msmtp-{auth}@app.test");
        let rc = format!(
            "account default\nhost 127.0.0.1\nport {port}\ntls off\nfrom {sender}\nauth {auth}\nuser printer\n\
             password wrong\n"
        );
        // msmtp insists on a file that only its user reads.
        let mut file = NamedTempFile::new_in(dir.path()).expect("a file");
        file.write_all(rc.as_bytes()).expect("its settings");
        let msmtp = demand("msmtp", "msmtp");
        let msmtp = format!("{} -C {} b@mx.test < {mail}", msmtp.display(), file.path().display());
        finish(Command::new("sh").args(["-c", &msmtp])).must_succeed();
        senders.push(sender);
    }
    for auth in ["none", "PLAIN", "LOGIN"] {
        let sender = format!("swaks-{auth}@app.test");
        let mut swaks = Command::new(demand("swaks", "swaks"));
        swaks.args(["--server", &address, "--helo", "app.test", "--from", &sender, "--to", "b@mx.test"]);
        if auth != "none" {
            swaks.args(["--auth", auth, "--auth-user", "printer", "--auth-password", "wrong"]);
        }
        let told = finish(&mut swaks).must_succeed().stdout;
        assert!(told.contains("250 AUTH PLAIN LOGIN") && !told.contains("SCRAM"), "{told}");
        senders.push(sender);
    }
    for user in [None, Some("printer:wrong")] {
        let sender = format!("curl-{}@app.test", if user.is_some() { "user" } else { "none" });
        let mut curl = Command::new(demand("curl", "curl"));
        curl.args(["-sS", &format!("smtp://{address}/app.test"), "--mail-from", &sender]);
        curl.args(["--mail-rcpt", "b@mx.test", "--upload-file", &mail]);
        if let Some(user) = user {
            curl.args(["--user", user]);
        }
        finish(&mut curl).must_succeed();
        senders.push(sender);
    }
    for sender in &senders {
        assert_eq!(method_of(sender), "SCRAM-SHA-256", "{sender}");
    }
    let records = ambassador.wait_records(senders.len());
    assert!(records.iter().all(|record| record["login_as"] == "app"), "{records:?}");
}

/// A printer or scanner, by hand: it knows HELO or EHLO and AUTH LOGIN, and writes all it has at once where it may.
#[test]
fn a_device_that_only_knows_auth_login_delivers() {
    let secret = secret(PASSWORD);
    let ambassador = to(2, &secret);
    for (round, hello) in ["EHLO scanner", "HELO scanner"].into_iter().enumerate() {
        let mut client = ambassador.connect();
        assert!(line(&mut client).starts_with("220 "));
        client.send(format!("{hello}\r\n"));
        let mut told = line(&mut client);
        while told.lines().last().is_some_and(|line| line.starts_with("250-")) {
            told += &line(&mut client);
        }
        assert_eq!(told.ends_with("250 AUTH PLAIN LOGIN\r\n"), round == 0, "{told}");
        for (say, expected) in [
            ("AUTH CRAM-MD5\r\n", "504 5.5.4"),
            ("AUTH LOGIN\r\n", "334 VXNlcm5hbWU6"),
            ("*\r\n", "501 5.7.0"),
            // RSET is the server's to answer, and the answer to AUTH waits for that.
            ("RSET\r\nAUTH LOGIN\r\n", "250 2.0.0"),
            ("", "334 VXNlcm5hbWU6"),
            ("c2Nhbm5lcg==\r\n", "334 UGFzc3dvcmQ6"),
            ("d3Jvbmc=\r\n", "235 2.7.0"),
            ("AUTH LOGIN\r\n", "503 5.5.1"),
            ("NOOP\r\n", "250 2.0.0"),
            (&format!("MAIL FROM:<device{round}@app.test>\r\n"), "250 2.1.0"),
            ("RCPT TO:<b@mx.test>\r\n", "250 2.1.5"),
            ("DATA\r\n", "354 "),
            ("Subject: scan\r\n\r\n.\r\n", "250 2.0.0"),
            ("QUIT\r\n", "221 2.0.0"),
        ] {
            client.send(say);
            let told = line(&mut client);
            assert!(told.starts_with(expected), "{say:?}: {told}");
        }
        assert_eq!(method_of(&format!("device{round}@app.test")), "LOGIN");
    }
}

#[test]
fn a_rejected_password_is_tried_once_and_told_in_smtp() {
    let secret = secret("battery staple");
    // A user of its own: other tests sign in with a wrong password too.
    let address = submission().address(1);
    let cluster =
        format!("{}\nlogin: {{ as: locked, password: {{ file: {} }} }}", keys(1), secret.path().display());
    let config = Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone");
    let ambassador = Ambassador::start(&config.cluster("up", &[&address], &cluster));
    // At once: the first rejection is followed by a pause of five seconds, in which ten clients of a busy host may not
    // get their turn.
    let mut clients: Vec<_> = (0..10).map(|_| ambassador.connect()).collect();
    for client in &mut clients {
        let told = line(client);
        assert!(told.starts_with("421 4.7.0 ambassador: login_failed: "), "{told}");
        assert!(told.contains("the server rejected the login as locked (SMTP 535: 5.7.8"), "{told}");
    }
    let refused = "authentication failed: (reason unavailable), sasl_username=locked";
    until("Postfix says so", || submission().log().contains(refused).then_some(()));
    let records = ambassador.wait_records(10);
    assert!(records.iter().all(|record| record["outcome"] == "login_failed"), "{records:?}");
    assert_eq!(submission().log().matches(refused).count(), 1, "the server was asked once");
    let metrics = ambassador.metrics();
    assert_eq!(metrics.sum("logins_total", &[("result", "rejected")]), 1.0);
    assert_eq!(metrics.sum("logins_total", &[("result", "paused")]), 9.0);
    assert_eq!((metrics.sum("ejections_total", &[]), metrics.sum("breaker_state", &[])), (0.0, 0.0));
    let told = smtplib(&ambassador, "locked@app.test", "pass").must_exit(1).stderr;
    assert!(told.contains("SMTPConnectError: (421, b'4.7.0 ambassador: login_failed: "), "{told}");
    for text in
        [ambassador.lines().join("\n"), ambassador.get("/metrics").body, ambassador.status().to_string()]
    {
        assert!(!text.contains("battery staple"), "a secret is shown");
    }
}

#[test]
fn a_server_without_auth_is_told_as_such() {
    let secret = secret(PASSWORD);
    let ambassador = to(3, &secret);
    let told = smtplib(&ambassador, "x@app.test", "pass").must_exit(1).stderr;
    assert!(told.contains("the server offers no login that suits a password: none"), "{told}");
    assert_eq!(ambassador.record()["outcome"], "login_failed");
    // Dovecot's LMTP knows no AUTH.
    let lmtp = format!("protocol: lmtp\n{}", dovecot().tls(""));
    let ambassador = Ambassador::start(&config(&dovecot().address(3), &secret, &lmtp));
    let mut client = ambassador.connect();
    let told = line(&mut client);
    assert!(told.starts_with("421 4.7.0 ambassador: login_failed: "), "{told}");
    assert!(told.contains("offers no login that suits a password: none"), "{told}");
}

#[test]
fn check_connect_signs_in_once() {
    for (port, password, code, expected) in [
        (0, PASSWORD, 0, "  login      ok      as app, "),
        (1, PASSWORD, 0, "  login      ok      as app, "),
        (2, "battery staple", 1, "  login      FAILED  127.0.0.1:"),
    ] {
        let secret = secret(password);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("listeners.yaml");
        let config = config(&submission().address(port), &secret, &keys(port));
        fs::write(&path, config.render(dir.path())).expect("a file to check");
        let finished = finish(ambassador().args(["check", "--connect", "--config"]).arg(&path));
        let told = finished.must_exit(code).stdout;
        assert!(told.contains(expected) && told.contains("  handshake  ok"), "{told}");
    }
}

const OFFERS_PLAIN: &str = "250-mx.test\r\n250 AUTH PLAIN\r\n";

/// A server with TLS from the first byte that answers each line by its first fitting reply, and notes it.
fn scripted(pki: &Pki, greeting: &'static str, replies: &'static [(&'static str, &'static str)]) -> Upstream {
    let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).build();
    Upstream::tls(tls, move |conn: Conn| async move {
        let mut conn = BufReader::new(conn);
        let mut said = String::new();
        let mut reply = greeting;
        loop {
            if conn.write_all(reply.as_bytes()).await.is_err() || conn.flush().await.is_err() {
                return;
            }
            said.clear();
            if conn.read_line(&mut said).await.unwrap_or_default() == 0 {
                return;
            }
            conn.get_ref().note(said.trim_end());
            let found = replies.iter().find(|(begin, _)| said.starts_with(begin));
            reply = found.map_or("250 2.0.0 Ok\r\n", |(_, reply)| reply);
        }
    })
}

#[test]
fn lmtp_is_signed_in_too() {
    let (pki, secret) = (Pki::new(), secret(PASSWORD));
    let server = scripted(
        &pki,
        "220 mx.test LMTP\r\n",
        &[
            ("LHLO", OFFERS_PLAIN),
            ("AUTH", "235 2.7.0 Ok\r\n"),
            ("DATA", "354 go\r\n"),
            ("QUIT", "221 bye\r\n"),
        ],
    );
    let keys = format!("protocol: lmtp\ntls: {{ ca: {}, start: direct }}", pki.ca().display());
    let ambassador = Ambassador::start(&config(&server.address(), &secret, &keys));
    let script = "
import smtplib, sys
with smtplib.LMTP('127.0.0.1', int(sys.argv[1])) as lmtp:
    assert lmtp.login('any', 'thing')[0] == 235
    assert lmtp.noop()[0] == 250
print('LMTP is content')
";
    python(script, &ambassador).must_succeed();
    let notes = server.notes();
    let auths: Vec<_> = notes.iter().filter(|note| note.starts_with("AUTH")).collect();
    assert_eq!(auths, ["AUTH PLAIN AGFwcABjb3JyZWN0IGhvcnNl"], "ours alone");
}

/// Scenario: the server's own user database is down. That says nothing of the credential, and the mail is to stay in its queue.
#[test]
fn a_temporary_failure_is_no_rejection() {
    let (pki, secret) = (Pki::new(), secret(PASSWORD));
    let server = scripted(
        &pki,
        "220 mx.test ESMTP\r\n",
        &[("EHLO", OFFERS_PLAIN), ("AUTH", "454 4.7.0 Temporary authentication failure\r\n")],
    );
    let keys = format!("protocol: smtp\ntls: {{ ca: {}, start: direct }}", pki.ca().display());
    let ambassador = Ambassador::start(&config(&server.address(), &secret, &keys));
    for _ in 0..3 {
        let told = line(&mut ambassador.connect());
        assert!(
            told.starts_with("454 4.7.0 Temporary authentication failure [ambassador: upstream_refused"),
            "{told}"
        );
    }
    let records = ambassador.wait_records(3);
    assert!(records.iter().all(|record| record["outcome"] == "upstream_refused"), "{records:?}");
    assert_eq!(server.notes().iter().filter(|note| note.starts_with("AUTH")).count(), 3, "asked each time");
    assert_eq!(ambassador.metrics().sum("ejections_total", &[]), 0.0);
}
