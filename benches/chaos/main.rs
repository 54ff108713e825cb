//! `chaos`: what proxies lose while their upstreams half-fail, with the same faults at the same moment behind each.
//!
//! One binary with several roles. Without a role it is the stage: it starts proxies, endpoints of their own for each
//! (itself again), and clients; makes the endpoints die, freeze or misbehave by a seeded schedule; and evaluates the
//! results of the sessions. docs/RESILIENCE.md describes each scenario.
//!
//! Deliberately lacking: any traffic off 127.0.0.0/8, any loss of packets (loopback has none, and netem would change
//! the machine), and throughput: that is `compare`.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "a bench reads the clock where it measures; the ban is for the product's decisions"
)]

mod aims;
mod cli;
mod endpoint;
mod fleet;
mod interrupt;
mod judge;
mod lane;
mod load;
mod names;
mod proxy;
mod recipe;
mod report;
mod scenario;
mod schedule;
#[allow(dead_code, reason = "each bench uses its part of it")]
#[path = "../shared/mod.rs"]
mod shared;
mod show;
mod speech;
mod stage;
mod syns;
mod table;
mod variant;

use std::process::ExitCode;

use shared::{brand, cargo, glob, machine, originate, pinned, pki, ports, process, socket, terminate};

fn main() -> ExitCode {
    let options = cli::Options::read();
    let played = match &options.role {
        Some(role) => role.play(),
        None => show::run(&options),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::FAILURE
        }
    }
}
