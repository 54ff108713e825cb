//! `drain`: has the daemon go down as SIGTERM does.

use std::time::Duration;

use super::Failure;
use super::ask::{self, ControlSocket, Daemon};
use crate::admin::DrainOrdered;
use crate::admin::status::Status;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: ControlSocket,
    /// Return when the daemon has gone
    #[arg(long)]
    wait: bool,
    /// The daemon's answer as it is
    #[arg(long)]
    json: bool,
}

/// How often a daemon that goes down is looked at.
const STEP: Duration = Duration::from_millis(200);

pub(super) fn drain(arguments: &Arguments) -> Result<(), Failure> {
    let daemon = Daemon::commanded_at(&arguments.place)?;
    let pid = pid(&daemon).map_err(Failure::Running)?;
    let body = daemon.order("/drain").and_then(ask::Answer::good).map_err(Failure::Running)?;
    if arguments.json {
        super::print(&body)?;
    } else {
        let DrainOrdered { already, sessions } = ask::read(&body).map_err(Failure::Running)?;
        let begins = if already { "is draining already" } else { "drains, and exits" };
        super::print(format!("the daemon {begins} (pid {pid}): {sessions} live session(s)\n").as_bytes())?;
    }
    // Another may answer in its place, where somebody starts it again.
    while arguments.wait && self::pid(&daemon).is_ok_and(|now| now == pid) {
        std::thread::sleep(STEP);
    }
    Ok(())
}

fn pid(daemon: &Daemon) -> Result<u32, String> {
    let status: Status = ask::read(&daemon.get("/status")?)?;
    Ok(status.pid.or_zero())
}
