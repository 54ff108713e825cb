//! Rise and fall: what probes, one after another, say of an endpoint, and when the next is due.
//!
//! A status is kept until enough results in a row speak against it. Only the first is decided by one result alone: there
//! is nothing yet that a mistaken one could overthrow. Until then an endpoint is usable: most are well when we
//! start, its first probe is done within a round trip or two, and an attempt that fails meanwhile goes on to another.
//!
//! This is what was observed. What an administrator ordered, and what sessions ran into (ejection, breaker), is kept
//! elsewhere: here such evidence only hurries the next probe.

use std::time::{Duration, Instant};

use fastrand::Rng;

/// How a cluster's endpoints are probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// From the beginning of one probe to the next, when nothing is in doubt; more than zero.
    pub interval: Duration,
    /// Successes in a row that make an unhealthy endpoint healthy; at least 1.
    pub healthy_threshold: u32,
    /// Failures in a row that make a healthy endpoint unhealthy; at least 1.
    pub unhealthy_threshold: u32,
}

/// What is held to be true of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthStatus {
    /// No probe has ended yet. Exits: `Healthy`, `Unhealthy`, by the first result.
    Undecided,
    /// Exit: `Unhealthy`.
    Healthy,
    /// Exit: `Healthy`.
    Unhealthy,
}

/// The observed health of one endpoint.
#[derive(Debug, Clone)]
pub struct Health {
    settings: Settings,
    status: HealthStatus,
    since: Instant,
    /// Results in a row that speak against the status.
    against: u32,
    last_error: Option<String>,
    probing: Probing,
}

/// Where an endpoint is in its round of probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probing {
    /// Exit: `Begun`, when it is due. The last probe began at `last`.
    Due { at: Instant, last: Option<Instant> },
    /// Exit: `Due`, by its result. `hurried`: evidence came that this probe may have been too early for.
    Begun { at: Instant, hurried: bool },
}

/// A status that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// What it was.
    pub from: HealthStatus,
    /// What it is.
    pub to: HealthStatus,
    /// How long it was the former.
    pub lasted: Duration,
    /// How many results in a row changed it.
    pub results: u32,
}

/// While a status is in doubt, and at most that often for evidence from elsewhere, a probe begins this many times in an
/// interval, and at least once a second.
const HASTE: u32 = 5;
const HASTY_MAX: Duration = Duration::from_secs(1);
/// No interval is kept closer than to this part of it, so that probes of many endpoints, and of many ambassadors, do not
/// stay in step.
const JITTER: f64 = 0.1;

impl HealthStatus {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Undecided, Self::Healthy, Self::Unhealthy];

    /// The word in `/status` and in the log.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Undecided => "undecided",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl Settings {
    /// The interval of those in a hurry.
    fn hasty(&self) -> Duration {
        (self.interval / HASTE).min(HASTY_MAX)
    }
}

impl Health {
    /// Nothing is known yet, and the first probe is due at once.
    #[must_use]
    pub const fn new(settings: Settings, now: Instant) -> Self {
        Self {
            settings,
            status: HealthStatus::Undecided,
            since: now,
            against: 0,
            last_error: None,
            probing: Probing::Due { at: now, last: None },
        }
    }

    /// As another process observed it, since `since`: that stays until results here speak against it, and the next probe is
    /// due at once.
    #[must_use]
    pub fn resume(settings: Settings, status: HealthStatus, since: Instant, now: Instant) -> Self {
        Self { status, since, ..Self::new(settings, now) }
    }

    /// The same by other settings: what is known stays, and the next probe is due at once.
    #[must_use]
    pub fn under(&self, settings: Settings, now: Instant) -> Self {
        Self { settings, probing: Probing::Due { at: now, last: None }, ..self.clone() }
    }

    /// What is held to be true.
    #[must_use]
    pub const fn status(&self) -> HealthStatus {
        self.status
    }

    /// Since when.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Why the last probe failed, in words; a success clears it.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Whether sessions may go there, as far as probes know.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        !matches!(self.status, HealthStatus::Unhealthy)
    }

    /// When the next probe is to begin; `None` while one is on its way.
    #[must_use]
    pub const fn due(&self) -> Option<Instant> {
        match self.probing {
            Probing::Due { at, .. } => Some(at),
            Probing::Begun { .. } => None,
        }
    }

    /// A probe begins.
    pub fn begin(&mut self, now: Instant) {
        self.probing = Probing::Begun { at: now, hurried: false };
    }

    /// A session ran into something that speaks against the endpoint: the next probe begins as soon as may be. `true`: it
    /// is due earlier than it was.
    pub fn suspect(&mut self, now: Instant) -> bool {
        match &mut self.probing {
            Probing::Begun { hurried, .. } => {
                *hurried = true;
                false
            }
            Probing::Due { at, last } => {
                let soonest = last.map_or(now, |last| now.max(last + self.settings.hasty()));
                let is_earlier = soonest < *at;
                *at = soonest.min(*at);
                is_earlier
            }
        }
    }

    /// A probe ended, well or with an error in words. What changed is the answer.
    pub fn observe(&mut self, now: Instant, result: Result<(), String>, rng: &mut Rng) -> Option<Transition> {
        let said = if result.is_ok() { HealthStatus::Healthy } else { HealthStatus::Unhealthy };
        self.last_error = result.err();
        self.against = if said == self.status { 0 } else { self.against + 1 };
        let threshold = match (self.status, said) {
            (HealthStatus::Undecided, _) => 1,
            (_, HealthStatus::Healthy) => self.settings.healthy_threshold,
            (_, HealthStatus::Undecided | HealthStatus::Unhealthy) => self.settings.unhealthy_threshold,
        };
        let transition = (self.against >= threshold.max(1)).then(|| self.turn(now, said));
        self.schedule(now, transition.as_ref(), rng);
        transition
    }

    /// A probe ended that says nothing of the endpoint: this host was short of something. The next comes as it would have.
    pub fn postpone(&mut self, now: Instant, why: String, rng: &mut Rng) {
        self.last_error = Some(why);
        self.schedule(now, None, rng);
    }

    fn schedule(&mut self, now: Instant, transition: Option<&Transition>, rng: &mut Rng) {
        let wait = self.wait(transition, rng);
        let began = match self.probing {
            Probing::Begun { at, .. } => at,
            Probing::Due { .. } => now,
        };
        self.probing = Probing::Due { at: now.max(began + wait), last: Some(began) };
    }

    fn turn(&mut self, now: Instant, to: HealthStatus) -> Transition {
        let lasted = now.saturating_duration_since(self.since);
        let transition = Transition { from: self.status, to, lasted, results: self.against };
        self.status = to;
        self.since = now;
        self.against = 0;
        transition
    }

    /// From the beginning of the probe that has just ended to that of the next.
    fn wait(&self, transition: Option<&Transition>, rng: &mut Rng) -> Duration {
        let Settings { interval, .. } = self.settings;
        let hurried = matches!(self.probing, Probing::Begun { hurried: true, .. });
        if hurried || self.against > 0 {
            return jittered(self.settings.hasty(), rng);
        }
        // All first probes begin together; this spreads the later ones over the interval.
        if transition.is_some_and(|transition| transition.from == HealthStatus::Undecided) {
            return self.settings.hasty().max(interval.mul_f64(rng.f64()));
        }
        jittered(interval, rng)
    }
}

fn jittered(wait: Duration, rng: &mut Rng) -> Duration {
    wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * rng.f64())
}

#[cfg(test)]
mod tests;
