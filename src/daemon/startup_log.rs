//! What is logged at the start: what is bound, which clusters it leads to, and our identities towards servers. A few
//! lines, however long the file is.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::SystemTime;

use crate::admin::{AdminState, View};
use crate::clock;
use crate::cluster::{self, Cluster, Source};
use crate::config::Config;
use crate::listener;
use crate::sys::{self, Bind};

/// Items shown in one line; the others are counted.
const ITEMS_MAX: usize = 8;

pub(super) fn log_startup(admin_state: &AdminState, workers: usize) {
    let view = admin_state.view.get();
    let View { listeners, clusters, .. } = &*view;
    tracing::info!(
        config = %admin_state.config.display(), listeners = listeners.len(), clusters = clusters.len(), workers,
        "ambassador {} is ready", env!("CARGO_PKG_VERSION")
    );
    let bound = listeners.iter().map(|listener| {
        let addresses: Vec<_> = listener.addresses.iter().map(ToString::to_string).collect();
        format!("{} {}", listener.route.listener(), addresses.join(" "))
    });
    tracing::info!("listening: {}", summarize(bound));
    tracing::info!("clusters: {}", summarize(clusters.iter().map(|cluster| describe(cluster))));
    let now = clock::wall();
    let credentials = admin_state.credentials.view();
    let identities = credentials.iter().filter(|credential| credential.kind == "identity");
    let identities =
        identities.map(|identity| format!("{} {}", identity.name, remaining(identity.not_after, now)));
    match summarize(identities) {
        none if none.is_empty() => tracing::info!("identities: none; servers get no client certificate"),
        identities => tracing::info!("identities: {identities}"),
    }
}

/// Warns when rules about callers could only deny.
pub(super) fn warn_of_strangers(config: &Config) {
    let by_name: BTreeMap<_, _> = config.clusters.iter().map(|cluster| (&cluster.name, cluster)).collect();
    let is_asked = |listener: &listener::Settings| {
        let is_tcp = listener.binds.iter().any(|bind| matches!(bind, Bind::Tcp(_) | Bind::Systemd(_)));
        let chooses = |cluster: &&cluster::Settings| {
            cluster.tls.as_ref().is_some_and(|tls| tls.identities().needs().is_some())
        };
        let mut its = listener.clusters.iter().filter_map(|name| by_name.get(name));
        is_tcp && (!listener.admission.allow.is_empty() || its.any(chooses))
    };
    if config.listeners.iter().any(is_asked)
        && let Err(error) = sys::checks_socket_owners()
    {
        tracing::warn!(
            %error,
            "the kernel does not tell who connects over loopback, so every TCP client that rules have to be about is denied; a \
             systemd unit needs AF_NETLINK in RestrictAddressFamilies"
        );
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
    let endpoints = whom(cluster.endpoints().len(), settings.source.as_ref(), cluster.discovery().is_settled);
    format!("{} speaks {} {tls} to {endpoints}", settings.name, settings.protocol.label())
}

/// How many endpoints are known, and which sources are being asked for more: at the start none has answered yet.
fn whom(known: usize, source: Option<&Source>, is_settled: bool) -> String {
    let asked = match source.filter(|_| !is_settled) {
        None => return format!("{known} endpoint(s)"),
        Some(source) => source.describe(),
    };
    match known {
        0 => format!("the endpoints of {asked}"),
        known => format!("{known} endpoint(s) and those of {asked}"),
    }
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
        // A certificate's 9999-12-31 means no end (RFC 5280 §4.1.2.5), and so do other dates far ahead.
        Some(Ok(_)) => "for more than a hundred years".into(),
    }
}

/// The first few items, and how many more.
pub(super) fn summarize(items: impl Iterator<Item = impl Display>) -> String {
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
        assert_eq!(summarize((1..=3).map(|n| n.to_string())), "1; 2; 3");
        assert_eq!(summarize(1..=10), "1; 2; 3; 4; 5; 6; 7; 8; and 2 more");
    }

    /// For names that were not resolved yet, the start logged "to 0 endpoint(s)", as if there were none.
    #[test]
    fn names_that_are_being_asked_for_are_not_nobody() {
        let of = |endpoints: &str| {
            let text = format!(
                "listeners: {{ app: {{ bind: '127.0.0.1:1', cluster: up }} }}\n\
                 clusters: {{ up: {{ endpoints: {endpoints} }} }}\n"
            );
            let config = Config::parse(&text, "/nowhere/l.yaml".as_ref(), &|_| None).unwrap();
            config.clusters[0].source.clone()
        };
        let names = of("[a.test:1, b.test:1, '10.0.0.1:1']");
        assert_eq!(whom(1, names.as_ref(), true), "1 endpoint(s)");
        assert_eq!(
            whom(1, names.as_ref(), false),
            "1 endpoint(s) and those of 2 name(s) that are being asked for"
        );
        assert_eq!(whom(0, names.as_ref(), false), "the endpoints of 2 name(s) that are being asked for");
        assert_eq!(whom(2, of("['10.0.0.1:1', '10.0.0.2:1']").as_ref(), true), "2 endpoint(s)");
        let service = of("{ srv: _db._tcp.test }");
        let expected = "the endpoints of the SRV record _db._tcp.test, which is being asked for";
        assert_eq!(whom(0, service.as_ref(), false), expected);
    }

    #[test]
    fn what_is_left_of_a_certificate_is_told_in_years_days_or_hours() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let hours = |hours: u64| Some(now + Duration::from_secs(hours * 3600));
        assert_eq!(remaining(hours(24 * 90), now), "for 90 days");
        assert_eq!(remaining(hours(24 * 730), now), "for 730 days");
        assert_eq!(remaining(hours(24 * 3650), now), "for 9 years");
        // The log said "for 755719 days".
        assert_eq!(remaining(hours(24 * 755_719), now), "for more than a hundred years");
        assert_eq!(remaining(hours(5), now), "for 5 hour(s)");
        assert_eq!(remaining(Some(now - Duration::from_secs(1)), now), "has expired");
    }
}
