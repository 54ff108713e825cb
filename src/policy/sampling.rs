//! Which sessions leave a record if not all of them do. Only ordinary sessions are left out: one that was refused,
//! failed, was ended early, was retried or was slow always leaves a record.
//!
//! The random draw is the session's id: no state is needed, and a seed replays it.

use std::time::Duration;

use crate::outcome::Outcome;

/// The share of ordinary sessions that leave a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// In parts of [`WHOLE`].
    parts: u32,
    /// A session that waited longer is not ordinary.
    slower_than: Option<Duration>,
}

/// What the decision needs of a session that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    /// How the session ended.
    pub outcome: Outcome,
    /// The number of attempts of its dial.
    pub attempts: u32,
    /// The time until the upstream's first byte, or until the session's end if there was none.
    pub waited: Duration,
}

/// Whether a session leaves a record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RecordVerdict {
    /// A record that stands for this session only.
    Kept,
    /// A record that stands for all ordinary sessions; this share of them is kept.
    Sampled(f64),
    /// It leaves no record.
    LeftOut,
}

/// The denominator of a share.
const WHOLE: u32 = 1_000_000_000;

impl Sampling {
    /// Keeps the record of every session.
    pub const ALL: Self = Self { parts: WHOLE, slower_than: None };

    /// Keeps a share from 0 to 1; one above 0 is at least a billionth.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to WHOLE")]
    pub fn new(share: f64, slower_than: Option<Duration>) -> Self {
        let parts = (share.clamp(0.0, 1.0) * f64::from(WHOLE)).round() as u32;
        Self { parts: parts.max(u32::from(share > 0.0)), slower_than }
    }

    /// Decides about a session's record; `draw` is uniform over all 64-bit numbers.
    #[must_use]
    pub fn judge(self, ending: Ending, draw: u64) -> RecordVerdict {
        let Ending { outcome, attempts, waited } = ending;
        let is_slow = self.slower_than.is_some_and(|limit| waited > limit);
        if self.parts == WHOLE || outcome != Outcome::Completed || attempts > 1 || is_slow {
            return RecordVerdict::Kept;
        }
        let drawn = (u128::from(draw) * u128::from(WHOLE)) >> 64;
        if drawn < u128::from(self.parts) {
            RecordVerdict::Sampled(f64::from(self.parts) / f64::from(WHOLE))
        } else {
            RecordVerdict::LeftOut
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    const ORDINARY: Ending =
        Ending { outcome: Outcome::Completed, attempts: 1, waited: Duration::from_millis(5) };

    #[test]
    fn the_smallest_share_is_not_none() {
        assert_eq!(Sampling::new(1e-12, None).parts, 1);
        assert_eq!(Sampling::new(0.0, None).parts, 0);
    }

    #[test]
    fn counts_can_be_restored_from_a_sample() {
        let mut rng = Rng::with_seed(7);
        for share in [0.001, 0.1, 0.5, 0.999] {
            let sampling = Sampling::new(share, None);
            let restored: f64 = (0..200_000)
                .map(|_| match sampling.judge(ORDINARY, rng.u64(..)) {
                    RecordVerdict::Sampled(share) => 1.0 / share,
                    RecordVerdict::Kept => panic!("an ordinary session"),
                    RecordVerdict::LeftOut => 0.0,
                })
                .sum();
            // Four standard deviations of a binomial count.
            let far = 4.0 * (200_000.0 * (1.0 - share) / share).sqrt();
            assert!((restored - 200_000.0).abs() < far, "{share}: {restored}");
        }
    }

    #[test]
    fn what_is_not_ordinary_is_always_kept() {
        let none = Sampling::new(0.0, Some(Duration::from_secs(1)));
        assert_eq!(none.judge(ORDINARY, 0), RecordVerdict::LeftOut);
        for outcome in Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::Completed) {
            assert_eq!(
                none.judge(Ending { outcome, ..ORDINARY }, u64::MAX),
                RecordVerdict::Kept,
                "{outcome:?}"
            );
        }
        assert_eq!(none.judge(Ending { attempts: 2, ..ORDINARY }, u64::MAX), RecordVerdict::Kept);
        let waited = |ms| Ending { waited: Duration::from_millis(ms), ..ORDINARY };
        assert_eq!(none.judge(waited(1001), u64::MAX), RecordVerdict::Kept);
        assert_eq!(none.judge(waited(1000), u64::MAX), RecordVerdict::LeftOut);
    }

    #[test]
    fn everything_and_nothing_are_exact() {
        for draw in [0, 1, u64::MAX / 2, u64::MAX] {
            assert_eq!(Sampling::ALL.judge(ORDINARY, draw), RecordVerdict::Kept);
            assert_eq!(Sampling::new(1.0, None), Sampling::ALL);
            assert_eq!(Sampling::new(0.0, None).judge(ORDINARY, draw), RecordVerdict::LeftOut);
        }
    }
}
