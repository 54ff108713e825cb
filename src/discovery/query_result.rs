//! The result of a query.

/// The result of a query, as a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueryResult {
    /// An answer that counts.
    Good,
    /// There are no such records, or none that can be used.
    Negative,
    /// The query failed.
    Failed,
}

impl QueryResult {
    /// The label `result` in metrics.
    #[must_use]
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Negative => "negative",
            Self::Failed => "failed",
        }
    }
}
