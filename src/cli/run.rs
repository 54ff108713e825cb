//! `run`: the daemon in the foreground.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::set_no_new_privs;

use super::{CommandError, ConfigFile};
use crate::daemon::ProcessConfinement;
use crate::log::Log;
use crate::sys::Launcher;
use crate::{alarm, daemon, workers};

pub(super) fn run(file: &ConfigFile) -> Result<(), CommandError> {
    let failed = |error: &dyn std::error::Error| CommandError::Running(error.to_string());
    give_up();
    let launcher = Launcher::fork();
    let config = file.load()?;
    daemon::make_folders(&config.admin);
    let confined = ProcessConfinement::apply(&config);
    let log = Log::install(&config.log).map_err(|error| failed(&error))?;
    let runtime = workers::runtime().map_err(|error| failed(&error))?;
    let ran = runtime.block_on(alarm::drive(daemon::run(config, log.clone(), launcher, confined)));
    // What still blocks must not hold up the end of the process.
    runtime.shutdown_background();
    log.close();
    ran.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

/// What a process that holds keys has no use for: a core file or a debugger of the same user could read them, and a program
/// that it starts could be more than it is. Before there is another thread, for the second is each thread's own.
fn give_up() {
    // Since Linux 2.4 and 3.5; where a filter forbids them, there is nothing that could be done instead.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = set_no_new_privs(true);
}
