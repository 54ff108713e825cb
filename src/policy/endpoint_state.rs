//! One endpoint as the policies see it: its configuration, its load and what was observed.
//!
//! All decisions about an endpoint read its `EndpointState` and nothing else, so that a decision sees one state. It
//! changes only in `cluster_state`, but for the turn that `balance` counts, under the cluster's one lock.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::ewma::Ewma;
use super::health::HealthStatus;
use super::limits::Load;
use super::outlier::{self, Outlier};

/// Identifies an endpoint among all that its cluster ever had; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(NonZeroU32);

impl Id {
    /// The first id of a cluster.
    pub(super) const FIRST: Self = Self(NonZeroU32::MIN);

    /// The next id. After four billion endpoints in one process the last id repeats.
    pub(super) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// As a short number; never 0.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The id with that number; `None` for 0.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }
}

/// An operator's order about an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Admin {
    /// It takes its share of the sessions.
    #[default]
    Enabled,
    /// No new sessions; live ones continue.
    Draining,
    /// As if it were not in the file: no new sessions and no probes.
    Disabled,
}

/// What the configuration or discovery says about an endpoint, as far as decisions need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Its id, if it is known already; `None` for a new one.
    pub id: Option<Id>,
    /// Its share of the sessions, at least 1.
    pub weight: u32,
    /// Endpoints with a higher number are used only if none with a lower number can be.
    pub priority: u32,
    /// The key that `source_hash` uses for it, the same in every process.
    pub key: u64,
}

/// The state of one endpoint.
#[derive(Debug)]
pub struct EndpointState {
    pub(super) id: Id,
    /// Its index in the file's order.
    pub(super) place: usize,
    pub(super) weight: u32,
    pub(super) priority: u32,
    pub(super) key: u64,
    /// Whether it belongs to the cluster. If not, it is kept until its last session and dial have ended.
    pub(super) is_member: bool,
    pub(super) admin: Admin,
    pub(super) health: HealthStatus,
    /// When membership, order or health last changed.
    pub(super) changed: Instant,
    pub(super) load: Load,
    /// The failures of its dials and sessions.
    pub(super) outlier: Outlier,
    /// Whether the last evidence was a failure: of a session's dial, of a trial, or of enough probes. False for an
    /// endpoint that has not been tried.
    pub(super) is_failing: bool,
    /// When it last came back from an ejection, or a trial succeeded: failures of dials that began before do not count.
    pub(super) proven_at: Option<Instant>,
    /// When it last refused a session by a message of its own protocol.
    pub(super) turned_away: Option<Instant>,
    /// Whether a trial of it is in progress.
    pub(super) on_trial: bool,
    /// The average time of its dials, including those that failed.
    pub(super) ewma: Ewma,
    /// The average time of dials that succeeded.
    pub(super) success_time: Ewma,
    /// When it came back after an ejection, after active checks had found it down, or when it joined other endpoints.
    pub(super) back_since: Option<Instant>,
    /// Its credit in round robin.
    pub(super) credit: i64,
    /// The error of the last failed attempt or probe; a success clears it.
    pub(super) last_error: Option<Box<str>>,
}

/// The state of an endpoint, to hand over to a successor.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// What the operator ordered for it.
    pub admin: Admin,
    /// The result of active checks.
    pub health: HealthStatus,
    /// The failures of its dials and sessions.
    pub outlier: outlier::Snapshot,
    /// Whether the last evidence was a failure.
    pub is_failing: bool,
    /// The average time of its dials in seconds, and when it last changed.
    pub dial_time: Option<(f64, Instant)>,
    /// The same of dials that succeeded.
    pub success_time: Option<(f64, Instant)>,
    /// When it came back, if it did.
    pub back_since: Option<Instant>,
    /// The error of the last failed attempt or probe.
    pub last_error: Option<Box<str>>,
}

/// For this long after an endpoint turned a session away, others of its priority are picked before it. By its load,
/// which is low then, it would be the first to be picked.
pub(super) const TURNS_AWAY_FOR: Duration = Duration::from_secs(5);

impl EndpointState {
    /// Whether it has turned a session away lately. A session that it served since does not change that: dials in
    /// progress at the time complete first.
    pub(super) fn turns_away(&self, now: Instant) -> bool {
        self.turned_away.is_some_and(|since| now.saturating_duration_since(since) < TURNS_AWAY_FOR)
    }

    pub(super) fn new(id: Id, now: Instant) -> Self {
        Self {
            id,
            place: 0,
            weight: 1,
            priority: 0,
            key: 0,
            is_member: true,
            admin: Admin::default(),
            health: HealthStatus::Undecided,
            changed: now,
            load: Load::default(),
            outlier: Outlier::new(),
            is_failing: false,
            proven_at: None,
            turned_away: None,
            on_trial: false,
            ewma: Ewma::default(),
            success_time: Ewma::default(),
            back_since: None,
            credit: 0,
            last_error: None,
        }
    }

    /// The id, which the cluster never gives again.
    #[must_use]
    pub const fn id(&self) -> Id {
        self.id
    }

    /// Its index in the file's order.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.place
    }

    /// Whether it belongs to the cluster.
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.is_member
    }

    /// What the operator ordered for it.
    #[must_use]
    pub const fn admin(&self) -> Admin {
        self.admin
    }

    /// The result of active checks.
    #[must_use]
    pub const fn health(&self) -> HealthStatus {
        self.health
    }

    /// When membership, order or health last changed.
    #[must_use]
    pub const fn changed_at(&self) -> Instant {
        self.changed
    }

    /// Its live sessions and dials in flight.
    #[must_use]
    pub const fn load(&self) -> Load {
        self.load
    }

    /// Its weight, at least 1.
    #[must_use]
    pub const fn weight(&self) -> u32 {
        self.weight
    }

    /// Its priority: endpoints with a higher number are used only if none with a lower number can be.
    #[must_use]
    pub const fn priority(&self) -> u32 {
        self.priority
    }

    /// The failures of its dials and sessions.
    #[must_use]
    pub const fn outlier(&self) -> &Outlier {
        &self.outlier
    }

    /// The average time of its dials in seconds; `None` before the first.
    #[must_use]
    pub fn dial_seconds(&self) -> Option<f64> {
        self.ewma.seconds()
    }

    /// The error of the last failed attempt or probe; a success clears it.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// The state to hand over to a successor.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            admin: self.admin,
            health: self.health,
            outlier: self.outlier.snapshot(),
            is_failing: self.is_failing,
            dial_time: self.ewma.sampled(),
            success_time: self.success_time.sampled(),
            back_since: self.back_since,
            last_error: self.last_error.clone(),
        }
    }

    /// Whether it may take sessions, apart from its health.
    pub(super) const fn is_enabled(&self) -> bool {
        self.is_member && matches!(self.admin, Admin::Enabled)
    }
}

impl Admin {
    /// Every order, from full use to none.
    pub const ALL: [Self; 3] = [Self::Enabled, Self::Draining, Self::Disabled];

    /// The label in `/status` and in the log.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}
