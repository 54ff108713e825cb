//! Moves bytes both ways between a downstream and an upstream until both directions have ended.
//!
//! One task, one future, no buffer of its own: bytes stop in the worker's scratch memory for the length of
//! one poll, or in a pipe borrowed while a flow is bulky (`direction`). What the destination would not take is
//! the only thing a session ever holds. A half-close is passed on as one, a reset as a reset. Nothing is
//! parsed here, except while a [`Dialogue`] still has something to rewrite. Nothing is logged here.

mod coop;
mod copy;
mod live;
mod pending;
mod pipes;
mod stop_signal;
#[cfg(test)]
mod tests;
mod timers;
mod upstream_stream;

/// The atomics of `order`.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU8, Ordering};

    pub(super) use atomic_waker::AtomicWaker;
}

use std::future::{Future, poll_fn};
use std::io;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

pub use live::LiveSession;
pub use upstream_stream::UpstreamStream;

use tokio::task::coop::unconstrained;

use crate::clock;
use crate::outcome::{Outcome, Side};
use crate::protocol::{Dialogue, DialogueError, Outbox, Probe};
use crate::sys::{Socket, Transport};
use crate::tls::{KeyLimit, KeyLimitDue, UNCERTIFIED};

use copy::{CopyDirection, LegError};
use timers::Timers;
use upstream_stream::Leg;

/// The timers of a session while it relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// No byte either way for this long ends the session; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// How long one direction may be silent after the other has ended; `None`: as long as it likes. Silent, not
    /// last: a download that goes on after its client has finished asking is not cut.
    pub half_close_timeout: Option<Duration>,
    /// The session's whole life; `None`: unlimited.
    pub max_lifetime: Option<Duration>,
}

/// What a relay begins with.
#[derive(Debug)]
pub struct RelayInput<T = Socket> {
    /// The client.
    pub downstream: T,
    /// The endpoint.
    pub upstream: UpstreamStream<T>,
    /// What the client said before we dialled; it goes to the endpoint first.
    pub opening: Vec<u8>,
    /// What is left to rewrite, if anything.
    pub dialogue: Option<Box<dyn Dialogue>>,
    /// The endpoint has asked for a certificate that we have not: if it ends without a byte until then, that is its verdict.
    pub verdict_until: Option<Instant>,
}

/// How a relay ended.
#[derive(Debug)]
pub struct Ended<T = Socket> {
    /// The client, so that somebody who has words can still say them.
    pub downstream: T,
    /// Why.
    pub outcome: Outcome,
    /// Who ended it: the side that closed first, or broke.
    pub closed_by: Side,
    /// What broke, if something did.
    pub fault: Option<RelayError>,
    /// Whether a refusal in its protocol's words can still reach the client: nothing of the endpoint has, or it
    /// ended with a whole message.
    pub may_be_told: bool,
    /// The endpoint ended its TLS without close_notify, and its client had not said goodbye before: somebody may have cut it.
    pub unclean_tls_end: bool,
    /// The endpoint had asked for a certificate that we have not.
    pub is_uncertified: bool,
    /// When the first byte of the endpoint came, if one did.
    pub first_byte: Option<Instant>,
    /// The upstream, where it is to hear the rest of its dialogue before it is closed.
    pub unfinished: Option<Box<Unfinished<T>>>,
}

/// An upstream in the middle of a dialogue whose end it would hold against us.
#[derive(Debug)]
pub struct Unfinished<T = Socket> {
    /// The stream.
    pub end: UpstreamStream<T>,
    /// What it had not been given yet.
    pub pending: Vec<u8>,
    /// What says the rest.
    pub rest: Box<dyn Probe>,
}

/// What broke.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// A leg.
    #[error("{0}")]
    Io(io::Error),
    /// A part in the dialogue.
    #[error(transparent)]
    Dialogue(DialogueError),
    /// The endpoint's patience with who has no certificate.
    #[error("{UNCERTIFIED}")]
    Uncertified,
}

/// Relays until both directions have ended, something broke, a timer runs out, or [`LiveSession::stop`] was called.
/// The upstream is closed when this is done, unless it is [`Ended::unfinished`].
///
/// The future is the relay itself: what lives for hours holds nothing of how it came about.
pub fn relay<'a, T: Transport + 'a>(
    start: RelayInput<T>,
    settings: &'a Settings,
    live: &'a LiveSession,
) -> impl Future<Output = Ended<T>> + 'a {
    let mut relay = Some(Relay {
        downstream: start.downstream,
        upstream: start.upstream,
        sending: CopyDirection::with_pending(Side::Downstream, start.opening),
        receiving: CopyDirection::with_pending(Side::Upstream, Vec::new()),
        dialogue: start.dialogue,
        timers: Timers::new(settings, clock::now()),
        broken: None,
        first_end: None,
        received_at_end: 0,
        first_byte: None,
        verdict_until: start.verdict_until,
        woken_by: None,
    });
    if let Some(relay) = relay.as_mut().filter(|relay| relay.verdict_until.is_some()) {
        relay.receiving.defer_end();
    }
    poll_fn(move |cx| {
        // It is not polled again once it has ended.
        let Some(relaying) = &mut relay else { return Poll::Pending };
        let stop = ready!(relaying.poll(cx, live));
        relaying.note(live);
        relay.take().map_or(Poll::Pending, |relay| Poll::Ready(relay.close(stop, live)))
    })
}

struct Relay<'a, T> {
    downstream: T,
    upstream: UpstreamStream<T>,
    /// Downstream to upstream.
    sending: CopyDirection,
    /// Upstream to downstream.
    receiving: CopyDirection,
    dialogue: Option<Box<dyn Dialogue>>,
    timers: Timers<'a>,
    /// The upstream takes no more bytes. What it said before is still read and delivered, as a client of its own
    /// would read it: the reason is often in there.
    broken: Option<LegError>,
    first_end: Option<Side>,
    /// Bytes of the endpoint by then.
    received_at_end: u64,
    first_byte: Option<Instant>,
    /// [`RelayInput::verdict_until`]; its end is not passed on meanwhile.
    verdict_until: Option<Instant>,
    /// Who an order to stop wakes.
    woken_by: Option<Waker>,
}

/// Why the relay stops moving.
enum Stop {
    Completed,
    /// The client has ended in the middle of a dialogue, whose rest this is.
    Left(Box<dyn Probe>),
    Broken(LegError),
    Dialogue(DialogueError),
    Ordered(Outcome),
    Uncertified,
}

impl<T: Transport> Relay<'_, T> {
    fn poll(&mut self, cx: &mut Context<'_>, live: &LiveSession) -> Poll<Stop> {
        // Almost always the same task: to say so again would cost each message two locked instructions.
        if !self.woken_by.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            live.register_waker(cx.waker());
            self.woken_by = Some(cx.waker().clone());
        }
        if let Some(outcome) = live.stop_outcome() {
            return Poll::Ready(Stop::Ordered(outcome));
        }
        let before = live.total();
        if let Err(stop) = self.poll_dialogue(cx, live) {
            return Poll::Ready(stop);
        }
        if self.dialogue.is_none()
            && let Err(broken) = self.poll_halves(cx, live)
        {
            return Poll::Ready(Stop::Broken(broken));
        }
        if let Some(until) = self.verdict_until
            && self.is_rejected(cx, until, live)
        {
            return Poll::Ready(Stop::Uncertified);
        }
        // A failure of our own, which the server knows nothing of: no end of its would ever come.
        if let Some(broken) = self.broken.take_if(|broken| broken.is_ours()) {
            return Poll::Ready(Stop::Broken(broken));
        }
        if self.is_completed() {
            return Poll::Ready(Stop::Completed);
        }
        coop::record_turn(live.total().wrapping_sub(before));
        self.note(live);
        self.poll_timers(cx, live)
    }

    /// Whether the endpoint has ended without a byte, in time and not because its client had left. Whatever else it does, its end is
    /// an end from then on.
    fn is_rejected(&mut self, cx: &mut Context<'_>, until: Instant, live: &LiveSession) -> bool {
        let (has_answered, has_ended) = (live.received() > 0, self.receiving.source_has_ended());
        let has_left = self.sending.source_has_ended();
        if has_ended && !has_answered && !has_left && clock::now() <= until {
            return true;
        }
        if has_answered || has_ended || has_left {
            self.verdict_until = None;
            if self.broken.is_none() && !self.sending.has_ended() {
                self.receiving.forward_end();
            }
            coop::reschedule(cx);
        }
        false
    }

    fn poll_timers(&mut self, cx: &Context<'_>, live: &LiveSession) -> Poll<Stop> {
        let rest = match self.upstream.key_limit_due() {
            Some(KeyLimitDue::Now) => return Poll::Ready(Stop::Ordered(Outcome::KeyLimit)),
            Some(KeyLimitDue::AtRest(rest)) if !live.owes_answer() && !self.holds_bytes() => Some(rest),
            Some(KeyLimitDue::AtRest(_)) | None => None,
        };
        let state = timers::State {
            bytes: live.total(),
            half_closed: self.first_end.is_some(),
            broken: self.broken.is_some(),
            rest,
        };
        let outcome = ready!(self.timers.poll(cx, state));
        // Who waits behind a failure waits for what it was about.
        Poll::Ready(self.broken.take().map_or(Stop::Ordered(outcome), Stop::Broken))
    }

    fn holds_bytes(&self) -> bool {
        self.sending.has_pending() || self.receiving.has_pending()
    }

    fn poll_halves(&mut self, cx: &mut Context<'_>, live: &LiveSession) -> Result<(), LegError> {
        if self.receiving.has_ended() && self.ends_with_close() {
            // The second end is the close itself, which comes at once: a shutdown(2) less.
            self.sending.defer_end();
        }
        self.poll_sending(cx, live)?;
        if self.broken.is_some() || self.sending.has_ended() {
            // What comes after a failure is not an orderly end, and must not reach the client as one; what comes
            // second is the close itself.
            self.receiving.defer_end();
        }
        self.poll_receiving(cx, live)?;
        // The upstream's failure counts once it has nothing left to say.
        match self.broken.take_if(|_| self.receiving.is_exhausted()) {
            Some(broken) => Err(broken),
            None => Ok(()),
        }
    }

    /// Both have ended, and everything is delivered.
    fn is_completed(&self) -> bool {
        match (self.sending.has_ended(), self.receiving.has_ended()) {
            (true, true) => true,
            (true, false) => self.receiving.is_exhausted(),
            (false, true) => self.ends_with_close() && self.sending.is_exhausted(),
            (false, false) => false,
        }
    }

    /// Whether closing the upstream is all the end it needs; TLS wants a word first.
    const fn ends_with_close(&self) -> bool {
        matches!(self.upstream, UpstreamStream::Socket(_))
    }

    fn poll_sending(&mut self, cx: &mut Context<'_>, live: &LiveSession) -> Result<(), LegError> {
        if self.broken.is_some() {
            return Ok(());
        }
        let sent = match &mut self.upstream {
            UpstreamStream::Socket(upstream) => {
                self.sending.poll_between(cx, &self.downstream, &*upstream, live)
            }
            UpstreamStream::Tls(stream) => {
                let (mut downstream, mut upstream) = (&self.downstream, &mut **stream);
                self.sending.poll_copy(cx, &mut downstream, &mut upstream, live)
            }
        };
        self.broken = unless_upstream(sent)?;
        Ok(())
    }

    fn poll_receiving(&mut self, cx: &mut Context<'_>, live: &LiveSession) -> Result<(), LegError> {
        match &mut self.upstream {
            UpstreamStream::Socket(upstream) => {
                self.receiving.poll_between(cx, &*upstream, &self.downstream, live)
            }
            UpstreamStream::Tls(stream) => {
                let (mut downstream, mut upstream) = (&self.downstream, &mut **stream);
                self.receiving.poll_copy(cx, &mut upstream, &mut downstream, live)
            }
        }
    }

    /// Both directions while the protocol still rewrites. Each side's bytes may become bytes for either, so a
    /// side is read only while neither direction holds anything: that bounds what is held to one read. A peer that never
    /// stops talking has the worker for one turn, as everywhere.
    fn poll_dialogue(&mut self, cx: &mut Context<'_>, live: &LiveSession) -> Result<(), Stop> {
        let Some(dialogue) = &mut self.dialogue else { return Ok(()) };
        let mut downstream = &self.downstream;
        let mut upstream = &mut self.upstream;
        let mut heard = 0;
        while heard < coop::PARSED {
            let sent = match self.broken {
                Some(_) => Poll::Ready(()),
                None => match self.sending.poll_flush(cx, &mut upstream, live) {
                    Ok(sent) => sent,
                    Err(broken) => {
                        self.broken = unless_upstream(Err(broken)).map_err(Stop::Broken)?;
                        self.receiving.defer_end();
                        Poll::Ready(())
                    }
                },
            };
            let received = self.receiving.poll_flush(cx, &mut downstream, live).map_err(Stop::Broken)?;
            if dialogue.is_finished() {
                self.dialogue = None;
                return Ok(());
            }
            if let Some(broken) = self.broken.take_if(|_| self.receiving.is_exhausted()) {
                return Err(Stop::Broken(broken));
            }
            if sent.is_pending() || received.is_pending() {
                return Ok(());
            }
            let mut out = Outbox::default();
            let said = match self.broken {
                Some(_) => Poll::Pending,
                None => self.sending.poll_read(cx, &mut downstream, live, |bytes| {
                    heard += bytes.len();
                    dialogue.downstream_said(bytes, &mut out)
                }),
            };
            let answered = self.receiving.poll_read(cx, &mut upstream, live, |bytes| {
                heard += bytes.len();
                dialogue.upstream_said(bytes, &mut out)
            });
            // Before the client knows it: it may use it at once, on a connection that another worker serves.
            if let Some(key) = dialogue.cancel_key() {
                live.set_cancel_key(key, upstream.peer());
            }
            // Held first: what could be passed on before an error is the client's.
            self.sending.push_pending(&out.to_upstream);
            self.receiving.push_pending(&out.to_downstream);
            let progress = half_progress(said)? | half_progress(answered)?;
            if self.sending.source_has_ended()
                && !self.receiving.source_has_ended()
                && let Some(rest) = dialogue.rest()
            {
                return Err(Stop::Left(rest));
            }
            if !progress {
                return Ok(());
            }
        }
        coop::reschedule(cx);
        Ok(())
    }

    /// Facts that are noted once: the first byte of the endpoint, and who closed first.
    fn note(&mut self, live: &LiveSession) {
        if self.first_byte.is_none() && live.received() > 0 {
            self.first_byte = Some(clock::now());
        }
        if self.first_end.is_none() {
            self.first_end = match (self.sending.source_has_ended(), self.receiving.source_has_ended()) {
                (true, _) => Some(Side::Downstream),
                (false, true) => Some(Side::Upstream),
                (false, false) => None,
            };
            self.received_at_end = live.received();
        }
    }

    fn close(mut self, end: Stop, live: &LiveSession) -> Ended<T> {
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
        let (outcome, closed_by, fault) = match end {
            Stop::Completed => (Outcome::Completed, self.first_end.unwrap_or(Side::Upstream), None),
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
            // Bytes of the client are lost: neither side may take that for an orderly end.
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
                    // A server logs a reset in the middle of a login, and none of this is its affair.
                    self.part_with_upstream();
                }
                let outcome = match error.side {
                    Side::Downstream => Outcome::BadOpening,
                    Side::Upstream | Side::Ambassador => Outcome::UpgradeFailed,
                };
                (outcome, Side::Ambassador, Some(RelayError::Dialogue(error)))
            }
            // A server that has heard its client's goodbye may close while ours (TLS's, or an end) is on the way, which
            // its kernel answers by a reset. The client gets it too, in case it waits for more; but nothing went wrong.
            Stop::Broken(LegError { side: Side::Upstream, .. }) if has_said_goodbye => {
                self.downstream.abort();
                (Outcome::Completed, Side::Downstream, None)
            }
            Stop::Broken(LegError { side, error }) => {
                (self.pass_reset(side, rest.is_some()), side, Some(RelayError::Io(error)))
            }
        };
        let may_be_told = match &fault {
            Some(RelayError::Io(_)) => closed_by == Side::Upstream && self.first_byte.is_none(),
            Some(RelayError::Uncertified) => true,
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
            may_be_told,
            unclean_tls_end,
            is_uncertified,
            first_byte,
            unfinished,
        }
    }

    /// What the server said before its dialogue went wrong, as far as the socket takes it now.
    fn deliver_pending(&mut self) {
        let mut nobody = Context::from_waker(Waker::noop());
        let _ = self.receiving.poll_flush(&mut nobody, &mut &self.downstream, &LiveSession::default());
    }

    /// A side that broke is not told again; the other learns that its stream was cut. A client that has read
    /// nothing yet is left to the session, which may have words for it.
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

    /// Says goodbye as far as the sockets take it without waiting: close_notify and FIN. A side that does not get
    /// everything that was read for it is reset instead, or the cut stream would look complete.
    fn part(&mut self, is_unfinished: bool) {
        if !is_unfinished {
            self.part_with_upstream();
        }
        if self.receiving.has_pending() {
            self.downstream.abort();
        } else {
            self.downstream.finish();
        }
    }

    fn part_with_upstream(&mut self) {
        let mut upstream = &mut self.upstream;
        let parted = std::pin::pin!(unconstrained(poll_fn(|cx| upstream.poll_finish(cx))));
        let mut nobody = Context::from_waker(Waker::noop());
        if self.sending.has_pending() || parted.poll(&mut nobody).is_pending() {
            self.upstream.abort();
        }
    }
}

/// Keeps a failure to write to the upstream; any other ends the relay at once.
fn unless_upstream(sent: Result<(), LegError>) -> Result<Option<LegError>, LegError> {
    match sent {
        Ok(()) => Ok(None),
        Err(broken) if broken.side == Side::Upstream => Ok(Some(broken)),
        Err(broken) => Err(broken),
    }
}

fn half_progress(read: Poll<Result<Result<(), DialogueError>, LegError>>) -> Result<bool, Stop> {
    match read {
        Poll::Pending => Ok(false),
        Poll::Ready(Ok(Ok(()))) => Ok(true),
        Poll::Ready(Ok(Err(error))) => Err(Stop::Dialogue(error)),
        Poll::Ready(Err(broken)) => Err(Stop::Broken(broken)),
    }
}
