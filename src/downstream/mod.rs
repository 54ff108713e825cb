//! The client's side before and instead of a relay: reading its head and its opening, refusing it, and identifying the
//! caller.

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
