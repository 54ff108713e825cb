//! Which endpoints may be picked: those that are enabled, that active checks do not find down, and that are not
//! ejected.
//!
//! If none is left, ejections no longer count: they are guesses, and the last endpoint is worth a try. If active checks
//! find all endpoints down, `panic` decides whether to use them all or to refuse. A session whose attempt failed goes
//! on in the order of [`Standing`]; it is refused only as a last resort. `limits` decides how many sessions each
//! endpoint may carry.

use super::endpoint_state::EndpointState;
use super::health::HealthStatus;

/// What to do if active checks find every endpoint down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Panic {
    /// Use all of them: sessions that probably fail are better than sessions that certainly fail.
    All,
    /// Refuse: a server in the wrong role would do harm.
    Never,
}

/// Which evidence against endpoints counts when one is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Ejections and health count.
    Normal,
    /// Ejections do not count: no other endpoint is left.
    DespiteEjection,
    /// Health does not count either: active checks find all endpoints down.
    Panic,
}

/// Why a cluster has no endpoint to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// It has no endpoints.
    #[error("the cluster has no endpoint at the moment")]
    Empty,
    /// An operator took all of them out.
    #[error("every endpoint of the cluster is draining or disabled")]
    NoneEnabled,
    /// Active checks find all of them down, and `panic` is `never`.
    #[error(
        "health checks find every endpoint of the cluster down ({down} of them), and `panic: never` says to refuse then"
    )]
    AllDown {
        /// The number of endpoints down.
        down: usize,
    },
    /// The endpoint that the caller demanded has left.
    #[error("the endpoint that was wanted is no longer known")]
    Removed,
}

/// The mode that the endpoints' state leads to.
///
/// # Errors
/// Why no endpoint may be picked.
pub fn mode(endpoint_states: &[EndpointState], panic: Panic) -> Result<Mode, NoEndpoint> {
    let (mut members, mut down, mut best) = (0_usize, 0, None);
    for endpoint_state in endpoint_states.iter().filter(|endpoint_state| endpoint_state.is_member) {
        members += 1;
        match standing(endpoint_state) {
            Some(Standing::Usable) => return Ok(Mode::Normal),
            Some(Standing::Down) => {
                down += 1;
                best = best.or(Some(Mode::Panic));
            }
            Some(Standing::EjectedHealthy | Standing::Ejected) => best = Some(Mode::DespiteEjection),
            None => {}
        }
    }
    match (best, panic) {
        (None, _) if members == 0 => Err(NoEndpoint::Empty),
        (None, _) => Err(NoEndpoint::NoneEnabled),
        (Some(Mode::Panic), Panic::Never) => Err(NoEndpoint::AllDown { down }),
        (Some(mode), _) => Ok(mode),
    }
}

/// How likely an endpoint is to serve, best first; a session goes on to the next as its attempts fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// No evidence against it.
    Usable,
    /// Ejected, and active checks find it healthy.
    EjectedHealthy,
    /// Ejected, without a result of active checks.
    Ejected,
    /// Active checks find it down.
    Down,
}

/// The standing of an endpoint; `None`: it has left, or an operator has taken it out.
#[must_use]
pub const fn standing(endpoint_state: &EndpointState) -> Option<Standing> {
    if !endpoint_state.is_enabled() {
        return None;
    }
    Some(match (endpoint_state.health, endpoint_state.outlier.is_admitted()) {
        (HealthStatus::Unhealthy, _) => Standing::Down,
        (HealthStatus::Healthy | HealthStatus::Undecided, true) => Standing::Usable,
        (HealthStatus::Healthy, false) => Standing::EjectedHealthy,
        (HealthStatus::Undecided, false) => Standing::Ejected,
    })
}

/// The worst standing that an attempt may use. The first keeps to what [`mode`] allows; a retry goes on to any endpoint
/// that could still serve.
#[must_use]
pub const fn lowest(mode: Mode, is_retry: bool, panic: Panic) -> Standing {
    match (is_retry, mode, panic) {
        (_, Mode::Panic, _) | (true, _, Panic::All) => Standing::Down,
        (true, Mode::Normal | Mode::DespiteEjection, Panic::Never) | (false, Mode::DespiteEjection, _) => {
            Standing::Ejected
        }
        (false, Mode::Normal, _) => Standing::Usable,
    }
}

impl Mode {
    /// The label in `/status` and in the log.
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

    use super::super::endpoint_state::{Admin, Id};
    use super::super::outlier::{Fault, Settings};
    use super::*;
    use crate::clock;

    fn endpoint_state(admin: Admin, health: HealthStatus, is_member: bool) -> EndpointState {
        EndpointState { admin, health, is_member, ..EndpointState::new(Id::FIRST, clock::now()) }
    }

    fn ejected(health: HealthStatus) -> EndpointState {
        let mut endpoint_state = endpoint_state(Admin::Enabled, health, true);
        let second = Duration::from_secs(1);
        let settings = Settings {
            consecutive_failures: 1,
            base_ejection_time: second,
            max_ejection_time: second,
            early_close: second,
        };
        let rng = &mut Rng::with_seed(1);
        endpoint_state
            .outlier
            .record_failure(&settings, Fault::Connect, true, clock::now(), rng)
            .expect("one is enough");
        endpoint_state
    }

    /// Checks the mode, and which endpoints take a session's first attempt in it.
    fn check(endpoint_states: &[EndpointState], expected: Result<(Mode, &[bool]), NoEndpoint>) {
        let found = mode(endpoint_states, Panic::All);
        let first = found.map(|mode| lowest(mode, false, Panic::All));
        let may_take = |endpoint_state| {
            first.is_ok_and(|lowest| standing(endpoint_state).is_some_and(|standing| standing <= lowest))
        };
        let may: Vec<_> = endpoint_states.iter().map(may_take).collect();
        assert_eq!(found.map(|mode| (mode, &may[..])), expected, "{endpoint_states:?}");
        if let Ok((Mode::Panic, _)) = expected {
            let refused = mode(endpoint_states, Panic::Never);
            assert!(matches!(refused, Err(NoEndpoint::AllDown { .. })), "{refused:?}");
        } else {
            assert_eq!(mode(endpoint_states, Panic::Never), expected.map(|(mode, _)| mode));
        }
    }

    #[test]
    fn what_counts_depends_on_who_is_left() {
        let up = || endpoint_state(Admin::Enabled, HealthStatus::Healthy, true);
        let new = || endpoint_state(Admin::Enabled, HealthStatus::Undecided, true);
        let down = || endpoint_state(Admin::Enabled, HealthStatus::Unhealthy, true);
        let drained = || endpoint_state(Admin::Draining, HealthStatus::Healthy, true);
        let gone = || endpoint_state(Admin::Enabled, HealthStatus::Healthy, false);
        let ejected = || ejected(HealthStatus::Healthy);
        fn normal(may: &[bool]) -> Result<(Mode, &[bool]), NoEndpoint> {
            Ok((Mode::Normal, may))
        }
        check(&[up(), down(), new(), drained(), gone()], normal(&[true, false, true, false, false]));
        check(&[up(), ejected()], normal(&[true, false]));
        check(&[down(), ejected(), drained()], Ok((Mode::DespiteEjection, &[false, true, false])));
        check(&[down(), drained(), down()], Ok((Mode::Panic, &[true, false, true])));
        check(
            &[drained(), endpoint_state(Admin::Disabled, HealthStatus::Unhealthy, true)],
            Err(NoEndpoint::NoneEnabled),
        );
        check(&[gone()], Err(NoEndpoint::Empty));
        check(&[], Err(NoEndpoint::Empty));
    }

    #[test]
    fn a_session_that_was_turned_down_goes_as_low_as_panic_lets_it() {
        use Mode::{DespiteEjection, Normal};
        for (mode, is_retry, panic, expected) in [
            (Normal, false, Panic::All, Standing::Usable),
            (Normal, true, Panic::All, Standing::Down),
            (Normal, true, Panic::Never, Standing::Ejected),
            (DespiteEjection, false, Panic::All, Standing::Ejected),
            (DespiteEjection, true, Panic::All, Standing::Down),
            (DespiteEjection, true, Panic::Never, Standing::Ejected),
            (Mode::Panic, false, Panic::All, Standing::Down),
        ] {
            assert_eq!(lowest(mode, is_retry, panic), expected, "{mode:?}, {is_retry}, {panic:?}");
        }
        assert_eq!(standing(&ejected(HealthStatus::Healthy)), Some(Standing::EjectedHealthy));
        assert_eq!(standing(&ejected(HealthStatus::Undecided)), Some(Standing::Ejected));
        assert_eq!(standing(&ejected(HealthStatus::Unhealthy)), Some(Standing::Down));
    }
}
