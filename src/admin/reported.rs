//! A number in an answer that a daemon of another version may leave out.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number, where it was told; else people see a dash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Reported<T>(Option<T>);

/// What stands for what was not told.
pub(crate) const UNTOLD: &str = "–";

impl<T: Copy + Default> Reported<T> {
    /// The number; zero where it was not told.
    #[must_use]
    pub(crate) fn or_zero(self) -> T {
        self.0.unwrap_or_default()
    }

    /// Made into words by `how`, where it was told.
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
