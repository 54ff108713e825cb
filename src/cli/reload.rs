//! `reload`: has the daemon read its file again. Mistakes are printed as by `check`, and nothing changes then.

use hyper::StatusCode;

use super::CommandError;
use super::client::{self, ControlTarget};
use crate::admin::{ReloadResult, format_list};
use crate::escape::escaped;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: ControlTarget,
    /// Print the daemon's JSON response unchanged
    #[arg(long)]
    json: bool,
}

pub(super) fn reload(arguments: &Arguments) -> Result<(), CommandError> {
    let answer = client::send_command(&arguments.place, "/reload")?;
    if !answer.status.is_success() && answer.status != StatusCode::UNPROCESSABLE_ENTITY {
        return Err(CommandError::Running(answer.message()));
    }
    let reloaded: ReloadResult = client::read(&answer.body).map_err(CommandError::Running)?;
    if arguments.json {
        super::print(&answer.body)?;
    }
    if !reloaded.ok {
        return Err(CommandError::Wrong(vec![format!(
            "{}; nothing has changed",
            format_list(&reloaded.mistakes)
        )]));
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
