//! A number in a response that a daemon of another version may leave out.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number, if it was sent; otherwise users see a dash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Reported<T>(Option<T>);

/// Shown for a number that was not sent.
pub(crate) const UNTOLD: &str = "–";

impl<T: Copy + Default> Reported<T> {
    /// The number; zero if it was not sent.
    #[must_use]
    pub(crate) fn or_zero(self) -> T {
        self.0.unwrap_or_default()
    }

    /// Formats the number with `how`, if it was sent.
    pub(crate) fn display_with(self, how: impl FnOnce(T) -> String) -> String {
        self.0.map_or_else(|| UNTOLD.into(), how)
    }
}

impl<T> Default for Reported<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> From<T> for Reported<T> {
    fn from(number: T) -> Self {
        Self(Some(number))
    }
}

impl<T: fmt::Display> fmt::Display for Reported<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str(UNTOLD),
        }
    }
}
