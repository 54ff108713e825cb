//! `endpoint`: takes an endpoint out of use, and back into it.

use super::CommandError;
use super::client::{self, ControlTarget, path_segment};
use crate::admin::EndpointCommandResult;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Name of the cluster
    cluster: String,
    /// Name of the endpoint as `status` shows it, such as 10.0.0.7:5432
    #[arg(value_name = "ADDRESS")]
    endpoint: String,
    /// What the endpoint does from now on
    order: EndpointAction,
    #[command(flatten)]
    place: ControlTarget,
    /// Print the daemon's JSON response unchanged
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum EndpointAction {
    /// Takes new sessions
    Enable,
    /// Takes no new sessions; live sessions go on
    Drain,
    /// Takes no new sessions and is not probed; `on_removed` of the cluster decides about live sessions
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
