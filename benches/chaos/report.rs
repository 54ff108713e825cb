//! The findings as JSON: every figure, for comparison with another day's run.
//!
//! Lacks a schema of its own; the names are descriptive, and have their units.
use serde_json::{Map, Value, json};

use crate::judge::Record;
use crate::lane::Entrant;
use crate::machine::Machine;
use crate::scenario::Scenario;

pub(crate) struct Findings {
    pub(crate) machine: Machine,
    pub(crate) seed: u64,
    pub(crate) entrants: Vec<Entrant>,
    /// Variants that could not take part, and why.
    pub(crate) absent: Vec<String>,
    pub(crate) troubles: Vec<String>,
    /// Scenarios that were played.
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) records: Vec<Record>,
}

impl Findings {
    pub(crate) fn record(&self, scenario: &str, variant: &str) -> Option<&Record> {
        self.records.iter().find(|record| record.scenario == scenario && record.variant == variant)
    }
}

pub(crate) fn of(findings: &Findings) -> String {
    let machine = &findings.machine;
    let versions: Map<String, Value> = findings
        .entrants
        .iter()
        .map(|each| (each.variant.name.clone(), each.version.clone().into()))
        .collect();
    let schedules: Map<String, Value> = findings
        .scenarios
        .iter()
        .map(|scenario| {
            let events: Vec<String> = scenario.events.iter().map(ToString::to_string).collect();
            let value =
                json!({ "what": scenario.words, "seconds": scenario.lasts.as_secs(), "events": events });
            (scenario.name.to_owned(), value)
        })
        .collect();
    let value = json!({
        "date": machine.date,
        "machine": machine.processor,
        "cores": machine.cores,
        "kernel": machine.kernel,
        "seed": findings.seed,
        "versions": versions,
        "missing": findings.absent,
        "troubles": findings.troubles,
        "scenarios": schedules,
        "records": findings.records.iter().map(record).collect::<Vec<_>>(),
    });
    format!("{value:#}\n")
}

fn record(record: &Record) -> Value {
    json!({
        "scenario": record.scenario,
        "variant": record.variant,
        "sessions": record.sessions,
        "lost": record.lost,
        "kinds": record.kinds,
        "caught": record.caught,
        "cut": record.cut,
        "cut_kinds": record.cut_kinds,
        "loss_seconds": record.loss_seconds,
        "open_p50_ms": record.p50,
        "open_p99_ms": record.p99,
        "open_max_ms": record.max,
        "lost_max_ms": record.lost_max,
        "stall_max_ms": record.stall,
        "recovery_s": record.recovery,
        "reuse_s": record.reuse,
        "dead_dials": record.dead_dials,
        "fault_sessions": record.fault_sessions,
        "dead_dials_per_1000": record.dead_dials_per_1000(),
        "cpu_s": record.cpu.as_secs_f64(),
        "cpu_ms_per_1000": record.cpu_per_1000(),
        "memory_grown_bytes": record.grown,
        "sent_bytes": record.sent,
        "served": record.served.iter().map(|(key, count)| (key.to_string(), (*count).into())).collect::<Map<_, _>>(),
        "stale_s": record.stale,
        "joined_s": record.joined.filter(|joined| joined.is_finite()),
    })
}
