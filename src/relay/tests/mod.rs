//! Whole relays, over loopback and in memory: a client, a server, and what each must see of the other's end.

mod keys;
mod steps;
mod table;
mod turns;
mod urgent;

use super::*;

pub(super) const ENDLESS: Settings =
    Settings { idle_timeout: None, half_close_timeout: None, max_lifetime: None };

pub(super) fn over<T>(downstream: T, upstream: UpstreamStream<T>) -> RelayInput<T> {
    RelayInput { downstream, upstream, opening: Vec::new(), dialogue: None, verdict_until: None }
}

/// The result of a relay whose sockets are closed.
#[derive(Debug)]
pub(super) struct RelaySummary {
    pub(super) outcome: Outcome,
    pub(super) closed_by: Side,
    pub(super) error: Option<String>,
    pub(super) can_be_refused: bool,
    pub(super) unclean_tls_end: bool,
}

pub(super) async fn relayed_by<T: Transport>(
    start: RelayInput<T>,
    settings: &Settings,
    live: &LiveSession,
) -> RelaySummary {
    let Ended { outcome, closed_by, fault, can_be_refused, unclean_tls_end, .. } =
        relay(start, settings, live).await;
    RelaySummary {
        outcome,
        closed_by,
        error: fault.map(|fault| fault.to_string()),
        can_be_refused,
        unclean_tls_end,
    }
}

/// Runs a relay that ends by itself.
pub(super) async fn relayed<T: Transport>(start: RelayInput<T>, live: &LiveSession) -> RelaySummary {
    relayed_by(start, &ENDLESS, live).await
}
