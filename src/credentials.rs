//! Keeps the credentials in use fresh: follows their files, reads them again, and logs what was replaced, what failed
//! and what is about to expire.
//!
//! A certificate and its key are rarely replaced in one step: for a moment the new certificate stands beside the old
//! key. So an error is reported only after it has lasted for `SETTLING`, and once; the content read before stays in
//! use. Files are read on a thread of their own, one after the other and without the lock: one that hangs is reported, delays the
//! others by a few seconds once, and is then read beside them.

mod agent;
mod expiry;
mod login;
mod stalled_reads;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};

use crate::alarm;
use crate::clock;
use crate::drain::Drain;
use crate::metrics::{CredentialMetrics, Timestamp};
use crate::name::ClusterName;
use crate::protocol::SecretKind;
use crate::sync::{Mutex, MutexGuard};
use crate::tls::{CredentialFiles, CredentialRole, Identity, IdentitySource, Originator, WeakOriginator};
use crate::watch::Watch;

pub(crate) use agent::fetch;
pub(crate) use expiry::{ends, near};
pub(crate) use login::LoginSettings;
pub(crate) use login::{
    AZURE_DATABASES, AssertionSettings, AwsEnvironment, AwsIam, AwsService, CertificateProof, ClientProof,
    Cloud, CloudToken, FetchedLogin, Grant, IssuedLogin, JwtAlgorithm, LoginCredential, LoginPermit,
    LoginSource, LoginView, NkeyFile, NoLogin, OAuth2, OAuth2Client, PasswordFile, RefreshTokenFile,
    ServiceAccount, SignInProgress, TokenFile, TokenUser, fetch_once, follow as follow_login,
    password_exposure, secret_of,
};

use expiry::{is_nearer, is_news};
use stalled_reads::{ReadFault, Refreshed, StalledReads};

/// Clones share one state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<Known>,
    /// Notified when the files should be read now.
    wanted: Notify,
    /// Changes when a credential was replaced.
    replaced: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Known {
    users: Vec<CredentialUser>,
    states: BTreeMap<CredentialId, CredentialState>,
    /// Identities whose agent is followed by a task.
    agents: Vec<Weak<Identity>>,
    /// Credentials for signing in; each has a task of its own.
    logins: Vec<Weak<LoginCredential>>,
}

/// A cluster that uses credentials.
#[derive(Debug)]
struct CredentialUser {
    cluster: ClusterName,
    originator: WeakOriginator,
    /// The metric of when each role expires.
    expiry: BTreeMap<CredentialRole, Arc<Timestamp>>,
}

/// An identity that several clusters share is one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum CredentialId {
    Identity(String),
    /// The CAs of a cluster.
    Trust(String),
}

#[derive(Debug)]
struct CredentialState {
    metrics: Arc<CredentialMetrics>,
    replaced: u64,
    /// The current error of its source, and since when.
    fault: Option<Fault>,
    /// For each role, the nearest time before its expiry that was warned of (`expiry`).
    warned: BTreeMap<CredentialRole, Duration>,
}

#[derive(Debug)]
struct Fault {
    since: Instant,
    reason: String,
    is_logged: bool,
}

/// A credential as `/status` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CredentialView {
    /// `identity`, `ca` or `login`.
    pub kind: &'static str,
    /// The identity's name; the cluster's for its CAs; cluster, user and source of a login.
    pub name: String,
    pub files: Vec<PathBuf>,
    /// When a source last gave it; of logins alone.
    pub updated: Option<SystemTime>,
    /// When the first of its certificates or lists expires.
    pub not_after: Option<SystemTime>,
    /// How often it was replaced while in use.
    pub replaced: u64,
    /// Why the current content of its files is not in use.
    pub error: Option<String>,
}

impl CredentialView {
    fn of(login: LoginView) -> Self {
        let LoginView { cluster, user, source, files, updated, expires, replaced, error } = login;
        let name = match user {
            Some(user) => format!("{cluster} as {user} ({source})"),
            None => format!("{cluster} ({source})"),
        };
        Self { kind: "login", name, files, updated, not_after: expires, replaced, error }
    }
}

/// How long reading all files may take before the unread ones are reported as hanging.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an error has to last before it is reported.
const SETTLING: Duration = Duration::from_secs(3);
impl Credentials {
    /// Follows the credentials of that cluster, from now on and as long as its originator exists.
    pub(crate) fn follow(&self, cluster: &ClusterName, originator: &Originator) {
        let now = clock::wall();
        let mut known = self.known();
        for part in parts(cluster, originator) {
            // What was near its end when the configuration was read has been warned of there.
            let warned = part
                .ends()
                .into_iter()
                .filter_map(|(role, end)| Some((role, near(role, end, now)?)))
                .collect();
            known.states.entry(part.subject()).or_insert_with(|| CredentialState::new(&part, warned));
        }
        let originator = originator.downgrade();
        let mut user = CredentialUser { cluster: cluster.clone(), originator, expiry: BTreeMap::new() };
        user.publish_expiry();
        known.users.push(user);
        drop(known);
        self.0.wanted.notify_one();
    }

    /// Shows these credentials in [`Self::view`], as long as they exist.
    pub(crate) fn follow_logins(&self, login: &LoginSettings) {
        let mut known = self.known();
        known.logins.retain(|known| known.strong_count() > 0);
        known.logins.extend(login.followed().map(Arc::downgrade));
    }

    /// Has the files read again soon, even without a file event, and ends the pauses of rejected logins: a reload was ordered.
    pub(crate) fn refresh(&self) {
        self.0.wanted.notify_one();
        let logins = self.known().logins.clone();
        for login in logins.iter().filter_map(Weak::upgrade) {
            login.end_pause();
            login.refresh();
        }
    }

    /// Has logins whose proof is a certificate look for another one.
    fn refresh_certificates(&self) {
        let logins = self.known().logins.clone();
        let is_proof = |login: &Arc<LoginCredential>| login.source().secret_kind() == SecretKind::Certificate;
        logins.iter().filter_map(Weak::upgrade).filter(is_proof).for_each(|login| login.refresh());
    }

    /// Forgets the credentials of clusters that are gone, with their metrics. To be called every few seconds: nothing tells when the
    /// last session of one has ended.
    pub(crate) fn upkeep(&self) {
        let mut known = self.known();
        if known.users.iter().any(|user| user.originator.upgrade().is_none()) {
            known.parts();
        }
    }

    /// Changes each time a credential was replaced.
    #[must_use]
    pub(crate) fn replacements(&self) -> watch::Receiver<()> {
        self.0.replaced.subscribe()
    }

    /// Every credential in use, each once.
    #[must_use]
    pub(crate) fn view(&self) -> Vec<CredentialView> {
        let mut known = self.known();
        let parts = known.parts();
        let view = |WatchedCredential { part, .. }: &WatchedCredential| {
            let subject = part.subject();
            let state = known.states.get(&subject);
            let fault = state.and_then(|state| state.fault.as_ref()).filter(|fault| fault.is_logged);
            CredentialView {
                kind: subject.kind(),
                name: subject.name().to_owned(),
                files: part.files(),
                updated: None,
                not_after: part.ends().into_iter().map(|(_, end)| end).min(),
                replaced: state.map_or(0, |state| state.replaced),
                error: fault.map(|fault| fault.reason.clone()),
            }
        };
        let followed = parts.iter().filter(|followed| followed.is_latest).map(view);
        let logins =
            known.logins.iter().filter_map(Weak::upgrade).map(|login| CredentialView::of(login.view()));
        followed.chain(logins).collect()
    }

    /// Follows files and agents until the drain begins.
    pub(crate) async fn run(self, drain: Drain) {
        let watch = drain.watch();
        let mut stop = std::pin::pin!(watch.begun());
        let mut hung = StalledReads::default();
        loop {
            for identity in self.known().new_agents() {
                drain.spawn(agent::follow(self.clone(), identity, drain.watch()));
            }
            let files: BTreeSet<_> =
                self.known().parts().iter().flat_map(|followed| followed.part.files()).collect();
            let mut watch = tokio::select! {
                () = &mut stop => return,
                watch = Watch::new(files) => watch,
            };
            loop {
                // After the watch was made: an earlier change is found by this reading, a later one is an event of the
                // watch.
                let Read { has_changed, again } = tokio::select! {
                    () = &mut stop => return,
                    read = self.read_again(&mut hung) => read,
                };
                if has_changed {
                    self.refresh_certificates();
                    self.0.replaced.send_replace(());
                }
                tokio::select! {
                    () = &mut stop => return,
                    news = watch.changed() => hung.look_again(news),
                    () = self.0.wanted.notified() => break,
                    () = hung.any_returned() => {}
                    () = alarm::sleep(SETTLING), if again => {}
                }
            }
        }
    }

    async fn read_again(&self, hung: &mut StalledReads) -> Read {
        let mut has_changed = false;
        let parts = self.known().parts();
        let until = clock::now() + PATIENCE;
        let (from_agents, with_files): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|watched| watched.part.is_from_agent());
        for WatchedCredential { part, .. } in from_agents.into_iter().filter(|watched| watched.is_latest) {
            has_changed |= self.known().record_result(&part, None, clock::now(), clock::wall());
        }
        let (latest, older): (Vec<_>, Vec<_>) = with_files.into_iter().partition(|watched| watched.is_latest);
        let parts = |watched: Vec<WatchedCredential>| {
            watched.into_iter().map(|watched| watched.part).collect::<Vec<_>>()
        };
        let record = |part: &CredentialSource, refreshed: Result<_, ReadFault>| {
            let refreshed = refreshed.map_err(|fault| fault.to_string());
            has_changed |= self.known().record_result(part, Some(refreshed), clock::now(), clock::wall());
        };
        hung.refresh_all(&parts(latest), until, record).await;
        // An older credential of the same name has the same files, whose result is reported for the latest.
        hung.refresh_all(&parts(older), until, |_, _| ()).await;
        let mut known = self.known();
        if has_changed {
            known.publish();
        }
        let mut faults = known.states.values().filter_map(|state| state.fault.as_ref());
        Read { has_changed, again: faults.any(|fault| !fault.is_logged) }
    }

    /// Takes what an agent sent for an identity: whether its content is new, or why there is none.
    fn record_agent_result(&self, identity: &Arc<Identity>, result: Result<bool, String>) {
        let mut known = self.known();
        let part = CredentialSource::Identity(Arc::clone(identity));
        let state = known
            .states
            .entry(part.subject())
            .or_insert_with(|| CredentialState::new(&part, BTreeMap::new()));
        if state.record_result(&part, result.map(Refreshed::of_agent), clock::now()) {
            let users = known.users.iter().filter_map(|user| user.originator.upgrade());
            for originator in users.filter(|user| user.trust().files().next().is_none()) {
                // Only trust without files of its own comes from the agent alone. Trust with files is read again below.
                let _ = originator.trust().refresh(&CredentialFiles::default());
            }
            known.publish();
            drop(known);
            self.0.replaced.send_replace(());
            // Trust with files is read again. Rejected logins stay paused: nobody has ordered a reload.
            self.0.wanted.notify_one();
            self.refresh_certificates();
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock()
    }
}

/// The result of reading all files.
struct Read {
    /// A credential was replaced.
    has_changed: bool,
    /// Some have an error that is not reported yet, as it may pass.
    again: bool,
}

/// A credential to follow; trust is reached through its cluster's originator.
#[derive(Clone)]
enum CredentialSource {
    Identity(Arc<Identity>),
    Trust(ClusterName, Originator),
}

/// A credential in use.
struct WatchedCredential {
    part: CredentialSource,
    /// Whether new connections use it. Others of its name belong to sessions from before a reload.
    is_latest: bool,
}

fn parts(cluster: &ClusterName, originator: &Originator) -> Vec<CredentialSource> {
    // Trust without files comes from an agent, or accepts any certificate and never expires.
    let trust = originator.trust();
    let is_followed = trust.files().next().is_some() || !trust.ends().is_empty();
    let trust = is_followed.then(|| CredentialSource::Trust(cluster.clone(), originator.clone()));
    let identities =
        originator.identities().all().iter().map(|identity| CredentialSource::Identity(Arc::clone(identity)));
    identities.chain(trust).collect()
}

/// The first end of each role.
fn first_of_each(ends: Vec<(CredentialRole, SystemTime)>) -> BTreeMap<CredentialRole, SystemTime> {
    let mut first = BTreeMap::new();
    for (role, end) in ends {
        first.entry(role).and_modify(|first| *first = end.min(*first)).or_insert(end);
    }
    first
}

impl CredentialSource {
    fn subject(&self) -> CredentialId {
        match self {
            Self::Identity(identity) => CredentialId::Identity(identity.name().to_string()),
            Self::Trust(cluster, _) => CredentialId::Trust(cluster.to_string()),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Identity(identity) => identity.paths(),
            Self::Trust(_, originator) => originator.trust().files().cloned().collect(),
        }
    }

    fn ends(&self) -> Vec<(CredentialRole, SystemTime)> {
        match self {
            Self::Identity(identity) => {
                identity.not_after().map(|end| (CredentialRole::Client, end)).into_iter().collect()
            }
            Self::Trust(_, originator) => originator.trust().ends(),
        }
    }

    /// Whether both are the same object, not merely of the same name.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Identity(one), Self::Identity(other)) => Arc::ptr_eq(one, other),
            (Self::Trust(_, one), Self::Trust(_, other)) => std::ptr::eq(one.trust(), other.trust()),
            (Self::Identity(_) | Self::Trust(..), _) => false,
        }
    }

    /// Looks at the files, which may block, unless this round has read them already.
    fn refresh(&self, files: &CredentialFiles) -> Result<Refreshed, String> {
        let is_new = match self {
            Self::Identity(identity) => identity.refresh(files).map_err(|error| error.to_string())?,
            Self::Trust(_, originator) => {
                originator.trust().refresh(files).map_err(|error| error.to_string())?
            }
        };
        Ok(Refreshed { is_new, warning: is_new.then(|| self.warning(files)).flatten() })
    }

    /// Whether an agent provides it, and no file.
    fn is_from_agent(&self) -> bool {
        match self {
            Self::Identity(identity) => matches!(identity.source(), IdentitySource::Spiffe(_)),
            Self::Trust(_, originator) => originator.trust().files().next().is_none(),
        }
    }

    /// A fault of its files that does not prevent their use.
    fn warning(&self, files: &CredentialFiles) -> Option<String> {
        match self {
            Self::Identity(identity) => identity.exposure(files),
            Self::Trust(..) => None,
        }
    }
}

impl Known {
    /// The credentials in use, the latest first. Forgets the state of those that no longer are.
    fn parts(&mut self) -> Vec<WatchedCredential> {
        self.users.retain(|user| user.originator.upgrade().is_some());
        let mut seen = BTreeSet::new();
        let users =
            self.users.iter().rev().filter_map(|user| Some((&user.cluster, user.originator.upgrade()?)));
        let all = users.flat_map(|(cluster, originator)| parts(cluster, &originator));
        let followed: Vec<_> =
            all.map(|part| WatchedCredential { is_latest: seen.insert(part.subject()), part }).collect();
        self.states.retain(|subject, _| seen.contains(subject));
        followed
    }

    /// Records the result of reading `part`, where it has files; returns whether it was replaced.
    fn record_result(
        &mut self,
        part: &CredentialSource,
        refreshed: Option<Result<Refreshed, String>>,
        now: Instant,
        wall: SystemTime,
    ) -> bool {
        let state =
            self.states.entry(part.subject()).or_insert_with(|| CredentialState::new(part, BTreeMap::new()));
        let is_new = refreshed.is_some_and(|refreshed| state.record_result(part, refreshed, now));
        state.warn_of_expiry(part, wall);
        is_new
    }

    /// Identities with an agent that no task follows yet.
    fn new_agents(&mut self) -> Vec<Weak<Identity>> {
        self.agents.retain(|identity| identity.strong_count() > 0);
        let mut new = Vec::new();
        for WatchedCredential { part, .. } in self.parts() {
            let CredentialSource::Identity(identity) = &part else { continue };
            let identity = Arc::downgrade(identity);
            if part.is_from_agent() && !self.agents.iter().any(|known| known.ptr_eq(&identity)) {
                self.agents.push(Weak::clone(&identity));
                new.push(identity);
            }
        }
        new
    }

    /// Sets the metrics of when each role expires.
    fn publish(&mut self) {
        // The latest of a name last: its content counts.
        self.users.iter_mut().for_each(CredentialUser::publish_expiry);
    }
}

impl CredentialUser {
    fn publish_expiry(&mut self) {
        let Some(originator) = self.originator.upgrade() else { return };
        let ends = parts(&self.cluster, &originator).iter().flat_map(CredentialSource::ends).collect();
        for (role, end) in first_of_each(ends) {
            let metric = || CredentialMetrics::expiry(&self.cluster, role.label());
            self.expiry.entry(role).or_insert_with(metric).set(end);
        }
    }
}

impl CredentialState {
    fn new(part: &CredentialSource, warned: BTreeMap<CredentialRole, Duration>) -> Self {
        let subject = part.subject();
        let metrics = CredentialMetrics::of(subject.kind(), subject.name());
        Self { metrics, replaced: 0, fault: None, warned }
    }

    /// Records the result of reading or receiving it; returns whether it was replaced.
    fn record_result(
        &mut self,
        part: &CredentialSource,
        result: Result<Refreshed, String>,
        now: Instant,
    ) -> bool {
        let subject = part.subject();
        let (kind, name) = (subject.kind(), subject.name());
        match result {
            Ok(Refreshed { is_new, warning }) => {
                let recovered = self.fault.take().is_some_and(|fault| fault.is_logged);
                if is_new {
                    self.replaced += 1;
                    self.warned.clear();
                    self.metrics.replaced.increment(1);
                    tracing::info!(kind, name, "new connections use the new content");
                    if let Some(warning) = warning {
                        tracing::warn!(kind, name, "{warning}");
                    }
                } else if recovered {
                    tracing::info!(kind, name, "can be read again; its content did not change");
                }
                is_new
            }
            Err(reason) => {
                self.record_fault(part, reason, now);
                false
            }
        }
    }

    fn record_fault(&mut self, part: &CredentialSource, reason: String, now: Instant) {
        let fault = match self.fault.take() {
            // The same error, or another step of the same replacement.
            Some(fault) if fault.reason == reason || !fault.is_logged => Fault { reason, ..fault },
            Some(_) | None => Fault { since: now, reason, is_logged: false },
        };
        let fault = self.fault.insert(fault);
        if !fault.is_logged && now >= fault.since + SETTLING {
            fault.is_logged = true;
            self.metrics.failed.increment(1);
            let subject = part.subject();
            let files: Vec<_> = part.files().iter().map(|file| file.display().to_string()).collect();
            let is_there =
                !matches!(part, CredentialSource::Identity(identity) if identity.not_after().is_none());
            let words = if is_there { "not replaced, the old one stays in use" } else { "there is none yet" };
            tracing::warn!(
                kind = subject.kind(),
                name = subject.name(),
                files = files.join(", "),
                "{words}: {}",
                fault.reason
            );
        }
    }

    fn warn_of_expiry(&mut self, part: &CredentialSource, wall: SystemTime) {
        for (role, end) in first_of_each(part.ends()) {
            let near = near(role, end, wall).filter(|near| is_news(*near, part.is_from_agent()));
            if !is_nearer(&mut self.warned, role, near) {
                continue;
            }
            let subject = part.subject();
            let what = if role == CredentialRole::Crl { "revocation list" } else { "certificate" };
            tracing::warn!(kind = subject.kind(), name = subject.name(), "the {what} {}", ends(end, wall));
        }
    }
}

impl CredentialId {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Identity(_) => "identity",
            Self::Trust(_) => "ca",
        }
    }

    fn name(&self) -> &str {
        let (Self::Identity(name) | Self::Trust(name)) = self;
        name
    }
}

#[cfg(test)]
mod tests;
