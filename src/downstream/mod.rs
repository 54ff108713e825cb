//! The client's side before and instead of a relay: what a client that speaks first says, and how it is
//! told no; and who it is. What context it passes is not here yet.

mod caller;
mod caller_cache;
mod cgroup_tree;
mod head;
mod opening;
mod refuse;

pub(crate) use caller::{CallerLookup, Identification, Stranger, identify};
pub(crate) use caller_cache::CallerCache;
pub(crate) use head::{HeadError, read_head};
pub(crate) use opening::{OpeningFailure, OpeningTimeouts, exchange_greeting, read_opening};
pub(crate) use refuse::{answer_opening, refuse, send_and_close, send_welcome};
