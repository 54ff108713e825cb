//! Drives a protocol's probe over a usable upstream.

use std::io;
use std::time::Duration;

use crate::alarm;
use crate::clock;
use crate::protocol::{Probe, ProbeError, Probed};
use crate::relay::Unfinished;
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

/// Whether the server would serve a client, by its protocol's probe, within the cluster's time for a handshake. `None`:
/// the protocol has no probe, and the upstream is given back.
///
/// # Errors
/// See [`ProbeFailure`].
pub async fn probe(settings: &Settings, ready: Ready) -> Result<Option<Ready>, ProbeFailure> {
    let is_upgraded = settings.tls.as_ref().is_some_and(|tls| tls.start() == Start::Upgrade)
        && settings.protocol.upgrade().is_some();
    let Some(conversation) = settings.protocol.probe(is_upgraded) else { return Ok(Some(ready)) };
    let until = clock::now() + settings.dial.handshake_timeout;
    let talked = alarm::before(until, converse(ready, conversation)).await;
    talked.unwrap_or(Err(ProbeFailure::Timeout(settings.dial.handshake_timeout))).map(|()| None)
}

/// Says the rest of a dialogue in the place of a client that has left in the middle, within the cluster's time for a handshake.
/// However that goes, nobody is left to hear of it.
pub async fn see_out(settings: &Settings, unfinished: Unfinished) {
    let Unfinished { end, held, rest } = unfinished;
    let ready = Ready { end, welcome: Vec::new(), first: held, dialogue: None };
    let until = clock::now() + settings.dial.handshake_timeout;
    let _ = alarm::before(until, converse(ready, rest)).await;
}

/// Talks until the verdict, then parts politely. No deadline here: the caller has one.
pub(super) async fn converse(ready: Ready, mut probe: Box<dyn Probe>) -> Result<(), ProbeFailure> {
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
        let _ = end.part().await;
    }
    Ok(())
}
