//! One direction of a relay.
//!
//! A flow of small messages is read into the worker's scratch memory and written from there: two system calls, and
//! cheaper than splice, which takes two as well, and a pipe. When a read fills its portion, the flow is bulky, and
//! between two sockets it moves through a borrowed pipe without leaving the kernel, until it gets small again. The end
//! of the source is passed on only after everything before it was written.

use std::io;
use std::task::{Context, Poll, ready};

use super::coop;
use super::live::LiveSession;
use super::pending::{self, PendingBytes};
use super::pipes::Loan;
use super::scratch::with_scratch;
use super::upstream_stream::Leg;
use crate::outcome::Side;
use crate::sys::{Socket, Transport};
use crate::tls::KeyLimit;

#[derive(Debug)]
pub(super) struct LegError {
    pub(super) side: Side,
    pub(super) error: io::Error,
}

impl LegError {
    /// Whether the error is our own and not the connection's: the kernel, and so the peer, does not know of it.
    pub(super) fn is_ours(&self) -> bool {
        self.error.raw_os_error().is_none()
    }

    /// Whether the keys of the connection are used up.
    pub(super) fn is_by_key_limit(&self) -> bool {
        self.error.get_ref().is_some_and(|error| error.is::<KeyLimit>())
    }
}

/// One direction: from its source to the other side.
#[derive(Debug)]
pub(super) struct CopyDirection {
    source: Side,
    state: State,
    /// Bytes that were read and that the destination has not taken.
    pending: PendingBytes,
    pipe: Option<Loan>,
    /// The flow is bulky while this is not 0: set by a large read or fill, one less after each small fill.
    bulky: u8,
    /// The destination took bytes that may not have reached the kernel yet (TLS).
    unflushed: bool,
    /// The end of the source is not passed on.
    withheld: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The source may still send. Exit: `Ending`.
    Open,
    /// The source has ended; pending bytes go out, then the end. Exit: `Ended`.
    Ending,
    /// The end was passed on. No exit.
    Ended,
}

/// The most that one read takes from a socket while the flow is small; a read that fills it makes the flow bulky.
const PORTION: usize = 16 * 1024;
/// Small fills after which a bulky flow is small again.
const PATIENCE: u8 = 4;

impl CopyDirection {
    /// `pending`: bytes to deliver before any others.
    pub(super) fn with_pending(source: Side, pending: Vec<u8>) -> Self {
        Self {
            source,
            state: State::Open,
            pending: PendingBytes::new(pending),
            pipe: None,
            bulky: 0,
            unflushed: false,
            withheld: false,
        }
    }

    /// Adds bytes to deliver behind those that are pending.
    pub(super) fn push_pending(&mut self, bytes: &[u8]) {
        self.pending.append(bytes);
    }

    /// The same of bytes that may hold a login.
    pub(super) fn push_secret(&mut self, bytes: &[u8]) {
        self.pending.append_secret(bytes);
    }

    /// The bytes that the destination has not taken, for the driver that goes on with it.
    pub(super) fn take_pending(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending).rest().to_vec()
    }

    /// Whether bytes were read that the destination has not taken, in memory or in the pipe.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty() || self.pipe.as_ref().is_some_and(|pipe| pipe.held() > 0)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    pub(super) fn source_has_ended(&self) -> bool {
        self.state != State::Open
    }

    /// From now on the source's end is recorded but not passed on.
    pub(super) const fn defer_end(&mut self) {
        self.withheld = true;
    }

    /// From now on the source's end is passed on again.
    pub(super) const fn forward_end(&mut self) {
        self.withheld = false;
    }

    /// The source has ended, and all it sent is delivered.
    pub(super) fn is_exhausted(&self) -> bool {
        self.source_has_ended() && !self.has_pending() && !self.unflushed
    }

    /// Moves bytes between two connections without TLS, as many as both and the turn allow.
    pub(super) fn poll_between<T: Transport>(
        &mut self,
        cx: &mut Context<'_>,
        mut from: &T,
        mut to: &T,
        live: &LiveSession,
    ) -> Result<(), LegError> {
        match (from.socket(), to.socket()) {
            (Some(from), Some(to)) => self.poll_splice(cx, from, to, live),
            _ => self.poll_copy(cx, &mut from, &mut to, live),
        }
    }

    /// The same between two sockets, by splice while the flow is bulky.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        mut from: &Socket,
        mut to: &Socket,
        live: &LiveSession,
    ) -> Result<(), LegError> {
        let turn = coop::budget();
        let mut allowance = turn;
        while allowance > 0 {
            if self.poll_drain(cx, to, live)?.is_pending()
                || self.poll_flush(cx, &mut to, live)?.is_pending()
                || self.source_has_ended()
            {
                return Ok(());
            }
            let moved = if self.bulky > 0 {
                self.poll_fill(cx, from, to, turn, live)?
            } else {
                self.poll_move(cx, &mut from, &mut to, PORTION, live)?
            };
            let Poll::Ready(moved) = moved else {
                // The pipe is empty here, so it goes back to the worker.
                self.pipe = None;
                return Ok(());
            };
            allowance = allowance.saturating_sub(moved);
        }
        coop::reschedule(cx);
        Ok(())
    }

    /// Moves bytes between two legs of any kind, as many as both and the turn allow.
    pub(super) fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Leg,
        to: &mut impl Leg,
        live: &LiveSession,
    ) -> Result<(), LegError> {
        let turn = coop::budget();
        let mut allowance = turn;
        while allowance > 0 {
            if self.poll_flush(cx, to, live)?.is_pending() || self.source_has_ended() {
                return Ok(());
            }
            let Poll::Ready(moved) = self.poll_move(cx, from, to, pending::width(turn), live)? else {
                return Ok(());
            };
            allowance = allowance.saturating_sub(moved);
        }
        coop::reschedule(cx);
        Ok(())
    }

    /// Reads one portion for a dialogue and passes it to `take`; records the end of the source.
    pub(super) fn poll_read<E>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Leg,
        live: &LiveSession,
        take: impl FnOnce(&[u8]) -> Result<(), E>,
    ) -> Poll<Result<Result<(), E>, LegError>> {
        if self.source_has_ended() {
            return Poll::Pending;
        }
        with_scratch(coop::PARSED, |memory| {
            let read = ready!(from.poll_read(cx, memory)).map_err(|error| self.source_broke(error))?;
            if read == 0 {
                self.state = State::Ending;
                return Poll::Ready(Ok(Ok(())));
            }
            if self.source == Side::Upstream {
                live.count(self.source, read);
            }
            Poll::Ready(Ok(take(&memory[..read])))
        })
    }

    /// One read and one write through scratch memory.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Leg,
        to: &mut impl Leg,
        portion: usize,
        live: &LiveSession,
    ) -> Result<Poll<usize>, LegError> {
        with_scratch(portion, |memory| {
            let read = match from.poll_read(cx, memory) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Err(error)) => return Err(self.source_broke(error)),
                Poll::Ready(Ok(0)) => {
                    self.state = State::Ending;
                    return Ok(Poll::Ready(0));
                }
                Poll::Ready(Ok(read)) => read,
            };
            if read == portion {
                self.bulky = PATIENCE;
            }
            if self.source == Side::Upstream {
                live.count(self.source, read);
            }
            let taken = self.poll_give(cx, to, &memory[..read], live)?;
            if taken < read {
                self.pending.append(&memory[taken..read]);
            }
            Ok(Poll::Ready(read))
        })
    }

    /// Writes once; returns how many bytes were taken.
    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut impl Leg,
        bytes: &[u8],
        live: &LiveSession,
    ) -> Result<usize, LegError> {
        let taken = match to.poll_write(cx, bytes) {
            Poll::Pending => 0,
            Poll::Ready(Ok(taken)) => taken,
            Poll::Ready(Err(error)) => return Err(self.destination_broke(error)),
        };
        self.unflushed |= taken > 0;
        if self.source == Side::Downstream {
            live.count(self.source, taken);
        }
        Ok(taken)
    }

    /// Empties the pipe into the destination.
    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &Socket,
        live: &LiveSession,
    ) -> Result<Poll<()>, LegError> {
        let Some(loan) = &mut self.pipe else { return Ok(Poll::Ready(())) };
        while loan.held() > 0 {
            match to.poll_drain(cx, loan.pipe()) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Err(error)) => return Err(self.destination_broke(error)),
                Poll::Ready(Ok(drained)) => {
                    if self.source == Side::Downstream {
                        live.count(self.source, drained);
                    }
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    /// Fills the pipe once; the next pass of the loop drains it.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &Socket,
        to: &Socket,
        most: usize,
        live: &LiveSession,
    ) -> Result<Poll<usize>, LegError> {
        if self.pipe.is_none() {
            self.pipe = Loan::borrow();
        }
        let Some(loan) = &mut self.pipe else {
            self.bulky = 0;
            return self.poll_move(cx, &mut &*from, &mut &*to, pending::width(most), live);
        };
        match from.poll_fill(cx, loan.pipe(), most) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Err(error)) => Err(self.source_broke(error)),
            // The source's end, or urgent data in front of more: only a read tells them apart, and it steps over the
            // mark.
            Poll::Ready(Ok(0)) => self.poll_move(cx, &mut &*from, &mut &*to, pending::width(most), live),
            Poll::Ready(Ok(filled)) => {
                self.bulky = if filled >= PORTION { PATIENCE } else { self.bulky - 1 };
                if self.source == Side::Upstream {
                    live.count(self.source, filled);
                }
                Ok(Poll::Ready(filled))
            }
        }
    }

    /// Delivers the pending bytes, then the end if the source has ended.
    pub(super) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut impl Leg,
        live: &LiveSession,
    ) -> Result<Poll<()>, LegError> {
        if !self.pending.is_empty() && self.poll_pending(cx, to, live)?.is_pending() {
            return Ok(Poll::Pending);
        }
        if self.unflushed {
            match to.poll_flush(cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Err(error)) => return Err(self.destination_broke(error)),
                Poll::Ready(Ok(())) => self.unflushed = false,
            }
        }
        if self.state == State::Ending && !self.withheld {
            if to.poll_finish(cx).is_pending() {
                return Ok(Poll::Pending);
            }
            self.state = State::Ended;
        }
        Ok(Poll::Ready(()))
    }

    fn poll_pending(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut impl Leg,
        live: &LiveSession,
    ) -> Result<Poll<()>, LegError> {
        let mut pending = std::mem::take(&mut self.pending);
        while !pending.is_empty() {
            let taken = self.poll_give(cx, to, pending.rest(), live)?;
            pending.advance(taken);
            if taken == 0 {
                self.pending = pending;
                return Ok(Poll::Pending);
            }
        }
        Ok(Poll::Ready(()))
    }

    fn source_broke(&self, error: io::Error) -> LegError {
        LegError { side: self.source, error }
    }

    fn destination_broke(&self, error: io::Error) -> LegError {
        let side = match self.source {
            Side::Downstream | Side::Ambassador => Side::Upstream,
            Side::Upstream => Side::Downstream,
        };
        LegError { side, error }
    }
}
