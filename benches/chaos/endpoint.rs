//! The endpoint: an mTLS server that echoes, and misbehaves as commanded on stdin, one mode per line.
//!
//! One loop waits for connections and commands; each session has a thread. It ends with its stdin, and with the stage
//! however that ends, even while it is stopped. Lacks what is done to it from outside: being killed, stopped, started.
mod hole;
mod session;

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum as _;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustls::ServerConfig;

pub(crate) use self::hole::FILLER;
use self::hole::Hole;
use self::session::Server;
use crate::pki::Pki;
use crate::schedule::Mode;
use crate::socket;
use crate::speech::Speech;
use crate::terminate::server_config;

#[derive(clap::Args)]
pub(crate) struct Setup {
    #[arg(long)]
    pub(crate) at: SocketAddr,
    /// One character, the first byte of each answer
    #[arg(long)]
    pub(crate) key: char,
    #[arg(long)]
    pub(crate) pki: PathBuf,
    /// Of a CA that the proxies do not trust
    #[arg(long)]
    pub(crate) stranger: PathBuf,
    #[arg(long)]
    pub(crate) speech: Speech,
    #[arg(long)]
    pub(crate) mode: Mode,
    /// Get ready, and listen when told to
    #[arg(long)]
    pub(crate) held: bool,
}

/// The command that a held endpoint waits for.
pub(crate) const OPEN: &str = "open";

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A predecessor that was just killed may still have the port.
const PATIENCE: Duration = Duration::from_secs(1);

/// What takes connections, or keeps them out.
enum Door {
    Shut,
    Open(TcpListener),
    // Only kept open.
    Hole(#[expect(dead_code, reason = "its sockets are what it is for")] Hole),
}

pub(crate) fn run(setup: &Setup) -> io::Result<()> {
    // TERM would not reach a stopped process.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let server = Arc::new(Server {
        key: u8::try_from(setup.key).map_err(io::Error::other)?,
        speech: setup.speech,
        good: configuration(&setup.pki)?,
        bad: configuration(&setup.stranger)?,
        sessions: AtomicUsize::new(0),
    });
    let mut mode = setup.mode;
    let mut door = if setup.held { Door::Shut } else { open(setup.at, mode)? };
    let mut held = Vec::new();
    loop {
        let (told, asked) = wait(&door)?;
        if told {
            let mut words = [0; 256];
            let came = io::stdin().lock().read(&mut words)?;
            if came == 0 {
                return Ok(());
            }
            held.extend_from_slice(&words[..came]);
            for line in lines(&mut held) {
                obey(&line, setup.at, &mut mode, &mut door)?;
            }
        }
        if asked && let Door::Open(listener) = &door {
            accept(listener, &server, mode)?;
        }
    }
}

fn obey(line: &str, at: SocketAddr, mode: &mut Mode, door: &mut Door) -> io::Result<()> {
    let is_shut = matches!(door, Door::Shut);
    let reopens = match Mode::from_str(line, false) {
        Ok(next) => {
            let changes = (next == Mode::Blackhole) != (*mode == Mode::Blackhole);
            *mode = next;
            changes && !is_shut
        }
        Err(_) => line == OPEN && is_shut,
    };
    if reopens {
        // Closed first, since two sockets cannot have the port.
        *door = Door::Shut;
        *door = open(at, *mode)?;
    }
    Ok(())
}

fn configuration(pki: &std::path::Path) -> io::Result<Arc<ServerConfig>> {
    server_config(&Pki::at(pki), true)
}

fn open(at: SocketAddr, mode: Mode) -> io::Result<Door> {
    let backlog = if mode == Mode::Blackhole { 0 } else { BACKLOG };
    let deadline = Instant::now() + PATIENCE;
    let listener = loop {
        match socket::listen_with(at, backlog) {
            Ok(listener) => break listener,
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    };
    if mode == Mode::Blackhole {
        return Ok(Door::Hole(Hole::dig(listener)?));
    }
    listener.set_nonblocking(true)?;
    Ok(Door::Open(listener))
}

/// Whether there is a command, and whether a connection.
fn wait(door: &Door) -> io::Result<(bool, bool)> {
    let stdin = io::stdin();
    let mut waited = vec![PollFd::new(&stdin, PollFlags::IN)];
    if let Door::Open(listener) = door {
        waited.push(PollFd::new(listener, PollFlags::IN));
    }
    poll(&mut waited, None)?;
    let mut ready = waited.iter().map(|each| !each.revents().is_empty());
    Ok((ready.next().unwrap_or_default(), ready.next().unwrap_or_default()))
}

/// Takes the complete lines out of the bytes.
fn lines(held: &mut Vec<u8>) -> Vec<String> {
    let end = held.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let whole: Vec<u8> = held.drain(..end).collect();
    String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
}

fn accept(listener: &TcpListener, server: &Arc<Server>, mode: Mode) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let server = Arc::clone(server);
                // This bench is about sessions that fail; the client reports it.
                thread::spawn(move || drop(server.serve(stream, mode)));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // The connection was closed again before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}
