//! `login.token` and `login.nkey`: NATS servers that know tokens, nkeys, and users by JWT, and a daemon that signs in for clients
//! without any of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

use crate::harness::server::nats_with;
use crate::harness::{Ambassador, Client, Config, Server, ambassador as command, finish};

/// A key of NATS, written by the rules of its own library: types of bytes, and CRC-16/XMODEM.
struct Nkey {
    kind: u8,
    key: SigningKey,
}

const OPERATOR: u8 = 14 << 3;
const ACCOUNT: u8 = 0;
const USER: u8 = 20 << 3;
const SEED: u8 = 18 << 3;

fn in_letters(bytes: &[u8]) -> String {
    let mut sum: u16 = 0;
    for byte in bytes {
        sum ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            sum = if sum & 0x8000 == 0 { sum << 1 } else { sum << 1 ^ 0x1021 };
        }
    }
    BASE32_NOPAD.encode(&[bytes, &sum.to_le_bytes()].concat())
}

impl Nkey {
    fn new(kind: u8, seed: u8) -> Self {
        Self { kind, key: SigningKey::from_bytes(&[seed; 32]) }
    }

    fn public(&self) -> String {
        in_letters(&[&[self.kind][..], self.key.verifying_key().as_bytes()].concat())
    }

    fn seed(&self) -> String {
        in_letters(&[&[SEED | self.kind >> 5, (self.kind & 31) << 3][..], &self.key.to_bytes()].concat())
    }

    /// A JWT about `of`, signed by this key.
    fn signs(&self, of: &Self, nats: &Value) -> String {
        let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
        let claims = json!({ "jti": "x", "iat": 1_700_000_000, "iss": self.public(), "name": "it", "sub": of.public(), "nats": nats });
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = BASE64URL_NOPAD.encode(&self.key.sign(signed.as_bytes()).to_bytes());
        format!("{signed}.{signature}")
    }
}

/// An operator with one account, as the server's configuration has it.
fn operator(account: &Nkey) -> String {
    let operator = Nkey::new(OPERATOR, 1);
    let own = operator.signs(&operator, &json!({ "type": "operator", "version": 2 }));
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let nats = json!({ "limits": limits, "default_permissions": { "pub": {}, "sub": {} }, "type": "account", "version": 2 });
    let of_account = operator.signs(account, &nats);
    format!("operator: {own}\nresolver: MEMORY\nresolver_preload: {{ {}: {of_account} }}", account.public())
}

/// A `.creds` file of that user.
fn creds(account: &Nkey, user: &Nkey) -> String {
    let nats =
        json!({ "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2 });
    format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         ************************* IMPORTANT *************************\n\
         NKEY Seed printed below can be used to sign and prove identity.\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        account.signs(user, &nats),
        user.seed()
    )
}

/// A file in a directory of its own, which is replaced as issuers of credentials do.
struct Secret(tempfile::TempDir);

impl Secret {
    fn of(content: &str) -> Self {
        let secret = Self(tempfile::tempdir().expect("a temporary directory"));
        secret.write(content);
        secret
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("secret")
    }

    fn write(&self, content: &str) {
        let new = self.0.path().join("new");
        fs::write(&new, content).expect("a file");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("a mode");
        fs::rename(new, self.path()).expect("a replaced file");
    }
}

fn line(client: &mut Client) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(client.receive(1));
    }
    String::from_utf8(line).expect("text")
}

fn config(server: &Server, source: &str, secret: &Secret) -> Config {
    let login = format!("login: {{ {source}: {{ file: {} }} }}", secret.path().display());
    let cluster = format!("protocol: nats\n{}\n{login}", server.tls(""));
    Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone").cluster(
        "up",
        &[&server.address(0)],
        &cluster,
    )
}

/// A client without credentials, and with those of nobody.
fn is_served(ambassador: &Ambassador) {
    for options in [
        "{\"verbose\":false,\"protocol\":1}",
        "{\"verbose\":false,\"user\":\"x\",\"pass\":\"y\",\"auth_token\":\"z\",\"nkey\":\"U\",\"sig\":\"s\",\"jwt\":\"j\"}",
    ] {
        let mut client = ambassador.connect();
        assert!(line(&mut client).starts_with("INFO {"));
        client.send(format!("CONNECT {options}\r\nSUB here 1\r\nPUB here 5\r\nhello\r\nPING\r\n"));
        let mut told = String::new();
        while !told.ends_with("PONG\r\n") {
            told.push_str(&line(&mut client));
        }
        assert!(told.contains("MSG here 1 5\r\nhello\r\n"), "{options}: {told}");
    }
}

/// With the right content: served, and checked. With a wrong one: the server is asked once for ten sessions, and the right
/// one counts as soon as it is there.
fn signs_in(server: &Server, source: &str, right: &str, wrong: &str, user: &str, secrets: &[&str]) {
    let secret = Secret::of(right);
    let config = config(server, source, &secret);
    let ambassador = Ambassador::start(&config);
    is_served(&ambassador);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("listeners.yaml");
    fs::write(&path, config.render(dir.path())).expect("a file to check");
    let told = finish(command().args(["check", "--connect", "--config"]).arg(&path)).must_succeed().stdout;
    assert!(told.contains(&format!("  login      ok      as {user}")), "{told}");
    shows_no_secret(&ambassador, secrets);

    secret.write(wrong);
    let ambassador = Ambassador::start(&config);
    let errors = || server.log().matches("authentication error").count();
    let before = errors();
    for round in 0..10 {
        let (told, _) = ambassador.connect().read_out();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains("-ERR 'ambassador: login_failed: "), "{round}: {told}");
        assert!(told.contains("Authorization Violation"), "{round}: {told}");
    }
    assert_eq!(errors() - before, 1, "{}", server.log());
    let metrics = ambassador.metrics();
    assert_eq!(metrics.sum("logins_total", &[("result", "rejected")]), 1.0);
    assert_eq!(metrics.sum("logins_total", &[("result", "paused")]), 9.0);
    assert_eq!((metrics.sum("ejections_total", &[]), metrics.sum("breaker_state", &[])), (0.0, 0.0));
    secret.write(right);
    ambassador.wait_line("a credential for signing in was read");
    is_served(&ambassador);
    shows_no_secret(&ambassador, secrets);
}

fn shows_no_secret(ambassador: &Ambassador, secrets: &[&str]) {
    let status = ambassador.status().to_string();
    for text in [ambassador.lines().join("\n"), ambassador.get("/metrics").body, status] {
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "a secret is shown");
    }
}

#[test]
fn a_token_signs_in_without_a_user() {
    let server = nats_with("", "authorization { token: \"s3cr3t token\" }");
    signs_in(&server, "token", "s3cr3t token\n", "guess\n", "the token's user", &["s3cr3t", "guess"]);
}

#[test]
fn an_nkey_signs_the_servers_nonce() {
    let (right, wrong) = (Nkey::new(USER, 7), Nkey::new(USER, 8));
    let server = nats_with("", &format!("authorization {{ users: [ {{ nkey: {} }} ] }}", right.public()));
    let secrets = [&*right.seed(), &wrong.seed()];
    signs_in(&server, "nkey", &right.seed(), &wrong.seed(), &right.public(), &secrets);
}

#[test]
fn a_creds_file_signs_in_with_its_jwt() {
    let (account, other) = (Nkey::new(ACCOUNT, 2), Nkey::new(ACCOUNT, 3));
    let (user, server) = (Nkey::new(USER, 7), nats_with("", &operator(&account)));
    let (right, wrong) = (creds(&account, &user), creds(&other, &user));
    signs_in(&server, "nkey", &right, &wrong, &user.public(), &[&user.seed(), "eyJ"]);
}

/// A server that has no nonce to sign is told apart from one that rejects: it has seen nothing.
#[test]
fn a_server_without_a_nonce_is_asked_for_nothing() {
    let server = nats_with("", "authorization { token: \"s3cr3t token\" }");
    let secret = Secret::of(&Nkey::new(USER, 7).seed());
    let ambassador = Ambassador::start(&config(&server, "nkey", &secret));
    let (told, _) = ambassador.connect().read_out();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.contains("no login that suits an nkey: its INFO has no nonce to sign"), "{told}");
}
