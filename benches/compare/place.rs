//! Which core does what. The proxy has one core for itself, the load and the upstream share another;
//! rows with a single session in flight put all three on one core, because waking an idle virtual core
//! costs more than any proxy does and would drown the difference.
//!
//! Lacks frequency, interrupt and NUMA steering: those belong to the owner of the machine.
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// `None` in a place means: wherever the kernel likes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    pub(crate) proxy: Option<usize>,
    load: Option<usize>,
}

impl Cores {
    pub(crate) fn choose(said: Option<&str>) -> io::Result<Self> {
        if said == Some("none") {
            return Ok(Self { proxy: None, load: None });
        }
        let allowed = sched_getaffinity(None)?;
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
        let first = *cores.first().expect("a running process may run somewhere");
        let proxy = said
            .map_or(Ok(first), str::parse)
            .map_err(|_| io::Error::other("--core takes a number or `none`"))?;
        if !cores.contains(&proxy) {
            return Err(io::Error::other(format!("core {proxy} is not among those allowed here: {cores:?}")));
        }
        let load = cores.iter().copied().find(|&core| core != proxy).unwrap_or(proxy);
        Ok(Self { proxy: Some(proxy), load: Some(load) })
    }

    /// The core that nobody but the proxy uses, if there is one.
    pub(crate) fn proxy_alone(self, one_core: bool) -> Option<usize> {
        self.proxy.filter(|_| self.of_load(one_core) != self.proxy)
    }

    pub(crate) fn of_load(self, one_core: bool) -> Option<usize> {
        if one_core { self.proxy } else { self.load }
    }

    pub(crate) fn words(self) -> String {
        match (self.proxy, self.load) {
            (Some(proxy), Some(load)) => format!(
                "proxy on core {proxy}, load and upstream on core {load}; \
                 rows with one round trip in flight all on core {proxy}"
            ),
            _ => "nothing pinned".to_owned(),
        }
    }
}

/// Moves a process of one thread (`None`: the calling thread) to a core.
pub(crate) fn pin(process: Option<Pid>, core: Option<usize>) -> io::Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut only = CpuSet::new();
    only.set(core);
    Ok(sched_setaffinity(process, &only)?)
}

/// Replaces this process by `program`: on `core`, and told to end when the contest ends, however that
/// comes about. Affinity and the death signal survive exec. Returns only on failure.
pub(crate) fn become_pinned(core: Option<usize>, program: &[OsString]) -> io::Error {
    let prepared = pin(None, core).and_then(|()| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
    if let Err(error) = prepared {
        return error;
    }
    let Some((program, arguments)) = program.split_first() else {
        return io::Error::other("no program named");
    };
    Command::new(program).args(arguments).exec()
}
