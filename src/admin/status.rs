//! `/status`, `/sessions` and `/log` as data: made from the daemon's objects, parsed by `ambassador status`, `sessions` and
//! `top`. These may be of another version: they ignore unknown fields, and treat missing ones as empty.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::reported::Reported;
use super::{AdminState, ListenerView};
use crate::cluster::{Cluster, EndpointView, Origin};
use crate::credentials::CredentialView;
use crate::log::Log;
use crate::policy::{breaker, outlier};
use crate::quantity::show_duration;
use crate::{caller, clock};

/// The phases of a daemon's life, each followed by the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    Ready,
    /// Still accepting, but no longer ready.
    LameDuck,
    /// No longer accepting; sessions end.
    Draining,
}

impl Phase {
    /// The word in `/status`.
    #[must_use]
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::LameDuck => "lame_duck",
            Self::Draining => "draining",
        }
    }
}

/// The phase, readable from any thread.
#[derive(Debug)]
pub(crate) struct PhaseCell(AtomicU8);

impl PhaseCell {
    #[must_use]
    pub(crate) const fn new(phase: Phase) -> Self {
        Self(AtomicU8::new(phase as u8))
    }

    pub(crate) fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }

    #[must_use]
    pub(crate) fn get(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Ready,
            1 => Phase::LameDuck,
            _ => Phase::Draining,
        }
    }
}

/// The response to `/status`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub version: String,
    pub pid: Reported<u32>,
    pub state: String,
    pub uptime_seconds: Reported<f64>,
    pub config: String,
    pub last_reload: Option<LastReload>,
    pub admin: Option<String>,
    pub listeners: Vec<ListenerStatus>,
    pub clusters: Vec<ClusterStatus>,
    pub credentials: Vec<CredentialStatus>,
}

/// When the file was last read again, in `/status`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LastReload {
    /// Whether it came into force.
    pub ok: bool,
    /// How long that is ago.
    pub seconds_ago: f64,
}

/// A listener in `/status`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ListenerStatus {
    pub name: String,
    pub cluster: String,
    pub addresses: Vec<String>,
    pub active: Reported<usize>,
    pub accepted: Reported<u64>,
    pub max_connections: Reported<u32>,
}

/// A cluster in `/status`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ClusterStatus {
    pub name: String,
    pub protocol: String,
    pub balance: String,
    pub tls: String,
    pub breaker: Option<String>,
    pub breaker_seconds_left: Option<f64>,
    pub mode: String,
    pub sessions: u32,
    pub pending_dials: u32,
    /// Sessions that wait for room.
    pub waiting: usize,
    pub endpoints: Vec<EndpointStatus>,
    pub discovery: Vec<OriginStatus>,
}

/// A source of a cluster's endpoints, in `/status`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct OriginStatus {
    pub kind: String,
    pub name: String,
    pub found: Reported<usize>,
    pub age_ms: Option<u64>,
    pub next_ms: Option<u64>,
    pub last_error: Option<String>,
}

/// A credential in `/status`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CredentialStatus {
    pub kind: String,
    pub name: String,
    pub files: Vec<String>,
    /// Of a login: when its source last gave it, in seconds since 1970.
    pub updated: Option<u64>,
    /// When the first certificate or the login expires, in seconds since 1970.
    pub expires: Option<u64>,
    pub replaced: u64,
    /// Why the current content of its files is not in use.
    pub error: Option<String>,
}

/// An endpoint in `/status`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointStatus {
    pub name: String,
    pub host: Option<String>,
    pub addresses: Vec<String>,
    pub state: String,
    pub health: String,
    /// For how long the health has been the same; absent without health checks.
    pub health_seconds: Option<f64>,
    /// Why the last probe failed, if it did.
    pub health_error: Option<String>,
    pub ejected: Option<EjectionStatus>,
    pub weight: Reported<u32>,
    pub priority: u32,
    pub dial_ms: Option<f64>,
    pub sessions: Reported<u32>,
    pub pending_dials: Reported<u32>,
    /// Connections that are ready for sessions.
    pub ready: u32,
    pub last_error: Option<String>,
}

/// Why an endpoint is ejected, and for how much longer.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct EjectionStatus {
    pub fault: String,
    pub seconds_left: f64,
    pub on_trial: bool,
}

/// The response to `/sessions`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SessionList {
    pub sessions: Vec<SessionStatus>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SessionStatus {
    pub session: String,
    pub listener: String,
    pub cluster: Option<String>,
    pub endpoint: Option<String>,
    pub caller: Option<CallerStatus>,
    pub age_ms: Reported<u64>,
    pub sent_bytes: Reported<u64>,
    pub received_bytes: Reported<u64>,
}

/// The caller of a session, in `/sessions`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CallerStatus {
    pub uid: u32,
    pub user: Option<String>,
    pub unit: Option<String>,
    pub pid: Option<u32>,
}

/// The level of the log.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LogLevel {
    /// The level in force.
    pub level: String,
    /// The level in the file, as last read.
    pub configured: String,
    /// For how long the level in force was requested just now, if for a limited time.
    pub lasting: Option<String>,
}

impl CallerStatus {
    fn of(caller: &caller::Caller) -> Self {
        Self {
            uid: caller.uid,
            user: caller.user.as_deref().map(str::to_owned),
            unit: caller.unit().map(ToString::to_string),
            pid: caller.pid,
        }
    }
}

impl Status {
    pub(super) fn of(admin_state: &AdminState) -> Self {
        let view = admin_state.view.get();
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id().into(),
            state: admin_state.phase.get().label().into(),
            uptime_seconds: (clock::now() - admin_state.started).as_secs_f64().into(),
            config: admin_state.config.display().to_string(),
            last_reload: LastReload::of(admin_state),
            admin: view.admin.map(|address| address.to_string()),
            listeners: view.listeners.iter().map(ListenerStatus::of).collect(),
            clusters: view.clusters.iter().map(|cluster| ClusterStatus::of(cluster)).collect(),
            credentials: admin_state.credentials.view().into_iter().map(CredentialStatus::of).collect(),
        }
    }
}

impl LastReload {
    fn of(admin_state: &AdminState) -> Option<Self> {
        let last = *admin_state.last_reload.lock();
        let seconds_ago = |at| clock::now().saturating_duration_since(at).as_secs_f64();
        last.map(|(at, ok)| Self { ok, seconds_ago: seconds_ago(at) })
    }
}

impl SessionList {
    pub(super) fn of(admin_state: &AdminState) -> Self {
        let now = clock::now();
        let view = admin_state.view.get();
        let mut sessions: Vec<_> =
            view.routes().flat_map(|route| route.view().into_iter().map(move |view| (route, view))).collect();
        sessions.sort_by_key(|(_, view)| view.accepted);
        let session =
            |(route, view): (&Arc<crate::session::Route>, crate::session::SessionView)| SessionStatus {
                session: view.session.to_string(),
                listener: route.listener().to_string(),
                cluster: view.cluster.map(|name| name.to_string()),
                endpoint: view.endpoint.map(|name| name.to_string()),
                caller: view.caller.as_deref().map(CallerStatus::of),
                age_ms: u64::try_from((now - view.accepted).as_millis()).unwrap_or(u64::MAX).into(),
                sent_bytes: view.sent.into(),
                received_bytes: view.received.into(),
            };
        Self { sessions: sessions.into_iter().map(session).collect() }
    }
}

impl LogLevel {
    pub(super) fn of(log: &Log, lasting: Option<Duration>) -> Self {
        let (level, configured) = log.levels();
        let lasting = lasting.map(show_duration);
        Self { level: level.to_string(), configured: configured.to_string(), lasting }
    }
}

impl ListenerStatus {
    fn of(view: &ListenerView) -> Self {
        Self {
            name: view.route.listener().to_string(),
            cluster: view
                .route
                .clusters()
                .map(|cluster| cluster.settings().name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
            addresses: view.addresses.iter().map(ToString::to_string).collect(),
            active: view.route.active().into(),
            accepted: view.route.accepted().into(),
            max_connections: view.route.settings().max_connections.into(),
        }
    }
}

impl ClusterStatus {
    fn of(cluster: &Cluster) -> Self {
        let settings = cluster.settings();
        let (load, breaker, now) = (cluster.load(), cluster.breaker(), clock::now());
        let tls = match &settings.tls {
            None => "none",
            Some(tls) if !tls.identities().all().is_empty() => "mtls",
            Some(_) => "tls",
        };
        Self {
            name: settings.name.to_string(),
            protocol: settings.protocol.label().into(),
            balance: settings.balance.label().into(),
            tls: tls.into(),
            breaker: breaker.map(|state| state.label().label().into()),
            breaker_seconds_left: match breaker {
                Some(breaker::State::Open { until }) => Some(left(until, now)),
                Some(breaker::State::Closed { .. } | breaker::State::HalfOpen { .. }) | None => None,
            },
            mode: cluster.mode().label().into(),
            sessions: load.sessions,
            pending_dials: load.dials,
            waiting: cluster.waiting(),
            endpoints: cluster.view().into_iter().map(|view| EndpointStatus::of(view, now)).collect(),
            discovery: {
                let discovery = cluster.discovery();
                let kept = discovery.kept.map(|written| OriginStatus::kept(written, discovery.endpoints));
                discovery.origins.iter().map(OriginStatus::of).chain(kept).collect()
            },
        }
    }
}

impl OriginStatus {
    /// Endpoints that are in use because they were kept on disk.
    fn kept(written: SystemTime, endpoints: usize) -> Self {
        let age = clock::wall().duration_since(written).unwrap_or_default();
        Self {
            kind: "kept".into(),
            name: "endpoints kept on disk".into(),
            found: Reported::from(endpoints),
            age_ms: Some(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            ..Self::default()
        }
    }

    fn of(origin: &Origin) -> Self {
        let now = clock::now();
        let millis = |lasted: Duration| u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
        Self {
            kind: origin.kind.label().into(),
            name: origin.name.clone(),
            found: origin.found.into(),
            age_ms: origin.succeeded.map(|at| millis(now.saturating_duration_since(at))),
            next_ms: origin.due.map(|at| millis(at.saturating_duration_since(now))),
            last_error: origin.error.clone(),
        }
    }
}

fn left(until: Instant, now: Instant) -> f64 {
    until.saturating_duration_since(now).as_secs_f64()
}

impl EjectionStatus {
    fn of(state: outlier::State, now: Instant) -> Option<Self> {
        let (fault, seconds_left, on_trial) = match state {
            outlier::State::In => return None,
            outlier::State::Ejected { until, fault } => (fault, left(until, now), false),
            outlier::State::OnTrial { fault } => (fault, 0.0, true),
        };
        Some(Self { fault: fault.label().into(), seconds_left, on_trial })
    }
}

impl CredentialStatus {
    fn of(view: CredentialView) -> Self {
        let seconds = |moment: Option<SystemTime>| {
            moment
                .and_then(|moment| moment.duration_since(SystemTime::UNIX_EPOCH).ok())
                .map(|since| since.as_secs())
        };
        Self {
            kind: view.kind.into(),
            name: view.name,
            files: view.files.iter().map(|file| file.display().to_string()).collect(),
            updated: seconds(view.updated),
            expires: seconds(view.not_after),
            replaced: view.replaced,
            error: view.error,
        }
    }
}

impl EndpointStatus {
    fn of(view: EndpointView, now: Instant) -> Self {
        let settings = view.endpoint.settings();
        let state = if view.is_present { view.admin.label() } else { "removed" };
        Self {
            name: settings.name.to_string(),
            host: settings.host.as_deref().map(str::to_owned),
            addresses: settings.addresses.iter().map(|address| address.to_string()).collect(),
            state: state.into(),
            health: view.observed.as_ref().map_or("unchecked", |_| view.health.label()).into(),
            health_seconds: view.observed.as_ref().map(|observed| observed.age.as_secs_f64()),
            health_error: view.observed.and_then(|observed| observed.last_error),
            ejected: EjectionStatus::of(view.outlier, now),
            weight: view.weight.into(),
            priority: view.priority,
            dial_ms: view.dial_time.map(|time| time.as_secs_f64() * 1e3),
            sessions: view.load.sessions.into(),
            pending_dials: view.load.dials.into(),
            ready: view.ready,
            last_error: view.last_error,
        }
    }
}
