//! When the end of a certificate or a list is near enough to be told, and how. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::tls::CredentialRole;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The times left before an expiry at which a warning is logged, once each; the last is at the expiry.
const NEAR: [Duration; 4] =
    [Duration::from_secs(14 * 24 * 60 * 60), Duration::from_secs(3 * 24 * 60 * 60), DAY, Duration::ZERO];

/// The nearest of [`NEAR`] that has been reached, if any. Revocation lists live for days, so only the last day counts
/// for them.
#[must_use]
pub(crate) fn near(role: CredentialRole, end: SystemTime, now: SystemTime) -> Option<Duration> {
    let left = end.duration_since(now).unwrap_or(Duration::ZERO);
    let first = if role == CredentialRole::Crl { DAY } else { Duration::MAX };
    NEAR.into_iter().filter(|near| left <= *near && *near <= first).min()
}

/// An agent's certificates live for an hour and are renewed after half of it: only their expiry is worth a warning.
pub(super) const fn is_news(near: Duration, is_from_agent: bool) -> bool {
    !is_from_agent || near.is_zero()
}

/// Whether the expiry is nearer than when it was last warned of. After the clock was set back it may be farther away,
/// and will be warned of again.
pub(super) fn is_nearer(
    warned: &mut BTreeMap<CredentialRole, Duration>,
    role: CredentialRole,
    near: Option<Duration>,
) -> bool {
    let before = warned.remove(&role);
    let Some(near) = near else { return false };
    warned.insert(role, near);
    before.is_none_or(|before| near < before)
}

/// Without leap days, as the number is only shown.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// When `end` is, for people: `ends in 9 days`.
#[must_use]
pub(crate) fn ends(end: SystemTime, now: SystemTime) -> String {
    match end.duration_since(now) {
        Err(_) => "has expired".into(),
        Ok(left) if left < DAY => format!("ends in {} hours", left.as_secs() / 3600),
        Ok(left) if left < 2 * YEAR => format!("ends in {} days", left.as_secs() / DAY.as_secs()),
        Ok(left) => format!("ends in {} years", left.as_secs() / YEAR.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_renews_is_warned_of_when_it_has_ended() {
        let now = SystemTime::UNIX_EPOCH + 20_000 * DAY;
        for (left, is_from_agent, expected) in
            [(1, false, true), (1, true, false), (0, true, true), (0, false, true)]
        {
            let near = near(CredentialRole::Client, now + left * DAY / 24, now).expect("it is near");
            assert_eq!(is_news(near, is_from_agent), expected, "{left} hours, an agent's: {is_from_agent}");
        }
    }

    #[test]
    fn an_end_comes_near_in_steps() {
        let now = SystemTime::UNIX_EPOCH + 1000 * DAY;
        for (left, expected, words) in [
            (15 * DAY, None, "ends in 15 days"),
            (14 * DAY, Some(14 * DAY), "ends in 14 days"),
            (4 * DAY, Some(14 * DAY), "ends in 4 days"),
            (3 * DAY, Some(3 * DAY), "ends in 3 days"),
            (DAY / 2, Some(DAY), "ends in 12 hours"),
            (755_719 * DAY, None, "ends in 2070 years"),
        ] {
            assert_eq!(near(CredentialRole::Ca, now + left, now), expected, "{left:?}");
            assert_eq!(
                near(CredentialRole::Crl, now + left, now),
                expected.filter(|near| *near <= DAY),
                "{left:?}"
            );
            assert_eq!(ends(now + left, now), words);
        }
        // A clock that jumps years ahead and is corrected costs one warning, and suppresses none that comes later.
        let (mut warned, end) = (BTreeMap::new(), now + 20 * DAY);
        for (at, expected) in [
            (now, false),
            (now + 9000 * DAY, true),
            (now, false),
            (now + 7 * DAY, true),
            (now + 7 * DAY, false),
            (now + 18 * DAY, true),
            (now + 10 * DAY, false),
            (now + 18 * DAY, true),
        ] {
            assert_eq!(
                is_nearer(&mut warned, CredentialRole::Ca, near(CredentialRole::Ca, end, at)),
                expected,
                "{at:?}"
            );
        }
        assert_eq!(near(CredentialRole::Client, now - DAY, now), Some(Duration::ZERO));
        assert_eq!(ends(now - DAY, now), "has expired");
    }
}
