//! What may be asked for on the control socket, by POST. It is passed on to the daemon; the answer says what came of it.

use std::time::Duration;

use hyper::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::answer::{Answer, json, text};
use super::{Door, Subject};
use crate::alarm;
use crate::clock;

/// An order for the daemon, with the place for its answer.
#[derive(Debug)]
pub enum Command {
    /// Read the configuration again.
    Reload(oneshot::Sender<Reloaded>),
}

/// Where orders go.
pub type Commands = mpsc::Sender<Command>;

/// What a reload came to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whether the file is in force. If not, nothing has changed.
    pub ok: bool,
    /// What is different now, in words.
    pub changes: Vec<String>,
    /// What the file says and only a restart, or a replacement, will bring about.
    pub needs_restart: Vec<String>,
    /// What works but deserves a word.
    pub warnings: Vec<String>,
    /// Why the file is not in force.
    pub mistakes: Vec<MistakeView>,
}

/// One mistake of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MistakeView {
    /// The file.
    pub file: String,
    /// From 1; where the text is at fault.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    /// The keys that lead there.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// Orders that may wait for the daemon.
const WAITING_MAX: usize = 16;
/// How long an answer may take: files are read, and users looked up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The way to the daemon, and its end.
#[must_use]
pub fn commands() -> (Commands, mpsc::Receiver<Command>) {
    mpsc::channel(WAITING_MAX)
}

/// Does what is asked for; `None` for what is no order.
pub(super) async fn obey<B>(subject: &Subject, door: Door, request: &Request<B>) -> Option<Answer> {
    if door != Door::Control || *request.method() != Method::POST {
        return None;
    }
    match request.uri().path() {
        "/reload" => Some(reload(subject).await),
        _ => None,
    }
}

async fn reload(subject: &Subject) -> Answer {
    match ask(&subject.commands, Command::Reload).await {
        Some(reloaded) => {
            let mut answer = json(&reloaded);
            if !reloaded.ok {
                *answer.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
            }
            answer
        }
        None => text(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping, or busy\n"),
    }
}

/// The answer to an order; `None` where nobody takes it or it takes too long.
async fn ask<T>(commands: &Commands, order: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    commands.try_send(order(answer)).ok()?;
    alarm::before(clock::now() + PATIENCE, answered).await.ok()?.ok()
}
