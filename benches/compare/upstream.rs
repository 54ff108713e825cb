//! The reference upstream: one thread, one epoll, plain and mTLS ports, a set for each contestant.
//!
//! A set each, so that one contestant's closed connections never crowd the port table that another has to search, and
//! handshakes are counted per contestant. It is as cheap as possible, since it shares a core with the load. Lacks
//! timeouts, limits and shutdown: it ends with the bench.
mod session;
mod talk;
mod tls;

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;

use self::session::{Scratch, Session};
use crate::pki::Pki;
use crate::poll::{Events, Interest, Poll};
use crate::socket;
use crate::terminate::server_config;
use crate::wire::Tally;

/// The addresses of the upstream: the same index is the same contestant.
pub(crate) struct Doors {
    pub(crate) plain: Vec<SocketAddr>,
    pub(crate) tls: Vec<SocketAddr>,
    pub(crate) full: Vec<SocketAddr>,
}

impl Doors {
    /// Reads the first line that `run` writes.
    pub(crate) fn parse(line: &str) -> io::Result<Self> {
        let ports: Result<Vec<u16>, _> = line.split_whitespace().map(str::parse).collect();
        let ports =
            ports.map_err(|_| io::Error::other(format!("the upstream said {line:?}, not its ports")))?;
        let addresses: Vec<SocketAddr> =
            ports.into_iter().map(|port| (Ipv4Addr::LOCALHOST, port).into()).collect();
        let (plain, others) = addresses.split_at(addresses.len() / KINDS);
        let (tls, full) = others.split_at(plain.len());
        Ok(Self { plain: plain.to_vec(), tls: tls.to_vec(), full: full.to_vec() })
    }
}

/// Plain, TLS, TLS without resumption.
const KINDS: usize = 3;

/// Serves for ever; its ports are the first line on stdout.
pub(crate) fn run(pki: &Path, sets: usize) -> io::Result<()> {
    let mut upstream = Upstream::open(&Pki::at(pki), sets)?;
    let ports: Result<Vec<String>, io::Error> =
        upstream.doors.iter().map(|door| Ok(door.local_addr()?.port().to_string())).collect();
    writeln!(io::stdout(), "{}", ports?.join(" "))?;
    let mut events = Events::new();
    loop {
        upstream.poll.wait(&mut events)?;
        for (token, ready) in events.iter() {
            upstream.attend(token, ready)?;
        }
    }
}

struct Upstream {
    poll: Poll,
    /// Plain ones, then as many with TLS, then as many without resumption.
    doors: Vec<TcpListener>,
    configs: [Option<Arc<ServerConfig>>; KINDS],
    /// One for each set.
    tallies: Vec<Tally>,
    /// Their tokens follow those of the listeners. A slot may be reused while an event for its former session is still
    /// to come: sockets do not block, so that costs one futile read.
    sessions: Vec<Option<Session>>,
    free: Vec<usize>,
    scratch: Scratch,
}

impl Upstream {
    fn open(pki: &Pki, sets: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let doors: Vec<TcpListener> = (0..KINDS * sets).map(|_| listen()).collect::<Result<_, _>>()?;
        for (token, door) in doors.iter().enumerate() {
            poll.add(door, token, Interest::IN)?;
        }
        Ok(Self {
            poll,
            doors,
            configs: [None, Some(server_config(pki, true)?), Some(server_config(pki, false)?)],
            tallies: vec![Tally::default(); sets],
            sessions: Vec::new(),
            free: Vec::new(),
            scratch: Scratch::new(),
        })
    }

    fn attend(&mut self, token: usize, ready: Interest) -> io::Result<()> {
        match token.checked_sub(self.doors.len()) {
            None => self.accept(token),
            Some(slot) => self.serve(slot, token, ready),
        }
    }

    fn accept(&mut self, door: usize) -> io::Result<()> {
        let Some(socket) = socket::accept(&self.doors[door])? else { return Ok(()) };
        let sets = self.tallies.len();
        let config = self.configs[door / sets].as_ref();
        let session = Session::new(socket.into(), door % sets, config)?;
        let slot = self.free.pop().unwrap_or(self.sessions.len());
        self.poll.add(session.socket(), slot + self.doors.len(), Interest::IN)?;
        if slot == self.sessions.len() {
            self.sessions.push(Some(session));
        } else {
            self.sessions[slot] = Some(session);
        }
        Ok(())
    }

    fn serve(&mut self, slot: usize, token: usize, ready: Interest) -> io::Result<()> {
        let Some(session) = &mut self.sessions[slot] else { return Ok(()) };
        let before = session.interest();
        // The other side aborted the session: the others are not affected.
        let open = session.advance(ready, &mut self.scratch, &mut self.tallies).unwrap_or(false);
        if !open {
            self.sessions[slot] = None;
            self.free.push(slot);
        } else if session.interest() != before {
            self.poll.change(session.socket(), token, session.interest())?;
        }
        Ok(())
    }
}

fn listen() -> io::Result<TcpListener> {
    let door = socket::listen((Ipv4Addr::LOCALHOST, 0).into())?;
    door.set_nonblocking(true)?;
    Ok(door)
}
