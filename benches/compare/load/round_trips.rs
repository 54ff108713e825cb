//! Round trips: each session sends a message, waits for as many bytes, and sends the next.
//!
//! With `beside`, one more session receives bulk meanwhile and is not counted: the figure is how long the small ones
//! wait. Lacks think time.
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::{Course, Latency, PATIENCE, Phase, Reading, Window, open};
use crate::poll::{Events, Interest, Poll};
use crate::socket::{drop_some, receive_some, send_some};
use crate::wire::{Ask, CHUNK, FILL};

struct Caller {
    socket: TcpStream,
    sent: usize,
    came: usize,
    since: Instant,
    answered: bool,
}

struct Loop {
    poll: Poll,
    message: usize,
    callers: Vec<Caller>,
    bulk: Option<TcpStream>,
    buffer: Vec<u8>,
    nanos: Vec<u32>,
}

pub(super) fn run(course: &Course<'_>, message: usize, sessions: usize, beside: bool) -> io::Result<Reading> {
    let mut work = Loop::start(course.target, message, sessions, beside)?;
    let mut events = Events::new();
    work.await_all(&mut events)?;
    let mut window = Window::new(course);
    loop {
        work.turn(&mut events)?;
        match window.tick(work.nanos.len())? {
            Phase::On => {}
            Phase::Opened => work.nanos.clear(),
            Phase::Closed(reading) => {
                let units = work.nanos.len() as f64;
                return Ok(Reading { units, latency: Latency::of(work.nanos), ..reading });
            }
        }
    }
}

impl Loop {
    fn start(target: SocketAddr, message: usize, sessions: usize, beside: bool) -> io::Result<Self> {
        let poll = Poll::new()?;
        let since = Instant::now();
        let mut callers = Vec::with_capacity(sessions);
        for token in 0..sessions {
            let socket = open(target, Ask::Echo(message))?;
            poll.add(&socket, token, Interest::IN)?;
            callers.push(Caller { socket, sent: 0, came: 0, since, answered: false });
        }
        let bulk = if beside { Some(open(target, Ask::Down)?) } else { None };
        if let Some(bulk) = &bulk {
            poll.add(bulk, sessions, Interest::IN)?;
        }
        let mut work = Self { poll, message, callers, bulk, buffer: vec![0; CHUNK], nanos: Vec::new() };
        for token in 0..sessions {
            work.call(token)?;
        }
        Ok(work)
    }

    /// Until each session has been answered once: opening them is not part of this row.
    fn await_all(&mut self, events: &mut Events) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.callers.iter().any(|caller| !caller.answered) {
            self.turn(events)?;
            if Instant::now() > deadline {
                return Err(io::Error::other("not all sessions were answered"));
            }
        }
        Ok(())
    }

    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        self.poll.wait_briefly(events)?;
        for (token, ready) in events.iter() {
            self.attend(token, ready)?;
        }
        Ok(())
    }

    fn attend(&mut self, token: usize, ready: Interest) -> io::Result<()> {
        let Some(caller) = self.callers.get(token) else { return self.swallow_bulk() };
        if ready.contains(Interest::OUT) && caller.sent < self.message {
            self.push(token)?;
        }
        if ready.intersects(Interest::IN | Interest::HUP | Interest::ERR) {
            self.listen(token)?;
        }
        Ok(())
    }

    /// Begins a round trip.
    fn call(&mut self, token: usize) -> io::Result<()> {
        let caller = &mut self.callers[token];
        (caller.sent, caller.came, caller.since) = (0, 0, Instant::now());
        caller.sent = send_some(&caller.socket, &FILL[..self.message])?;
        if caller.sent < self.message {
            self.poll.change(&caller.socket, token, Interest::IN | Interest::OUT)?;
        }
        Ok(())
    }

    /// Sends the rest that the socket did not take at first.
    fn push(&mut self, token: usize) -> io::Result<()> {
        let caller = &mut self.callers[token];
        caller.sent += send_some(&caller.socket, &FILL[caller.sent..self.message])?;
        if caller.sent == self.message {
            self.poll.change(&caller.socket, token, Interest::IN)?;
        }
        Ok(())
    }

    fn listen(&mut self, token: usize) -> io::Result<()> {
        let caller = &mut self.callers[token];
        match receive_some(&caller.socket, &mut self.buffer)? {
            None => return Ok(()),
            Some(0) => return Err(io::Error::other("a session was closed during round trips")),
            Some(came) => caller.came += came,
        }
        if caller.came > self.message {
            return Err(io::Error::other("more came back than was asked for"));
        }
        if caller.came == self.message {
            caller.answered = true;
            self.nanos.push(u32::try_from(caller.since.elapsed().as_nanos()).unwrap_or(u32::MAX));
            self.call(token)?;
        }
        Ok(())
    }

    fn swallow_bulk(&mut self) -> io::Result<()> {
        let Some(bulk) = &self.bulk else { return Ok(()) };
        match drop_some(bulk, &mut self.buffer)? {
            Some(0) => Err(io::Error::other("the bulk session was closed")),
            _ => Ok(()),
        }
    }
}
