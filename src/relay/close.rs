//! The end of a relay: what each side learns of it, and how it is reported.

use std::future::{Future, poll_fn};
use std::io;
use std::task::{Context, Waker};

use tokio::task::coop::unconstrained;

use super::copy::LegError;
use super::upstream_stream::Leg;
use super::{Ended, LiveSession, Relay, RelayError, Stop, Unfinished};
use crate::outcome::{Outcome, Side};
use crate::sys::Transport;
use crate::tls::KeyLimit;

impl<T: Transport> Relay<'_, T> {
    pub(super) fn close(mut self, end: Stop, live: &LiveSession) -> Ended<T> {
        let has_said_goodbye =
            self.first_end == Some(Side::Downstream) && live.received() == self.received_at_end;
        let is_uncertified = self.upstream.is_uncertified();
        let unclean_tls_end = self.upstream.was_truncated() && !has_said_goodbye;
        let mut rest = match &end {
            Stop::Completed
            | Stop::Left(_)
            | Stop::Uncertified
            | Stop::Broken(LegError { side: Side::Upstream, .. }) => None,
            Stop::Broken(_) | Stop::Dialogue(_) | Stop::Ordered(_) => {
                self.dialogue.as_mut().filter(|_| self.broken.is_none()).and_then(|dialogue| dialogue.rest())
            }
        };
        let denied = self.dialogue.as_ref().and_then(|dialogue| dialogue.denied());
        let refused = self.dialogue.as_ref().and_then(|dialogue| dialogue.refused().cloned());
        let (outcome, closed_by, fault) = match end {
            // A server that refused in the middle of a login has ended it in order; the client has its words.
            Stop::Completed => {
                let side = self.first_end.unwrap_or(Side::Upstream);
                match (refused, denied) {
                    (Some(by), _) => {
                        (Outcome::UpstreamRefused, Side::Upstream, Some(RelayError::Refused(by)))
                    }
                    (None, Some(reason)) => (Outcome::Denied, side, Some(RelayError::Denied(reason))),
                    (None, None) => (Outcome::Completed, side, None),
                }
            }
            Stop::Uncertified => (Outcome::TlsFailed, Side::Upstream, Some(RelayError::Uncertified)),
            Stop::Left(said) => {
                rest = Some(said);
                (Outcome::Completed, Side::Downstream, None)
            }
            Stop::Ordered(outcome) => {
                self.part(rest.is_some());
                let fault =
                    (outcome == Outcome::KeyLimit).then(|| RelayError::Io(io::Error::other(KeyLimit)));
                (outcome, Side::Ambassador, fault)
            }
            // Bytes of the client are lost, so both sides are reset: neither may take this for an orderly end.
            Stop::Broken(broken) if broken.is_by_key_limit() => {
                self.upstream.abort();
                self.downstream.abort();
                (Outcome::KeyLimit, Side::Ambassador, Some(RelayError::Io(broken.error)))
            }
            Stop::Dialogue(error) => {
                self.deliver_pending();
                if self.receiving.has_pending() {
                    self.downstream.abort();
                }
                if rest.is_none() {
                    // An orderly end, because servers log a reset in the middle of a login.
                    self.close_upstream();
                }
                let outcome = match error.side {
                    Side::Downstream if denied.is_some() => Outcome::Denied,
                    Side::Downstream => Outcome::BadOpening,
                    Side::Upstream | Side::Ambassador => Outcome::UpgradeFailed,
                };
                (outcome, Side::Ambassador, Some(RelayError::Dialogue(error)))
            }
            // After the client's close a server may close while ours (a close_notify or a FIN) is on the way, which
            // its kernel answers with a reset. The client gets the reset too, in case it waits for more, but nothing
            // went wrong.
            Stop::Broken(LegError { side: Side::Upstream, .. }) if has_said_goodbye => {
                self.downstream.abort();
                (Outcome::Completed, Side::Downstream, None)
            }
            Stop::Broken(LegError { side: side @ Side::Downstream, .. }) if denied.is_some() => {
                self.pass_reset(side, rest.is_some());
                (Outcome::Denied, side, denied.map(RelayError::Denied))
            }
            Stop::Broken(LegError { side, error }) => {
                (self.pass_reset(side, rest.is_some()), side, Some(RelayError::Io(error)))
            }
        };
        let can_be_refused = match &fault {
            Some(RelayError::Io(_)) => closed_by == Side::Upstream && self.first_byte.is_none(),
            Some(RelayError::Uncertified) => true,
            Some(RelayError::Refused(_) | RelayError::Denied(_)) => false,
            Some(RelayError::Dialogue(_)) => !self.receiving.has_pending(),
            None => false,
        };
        let Self { downstream, upstream: end, mut sending, first_byte, .. } = self;
        let unfinished = rest.map(|rest| Box::new(Unfinished { end, pending: sending.take_pending(), rest }));
        Ended {
            downstream,
            outcome,
            closed_by,
            fault,
            can_be_refused,
            unclean_tls_end,
            is_uncertified,
            first_byte,
            unfinished,
        }
    }

    /// Delivers what the server sent before its dialogue failed, as far as the socket takes it without waiting.
    fn deliver_pending(&mut self) {
        let mut nobody = Context::from_waker(Waker::noop());
        let _ = self.receiving.poll_flush(&mut nobody, &mut &self.downstream, &LiveSession::default());
    }

    /// Resets the side that did not fail, so that it sees its stream as truncated. A client that has received nothing
    /// yet is left to the session, which may send it a refusal.
    fn pass_reset(&mut self, side: Side, is_unfinished: bool) -> Outcome {
        match side {
            Side::Downstream => {
                if !is_unfinished {
                    self.upstream.abort();
                }
                Outcome::DownstreamReset
            }
            Side::Upstream | Side::Ambassador => {
                if self.first_byte.is_some() {
                    self.downstream.abort();
                }
                Outcome::UpstreamReset
            }
        }
    }

    /// Closes both sides in order, with close_notify and FIN, as far as the sockets take them without waiting. A side
    /// that does not get everything that was read for it is reset instead, or its truncated stream would look
    /// complete.
    fn part(&mut self, is_unfinished: bool) {
        if !is_unfinished {
            self.close_upstream();
        }
        if self.receiving.has_pending() {
            self.downstream.abort();
        } else {
            self.downstream.finish();
        }
    }

    fn close_upstream(&mut self) {
        let mut upstream = &mut self.upstream;
        let parted = std::pin::pin!(unconstrained(poll_fn(|cx| upstream.poll_finish(cx))));
        let mut nobody = Context::from_waker(Waker::noop());
        if self.sending.has_pending() || parted.poll(&mut nobody).is_pending() {
            self.upstream.abort();
        }
    }
}
