//! `compare`: what one unit of work costs each proxy, measured side by side.
//!
//! One binary with several roles. Without a role it is the contest: it starts the reference upstream and every
//! contestant as child processes (itself again, for our own roles), drives the load from its own thread, and reports
//! CPU per unit of work. The figure is CPU time of the proxy from the kernel's scheduler, because wall time on two
//! shared virtual cores says more about the neighbours than about the proxy.
//!
//! Deliberately lacking: any check of content (lengths only; the behaviour tests compare bytes), any
//! traffic off 127.0.0.1, any tuning of the kernel, and any statistics beyond medians of interleaved
//! rounds.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "a bench reads the clock where it measures; the ban is for the product's decisions"
)]

mod account;
mod arena;
mod chart;
mod cli;
mod contest;
mod database;
mod findings;
mod floor_epoll;
mod floor_splice;
mod growth;
mod json;
mod load;
mod mail;
mod peer;
mod place;
mod poll;
mod recipe;
mod row;
#[allow(dead_code, reason = "each bench uses its part of it")]
#[path = "../shared/mod.rs"]
mod shared;
mod table;
mod upstream;
mod wire;

use std::process::ExitCode;

// Under their former names here.
use shared::{
    brand, cargo, glob, machine, originate, pinned, pki, ports, process, programs, socket, terminate,
};

fn main() -> ExitCode {
    let options = cli::Options::read();
    let played = match &options.role {
        Some(role) => role.play(),
        None if options.cargo.list => Ok(()),
        None => contest::run(&options),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}
