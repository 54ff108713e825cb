//! Ejection: an endpoint whose dials fail in a row, or whose sessions die young, is set aside for a while.
//!
//! Database clusters have two or three endpoints and few connections, so nothing here is a statistic: what counts are
//! failures in a row, of each kind apart. Evidence of health ends it: when its time is over **we** try the endpoint, without
//! a client, and a probe or a session that reaches as far as to what it was set aside for does as well. The time grows
//! only where the endpoint has not served well in between. Whether an endpoint may be spared at all is the caller's: the
//! last one that is usable never is.

use std::time::{Duration, Instant};

use fastrand::Rng;

/// When an endpoint is ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Failures of one kind in a row that eject; so many sessions are also what it takes to have served well. At least 1.
    pub consecutive_failures: u32,
    /// How long the first time; it is multiplied by the number of times in a row. To have served well, an endpoint must
    /// have been back for so long, too.
    pub base_ejection_time: Duration,
    /// No ejection is longer. Who has been back for so long has served well, however few its sessions.
    pub max_ejection_time: Duration,
    /// A session that the server ends this soon died young; zero: none does.
    pub early_close: Duration,
}

/// What an endpoint did wrong, in the order in which a dial meets it: who got as far as to one is past those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It could not be reached.
    Connect,
    /// It was, and the protocol's way to TLS ended elsewhere.
    Upgrade,
    /// That worked or was not needed, and TLS failed.
    Handshake,
    /// All of that worked, and then it ended the session at once.
    EarlyClose,
}

/// Where an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Among the others. Exit: `Ejected`.
    In,
    /// Set aside. Exits: `OnTrial`, when its time is over; `In`, by evidence of health.
    Ejected {
        /// When we try it.
        until: Instant,
        /// What for.
        fault: Fault,
    },
    /// We try it. Exits: `In`, when that succeeds, or by other evidence; `Ejected`, when it fails or is called off.
    OnTrial {
        /// What it was set aside for.
        fault: Fault,
    },
}

/// An endpoint that was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// What for.
    pub fault: Fault,
    /// How many of these there were in a row.
    pub failures: u32,
    /// For how long.
    pub lasts: Duration,
    /// Which time it is, without having served well in between.
    pub times: u32,
    /// Whether it was on trial, and had not come back in between.
    pub again: bool,
}

/// What is remembered of one endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Outlier {
    state: State,
    /// In a row, by kind.
    failures: [u32; Fault::ALL.len()],
    /// How often it was ejected without having served well in between.
    times: u32,
    /// When it last came back.
    back: Option<Instant>,
    /// Dials that succeeded since.
    served: u32,
}

/// The same for a process that goes on with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it is.
    pub state: State,
    /// Failures in a row, in the order of [`Fault::ALL`].
    pub failures: [u32; Fault::ALL.len()],
    /// How often it was ejected without having served well in between.
    pub times: u32,
    /// When it last came back.
    pub back: Option<Instant>,
    /// Dials that succeeded since.
    pub served: u32,
}

impl Outlier {
    /// Nothing is held against it.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::In, failures: [0; Fault::ALL.len()], times: 0, back: None, served: 0 }
    }

    /// As it was in another process. A trial that is on its way there is nothing to us: it is tried at once; and it is set
    /// aside no longer than these settings let it be.
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

    /// Where it is.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// What a process has to know that goes on with it.
    #[must_use]
    pub const fn snapshot(&self) -> Snapshot {
        let Self { state, failures, times, back, served } = *self;
        Snapshot { state, failures, times, back, served }
    }

    /// Whether it is among the others.
    #[must_use]
    pub const fn is_admitted(&self) -> bool {
        matches!(self.state, State::In)
    }

    /// When we are to try it; `None` where it is not set aside, or is being tried.
    #[must_use]
    pub const fn trial_due(&self) -> Option<Instant> {
        match self.state {
            State::Ejected { until, .. } => Some(until),
            State::In | State::OnTrial { .. } => None,
        }
    }

    /// Our trial of it begins, if it is set aside. It ends in [`Outlier::record_proof`], [`Outlier::record_trial_failure`] or
    /// [`Outlier::postpone_trial`].
    pub const fn begin_trial(&mut self) {
        if let State::Ejected { fault, .. } = self.state {
            self.state = State::OnTrial { fault };
        }
    }

    /// The trial said nothing: the next is at that moment.
    pub const fn postpone_trial(&mut self, next: Instant) {
        if let State::OnTrial { fault } = self.state {
            self.state = State::Ejected { until: next, fault };
        }
    }

    /// The trial failed, by that fault: it is set aside for longer.
    pub fn record_trial_failure(
        &mut self,
        settings: &Settings,
        fault: Fault,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<Ejection> {
        matches!(self.state, State::OnTrial { .. }).then(|| self.eject(settings, fault, 1, now, rng))
    }

    /// Something hints that it may be well: it is tried at once.
    pub fn expedite(&mut self, now: Instant) {
        if let State::Ejected { until, .. } = &mut self.state {
            *until = now.min(*until);
        }
    }

    /// It was seen to do all that comes before that fault, and that too. Whether it is back by that.
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

    /// A session's dial succeeded. Whether it is back by that.
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

    /// The server has greeted: whatever comes before TLS is in order. Whether it is back by that.
    pub fn record_greeting(&mut self, now: Instant) -> bool {
        self.failures[..=Fault::Upgrade as usize].fill(0);
        self.record_proof(Fault::Upgrade, now)
    }

    /// A session lived long enough. Whether it is back by that.
    pub fn record_survival(&mut self, now: Instant) -> bool {
        self.failures[Fault::EarlyClose as usize] = 0;
        self.record_proof(Fault::EarlyClose, now)
    }

    /// It did something wrong to a session; `may_eject`: it is not the last one that is usable.
    pub fn record_failure(
        &mut self,
        settings: &Settings,
        fault: Fault,
        may_eject: bool,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<Ejection> {
        if !self.is_admitted() {
            // It is known, and its trial will tell.
            return None;
        }
        // It got as far as to the step that failed, so those before it are in order.
        self.failures[..fault as usize].fill(0);
        let failures = &mut self.failures[fault as usize];
        *failures = failures.saturating_add(1);
        let failures = *failures;
        (failures >= settings.consecutive_failures && may_eject)
            .then(|| self.eject(settings, fault, failures, now, rng))
    }

    /// Between all and three quarters of the time, so that several do not come back in the same moment.
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
        let lasts = whole.mul_f64(1.0 - rng.f64() / 4.0);
        self.state = State::Ejected { until: now + lasts, fault };
        self.failures = [0; Fault::ALL.len()];
        Ejection { fault, failures, lasts, times: self.times, again }
    }

    /// Since it came back: enough sessions over some time, or a long time.
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

    /// The fault of that word.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.label() == label)
    }

    /// The word in metrics and in the log.
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

        /// Until it is ejected once more.
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

    /// One that is dead for a short while again and again had been set aside for 4, 8, ... 29 s, although it served well in between.
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
