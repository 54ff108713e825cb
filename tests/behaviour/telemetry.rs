//! The files for Prometheus and Grafana in docs/prometheus/, compared with a real scrape.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::daemon::free_port;
use crate::harness::{Ambassador, Config, Upstream, demand, finish, http, roles, until, until_within, wait};

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
    let start = || {
        let address = format!("127.0.0.1:{}", free_port());
        let mut prometheus = Command::new(demand("prometheus", "prometheus"));
        prometheus.arg(format!("--config.file={}", config.display()));
        prometheus.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        prometheus.arg(format!("--web.listen-address={address}"));
        prometheus.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        (Scraper(prometheus.spawn().expect("prometheus starts")), address)
    };
    let (mut scraper, mut address) = start();
    let query = |address: &str, expression: &str| {
        let path = format!("/api/v1/query?query={expression}");
        let answer: Value =
            serde_json::from_str(&http::over_tcp(address, "GET", &path, "localhost").ok()?.body).ok()?;
        answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    let accepted = until_within(Duration::from_secs(60), "prometheus had scraped", || {
        // Another process has taken the port meanwhile.
        if scraper.0.try_wait().expect("a child").is_some() {
            (scraper, address) = start();
        }
        query(&address, "ambassador_accepted_total")
    });
    assert_eq!((accepted.as_str(), query(&address, "up").as_deref()), ("1", Some("1")));
    // Only OpenMetrics has a family called `ambassador_accepted`.
    let path = "/api/v1/targets/metadata?metric=ambassador_accepted";
    let metadata = http::over_tcp(&address, "GET", path, "localhost").expect("metadata").body;
    assert!(metadata.contains(r#""type":"counter""#), "{metadata}");
}

/// Of a thousand clusters that nobody had used a scrape was 24 MB, almost all of it zeros, and left twice the memory behind.
#[test]
fn what_never_happened_is_no_series_and_a_scrape_leaves_nothing_behind() {
    const CLUSTERS: usize = 1000;
    let config = (0..CLUSTERS).fold(Config::new(), |config, number| {
        let endpoints =
            [1, 2, 3].map(|endpoint| format!("127.1.{}.{}:{endpoint}", number / 250, number % 250));
        config
            .listener(&format!("l{number}"), &format!("bind: unix:l{number}.sock\ncluster: c{number}"))
            .cluster(&format!("c{number}"), &endpoints.each_ref().map(String::as_str), "")
    });
    let ambassador = Ambassador::start(&config);
    let anonymous = || {
        let rollup = format!("/proc/{}/smaps_rollup", ambassador.pid().as_raw_nonzero());
        let text = std::fs::read_to_string(rollup).expect("a process to look at");
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    // Other threads may still take memory of their own.
    let at_rest = |what: &str| {
        until(format!("its memory was at rest {what}"), || {
            let before = anonymous();
            assert_eq!(ambassador.get("/metrics").status, 200);
            (anonymous() == before).then_some(before)
        })
    };
    let before = anonymous();
    // HAProxy 2.6 has 43 KiB for each of such clusters; ours are compiled without optimisation here.
    assert!(before < 32 * CLUSTERS as u64, "{before} KiB");
    let body = ambassador.get("/metrics").body;
    assert!(body.len() < 20_000, "{} bytes: {}", body.len(), &body[..2000]);
    assert!(
        !body.contains("cluster=") && body.contains("ambassador_config_reloads_total{result=\"failed\"} 0\n")
    );
    let first = at_rest("after the first scrapes");
    assert!(first < before + 4096, "{before} became {first} KiB");
    (0..5).for_each(|_| assert_eq!(ambassador.get("/metrics").status, 200));
    let after = at_rest("after all");
    assert!(after < first + 1024, "{first} became {after} KiB");
    // The status is large, and shrinks for those who take gzip.
    let curl = |more: &[&str]| {
        let url = format!("http://{}/status", ambassador.admin());
        let mut curl = Command::new(demand("curl", "curl"));
        finish(
            curl.args(["-sS", "--noproxy", "*", "-o", "-", "-w", "%{stderr}%{size_download}"])
                .args(more)
                .arg(url),
        )
        .must_succeed()
    };
    let (plain, small) = (curl(&[]), curl(&["--compressed"]));
    let size = |of: &str| of.trim().parse::<usize>().expect("a size");
    assert!(size(&small.stderr) * 10 < size(&plain.stderr), "{} of {}", small.stderr, plain.stderr);
    let clusters = |text: &str| {
        let status: Value = serde_json::from_str(text).expect("JSON");
        status["clusters"].as_array().map(Vec::len)
    };
    assert_eq!((clusters(&plain.stdout), clusters(&small.stdout)), (Some(CLUSTERS), Some(CLUSTERS)));
}

/// With its first connection a listener has all of its outcomes: an alert on an increase sees the first failure.
#[test]
fn a_used_listener_has_all_of_its_outcomes() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    let outcomes = |ambassador: &Ambassador| {
        let metrics = ambassador.metrics();
        metrics.samples().iter().filter(|one| one.name == "ambassador_connections_total").count()
    };
    assert_eq!(outcomes(&ambassador), 0);
    ambassador.connect().echo("used");
    assert!(outcomes(&ambassador) > 20);
}
