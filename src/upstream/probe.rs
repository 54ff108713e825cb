//! Drives a protocol's probe over a usable upstream.

use std::io;
use std::time::Duration;

use crate::alarm;
use crate::clock;
use crate::protocol::{Probe, ProbeError, Probed};
use crate::relay::{End, Unfinished};
use crate::tls::{self, Start};

use super::Settings;
use super::dial::Ready;

/// Why a probe did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ProbeFailure {
    /// What the server said.
    #[error(transparent)]
    Answer(#[from] ProbeError),
    /// The connection.
    #[error("{}", tls::late_rejection(.0).unwrap_or_else(|| .0.to_string()))]
    Io(#[from] io::Error),
    /// It kept silent, or went on for too long.
    #[error("the server did not answer within connect.handshake_timeout ({0:?})")]
    Timeout(Duration),
}

/// The most that is read at once, and in all.
const PORTION: usize = 64 * 1024;
const ANSWERS_MAX: usize = 256 * 1024;
/// How long a server may take for what it need not say at all.
pub(super) const VERDICT: Duration = Duration::from_millis(300);

impl Settings {
    /// The conversation that shows one of its servers at work, where the protocol has one.
    pub(super) fn probe(&self) -> Option<Box<dyn Probe>> {
        let is_upgraded = self.tls.as_ref().is_some_and(|tls| tls.start() == Start::Upgrade)
            && self.protocol.upgrade().is_some();
        self.protocol.probe(is_upgraded)
    }
}

/// Whether the server would serve a client, by its protocol's probe, within the cluster's time for a handshake. `None`:
/// the protocol has no probe, and the upstream is given back.
///
/// # Errors
/// See [`ProbeFailure`].
pub async fn probe(settings: &Settings, ready: Ready) -> Result<Option<Ready>, ProbeFailure> {
    let Some(conversation) = settings.probe() else { return Ok(Some(ready)) };
    let until = clock::now() + settings.dial.handshake_timeout;
    let talked = alarm::before(until, converse(ready, conversation, VERDICT)).await;
    talked.unwrap_or(Err(ProbeFailure::Timeout(settings.dial.handshake_timeout))).map(|()| None)
}

/// Says the rest of a dialogue in the place of a client that has left in the middle, within the cluster's time for a handshake.
/// However that goes, nobody is left to hear of it.
pub async fn see_out(settings: &Settings, unfinished: Unfinished) {
    let Unfinished { end, held, rest } = unfinished;
    let ready = Ready { end, welcome: Vec::new(), first: held, dialogue: None };
    let until = clock::now() + settings.dial.handshake_timeout;
    let _ = alarm::before(until, converse(ready, rest, VERDICT)).await;
}

/// Why the server rejects us after a handshake that was done on our side, if it does: with TLS 1.3 it judges our
/// certificate then, and says so within a round trip.
pub async fn late_rejection(mut end: End) -> Option<String> {
    rejected_within(VERDICT, &mut end).await
}

/// One that says nothing is content. Then the parting is polite, so that no server logs an error.
pub(super) async fn rejected_within(patience: Duration, end: &mut End) -> Option<String> {
    if matches!(end, End::Tls(_)) {
        let mut bytes = vec![0; PORTION];
        let answered = alarm::before(clock::now() + patience, end.recv(&mut bytes)).await;
        if let Ok(Err(error)) = &answered {
            return Some(tls::late_rejection(error).unwrap_or_else(|| error.to_string()));
        }
    }
    part_within(patience, end).await;
    None
}

/// Ends a connection as servers like it, if they are quick to end theirs.
pub(super) async fn part_within(patience: Duration, end: &mut End) {
    let _ = alarm::before(clock::now() + patience, end.part()).await;
}

/// Talks until the verdict, then parts politely, if the server is as quick as that to end too. No deadline for the rest
/// here: the caller has one.
pub(super) async fn converse(
    ready: Ready,
    mut probe: Box<dyn Probe>,
    patience: Duration,
) -> Result<(), ProbeFailure> {
    let Ready { mut end, first, .. } = ready;
    end.send_all(&[first, probe.begin()].concat()).await?;
    let (mut portion, mut heard) = (vec![0; PORTION], 0);
    let goodbye = loop {
        let read = end.recv(&mut portion).await?;
        heard += read;
        if heard > ANSWERS_MAX {
            return Err(ProbeError("the server's answer has no end".into()).into());
        }
        match probe.received(&portion[..read])? {
            Probed::Serves { goodbye } => break goodbye,
            Probed::Send(bytes) => end.send_all(&bytes).await?,
            Probed::Incomplete if read == 0 => {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            Probed::Incomplete => {}
        }
    };
    // The verdict stands, however the parting goes.
    if end.send_all(&goodbye).await.is_ok() {
        part_within(patience, &mut end).await;
    }
    Ok(())
}
