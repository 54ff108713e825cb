//! Log outputs: rotated files, full disks, journald, readers that do not read. For stderr, see `admin`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    Ambassador, Client, Config, End, Upstream, ambassador, demand, finish, roles, until, until_within,
};

const FILE: &str = "{ format: json, level: debug, access: { output: '{dir}/access.log' } }";

fn app(upstream: &Upstream, log: &str) -> Config {
    Config::app(&[&upstream.address()], "").log(log)
}

/// The lines of a file; each must be complete.
#[track_caller]
fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is torn: {:?}", text.lines().last());
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}")))
        .collect()
}

#[track_caller]
fn wait_records(path: &Path, count: usize) -> Vec<Value> {
    until(format!("{} had {count} lines", path.display()), || {
        let whole = fs::read_to_string(path).unwrap_or_default().matches('\n').count() == count;
        whole.then(|| records(path))
    })
}

fn lost(ambassador: &Ambassador, output: &str) -> f64 {
    ambassador.metrics().sum("log_lines_lost_total", &[("output", output)])
}

/// Scenario: a caller that connected only to be refused made the daemon write 3.7 MB of log a second. Some of one
/// caller's refusals write a record, the others are counted in one line; the metrics count all.
#[test]
fn refused_connections_do_not_fill_the_log() {
    let upstream = Upstream::plain(roles::echo);
    let listener = "bind: 127.0.0.1:0\ncluster: up\nallow: [ { unit: nobody-has-this.service } ]";
    let config = Config::new().listener("app", listener).cluster("up", &[&upstream.address()], "");
    let ambassador = Ambassador::start(&config);
    for _ in 0..300 {
        let _ = ambassador.connect().ending();
    }
    let denied = || ambassador.metrics().sum("connections_total", &[("outcome", "denied")]);
    until("all were counted", || (denied() == 300.0).then_some(()));
    // A window may have ended meanwhile, on a slow machine.
    assert!((100..300).contains(&ambassador.records().len()), "{}", ambassador.records().len());
    let told = until_within(Duration::from_secs(40), "the others were told", || {
        let lines =
            ambassador.lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        let counts: Vec<_> = lines.filter_map(|line| line["left_out"].as_u64()).collect();
        let all = counts.iter().sum::<u64>() + ambassador.records().len() as u64;
        (all == 300).then_some(counts)
    });
    assert!(!told.is_empty());
}

#[test]
fn records_go_to_their_file_and_the_other_words_to_stderr() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&app(&upstream, FILE));
    let path = ambassador.dir().join("access.log");
    let mode = fs::metadata(&path).expect("a file before the first record").permissions().mode();
    assert_eq!(mode & 0o777, 0o640, "{mode:o}");
    ambassador.connect().echo("hello");
    let records = wait_records(&path, 1);
    assert_eq!((&records[0]["target"], &records[0]["outcome"]), (&"access".into(), &"completed".into()));
    assert!(ambassador.records().is_empty());
    assert!(!ambassador.lines().is_empty());
}

#[test]
fn a_log_that_cannot_be_opened_is_a_mistake_at_the_start_and_makes_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("listeners.yaml");
    let upstream = Upstream::plain(roles::echo);
    for (log, code) in [("./missing/a.log", 78), ("./a.log", 0)] {
        let config = app(&upstream, &format!("{{ access: {{ output: {log} }} }}"));
        fs::write(&file, config.render(folder.path())).expect("a file");
        let checked = finish(ambassador().arg("check").arg("--config").arg(&file));
        assert_eq!(checked.code, code, "{}", checked.stderr);
        let told =
            checked.stderr.contains("listeners.yaml:2:26: log.access.output: nothing can be written to");
        assert_eq!(told, code == 78, "{}", checked.stderr);
    }
    assert!(!folder.path().join("a.log").exists());
    fs::write(&file, app(&upstream, "{ output: ./missing/a.log }").render(folder.path())).expect("a file");
    assert_eq!(finish(ambassador().arg("run").arg("--config").arg(&file)).code, 78);
}

/// A log file that is renamed while sessions come and go: with SIGHUP, with SIGUSR1, and without a signal.
#[test]
fn rotation_under_load_loses_no_record_and_tears_none() {
    const ROTATIONS: usize = 12;
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&app(&upstream, FILE));
    let (path, address) = (ambassador.dir().join("access.log"), ambassador.address("app"));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut sessions = 0;
                while !stop.load(Ordering::Relaxed) {
                    Client::tcp(address).expect("the listener accepts").echo("at any time");
                    sessions += 1;
                }
                sessions
            })
        })
        .collect();
    let rotated: Vec<PathBuf> =
        (0..ROTATIONS).map(|round| ambassador.dir().join(format!("access.log.{round}"))).collect();
    for (round, old) in rotated.iter().enumerate() {
        until("a record was written", || (fs::metadata(&path).ok()?.len() > 0).then_some(()));
        fs::rename(&path, old).expect("a renamed file");
        match round % 10 {
            // Within a second.
            9 => {}
            even if even % 2 == 0 => ambassador.signal(Signal::HUP),
            _ => ambassador.signal(Signal::USR1),
        }
        until("the file was there again", || path.exists().then_some(()));
    }
    stop.store(true, Ordering::Relaxed);
    let sessions: usize = clients.into_iter().map(|client| client.join().expect("no client failed")).sum();
    let all = || rotated.iter().chain([&path]).flat_map(|path| records(path)).collect::<Vec<_>>();
    let lines = until("every session had a record", || {
        let lines = all();
        (lines.len() >= sessions).then_some(lines)
    });
    let ids: BTreeSet<_> =
        lines.iter().map(|line| line["session"].as_str().expect("an id").to_owned()).collect();
    assert_eq!((lines.len(), ids.len()), (sessions, sessions));
    assert_eq!(lost(&ambassador, "file"), 0.0);
}

/// Both ways of Debian's logrotate, as docs/OPERATING.md has them.
#[test]
fn logrotate_rotates_by_renaming_and_by_copying() {
    let logrotate = demand("logrotate", "logrotate");
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&app(&upstream, FILE));
    let (dir, path) = (ambassador.dir(), ambassador.dir().join("access.log"));
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("a mode that logrotate accepts");
    let pid = ambassador.pid().as_raw_nonzero();
    let signalled = format!("nocreate\n postrotate\n kill -USR1 {pid}\n endscript");
    for (round, way) in [(1, signalled.as_str()), (2, "copytruncate")] {
        ambassador.connect().echo("before");
        wait_records(&path, 1);
        let conf = dir.join("logrotate.conf");
        fs::write(&conf, format!("{} {{\n rotate 9\n {way}\n}}\n", path.display())).expect("a file");
        let mut rotate = Command::new(&logrotate);
        finish(rotate.args(["--force", "--state"]).arg(dir.join("state")).arg(&conf)).must_succeed();
        until("a new file was there", || path.exists().then_some(()));
        ambassador.connect().echo("behind");
        // The line is not behind a hole of the old size.
        wait_records(&path, 1);
        assert_eq!(records(&dir.join("access.log.1")).len(), 1, "{round}");
        fs::write(&path, "").expect("an empty file");
    }
}

/// A session of a replaced process continues, and so does that process's log.
#[test]
fn a_replaced_process_follows_the_file_by_itself() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = Ambassador::start(&app(&upstream, FILE));
    let path = ambassador.dir().join("access.log");
    let mut old = ambassador.connect();
    old.echo("of the old process");
    ambassador.replace();
    fs::rename(&path, ambassador.dir().join("access.log.1")).expect("a renamed file");
    // A second after its last look at the file.
    thread::sleep(Duration::from_millis(1100));
    drop(old);
    wait_records(&path, 1);
}

#[test]
fn a_reload_changes_where_records_go_and_whether_there_are_any() {
    let upstream = Upstream::plain(roles::echo);
    // Otherwise it could write only to folders that it had written to before; a test of its own covers that.
    let app = |log: &str| app(&upstream, log).top("runtime: { landlock: off }");
    let ambassador = Ambassador::start(&app("{ format: json, level: debug, access: true }"));
    let reload = |log: &str| {
        ambassador.rewrite(&app(log));
        let answer = ambassador.post("/reload").json();
        assert_eq!(
            (&answer["ok"], &answer["needs_restart"]),
            (&true.into(), &Value::Array(Vec::new())),
            "{answer}"
        );
    };
    ambassador.connect().echo("to stderr");
    ambassador.wait_records(1);
    reload(FILE);
    ambassador.connect().echo("to a file");
    let path = ambassador.dir().join("access.log");
    let records = wait_records(&path, 1);
    assert_eq!(records[0]["caller"]["uid"], rustix::process::getuid().as_raw());
    reload("{ format: text, level: debug, access: false }");
    ambassador.connect().echo("nowhere");
    ambassador.wait_active(0);
    reload(
        "{ format: text, level: info, output: '{dir}/words.log', access: { output: '{dir}/access.log' } }",
    );
    ambassador.connect().echo("as text");
    until("a record in text", || {
        fs::read_to_string(&path)
            .unwrap_or_default()
            .lines()
            .find(|line| line.contains("access: session="))
            .map(drop)
    });
    let words = ambassador.dir().join("words.log");
    until("words in a file", || {
        fs::read_to_string(&words).unwrap_or_default().contains("reloaded").then_some(())
    });
    assert_eq!(fs::read_to_string(&path).expect("a file").lines().count(), 2);
    // A file that cannot be opened changes nothing.
    ambassador.rewrite(&app("{ output: '{dir}/missing/words.log' }"));
    let answer = ambassador.post("/reload");
    assert_eq!(answer.status, 422);
    assert_eq!(answer.json()["mistakes"][0]["path"], "log.output");
}

#[test]
fn a_busy_listener_leaves_a_sample_from_which_counts_can_be_restored() {
    const SESSIONS: u32 = 400;
    let upstream = Upstream::plain(roles::echo);
    let quarter = "bind: 127.0.0.1:0\ncluster: up\naccess_log: { sample: 0.25 }\nmax_connections: 1";
    let none = "bind: 127.0.0.1:0\ncluster: up\naccess_log: false";
    let config = Config::app(&[&upstream.address()], "").listener("busy", quarter).listener("silent", none);
    let ambassador = Ambassador::start(&config);
    for _ in 0..SESSIONS {
        ambassador.connect_to("busy").echo("hello");
        ambassador.wait_active(0);
    }
    ambassador.connect_to("silent").echo("hello");
    let mut only = ambassador.connect_to("busy");
    only.echo("the only one");
    assert_eq!(ambassador.connect_to("busy").ending(), End::Reset);
    // Refusals are written regardless of the draw.
    let refused = ambassador.record_of("listener_full");
    assert_eq!(refused["sample"], Value::Null);
    ambassador.connect().echo("not sampled");
    let whole = ambassador.record_where("app", |record| record["listener"] == "app");
    assert_eq!(whole["sample"], Value::Null);
    let of = |name: &str| {
        ambassador.records().into_iter().filter(|record| record["listener"] == name).collect::<Vec<_>>()
    };
    assert!(of("silent").is_empty());
    let restored: f64 =
        of("busy").iter().filter_map(|record| record["sample"].as_f64()).map(|share| 1.0 / share).sum();
    // Five standard deviations: 4 * sqrt(400 * 0.25 * 0.75) each.
    assert!((restored - f64::from(SESSIONS)).abs() < 175.0, "{restored}");
    // The sample is changed by a reload.
    let all = Config::app(&[&upstream.address()], "").listener("busy", "bind: 127.0.0.1:0\ncluster: up");
    ambassador.rewrite(&all);
    assert_eq!(ambassador.post("/reload").json()["needs_restart"], Value::Array(Vec::new()));
}

#[test]
fn the_level_is_changed_by_order_for_a_while_or_until_a_reload() {
    let upstream = Upstream::plain(roles::echo);
    let config = |level: &str| app(&upstream, &format!("{{ format: json, level: {level} }}"));
    let ambassador = Ambassador::start(&config("error"));
    let command = |arguments: &[&str]| {
        let mut command = crate::harness::ambassador();
        command.arg("log-level").args(arguments).arg("--control").arg(ambassador.control());
        finish(&mut command).must_succeed().stdout
    };
    ambassador.connect().echo("hello");
    ambassador.wait_records(1);
    assert_eq!(ambassador.lines().len(), 1, "records hang on no level: {:?}", ambassador.lines());
    assert_eq!(command(&[]), "the log's level is error, as configured\n");
    assert_eq!(command(&["debug"]), "the log's level is debug until a reload, then error\n");
    ambassador.wait_line("ordered on the control socket");
    ambassador.signal(Signal::HUP);
    until("the reload had ended the order", || {
        (ambassador.get("/log").json()["level"] == "error").then_some(())
    });
    assert!(command(&["info", "--for", "300ms"]).contains("info for 300ms, then error"));
    until("the order had ended", || (ambassador.get("/log").json()["level"] == "error").then_some(()));
    // A reload puts its own level in force.
    ambassador.rewrite(&config("info"));
    assert!(ambassador.post("/reload").json()["ok"] == true);
    assert_eq!(command(&[]), "the log's level is info, as configured\n");
    for (path, status) in [("/log?level=loud", 400), ("/log?level=info&for=soon", 400), ("/log", 400)] {
        assert_eq!(ambassador.post(path).status, status, "{path}");
    }
    assert_eq!(ambassador.request("POST", "/log?level=debug", "localhost").status, 405);
}

/// A tmpfs of 64 KiB, unmounted on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("a small disk needs root: not tested");
            return None;
        }
        fs::create_dir(&at).expect("a folder");
        finish(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "small"]).arg(&at))
            .must_succeed();
        Some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = finish(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

#[test]
fn a_full_disk_loses_lines_and_no_session_and_lines_come_again_when_there_is_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(folder.path().join("disk")) else { return };
    let path = disk.0.join("access.log");
    let upstream = Upstream::plain(roles::echo);
    let log = format!("{{ format: json, level: debug, access: {{ output: '{}' }} }}", path.display());
    let ambassador = Ambassador::start(&app(&upstream, &log));
    until("the disk was full", || {
        ambassador.connect().echo("whatever the disk says");
        (lost(&ambassador, "file") > 3.0).then_some(())
    });
    let said = ambassador.wait_line("cannot write the log to");
    assert!(said.contains("No space left") && said.contains(&path.display().to_string()), "{said}");
    ambassador.connect().echo("still here");
    // Room is made the way logrotate does it: a copy, then a truncation.
    let full = fs::read_to_string(&path).expect("a file");
    File::options().write(true).open(&path).and_then(|file| file.set_len(0)).expect("a truncated file");
    ambassador.connect().echo("with room");
    ambassador.wait_line("the log can be written again");
    ambassador.wait_active(0);
    let accepted = ambassador.metrics().sum("accepted_total", &[]);
    // The line in which the disk became full is complete: its rest was written first.
    let whole = until("every session had left a record or was counted", || {
        let whole = full.clone() + &fs::read_to_string(&path).expect("a file");
        let counted = whole.matches('\n').count() as f64 + lost(&ambassador, "file");
        (counted == accepted).then_some(whole)
    });
    whole.lines().for_each(|line| drop(serde_json::from_str::<Value>(line).expect("a whole line")));
    let said = ambassador.lines().iter().filter(|line| line.contains("cannot write the log to")).count();
    assert_eq!(said, 1, "it is said once, not once a line");
}

/// The pipe of this log alone fills up and stays full.
#[test]
fn a_fifo_that_nobody_reads_stops_nothing_and_a_late_reader_finds_what_fitted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fifo");
    finish(Command::new("mkfifo").arg(&path)).must_succeed();
    let upstream = Upstream::plain(roles::echo);
    let log = format!("{{ format: json, level: info, output: '{}' }}", path.display());
    let mut ambassador = Ambassador::start(&app(&upstream, &log));
    lose(&ambassador, "file");
    let mut reader = BufReader::new(File::open(&path).expect("the fifo is open at its other end"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    assert_eq!(serde_json::from_str::<Value>(&line).expect("a record")["level"], "INFO");
    ambassador.connect().echo("still here");
    ambassador.signal(Signal::TERM);
    thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    assert_eq!(ambassador.wait_exit(), 0);
}

/// A request is repeated in the log, whatever its length.
#[track_caller]
fn lose(ambassador: &Ambassador, output: &str) {
    // The queue has room for 16 MiB.
    const MORE_THAN_FIT: usize = 1000;
    let order = format!("/{}", "x".repeat(30_000));
    let lost = (0..MORE_THAN_FIT).any(|_| {
        assert_eq!(ambassador.post(&order).status, 404);
        lost(ambassador, output) > 0.0
    });
    assert!(lost, "{MORE_THAN_FIT} lines that nobody reads are held somewhere");
}

/// A journald socket; the owner of the value reads the datagrams.
fn journald(dir: &Path) -> (UnixDatagram, String) {
    let path = dir.join("journal.sock");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    (socket, format!("journald:{}", path.display()))
}

/// The fields of an entry, as the journal's protocol encodes them.
fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while !entry.is_empty() {
        let mut line = Vec::new();
        entry.read_until(b'\n', &mut line).expect("a line");
        let line = String::from_utf8(line).expect("UTF-8");
        match line.trim_end_matches('\n').split_once('=') {
            Some((name, value)) => fields.push((name.to_owned(), value.to_owned())),
            None => {
                let mut size = [0; 8];
                entry.read_exact(&mut size).expect("a size");
                let (value, rest) =
                    entry.split_at(usize::try_from(u64::from_le_bytes(size)).expect("a size"));
                fields.push((line.trim_end().to_owned(), String::from_utf8(value.to_vec()).expect("UTF-8")));
                entry = rest.strip_prefix(b"\n").expect("an end");
            }
        }
    }
    fields
}

#[test]
fn the_journal_gets_every_field_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let (socket, output) = journald(folder.path());
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&app(&upstream, &format!("{{ level: info, output: '{output}' }}")));
    ambassador.connect().echo("hello");
    let mut buffer = vec![0; 65536];
    let mut next = || {
        let size = socket.recv(&mut buffer).expect("an entry");
        fields(&buffer[..size])
    };
    let get = |entry: &[(String, String)], name: &str| {
        entry.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    let words = next();
    assert_eq!(get(&words, "SYSLOG_IDENTIFIER").as_deref(), Some("ambassador"));
    assert_eq!(get(&words, "PRIORITY").as_deref(), Some("6"), "{words:?}");
    let record = until("a record came", || {
        let entry = next();
        (get(&entry, "AMBASSADOR_TARGET").as_deref() == Some("access")).then_some(entry)
    });
    let is = |name: &str, value: &str| {
        assert_eq!(get(&record, name).as_deref(), Some(value), "{name}: {record:?}")
    };
    is("AMBASSADOR_LISTENER", "app");
    is("AMBASSADOR_CLUSTER", "up");
    is("AMBASSADOR_ENDPOINT", &upstream.address());
    is("AMBASSADOR_OUTCOME", "completed");
    is("AMBASSADOR_SENT_BYTES", "5");
    is("AMBASSADOR_CALLER_UID", &rustix::process::getuid().as_raw().to_string());
    assert_eq!(get(&record, "AMBASSADOR_SESSION").map(|id| id.len()), Some(16));
    let message = get(&record, "MESSAGE").expect("a message");
    assert!(
        message.starts_with("session ended: session=") && message.contains("outcome=completed"),
        "{message}"
    );
    assert!(ambassador.lines().is_empty(), "{:?}", ambassador.lines());
}

#[test]
fn a_journal_that_nobody_reads_stops_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_unread, output) = journald(folder.path());
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador =
        Ambassador::start(&app(&upstream, &format!("{{ level: info, output: '{output}' }}")));
    lose(&ambassador, "journald");
    ambassador.connect().echo("still here");
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.wait_exit(), 0);
}
