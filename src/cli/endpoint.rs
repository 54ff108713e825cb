//! `endpoint`: takes an endpoint out of use, and back into it.

use super::CommandError;
use super::client::{self, ControlTarget, path_segment};
use crate::admin::EndpointCommandResult;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The cluster's name
    cluster: String,
    /// The endpoint's name, as `status` shows it
    #[arg(value_name = "ADDRESS")]
    endpoint: String,
    order: EndpointAction,
    #[command(flatten)]
    place: ControlTarget,
    /// The daemon's answer as it is
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum EndpointAction {
    /// It takes its share of new sessions
    Enable,
    /// No new sessions; those that live go on
    Drain,
    /// As if it were no longer in the file: no new sessions, no probes, and `on_removed` says what becomes of live ones
    Disable,
}

pub(super) fn endpoint(arguments: &Arguments) -> Result<(), CommandError> {
    let Arguments { cluster, endpoint, order, .. } = arguments;
    let order = match order {
        EndpointAction::Enable => "enable",
        EndpointAction::Drain => "drain",
        EndpointAction::Disable => "disable",
    };
    let path = format!("/clusters/{}/endpoints/{}/{order}", path_segment(cluster), path_segment(endpoint));
    let body =
        client::send_command(&arguments.place, &path)?.into_success_body().map_err(CommandError::Running)?;
    if arguments.json {
        return super::print(&body);
    }
    let ordered: EndpointCommandResult = client::read(&body).map_err(CommandError::Running)?;
    super::print(words(&ordered).as_bytes())
}

fn words(ordered: &EndpointCommandResult) -> String {
    let EndpointCommandResult { cluster, endpoint, state, was, endpoints, sessions, enabled } = ordered;
    let all = if *endpoints > 1 { format!(", all {endpoints} of that address,") } else { String::new() };
    let mut words =
        format!("{endpoint} of {cluster}{all} is {state} (it was {was}), with {sessions} live session(s)\n");
    if *enabled == 0 {
        words += &format!("no endpoint of {cluster} is enabled now: new sessions are refused\n");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_out_the_last_one_is_told() {
        let mut ordered = EndpointCommandResult {
            cluster: "up".into(),
            endpoint: "10.0.0.1:1".into(),
            state: "draining".into(),
            was: "enabled".into(),
            endpoints: 1,
            sessions: 2,
            enabled: 1,
        };
        let first = "10.0.0.1:1 of up is draining (it was enabled), with 2 live session(s)\n";
        assert_eq!(words(&ordered), first);
        ordered.enabled = 0;
        assert_eq!(
            words(&ordered),
            format!("{first}no endpoint of up is enabled now: new sessions are refused\n")
        );
        (ordered.enabled, ordered.endpoints) = (1, 2);
        let both =
            "10.0.0.1:1 of up, all 2 of that address, is draining (it was enabled), with 2 live session(s)\n";
        assert_eq!(words(&ordered), both);
    }
}
