//! Rise and fall: an endpoint's status by the results of its probes, and when the next probe is due.
//!
//! A status changes after enough results in a row against it. Only the first is decided by one result, because there is
//! no earlier status that a wrong result could overturn. Until then an endpoint is usable: most are healthy at the
//! start, the first probe ends within a round trip or two, and an attempt that fails meanwhile goes on to another
//! endpoint.
//!
//! Only probe results count here. Administrative state and evidence from sessions (ejection, breaker) are kept
//! elsewhere; such evidence only makes the next probe earlier.

use std::time::{Duration, Instant};

use fastrand::Rng;

/// How a cluster's endpoints are probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// From the beginning of one probe to the next while no status is in doubt; more than zero.
    pub interval: Duration,
    /// Successes in a row that make an unhealthy endpoint healthy; at least 1.
    pub healthy_threshold: u32,
    /// Failures in a row that make a healthy endpoint unhealthy; at least 1.
    pub unhealthy_threshold: u32,
}

/// The status of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthStatus {
    /// No probe has ended yet. Exits: `Healthy`, `Unhealthy`, by the first result.
    Undecided,
    /// Probes succeed. Exit: `Unhealthy`, after `unhealthy_threshold` failures in a row.
    Healthy,
    /// Probes fail. Exit: `Healthy`, after `healthy_threshold` successes in a row.
    Unhealthy,
}

/// The observed health of one endpoint.
#[derive(Debug, Clone)]
pub struct Health {
    settings: Settings,
    status: HealthStatus,
    since: Instant,
    /// Consecutive results against the status.
    against: u32,
    last_error: Option<String>,
    probing: Probing,
}

/// When an endpoint was or will be probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probing {
    /// Exit: `Begun`, when it is due. The last probe began at `last`.
    Due { at: Instant, last: Option<Instant> },
    /// Exit: `Due`, by its result. `hurried`: a session met a failure after this probe began, so another one is due
    /// soon.
    Begun { at: Instant, hurried: bool },
}

/// A change of status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The status that was left.
    pub from: HealthStatus,
    /// The status that was entered.
    pub to: HealthStatus,
    /// How long the former status lasted.
    pub lasted: Duration,
    /// The number of consecutive results that changed it.
    pub results: u32,
}

/// While a status is in doubt, the interval is divided by this, and is a second at most. Evidence from sessions makes
/// probes no more frequent than that.
const HASTE: u32 = 5;
const HASTY_MAX: Duration = Duration::from_secs(1);
/// Each interval is changed at random by up to this part, so that probes of many endpoints, and of many ambassadors, do
/// not stay in step.
const JITTER: f64 = 0.1;

impl HealthStatus {
    /// Every status that an endpoint may have.
    pub const ALL: [Self; 3] = [Self::Undecided, Self::Healthy, Self::Unhealthy];

    /// The label in `/status` and in the log.
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
    /// The interval while a status is in doubt.
    fn hasty(&self) -> Duration {
        (self.interval / HASTE).min(HASTY_MAX)
    }
}

impl Health {
    /// Undecided; the first probe is due at once.
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

    /// Resumes the status of a predecessor, which it has had since `since`. It stays until results here speak against
    /// it, and the next probe is due at once.
    #[must_use]
    pub fn resume(settings: Settings, status: HealthStatus, since: Instant, now: Instant) -> Self {
        Self { status, since, ..Self::new(settings, now) }
    }

    /// Replaces the settings: the status stays, and the next probe is due at once.
    #[must_use]
    pub fn under(&self, settings: Settings, now: Instant) -> Self {
        Self { settings, probing: Probing::Due { at: now, last: None }, ..self.clone() }
    }

    /// The status by the results so far.
    #[must_use]
    pub const fn status(&self) -> HealthStatus {
        self.status
    }

    /// Since when the status has been the current one.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// The error of the last probe; a success clears it.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Whether sessions may go to the endpoint, as far as probes know.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        !matches!(self.status, HealthStatus::Unhealthy)
    }

    /// When the next probe is due; `None` while one is in progress.
    #[must_use]
    pub const fn due(&self) -> Option<Instant> {
        match self.probing {
            Probing::Due { at, .. } => Some(at),
            Probing::Begun { .. } => None,
        }
    }

    /// Notes that a probe has begun: none is due until its result.
    pub fn begin(&mut self, now: Instant) {
        self.probing = Probing::Begun { at: now, hurried: false };
    }

    /// A session met a failure of the endpoint: the next probe begins as soon as allowed. Returns whether it is due
    /// earlier than before.
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

    /// Records the result of a probe. Returns the change of status, if there is one.
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

    /// A probe was inconclusive: this host lacked a resource. The next one is due as usual.
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

    /// The time from the beginning of the probe that has just ended to the next.
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
