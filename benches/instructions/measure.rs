//! Instructions per unit of work: a run with twice the units minus a run with the units, so that start, stop and
//! warm-up cancel out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failure;
use crate::daemon::{Daemon, Place, total};
use crate::load::Stage;
use crate::pki;
use crate::scenario::{Scenario, TOLERANCE};

/// Maximum number of measurements of a scenario. Disturbances of a count (a wake-up for half of the bytes, a thread
/// scheduled at another moment) mostly add to it, so the least of them is compared.
const TRIES: u32 = 3;

/// Instructions of one unit, measured again while they exceed the limit of `baseline`.
pub(crate) fn instructions(scenario: &Scenario, daemon: &Path, baseline: u64) -> Result<u64, Failure> {
    let mut least = u64::MAX;
    for _ in 0..TRIES {
        least = least.min(measure(scenario, daemon)?);
        if least * 100 <= baseline * u64::from(100 + TOLERANCE) {
            break;
        }
    }
    Ok(least)
}

/// Instructions of one unit for a baseline: the median, so that there is room on both sides.
pub(crate) fn typical(scenario: &Scenario, daemon: &Path) -> Result<u64, Failure> {
    let counts = (0..TRIES).map(|_| measure(scenario, daemon));
    let mut counts = counts.collect::<Result<Vec<_>, _>>()?;
    counts.sort_unstable();
    Ok(counts[counts.len() / 2])
}

/// The profiles of the last measurement.
pub(crate) fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/instructions"))
}

/// The scenario, briefly, without valgrind.
pub(crate) fn rehearse(scenario: &Scenario, daemon: &Path) -> Result<(), Failure> {
    play(scenario, Command::new(daemon), 2)
}

fn measure(scenario: &Scenario, daemon: &Path) -> Result<u64, Failure> {
    let once = run(scenario, daemon, scenario.units)?;
    let twice = run(scenario, daemon, scenario.units * 2)?;
    let difference = twice.checked_sub(once).ok_or("twice the work took fewer instructions")?;
    Ok(difference / u64::from(scenario.units))
}

/// Instructions of a whole run with that many units, on every thread but the first.
///
/// The first builds everything and waits for signals; no session runs there. During its start, the metrics' clock is
/// calibrated in a loop of variable length, which differs by millions.
fn run(scenario: &Scenario, daemon: &Path, units: u32) -> Result<u64, Failure> {
    let folder = folder().join(format!("{}-{units}", scenario.name));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--separate-threads=yes"]);
    command.arg(format!("--callgrind-out-file={}/thread", folder.display()));
    command.arg(format!("--log-file={}/valgrind.log", folder.display()));
    command.arg(daemon);
    play(scenario, command, units)?;
    let profiles: Vec<PathBuf> = fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
    let others = profiles.iter().filter(|profile| {
        let name = profile.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix("thread-").is_some_and(|number| number != "01")
    });
    others.map(total).sum()
}

fn play(scenario: &Scenario, command: Command, units: u32) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let tls = scenario.is_mtls.then(|| pki::write(folder.path())).transpose()?;
    let endpoint = Stage::listen()?;
    let place = Place {
        folder: folder.path(),
        endpoint: endpoint.local_addr()?,
        is_mtls: scenario.is_mtls,
        access: scenario.access,
    };
    let daemon = Daemon::start(command, &place)?;
    let mut stage = Stage { daemon, endpoint, tls, is_recorded: scenario.is_recorded() };
    scenario.play(&mut stage, units).map_err(|error| format!("{}: {error}", scenario.name))?;
    stage.daemon.stop()
}
