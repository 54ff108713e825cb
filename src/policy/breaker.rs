//! The breaker of a cluster: when dials fail in a row and no endpoint is known to be good, sessions are not dialled
//! for. They wait or are refused, and meanwhile we try the endpoints without a client (trials), until one serves.
//!
//! The usual terms apply: **closed lets traffic pass, open refuses**. Dial attempts are counted, not sessions: three
//! attempts of one session count as three. The breaker concerns the cluster and not an endpoint, so it opens only if
//! the last evidence of every endpoint is a failure. Any evidence of health closes it: a trial, a probe, or a dial that
//! was still in progress.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::backoff;

/// When the breaker opens, and how often the endpoints are tried then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Consecutive failures that open it; at least 1.
    pub consecutive_failures: u32,
    /// The time from opening to the first round of trials; it doubles from each round to the next.
    pub open_for: Duration,
    /// The longest time between two rounds.
    pub max_open_for: Duration,
    /// Successful trials, without a failed one in between, that close it; at least 1.
    pub half_open_trials: u32,
}

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Traffic passes. Exit: `Open`, after `consecutive_failures`, if no endpoint is left that may be good.
    Closed {
        /// Failures since the last success.
        failures: u32,
    },
    /// Sessions wait or are refused. Exits: `HalfOpen`, when a round of trials begins; `Closed`, by evidence of health.
    Open {
        /// When the next round begins.
        until: Instant,
    },
    /// As `Open`, with trials in progress. Exits: `Closed`, when enough succeeded, or by other evidence; `Open`, when
    /// the last of them has ended.
    HalfOpen {
        /// When the next round begins, for endpoints without a trial in progress: a trial that hangs delays no other.
        until: Instant,
        /// How many trials are in progress; at least 1.
        trials: u32,
    },
}

/// The label of a state in metrics and in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the states' own names")]
pub enum StateLabel {
    Closed,
    HalfOpen,
    Open,
}

/// The breaker of one cluster.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    state: State,
    /// Rounds of trials since a session was last served: the exponent of the next pause.
    rounds: u32,
    /// Trials that succeeded since it opened or since one failed.
    proven: u32,
}

/// The state of a breaker, to hand over to a successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether it is open.
    pub state: State,
    /// Rounds of trials since a session was last served.
    pub rounds: u32,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state that was left.
    pub from: StateLabel,
    /// The state that was entered.
    pub to: StateLabel,
    /// If it opened: the time to the next round of trials.
    pub open_for: Option<Duration>,
}

/// The breaker is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every endpoint failed when it was last tried; they are being tried again (circuit_breaker)")]
pub struct BreakerOpen;

impl Breaker {
    /// A closed breaker without failures.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self { settings, state: State::Closed { failures: 0 }, rounds: 0, proven: 0 }
    }

    /// Replaces the settings; the state is kept.
    pub const fn reconfigure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Resumes the state of a predecessor. Trials in progress there do not count here, so a round begins at once. The
    /// next round is no later than these settings allow.
    #[must_use]
    pub fn resume(settings: Settings, snapshot: Snapshot, now: Instant) -> Self {
        let state = match snapshot.state {
            State::Closed { failures } => State::Closed { failures },
            State::Open { until } => State::Open { until: until.min(now + settings.max_open_for) },
            State::HalfOpen { .. } => State::Open { until: now },
        };
        Self { settings, state, rounds: snapshot.rounds, proven: 0 }
    }

    /// The state with its counts and times.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The state to hand over to a successor.
    #[must_use]
    pub const fn snapshot(&self) -> Snapshot {
        Snapshot { state: self.state, rounds: self.rounds }
    }

    /// Whether a session may be dialled for.
    ///
    /// # Errors
    /// If the breaker is open or half-open.
    pub const fn check(&self) -> Result<(), BreakerOpen> {
        match self.state {
            State::Closed { .. } => Ok(()),
            State::Open { .. } | State::HalfOpen { .. } => Err(BreakerOpen),
        }
    }

    /// A session's dial succeeded, whenever it began: an endpoint serves.
    pub fn record_success(&mut self) -> Option<Transition> {
        self.rounds = 0;
        self.close()
    }

    /// A session's dial failed. `is_last_good`: the last evidence of every other endpoint is a failure too.
    pub fn record_failure(&mut self, is_last_good: bool, now: Instant, rng: &mut Rng) -> Option<Transition> {
        let State::Closed { failures } = &mut self.state else { return None };
        *failures = failures.saturating_add(1);
        if *failures < self.settings.consecutive_failures || !is_last_good {
            return None;
        }
        self.proven = 0;
        let pause = self.pause(rng);
        Some(self.turn(State::Open { until: now + pause }, Some(pause)))
    }

    /// Evidence that an endpoint serves, or may serve: a successful probe, or a new endpoint.
    pub fn close(&mut self) -> Option<Transition> {
        let was_open = !matches!(self.state, State::Closed { .. });
        let closed = State::Closed { failures: 0 };
        if was_open {
            return Some(self.turn(closed, None));
        }
        self.state = closed;
        None
    }

    /// Something suggests that the cluster may be back: the next round of trials begins at once.
    pub fn expedite(&mut self, now: Instant) {
        if let State::Open { until } | State::HalfOpen { until, .. } = &mut self.state {
            *until = now.min(*until);
        }
    }

    /// When the next round of trials begins; `None` while it is closed.
    #[must_use]
    pub const fn next_round(&self) -> Option<Instant> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { until } | State::HalfOpen { until, .. } => Some(until),
        }
    }

    /// Begins a round of `began` trials; each ends in [`Breaker::record_trial`]. A round may have none.
    pub fn begin_round(&mut self, began: u32, now: Instant, rng: &mut Rng) -> Option<Transition> {
        self.rounds = self.rounds.saturating_add(1);
        let until = now + self.pause(rng);
        match self.state {
            State::Closed { .. } => None,
            State::Open { .. } if began == 0 => {
                self.state = State::Open { until };
                None
            }
            State::Open { .. } => Some(self.turn(State::HalfOpen { until, trials: began }, None)),
            State::HalfOpen { trials, .. } => {
                self.state = State::HalfOpen { until, trials: trials.saturating_add(began) };
                None
            }
        }
    }

    /// A trial of a round ended; `None`: inconclusive.
    pub fn record_trial(&mut self, has_succeeded: Option<bool>, now: Instant) -> Option<Transition> {
        // A trial of an earlier opening may end now, or was counted off in place of one of this round. Its success
        // counts all the same.
        let (until, trials) = match &mut self.state {
            State::Closed { .. } => return None,
            State::Open { until } if has_succeeded == Some(true) => (until, &mut 1),
            State::Open { .. } => return None,
            State::HalfOpen { until, trials } => (until, trials),
        };
        *trials = trials.saturating_sub(1);
        match has_succeeded {
            Some(true) => {
                self.proven = self.proven.saturating_add(1);
                if self.proven >= self.settings.half_open_trials {
                    return self.close();
                }
                *until = now;
            }
            Some(false) => self.proven = 0,
            None => {}
        }
        let (until, is_over) = (*until, *trials == 0);
        (is_over && matches!(self.state, State::HalfOpen { .. }))
            .then(|| self.turn(State::Open { until }, None))
    }

    /// Trials in progress will not be reported: the next round begins at once.
    pub fn forget_trials(&mut self, now: Instant) -> Option<Transition> {
        self.expedite(now);
        matches!(self.state, State::HalfOpen { .. }).then(|| self.turn(State::Open { until: now }, None))
    }

    /// `open_for` × 2^n, less up to a quarter at random, so that many daemons do not try at the same moment.
    fn pause(&self, rng: &mut Rng) -> Duration {
        let whole = backoff::doubled(self.settings.open_for, self.rounds, self.settings.max_open_for);
        backoff::jittered(whole, 0.25, rng)
    }

    const fn turn(&mut self, to: State, open_for: Option<Duration>) -> Transition {
        let from = self.state.label();
        self.state = to;
        Transition { from, to: to.label(), open_for }
    }
}

impl State {
    /// The state without its data.
    #[must_use]
    pub const fn label(self) -> StateLabel {
        match self {
            Self::Closed { .. } => StateLabel::Closed,
            Self::Open { .. } => StateLabel::Open,
            Self::HalfOpen { .. } => StateLabel::HalfOpen,
        }
    }
}

impl StateLabel {
    /// Every label, in the order of [`StateLabel::number`].
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// The word in metrics, in `/status` and in the log.
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
        open_for: SECOND,
        max_open_for: Duration::from_secs(4),
        half_open_trials: 2,
    };

    /// A breaker with its clock and generator.
    struct World {
        breaker: Breaker,
        now: Instant,
        rng: Rng,
    }

    impl World {
        fn new() -> Self {
            Self { breaker: Breaker::new(SETTINGS), now: clock::now(), rng: Rng::with_seed(5) }
        }

        fn fail(&mut self) -> Option<StateLabel> {
            self.breaker.record_failure(true, self.now, &mut self.rng).map(|turned| turned.to)
        }

        fn opened() -> Self {
            let mut world = Self::new();
            assert_eq!([world.fail(), world.fail(), world.fail()], [None, None, Some(StateLabel::Open)]);
            world
        }

        /// Advances to the next round and begins it with that many trials. Returns the wait.
        fn round(&mut self, trials: u32) -> Duration {
            let next = self.breaker.next_round().expect("it is open");
            let waited = next.saturating_duration_since(self.now);
            self.now = next;
            self.breaker.begin_round(trials, self.now, &mut self.rng);
            waited
        }

        fn trial(&mut self, has_succeeded: Option<bool>) -> Option<StateLabel> {
            self.breaker.record_trial(has_succeeded, self.now).map(|turned| turned.to)
        }
    }

    #[test]
    fn it_opens_after_that_many_failures_in_a_row_and_a_success_starts_over() {
        let mut world = World::new();
        assert_eq!([world.fail(), world.fail()], [None, None]);
        assert_eq!(world.breaker.record_success(), None);
        assert_eq!([world.fail(), world.fail(), world.fail()], [None, None, Some(StateLabel::Open)]);
        assert_eq!(world.breaker.check(), Err(BreakerOpen));
        assert_eq!(world.fail(), None, "it is open already");
    }

    #[test]
    fn it_stays_closed_however_many_fail_while_an_endpoint_may_be_good() {
        let mut world = World::new();
        for _ in 0..100 {
            assert_eq!(world.breaker.record_failure(false, world.now, &mut world.rng), None);
        }
        assert_eq!(world.fail(), Some(StateLabel::Open), "that was the last hope");
    }

    #[test]
    fn it_closes_when_enough_trials_succeeded_and_the_next_round_after_a_success_is_at_once() {
        let mut world = World::opened();
        world.round(1);
        assert_eq!(world.breaker.state().label(), StateLabel::HalfOpen);
        assert_eq!(world.breaker.check(), Err(BreakerOpen), "trials are ours");
        assert_eq!(world.trial(Some(true)), Some(StateLabel::Open));
        assert_eq!(world.round(2), Duration::ZERO);
        assert_eq!(world.trial(Some(true)), Some(StateLabel::Closed));
        assert_eq!(world.trial(Some(false)), None, "a late one says nothing any more");
        assert_eq!(world.breaker.check(), Ok(()));
    }

    #[test]
    fn a_trial_that_fails_between_makes_it_begin_anew() {
        let mut world = World::opened();
        world.round(1);
        world.trial(Some(true));
        world.round(1);
        assert_eq!(world.trial(Some(false)), Some(StateLabel::Open));
        world.round(1);
        assert_eq!(world.trial(Some(true)), Some(StateLabel::Open), "one of two");
    }

    #[test]
    fn rounds_come_twice_as_late_each_time_with_jitter_up_to_the_most() {
        let mut world = World::opened();
        for most in [1, 2, 4, 4] {
            let waited = world.round(1);
            assert!((most * SECOND * 3 / 4..=most * SECOND).contains(&waited), "{waited:?} of {most} s");
            assert_eq!(world.trial(Some(false)), Some(StateLabel::Open));
        }
    }

    #[test]
    fn a_trial_that_hangs_does_not_hold_up_the_next_round() {
        let mut world = World::opened();
        world.round(1);
        let waited = world.round(2);
        assert!(waited <= 2 * SECOND, "{waited:?}");
        assert_eq!(world.trial(Some(false)), None, "two are on their way");
        assert_eq!(world.trial(None), None);
        assert_eq!(world.trial(Some(false)), Some(StateLabel::Open));
    }

    #[test]
    fn a_round_without_a_trial_leads_to_the_next() {
        let mut world = World::opened();
        let waits: Vec<_> = (0..5).map(|_| world.round(0)).collect();
        assert!(waits[1..].iter().all(|wait| *wait >= SECOND / 2), "{waits:?}");
        assert_eq!(world.breaker.state().label(), StateLabel::Open);
    }

    #[test]
    fn any_evidence_closes_it_and_a_hint_brings_the_next_round() {
        for is_tried in [false, true] {
            let mut world = World::opened();
            if is_tried {
                world.round(1);
            }
            world.breaker.expedite(world.now);
            assert_eq!(world.breaker.next_round(), Some(world.now));
            assert_eq!(world.breaker.close().map(|turned| turned.to), Some(StateLabel::Closed));
            assert_eq!(world.breaker.close(), None);
            world.breaker.expedite(world.now);
            assert_eq!(world.breaker.next_round(), None);
        }
    }

    /// Trials that succeed while sessions fail must not lead to a loop without pauses.
    #[test]
    fn pauses_grow_until_a_session_was_served() {
        let mut world = World::opened();
        let mut waits = Vec::new();
        for _ in 0..4 {
            waits.push(world.round(1));
            world.breaker.close();
            (0..3).for_each(|_| _ = world.fail());
        }
        assert!(waits[3] > 2 * SECOND, "{waits:?}");
        world.breaker.record_success();
        (0..3).for_each(|_| _ = world.fail());
        assert!(world.round(1) <= SECOND);
    }

    #[test]
    fn another_process_goes_on_where_it_was() {
        let mut world = World::opened();
        let State::Open { until } = world.breaker.state() else { panic!("it is open") };
        world.breaker = Breaker::resume(SETTINGS, world.breaker.snapshot(), world.now);
        assert_eq!(world.breaker.state(), State::Open { until });
        let hasty = Settings { max_open_for: SECOND / 10, ..SETTINGS };
        let limited = Breaker::resume(hasty, world.breaker.snapshot(), world.now);
        assert_eq!(limited.next_round(), Some(world.now + SECOND / 10));
        world.round(1);
        world.breaker = Breaker::resume(SETTINGS, world.breaker.snapshot(), world.now);
        assert_eq!(world.breaker.next_round(), Some(world.now), "with trials of its own");
        world.round(1);
        assert!(world.round(1) > SECOND, "it is not the first round");
    }

    #[test]
    fn a_clock_that_stands_still_or_runs_far_ahead_does_no_harm() {
        let mut world = World::opened();
        for _ in 0..40 {
            world.now += 1_000_000 * SECOND;
            world.breaker.begin_round(1, world.now, &mut world.rng);
            world.breaker.begin_round(1, world.now, &mut world.rng);
        }
    }
}
