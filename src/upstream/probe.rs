//! Drives a protocol's probe over a usable upstream.

use std::io;
use std::time::Duration;

use crate::alarm::{self, Elapsed};
use crate::clock;
use crate::protocol::{Probe, ProbeError, ProbeStep};
use crate::relay::{Unfinished, UpstreamStream};
use crate::tls;

use super::attempt::PROBE_GREETING_MAX;
use super::dial::Ready;
use super::{DialSettings, Settings};

/// Why a probe did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeFailure {
    /// What the server said.
    #[error(transparent)]
    Answer(#[from] ProbeError),
    /// It ended the connection instead.
    #[error("{0}")]
    Ended(ProbeError),
    #[error("{}", tls::late_rejection(.0).unwrap_or_else(|| .0.to_string()))]
    Io(#[from] io::Error),
    /// It kept silent, or went on for too long.
    #[error("the server did not answer within {key} ({timeout:?})")]
    Timeout {
        /// The bound that was exceeded.
        key: &'static str,
        /// The length of the bound.
        timeout: Duration,
    },
}

impl ProbeFailure {
    /// Whether it ended the connection, in whatever way.
    #[must_use]
    pub(crate) const fn is_end(&self) -> bool {
        matches!(self, Self::Ended(_) | Self::Io(_))
    }
}

/// The most that is read in all.
const ANSWERS_MAX: usize = 256 * 1024;
/// How long a server may take for what it need not say at all.
pub(super) const VERDICT: Duration = Duration::from_millis(300);

impl Settings {
    /// The conversation that shows the server at work, where the protocol has one.
    pub(super) fn probe(&self, ready: &Ready) -> Option<Box<dyn Probe>> {
        self.protocol.probe(ready.is_upgraded)
    }

    /// How long its servers have for a probe's conversation, and what says so.
    fn answer_timeout(&self) -> (&'static str, Duration) {
        let DialSettings { handshake_timeout, greeting_timeout, .. } = self.dial;
        let greets_later = self.protocol.server_greets() && !self.awaits_greetings();
        let waits = greeting_timeout.min(PROBE_GREETING_MAX);
        match greets_later && waits > handshake_timeout {
            true if waits < greeting_timeout => ("the time that a probe has for a greeting", waits),
            true => ("connect.greeting_timeout", waits),
            false => ("connect.handshake_timeout", handshake_timeout),
        }
    }
}

/// Whether the server would serve a client, by its protocol's probe, within the cluster's time for a handshake, or for a
/// greeting where that comes behind TLS only. `None`: the protocol has no probe, and the upstream is given back.
///
/// # Errors
/// See [`ProbeFailure`].
pub(crate) async fn probe(settings: &Settings, ready: Ready) -> Result<Option<Ready>, ProbeFailure> {
    let Some(conversation) = settings.probe(&ready) else { return Ok(Some(ready)) };
    let (key, timeout) = settings.answer_timeout();
    let talked = alarm::timeout_at(clock::now() + timeout, converse(ready, conversation, VERDICT)).await;
    talked.unwrap_or(Err(ProbeFailure::Timeout { key, timeout })).map(|()| None)
}

/// Says the rest of a dialogue in the place of a client that has left in the middle, within the cluster's time for a handshake.
/// However that goes, nobody is left to hear of it.
pub(crate) async fn finish_dialogue(settings: &Settings, unfinished: Unfinished) {
    let Unfinished { end, pending: held, rest } = unfinished;
    let ready = Ready { first: held, ..Ready::new(end) };
    let until = clock::now() + settings.dial.handshake_timeout;
    let _ = alarm::timeout_at(until, converse(ready, rest, VERDICT)).await;
}

/// Why the server rejects us after a handshake that was done on our side, if it does: with TLS 1.3 it judges our
/// certificate then, and says so within a round trip.
pub(crate) async fn late_rejection(mut end: UpstreamStream) -> Option<String> {
    rejected_within(VERDICT, VERDICT, &mut end).await
}

/// One that says nothing for that long is content, and one that says anything: who wants no connection ends it without a
/// word of its own. Then the parting is polite, so that no server logs an error.
pub(super) async fn rejected_within(
    stay: Duration,
    patience: Duration,
    end: &mut UpstreamStream,
) -> Option<String> {
    if !matches!(end, UpstreamStream::Tls(_)) {
        shut_down_within(patience, end).await;
        return None;
    }
    match alarm::timeout_at(clock::now() + stay, end.read_scratch(<[u8]>::len)).await {
        Ok(Ok(0)) => return Some(CLOSED.into()),
        Ok(Err(error)) => {
            return Some(tls::late_rejection(&error).unwrap_or_else(|| format!("{CLOSED}: {error}")));
        }
        Ok(Ok(_)) | Err(Elapsed) => {}
    }
    // The end is ours now, and proves nothing any more. A server that objects to us says so before it hears of it.
    let parted = alarm::timeout_at(clock::now() + patience, end.shut_down()).await;
    parted.ok()?.err().as_ref().and_then(tls::late_objection)
}

/// A server that does so would do it to a client too: one with nobody behind it, say, or none that it lets in.
const CLOSED: &str = "the server closed the connection right after the handshake";

/// Ends a connection as servers like it, if they are quick to end theirs.
pub(super) async fn shut_down_within(patience: Duration, end: &mut UpstreamStream) {
    let _ = alarm::timeout_at(clock::now() + patience, end.shut_down()).await;
}

/// Talks until the verdict, then parts politely, if the server is as quick as that to end too. No deadline for the rest
/// here: the caller has one.
pub(super) async fn converse(
    ready: Ready,
    mut probe: Box<dyn Probe>,
    patience: Duration,
) -> Result<(), ProbeFailure> {
    let Ready { stream: mut end, first, .. } = ready;
    if let Some(local) = end.local() {
        probe.comes_from(local.ip());
    }
    end.send_all(&[first, probe.begin()].concat()).await?;
    let mut heard = 0;
    let goodbye = loop {
        let (read, probed) = end.read_scratch(|portion| (portion.len(), probe.received(portion))).await?;
        heard += read;
        if heard > ANSWERS_MAX {
            return Err(ProbeError("the server's answer has no end".into()).into());
        }
        match probed.map_err(|error| if read == 0 { ProbeFailure::Ended(error) } else { error.into() })? {
            ProbeStep::Serves { goodbye } => break goodbye,
            ProbeStep::Send(bytes) => end.send_all(&bytes).await?,
            ProbeStep::Incomplete if read == 0 => {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            ProbeStep::Incomplete => {}
        }
    };
    // The verdict stands, however the parting goes.
    if end.send_all(&goodbye).await.is_ok() {
        shut_down_within(patience, &mut end).await;
    }
    Ok(())
}
