//! `login.client`: a mail client that is held to a user and password of its own, with the real servers behind; and clients with
//! default settings that none of the other tests has.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::secrets::Secrets;
use crate::harness::server::{PASSWORD, Server, dovecot};
use crate::harness::submission::{submission, submission_alone};
use crate::harness::{Ambassador, Client, Config, Finished, ambassador, demand, finish, until};

/// The client's own password.
const OWN: &str = "tray 2";

/// Signs in with `server`'s password, and holds clients to `client`'s.
fn config(protocol: &str, address: &str, tls: &str, server: &Secrets, client: &Secrets) -> Config {
    let client = format!(", client: {{ as: printer, password: {{ file: {} }} }}", client.path().display());
    let cluster = format!("protocol: {protocol}\n{tls}\n{}", server.login("app", &client));
    Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone").cluster(
        "up",
        &[address],
        &cluster,
    )
}

/// A daemon in front of Postfix, and the client's password file.
fn to_postfix(submission: &Server) -> (Ambassador, Secrets) {
    let (server, client) = (Secrets::of(PASSWORD), Secrets::of(OWN));
    let config = config("smtp", &submission.address(0), &submission.tls(""), &server, &client);
    (Ambassador::start(&config), client)
}

fn python(script: &str, ambassador: &Ambassador) -> Finished {
    let port = ambassador.address("app").port().to_string();
    finish(Command::new("/usr/bin/python3").args(["-c", script, &port]))
}

/// Sends with smtplib, after this line.
fn smtplib(ambassador: &Ambassador, before: &str) -> Finished {
    let script = format!(
        "
import smtplib, sys
with smtplib.SMTP('127.0.0.1', int(sys.argv[1])) as smtp:
    {before}
    smtp.sendmail('held@app.test', ['b@mx.test'], 'Subject: hi\\r\\n\\r\\nhello\\r\\n')
"
    );
    python(&script, ambassador)
}

fn shows_nothing(ambassador: &Ambassador, secrets: &[&str]) {
    for text in
        [ambassador.lines().join("\n"), ambassador.get("/metrics").body, ambassador.status().to_string()]
    {
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "a secret is shown: {text}");
    }
}

#[test]
fn a_mail_client_is_let_in_by_its_own_password_alone() {
    let (ambassador, client) = to_postfix(submission());
    smtplib(&ambassador, "smtp.login('printer', 'tray 2')").must_succeed();
    assert_eq!(ambassador.record()["outcome"], "completed");
    let wrong = smtplib(&ambassador, "smtp.login('printer', 'tray 3')").must_exit(1).stderr;
    assert!(wrong.contains("SMTPAuthenticationError: (535, b'5.7.8 "), "{wrong}");
    let record = ambassador.record_of("denied");
    assert_eq!(record["error"], "the client's user or password is not that of `login.client`");
    let none = smtplib(&ambassador, "pass").must_exit(1).stderr;
    assert!(none.contains("(530, b'5.7.0 Authentication required'"), "{none}");
    let denied = until("both are recorded", || {
        let records = ambassador.records();
        let denied: Vec<_> = records.into_iter().filter(|record| record["outcome"] == "denied").collect();
        (denied.len() == 2).then_some(denied)
    });
    assert_eq!(denied[1]["error"], "the client has not logged in, as `login.client` demands");
    assert!(denied.iter().all(|record| record["login_as"] == "app"), "{denied:?}");
    let sessions = ambassador.metrics();
    assert_eq!(sessions.sum("connections_total", &[("outcome", "denied")]), 2.0);
    assert_eq!((sessions.sum("ejections_total", &[]), sessions.sum("breaker_state", &[])), (0.0, 0.0));
    // A replaced file counts for the next login.
    client.write("tray 4");
    until("the new one counts", || {
        (smtplib(&ambassador, "smtp.login('printer', 'tray 4')").code == 0).then_some(())
    });
    smtplib(&ambassador, "smtp.login('printer', 'tray 2')").must_exit(1);
    shows_nothing(&ambassador, &[PASSWORD, OWN, "tray 3", "tray 4"]);
}

fn line(client: &mut Client) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.extend(client.receive(1));
    }
    String::from_utf8(line).expect("text")
}

/// A device that guesses: nothing of it reaches Postfix, which would take the message, and the fifth guess is the last.
#[test]
fn a_client_that_guesses_is_cut_off() {
    let server = submission_alone();
    let (ambassador, _client) = to_postfix(&server);
    let mut client = ambassador.connect();
    assert!(line(&mut client).starts_with("220 "));
    for (say, expected) in [
        ("MAIL FROM:<guesser@app.test>\r\n", "530 5.7.0"),
        ("RCPT TO:<b@mx.test>\r\n", "530 5.7.0"),
        ("AUTH LOGIN\r\n", "334 "),
        ("cHJpbnRlcg==\r\n", "334 "),
        ("Z3Vlc3M=\r\n", "535 5.7.8"),
        ("AUTH PLAIN AHByaW50ZXIAZ3Vlc3M=\r\n", "535 5.7.8"),
        ("AUTH PLAIN AHByaW50ZXIAZ3Vlc3M=\r\n", "535 5.7.8"),
        ("AUTH PLAIN AHByaW50ZXIAZ3Vlc3M=\r\n", "535 5.7.8"),
        ("AUTH PLAIN AHByaW50ZXIAZ3Vlc3M=\r\n", "535 5.7.8"),
    ] {
        client.send(say);
        let told = line(&mut client);
        assert!(told.starts_with(expected), "{say:?}: {told}");
    }
    assert!(line(&mut client).starts_with("421 5.7.1 ambassador: denied: "));
    let record = ambassador.record_of("denied");
    assert_eq!(record["error"], "the client has sent five wrong logins");
    until("Postfix tells its end", || server.log().contains("disconnect from ").then_some(()));
    // It logs `client=` once it has a sender and a recipient: those of the next session alone.
    smtplib(&ambassador, "smtp.login('printer', 'tray 2')").must_succeed();
    let taken = until("Postfix tells of the message", || {
        Some(server.log().matches(": client=").count()).filter(|count| *count > 0)
    });
    assert_eq!(taken, 1, "{}", server.log());
}

#[test]
fn clients_of_mailboxes_are_let_in_by_their_own_password_alone() {
    for (protocol, port, script) in [
        (
            "imap",
            0,
            "
import imaplib, sys
def begin():
    return imaplib.IMAP4('127.0.0.1', int(sys.argv[1]))
for way in [lambda imap: imap.login('printer', 'tray 2'), lambda imap: imap.authenticate('PLAIN', lambda _: b'\\0printer\\0tray 2')]:
    imap = begin(); way(imap); assert imap.select('INBOX')[0] == 'OK'; imap.logout()
for way in [lambda imap: imap.login('printer', 'tray 3'), lambda imap: imap.authenticate('PLAIN', lambda _: b'\\0printer\\0tray 3')]:
    imap = begin()
    try:
        way(imap); raise SystemExit('let in')
    except imaplib.IMAP4.error as error:
        assert 'AUTHENTICATIONFAILED' in str(error), error
    imap.logout()
imap = begin()
imap.state = 'AUTH'
assert imap._simple_command('NOOP')[0] == 'OK'
try:
    imap.select('INBOX'); raise SystemExit('let in')
except imaplib.IMAP4.error as error:
    assert 'log in first' in str(error), error
imap.logout()
",
        ),
        (
            "pop3",
            1,
            "
import poplib, sys
def begin():
    return poplib.POP3('127.0.0.1', int(sys.argv[1]))
for _ in range(2):
    pop = begin(); pop.user('printer'); pop.pass_('tray 2'); pop.stat(); pop.quit()
for password in ['tray 3', '']:
    pop = begin(); pop.user('printer')
    try:
        pop.pass_(password); raise SystemExit('let in')
    except poplib.error_proto as error:
        assert b'[AUTH]' in error.args[0], error
    pop.quit()
pop = begin()
try:
    pop.stat(); raise SystemExit('let in')
except poplib.error_proto as error:
    assert b'Log in first' in error.args[0], error
pop.quit()
",
        ),
        (
            "sieve",
            2,
            "
import socket, sys
def begin(said):
    f = socket.create_connection(('127.0.0.1', int(sys.argv[1]))).makefile('rwb')
    while not f.readline().startswith(b'OK'):
        pass
    f.write(said + b'LISTSCRIPTS\\r\\nLOGOUT\\r\\n'); f.flush()
    return f.read()
for _ in range(2):
    told = begin(b'AUTHENTICATE \"PLAIN\" \"AHByaW50ZXIAdHJheSAy\"\\r\\n')
    assert told.count(b'OK') == 3, told
for _ in range(2):
    told = begin(b'AUTHENTICATE \"PLAIN\" \"AHByaW50ZXIAdHJheSAz\"\\r\\n')
    assert told.startswith(b'NO \"Authentication failed.\"\\r\\nNO \"Log in first.\"\\r\\nOK'), told
told = begin(b'')
assert told.startswith(b'NO \"Log in first.\"\\r\\nOK'), told
",
        ),
    ] {
        let (server, client) = (Secrets::of(PASSWORD), Secrets::of(OWN));
        let config = config(protocol, &dovecot().address(port), &dovecot().tls(""), &server, &client);
        let ambassador = Ambassador::start(&config);
        python(script, &ambassador).must_succeed();
        let records = ambassador.wait_records(5);
        let of = |outcome: &str| records.iter().filter(|record| record["outcome"] == outcome).count();
        assert_eq!((of("completed"), of("denied")), (2, 3), "{protocol}: {records:?}");
        shows_nothing(&ambassador, &[PASSWORD, OWN, "tray 3"]);
    }
}

#[test]
fn a_protocol_without_a_login_of_clients_is_refused_with_its_place() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("listeners.yaml");
    let (server, client) = (Secrets::of(PASSWORD), Secrets::of(OWN));
    let tls = "tls: { ca: system }";
    for (protocol, code) in [("postgres", 78), ("mysql", 78), ("redis", 78), ("imap", 0)] {
        let config = config(protocol, "db.test:5432", tls, &server, &client);
        fs::write(&path, config.render(dir.path())).expect("a file to check");
        let told = finish(ambassador().args(["check", "--config"]).arg(&path)).must_exit(code);
        let words =
            format!("`client` is for protocols smtp, lmtp, imap, pop3, sieve, and this is {protocol}");
        assert_eq!(told.stderr.contains(&words), code != 0, "{}", told.stderr);
        assert!(code == 0 || told.stderr.contains("clusters.up.login.client"), "{}", told.stderr);
    }
    fs::write(client.path(), "\n").expect("a file");
    fs::write(&path, config("imap", "mx.test:143", tls, &server, &client).render(dir.path()))
        .expect("a file");
    let told = finish(ambassador().args(["check", "--config"]).arg(&path)).must_exit(78).stderr;
    assert!(
        told.contains("clusters.up.login.client.password.file") && told.contains("has an empty password"),
        "{told}"
    );
}

/// nodemailer tries STARTTLS only where it is offered, and AUTH only with a user.
#[test]
fn nodemailer_delivers_with_its_default_settings() {
    let modules = [
        Path::new("/usr/share/nodejs").to_owned(),
        Path::new(env!("CARGO_BIN_EXE_ambassador"))
            .ancestors()
            .nth(2)
            .expect("a target directory")
            .join("node-pg/usr/share/nodejs"),
    ];
    let modules = modules.into_iter().find(|modules| modules.join("nodemailer").exists());
    let modules =
        modules.expect("nodemailer is missing: scripts/test fetches it (Debian package node-nodemailer)");
    let script = "
const [port, user, pass] = process.argv.slice(1);
const auth = user ? { user, pass } : undefined;
const transport = require('nodemailer').createTransport({ host: '127.0.0.1', port: Number(port), auth });
const mail = { from: 'node@app.test', to: 'b@mx.test', subject: 'hi', text: 'hello' };
transport.sendMail(mail).then((sent) => console.log(sent.response), (error) => {
    console.error(`${error.code}: ${error.message}`);
    process.exitCode = 1;
});
";
    let send = |ambassador: &Ambassador, user: &[&str]| {
        let mut node = Command::new(demand("node", "nodejs"));
        node.env("NODE_PATH", &modules).args(["-e", script, &ambassador.address("app").port().to_string()]);
        finish(node.args(user))
    };
    let (server, submission) = (Secrets::of(PASSWORD), submission());
    let cluster = format!("protocol: smtp\n{}\n{}", submission.tls(""), server.login("app", ""));
    let config = Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone");
    let ambassador = Ambassador::start(&config.cluster("up", &[&submission.address(0)], &cluster));
    // With a user it wants a password, which may be any.
    for user in [&[][..], &["printer", "wrong"]] {
        assert!(send(&ambassador, user).must_succeed().stdout.starts_with("250 2.0.0 "), "{user:?}");
    }
    let (held, _client) = to_postfix(submission);
    send(&held, &["printer", OWN]).must_succeed();
    let told = send(&held, &["printer", "wrong"]).must_exit(1).stderr;
    assert!(told.contains("EAUTH") && told.contains("535 5.7.8"), "{told}");
    let told = send(&held, &[]).must_exit(1).stderr;
    assert!(told.contains("530 5.7.0 Authentication required"), "{told}");
}
