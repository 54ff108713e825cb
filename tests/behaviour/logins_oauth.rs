//! `login.oauth2`: tokens for signing in, against a token server and a PostgreSQL server that takes them (OAUTHBEARER).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::pgwire::{accept_ssl, app_startup, message, read_startup, sasl_offer, welcome};
use crate::harness::token_server::{Reply, TokenServer, token};
use crate::harness::{
    Ambassador, Client, Config, Conn, Pki, ServerTls, Upstream, ambassador, finish, until, until_within, wait,
};

pub(crate) const SECRET: &str = "c0rrect-h0rse";

/// A PostgreSQL server that takes some tokens, and what it was shown.
pub(crate) struct Database {
    pub(crate) upstream: Upstream,
    pub(crate) pki: Pki,
    taken: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Database {
    /// Takes tokens with one of these prefixes.
    pub(crate) fn that_takes(prefixes: &'static [&'static str]) -> Self {
        let pki = Pki::new();
        let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).alpn(&["postgresql"]).build();
        let taken = Arc::<Mutex<Vec<_>>>::default();
        let shown = Arc::clone(&taken);
        let upstream = Upstream::plain(move |conn| {
            let (tls, shown) = (Arc::clone(&tls), Arc::clone(&shown));
            async move {
                let Some(conn) = accept_ssl(conn, tls).await else { return };
                let _ = database(conn, &shown, prefixes).await;
            }
        });
        Self { upstream, pki, taken }
    }

    /// The tokens that it was shown, in order.
    pub(crate) fn taken(&self) -> Vec<String> {
        self.taken_at().into_iter().map(|(token, _)| token).collect()
    }

    /// The same, with the moments.
    pub(crate) fn taken_at(&self) -> Vec<(String, Instant)> {
        self.taken.lock().expect("tokens nobody poisoned").clone()
    }
}

async fn database(mut conn: Conn, shown: &Mutex<Vec<(String, Instant)>>, prefixes: &[&str]) -> Option<()> {
    read_startup(&mut conn).await?;
    conn.write_all(&sasl_offer(&["OAUTHBEARER"])).await.ok()?;
    conn.flush().await.ok()?;
    let first = read_message(&mut conn).await?;
    let token = first.split("auth=Bearer ").nth(1)?.split('\u{1}').next()?.to_owned();
    shown.lock().expect("tokens nobody poisoned").push((token.clone(), Instant::now()));
    if prefixes.iter().any(|prefix| token.starts_with(prefix)) {
        conn.write_all(&welcome()).await.ok()?;
        conn.flush().await.ok()?;
        crate::harness::roles::echo(conn).await;
        return Some(());
    }
    conn.write_all(&message(b'R', b"\0\0\0\x0b{\"status\":\"invalid_token\"}")).await.ok()?;
    conn.flush().await.ok()?;
    read_message(&mut conn).await?;
    let error = b"SFATAL\0VFATAL\0C28000\0MOAuth bearer authentication failed for user \"app\"\0\0";
    conn.write_all(&message(b'E', error)).await.ok()?;
    conn.flush().await.ok()
}

async fn read_message(conn: &mut Conn) -> Option<String> {
    conn.read_u8().await.ok()?;
    let length = usize::try_from(conn.read_u32().await.ok()?).ok()?.checked_sub(4)?;
    let mut body = vec![0; length];
    conn.read_exact(&mut body).await.ok()?;
    Some(String::from_utf8_lossy(&body).into_owned())
}

/// Files that a test makes.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        let files = Self(tempfile::tempdir().expect("a temporary directory"));
        files.write("secret", SECRET);
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn show(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        let new = self.path("new");
        fs::write(&new, content).expect("a file");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("a mode");
        fs::rename(new, self.path(name)).expect("a replaced file");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("a readable file")
    }
}

pub(crate) fn config(database: &Database, tokens: &TokenServer, oauth2: &str) -> Config {
    let listener = "bind: 127.0.0.1:0\ncluster: up\nallow: anyone\nmax_connections: 5000";
    let login = format!("login: {{ as: app, oauth2: {{ ca: {}, {oauth2} }} }}", tokens.ca());
    let limits = "limits: { max_connections: 5000, max_connections_per_endpoint: 5000, max_pending: 5000 }";
    let connect = "connect: { deadline: 25s, timeout: 20s, handshake_timeout: 20s, hedge_after: none }";
    let cluster = format!(
        "protocol: postgres\ntls: {{ ca: {} }}\n{connect}\n{limits}\n{login}",
        database.pki.ca().display()
    );
    Config::new().listener("app", listener).cluster("up", &[&database.upstream.address()], &cluster)
}

/// The keys of client credentials with a secret.
pub(crate) fn by_secret(tokens: &TokenServer, files: &Files) -> String {
    format!(
        "token_url: \"{}\", client_id: the-client, client_secret: {{ file: {} }}, scopes: [read, write]",
        tokens.url("/token"),
        files.show("secret")
    )
}

pub(crate) fn start(database: &Database, tokens: &TokenServer, files: &Files) -> Ambassador {
    Ambassador::start(&config(database, tokens, &by_secret(tokens, files)))
}

pub(crate) fn begin(ambassador: &Ambassador) -> Client {
    let mut client = ambassador.connect();
    client.send(app_startup());
    client
}

/// A whole session.
#[track_caller]
pub(crate) fn use_it(ambassador: &Ambassador) {
    let mut client = begin(ambassador);
    client.expect(welcome());
    client.echo("select");
}

#[track_caller]
pub(crate) fn must_not_show(ambassador: &Ambassador, secrets: &[&str]) {
    let texts = [
        ambassador.lines().join("\n"),
        ambassador.get("/metrics").body,
        ambassador.get("/status").body,
        ambassador.get("/").body,
    ];
    for (text, secret) in texts.iter().flat_map(|text| secrets.iter().map(move |secret| (text, secret))) {
        assert!(!text.contains(secret), "{secret} is shown in {text}");
    }
}

pub(crate) fn login_status(ambassador: &Ambassador) -> Value {
    let status = ambassador.status();
    let all = status["credentials"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["kind"] == "login").expect("the login is in /status")
}

/// The aim of issue 17: any number of sessions that miss a token are one question.
#[test]
fn a_thousand_sessions_at_once_are_one_request() {
    let files = Files::new();
    let database = Database::that_takes(&["good"]);
    let tokens = TokenServer::start(|_, _| Reply::Held(token("good-token", 3600)));
    let ambassador = start(&database, &tokens, &files);
    let mut clients: Vec<_> = (0..1000).map(|_| begin(&ambassador)).collect();
    ambassador.wait_active(1000);
    tokens.release();
    for client in &mut clients {
        client.expect(welcome());
    }
    let asked = tokens.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    let form = |name: &str| asked[0].form.get(name).map(String::as_str);
    assert_eq!(form("grant_type"), Some("client_credentials"));
    assert_eq!((form("client_id"), form("client_secret")), (Some("the-client"), Some(SECRET)));
    assert_eq!(form("scope"), Some("read write"));
    assert!(asked[0].head.starts_with("POST /token HTTP/1.1\r\n"), "{}", asked[0].head);
    drop(clients);
    // Neither reads that find nothing new nor a reload are a reason to ask.
    ambassador.signal(rustix::process::Signal::HUP);
    ambassador.wait_line("reload");
    use_it(&ambassador);
    assert_eq!(tokens.asked().len(), 1);
    assert!(login_status(&ambassador)["expires"].is_u64(), "its end is in /status");
    must_not_show(&ambassador, &[SECRET, "good-token"]);
}

#[test]
fn a_short_lived_token_is_renewed_ahead_and_sessions_go_on() {
    // A fifth of it, less the jitter, is what a busy host may take to renew a token.
    const LIFE: Duration = Duration::from_secs(15);
    let files = Files::new();
    let database = Database::that_takes(&["good"]);
    let given = Arc::<Mutex<Vec<Instant>>>::default();
    let giving = Arc::clone(&given);
    let tokens = TokenServer::start(move |number, _| {
        giving.lock().expect("moments nobody poisoned").push(Instant::now());
        Reply::Json(200, token(&format!("good-{number}"), LIFE.as_secs() as u32))
    });
    let ambassador = start(&database, &tokens, &files);
    // Session after session over two lives; none waits for a token.
    until_within(3 * LIFE, "the third token was shown", || {
        use_it(&ambassador);
        database.taken_at().iter().any(|(token, _)| token == "good-2").then_some(())
    });
    let records = ambassador.records();
    assert!(records.iter().all(|record| record["outcome"] == "completed"), "{records:?}");
    // None was shown past its end, and there was one request for each four fifths of a life.
    let given = given.lock().expect("moments nobody poisoned").clone();
    for (token, at) in database.taken_at() {
        let number: usize = token.strip_prefix("good-").and_then(|number| number.parse().ok()).expect("ours");
        assert!(at - given[number] < LIFE, "{token} after {:?}", at - given[number]);
    }
    for pair in given.windows(2) {
        // Its end is in whole seconds.
        assert!(pair[1] - pair[0] > LIFE * 4 / 5 - Duration::from_secs(2), "{:?}", pair[1] - pair[0]);
    }
    must_not_show(&ambassador, &[SECRET, "good-1"]);
}

#[test]
fn a_token_that_still_lives_is_used_through_an_outage() {
    let files = Files::new();
    let database = Database::that_takes(&["good"]);
    let tokens = TokenServer::start(|_, _| Reply::Json(200, token("good-token", 20)));
    let ambassador = start(&database, &tokens, &files);
    use_it(&ambassador);
    tokens.answer(|_, _| Reply::Close);
    tokens.wait_asked(2);
    ambassador.wait_line("no new credential for signing in: https://127.0.0.1:");
    use_it(&ambassador);
    let error = login_status(&ambassador)["error"].as_str().unwrap_or_default().to_owned();
    assert!(error.contains("waiting for the answer failed"), "{error}");
    tokens.answer(|_, _| Reply::Json(200, token("good-again", 3600)));
    until("the next token is there", || {
        use_it(&ambassador);
        database.taken().iter().any(|token| token == "good-again").then_some(())
    });
    assert!(login_status(&ambassador)["error"].is_null());
    must_not_show(&ambassador, &[SECRET, "good-token"]);
}

#[test]
fn what_is_no_token_is_told_and_a_redirect_is_not_followed() {
    let files = Files::new();
    let database = Database::that_takes(&["good"]);
    let elsewhere = TokenServer::start(|_, _| Reply::Json(200, token("good-token", 3600)));
    let there = elsewhere.url("/token");
    let described = format!("AADSTS7000215: Invalid\\r\\nclient {}", "x".repeat(500));
    let running = [
        (Reply::Redirect(there), "answers by a redirect (HTTP 302), which is not followed"),
        (
            Reply::Json(400, format!(r#"{{"error":"invalid_client","error_description":"{described}"}}"#)),
            "invalid_client: AADSTS7000215: Invalid client xxx",
        ),
        (
            Reply::Json(400, format!(r#"{{"error":"e","error_description":"bad secret {SECRET}"}}"#)),
            "e: (its words repeat a secret, and are not shown)",
        ),
        (Reply::Json(503, "<html>".into()), "HTTP 503 without an OAuth 2.0 error body"),
        (Reply::Close, "waiting for the answer failed"),
        (Reply::Json(200, " ".repeat(70_000)), "answers with more than 65536 bytes"),
        // Longer than the deadline of a request.
        (Reply::Held(String::new()), "no answer within 10s ("),
        (Reply::Endless { is_fast: false }, "no answer within 10s ("),
        (Reply::Endless { is_fast: true }, "answers with more than 65536 bytes"),
    ]
    .map(|(reply, expected)| {
        let tokens = TokenServer::start(move |_, _| reply.clone());
        let ambassador = start(&database, &tokens, &files);
        (tokens, ambassador, expected)
    });
    for (_tokens, ambassador, expected) in running {
        let line = ambassador.wait_line("no new credential for signing in");
        assert!(line.contains(expected) && line.contains("https://127.0.0.1:"), "{expected}: {line}");
        assert!(line.len() < 800, "{line}");
        must_not_show(&ambassador, &[SECRET]);
    }
    assert!(elsewhere.asked().is_empty(), "a redirect was followed");
}

#[test]
fn a_session_without_a_token_is_told_in_its_protocol() {
    let files = Files::new();
    let database = Database::that_takes(&["good"]);
    let tokens = TokenServer::start(|_, _| Reply::Json(400, r#"{"error":"invalid_scope"}"#.into()));
    let cluster = format!(
        "protocol: postgres\ntls: {{ ca: {} }}\nconnect: {{ deadline: 2s }}\nlogin: {{ as: app, oauth2: {{ ca: {}, {} }} }}",
        database.pki.ca().display(),
        tokens.ca(),
        by_secret(&tokens, &files)
    );
    let listener = "bind: 127.0.0.1:0\ncluster: up\nallow: anyone";
    let address = database.upstream.address();
    let ambassador =
        Ambassador::start(&Config::new().listener("app", listener).cluster("up", &[&address], &cluster));
    let mut client = begin(&ambassador);
    let (kind, body) = crate::harness::pgwire::read_message(&mut client);
    let told = String::from_utf8_lossy(&body).into_owned();
    assert!(kind == b'E' && told.contains("invalid_scope"), "{told}");
    assert_eq!(ambassador.record()["outcome"], "login_failed");
    assert_eq!(database.taken().len(), 0);
}

/// Scenario: the server takes no token at all, and each new token would be a new credential, tried at once: the server saw two
/// logins a second, and so did the token endpoint.
#[test]
fn a_server_that_rejects_every_token_is_not_asked_again_and_again() {
    let files = Files::new();
    let database = Database::that_takes(&[]);
    let tokens = TokenServer::start(|number, _| Reply::Json(200, token(&format!("bad-{number}"), 3600)));
    let ambassador = start(&database, &tokens, &files);
    for _ in 0..10 {
        let mut client = begin(&ambassador);
        let (kind, body) = crate::harness::pgwire::read_message(&mut client);
        let told = String::from_utf8_lossy(&body).into_owned();
        assert!(kind == b'E' && told.contains("OAuth bearer authentication failed"), "{told}");
    }
    // The token may have been revoked, so another one was asked for, once.
    tokens.wait_asked(2);
    until("the second token was tried", || {
        let mut client = begin(&ambassador);
        crate::harness::pgwire::read_message(&mut client);
        (database.taken().len() >= 2).then_some(())
    });
    for _ in 0..10 {
        let mut client = begin(&ambassador);
        crate::harness::pgwire::read_message(&mut client);
    }
    assert_eq!((database.taken(), tokens.asked().len()), (vec!["bad-0".into(), "bad-1".into()], 2));
    must_not_show(&ambassador, &[SECRET, "bad-0", "bad-1"]);
}

/// The daemon runs with Landlock where the kernel has it, so this also shows that the folder may be written to.
#[test]
fn a_rotated_refresh_token_is_written_and_used() {
    let files = Files::new();
    fs::create_dir(files.path("state")).expect("a folder");
    files.write("state/refresh", "refresh-0\n");
    let database = Database::that_takes(&["good"]);
    let tokens = TokenServer::start(|number, request| {
        if request.form.get("refresh_token") != Some(&format!("refresh-{number}")) {
            return Reply::Json(400, r#"{"error":"invalid_grant"}"#.into());
        }
        let body = token(&format!("good-{number}"), 4);
        Reply::Json(200, body.replace('}', &format!(r#","refresh_token":"refresh-{}"}}"#, number + 1)))
    });
    let keys = format!(
        "token_url: \"{}\", client_id: the-client, refresh_token: {{ file: {} }}, scopes: [mail, offline_access]",
        tokens.url("/token"),
        files.show("state/refresh")
    );
    let ambassador = Ambassador::start(&config(&database, &tokens, &keys));
    use_it(&ambassador);
    let asked = tokens.wait_asked(3);
    assert!(asked.iter().all(|request| request.form["grant_type"] == "refresh_token"), "{asked:?}");
    assert_eq!(asked[0].form["client_id"], "the-client");
    until("the third token is in the file", || {
        files.read("state/refresh").starts_with("refresh-3").then_some(())
    });
    let mode = fs::metadata(files.path("state/refresh")).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    use_it(&ambassador);
    // One for each life: what the daemon writes itself is no reason to ask.
    assert!(tokens.asked().len() <= 4, "{}", tokens.asked().len());
    must_not_show(&ambassador, &["refresh-0", "refresh-1", "good-1"]);
}

/// `ambassador sign-in`, while the daemon runs without a refresh token.
#[test]
fn a_person_signs_in_by_the_device_grant() {
    let files = Files::new();
    fs::create_dir(files.path("state")).expect("a folder");
    let database = Database::that_takes(&["good"]);
    let tokens = TokenServer::start(|_, request| {
        let told = |error: &str| Reply::Json(400, format!(r#"{{"error":"{error}"}}"#));
        if request.head.starts_with("POST /device ") {
            let codes = r#"{"device_code":"dev-1ce","user_code":"WDJB-MJHT","verification_uri":"https://login.test/device",
                "expires_in":900,"interval":1}"#;
            return Reply::Json(200, codes.into());
        }
        match request.form.get("refresh_token") {
            Some(refresh) if refresh == "by-a-person" => Reply::Json(200, token("good-token", 3600)),
            Some(_) => told("invalid_grant"),
            None => told("authorization_pending"),
        }
    });
    let keys = format!(
        "token_url: \"{}\", device_url: \"{}\", client_id: the-client, refresh_token: {{ file: {} }}, scopes: [offline_access]",
        tokens.url("/token"),
        tokens.url("/device"),
        files.show("state/refresh")
    );
    let config = config(&database, &tokens, &keys);
    let running = Ambassador::start(&config);
    let line = running.wait_line("no new credential for signing in");
    assert!(line.contains("`ambassador sign-in` gets one"), "{line}");
    assert_eq!(tokens.asked().len(), 0);

    let path = files.path("listeners.yaml");
    fs::write(&path, config.render(files.0.path())).expect("a file to sign in with");
    let mut command = ambassador();
    command.args(["sign-in", "up", "--config"]).arg(&path);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("the binary starts");
    let asked = tokens.wait_asked(3);
    assert_eq!(asked[0].form["scope"], "offline_access");
    assert_eq!(asked[1].form["grant_type"], "urn:ietf:params:oauth:grant-type:device_code");
    assert_eq!(asked[1].form["device_code"], "dev-1ce");
    tokens.answer(|_, request| match request.form.get("refresh_token") {
        Some(refresh) if refresh == "by-a-person" => Reply::Json(200, token("good-token", 3600)),
        Some(_) => Reply::Close,
        None => Reply::Json(200, token("of-no-use", 60).replace('}', r#","refresh_token":"by-a-person"}"#)),
    });
    let told = wait(child).must_succeed().stdout;
    assert!(told.contains("Open https://login.test/device and enter the code WDJB-MJHT"), "{told}");
    assert!(!told.contains("by-a-person") && !told.contains("dev-1ce"), "{told}");
    assert_eq!(files.read("state/refresh"), "by-a-person\n");
    running.wait_line("a credential for signing in was read");
    use_it(&running);
    must_not_show(&running, &["by-a-person", "good-token"]);
}

#[test]
fn a_sign_in_ends_with_the_servers_reason() {
    let files = Files::new();
    let database = Database::that_takes(&[]);
    for (error, expected) in [
        ("access_denied", "the person has refused"),
        ("expired_token", "the code has expired"),
        ("invalid_client", "invalid_client"),
    ] {
        let tokens = TokenServer::start(move |_, request| {
            if request.head.starts_with("POST /device ") {
                let codes = r#"{"device_code":"dev-1ce","user_code":"U","verification_url":"https://login.test/","expires_in":60,"interval":1}"#;
                return Reply::Json(200, codes.into());
            }
            Reply::Json(400, format!(r#"{{"error":"{error}"}}"#))
        });
        let keys = format!(
            "token_url: \"{}\", device_url: \"{}\", client_id: c, refresh_token: {{ file: {} }}",
            tokens.url("/token"),
            tokens.url("/device"),
            files.show("refresh")
        );
        let path = files.path("listeners.yaml");
        fs::write(&path, config(&database, &tokens, &keys).render(files.0.path())).expect("a file");
        let finished = finish(ambassador().args(["sign-in", "up", "--config"]).arg(&path));
        finished.must_exit(1).must_print(expected);
        assert!(!files.path("refresh").exists());
    }
}

/// Runs Python with these arguments; what it prints is JSON.
#[track_caller]
pub(crate) fn python(script: &str, arguments: &[&str]) -> Value {
    let told = finish(Command::new("/usr/bin/python3").arg("-c").arg(script).args(arguments)).must_succeed();
    serde_json::from_str(&told.stdout).unwrap_or_else(|error| panic!("{error} in {}", told.stdout))
}

/// Verifies by PyJWT, and gives header and claims.
pub(crate) const DECODE: &str = "
import sys, json, jwt
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_public_key
token, pem, audience = sys.argv[1:]
data = open(pem, 'rb').read()
key = x509.load_pem_x509_certificate(data).public_key() if b'CERTIFICATE' in data else load_pem_public_key(data)
header = jwt.get_unverified_header(token)
claims = jwt.decode(token, key, algorithms=[header['alg']], audience=audience)
print(json.dumps({'header': header, 'claims': claims}))
";

/// What msal sends for the same certificate.
const MSAL: &str = "
import sys, json, jwt, base64, hashlib
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msal.oauth2cli import JwtAssertionCreator
key, pem, audience, algorithm = sys.argv[1:]
cert = x509.load_pem_x509_certificate(open(pem, 'rb').read())
digest = hashlib.sha256(cert.public_bytes(Encoding.DER)).digest()
made = JwtAssertionCreator(open(key).read(), algorithm=algorithm,
    headers={'x5t#S256': base64.urlsafe_b64encode(digest).decode().rstrip('=')})
token = made.create_normal_assertion(audience=audience, issuer='the-client')
token = token.decode() if isinstance(token, bytes) else token
claims = jwt.decode(token, options={'verify_signature': False})
print(json.dumps({'header': jwt.get_unverified_header(token), 'claims': claims}))
";

#[test]
fn a_client_assertion_is_what_msal_makes_of_the_same_certificate() {
    let database = Database::that_takes(&["good"]);
    let tokens = TokenServer::start(|_, _| Reply::Json(200, token("good-token", 3600)));
    for (leaf, algorithm, given) in [
        (tokens.pki().rsa_client("rsa"), "PS256", ""),
        (tokens.pki().rsa_client("rsa-too"), "RS256", ", algorithm: RS256"),
        (tokens.pki().client("ec"), "ES256", ""),
    ] {
        let (key, cert) = (leaf.key.display().to_string(), leaf.cert.display().to_string());
        let url = tokens.url("/token");
        let keys = format!(
            "token_url: \"{url}\", client_id: the-client, client_assertion: {{ key: {key}, cert: {cert}{given} }}"
        );
        let before = tokens.asked().len();
        let ambassador = Ambassador::start(&config(&database, &tokens, &keys));
        use_it(&ambassador);
        let request = tokens.asked().remove(before);
        assert_eq!(
            request.form["client_assertion_type"],
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        );
        assert!(!request.form.contains_key("client_secret"));
        let assertion = &request.form["client_assertion"];
        let ours = python(DECODE, &[assertion, &cert, &url]);
        let theirs = python(MSAL, &[&key, &cert, &url, algorithm]);
        assert_eq!(ours["header"], theirs["header"]);
        for field in ["aud", "iss", "sub"] {
            assert_eq!(ours["claims"][field], theirs["claims"][field], "{field}");
        }
        let life = |made: &Value| made["claims"]["exp"].as_f64().zip(made["claims"]["iat"].as_f64());
        assert_eq!(
            life(&ours).map(|(end, begin)| (end - begin).round()),
            life(&theirs).map(|(end, begin)| (end - begin).round())
        );
        let fields = |made: &Value| {
            let claims = made["claims"].as_object().cloned().unwrap_or_default();
            let names = claims.into_iter().map(|(name, _)| name).filter(|name| name != "nbf");
            names.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(fields(&ours), fields(&theirs));
        must_not_show(&ambassador, &[assertion]);
    }
}

/// What google-auth makes of the same service account.
pub(crate) const GOOGLE: &str = "
import sys, json, jwt
from google.oauth2 import service_account
path, scopes, subject = sys.argv[1:]
made = service_account.Credentials.from_service_account_file(path, scopes=scopes.split(), subject=subject or None)
token = made._make_authorization_grant_assertion().decode()
print(json.dumps({'header': jwt.get_unverified_header(token), 'claims': jwt.decode(token, options={'verify_signature': False})}))
";

#[test]
fn a_service_accounts_assertion_is_what_google_auth_makes_of_it() {
    let files = Files::new();
    let database = Database::that_takes(&["good"]);
    let tokens = TokenServer::start(|_, _| Reply::Json(200, token("good-token", 3600)));
    let leaf = tokens.pki().rsa_client("service");
    let account = json!({
        "type": "service_account",
        "client_email": "app@project.iam.example.com",
        "private_key_id": "k1",
        "private_key": fs::read_to_string(&leaf.key).expect("a key"),
        "token_uri": tokens.url("/google"),
    });
    files.write("account.json", &account.to_string());
    let keys = format!(
        "service_account: {{ file: {}, subject: alerts@example.com }}, scopes: [read, write]",
        files.show("account.json")
    );
    let ambassador = Ambassador::start(&config(&database, &tokens, &keys));
    use_it(&ambassador);
    let request = tokens.asked().remove(0);
    assert!(request.head.starts_with("POST /google "), "{}", request.head);
    assert_eq!(request.form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    assert_eq!(request.form.len(), 2, "{request:?}");
    let assertion = &request.form["assertion"];
    let ours = python(DECODE, &[assertion, &leaf.cert.display().to_string(), &tokens.url("/google")]);
    let theirs = python(GOOGLE, &[&files.show("account.json"), "read write", "alerts@example.com"]);
    assert_eq!(ours["header"], theirs["header"]);
    for field in ["iss", "sub", "scope"] {
        assert_eq!(ours["claims"][field], theirs["claims"][field], "{field}");
    }
    let life = |made: &Value| made["claims"]["exp"].as_f64().zip(made["claims"]["iat"].as_f64());
    assert_eq!(life(&ours).map(|(end, begin)| (end - begin).round()), Some(3600.0));
    assert_eq!(life(&theirs).map(|(end, begin)| (end - begin).round()), Some(3600.0));
    assert_eq!(
        ours["claims"].as_object().map(|claims| claims.len()),
        theirs["claims"].as_object().map(|claims| claims.len())
    );
    must_not_show(&ambassador, &[assertion, "BEGIN PRIVATE KEY"]);
}

#[test]
fn what_does_not_go_together_is_a_mistake_with_its_place() {
    let files = Files::new();
    let database = Database::that_takes(&[]);
    let tokens = TokenServer::start(|_, _| Reply::Close);
    let rsa = tokens.pki().rsa_client("rsa");
    let other = tokens.pki().rsa_client("other");
    let (key, cert) = (rsa.key.display(), other.cert.display());
    let secret = format!("client_secret: {{ file: {} }}", files.show("secret"));
    let url = "token_url: \"https://login.test/token\"";
    files.write("empty", "");
    files.write("account.json", "{\"private_key\": \"hunter2\"}");
    for (keys, expected) in [
        (format!("client_id: c, {secret}"), "needs `token_url`"),
        (format!("{url}, {secret}"), "needs `client_id`"),
        (format!("{url}, client_id: c"), "has no proof of who asks"),
        (
            format!("token_url: \"http://login.test/token\", client_id: c, {secret}"),
            "`token_url` has no TLS: secrets travel by https only",
        ),
        (
            format!("token_url: \"https://u:p@login.test/\", client_id: c, {secret}"),
            "`token_url` has a user or password in it",
        ),
        (
            format!("{url}, client_id: c, client_secret: {{ file: {} }}", files.show("empty")),
            "empty is empty",
        ),
        (format!("{url}, client_id: c, client_secret: {{ file: /no/such }}"), "cannot read /no/such"),
        (
            format!("{url}, client_id: c, client_assertion: {{ key: {key}, cert: {cert} }}"),
            "is the certificate of another key",
        ),
        (
            format!("{url}, client_id: c, client_assertion: {{ key: {key}, algorithm: ES256 }}"),
            "is an RSA key, which cannot sign by ES256",
        ),
        (
            format!("{url}, client_id: c, {secret}, client_assertion: {{ key: {key} }}"),
            "takes the place of `client_secret`",
        ),
        (
            format!("{url}, client_id: c, {secret}, device_url: \"https://login.test/d\""),
            "`device_url` is for `refresh_token`",
        ),
        (
            format!("{url}, client_id: c, client_auth: basic, client_assertion: {{ key: {key} }}"),
            "`client_auth` says how `client_secret` is sent",
        ),
        (
            format!("service_account: {{ file: {} }}, client_id: c", files.show("account.json")),
            "`client_id` does not go with `service_account`",
        ),
        (
            format!("service_account: {{ file: {} }}", files.show("account.json")),
            "is no key of a service account",
        ),
        (format!("{url}, client_id: c, {secret}, scopes: [\"a b\"]"), "is no scope"),
    ] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("listeners.yaml");
        fs::write(&path, config(&database, &tokens, &keys).render(dir.path())).expect("a file to check");
        let finished = finish(ambassador().args(["check", "--config"]).arg(&path));
        let told = finished.must_exit(78).stderr;
        let line = told.lines().find(|line| line.contains(expected));
        let line = line.unwrap_or_else(|| panic!("no {expected:?} in {told}"));
        assert!(line.contains("listeners.yaml:"), "{line}");
        assert!(!told.contains(SECRET) && !told.contains("hunter2"), "{told}");
    }
    let text = config(&database, &tokens, &by_secret(&tokens, &files)).render(files.0.path());
    let path = files.path("listeners.yaml");
    fs::write(&path, text.replace("as: app, ", "")).expect("a file to check");
    let told = finish(ambassador().args(["check", "--config"]).arg(&path)).must_exit(78).stderr;
    assert!(told.contains("`oauth2` needs `as`"), "{told}");
}
