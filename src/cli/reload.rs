//! `reload`: has the daemon read its file again. Mistakes are printed as `check` prints them, and nothing has changed then.

use hyper::StatusCode;

use super::Failure;
use super::ask::{self, ControlSocket};
use crate::admin::{Reloaded, listed};
use crate::shown::escaped;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: ControlSocket,
    /// The daemon's answer as it is
    #[arg(long)]
    json: bool,
}

pub(super) fn reload(arguments: &Arguments) -> Result<(), Failure> {
    let answer = ask::order(&arguments.place, "/reload")?;
    if !answer.status.is_success() && answer.status != StatusCode::UNPROCESSABLE_ENTITY {
        return Err(Failure::Running(answer.words()));
    }
    let reloaded: Reloaded = ask::read(&answer.body).map_err(Failure::Running)?;
    if arguments.json {
        super::print(&answer.body)?;
    }
    if !reloaded.ok {
        return Err(Failure::Wrong(vec![format!("{}; nothing has changed", listed(&reloaded.mistakes))]));
    }
    if arguments.json {
        return Ok(());
    }
    for warning in reloaded.warnings.iter().chain(&reloaded.needs_restart) {
        eprintln!("warning: {}", escaped(warning));
    }
    let mut page = reloaded.changes.join("\n");
    page += match reloaded.changes.len() {
        0 => "reloaded: nothing has changed\n",
        _ => "\n",
    };
    super::print(page.as_bytes())
}
