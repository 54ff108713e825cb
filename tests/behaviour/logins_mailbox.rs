//! `login`: clients of mailboxes that know no password, or a wrong one, and a daemon that signs in for them, against Dovecot.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::server::{PASSWORD, dovecot, dovecot_with_scram, full_dovecot};
use crate::harness::{Ambassador, Config, Finished, Server, ambassador, demand, finish, until};

const WRONG: &str = "battery staple";

/// A directory with the password's file.
struct Secret(tempfile::TempDir);

impl Secret {
    fn of(password: &str) -> Self {
        let secret = Self(tempfile::tempdir().expect("a temporary directory"));
        fs::write(secret.path(), format!("{password}\n")).expect("a file");
        fs::set_permissions(secret.path(), fs::Permissions::from_mode(0o600)).expect("a mode");
        secret
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("password")
    }
}

/// A protocol, and its ports at Dovecot: with an upgrade, and with TLS from the first byte.
const PROTOCOLS: [(&str, usize, Option<usize>); 3] =
    [("imap", 0, Some(5)), ("pop3", 1, Some(6)), ("sieve", 2, None)];

fn config(server: &Server, port: usize, protocol: &str, user: &str, secret: &Secret) -> Config {
    let start = if port >= 5 { ", start: direct" } else { "" };
    let login = format!("login: {{ as: {user}, password: {{ file: {} }} }}", secret.path().display());
    let cluster = format!("protocol: {protocol}\n{}\n{login}", server.tls(start));
    Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone").cluster(
        "up",
        &[&server.address(port)],
        &cluster,
    )
}

fn to(server: &Server, port: usize, protocol: &str) -> (Ambassador, Secret) {
    let secret = Secret::of(PASSWORD);
    (Ambassador::start(&config(server, port, protocol, "app", &secret)), secret)
}

fn python(script: &str, ambassador: &Ambassador) -> Finished {
    let port = ambassador.address("app").port().to_string();
    finish(Command::new("/usr/bin/python3").args(["-c", script, &port]))
}

/// Each server, each port of the protocol, and how Dovecot is expected to be signed in to.
fn each(protocol: &str) -> impl Iterator<Item = ((Ambassador, Secret), &'static Server, &'static str)> {
    let (_, upgrade, direct) = *PROTOCOLS.iter().find(|(label, ..)| *label == protocol).expect("a protocol");
    let label = protocol.to_owned();
    let servers = [(dovecot(), "PLAIN"), (dovecot_with_scram(), "SCRAM-SHA-256")];
    servers.into_iter().flat_map(move |(server, method)| {
        let label = label.clone();
        [Some(upgrade), direct]
            .into_iter()
            .flatten()
            .map(move |port| (to(server, port, &label), server, method))
    })
}

#[track_caller]
fn was_signed_in(ambassador: &Ambassador, server: &Server, protocol: &str, method: &str, sessions: usize) {
    let line = format!(
        "{}-login: Info: Login: user=<app>, method={method}",
        protocol.replace("sieve", "managesieve")
    );
    until("Dovecot tells", || server.log().contains(&line).then_some(()));
    for record in ambassador.wait_records(sessions) {
        assert_eq!(
            (&record["outcome"], &record["login_as"]),
            (&"completed".into(), &"app".into()),
            "{record}"
        );
    }
    for text in
        [ambassador.lines().join("\n"), ambassador.get("/metrics").body, ambassador.status().to_string()]
    {
        assert!(!text.contains(PASSWORD), "a secret is shown");
    }
}

#[test]
fn imaplib_is_taken_at_its_word_and_reads_what_the_server_can() {
    let script = "
import imaplib, sys, time
for how in ['login', 'plain', 'login again']:
    imap = imaplib.IMAP4('127.0.0.1', int(sys.argv[1]))
    assert b'IMAP4rev1 ambassador' in imap.welcome, imap.welcome
    told = imap.capabilities
    assert 'STARTTLS' not in told and 'LOGINDISABLED' not in told and 'AUTH=PLAIN' in told and 'IDLE' in told, told
    if how == 'plain':
        imap.authenticate('PLAIN', lambda _: b'\\0anybody\\0what\"ever')
    else:
        imap.login('any \"body\"', 'whatever')
    assert b'IDLE' in b' '.join(imap.untagged_responses.get('CAPABILITY', [b'IDLE'])), imap.untagged_responses
    assert imap.create('Signed')[0] in ('OK', 'NO')
    body = b'Subject: hi\\r\\n\\r\\n' + b'x' * 300000
    assert imap.append('Signed', None, imaplib.Time2Internaldate(time.time()), body)[0] == 'OK'
    imap.select('Signed')
    assert imap.fetch('1', '(RFC822)')[1][0][1] == body
    imap.logout()
print('imaplib is content')
";
    for ((ambassador, _secret), server, method) in each("imap") {
        assert_eq!(python(script, &ambassador).must_succeed().stdout.trim(), "imaplib is content");
        was_signed_in(&ambassador, server, "imap", method, 3);
    }
}

#[test]
fn curl_needs_no_user_at_all() {
    let curl = demand("curl", "curl");
    for (protocol, expected) in [("imap", "INBOX"), ("pop3", "")] {
        for ((ambassador, _secret), server, method) in each(protocol) {
            let url = format!("{protocol}://{}/", ambassador.address("app"));
            for user in [None, Some("anybody:whatever")] {
                let mut command = Command::new(&curl);
                command.args(["-sS", "-v"]).args(user.iter().flat_map(|user| ["--user", user])).arg(&url);
                let told = finish(&mut command).must_succeed();
                assert!(told.stdout.contains(expected), "{user:?}: {} {}", told.stdout, told.stderr);
            }
            was_signed_in(&ambassador, server, protocol, method, 2);
        }
    }
}

#[test]
fn poplib_is_taken_at_its_word() {
    let script = "
import poplib, sys
for how in ['user', 'apop', 'auth', 'none']:
    pop = poplib.POP3('127.0.0.1', int(sys.argv[1]))
    assert b'ambassador ready' in pop.welcome, pop.welcome
    told = pop.capa()
    assert 'STLS' not in told and told['SASL'] == ['PLAIN', 'LOGIN'] and 'UIDL' in told, told
    if how == 'user':
        pop.user('anybody'); pop.pass_('what ever')
    elif how == 'apop':
        if b'<' not in pop.welcome:
            continue
        pop.apop('anybody', 'whatever')
    elif how == 'auth':
        pop._shortcmd('AUTH PLAIN AHgAeQ==')
    pop.stat(); pop.uidl(); pop.quit()
print('poplib is content')
";
    for ((ambassador, _secret), server, method) in each("pop3") {
        assert_eq!(python(script, &ambassador).must_succeed().stdout.trim(), "poplib is content");
        was_signed_in(&ambassador, server, "pop3", method, 4);
    }
}

#[test]
fn a_sieve_client_is_taken_at_its_word_or_not_asked() {
    let script = "
import base64, socket, sys
for login in [b'', b'AUTHENTICATE \"PLAIN\" \"AHgAeQ==\"\\r\\n', b'AUTHENTICATE \"PLAIN\" {8+}\\r\\nAHgAeQ==\\r\\n']:
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
    assert b'\"SASL\" \"PLAIN LOGIN\"\\r\\n' in greeting and not any(b'STARTTLS' in line for line in greeting), greeting
    if login:
        f.write(login); f.flush()
        assert answer() == [b'OK \"Logged in.\"\\r\\n']
    f.write(b'PUTSCRIPT \"s\" {5+}\\r\\nkeep;\\r\\nLISTSCRIPTS\\r\\nLOGOUT\\r\\n'); f.flush()
    assert answer()[-1].startswith(b'OK')
    assert any(b'\"s\"' in line for line in answer())
    assert answer()[-1].startswith(b'OK') and not f.read()
print('sieve is content')
";
    for ((ambassador, _secret), server, method) in each("sieve") {
        assert_eq!(python(script, &ambassador).must_succeed().stdout.trim(), "sieve is content");
        was_signed_in(&ambassador, server, "sieve", method, 3);
    }
}

/// A directory with a configuration file that only its owner may read, as these programs demand.
fn with_file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join(name);
    fs::write(&file, text.replace("DIR", &dir.path().display().to_string())).expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("permissions");
    (dir, file)
}

/// Puts a mail into a mailbox of its own.
fn one_mail_in(mailbox: &str, ambassador: &Ambassador) {
    let script = format!(
        "
import imaplib, sys, time
imap = imaplib.IMAP4('127.0.0.1', int(sys.argv[1]))
imap.login('x', 'y')
imap.create('{mailbox}')
imap.append('{mailbox}', None, imaplib.Time2Internaldate(time.time()), b'Subject: for {mailbox}\\r\\n\\r\\nGood day.\\r\\n')
imap.logout()
"
    );
    python(&script, ambassador).must_succeed();
}

fn holds(dir: &std::path::Path, words: &str) -> bool {
    finish(Command::new("grep").args(["-rq", words]).arg(dir)).code == 0
}

#[test]
fn fetchmail_and_mbsync_fetch_with_a_placeholder() {
    let (ambassador, _secret) = to(dovecot_with_scram(), 0, "imap");
    one_mail_in("Placeholder", &ambassador);
    let port = ambassador.address("app").port();
    let (dir, file) = with_file(
        "fetchmailrc",
        &format!(
            "poll 127.0.0.1 service {port} protocol IMAP user anybody password \"none\" folder Placeholder keep \
             sslproto '' mda 'cat > DIR/mail'\n"
        ),
    );
    let mut command = Command::new(demand("fetchmail", "fetchmail"));
    command
        .env("HOME", dir.path())
        .args(["--nosyslog", "--pidfile"])
        .arg(dir.path().join("pid"))
        .arg("-f")
        .arg(file);
    finish(&mut command).must_succeed();
    assert!(holds(&dir.path().join("mail"), "for Placeholder"));
    let (dir, file) = with_file(
        "mbsyncrc",
        &format!(
            "IMAPAccount app\nHost 127.0.0.1\nPort {port}\nUser anybody\nPass none\nSSLType None\n\n\
             IMAPStore far\nAccount app\n\nMaildirStore near\nPath DIR/near/\nInbox DIR/inbox\n\n\
             Channel all\nFar :far:\nNear :near:\nPatterns Placeholder\nCreate Near\nSyncState *\n"
        ),
    );
    fs::create_dir(dir.path().join("near")).expect("a directory");
    let mut command = Command::new(demand("mbsync", "isync"));
    finish(command.env("HOME", dir.path()).arg("-c").arg(file).arg("-a")).must_succeed();
    assert!(holds(&dir.path().join("near"), "for Placeholder"));
}

#[test]
fn a_rejected_password_is_tried_once_and_told_in_the_protocol() {
    for server in [dovecot(), dovecot_with_scram()] {
        for (protocol, port, _) in PROTOCOLS {
            let user = format!("app-{protocol}");
            let secret = Secret::of(WRONG);
            let ambassador = Ambassador::start(&config(server, port, protocol, &user, &secret));
            let asked = || server.log().matches(&format!("({user},127.0.0.1,")).count();
            let before = asked();
            // A rejected password is tried again after a minute, and Python takes long to start.
            for _ in 0..3 {
                let script = "
import socket, sys
f = socket.create_connection(('127.0.0.1', int(sys.argv[1]))).makefile('rb')
print(f.read().decode())
";
                let told = python(script, &ambassador).must_succeed().stdout;
                let begin = match protocol {
                    "imap" => "* BYE [UNAVAILABLE] ",
                    "pop3" => "-ERR [SYS/TEMP] ",
                    _ => "\"IMPLEMENTATION\" ",
                };
                assert!(
                    told.starts_with(begin)
                        && told.contains("ambassador: login_failed: ")
                        && told.contains(&format!("rejected the login as {user}")),
                    "{told}"
                );
            }
            assert_eq!(asked() - before, 1, "{protocol}: {}", server.log());
            let records = ambassador.wait_records(3);
            assert!(records.iter().all(|record| record["outcome"] == "login_failed"), "{records:?}");
            let metrics = ambassador.metrics();
            assert_eq!(metrics.sum("logins_total", &[("result", "rejected")]), 1.0);
            assert_eq!(metrics.sum("logins_total", &[("result", "paused")]), 2.0);
            assert_eq!((metrics.sum("ejections_total", &[]), metrics.sum("breaker_state", &[])), (0.0, 0.0));
            let shown = ambassador.lines().join("\n") + &ambassador.status().to_string();
            assert!(!shown.contains(WRONG), "a secret is shown");
        }
    }
}

/// Dovecot lets the user have one session: the second login is not rejected, and the next is tried again.
#[test]
fn a_server_that_has_no_room_has_not_rejected_the_password() {
    let server = full_dovecot();
    let (ambassador, _secret) = to(&server, 0, "imap");
    let mut first = ambassador.connect();
    first.expect("* OK IMAP4rev1 ambassador\r\n");
    let script = "
import socket, sys
print(socket.create_connection(('127.0.0.1', int(sys.argv[1]))).makefile('rb').read().decode())
";
    let told = python(script, &ambassador).must_succeed().stdout;
    assert!(told.starts_with("* BYE ") && told.contains("Maximum number of connections"), "{told}");
    assert_eq!(ambassador.record_of("upstream_refused")["closed_by"], "ambassador");
    drop(first);
    until("there is room again", || {
        let told = finish(
            Command::new(demand("curl", "curl"))
                .args(["-sS", &format!("imap://{}/", ambassador.address("app"))]),
        );
        (told.code == 0).then_some(())
    });
    assert_eq!(ambassador.metrics().sum("logins_total", &[("result", "rejected")]), 0.0);
}

#[test]
fn check_connect_signs_in_once() {
    for (protocol, upgrade, direct) in PROTOCOLS {
        for port in [Some(upgrade), direct].into_iter().flatten() {
            for (password, code, expected) in
                [(PASSWORD, 0, "  login      ok      as app, "), (WRONG, 1, "  login      FAILED ")]
            {
                let secret = Secret::of(password);
                let dir = tempfile::tempdir().expect("a temporary directory");
                let path = dir.path().join("listeners.yaml");
                let config = config(dovecot_with_scram(), port, protocol, "app", &secret);
                fs::write(&path, config.render(dir.path())).expect("a file to check");
                let finished = finish(ambassador().args(["check", "--connect", "--config"]).arg(&path));
                let told = finished.must_exit(code).stdout;
                assert!(told.contains(expected) && told.contains("  handshake  ok"), "{protocol}: {told}");
            }
        }
    }
}
