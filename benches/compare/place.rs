//! The use of cores. The proxy has a core for each of its workers to itself, the load and the servers share the
//! others; rows in which the proxy would often be idle put everything on one core, because waking an idle virtual core
//! costs more than any proxy does and would hide the difference; and a few rows are played once more with nothing
//! pinned, as most proxies run.
//!
//! Lacks frequency, interrupt and NUMA steering: those belong to the owner of the machine.
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity};

use crate::pinned::Place;

/// The sharing of cores in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seating {
    Apart,
    Together,
    /// Wherever the kernel schedules it.
    Anywhere,
}

/// The cores of each process in a row.
#[derive(Clone)]
pub(crate) struct Seats {
    pub(crate) proxy: Place,
    /// Also of the servers behind the proxy.
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
            let all = Place::of(&all);
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
            // Too few cores to separate them.
            0 => load.clone_from(&all),
            // The load and the upstream have one thread each.
            _ => load.truncate(1),
        }
        Ok(Self { all: Place::of(&all), proxy: Place::of(&proxy), load: Place::of(&load), pins: true })
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
    /// The cores that only the proxy uses.
    pub(crate) fn proxy_alone(&self) -> &[usize] {
        let shared = self.proxy.cores().iter().any(|core| self.load.cores().contains(core));
        if shared { &[] } else { self.proxy.cores() }
    }
}
