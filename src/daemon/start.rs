//! The running daemon, and how it starts: everything is built from a [`Config`], settings before sockets, sockets before
//! ready. Randomness is seeded only here.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::mpsc;

use crate::admin::{self, AdminState, Command, History, Phase, PhaseCell, ReportWriter, ViewCell};
use crate::alarm;
use crate::clock;
use crate::config::{Config, FileAccess};
use crate::credentials::Credentials;
use crate::discovery;
use crate::drain::{ChildDrain, Drain, DrainWatch};
use crate::log::Log;
use crate::metrics::{self, Exposition};
use crate::session::{AccessLog, CallerLookups};
use crate::sync::Mutex;
use crate::sys::{BindError, Inherited, InheritedError, is_succeeding, report_ready};
use crate::workers::Workers;

use super::active_config::ActiveConfig;
use super::notify::{self, Notice};
use super::reload::{PendingReads, record_loaded};
use super::restart::Predecessors;
use super::restart::snapshot::{self, Snapshot};
use super::services::Services;
use super::startup_log::{self, warn_of_strangers};
use super::watchdog;

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// Some addresses could not be bound; all of them are named.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Bind(Vec<BindError>),
    /// The descriptors that were passed to us are not what the environment says.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// Threads or signal handlers could not be set up.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

#[derive(Debug)]
pub(crate) struct RunningDaemon {
    pub(super) admin_state: Arc<AdminState>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) active: ActiveConfig,
    pub(super) predecessors: Predecessors,
    /// The files that a reload is limited to.
    pub(super) file_access: Option<Arc<FileAccess>>,
    pub(super) readings: PendingReads,
    /// Ends the log level that was set last.
    pub(super) ordered_level: Option<ChildDrain>,
}

/// How often the page's history gets a sample, and metrics of what is gone are forgotten, even
/// without a scrape; until then every sample is kept.
const UPKEEP: Duration = Duration::from_secs(5);

impl RunningDaemon {
    /// Binds all sockets and begins to accept.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left behind then.
    pub(crate) fn start(config: Config, log: Log) -> Result<Self, StartError> {
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
            reports: ReportWriter::start()?,
            exposition: Exposition::default(),
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
        record_loaded(true);
        let (file_access, readings, ordered_level) = (None, PendingReads::default(), None);
        Ok(Self { admin_state, commands, active, predecessors, file_access, readings, ordered_level })
    }

    #[must_use]
    pub(crate) fn admin_state(&self) -> &AdminState {
        &self.admin_state
    }

    /// Reports readiness to the predecessor or the supervisor, when everything is in place.
    pub(super) fn take_over(&mut self) {
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
}

async fn upkeep(admin_state: Arc<AdminState>, access: Arc<AccessLog>, watch: DrainWatch) {
    let mut stop = std::pin::pin!(watch.begun());
    loop {
        tokio::select! {
            () = &mut stop => return,
            () = alarm::sleep(UPKEEP) => {
                admin_state.credentials.upkeep();
                admin_state.exposition.upkeep();
                access.upkeep();
                admin_state.history.sample(clock::now(), admin_state.counters());
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that seeds")]
fn seed() -> u64 {
    Rng::new().u64(..)
}
