//! `log-level`: shows or changes the daemon's log level, perhaps for a limited time.

use std::time::Duration;

use super::CommandError;
use super::client::{self, ControlTarget, Daemon};
use crate::admin::LogLevel;
use crate::log::LEVELS;
use crate::quantity::{duration, show_duration};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The least important level that is written from now on; without it, the one that is now
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(LEVELS.map(|(word, _)| word)))]
    level: Option<String>,
    /// For so long, such as 10m; without it until the next reload
    #[arg(long = "for", value_name = "DURATION", requires = "level", value_parser = |text: &str| duration(text))]
    lasting: Option<Duration>,
    #[command(flatten)]
    place: ControlTarget,
    /// The daemon's answer as it is
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
