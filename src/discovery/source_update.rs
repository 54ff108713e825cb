//! What a source of endpoints last said, well or badly. Pure.

use std::time::Instant;

use crate::cluster::Target;

/// What it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SourceUpdate {
    /// The endpoints are these; what is wrong with others that it named, in words.
    Targets(Vec<Target>, Option<String>),
    /// Nothing that can be used, in words. The endpoints of before stay.
    Error(String),
}

/// What a server said about the endpoints; `None`: they are those of before.
pub(super) type RemoteResult = Option<SourceUpdate>;

/// So many characters of an error are told, in the log for each change and to each session that is refused for want of endpoints. What
/// is wrong may be quoted from an answer of any length.
const ERROR_SHOWN: usize = 600;

impl SourceUpdate {
    fn shortened(self) -> Self {
        let short = |error: String| match error.char_indices().nth(ERROR_SHOWN) {
            Some((end, _)) => format!("{}…", &error[..end]),
            None => error,
        };
        match self {
            Self::Targets(targets, complaint) => Self::Targets(targets, complaint.map(short)),
            Self::Error(error) => Self::Error(short(error)),
        }
    }
}

/// The last of it.
#[derive(Debug, Default)]
pub(super) struct LastUpdate {
    last: Option<SourceUpdate>,
    /// Whether it has said anything.
    pub(super) is_settled: bool,
    /// When it last said what the endpoints are.
    pub(super) succeeded: Option<Instant>,
    /// What is wrong with what it said last.
    pub(super) error: Option<String>,
}

impl LastUpdate {
    /// Takes it in; `None` if it is the same as before.
    pub(super) fn take(&mut self, said: SourceUpdate, now: Instant) -> Option<&SourceUpdate> {
        self.is_settled = true;
        let said = said.shortened();
        self.error = match &said {
            SourceUpdate::Targets(_, complaint) => {
                self.succeeded = Some(now);
                complaint.clone()
            }
            SourceUpdate::Error(error) => Some(error.clone()),
        };
        if self.last.as_ref() == Some(&said) {
            return None;
        }
        Some(self.last.insert(said))
    }

    /// It says that all is as it said before. What it said may have been refused.
    pub(super) fn confirm(&mut self, now: Instant) {
        if matches!(self.last, Some(SourceUpdate::Targets(..))) {
            self.succeeded = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_an_end_and_goes_with_the_next_good_word() {
        let (now, mut told) = (crate::clock::now(), LastUpdate::default());
        assert!(told.take(SourceUpdate::Error("\u{e9}".repeat(10_000)), now).is_some());
        let error = told.error.clone().unwrap();
        assert_eq!((error.chars().count(), told.succeeded), (ERROR_SHOWN + 1, None));
        assert!(
            told.take(SourceUpdate::Error("\u{e9}".repeat(10_001)), now).is_none(),
            "to us it is the same"
        );
        told.confirm(now);
        assert_eq!(told.succeeded, None, "what was refused is not confirmed");
        told.take(SourceUpdate::Targets(Vec::new(), Some("one is odd".into())), now);
        assert_eq!((told.error.as_deref(), told.succeeded), (Some("one is odd"), Some(now)));
        told.take(SourceUpdate::Targets(Vec::new(), None), now);
        assert_eq!(told.error, None);
    }
}
