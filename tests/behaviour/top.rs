//! `top` in a real terminal, of tmux.

use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

use crate::harness::{Ambassador, Config, Upstream, ambassador as binary, demand, finish, roles, until};

/// A terminal of 80 by 24 with `top` in it. After `top` has ended, the shell's screen is visible again.
struct Screen {
    dir: TempDir,
}

impl Screen {
    #[track_caller]
    fn of(ambassador: &Ambassador) -> Self {
        let screen = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        let script = format!(
            "echo was here before; sh -c 'echo $$ >{}; exec {} top --control {}'; echo exit status $?; \
             stty -a | grep -o -- '-*icanon'; exec sleep 600",
            screen.dir.path().join("pid").display(),
            env!("CARGO_BIN_EXE_ambassador"),
            ambassador.control().display()
        );
        let size = ["-x", "80", "-y", "24"];
        screen.tmux(&[&["-f", "/dev/null", "new-session", "-d"][..], &size, &["sh", "-c", &script]].concat());
        screen
    }

    #[track_caller]
    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(demand("tmux", "tmux"));
        command.env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        command.arg("-u").arg("-S").arg(self.dir.path().join("tmux.sock")).args(arguments);
        finish(&mut command).must_succeed().stdout
    }

    /// The pid of `top`.
    fn pid(&self) -> Pid {
        let pid = std::fs::read_to_string(self.dir.path().join("pid")).expect("the process id of top");
        Pid::from_raw(pid.trim().parse().expect("a number")).expect("a process")
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Waits until that text is on the screen, wrapped or not, and returns the whole screen.
    #[track_caller]
    fn shows(&self, words: &str) -> String {
        until(format!("the screen showed {words:?}"), || {
            Some(self.tmux(&["capture-pane", "-p", "-J"])).filter(|screen| screen.contains(words))
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn top_shows_what_lives_closes_it_after_a_yes_and_gives_the_terminal_back() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    let (mut client, mut other) = (ambassador.connect(), ambassador.connect());
    client.echo("much more than the other one");
    other.echo("little");
    let screen = Screen::of(&ambassador);
    let shown = screen.shows("2 sessions");
    assert!(shown.contains("ready") && shown.contains(&upstream.address()), "{shown}");
    assert!(shown.contains("28 B") && !shown.contains("CALLER"), "{shown}");
    screen.tmux(&["resize-window", "-x", "160", "-y", "40"]);
    screen.shows("CALLER");
    for key in ["s", "s"] {
        screen.press(key);
    }
    screen.shows("s sort: sent");
    screen.press("k");
    screen.shows("? y: yes");
    screen.press("y");
    client.ending();
    screen.shows("is closed");
    screen.shows("1 sessions");
    assert_eq!(ambassador.record()["outcome"], "closed_by_operator");
    other.echo("still here");
    screen.press("C-c");
    let after = screen.shows("exit status 0");
    assert!(after.contains("was here before") && !after.contains("SESSION"), "{after}");
}

#[test]
fn top_outlives_the_daemon_and_finds_the_next_one() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    let screen = Screen::of(&ambassador);
    screen.shows("ready");
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.wait_exit(), 0);
    let shown = screen.shows("does not answer");
    assert!(shown.contains(&upstream.address()), "what it said last is still there: {shown}");
    let mut next = binary();
    next.args(["run", "--config"]).arg(ambassador.dir().join("listeners.yaml")).stderr(Stdio::null());
    let mut next = next.spawn().expect("the binary starts");
    screen.shows(&format!("ready  pid {}", next.id()));
    next.kill().expect("a child to kill");
    next.wait().expect("a child to wait for");
    screen.shows("does not answer");
    screen.press("q");
    screen.shows("exit status 0");
}

#[test]
fn top_without_a_terminal_or_a_daemon_says_so_and_exits_1() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    let finished = finish(binary().arg("top").arg("--control").arg(ambassador.control())).must_exit(1);
    finished.must_print("needs a terminal");
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.wait_exit(), 0);
    let screen = Screen::of(&ambassador);
    screen.shows("nobody listens there");
    screen.shows("exit status 1");
}

#[test]
fn a_signal_that_ends_top_gives_the_terminal_back_first() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    for (signal, status) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let screen = Screen::of(&ambassador);
        screen.shows("0 sessions");
        kill_process(screen.pid(), signal).expect("top lives");
        let shown = screen.shows(&format!("exit status {status}"));
        assert!(shown.contains("was here before"), "{shown}");
        let shown = screen.shows("icanon");
        assert!(!shown.contains("-icanon"), "lines are read as lines again: {shown}");
    }
}

#[test]
fn top_ends_with_its_terminal() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    let screen = Screen::of(&ambassador);
    screen.shows("0 sessions");
    let pid = screen.pid();
    drop(screen);
    until("top had ended", || test_kill_process(pid).is_err().then_some(()));
}
