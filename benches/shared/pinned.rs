//! A program pinned to given cores, which ends with the bench that started it.
//!
//! Lacks the choice of cores: that is the bench's.
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Cores that a process may run on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place(Vec<usize>);

impl Place {
    pub(crate) fn of(cores: &[usize]) -> Self {
        Self(cores.to_vec())
    }

    /// All cores that this process may use.
    pub(crate) fn anywhere() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        Ok(Self((0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect()))
    }

    pub(crate) fn cores(&self) -> &[usize] {
        &self.0
    }

    pub(crate) fn first(&self) -> Self {
        Self(self.0.iter().copied().take(1).collect())
    }
}

/// The form that the `pinned` role parses.
impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores: Vec<String> = self.0.iter().map(usize::to_string).collect();
        out.write_str(&cores.join(","))
    }
}

/// Moves a process of one thread (`None`: the calling thread).
pub(crate) fn pin(process: Option<Pid>, place: &Place) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &core in &place.0 {
        set.set(core);
    }
    Ok(sched_setaffinity(process, &set)?)
}

/// Replaces this process by `program`, which ends when the bench ends, in any way. Affinity and the death signal
/// survive exec. Returns only on failure.
pub(crate) fn become_pinned(place: &Place, program: &[OsString]) -> io::Error {
    let prepared = pin(None, place).and_then(|()| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
    if let Err(error) = prepared {
        return error;
    }
    let Some((program, arguments)) = program.split_first() else {
        return io::Error::other("no program named");
    };
    Command::new(program).args(arguments).exec()
}
