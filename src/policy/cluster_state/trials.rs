//! Trials: our own dials without a client, so that no session pays for finding out whether an endpoint serves. They go
//! to an endpoint whose ejection is over, and to all endpoints of a cluster whose breaker is open.
//!
//! Each trial that begins ends in [`ClusterState::record_trial`]. At most one per endpoint is in progress; a trial that
//! hangs delays neither the others nor the next round.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{ClusterEvent, ClusterState, Id};
use crate::policy::breaker::StateLabel;
use crate::policy::eligibility::{self, Panic, Standing};
use crate::policy::health::HealthStatus;
use crate::policy::outlier::{self, Fault};

/// A trial of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// The endpoint to try.
    pub endpoint: Id,
    /// The step that it has to pass.
    pub reach: Fault,
    /// Whether it belongs to a round, to close the breaker; otherwise it is to end an ejection.
    is_of_round: bool,
}

/// The result of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialVerdict {
    /// It passed the required step, in that time.
    Serves(Duration),
    /// It refused us by a message of its own protocol before TLS; nothing is known of the later steps.
    TurnedAway,
    /// It failed by that fault.
    Fails(Fault),
    /// The trial was inconclusive: this host lacked a resource.
    Inconclusive,
}

/// Endpoints per round: enough to find one that serves; the next round tries others.
const ROUND_MAX: u32 = 16;
/// Trials in progress per cluster.
const TRIALS_MAX: usize = 64;
/// After so many ejections in a row a slow endpoint comes back all the same: it is not going to get faster.
const SLOW_MAX: u32 = 8;
/// A dial that takes this many times the endpoint's usual time is slow.
const SLOW: f64 = 4.0;

impl ClusterState {
    /// When the next trial is due; `None`: none is.
    #[must_use]
    pub fn next_trial(&self) -> Option<Instant> {
        let round = self.breaker.as_ref().and_then(|breaker| breaker.next_round());
        if self.on_trial() >= TRIALS_MAX {
            return round;
        }
        let of_ejections = self.endpoints.iter().filter_map(|endpoint_state| {
            let may = endpoint_state.is_enabled()
                && !endpoint_state.on_trial
                && endpoint_state.health != HealthStatus::Unhealthy;
            endpoint_state.outlier.trial_due().filter(|_| may)
        });
        of_ejections.chain(round).min()
    }

    /// Begins the trials that are due.
    pub fn begin_trials(&mut self, now: Instant, rng: &mut Rng) -> Vec<Trial> {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let is_round = is_due(self.breaker.as_ref().and_then(|breaker| breaker.next_round()));
        let (mut begun, mut of_round) = (Vec::new(), 0);
        let mut on_trial = self.on_trial();
        // Starts at a random endpoint, so that each gets its turn.
        let all = self.endpoints.len();
        let first = rng.usize(..all.max(1));
        for position in (0..all).map(|place| (first + place) % all) {
            let endpoint_state = &mut self.endpoints[position];
            let Some(standing) = eligibility::standing(endpoint_state).filter(|_| !endpoint_state.on_trial)
            else {
                continue;
            };
            let may_be_used = standing != Standing::Down || self.settings.panic == Panic::All;
            let is_of_round = is_round && of_round < ROUND_MAX && may_be_used && on_trial < TRIALS_MAX;
            let may_return = is_due(endpoint_state.outlier.trial_due()) && standing != Standing::Down;
            if !is_of_round && (!may_return || on_trial >= TRIALS_MAX) {
                continue;
            }
            of_round += u32::from(is_of_round);
            on_trial += 1;
            endpoint_state.on_trial = true;
            endpoint_state.outlier.begin_trial();
            let reach = match endpoint_state.outlier.state() {
                outlier::State::OnTrial { fault } => fault.max(Fault::Handshake),
                outlier::State::In | outlier::State::Ejected { .. } => Fault::Handshake,
            };
            begun.push(Trial { endpoint: endpoint_state.id, reach, is_of_round });
        }
        if is_round && let Some(breaker) = &mut self.breaker {
            self.events.extend(breaker.begin_round(of_round, now, rng).map(ClusterEvent::Breaker));
        }
        begun
    }

    /// The task that made the trials in progress has ended, and their results will not come: those endpoints are tried
    /// anew.
    pub fn forget_trials(&mut self, now: Instant) {
        for endpoint_state in &mut self.endpoints {
            endpoint_state.on_trial = false;
            endpoint_state.outlier.postpone_trial(now);
            // The reload may have fixed what made it fail.
            endpoint_state.outlier.expedite(now);
        }
        if let Some(breaker) = &mut self.breaker {
            self.events.extend(breaker.forget_trials(now).map(ClusterEvent::Breaker));
        }
    }

    /// Records the result of a trial.
    pub fn record_trial(&mut self, trial: Trial, verdict: TrialVerdict, now: Instant, rng: &mut Rng) {
        let position = self.position(trial.endpoint);
        // If the endpoint has left meanwhile, its result does not count.
        let verdict = position.map_or(TrialVerdict::Inconclusive, |_| verdict);
        if let Some(breaker) = &mut self.breaker {
            let turned = match (trial.is_of_round, verdict) {
                (true, TrialVerdict::Serves(_) | TrialVerdict::TurnedAway) => {
                    breaker.record_trial(Some(true), now)
                }
                (true, TrialVerdict::Fails(_)) => breaker.record_trial(Some(false), now),
                (true, TrialVerdict::Inconclusive) => breaker.record_trial(None, now),
                (false, TrialVerdict::Serves(_)) => breaker.close(),
                (false, TrialVerdict::TurnedAway | TrialVerdict::Fails(_) | TrialVerdict::Inconclusive) => {
                    None
                }
            };
            let is_closed = turned.is_some_and(|turned| turned.to == StateLabel::Closed);
            self.events.extend(turned.map(ClusterEvent::Breaker));
            if is_closed {
                // One endpoint serves again; the others may, too.
                self.endpoints.iter_mut().for_each(|endpoint_state| endpoint_state.outlier.expedite(now));
            }
        }
        let Some(position) = position else { return };
        let is_slow = self.is_slow(position, verdict);
        let (endpoint_state, settings) = (&mut self.endpoints[position], self.settings.outlier);
        endpoint_state.on_trial = false;
        if is_slow
            && let (outlier::State::OnTrial { fault }, Some(settings)) =
                (endpoint_state.outlier.state(), settings)
        {
            endpoint_state.is_failing = false;
            let endpoint = endpoint_state.id;
            let ejection = endpoint_state.outlier.record_trial_failure(&settings, fault, now, rng);
            self.events.extend(ejection.map(|ejection| ClusterEvent::Ejected { endpoint, ejection }));
            return;
        }
        match (verdict, settings) {
            (TrialVerdict::Serves(_), _) => {
                (endpoint_state.is_failing, endpoint_state.last_error, endpoint_state.proven_at) =
                    (false, None, Some(now));
                let is_back = endpoint_state.outlier.end_ejection_up_to(trial.reach, now);
                self.record_return(position, is_back, now);
            }
            (TrialVerdict::TurnedAway, _) => {
                endpoint_state.is_failing = false;
                let is_back = endpoint_state.outlier.end_ejection_up_to(Fault::Upgrade, now);
                if !is_back && let Some(settings) = settings {
                    endpoint_state.outlier.postpone_trial(now + settings.base_ejection_time);
                }
                self.record_return(position, is_back, now);
            }
            // A trial of a round may come before the ejection is over: a failure adds nothing.
            (TrialVerdict::Fails(_), Some(settings)) if trial.is_of_round => {
                endpoint_state.is_failing = true;
                endpoint_state.outlier.postpone_trial(now + settings.base_ejection_time);
            }
            (TrialVerdict::Fails(fault), Some(settings)) => {
                endpoint_state.is_failing = true;
                let endpoint = endpoint_state.id;
                let ejection = endpoint_state.outlier.record_trial_failure(&settings, fault, now, rng);
                self.events.extend(ejection.map(|ejection| ClusterEvent::Ejected { endpoint, ejection }));
            }
            (TrialVerdict::Inconclusive, Some(settings)) => {
                endpoint_state.outlier.postpone_trial(now + settings.base_ejection_time)
            }
            (TrialVerdict::Fails(_), None) => endpoint_state.is_failing = true,
            (TrialVerdict::Inconclusive, None) => {}
        }
    }

    /// A probe succeeded, up to that step; `is_news`: it changed the status that probes gave.
    pub(super) fn record_probe_success(&mut self, id: Id, (proven, is_news): (Fault, bool), now: Instant) {
        let Some(position) = self.position(id) else { return };
        if let Some(breaker) = &mut self.breaker {
            breaker.expedite(now);
        }
        let endpoint_state = &mut self.endpoints[position];
        if endpoint_state.health != HealthStatus::Healthy {
            return;
        }
        if is_news {
            endpoint_state.outlier.expedite(now);
        }
        let is_back = endpoint_state.outlier.end_ejection_up_to(proven, now);
        if proven >= Fault::Handshake {
            endpoint_state.is_failing = false;
        }
        self.record_return(position, is_back, now);
        self.reconsider();
    }

    /// Whether an endpoint takes far longer than before its ejection, so that it stays ejected. It comes back all the
    /// same if no other endpoint is usable.
    fn is_slow(&self, position: usize, verdict: TrialVerdict) -> bool {
        let endpoint_state = &self.endpoints[position];
        let (TrialVerdict::Serves(took), Some(hedge)) = (verdict, self.settings.hedge) else { return false };
        let usual = endpoint_state.success_time.seconds().unwrap_or(f64::INFINITY);
        let has_other = || {
            let others =
                self.endpoints.iter().filter(|other| other.id != endpoint_state.id && !other.is_failing);
            others.filter_map(eligibility::standing).any(|standing| standing == Standing::Usable)
        };
        took.as_secs_f64() > usual * SLOW
            && took > hedge.unknown
            && endpoint_state.outlier.snapshot().times < SLOW_MAX
            && has_other()
    }

    fn on_trial(&self) -> usize {
        self.endpoints.iter().filter(|endpoint_state| endpoint_state.on_trial).count()
    }
}
