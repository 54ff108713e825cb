//! What we try on our own account, so that no client pays for finding out: an endpoint whose ejection is over, and all of a
//! cluster whose breaker is open.
//!
//! Each trial that begins ends in [`Roster::trial_ended`]. At most one is on its way to an endpoint; one that hangs holds up
//! neither the others nor the next round.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{Event, Id, Roster};
use crate::policy::breaker::Label;
use crate::policy::eligibility::{self, Panic, Standing};
use crate::policy::health::Status;
use crate::policy::outlier::{self, Fault};

/// A trial of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// Which.
    pub endpoint: Id,
    /// How far it has to reach.
    pub reach: Fault,
    /// Whether it is one of a round, to close the breaker; else it is to end an ejection.
    is_of_round: bool,
}

/// What became of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It reached as far as it had to, in that time.
    Serves(Duration),
    /// It lives, and turned us away in its own words before TLS: nothing is known of what comes behind.
    TurnedAway,
    /// It failed by that fault.
    Fails(Fault),
    /// It says nothing: this host was short of something.
    Untold,
}

/// Endpoints of a round: so many are enough to find one that serves, and the next round tries others.
const ROUND_MAX: u32 = 16;
/// Trials on their way, per cluster.
const TRIALS_MAX: usize = 64;
/// An endpoint whose trials succeed, but slowly against what it was, comes back after so many all the same: that is how it is now.
const SLOW_MAX: u32 = 8;
/// So many times what it usually took is slow.
const SLOW: f64 = 4.0;

impl Roster {
    /// When the next trial is to begin; `None`: none is, as things are.
    #[must_use]
    pub fn next_trial(&self) -> Option<Instant> {
        let round = self.breaker.as_ref().and_then(|breaker| breaker.next_round());
        if self.on_trial() >= TRIALS_MAX {
            return round;
        }
        let of_ejections = self.slots.iter().filter_map(|slot| {
            let may = slot.is_enabled() && !slot.on_trial && slot.health != Status::Unhealthy;
            slot.outlier.trial_due().filter(|_| may)
        });
        of_ejections.chain(round).min()
    }

    /// Begins the trials that are due.
    pub fn begin_trials(&mut self, now: Instant, rng: &mut Rng) -> Vec<Trial> {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let is_round = is_due(self.breaker.as_ref().and_then(|breaker| breaker.next_round()));
        let (mut begun, mut of_round) = (Vec::new(), 0);
        let mut on_trial = self.on_trial();
        // Another first one each time, so that all have their turn.
        let all = self.slots.len();
        let first = rng.usize(..all.max(1));
        for position in (0..all).map(|place| (first + place) % all) {
            let slot = &mut self.slots[position];
            let Some(standing) = eligibility::standing(slot).filter(|_| !slot.on_trial) else { continue };
            let may_be_used = standing != Standing::Down || self.settings.panic == Panic::All;
            let is_of_round = is_round && of_round < ROUND_MAX && may_be_used && on_trial < TRIALS_MAX;
            let may_return = is_due(slot.outlier.trial_due()) && standing != Standing::Down;
            if !is_of_round && (!may_return || on_trial >= TRIALS_MAX) {
                continue;
            }
            of_round += u32::from(is_of_round);
            on_trial += 1;
            slot.on_trial = true;
            slot.outlier.begin_trial();
            let reach = match slot.outlier.state() {
                outlier::State::OnTrial { fault } => fault.max(Fault::Handshake),
                outlier::State::In | outlier::State::Ejected { .. } => Fault::Handshake,
            };
            begun.push(Trial { endpoint: slot.id, reach, is_of_round });
        }
        if is_round && let Some(breaker) = &mut self.breaker {
            self.events.extend(breaker.begin_round(of_round, now, rng).map(Event::Breaker));
        }
        begun
    }

    /// Whoever made the trials that are on their way has gone, and nobody will hear of them: those endpoints are tried anew.
    pub fn forget_trials(&mut self, now: Instant) {
        for slot in &mut self.slots {
            slot.on_trial = false;
            slot.outlier.trial_untold(now);
            // What made it fail may be what the reload has changed.
            slot.outlier.hurry(now);
        }
        if let Some(breaker) = &mut self.breaker {
            self.events.extend(breaker.forget_trials(now).map(Event::Breaker));
        }
    }

    /// A trial ended.
    pub fn trial_ended(&mut self, trial: Trial, verdict: Verdict, now: Instant, rng: &mut Rng) {
        let position = self.position(trial.endpoint);
        // One that has left meanwhile says nothing.
        let verdict = position.map_or(Verdict::Untold, |_| verdict);
        if let Some(breaker) = &mut self.breaker {
            let turned = match (trial.is_of_round, verdict) {
                (true, Verdict::Serves(_) | Verdict::TurnedAway) => breaker.trial_ended(Some(true), now),
                (true, Verdict::Fails(_)) => breaker.trial_ended(Some(false), now),
                (true, Verdict::Untold) => breaker.trial_ended(None, now),
                (false, Verdict::Serves(_)) => breaker.close(),
                (false, Verdict::TurnedAway | Verdict::Fails(_) | Verdict::Untold) => None,
            };
            let is_closed = turned.is_some_and(|turned| turned.to == Label::Closed);
            self.events.extend(turned.map(Event::Breaker));
            if is_closed {
                // One is back; the others may be.
                self.slots.iter_mut().for_each(|slot| slot.outlier.hurry(now));
            }
        }
        let Some(position) = position else { return };
        let is_slow = self.is_slow(position, verdict);
        let (slot, settings) = (&mut self.slots[position], self.settings.outlier);
        slot.on_trial = false;
        if is_slow
            && let (outlier::State::OnTrial { fault }, Some(settings)) = (slot.outlier.state(), settings)
        {
            slot.is_failing = false;
            let endpoint = slot.id;
            let ejection = slot.outlier.trial_failed(&settings, fault, now, rng);
            self.events.extend(ejection.map(|ejection| Event::Ejected { endpoint, ejection }));
            return;
        }
        match (verdict, settings) {
            (Verdict::Serves(_), _) => {
                (slot.is_failing, slot.last_error, slot.proven_at) = (false, None, Some(now));
                let is_back = slot.outlier.proven(trial.reach, now);
                self.returned(position, is_back, now);
            }
            (Verdict::TurnedAway, _) => {
                slot.is_failing = false;
                let is_back = slot.outlier.proven(Fault::Upgrade, now);
                if !is_back && let Some(settings) = settings {
                    slot.outlier.trial_untold(now + settings.base_ejection_time);
                }
                self.returned(position, is_back, now);
            }
            // A round comes before its time: it says nothing new.
            (Verdict::Fails(_), Some(settings)) if trial.is_of_round => {
                slot.is_failing = true;
                slot.outlier.trial_untold(now + settings.base_ejection_time);
            }
            (Verdict::Fails(fault), Some(settings)) => {
                slot.is_failing = true;
                let endpoint = slot.id;
                let ejection = slot.outlier.trial_failed(&settings, fault, now, rng);
                self.events.extend(ejection.map(|ejection| Event::Ejected { endpoint, ejection }));
            }
            (Verdict::Untold, Some(settings)) => slot.outlier.trial_untold(now + settings.base_ejection_time),
            (Verdict::Fails(_), None) => slot.is_failing = true,
            (Verdict::Untold, None) => {}
        }
    }

    /// A probe succeeded, and reached as far as that; `is_news`: it changed what probes have come to.
    pub(super) fn probe_succeeded(&mut self, id: Id, (proven, is_news): (Fault, bool), now: Instant) {
        let Some(position) = self.position(id) else { return };
        if let Some(breaker) = &mut self.breaker {
            breaker.hurry(now);
        }
        let slot = &mut self.slots[position];
        if slot.health != Status::Healthy {
            return;
        }
        if is_news {
            slot.outlier.hurry(now);
        }
        let is_back = slot.outlier.proven(proven, now);
        if proven >= Fault::Handshake {
            slot.is_failing = false;
        }
        self.returned(position, is_back, now);
        self.reconsider();
    }

    /// A server that takes far longer than it used to is not what it was before it was set aside. It serves all the same, where
    /// nobody else does.
    fn is_slow(&self, position: usize, verdict: Verdict) -> bool {
        let slot = &self.slots[position];
        let (Verdict::Serves(took), Some(hedge)) = (verdict, self.settings.hedge) else { return false };
        let usual = slot.success_time.seconds().unwrap_or(f64::INFINITY);
        let has_other = || {
            let others = self.slots.iter().filter(|other| other.id != slot.id && !other.is_failing);
            others.filter_map(eligibility::standing).any(|standing| standing == Standing::Usable)
        };
        took.as_secs_f64() > usual * SLOW
            && took > hedge.unknown
            && slot.outlier.snapshot().times < SLOW_MAX
            && has_other()
    }

    fn on_trial(&self) -> usize {
        self.slots.iter().filter(|slot| slot.on_trial).count()
    }
}
