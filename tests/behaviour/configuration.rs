//! `listeners.yaml`: which mistakes are found, how they are reported, and that no command starts on a file with one.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::harness::{Ambassador, Config, Finished, Pki, Upstream, ambassador, finish, roles};

const GOOD: &str = "
listeners:
  app: { bind: '127.0.0.1:0', cluster: up }
clusters:
  up: { endpoints: [ '127.0.0.1:9' ] }
";

/// The result of `ambassador check` on a file.
struct Checked {
    dir: TempDir,
    finished: Finished,
}

fn check(text: &str) -> Checked {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("listeners.yaml");
    fs::write(&file, text).expect("a file to check");
    let finished = finish(ambassador().args(["check", "--config"]).arg(&file));
    Checked { dir, finished }
}

impl Checked {
    #[track_caller]
    fn must_pass(self) {
        self.finished.must_succeed();
    }

    /// Asserts a mistake at `position` (`LINE:COLUMN: PATH`) whose message has all `words`, and that the
    /// offending line follows it.
    #[track_caller]
    fn has_mistake(&self, position: &str, words: &[&str]) {
        assert_eq!(self.finished.code, 78, "{}", self.finished.stderr);
        let head = format!("{}:{position}", self.dir.path().join("listeners.yaml").display());
        let stderr = &self.finished.stderr;
        let at = stderr.lines().position(|line| line.starts_with(&head));
        let at = at.unwrap_or_else(|| panic!("no line starts with {head}:\n{stderr}"));
        let printed = stderr.lines().nth(at).expect("a line").to_lowercase();
        for word in words {
            assert!(printed.contains(&word.to_lowercase()), "the message lacks {word:?}: {printed}");
        }
        let number: usize =
            position.split(':').next().and_then(|line| line.parse().ok()).expect("a line number");
        let file = fs::read_to_string(self.dir.path().join("listeners.yaml")).expect("the file");
        let offending = file.lines().nth(number - 1).expect("a line of the file").trim();
        let following: String = stderr.lines().skip(at + 1).take(3).collect();
        assert!(following.contains(offending), "the line {offending:?} is not shown after {printed}");
    }

    #[track_caller]
    fn must_print(&self, words: &[&str]) {
        assert_eq!(self.finished.code, 78, "{}", self.finished.stderr);
        let printed = self.finished.stderr.to_lowercase();
        for word in words {
            assert!(
                printed.contains(&word.to_lowercase()),
                "{word:?} is not said:\n{}",
                self.finished.stderr
            );
        }
    }
}

#[test]
fn a_file_without_mistakes_passes_check() {
    check(GOOD).must_pass();
}

#[test]
fn every_mistake_is_told_in_one_run_with_its_place() {
    let checked = check(
        "listeners:
  one:
    bind: 127.0.0.1:0
    cluster: ordres
  two:
    bind: 127.0.0.1:0
    cluster: orders
    max_conections: 3
clusters:
  orders:
    endpoints: [ 127.0.0.1:9 ]
    balance: round_robbin
    connect:
      timeout: 5 parsecs
",
    );
    checked.has_mistake("4:14: listeners.one.cluster", &["orders"]);
    checked.has_mistake("8:5: listeners.two.max_conections", &["max_connections"]);
    checked.has_mistake("12:14: clusters.orders.balance", &["round_robin"]);
    checked.has_mistake("14:16: clusters.orders.connect.timeout", &["parsecs"]);
}

#[test]
fn a_misspelt_top_level_section_gets_a_suggestion() {
    check(&format!("shutdwon: {{ drain_timeout: 1s }}{GOOD}")).has_mistake("1:1: shutdwon", &["shutdown"]);
}

#[test]
fn a_cluster_nobody_defined_is_a_mistake() {
    let text = GOOD.replace("cluster: up", "cluster: elsewhere");
    check(&text).has_mistake("3:40: listeners.app.cluster", &["elsewhere"]);
}

#[test]
fn two_listeners_of_one_name_are_a_mistake() {
    let twice = "
listeners:
  app: { bind: '127.0.0.1:0', cluster: up }
  app: { bind: '127.0.0.1:0', cluster: up }
clusters:
  up: { endpoints: [ '127.0.0.1:9' ] }
";
    check(twice).has_mistake("4:3: listeners.app", &["twice"]);
}

#[test]
fn a_file_that_is_no_yaml_is_told_with_its_place() {
    let checked = check("listeners:\n  app: [ unclosed\nclusters: {}\n");
    checked.must_print(&["listeners.yaml:"]);
}

#[test]
fn an_empty_file_is_a_mistake() {
    check("").must_print(&["listeners"]);
}

#[test]
fn a_cluster_without_endpoints_is_a_mistake() {
    check(&GOOD.replace("[ '127.0.0.1:9' ]", "[]")).must_print(&["clusters.up.endpoints"]);
}

#[test]
fn an_endpoint_without_a_port_is_a_mistake() {
    check(&GOOD.replace("127.0.0.1:9", "db.example.com")).must_print(&[
        "clusters.up.endpoints",
        "db.example.com",
        "port",
    ]);
}

#[test]
fn a_plaintext_bind_that_others_can_reach_needs_expose() {
    for bind in ["0.0.0.0:0", "[::]:0", "192.0.2.1:5432"] {
        let text = GOOD.replace("127.0.0.1:0", bind);
        check(&text).has_mistake("3:16: listeners.app.bind", &["expose"]);
        check(&text.replace("cluster: up }", "cluster: up, expose: true }")).must_pass();
    }
}

#[test]
fn a_certificate_that_cannot_be_read_is_a_mistake_at_its_key() {
    let text = GOOD.replace("'127.0.0.1:9' ]", "'127.0.0.1:9' ], tls: { ca: nowhere.pem }");
    check(&text).must_print(&["clusters.up.tls.ca", "nowhere.pem"]);
}

#[test]
fn a_file_that_holds_no_certificate_is_a_mistake() {
    let pki = Pki::new();
    fs::write(pki.path("noise.pem"), "not PEM at all\n").expect("noise");
    check(&with_identity(&pki.path("noise.pem"), &pki.client("app").key))
        .must_print(&["clusters.up.tls.cert", "noise.pem"]);
    let ca = GOOD.replace(" ] }", &format!(" ], tls: {{ ca: {} }} }}", pki.path("noise.pem").display()));
    check(&ca).must_print(&["clusters.up.tls.ca", "noise.pem"]);
}

#[test]
fn a_key_that_does_not_fit_its_certificate_is_a_mistake() {
    let pki = Pki::new();
    let (one, other) = (pki.client("one"), pki.client("other"));
    check(&with_identity(&one.cert, &one.key)).must_pass();
    check(&with_identity(&one.cert, &other.key)).must_print(&["clusters.up.tls.key", "certificate"]);
}

#[test]
fn an_encrypted_key_is_refused_in_words() {
    let pki = Pki::new();
    let leaf = pki.client("app");
    check(&with_identity(&leaf.cert, &leaf.key_encrypted()))
        .must_print(&["clusters.up.tls.key", "encrypted"]);
}

#[test]
fn a_certificate_without_its_key_is_a_mistake() {
    let pki = Pki::new();
    let leaf = pki.client("app");
    let tls = format!(" ], tls: {{ ca: {}, cert: {} }} }}", pki.ca().display(), leaf.cert.display());
    check(&GOOD.replace(" ] }", &tls)).must_print(&["clusters.up.tls", "key"]);
}

fn with_identity(cert: &Path, key: &Path) -> String {
    GOOD.replace(" ] }", &format!(" ], tls: {{ cert: {}, key: {} }} }}", cert.display(), key.display()))
}

#[test]
fn relative_paths_start_at_the_file_and_not_at_the_working_directory() {
    let pki = Pki::new();
    let text = GOOD.replace(" ] }", " ], tls: { ca: ca.pem } }");
    fs::write(pki.path("listeners.yaml"), text).expect("a file to check");
    finish(ambassador().args(["check", "--config"]).arg(pki.path("listeners.yaml")).current_dir("/"))
        .must_succeed();
}

#[test]
fn a_variable_that_is_not_set_is_a_mistake_unless_it_has_a_default() {
    let unset = GOOD.replace("'127.0.0.1:9'", "'127.0.0.1:${BEHAVIOUR_UNSET}'");
    check(&unset).has_mistake("5:22: clusters.up.endpoints", &["BEHAVIOUR_UNSET"]);
    check(&GOOD.replace("'127.0.0.1:9'", "'127.0.0.1:${BEHAVIOUR_UNSET:-9}'")).must_pass();
}

#[test]
fn a_variable_takes_its_value_from_the_environment() {
    let upstream = Upstream::plain(roles::echo);
    let config = Config::app(&["${BEHAVIOUR_HOST:-127.0.0.1}:${BEHAVIOUR_PORT}"], "");
    let port = upstream.port().to_string();
    let ambassador = Ambassador::start_with(&config, |command| {
        command.env("BEHAVIOUR_PORT", port);
    });
    ambassador.connect().echo("through the environment");
}

#[test]
fn run_on_a_wrong_file_tells_what_check_tells_and_exits_78() {
    let text = GOOD.replace("cluster: up", "cluster: elsewhere");
    let checked = check(&text);
    let file = checked.dir.path().join("listeners.yaml");
    let ran = finish(ambassador().args(["run", "--config"]).arg(&file)).must_exit(78);
    for line in checked.finished.stderr.lines().filter(|line| line.contains("listeners.app.cluster")) {
        ran.must_print(line);
    }
}

#[test]
fn without_config_the_file_in_the_working_directory_is_taken() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("listeners.yaml"), GOOD.replace("cluster: up", "cluster: elsewhere"))
        .expect("a file");
    for verb in [&["check"][..], &["run"], &[]] {
        finish(ambassador().args(verb).current_dir(dir.path())).must_exit(78).must_print("elsewhere");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let finished =
        finish(ambassador().args(["check", "--config", "/nonexistent/listeners.yaml"])).must_exit(78);
    finished.must_print("/nonexistent/listeners.yaml");
}

#[test]
fn a_wrong_command_line_exits_2() {
    finish(ambassador().arg("--no-such-flag")).must_exit(2);
    finish(ambassador().arg("no-such-verb")).must_exit(2);
}

/// Scenario: `--config FILE` in front of the verb was ignored, and the default file was checked instead.
#[test]
fn a_config_in_front_of_the_verb_is_wrong_usage_and_not_another_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("listeners.yaml"), GOOD).expect("the default file");
    fs::write(dir.path().join("other.yaml"), GOOD.replace("cluster: up", "cluster: elsewhere"))
        .expect("the file that is named");
    for verb in ["check", "run", "status"] {
        let mut command = ambassador();
        command.args(["--config", "other.yaml", verb]).current_dir(dir.path());
        finish(&mut command).must_exit(2).must_print("Usage");
    }
    // Without a verb, `--config` is for the daemon.
    let mut command = ambassador();
    finish(command.args(["--config", "other.yaml"]).current_dir(dir.path()))
        .must_exit(78)
        .must_print("elsewhere");
}
