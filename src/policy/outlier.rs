//! Ejection: an endpoint whose dials fail in a row, or whose sessions die young, is set aside for a while.
//!
//! Database clusters have two or three endpoints and few connections, so nothing here is a statistic: what counts are
//! failures in a row, of each kind apart. The time doubles as the number of ejections grows and shrinks as good time
//! passes. Who comes back does so by one dial on trial; the rest follows when that has succeeded. Whether an endpoint may
//! be spared at all is the caller's: the last one that is usable never is.

use std::time::{Duration, Instant};

use fastrand::Rng;

/// When an endpoint is ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Failures of one kind in a row; at least 1.
    pub consecutive_failures: u32,
    /// How long the first time; it is multiplied by the number of times.
    pub base_ejection_time: Duration,
    /// No ejection is longer; and so much good time makes it one time less.
    pub max_ejection_time: Duration,
    /// A session that the server ends this soon died young; zero: none does.
    pub early_close: Duration,
}

/// What an endpoint did wrong.
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
    /// Set aside. Exits: `OnTrial`, by the first dial after `until`; `In`, when a dial succeeded all the same.
    Ejected {
        /// When a dial may try it.
        until: Instant,
        /// What for.
        fault: Fault,
    },
    /// One dial tries it. Exits: `In`, when that succeeds; `Ejected`, when it fails or is called off.
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
    /// Which time it is.
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
    /// How often it was ejected lately.
    times: u32,
    /// When that number last went up or down.
    counted: Option<Instant>,
}

/// The same for a process that goes on with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it is.
    pub state: State,
    /// Failures in a row, in the order of [`Fault::ALL`].
    pub failures: [u32; Fault::ALL.len()],
    /// How often it was ejected lately.
    pub times: u32,
    /// When that number last went up or down.
    pub counted: Option<Instant>,
}

impl Outlier {
    /// Nothing is held against it.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::In, failures: [0; Fault::ALL.len()], times: 0, counted: None }
    }

    /// As it was in another process. The dial that is on trial there is nothing to us: the next may try it; and it is set
    /// aside no longer than these settings let it be.
    #[must_use]
    pub fn resume(settings: &Settings, snapshot: Snapshot, now: Instant) -> Self {
        let Snapshot { state, failures, times, counted } = snapshot;
        let latest = now + settings.max_ejection_time;
        let state = match state {
            State::In => State::In,
            State::Ejected { until, fault } => State::Ejected { until: until.min(latest), fault },
            State::OnTrial { fault } => State::Ejected { until: now, fault },
        };
        Self { state, failures, times, counted: counted.map(|counted| counted.min(latest)) }
    }

    /// Where it is.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// What a process has to know that goes on with it.
    #[must_use]
    pub const fn snapshot(&self) -> Snapshot {
        let Self { state, failures, times, counted } = *self;
        Snapshot { state, failures, times, counted }
    }

    /// Whether it is among the others.
    #[must_use]
    pub const fn is_in(&self) -> bool {
        matches!(self.state, State::In)
    }

    /// Whether a dial may try it, now that its time is over.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        matches!(self.state, State::Ejected { until, .. } if now >= until)
    }

    /// A dial on it begins. Whether it is the one that tries it.
    pub fn begin(&mut self, now: Instant) -> bool {
        match self.state {
            State::Ejected { until, fault } if now >= until => {
                self.state = State::OnTrial { fault };
                true
            }
            State::In | State::Ejected { .. } | State::OnTrial { .. } => false,
        }
    }

    /// The dial on trial was called off: the next may try.
    pub const fn untold(&mut self, now: Instant) {
        if let State::OnTrial { fault } = self.state {
            self.state = State::Ejected { until: now, fault };
        }
    }

    /// A dial succeeded, `on_trial` or as one of many. Whether it is back by that.
    pub const fn succeeded(&mut self, on_trial: bool) -> bool {
        if on_trial {
            self.state = State::In;
            self.failures = [0; Fault::ALL.len()];
            return true;
        }
        if self.is_in() {
            let early = self.failures[Fault::EarlyClose as usize];
            self.failures = [0; Fault::ALL.len()];
            self.failures[Fault::EarlyClose as usize] = early;
        }
        false
    }

    /// A session lived long enough.
    pub const fn lasted(&mut self) {
        self.failures[Fault::EarlyClose as usize] = 0;
    }

    /// It did something wrong; `may_eject`: it is not the last one that is usable.
    pub fn failed(
        &mut self,
        settings: &Settings,
        (fault, on_trial): (Fault, bool),
        may_eject: bool,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<Ejection> {
        match self.state {
            State::OnTrial { .. } if on_trial => return Some(self.eject(settings, fault, 1, now, rng)),
            // What began before says nothing new.
            State::OnTrial { .. } | State::Ejected { .. } => return None,
            State::In => {}
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
        if let Some(counted) = self.counted {
            let good = now.saturating_duration_since(counted).as_secs_f64();
            let forgiven = good / settings.max_ejection_time.as_secs_f64().max(f64::MIN_POSITIVE);
            // Saturates, and is never negative.
            self.times = self.times.saturating_sub(forgiven as u32);
        }
        self.times = self.times.saturating_add(1);
        let whole = settings.base_ejection_time.saturating_mul(self.times).min(settings.max_ejection_time);
        let lasts = whole.mul_f64(1.0 - rng.f64() / 4.0);
        let again = !self.is_in();
        self.state = State::Ejected { until: now + lasts, fault };
        self.counted = Some(now + lasts);
        self.failures = [0; Fault::ALL.len()];
        Ejection { fault, failures, lasts, times: self.times, again }
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

    struct Told {
        outlier: Outlier,
        now: Instant,
        rng: Rng,
    }

    impl Told {
        fn new() -> Self {
            Self { outlier: Outlier::new(), now: clock::now(), rng: Rng::with_seed(3) }
        }

        fn fail(&mut self, fault: Fault, on_trial: bool, may_eject: bool) -> Option<Ejection> {
            self.outlier.failed(&SETTINGS, (fault, on_trial), may_eject, self.now, &mut self.rng)
        }

        fn failing(&mut self, faults: &[Fault]) -> Vec<bool> {
            faults.iter().map(|fault| self.fail(*fault, false, true).is_some()).collect()
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
            assert_eq!(Told::new().failing(faults), expected, "{faults:?}");
        }
    }

    #[test]
    fn a_success_starts_over_but_a_session_has_to_last_to_forgive_one_that_did_not() {
        let mut told = Told::new();
        told.failing(&[Fault::Connect, Fault::Connect]);
        told.outlier.succeeded(false);
        assert_eq!(told.failing(&[Fault::Connect, Fault::Connect]), [false, false]);
        told.failing(&[Fault::EarlyClose, Fault::EarlyClose]);
        told.outlier.succeeded(false);
        assert_eq!(told.failing(&[Fault::EarlyClose]), [true]);
        let mut told = Told::new();
        told.failing(&[Fault::EarlyClose, Fault::EarlyClose]);
        told.outlier.lasted();
        assert_eq!(told.failing(&[Fault::EarlyClose]), [false]);
    }

    #[test]
    fn another_process_goes_on_where_it_was() {
        let mut told = Told::new();
        told.failing(&[Fault::Connect, Fault::Connect]);
        let resume = |told: &Told| Outlier::resume(&SETTINGS, told.outlier.snapshot(), told.now);
        told.outlier = resume(&told);
        assert_eq!(told.failing(&[Fault::Connect]), [true], "the third in a row");
        let before = told.outlier.snapshot();
        told.outlier = resume(&told);
        assert_eq!(told.outlier.snapshot(), before);
        told.now += 2 * SECOND;
        assert!(told.outlier.begin(told.now));
        told.outlier = resume(&told);
        assert!(told.outlier.begin(told.now), "the trial of the other process says nothing here");
        let far = State::Ejected { until: told.now + 1000 * SECOND, fault: Fault::Connect };
        let limited = Outlier::resume(&SETTINGS, Snapshot { state: far, ..before }, told.now);
        assert!(limited.is_due(told.now + SETTINGS.max_ejection_time));
    }

    #[test]
    fn one_that_may_not_be_ejected_is_when_it_may() {
        let mut told = Told::new();
        for _ in 0..5 {
            assert_eq!(told.fail(Fault::Connect, false, false), None);
        }
        assert_eq!(told.fail(Fault::Connect, false, true).unwrap().failures, 6);
    }

    #[test]
    fn it_returns_by_one_dial_on_trial() {
        let mut told = Told::new();
        told.failing(&[Fault::Connect; 3]);
        assert!(!told.outlier.is_in() && !told.outlier.is_due(told.now));
        assert!(!told.outlier.begin(told.now), "used because there is nobody else, it is no trial");
        told.now += SECOND;
        assert!(told.outlier.is_due(told.now));
        assert!(told.outlier.begin(told.now));
        assert!(!told.outlier.is_due(told.now) && !told.outlier.begin(told.now), "one at a time");
        assert_eq!(told.fail(Fault::Connect, false, true), None, "a dial from before");
        assert!(!told.outlier.succeeded(false), "another one from before");
        told.outlier.untold(told.now);
        assert!(told.outlier.begin(told.now), "the last was called off");
        assert!(told.outlier.succeeded(true));
        assert!(told.outlier.is_in());
    }

    #[test]
    fn the_time_grows_with_each_ejection_up_to_the_most_and_good_time_forgives() {
        let mut told = Told::new();
        let mut ejection = told.fail(Fault::Handshake, false, true);
        while ejection.is_none() {
            ejection = told.fail(Fault::Handshake, false, true);
        }
        for times in 1..=12_u32 {
            let Ejection { lasts, times: counted, .. } = ejection.expect("ejected again");
            let whole = SECOND * times.min(10);
            assert_eq!(counted, times);
            assert!((whole * 3 / 4..=whole).contains(&lasts), "{lasts:?} the {times}th time");
            told.now += lasts;
            assert!(told.outlier.begin(told.now));
            ejection = told.fail(Fault::Connect, true, false);
        }
        told.now += 30 * SECOND;
        assert!(told.outlier.begin(told.now));
        let times = told.fail(Fault::Connect, true, false).expect("on trial").times;
        assert!((11..=12).contains(&times), "13 before, and one forgiven for each ten seconds: {times}");
    }
}
