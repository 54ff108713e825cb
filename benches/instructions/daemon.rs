//! The real daemon as a child process, under valgrind or not.

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::Failure;
use crate::pki::SERVER_NAME;

/// A listening daemon; dropped before its end, it is killed.
pub(crate) struct Daemon {
    child: Child,
    log: BufReader<ChildStderr>,
    pub(crate) address: SocketAddr,
}

/// Its folder and the address that it dials.
pub(crate) struct Place<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) endpoint: SocketAddr,
    pub(crate) is_mtls: bool,
    /// `log.access`.
    pub(crate) access: &'static str,
}

impl Daemon {
    /// Starts `command`, which has to end in the daemon's name, and returns once it listens.
    pub(crate) fn start(mut command: Command, place: &Place<'_>) -> Result<Self, Failure> {
        let file = place.folder.join("listeners.yaml");
        fs::write(&file, place.listeners())?;
        command.args(["run", "--config"]).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            let program = command.get_program().display();
            format!("cannot start {program}: {error} (scripts/test installs valgrind)")
        })?;
        let mut log = BufReader::new(child.stderr.take().expect("stderr was asked to be a pipe"));
        match wait_until_listening(&mut log) {
            Ok(address) => Ok(Self { child, log, address }),
            Err(said) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("the daemon does not listen; it said:\n{said}").into())
            }
        }
    }

    /// Waits for the access log's record of a session, the last step of its work.
    pub(crate) fn wait_for_record(&mut self) -> io::Result<()> {
        let mut line = String::new();
        while self.log.read_line(&mut line)? > 0 {
            if event(&line)["target"] == "access" {
                return Ok(());
            }
            line.clear();
        }
        Err(io::Error::other("the daemon ended without a record of the session"))
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the daemon ended with {status}").into()) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // An ended one is the aim already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Place<'_> {
    /// One worker, so that one thread does all the work; everything else but the access log has its defaults.
    fn listeners(&self) -> String {
        let folder = self.folder.display();
        let tls = if self.is_mtls {
            format!(
                "    tls: {{ ca: \"{folder}/ca.pem\", cert: \"{folder}/client.pem\", key: \"{folder}/client.key\", \
                 server_name: {SERVER_NAME} }}\n"
            )
        } else {
            String::new()
        };
        format!(
            "admin: {{ bind: off, control: off }}
runtime: {{ workers: 1 }}
log: {{ access: {} }}
listeners:
  main: {{ bind: \"127.0.0.1:0\", cluster: up }}
clusters:
  up:
    protocol: tcp
    endpoints: [\"{}\"]
{tls}",
            self.access, self.endpoint
        )
    }
}

/// Reads the log up to the line with the address; without one, the log is the error.
fn wait_until_listening(log: &mut impl BufRead) -> Result<SocketAddr, String> {
    let mut said = String::new();
    for line in log.lines().map_while(Result::ok) {
        let event = event(&line);
        let address = event["message"].as_str().and_then(|message| message.strip_prefix("listening: main "));
        if let Some(address) = address.and_then(|address| address.parse().ok()) {
            return Ok(address);
        }
        said.push_str(&line);
        said.push('\n');
    }
    Err(said)
}

/// A line of the log; null if it is not JSON.
fn event(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_default()
}

/// What a count depends on besides our sources.
pub(crate) struct Toolchain {
    architecture: &'static str,
    rustc: String,
    valgrind: String,
}

impl Toolchain {
    pub(crate) fn of_this_machine() -> Result<Self, Failure> {
        Ok(Self {
            architecture: std::env::consts::ARCH,
            rustc: version("rustc")?,
            valgrind: version("valgrind")?,
        })
    }

    pub(crate) fn has_architecture_of(&self, other: &str) -> bool {
        other.split(", ").next() == Some(self.architecture)
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.architecture, self.rustc, self.valgrind)
    }
}

/// The first line of what `program --version` says.
fn version(program: &str) -> Result<String, Failure> {
    let missing = |error: io::Error| format!("{program} is needed: {error} (scripts/test installs valgrind)");
    let said = Command::new(program).arg("--version").output().map_err(missing)?.stdout;
    Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
}

/// A file of callgrind: the instructions of one thread in all.
pub(crate) fn total(profile: &PathBuf) -> Result<u64, Failure> {
    let text = fs::read_to_string(profile)?;
    let total = text.lines().rev().find_map(|line| line.strip_prefix("totals: "));
    let total = total.and_then(|total| total.trim().parse().ok());
    total.ok_or_else(|| format!("{} has no line of totals", profile.display()).into())
}
