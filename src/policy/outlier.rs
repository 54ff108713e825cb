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

    /// Begins a trial, if the endpoint is ejected. The trial ends in [`Outlier::end_ejection_up_to`],
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
    pub fn end_ejection_up_to(&mut self, up_to: Fault, now: Instant) -> bool {
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
        if self.end_ejection_up_to(Fault::Handshake, now) {
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
        self.end_ejection_up_to(Fault::Upgrade, now)
    }

    /// A session lived long enough. Returns whether that ended an ejection.
    pub fn record_lasting_session(&mut self, now: Instant) -> bool {
        self.failures[Fault::EarlyClose as usize] = 0;
        self.end_ejection_up_to(Fault::EarlyClose, now)
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
mod tests;
