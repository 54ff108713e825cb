//! The findings as JSON: everything, for comparison with another day's run.
//!
//! Lacks a schema of its own; the names are descriptive.
use serde_json::{Value, json};

use crate::findings::{Cell, Findings, RowFindings};
use crate::load::{Latency, Reading};
use crate::peer::Peer;
use crate::row::Row;

pub(crate) fn of(findings: &Findings) -> String {
    let machine = &findings.machine;
    let versions: serde_json::Map<String, Value> = findings
        .entrants
        .iter()
        .map(|entrant| (entrant.peer.name().into(), entrant.version.clone().into()))
        .collect();
    let absent: serde_json::Map<String, Value> =
        findings.absent.iter().map(|(peer, why)| (peer.name().into(), why.clone().into())).collect();
    let value = json!({
        "date": machine.date,
        "machine": machine.processor,
        "cores": machine.cores,
        "kernel": machine.kernel,
        "workers": findings.workers,
        "terms": findings.terms,
        "versions": versions,
        "missing": absent,
        "left_out": reasons(&findings.left_out),
        "broken": reasons(&findings.broken),
        "rows": findings.rows.iter().map(row).collect::<Vec<_>>(),
    });
    format!("{value:#}\n")
}

fn reasons(rows: &[(String, String)]) -> serde_json::Map<String, Value> {
    rows.iter().map(|(row, why)| (row.clone(), why.clone().into())).collect()
}

fn row(found: &RowFindings) -> Value {
    let ours = found.figure(Peer::Ambassador);
    let ratio = |other: Option<f64>| Some(ours? / other?);
    let contestants: serde_json::Map<String, Value> =
        found.cells.iter().map(|each| (each.peer.name().into(), cell(found, each))).collect();
    json!({
        "row": found.row.name,
        "unit": found.row.unit(),
        "headline": found.row.is_headline(),
        "ours_to_best_peer": ratio(found.best_peer()),
        "ours_to_best_tuned_peer": ratio(found.best_tuned_peer()),
        "ours_to_floor": ratio(found.floor()),
        "direct_latency_us": found.direct_latency().map(latency),
        "direct_mean_latency_us": found.direct_mean(),
        "direct_units_per_second": found.direct_rate(),
        "contestants": contestants,
    })
}

fn cell(found: &RowFindings, cell: &Cell) -> Value {
    let figure = cell.figure(&found.row);
    json!({
        "figure": figure,
        "unsteady": cell.is_unsteady(&found.row),
        "to_best_peer": figure.zip(found.best_peer()).map(|(mine, best)| mine / best),
        "to_floor": figure.zip(found.floor()).map(|(mine, floor)| mine / floor),
        "units_per_second": cell.rate(),
        "core_in_use": cell.busy(),
        "latency_us": cell.latency().map(latency),
        "added_latency_us": found.added_latency(cell.peer).map(latency),
        "mean_latency_us": cell.mean(),
        "added_mean_latency_us": cell.mean().zip(found.direct_mean()).map(|(mine, direct)| mine - direct),
        "resumed_handshakes": cell.resumed(),
        "rounds": cell.readings.iter().map(|reading| round(&found.row, reading)).collect::<Vec<_>>(),
        "trouble": cell.trouble,
    })
}

fn round(row: &Row, reading: &Reading) -> Value {
    json!({
        "figure": row.figure(reading),
        "cpu_ms": reading.cpu.as_secs_f64() * 1e3,
        "wall_ms": reading.wall.as_secs_f64() * 1e3,
        "units": reading.units,
        "latency_us": reading.latency.map(latency),
        "mean_latency_us": reading.mean,
        "resumed_handshakes": reading.resumed,
    })
}

fn latency(latency: Latency) -> Value {
    json!({ "p50": latency.p50, "p99": latency.p99, "p99.9": latency.p999 })
}
