//! Outlier ejection: an endpoint whose dials fail in a row, or whose sessions end early, is not used for a while.
//!
//! A database cluster has two or three endpoints and few connections, so nothing here is a statistic: consecutive
//! failures are counted, each kind separately. Evidence of health ends an ejection: when its time is over, we try the
//! endpoint without a client (a trial); a probe or a session also ends it, if it gets past the step at which the
//! endpoint failed. The ejection time grows only if the endpoint has not served well in between. The caller decides
//! whether an endpoint may be ejected at all: the last usable one never is.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::backoff;

/// When an endpoint is ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Consecutive failures of one kind that eject an endpoint, and the sessions that it has to serve to have served
    /// well. At least 1.
    pub consecutive_failures: u32,
    /// The time of the first ejection; a later one lasts this times the number of ejections in a row. To have served
    /// well, an endpoint must also have been back for this long.
    pub base_ejection_time: Duration,
    /// The longest ejection. An endpoint that has been back for this long has served well, even with few sessions.
    pub max_ejection_time: Duration,
    /// A session that the server ends within this time ended early; zero: none does.
    pub early_close: Duration,
}

/// What an endpoint did wrong, in the order of a dial's steps: an endpoint that fails at one step has passed those
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It could not be reached.
    Connect,
    /// It was reached, but the protocol's upgrade to TLS failed.
    Upgrade,
    /// The upgrade succeeded or was not needed, and the TLS handshake failed.
    Handshake,
    /// All of that succeeded, and then it ended the session at once.
    EarlyClose,
}

/// Whether an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not ejected. Exit: `Ejected`.
    In,
    /// Exits: `OnTrial`, when its time is over or in a round of the breaker's trials; `In`, by evidence of health.
    Ejected {
        /// When its trial is due.
        until: Instant,
        /// The fault that it was ejected for.
        fault: Fault,
    },
    /// A trial is in progress. Exits: `In`, when it succeeds, or by other evidence; `Ejected`, when it fails or is
    /// postponed.
    OnTrial {
        /// The fault that it was ejected for.
        fault: Fault,
    },
}

/// One ejection of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// The fault that caused it.
    pub fault: Fault,
    /// The number of consecutive failures.
    pub failures: u32,
    /// How long it lasts.
    pub lasts: Duration,
    /// The number of ejections, this one included, since the endpoint last served well.
    pub times: u32,
    /// Whether the endpoint was still ejected: its trial failed.
    pub again: bool,
}

/// What is remembered of one endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Outlier {
    state: State,
    /// Consecutive failures, by kind.
    failures: [u32; Fault::ALL.len()],
    /// Ejections since it last served well.
    times: u32,
    /// When it last came back.
    back: Option<Instant>,
    /// Dials that succeeded since `back`.
    served: u32,
}

/// The state of an endpoint, to hand over to a successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether it is ejected.
    pub state: State,
    /// Consecutive failures, in the order of [`Fault::ALL`].
    pub failures: [u32; Fault::ALL.len()],
    /// Ejections since it last served well.
    pub times: u32,
    /// When it last came back.
    pub back: Option<Instant>,
    /// Dials that succeeded since `back`.
    pub served: u32,
}

impl Outlier {
    /// Not ejected, without a failure.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::In, failures: [0; Fault::ALL.len()], times: 0, back: None, served: 0 }
    }

    /// Resumes the state of a predecessor. A trial in progress there does not count here: the endpoint is tried at
    /// once. An ejection ends no later than these settings allow.
    #[must_use]
    pub fn resume(settings: &Settings, snapshot: Snapshot, now: Instant) -> Self {
        let Snapshot { state, failures, times, back, served } = snapshot;
        let state = match state {
            State::In => State::In,
            State::Ejected { until, fault } => {
                State::Ejected { until: until.min(now + settings.max_ejection_time), fault }
            }
            State::OnTrial { fault } => State::Ejected { until: now, fault },
        };
        Self { state, failures, times, back: back.map(|back| back.min(now)), served }
    }

    /// Whether it is ejected.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The state to hand over to a successor.
    #[must_use]
    pub const fn snapshot(&self) -> Snapshot {
        let Self { state, failures, times, back, served } = *self;
        Snapshot { state, failures, times, back, served }
    }

    /// Whether it is neither ejected nor on trial.
    #[must_use]
    pub const fn is_admitted(&self) -> bool {
        matches!(self.state, State::In)
    }

    /// When its trial is due; `None` if it is not ejected, or if the trial is in progress.
    #[must_use]
    pub const fn trial_due(&self) -> Option<Instant> {
        match self.state {
            State::Ejected { until, .. } => Some(until),
            State::In | State::OnTrial { .. } => None,
        }
    }

    /// Begins a trial, if the endpoint is ejected. The trial ends in [`Outlier::record_proof`],
    /// [`Outlier::record_trial_failure`] or [`Outlier::postpone_trial`].
    pub const fn begin_trial(&mut self) {
        if let State::Ejected { fault, .. } = self.state {
            self.state = State::OnTrial { fault };
        }
    }

    /// The trial was inconclusive: another is due at `next`.
    pub const fn postpone_trial(&mut self, next: Instant) {
        if let State::OnTrial { fault } = self.state {
            self.state = State::Ejected { until: next, fault };
        }
    }

    /// The trial failed by that fault: the endpoint is ejected for longer.
    pub fn record_trial_failure(
        &mut self,
        settings: &Settings,
        fault: Fault,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<Ejection> {
        matches!(self.state, State::OnTrial { .. }).then(|| self.eject(settings, fault, 1, now, rng))
    }

    /// Something suggests that the endpoint may be healthy: its trial is due at once.
    pub fn expedite(&mut self, now: Instant) {
        if let State::Ejected { until, .. } = &mut self.state {
            *until = now.min(*until);
        }
    }

    /// The endpoint passed all steps up to and including `up_to`. Returns whether that ended its ejection.
    pub fn record_proof(&mut self, up_to: Fault, now: Instant) -> bool {
        match self.state {
            State::In => false,
            State::Ejected { fault, .. } | State::OnTrial { fault } if fault > up_to => false,
            State::Ejected { .. } | State::OnTrial { .. } => {
                *self = Self { state: State::In, times: self.times, back: Some(now), ..Self::new() };
                true
            }
        }
    }

    /// A session's dial succeeded. Returns whether that ended an ejection.
    pub fn record_success(&mut self, now: Instant) -> bool {
        if self.record_proof(Fault::Handshake, now) {
            return true;
        }
        if self.is_admitted() {
            let early = self.failures[Fault::EarlyClose as usize];
            self.failures = [0; Fault::ALL.len()];
            self.failures[Fault::EarlyClose as usize] = early;
            self.served = self.served.saturating_add(1);
        }
        false
    }

    /// The server sent its greeting, so connecting and the upgrade work. Returns whether that ended an ejection.
    pub fn record_greeting(&mut self, now: Instant) -> bool {
        self.failures[..=Fault::Upgrade as usize].fill(0);
        self.record_proof(Fault::Upgrade, now)
    }

    /// A session lived long enough. Returns whether that ended an ejection.
    pub fn record_survival(&mut self, now: Instant) -> bool {
        self.failures[Fault::EarlyClose as usize] = 0;
        self.record_proof(Fault::EarlyClose, now)
    }

    /// A session met a fault of the endpoint; `may_eject`: another endpoint is usable.
    pub fn record_failure(
        &mut self,
        settings: &Settings,
        fault: Fault,
        may_eject: bool,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<Ejection> {
        if !self.is_admitted() {
            // It is ejected already, and only its trial decides.
            return None;
        }
        // It reached the step that failed, so it passed those before it.
        self.failures[..fault as usize].fill(0);
        let failures = &mut self.failures[fault as usize];
        *failures = failures.saturating_add(1);
        let failures = *failures;
        (failures >= settings.consecutive_failures && may_eject)
            .then(|| self.eject(settings, fault, failures, now, rng))
    }

    /// Takes off up to a quarter at random, so that several endpoints do not come back at the same moment.
    fn eject(
        &mut self,
        settings: &Settings,
        fault: Fault,
        failures: u32,
        now: Instant,
        rng: &mut Rng,
    ) -> Ejection {
        let again = !self.is_admitted();
        if !again && self.served_well(settings, now) {
            self.times = 0;
        }
        self.times = self.times.saturating_add(1);
        let whole = settings.base_ejection_time.saturating_mul(self.times).min(settings.max_ejection_time);
        let lasts = backoff::jittered(whole, 0.25, rng);
        self.state = State::Ejected { until: now + lasts, fault };
        self.failures = [0; Fault::ALL.len()];
        Ejection { fault, failures, lasts, times: self.times, again }
    }

    /// Since it came back: enough sessions over `base_ejection_time`, or `max_ejection_time` without ejection.
    fn served_well(&self, settings: &Settings, now: Instant) -> bool {
        let Some(back) = self.back else { return true };
        let for_so_long = now.saturating_duration_since(back);
        for_so_long >= settings.max_ejection_time
            || (for_so_long >= settings.base_ejection_time && self.served >= settings.consecutive_failures)
    }
}

impl Default for Outlier {
    fn default() -> Self {
        Self::new()
    }
}

impl Fault {
    /// All of them, in the order in which a dial meets them.
    pub const ALL: [Self; 4] = [Self::Connect, Self::Upgrade, Self::Handshake, Self::EarlyClose];

    /// The fault with that label.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.label() == label)
    }

    /// The label in metrics and in the log.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Upgrade => "upgrade",
            Self::Handshake => "handshake",
            Self::EarlyClose => "early_close",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const SECOND: Duration = Duration::from_secs(1);
    const SETTINGS: Settings = Settings {
        consecutive_failures: 3,
        base_ejection_time: SECOND,
        max_ejection_time: Duration::from_secs(10),
        early_close: SECOND,
    };

    /// An endpoint with its clock and generator.
    struct World {
        outlier: Outlier,
        now: Instant,
        rng: Rng,
    }

    impl World {
        fn new() -> Self {
            Self { outlier: Outlier::new(), now: clock::now(), rng: Rng::with_seed(3) }
        }

        fn ejected(fault: Fault) -> Self {
            let mut world = Self::new();
            assert_eq!(world.failing(&[fault; 3]), [false, false, true]);
            world
        }

        fn fail(&mut self, fault: Fault, may_eject: bool) -> Option<Ejection> {
            self.outlier.record_failure(&SETTINGS, fault, may_eject, self.now, &mut self.rng)
        }

        fn failing(&mut self, faults: &[Fault]) -> Vec<bool> {
            faults.iter().map(|fault| self.fail(*fault, true).is_some()).collect()
        }

        /// Fails until it is ejected again.
        fn eject(&mut self) -> Ejection {
            (0..3).find_map(|_| self.fail(Fault::Connect, true)).expect("three are enough")
        }

        fn fail_trial(&mut self, fault: Fault) -> Option<Ejection> {
            self.now = self.now.max(self.outlier.trial_due().expect("it is set aside"));
            self.outlier.begin_trial();
            self.outlier.record_trial_failure(&SETTINGS, fault, self.now, &mut self.rng)
        }

        fn pass(&mut self, seconds: u32, sessions: u32) {
            (0..sessions).for_each(|_| _ = self.outlier.record_success(self.now));
            self.now += seconds * SECOND;
        }
    }

    #[test]
    fn three_of_a_kind_in_a_row_eject() {
        use Fault::{Connect, EarlyClose, Handshake, Upgrade};
        for (faults, expected) in [
            (&[Connect, Connect, Connect][..], &[false, false, true][..]),
            (&[Handshake, Handshake, Connect, Handshake], &[false, false, false, true]),
            (&[Connect, Connect, Handshake, Connect], &[false; 4]),
            (&[Upgrade, Upgrade, Connect, Handshake, Upgrade, Upgrade], &[false; 6]),
            (&[EarlyClose, EarlyClose, EarlyClose], &[false, false, true]),
        ] {
            assert_eq!(World::new().failing(faults), expected, "{faults:?}");
        }
    }

    #[test]
    fn a_success_starts_over_but_a_session_has_to_last_to_forgive_one_that_did_not() {
        let mut world = World::new();
        world.failing(&[Fault::Connect, Fault::Connect]);
        world.outlier.record_success(world.now);
        assert_eq!(world.failing(&[Fault::Connect, Fault::Connect]), [false, false]);
        world.failing(&[Fault::EarlyClose, Fault::EarlyClose]);
        world.outlier.record_success(world.now);
        assert_eq!(world.failing(&[Fault::EarlyClose]), [true]);
        let mut world = World::new();
        world.failing(&[Fault::EarlyClose, Fault::EarlyClose]);
        assert!(!world.outlier.record_survival(world.now));
        assert_eq!(world.failing(&[Fault::EarlyClose]), [false]);
    }

    #[test]
    fn evidence_ends_an_ejection_if_it_reaches_as_far_as_to_the_fault() {
        for fault in Fault::ALL {
            for evidence in Fault::ALL {
                let mut world = World::ejected(fault);
                let is_back = world.outlier.record_proof(evidence, world.now);
                assert_eq!((is_back, world.outlier.is_admitted()), (evidence >= fault, evidence >= fault));
                let mut tried = World::ejected(fault);
                tried.outlier.begin_trial();
                assert_eq!(tried.outlier.record_proof(evidence, tried.now), evidence >= fault);
            }
        }
    }

    #[test]
    fn a_session_that_succeeds_ends_it_and_one_that_lasts_where_sessions_died_young() {
        let mut world = World::ejected(Fault::Handshake);
        assert!(world.outlier.record_success(world.now) && world.outlier.is_admitted());
        assert!(!world.outlier.record_success(world.now), "it is back once");
        let mut world = World::ejected(Fault::EarlyClose);
        assert!(!world.outlier.record_success(world.now));
        assert!(world.outlier.record_survival(world.now) && world.outlier.is_admitted());
    }

    #[test]
    fn one_that_may_not_be_ejected_is_when_it_may() {
        let mut world = World::new();
        for _ in 0..5 {
            assert_eq!(world.fail(Fault::Connect, false), None);
        }
        assert_eq!(world.fail(Fault::Connect, true).unwrap().failures, 6);
    }

    #[test]
    fn we_try_it_when_its_time_is_over() {
        let mut world = World::ejected(Fault::Connect);
        let due = world.outlier.trial_due().unwrap();
        assert!((SECOND * 3 / 4..=SECOND).contains(&(due - world.now)));
        world.outlier.begin_trial();
        assert_eq!(world.outlier.trial_due(), None);
        assert_eq!(world.fail(Fault::Connect, true), None, "a session's dial: the trial will tell");
        world.outlier.postpone_trial(due + SECOND);
        assert_eq!(world.outlier.trial_due(), Some(due + SECOND));
        world.outlier.expedite(due);
        world.outlier.expedite(due + SECOND);
        assert_eq!(world.outlier.trial_due(), Some(due));
        assert!(world.fail_trial(Fault::Handshake).unwrap().again);
        assert_eq!(
            world.outlier.record_trial_failure(&SETTINGS, Fault::Connect, world.now, &mut world.rng),
            None
        );
    }

    #[test]
    fn the_time_grows_with_each_trial_that_fails_up_to_the_most() {
        let mut world = World::ejected(Fault::Handshake);
        for times in 2..=12_u32 {
            let Ejection { lasts, times: counted, .. } = world.fail_trial(Fault::Connect).expect("again");
            let whole = SECOND * times.min(10);
            assert_eq!(counted, times);
            assert!((whole * 3 / 4..=whole).contains(&lasts), "{lasts:?} the {times}th time");
        }
    }

    /// An endpoint that was down briefly again and again was ejected for 4, 8, ... 29 s, although it served well in
    /// between.
    #[test]
    fn the_time_does_not_grow_where_the_endpoint_has_served_well_in_between() {
        for (seconds, sessions, grows) in [
            (0, 0, true),
            (0, 100, true),
            (2, 0, true),
            (2, 2, true),
            (1, 3, false),
            (2, 100, false),
            (10, 0, false),
        ] {
            let mut world = World::ejected(Fault::Connect);
            world.fail_trial(Fault::Connect);
            assert!(world.outlier.record_proof(Fault::Handshake, world.now));
            world.pass(seconds, sessions);
            let times = world.eject().times;
            assert_eq!(times, if grows { 3 } else { 1 }, "{seconds} s, {sessions} sessions");
        }
    }

    #[test]
    fn another_process_goes_on_where_it_was() {
        let mut world = World::new();
        world.failing(&[Fault::Connect, Fault::Connect]);
        let resume = |world: &World| Outlier::resume(&SETTINGS, world.outlier.snapshot(), world.now);
        world.outlier = resume(&world);
        assert_eq!(world.failing(&[Fault::Connect]), [true], "the third in a row");
        let before = world.outlier.snapshot();
        world.outlier = resume(&world);
        assert_eq!(world.outlier.snapshot(), before);
        world.outlier.begin_trial();
        world.outlier = resume(&world);
        assert_eq!(
            world.outlier.trial_due(),
            Some(world.now),
            "the trial of the other process says nothing here"
        );
        let far = State::Ejected { until: world.now + 1000 * SECOND, fault: Fault::Connect };
        let limited = Outlier::resume(&SETTINGS, Snapshot { state: far, ..before }, world.now);
        assert_eq!(limited.trial_due(), Some(world.now + SETTINGS.max_ejection_time));
    }
}
