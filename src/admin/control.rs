//! The requests that the control socket takes, by POST. Those that concern the daemon as a whole are passed on to
//! it; the response has the result, and the log has the caller.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tracing::level_filters::LevelFilter;

use super::request::{ControlRequest, ControlRequestError};
use super::response::{HttpResponse, json, text};
use super::status::LogLevel;
use super::{AdminState, AdminTransport, Phase, View};
use crate::alarm;
use crate::clock;
use crate::cluster::EndpointView;
use crate::outcome::Outcome;
use crate::policy::endpoint_state::Admin;
use crate::session::SessionId;
use crate::sys::Socket;

/// A request for the daemon, with the channel for its response.
#[derive(Debug)]
pub(crate) enum Command {
    /// Read the configuration again.
    Reload(oneshot::Sender<ReloadResult>),
    /// Shut down as by SIGTERM; answered when it begins.
    Drain(oneshot::Sender<()>),
    /// Log with at least that level, for that long or until a reload.
    LogLevel(LevelFilter, Option<Duration>, oneshot::Sender<()>),
}

pub(crate) type CommandSender = mpsc::Sender<Command>;

/// The result of a reload.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ReloadResult {
    /// Whether the file is in force. If not, nothing has changed.
    pub ok: bool,
    /// What has changed, in words.
    pub changes: Vec<String>,
    /// What the file changes that only a restart or a replacement can apply.
    pub needs_restart: Vec<String>,
    /// What is valid but questionable.
    pub warnings: Vec<String>,
    /// Why the file is not in force.
    pub mistakes: Vec<MistakeView>,
}

/// One mistake of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MistakeView {
    pub file: String,
    /// From 1; only for mistakes in the text.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    /// The keys that lead to the value.
    pub path: String,
    pub message: String,
    /// The line with its number, and below it the marked part.
    pub shown: Option<String>,
}

/// `FILE:LINE:COLUMN: PATH: message`, without unknown parts, and the line.
impl fmt::Display for MistakeView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, path, message, shown } = self;
        write!(f, "{file}:")?;
        if let (Some(line), Some(column)) = (line, column) {
            write!(f, "{line}:{column}:")?;
        }
        if !path.is_empty() {
            write!(f, " {path}:")?;
        }
        write!(f, " {message}")?;
        shown.as_ref().map_or(Ok(()), |shown| write!(f, "\n{shown}"))
    }
}

/// All of them, and how many there are if they have lines.
#[must_use]
pub(crate) fn format_list(mistakes: &[MistakeView]) -> String {
    let each: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
    let count = match mistakes {
        [] => return String::new(),
        all if all.iter().all(|mistake| mistake.shown.is_none()) => return each.join("\n"),
        [only] => format!("1 mistake in {}", only.file),
        [first, ..] => format!("{} mistakes in {}", mistakes.len(), first.file),
    };
    format!("{}\n\n{count}", each.join("\n\n"))
}

/// How many requests may wait for the daemon.
const WAITING_MAX: usize = 16;
/// How long a response may take: files are read, and users looked up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The channel for requests to the daemon.
#[must_use]
pub(crate) fn command_channel() -> (CommandSender, mpsc::Receiver<Command>) {
    mpsc::channel(WAITING_MAX)
}

/// The process at the other end, as the kernel recorded it when it connected.
#[derive(Debug, Clone, Copy)]
pub(super) struct ControlPeer {
    uid: u32,
    pid: Option<u32>,
}

impl ControlPeer {
    /// `None` where the kernel does not report it.
    pub(super) fn of(socket: &Socket) -> Option<Self> {
        let process = socket.peer_process().ok()?;
        Some(Self { uid: process.uid, pid: process.pid })
    }

    /// Whether it is root, or the user that we run as.
    pub(super) fn is_authorized(self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }
}

/// The result of a request for an endpoint.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointCommandResult {
    pub cluster: String,
    pub endpoint: String,
    pub state: String,
    /// The state before; several where endpoints of that name differed.
    pub was: String,
    /// How many endpoints have that name: with TLS there is one for each server name sent to its address.
    pub endpoints: usize,
    /// Live sessions of all these endpoints.
    pub sessions: u32,
    /// How many endpoints of the cluster may still take sessions.
    pub enabled: usize,
}

/// The result of a request to close a session.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SessionCommandResult {
    pub session: String,
    pub outcome: String,
}

/// The result of a request to drain.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DrainCommandResult {
    /// Whether a drain had begun before.
    pub already: bool,
    /// Sessions that live when the request is answered.
    pub sessions: usize,
}

/// Executes a control request and logs it; `None` for anything but a POST on the control socket.
pub(super) async fn execute<B>(
    admin_state: &AdminState,
    transport: AdminTransport,
    asker: Option<ControlPeer>,
    request: &Request<B>,
) -> Option<HttpResponse> {
    if transport != AdminTransport::Control || *request.method() != Method::POST {
        return None;
    }
    let path = request.uri().path();
    let order = request.uri().path_and_query().map_or(path, |whole| whole.as_str());
    let answer = match ControlRequest::read(path, request.uri().query()) {
        Ok(ControlRequest::Reload) => reload(admin_state).await,
        Ok(ControlRequest::Drain) => drain(admin_state).await,
        Ok(ControlRequest::Close(session)) => close(&admin_state.view.get(), session),
        Ok(ControlRequest::Endpoint { .. }) if admin_state.handing_over.load(Ordering::Acquire) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "another process is about to take over: ask that one, in a moment\n",
        ),
        Ok(ControlRequest::Endpoint { cluster, endpoint, admin }) => {
            set_admin(&admin_state.view.get(), &cluster, &endpoint, admin)
        }
        Ok(ControlRequest::LogLevel { level, lasting }) => log_level(admin_state, level, lasting).await,
        Err(ControlRequestError::Unknown) => {
            text(StatusCode::NOT_FOUND, &format!("{}\n", ControlRequestError::Unknown))
        }
        Err(
            error @ (ControlRequestError::Session(_)
            | ControlRequestError::Level
            | ControlRequestError::Lasting(_)),
        ) => text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    let (uid, pid) = (asker.map(|asker| asker.uid), asker.and_then(|asker| asker.pid));
    let status = answer.status().as_u16();
    tracing::info!(target: "audit", order, uid, pid, status, "ordered on the control socket");
    Some(answer)
}

async fn reload(admin_state: &AdminState) -> HttpResponse {
    match ask(&admin_state.commands, Command::Reload).await {
        Some(reloaded) => {
            let mut answer = json(&reloaded);
            if !reloaded.ok {
                *answer.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
            }
            answer
        }
        None => busy(),
    }
}

async fn drain(admin_state: &AdminState) -> HttpResponse {
    let sessions = admin_state.view.get().routes().map(|route| route.active()).sum();
    if admin_state.phase.get() != Phase::Ready {
        return json(&DrainCommandResult { already: true, sessions });
    }
    match ask(&admin_state.commands, Command::Drain).await {
        Some(()) => {
            let mut answer = json(&DrainCommandResult { already: false, sessions });
            *answer.status_mut() = StatusCode::ACCEPTED;
            answer
        }
        None => busy(),
    }
}

async fn log_level(admin_state: &AdminState, level: LevelFilter, lasting: Option<Duration>) -> HttpResponse {
    match ask(&admin_state.commands, |answer| Command::LogLevel(level, lasting, answer)).await {
        Some(()) => json(&LogLevel::of(&admin_state.log, lasting)),
        None => busy(),
    }
}

fn busy() -> HttpResponse {
    text(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping, or busy\n")
}

fn close(view: &View, session: SessionId) -> HttpResponse {
    let outcome = Outcome::ClosedByOperator;
    if !view.routes().any(|route| route.stop(session, outcome)) {
        return text(StatusCode::NOT_FOUND, &format!("no session {session} lives\n"));
    }
    json(&SessionCommandResult { session: session.to_string(), outcome: outcome.label().into() })
}

fn set_admin(view: &View, cluster: &str, endpoint: &str, admin: Admin) -> HttpResponse {
    let unknown = |words: String| text(StatusCode::NOT_FOUND, &words);
    let Some(known) = view.clusters.iter().find(|known| known.settings().name.as_str() == cluster) else {
        let all: Vec<_> = view.clusters.iter().map(|known| known.settings().name.as_str()).collect();
        return unknown(format!("no cluster is called {cluster}; there are: {}\n", all.join(", ")));
    };
    let members: Vec<_> = known.view().into_iter().filter(|view| view.is_present).collect();
    let name = |view: &EndpointView| view.endpoint.settings().name.to_string();
    let before: Vec<_> = members.iter().filter(|view| name(view) == endpoint).collect();
    if before.is_empty() || !known.set_admin(endpoint, admin) {
        let all: Vec<_> = members.iter().map(name).collect();
        return unknown(format!(
            "cluster {cluster} has no endpoint {endpoint}; it has: {}\n",
            all.join(", ")
        ));
    }
    let were: BTreeSet<_> = before.iter().map(|view| view.admin.label()).collect();
    let after = known.view();
    json(&EndpointCommandResult {
        cluster: cluster.into(),
        endpoint: endpoint.into(),
        state: admin.label().into(),
        was: were.into_iter().collect::<Vec<_>>().join(", "),
        endpoints: before.len(),
        sessions: before.iter().map(|view| view.load.sessions).sum(),
        enabled: after.iter().filter(|view| view.is_present && view.admin == Admin::Enabled).count(),
    })
}

/// The daemon's response; `None` where the queue is full or the response takes too long.
async fn ask<T>(commands: &CommandSender, order: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    commands.try_send(order(answer)).ok()?;
    alarm::timeout_at(clock::now() + PATIENCE, answered).await.ok()?.ok()
}
