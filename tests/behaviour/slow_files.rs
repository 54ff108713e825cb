//! Files that hang, like those of a mount whose server is gone; a pipe without a writer stands in for one. Only the
//! work that needs the file waits for it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use crate::harness::{Ambassador, Config, Pki, ServerTls, Upstream, roles, until};

/// Opening it for reading waits for a writer.
fn hang(file: &Path) {
    let beside = file.with_extension("hangs");
    mknodat(CWD, &beside, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe with a name");
    fs::rename(&beside, file).expect("it takes the file's place");
}

fn mend(file: &Path, text: &str) {
    let beside = file.with_extension("mended");
    fs::write(&beside, text).expect("a file");
    fs::rename(&beside, file).expect("it takes the pipe's place");
}

const WATCHDOG: Duration = Duration::from_millis(600);

fn start(config: &Config) -> Ambassador {
    let watchdog = WATCHDOG.as_micros().to_string();
    Ambassador::start_with(config, |command| {
        command.env("WATCHDOG_USEC", watchdog);
    })
}

/// Admin requests are answered, probes continue, the watchdog is fed and sessions begin, now and for a while.
#[track_caller]
fn must_be_at_work(ambassador: &Ambassador) {
    let probes = || ambassador.metrics().sum("health_checks_total", &[]);
    let fed = || ambassador.notified().iter().filter(|line| *line == "WATCHDOG=1").count();
    let (before, meals) = (probes(), fed());
    let begun = Instant::now();
    until("probes went on and the watchdog was fed", || {
        (probes() >= before + 4.0 && fed() >= meals + 2).then_some(())
    });
    assert!(begun.elapsed() < 10 * WATCHDOG, "it took {:?}", begun.elapsed());
    ambassador.connect().echo("served");
}

#[track_caller]
fn must_stop(mut ambassador: Ambassador) {
    let begun = Instant::now();
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.wait_exit(), 0);
    assert!(begun.elapsed() < Duration::from_secs(4), "it took {:?}", begun.elapsed());
}

const PROBES: &str = "health_check: { type: tcp, interval: 100ms, timeout: 1s }";

/// Scenario: the file was read on the thread that answers admin requests, probes, feeds the watchdog and handles
/// signals: all of that stopped with it.
#[test]
fn an_endpoints_file_that_hangs_stops_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("endpoints.yaml");
    let (first, second) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let list = |upstream: &Upstream| format!("endpoints: [\"{}\"]\n", upstream.address());
    fs::write(&file, list(&first)).expect("a file");
    let ambassador = start(&Config::app(&[&format!("{{ file: {} }}", file.display())], PROBES));
    ambassador.connect().echo("before");
    hang(&file);
    must_be_at_work(&ambassador);
    ambassador.wait_line("reading it takes too long");
    must_be_at_work(&ambassador);
    // The file is replaced by a readable one.
    mend(&file, &list(&second));
    until("the new list was in use", || {
        ambassador.connect().echo("after");
        (second.accepted() > 0
            && ambassador.status()["clusters"][0]["endpoints"][0]["name"] == second.address())
        .then_some(())
    });
    hang(&file);
    must_stop(ambassador);
}

/// Scenario: the same with certificates and keys, which were also read under the lock of all credentials.
#[test]
fn a_certificate_that_hangs_stops_nothing_else() {
    let pki = Pki::new();
    let upstream = Upstream::tls(ServerTls::new(&pki.server(&["localhost"])).build(), roles::echo);
    let dir = tempfile::tempdir().expect("a folder");
    let ca = dir.path().join("ca.pem");
    let text = fs::read_to_string(pki.ca()).expect("a CA");
    fs::write(&ca, &text).expect("a file");
    let cluster = format!("tls: {{ ca: {}, server_name: localhost }}\n{PROBES}", ca.display());
    let ambassador = start(&Config::app(&[&upstream.address()], &cluster));
    ambassador.connect().echo("before");
    hang(&ca);
    must_be_at_work(&ambassador);
    ambassador.wait_line("takes too long");
    must_be_at_work(&ambassador);
    assert_eq!(ambassador.get("/status").status, 200);
    mend(&ca, &text);
    ambassador.wait_line("can be read again");
    hang(&ca);
    must_stop(ambassador);
}

/// Scenario: SIGTERM waited for a reload to end, which may take half a minute if a file hangs.
#[test]
fn a_reload_that_hangs_holds_up_neither_a_stop_nor_anything_else() {
    let upstream = Upstream::plain(roles::echo);
    let config = Config::app(&[&upstream.address()], PROBES);
    let ambassador = start(&config);
    hang(&ambassador.dir().join("listeners.yaml"));
    ambassador.signal(Signal::HUP);
    until("the reload had begun", || {
        ambassador.notified().iter().any(|line| line.starts_with("RELOADING=1")).then_some(())
    });
    must_be_at_work(&ambassador);
    assert_eq!(ambassador.post("/log?level=info").status, 200, "other orders are taken meanwhile");
    must_stop(ambassador);
}
