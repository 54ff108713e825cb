//! `instructions`: how many of our instructions one unit of work costs the real daemon, compared with a committed
//! baseline.
//!
//! The daemon runs under `valgrind --tool=callgrind`, driven from here. Time on a shared machine says little;
//! instruction counts are reproducible, so a change that makes each round trip more expensive fails `scripts/test`.
//! They exclude the kernel's part and the cache: `benches/compare` measures those.
//!
//! `scripts/instructions` builds and measures, `scripts/instructions --accept` makes the measured counts the new
//! baseline. `cargo test` runs each scenario briefly without valgrind, so that it cannot rot.
#![forbid(unsafe_code)]

mod baseline;
#[allow(dead_code, reason = "each bench uses its part of it")]
#[path = "../shared/cargo.rs"]
mod cargo;
mod cli;
mod daemon;
mod load;
mod measure;
mod pki;
mod scenario;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use baseline::{Baseline, Verdict};
use cli::Options;
use daemon::Toolchain;
use scenario::SCENARIOS;

type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    let options = Options::parse();
    let done = if options.cargo.list {
        Ok(ExitCode::SUCCESS)
    } else if options.is_brief() {
        rehearse(&options)
    } else {
        check(&options)
    };
    done.unwrap_or_else(|error| {
        eprintln!("instructions: {error}");
        ExitCode::FAILURE
    })
}

/// Every scenario once, on a daemon without valgrind: does the load still work?
fn rehearse(options: &Options) -> Result<ExitCode, Failure> {
    for scenario in SCENARIOS {
        measure::rehearse(scenario, &options.daemon)?;
        println!("instructions: {} works", scenario.name);
    }
    println!("instructions: nothing was counted; scripts/instructions does that");
    Ok(ExitCode::SUCCESS)
}

fn check(options: &Options) -> Result<ExitCode, Failure> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/baseline.txt");
    let mut baseline = Baseline::read(&file)?;
    let toolchain = Toolchain::of_this_machine()?;
    let is_foreign = !toolchain.has_architecture_of(&baseline.toolchain);
    let mut fails = false;
    for scenario in SCENARIOS {
        let expected = baseline.instructions(scenario).filter(|_| !is_foreign);
        let measured = match expected {
            Some(baseline) if !options.accept => measure::instructions(scenario, &options.daemon, baseline)?,
            _ => measure::typical(scenario, &options.daemon)?,
        };
        let verdict = if is_foreign { Verdict::Foreign } else { Verdict::of(expected, measured) };
        println!("{:<22} {measured:>9} instructions; {verdict}", scenario.name);
        fails |= verdict.fails();
        baseline.set(scenario, measured);
    }
    if options.accept {
        baseline.toolchain = toolchain.to_string();
        baseline.write(&file)?;
        println!("{} is the new baseline; commit it with the reason", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    if is_foreign {
        println!("the baseline was counted on {}, this is {toolchain}", baseline.toolchain);
    }
    if !fails {
        return Ok(ExitCode::SUCCESS);
    }
    explain(&baseline, &toolchain);
    Ok(ExitCode::FAILURE)
}

fn explain(baseline: &Baseline, toolchain: &Toolchain) {
    eprintln!(
        "\nThe daemon executes more instructions for the same work than its baseline says, or has none."
    );
    if toolchain.to_string() != baseline.toolchain {
        eprintln!("The tools differ, which may be why: the baseline was counted on");
        eprintln!("{}, this is {toolchain}.", baseline.toolchain);
    }
    eprintln!("To see where they go: CARGO_PROFILE_RELEASE_STRIP=none scripts/instructions, then");
    eprintln!(
        "callgrind_annotate {}/SCENARIO/thread-NN, a file for each thread.",
        measure::folder().display()
    );
    eprintln!(
        "If the change is worth it, accept it and say why in the commit: scripts/instructions --accept"
    );
}
