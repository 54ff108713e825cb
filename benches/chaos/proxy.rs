//! A running proxy: its start, reload, CPU time, memory and end.
//!
//! Lacks its configuration: that is `recipe`.
use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::names::Names;
use crate::pinned::Place;
use crate::process::{Running, await_ready, cpu_of, family};
use crate::recipe::{Job, Reload};

pub(crate) struct Proxy {
    /// The first process, and those that took over.
    running: Vec<Running>,
    /// Reload commands under way.
    telling: Vec<Child>,
    /// CPU time of each process, including ended ones.
    used: BTreeMap<i32, Duration>,
    folder: PathBuf,
}

impl Proxy {
    pub(crate) fn start(job: &Job<'_>, names: Option<&Names>) -> io::Result<Self> {
        job.write()?;
        let log = job.folder.join("log");
        let mut running = run(&job.command(), names, &log)?;
        await_ready(&mut running, || TcpStream::connect(job.listen).map(drop), &log)?;
        let folder = job.folder.to_owned();
        Ok(Self { running: vec![running], telling: Vec::new(), used: BTreeMap::new(), folder })
    }

    /// Puts the job's current settings in force, without waiting.
    pub(crate) fn reload(&mut self, job: &Job<'_>, names: Option<&Names>) -> io::Result<()> {
        job.write()?;
        let count = self.running.len();
        let Some(last) = self.running.last() else { return Ok(()) };
        match job.reload(u32::try_from(count).unwrap_or_default(), last.pid()) {
            Reload::Tell(mut command) => {
                self.telling.push(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
            }
            Reload::Succeed(command) => {
                let log = self.folder.join(format!("log-{count}"));
                self.running.push(run(&command, names, &log)?);
            }
            Reload::HangUp => rustix::process::kill_process(last.pid(), rustix::process::Signal::HUP)?,
        }
        Ok(())
    }

    /// CPU time of all its processes so far; of an ended one, the last value read.
    pub(crate) fn cpu(&mut self) -> Duration {
        for pid in self.running.iter().flat_map(|running| family(running.pid())) {
            if let Ok(used) = cpu_of(&pid) {
                self.used.insert(pid.as_raw_nonzero().get(), used);
            }
        }
        self.used.values().sum()
    }

    /// Proportional set size in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let of = |running: &Running| running.meter(false, &[]).memory().unwrap_or_default();
        self.running.iter().map(of).sum()
    }

    /// Whether its (last) process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.running.last_mut().is_none_or(Running::has_ended)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for mut child in self.telling.drain(..) {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn run(command: &Command, names: Option<&Names>, log: &Path) -> io::Result<Running> {
    let place = Place::anywhere()?;
    match names {
        Some(names) => Running::start(&names.wrap(command), &place, log),
        None => Running::start(command, &place, log),
    }
}
