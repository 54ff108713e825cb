//! pgbench, PostgreSQL's own load, as a child process: its sessions, its scripts, its report.
//!
//! Its eight sessions open and close within the run, and a handshake costs as much as a hundred transactions. So the
//! cost of a run with next to no transactions is subtracted, except for `connect`, where opening sessions is the work.
//! Lacks percentiles, which pgbench would have to write to a disk.
use std::io;
use std::process::{Command, Output};
use std::time::Duration;

use super::{Course, Reading};
use crate::programs::find;
use crate::row::Script;

const CLIENTS: u32 = 8;

enum Amount {
    Transactions(u32),
    Seconds(u64),
}

/// Each client's session and one transaction.
const OPENING: Amount = Amount::Transactions(1);

/// What pgbench printed at its end.
struct Report {
    transactions: f64,
    per_second: f64,
    latency_ms: f64,
}

pub(super) fn run(course: &Course<'_>, script: Script) -> io::Result<Reading> {
    // Once to load code and tables, once to measure the cost of the sessions.
    play(course, script, &OPENING)?;
    let (opening, cpu_of_opening) = metered(course, script, &OPENING)?;
    let amount = match course.span.measured {
        // The shortest run of pgbench is a second.
        span if span < Duration::from_millis(100) => Amount::Transactions(5),
        span if span < Duration::from_millis(500) => Amount::Transactions(50),
        span => {
            Amount::Seconds(span.as_secs_f64().ceil() as u64 * if script == Script::Connect { 2 } else { 1 })
        }
    };
    let (report, cpu) = metered(course, script, &amount)?;
    let (units, cpu) = match script {
        Script::Connect => (report.transactions, cpu),
        Script::Select | Script::Simple => {
            (report.transactions - opening.transactions, cpu.saturating_sub(cpu_of_opening))
        }
    };
    Ok(Reading {
        cpu,
        wall: Duration::from_secs_f64(units / report.per_second),
        units,
        mean: Some(report.latency_ms * 1e3),
        ..Reading::default()
    })
}

fn metered(course: &Course<'_>, script: Script, amount: &Amount) -> io::Result<(Report, Duration)> {
    let before = course.meter.cpu()?;
    let report = play(course, script, amount)?;
    Ok((report, course.meter.cpu()?.saturating_sub(before)))
}

fn play(course: &Course<'_>, script: Script, amount: &Amount) -> io::Result<Report> {
    let program = find("pgbench").ok_or_else(|| io::Error::other("not installed: pgbench"))?;
    let pgbench = course.login.command(&program);
    // If a proxy lost an answer, it would hang for ever.
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", "60"]).arg(pgbench.get_program());
    command.envs(pgbench.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.args(["--no-vacuum", "--client", &CLIENTS.to_string()]);
    match script {
        Script::Select => command.arg("--builtin=select-only"),
        Script::Simple => command.arg("--builtin=simple-update"),
        // It waits for each new session, so clients on one thread would run one after the other.
        Script::Connect => {
            command.args(["--builtin=select-only", "--connect", "--jobs", &CLIENTS.to_string()])
        }
    };
    match amount {
        Amount::Transactions(count) => command.arg(format!("--transactions={count}")),
        Amount::Seconds(seconds) => command.arg(format!("--time={seconds}")),
    };
    read(&command.output()?)
}

fn read(output: &Output) -> io::Result<Report> {
    let words = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let first = complaint.lines().find(|line| line.contains("error")).unwrap_or("it did not end in time");
        return Err(io::Error::other(format!("pgbench: {first}")));
    }
    let number = |before: &str| {
        let line = words.lines().find_map(|line| line.strip_prefix(before));
        let word = line.and_then(|line| line.split([' ', '/']).next());
        word.and_then(|word| word.parse().ok())
            .ok_or_else(|| io::Error::other(format!("pgbench reported no {before:?}")))
    };
    Ok(Report {
        transactions: number("number of transactions actually processed: ")?,
        per_second: number("tps = ")?,
        latency_ms: number("latency average = ")?,
    })
}
