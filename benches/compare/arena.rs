//! Plays the rows: upstream, certificates and cores outlast a row, contestants do not.
//!
//! Every row starts every contestant anew, so that no row inherits another's buffers, and goes round all of them
//! before it comes back to the first, so that drift of the machine affects all alike. Lacks any evaluation: that is
//! for `findings` and the reader.
use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use crate::cli::Options;
use crate::database::{Database, Login};
use crate::findings::{Cell, Entrant, RowFindings};
use crate::growth::{Fleet, Ground, Quantity, Record, record};
use crate::load::{self, Course, Reading, Span};
use crate::mail::MailServer;
use crate::pinned::pin;
use crate::pki::Pki;
use crate::place::{Cores, Seating, Seats};
use crate::ports::Ports;
use crate::process::{Meter, Running, await_ready};
use crate::recipe::{Job, Protocol};
use crate::row::{Row, Wire, Work};
use crate::socket;
use crate::upstream::Doors;

/// Outlasts a row: the upstream, the certificates, the places.
pub(crate) struct Arena {
    pub(crate) cores: Cores,
    span: Span,
    rounds: usize,
    workers: usize,
    /// A quick run does not use direct runs.
    direct: bool,
    upstream: Running,
    doors: Doors,
    /// From the first row on that needs one.
    database: Option<Database>,
    /// Of the last fleet: its rows follow one another, and one start yields them all.
    grown: Option<(Fleet, Wire, Vec<Record>)>,
    pki: Pki,
    ports: Ports,
    /// Last, since fields are dropped in order and the children write here.
    folder: tempfile::TempDir,
}

struct Contestant {
    running: Running,
    at: SocketAddr,
    /// Which set of the upstream's doors is its own.
    set: usize,
    // Only kept; dropped after the contestant.
    _behind: Behind,
}

/// The server behind a contestant, or loaded without one.
struct Behind {
    at: SocketAddr,
    /// Only kept, if it does not outlast the row.
    _mail: Option<MailServer>,
}

impl Arena {
    pub(crate) fn open(options: &Options, contestants: usize) -> io::Result<Self> {
        let cores = options.cores()?;
        // A unique name: removing the leftovers of a killed run must not remove others' folders.
        let folder = tempfile::Builder::new().prefix("ambassador-compare-").tempdir()?;
        // Servers under another account have to traverse it.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711))?;
        let pki = Pki::make(folder.path())?;
        let mut command = Command::new(std::env::current_exe()?);
        // One set more than contestants, for the direct runs.
        command.arg("upstream").arg("--pki").arg(pki.folder());
        command.arg("--sets").arg((contestants + 1).to_string());
        let (upstream, words) = Running::start_talking(&command, &cores.seats(Seating::Apart).load)?;
        let mut line = String::new();
        BufReader::new(words).read_line(&mut line)?;
        Ok(Self {
            cores,
            span: Span { warm_up: options.warm_up(), measured: options.span() },
            rounds: options.rounds(),
            workers: options.workers(),
            direct: !options.quick,
            upstream,
            doors: Doors::parse(&line)?,
            database: None,
            grown: None,
            pki,
            ports: Ports::new(),
            folder,
        })
    }

    pub(crate) fn play(&mut self, row: Row, entrants: &[Entrant]) -> io::Result<RowFindings> {
        let seats = self.cores.seats(row.seating);
        if let Work::Growth { fleet, quantity } = row.work {
            return self.play_growth(row, fleet, quantity, entrants, &seats);
        }
        pin(None, &seats.load)?;
        pin(Some(self.upstream.pid()), &seats.load)?;
        let direct = match self.direct && row.has_direct() {
            true => Some(self.behind(&row, Wire::Plain, self.last_set(), &seats)?),
            false => None,
        };
        let mut cells = Vec::new();
        let mut contestants = Vec::new();
        for (set, entrant) in entrants.iter().enumerate().filter(|(_, entrant)| entrant.peer.serves(&row)) {
            let mut cell = Cell { peer: entrant.peer, readings: Vec::new(), trouble: None };
            let contestant = self.start(entrant, &row, set, &seats);
            contestants.push(contestant.map_err(|error| cell.trouble = Some(error.to_string())).ok());
            cells.push(cell);
        }
        let mut found = RowFindings { row, cells, direct: Vec::new() };
        for round in 0..self.rounds(&found.row) {
            if let Some(direct) = &direct {
                found.direct.push(self.measure_direct(&found.row, direct)?);
            }
            self.play_round(&mut found, &contestants, round, &seats);
        }
        Ok(found)
    }

    fn play_growth(
        &mut self,
        row: Row,
        fleet: Fleet,
        quantity: Quantity,
        entrants: &[Entrant],
        seats: &Seats,
    ) -> io::Result<RowFindings> {
        if self.grown.as_ref().is_none_or(|(of, wire, _)| (*of, *wire) != (fleet, row.wire)) {
            let folder = self.subfolder("growth")?;
            let ground = Ground {
                fleet,
                pki: (row.wire == Wire::Mtls).then_some(&self.pki),
                seats,
                workers: self.workers,
                listen: self.ports.free()?,
                admin: self.ports.free()?,
                folder: &folder,
            };
            self.grown = Some((fleet, row.wire, record(&row, entrants, self.rounds, &ground)));
        }
        let records = self.grown.iter().flat_map(|(.., records)| records);
        let cells = records.filter(|record| record.serves(&row)).map(|record| record.cell(quantity));
        Ok(RowFindings { cells: cells.collect(), row, direct: Vec::new() })
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
        seats: &Seats,
    ) {
        for turn in 0..contestants.len() {
            // Each round begins with another contestant.
            let index = (turn + round) % contestants.len();
            let cell = &mut found.cells[index];
            let Some(contestant) = contestants[index].as_ref().filter(|_| cell.trouble.is_none()) else {
                continue;
            };
            let meter = contestant.running.meter(cell.peer.ends_threads(), seats.proxy_alone());
            match self.measure(&found.row, contestant, &meter) {
                Ok(reading) => cell.readings.push(reading),
                Err(error) => cell.trouble = Some(error.to_string()),
            }
        }
    }

    fn measure(&self, row: &Row, contestant: &Contestant, meter: &Meter) -> io::Result<Reading> {
        let login = Login::through_proxy(contestant.at, row.wire);
        load::run(row.work, &self.course(contestant.at, contestant.set, meter, login))
    }

    /// The same load with no proxy between.
    fn measure_direct(&self, row: &Row, direct: &Behind) -> io::Result<Reading> {
        let login = Login::direct(direct.at, row.wire, &self.pki);
        load::run(row.work, &self.course(direct.at, self.last_set(), &Meter::none(), login))
    }

    fn course<'a>(&self, target: SocketAddr, set: usize, meter: &'a Meter, login: Login) -> Course<'a> {
        let upstream = self.doors.plain[self.last_set()];
        Course { target, meter, span: self.span, upstream, set, login }
    }

    /// The upstream's ports that belong to no contestant.
    fn last_set(&self) -> usize {
        self.doors.plain.len() - 1
    }

    fn start(&mut self, entrant: &Entrant, row: &Row, set: usize, seats: &Seats) -> io::Result<Contestant> {
        let folder = self.subfolder(entrant.peer.name())?;
        let behind = self.behind(row, row.wire, set, seats)?;
        let at = self.ports.free()?;
        let pgbench = matches!(row.work, Work::Pgbench { .. });
        let job = Job {
            program: &entrant.program,
            listen: at,
            upstream: behind.at,
            pki: (row.wire == Wire::Mtls).then_some(&self.pki),
            protocol: if pgbench { Protocol::Postgres } else { Protocol::Opaque },
            workers: self.workers,
            sessions: if let Work::Bulk { sessions, .. } = row.work { sessions } else { 1 },
            folder: &folder,
        };
        let log = folder.join("log");
        let mut running = Running::start(&job.command(entrant.peer)?, &seats.proxy, &log)?;
        // The first warm-up shows whether third-party servers answer.
        let probe = if row.is_real_work() { |at| socket::dial(at).map(drop) } else { load::ping };
        await_ready(&mut running, || probe(at), &log)?;
        Ok(Contestant { running, at, set, _behind: behind })
    }

    /// Starts what is not yet running.
    fn behind(&mut self, row: &Row, wire: Wire, set: usize, seats: &Seats) -> io::Result<Behind> {
        let at = match (row.work, wire) {
            (Work::Pgbench { .. }, _) => self.database(seats)?,
            (Work::Mail { .. }, _) => {
                let free = self.ports.free()?;
                let folder = self.folder.path().join(format!("mail-{set}"));
                let mail = MailServer::start(wire, &folder, free, &self.pki, &seats.load)?;
                return Ok(Behind { at: mail.at, _mail: Some(mail) });
            }
            (_, Wire::Plain) => self.doors.plain[set],
            (Work::Connect { resume: false, .. }, Wire::Mtls) => self.doors.full[set],
            (_, Wire::Mtls) => self.doors.tls[set],
        };
        Ok(Behind { at, _mail: None })
    }

    fn database(&mut self, seats: &Seats) -> io::Result<SocketAddr> {
        if let Some(database) = &self.database {
            return Ok(database.at);
        }
        let folder = self.subfolder("postgresql")?;
        let at = self.ports.free()?;
        self.database = Some(Database::start(&folder, at, &self.pki, &seats.load)?);
        Ok(at)
    }

    fn subfolder(&self, name: &str) -> io::Result<PathBuf> {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}
