//! `run`: the daemon in the foreground.

use super::{ConfigFile, Failure, logging};
use crate::{alarm, daemon, workers};

pub(super) fn run(file: &ConfigFile) -> Result<(), Failure> {
    let config = file.load()?;
    let (access, log) = logging::install(&config.log);
    let failed = |error: &dyn std::error::Error| Failure::Running(error.to_string());
    let runtime = workers::runtime().map_err(|error| failed(&error))?;
    let ran = runtime.block_on(alarm::attend(daemon::run(config, access)));
    // What still blocks must not hold up the end of the process.
    runtime.shutdown_background();
    drop(log);
    ran.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}
