//! `completions`: the script by which a shell completes our command line.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, CommandError};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Shell to print completions for
    shell: Shell,
}

pub(super) fn completions(arguments: &Arguments) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "ambassador", &mut script);
    super::print(&script)
}
