//! The metrics of a listener and its destinations.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::cluster::label_of as label_of_cluster;
use super::names::{ACCEPT_ERRORS, ACCEPTED, CONNECTIONS, RECEIVED_BYTES, SENT_BYTES, SESSIONS_ACTIVE};
use super::registry::{Dropped, Family, ReadPurpose, Registry};
use super::text::{Text, labels};
use super::values::{Counter, Gauge};
use crate::name::{ClusterName, ListenerName};
use crate::outcome::Outcome;

static LISTENERS: Registry<ListenerMetrics> = Registry::new(FAMILIES);
static DESTINATIONS: Registry<DestinationMetrics> = Registry::new(FAMILIES_OF_DESTINATIONS);

#[derive(Default)]
pub(crate) struct ListenerMetrics {
    pub accepted: Counter,
    pub accept_errors: Counter,
    ended: [Counter; Outcome::ALL.len()],
}

/// The metrics of sessions between a listener and a cluster. They may outlive both, so that sums continue when these
/// come back, and are shown while there are both.
#[derive(Default)]
pub(crate) struct DestinationMetrics {
    pub active: Gauge,
    /// Bytes to the upstream, as an absolute count.
    pub sent: Counter,
    /// Bytes from the upstream, as an absolute count.
    pub received: Counter,
}

impl DestinationMetrics {
    /// Those of one listener and one of its clusters.
    #[must_use]
    pub(crate) fn of(listener: &ListenerName, cluster: &ClusterName) -> Arc<Self> {
        DESTINATIONS.of(&[label_of(listener), label_of_cluster(cluster)].join(","))
    }
}

impl ListenerMetrics {
    /// Those of one listener; of one that there is already, the same.
    #[must_use]
    pub(crate) fn of(listener: &ListenerName) -> Arc<Self> {
        LISTENERS.of(&label_of(listener))
    }

    /// Records the outcome of a connection.
    pub(crate) fn record_end(&self, outcome: Outcome) {
        self.ended[outcome as usize].increment(1);
    }
}

fn label_of(listener: &ListenerName) -> String {
    labels([("listener", listener.as_str())])
}

/// The label of the listener, and that of the cluster. A quote within a value is escaped, so the mark is unique.
fn parted(labels: &str) -> Option<(&str, &str)> {
    let end = labels.find("\",cluster=\"")? + 1;
    Some((&labels[..end], &labels[end + 1..]))
}

const FAMILIES: &[Family<ListenerMetrics>] = &[
    (&ACCEPTED, |its, series| series.counter(&its.accepted)),
    (&CONNECTIONS, |its, series| {
        // Once a listener is used, all of its outcomes are there: else the first failure of a kind would come with the series,
        // and no alert on an increase would see it.
        let ended =
            Outcome::ALL.iter().zip(&its.ended).map(|(outcome, count)| (outcome.label(), count.get()));
        let is_used = its.accepted.get() > 0 || series.is_inherited(&ACCEPTED);
        series.counts("outcome", ended, is_used);
    }),
    (&ACCEPT_ERRORS, |its, series| series.counter(&its.accept_errors)),
];

const FAMILIES_OF_DESTINATIONS: &[Family<DestinationMetrics>] = &[
    (&SESSIONS_ACTIVE, |its, series| series.gauge(&its.active)),
    (&SENT_BYTES, |its, series| series.counter(&its.sent)),
    (&RECEIVED_BYTES, |its, series| series.counter(&its.received)),
];

/// Writes those of all listeners. `clusters`: the labels of the clusters that there are.
pub(super) fn write(text: &mut Text<'_>, purpose: ReadPurpose, clusters: &BTreeSet<Arc<str>>) {
    let all = LISTENERS.read(purpose);
    LISTENERS.write(text, &all);
    let listeners: BTreeSet<_> = all.into_iter().map(|(labels, _)| labels).collect();
    let mut destinations = DESTINATIONS.read(purpose);
    destinations.retain(|(labels, _)| {
        parted(labels)
            .is_some_and(|(listener, cluster)| listeners.contains(listener) && clusters.contains(cluster))
    });
    DESTINATIONS.write(text, &destinations);
}

/// Drops what nobody asks for.
pub(super) fn upkeep(dropped: &mut Vec<Dropped>) {
    LISTENERS.upkeep(dropped);
    DESTINATIONS.upkeep(dropped);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_names_are_a_destination_belongs_to_both() {
        for (listener, cluster) in [("l", "c"), ("l\",cluster=\"x", "c"), ("\\", "\",cluster=\""), ("", "")] {
            let (listener, cluster) = (ListenerName::from(listener), ClusterName::from(cluster));
            let both = [label_of(&listener), label_of_cluster(&cluster)].join(",");
            assert_eq!(parted(&both), Some((&*label_of(&listener), &*label_of_cluster(&cluster))));
        }
    }
}
