//! Which listeners and clusters exist: the series of a removed one are shown in one more scrape, and then hidden.
//!
//! The handles for a listener or a cluster have a [`LabelGuard`] with them, so its series exist until its last session
//! has ended. When it comes back, its counters continue, because the recorder keeps them: the recorder can only drop
//! every series that was idle for a while, and an idle one is not a removed one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::sync::{Mutex, MutexGuard};

use super::inherited::unescaped;

/// A label's name, and its value.
type LabelPair = (&'static str, String);

#[derive(Clone, Copy, Default)]
struct LabelState {
    /// How many guards there are.
    guards: usize,
    /// It was removed, and the last scrape still had it.
    was_shown: bool,
}

static GUARDED: Mutex<BTreeMap<LabelPair, LabelState>> = Mutex::new(BTreeMap::new());

/// While it lives, the series of its label are shown.
pub(super) struct LabelGuard(LabelPair);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RenderPurpose {
    /// A scrape, which shows removed series for the last time.
    Scrape,
    /// Any other reading, which leaves them to the next scrape.
    Other,
}

impl LabelGuard {
    /// Adds a guard for the series with that label.
    pub(super) fn of(label: &'static str, value: &str) -> Arc<Self> {
        let label_pair = (label, value.to_owned());
        let mut guarded = guarded();
        let state = guarded.entry(label_pair.clone()).or_default();
        *state = LabelState { guards: state.guards + 1, was_shown: false };
        Arc::new(Self(label_pair))
    }
}

impl Drop for LabelGuard {
    fn drop(&mut self) {
        if let Some(state) = guarded().get_mut(&self.0) {
            state.guards = state.guards.saturating_sub(1);
        }
    }
}

impl fmt::Debug for LabelGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LabelGuard").field(&self.0).finish()
    }
}

/// The text without the series of removed objects.
pub(super) fn without_removed(text: String, reader: RenderPurpose) -> String {
    let mut gone: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for ((label, value), state) in &mut *guarded() {
        if state.guards == 0 && state.was_shown {
            gone.entry(label).or_default().push(value.clone());
        }
        state.was_shown |= state.guards == 0 && reader == RenderPurpose::Scrape;
    }
    if gone.is_empty() {
        return text;
    }
    let mut kept = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !is_of(line, &gone)) {
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

fn guarded() -> MutexGuard<'static, BTreeMap<LabelPair, LabelState>> {
    GUARDED.lock()
}

/// Whether the line has one of those labels with one of those values.
fn is_of(line: &str, gone: &BTreeMap<&'static str, Vec<String>>) -> bool {
    !line.starts_with('#')
        && gone.iter().any(|(label, values)| {
            value(line, label).is_some_and(|value| values.iter().any(|gone| *gone == unescaped(value)))
        })
}

/// A label's value as it is written in a line.
fn value<'a>(line: &'a str, label: &str) -> Option<&'a str> {
    let mut rest = line.split_once('{')?.1;
    loop {
        let (name, behind) = rest.split_once("=\"")?;
        let end = end_of_value(behind)?;
        if name == label {
            return Some(&behind[..end]);
        }
        rest = behind[end + 1..].strip_prefix(',')?;
    }
}

/// The index of the quote that ends the value.
fn end_of_value(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The series of a cluster that a reload removed stayed for ever, at their last values.
    #[test]
    fn series_of_what_is_gone_are_seen_once_more_and_come_back_with_it() {
        let text = || {
            let other = "# TYPE a counter\na{cluster=\"living-1\",to=\"x\"} 1\na 3\n";
            format!("{other}a{{listener=\"l\\\"}},\",cluster=\"liv\\\"ing-2\"}} 2\n")
        };
        let (first, second) =
            (LabelGuard::of("cluster", "living-1"), LabelGuard::of("cluster", "liv\"ing-2"));
        let again = Arc::clone(&second);
        let lines = |reader| without_removed(text(), reader).lines().count();
        drop(second);
        assert_eq!((lines(RenderPurpose::Scrape), lines(RenderPurpose::Scrape)), (4, 4), "somebody holds it");
        drop(again);
        assert_eq!(
            (lines(RenderPurpose::Other), lines(RenderPurpose::Other)),
            (4, 4),
            "no scrape has seen its last"
        );
        assert_eq!(
            (lines(RenderPurpose::Scrape), lines(RenderPurpose::Scrape), lines(RenderPurpose::Other)),
            (4, 3, 3)
        );
        drop(first);
        lines(RenderPurpose::Scrape);
        assert_eq!(without_removed(text(), RenderPurpose::Scrape), "# TYPE a counter\na 3\n");
        let _first = LabelGuard::of("cluster", "living-1");
        assert_eq!(without_removed(text(), RenderPurpose::Scrape).lines().count(), 3);
    }
}
