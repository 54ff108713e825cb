//! `top`: `status` and `sessions` on a terminal, live, with a key that closes a session.
//!
//! A thread of its own queries the daemon, so that keys work while it is slow or gone. `model` has the state and what
//! keys do to it, `view` the layout; this file connects them.

mod model;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, IsTerminal as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use rustix::event::{PollFd, PollFlags, poll};

use super::CommandError;
use super::client::{self, AdminTarget, ControlResponse, Daemon, path_segment};
use crate::clock;
use model::{Action, DaemonSample, Key, Model};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    place: AdminTarget,
}

/// How often the daemon is queried.
const PERIOD: Duration = Duration::from_secs(1);
/// How soon a response, or a key, is on the screen.
const STEP: Duration = Duration::from_millis(100);

/// Events from the thread that queries the daemon.
enum UiEvent {
    Look(Box<DaemonSample>),
    /// Why the daemon does not answer.
    Lost(String),
    /// The result of a request.
    Note(String),
}

pub(super) fn top(arguments: &Arguments) -> Result<(), CommandError> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let words = "`top` needs a terminal; `status` and `sessions` need none";
        return Err(CommandError::Running(words.into()));
    }
    let daemon = Daemon::at(&arguments.place)?;
    let mut model = Model::new();
    // If the daemon cannot be queried at all, the command fails before it changes the terminal.
    model.update(look(&daemon).map_err(CommandError::Running)?, clock::now());
    let ending = Ending::caught().map_err(|error| failed(&error))?;
    let (closing, to_close) = channel();
    let (telling, told) = channel();
    thread::spawn(move || attend(&daemon, &to_close, &telling));
    // This also restores the terminal on a panic.
    let mut terminal = ratatui::try_init().map_err(|error| failed(&error))?;
    // On a thread of its own: reading keys from a closed terminal never returns.
    thread::spawn(move || ending.obey());
    let shown = show(&mut terminal, &mut model, &told, &closing);
    ratatui::restore();
    shown.map_err(|error| failed(&error))
}

/// Signals that end the process, and the terminal's hang-up, delayed until the terminal is restored.
struct Ending {
    mask: SigSet,
    caught: SignalFd,
}

impl Ending {
    /// Blocks the signals in this thread and all that it starts from now on.
    fn caught() -> io::Result<Self> {
        let mask: SigSet = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT].into_iter().collect();
        mask.thread_block()?;
        let caught = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { mask, caught })
    }

    /// Waits for one of them; a hang-up of the terminal counts as SIGHUP.
    fn signal(&self) -> io::Result<Signal> {
        let stdin = io::stdin();
        loop {
            // No events are requested from the terminal: POLLHUP and POLLERR are always reported.
            let mut waiting =
                [PollFd::new(&self.caught, PollFlags::IN), PollFd::new(&stdin, PollFlags::empty())];
            poll(&mut waiting, None)?;
            let is_gone = !waiting[1].revents().is_empty();
            let caught = self.caught.read_signal()?;
            if let Some(signal) =
                caught.and_then(|caught| Signal::try_from(caught.ssi_signo.cast_signed()).ok())
            {
                return Ok(signal);
            }
            if is_gone {
                return Ok(Signal::SIGHUP);
            }
        }
    }

    /// Ends the process by the signal, as its parent expects, after restoring the terminal.
    fn obey(&self) {
        let signal = self.signal().unwrap_or(Signal::SIGTERM);
        let _ = ratatui::try_restore();
        // In this thread only, which raises it.
        let _ = self.mask.thread_unblock();
        let _ = nix::sys::signal::raise(signal);
    }
}

fn failed(error: &io::Error) -> CommandError {
    CommandError::Running(format!("the terminal: {error}"))
}

/// Draws until the user quits.
fn show(
    terminal: &mut DefaultTerminal,
    model: &mut Model,
    told: &Receiver<UiEvent>,
    closing: &Sender<String>,
) -> io::Result<()> {
    loop {
        terminal.draw(|frame| view::draw(frame, model, clock::now()))?;
        if event::poll(STEP)?
            && let Event::Key(pressed) = event::read()?
            && let Some(key) = key(&pressed)
        {
            match model.key(key) {
                Some(Action::Quit) => return Ok(()),
                Some(Action::Close(session)) => {
                    // The other thread ends after this one.
                    let _ = closing.send(session);
                }
                None => {}
            }
        }
        for news in told.try_iter() {
            match news {
                UiEvent::Look(look) => model.update(*look, clock::now()),
                UiEvent::Lost(why) => model.set_unreachable(why),
                UiEvent::Note(note) => model.note = Some(note),
            }
        }
    }
}

fn key(pressed: &KeyEvent) -> Option<Key> {
    if pressed.kind == KeyEventKind::Release {
        return None;
    }
    let with_control = pressed.modifiers.contains(KeyModifiers::CONTROL);
    #[expect(clippy::wildcard_enum_match_arm, reason = "a keyboard has more keys than mean anything here")]
    match pressed.code {
        KeyCode::Char('c') if with_control => Some(Key::Interrupt),
        KeyCode::Char(_) if with_control => None,
        KeyCode::Char(typed) => Some(Key::Char(typed)),
        KeyCode::Up => Some(Key::Up),
        KeyCode::Down => Some(Key::Down),
        KeyCode::PageUp => Some(Key::PageUp),
        KeyCode::PageDown => Some(Key::PageDown),
        KeyCode::Home => Some(Key::Home),
        KeyCode::End => Some(Key::End),
        KeyCode::Enter => Some(Key::Enter),
        KeyCode::Esc => Some(Key::Escape),
        KeyCode::Backspace => Some(Key::Backspace),
        _ => None,
    }
}

/// Queries the daemon regularly and closes sessions on request, until the receiver is gone.
fn attend(daemon: &Daemon, to_close: &Receiver<String>, telling: &Sender<UiEvent>) {
    loop {
        match to_close.recv_timeout(PERIOD) {
            Ok(session) => {
                if telling.send(UiEvent::Note(close(daemon, &session))).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let news = look(daemon).map_or_else(UiEvent::Lost, |look| UiEvent::Look(Box::new(look)));
        if telling.send(news).is_err() {
            return;
        }
    }
}

fn look(daemon: &Daemon) -> Result<DaemonSample, String> {
    Ok(DaemonSample {
        status: client::read(&daemon.get("/status")?)?,
        sessions: client::read(&daemon.get("/sessions")?)?,
        history: client::read(&daemon.get("/history")?)?,
    })
}

fn close(daemon: &Daemon, session: &str) -> String {
    match daemon
        .send_command(&format!("/sessions/{}/close", path_segment(session)))
        .and_then(ControlResponse::into_success_body)
    {
        Ok(_) => format!("session {session} is closed"),
        Err(words) => words,
    }
}
