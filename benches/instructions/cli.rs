//! The command line; it also takes what cargo and libtest pass to every bench.

use std::path::PathBuf;

use clap::Parser;

use crate::cargo::FromCargo;

/// Instructions per unit of work of the real daemon, against the committed baseline
#[derive(Parser)]
#[command(name = "instructions")]
pub(crate) struct Options {
    /// The daemon to measure, an optimised build
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_ambassador"))]
    pub(crate) daemon: PathBuf,
    /// Count, whatever cargo thinks of it
    #[arg(long)]
    count: bool,
    /// Make what is measured now the baseline
    #[arg(long)]
    pub(crate) accept: bool,

    #[command(flatten)]
    pub(crate) cargo: FromCargo,
}

impl Options {
    /// Under `cargo test` the daemon is not optimised, and its instructions mean nothing.
    pub(crate) const fn is_brief(&self) -> bool {
        self.cargo.test || !(self.cargo.bench || self.count || self.accept)
    }
}
