//! What is known of a session's client, and what it counts as: kept for as long as the session lives. Who comes to know it, and
//! what is counted, is `admission`'s.

use std::sync::Arc;

use crate::caller::{Caller, CallerKey};
use crate::downstream::Question;
use crate::metrics::CallerSeries;

/// What is known of a session's client.
#[derive(Debug)]
pub(super) struct Guest {
    /// `None` for a stranger.
    pub(super) caller: Option<Arc<Caller>>,
    pub(super) counted: Counted,
}

/// What a client counts as.
#[derive(Debug)]
pub(super) enum Counted {
    /// Nobody wants to know, or it has left.
    No,
    /// Nothing yet: databases have yet to describe it. Exits: `No`, `Caller`.
    Asked { question: Arc<Question>, is_refused: bool },
    /// A caller of its unit. Exit: `No`.
    Caller(Arc<CallerSeries>),
    /// The same, and it has a share of the listener. Boxed: it is kept for hours, and mostly there are none. Exit: `No`.
    Sharer(Box<(Arc<CallerSeries>, CallerKey)>),
}

impl Guest {
    /// Who it is, where it is no stranger; perhaps without what databases have yet to add.
    pub(super) const fn caller(&self) -> Option<&Arc<Caller>> {
        self.caller.as_ref()
    }

    /// What databases have yet to answer.
    pub(super) const fn asked(&self) -> Option<&Arc<Question>> {
        match &self.counted {
            Counted::Asked { question, .. } => Some(question),
            Counted::No | Counted::Caller(_) | Counted::Sharer(_) => None,
        }
    }

    /// For who it is, it is not served.
    pub(super) fn refused(&mut self) {
        match &mut self.counted {
            Counted::No => {}
            Counted::Asked { is_refused, .. } => *is_refused = true,
            Counted::Caller(series) => series.refused(),
            Counted::Sharer(both) => both.0.refused(),
        }
    }
}
