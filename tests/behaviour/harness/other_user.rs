//! Other users of this host, with groups, in control groups or network namespaces of their own. Only root can change
//! its uid; otherwise the tests that need it print so and pass.
//!
//! Two users and two groups are created if they are missing, and stay; control groups and namespaces are removed with
//! the test.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Once;

use super::{Finished, demand, finish};

/// A user that the tests created.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: &'static str,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Billing is in group [`APPS`], reports is not.
pub(crate) struct Users {
    pub(crate) billing: User,
    pub(crate) reports: User,
}

pub(crate) const APPS: &str = "ambtest-apps";

impl Users {
    /// `None`, with a message, if we are not root.
    pub(crate) fn have() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("this needs several users, which only root can have: not tested");
            return None;
        }
        static MADE: Once = Once::new();
        MADE.call_once(|| {
            let exists = |kind: &str, name: &str| finish(Command::new("getent").args([kind, name])).code == 0;
            let make = |program: &str, arguments: &[&str]| {
                finish(Command::new(demand(program, "passwd")).args(arguments)).must_succeed();
            };
            if !exists("group", APPS) {
                make("groupadd", &["--system", APPS]);
            }
            for (name, more) in [(BILLING, &["--groups", APPS][..]), (REPORTS, &[])] {
                if !exists("passwd", name) {
                    make(
                        "useradd",
                        &[&["--system", "--user-group", "--no-create-home"], more, &[name]].concat(),
                    );
                }
            }
        });
        Some(Self { billing: User::of(BILLING), reports: User::of(REPORTS) })
    }
}

const BILLING: &str = "ambtest-billing";
const REPORTS: &str = "ambtest-reports";

impl User {
    fn of(name: &'static str) -> Self {
        let entry = finish(Command::new("getent").args(["passwd", name])).must_succeed().stdout;
        let number =
            |at: usize| entry.split(':').nth(at).and_then(|field| field.parse().ok()).expect("a number");
        Self { name, uid: number(2), gid: number(3) }
    }
}

/// Where a client runs, and under which user.
#[derive(Clone, Default)]
pub(crate) struct OtherUser {
    user: Option<User>,
    groups: Vec<String>,
    cgroup: Option<PathBuf>,
    namespace: Option<String>,
}

impl OtherUser {
    /// That user, without supplementary groups.
    pub(crate) fn user(user: User) -> Self {
        Self { user: Some(user), ..Self::default() }
    }

    pub(crate) fn group(mut self, group: &str) -> Self {
        self.groups.push(group.to_owned());
        self
    }

    pub(crate) fn within(mut self, cgroup: &Cgroup) -> Self {
        self.cgroup = Some(cgroup.0.clone());
        self
    }

    pub(crate) fn inside(mut self, namespace: &Namespace) -> Self {
        self.namespace = Some(namespace.0.clone());
        self
    }

    /// A command that runs `program` so.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut words: Vec<String> = Vec::new();
        let mut word = |word: &str| words.push(word.to_owned());
        if let Some(cgroup) = &self.cgroup {
            let procs = cgroup.join("cgroup.procs");
            for part in ["sh", "-c", r#"echo $$ >"$0" && exec "$@""#, &procs.display().to_string()] {
                word(part);
            }
        }
        if let Some(namespace) = &self.namespace {
            for part in ["ip", "netns", "exec", namespace] {
                word(part);
            }
        }
        if let Some(User { uid, gid, .. }) = self.user {
            word("setpriv");
            word(&format!("--reuid={uid}"));
            word(&format!("--regid={gid}"));
            let groups = self.groups.join(",");
            word(&if groups.is_empty() { "--clear-groups".into() } else { format!("--groups={groups}") });
        }
        word(&program.display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    /// Runs that command so, to its end.
    #[track_caller]
    pub(crate) fn run(&self, command: &Command) -> Finished {
        let mut wrapped = self.command(Path::new(command.get_program()));
        wrapped.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        finish(&mut wrapped)
    }

    /// Connects to `target` with the options of `drivers/caller.py`.
    #[track_caller]
    pub(crate) fn call(&self, target: &str, options: &[&str]) -> Call {
        const PROGRAM: &str = include_str!("../drivers/caller.py");
        let mut command = self.command(Path::new("/usr/bin/python3"));
        command.args(["-c", PROGRAM, target]).args(options);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a caller");
        let stdout = BufReader::new(child.stdout.take().expect("a piped stdout"));
        Call { child, stdout }
    }
}

/// A client at work; dropped, it closes.
pub(crate) struct Call {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Call {
    /// Its result: `got …`, `end` or `reset`; nothing if it was not to read.
    #[track_caller]
    pub(crate) fn result(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line of the caller");
        line.trim_end().to_owned()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends when its stdin does.
        drop(self.child.wait());
    }
}

/// A control group of the unified hierarchy.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// At that path below the root of the hierarchy; `None`, with a message, if it cannot be created.
    pub(crate) fn make(path: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("a list of mounts");
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let root = mount.and_then(|line| line.split(' ').nth(4)).map(Path::new);
        let made = root.and_then(|root| fs::create_dir_all(root.join(path)).ok().map(|()| root.join(path)));
        if made.is_none() {
            eprintln!("this needs control groups (a writable cgroup2 hierarchy): not tested");
        }
        made.map(Self)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn id(&self) -> u64 {
        fs::metadata(&self.0).expect("a control group").ino()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Removed with the last of its processes; parents in use by others stay.
        let mut path = self.0.as_path();
        while fs::remove_dir(path).is_ok() {
            let Some(parent) = path.parent() else { return };
            path = parent;
        }
    }
}

/// A network namespace with one veth pair to ours.
pub(crate) struct Namespace(String);

impl Namespace {
    /// `None`, with a message, if it cannot be created. `number` is unique within the test process.
    pub(crate) fn make(number: u8) -> Option<Self> {
        let this = Self(format!("ambtest-{}-{number}", std::process::id()));
        let outer = format!("at{number}-{}", std::process::id() % 10_000);
        let script = format!(
            "ip netns add {0} && ip link add {outer} type veth peer name inner netns {0} \
             && ip addr add 10.199.{number}.1/30 dev {outer} && ip link set {outer} up \
             && ip -n {0} addr add 10.199.{number}.2/30 dev inner && ip -n {0} link set inner up && ip -n {0} link set lo up",
            this.0
        );
        let made = finish(Command::new("sh").args(["-c", &script]));
        if made.code != 0 {
            eprintln!("this needs a network namespace (root, iproute2): not tested: {}", made.stderr);
            return None;
        }
        Some(this)
    }

    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// Our end of the veth pair.
    pub(crate) fn gateway(number: u8) -> String {
        format!("10.199.{number}.1")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(finish(Command::new("ip").args(["netns", "del", &self.0])));
    }
}
