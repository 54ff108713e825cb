//! The run: participants, scenarios, and the destination of the findings.
//!
//! Scenarios are played one after the other, since they share the machine; quick ones several at a time, since they
//! share a minute. Lacks the playing itself: that is `stage`.
use std::fs;
use std::io;
use std::thread;

use crate::cli::Options;
use crate::glob::matches;
use crate::lane::{Entrant, Ground};
use crate::machine::Machine;
use crate::process::raise_descriptor_limit;
use crate::report::Findings;
use crate::scenario::{Scenario, all};
use crate::stage::{Played, play};
use crate::variant::Variant;
use crate::{aims, interrupt, report, table};

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let scenarios = chosen(options)?;
    if options.cargo.list {
        // `cargo test -- --list` asks for this too; its output is not used for names of tests.
        for scenario in &scenarios {
            println!("{}: {} ({} s)", scenario.name, scenario.words, scenario.lasts.as_secs());
        }
        return Ok(());
    }
    interrupt::watch()?;
    raise_descriptor_limit()?;
    let (entrants, absent) = enter(options)?;
    let folder = tempfile::Builder::new().prefix("ambassador-chaos-").tempdir()?;
    let ground = Ground::prepare(folder.path(), options.seed())?;
    let mut findings = Findings {
        machine: Machine::here(),
        seed: options.seed(),
        entrants,
        absent,
        troubles: Vec::new(),
        scenarios: Vec::new(),
        records: Vec::new(),
    };
    if options.is_brief() {
        abreast(&ground, scenarios, &mut findings)?
    } else {
        in_turn(&ground, scenarios, &mut findings)?
    }
    print!("{}", table::of(&findings));
    if let Some(out) = options.out() {
        fs::create_dir_all(&out)?;
        fs::write(out.join("chaos.json"), report::of(&findings))?;
        fs::write(out.join("chaos.md"), table::of(&findings))?;
        println!("\nwritten: {0}/chaos.json, {0}/chaos.md", out.display());
    }
    if options.keep {
        println!("kept: {}", folder.keep().display());
    }
    verdict(options, &findings)
}

fn chosen(options: &Options) -> io::Result<Vec<Scenario>> {
    let is_chosen = |scenario: &Scenario| options.patterns().iter().any(|glob| matches(glob, scenario.name));
    let mut scenarios: Vec<Scenario> =
        all(options.seed(), options.extent()).into_iter().filter(is_chosen).collect();
    for Scenario { shape, .. } in &mut scenarios {
        shape.rest = shape.rest.div_f64(options.pace);
    }
    if scenarios.is_empty() {
        return Err(io::Error::other(format!("no scenario is called {}", options.patterns().join(", "))));
    }
    Ok(scenarios)
}

fn enter(options: &Options) -> io::Result<(Vec<Entrant>, Vec<String>)> {
    let mut variants: Vec<Variant> = Variant::all();
    if let Some(unknown) = options.unknown_variant(&variants) {
        return Err(io::Error::other(format!("no variant is called {unknown}")));
    }
    variants.retain(|variant| options.wants(variant));
    variants.extend(options.tuned.iter().map(|said| Variant::tuned(said)).collect::<io::Result<Vec<_>>>()?);
    variants
        .extend(options.build.iter().map(|said| Variant::of_build(said)).collect::<io::Result<Vec<_>>>()?);
    let (mut entrants, mut absent) = (Vec::new(), Vec::new());
    for variant in variants {
        let found = variant.program().and_then(|program| Ok((variant.brand.version(&program)?, program)));
        match found {
            Ok((version, program)) => entrants.push(Entrant { variant, program, version }),
            Err(error) => absent.push(format!("{}: {error}", variant.name)),
        }
    }
    Ok((entrants, absent))
}

fn in_turn(ground: &Ground, scenarios: Vec<Scenario>, findings: &mut Findings) -> io::Result<()> {
    let count = scenarios.len();
    for (index, scenario) in scenarios.into_iter().enumerate() {
        if interrupt::came() {
            break;
        }
        eprintln!("[{}/{count}] {} ({} s)", index + 1, scenario.name, scenario.lasts.as_secs());
        let played = play(ground, &scenario, &findings.entrants);
        findings.add(scenario, played?);
    }
    Ok(())
}

/// The number of concurrent scenarios in a quick run.
const ABREAST: usize = 5;

fn abreast(ground: &Ground, mut scenarios: Vec<Scenario>, findings: &mut Findings) -> io::Result<()> {
    while !scenarios.is_empty() && !interrupt::came() {
        let rest = scenarios.split_off(scenarios.len().min(ABREAST));
        at_once(ground, scenarios, findings)?;
        scenarios = rest;
    }
    Ok(())
}

fn at_once(ground: &Ground, scenarios: Vec<Scenario>, findings: &mut Findings) -> io::Result<()> {
    let entrants = &findings.entrants;
    let played: Vec<io::Result<Played>> = thread::scope(|scope| {
        let stages: Vec<_> =
            scenarios.iter().map(|scenario| scope.spawn(move || play(ground, scenario, entrants))).collect();
        stages.into_iter().map(|stage| stage.join().expect("a stage does not panic")).collect()
    });
    for (scenario, played) in scenarios.into_iter().zip(played) {
        findings.add(scenario, played?);
    }
    Ok(())
}

impl Findings {
    fn add(&mut self, scenario: Scenario, played: Played) {
        for record in &played.records {
            let (lost, cut, sessions) = (record.lost, record.cut, record.sessions);
            eprintln!("  {}, {}: {lost} lost, {cut} cut of {sessions}", record.scenario, record.variant);
        }
        self.scenarios.push(scenario);
        self.records.extend(played.records);
        self.troubles.extend(played.troubles);
    }
}

fn verdict(options: &Options, findings: &Findings) -> io::Result<()> {
    if interrupt::came() {
        return Err(io::Error::other("interrupted"));
    }
    let mut missed = findings.troubles.clone();
    if options.quick {
        missed.extend(aims::missed(&findings.records));
    }
    if findings.records.iter().any(|record| record.sessions == record.lost && record.sent == 0) {
        missed.push("a proxy served nobody".to_owned());
    }
    match missed {
        missed if missed.is_empty() => Ok(()),
        missed => Err(io::Error::other(missed.join("; "))),
    }
}
