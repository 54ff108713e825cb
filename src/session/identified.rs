//! What is known of a session's client, and how it is counted, for as long as the session lives. Looking callers up
//! is `denial`'s, counting them `admission`'s.

use std::sync::Arc;

use crate::caller::{Caller, CallerKey};
use crate::downstream::CallerLookup;
use crate::metrics::CallerSeries;

/// What is known of a session's client.
#[derive(Debug)]
pub(super) struct IdentifiedCaller {
    /// `None` for a stranger.
    pub(super) caller: Option<Arc<Caller>>,
    pub(super) counted: CountedCaller,
}

/// How a client is counted.
#[derive(Debug)]
pub(super) enum CountedCaller {
    /// Not at all: units are not needed, or the session has ended.
    No,
    /// Not yet: its look-up runs. Exits: `No`, `Caller`.
    Asked { question: Arc<CallerLookup>, is_refused: bool },
    /// In the metrics of its unit. Exit: `No`.
    Caller(Arc<CallerSeries>),
    /// In the metrics, and towards its caller's limits on the listener. Boxed: it is kept for hours, and most sessions
    /// have none. Exit: `No`.
    Sharer(Box<(Arc<CallerSeries>, CallerKey)>),
}

impl IdentifiedCaller {
    /// `None` for a stranger. Names and groups may be missing while the look-up runs.
    pub(super) const fn caller(&self) -> Option<&Arc<Caller>> {
        self.caller.as_ref()
    }

    /// The look-up, if it still runs.
    pub(super) const fn lookup(&self) -> Option<&Arc<CallerLookup>> {
        match &self.counted {
            CountedCaller::Asked { question, .. } => Some(question),
            CountedCaller::No | CountedCaller::Caller(_) | CountedCaller::Sharer(_) => None,
        }
    }

    /// Counts a refusal for its caller.
    pub(super) fn note_refused(&mut self) {
        match &mut self.counted {
            CountedCaller::No => {}
            CountedCaller::Asked { is_refused, .. } => *is_refused = true,
            CountedCaller::Caller(series) => series.record_refusal(),
            CountedCaller::Sharer(both) => both.0.record_refusal(),
        }
    }
}
