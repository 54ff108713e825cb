//! Programs that fetch mail, each with the one setting that keeps it from asking for TLS on its own hop
//! (docs/protocols/mail.md), against a Dovecot that demands TLS and a client certificate.

use std::process::Command;

use crate::harness::server::{PASSWORD, dovecot, postfix};
use crate::harness::{Ambassador, Config, Server, demand, finish};

fn to(server: &Server, port: usize, protocol: &str) -> Ambassador {
    Ambassador::start(&Config::app(
        &[&server.address(port)],
        &format!("protocol: {protocol}\n{}", server.tls("")),
    ))
}

/// Puts one mail with this subject into a mailbox of its own and returns the mailbox's name.
fn one_mail_in(mailbox: &str, ambassador: &Ambassador) {
    let script = "
import imaplib, sys, time
imap = imaplib.IMAP4('127.0.0.1', int(sys.argv[1]))
imap.login('app', sys.argv[2])
imap.create(sys.argv[3])
imap.append(sys.argv[3], None, imaplib.Time2Internaldate(time.time()),
            b'From: a@app.test\\r\\nSubject: for ' + sys.argv[3].encode() + b'\\r\\n\\r\\nGood day.\\r\\n')
imap.logout()
";
    let port = ambassador.address("app").port().to_string();
    finish(Command::new("/usr/bin/python3").args(["-c", script, &port, PASSWORD, mailbox])).must_succeed();
}

/// A directory with a configuration file that only its owner may read, as these programs demand.
fn with_file(name: &str, text: &str) -> (tempfile::TempDir, String) {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join(name);
    std::fs::write(&file, text.replace("DIR", &dir.path().display().to_string())).expect("a file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    (dir, file.display().to_string())
}

/// Whether a file below the directory contains this text.
fn holds(dir: &std::path::Path, words: &str) -> bool {
    finish(Command::new("grep").args(["-rq", words]).arg(dir)).code == 0
}

#[test]
fn fetchmail_fetches_without_tls_of_its_own() {
    let ambassador = to(dovecot(), 0, "imap");
    one_mail_in("Fetch", &ambassador);
    let port = ambassador.address("app").port();
    let (dir, file) = with_file(
        "fetchmailrc",
        &format!(
            "poll 127.0.0.1 service {port} protocol IMAP auth password user app password \"{PASSWORD}\" \
             folder Fetch sslproto '' mda 'cat > DIR/mail'\n"
        ),
    );
    let mut command = Command::new(demand("fetchmail", "fetchmail"));
    command.env("HOME", dir.path()).args(["--nosyslog", "--pidfile"]).arg(dir.path().join("pid"));
    finish(command.args(["-f", &file])).must_succeed();
    assert!(holds(&dir.path().join("mail"), "for Fetch"));
}

#[test]
fn mbsync_mirrors_a_mailbox_without_tls_of_its_own() {
    let ambassador = to(dovecot(), 0, "imap");
    one_mail_in("Mirror", &ambassador);
    let port = ambassador.address("app").port();
    let (dir, file) = with_file(
        "mbsyncrc",
        &format!(
            "IMAPAccount app\nHost 127.0.0.1\nPort {port}\nUser app\nPass \"{PASSWORD}\"\nSSLType None\n\
             AuthMechs LOGIN\n\nIMAPStore far\nAccount app\n\nMaildirStore near\nPath DIR/near/\nInbox DIR/inbox\n\n\
             Channel all\nFar :far:\nNear :near:\nPatterns Mirror\nCreate Near\nSyncState *\n"
        ),
    );
    std::fs::create_dir(dir.path().join("near")).expect("a directory");
    let mut command = Command::new(demand("mbsync", "isync"));
    finish(command.env("HOME", dir.path()).args(["-c", &file, "-a"])).must_succeed();
    assert!(holds(&dir.path().join("near"), "for Mirror"));
}

#[test]
fn offlineimap_mirrors_a_mailbox_without_tls_of_its_own() {
    let ambassador = to(dovecot(), 0, "imap");
    one_mail_in("Offline", &ambassador);
    let port = ambassador.address("app").port();
    let (dir, file) = with_file(
        "offlineimaprc",
        &format!(
            "[general]\naccounts = app\nmetadata = DIR/meta\nui = quiet\n[Account app]\nlocalrepository = near\n\
             remoterepository = far\n[Repository near]\ntype = Maildir\nlocalfolders = DIR/near\n\
             [Repository far]\ntype = IMAP\nremotehost = 127.0.0.1\nremoteport = {port}\nremoteuser = app\n\
             remotepass = {PASSWORD}\nssl = no\nstarttls = no\nauth_mechanisms = LOGIN\n\
             folderfilter = lambda name: name == 'Offline'\n"
        ),
    );
    let mut command = Command::new(demand("offlineimap", "offlineimap3"));
    finish(command.env("HOME", dir.path()).args(["-o", "-c", &file])).must_succeed();
    assert!(holds(&dir.path().join("near"), "for Offline"));
}

#[test]
fn neomutt_opens_a_mailbox_without_tls_of_its_own() {
    let ambassador = to(dovecot(), 0, "imap");
    one_mail_in("Mutt", &ambassador);
    let port = ambassador.address("app").port();
    let (dir, file) = with_file(
        "neomuttrc",
        &format!(
            "set ssl_starttls = no\nset ssl_force_tls = no\nset imap_pass = \"{PASSWORD}\"\n\
             set imap_authenticators = login\nset wait_key = no\nset pipe_decode\n\
             set folder = imap://app@127.0.0.1:{port}/\nset spoolfile = imap://app@127.0.0.1:{port}/Mutt\n\
             push '<pipe-message>cat > DIR/mail<enter><exit>'\n"
        ),
    );
    let mutt = format!("{} -n -F {file}", demand("neomutt", "neomutt").display());
    let mut command = Command::new(demand("script", "bsdutils"));
    command.env("HOME", dir.path()).env("TERM", "xterm").args(["-qec", &mutt, "/dev/null"]);
    finish(&mut command).must_succeed();
    assert!(holds(&dir.path().join("mail"), "for Mutt"));
}

#[test]
fn msmtp_sends_without_tls_of_its_own() {
    let ambassador = to(postfix(), 0, "smtp");
    let port = ambassador.address("app").port();
    let (dir, file) = with_file(
        "msmtprc",
        &format!("account default\nhost 127.0.0.1\nport {port}\ntls off\nauth off\nfrom a@app.test\n"),
    );
    let mail = dir.path().join("mail");
    std::fs::write(&mail, "Subject: from msmtp\n\nGood day.\n").expect("a mail");
    let msmtp = format!("{} -C {file} b@mx.test < {}", demand("msmtp", "msmtp").display(), mail.display());
    finish(Command::new("sh").args(["-c", &msmtp])).must_succeed();
}
