//! Which endpoints may be picked at all: those that an operator has not taken out, that active checks do not find down, and
//! that are not ejected; one whose ejection is over, for one dial on trial.
//!
//! Where that leaves nobody, ejections no longer count: they are guesses, and the last endpoint is worth a try. Where active
//! checks find all of them down, `panic` says whether to use them all the same, or to refuse. How many sessions each may
//! carry is `limits`'.

use std::time::Instant;

use super::slot::Slot;

/// What to do when active checks find every endpoint down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Panic {
    /// Use all of them: sessions that probably fail are better than sessions that certainly do.
    All,
    /// Refuse: a server in the wrong role does harm.
    Never,
}

/// What still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Everything.
    Normal,
    /// Ejections do not: there is nobody else.
    DespiteEjection,
    /// Health does not either: active checks find all of them down.
    Panic,
}

/// Why a cluster has nobody to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Nobody {
    /// Its list is empty.
    #[error("the cluster has no endpoint at the moment")]
    Empty,
    /// The operator's orders.
    #[error("every endpoint of the cluster is draining or disabled")]
    NoneEnabled,
    /// What active checks say, and `panic: never`.
    #[error(
        "health checks find every endpoint of the cluster down ({down} of them), and `panic: never` says to refuse then"
    )]
    AllDown {
        /// How many.
        down: usize,
    },
    /// The one that was wanted.
    #[error("the endpoint that was wanted is no longer known")]
    Forgotten,
}

/// What still counts, as things are.
///
/// # Errors
/// Why nobody may be picked.
pub fn mode(slots: &[Slot], panic: Panic, now: Instant) -> Result<Mode, Nobody> {
    let (mut members, mut enabled, mut well) = (0_usize, 0, 0_usize);
    for slot in slots.iter().filter(|slot| slot.is_member) {
        if may_take(slot, Mode::Normal, now) {
            return Ok(Mode::Normal);
        }
        members += 1;
        enabled += usize::from(slot.is_enabled());
        well += usize::from(slot.is_well());
    }
    match (members, enabled, well, panic) {
        (0, ..) => Err(Nobody::Empty),
        (_, 0, ..) => Err(Nobody::NoneEnabled),
        (_, _, 0, Panic::Never) => Err(Nobody::AllDown { down: enabled }),
        (_, _, 0, Panic::All) => Ok(Mode::Panic),
        _ => Ok(Mode::DespiteEjection),
    }
}

/// Whether that one may be picked.
#[must_use]
pub fn may_take(slot: &Slot, mode: Mode, now: Instant) -> bool {
    match mode {
        Mode::Normal => slot.is_usable() || (slot.is_well() && slot.outlier.is_due(now)),
        Mode::DespiteEjection => slot.is_well(),
        Mode::Panic => slot.is_enabled(),
    }
}

impl Mode {
    /// The word in `/status` and in the log.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::DespiteEjection => "despite_ejection",
            Self::Panic => "panic",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fastrand::Rng;

    use super::super::health::Status;
    use super::super::outlier::{Fault, Settings};
    use super::super::slot::{Admin, Id};
    use super::*;
    use crate::clock;

    fn slot(admin: Admin, health: Status, is_member: bool) -> Slot {
        Slot { admin, health, is_member, ..Slot::new(Id::FIRST, clock::now()) }
    }

    fn ejected(now: Instant) -> Slot {
        let mut slot = slot(Admin::Enabled, Status::Healthy, true);
        let second = Duration::from_secs(1);
        let settings = Settings {
            consecutive_failures: 1,
            base_ejection_time: second,
            max_ejection_time: second,
            early_close: second,
        };
        slot.outlier.failed(&settings, (Fault::Connect, false), true, now, &mut Rng::with_seed(1));
        slot
    }

    fn check(slots: &[Slot], now: Instant, expected: Result<(Mode, &[bool]), Nobody>) {
        let found = mode(slots, Panic::All, now);
        let may: Vec<_> =
            slots.iter().map(|slot| found.is_ok_and(|mode| may_take(slot, mode, now))).collect();
        assert_eq!(found.map(|mode| (mode, &may[..])), expected, "{slots:?}");
        if let Ok((Mode::Panic, _)) = expected {
            let refused = mode(slots, Panic::Never, now);
            assert!(matches!(refused, Err(Nobody::AllDown { .. })), "{refused:?}");
        } else {
            assert_eq!(mode(slots, Panic::Never, now), expected.map(|(mode, _)| mode));
        }
    }

    #[test]
    fn what_counts_depends_on_who_is_left() {
        let now = clock::now();
        let up = || slot(Admin::Enabled, Status::Healthy, true);
        let new = || slot(Admin::Enabled, Status::Undecided, true);
        let down = || slot(Admin::Enabled, Status::Unhealthy, true);
        let drained = || slot(Admin::Draining, Status::Healthy, true);
        let gone = || slot(Admin::Enabled, Status::Healthy, false);
        fn normal(may: &[bool]) -> Result<(Mode, &[bool]), Nobody> {
            Ok((Mode::Normal, may))
        }
        check(&[up(), down(), new(), drained(), gone()], now, normal(&[true, false, true, false, false]));
        check(&[up(), ejected(now)], now, normal(&[true, false]));
        let later = now + Duration::from_secs(1);
        check(&[up(), ejected(now)], later, normal(&[true, true]));
        check(&[down(), ejected(now), drained()], now, Ok((Mode::DespiteEjection, &[false, true, false])));
        check(&[down(), drained(), down()], now, Ok((Mode::Panic, &[true, false, true])));
        check(&[drained(), slot(Admin::Disabled, Status::Unhealthy, true)], now, Err(Nobody::NoneEnabled));
        check(&[gone()], now, Err(Nobody::Empty));
        check(&[], now, Err(Nobody::Empty));
    }
}
