//! One start of one contestant with a fleet: waits, scrapes and reloads, with the CPU time and memory of each.
//!
//! CPU is the kernel's clock of the process, over all its children: unlike schedstat it keeps the time of ended threads, on
//! which some render metrics and compile configurations. It includes whatever the proxy does by itself meanwhile, which
//! is little.
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::time::ClockId;
use nix::unistd::Pid;
use rustix::process::{Signal, kill_process};

use super::{Fleet, Growth, Scraped};
use crate::findings::Entrant;
use crate::peer::Peer;
use crate::pki::Pki;
use crate::place::Seats;
use crate::process::{Running, await_ready_within, family};
use crate::recipe::FleetJob;
use crate::socket::dial;

/// A start with thousands of clusters takes seconds, more on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Scrapes whose mean is the figure; the one before them has grown the buffers.
const SCRAPES: u32 = 3;

/// What every contestant with a fleet is given.
pub(crate) struct Ground<'a> {
    pub(crate) fleet: Fleet,
    pub(crate) pki: Option<&'a Pki>,
    pub(crate) seats: &'a Seats,
    pub(crate) workers: usize,
    /// A free port, on which the fleet listens, and a free address for the metrics.
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) folder: &'a Path,
}

impl Ground<'_> {
    pub(super) fn measure(&self, entrant: &Entrant) -> io::Result<Growth> {
        let peer = entrant.peer;
        let job = FleetJob {
            program: &entrant.program,
            fleet: self.fleet,
            port: self.listen.port(),
            admin: self.admin,
            pki: self.pki,
            workers: self.workers,
            folder: self.folder,
        };
        let running = self.start(&job, peer, None)?;
        let start = settle(&running, Duration::ZERO)?;
        let memory = running.meter(false, &[]).anonymous()?;
        let scraped = job.metrics(peer).map(|path| self.scrape(&running, path)).transpose()?;
        let reload = if peer == Peer::Nginx {
            None
        } else if peer == Peer::Haproxy {
            Some(self.replace(&job, &running)?)
        } else {
            Some(self.reload(&job, peer, &running)?)
        };
        Ok(Growth { start, memory, scraped, reload })
    }

    fn start(&self, job: &FleetJob<'_>, peer: Peer, replaced: Option<&Running>) -> io::Result<Running> {
        job.write(peer, replaced.is_some())?;
        let replaced = replaced.map(|running| running.pid().as_raw_nonzero().get());
        let log = self.folder.join(format!("{}.log", peer.name()));
        let mut running = Running::start(&job.command(peer, replaced), &self.seats.proxy, &log)?;
        await_ready_within(&mut running, PATIENCE, || self.probe(job.ready(peer)), &log)?;
        Ok(running)
    }

    /// `path` is served once it is ready; without one, it is ready when it listens.
    fn probe(&self, path: Option<&str>) -> io::Result<()> {
        match path {
            Some(path) => get(self.admin, path).map(drop),
            None => dial(self.admin).map(drop),
        }
    }

    fn scrape(&self, running: &Running, path: &str) -> io::Result<Scraped> {
        let bytes = get(self.admin, path)?.len() as u64;
        let before = settle(running, Duration::ZERO)?;
        let memory = running.meter(false, &[]).anonymous()?;
        for _ in 0..SCRAPES {
            get(self.admin, path)?;
        }
        let cpu = settle(running, Duration::ZERO)?.saturating_sub(before) / SCRAPES;
        Ok(Scraped { memory, bytes, cpu })
    }

    /// In place, by a signal or by a file that it watches.
    fn reload(&self, job: &FleetJob<'_>, peer: Peer, running: &Running) -> io::Result<Duration> {
        let before = cpu(running)?;
        job.write(peer, true)?;
        if peer == Peer::Ambassador {
            kill_process(running.pid(), Signal::HUP)?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let spent = settle(running, Duration::from_millis(500))?.saturating_sub(before);
            // Asked only when it has settled, since the question is work too.
            let shown = get(self.admin, job.shows_endpoints(peer))?;
            if String::from_utf8_lossy(&shown).contains(&FleetJob::changed_endpoint()) {
                return Ok(spent);
            }
            if Instant::now() > deadline {
                return Err(io::Error::other("it does not show the changed endpoint after a reload"));
            }
        }
    }

    /// By a successor that takes over, whose start is what a reload costs.
    fn replace(&self, job: &FleetJob<'_>, running: &Running) -> io::Result<Duration> {
        let successor = self.start(job, Peer::Haproxy, Some(running))?;
        settle(&successor, Duration::from_millis(500))
    }
}

/// CPU time since it was started, over all its processes, ended threads included.
fn cpu(running: &Running) -> io::Result<Duration> {
    let of = |pid: rustix::process::Pid| {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid.as_raw_nonzero().get()))?;
        Ok(Duration::from(clock.now()?))
    };
    family(running.pid()).into_iter().map(of).sum()
}

/// Waits until it has nothing more to do, but at least this long, and returns its CPU time then.
fn settle(running: &Running, least: Duration) -> io::Result<Duration> {
    /// Twice in a row less than `IDLE` in `WINDOW`.
    const WINDOW: Duration = Duration::from_millis(150);
    const IDLE: Duration = Duration::from_millis(2);
    sleep(least);
    let deadline = Instant::now() + PATIENCE;
    let (mut last, mut quiet) = (cpu(running)?, 0);
    while quiet < 2 && Instant::now() < deadline {
        sleep(WINDOW);
        let now = cpu(running)?;
        quiet = if now.saturating_sub(last) < IDLE { quiet + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}

/// The body of a response with status 200, with the marks of its chunks if it has any.
fn get(at: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let mut session = dial(at)?;
    session.set_read_timeout(Some(PATIENCE))?;
    write!(session, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")?;
    let mut response = Vec::new();
    session.read_to_end(&mut response)?;
    let head = response.windows(4).position(|window| window == b"\r\n\r\n");
    let head = head.ok_or_else(|| io::Error::other(format!("{path}: no response")))?;
    if !response.starts_with(b"HTTP/1.1 200 ") {
        let status = String::from_utf8_lossy(&response[..head]);
        return Err(io::Error::other(format!("{path}: {}", status.lines().next().unwrap_or_default())));
    }
    Ok(response.split_off(head + 4))
}
