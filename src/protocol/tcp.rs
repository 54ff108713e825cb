//! Anything: nothing is parsed, TLS starts at once, a refusal is a reset.

use super::{Protocol, Refusal};

/// No protocol in particular.
#[derive(Debug)]
pub(super) struct Tcp;

impl Protocol for Tcp {
    fn label(&self) -> &'static str {
        "tcp"
    }

    fn refusal(&self, _: &Refusal<'_>) -> Option<Vec<u8>> {
        None
    }
}
