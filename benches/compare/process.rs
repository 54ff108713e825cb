//! A child process with everything it started: its CPU time, its memory, its end.
//!
//! Figures come from /proc: schedstat (nanoseconds on a CPU, per thread) and smaps_rollup. Lacks
//! cgroups and perf counters, which not every machine lets us have. A thread that ends takes its CPU
//! time with it; none of the contestants ends threads while it is being measured.
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

/// How long a child may take to end by itself before it is killed.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Running {
    child: Child,
}

impl Running {
    /// Starts `program` through the `pinned` role; its output goes to `log`.
    pub(crate) fn start(program: &Command, core: Option<usize>, log: &Path) -> io::Result<Self> {
        let output = File::create(log)?;
        let mut pinned = Self::pinned(program, core)?;
        pinned.stdout(output.try_clone()?).stderr(output);
        Ok(Self { child: pinned.spawn()? })
    }

    /// As `start`, but what it writes to stdout is for us to read.
    pub(crate) fn start_talking(program: &Command, core: Option<usize>) -> io::Result<(Self, impl io::Read)> {
        let mut pinned = Self::pinned(program, core)?;
        let mut child = pinned.stdout(Stdio::piped()).spawn()?;
        let words = child.stdout.take().expect("stdout was asked to be a pipe");
        Ok((Self { child }, words))
    }

    fn pinned(program: &Command, core: Option<usize>) -> io::Result<Command> {
        let mut pinned = Command::new(std::env::current_exe()?);
        pinned.arg("pinned");
        if let Some(core) = core {
            pinned.arg("--core").arg(core.to_string());
        }
        pinned.arg("--").arg(program.get_program()).args(program.get_args());
        pinned.stdin(Stdio::null());
        Ok(pinned)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// `core`: the one that the proxy has to itself, if it has.
    pub(crate) fn meter(&self, core: Option<usize>) -> Meter {
        Meter { pids: family(self.pid()), softirqs: core.and_then(softirq_thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Workers first noted, then the master asked: nginx's workers outlive a master that is killed.
        let pids = family(self.pid());
        signal(&pids, Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() && Instant::now() < deadline {
            sleep(Duration::from_millis(2));
        }
        if !self.has_ended() {
            signal(&pids, Signal::KILL);
            // Only to reap it; what a killed child returns is of no interest.
            let _ = self.child.wait();
        }
    }
}

fn signal(pids: &[Pid], signal: Signal) {
    for &pid in pids {
        // One that has ended meanwhile is what we want.
        let _ = kill_process(pid, signal);
    }
}

/// Reads what a family of processes has used.
pub(crate) struct Meter {
    pids: Vec<Pid>,
    /// The kernel does much of a send's work in a soft interrupt, on the sender's time; under load it
    /// hands that to a thread of its own. It is the proxy's work all the same: for the splice floor it was
    /// a fifth of all.
    softirqs: Option<Pid>,
}

impl Meter {
    /// For runs without a proxy.
    pub(crate) fn none() -> Self {
        Self { pids: Vec::new(), softirqs: None }
    }

    /// CPU time so far, over all threads.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        let mut nanos = 0;
        for pid in self.pids.iter().chain(&self.softirqs) {
            for task in fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))? {
                nanos += first_number(&fs::read_to_string(task?.path().join("schedstat"))?)?;
            }
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Proportional set size in bytes.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let mut kib = 0;
        for pid in &self.pids {
            let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero()))?;
            let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
            kib += first_number(pss.ok_or_else(|| io::Error::other("smaps_rollup has no Pss line"))?)?;
        }
        Ok(kib * 1024)
    }
}

/// The process and all its descendants, as the parent links in /proc tell it now.
fn family(root: Pid) -> Vec<Pid> {
    let parents: Vec<(Pid, Pid)> = processes().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut family = vec![root];
    let mut at = 0;
    while let Some(&elder) = family.get(at) {
        family.extend(parents.iter().filter(|(_, parent)| *parent == elder).map(|(pid, _)| *pid));
        at += 1;
    }
    family
}

/// Hidden in some containers; then it goes uncounted for all alike.
fn softirq_thread(core: usize) -> Option<Pid> {
    let name = format!("ksoftirqd/{core}");
    let is_it = |pid: &Pid| {
        fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()))
            .is_ok_and(|comm| comm.trim() == name)
    };
    processes().find(is_it)
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?))
}

fn parent(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The program's name stands in parentheses and may itself hold spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(')')?;
    Pid::from_raw(after_name.split_whitespace().nth(1)?.parse().ok()?)
}

fn first_number(text: &str) -> io::Result<u64> {
    let word = text.split_whitespace().next().unwrap_or_default();
    word.parse().map_err(|_| io::Error::other(format!("expected a number in /proc, found {word:?}")))
}

/// As many descriptors as this machine lets us have; children inherit it.
pub(crate) fn raise_descriptor_limit() -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}
