//! The floor: the least a relay can do. One thread, one epoll, one shared buffer, one read and one write per message.
//!
//! It lacks everything a product needs (timeouts, limits, counters, a choice of upstreams, a record of
//! what happened), which is the point: what a proxy costs beyond this is the price of its functions.
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, connect, shutdown, socket_with, sockopt,
};

use crate::poll::{Events, Interest, Poll};
use crate::socket::{accept, listen, receive_some, send_some};

/// Enough for the 64 KiB row in one read, and small enough to stay in the cache.
const BUFFER: usize = 64 * 1024;

const LISTENER: usize = usize::MAX;

/// One side of a session. Sides are paired: slot `n` has its partner in slot `n ^ 1`.
struct Side {
    socket: OwnedFd,
    /// Bytes that this side's socket did not take; its partner is not read while there are any.
    unsent: Vec<u8>,
    /// This side has ended.
    ended: bool,
}

pub(crate) fn run(listen_at: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    let listener = listen(listen_at)?;
    listener.set_nonblocking(true)?;
    let mut relay = Relay { poll: Poll::new()?, sides: Vec::new(), free: Vec::new(), upstream };
    relay.poll.add(&listener, LISTENER, Interest::IN)?;
    let mut buffer = vec![0; BUFFER];
    let mut events = Events::new();
    loop {
        relay.poll.wait(&mut events)?;
        for (token, ready) in events.iter() {
            if token == LISTENER {
                relay.accept(&listener)?;
            } else {
                relay.advance(token, ready, &mut buffer);
            }
        }
    }
}

struct Relay {
    poll: Poll,
    sides: Vec<Option<Side>>,
    /// First slots of free pairs. A slot may be reused while an event for its former side is still to come: sockets do
    /// not block, so that costs one futile call.
    free: Vec<usize>,
    upstream: SocketAddr,
}

impl Relay {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        let Some(downstream) = accept(listener)? else { return Ok(()) };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let upstream = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        // On loopback it is connected before the client's first bytes arrive; if not, the write fails.
        match connect(&upstream, &self.upstream) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => return Ok(()),
        }
        let first = self.free.pop().unwrap_or(self.sides.len());
        if first == self.sides.len() {
            self.sides.extend([None, None]);
        }
        for (slot, socket) in [(first, downstream), (first + 1, upstream)] {
            sockopt::set_tcp_nodelay(&socket, true)?;
            self.poll.add(&socket, slot, Interest::IN)?;
            self.sides[slot] = Some(Side { socket, unsent: Vec::new(), ended: false });
        }
        Ok(())
    }

    fn advance(&mut self, slot: usize, ready: Interest, buffer: &mut [u8]) {
        let first = slot & !1;
        let [Some(one), Some(other)] = &mut self.sides[first..first + 2] else { return };
        let (this, partner) = if slot == first { (one, other) } else { (other, one) };
        let mut turn = Turn { poll: &self.poll, slot, this, partner };
        // A session that breaks ends, whatever the error: a floor keeps no record.
        if turn.take(ready, buffer).is_ok_and(|open| open) {
            return;
        }
        self.sides[first] = None;
        self.sides[first + 1] = None;
        self.free.push(first);
    }
}

/// One event of one side.
struct Turn<'a> {
    poll: &'a Poll,
    slot: usize,
    this: &'a mut Side,
    partner: &'a mut Side,
}

impl Turn<'_> {
    /// False when the session is over.
    fn take(&mut self, ready: Interest, buffer: &mut [u8]) -> io::Result<bool> {
        // The socket is read, since the event may belong to the slot's former side.
        if ready.contains(Interest::ERR) {
            sockopt::socket_error(&self.this.socket)??;
        }
        if ready.contains(Interest::OUT) && !self.this.unsent.is_empty() {
            let sent = send_some(&self.this.socket, &self.this.unsent)?;
            self.this.unsent.drain(..sent);
            self.renew_interest()?;
        }
        let readable = ready.intersects(Interest::IN | Interest::HUP);
        if !readable || self.this.ended || !self.partner.unsent.is_empty() {
            return Ok(true);
        }
        match receive_some(&self.this.socket, buffer)? {
            None => Ok(true),
            Some(0) => self.end(),
            Some(came) => self.pass_on(&buffer[..came]),
        }
    }

    fn pass_on(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let sent = send_some(&self.partner.socket, bytes)?;
        if sent < bytes.len() {
            self.partner.unsent.extend_from_slice(&bytes[sent..]);
            self.renew_interest()?;
        }
        Ok(true)
    }

    fn end(&mut self) -> io::Result<bool> {
        self.this.ended = true;
        if self.partner.ended {
            return Ok(false);
        }
        shutdown(&self.partner.socket, Shutdown::Write)?;
        self.poll.change(&self.this.socket, self.slot, interest(self.this, self.partner))?;
        Ok(true)
    }

    fn renew_interest(&self) -> io::Result<()> {
        self.poll.change(&self.this.socket, self.slot, interest(self.this, self.partner))?;
        self.poll.change(&self.partner.socket, self.slot ^ 1, interest(self.partner, self.this))
    }
}

fn interest(this: &Side, partner: &Side) -> Interest {
    let mut interest = Interest::empty();
    interest.set(Interest::IN, !this.ended && partner.unsent.is_empty());
    interest.set(Interest::OUT, !this.unsent.is_empty());
    interest
}
