//! The findings: every reading, and the medians and ratios that the reports show.
//!
//! Lacks formatting: `table`, `json` and `chart` each have their own.
use crate::load::{Latency, Reading};
use crate::machine::Machine;
use crate::peer::Peer;
use crate::row::{Row, Work};

pub(crate) struct Findings {
    pub(crate) machine: Machine,
    pub(crate) workers: usize,
    /// How it was measured, in words.
    pub(crate) terms: Vec<String>,
    pub(crate) entrants: Vec<Entrant>,
    pub(crate) absent: Vec<(Peer, String)>,
    /// Rows whose programs are missing, and which.
    pub(crate) left_out: Vec<(String, String)>,
    /// Rows that could not be played, and why.
    pub(crate) broken: Vec<(String, String)>,
    pub(crate) rows: Vec<RowFindings>,
}

pub(crate) struct Entrant {
    pub(crate) peer: Peer,
    pub(crate) program: std::path::PathBuf,
    pub(crate) version: String,
}

pub(crate) struct RowFindings {
    pub(crate) row: Row,
    pub(crate) cells: Vec<Cell>,
    /// Of the same load without any proxy.
    pub(crate) direct: Vec<Reading>,
}

pub(crate) struct Cell {
    pub(crate) peer: Peer,
    /// One for each round.
    pub(crate) readings: Vec<Reading>,
    pub(crate) trouble: Option<String>,
}

impl Findings {
    /// Required in any case: ours, the floor and their servers.
    pub(crate) fn failures(&self) -> Vec<String> {
        let absent = self.absent.iter().map(|(peer, why)| (*peer, format!("{}: {why}", peer.name())));
        let troubles = self.rows.iter().flat_map(|found| {
            found.cells.iter().filter_map(|cell| {
                let why = cell.trouble.as_ref()?;
                Some((cell.peer, format!("{} in {}: {why}", cell.peer.name(), found.row.name)))
            })
        });
        let ours = absent.chain(troubles).filter(|(peer, _)| !peer.is_foreign()).map(|(_, why)| why);
        ours.chain(self.broken.iter().map(|(row, why)| format!("{row}: {why}"))).collect()
    }
}

impl RowFindings {
    pub(crate) fn figure(&self, peer: Peer) -> Option<f64> {
        self.cell(peer)?.figure(&self.row)
    }

    pub(crate) fn cell(&self, peer: Peer) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.peer == peer)
    }

    /// Of those configured as their manuals advise.
    pub(crate) fn best_peer(&self) -> Option<f64> {
        self.least(|peer| peer.is_foreign() && !peer.is_tuned())
    }

    /// Of all, including those tuned beyond that.
    pub(crate) fn best_tuned_peer(&self) -> Option<f64> {
        self.least(Peer::is_foreign)
    }

    /// Absent for idle sessions: a bare relay keeps nothing for them, so there is no ratio.
    pub(crate) fn floor(&self) -> Option<f64> {
        if matches!(self.row.work, Work::Idle { .. }) { None } else { self.least(Peer::is_floor) }
    }

    fn least(&self, among: impl Fn(Peer) -> bool) -> Option<f64> {
        self.cells
            .iter()
            .filter(|cell| among(cell.peer))
            .filter_map(|cell| cell.figure(&self.row))
            .min_by(f64::total_cmp)
    }

    /// By how much `peer` is slower than no proxy at all, at the same rank.
    pub(crate) fn added_latency(&self, peer: Peer) -> Option<Latency> {
        let direct = latency(&self.direct)?;
        let peer = latency(&self.cell(peer)?.readings)?;
        Some(Latency {
            p50: peer.p50 - direct.p50,
            p99: peer.p99 - direct.p99,
            p999: peer.p999 - direct.p999,
        })
    }

    /// Units of work a second with no proxy between.
    pub(crate) fn direct_rate(&self) -> Option<f64> {
        rate(&self.direct)
    }

    /// The mean latency with no proxy between, in microseconds.
    pub(crate) fn direct_mean(&self) -> Option<f64> {
        mean(&self.direct)
    }

    pub(crate) fn direct_latency(&self) -> Option<Latency> {
        latency(&self.direct)
    }
}

/// The ratio of the most expensive round to the cheapest from which on a cell is marked.
pub(crate) const UNSTEADY: f64 = 1.25;

impl Cell {
    pub(crate) fn figure(&self, row: &Row) -> Option<f64> {
        median(self.readings.iter().map(|reading| row.figure(reading)))
    }

    /// Whether the rounds differ so much that their median says little.
    pub(crate) fn is_unsteady(&self, row: &Row) -> bool {
        let figures =
            || self.readings.iter().map(|reading| row.figure(reading)).filter(|figure| figure.is_finite());
        let (least, most) = (figures().min_by(f64::total_cmp), figures().max_by(f64::total_cmp));
        least.zip(most).is_some_and(|(least, most)| most > least * UNSTEADY)
    }

    /// Units of work a second.
    pub(crate) fn rate(&self) -> Option<f64> {
        rate(&self.readings)
    }

    /// The mean latency in microseconds, if only that is known.
    pub(crate) fn mean(&self) -> Option<f64> {
        mean(&self.readings)
    }

    /// The share of one core that the proxy used.
    pub(crate) fn busy(&self) -> Option<f64> {
        median(self.readings.iter().map(|reading| reading.cpu.as_secs_f64() / reading.wall.as_secs_f64()))
    }

    pub(crate) fn resumed(&self) -> Option<f64> {
        median(self.readings.iter().filter_map(|reading| reading.resumed))
    }

    pub(crate) fn latency(&self) -> Option<Latency> {
        latency(&self.readings)
    }
}

fn rate(readings: &[Reading]) -> Option<f64> {
    median(readings.iter().map(|reading| reading.units / reading.wall.as_secs_f64()))
}

/// The median of the readings' means, like everything.
fn mean(readings: &[Reading]) -> Option<f64> {
    median(readings.iter().filter_map(|reading| reading.mean))
}

fn latency(readings: &[Reading]) -> Option<Latency> {
    let rank = |of: fn(Latency) -> f64| median(readings.iter().filter_map(|reading| reading.latency.map(of)));
    Some(Latency { p50: rank(|l| l.p50)?, p99: rank(|l| l.p99)?, p999: rank(|l| l.p999)? })
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}
