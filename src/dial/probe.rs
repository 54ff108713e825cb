//! Drives a protocol's probe over a usable upstream.

use std::io;
use std::time::{Duration, Instant};

use crate::alarm::{self, Elapsed};
use crate::clock;
use crate::cluster::{DialSettings, Ready, Settings};
use crate::protocol::{Probe, ProbeError, ProbeStep};
use crate::relay::{Unfinished, UpstreamStream};
use crate::tls;

use super::attempt::PROBE_GREETING_MAX;

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeFailure {
    /// The server's answer is not that of a working server.
    #[error(transparent)]
    Answer(#[from] ProbeError),
    /// The server closed the connection without an answer.
    #[error("{0}")]
    Ended(ProbeError),
    #[error("{}", tls::late_rejection(.0).unwrap_or_else(|| .0.to_string()))]
    Io(#[from] io::Error),
    /// The server was silent, or its answer took too long.
    #[error("the server did not answer within {key} ({timeout:?})")]
    Timeout {
        /// The bound that was exceeded.
        key: &'static str,
        /// The length of the bound.
        timeout: Duration,
    },
}

impl ProbeFailure {
    /// Whether the server ended the connection, orderly or not.
    #[must_use]
    pub(crate) const fn is_end(&self) -> bool {
        matches!(self, Self::Ended(_) | Self::Io(_))
    }
}

/// Maximum number of bytes read in all.
const ANSWERS_MAX: usize = 256 * 1024;
/// How long to wait for an answer that the server need not send.
pub(crate) const VERDICT: Duration = Duration::from_millis(300);

/// The protocol's probe conversation, if it has one.
pub(crate) fn conversation(settings: &Settings, ready: &Ready) -> Option<Box<dyn Probe>> {
    settings.protocol.probe(ready.is_upgraded)
}

/// The time limit for a probe's conversation, and the configuration key it comes from.
fn answer_timeout(settings: &Settings) -> (&'static str, Duration) {
    let DialSettings { handshake_timeout, greeting_timeout, .. } = settings.dial;
    let greets_later = settings.protocol.server_greets() && !settings.awaits_greetings();
    let waits = greeting_timeout.min(PROBE_GREETING_MAX);
    match greets_later && waits > handshake_timeout {
        true if waits < greeting_timeout => ("the time that a probe has for a greeting", waits),
        true => ("connect.greeting_timeout", waits),
        false => ("connect.handshake_timeout", handshake_timeout),
    }
}

/// Runs the protocol's probe to see whether the server would serve a client, within the cluster's handshake timeout, or
/// its greeting timeout if the greeting comes behind TLS. `Some`: the protocol has no probe; the upstream is given
/// back.
///
/// # Errors
/// See [`ProbeFailure`].
pub(crate) async fn probe(settings: &Settings, ready: Ready) -> Result<Option<Ready>, ProbeFailure> {
    let Some(conversation) = conversation(settings, &ready) else { return Ok(Some(ready)) };
    let (key, timeout) = answer_timeout(settings);
    let talked = alarm::timeout_at(clock::now() + timeout, converse(ready, conversation, VERDICT)).await;
    talked.unwrap_or(Err(ProbeFailure::Timeout { key, timeout })).map(|()| None)
}

/// Finishes the dialogue of a client that left in the middle, within the cluster's handshake timeout. The result is
/// ignored.
pub(crate) async fn finish_dialogue(settings: &Settings, unfinished: Unfinished) {
    let Unfinished { end, pending: held, rest } = unfinished;
    let ready = Ready { first: held, ..Ready::new(end) };
    let until = clock::now() + settings.dial.handshake_timeout;
    let _ = alarm::timeout_at(until, converse(ready, rest, VERDICT)).await;
}

/// Why the server rejects us after the handshake, if it does: with TLS 1.3 it checks our certificate after our side is
/// done, and sends its alert within a round trip.
pub(crate) async fn late_rejection(mut end: UpstreamStream) -> Option<String> {
    rejected_within(clock::now() + VERDICT, VERDICT, &mut end).await
}

/// Silence until `stay`, or any bytes, count as acceptance: a server that rejects us closes without application data.
/// After that, the connection is closed in order, so that no server logs an error.
pub(crate) async fn rejected_within(
    stay: Instant,
    patience: Duration,
    end: &mut UpstreamStream,
) -> Option<String> {
    if !matches!(end, UpstreamStream::Tls(_)) {
        shut_down_within(patience, end).await;
        return None;
    }
    match alarm::timeout_at(stay, end.read_scratch(<[u8]>::len)).await {
        Ok(Ok(0)) => return Some(CLOSED.into()),
        Ok(Err(error)) => {
            return Some(tls::late_rejection(&error).unwrap_or_else(|| format!("{CLOSED}: {error}")));
        }
        Ok(Ok(_)) | Err(Elapsed) => {}
    }
    // We close now, so a close by the server proves nothing any more. An objection would arrive before its close.
    let parted = alarm::timeout_at(clock::now() + patience, end.shut_down()).await;
    parted.ok()?.err().as_ref().and_then(tls::late_objection)
}

/// Such a server would close a client's connection too: a proxy without a backend, say, or one that lets no client in.
const CLOSED: &str = "the server closed the connection right after the handshake";

/// Closes a connection in order, if the server closes its side within `patience`.
pub(crate) async fn shut_down_within(patience: Duration, end: &mut UpstreamStream) {
    let _ = alarm::timeout_at(clock::now() + patience, end.shut_down()).await;
}

/// Runs the conversation up to the verdict, then closes in order, waiting for the server up to `patience`. The rest has
/// no deadline here: the caller has one.
pub(crate) async fn converse(
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
        let (read, probed) = end.read_scratch(|portion| (portion.len(), probe.receive(portion))).await?;
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
    // An error while closing does not change the verdict.
    if end.send_all(&goodbye).await.is_ok() {
        shut_down_within(patience, &mut end).await;
    }
    Ok(())
}
