//! The findings as text for a terminal.
//!
//! Lacks colour and width detection: it is also pasted into issues.
use std::fmt::Write as _;

use crate::findings::{Findings, RowFindings, UNSTEADY};
use crate::peer::Peer;
use crate::row::Work;

pub(crate) fn of(findings: &Findings) -> String {
    let mut text = heading(findings);
    text += &grid(&costs(findings));
    if text.contains('~') {
        writeln!(text, "~ the dearest round cost more than {UNSTEADY} times the cheapest").expect(TO_STRING);
    }
    text += &resumptions(findings);
    let latencies = latencies(findings);
    if latencies.len() > 1 {
        text += "\nlatency in µs, p50 / p99 / p99.9; of contestants what they add to direct\n";
        text += &grid(&latencies);
    }
    let rates = rates(findings);
    if rates.len() > 1 {
        text += "\nreal work: transactions or messages a second, and the mean latency in µs that pgbench reports\n";
        text += &grid(&rates);
    }
    for found in &findings.rows {
        for cell in &found.cells {
            if let Some(trouble) = &cell.trouble {
                writeln!(text, "failed: {} in {}: {trouble}", cell.peer.name(), found.row.name)
                    .expect(TO_STRING);
            }
        }
    }
    for (row, why) in &findings.broken {
        writeln!(text, "failed: {row}: {why}").expect(TO_STRING);
    }
    for (row, why) in &findings.left_out {
        writeln!(text, "LEFT OUT {row}: {why}").expect(TO_STRING);
    }
    text
}

const TO_STRING: &str = "a String takes everything";

fn heading(findings: &Findings) -> String {
    let mut text = format!("{}\n", findings.machine.words());
    for term in &findings.terms {
        writeln!(text, "{term}").expect(TO_STRING);
    }
    for entrant in &findings.entrants {
        writeln!(
            text,
            "{}: {}; in the kernel: {}",
            entrant.peer.name(),
            entrant.version,
            entrant.peer.kernel_paths()
        )
        .expect(TO_STRING);
    }
    for (peer, why) in &findings.absent {
        writeln!(text, "MISSING {}: {why}", peer.name()).expect(TO_STRING);
    }
    text + "\n"
}

fn costs(findings: &Findings) -> Vec<Vec<String>> {
    let peers: Vec<Peer> = findings.entrants.iter().map(|entrant| entrant.peer).collect();
    let mut head = vec!["row".to_owned(), "unit".to_owned()];
    head.extend(peers.iter().map(|peer| peer.name().to_owned()));
    head.extend(["ours/best peer", "ours/best tuned", "ours/floor"].map(str::to_owned));
    let mut rows = vec![head];
    for found in &findings.rows {
        let mut cells = vec![found.row.name.clone(), found.row.unit().to_owned()];
        cells.extend(peers.iter().map(|&peer| cost(found, peer)));
        let ours = found.figure(Peer::Ambassador);
        cells.push(ratio(ours, found.best_peer()));
        cells.push(ratio(ours, found.best_tuned_peer()));
        cells.push(ratio(ours, found.floor()));
        rows.push(cells);
    }
    rows
}

fn cost(found: &RowFindings, peer: Peer) -> String {
    match found.cell(peer) {
        None => nothing(),
        Some(cell) if cell.trouble.is_some() => "failed".to_owned(),
        Some(cell) => {
            let mark = if cell.is_unsteady(&found.row) { "~" } else { "" };
            cell.figure(&found.row).map_or_else(nothing, |figure| format!("{mark}{}", short(figure)))
        }
    }
}

/// The share of resumed TLS handshakes of each, in rows with many.
fn resumptions(findings: &Findings) -> String {
    let mut text = String::new();
    for found in findings.rows.iter().filter(|found| matches!(found.row.work, Work::Connect { .. })) {
        let shares = found.cells.iter().filter_map(|cell| {
            let share = cell.resumed()?;
            Some(format!("{} {:.0} %", cell.peer.name(), share * 100.0))
        });
        let shares = shares.collect::<Vec<_>>().join(", ");
        if !shares.is_empty() {
            writeln!(text, "handshakes resumed in {}: {shares}", found.row.name).expect(TO_STRING);
        }
    }
    text
}

fn latencies(findings: &Findings) -> Vec<Vec<String>> {
    let peers: Vec<Peer> = findings.entrants.iter().map(|entrant| entrant.peer).collect();
    let mut head = vec!["row".to_owned(), "direct".to_owned()];
    head.extend(
        peers.iter().filter(|peer| **peer != Peer::FloorSplice).map(|peer| format!("+ {}", peer.name())),
    );
    let mut rows = vec![head];
    for found in &findings.rows {
        let Some(direct) = found.direct_latency() else { continue };
        let three =
            |latency: crate::load::Latency| [latency.p50, latency.p99, latency.p999].map(short).join(" / ");
        let mut cells = vec![found.row.name.clone(), three(direct)];
        let added =
            peers.iter().filter(|peer| **peer != Peer::FloorSplice).map(|&peer| found.added_latency(peer));
        cells.extend(added.map(|latency| latency.map_or_else(nothing, three)));
        rows.push(cells);
    }
    rows
}

fn rates(findings: &Findings) -> Vec<Vec<String>> {
    let peers: Vec<Peer> = findings.entrants.iter().map(|entrant| entrant.peer).collect();
    let mut rows = vec![["row", "direct"].map(str::to_owned).to_vec()];
    rows[0].extend(peers.iter().map(|peer| peer.name().to_owned()));
    for found in findings.rows.iter().filter(|found| found.row.is_real_work()) {
        let words = |rate: Option<f64>, mean: Option<f64>| match (rate, mean) {
            (Some(rate), Some(mean)) => format!("{rate:.0}/s {} µs", short(mean)),
            (Some(rate), None) => format!("{rate:.0}/s"),
            (None, _) => nothing(),
        };
        let mut cells = vec![found.row.name.clone(), words(found.direct_rate(), found.direct_mean())];
        cells.extend(
            peers
                .iter()
                .map(|&peer| found.cell(peer).map_or_else(nothing, |cell| words(cell.rate(), cell.mean()))),
        );
        rows.push(cells);
    }
    rows
}

fn nothing() -> String {
    "–".to_owned()
}

fn ratio(ours: Option<f64>, other: Option<f64>) -> String {
    match (ours, other) {
        (Some(ours), Some(other)) if other > 0.0 => format!("{:.2}", ours / other),
        _ => nothing(),
    }
}

/// Three digits: a median of a few rounds is no more precise.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Columns as wide as their widest cell: the first to the left, the others to the right.
fn grid(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end()).expect(TO_STRING);
    }
    text
}
