//! `login.oauth2` for mail: Dovecot and Postfix have the tokens checked by the token server that issued them (introspection), or
//! check their signature themselves (JWT).

use std::process::Command;

use data_encoding::BASE64;

use crate::harness::secrets::Secrets;
use crate::harness::server::dovecot_with_oauth2;
use crate::harness::submission::submission_with_oauth2;
use crate::harness::token_server::{Reply, TokenServer, token};
use crate::harness::{Ambassador, Config, Finished, Server, finish, until};

/// Issues `issued`, and says of tokens that those which begin with `live-` are of user `app`.
fn issuer(issued: &'static str) -> TokenServer {
    TokenServer::start(move |_, request| match request.form.get("token") {
        None => Reply::Json(200, token(issued, 3600)),
        Some(shown) if shown.starts_with("live-") => {
            Reply::Json(200, r#"{"active":true,"username":"app"}"#.into())
        }
        Some(_) => Reply::Json(200, r#"{"active":false}"#.into()),
    })
}

/// Dovecot's settings to ask that server about each token.
fn introspection(tokens: &TokenServer) -> String {
    format!(
        "introspection_mode = post\nintrospection_url = {}\nusername_attribute = username\nactive_attribute = active\n\
         active_value = true\ntls_ca_cert_file = DIR/issuer.pem\n",
        tokens.url("/introspect")
    )
}

/// How often the server was asked about a token.
fn introspected(tokens: &TokenServer) -> usize {
    tokens.asked().iter().filter(|request| request.form.contains_key("token")).count()
}

/// A daemon that signs in to that port with what the token server issues, and the client secret's file.
fn to(
    server: &Server,
    port: usize,
    protocol: &str,
    tls: &str,
    tokens: &TokenServer,
) -> (Ambassador, Secrets) {
    let secrets = Secrets::of("c0rrect-h0rse");
    let start = if port >= 5 { ", start: direct" } else { "" };
    let cluster = format!(
        "protocol: {protocol}\n{}\nlogin: {{ as: app, oauth2: {{ ca: {}, token_url: \"{}\", client_id: mail, \
         client_secret: {{ file: {} }} }} }}",
        tls.replace(" }", &format!("{start} }}")),
        tokens.ca(),
        tokens.url("/token"),
        secrets.path().display()
    );
    let config = Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone");
    (Ambassador::start(&config.cluster("up", &[&server.address(port)], &cluster)), secrets)
}

fn python(script: &str, ambassador: &Ambassador) -> Finished {
    let port = ambassador.address("app").port().to_string();
    finish(Command::new("/usr/bin/python3").args(["-c", script, &port]))
}

/// A client of each protocol, with its default settings and a placeholder.
const CLIENTS: [(&str, &str); 3] = [
    (
        "imap",
        "
import imaplib, sys
imap = imaplib.IMAP4('127.0.0.1', int(sys.argv[1]))
imap.login('any', 'thing')
assert imap.select('INBOX')[0] == 'OK'
imap.logout()
",
    ),
    (
        "pop3",
        "
import poplib, sys
pop = poplib.POP3('127.0.0.1', int(sys.argv[1]))
pop.user('any'); pop.pass_('thing')
pop.stat(); pop.quit()
",
    ),
    (
        "managesieve",
        "
import socket, sys
f = socket.create_connection(('127.0.0.1', int(sys.argv[1]))).makefile('rwb')
while not f.readline().startswith(b'OK'):
    pass
f.write(b'LISTSCRIPTS\\r\\nLOGOUT\\r\\n'); f.flush()
told = f.read()
assert told.count(b'OK') == 2, told
",
    ),
];

/// Every protocol on each of its ports at that Dovecot.
fn all_are_signed_in(server: &Server, method: &str, tokens: &TokenServer, secret: &str) {
    for (service, script) in CLIENTS {
        let ports: &[usize] = match service {
            "imap" => &[0, 5],
            "pop3" => &[1, 6],
            _ => &[2],
        };
        for port in ports {
            let protocol = if service == "managesieve" { "sieve" } else { service };
            let (ambassador, _secrets) = to(server, *port, protocol, &server.tls(""), tokens);
            let told = python(script, &ambassador);
            assert_eq!(told.code, 0, "{service}: {}\n{}", told.stderr, server.log());
            let record = ambassador.record();
            assert_eq!((&record["outcome"], &record["login_as"]), (&"completed".into(), &"app".into()));
            let shown = ambassador.lines().join("\n") + &ambassador.status().to_string();
            assert!(!shown.contains(secret), "a token is shown");
        }
        let line = format!("{service}-login: Info: Login: user=<app>, method={method}");
        until("Dovecot tells", || server.log().contains(&line).then_some(()));
    }
}

#[test]
fn dovecot_asks_the_token_server_about_tokens() {
    let tokens = issuer("live-0f3a");
    let issuer = std::fs::read_to_string(tokens.ca()).expect("a CA");
    let server =
        dovecot_with_oauth2("oauthbearer xoauth2", &introspection(&tokens), &[("issuer.pem", &issuer)]);
    all_are_signed_in(&server, "OAUTHBEARER", &tokens, "live-0f3a");
    assert!(introspected(&tokens) >= 5);
}

/// The issuer's key, which Dovecot has.
const KEY: &str = "an issuer's key of 32 bytes, too";

/// A token of `app`, signed by that key, that ends in so many seconds.
fn jwt(key: &str, seconds: i64) -> String {
    let script = "
import jwt, sys, time
now = int(time.time())
print(jwt.encode({'sub': 'app', 'iat': now - 600, 'exp': now + int(sys.argv[2])}, sys.argv[1], algorithm='HS256'))
";
    let made = finish(Command::new("/usr/bin/python3").args(["-c", script, key, &seconds.to_string()]));
    made.must_succeed().stdout.trim().to_owned()
}

fn dovecot_with_key() -> Server {
    let settings = "introspection_mode = local\nlocal_validation_key_dict = fs:posix:prefix=DIR/keys/\nusername_attribute = sub\n";
    let key = BASE64.encode(KEY.as_bytes());
    dovecot_with_oauth2("xoauth2", settings, &[("keys/default/HS256/default", &key)])
}

#[test]
fn dovecot_checks_the_signature_of_tokens() {
    let server = dovecot_with_key();
    let issued: &'static str = jwt(KEY, 600).leak();
    let tokens = issuer(issued);
    all_are_signed_in(&server, "XOAUTH2", &tokens, issued);
    assert_eq!(introspected(&tokens), 0);
}

/// The token server says that the token lives, and the mail server that it has expired, or is signed by somebody else.
#[test]
fn a_token_that_dovecot_rejects_is_shown_once() {
    let server = dovecot_with_key();
    for issued in [jwt(KEY, -60), jwt("another key that has 32 bytes, too", 600)] {
        let issued: &'static str = issued.leak();
        let tokens = issuer(issued);
        for (port, protocol, begin) in [
            (0, "imap", "* BYE [UNAVAILABLE] "),
            (1, "pop3", "-ERR [SYS/TEMP] "),
            (2, "sieve", "\"IMPLEMENTATION\" "),
        ] {
            let asked = || server.log().matches("oauth2(app,127.0.0.1").count();
            let before = asked();
            let (ambassador, _secrets) = to(&server, port, protocol, &server.tls(""), &tokens);
            // A rejected token is tried again after a minute, and Python takes long to start.
            for _ in 0..3 {
                let script = "
import socket, sys
print(socket.create_connection(('127.0.0.1', int(sys.argv[1]))).makefile('rb').read().decode())
";
                let told = python(script, &ambassador).must_succeed().stdout;
                assert!(told.starts_with(begin) && told.contains("rejected the login as app"), "{told}");
            }
            let records = ambassador.wait_records(3);
            assert!(records.iter().all(|record| record["outcome"] == "login_failed"), "{records:?}");
            assert_eq!(ambassador.metrics().sum("logins_total", &[("result", "rejected")]), 1.0);
            let shown = asked() - before;
            assert_eq!(shown, 1, "{protocol}: {}", server.log());
            assert!(!ambassador.lines().join("\n").contains(issued), "a token is shown");
        }
    }
}

const SMTPLIB: &str = "
import smtplib, sys
with smtplib.SMTP('127.0.0.1', int(sys.argv[1])) as smtp:
    smtp.login('any', 'thing')
    assert smtp.sendmail('tokens@app.test', ['b@mx.test'], 'Subject: hi\\r\\n\\r\\nhello\\r\\n') == {}
";

#[test]
fn postfix_takes_a_token_that_dovecots_sasl_has_checked() {
    for (mechanism, method) in [("oauthbearer", "OAUTHBEARER"), ("xoauth2", "XOAUTH2")] {
        let tokens = issuer("live-0f3a");
        let settings = introspection(&tokens).replace("DIR/issuer.pem", &tokens.ca());
        let (sasl, server) = submission_with_oauth2(mechanism, &settings);
        let (ambassador, _secrets) = to(&server, 0, "smtp", &server.tls(""), &tokens);
        let told = python(SMTPLIB, &ambassador);
        assert_eq!(told.code, 0, "{}\n{}\n{}", told.stderr, sasl.log(), server.log());
        let line = format!("sasl_method={method}, sasl_username=app");
        until("Postfix tells", || server.log().contains(&line).then_some(()));
        assert_eq!(ambassador.record()["login_as"], "app");
    }
    let tokens = issuer("dead-0f3a");
    let settings = introspection(&tokens).replace("DIR/issuer.pem", &tokens.ca());
    let (_sasl, server) = submission_with_oauth2("oauthbearer xoauth2", &settings);
    let (ambassador, _secrets) = to(&server, 0, "smtp", &server.tls(""), &tokens);
    for _ in 0..3 {
        let told = python(SMTPLIB, &ambassador).must_exit(1).stderr;
        assert!(told.contains("(421, b'4.7.0 ambassador: login_failed: "), "{told}");
    }
    let records = ambassador.wait_records(3);
    assert!(records.iter().all(|record| record["outcome"] == "login_failed"), "{records:?}");
    assert_eq!(introspected(&tokens), 1, "the mail server was shown it once");
}
