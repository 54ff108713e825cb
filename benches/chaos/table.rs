//! The findings as Markdown: one table of losses, and for each scenario one with everything.
//!
//! Lacks colour and width detection: it is also pasted into documents.
use std::fmt::Write as _;

use crate::judge::Record;
use crate::report::Findings;

const TO_STRING: &str = "a String takes everything";

const LEGEND: &str = "\
lost: sessions that were not served, and why (caught: under way when an endpoint was killed); cut: long sessions that ended before their time; bad s: seconds with either; \
open: ms from a client's connect to its first answer; recovery: s from the return of endpoints to the end of the last loss that \
began later, before another fault; reuse: s from an endpoint's return until it has served somebody, the worst of all returns; dead dials: SYNs, checks \
included, to an endpoint at fault, for each 1000 sessions begun meanwhile; CPU: ms of the proxy for each 1000 sessions\n";

pub(crate) fn of(findings: &Findings) -> String {
    let mut text = format!("{}; seed {}\n", findings.machine.words(), findings.seed);
    for entrant in &findings.entrants {
        writeln!(text, "{}: {}", entrant.variant.name, entrant.version).expect(TO_STRING);
    }
    for absent in &findings.absent {
        writeln!(text, "MISSING {absent}").expect(TO_STRING);
    }
    text += "\nlost + cut of all sessions:\n\n";
    text += &losses(findings);
    text += "\n";
    text += LEGEND;
    for scenario in &findings.scenarios {
        let records: Vec<&Record> =
            findings.records.iter().filter(|record| record.scenario == scenario.name).collect();
        let seconds = scenario.lasts.as_secs();
        write!(text, "\n**{}** ({seconds} s): {}\n\n", scenario.name, scenario.words).expect(TO_STRING);
        text += &whole(&records);
    }
    for trouble in &findings.troubles {
        writeln!(text, "\nfailed: {trouble}").expect(TO_STRING);
    }
    text
}

fn losses(findings: &Findings) -> String {
    let names: Vec<&str> = findings.entrants.iter().map(|entrant| entrant.variant.name.as_str()).collect();
    let mut text = head(&[&["scenario"], names.as_slice()].concat());
    for scenario in &findings.scenarios {
        let cells = names.iter().map(|name| {
            findings.record(scenario.name, name).map_or_else(nothing, |record| {
                format!("{} + {} / {}", record.lost, record.cut, record.sessions)
            })
        });
        let cells: Vec<String> = cells.collect();
        writeln!(text, "| {} | {} |", scenario.name, cells.join(" | ")).expect(TO_STRING);
    }
    text
}

fn whole(records: &[&Record]) -> String {
    let mut text = head(&[
        "",
        "sessions",
        "lost",
        "cut",
        "bad s",
        "open p50",
        "p99",
        "max",
        "recovery",
        "reuse",
        "dead dials",
        "CPU",
        "else",
    ]);
    for record in records {
        let kinds: Vec<String> = record.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let caught = if record.caught > 0 { format!(" ({} caught)", record.caught) } else { String::new() };
        let lost = if kinds.is_empty() { "0".to_owned() } else { kinds.join(", ") + &caught };
        let reuse = match record.reuse.iter().copied().collect::<Option<Vec<f64>>>() {
            None => "never".to_owned(),
            Some(all) => one_digit(all.into_iter().reduce(f64::max)),
        };
        let cells = [
            record.variant.clone(),
            record.sessions.to_string(),
            lost,
            record.cut.to_string(),
            record.loss_seconds.to_string(),
            one_digit(record.p50),
            one_digit(record.p99),
            one_digit(record.max),
            one_digit(record.recovery),
            reuse,
            rounded(record.dead_dials_per_1000()),
            rounded(record.cpu_per_1000()),
            others(record),
        ];
        writeln!(text, "| {} |", cells.join(" | ")).expect(TO_STRING);
    }
    text
}

/// Figures that matter in few scenarios.
fn others(record: &Record) -> String {
    let mut words = Vec::new();
    if let Some(stale) = record.stale {
        words.push(format!("old until {stale:.1} s"));
    }
    match record.joined {
        Some(joined) if joined.is_finite() => words.push(format!("new after {joined:.1} s")),
        Some(_) => words.push("new never".to_owned()),
        None => {}
    }
    let mib = record.grown as f64 / f64::from(1 << 20);
    if record.sent > 0 {
        words.push(format!("{:.1} MB taken", record.sent as f64 / 1e6));
    }
    if record.grown > 0 {
        words.push(format!("+{mib:.1} MiB"));
    }
    words.join(", ")
}

fn head(cells: &[&str]) -> String {
    format!("| {} |\n|{}\n", cells.join(" | "), "---|".repeat(cells.len()))
}

fn nothing() -> String {
    "–".to_owned()
}

fn one_digit(value: Option<f64>) -> String {
    value.map_or_else(nothing, |value| format!("{value:.1}"))
}

fn rounded(value: Option<f64>) -> String {
    value.map_or_else(nothing, |value| format!("{value:.0}"))
}
