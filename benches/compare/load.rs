//! The load: closed loops over many sessions from one thread, and the readings at their end.
//!
//! It runs in the bench's own thread and reads the proxy's CPU time itself, exactly when the measured span opens and
//! closes. Lacks an open loop: the figure is cost per unit of work, and latencies are those of a busy proxy with as
//! many requests in flight as the row has sessions.
mod bulk;
mod connect;
mod idle;
mod mail;
mod pgbench;
mod round_trips;

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::database::Login;
use crate::process::Meter;
use crate::row::Work;
use crate::socket::dial;
use crate::wire::{Ask, Tally};

/// The limit of every wait for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The reading of one contestant in one round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    /// Round trips, bytes, connections, sessions, transactions or messages, by the row.
    pub(crate) units: f64,
    pub(crate) latency: Option<Latency>,
    /// The mean latency in microseconds, if the client program reports only that.
    pub(crate) mean: Option<f64>,
    /// The growth of the proxy in bytes; only in the idle row.
    pub(crate) memory: u64,
    /// The share of TLS handshakes that resumed a session.
    pub(crate) resumed: Option<f64>,
}

/// All in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

impl Latency {
    fn of(mut nanos: Vec<u32>) -> Option<Self> {
        if nanos.is_empty() {
            return None;
        }
        nanos.sort_unstable();
        let at = |share: f64| f64::from(nanos[((nanos.len() - 1) as f64 * share) as usize]) / 1e3;
        Some(Self { p50: at(0.5), p99: at(0.99), p999: at(0.999) })
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// The destination of the load, and the sources of its readings.
pub(crate) struct Course<'a> {
    pub(crate) target: SocketAddr,
    pub(crate) meter: &'a Meter,
    pub(crate) span: Span,
    /// A plain port of the upstream itself.
    pub(crate) upstream: SocketAddr,
    /// The contestant's set of its ports.
    pub(crate) set: usize,
    pub(crate) login: Login,
}

impl Course<'_> {
    fn tally(&self) -> io::Result<Tally> {
        let mut bytes = Vec::new();
        open(self.upstream, Ask::Tally)?.read_to_end(&mut bytes)?;
        let tally = bytes.chunks_exact(Tally::BYTES).nth(self.set);
        let tally = tally.ok_or_else(|| io::Error::other("the upstream keeps too few tallies"))?;
        Ok(Tally::decode(tally.try_into().expect("chunks are exact")))
    }
}

pub(crate) fn run(work: Work, course: &Course<'_>) -> io::Result<Reading> {
    let before = course.tally()?;
    let reading = match work {
        Work::RoundTrips { message, sessions } => round_trips::run(course, message, sessions, false),
        Work::Beside { sessions } => round_trips::run(course, 64, sessions, true),
        Work::Bulk { flow, sessions } => bulk::run(course, flow, sessions),
        Work::Connect { at_once, .. } => connect::run(course, at_once),
        Work::Idle { sessions } => idle::run(course, sessions),
        Work::Pgbench { script } => pgbench::run(course, script),
        Work::Mail { at_once } => mail::run(course, at_once),
        Work::Growth { .. } => return Err(io::Error::other("growth has no load")),
    }?;
    if reading.units == 0.0 {
        return Err(io::Error::other("nothing got through"));
    }
    Ok(Reading { resumed: course.tally()?.resumed_since(before), ..reading })
}

/// Whether one byte reaches the upstream and comes back.
pub(crate) fn ping(target: SocketAddr) -> io::Result<()> {
    let mut session = open(target, Ask::Ping)?;
    session.read_exact(&mut [0])
}

/// A session that has sent its request; it blocks, with a timeout.
fn open(target: SocketAddr, ask: Ask) -> io::Result<std::net::TcpStream> {
    let mut session = dial(target)?;
    session.set_read_timeout(Some(PATIENCE))?;
    session.write_all(&[ask.byte()])?;
    Ok(session)
}

/// Tells a loop when to warm up, count and stop, and reads the meter at both ends.
struct Window<'a> {
    course: &'a Course<'a>,
    since: Instant,
    /// When the measured part began, and the proxy's CPU time then.
    opened: Option<(Instant, Duration)>,
}

enum Phase {
    /// Still warming up, or counting.
    On,
    /// Everything counted so far is discarded.
    Opened,
    Closed(Reading),
}

impl<'a> Window<'a> {
    fn new(course: &'a Course<'a>) -> Self {
        Self { course, since: Instant::now(), opened: None }
    }

    /// `counted`: the work done since it opened. On a busy machine a short span may pass without any; then it stays
    /// open for the first unit.
    fn tick(&mut self, counted: usize) -> io::Result<Phase> {
        match self.opened {
            None if self.since.elapsed() >= self.course.span.warm_up => {
                self.opened = Some((Instant::now(), self.course.meter.cpu()?));
                Ok(Phase::Opened)
            }
            Some((at, _)) if counted == 0 && at.elapsed() < PATIENCE => Ok(Phase::On),
            Some((at, _)) if at.elapsed() >= self.course.span.measured => self.close().map(Phase::Closed),
            _ => Ok(Phase::On),
        }
    }

    /// CPU time since the window opened.
    fn close(&self) -> io::Result<Reading> {
        let (at, cpu) = self.opened.ok_or_else(|| io::Error::other("ended before it was warm"))?;
        Ok(Reading {
            cpu: self.course.meter.cpu()?.saturating_sub(cpu),
            wall: at.elapsed(),
            ..Reading::default()
        })
    }
}
