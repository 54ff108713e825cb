//! `sessions`: a table of live sessions.

use std::time::Duration;

use serde_json::Value;

use super::client::{self, AdminTarget};
use super::{CommandError, show};
use crate::admin::status::{SessionList, SessionStatus};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: AdminTarget,
    /// List only sessions that this listener accepted
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// List only sessions that go to this cluster
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Print JSON instead of a table, with the same filters
    #[arg(long)]
    json: bool,
}

pub(super) fn sessions(arguments: &Arguments) -> Result<(), CommandError> {
    let body = client::get(&arguments.place, "/sessions")?;
    // Parsed without a type, so that unknown fields are kept.
    let mut answer: Value = client::read(&body).map_err(CommandError::Running)?;
    if let Some(sessions) = answer["sessions"].as_array_mut() {
        let is = |session: &Value, key: &str, wanted: &Option<String>| {
            wanted.as_deref().is_none_or(|wanted| session[key] == wanted)
        };
        sessions.retain(|session| {
            is(session, "listener", &arguments.listener) && is(session, "cluster", &arguments.cluster)
        });
    }
    if arguments.json {
        return super::print(format!("{answer:#}\n").as_bytes());
    }
    let SessionList { sessions } = serde_json::from_value(answer)
        .map_err(|error| CommandError::Running(format!("the daemon's answer is not understood: {error}")))?;
    super::print(page(&sessions).as_bytes())
}

fn page(sessions: &[SessionStatus]) -> String {
    let row = |session: &SessionStatus| {
        vec![
            session.session.clone(),
            session.listener.clone(),
            session.cluster.clone().unwrap_or_else(|| "-".into()),
            session.endpoint.clone().unwrap_or_else(|| "dialling".into()),
            show::caller(session.caller.as_ref()),
            session.age_ms.display_with(|age| show::span(Duration::from_millis(age))),
            session.sent_bytes.display_with(|count| show::bytes(count as f64)),
            session.received_bytes.display_with(|count| show::bytes(count as f64)),
        ]
    };
    let rows: Vec<_> = sessions.iter().map(row).collect();
    show::table(&["SESSION", "LISTENER", "CLUSTER", "ENDPOINT", "CALLER", "AGE", "SENT", "RECEIVED"], &rows)
}
