//! `close`: ends sessions, with outcome `closed_by_operator`.

use super::Failure;
use super::ask::{ControlSocket, Daemon, part};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The session's id: in `sessions`, in the log and in refusals
    #[arg(value_name = "SESSION", required = true)]
    sessions: Vec<String>,
    #[command(flatten)]
    place: ControlSocket,
    /// The daemon's answers as they are
    #[arg(long)]
    json: bool,
}

pub(super) fn close(arguments: &Arguments) -> Result<(), Failure> {
    let daemon = Daemon::commanded_at(&arguments.place)?;
    let mut refused = Vec::new();
    for session in &arguments.sessions {
        let path = format!("/sessions/{}/close", part(session));
        match daemon.order(&path).map_err(Failure::Running)?.good() {
            Ok(body) if arguments.json => super::print(&body)?,
            Ok(_) => super::print(format!("session {session} is closed\n").as_bytes())?,
            Err(words) => refused.push(words),
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(Failure::Running(refused.join("\nambassador: "))) }
}
