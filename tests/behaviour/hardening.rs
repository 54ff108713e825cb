//! What the daemon gives up at its start, and who may give it orders.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::harness::{Ambassador, Config, Upstream, demand, finish, roles};

#[test]
fn the_daemon_gains_no_privileges_any_more() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    ambassador.connect().echo("it works");
    let tasks = fs::read_dir(format!("/proc/{}/task", ambassador.pid().as_raw_nonzero())).expect("our child");
    for task in tasks.flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        assert!(status.is_empty() || status.contains("NoNewPrivs:\t1"), "{status}");
    }
}

#[test]
fn the_control_socket_hears_its_own_user_and_root_only() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test is another user for a moment, which only root may be"
    );
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    // As if somebody had opened it to all.
    fs::set_permissions(ambassador.dir(), Permissions::from_mode(0o755)).expect("our directory");
    fs::set_permissions(ambassador.control(), Permissions::from_mode(0o666)).expect("its socket");
    let ask = |user: &str| {
        let mut curl = Command::new(demand("setpriv", "util-linux"));
        curl.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into()]);
        curl.arg(demand("curl", "curl")).arg("-sS").arg("--unix-socket").arg(ambassador.control());
        finish(curl.args(["--max-time", "20", "http://control/healthz"]))
    };
    assert_eq!(ask("0").must_succeed().stdout, "ok\n");
    let stranger = ask("65534");
    assert_ne!(stranger.code, 0, "{stranger:?}");
    assert_eq!(stranger.stdout, "");
    ambassador.wait_line("somebody else than our own user and root");
}
