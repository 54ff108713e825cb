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
    // Blocking tasks must not delay the end of the process.
    runtime.shutdown_background();
    log.close();
    ran.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

/// Gives up what a process that holds keys does not need: core files and debuggers of the same user, which could read
/// the keys, and programs with more privileges. To be called before there is another thread, because no_new_privs is
/// per thread.
fn give_up() {
    // Since Linux 2.4 and 3.5; where a filter forbids them, nothing else can be done.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = set_no_new_privs(true);
}
