//! Builds everything from a [`Config`], starts it, changes it when the file has changed, and stops it.
//!
//! Settings before sockets, sockets before ready: when [`Running::start`] returns, every listener accepts.
//! The one place where randomness is seeded.

mod confined;
mod estate;
mod notify;
mod parting;
mod reload;
mod replace;
mod reports;
mod signals;
mod snapshot;
mod sockets;
mod store;
mod watchdog;
mod words;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{mpsc, oneshot};
use tracing::level_filters::LevelFilter;

use crate::admin::{self, Command, History, Phase, PhaseCell, Reloaded, Scenery, Subject};
use crate::alarm;
use crate::aside::Aside;
use crate::clock;
use crate::config::{Config, Reach};
use crate::credentials::Credentials;
use crate::drain::{Branch, Drain, DrainWatch};
use crate::listener;
use crate::log::Log;
use crate::metrics::{self, Exposition, MetricsError};
use crate::outcome::Outcome;
use crate::session::{AccessLog, Lookups};
use crate::sync::Mutex;
use crate::sys::{
    self, Bind, BindError, Inherited, InheritedError, Launcher, is_succeeding, tell_predecessor,
};
use crate::upstream::{self, discovery};
use crate::workers::Workers;

pub use confined::Confined;
pub use sockets::make_folders;

use estate::{Estate, Means};
use notify::Notice;
use parting::{Parted, part};
use reload::{Readings, Reload};
use replace::Handover;
use reports::{Predecessors, Reporter};
use signals::{Event, Signals};
use snapshot::Snapshot;

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
    commands: mpsc::Receiver<Command>,
    estate: Estate,
    predecessors: Predecessors,
    /// What a reload has to keep to.
    reach: Option<Arc<Reach>>,
    readings: Readings,
    /// What ends the log level that was ordered last.
    ordered_level: Option<Branch>,
}

/// The reload that goes on, and those who want another one behind it: the file may have changed since that one read it.
#[derive(Default)]
struct Reloading {
    now: Option<Reload>,
    next: Option<Vec<oneshot::Sender<Reloaded>>>,
}

impl Reloading {
    /// The end of the one that goes on; never, if there is none. Dropping the future loses nothing.
    async fn done(&mut self, estate: &mut Estate) -> Reloaded {
        match &mut self.now {
            Some(reload) => reload.done(estate).await,
            None => std::future::pending().await,
        }
    }
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Sessions that were told to end in a moment of silence.
    pub quiet: usize,
    /// Sessions that were cut at the end of the time.
    pub forced: usize,
}

/// Sessions that were told to end get this long to say goodbye: a refusal in words may take its client 4 s.
const PARTING: Duration = Duration::from_secs(5);
/// Longer than any process lives.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// How often the page's history gets a sample, and the metrics' recorder folds what histograms have collected, whether
/// anybody scrapes or not; until then every sample is kept.
const UPKEEP: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT, then drains. The caller has set up the log. `launcher`: what starts a successor, if there is one.
/// `confined`: what the process has given up.
///
/// # Errors
/// When it cannot start; a daemon that has started ends well.
pub async fn run(
    config: Config,
    log: Log,
    launcher: io::Result<Launcher>,
    confined: Confined,
) -> Result<(), StartError> {
    let launcher = launcher.map(Arc::new);
    if let Err(error) = &launcher {
        tracing::warn!(%error, "SIGUSR2 will not work: what would start a successor cannot be forked");
    }
    let mut signals = Signals::install()?;
    let mut running = Running::start(config, log)?;
    confined.say();
    running.reach = confined.reach();
    running.take_over();
    let mut handover: Option<Handover> = None;
    let mut reloading = Reloading::default();
    let stop = loop {
        let farewell = running.estate.next_farewell();
        let event = tokio::select! {
            biased;
            event = signals.next() => event,
            successor = done(&mut handover) => Event::Succeeded(successor),
            reloaded = reloading.done(&mut running.estate) => Event::Reloaded(reloaded),
            Some(command) = running.commands.recv() => Event::Ordered(command),
            () = farewell => Event::Farewell,
        };
        match event {
            Event::Stop(signal) => break signal,
            Event::Farewell => running.estate.say_farewell(),
            Event::Reload => running.reload(&mut reloading, None),
            Event::Reopen => running.reopen_log(),
            Event::Ordered(Command::Reload(answer)) => running.reload(&mut reloading, Some(answer)),
            Event::Reloaded(reloaded) => running.reloaded(&mut reloading, &reloaded),
            Event::Ordered(Command::LogLevel(level, lasting, answer)) => {
                running.order_level(level, lasting);
                let _ = answer.send(());
            }
            Event::Ordered(Command::Drain(answer)) => {
                let _ = answer.send(());
                break "POST /drain";
            }
            Event::Replace if handover.is_some() => tracing::warn!("a successor is starting already"),
            Event::Replace => {
                handover = match &launcher {
                    Ok(launcher) => Handover::begin(&running.estate, &running.predecessors, launcher),
                    Err(error) => {
                        tracing::error!(%error, "no successor: what would start one could not be forked; restart instead");
                        metrics::replaced(false);
                        None
                    }
                };
            }
            Event::Succeeded(None) => {
                handover = None;
                running.subject.handing_over.store(false, Ordering::Release);
                running.predecessors.pause(false);
            }
            Event::Succeeded(Some(successor)) => {
                let reporter = handover.take().map(|handover| Reporter::to(handover.reports()));
                drop(reloading);
                // Whoever looks after us gets the successor for a child of its own, before it hears of it.
                drop(launcher);
                return running.retire(successor, reporter, &mut signals).await;
            }
        }
    };
    // Whoever waits for a reload hears that there is none.
    drop(reloading);
    if let Some(handover) = handover {
        handover.abandon();
    }
    tracing::info!(by = stop, "stopping");
    notify::send(&Notice::Stopping);
    Running::or_exit(running.stop(), &mut signals).await;
    Ok(())
}

/// The end of a handover; never, where there is none.
async fn done(handover: &mut Option<Handover>) -> Option<u32> {
    match handover {
        Some(handover) => handover.done().await,
        None => std::future::pending().await,
    }
}

impl Running {
    /// Binds everything and begins to accept.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left behind then.
    pub fn start(config: Config, log: Log) -> Result<Self, StartError> {
        let exposition = Exposition::install()?;
        let workers = Arc::new(Workers::start(config.workers)?);
        let mut inherited = Inherited::take(&|name| std::env::var(name).ok())?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        warn_of_strangers(&config);
        let credentials = Credentials::default();
        let (commander, commands) = admin::commands();
        let subject = Arc::new(Subject {
            phase: PhaseCell::new(Phase::Ready),
            started: clock::now(),
            config: config.file.clone(),
            config_id: config.id.clone(),
            scene: Scenery::default(),
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
        let means = Means {
            workers,
            access: Arc::new(AccessLog::new(log)),
            lookups: Lookups { tasks: subject.sessions.clone(), ..Lookups::default() },
            sessions: subject.sessions.clone(),
            admin: subject.upkeep.clone(),
            credentials: credentials.clone(),
            discovery: discovery::Means::default(),
            subject: Arc::clone(&subject),
        };
        let Snapshot { mut counted, clusters } = inherited.snapshot().map(snapshot::read).unwrap_or_default();
        let predecessors = Predecessors::new(inherited.reports());
        counted.keep(&predecessors.processes());
        subject.exposition.go_on(counted);
        subject.exposition.set_settled(predecessors.processes().is_empty());
        means.lookups.metrics.resume(subject.exposition.units_of_others().into_iter());
        let mut estate = Estate::new(means, Rng::with_seed(seed()), clusters);
        estate.change(config, &mut inherited).map_err(StartError::Bind)?;
        for unused in inherited.unused() {
            tracing::warn!("{unused}");
        }
        let admin = &estate.means().admin;
        admin.spawn(upkeep(Arc::clone(&subject), Arc::clone(&estate.means().access), admin.watch()));
        predecessors.hear(&subject, admin);
        admin.spawn(credentials.keep(admin.clone()));
        let workers = Arc::clone(&estate.means().workers);
        admin.spawn(watchdog::feed(workers, admin.clone(), admin.watch()));
        words::say(&subject, estate.means().workers.all().len());
        metrics::config_loaded(seconds_since_1970(), true);
        let (reach, readings, ordered_level) = (None, Readings::default(), None);
        Ok(Self { subject, commands, estate, predecessors, reach, readings, ordered_level })
    }

    /// What there is to be seen.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Begins to read the configuration again, to do what has changed in it: now, or when the reload that goes on has ended.
    fn reload(&self, reloading: &mut Reloading, answer: Option<oneshot::Sender<Reloaded>>) {
        if reloading.now.is_some() {
            reloading.next.get_or_insert_default().extend(answer);
        } else {
            self.begin_reload(reloading, answer.into_iter().collect());
        }
    }

    fn begin_reload(&self, reloading: &mut Reloading, answers: Vec<oneshot::Sender<Reloaded>>) {
        notify::send(&Notice::Reloading);
        reloading.now = Some(Reload::begin(&self.estate, self.reach.clone(), &self.readings, answers));
    }

    fn reloaded(&mut self, reloading: &mut Reloading, reloaded: &Reloaded) {
        if reloaded.ok
            && let Some(before) = self.ordered_level.take()
        {
            before.stop();
        }
        self.subject.reloaded(reloaded.ok);
        notify::send(&Notice::Ready);
        if let Some(reload) = reloading.now.take() {
            reload.answer(reloaded);
        }
        if let Some(answers) = reloading.next.take() {
            self.begin_reload(reloading, answers);
        }
    }

    /// Until a reload, or for so long.
    fn order_level(&mut self, level: LevelFilter, lasting: Option<Duration>) {
        let number = self.subject.log.order(level);
        if let Some(before) = self.ordered_level.take() {
            before.stop();
        }
        let Some(lasting) = lasting else { return };
        let admin = &self.estate.means().admin;
        let order = admin.branch();
        let (log, watch) = (self.subject.log.clone(), order.watch());
        self.ordered_level = Some(order);
        admin.spawn(async move {
            tokio::select! {
                () = watch.begun() => {}
                () = alarm::sleep(lasting) => log.end_order(number),
            }
        });
    }

    /// Opening a file may take its time, and nobody waits for it.
    fn reopen_log(&self) {
        let log = self.subject.log.clone();
        if let Err(error) = Aside::default().begin(move || reload::reopen(&log)) {
            tracing::error!(%error, "the log's files are not opened again: there is no thread for it");
        }
    }

    /// Everything is in place: whoever waits for that is told.
    fn take_over(&mut self) {
        let environment = |name: &str| std::env::var(name).ok();
        if is_succeeding(&environment) {
            // Our supervisor hears of us by our predecessor, whom it knows.
            tell_predecessor(&environment);
            metrics::replaced(true);
        } else {
            notify::send(&Notice::Ready);
        }
        self.estate.hand_on(false);
        self.estate.deposit();
    }

    /// Another process has taken over: our sessions go on for as long as they may, and nobody is accepted any more.
    async fn retire(
        mut self,
        successor: u32,
        mut reporter: Option<Reporter>,
        signals: &mut Signals,
    ) -> Result<(), StartError> {
        self.estate.hand_on(true);
        notify::send(&Notice::Succeeded(successor));
        self.estate.close_listeners();
        self.estate.close_doors();
        let subject = Arc::clone(&self.subject);
        // Behind our last answer: whoever asks the successor next waits for it.
        if let Some(reporter) = &mut reporter {
            reporter.report(&subject).await;
        }
        let Means { sessions, .. } = self.estate.means();
        let sessions = sessions.clone();
        sessions.begin();
        let left: usize = self.subject.scene.get().routes().map(|route| route.active()).sum();
        tracing::info!(successor, sessions = left, "another process has taken over");
        let most = self.estate.config().and_then(|config| config.shutdown.replaced_timeout);
        let routes: Vec<_> = self.subject.scene.get().routes().map(Arc::clone).collect();
        let ending = async {
            if let Some(most) = most {
                part(&routes, most, None).await;
            }
            sessions.finished(clock::now() + FOREVER).await
        };
        tokio::select! {
            _ = ending => {}
            never = keep_reporting(&mut reporter, &subject) => match never {},
            signal = signals.stop() => tracing::info!(signal, "stopping"),
        }
        let draining = async {
            tokio::select! {
                stopped = self.drain() => stopped,
                never = keep_reporting(&mut reporter, &subject) => match never {},
            }
        };
        Self::or_exit(draining, signals).await;
        if let Some(reporter) = &mut reporter {
            reporter.report(&subject).await;
        }
        Ok(())
    }

    async fn or_exit(stopping: impl Future<Output = Stopped>, signals: &mut Signals) {
        tokio::select! {
            stopped = stopping => tracing::info!(quiet = stopped.quiet, forced = stopped.forced, "stopped"),
            again = signals.stop() => tracing::warn!(signal = again, "a second signal: exiting at once"),
        }
    }

    /// Stops: lame duck, no more accepting, sessions end or are ended.
    pub async fn stop(mut self) -> Stopped {
        let lame_duck = self.estate.config().map(|config| config.shutdown.lame_duck);
        self.subject.phase.set(Phase::LameDuck);
        if let Some(wait) = lame_duck.filter(|wait| !wait.is_zero()) {
            tracing::info!(?wait, "lame duck: not ready, and still accepting");
            notify::send(&Notice::Status(&format!("lame duck: still accepting for {wait:?}")));
            alarm::sleep(wait).await;
        }
        let stopped = self.drain().await;
        store::leave(&self.estate);
        stopped
    }

    /// No more accepting; sessions end or are ended.
    async fn drain(&mut self) -> Stopped {
        let Self { subject, commands, estate, .. } = self;
        // Who asks for something now is told so at once.
        commands.close();
        while commands.try_recv().is_ok() {}
        let drain_timeout = estate.config().map(|config| config.shutdown.drain_timeout);
        let Means { sessions, admin, .. } = estate.means();
        let (sessions, admin) = (sessions.clone(), admin.clone());
        subject.phase.set(Phase::Draining);
        sessions.begin();
        estate.close_listeners();
        let scene = subject.scene.get();
        let routes: Vec<_> = scene.routes().map(Arc::clone).collect();
        tracing::info!(
            sessions = routes.iter().map(|route| route.active()).sum::<usize>(),
            "no longer accepting"
        );
        let Parted { quiet, forced } =
            part(&routes, drain_timeout.unwrap_or_default(), Some(&sessions)).await;
        // Whoever was accepted in the last instant, too.
        for route in &routes {
            route.stop_all(Outcome::Drained);
        }
        if forced > 0 {
            tracing::warn!(forced, "drain_timeout is over; ending the sessions that are left");
        }
        let _ = sessions.finished(clock::now() + PARTING).await;
        admin.begin();
        let _ = admin.finished(clock::now() + PARTING).await;
        Stopped { quiet, forced }
    }
}

/// Never returns.
async fn keep_reporting(reporter: &mut Option<Reporter>, subject: &Subject) -> Infallible {
    match reporter {
        Some(reporter) => reporter.keep_reporting(subject).await,
        None => std::future::pending().await,
    }
}

async fn upkeep(subject: Arc<Subject>, access: Arc<AccessLog>, watch: DrainWatch) {
    let mut stop = std::pin::pin!(watch.begun());
    loop {
        tokio::select! {
            () = &mut stop => return,
            () = alarm::sleep(UPKEEP) => {
                subject.exposition.upkeep();
                access.upkeep();
                subject.history.sample(clock::now(), subject.totals());
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

/// Says so when rules about callers could only deny.
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
        && let Err(error) = sys::owners_are_told()
    {
        tracing::warn!(
            %error,
            "the kernel does not tell who connects over loopback, so every TCP client that rules have to be about is denied; a \
             systemd unit needs AF_NETLINK in RestrictAddressFamilies"
        );
    }
}
