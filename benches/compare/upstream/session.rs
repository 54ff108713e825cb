//! One session of the upstream: a socket, perhaps TLS on it, and the dialogue over it.
//!
//! One read and one write per event, so that no bulk session starves another. Lacks a buffer of its own: all sessions
//! share the scratch memory, except for unfinished TLS records.
use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use rustls::ServerConfig;

use super::talk::Talk;
use super::tls::Tls;
use crate::poll::Interest;
use crate::socket::{drop_some, receive_some, send_some};
use crate::wire::{CHUNK, FILL, Tally};

/// Buffers shared by all sessions; they are empty between two events.
pub(super) struct Scratch {
    pub(super) inbox: Vec<u8>,
    pub(super) outbox: Vec<u8>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        // Room for a chunk with its record overhead, and for the partial record left by the last read.
        Self { inbox: vec![0; CHUNK + 64 * 1024], outbox: vec![0; CHUNK + 64 * 1024] }
    }
}

pub(super) struct Session {
    /// The contestant whose port it used.
    set: usize,
    socket: TcpStream,
    tls: Option<Box<Tls>>,
    talk: Talk,
}

impl Session {
    pub(super) fn new(socket: TcpStream, set: usize, config: Option<&Arc<ServerConfig>>) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let tls = config.map(Tls::new).transpose()?.map(Box::new);
        Ok(Self { set, socket, tls, talk: Talk::default() })
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(super) fn interest(&self) -> Interest {
        let unsent = self.tls.as_ref().is_some_and(|tls| tls.has_unsent());
        if unsent || self.talk.owes() > 0 { Interest::IN | Interest::OUT } else { Interest::IN }
    }

    /// Does what can be done now; false once the session is over.
    pub(super) fn advance(
        &mut self,
        ready: Interest,
        scratch: &mut Scratch,
        tallies: &mut [Tally],
    ) -> io::Result<bool> {
        let mut open = true;
        if ready.intersects(Interest::IN | Interest::HUP | Interest::ERR) {
            let before = self.talk.heard_in_all();
            let tally = &mut tallies[self.set];
            open = match &mut self.tls {
                None => read_plain(&self.socket, &mut self.talk, &mut scratch.inbox)?,
                Some(tls) => tls.read(&self.socket, &mut self.talk, &mut scratch.inbox, tally)?,
            };
            tally.bytes_heard += self.talk.heard_in_all() - before;
        }
        if self.talk.wants_tally() {
            let words: Vec<u8> = tallies.iter().flat_map(|tally| tally.encode()).collect();
            send_some(&self.socket, &words)?;
            return Ok(false);
        }
        match &mut self.tls {
            None => write_plain(&self.socket, &mut self.talk)?,
            Some(tls) => tls.write(&self.socket, &mut self.talk, &mut scratch.outbox)?,
        }
        Ok(open)
    }
}

fn read_plain(socket: &TcpStream, talk: &mut Talk, inbox: &mut [u8]) -> io::Result<bool> {
    if talk.only_counts() {
        let came = drop_some(socket, inbox)?;
        talk.take_in(came.unwrap_or_default());
        return Ok(came != Some(0));
    }
    let came = receive_some(socket, inbox)?;
    talk.hear(&inbox[..came.unwrap_or_default()])?;
    Ok(came != Some(0))
}

fn write_plain(socket: &TcpStream, talk: &mut Talk) -> io::Result<()> {
    let owed = talk.owes();
    if owed > 0 {
        talk.has_sent(send_some(socket, &FILL[..owed])?);
    }
    Ok(())
}
