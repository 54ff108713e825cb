//! Builds everything from a [`Config`], starts it, and stops it.
//!
//! Settings before sockets, sockets before ready: when [`Running::start`] returns, every listener accepts.
//! The one place where randomness is seeded.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::{self, Control, Door, History, ListenerView, Phase, PhaseCell, Subject};
use crate::alarm;
use crate::clock;
use crate::config::{Config, Shutdown};
use crate::credentials::Credentials;
use crate::downstream::Census;
use crate::drain::{Drain, DrainWatch};
use crate::listener::{self, Service};
use crate::metrics::{CallerMetrics, Exposition, MetricsError};
use crate::name::ClusterName;
use crate::outcome::Outcome;
use crate::policy::admission::Needs;
use crate::session::{self, AccessLog, Admission, Route, SessionIds, end_orphans};
use crate::sys::{Bind, BindError, Inherited, InheritedError, Listening, LocalAddress, Options, UnixBind};
use crate::upstream::{Cluster, discovery, health_check};
use crate::workers::{Worker, Workers};

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Some addresses could not be bound; all of them are named.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Bind(Vec<BindError>),
    /// What was passed to us by descriptor is not what the environment says.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// No recorder.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// No threads, or no signal handlers.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

/// A started daemon.
#[derive(Debug)]
pub struct Running {
    subject: Arc<Subject>,
    sessions: Drain,
    admin: Drain,
    shutdown: Shutdown,
    /// Kept until the last session has ended: without it the threads end.
    workers: Arc<Workers>,
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Sessions that were cut at the end of the time.
    pub forced: usize,
}

/// Sessions that were told to end get this long to say goodbye: a refusal in words may take its client 4 s.
const PARTING: Duration = Duration::from_secs(5);
/// How often the page's history gets a sample, and the metrics' recorder folds what histograms have collected, whether anybody scrapes or not; until
/// then every sample is kept.
const UPKEEP: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT, then drains. The caller has set up the log.
///
/// # Errors
/// When it cannot start; a daemon that has started ends well.
pub async fn run(config: Config, access: AccessLog) -> Result<(), StartError> {
    let mut signals = Signals::install()?;
    let running = Running::start(config, access)?;
    notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status("ready")]);
    let stop = signals.stop().await;
    tracing::info!(signal = stop, "stopping");
    notify(&[sd_notify::NotifyState::Stopping, sd_notify::NotifyState::Status("draining")]);
    tokio::select! {
        stopped = running.stop() => tracing::info!(forced = stopped.forced, "stopped"),
        again = signals.stop() => tracing::warn!(signal = again, "a second signal: exiting at once"),
    }
    Ok(())
}

impl Running {
    /// Binds everything and begins to accept.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left behind then.
    pub fn start(config: Config, access: AccessLog) -> Result<Self, StartError> {
        let exposition = Exposition::install()?;
        let workers = Arc::new(Workers::start(config.workers)?);
        let bound = Bound::bind(&config, workers.listening())?;
        let mut rng = Rng::with_seed(seed());
        let routes = routes(&config, access.is_on(), &mut rng);
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let (sessions, admin) = (Drain::default(), Drain::default());
        let access = Arc::new(access);
        let mut listeners = Vec::new();
        for (route, sockets) in routes.into_iter().zip(bound.listeners) {
            let addresses: Vec<_> = sockets.iter().map(|socket| socket.local().clone()).collect();
            for listening in sockets {
                tracing::info!(listener = %route.listener(), address = %listening.local(), "listening");
                let service = Service {
                    route: Arc::clone(&route),
                    workers: Arc::clone(&workers),
                    access: Arc::clone(&access),
                    drain: sessions.clone(),
                };
                let accepting = listener::serve(listening, service, sessions.watch());
                sessions.spawn_on(workers.listening().handle(), accepting);
            }
            admin.spawn(end_orphans(Arc::clone(&route), sessions.watch()));
            listeners.push(ListenerView { route, addresses });
        }
        find_endpoints(&listeners, &admin, &mut rng);
        let credentials = credentials(&config);
        admin.spawn(credentials.clone().keep(admin.watch()));
        for cluster in clusters(&listeners) {
            admin.spawn(health_check::run(cluster, rng.fork(), admin.watch()));
        }
        let subject = Arc::new(Subject {
            phase: PhaseCell::new(Phase::Ready),
            started: clock::now(),
            config: config.file,
            admin: bound.admin.as_ref().and_then(|admin| tcp_address(admin.local())),
            listeners,
            credentials,
            exposition,
            history: History::default(),
        });
        admin.spawn(upkeep(Arc::clone(&subject), admin.watch()));
        for (door, listening) in [(Door::Address, bound.admin), (Door::Control, bound.control)] {
            let Some(listening) = listening else { continue };
            tracing::info!(address = %listening.local(), "answering on");
            admin.spawn(admin::serve(listening, door, Arc::clone(&subject), admin.clone(), admin.watch()));
        }
        Ok(Self { subject, sessions, admin, shutdown: config.shutdown, workers })
    }

    /// What there is to be seen.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Stops: lame duck, no more accepting, sessions end or are ended.
    pub async fn stop(self) -> Stopped {
        self.subject.phase.set(Phase::LameDuck);
        alarm::sleep(self.shutdown.lame_duck).await;
        self.subject.phase.set(Phase::Draining);
        self.sessions.begin();
        for listener in &self.subject.listeners {
            listener.route.stop_unopened(Outcome::Drained);
        }
        let mut forced = 0;
        if self.sessions.finished(clock::now() + self.shutdown.drain_timeout).await.is_err() {
            let routes = self.subject.listeners.iter().map(|listener| &listener.route);
            forced = routes.map(|route| route.stop_all(Outcome::Drained)).sum();
            tracing::warn!(forced, "drain_timeout is over; ending the sessions that are left");
            let _ = self.sessions.finished(clock::now() + PARTING).await;
        }
        self.admin.begin();
        let _ = self.admin.finished(clock::now() + PARTING).await;
        drop(self.workers);
        Stopped { forced }
    }
}

/// Here and not on a worker: lookups have timers that would cost each of its rounds a look at the clock.
fn find_endpoints(listeners: &[ListenerView], admin: &Drain, rng: &mut Rng) {
    let resolver = Arc::new(discovery::Resolver::default());
    for cluster in clusters(listeners) {
        admin.spawn(discovery::follow(cluster, Arc::clone(&resolver), rng.fork(), admin.watch()));
    }
}

async fn upkeep(subject: Arc<Subject>, watch: DrainWatch) {
    let mut stop = std::pin::pin!(watch.begun());
    loop {
        tokio::select! {
            () = &mut stop => return,
            () = alarm::sleep(UPKEEP) => {
                subject.exposition.upkeep();
                subject.history.sample(clock::now(), subject.totals());
            }
        }
    }
}

/// Every socket of the configuration.
struct Bound {
    listeners: Vec<Vec<Listening>>,
    admin: Option<Listening>,
    control: Option<Listening>,
}

impl Bound {
    /// All or nothing; every address that cannot be had is named in one go. Listeners belong to `worker`, what
    /// answers about the daemon to the current runtime.
    fn bind(config: &Config, worker: &Worker) -> Result<Self, StartError> {
        let mut inherited = Inherited::take(&|name| std::env::var(name).ok())?;
        let mut errors = Vec::new();
        let mut listen = |bind: &Bind, options: &Options| {
            inherited.listen(bind, options).map_err(|error| errors.push(error)).unwrap_or_default()
        };
        let registering = worker.handle().enter();
        let listeners = config
            .listeners
            .iter()
            .map(|listener| {
                let options = config.cluster_of(listener).map_or(Options::NONE, |cluster| cluster.socket);
                listener.binds.iter().flat_map(|bind| listen(bind, &options)).collect()
            })
            .collect();
        drop(registering);
        let admin = config.admin.bind.and_then(|address| listen(&Bind::Tcp(address), &Options::NONE).pop());
        let control = match &config.admin.control {
            Control::Off => None,
            Control::At(path) => listen(&control_bind(path), &Options::NONE).pop(),
            Control::Default(path) => default_control(path),
        };
        if !errors.is_empty() {
            return Err(StartError::Bind(errors));
        }
        for unused in inherited.unused() {
            tracing::warn!("{unused}");
        }
        Ok(Self { listeners, admin, control })
    }
}

fn control_bind(path: &Path) -> Bind {
    Bind::Unix(UnixBind { path: path.into(), mode: 0o600, owner: None, group: None })
}

/// Nobody asked for this place, so nobody is refused a start for want of it.
fn default_control(path: &Path) -> Option<Listening> {
    if let Some(folder) = path.parent() {
        // Binding says what is wrong with it.
        let _ = std::fs::create_dir_all(folder);
    }
    Listening::bind(&control_bind(path), &Options::NONE)
        .inspect_err(
            |error| tracing::warn!(%error, "no control socket; set admin.control to a path or to `off`"),
        )
        .ok()
}

/// `recorded`: each session leaves a record, with its caller in it.
fn routes(config: &Config, recorded: bool, rng: &mut Rng) -> Vec<Arc<Route>> {
    let (census, callers) = (Arc::<Census>::default(), Arc::<CallerMetrics>::default());
    let for_the_log = recorded.then_some(Needs { unit: true, groups: false });
    let ids = Arc::new(SessionIds::new(rng.u64(..)));
    let clusters: BTreeMap<ClusterName, Arc<Cluster>> = config
        .clusters
        .iter()
        .map(|settings| (settings.name.clone(), Cluster::new(settings.clone(), rng.fork())))
        .collect();
    let route = |settings: &listener::Settings| {
        let cluster = clusters.get(&settings.cluster).expect("a Config has no dangling cluster");
        let wanted = [for_the_log, cluster.settings().wants_of_callers()];
        let wanted = wanted.into_iter().flatten().reduce(Needs::and);
        let admission = Admission::new(&settings.admission, wanted, &census, &callers);
        let settings = session::Settings {
            listener: settings.name.clone(),
            max_connections: settings.max_connections,
            accept_proxy: settings.accept_proxy,
            admission,
        };
        Route::new(settings, Arc::clone(cluster), Arc::clone(&ids))
    };
    config.listeners.iter().map(route).collect()
}

/// Those of every cluster, to be followed.
fn credentials(config: &Config) -> Credentials {
    let credentials = Credentials::default();
    for cluster in &config.clusters {
        if let Some(originator) = &cluster.tls {
            credentials.follow(&cluster.name, originator);
        }
    }
    credentials
}

/// Each cluster that a listener leads to, once.
fn clusters(listeners: &[ListenerView]) -> Vec<Arc<Cluster>> {
    let clusters = listeners.iter().map(|listener| listener.route.cluster());
    let by_name: BTreeMap<_, _> =
        clusters.map(|cluster| (cluster.settings().name.clone(), Arc::clone(cluster))).collect();
    by_name.into_values().collect()
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that seeds")]
fn seed() -> u64 {
    Rng::new().u64(..)
}

const fn tcp_address(local: &LocalAddress) -> Option<std::net::SocketAddr> {
    match local {
        LocalAddress::Tcp(address) => Some(*address),
        LocalAddress::Unix(_) => None,
    }
}

/// Tells systemd, where there is one.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// The signals we answer to.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr2: Signal,
}

impl Signals {
    /// Before anything is bound: a signal during the start must not kill us half-way with its default action.
    fn install() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for one that asks us to stop; which is the answer.
    async fn stop(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.term.recv() => return "SIGTERM",
                _ = self.int.recv() => return "SIGINT",
                _ = self.hup.recv() => tracing::warn!("SIGHUP: reload is not supported yet; nothing changed"),
                _ = self.usr2.recv() => tracing::warn!("SIGUSR2: replacement is not supported yet; nothing changed"),
            }
        }
    }
}
