//! `log-level`: shows or changes the daemon's log level, perhaps for a limited time.

use std::time::Duration;

use super::CommandError;
use super::client::{self, ControlTarget, Daemon};
use crate::admin::LogLevel;
use crate::log::LEVELS;
use crate::quantity::{duration, show_duration};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Least important level that is logged [default: print the current level and change nothing]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(LEVELS.map(|(word, _)| word)))]
    level: Option<String>,
    /// How long the level holds, such as 30s, 10m or 1h [default: until the next reload]
    #[arg(long = "for", value_name = "DURATION", requires = "level", value_parser = |text: &str| duration(text))]
    lasting: Option<Duration>,
    #[command(flatten)]
    place: ControlTarget,
    /// Print the daemon's JSON response unchanged
    #[arg(long)]
    json: bool,
}

pub(super) fn log_level(arguments: &Arguments) -> Result<(), CommandError> {
    let daemon = Daemon::control_at(&arguments.place)?;
    let body = match &arguments.level {
        None => daemon.get("/log").map_err(CommandError::Running)?,
        Some(level) => {
            let lasting = arguments.lasting.map(|lasting| format!("&for={}", show_duration(lasting)));
            let path = format!("/log?level={level}{}", lasting.unwrap_or_default());
            daemon
                .send_command(&path)
                .and_then(client::ControlResponse::into_success_body)
                .map_err(CommandError::Running)?
        }
    };
    if arguments.json {
        return super::print(&body);
    }
    let LogLevel { level, configured, lasting } = client::read(&body).map_err(CommandError::Running)?;
    let words = match lasting {
        _ if level == configured => format!("the log's level is {level}, as configured\n"),
        Some(lasting) => format!("the log's level is {level} for {lasting}, then {configured}\n"),
        None => format!("the log's level is {level} until a reload, then {configured}\n"),
    };
    super::print(words.as_bytes())
}
