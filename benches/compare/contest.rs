//! The run: participants, rows, and the destination of the findings.
//!
//! Lacks the playing itself: that is `arena`.
use std::fs;
use std::io;

use crate::arena::Arena;
use crate::cli::Options;
use crate::findings::{Entrant, Findings};
use crate::glob::matches;
use crate::machine::Machine;
use crate::peer::Peer;
use crate::process::raise_descriptor_limit;
use crate::row::Row;
use crate::terminate::TLS_TERMS;
use crate::{chart, json, table};

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let findings = hold(options)?;
    print!("{}", table::of(&findings));
    if let Some(folder) = options.out() {
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("compare.json"), json::of(&findings))?;
        fs::write(folder.join("compare.svg"), chart::of(&findings))?;
        println!("\nwritten: {0}/compare.json, {0}/compare.svg", folder.display());
    }
    match findings.failures() {
        failures if failures.is_empty() => Ok(()),
        failures => Err(io::Error::other(failures.join("; "))),
    }
}

fn hold(options: &Options) -> io::Result<Findings> {
    raise_descriptor_limit()?;
    let (entrants, absent) = enter(&options.peers());
    let mut arena = Arena::open(options, entrants.len())?;
    let mut findings = Findings {
        machine: Machine::here(),
        workers: options.workers(),
        terms: terms(options, &arena),
        entrants,
        absent,
        left_out: Vec::new(),
        broken: Vec::new(),
        rows: Vec::new(),
    };
    let rows = Row::all(options.quick, arena.cores.pins()).into_iter();
    let rows: Vec<Row> =
        rows.filter(|row| options.rows.iter().any(|glob| matches(glob, &row.name))).collect();
    if rows.is_empty() {
        return Err(io::Error::other(format!("no row is called {}", options.rows.join(", "))));
    }
    let count = rows.len();
    for (index, row) in rows.into_iter().enumerate() {
        eprintln!("[{}/{count}] {}", index + 1, row.name);
        let name = row.name.clone();
        if let Some(lacking) = row.lacks() {
            findings.left_out.push((name, lacking));
            continue;
        }
        match arena.play(row, &findings.entrants) {
            Ok(found) => findings.rows.push(found),
            // A long run must not be lost for one row; it fails all the same, at its end.
            Err(error) => findings.broken.push((name, error.to_string())),
        }
    }
    Ok(findings)
}

fn enter(peers: &[Peer]) -> (Vec<Entrant>, Vec<(Peer, String)>) {
    let mut entrants = Vec::new();
    let mut absent = Vec::new();
    for &peer in peers {
        let entrant = peer.program().and_then(|program| {
            let version = peer.version(&program)?;
            Ok(Entrant { peer, program, version })
        });
        match entrant {
            Ok(entrant) => entrants.push(entrant),
            Err(error) => absent.push((peer, error.to_string())),
        }
    }
    (entrants, absent)
}

fn terms(options: &Options, arena: &Arena) -> Vec<String> {
    vec![
        format!(
            "median of {} interleaved rounds of {} ms; workers of each proxy: {} (stunnel: a thread a session)",
            options.rounds(),
            options.span().as_millis(),
            options.workers()
        ),
        arena.cores.words(),
        "CPU: the scheduler's count for all threads, and for ksoftirqd where the proxy has a core to itself; \
         KiB: growth of Pss"
            .to_owned(),
        "growth: CLUSTERSxENDPOINTS, a listener for each cluster, nothing connected; CPU: the clock of the process; MB: \
         anonymous memory, kB: the text of one scrape without compression (Envoy's with `usedonly`); a reload changes \
         one cluster: HAProxy's is the start of its successor, Envoy's a file of clusters that it watches"
            .to_owned(),
        format!("mtls rows: {TLS_TERMS}; in connect-full the upstream lets nobody resume"),
        "direct: the same load with no proxy between, plaintext; in mtls/pgbench libpq does mTLS itself".to_owned(),
        "pgbench: 8 clients, scale 1, plaintext to the proxy, PostgreSQL without fsync; over mtls only who can \
         ask PostgreSQL for TLS. mail: a session for each message of 4 KiB, 16 at once, smtp-sink behind TLS"
            .to_owned(),
    ]
}
