//! Short sessions: connect, one byte each way, close; the next one at once.
//!
//! The upstream's port decides whether sessions can be resumed. Connecting blocks, which on loopback costs nothing:
//! the kernel completes it within the call. Lacks aborts; the client closes first, in order, as clients do.
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::{Course, Latency, Phase, Reading, Window, open};
use crate::poll::{Events, Interest, Poll};
use crate::socket::receive_some;
use crate::wire::Ask;

/// A closed port stays in TIME_WAIT, here for a second; a round must not use up all ports.
const SESSIONS_AT_MOST: usize = 20_000;

struct Caller {
    socket: TcpStream,
    since: Instant,
}

pub(super) fn run(course: &Course<'_>, at_once: usize) -> io::Result<Reading> {
    let poll = Poll::new()?;
    let mut callers =
        (0..at_once).map(|token| call(&poll, course.target, token)).collect::<io::Result<Vec<Caller>>>()?;
    let mut window = Window::new(course);
    let mut events = Events::new();
    let mut nanos: Vec<u32> = Vec::new();
    loop {
        poll.wait_briefly(&mut events)?;
        for (token, _) in events.iter() {
            let caller = &mut callers[token];
            match receive_some(&caller.socket, &mut [0; 2])? {
                None => continue,
                Some(1) => nanos.push(u32::try_from(caller.since.elapsed().as_nanos()).unwrap_or(u32::MAX)),
                Some(_) => return Err(io::Error::other("a session was closed before it was answered")),
            }
            // The old socket closes here.
            *caller = call(&poll, course.target, token)?;
        }
        let reading = match window.tick(nanos.len())? {
            Phase::Closed(reading) => reading,
            Phase::On if nanos.len() >= SESSIONS_AT_MOST => window.close()?,
            Phase::On => continue,
            Phase::Opened => {
                nanos.clear();
                continue;
            }
        };
        return Ok(Reading { units: nanos.len() as f64, latency: Latency::of(nanos), ..reading });
    }
}

fn call(poll: &Poll, target: SocketAddr, token: usize) -> io::Result<Caller> {
    let since = Instant::now();
    let socket = open(target, Ask::Ping)?;
    poll.add(&socket, token, Interest::IN)?;
    Ok(Caller { socket, since })
}
