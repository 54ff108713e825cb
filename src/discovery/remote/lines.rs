//! Answers that come in lines: cut, and told at a pace.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::source_update::RemoteResult;
use super::{ANSWER_MAX, too_long};

/// What comes in lines is told no more often than that, so that a store with many writes costs no more than one with few.
const PACE: Duration = Duration::from_millis(200);

/// What lines came to last, and when it may be told: of many that come at once, the last alone.
#[derive(Debug)]
pub(super) struct Paced {
    pub(super) held: Option<RemoteResult>,
    pub(super) due: Instant,
}

impl Paced {
    pub(super) fn hold(&mut self, result: Option<RemoteResult>) {
        // That nothing has changed since says nothing that what is held does not.
        if let Some(result) = result.filter(|result| self.held.is_none() || result.is_some()) {
            self.held = Some(result);
        }
    }

    pub(super) fn take_due(&mut self, now: Instant) -> Option<RemoteResult> {
        if now < self.due {
            return None;
        }
        let result = self.held.take()?;
        self.due = now + PACE;
        Some(result)
    }
}

/// Cuts a body into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    held: Vec<u8>,
    whole: VecDeque<Vec<u8>>,
}

impl Lines {
    pub(super) fn push(&mut self, mut data: &[u8]) -> Result<(), String> {
        while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
            let mut line = std::mem::take(&mut self.held);
            line.extend_from_slice(&data[..end]);
            data = &data[end + 1..];
            if !line.iter().all(u8::is_ascii_whitespace) {
                self.whole.push_back(line);
            }
        }
        if self.held.len() + data.len() > ANSWER_MAX {
            return Err(too_long());
        }
        self.held.extend_from_slice(data);
        Ok(())
    }

    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        self.whole.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::source_update::SourceUpdate;
    use super::*;
    use crate::clock;

    /// Each write to a store that is watched was told: compared, sorted and resolved by all that follow it.
    #[test]
    fn of_many_lines_the_last_is_told_and_an_unchanged_one_hides_nothing() {
        let begun = clock::now();
        let after = |millis| begun + Duration::from_millis(millis);
        let error = |text: &str| Some(Some(SourceUpdate::Error(text.into())));
        let mut paced = Paced { held: None, due: begun };
        assert_eq!(paced.take_due(begun), None);
        for one in [error("1"), None, error("2"), Some(None)] {
            paced.hold(one);
        }
        assert_eq!(paced.take_due(begun), error("2"));
        paced.hold(error("3"));
        assert_eq!(paced.take_due(after(199)), None, "no sooner");
        assert_eq!(paced.take_due(after(200)), error("3"));
        paced.hold(Some(None));
        assert_eq!(paced.take_due(after(400)), Some(None), "that nothing has changed is told, too");
    }

    #[test]
    fn lines_are_cut_wherever_the_parts_begin_and_end() {
        let text = b"{\"a\":1}\n\n{\"b\":2}\r\nrest";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            text.chunks(size).for_each(|part| lines.push(part).unwrap());
            let found: Vec<_> = std::iter::from_fn(|| lines.next()).collect();
            assert_eq!(found, [&b"{\"a\":1}"[..], b"{\"b\":2}\r"], "{size}");
            assert_eq!(lines.held, b"rest");
        }
        let mut lines = Lines::default();
        assert!(lines.push(&vec![b'x'; ANSWER_MAX]).is_ok());
        assert!(lines.push(b"x").unwrap_err().contains("16 MiB"));
    }
}
