//! Clusters, and how a session gets a stream from one.
//!
//! Decisions (which endpoint, is there room, wait how long) happen under the cluster's one short lock and
//! are the policies'; effects (resolve, connect, upgrade, handshake) happen outside it, in [`dial`]. Between
//! the two goes a [`Lease`].

mod dial;
mod endpoint;
mod failure;
mod lease;
mod meeting;
mod probe;
mod upgrade;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fastrand::Rng;

use crate::metrics::{ClusterMetrics, EndpointMetrics};
use crate::name::ClusterName;
use crate::policy::limits::{self, Full, Load};
use crate::policy::roster::Roster;
use crate::policy::{balance, retry};
use crate::protocol::Protocol;
use crate::{relay, sys, tls};

pub use dial::{DialRecord, Dialled, Ready, Settings as DialSettings, Wanted, dial, try_endpoint};
pub use endpoint::{Address, Endpoint, Host, Settings as EndpointSettings};
pub use failure::{Bound, DialError, Refusal, Step};
pub use lease::Lease;
pub use meeting::Meeting;
pub use probe::{ProbeFailure, probe};

/// One cluster, complete and consistent.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name.
    pub name: ClusterName,
    /// What its servers speak.
    pub protocol: Arc<dyn Protocol>,
    /// At least one; no two with the same name.
    pub endpoints: Vec<EndpointSettings>,
    /// Which of them takes the next session.
    pub balance: balance::Policy,
    /// `None`: plaintext.
    pub tls: Option<tls::Originator>,
    /// How a session's upstream connection comes about.
    pub dial: DialSettings,
    /// How many of them.
    pub limits: limits::Settings,
    /// Socket options of both legs.
    pub socket: sys::Options,
    /// The timers of its sessions.
    pub session: relay::Settings,
}

/// A named group of interchangeable endpoints.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    endpoints: Vec<Endpoint>,
    metrics: ClusterMetrics,
    state: Mutex<State>,
}

/// What changes, behind the lock.
#[derive(Debug)]
struct State {
    roster: Roster,
    rng: Rng,
    /// Why the last attempt on each endpoint failed, if it did.
    last_errors: Vec<Option<String>>,
}

/// An endpoint as others see it.
#[derive(Debug)]
pub struct EndpointView<'a> {
    /// What is fixed about it.
    pub settings: &'a EndpointSettings,
    /// What it carries.
    pub load: Load,
    /// Why the last attempt that failed did; a success clears it.
    pub last_error: Option<String>,
}

impl Cluster {
    /// With the generator that its random choices come from.
    #[must_use]
    pub fn new(settings: Settings, rng: Rng) -> Arc<Self> {
        let endpoint = |endpoint: &EndpointSettings| {
            let metrics = EndpointMetrics::new(&settings.name, &endpoint.name, DialError::RESULTS);
            let originator = settings.tls.as_ref().map(tls::Originator::for_endpoint);
            Endpoint::new(endpoint.clone(), originator, metrics)
        };
        let endpoints: Vec<_> = settings.endpoints.iter().map(endpoint).collect();
        if let Some(tls) = &settings.tls {
            let ends = tls.identity_expiry().and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok());
            ClusterMetrics::tls(&settings.name, ends.as_ref().map(Duration::as_secs_f64), tls.verifies());
        }
        let weights = settings.endpoints.iter().map(|endpoint| endpoint.weight).collect();
        let state = State {
            roster: Roster::new(settings.balance, settings.limits, weights),
            rng,
            last_errors: vec![None; endpoints.len()],
        };
        let metrics = ClusterMetrics::new(&settings.name);
        Arc::new(Self { settings, endpoints, metrics, state: Mutex::new(state) })
    }

    /// What is fixed about it.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it records.
    #[must_use]
    pub const fn metrics(&self) -> &ClusterMetrics {
        &self.metrics
    }

    /// Its endpoints, in the file's order.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// What it carries.
    #[must_use]
    pub fn load(&self) -> Load {
        self.state().roster.total()
    }

    /// Its endpoints with what they carry, in the file's order.
    #[must_use]
    pub fn view<'a>(&'a self) -> Vec<EndpointView<'a>> {
        let (loads, last_errors) = {
            let state = self.state();
            (state.roster.loads().to_vec(), state.last_errors.clone())
        };
        let view = |((endpoint, load), last_error): ((&'a Endpoint, Load), Option<String>)| EndpointView {
            settings: endpoint.settings(),
            load,
            last_error,
        };
        self.endpoints.iter().zip(loads).zip(last_errors).map(view).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The next endpoint to try, with room reserved on it.
    fn lease(self: &Arc<Self>, wanted: Wanted, plan: &mut retry::Plan) -> Result<Lease, Full> {
        let picked = {
            let State { roster, rng, .. } = &mut *self.state();
            match wanted {
                Wanted::Any => roster.begin(plan, rng)?,
                Wanted::Endpoint { index, .. } => {
                    roster.begin_at(index, plan);
                    index
                }
            }
        };
        self.metrics.pending_dials.increment(1);
        Ok(Lease::dialling(Arc::clone(self), picked))
    }

    /// How long to wait before the next attempt.
    fn wait(&self, wanted: Wanted, plan: &mut retry::Plan) -> Duration {
        let State { roster, rng, .. } = &mut *self.state();
        match wanted {
            Wanted::Any => plan.wait(&roster.with_room(), rng),
            Wanted::Endpoint { index, .. } => plan.wait(&[index], rng),
        }
    }
}
