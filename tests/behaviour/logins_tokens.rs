//! `login` by tokens where their endpoint is slow, asks for pauses or rotates refresh tokens; service accounts for Cloud SQL;
//! and what is shown of a credential's end, age and last error.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::pgwire::welcome;
use crate::harness::token_server::{Reply, TokenRequest, TokenServer, token};
use crate::harness::{Ambassador, Config, Finished, Leaf, ambassador, finish, until};
use crate::logins_oauth::{
    DECODE, Database, Files, GOOGLE, SECRET, begin, by_secret, config, login_status, must_not_show, python,
    start, use_it,
};

/// A request may take ten seconds.
#[test]
fn sessions_wait_for_an_endpoint_that_answers_late_but_before_the_deadline() {
    let files = Files::new();
    let database = Database::that_takes(&["good"]);
    let tokens = TokenServer::start(|_, _| Reply::Slow(Duration::from_secs(7), token("good-token", 3600)));
    let ambassador = start(&database, &tokens, &files);
    let mut clients: Vec<_> = (0..20).map(|_| begin(&ambassador)).collect();
    for client in &mut clients {
        client.expect(welcome());
    }
    assert_eq!(tokens.asked().len(), 1);
    assert!(login_status(&ambassador)["error"].is_null());
}

/// Scenario: an endpoint answered 429 with Retry-After, and was asked again after a second, because that is our own first pause,
/// and again for each file event.
#[test]
fn an_endpoint_that_asks_for_a_pause_gets_it() {
    for status in [429, 503] {
        let files = Files::new();
        let database = Database::that_takes(&["good"]);
        let moments = Arc::<Mutex<Vec<Instant>>>::default();
        let kept = Arc::clone(&moments);
        let tokens = TokenServer::start(move |number, _| {
            kept.lock().expect("moments nobody poisoned").push(Instant::now());
            match number {
                0 => Reply::Again(status, "4"),
                _ => Reply::Json(200, token("good-token", 3600)),
            }
        });
        let ambassador = start(&database, &tokens, &files);
        ambassador.wait_line("temporarily_unavailable");
        // Neither sessions nor a file that is written with the same content end the pause.
        let mut clients: Vec<_> = (0..5).map(|_| begin(&ambassador)).collect();
        files.write("secret", SECRET);
        for client in &mut clients {
            client.expect(welcome());
        }
        let moments = moments.lock().expect("moments nobody poisoned").clone();
        assert_eq!(moments.len(), 2);
        let pause = moments[1] - moments[0];
        // It is up to two seconds longer, and the host may be busy.
        assert!((Duration::from_secs(4)..Duration::from_secs(15)).contains(&pause), "{pause:?}");
    }
}

/// Each refresh token works once, as where servers take a second use for a theft (RFC 9700 §4.14.2).
struct Strict {
    tokens: TokenServer,
    reused: Arc<Mutex<Vec<String>>>,
}

impl Strict {
    fn start(life: u32) -> Self {
        let reused = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&reused);
        let next = Mutex::new(0);
        let tokens = TokenServer::start(move |_, request: &TokenRequest| {
            let mut next = next.lock().expect("a number nobody poisoned");
            let shown = request.form.get("refresh_token").cloned().unwrap_or_default();
            if shown != format!("refresh-{next}") {
                kept.lock().expect("a list nobody poisoned").push(shown);
                return Reply::Json(400, r#"{"error":"invalid_grant"}"#.into());
            }
            let answer = token(&format!("good-{next}"), life);
            *next += 1;
            let answer = answer.replace('}', &format!(r#","refresh_token":"refresh-{next}"}}"#));
            // Two who ask at once would both show the old one meanwhile.
            Reply::Slow(Duration::from_millis(300), answer)
        });
        Self { tokens, reused }
    }

    fn keys(&self, files: &Files) -> String {
        format!(
            "token_url: \"{}\", client_id: the-client, refresh_token: {{ file: {} }}",
            self.tokens.url("/token"),
            files.show("state/refresh")
        )
    }

    #[track_caller]
    fn must_be_content(&self) {
        assert_eq!(*self.reused.lock().expect("a list nobody poisoned"), Vec::<String>::new());
    }
}

fn with_refresh_token() -> Files {
    let files = Files::new();
    fs::create_dir(files.path("state")).expect("a folder");
    files.write("state/refresh", "refresh-0\n");
    files
}

#[test]
fn a_rotated_refresh_token_survives_a_replacement_and_a_restart_of_the_daemon() {
    let files = with_refresh_token();
    let database = Database::that_takes(&["good"]);
    let strict = Strict::start(3600);
    let config = config(&database, &strict.tokens, &strict.keys(&files));
    let mut ambassador = Ambassador::start(&config);
    use_it(&ambassador);
    ambassador.replace();
    use_it(&ambassador);
    until("the successor has a token of its own", || {
        files.read("state/refresh").starts_with("refresh-2").then_some(())
    });
    drop(ambassador);
    use_it(&Ambassador::start(&config));
    assert_eq!(files.read("state/refresh"), "refresh-3\n");
    assert_eq!(strict.tokens.asked().len(), 3);
    strict.must_be_content();
}

/// Scenario: SMTP and IMAP of one mailbox, two clusters with one refresh token. Both showed it at once, and the server took the
/// second use for a theft; and each took the other's new token for a reason to ask, without end.
#[test]
fn two_clusters_share_a_refresh_token_that_rotates() {
    let files = with_refresh_token();
    let database = Database::that_takes(&["good"]);
    let strict = Strict::start(5);
    let login =
        format!("login: {{ as: app, oauth2: {{ ca: {}, {} }} }}", strict.tokens.ca(), strict.keys(&files));
    let cluster = format!("protocol: postgres\ntls: {{ ca: {} }}\n{login}", database.pki.ca().display());
    let address = database.upstream.address();
    let config = Config::new()
        .listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone")
        .listener("other", "bind: 127.0.0.1:0\ncluster: beside\nallow: anyone")
        .cluster("up", &[&address], &cluster)
        .cluster("beside", &[&address], &cluster);
    let begun = Instant::now();
    let ambassador = Ambassador::start(&config);
    use_it(&ambassador);
    strict.tokens.wait_asked(6);
    let took = begun.elapsed();
    // Two rounds of renewals, of four fifths of a life each, less what a busy host takes of it.
    assert!(took > Duration::from_secs(6), "six requests in {took:?}");
    use_it(&ambassador);
    strict.must_be_content();
}

fn account_of(tokens: &TokenServer, files: &Files) -> Leaf {
    let leaf = tokens.pki().rsa_client("service");
    let account = json!({
        "type": "service_account",
        "client_email": "app@project.iam.gserviceaccount.com",
        "private_key_id": "k1",
        "private_key": fs::read_to_string(&leaf.key).expect("a key"),
        "token_uri": tokens.url("/google"),
    });
    files.write("account.json", &account.to_string());
    leaf
}

/// Of each protocol the user's name, and what the token is for.
#[test]
fn a_service_account_has_the_name_and_the_scope_that_the_server_knows() {
    let files = Files::new();
    let database = Database::that_takes(&[]);
    let tokens = TokenServer::start(|_, _| Reply::Json(200, token("good-token", 3600)));
    let leaf = account_of(&tokens, &files);
    let google = format!("gcp: {{ service_account: {{ file: {} }}", files.show("account.json"));
    const CLOUD_SQL: &str = "https://www.googleapis.com/auth/sqlservice.login";
    for (protocol, login, user, scope) in [
        ("postgres", format!("{{ {google} }} }}"), "app@project.iam", CLOUD_SQL),
        ("mysql", format!("{{ {google} }} }}"), "app", CLOUD_SQL),
        ("postgres", format!("{{ as: other, {google}, scopes: [a, b] }} }}"), "other", "a b"),
        (
            "redis",
            format!("{{ as: default, {google} }} }}"),
            "default",
            "https://www.googleapis.com/auth/cloud-platform",
        ),
        (
            "smtp",
            format!("{{ as: a@example.com, {google} }} }}"),
            "a@example.com",
            "https://mail.google.com/",
        ),
    ] {
        let cluster =
            format!("protocol: {protocol}\ntls: {{ ca: {} }}\nlogin: {login}", database.pki.ca().display());
        let config = Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone");
        let config = config.cluster("up", &[&database.upstream.address()], &cluster);
        let before = tokens.asked().len();
        let ambassador = Ambassador::start_with(&config, |command| {
            command.env("SSL_CERT_FILE", tokens.ca());
        });
        ambassador.wait_line("a credential for signing in was read");
        let status = login_status(&ambassador);
        assert_eq!(status["name"], format!("up as {user} (gcp)"), "{protocol}");
        let request = tokens.asked().remove(before);
        assert_eq!(request.form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
        let assertion = &request.form["assertion"];
        let ours = python(DECODE, &[assertion, &leaf.cert.display().to_string(), &tokens.url("/google")]);
        let theirs = python(GOOGLE, &[&files.show("account.json"), scope, ""]);
        assert_eq!(ours["header"], theirs["header"]);
        for field in ["iss", "sub", "scope"] {
            assert_eq!(ours["claims"][field], theirs["claims"][field], "{field}");
        }
        must_not_show(&ambassador, &[assertion, "good-token", "BEGIN PRIVATE KEY"]);
    }
}

#[test]
fn a_service_account_needs_a_name_where_none_is_known_and_is_warned_of_a_wrong_one() {
    let files = Files::new();
    let database = Database::that_takes(&[]);
    let tokens = TokenServer::start(|_, _| Reply::Close);
    account_of(&tokens, &files);
    let google = format!("gcp: {{ service_account: {{ file: {} }} }}", files.show("account.json"));
    for (protocol, login, code, expected) in [
        ("redis", google.clone(), 78, "`as` is missing: `gcp` does not say who is signed in"),
        ("postgres", "as: a, gcp: { scopes: [a] }".to_owned(), 78, "goes with `service_account`"),
        (
            "postgres",
            format!("as: a@p.iam.gserviceaccount.com, {google}"),
            0,
            "Cloud SQL calls this user `a@p.iam`",
        ),
        ("mysql", "as: a@p.iam, gcp: {}".to_owned(), 0, "Cloud SQL calls this user `a`"),
    ] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("listeners.yaml");
        let ca = database.pki.ca().display().to_string();
        let cluster = format!("protocol: {protocol}\ntls: {{ ca: {ca} }}\nlogin: {{ {login} }}");
        let config = Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nallow: anyone");
        let config = config.cluster("up", &[&database.upstream.address()], &cluster);
        fs::write(&path, config.render(dir.path())).expect("a file to check");
        let finished = finish(ambassador().args(["check", "--config"]).arg(&path)).must_exit(code);
        finished.must_print(expected);
    }
}

#[test]
fn end_age_and_last_error_of_a_login_are_in_status_and_metrics_and_in_check_connect() {
    let files = Files::new();
    let database = Database::that_takes(&["good"]);
    let tokens = TokenServer::start(|_, _| Reply::Json(200, token("good-token", 20)));
    let ambassador = start(&database, &tokens, &files);
    use_it(&ambassador);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
    let status = login_status(&ambassador);
    let (updated, expires) = (status["updated"].as_u64(), status["expires"].as_u64());
    assert!(updated.is_some_and(|at| at <= now && now - at < 20), "{status}");
    // Both are whole seconds, of two moments.
    let life = expires.zip(updated).map(|(end, at)| end - at);
    assert!(life.is_some_and(|life| (18..=20).contains(&life)), "{status}");
    assert!(status["error"].is_null(), "{status}");
    let metric = |name: &str, labels: &[(&str, &str)]| {
        let labels = [&[("cluster", "up"), ("source", "oauth2")], labels].concat();
        ambassador.metrics().sum(name, &labels)
    };
    let close = |metric: f64, status: Option<u64>| {
        status.is_some_and(|seconds| (metric - seconds as f64).abs() < 2.0)
    };
    assert!(close(metric("login_expiry_timestamp_seconds", &[("user", "app")]), expires));
    assert!(close(metric("login_last_success_timestamp_seconds", &[]), updated));
    assert_eq!(metric("login_fetches_total", &[("result", "ok")]), 1.0);
    assert_eq!(metric("login_fetches_total", &[("result", "failed")]), 0.0);

    let path = files.path("listeners.yaml");
    let text = config(&database, &tokens, &by_secret(&tokens, &files)).render(files.path("").as_path());
    fs::write(&path, text).expect("a file to check");
    let checked = check_connect(&path).must_succeed();
    assert!(
        checked.stdout.contains("as app, ") && checked.stdout.contains(", credential ends in 1"),
        "{checked:?}"
    );

    tokens
        .answer(|_, _| Reply::Json(400, r#"{"error":"invalid_client","error_description":"Gone."}"#.into()));
    ambassador.wait_line("no new credential for signing in");
    let status = login_status(&ambassador);
    assert!(
        status["error"].as_str().is_some_and(|error| error.ends_with("invalid_client: Gone.")),
        "{status}"
    );
    assert_eq!(status["updated"].as_u64(), updated, "the age is that of what is in use");
    until("the failure is counted", || {
        (metric("login_fetches_total", &[("result", "failed")]) >= 1.0).then_some(())
    });
    let checked = check_connect(&path).must_exit(1);
    assert!(checked.stdout.contains("invalid_client: Gone."), "{checked:?}");
}

fn check_connect(path: &Path) -> Finished {
    finish(ambassador().args(["check", "--connect", "--config"]).arg(path))
}
