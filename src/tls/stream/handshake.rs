//! The handshake of a stream: from the hello to the first byte of the application, plain or wrapped in the protocol's packets.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;

use rustls::InvalidMessage;
use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};

use super::{FLIGHT, KeyUsage, LastFlight, Reading, Stream, TOO_LONG, alert, encode};
use crate::protocol::Wrapping;
use crate::sys::Transport;
use crate::tls::{HandshakeError, uncertified};

/// How much is kept of what a server sends instead of TLS, for the protocol to interpret.
const SAID_MAX: usize = 512;
/// A handshake message is at most 64 KiB in rustls, and may come in pieces.
const INCOMING_MAX: usize = 128 * 1024;

impl<T: Transport> Stream<T> {
    /// Does the handshake, without a deadline of its own. A rejected server gets an alert. `wrapping` carries the
    /// handshake, and nothing after it. `last_flight`: when our last message is sent.
    pub(in crate::tls) async fn handshake(
        socket: T,
        connection: UnbufferedClientConnection,
        wrapping: Option<Wrapping>,
        last_flight: LastFlight,
    ) -> Result<Self, HandshakeError> {
        let mut asked = false;
        let shaken = Self::shake(socket, connection, &mut asked, wrapping, last_flight).await;
        let shaken = shaken.map_err(|error| {
            let is_an_end = matches!(error, HandshakeError::Closed | HandshakeError::Io(_));
            if asked && is_an_end { HandshakeError::Uncertified } else { error }
        })?;
        Ok(Self { uncertified: asked, ..shaken })
    }

    /// `asked` is set when the server asks for a certificate and we have none.
    async fn shake(
        socket: T,
        mut connection: UnbufferedClientConnection,
        asked: &mut bool,
        mut wrapping: Option<Wrapping>,
        last_flight: LastFlight,
    ) -> Result<Self, HandshakeError> {
        let (mut incoming, mut outgoing, mut opened) = (Vec::new(), Vec::new(), Vec::new());
        // Whether any record was TLS.
        let mut has_begun = false;
        let reading = loop {
            uncertified::watch();
            let UnbufferedStatus { mut discard, state, .. } = connection.process_tls_records(&mut incoming);
            *asked |= uncertified::has_asked();
            let next = match state {
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, &mut outgoing);
                    Next::Process
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // Sent before anything else is awaited.
                    data.done();
                    Next::Process
                }
                Ok(ConnectionState::BlockedHandshake) => Next::Read,
                // A TLS 1.2 server may send data, and even close, together with its Finished.
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        opened.extend_from_slice(record.payload);
                        discard += record.discard;
                    }
                    Next::Process
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Next::Close,
                // All other states come after the handshake.
                Ok(_) => Next::Use,
                Err(error) => Next::Fail(HandshakeError::of(error)),
            };
            let is_no_tls = !has_begun
                && matches!(&next, Next::Fail(HandshakeError::Tls(rustls::Error::InvalidMessage(_))));
            let said = is_no_tls.then(|| incoming[..incoming.len().min(SAID_MAX)].into());
            has_begun |= discard > 0;
            // After an error, `discard` may be more than there is.
            incoming.drain(..discard.min(incoming.len()));
            let is_sent_now = match &next {
                Next::Read => true,
                Next::Use => wrapping.is_some() || last_flight == LastFlight::AtOnce,
                Next::Process | Next::Close | Next::Fail(_) => false,
            };
            if is_sent_now && !outgoing.is_empty() {
                let sent = send_all(&socket, &wrapped(wrapping.as_ref(), &outgoing)).await;
                sent.map_err(|error| gone(&socket, error))?;
                outgoing.clear();
            }
            match next {
                Next::Process => {}
                Next::Read => match &mut wrapping {
                    None => read_more(&socket, &mut incoming).await?,
                    Some(wrapping) => read_wrapped(&socket, wrapping, &mut incoming).await?,
                },
                Next::Use => match wrapping.take() {
                    None => break Reading::Open,
                    // What came after the wrapped handshake is plain TLS, and may be an alert.
                    Some(wrapping) => incoming.extend(wrapping.end()?),
                },
                Next::Close if connection.is_handshaking() => return Err(HandshakeError::Closed),
                Next::Close => break Reading::Ended,
                Next::Fail(error) => {
                    alert(&mut connection, &mut incoming, &mut outgoing);
                    let _ = send_all(&socket, &wrapped(wrapping.as_ref(), &outgoing)).await;
                    return Err(match (said, error) {
                        (Some(said), HandshakeError::Tls(error)) => {
                            HandshakeError::Plaintext { said, error: Box::new(error) }
                        }
                        (_, error) => error,
                    });
                }
            }
        };
        opened.shrink_to_fit();
        outgoing.shrink_to_fit();
        // No whole record is left, and the handshake needed far more memory than a part of one does.
        incoming.shrink_to_fit();
        Ok(Self {
            key_usage: KeyUsage::of(&connection),
            socket,
            connection,
            incoming,
            opened,
            holds_flight: !outgoing.is_empty(),
            outgoing,
            sent: 0,
            reading,
            closing: false,
            uncertified: false,
            packets: None,
            ballast: 0,
        })
    }
}

/// What a handshake does next.
enum Next {
    Process,
    Read,
    Use,
    Close,
    Fail(HandshakeError),
}

async fn read_more(socket: &impl Transport, incoming: &mut Vec<u8>) -> Result<(), HandshakeError> {
    let kept = incoming.len();
    if kept >= INCOMING_MAX {
        return Err(HandshakeError::Tls(TOO_LONG));
    }
    incoming.resize(kept + FLIGHT, 0);
    let received =
        poll_fn(|cx| socket.poll_recv(cx, &mut incoming[kept..])).await.map_err(HandshakeError::Io)?;
    incoming.truncate(kept + received);
    if received == 0 { Err(HandshakeError::Closed) } else { Ok(()) }
}

async fn send_all(socket: &impl Transport, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = poll_fn(|cx| socket.poll_send(cx, bytes)).await?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

/// An error of a server that ended the connection in a handshake, and may have sent a plaintext reason before.
fn gone(socket: &impl Transport, error: io::Error) -> HandshakeError {
    let mut said = vec![0; SAID_MAX];
    let arrived = socket.socket().and_then(|socket| socket.recv_arrived(&mut said).ok().flatten());
    said.truncate(arrived.unwrap_or(0));
    // The beginning of a record: a type from change_cipher_spec to heartbeat, and the version (RFC 8446 §5.1).
    if matches!(said[..], [] | [20..=24] | [20..=24, 3, ..]) {
        return HandshakeError::Io(error);
    }
    let error = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
    HandshakeError::Plaintext { said: said.into(), error: Box::new(error) }
}

/// Reads until a packet of the handshake has content.
async fn read_wrapped(
    socket: &impl Transport,
    wrapping: &mut Wrapping,
    incoming: &mut Vec<u8>,
) -> Result<(), HandshakeError> {
    while !wrapping.unwrap_into(incoming)? {
        let mut bytes = Vec::new();
        read_more(socket, &mut bytes).await?;
        wrapping.receive(&bytes);
    }
    if incoming.len() > INCOMING_MAX { Err(HandshakeError::Tls(TOO_LONG)) } else { Ok(()) }
}

fn wrapped<'a>(wrapping: Option<&Wrapping>, flight: &'a [u8]) -> Cow<'a, [u8]> {
    wrapping.map_or(Cow::Borrowed(flight), |wrapping| Cow::Owned(wrapping.wrap(flight)))
}
