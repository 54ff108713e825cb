//! Runs the command line and exits with its status.

use std::process::ExitCode;

fn main() -> ExitCode {
    ambassador::cli::main()
}
