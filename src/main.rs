//! The command line, handed to one function per verb; the exit status; nothing else.

use std::process::ExitCode;

/// Connections allocate and free a dozen blocks each; see docs/DECISIONS.md, "Allocator".
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ambassador::cli::main()
}
