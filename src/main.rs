//! The command line, handed to one function per verb; the exit status; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    ambassador::cli::main()
}
