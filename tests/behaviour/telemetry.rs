//! The files for Prometheus and Grafana in docs/prometheus/, compared with a real scrape.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::daemon::free_port;
use crate::harness::{Ambassador, Config, Upstream, demand, finish, http, roles, until, wait};

fn file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/prometheus").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The names of metrics in a text of PromQL, without the suffixes of histograms.
fn names(text: &str, prefix: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_part(c)).filter(|word| word.starts_with(prefix));
    words.map(|word| word.trim_end_matches("_bucket").to_owned()).collect()
}

/// The metrics of the daemon, whether counted already or not.
fn known() -> BTreeSet<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metrics/names.rs");
    names(&std::fs::read_to_string(source).expect("the table of metrics"), "ambassador_")
}

#[test]
fn the_alert_rules_are_rules_and_name_metrics_that_exist() {
    finish(Command::new("promtool").args(["check", "rules"]).arg(file("alerts.yaml"))).must_succeed();
    let used = names(&read("alerts.yaml"), "ambassador_");
    let missing: Vec<_> = used.difference(&known()).cloned().collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_dashboard_is_one_and_names_metrics_that_exist() {
    let dashboard: Value = serde_json::from_str(&read("grafana.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let expressions: Vec<_> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
        .map(|target| target["expr"].as_str().expect("an expression"))
        .collect();
    assert!(expressions.len() > 20, "{}", expressions.len());
    let missing: Vec<_> =
        names(&expressions.join("\n"), "ambassador_").difference(&known()).cloned().collect();
    assert_eq!(missing, Vec::<String>::new());
}

/// promtool's linter knows the rules for metrics.
#[test]
fn a_scrape_passes_promtool() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    ambassador.connect().echo("something to count");
    let scrape = ambassador.get("/metrics").body;
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().expect("promtool starts");
    child.stdin.take().expect("a piped stdin").write_all(scrape.as_bytes()).expect("promtool reads");
    let linted = wait(child);
    assert_eq!((linted.code, linted.stdout.as_str()), (0, ""), "{}", linted.stderr);
}

/// Ends with the test.
struct Scraper(std::process::Child);

impl Drop for Scraper {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Debian's Prometheus asks for OpenMetrics first, and trusts the content type of the answer.
#[test]
fn prometheus_scrapes_openmetrics() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    ambassador.connect().echo("something to count");
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("prometheus.yml");
    let target = ambassador.admin();
    let text = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: ambassador\n    static_configs: [ {{ targets: \
         ['{target}'] }} ]\n"
    );
    std::fs::write(&config, text).expect("a file");
    let address = format!("127.0.0.1:{}", free_port());
    let mut prometheus = Command::new(demand("prometheus", "prometheus"));
    prometheus.arg(format!("--config.file={}", config.display()));
    prometheus.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
    prometheus.arg(format!("--web.listen-address={address}"));
    prometheus.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _scraper = Scraper(prometheus.spawn().expect("prometheus starts"));
    let query = |expression: &str| {
        let path = format!("/api/v1/query?query={expression}");
        let answer: Value =
            serde_json::from_str(&http::over_tcp(&address, "GET", &path, "localhost").ok()?.body).ok()?;
        answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    let accepted = until("prometheus had scraped", || query("ambassador_accepted_total"));
    assert_eq!((accepted.as_str(), query("up").as_deref()), ("1", Some("1")));
    // Only OpenMetrics has a family called `ambassador_accepted`.
    let path = "/api/v1/targets/metadata?metric=ambassador_accepted";
    let metadata = http::over_tcp(&address, "GET", path, "localhost").expect("metadata").body;
    assert!(metadata.contains(r#""type":"counter""#), "{metadata}");
}
