//! Where a row is played: the upstream, the certificates and the cores, which outlast it, and the
//! contestants, which do not.
//!
//! Every row starts every contestant anew, so that no row inherits another's buffers, and goes round all
//! of them before it comes back to the first, so that drift of the machine hits all alike. Lacks
//! any judgement: that is for `findings` and the reader.
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cli::Options;
use crate::findings::{Cell, Entrant, RowFindings};
use crate::load::{self, Course, PATIENCE, Reading, Span};
use crate::pki::Pki;
use crate::place::{Cores, pin};
use crate::process::{Meter, Running};
use crate::recipe::Job;
use crate::row::{Row, Wire, Work};
use crate::socket;
use crate::upstream::Doors;

/// What outlasts a row: the upstream, the certificates, the places.
pub(crate) struct Arena {
    pub(crate) cores: Cores,
    span: Span,
    rounds: usize,
    /// Direct runs are of no use in a quick contest.
    direct: bool,
    upstream: Running,
    doors: Doors,
    pki: Pki,
    next_port: u16,
    /// Last, for fields are dropped in order and the children write here.
    folder: tempfile::TempDir,
}

/// A contestant that is up.
struct Contestant {
    running: Running,
    at: SocketAddr,
    /// Its doors of the upstream.
    pair: usize,
}

impl Arena {
    pub(crate) fn open(options: &Options, contestants: usize) -> io::Result<Self> {
        let cores = options.cores()?;
        // A name of its own: whoever clears up after a contest that was killed must not take others' folders.
        let folder = tempfile::Builder::new().prefix("ambassador-compare-").tempdir()?;
        let pki = Pki::make(folder.path())?;
        let mut command = Command::new(std::env::current_exe()?);
        // One door more than contestants, for the direct runs.
        command.arg("upstream").arg("--pki").arg(pki.folder());
        command.arg("--doors").arg((contestants + 1).to_string());
        let (upstream, words) = Running::start_talking(&command, cores.of_load(false))?;
        let mut line = String::new();
        BufReader::new(words).read_line(&mut line)?;
        Ok(Self {
            cores,
            span: Span { warm_up: options.warm_up(), measured: options.span() },
            rounds: options.rounds(),
            direct: !options.quick,
            upstream,
            doors: Doors::parse(&line)?,
            pki,
            // Below the ports that the kernel gives to connections, and apart from a second contest's.
            next_port: 20_000 + u16::try_from(std::process::id() % 8000).expect("below 8000"),
            folder,
        })
    }

    pub(crate) fn play(&mut self, row: Row, entrants: &[Entrant]) -> io::Result<RowFindings> {
        let load_core = self.cores.of_load(row.one_core());
        pin(None, load_core)?;
        pin(Some(self.upstream.pid()), load_core)?;
        let mut cells = Vec::new();
        let mut contestants = Vec::new();
        for (pair, entrant) in entrants.iter().enumerate().filter(|(_, entrant)| entrant.peer.serves(&row)) {
            let mut cell = Cell { peer: entrant.peer, readings: Vec::new(), trouble: None };
            let contestant = self.start(entrant, &row, pair);
            contestants.push(contestant.map_err(|error| cell.trouble = Some(error.to_string())).ok());
            cells.push(cell);
        }
        let mut found = RowFindings { row, cells, direct: Vec::new() };
        for round in 0..self.rounds(&found.row) {
            self.play_round(&mut found, &contestants, round)?;
        }
        Ok(found)
    }

    /// Memory does not drift as time does, and the idle row is long.
    fn rounds(&self, row: &Row) -> usize {
        if matches!(row.work, Work::Idle { .. }) { 1 } else { self.rounds }
    }

    fn play_round(
        &self,
        found: &mut RowFindings,
        contestants: &[Option<Contestant>],
        round: usize,
    ) -> io::Result<()> {
        if self.direct && found.row.has_latency() {
            found.direct.push(self.measure_direct(&found.row)?);
        }
        for turn in 0..contestants.len() {
            // Each round begins with another one.
            let index = (turn + round) % contestants.len();
            let cell = &mut found.cells[index];
            let Some(contestant) = contestants[index].as_ref().filter(|_| cell.trouble.is_none()) else {
                continue;
            };
            match self.measure(&found.row, contestant) {
                Ok(reading) => cell.readings.push(reading),
                Err(error) => cell.trouble = Some(error.to_string()),
            }
        }
        Ok(())
    }

    fn measure(&self, row: &Row, contestant: &Contestant) -> io::Result<Reading> {
        let meter = contestant.running.meter(self.cores.proxy_alone(row.one_core()));
        load::run(row.work, &self.course(contestant.at, contestant.pair, &meter))
    }

    /// The same load with no proxy between.
    fn measure_direct(&self, row: &Row) -> io::Result<Reading> {
        load::run(row.work, &self.course(self.direct_door(), self.doors.plain.len() - 1, &Meter::none()))
    }

    fn course<'a>(&self, target: SocketAddr, pair: usize, meter: &'a Meter) -> Course<'a> {
        Course { target, meter, span: self.span, upstream: self.direct_door(), pair }
    }

    fn direct_door(&self) -> SocketAddr {
        *self.doors.plain.last().expect("one pair more was opened than there are contestants")
    }

    fn start(&mut self, entrant: &Entrant, row: &Row, pair: usize) -> io::Result<Contestant> {
        let folder = self.folder.path().join(entrant.peer.name());
        fs::create_dir_all(&folder)?;
        let at = self.free_address()?;
        let (upstream, pki) = match row.wire {
            Wire::Plain => (self.doors.plain[pair], None),
            Wire::Mtls => (self.doors.tls[pair], Some(&self.pki)),
        };
        let sessions = if let Work::Bulk { sessions, .. } = row.work { sessions } else { 1 };
        let job = Job { program: &entrant.program, listen: at, upstream, pki, sessions, folder: &folder };
        let log = folder.join("log");
        let mut running = Running::start(&job.command(entrant.peer)?, self.cores.proxy, &log)?;
        await_ready(&mut running, at, &log)?;
        Ok(Contestant { running, at, pair })
    }

    fn free_address(&mut self) -> io::Result<SocketAddr> {
        for _ in 0..1000 {
            let at = (Ipv4Addr::LOCALHOST, self.next_port).into();
            self.next_port = if self.next_port < 32_000 { self.next_port + 1 } else { 20_000 };
            if socket::listen(at).is_ok() {
                return Ok(at);
            }
        }
        Err(io::Error::other("no free port between 20000 and 32000"))
    }
}

fn await_ready(running: &mut Running, at: SocketAddr, log: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let error = match load::ping(at) {
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
