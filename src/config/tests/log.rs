//! The log's outputs: words, files that can be written, files that cannot.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::{accept, least};
use crate::config::{Config, Mistakes};
use crate::log::{Format, Output};
use crate::policy::sampling::Sampling;

fn parse(folder: &Path, log: &str) -> Result<Config, Mistakes> {
    let text = format!(
        "log: {log}\nlisteners: {{ a: {{ bind: 127.0.0.1:1, cluster: b }} }}\nclusters: {{ b: {{ endpoints: \
         [10.0.0.1:1] }} }}\n"
    );
    Config::parse(&text, &folder.join("listeners.yaml"), &|_| None)
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(folder.path().join("logs")).expect("a folder");
    folder
}

#[track_caller]
fn outputs(folder: &Path, log: &str) -> (Output, Output) {
    let config = parse(folder, log).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    (config.log.events.output, config.log.access.output)
}

#[track_caller]
fn refused(folder: &Path, log: &str, path: &str, part: &str) {
    let mistakes = parse(folder, log).expect_err("a mistake");
    let first = mistakes.iter().next().expect("a mistake");
    assert_eq!(first.path, path, "{mistakes}");
    assert!(first.message.contains(part), "{part:?} is not in {:?}", first.message);
    assert_eq!(first.position.map(|position| position.line), Some(1));
}

/// There was no warning where other users could put a file of theirs in place of a socket or a log.
#[test]
fn folders_that_others_may_write_are_warned_of() {
    let folder = folder();
    let shared = folder.path().join("shared");
    fs::create_dir(&shared).expect("a folder");
    fs::set_permissions(&shared, Permissions::from_mode(0o1777)).expect("a mode");
    for (position, expected) in [("logs", 0), ("shared", 2)] {
        let text = format!(
            "admin: {{ bind: off, control: \"unix:./{position}/c.sock\" }}\nlog: {{ output: {position}/a.log }}\nlisteners: {{ a: {{ bind: \
             \"unix:./{position}/a.sock\", cluster: b }} }}\nclusters: {{ b: {{ endpoints: [10.0.0.1:1] }} }}\n"
        );
        let config = Config::parse(&text, &folder.path().join("listeners.yaml"), &|_| None).expect("fine");
        let warned =
            config.warnings.iter().filter(|warning| warning.contains("other users may write in")).count();
        assert_eq!(warned, expected, "{position}: {:?}", config.warnings);
        let told = config.warnings.join("\n");
        for path in ["admin.control", "log.output", "listeners.a.bind"] {
            assert_eq!(told.contains(path), expected > 0, "{path}: {told}");
        }
    }
}

#[test]
fn records_go_where_the_words_go_unless_the_file_says_otherwise() {
    let folder = folder();
    let file = |name: &str| Output::File(folder.path().join(name));
    let log = outputs(folder.path(), "{ output: logs/a.log }");
    assert_eq!(log, (file("logs/a.log"), file("logs/a.log")));
    let log = outputs(folder.path(), "{ output: stdout, access: { output: ./b.log } }");
    assert_eq!(log, (Output::Stdout, file("./b.log")));
    let log = outputs(folder.path(), "{ access: { output: /dev/null } }");
    assert_eq!(log, (Output::Stderr, Output::File(PathBuf::from("/dev/null"))));
    assert!(!folder.path().join("b.log").exists(), "reading a file makes none");
}

#[test]
fn a_format_is_for_both_unless_the_records_have_their_own() {
    let folder = folder();
    let formats = |log: &str| {
        let config = parse(folder.path(), log).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        (config.log.events.format, config.log.access.format)
    };
    assert_eq!(formats("{ format: text }"), (Some(Format::Text), Some(Format::Text)));
    let own = formats("{ format: text, access: { format: json } }");
    assert_eq!(own, (Some(Format::Text), Some(Format::Json)));
}

#[test]
fn an_output_that_cannot_be_is_refused_at_its_place() {
    let folder = folder();
    let folder = folder.path();
    refused(folder, "{ output: journal }", "log.output", "did you mean `journald`?");
    refused(folder, "{ output: access.log }", "log.output", "write ./access.log");
    refused(folder, "{ output: logs/ }", "log.output", "is a directory");
    refused(folder, "{ access: { output: none/a.log } }", "log.access.output", "No such file or directory");
    refused(folder, "{ output: listeners.yaml/a.log }", "log.output", "o");
    refused(folder, "{ output: 'journald:./logs' }", "log.output", "journald at");
    fs::write(folder.join("locked.log"), "").expect("a file");
    fs::set_permissions(folder.join("locked.log"), Permissions::from_mode(0o400)).expect("a mode");
    if !rustix::process::geteuid().is_root() {
        refused(folder, "{ output: ./locked.log }", "log.output", "Permission denied");
    }
}

#[test]
fn a_listener_says_for_itself_which_sessions_leave_a_record() {
    let records = |access: &str, listener: &str| {
        let text = least(&format!("log: {{ access: {access} }}"), listener, "");
        accept(&text).listeners[0].records
    };
    let tenth = Some(Sampling::new(0.1, Some(Duration::from_secs(1))));
    assert_eq!(records("{ sample: 0.1, slower_than: 1s }", ""), tenth);
    assert_eq!(records("false", "access_log: { sample: 0.1, slower_than: 1s }"), tenth);
    assert_eq!(records("false", "access_log: true"), Some(Sampling::ALL));
    assert_eq!(records("{ sample: 0.1 }", "access_log: false"), None);
    assert_eq!(records("{}", ""), Some(Sampling::ALL));
    let folder = folder();
    refused(
        folder.path(),
        "{ access: { slower_than: 1s } }",
        "log.access.slower_than",
        "no `sample` below 1",
    );
    refused(folder.path(), "{ access: { sample: 1.5 } }", "log.access.sample", "a number from 0 to 1");
}

#[test]
fn the_journal_has_fields_and_no_format() {
    let folder = folder();
    let socket = folder.path().join("journal.sock");
    let _journald = std::os::unix::net::UnixDatagram::bind(&socket).expect("a socket");
    let (words, access) = outputs(folder.path(), "{ output: 'journald:journal.sock', access: true }");
    assert_eq!((words, access), (Output::Journal(socket.clone()), Output::Journal(socket)));
    let log = "{ output: 'journald:journal.sock', format: json }";
    refused(folder.path(), log, "log.format", "leave `format` out");
    // Access records do not inherit the events' format where they go to the journal.
    let log = "{ format: text, access: { output: 'journald:journal.sock' } }";
    assert_eq!(outputs(folder.path(), log).0, Output::Stderr);
}
