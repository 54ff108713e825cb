//! Which endpoints may be picked at all: those that an operator has not taken out and that are not known to be down.
//!
//! Where nobody is left but somebody is enabled, all who are enabled are used: sessions that probably fail are better than
//! sessions that certainly do. How many sessions each may carry is `limits`'.

use super::health::Status;
use super::slot::Slot;

/// Whether observations count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They do.
    Normal,
    /// No endpoint is usable, so all that are enabled are used.
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
    /// The one that was wanted.
    #[error("the endpoint that was wanted is no longer known")]
    Forgotten,
}

/// Whether anybody may be picked, and by which rule.
///
/// # Errors
/// Why nobody may.
pub fn mode(slots: &[Slot]) -> Result<Mode, Nobody> {
    let mut nobody = Nobody::Empty;
    let mut mode = None;
    for slot in slots.iter().filter(|slot| slot.is_member) {
        if is_usable(slot) {
            return Ok(Mode::Normal);
        }
        nobody = Nobody::NoneEnabled;
        if slot.is_enabled() {
            mode = Some(Mode::Panic);
        }
    }
    mode.ok_or(nobody)
}

/// Whether that one may be picked.
#[must_use]
pub const fn may_take(slot: &Slot, mode: Mode) -> bool {
    match mode {
        Mode::Normal => is_usable(slot),
        Mode::Panic => slot.is_enabled(),
    }
}

const fn is_usable(slot: &Slot) -> bool {
    slot.is_enabled() && !matches!(slot.health, Status::Unhealthy)
}

#[cfg(test)]
mod tests {
    use super::super::slot::{Admin, Id};
    use super::*;
    use crate::clock;

    fn slot(admin: Admin, health: Status, is_member: bool) -> Slot {
        Slot { admin, health, is_member, ..Slot::new(Id::FIRST, 1, clock::now()) }
    }

    fn check(slots: &[Slot], expected: Result<(Mode, &[bool]), Nobody>) {
        let found = mode(slots);
        let may: Vec<_> = slots.iter().map(|slot| found.is_ok_and(|mode| may_take(slot, mode))).collect();
        assert_eq!(found.map(|mode| (mode, &may[..])), expected, "{slots:?}");
    }

    #[test]
    fn observations_count_while_somebody_is_usable() {
        let up = || slot(Admin::Enabled, Status::Healthy, true);
        let new = || slot(Admin::Enabled, Status::Undecided, true);
        let down = || slot(Admin::Enabled, Status::Unhealthy, true);
        let drained = || slot(Admin::Draining, Status::Healthy, true);
        let gone = || slot(Admin::Enabled, Status::Healthy, false);
        check(
            &[up(), down(), new(), drained(), gone()],
            Ok((Mode::Normal, &[true, false, true, false, false])),
        );
        check(&[down(), drained(), down()], Ok((Mode::Panic, &[true, false, true])));
        check(&[drained(), slot(Admin::Disabled, Status::Unhealthy, true)], Err(Nobody::NoneEnabled));
        check(&[gone()], Err(Nobody::Empty));
        check(&[], Err(Nobody::Empty));
    }
}
