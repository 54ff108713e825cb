//! Several daemons of one user: a command acts on the daemon of its file, or reports that it cannot.

use std::path::Path;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{Ambassador, Config, Finished, Upstream, ambassador, finish, roles, until};

/// Without `admin.control`.
fn config(upstream: &Upstream, admin: &str) -> Config {
    Config::app(&[&upstream.address()], "").admin(admin)
}

fn start(config: &Config, runtime: &TempDir) -> Ambassador {
    let mut started = Ambassador::spawn(config, |command| {
        command.env("XDG_RUNTIME_DIR", runtime.path());
    });
    started.wait_notified("READY=1");
    started
}

/// A command for that file.
fn run(arguments: &[&str], file: &Path, runtime: &TempDir) -> Finished {
    let mut command = ambassador();
    command.args(arguments).arg("--config").arg(file).env("XDG_RUNTIME_DIR", runtime.path());
    finish(&mut command)
}

fn file(ambassador: &Ambassador) -> std::path::PathBuf {
    ambassador.dir().join("listeners.yaml")
}

fn serves(ambassador: &Ambassador, runtime: &TempDir) -> bool {
    let status = run(&["status", "--json"], &file(ambassador), runtime);
    status.code == 0 && status.stdout.contains(&file(ambassador).display().to_string())
}

/// Scenario: two files without `admin.control` have the same default path. The second daemon warned that it had none,
/// and from then on `drain --config second.yaml` drained the first, and `reload` reported of the first that nothing
/// had changed.
#[test]
fn each_of_two_daemons_with_defaults_obeys_the_commands_of_its_own_file() {
    let upstream = Upstream::plain(roles::echo);
    let runtime = tempfile::tempdir().expect("a folder");
    let config = config(&upstream, "{ bind: \"127.0.0.1:0\" }");
    let mut first = start(&config, &runtime);
    let usual = runtime.path().join("ambassador/control.sock");
    assert!(usual.exists(), "of one daemon it is where it always was");
    let mut second = start(&config, &runtime);
    second.wait_line("another daemon has the control socket's default path");
    assert!(serves(&first, &runtime) && serves(&second, &runtime));
    run(&["reload"], &file(&second), &runtime).must_succeed();
    second.wait_line("configuration reloaded");
    assert!(!first.lines().iter().any(|line| line.contains("configuration reloaded")));
    // It keeps its socket, with and without the first daemon.
    second.replace();
    assert!(serves(&second, &runtime));
    run(&["drain", "--wait"], &file(&first), &runtime).must_succeed();
    assert_eq!(first.wait_exit(), 0);
    assert!(serves(&second, &runtime));
    let reloaded = run(&["reload", "--json"], &file(&second), &runtime).must_succeed();
    assert!(!reloaded.stdout.contains("answering on"), "{}", reloaded.stdout);
    run(&["drain", "--wait"], &file(&second), &runtime).must_succeed();
    until("the second had gone", || (!serves(&second, &runtime)).then_some(()));
}

#[test]
fn a_command_for_a_file_whose_daemon_is_not_there_touches_no_other() {
    let upstream = Upstream::plain(roles::echo);
    let runtime = tempfile::tempdir().expect("a folder");
    let mut first = start(&config(&upstream, "{ bind: \"127.0.0.1:0\" }"), &runtime);
    let address = first.wait_line("\"answering on\"");
    let admin = address.split('"').find(|part| part.starts_with("127.0.0.1:")).expect("an address");
    let second = tempfile::tempdir().expect("a folder");
    let second = second.path().join("second.yaml");
    std::fs::create_dir_all(second.parent().expect("a folder")).expect("a folder");
    let text = config(&upstream, &format!("{{ bind: \"{admin}\" }}"));
    std::fs::write(&second, text.render(first.dir())).expect("a file");
    for arguments in [
        &["drain"] as &[&str],
        &["reload"],
        &["status"],
        &["sessions"],
        &["close", "0000000000000001"],
        &["endpoint", "up", &upstream.address(), "disable"],
        &["log-level", "debug"],
    ] {
        let refused = run(arguments, &second, &runtime).must_exit(1);
        refused.must_print("no daemon answers");
        refused.must_print(&format!("it is the daemon of {}", file(&first).display()));
    }
    assert!(serves(&first, &runtime));
    let by_place = ["status", "--control"].map(str::to_owned);
    let place = runtime.path().join("ambassador/control.sock").display().to_string();
    let arguments = [&by_place[0], &by_place[1], &place].map(String::as_str);
    run(&arguments, &second, &runtime).must_succeed();
    first.signal(Signal::TERM);
    assert_eq!(first.wait_exit(), 0);
}

/// Scenario: "cannot listen on 127.0.0.1:9901" did not say what that address is.
#[test]
fn an_address_that_is_taken_is_named_by_its_key() {
    let upstream = Upstream::plain(roles::echo);
    let taken = Upstream::plain(roles::echo);
    let runtime = tempfile::tempdir().expect("a folder");
    let control = runtime.path().join("named.sock");
    let first = start(
        &config(&upstream, &format!("{{ bind: off, control: 'unix:{}' }}", control.display())),
        &runtime,
    );
    let app = |bind: &str| Config::new().cluster("up", &["127.0.0.1:1"], "").listener("app", bind);
    let free = "bind: 127.0.0.1:0\ncluster: up";
    for (config, expected) in [
        (
            app(free).admin(&format!("{{ bind: '{}', control: off }}", taken.address())),
            format!("admin.bind: cannot listen on {}", taken.address()),
        ),
        (
            app(free).admin(&format!("{{ bind: off, control: 'unix:{}' }}", control.display())),
            format!("admin.control: cannot listen on unix:{}", control.display()),
        ),
        (
            app(&format!("bind: '{}'\ncluster: up", taken.address())).admin("{ bind: off, control: off }"),
            format!("listeners.app.bind: cannot listen on {}", taken.address()),
        ),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("listeners.yaml");
        std::fs::write(&file, config.render(dir.path())).expect("a file");
        run(&["run"], &file, &runtime).must_exit(1).must_print(&expected);
    }
    assert!(serves(&first, &runtime), "its socket is its own yet");
}
