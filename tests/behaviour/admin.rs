//! What operators and their tools read (health, metrics, status, the log), and which requests are rejected.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use socket2::SockRef;

use crate::harness::{Ambassador, Config, Upstream, ambassador as binary, finish, roles};

fn echo_app() -> (Upstream, Ambassador) {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    (upstream, ambassador)
}

#[test]
fn health_readiness_status_and_an_index_answer_on_the_admin_port() {
    let (_upstream, ambassador) = echo_app();
    for path in ["/healthz", "/readyz", "/status", "/sessions", "/metrics", "/"] {
        let response = ambassador.request("GET", path, ambassador.admin());
        assert_eq!(response.status, 200, "{path}: {}", response.body);
    }
    assert_eq!(ambassador.request("GET", "/nothing-here", "localhost").status, 404);
}

#[test]
fn status_has_the_shape_that_scripts_rely_on() {
    let (upstream, ambassador) = echo_app();
    let mut client = ambassador.connect();
    client.echo("one session");
    let status = ambassador.status();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["pid"], ambassador.pid().as_raw_nonzero().get());
    assert_eq!(status["state"], "ready");
    assert!(status["uptime_seconds"].is_number());
    assert!(status["config"].as_str().expect("a path").ends_with("listeners.yaml"));
    let listener = &status["listeners"][0];
    assert_eq!((listener["name"].as_str(), listener["cluster"].as_str()), (Some("app"), Some("up")));
    assert_eq!((listener["active"].as_u64(), listener["accepted"].as_u64()), (Some(1), Some(1)));
    assert_eq!(listener["max_connections"], 1000, "the default of the contract");
    let cluster = &status["clusters"][0];
    assert_eq!((cluster["protocol"].as_str(), cluster["tls"].as_str()), (Some("tcp"), Some("none")));
    let endpoint = &cluster["endpoints"][0];
    assert_eq!(endpoint["name"], upstream.address());
    assert_eq!((endpoint["weight"].as_u64(), endpoint["sessions"].as_u64()), (Some(1), Some(1)));
    let session = &ambassador.get("/sessions").json()["sessions"][0];
    assert_eq!((session["listener"].as_str(), session["cluster"].as_str()), (Some("app"), Some("up")));
    assert_eq!((session["sent_bytes"].as_u64(), session["received_bytes"].as_u64()), (Some(11), Some(11)));
    assert!(session["age_ms"].is_number());
}

/// Scenario: 64 connections that sent nothing occupied every slot for ten seconds each, so any local user could keep
/// /healthz from answering, and a liveness probe would have killed the daemon.
#[test]
fn silent_connections_do_not_keep_health_from_answering() {
    let (_upstream, ambassador) = echo_app();
    let silent: Vec<_> =
        (0..300).map(|_| TcpStream::connect(ambassador.admin()).expect("the admin listens")).collect();
    for path in ["/healthz", "/readyz", "/metrics"] {
        let asked = Instant::now();
        assert_eq!(ambassador.request("GET", path, "localhost").status, 200, "{path}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{path} took {:?}", asked.elapsed());
    }
    // The first of them had to make room; they are closed.
    let first = &silent[0];
    first.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    assert!(matches!((&*first).read(&mut [0]), Ok(0) | Err(_)));
}

/// A web page that names its own host as ours (DNS rebinding) must not read from a user's admin port.
#[test]
fn a_request_for_a_foreign_host_is_refused() {
    let (_upstream, ambassador) = echo_app();
    for host in [
        "evil.example.com",
        "evil.example.com:9901",
        "localhost.evil.example.com",
        "127.0.0.1.evil.example.com",
        "[::1]x",
        "[::1].evil.example.com:9901",
        "127.0.0.1:9901@evil.example.com",
        "",
    ] {
        let response = ambassador.request("GET", "/status", host);
        assert!([400, 403].contains(&response.status), "Host {host:?} got {}", response.status);
        assert!(!response.body.contains("listeners"));
    }
    for host in ["localhost", "localhost:9901", "127.0.0.1", "127.0.0.1:9901", "[::1]:9901", "LOCALHOST"] {
        assert_eq!(ambassador.request("GET", "/status", host).status, 200, "Host {host:?}");
    }
}

#[test]
fn a_page_of_another_site_gets_no_answer_and_a_link_leads_to_the_page() {
    let (_upstream, ambassador) = echo_app();
    let ask = |fields: &str| ambassador.request("GET", "/status", &format!("localhost\r\n{fields}"));
    for fields in [
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: script",
        "Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty",
        "Origin: http://evil.example.com",
        "Origin: null",
    ] {
        let response = ask(fields);
        assert_eq!(response.status, 403, "{fields}");
        assert!(!response.body.contains("listeners"));
    }
    let link = ask("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document");
    assert_eq!(link.status, 200);
    for (name, value) in [
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
    ] {
        assert_eq!(link.header(name), Some(value), "{name}");
    }
}

#[test]
fn the_admin_port_changes_nothing() {
    let (_upstream, ambassador) = echo_app();
    for path in ["/drain", "/reload", "/status", "/metrics"] {
        let status = ambassador.request("POST", path, "localhost").status;
        assert!((400..500).contains(&status), "POST {path} got {status}");
    }
    ambassador.connect().echo("as before");
}

#[test]
fn the_control_socket_is_for_its_owner_only_and_goes_with_the_process() {
    let (_upstream, mut ambassador) = echo_app();
    let meta = fs::metadata(ambassador.control()).expect("the control socket");
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.wait_exit(), 0);
    assert!(!ambassador.control().exists());
}

#[test]
fn metrics_are_prometheus_text_with_the_names_of_the_contract() {
    let (upstream, ambassador) = echo_app();
    ambassador.connect().echo("hello");
    ambassador.wait_records(1);
    let metrics = ambassador.metrics();
    let types = [
        ("accepted_total", "counter"),
        ("connections_total", "counter"),
        ("sessions_active", "gauge"),
        ("session_duration_seconds", "histogram"),
        ("sent_bytes_total", "counter"),
        ("received_bytes_total", "counter"),
        ("connect_attempts_total", "counter"),
        ("connect_duration_seconds", "histogram"),
        ("first_byte_seconds", "histogram"),
        ("endpoint_sessions", "gauge"),
        ("pending_dials", "gauge"),
        ("build_info", "gauge"),
    ];
    for (name, kind) in types {
        let told = metrics.types.get(&format!("ambassador_{name}")).map(String::as_str);
        assert_eq!(told, Some(kind), "ambassador_{name}");
    }
    let one = |name, labels: &[(&str, &str)]| assert_eq!(metrics.sum(name, labels), 1.0, "{name} {labels:?}");
    one("accepted_total", &[("listener", "app")]);
    one("connections_total", &[("listener", "app"), ("outcome", "completed")]);
    one("session_duration_seconds_count", &[("cluster", "up")]);
    one("connect_attempts_total", &[("cluster", "up"), ("endpoint", &upstream.address())]);
    one("connect_duration_seconds_count", &[("cluster", "up"), ("endpoint", &upstream.address())]);
    one("first_byte_seconds_count", &[("cluster", "up")]);
    one("build_info", &[("version", env!("CARGO_PKG_VERSION"))]);
    let process = [
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    ];
    for name in process {
        assert!(metrics.samples().iter().any(|sample| sample.name == name), "{name} is missing");
    }
    // Counters exist at zero, so that a rate includes the first event.
    assert!(
        metrics
            .samples()
            .iter()
            .any(|sample| sample.labels.get("outcome").is_some_and(|outcome| outcome == "tls_failed"))
    );
}

#[test]
fn the_status_command_shows_a_table_and_json() {
    let (upstream, ambassador) = echo_app();
    let status = |more: &[&str]| {
        let mut command = binary();
        // The documented default path of the control socket.
        command.arg("status").args(more).env("RUNTIME_DIRECTORY", ambassador.dir()).current_dir("/");
        finish(&mut command).must_succeed().stdout
    };
    let table = status(&[]);
    for word in ["app", "up", &upstream.address(), &ambassador.address("app").to_string()] {
        assert!(table.contains(word), "the table lacks {word}:\n{table}");
    }
    let json: Value = serde_json::from_str(&status(&["--json"])).expect("JSON");
    assert_eq!(json["state"], "ready");
    assert_eq!(json["listeners"], ambassador.status()["listeners"]);
}

/// The file may name variables and key files that only the daemon's account can read. `status` must not need them.
#[test]
fn the_status_command_needs_of_the_file_only_where_to_ask() {
    let upstream = Upstream::plain(roles::echo);
    let config = Config::app(&["${BEHAVIOUR_DAEMON_ONLY}"], "");
    let ambassador = Ambassador::start_with(&config, |command| {
        command.env("BEHAVIOUR_DAEMON_ONLY", upstream.address());
    });
    let file = ambassador.dir().join("listeners.yaml");
    let finished = finish(binary().args(["status", "--config"]).arg(file)).must_succeed();
    assert!(finished.stdout.contains(&upstream.address()), "{}", finished.stdout);
}

#[test]
fn the_status_command_without_an_ambassador_exits_1_and_names_the_socket() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("control.sock");
    let finished = finish(binary().args(["status", "--control"]).arg(&socket)).must_exit(1);
    finished.must_print("control.sock");
}

#[test]
fn the_completions_command_completes_every_verb() {
    for shell in ["bash", "zsh", "fish"] {
        let script = finish(binary().args(["completions", shell])).must_succeed().stdout;
        for verb in
            ["run", "check", "status", "sessions", "top", "close", "endpoint", "reload", "drain", "schema"]
        {
            assert!(script.contains(verb), "{shell} does not know {verb}:\n{script}");
        }
    }
    finish(binary().args(["completions", "tcsh"])).must_exit(2);
}

#[test]
fn the_manual_has_a_page_for_each_command_and_one_for_the_file() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    finish(binary().args(["man", "--all"]).arg(folder.path())).must_succeed();
    for (page, words) in [
        ("ambassador.1", "EXIT STATUS"),
        ("ambassador-check.1", "connect"),
        ("listeners.yaml.5", "clusters.NAME.connect.attempts"),
    ] {
        let path = folder.path().join(page);
        let rendered = finish(Command::new("man").args(["--warnings", "-l"]).arg(&path)).must_succeed();
        assert!(rendered.stdout.contains(words), "{page} lacks {words}:\n{}", rendered.stdout);
        assert_eq!(rendered.stderr, "", "roff objects to {page}");
    }
}

#[test]
fn the_schema_command_prints_a_json_schema() {
    let schema: Value =
        serde_json::from_str(&finish(binary().arg("schema")).must_succeed().stdout).expect("JSON");
    assert!(schema["$schema"].is_string());
    // The shipped example points editors to this copy: ambassador schema >docs/listeners.schema.json
    let shipped: Value =
        serde_json::from_str(include_str!("../../docs/listeners.schema.json")).expect("JSON");
    assert_eq!(schema, shipped, "docs/listeners.schema.json is not what `ambassador schema` prints");
    assert!(schema["properties"]["listeners"].is_object() && schema["properties"]["clusters"].is_object());
}

#[test]
fn admin_and_control_can_be_off() {
    let upstream = Upstream::plain(roles::echo);
    let config =
        Config::app(&[&upstream.address()], "").admin("{ bind: off, control: \"unix:{dir}/control.sock\" }");
    let ambassador = Ambassador::start(&config);
    assert!(ambassador.status()["admin"].is_null());
    let config = Config::app(&[&upstream.address()], "").admin("{ bind: off, control: off }");
    let mut ambassador = Ambassador::spawn(&config, |_| {});
    ambassador.wait_notified("READY=1");
    assert!(!ambassador.control().exists());
}

#[test]
fn every_line_of_a_json_log_is_json() {
    let (_upstream, ambassador) = echo_app();
    ambassador.connect().echo("hello");
    ambassador.wait_records(1);
    for line in ambassador.lines() {
        let record: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(
            record["target"].is_string() && record["level"].is_string() && record["timestamp"].is_string(),
            "{line}"
        );
    }
}

#[test]
fn without_access_no_record_is_written_and_the_rest_of_the_log_stays() {
    let upstream = Upstream::plain(roles::echo);
    let config = Config::app(&[&upstream.address()], "").log("{ format: json, level: debug, access: false }");
    let ambassador = Ambassador::start(&config);
    ambassador.connect().echo("hello");
    ambassador.wait_active(0);
    assert!(ambassador.records().is_empty());
    assert!(!ambassador.lines().is_empty());
}

#[test]
fn the_text_log_has_the_access_record_on_one_line() {
    let upstream = Upstream::plain(roles::echo);
    let config = Config::app(&[&upstream.address()], "").log("{ format: text, level: info, access: true }");
    let ambassador = Ambassador::start(&config);
    ambassador.connect().echo("hello");
    crate::harness::until("the record was written", || {
        ambassador.lines().into_iter().find(|line| line.contains("completed") && line.contains("app"))
    });
}

/// A log collector that dies must not affect the traffic.
#[test]
fn a_log_whose_reader_has_gone_stops_nothing() {
    let upstream = Upstream::plain(roles::echo);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut ambassador = Ambassador::start_with(&Config::app(&[&upstream.address()], ""), |command| {
        command.stderr(writer);
    });
    drop(reader);
    for _ in 0..3 {
        // Each session writes an access record, and each signal a log line.
        ambassador.connect().echo("hello");
        ambassador.wait_active(0);
        ambassador.signal(Signal::HUP);
    }
    ambassador.connect().echo("still here");
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.wait_exit(), 0);
}

/// A hanging collector or a paused terminal: the pipe fills up and stays full. Only lines are lost, and they are
/// counted.
#[test]
fn a_log_that_nobody_reads_stops_nothing_and_its_lost_lines_are_counted() {
    let (_unread, writer) = std::io::pipe().expect("a pipe");
    loses_lines_and_serves(|command| {
        command.stderr(writer);
    });
}

/// Supervisors pass one pipe for both.
#[test]
fn a_pipe_that_nobody_reads_may_be_stdout_as_well() {
    let (_unread, writer) = std::io::pipe().expect("a pipe");
    loses_lines_and_serves(|command| {
        command.stdout(writer.try_clone().expect("a second handle")).stderr(writer);
    });
}

#[track_caller]
fn loses_lines_and_serves(unread: impl FnOnce(&mut Command)) {
    // The queue holds 16,384 lines, and a pipe some hundred more.
    const MORE_THAN_FIT: usize = 40_000;
    const CLIENTS: usize = 4;
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = Ambassador::start_with(&Config::app(&[&upstream.address()], ""), unread);
    for _ in 0..300 {
        ambassador.connect().echo("hello");
    }
    assert_eq!(ambassador.request("GET", "/healthz", "localhost").status, 200);
    let kind = ambassador.metrics().types.get("ambassador_log_lines_lost_total").cloned();
    assert_eq!(kind.as_deref(), Some("counter"), "it is there before it counts");
    // Served sessions: only some refusals write a record. They end by a reset, which keeps no port in TIME_WAIT.
    let (address, is_lost) = (ambassador.address("app"), AtomicBool::new(false));
    thread::scope(|scope| {
        let served = || {
            for _ in 0..MORE_THAN_FIT / CLIENTS {
                let mut client = TcpStream::connect(address).expect("it listens");
                client.write_all(b"x").and_then(|()| client.read_exact(&mut [0])).expect("an echo");
                SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("an option");
                if is_lost.load(Ordering::Relaxed) {
                    return;
                }
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(served)).collect();
        while !is_lost.load(Ordering::Relaxed) && clients.iter().any(|client| !client.is_finished()) {
            let lost = ambassador.metrics().sum("log_lines_lost_total", &[]);
            is_lost.store(lost > 0.0, Ordering::Relaxed);
        }
    });
    assert!(is_lost.into_inner(), "{MORE_THAN_FIT} records that nobody reads are held somewhere");
    ambassador.connect().echo("still here");
    ambassador.wait_active(0);
    assert_eq!(ambassador.request("GET", "/healthz", "localhost").status, 200);
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.wait_exit(), 0);
}

#[test]
fn connections_of_scrapers_that_say_nothing_hold_up_nobody() {
    let (_upstream, mut ambassador) = echo_app();
    let silent: Vec<_> =
        (0..20).map(|_| TcpStream::connect(ambassador.admin()).expect("a connection")).collect();
    assert_eq!(ambassador.request("GET", "/healthz", "localhost").status, 200);
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.wait_exit(), 0);
    drop(silent);
}
