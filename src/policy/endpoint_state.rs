//! One endpoint as the policies see it: what was said about it, what it carries, what was observed.
//!
//! All that is decided about an endpoint reads its slot and nothing else, so that a decision sees one state. Slots change
//! only in [`super::cluster_state`], under the cluster's one lock.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::ewma::Ewma;
use super::health::HealthStatus;
use super::limits::Load;
use super::outlier::{self, Outlier};

/// Names an endpoint among those that its cluster ever had; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(NonZeroU32);

impl Id {
    /// The first that a cluster gives.
    pub(super) const FIRST: Self = Self(NonZeroU32::MIN);

    /// The one after it. Four billion endpoints in one process' life end in the last number again and again.
    pub(super) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// As a number that fits where room is short; never 0.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The id of that number; `None` for 0.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }
}

/// What an operator ordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Admin {
    /// It takes its share.
    #[default]
    Enabled,
    /// No new sessions; those that live go on.
    Draining,
    /// As if it were no longer in the file: no new sessions, and no probes.
    Disabled,
}

/// What the file or the discovery says about an endpoint, as far as decisions go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointSpec {
    /// The one it was before; `None` for a new one.
    pub id: Option<Id>,
    /// Its share of the sessions, at least 1.
    pub weight: u32,
    /// Those of a higher number are for when nobody of a lower one can be used.
    pub priority: u32,
    /// By which `source_hash` knows it: the same in every process.
    pub key: u64,
}

/// One endpoint.
#[derive(Debug)]
pub struct EndpointState {
    pub(super) id: Id,
    /// Its place in the file's order.
    pub(super) place: usize,
    pub(super) weight: u32,
    pub(super) priority: u32,
    pub(super) key: u64,
    /// Whether the cluster has it still; if not, it lives until its last session and dial have ended.
    pub(super) is_member: bool,
    pub(super) admin: Admin,
    pub(super) health: HealthStatus,
    /// When membership, order or health last changed.
    pub(super) changed: Instant,
    pub(super) load: Load,
    /// What its dials and sessions did.
    pub(super) outlier: Outlier,
    /// Whether the last that was seen of it was a failure: of a session's dial, of a trial, or of enough probes. One that
    /// nobody has tried yet may be good.
    pub(super) is_failing: bool,
    /// When it last came back from an ejection, or a trial showed that it serves: failures of dials from before say nothing.
    pub(super) proven_at: Option<Instant>,
    /// When it last turned a session away in its own words.
    pub(super) turned_away: Option<Instant>,
    /// Whether a trial of ours is on its way to it.
    pub(super) on_trial: bool,
    /// How long its dials take, those that failed among them.
    pub(super) ewma: Ewma,
    /// How long those take that succeed.
    pub(super) success_time: Ewma,
    /// When it came back: after an ejection, after active checks had it down, or as a new one among others.
    pub(super) back_since: Option<Instant>,
    /// Round robin's credit.
    pub(super) credit: i64,
    /// Why the last attempt or probe that failed did; a success clears it.
    pub(super) last_error: Option<Box<str>>,
}

/// What a process has to know of an endpoint that goes on with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// What an operator ordered.
    pub admin: Admin,
    /// What active checks say.
    pub health: HealthStatus,
    /// What its dials and sessions did.
    pub outlier: outlier::Snapshot,
    /// Whether the last that was seen of it was a failure.
    pub is_failing: bool,
    /// How long its dials take, in seconds, as of a moment.
    pub dial_time: Option<(f64, Instant)>,
    /// How long those take that succeed, likewise.
    pub success_time: Option<(f64, Instant)>,
    /// When it came back, if it was away.
    pub back_since: Option<Instant>,
    /// Why the last attempt or probe that failed did.
    pub last_error: Option<Box<str>>,
}

/// So long others of its priority are asked before an endpoint that has turned a session away. It carries nothing, so that by its load
/// it would be the first to be asked.
pub(super) const TURNS_AWAY_FOR: Duration = Duration::from_secs(5);

impl EndpointState {
    /// Whether it has turned a session away lately. Having served another one since says little: dials that were under way come first.
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

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> Id {
        self.id
    }

    /// Its place in the file's order.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.place
    }

    /// Whether the cluster has it still.
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.is_member
    }

    /// What an operator ordered.
    #[must_use]
    pub const fn admin(&self) -> Admin {
        self.admin
    }

    /// What active checks say of it.
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

    /// Its share, at least 1.
    #[must_use]
    pub const fn weight(&self) -> u32 {
        self.weight
    }

    /// Those of a higher number are for when nobody of a lower one can be used.
    #[must_use]
    pub const fn priority(&self) -> u32 {
        self.priority
    }

    /// What its dials and sessions did.
    #[must_use]
    pub const fn outlier(&self) -> &Outlier {
        &self.outlier
    }

    /// How long its dials take, in seconds; `None` before the first.
    #[must_use]
    pub fn dial_seconds(&self) -> Option<f64> {
        self.ewma.seconds()
    }

    /// Why the last attempt or probe that failed did; a success clears it.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// What a process has to know that goes on with it.
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

    /// Whether it may take sessions at all, healthy or not.
    pub(super) const fn is_enabled(&self) -> bool {
        self.is_member && matches!(self.admin, Admin::Enabled)
    }
}

impl Admin {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Enabled, Self::Draining, Self::Disabled];

    /// The word for people and in `/status`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}
