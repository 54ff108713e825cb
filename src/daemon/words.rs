//! What is said at the start, for whoever reads the log: what is bound, where it leads, who we are towards the servers.
//! A few lines, however long the file is.

use std::fmt::Display;
use std::time::SystemTime;

use crate::admin::{Scene, Subject};
use crate::clock;
use crate::upstream::Cluster;

/// Items of one line; the rest is counted.
const ITEMS_MAX: usize = 8;

pub(super) fn say(subject: &Subject, workers: usize) {
    let scene = subject.scene.get();
    let Scene { listeners, clusters, .. } = &*scene;
    tracing::info!(
        config = %subject.config.display(), listeners = listeners.len(), clusters = clusters.len(), workers,
        "ambassador {} is ready", env!("CARGO_PKG_VERSION")
    );
    let bound = listeners.iter().map(|listener| {
        let addresses: Vec<_> = listener.addresses.iter().map(ToString::to_string).collect();
        format!("{} {}", listener.route.listener(), addresses.join(" "))
    });
    tracing::info!("listening: {}", list(bound));
    tracing::info!("clusters: {}", list(clusters.iter().map(|cluster| describe(cluster))));
    let now = clock::wall();
    let credentials = subject.credentials.view();
    let identities = credentials.iter().filter(|credential| credential.kind == "identity");
    let identities =
        identities.map(|identity| format!("{} {}", identity.name, remaining(identity.not_after, now)));
    match list(identities) {
        none if none.is_empty() => tracing::info!("identities: none, no server learns who we are"),
        identities => tracing::info!("identities: {identities}"),
    }
}

fn describe(cluster: &Cluster) -> String {
    let settings = cluster.settings();
    let tls = match &settings.tls {
        None => "in plaintext".to_owned(),
        Some(tls) => match tls.identities().all() {
            [] => "over TLS".to_owned(),
            some => {
                let names: Vec<_> = some.iter().map(|identity| identity.name().as_str()).collect();
                format!("over mTLS as {}", names.join(" or "))
            }
        },
    };
    let endpoints = cluster.endpoints().len();
    format!("{} speaks {} {tls} to {endpoints} endpoint(s)", settings.name, settings.protocol.label())
}

fn remaining(end: Option<SystemTime>, now: SystemTime) -> String {
    const DAY: u64 = 24 * 60 * 60;
    const YEAR: u64 = 365 * DAY + DAY / 4;
    match end.map(|end| end.duration_since(now).map(|left| left.as_secs())) {
        None => "without an end".into(),
        Some(Err(_)) => "has expired".into(),
        Some(Ok(left)) if left < 2 * DAY => format!("for {} hour(s)", left / 3600),
        Some(Ok(left)) if left < 2 * YEAR => format!("for {} days", left / DAY),
        Some(Ok(left)) if left < 100 * YEAR => format!("for {} years", left / YEAR),
        // A certificate that says 9999-12-31 has no end (RFC 5280 §4.1.2.5), and others mean the same.
        Some(Ok(_)) => "for more than a hundred years".into(),
    }
}

/// The first few, and how many more.
pub(super) fn list(items: impl Iterator<Item = impl Display>) -> String {
    let items: Vec<_> = items.map(|item| item.to_string()).collect();
    let shown = items[..items.len().min(ITEMS_MAX)].join("; ");
    match items.len().saturating_sub(ITEMS_MAX) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn long_lists_are_cut_and_counted() {
        assert_eq!(list((1..=3).map(|n| n.to_string())), "1; 2; 3");
        assert_eq!(list(1..=10), "1; 2; 3; 4; 5; 6; 7; 8; and 2 more");
    }

    #[test]
    fn what_is_left_of_a_certificate_is_told_in_years_days_or_hours() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let hours = |hours: u64| Some(now + Duration::from_secs(hours * 3600));
        assert_eq!(remaining(hours(24 * 90), now), "for 90 days");
        assert_eq!(remaining(hours(24 * 730), now), "for 730 days");
        assert_eq!(remaining(hours(24 * 3650), now), "for 9 years");
        // It was "for 755719 days".
        assert_eq!(remaining(hours(24 * 755_719), now), "for more than a hundred years");
        assert_eq!(remaining(hours(5), now), "for 5 hour(s)");
        assert_eq!(remaining(Some(now - Duration::from_secs(1)), now), "has expired");
    }
}
