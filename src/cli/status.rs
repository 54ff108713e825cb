//! `status`: tables of listeners, clusters and endpoints.

use std::fmt::Write as _;

use super::Failure;
use super::ask::{self, Where};
use crate::admin::status::{ClusterStatus, Listener, Origin, Status};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The daemon's answer as it is
    #[arg(long)]
    json: bool,
}

pub(super) fn status(arguments: &Arguments) -> Result<(), Failure> {
    let body = ask::get(&arguments.place, "/status")?;
    if arguments.json {
        print!("{}", String::from_utf8_lossy(&body));
        return Ok(());
    }
    let status: Status = serde_json::from_slice(&body)
        .map_err(|error| Failure::Running(format!("the daemon's answer is not understood: {error}")))?;
    print!("{}", page(&status));
    Ok(())
}

fn page(status: &Status) -> String {
    let state = serde_json::to_value(status.state).unwrap_or_default();
    let mut page = format!(
        "ambassador {}, pid {}, {} for {:.0} s, {}\n\n",
        status.version,
        status.pid,
        state.as_str().unwrap_or_default(),
        status.uptime_seconds,
        status.config
    );
    page +=
        &table(&["LISTENER", "ADDRESS", "CLUSTER", "SESSIONS", "ACCEPTED"], &listeners(&status.listeners));
    page.push('\n');
    let head = [
        "CLUSTER",
        "ENDPOINT",
        "PROTOCOL",
        "TLS",
        "STATE",
        "HEALTH",
        "WEIGHT",
        "SESSIONS",
        "DIALS",
        "LAST ERROR",
    ];
    page += &table(&head, &endpoints(&status.clusters));
    let origins = origins(&status.clusters);
    if !origins.is_empty() {
        page.push('\n');
        page += &table(&["CLUSTER", "FOUND BY", "KIND", "FOUND", "AGE", "NEXT", "LAST ERROR"], &origins);
    }
    page
}

fn origins(clusters: &[ClusterStatus]) -> Vec<Vec<String>> {
    let seconds =
        |millis: Option<u64>| millis.map_or_else(|| "-".into(), |millis| format!("{} s", millis / 1000));
    let rows = |cluster: &ClusterStatus| -> Vec<Vec<String>> {
        let row = |origin: &Origin| {
            vec![
                cluster.name.clone(),
                origin.name.clone(),
                origin.kind.clone(),
                origin.found.to_string(),
                seconds(origin.age_ms),
                seconds(origin.next_ms),
                origin.last_error.clone().unwrap_or_else(|| "-".into()),
            ]
        };
        cluster.discovery.iter().map(row).collect()
    };
    clusters.iter().flat_map(rows).collect()
}

fn listeners(listeners: &[Listener]) -> Vec<Vec<String>> {
    let row = |listener: &Listener| {
        vec![
            listener.name.clone(),
            listener.addresses.join(", "),
            listener.cluster.clone(),
            format!("{}/{}", listener.active, listener.max_connections),
            listener.accepted.to_string(),
        ]
    };
    listeners.iter().map(row).collect()
}

fn endpoints(clusters: &[ClusterStatus]) -> Vec<Vec<String>> {
    let rows = |cluster: &ClusterStatus| -> Vec<Vec<String>> {
        let row = |endpoint: &crate::admin::status::Endpoint| {
            vec![
                cluster.name.clone(),
                match &endpoint.host {
                    Some(host) => format!("{} ({host})", endpoint.name),
                    None => endpoint.name.clone(),
                },
                cluster.protocol.clone(),
                cluster.tls.clone(),
                endpoint.state.clone(),
                health(endpoint),
                endpoint.weight.to_string(),
                endpoint.sessions.to_string(),
                endpoint.pending_dials.to_string(),
                endpoint.last_error.clone().unwrap_or_else(|| "-".into()),
            ]
        };
        cluster.endpoints.iter().map(row).collect()
    };
    clusters.iter().flat_map(rows).collect()
}

/// With how long it has been so, where anybody looks.
fn health(endpoint: &crate::admin::status::Endpoint) -> String {
    endpoint
        .health_seconds
        .map_or_else(|| endpoint.health.clone(), |seconds| format!("{} for {seconds:.0} s", endpoint.health))
}

/// Columns as wide as their widest cell; the last is not padded.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let head = head.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string does not fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a".into(), "long cell".into()], vec!["bb".into(), "c".into()]];
        assert_eq!(table(&["X", "Y"], &rows), "X   Y\na   long cell\nbb  c\n");
    }
}
