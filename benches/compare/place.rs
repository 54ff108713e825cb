//! Which core does what. The proxy has a core for each of its workers to itself, the load and what stands
//! behind the proxy share the others; rows in which the proxy would often have
//! nothing to do put all on one core, because waking an idle virtual core costs more than any proxy does and
//! would drown the difference; and a few rows are played once more with nothing pinned, as most proxies run.
//!
//! Lacks frequency, interrupt and NUMA steering: those belong to the owner of the machine.
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

/// Who sits with whom in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seating {
    Apart,
    Together,
    /// Wherever the kernel likes.
    Anywhere,
}

/// Who sits where in a row.
#[derive(Clone)]
pub(crate) struct Seats {
    pub(crate) proxy: Place,
    /// Also of all that stands behind the proxy.
    pub(crate) load: Place,
}

pub(crate) struct Cores {
    all: Place,
    proxy: Place,
    load: Place,
    pins: bool,
}

impl Cores {
    pub(crate) fn choose(said: Option<&str>, workers: usize) -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
        if said == Some("none") {
            let all = Place(all);
            return Ok(Self { proxy: all.clone(), load: all.clone(), all, pins: false });
        }
        let first = *all.first().expect("a running process may run somewhere");
        let first = said
            .map_or(Ok(first), str::parse)
            .map_err(|_| io::Error::other("--core takes a number or `none`"))?;
        if !all.contains(&first) {
            return Err(io::Error::other(format!("core {first} is not among those allowed here: {all:?}")));
        }
        let others = || all.iter().copied().filter(|&core| core != first);
        let proxy: Vec<usize> = std::iter::once(first).chain(others().take(workers - 1)).collect();
        let mut load: Vec<usize> = all.iter().copied().filter(|core| !proxy.contains(core)).collect();
        match load.len() {
            // Too few cores to sit apart.
            0 => load.clone_from(&all),
            // One is what the load and the upstream are made for, a thread each.
            _ => load.truncate(1),
        }
        Ok(Self { all: Place(all), proxy: Place(proxy), load: Place(load), pins: true })
    }

    pub(crate) fn pins(&self) -> bool {
        self.pins
    }

    pub(crate) fn seats(&self, seating: Seating) -> Seats {
        let (proxy, load) = match seating {
            Seating::Apart => (self.proxy.clone(), self.load.clone()),
            Seating::Together if self.pins => (self.proxy.first(), self.proxy.first()),
            Seating::Together | Seating::Anywhere => (self.all.clone(), self.all.clone()),
        };
        Seats { proxy, load }
    }

    pub(crate) fn words(&self) -> String {
        if !self.pins {
            return "nothing pinned".to_owned();
        }
        format!(
            "proxy on core {}, load and upstream on core {}; rows with one round trip in flight and real work \
             all on core {}; \
             rows called unpinned wherever the kernel likes",
            self.proxy,
            self.load,
            self.proxy.first()
        )
    }
}

impl Seats {
    /// The cores that nobody but the proxy uses.
    pub(crate) fn proxy_alone(&self) -> &[usize] {
        let shared = self.proxy.0.iter().any(|core| self.load.0.contains(core));
        if shared { &[] } else { &self.proxy.0 }
    }
}

impl Place {
    pub(crate) fn of(cores: &[usize]) -> Self {
        Self(cores.to_vec())
    }

    fn first(&self) -> Self {
        Self(self.0.iter().copied().take(1).collect())
    }
}

/// As the `pinned` role reads it.
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

/// Replaces this process by `program`: in its place, and told to end when the contest ends, however that
/// comes about. Affinity and the death signal survive exec. Returns only on failure.
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
