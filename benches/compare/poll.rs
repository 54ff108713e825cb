//! The least epoll that the load, the upstream and the floor relay share: level-triggered, one token
//! per socket.
//!
//! Lacks edge triggering, timers and deregistration (closing a socket deregisters it): with one read
//! per event, level triggering needs fewer system calls for messages that fit one read.
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData};
use rustix::io::Errno;

pub(crate) use rustix::event::epoll::EventFlags as Interest;

pub(crate) struct Poll(OwnedFd);

/// Filled by `wait`; the caller keeps it so that handlers may use the `Poll` during the iteration.
pub(crate) struct Events(Vec<Event>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(Vec::with_capacity(256))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, Interest)> + '_ {
        // By value: an event is packed, so no reference into it may be taken.
        self.0.iter().map(|event| (token_of(event.data), event.flags))
    }
}

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    pub(crate) fn add(&self, socket: impl AsFd, token: usize, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.0, socket, EventData::new_u64(token as u64), interest)?)
    }

    pub(crate) fn change(&self, socket: impl AsFd, token: usize, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.0, socket, EventData::new_u64(token as u64), interest)?)
    }

    /// Waits until something is ready.
    pub(crate) fn wait(&self, events: &mut Events) -> io::Result<()> {
        self.wait_at_most(events, None)
    }

    /// Waits a tenth of a second at most: for loops that also watch a clock.
    pub(crate) fn wait_briefly(&self, events: &mut Events) -> io::Result<()> {
        self.wait_at_most(events, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }))
    }

    fn wait_at_most(&self, events: &mut Events, limit: Option<&Timespec>) -> io::Result<()> {
        events.0.clear();
        match epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events.0), limit) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn token_of(data: EventData) -> usize {
    usize::try_from(data.u64()).expect("tokens were made from usize")
}
