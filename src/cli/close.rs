//! `close`: ends sessions, with outcome `closed_by_operator`.

use super::CommandError;
use super::client::{ControlTarget, Daemon, path_segment};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Session id, 16 hexadecimal digits, as in `sessions`, in the log and in refusals
    #[arg(value_name = "SESSION", required = true)]
    sessions: Vec<String>,
    #[command(flatten)]
    place: ControlTarget,
    /// Print the daemon's JSON response for each session unchanged
    #[arg(long)]
    json: bool,
}

pub(super) fn close(arguments: &Arguments) -> Result<(), CommandError> {
    let daemon = Daemon::control_at(&arguments.place)?;
    let mut refused = Vec::new();
    for session in &arguments.sessions {
        let path = format!("/sessions/{}/close", path_segment(session));
        match daemon.send_command(&path).map_err(CommandError::Running)?.into_success_body() {
            Ok(body) if arguments.json => super::print(&body)?,
            Ok(_) => super::print(format!("session {session} is closed\n").as_bytes())?,
            Err(words) => refused.push(words),
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(CommandError::Running(refused.join("\nambassador: "))) }
}
