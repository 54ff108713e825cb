//! Builds everything from a [`Config`], starts it, changes it when the file has changed, and stops it.
//!
//! Settings before sockets, sockets before ready: when [`RunningDaemon::start`] returns, every listener accepts.
//! Randomness is seeded only here.

mod active_config;
mod clusters;
mod confinement;
mod draining;
mod listeners;
mod notify;
mod reload;
mod restart;
mod signals;
mod sockets;
mod startup_log;
mod watchdog;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{mpsc, oneshot};
use tracing::level_filters::LevelFilter;

use crate::admin::{self, AdminState, Command, History, Phase, PhaseCell, ReloadResult, ViewCell};
use crate::alarm;
use crate::blocking::BlockingTask;
use crate::clock;
use crate::config::{Config, FileAccess};
use crate::credentials::Credentials;
use crate::drain::{ChildDrain, Drain, DrainWatch};
use crate::listener;
use crate::log::Log;
use crate::metrics::{self, Exposition, MetricsError};
use crate::outcome::Outcome;
use crate::session::{AccessLog, CallerLookups};
use crate::sync::Mutex;
use crate::sys::{self, Bind, BindError, Inherited, InheritedError, Launcher, is_succeeding, report_ready};
use crate::upstream::{self, discovery};
use crate::workers::Workers;

pub(crate) use confinement::ProcessConfinement;
pub(crate) use sockets::make_folders;

use active_config::{ActiveConfig, Services};
use draining::{DrainResult, drain_sessions};
use notify::Notice;
use reload::{PendingReads, Reload};
use restart::snapshot::{self, Snapshot};
use restart::{Handover, Predecessors, Reporter, store};
use signals::{DaemonEvent, Signals};

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// Some addresses could not be bound; all of them are named.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Bind(Vec<BindError>),
    /// The descriptors that were passed to us are not what the environment says.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// The metrics recorder could not be installed.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Threads or signal handlers could not be set up.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

#[derive(Debug)]
pub(crate) struct RunningDaemon {
    admin_state: Arc<AdminState>,
    commands: mpsc::Receiver<Command>,
    active: ActiveConfig,
    predecessors: Predecessors,
    /// The files that a reload is limited to.
    file_access: Option<Arc<FileAccess>>,
    readings: PendingReads,
    /// Ends the log level that was set last.
    ordered_level: Option<ChildDrain>,
}

/// The current reload, and the requests for another one: the file may have changed since the current one read it.
#[derive(Default)]
struct PendingReload {
    now: Option<Reload>,
    next: Option<Vec<oneshot::Sender<ReloadResult>>>,
}

impl PendingReload {
    /// Waits for the end of the current reload; for ever, if there is none. Cancel-safe.
    async fn finish(&mut self, active: &mut ActiveConfig) -> ReloadResult {
        match &mut self.now {
            Some(reload) => reload.finish(active).await,
            None => std::future::pending().await,
        }
    }
}

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopResult {
    /// Sessions that were told to end while they were idle.
    pub quiet: usize,
    /// Sessions that were cut at the end of the drain timeout.
    pub forced: usize,
}

/// How long sessions that were told to end get to close: a protocol's refusal may take a client 4 s.
const PARTING: Duration = Duration::from_secs(5);
/// Longer than any process lives.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// How often the page's history gets a sample, and the metrics' recorder folds what histograms have collected, even
/// without a scrape; until then every sample is kept.
const UPKEEP: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT, then drains. The caller has set up the log. `launcher`: starts a successor, if there
/// is one. `confined`: how file access was restricted.
///
/// # Errors
/// When it cannot start; a daemon that has started ends without an error.
pub(crate) async fn run(
    config: Config,
    log: Log,
    launcher: io::Result<Launcher>,
    confined: ProcessConfinement,
) -> Result<(), StartError> {
    let launcher = launcher.map(Arc::new);
    if let Err(error) = &launcher {
        tracing::warn!(%error, "SIGUSR2 will not work: the process that starts a successor cannot be forked");
    }
    let mut signals = Signals::install()?;
    let mut running = RunningDaemon::start(config, log)?;
    confined.log();
    running.file_access = confined.file_access();
    running.take_over();
    let mut handover: Option<Handover> = None;
    let mut reloading = PendingReload::default();
    let stop = loop {
        let removal = running.active.next_removal();
        let event = tokio::select! {
            biased;
            event = signals.next() => event,
            successor = wait_ready(&mut handover) => DaemonEvent::Succeeded(successor),
            reloaded = reloading.finish(&mut running.active) => DaemonEvent::Reloaded(reloaded),
            Some(command) = running.commands.recv() => DaemonEvent::Ordered(command),
            () = removal => DaemonEvent::Removal,
        };
        match event {
            DaemonEvent::Stop(signal) => break signal,
            DaemonEvent::Removal => running.active.remove_drained(),
            DaemonEvent::Reload => running.reload(&mut reloading, None),
            DaemonEvent::Reopen => running.reopen_log(),
            DaemonEvent::Ordered(Command::Reload(answer)) => running.reload(&mut reloading, Some(answer)),
            DaemonEvent::Reloaded(reloaded) => running.finish_reload(&mut reloading, &reloaded),
            DaemonEvent::Ordered(Command::LogLevel(level, lasting, answer)) => {
                running.override_log_level(level, lasting);
                let _ = answer.send(());
            }
            DaemonEvent::Ordered(Command::Drain(answer)) => {
                let _ = answer.send(());
                break "POST /drain";
            }
            DaemonEvent::Replace if handover.is_some() => tracing::warn!("a successor is starting already"),
            DaemonEvent::Replace => {
                handover = match &launcher {
                    Ok(launcher) => Handover::begin(&running.active, &running.predecessors, launcher),
                    Err(error) => {
                        tracing::error!(%error, "no successor: the process that starts one could not be forked; restart instead");
                        metrics::record_replacement(false);
                        None
                    }
                };
            }
            DaemonEvent::Succeeded(None) => {
                handover = None;
                running.admin_state.handing_over.store(false, Ordering::Release);
                running.predecessors.pause(false);
            }
            DaemonEvent::Succeeded(Some(successor)) => {
                let reporter = handover.take().map(|handover| Reporter::to(handover.into_report_pipe()));
                drop(reloading);
                // The launcher's end makes the successor our supervisor's child, before the supervisor is told of it.
                drop(launcher);
                return running.retire(successor, reporter, &mut signals).await;
            }
        }
    };
    // Dropping it answers pending reload requests with an error.
    drop(reloading);
    if let Some(handover) = handover {
        handover.abandon();
    }
    tracing::info!(by = stop, "stopping");
    notify::send(&Notice::Stopping);
    RunningDaemon::or_exit(running.stop(), &mut signals).await;
    Ok(())
}

/// The end of a handover; never, where there is none.
async fn wait_ready(handover: &mut Option<Handover>) -> Option<u32> {
    match handover {
        Some(handover) => handover.wait_ready().await,
        None => std::future::pending().await,
    }
}

impl RunningDaemon {
    /// Binds all sockets and begins to accept.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left behind then.
    pub(crate) fn start(config: Config, log: Log) -> Result<Self, StartError> {
        let exposition = Exposition::install()?;
        let workers = Arc::new(Workers::start(config.workers)?);
        let mut inherited = Inherited::take(&|name| std::env::var(name).ok())?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        warn_of_strangers(&config);
        let credentials = Credentials::default();
        let (commander, commands) = admin::command_channel();
        let admin_state = Arc::new(AdminState {
            phase: PhaseCell::new(Phase::Ready),
            started: clock::now(),
            config: config.file.clone(),
            config_id: config.id.clone(),
            view: ViewCell::default(),
            commands: commander,
            handing_over: AtomicBool::new(false),
            last_reload: Mutex::default(),
            credentials: credentials.clone(),
            log: log.clone(),
            exposition,
            history: History::default(),
            sessions: Drain::default(),
            upkeep: Drain::default(),
        });
        let services = Services {
            workers,
            access: Arc::new(AccessLog::new(log)),
            lookups: CallerLookups { tasks: admin_state.sessions.clone(), ..CallerLookups::default() },
            sessions: admin_state.sessions.clone(),
            admin: admin_state.upkeep.clone(),
            credentials: credentials.clone(),
            discovery: discovery::DiscoveryServices::default(),
            admin_state: Arc::clone(&admin_state),
        };
        let Snapshot { mut counted, clusters } = inherited.snapshot().map(snapshot::read).unwrap_or_default();
        let predecessors = Predecessors::new(inherited.reports());
        counted.retain(&predecessors.processes());
        admin_state.exposition.set_inherited(counted);
        admin_state.exposition.set_settled(predecessors.processes().is_empty());
        services.lookups.metrics.resume(admin_state.exposition.inherited_units().into_iter());
        let mut active = ActiveConfig::new(services, Rng::with_seed(seed()), clusters);
        active.apply(config, &mut inherited).map_err(StartError::Bind)?;
        for unused in inherited.unused() {
            tracing::warn!("{unused}");
        }
        let admin = &active.services().admin;
        admin.spawn(upkeep(Arc::clone(&admin_state), Arc::clone(&active.services().access), admin.watch()));
        predecessors.listen(&admin_state, admin);
        admin.spawn(credentials.run(admin.clone()));
        let workers = Arc::clone(&active.services().workers);
        admin.spawn(watchdog::keep_alive(workers, admin.clone(), admin.watch()));
        startup_log::log_startup(&admin_state, active.services().workers.all().len());
        metrics::record_config_loaded(seconds_since_1970(), true);
        let (file_access, readings, ordered_level) = (None, PendingReads::default(), None);
        Ok(Self { admin_state, commands, active, predecessors, file_access, readings, ordered_level })
    }

    #[must_use]
    pub(crate) fn admin_state(&self) -> &AdminState {
        &self.admin_state
    }

    /// Begins a reload now, or when the current one has ended.
    fn reload(&self, reloading: &mut PendingReload, answer: Option<oneshot::Sender<ReloadResult>>) {
        if reloading.now.is_some() {
            reloading.next.get_or_insert_default().extend(answer);
        } else {
            self.begin_reload(reloading, answer.into_iter().collect());
        }
    }

    fn begin_reload(&self, reloading: &mut PendingReload, answers: Vec<oneshot::Sender<ReloadResult>>) {
        notify::send(&Notice::Reloading);
        reloading.now = Some(Reload::begin(&self.active, self.file_access.clone(), &self.readings, answers));
    }

    fn finish_reload(&mut self, reloading: &mut PendingReload, reloaded: &ReloadResult) {
        if reloaded.ok
            && let Some(before) = self.ordered_level.take()
        {
            before.stop();
        }
        self.admin_state.record_reload(reloaded.ok);
        notify::send(&Notice::Ready);
        if let Some(reload) = reloading.now.take() {
            reload.reply(reloaded);
        }
        if let Some(answers) = reloading.next.take() {
            self.begin_reload(reloading, answers);
        }
    }

    /// Sets the log level until a reload, or for that long.
    fn override_log_level(&mut self, level: LevelFilter, lasting: Option<Duration>) {
        let number = self.admin_state.log.override_level(level);
        if let Some(before) = self.ordered_level.take() {
            before.stop();
        }
        let Some(lasting) = lasting else { return };
        let admin = &self.active.services().admin;
        let order = admin.child();
        let (log, watch) = (self.admin_state.log.clone(), order.watch());
        self.ordered_level = Some(order);
        admin.spawn(async move {
            tokio::select! {
                () = watch.begun() => {}
                () = alarm::sleep(lasting) => log.end_override(number),
            }
        });
    }

    /// On a thread of its own, because opening a file may block.
    fn reopen_log(&self) {
        let log = self.admin_state.log.clone();
        if let Err(error) = BlockingTask::default().begin(move || reload::reopen(&log)) {
            tracing::error!(%error, "cannot reopen the log's files: no thread can be started");
        }
    }

    /// Reports readiness to the predecessor or the supervisor, when everything is in place.
    fn take_over(&mut self) {
        let environment = |name: &str| std::env::var(name).ok();
        if is_succeeding(&environment) {
            // Our supervisor is told by our predecessor, which it knows.
            report_ready(&environment);
            metrics::record_replacement(true);
        } else {
            notify::send(&Notice::Ready);
        }
        self.active.set_handed_on(false);
        self.active.store_sockets();
    }

    /// A successor has taken over: accepts no more, and lets sessions go on for as long as they may.
    async fn retire(
        mut self,
        successor: u32,
        mut reporter: Option<Reporter>,
        signals: &mut Signals,
    ) -> Result<(), StartError> {
        self.active.set_handed_on(true);
        notify::send(&Notice::Succeeded(successor));
        self.active.close_listeners();
        self.active.close_admin();
        let admin_state = Arc::clone(&self.admin_state);
        // After our last response: the successor answers the next request only when it has this report.
        if let Some(reporter) = &mut reporter {
            reporter.report(&admin_state).await;
        }
        let Services { sessions, .. } = self.active.services();
        let sessions = sessions.clone();
        sessions.begin();
        let left: usize = self.admin_state.view.get().routes().map(|route| route.active()).sum();
        tracing::info!(successor, sessions = left, "another process has taken over");
        let most = self.active.config().and_then(|config| config.shutdown.replaced_timeout);
        let routes: Vec<_> = self.admin_state.view.get().routes().map(Arc::clone).collect();
        let ending = async {
            if let Some(most) = most {
                drain_sessions(&routes, most, None).await;
            }
            sessions.finished(clock::now() + FOREVER).await
        };
        tokio::select! {
            _ = ending => {}
            never = keep_reporting(&mut reporter, &admin_state) => match never {},
            signal = signals.stop() => tracing::info!(signal, "stopping"),
        }
        let draining = async {
            tokio::select! {
                stopped = self.drain() => stopped,
                never = keep_reporting(&mut reporter, &admin_state) => match never {},
            }
        };
        Self::or_exit(draining, signals).await;
        if let Some(reporter) = &mut reporter {
            reporter.report(&admin_state).await;
        }
        Ok(())
    }

    async fn or_exit(stopping: impl Future<Output = StopResult>, signals: &mut Signals) {
        tokio::select! {
            stopped = stopping => tracing::info!(quiet = stopped.quiet, forced = stopped.forced, "stopped"),
            again = signals.stop() => tracing::warn!(signal = again, "a second signal: exiting at once"),
        }
    }

    /// Stops: lame duck, no more accepting, then sessions end or are ended.
    pub(crate) async fn stop(mut self) -> StopResult {
        let lame_duck = self.active.config().map(|config| config.shutdown.lame_duck);
        self.admin_state.phase.set(Phase::LameDuck);
        if let Some(wait) = lame_duck.filter(|wait| !wait.is_zero()) {
            tracing::info!(?wait, "lame duck: not ready, and still accepting");
            notify::send(&Notice::Status(&format!("lame duck: still accepting for {wait:?}")));
            alarm::sleep(wait).await;
        }
        let stopped = self.drain().await;
        store::store_snapshot(&self.active);
        stopped
    }

    /// Stops accepting, and ends the sessions within the drain timeout.
    async fn drain(&mut self) -> StopResult {
        let Self { admin_state, commands, active, .. } = self;
        // Pending and later requests are refused at once.
        commands.close();
        while commands.try_recv().is_ok() {}
        let drain_timeout = active.config().map(|config| config.shutdown.drain_timeout);
        let Services { sessions, admin, .. } = active.services();
        let (sessions, admin) = (sessions.clone(), admin.clone());
        admin_state.phase.set(Phase::Draining);
        sessions.begin();
        active.close_listeners();
        let view = admin_state.view.get();
        let routes: Vec<_> = view.routes().map(Arc::clone).collect();
        tracing::info!(
            sessions = routes.iter().map(|route| route.active()).sum::<usize>(),
            "no longer accepting"
        );
        let DrainResult { quiet, forced } =
            drain_sessions(&routes, drain_timeout.unwrap_or_default(), Some(&sessions)).await;
        // This includes connections accepted at the last moment.
        for route in &routes {
            route.stop_all(Outcome::Drained);
        }
        if forced > 0 {
            tracing::warn!(forced, "drain_timeout is over; ending the sessions that are left");
        }
        let _ = sessions.finished(clock::now() + PARTING).await;
        admin.begin();
        let _ = admin.finished(clock::now() + PARTING).await;
        StopResult { quiet, forced }
    }
}

/// Reports for ever; never returns.
async fn keep_reporting(reporter: &mut Option<Reporter>, admin_state: &AdminState) -> Infallible {
    match reporter {
        Some(reporter) => reporter.keep_reporting(admin_state).await,
        None => std::future::pending().await,
    }
}

async fn upkeep(admin_state: Arc<AdminState>, access: Arc<AccessLog>, watch: DrainWatch) {
    let mut stop = std::pin::pin!(watch.begun());
    loop {
        tokio::select! {
            () = &mut stop => return,
            () = alarm::sleep(UPKEEP) => {
                admin_state.exposition.upkeep();
                access.upkeep();
                admin_state.history.sample(clock::now(), admin_state.counters());
            }
        }
    }
}

fn seconds_since_1970() -> f64 {
    clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that seeds")]
fn seed() -> u64 {
    Rng::new().u64(..)
}

/// Warns when rules about callers could only deny.
fn warn_of_strangers(config: &Config) {
    let is_asked = |listener: &listener::Settings| {
        let is_tcp = listener.binds.iter().any(|bind| matches!(bind, Bind::Tcp(_) | Bind::Systemd(_)));
        let chooses = |cluster: &upstream::Settings| {
            cluster.tls.as_ref().is_some_and(|tls| tls.identities().needs().is_some())
        };
        let mut its = config.clusters.iter().filter(|cluster| listener.clusters.contains(&cluster.name));
        is_tcp && (!listener.admission.allow.is_empty() || its.any(chooses))
    };
    if config.listeners.iter().any(is_asked)
        && let Err(error) = sys::checks_socket_owners()
    {
        tracing::warn!(
            %error,
            "the kernel does not tell who connects over loopback, so every TCP client that rules have to be about is denied; a \
             systemd unit needs AF_NETLINK in RestrictAddressFamilies"
        );
    }
}
