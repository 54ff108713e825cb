//! The breaker of a cluster: after enough dials in a row failed, sessions are refused at once for a while, and then a few
//! real dials tell whether that is over.
//!
//! Words as everywhere: **closed lets traffic pass, open refuses**. What counts is a dial attempt, not a session: three
//! attempts of one session are three. An attempt that began before the breaker last changed says nothing about what came
//! after, so its result does not count.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use fastrand::Rng;

/// When it opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row that open it; at least 1.
    pub consecutive_failures: u32,
    /// How long it refuses the first time; it doubles each time that the trials fail.
    pub open_for: Duration,
    /// It refuses no longer than this.
    pub max_open_for: Duration,
    /// Dials that may be on their way while it is half-open, and how many have to succeed to close it; at least 1.
    pub half_open_trials: u32,
}

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Traffic passes. Exit: `Open`, after `consecutive_failures`.
    Closed {
        /// Failures since the last success.
        failures: u32,
    },
    /// Everything is refused. Exit: `HalfOpen`, by the first dial that is wanted after `until`.
    Open {
        /// When dials are tried again.
        until: Instant,
    },
    /// A few dials are tried. Exits: `Closed`, when enough succeeded; `Open`, when one fails.
    HalfOpen {
        /// Trials that may begin still.
        left: u32,
        /// Trials that have to succeed still.
        needed: u32,
    },
}

/// What the metrics and the log call a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the states' own names")]
pub enum Label {
    Closed,
    HalfOpen,
    Open,
}

/// The breaker of one cluster.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    state: State,
    /// Counts the changes of state, so that what began before one can be told from what began after.
    era: NonZeroU32,
    /// How often it opened in a row without having closed.
    openings: u32,
}

/// Where a breaker is, for a process that goes on with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it is.
    pub state: State,
    /// How often it opened in a row without having closed.
    pub openings: u32,
}

/// Which era a dial began in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit(NonZeroU32);

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// What it was.
    pub from: Label,
    /// What it is.
    pub to: Label,
    /// How long it will refuse, when it opened.
    pub open_for: Option<Duration>,
}

/// Why a dial is not permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is open.
    #[error(
        "the cluster's last dials failed, so nothing is dialled for another {} ms (circuit_breaker)",
        left.as_millis()
    )]
    Open {
        /// How long it will be.
        left: Duration,
    },
    /// It is half-open, and its trials are on their way.
    #[error("the cluster's last dials failed; whether it is back is being tried (circuit_breaker)")]
    Trying,
}

impl Breaker {
    /// Closed.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self { settings, state: State::Closed { failures: 0 }, era: NonZeroU32::MIN, openings: 0 }
    }

    /// From now on these count; where it is, it stays.
    pub const fn reconfigure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// As it was in another process. Whose trials are on their way there is nothing to us, so trials begin anew; and it is
    /// open no longer than these settings let it be.
    #[must_use]
    pub fn resume(settings: Settings, snapshot: Snapshot, now: Instant) -> Self {
        let state = match snapshot.state {
            State::Closed { failures } => State::Closed { failures },
            State::Open { until } => State::Open { until: until.min(now + settings.max_open_for) },
            State::HalfOpen { .. } => State::Open { until: now },
        };
        Self { settings, state, era: NonZeroU32::MIN, openings: snapshot.openings }
    }

    /// Where it is.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// What a process has to know that goes on with it.
    #[must_use]
    pub const fn snapshot(&self) -> Snapshot {
        Snapshot { state: self.state, openings: self.openings }
    }

    /// Whether a dial would be permitted now.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, now: Instant) -> Result<(), Refused> {
        match self.state {
            State::Closed { .. } => Ok(()),
            State::Open { until } if now < until => Err(Refused::Open { left: until - now }),
            State::Open { .. } => Ok(()),
            State::HalfOpen { left: 0, .. } => Err(Refused::Trying),
            State::HalfOpen { .. } => Ok(()),
        }
    }

    /// A dial that was permitted begins. It ends in [`Breaker::succeeded`], [`Breaker::failed`] or [`Breaker::untold`].
    pub fn begin(&mut self, now: Instant) -> (Permit, Option<Transition>) {
        let transition = match self.state {
            State::Open { until } if now >= until => {
                let trials = self.settings.half_open_trials;
                Some(self.turn(State::HalfOpen { left: trials, needed: trials }, None))
            }
            State::Open { .. } | State::Closed { .. } | State::HalfOpen { .. } => None,
        };
        if let State::HalfOpen { left, .. } = &mut self.state {
            *left = left.saturating_sub(1);
        }
        (Permit(self.era), transition)
    }

    /// That dial reached its endpoint.
    pub fn succeeded(&mut self, permit: Permit) -> Option<Transition> {
        if permit.0 != self.era {
            return None;
        }
        match &mut self.state {
            State::Closed { failures } => {
                *failures = 0;
                None
            }
            State::Open { .. } => None,
            State::HalfOpen { needed, .. } => {
                *needed = needed.saturating_sub(1);
                if *needed > 0 {
                    return None;
                }
                self.openings = 0;
                Some(self.turn(State::Closed { failures: 0 }, None))
            }
        }
    }

    /// That dial failed.
    pub fn failed(&mut self, permit: Permit, now: Instant, rng: &mut Rng) -> Option<Transition> {
        if permit.0 != self.era {
            return None;
        }
        match &mut self.state {
            State::Closed { failures } => {
                *failures += 1;
                (*failures >= self.settings.consecutive_failures).then(|| self.open(now, rng))
            }
            State::Open { .. } => None,
            State::HalfOpen { .. } => Some(self.open(now, rng)),
        }
    }

    /// That dial was called off: nothing is learnt, and a trial may be made in its place.
    pub const fn untold(&mut self, permit: Permit) {
        if permit.0.get() == self.era.get()
            && let State::HalfOpen { left, .. } = &mut self.state
        {
            *left += 1;
        }
    }

    /// Between all and three quarters of `open_for` × 2^n, so that many daemons do not try in the same moment.
    fn open(&mut self, now: Instant, rng: &mut Rng) -> Transition {
        let factor = 1_u32.checked_shl(self.openings).unwrap_or(u32::MAX);
        self.openings = self.openings.saturating_add(1);
        let whole = self.settings.open_for.saturating_mul(factor).min(self.settings.max_open_for);
        let open_for = whole.mul_f64(1.0 - rng.f64() / 4.0);
        self.turn(State::Open { until: now + open_for }, Some(open_for))
    }

    const fn turn(&mut self, to: State, open_for: Option<Duration>) -> Transition {
        let from = self.state.label();
        self.state = to;
        self.era = match self.era.checked_add(1) {
            Some(era) => era,
            None => NonZeroU32::MIN,
        };
        Transition { from, to: to.label(), open_for }
    }
}

impl State {
    /// What the metrics and the log call it.
    #[must_use]
    pub const fn label(self) -> Label {
        match self {
            Self::Closed { .. } => Label::Closed,
            Self::Open { .. } => Label::Open,
            Self::HalfOpen { .. } => Label::HalfOpen,
        }
    }
}

impl Label {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// The word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }

    /// The value of the gauge `breaker_state`.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
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
        open_for: Duration::from_secs(4),
        max_open_for: Duration::from_secs(10),
        half_open_trials: 2,
    };

    struct Told {
        breaker: Breaker,
        now: Instant,
        rng: Rng,
    }

    impl Told {
        fn new() -> Self {
            Self { breaker: Breaker::new(SETTINGS), now: clock::now(), rng: Rng::with_seed(5) }
        }

        fn begin(&mut self) -> Option<Permit> {
            self.breaker.check(self.now).ok()?;
            Some(self.breaker.begin(self.now).0)
        }

        fn fail(&mut self) -> Option<Transition> {
            let permit = self.begin().expect("permitted");
            self.breaker.failed(permit, self.now, &mut self.rng)
        }

        fn opened() -> Self {
            let mut told = Self::new();
            assert_eq!((told.fail(), told.fail()), (None, None));
            assert_eq!(told.fail().unwrap().to, Label::Open);
            told
        }

        /// To the moment when it may be tried again.
        fn wait(&mut self) -> Duration {
            let State::Open { until } = self.breaker.state() else { panic!("it is not open") };
            let left = until - self.now;
            self.now += left - Duration::from_nanos(1);
            assert_eq!(self.begin(), None, "a moment too early");
            self.now += Duration::from_nanos(1);
            left
        }
    }

    #[test]
    fn it_opens_after_that_many_failures_in_a_row_and_a_success_starts_over() {
        let mut told = Told::new();
        told.fail();
        told.fail();
        let permit = told.begin().unwrap();
        assert_eq!(told.breaker.succeeded(permit), None);
        assert_eq!((told.fail(), told.fail()), (None, None));
        assert!(told.fail().is_some());
        assert_eq!(told.begin(), None);
    }

    #[test]
    fn half_open_lets_exactly_its_trials_through_and_closes_when_all_succeed() {
        let mut told = Told::opened();
        told.wait();
        let trials = [told.begin().unwrap(), told.begin().unwrap()];
        assert_eq!(told.breaker.check(told.now), Err(Refused::Trying));
        assert_eq!(told.breaker.succeeded(trials[0]), None);
        assert_eq!(told.begin(), None, "one has succeeded, the other is on its way");
        let closed = told.breaker.succeeded(trials[1]).unwrap();
        assert_eq!((closed.from, closed.to), (Label::HalfOpen, Label::Closed));
        assert!(told.begin().is_some());
    }

    #[test]
    fn a_trial_that_was_called_off_is_made_again() {
        let mut told = Told::opened();
        told.wait();
        let trials = [told.begin().unwrap(), told.begin().unwrap()];
        told.breaker.untold(trials[0]);
        assert!(told.begin().is_some());
        assert_eq!(told.begin(), None);
    }

    #[test]
    fn it_refuses_twice_as_long_each_time_with_jitter_up_to_the_most() {
        let mut told = Told::opened();
        for most in [4, 8, 10, 10] {
            let waited = told.wait();
            assert!((most * SECOND * 3 / 4..=most * SECOND).contains(&waited), "{waited:?} of {most} s");
            assert_eq!(told.fail().unwrap().to, Label::Open);
        }
        told.wait();
        for _ in 0..2 {
            let permit = told.begin().unwrap();
            told.breaker.succeeded(permit);
        }
        (0..3).for_each(|_| _ = told.fail());
        assert!(told.wait() <= 4 * SECOND, "it had closed in between");
    }

    #[test]
    fn what_began_before_a_change_says_nothing_about_after() {
        let mut told = Told::new();
        let early = [(); 4].map(|()| told.begin().unwrap());
        (0..3).for_each(|_| _ = told.fail());
        assert_eq!(told.breaker.succeeded(early[0]), None, "still open");
        assert_eq!(told.begin(), None);
        told.wait();
        let trial = told.begin().unwrap();
        assert_eq!(told.breaker.failed(early[1], told.now, &mut told.rng), None);
        told.breaker.untold(early[2]);
        assert_eq!(told.breaker.succeeded(trial), None);
        assert!(told.begin().is_some(), "the second trial, and not a third");
        assert_eq!(told.begin(), None);
    }

    #[test]
    fn another_process_goes_on_where_it_was() {
        let told = Told::opened();
        let State::Open { until } = told.breaker.state() else { panic!("it is open") };
        let resumed = |breaker: &Breaker, settings| Breaker::resume(settings, breaker.snapshot(), told.now);
        let mut next = Told { breaker: resumed(&told.breaker, SETTINGS), ..Told::new() };
        next.now = told.now;
        assert_eq!(next.breaker.state(), State::Open { until });
        next.wait();
        assert_eq!(next.fail().unwrap().to, Label::Open);
        assert!(next.wait() > 5 * SECOND, "it is the second opening in a row");
        let hasty = Settings { max_open_for: SECOND, ..SETTINGS };
        assert_eq!(resumed(&told.breaker, hasty).state(), State::Open { until: told.now + SECOND });
        let (_, half_open) = next.breaker.begin(next.now);
        assert_eq!(half_open.unwrap().to, Label::HalfOpen);
        let mut tried = resumed(&next.breaker, SETTINGS);
        assert_eq!(tried.begin(told.now).1.unwrap().to, Label::HalfOpen, "with trials of its own");
    }

    #[test]
    fn a_clock_that_stands_still_or_runs_far_ahead_does_no_harm() {
        let mut told = Told::opened();
        told.now += 1_000_000 * SECOND;
        for _ in 0..40 {
            told.fail();
            told.now += 1_000 * SECOND;
        }
    }
}
