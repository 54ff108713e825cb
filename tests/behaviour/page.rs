//! The status page in a real browser: what it shows, and that it runs under its own content security policy.

use std::process::Command;

use crate::harness::token_server::{Reply, TokenServer, token};
use crate::harness::{Ambassador, Config, End, Upstream, finish, roles};
use crate::logins_oauth::{Database, Files, start, use_it};

/// The page's document after its script has polled a few times, and the browser's messages about it.
struct Shown {
    document: String,
    console: Vec<String>,
}

impl Shown {
    #[track_caller]
    fn has(&self, words: &[&str]) {
        for word in words {
            assert!(self.document.contains(word), "the page does not show {word:?}:\n{}", self.document);
        }
    }
}

/// Virtual time runs while nothing is fetched, so the page's timers need no waiting.
#[track_caller]
fn browse(ambassador: &Ambassador) -> Shown {
    let profile = tempfile::tempdir().expect("a temporary directory");
    let mut browser = Command::new("chromium");
    browser.args(["--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]);
    browser.args([
        "--disable-background-networking",
        "--disable-component-update",
        "--enable-logging=stderr",
    ]);
    // Chromium's own sandbox does not run as root; the page shown here is ours.
    browser.args(["--no-sandbox", "--virtual-time-budget=9000", "--dump-dom"]);
    browser.arg(format!("--user-data-dir={}", profile.path().display()));
    browser.arg(format!("http://{}/", ambassador.admin()));
    let finished = finish(&mut browser).must_succeed();
    let console = finished.stderr.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned);
    Shown { document: finished.stdout, console: console.collect() }
}

#[test]
fn the_page_shows_listeners_endpoints_and_live_sessions_under_its_own_policy() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    let mut client = ambassador.connect();
    client.echo("a session to be seen");
    let shown = browse(&ambassador);
    shown.has(&["app", &upstream.address(), ">ready<", ">1/1000<", "From the upstream"]);
    assert_eq!(shown.console, Vec::<String>::new(), "the browser objects");
}

#[test]
fn the_page_says_why_an_endpoint_is_of_no_use() {
    let ambassador = Ambassador::start(&Config::app(&["127.0.0.1:9"], ""));
    assert_eq!(ambassador.connect().ending(), End::Reset);
    browse(&ambassador).has(&["127.0.0.1:9", "Connection refused", "Turned away"]);
}

#[test]
fn the_page_says_what_is_wrong_with_clusters_and_how_the_last_reload_went() {
    let upstream = Upstream::plain(roles::echo);
    let broken = "connect: { attempts: 1 }\ncircuit_breaker: { consecutive_failures: 2, open_for: 1m }";
    let config = Config::app(
        &["127.0.0.1:9", &upstream.address()],
        "balance: round_robin\noutlier_detection: { base_ejection_time: 1m }",
    )
    .listener("broken", "bind: 127.0.0.1:0\ncluster: broken")
    .cluster("broken", &["127.0.0.1:9"], &format!("health_check: {{ type: tcp }}\n{broken}"))
    .listener("lost", "bind: 127.0.0.1:0\ncluster: lost")
    .cluster("lost", &["nowhere.invalid:5432"], "");
    let ambassador = Ambassador::start(&config);
    (0..10).for_each(|_| ambassador.connect().echo("served"));
    (0..2).for_each(|_| assert_eq!(ambassador.connect_to("broken").ending(), End::Reset));
    ambassador.wait_line("breaker open");
    ambassador.wait_line("endpoint ejected");
    ambassador.rewrite(&config.top("nonsense: 1"));
    assert_eq!(ambassador.post("/reload").status, 422);
    browse(&ambassador).has(&[
        "breaker open, for ",
        "panic: all are down, all are used",
        "ejected, for ",
        "failures in a row (connect)",
        "search fails",
        "nowhere.invalid",
        "last reload refused",
    ]);
}

#[test]
fn the_page_forbids_the_browser_everything_but_itself() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    let page = ambassador.request("GET", "/", ambassador.admin());
    let policy = page.header("content-security-policy").expect("a policy");
    for directive in ["default-src 'none'", "script-src 'sha256-", "frame-ancestors 'none'"] {
        assert!(policy.contains(directive), "the policy lacks {directive}: {policy}");
    }
}

/// Of a login its end, its age and its last error.
#[test]
fn the_page_shows_how_fresh_a_login_is() {
    let files = Files::new();
    let database = Database::that_takes(&["good"]);
    let tokens = TokenServer::start(|number, _| match number {
        0 => Reply::Json(200, token("good-token", 3600)),
        _ => Reply::Json(400, r#"{"error":"invalid_client"}"#.into()),
    });
    let ambassador = start(&database, &tokens, &files);
    use_it(&ambassador);
    files.write("secret", "an0ther-secret");
    ambassador.wait_line("no new credential for signing in");
    browse(&ambassador).has(&["up as app (oauth2)", ">Read<", " ago</td>", ">in 59 min ", "invalid_client"]);
}
