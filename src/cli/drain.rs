//! `drain`: shuts the daemon down as SIGTERM does.

use std::time::Duration;

use super::CommandError;
use super::client::{self, ControlTarget, Daemon};
use crate::admin::DrainCommandResult;
use crate::admin::status::Status;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: ControlTarget,
    /// Wait until the daemon has exited [default: return when the drain has begun]
    #[arg(long)]
    wait: bool,
    /// Print the daemon's JSON response unchanged
    #[arg(long)]
    json: bool,
}

/// How often to check whether the daemon has gone.
const STEP: Duration = Duration::from_millis(200);

pub(super) fn drain(arguments: &Arguments) -> Result<(), CommandError> {
    let daemon = Daemon::control_at(&arguments.place)?;
    let pid = pid(&daemon).map_err(CommandError::Running)?;
    let body = daemon
        .send_command("/drain")
        .and_then(client::ControlResponse::into_success_body)
        .map_err(CommandError::Running)?;
    if arguments.json {
        super::print(&body)?;
    } else {
        let DrainCommandResult { already, sessions } = client::read(&body).map_err(CommandError::Running)?;
        let begins = if already { "is draining already" } else { "drains, and exits" };
        super::print(format!("the daemon {begins} (pid {pid}): {sessions} live session(s)\n").as_bytes())?;
    }
    // A restarted daemon may answer in its place, with another process id.
    while arguments.wait && self::pid(&daemon).is_ok_and(|now| now == pid) {
        std::thread::sleep(STEP);
    }
    Ok(())
}

fn pid(daemon: &Daemon) -> Result<u32, String> {
    let status: Status = client::read(&daemon.get("/status")?)?;
    Ok(status.pid.or_zero())
}
