//! Runs a program to its end: `psql`, `openssl`, `java`, and the ambassador's own one-shot verbs.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{env, fs};

use super::until_within;

/// A JVM that first compiles its source, on two busy cores, needs most of this.
const PROGRAM_PATIENCE: Duration = Duration::from_secs(120);

/// The result of a program.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The exit status, or 128 + the signal, as in a shell.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    #[track_caller]
    pub(crate) fn must_succeed(self) -> Self {
        assert_eq!(self.code, 0, "the program failed:\n{}{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn must_exit(self, code: i32) -> Self {
        assert_eq!(self.code, code, "another exit status was due:\n{}{}", self.stdout, self.stderr);
        self
    }

    /// Asserts that stderr contains `part`.
    #[track_caller]
    pub(crate) fn must_print(&self, part: &str) {
        assert!(self.stderr.contains(part), "stderr lacks {part:?}:\n{}", self.stderr);
    }
}

/// Runs to the end and collects the output.
#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Finished {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    wait(child.unwrap_or_else(|error| panic!("{command:?} does not start: {error}")))
}

/// Waits for a child whose stdout and stderr are piped.
#[track_caller]
pub(crate) fn wait(mut child: Child) -> Finished {
    let stdout = reading(child.stdout.take().expect("a piped stdout"));
    let stderr = reading(child.stderr.take().expect("a piped stderr"));
    let status = until_within(PROGRAM_PATIENCE, "the program ended", || {
        child.try_wait().expect("a child to wait for")
    });
    let code = code(status);
    Finished { code, stdout: stdout.join().expect("a reader"), stderr: stderr.join().expect("a reader") }
}

pub(crate) fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().expect("a signal where there is no code"))
}

fn reading(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a readable pipe");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The ambassador's binary, with no environment variable that could change what it does.
pub(crate) fn ambassador() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ambassador"));
    for name in
        ["NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "RUST_LOG"]
    {
        command.env_remove(name);
    }
    command
}

/// The path of `program`; a missing one fails the test and names the Debian package that has it.
#[track_caller]
pub(crate) fn demand(program: &str, package: &str) -> PathBuf {
    // Debian keeps the server's programs out of PATH, one directory per version; the newest wins.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    // `scripts/test-matrix` has other versions than this Debian; reversed, the end of the list comes first.
    places.sort();
    places.extend(env::split_paths(&env::var_os("AMBASSADOR_TEST_BINDIR").unwrap_or_default()));
    places.reverse();
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    // Daemons are in sbin, which is not on every PATH.
    places.push("/usr/sbin".into());
    let found = places.into_iter().map(|place| place.join(program)).find(|candidate| candidate.is_file());
    found
        .unwrap_or_else(|| panic!("`{program}` is missing: apt-get install {package} (scripts/test does it)"))
}

/// Programs that `scripts/test-matrix` fetched for clients that this Debian does not have.
#[track_caller]
pub(crate) fn newer_clients(name: &str) -> PathBuf {
    let fetched = env::var_os("AMBASSADOR_TEST_CLIENTS");
    let place =
        PathBuf::from(fetched.expect("scripts/test-matrix runs this test, with AMBASSADOR_TEST_CLIENTS set"));
    let found = place.join(name);
    assert!(found.exists(), "{} is missing: scripts/test-matrix fetches it", found.display());
    found
}

/// The `usr` of another suite's tree that contains the program; `None`: it is installed, and finds its own files.
pub(crate) fn tree_of(program: &Path) -> Option<PathBuf> {
    let tree = program.parent()?.parent()?;
    (tree != Path::new("/usr") && tree != Path::new("/usr/local") && tree != Path::new("/"))
        .then(|| tree.to_owned())
}
