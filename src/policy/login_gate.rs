//! When a login may be tried with a credential: one at a time until the server has accepted it, all at once afterwards,
//! and after a rejection only when the credential has changed or a growing pause is over. Servers count rejected logins
//! and lock accounts and hosts out; a client in a loop must not bring that about. Pure.

use std::time::{Duration, Instant};

use super::backoff;

/// The pause after the first rejection; it doubles with each further one. Directories lock an account after five to ten rejections
/// within half an hour: with these, five take half an hour.
const PAUSE: Duration = Duration::from_secs(60);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// The gate of one credential.
#[derive(Debug, Clone, Default)]
pub struct LoginGate {
    /// The content of the credential that the state is about.
    generation: u64,
    state: State,
    /// Rejections in a row.
    rejections: u32,
}

#[derive(Debug, Clone, Default)]
enum State {
    /// Leaves by [`LoginGate::admit`].
    #[default]
    Untried,
    /// One login is on its way. Leaves by its result.
    Trying,
    /// Leaves by a rejection, or a new content.
    Accepted,
    /// Leaves by time, or a new content.
    Rejected { words: String, until: Instant },
}

/// Whether a login may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateDecision {
    /// It may; the result is to be reported.
    Go,
    /// Another login tries the credential first: ask again when that has ended.
    Wait,
    /// It was rejected.
    Paused {
        /// Why.
        words: String,
        /// How long no login is tried with it.
        left: Duration,
    },
}

impl LoginGate {
    /// Decides about a login with that content of the credential, which begins at once if it may.
    pub fn admit(&mut self, generation: u64, now: Instant) -> GateDecision {
        let decision = self.decide(generation, now);
        if generation > self.generation {
            *self = Self { generation, ..Self::default() };
        }
        if decision == GateDecision::Go && !matches!(self.state, State::Accepted) {
            self.state = State::Trying;
        }
        decision
    }

    /// What [`LoginGate::admit`] would decide, without a login.
    #[must_use]
    pub fn decide(&self, generation: u64, now: Instant) -> GateDecision {
        match &self.state {
            _ if generation > self.generation => GateDecision::Go,
            State::Trying => GateDecision::Wait,
            State::Rejected { words, until } if now < *until => {
                GateDecision::Paused { words: words.clone(), left: *until - now }
            }
            State::Accepted | State::Untried | State::Rejected { .. } => GateDecision::Go,
        }
    }

    /// The server has accepted it.
    pub fn accept(&mut self, generation: u64) {
        if generation == self.generation {
            (self.state, self.rejections) = (State::Accepted, 0);
        }
    }

    /// The server has rejected it, with these words.
    pub fn reject(&mut self, generation: u64, words: &str, now: Instant) {
        // Of many that were on their way at once the first counts.
        if generation == self.generation && !matches!(self.state, State::Rejected { .. }) {
            let pause = backoff::doubled(PAUSE, self.rejections, PAUSE_MAX);
            self.rejections = self.rejections.saturating_add(1);
            self.state = State::Rejected { words: words.to_owned(), until: now + pause };
        }
    }

    /// A login that was let in ended without a verdict: the connection failed, or the client left.
    pub fn abandon(&mut self, generation: u64) {
        if generation == self.generation && matches!(self.state, State::Trying) {
            self.state = State::Untried;
        }
    }

    /// Whether a server has accepted that content, and none has rejected it since.
    #[must_use]
    pub const fn is_accepted(&self, generation: u64) -> bool {
        generation == self.generation && matches!(self.state, State::Accepted)
    }

    /// Whoever runs the daemon wants it tried again: ends the pause. The next one is as long as it would have been.
    pub fn end_pause(&mut self) {
        if matches!(self.state, State::Rejected { .. }) {
            self.state = State::Untried;
        }
    }

    /// Why that content is not used now, if it is not.
    #[must_use]
    pub fn rejection(&self, generation: u64) -> Option<&str> {
        match &self.state {
            State::Rejected { words, .. } if generation == self.generation => Some(words),
            State::Rejected { .. } | State::Untried | State::Trying | State::Accepted => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn paused(gate: &mut LoginGate, generation: u64, now: Instant) -> Option<Duration> {
        match gate.admit(generation, now) {
            GateDecision::Paused { left, words } => {
                assert_eq!(words, "no");
                Some(left)
            }
            GateDecision::Go => None,
            GateDecision::Wait => panic!("nobody is on the way"),
        }
    }

    #[test]
    fn one_tries_and_the_others_wait_until_it_is_accepted() {
        let (mut gate, now) = (LoginGate::default(), crate::clock::now());
        for _ in 0..2 {
            assert_eq!(gate.decide(1, now), GateDecision::Go, "who only asks takes nothing");
        }
        assert_eq!(gate.admit(1, now), GateDecision::Go);
        assert_eq!((gate.decide(1, now), gate.admit(1, now)), (GateDecision::Wait, GateDecision::Wait));
        assert_eq!(gate.decide(2, now), GateDecision::Go);
        gate.abandon(1);
        assert_eq!(gate.admit(1, now), GateDecision::Go, "the next one tries");
        gate.accept(1);
        for _ in 0..100 {
            assert_eq!(gate.admit(1, now), GateDecision::Go);
        }
        // One that ends without a verdict does not matter any more.
        gate.abandon(1);
        assert_eq!(gate.admit(1, now), GateDecision::Go);
    }

    #[test]
    fn a_rejected_one_is_tried_again_after_pauses_that_grow() {
        let (mut gate, mut now) = (LoginGate::default(), crate::clock::now());
        for seconds in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
            assert_eq!(paused(&mut gate, 1, now), None);
            gate.reject(1, "no", now);
            // Those that were on their way.
            gate.reject(1, "later", now + SECOND);
            assert_eq!(paused(&mut gate, 1, now), Some(seconds * SECOND));
            assert_eq!(gate.rejection(1), Some("no"));
            now += seconds * SECOND;
        }
        assert_eq!(gate.admit(1, now), GateDecision::Go);
        gate.accept(1);
        gate.reject(1, "no", now);
        assert_eq!(paused(&mut gate, 1, now), Some(60 * SECOND), "an accepted one begins anew");
        gate.end_pause();
        assert_eq!(paused(&mut gate, 1, now), None);
        gate.reject(1, "no", now);
        assert_eq!(paused(&mut gate, 1, now), Some(120 * SECOND), "an operator's order forgets no rejection");
        assert!(!gate.is_accepted(1));
    }

    #[test]
    fn a_new_content_is_tried_at_once_and_what_comes_late_is_not_about_it() {
        let (mut gate, now) = (LoginGate::default(), crate::clock::now());
        assert_eq!(gate.admit(1, now), GateDecision::Go);
        gate.reject(1, "no", now);
        assert_eq!(gate.admit(2, now), GateDecision::Go);
        gate.reject(1, "no", now);
        gate.accept(1);
        gate.abandon(1);
        assert_eq!(gate.admit(2, now), GateDecision::Wait);
        assert_eq!((gate.rejection(1), gate.rejection(2)), (None, None));
        gate.accept(2);
        assert_eq!(gate.admit(2, now), GateDecision::Go);
    }
}
