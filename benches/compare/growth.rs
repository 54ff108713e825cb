//! How a proxy grows with its configuration while nothing connects: CPU of its start, memory, what a scrape of its metrics
//! costs and leaves behind, CPU of a reload with one cluster changed.
//!
//! One start of a contestant yields all its figures, which the rows of its fleet share. CPU is the kernel's clock of the
//! process. Lacks endpoints that exist: nobody probes or connects.
mod measure;

use std::time::Duration;

pub(crate) use measure::Ground;

use crate::findings::{Cell, Entrant};
use crate::load::Reading;
use crate::peer::Peer;
use crate::row::Row;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fleet {
    pub(crate) clusters: usize,
    /// Of each cluster.
    pub(crate) endpoints: usize,
}

impl Fleet {
    pub(crate) fn all(quick: bool) -> Vec<Self> {
        let of = |clusters, endpoints| Self { clusters, endpoints };
        if quick { vec![of(20, 3), of(2, 20)] } else { vec![of(1000, 3), of(3000, 3), of(10, 1000)] }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Quantity {
    Start,
    Memory,
    /// Memory after a scrape.
    MemoryScraped,
    ScrapeSize,
    Scrape,
    Reload,
}

impl Quantity {
    pub(crate) const ALL: [Self; 6] =
        [Self::Start, Self::Memory, Self::MemoryScraped, Self::ScrapeSize, Self::Scrape, Self::Reload];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Memory => "memory",
            Self::MemoryScraped => "memory-scraped",
            Self::ScrapeSize => "scrape-size",
            Self::Scrape => "scrape",
            Self::Reload => "reload",
        }
    }

    /// Bytes, else CPU time.
    pub(crate) fn is_bytes(self) -> bool {
        matches!(self, Self::Memory | Self::MemoryScraped | Self::ScrapeSize)
    }

    /// Whether a proxy without metrics, and whose reload replaces its processes, has it.
    pub(crate) fn is_universal(self) -> bool {
        matches!(self, Self::Start | Self::Memory)
    }
}

/// The figures of one contestant from one start of it.
pub(crate) struct Growth {
    start: Duration,
    memory: u64,
    /// Absent if it has no metrics.
    scraped: Option<Scraped>,
    reload: Option<Duration>,
}

struct Scraped {
    memory: u64,
    bytes: u64,
    cpu: Duration,
}

impl Growth {
    fn reading(&self, quantity: Quantity) -> Option<Reading> {
        let bytes = |memory| Some(Reading { memory, ..Reading::default() });
        let time = |cpu| Some(Reading { cpu, ..Reading::default() });
        let scraped = self.scraped.as_ref();
        match quantity {
            Quantity::Start => time(self.start),
            Quantity::Memory => bytes(self.memory),
            Quantity::MemoryScraped => bytes(scraped?.memory),
            Quantity::ScrapeSize => bytes(scraped?.bytes),
            Quantity::Scrape => time(scraped?.cpu),
            Quantity::Reload => time(self.reload?),
        }
    }
}

/// The contestant's rounds with one fleet.
pub(crate) struct Record {
    peer: Peer,
    rounds: Vec<Growth>,
    trouble: Option<String>,
}

impl Record {
    pub(crate) fn serves(&self, row: &Row) -> bool {
        self.peer.serves(row)
    }

    pub(crate) fn cell(&self, quantity: Quantity) -> Cell {
        let readings = self.rounds.iter().filter_map(|growth| growth.reading(quantity)).collect();
        Cell { peer: self.peer, readings, trouble: self.trouble.clone() }
    }
}

/// One contestant after the other, so many times.
pub(crate) fn record(row: &Row, entrants: &[Entrant], rounds: usize, ground: &Ground<'_>) -> Vec<Record> {
    let entrants: Vec<&Entrant> = entrants.iter().filter(|entrant| entrant.peer.serves(row)).collect();
    let empty = |entrant: &&Entrant| Record { peer: entrant.peer, rounds: Vec::new(), trouble: None };
    let mut records: Vec<Record> = entrants.iter().map(empty).collect();
    for _ in 0..rounds {
        for (record, entrant) in records.iter_mut().zip(&entrants) {
            if record.trouble.is_none() {
                match ground.measure(entrant) {
                    Ok(growth) => record.rounds.push(growth),
                    Err(error) => record.trouble = Some(error.to_string()),
                }
            }
        }
    }
    records
}
