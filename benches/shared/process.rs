//! A child process with all its descendants: CPU time, memory, end.
//!
//! Figures come from /proc: schedstat (nanoseconds on a CPU, per thread) and smaps_rollup. The nanoseconds of an ended
//! thread are lost; for a contestant whose threads end it is stat, which keeps them but counts hundredths of a second.
//! Lacks cgroups and perf counters, which not every machine permits.
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use super::pinned::Place;

/// How long a child may take to end by itself before it is killed.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a child may take to be ready.
const READY: Duration = Duration::from_secs(10);

pub(crate) struct Running {
    child: Child,
}

impl Running {
    /// Starts `program` through the `pinned` role; its output goes to `log`.
    pub(crate) fn start(program: &Command, place: &Place, log: &Path) -> io::Result<Self> {
        let output = File::create(log)?;
        let mut pinned = Self::pinned(program, place)?;
        pinned.stdout(output.try_clone()?).stderr(output);
        Ok(Self { child: pinned.spawn()? })
    }

    /// As `start`, but its stdout is ours to read.
    pub(crate) fn start_talking(
        program: &Command,
        place: &Place,
    ) -> io::Result<(Self, impl io::Read + use<>)> {
        let mut pinned = Self::pinned(program, place)?;
        let mut child = pinned.stdout(Stdio::piped()).spawn()?;
        let words = child.stdout.take().expect("stdout was asked to be a pipe");
        Ok((Self { child }, words))
    }

    fn pinned(program: &Command, place: &Place) -> io::Result<Command> {
        let mut pinned = Command::new(std::env::current_exe()?);
        pinned.arg("pinned").arg("--cores").arg(place.to_string());
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

    /// `alone`: the cores that only this child uses.
    pub(crate) fn meter(&self, ends_threads: bool, alone: &[usize]) -> Meter {
        Meter {
            pids: family(self.pid()),
            ends_threads,
            softirqs: alone.iter().filter_map(|&core| softirq_thread(core)).collect(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The workers are noted first, then the master is ended: nginx's workers outlive a killed master.
        let pids = family(self.pid());
        signal(&pids, Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() && Instant::now() < deadline {
            sleep(Duration::from_millis(2));
        }
        if !self.has_ended() {
            signal(&pids, Signal::KILL);
            // Only to reap it; the status of a killed child does not matter.
            let _ = self.child.wait();
        }
    }
}

fn signal(pids: &[Pid], signal: Signal) {
    for &pid in pids {
        // An ended process is the aim already.
        let _ = kill_process(pid, signal);
    }
}

/// Reads the resources of a tree of processes.
pub(crate) struct Meter {
    pids: Vec<Pid>,
    ends_threads: bool,
    /// The kernel does much of a send's work in a soft interrupt, on the sender's time; under load it passes that to a
    /// thread of its own. It is the proxy's work all the same: for the splice floor it was a fifth of all.
    softirqs: Vec<Pid>,
}

impl Meter {
    /// For runs without a proxy.
    pub(crate) fn none() -> Self {
        Self { pids: Vec::new(), ends_threads: false, softirqs: Vec::new() }
    }

    /// CPU time so far, over all threads.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        let of_proxy = if self.ends_threads { cpu_of } else { of_live_threads };
        let proxy: Duration = self.pids.iter().map(of_proxy).sum::<io::Result<_>>()?;
        let softirqs: Duration = self.softirqs.iter().map(of_live_threads).sum::<io::Result<_>>()?;
        Ok(proxy + softirqs)
    }

    /// Proportional set size in bytes.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        self.rollup("Pss:")
    }

    /// The part of it in bytes that is no file's: heaps and stacks.
    pub(crate) fn anonymous(&self) -> io::Result<u64> {
        self.rollup("Pss_Anon:")
    }

    fn rollup(&self, field: &str) -> io::Result<u64> {
        let mut kib = 0;
        for pid in &self.pids {
            let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero()))?;
            let pss = rollup.lines().find_map(|line| line.strip_prefix(field));
            kib += first_number(
                pss.ok_or_else(|| io::Error::other(format!("smaps_rollup has no line {field}")))?,
            )?;
        }
        Ok(kib * 1024)
    }
}

fn of_live_threads(pid: &Pid) -> io::Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))? {
        nanos += first_number(&fs::read_to_string(task?.path().join("schedstat"))?)?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// The scheduler's count as well: utime and stime are scaled to it, but in hundredths of a second.
pub(crate) fn cpu_of(pid: &Pid) -> io::Result<Duration> {
    let fields = stat(*pid).ok_or_else(|| io::Error::other("the proxy has ended"))?;
    let field = |number: usize| first_number(fields.split_whitespace().nth(number - 3).unwrap_or_default());
    Ok(Duration::from_millis(10 * (field(14)? + field(15)?)))
}

/// The process and all its current descendants, by the parent links in /proc.
pub(crate) fn family(root: Pid) -> Vec<Pid> {
    let parents: Vec<(Pid, Pid)> = processes().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut family = vec![root];
    let mut at = 0;
    while let Some(&elder) = family.get(at) {
        family.extend(parents.iter().filter(|(_, parent)| *parent == elder).map(|(pid, _)| *pid));
        at += 1;
    }
    family
}

/// Hidden in some containers; then it is not counted for any contestant.
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
    Pid::from_raw(stat(pid)?.split_whitespace().nth(1)?.parse().ok()?)
}

/// The fields of proc_pid_stat(5) from the third on.
fn stat(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The program's name is in parentheses and may itself contain spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(')')?;
    Some(after_name.to_owned())
}

fn first_number(text: &str) -> io::Result<u64> {
    let word = text.split_whitespace().next().unwrap_or_default();
    word.parse().map_err(|_| io::Error::other(format!("expected a number in /proc, found {word:?}")))
}

/// Waits until `probe` succeeds; on a timeout returns the child's last output.
pub(crate) fn await_ready(
    running: &mut Running,
    probe: impl Fn() -> io::Result<()>,
    log: &Path,
) -> io::Result<()> {
    await_ready_within(running, READY, probe, log)
}

/// As `await_ready`, for starts that take longer.
pub(crate) fn await_ready_within(
    running: &mut Running,
    patience: Duration,
    probe: impl Fn() -> io::Result<()>,
    log: &Path,
) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let error = match probe() {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let ended = running.has_ended();
        if ended || Instant::now() > deadline {
            let said = fs::read_to_string(log).unwrap_or_default();
            let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
            let fate = if ended { "ended at once".to_owned() } else { format!("is not ready ({error})") };
            return Err(io::Error::other(format!("{fate}: {last}")));
        }
        sleep(Duration::from_millis(5));
    }
}

/// Raises the limit of descriptors as far as this machine permits; children inherit it.
pub(crate) fn raise_descriptor_limit() -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}
