//! What is known of a session's client, and what it counts as: kept for as long as the session lives. Who comes to know it, and
//! what is counted, is `admission`'s.

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

/// What a client counts as.
#[derive(Debug)]
pub(super) enum CountedCaller {
    /// Nobody wants to know, or it has left.
    No,
    /// Nothing yet: databases have yet to describe it. Exits: `No`, `CallerFields`.
    Asked { question: Arc<CallerLookup>, is_refused: bool },
    /// A caller of its unit. Exit: `No`.
    Caller(Arc<CallerSeries>),
    /// The same, and it has a share of the listener. Boxed: it is kept for hours, and mostly there are none. Exit: `No`.
    Sharer(Box<(Arc<CallerSeries>, CallerKey)>),
}

impl IdentifiedCaller {
    /// Who it is, where it is no stranger; perhaps without what databases have yet to add.
    pub(super) const fn caller(&self) -> Option<&Arc<Caller>> {
        self.caller.as_ref()
    }

    /// What databases have yet to answer.
    pub(super) const fn lookup(&self) -> Option<&Arc<CallerLookup>> {
        match &self.counted {
            CountedCaller::Asked { question, .. } => Some(question),
            CountedCaller::No | CountedCaller::Caller(_) | CountedCaller::Sharer(_) => None,
        }
    }

    /// For who it is, it is not served.
    pub(super) fn note_refused(&mut self) {
        match &mut self.counted {
            CountedCaller::No => {}
            CountedCaller::Asked { is_refused, .. } => *is_refused = true,
            CountedCaller::Caller(series) => series.record_refusal(),
            CountedCaller::Sharer(both) => both.0.record_refusal(),
        }
    }
}
