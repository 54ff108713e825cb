//! `status`: tables of listeners, clusters and endpoints.

use std::fmt::Write as _;

use super::CommandError;
use super::client::{self, AdminTarget};
use super::show::{table, version};
use crate::admin::UNTOLD;
use crate::admin::status::{ClusterStatus, EjectionStatus, ListenerStatus, OriginStatus, Status};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: AdminTarget,
    /// Print the daemon's JSON response unchanged
    #[arg(long)]
    json: bool,
}

pub(super) fn status(arguments: &Arguments) -> Result<(), CommandError> {
    let body = client::get(&arguments.place, "/status")?;
    if arguments.json {
        return super::print(&body);
    }
    let status: Status = client::read(&body).map_err(CommandError::Running)?;
    super::print(page(&status).as_bytes())
}

fn page(status: &Status) -> String {
    let mut page = format!(
        "ambassador {}, pid {}, {} for {:.0} s, {}\n\n",
        version(&status.version),
        status.pid,
        if status.state.is_empty() { UNTOLD } else { &status.state },
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
    page += &troubles(&status.clusters);
    page
}

fn origins(clusters: &[ClusterStatus]) -> Vec<Vec<String>> {
    let seconds =
        |millis: Option<u64>| millis.map_or_else(|| "-".into(), |millis| format!("{} s", millis / 1000));
    let rows = |cluster: &ClusterStatus| -> Vec<Vec<String>> {
        let row = |origin: &OriginStatus| {
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

fn listeners(listeners: &[ListenerStatus]) -> Vec<Vec<String>> {
    let row = |listener: &ListenerStatus| {
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
        let row = |endpoint: &crate::admin::status::EndpointStatus| {
            vec![
                cluster.name.clone(),
                match &endpoint.host {
                    Some(host) => format!("{} ({host})", endpoint.name),
                    None => endpoint.name.clone(),
                },
                cluster.protocol.clone(),
                cluster.tls.clone(),
                state(endpoint),
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

/// Why the endpoint gets no sessions, and for how much longer.
fn state(endpoint: &crate::admin::status::EndpointStatus) -> String {
    match &endpoint.ejected {
        Some(EjectionStatus { fault, on_trial: true, .. }) => format!("on trial ({fault})"),
        Some(EjectionStatus { fault, seconds_left, .. }) if *seconds_left > 0.0 => {
            format!("ejected for {seconds_left:.0} s ({fault})")
        }
        Some(EjectionStatus { fault, .. }) => format!("ejected until tried ({fault})"),
        None => endpoint.state.clone(),
    }
}

/// What is wrong with each cluster as a whole.
fn troubles(clusters: &[ClusterStatus]) -> String {
    let mut text = String::new();
    let mut line = |cluster: &ClusterStatus, words: &str| {
        let _ = writeln!(text, "\n{}: {words}", cluster.name);
    };
    for cluster in clusters {
        let is_broken = matches!(cluster.breaker.as_deref(), Some("open" | "half_open"));
        if is_broken {
            line(cluster, "the breaker is open: every endpoint fails, and they are being tried");
        }
        match cluster.waiting {
            0 => {}
            waiting if is_broken => line(cluster, &format!("{waiting} session(s) wait for one to serve")),
            waiting => line(cluster, &format!("it is full: {waiting} session(s) wait for room")),
        }
        match &*cluster.mode {
            "panic" => line(cluster, "health checks find every endpoint down; all are used all the same"),
            "despite_ejection" => line(cluster, "every endpoint is ejected; all are used all the same"),
            _ => {}
        }
    }
    text
}

/// With how long it has been the same, where there are health checks.
fn health(endpoint: &crate::admin::status::EndpointStatus) -> String {
    endpoint
        .health_seconds
        .map_or_else(|| endpoint.health.clone(), |seconds| format!("{} for {seconds:.0} s", endpoint.health))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The response of an early version, and what a later one may send.
    const OLDER: &str = r#"{
        "version": "0.0.9", "state": "ready", "config": "/etc/a.yaml",
        "listeners": [{ "name": "app", "addresses": ["127.0.0.1:5432"] }],
        "clusters": [{ "name": "up", "endpoints": [{ "name": "10.0.0.1:5432", "health": "healthy" }, {}] }, {}]
    }"#;
    const NEWER: &str = r#"{
        "version": "7.0.0", "pid": 42, "state": "hibernating", "uptime_seconds": 61.5, "config": "a.yaml", "admin": null,
        "mood": { "of": ["the", "day"] },
        "listeners": [{ "name": "app", "cluster": "up", "addresses": [], "active": 1, "accepted": 2, "max_connections": 3, "colour": 7 }],
        "clusters": [{
            "name": "up", "protocol": "telepathy", "balance": "lunar", "tls": "4.0", "breaker": "ajar", "breaker_seconds_left": null,
            "mode": "serene", "sessions": 1, "pending_dials": 0, "waiting": 2, "flavour": "salt",
            "endpoints": [{ "name": "10.0.0.1:1", "state": "enabled", "health": "glowing", "ejected": { "why": "new" }, "weight": 1,
                            "sessions": 1, "pending_dials": 0, "shape": [] }],
            "discovery": [{ "kind": "dream", "name": "db", "taste": 1 }]
        }],
        "credentials": [{ "kind": "wish", "name": "x", "size": 1 }]
    }"#;

    #[test]
    fn what_an_older_daemon_does_not_tell_is_a_dash() {
        let page = page(&serde_json::from_str(OLDER).unwrap());
        let words: Vec<Vec<&str>> = page.lines().map(|line| line.split_whitespace().collect()).collect();
        let ours = env!("CARGO_PKG_VERSION");
        assert_eq!(
            page.lines().next().unwrap(),
            format!("ambassador 0.0.9 (asked by {ours}), pid –, ready for – s, /etc/a.yaml")
        );
        assert_eq!(words[3], ["app", "127.0.0.1:5432", "–", "–/–", "–"]);
        assert_eq!(words[6], ["up", "10.0.0.1:5432", "–", "–", "–", "healthy", "–", "–", "–", "-"]);
        assert_eq!(words[7], ["up", "–", "–", "–", "–", "–", "–", "–", "–", "-"]);
    }

    #[test]
    fn what_a_newer_daemon_tells_besides_is_passed_over() {
        let page = page(&serde_json::from_str(NEWER).unwrap());
        assert!(page.starts_with("ambassador 7.0.0 (asked by "), "{page}");
        for part in ["hibernating for 62 s", "telepathy", "glowing", "dream", "2 session(s) wait for room"] {
            assert!(page.contains(part), "{part} is missing:\n{page}");
        }
    }
}
