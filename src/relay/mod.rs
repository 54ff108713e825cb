//! Moves bytes both ways between a downstream and an upstream until both directions have ended.
//!
//! One task, one future, no buffer of its own: bytes are in the worker's scratch memory for one poll, or in a pipe
//! borrowed while a flow is bulky (`copy`). A session stores only what its destination did not take. A half-close is
//! passed on as a half-close, a reset as a reset. Nothing is parsed here, except while a [`Dialogue`] still has
//! something to rewrite. Nothing is logged here.

mod close;
mod coop;
mod copy;
mod live;
mod pending;
mod pipes;
mod scratch;
mod stop_signal;
#[cfg(test)]
mod tests;
mod timers;
mod upstream_stream;

/// The atomics of `stop_signal`.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU8, Ordering};

    pub(super) use atomic_waker::AtomicWaker;
}

use std::future::{Future, poll_fn};
use std::io;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use zeroize::Zeroize;

pub use live::LiveSession;
pub use upstream_stream::UpstreamStream;

use crate::clock;
use crate::outcome::{Outcome, Side};
use crate::protocol::{Dialogue, DialogueError, Outbox, Probe, TurnedAway};
use crate::sys::{Socket, Transport};
use crate::tls::{KeyLimitDue, UNCERTIFIED};

use copy::{CopyDirection, LegError};
use timers::Timers;

/// The timers of a session while it relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// No byte either way for this long ends the session; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// How long one direction may be silent after the other has ended; `None`: unlimited. It bounds silence, not
    /// duration: a download goes on after the client's half-close as long as bytes flow.
    pub half_close_timeout: Option<Duration>,
    /// How long a session may relay; `None`: unlimited.
    pub max_lifetime: Option<Duration>,
}

/// What a relay begins with.
#[derive(Debug)]
pub struct RelayInput<T = Socket> {
    /// The connection to the client.
    pub downstream: T,
    /// The connection to the endpoint, its upgrade done.
    pub upstream: UpstreamStream<T>,
    /// What the client sent before we dialled; it goes to the endpoint first.
    pub opening: Vec<u8>,
    /// What rewrites the session's first messages, if anything does.
    pub dialogue: Option<Box<dyn Dialogue>>,
    /// Set if the endpoint asked for a certificate that we do not have: if it closes by then without having sent a
    /// byte, it has rejected us.
    pub verdict_until: Option<Instant>,
}

/// How a relay ended.
#[derive(Debug)]
pub struct Ended<T = Socket> {
    /// The client, not closed yet, so that it can be sent a refusal.
    pub downstream: T,
    /// How the session ended.
    pub outcome: Outcome,
    /// The side that closed first, or whose connection failed.
    pub closed_by: Side,
    /// The failure that ended it, if one did.
    pub fault: Option<RelayError>,
    /// Whether the client can still be sent a refusal in its protocol: it has received nothing from the endpoint, or
    /// only whole messages.
    pub can_be_refused: bool,
    /// The endpoint ended TLS without close_notify and not in reply to the client's close: its stream may have been
    /// truncated.
    pub unclean_tls_end: bool,
    /// The endpoint asked for a certificate that we do not have.
    pub is_uncertified: bool,
    /// When the first byte of the endpoint arrived, if one did.
    pub first_byte: Option<Instant>,
    /// The upstream, if it is to be sent the rest of its dialogue before it is closed.
    pub unfinished: Option<Box<Unfinished<T>>>,
}

/// An upstream in the middle of a dialogue that must not just break off.
#[derive(Debug)]
pub struct Unfinished<T = Socket> {
    /// The connection to the endpoint.
    pub end: UpstreamStream<T>,
    /// Bytes for it that it has not taken yet.
    pub pending: Vec<u8>,
    /// The rest of the dialogue.
    pub rest: Box<dyn Probe>,
}

/// What ended a relay with an error.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// One of the connections failed.
    #[error("{0}")]
    Io(io::Error),
    /// One side sent what the dialogue does not accept.
    #[error(transparent)]
    Dialogue(DialogueError),
    /// The endpoint closed because it got no certificate.
    #[error("{UNCERTIFIED}")]
    Uncertified,
    /// The endpoint refused the session in its own words, which the client has got.
    #[error("the server turned the session away ({0})")]
    Refused(TurnedAway),
    /// The client has not given the login that it is held to, and has been told so.
    #[error("{0}")]
    Denied(&'static str),
}

/// Relays until both directions have ended, something fails, a timer runs out, or [`LiveSession::stop`] is called. The
/// upstream is closed when this is done, unless it is in [`Ended::unfinished`].
///
/// The future consists of the relay alone: it lives for hours, and contains nothing of the session's opening.
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
        woken_by: 0,
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
    sending: CopyDirection,
    receiving: CopyDirection,
    dialogue: Option<Box<dyn Dialogue>>,
    timers: Timers<'a>,
    /// Set when the upstream takes no more bytes. What it sent before is still read and delivered, as it often has the
    /// reason.
    broken: Option<LegError>,
    first_end: Option<Side>,
    /// Bytes from the endpoint when the first direction ended.
    received_at_end: u64,
    first_byte: Option<Instant>,
    /// [`RelayInput::verdict_until`]; until then the endpoint's end is not passed on.
    verdict_until: Option<Instant>,
    /// The data of the waker that is registered with the stop signal, which keeps it alive; 0: none is.
    woken_by: usize,
}

/// Why the relay stops moving.
enum Stop {
    Completed,
    /// The client left in the middle of a dialogue; this is the rest of it.
    Left(Box<dyn Probe>),
    Broken(LegError),
    Dialogue(DialogueError),
    Ordered(Outcome),
    Uncertified,
}

impl<T: Transport> Relay<'_, T> {
    fn poll(&mut self, cx: &mut Context<'_>, live: &LiveSession) -> Poll<Stop> {
        // Almost always the same task: registering it again would cost two locked instructions for each message.
        let woken = cx.waker().data().addr();
        if woken == 0 || self.woken_by != woken {
            live.register_waker(cx.waker());
            self.woken_by = woken;
        }
        if let Some(outcome) = live.stop_outcome() {
            return Poll::Ready(Stop::Ordered(outcome));
        }
        let before = live.total();
        if let Err(stop) = self.poll_dialogue(cx, live) {
            return Poll::Ready(stop);
        }
        if self.dialogue.is_none()
            && let Err(broken) = self.poll_directions(cx, live)
        {
            return Poll::Ready(Stop::Broken(broken));
        }
        if let Some(until) = self.verdict_until
            && self.is_rejected(cx, until, live)
        {
            return Poll::Ready(Stop::Uncertified);
        }
        // After a failure of our own the server would never end, as it does not know of it.
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

    /// Whether the endpoint closed without having sent a byte, in time, and before the client did. Anything else lifts
    /// the deferral: from then on the endpoint's end is passed on.
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
        // A timer that runs out after a failure to write is reported as that failure.
        Poll::Ready(self.broken.take().map_or(Stop::Ordered(outcome), Stop::Broken))
    }

    fn holds_bytes(&self) -> bool {
        self.sending.has_pending() || self.receiving.has_pending()
    }

    fn poll_directions(&mut self, cx: &mut Context<'_>, live: &LiveSession) -> Result<(), LegError> {
        if self.receiving.has_ended() && self.ends_with_close() {
            // The close that follows at once ends this direction too, which saves a shutdown(2).
            self.sending.defer_end();
        }
        self.poll_sending(cx, live)?;
        if self.broken.is_some() || self.sending.has_ended() {
            // An end after a failure is not an orderly one and must not reach the client as such; the second end is
            // the close itself.
            self.receiving.defer_end();
        }
        self.poll_receiving(cx, live)?;
        // The failure to write counts once all that the upstream sent is delivered.
        match self.broken.take_if(|_| self.receiving.is_exhausted()) {
            Some(broken) => Err(broken),
            None => Ok(()),
        }
    }

    /// Whether both directions have ended and everything is delivered.
    fn is_completed(&self) -> bool {
        match (self.sending.has_ended(), self.receiving.has_ended()) {
            (true, true) => true,
            (true, false) => self.receiving.is_exhausted(),
            (false, true) => self.ends_with_close() && self.sending.is_exhausted(),
            (false, false) => false,
        }
    }

    /// Whether the upstream needs nothing before the close; TLS needs a close_notify.
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

    /// Moves both directions while the protocol still rewrites. Bytes of one side may become bytes for either, so a
    /// side is read only while neither direction has pending bytes: that bounds these to one read. A peer that sends
    /// without end has the worker for one turn, as everywhere.
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
                    dialogue.on_downstream(bytes, &mut out)
                }),
            };
            let answered = self.receiving.poll_read(cx, &mut upstream, live, |bytes| {
                heard += bytes.len();
                dialogue.on_upstream(bytes, &mut out)
            });
            // Before the client gets the key: it may use it at once, on a connection of another worker.
            if let Some(key) = dialogue.cancel_key() {
                live.set_cancel_key(key, upstream.peer());
            }
            // Stored before errors are looked at: what precedes an error is still delivered.
            if !out.to_upstream.is_empty() {
                self.sending.push_secret(&out.to_upstream);
                out.to_upstream.zeroize();
            }
            self.receiving.push_pending(&out.to_downstream);
            let progress = dialogue_progress(said)? | dialogue_progress(answered)?;
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

    /// Records what happens once: the first byte of the endpoint, and which side closed first.
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
}

/// Returns a failure to write to the upstream as a value; any other ends the relay at once.
fn unless_upstream(sent: Result<(), LegError>) -> Result<Option<LegError>, LegError> {
    match sent {
        Ok(()) => Ok(None),
        Err(broken) if broken.side == Side::Upstream => Ok(Some(broken)),
        Err(broken) => Err(broken),
    }
}

fn dialogue_progress(read: Poll<Result<Result<(), DialogueError>, LegError>>) -> Result<bool, Stop> {
    match read {
        Poll::Pending => Ok(false),
        Poll::Ready(Ok(Ok(()))) => Ok(true),
        Poll::Ready(Ok(Err(error))) => Err(Stop::Dialogue(error)),
        Poll::Ready(Err(broken)) => Err(Stop::Broken(broken)),
    }
}
