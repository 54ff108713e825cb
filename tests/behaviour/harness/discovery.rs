//! What tests of discovery look at: the endpoints and origins that `/status` shows, what is kept on disk, and `check`.

use std::fs;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{Ambassador, Config, Finished, Upstream, ambassador, finish, roles, until};

/// The first cluster, as `/status` has it.
pub(crate) fn cluster(ambassador: &Ambassador) -> Value {
    ambassador.status()["clusters"][0].clone()
}

/// The endpoints that take new sessions, in the order of `/status`.
fn all_members(ambassador: &Ambassador) -> Vec<Value> {
    let cluster = cluster(ambassador);
    let endpoints = cluster["endpoints"].as_array().expect("endpoints").iter();
    endpoints.filter(|endpoint| endpoint["state"] != "removed").cloned().collect()
}

fn name(endpoint: &Value) -> String {
    endpoint["name"].as_str().expect("a name").to_owned()
}

/// The names of the endpoints that take new sessions, in the order of `/status`.
pub(crate) fn members(ambassador: &Ambassador) -> Vec<String> {
    all_members(ambassador).iter().map(name).collect()
}

/// What `/status` says of one of them.
#[track_caller]
pub(crate) fn member(ambassador: &Ambassador, upstream: &Upstream) -> Value {
    let mut all = all_members(ambassador).into_iter();
    let found = all.find(|endpoint| name(endpoint) == upstream.address());
    found.unwrap_or_else(|| panic!("{} takes no new sessions", upstream.address()))
}

/// Waits until these and no others take new sessions. Most sources have no order that a test could choose.
#[track_caller]
pub(crate) fn wait_members(ambassador: &Ambassador, expected: &[&Upstream]) {
    let mut expected: Vec<_> = expected.iter().map(|upstream| upstream.address()).collect();
    expected.sort();
    until(format!("the endpoints were {expected:?}"), || {
        let mut members = members(ambassador);
        members.sort();
        (members == expected).then_some(())
    });
}

/// Where the first cluster's endpoints come from: the first origin of `/status`.
pub(crate) fn origin(ambassador: &Ambassador) -> Value {
    cluster(ambassador)["discovery"][0].clone()
}

/// Waits until that has an error with these words, and returns it.
#[track_caller]
pub(crate) fn wait_error(ambassador: &Ambassador, words: &str) -> Value {
    until(format!("/status said {words:?}"), || {
        let origin = origin(ambassador);
        origin["last_error"].as_str().is_some_and(|error| error.contains(words)).then_some(origin)
    })
}

/// Waits until that has no error.
#[track_caller]
pub(crate) fn wait_well(ambassador: &Ambassador) {
    until("/status showed no error of discovery", || {
        origin(ambassador)["last_error"].is_null().then_some(())
    });
}

pub(crate) fn echoes<const N: usize>() -> [Upstream; N] {
    [(); N].map(|()| Upstream::plain(roles::echo))
}

/// `check` of a file whose only cluster has these endpoints, with further arguments.
#[track_caller]
pub(crate) fn check(endpoints: &str, arguments: &[&str]) -> Finished {
    check_with(endpoints, arguments, |_| {})
}

/// The same with changes to the command.
#[track_caller]
pub(crate) fn check_with(endpoints: &str, arguments: &[&str], adjust: impl FnOnce(&mut Command)) -> Finished {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("listeners.yaml");
    // What is meant for a source, and is none, is not to become an item of a list.
    let config = Config::app(&[endpoints], "").render(dir.path());
    let config = config.replace("endpoints:\n    - {", "endpoints: {");
    fs::write(&file, config).expect("a file to check");
    let mut command = ambassador();
    command.arg("check").args(arguments).arg("--config").arg(&file);
    adjust(&mut command);
    finish(&mut command)
}

/// A folder where the endpoints of cluster `up` are kept.
pub(crate) struct KeepFolder(TempDir);

impl KeepFolder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// That configuration with this folder.
    pub(crate) fn of(&self, config: Config) -> Config {
        config.top(&format!("discovery: {{ keep: {} }}", self.0.path().display()))
    }

    /// Waits until that endpoint is kept.
    #[track_caller]
    pub(crate) fn wait_kept(&self, upstream: &Upstream) {
        until(format!("{} was kept", upstream.address()), || {
            let kept = fs::read_to_string(self.0.path().join("discovery-up.json")).ok()?;
            kept.contains(&upstream.address()).then_some(())
        });
    }

    /// An ambassador finds the endpoint, keeps it, and is killed.
    #[track_caller]
    pub(crate) fn fill(&self, config: &Config, upstream: &Upstream) {
        let mut ambassador = Ambassador::start(config);
        self.wait_kept(upstream);
        ambassador.signal(Signal::KILL);
        ambassador.wait_exit();
    }
}
