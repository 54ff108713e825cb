//! Bulk: sessions that receive, send, or do both, as fast as possible.
//!
//! Bytes are counted on arrival: here for the downward ones, at the upstream for the upward ones. Sockets buffer so
//! much that counting at the sender would credit a slow proxy with bytes that it has yet to move. Lacks any check of
//! the bytes.
use std::io;
use std::net::TcpStream;

use super::{Course, Phase, Reading, Window, open};
use crate::poll::{Events, Interest, Poll};
use crate::socket::{drop_some, send_some};
use crate::wire::{Ask, CHUNK, FILL};

/// TCP drops the bytes that are read here, so the size costs nothing.
const SWALLOW: usize = 4 * CHUNK;

pub(super) fn run(course: &Course<'_>, flow: Ask, sessions: usize) -> io::Result<Reading> {
    let poll = Poll::new()?;
    let mut sockets = Vec::with_capacity(sessions);
    for token in 0..sessions {
        let socket = open(course.target, flow)?;
        poll.add(&socket, token, interest(flow))?;
        sockets.push(socket);
    }
    let mut window = Window::new(course);
    let mut events = Events::new();
    let mut buffer = vec![0; SWALLOW];
    let (mut down, mut moved, mut up_before) = (0, 0, 0);
    loop {
        poll.wait_briefly(&mut events)?;
        for (token, ready) in events.iter() {
            let came = take_in(&sockets[token], ready, &mut buffer)?;
            down += came;
            moved += came + put_out(&sockets[token], ready)?;
        }
        match window.tick(moved)? {
            Phase::On => {}
            Phase::Opened => (down, moved, up_before) = (0, 0, course.tally()?.bytes_heard),
            Phase::Closed(reading) => {
                let up = course.tally()?.bytes_heard - up_before;
                return Ok(Reading { units: (down as u64 + up) as f64, ..reading });
            }
        }
    }
}

fn interest(flow: Ask) -> Interest {
    let mut interest = Interest::empty();
    interest.set(Interest::IN, matches!(flow, Ask::Down | Ask::Both));
    interest.set(Interest::OUT, matches!(flow, Ask::Up | Ask::Both));
    interest
}

fn put_out(socket: &TcpStream, ready: Interest) -> io::Result<usize> {
    if ready.contains(Interest::OUT) { send_some(socket, &FILL) } else { Ok(0) }
}

fn take_in(socket: &TcpStream, ready: Interest, buffer: &mut [u8]) -> io::Result<usize> {
    if !ready.intersects(Interest::IN | Interest::HUP | Interest::ERR) {
        return Ok(0);
    }
    match drop_some(socket, buffer)? {
        Some(0) => Err(io::Error::other("a bulk session was closed")),
        came => Ok(came.unwrap_or_default()),
    }
}
