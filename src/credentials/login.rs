//! Credentials for signing in to servers: each has one source, one task that keeps it fresh, and any number of sessions
//! that use it. A credential that still lives is used while its source fails.

mod answer;
mod aws;
mod certificate;
mod cloud;
mod file;
mod follow;
mod nats;
mod oauth2;
mod permit;
mod settings;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use tokio::sync::{Notify, watch};

use crate::alarm;
use crate::clock;
use crate::http::HttpAnswer;
use crate::metrics::{LoginMetrics, Timestamp};
use crate::name::ClusterName;
use crate::policy::login_gate::{GateDecision, LoginGate};
use crate::protocol::{AllowedMechanisms, ClientCredentials, LoginCredentials, SecretKind};
use crate::sync::Mutex;

pub(crate) use aws::{AwsEnvironment, AwsIam, AwsService};
pub(crate) use certificate::CertificateProof;
pub(crate) use cloud::{AZURE_DATABASES, Cloud, CloudToken};
pub(crate) use file::{PasswordFile, exposure as password_exposure, secret_of};
pub(crate) use follow::{fetch_once, follow};
pub(crate) use nats::{NkeyFile, TokenFile};
pub(crate) use oauth2::{
    AssertionSettings, ClientProof, Grant, JwtAlgorithm, OAuth2, OAuth2Client, RefreshTokenFile,
    ServiceAccount, SignInProgress, TokenUser,
};
pub(crate) use permit::LoginPermit;
pub(crate) use settings::LoginSettings;

/// Where a credential comes from. Another source is another implementation, and a key in `clusters.NAME.login`.
pub(crate) trait LoginSource: fmt::Debug + Send + Sync {
    /// Its name in `/status`, as the key in the file.
    fn label(&self) -> &'static str;

    /// The kind of the secrets.
    fn secret_kind(&self) -> SecretKind;

    /// The files that it reads; a change of one of them is a reason to fetch.
    fn files(&self) -> Vec<PathBuf>;

    /// Further files that it reads and also replaces.
    fn written(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Whether its files differ from those of the last fetch; unknown, if there was none. Those that it replaces itself count
    /// only if `counts_written`. It may block.
    fn is_news(&self, counts_written: bool) -> bool {
        let _ = counts_written;
        true
    }

    /// For sources that a person can authorise.
    fn oauth2(&self) -> Option<&OAuth2> {
        None
    }

    /// Gets the credential. It may block: for as long as its own deadlines allow, or a file system hangs.
    ///
    /// # Errors
    /// Why there is none.
    fn fetch(&self) -> Result<FetchedLogin, FetchError>;
}

/// Why a source gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchError {
    /// In words, without any secret.
    pub(crate) reason: String,
    /// For how long it wants not to be asked (Retry-After, RFC 9110 §10.2.3).
    pub(crate) retry_after: Option<Duration>,
}

impl FetchError {
    /// An error by that answer.
    fn by(answer: &HttpAnswer, reason: String) -> Self {
        Self { reason, retry_after: answer.retry_after }
    }
}

impl From<String> for FetchError {
    fn from(reason: String) -> Self {
        Self { reason, retry_after: None }
    }
}

/// What a source gave.
#[derive(Debug, Clone)]
pub(crate) struct FetchedLogin {
    pub(crate) credentials: LoginCredentials,
    /// When it stops being valid; `None`: when it is replaced.
    pub(crate) expires: Option<SystemTime>,
}

/// One credential.
#[derive(Debug)]
pub(crate) struct LoginCredential {
    cluster: ClusterName,
    source: Box<dyn LoginSource>,
    mechanisms: AllowedMechanisms,
    /// Whom the sessions that use it hold their clients to.
    client: Option<Arc<Self>>,
    state: Mutex<State>,
    /// Changes with the content, its error, and the result of a login that others wait for.
    changed: watch::Sender<()>,
    /// Notified when the source should be asked now.
    wanted: Notify,
    /// Notified when its files may have changed.
    reread: Notify,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Arc<IssuedLogin>>,
    /// Why the source's last answer is not in use.
    error: Option<String>,
    /// When the source last gave one.
    updated: Option<SystemTime>,
    replaced: u64,
    gate: LoginGate,
    /// Another content is needed: this one is missing, or was rejected.
    is_wanted: bool,
    /// The source is being asked, so that what it gives is waited for.
    is_asking: bool,
    /// A rejected token was followed by a new one, and none has been accepted since.
    has_asked_anew: bool,
}

/// One content of a credential.
#[derive(Debug)]
pub(crate) struct IssuedLogin {
    pub(crate) credentials: LoginCredentials,
    expires: Option<SystemTime>,
    generation: u64,
    /// Another content has taken its place.
    is_replaced: AtomicBool,
}

/// Why there is no credential to sign in with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoLogin {
    /// No rule of `login` is for the caller.
    #[error("no rule of `login` is for {0}")]
    Denied(String),
    /// The source has not given one, or the last one has expired.
    #[error("there is no credential to sign in with: {0}")]
    Missing(String),
    /// The server has rejected it.
    #[error("{words}; not tried again for {left:.0?}, unless the credential changes")]
    Paused {
        /// What the server said.
        words: String,
        left: Duration,
    },
    /// Another login was trying the credential all the time.
    #[error("another session was still trying the credential")]
    Busy,
}

impl NoLogin {
    /// The label in metrics.
    #[must_use]
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Missing(_) => "missing",
            Self::Paused { .. } => "paused",
            Self::Busy => "busy",
        }
    }
}

impl LoginCredential {
    /// A credential of that cluster, from a source that has given none yet.
    #[must_use]
    pub(crate) fn new(
        cluster: ClusterName,
        source: Box<dyn LoginSource>,
        mechanisms: AllowedMechanisms,
    ) -> Arc<Self> {
        Self::with_client(cluster, source, mechanisms, None)
    }

    /// The same, for sessions whose clients are held to a user and password of their own.
    #[must_use]
    pub(crate) fn with_client(
        cluster: ClusterName,
        source: Box<dyn LoginSource>,
        mechanisms: AllowedMechanisms,
        client: Option<Arc<Self>>,
    ) -> Arc<Self> {
        let (changed, _) = watch::channel(());
        Arc::new(Self {
            cluster,
            source,
            mechanisms,
            client,
            state: Mutex::default(),
            changed,
            wanted: Notify::new(),
            reread: Notify::new(),
        })
    }

    /// The user and password of the client, if it is held to them.
    #[must_use]
    pub(crate) const fn client(&self) -> Option<&Arc<Self>> {
        self.client.as_ref()
    }

    /// Its source.
    #[must_use]
    pub(crate) fn source(&self) -> &dyn LoginSource {
        &*self.source
    }

    /// Uses what the source gave from now on. Returns whether it is new.
    pub(crate) fn install(&self, fetched: FetchedLogin) -> bool {
        let FetchedLogin { credentials, expires } = fetched;
        let mut state = self.state.lock();
        (state.error, state.updated) = (None, Some(clock::wall()));
        (state.is_asking, state.is_wanted) = (false, false);
        let before = state.current.clone();
        let is_same = before.as_ref().is_some_and(|before| before.is_same(&credentials, expires));
        // A metadata service gives the same token again, with what is left of its life: no other credential.
        let is_prolonged = before.as_ref().is_some_and(|before| before.has_secret_of(&credentials));
        if !is_same {
            state.replaced += u64::from(before.is_some());
            let generation = before.as_ref().map_or(0, |before| before.generation) + u64::from(!is_prolonged);
            if let Some(before) = &before {
                before.is_replaced.store(true, Ordering::Relaxed);
            }
            let is_replaced = AtomicBool::new(false);
            state.current = Some(Arc::new(IssuedLogin { credentials, expires, generation, is_replaced }));
        }
        drop(state);
        self.changed.send_replace(());
        !is_same
    }

    /// The source has failed; what is in use stays so.
    fn fail(&self, reason: String) {
        let mut state = self.state.lock();
        state.error = Some(reason);
        (state.is_asking, state.is_wanted) = (false, false);
        drop(state);
        self.changed.send_replace(());
    }

    /// The source is asked from now on; what sessions wanted before is answered by that.
    fn begin_asking(&self) {
        let mut state = self.state.lock();
        state.is_asking = true;
        let _ = self.wanted.notified().now_or_never();
    }

    fn end_asking(&self) {
        self.state.lock().is_asking = false;
    }

    /// When the current content ends, if it does.
    fn expires(&self) -> Option<SystemTime> {
        self.state.lock().current.as_ref()?.expires
    }

    /// Sets the metric of when the current content ends, if it does.
    fn publish_expiry(&self) -> Option<Arc<Timestamp>> {
        let current = self.state.lock().current.clone()?;
        let end = current.expires?;
        let metric = LoginMetrics::expiry(&self.cluster, self.source.label(), &current.credentials.user);
        metric.set(end);
        Some(metric)
    }

    /// How long the current content lives, if it ends.
    #[must_use]
    pub(crate) fn left(&self) -> Option<Duration> {
        self.expires()?.duration_since(clock::wall()).ok()
    }

    /// Has the source asked for another content.
    fn want(&self, state: &mut State) {
        state.is_wanted = true;
        self.wanted.notify_one();
    }

    /// Whether there is a content that lives and is not rejected, and the source's last answer was one.
    fn is_in_order(&self) -> bool {
        let state = self.state.lock();
        let lives = |issued: &Arc<IssuedLogin>| issued.expires.is_none_or(|end| clock::wall() < end);
        !state.is_wanted && state.error.is_none() && state.current.as_ref().is_some_and(lives)
    }

    /// Whether the server has rejected the current content.
    fn is_rejected(&self) -> bool {
        let state = self.state.lock();
        state.current.as_ref().is_some_and(|current| state.gate.rejection(current.generation).is_some())
    }

    /// Every file of the source.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = self.source.files();
        files.extend(self.source.written());
        files
    }

    /// Continues from an earlier credential of the same source, as after a reload: with its content, unless a newer one was read
    /// meanwhile, and with what servers said of that.
    fn adopt(&self, earlier: &Self) {
        if let (Some(own), Some(before)) = (self.source.oauth2(), earlier.source.oauth2()) {
            own.adopt(before);
        }
        let before = earlier.state.lock();
        let (current, mut gate, replaced) = (before.current.clone(), before.gate.clone(), before.replaced);
        let updated = before.updated;
        if let Some(current) = &current {
            // A login under way has a permit of the earlier credential, and ends that one's state.
            gate.abandon(current.generation);
        }
        let has_asked_anew = before.has_asked_anew;
        drop(before);
        let mut state = self.state.lock();
        let is_same = match (&state.current, &current) {
            (None, Some(_)) => true,
            (Some(own), Some(earlier)) => own.is_same(&earlier.credentials, earlier.expires),
            (_, None) => false,
        };
        if is_same {
            let State { is_wanted, is_asking, .. } = *state;
            let error = state.error.take();
            *state = State { current, error, updated, replaced, gate, is_wanted, is_asking, has_asked_anew };
        }
    }

    /// Has the source's files read soon.
    pub(crate) fn refresh(&self) {
        self.reread.notify_one();
    }

    /// Ends the pause after a rejection: whoever runs the daemon has ordered a reload.
    pub(crate) fn end_pause(&self) {
        self.state.lock().gate.end_pause();
    }

    /// A permit, if a server has accepted the credential.
    pub(crate) fn acquire_accepted(self: &Arc<Self>) -> Option<LoginPermit> {
        let issued = self.state.lock().current.clone()?;
        let is_accepted = self.state.lock().gate.is_accepted(issued.generation);
        (is_accepted && issued.is_current()).then(|| LoginPermit::new(Arc::clone(self), issued, false))
    }

    /// A view for `/status`.
    #[must_use]
    pub(crate) fn view(&self) -> LoginView {
        let state = self.state.lock();
        let current = state.current.as_ref();
        let rejection = current.and_then(|current| state.gate.rejection(current.generation));
        LoginView {
            cluster: self.cluster.clone(),
            source: self.source.label(),
            user: current.map(|current| current.credentials.shown().to_owned()),
            files: self.files(),
            updated: state.updated,
            expires: current.and_then(|current| current.expires),
            replaced: state.replaced,
            error: state.error.clone().or_else(|| rejection.map(ToOwned::to_owned)),
        }
    }

    /// Changes with the content.
    #[must_use]
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Waits for a credential that may be tried.
    ///
    /// # Errors
    /// See [`NoLogin`].
    pub(crate) async fn acquire(self: &Arc<Self>, until: Instant) -> Result<LoginPermit, NoLogin> {
        let (issued, is_trial) = self.wait(until, LoginGate::admit).await?;
        Ok(LoginPermit::new(Arc::clone(self), issued, is_trial))
    }

    /// The same for a session whose client has yet to speak: it takes nothing, so that others may go first.
    ///
    /// # Errors
    /// See [`NoLogin`].
    pub(crate) async fn await_turn(&self, until: Instant) -> Result<(), NoLogin> {
        self.wait(until, |gate, generation, now| gate.decide(generation, now)).await.map(|_| ())
    }

    /// Waits until the gate says so. Returns the content, and whether no server has accepted it yet.
    async fn wait(
        &self,
        until: Instant,
        ask: impl Fn(&mut LoginGate, u64, Instant) -> GateDecision,
    ) -> Result<(Arc<IssuedLogin>, bool), NoLogin> {
        let mut changed = self.changed.subscribe();
        loop {
            let waits_for = {
                let mut state = self.state.lock();
                let wall = clock::wall();
                match state.current.clone().filter(|issued| issued.expires.is_none_or(|end| wall < end)) {
                    None => {
                        if !state.is_asking {
                            self.want(&mut state);
                        }
                        NoLogin::Missing(match &state.error {
                            Some(error) => error.clone(),
                            None => format!("{} has not given one yet", self.source.label()),
                        })
                    }
                    Some(issued) => match ask(&mut state.gate, issued.generation, clock::now()) {
                        GateDecision::Go => {
                            let is_trial = !state.gate.is_accepted(issued.generation);
                            return Ok((issued, is_trial));
                        }
                        GateDecision::Paused { words, left } => return Err(NoLogin::Paused { words, left }),
                        GateDecision::Wait => NoLogin::Busy,
                    },
                }
            };
            // The sender is ours, so `changed` cannot fail.
            if alarm::timeout_at(until, changed.changed()).await.is_err() {
                return Err(waits_for);
            }
        }
    }
}

impl ClientCredentials for LoginCredential {
    fn current(&self) -> Option<LoginCredentials> {
        self.state.lock().current.as_ref().map(|current| current.credentials.clone())
    }
}

impl IssuedLogin {
    /// Whether nothing has taken its place, and it has not expired.
    #[must_use]
    pub(crate) fn is_current(&self) -> bool {
        !self.is_replaced.load(Ordering::Relaxed) && self.expires.is_none_or(|end| clock::wall() < end)
    }

    fn has_secret_of(&self, credentials: &LoginCredentials) -> bool {
        (&self.credentials.user, &self.credentials.secret) == (&credentials.user, &credentials.secret)
    }

    fn is_same(&self, credentials: &LoginCredentials, expires: Option<SystemTime>) -> bool {
        (&self.credentials.user, &self.credentials.secret, self.expires)
            == (&credentials.user, &credentials.secret, expires)
    }
}

/// A credential as `/status` shows it.
#[derive(Debug, Clone)]
pub(crate) struct LoginView {
    pub(crate) cluster: ClusterName,
    pub(crate) source: &'static str,
    pub(crate) user: Option<String>,
    pub(crate) files: Vec<PathBuf>,
    /// When the source last gave it.
    pub(crate) updated: Option<SystemTime>,
    pub(crate) expires: Option<SystemTime>,
    pub(crate) replaced: u64,
    pub(crate) error: Option<String>,
}

#[cfg(test)]
mod tests;
