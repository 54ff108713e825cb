//! The client side of a TLS connection, over rustls' unbuffered interface: rustls has the keys and the rules, this file
//! has the buffers.
//!
//! Ciphertext passes through memory that all streams of a worker share, for the length of one call: one large read
//! brings many records, and all records of a write leave in one. A stream itself keeps only the tail of an incomplete
//! record and what the socket would not take, so an idle stream has no buffers.

mod handshake;

use std::cell::RefCell;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::{fmt, io};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, InvalidMessage};

use super::key_usage::{KeyLimit, KeyLimitDue, KeyUsage};
use crate::protocol::Packets;
use crate::sys::{Socket, Transport};

/// A TLS connection whose handshake is done. Dropping it closes the socket without close_notify.
pub struct Stream<T = Socket> {
    socket: T,
    connection: UnbufferedClientConnection,
    /// Ciphertext that is not a whole record, or parts of an incomplete handshake message.
    incoming: Vec<u8>,
    /// Plaintext that is not read yet: it came with the end of the handshake, or was peeked at.
    opened: Vec<u8>,
    /// Ciphertext that the socket would not take yet, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    /// `outgoing` is the end of the handshake, which leaves with the first record.
    holds_flight: bool,
    reading: Reading,
    /// close_notify was sent or is in `outgoing`.
    closing: bool,
    /// The server has asked for a certificate, and we sent none.
    uncertified: bool,
    key_usage: KeyUsage,
    /// Cuts what is written into records, for servers that expect one whole packet in each.
    packets: Option<Box<Packets>>,
    /// Ciphertext since the last yield that brought no plaintext: post-handshake messages, and the overhead of tiny
    /// records.
    ballast: usize,
}

/// When our last message of the handshake is sent, which the server waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastFlight {
    /// Before the handshake counts as done.
    AtOnce,
    /// With the first write, before the first read at the latest: one packet, and one wake-up of the server, less. For
    /// who does either soon.
    WithFirstWrite,
}

enum Reading {
    /// The server may still send. Exits: all others.
    Open,
    /// The server has sent close_notify. No exit.
    Ended,
    /// The server has ended the connection without close_notify: TLS cannot tell whether data is missing. No exit.
    Cut,
    /// TLS failed, and all plaintext before that was read. No exit.
    Failed(rustls::Error),
    /// The connection failed with that `errno`, which the kernel reports only once. No exit.
    Broken(i32),
}

/// The result of decrypting a portion of ciphertext.
struct Opened {
    /// Bytes of ciphertext that were processed.
    consumed: usize,
    /// Bytes of plaintext at the front of the buffer.
    plain: usize,
    then: Reading,
}

impl Stream {
    /// The largest read: large, because each read opens the peer's window and wakes it.
    pub const PORTION: usize = 1024 * 1024;

    /// The rustls connection that a handshake begins with.
    pub(super) fn hello(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<UnbufferedClientConnection, rustls::Error> {
        UnbufferedClientConnection::new(config, name)
    }

    /// Moves the stream to the current worker.
    ///
    /// # Errors
    /// When the worker's reactor refuses: `ENOMEM`, `ENOSPC`.
    pub fn register_here(self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.register_here()?, ..self })
    }
}

impl<T: Transport> Stream<T> {
    /// Has what is written cut into records by `packets`.
    pub(super) fn cut_by(self, packets: Option<Packets>) -> Self {
        Self { packets: packets.map(Box::new), ..self }
    }

    /// The TCP connection below.
    pub const fn socket(&self) -> &T {
        &self.socket
    }

    /// When the connection should end because its keys are used up, if that is near.
    #[must_use]
    pub const fn key_limit_due(&self) -> Option<KeyLimitDue> {
        self.key_usage.due()
    }

    /// Whether the server has ended the stream without close_notify, so that it may have been cut (RFC 8446 §6.1).
    #[must_use]
    pub const fn was_truncated(&self) -> bool {
        matches!(self.reading, Reading::Cut)
    }

    /// The heap memory of this stream.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.incoming.capacity() + self.opened.capacity() + self.outgoing.capacity()
    }

    /// Whether the server asked for a certificate and got none: it may close the connection for that without an alert.
    #[must_use]
    pub const fn is_uncertified(&self) -> bool {
        self.uncertified
    }

    /// The server has answered above TLS, so it has accepted the connection without our certificate.
    pub const fn note_accepted(&mut self) {
        self.uncertified = false;
    }

    /// What a login on the connection can be bound to ([`channel_binding`](super::channel_binding)).
    #[must_use]
    pub fn channel_binding(&self) -> Option<Vec<u8>> {
        let shown = self.connection.peer_certificates()?.first()?;
        super::channel_binding::server_end_point(shown)
    }

    pub(super) const fn connection(&self) -> &UnbufferedClientConnection {
        &self.connection
    }

    /// Reads plaintext into `buffer`, which has to hold more than a record (32 KiB), and of which no more than
    /// [`Stream::PORTION`] is used; 0 is the end of the stream, with or without close_notify.
    ///
    /// # Errors
    /// An error of recv(2), or a `rustls::Error` inside: an alert of the server, a record that was tampered with. All
    /// plaintext before it has been read by then.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.opened.is_empty() {
            let taken = self.opened.len().min(buffer.len());
            buffer[..taken].copy_from_slice(&self.opened[..taken]);
            self.opened.drain(..taken);
            self.opened.shrink_to_fit();
            return Poll::Ready(Ok(taken));
        }
        if !self.outgoing.is_empty() {
            // The end of the handshake, or a response of TLS itself, may wait here while nothing is written. The next
            // write reports a failure.
            let _ = self.poll_flush(cx);
        }
        CIPHERTEXT.with_borrow_mut(|memory| {
            loop {
                if self.ballast > BALLAST_MAX {
                    // The plaintext read does not show the work it took, so the reader's budget would never be used up.
                    self.ballast = 0;
                    let _ = pin!(tokio::task::yield_now()).poll(cx);
                    return Poll::Pending;
                }
                match &self.reading {
                    Reading::Open => {}
                    Reading::Ended | Reading::Cut => return Poll::Ready(Ok(0)),
                    Reading::Failed(error) => return Poll::Ready(Err(tls_error(error.clone()))),
                    Reading::Broken(errno) => return Poll::Ready(Err(io::Error::from_raw_os_error(*errno))),
                }
                let kept = self.incoming.len();
                let limit = memory.len().min(buffer.len());
                if kept >= limit {
                    return Poll::Ready(Err(tls_error(TOO_LONG)));
                }
                let received = ready!(self.socket.poll_recv(cx, &mut memory[kept..limit]))?;
                if received == 0 {
                    self.reading = Reading::Cut;
                    continue;
                }
                memory[..kept].copy_from_slice(&self.incoming);
                let ciphertext = &mut memory[..kept + received];
                let opened = self.open(ciphertext, buffer);
                self.ballast += received.saturating_sub(opened.plain);
                self.keep(&ciphertext[opened.consumed..], opened.then);
                if !self.outgoing.is_empty() {
                    let _ = self.poll_flush(cx);
                }
                if opened.plain > 0 {
                    return Poll::Ready(Ok(opened.plain));
                }
            }
        })
    }

    /// Waits for what [`Self::poll_read`] would bring, and leaves it for the next read. Returns how many bytes it put
    /// at the front of `buffer`; 0: an end or an error, which the next read reports again.
    pub fn poll_peek(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<usize> {
        let seen = ready!(self.poll_read(cx, buffer)).unwrap_or_else(|error| {
            self.remember(&error);
            0
        });
        self.opened.splice(..0, buffer[..seen].iter().copied());
        Poll::Ready(seen)
    }

    /// Keeps an error of the connection for the next read, because the kernel reports it once.
    pub fn remember(&mut self, error: &io::Error) {
        if let Some(errno) = error.raw_os_error()
            && matches!(self.reading, Reading::Open | Reading::Cut)
        {
            self.reading = Reading::Broken(errno);
        }
    }

    /// Takes some of `bytes`, none while ciphertext of an earlier write waits; what the socket does not take at once is
    /// sent by [`Self::poll_flush`].
    ///
    /// # Errors
    /// An error of send(2), or a `rustls::Error` or [`KeyLimit`] inside: the server does not learn of those.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.holds_flight && self.packets.is_none() {
            return Poll::Ready(self.write_behind_flight(cx, bytes));
        }
        ready!(self.poll_flush(cx))?;
        if self.packets.is_some() {
            return Poll::Ready(self.write_packets(cx, bytes));
        }
        CIPHERTEXT.with_borrow_mut(|memory| {
            let mut taken = 0;
            for portion in bytes.chunks(SEALED_AT_ONCE) {
                let sealed = match self.seal(memory, |traffic, memory| traffic.encrypt(portion, memory)) {
                    Ok(sealed) => sealed,
                    // What was taken before has been sent. rustls' error persists, so the next call returns it.
                    Err(_) if taken > 0 => break,
                    Err(error) => return Poll::Ready(Err(error)),
                };
                self.key_usage.record_sealed(portion.len());
                taken += portion.len();
                let sent = match self.socket.poll_send(cx, &memory[..sealed]) {
                    Poll::Pending => 0,
                    Poll::Ready(sent) => sent?,
                };
                if sent < sealed {
                    self.outgoing.extend_from_slice(&memory[sent..sealed]);
                    break;
                }
            }
            Poll::Ready(Ok(taken))
        })
    }

    /// The first [`Self::poll_write`] where the end of the handshake is still to be sent: one send for both.
    fn write_behind_flight(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize> {
        let first = &bytes[..bytes.len().min(SEALED_AT_ONCE)];
        let sealed = CIPHERTEXT.with_borrow_mut(|memory| {
            let sealed = self.seal(memory, |traffic, memory| traffic.encrypt(first, memory))?;
            self.outgoing.extend_from_slice(&memory[..sealed]);
            Ok(())
        });
        self.key_usage.record_sealed(first.len());
        // Sends as much as the socket takes now.
        match (sealed, self.poll_flush(cx)) {
            (Err(error), _) | (Ok(()), Poll::Ready(Err(error))) => Err(error),
            (Ok(()), _) => Ok(first.len()),
        }
    }

    /// [`Self::poll_write`] for a server that expects each packet in a record of its own. An incomplete packet is kept
    /// until it is whole.
    fn write_packets(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize> {
        let (mut rest, mut error) = (bytes, None);
        CIPHERTEXT.with_borrow_mut(|memory| {
            let mut sealed = 0;
            while sealed < SEALED_AT_ONCE
                && let Some(packet) = self.packets.as_mut().and_then(|packets| packets.next(&mut rest))
            {
                match self.seal(&mut memory[sealed..], |traffic, memory| traffic.encrypt(&packet, memory)) {
                    Ok(length) => sealed += length,
                    Err(failed) => {
                        error = Some(failed);
                        break;
                    }
                }
                self.key_usage.record_sealed(packet.len());
            }
            // After a failure, `outgoing` already has rustls' close_notify.
            self.outgoing.splice(..0, memory[..sealed].iter().copied());
        });
        // Sends as much as the socket takes now.
        match (error, self.poll_flush(cx)) {
            (Some(error), _) | (None, Poll::Ready(Err(error))) => Err(error),
            (None, _) => Ok(bytes.len() - rest.len()),
        }
    }

    /// Sends what earlier writes left.
    ///
    /// # Errors
    /// An error of send(2).
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.holds_flight = false;
        while self.sent < self.outgoing.len() {
            self.sent += ready!(self.socket.poll_send(cx, &self.outgoing[self.sent..]))?;
        }
        if self.sent > 0 {
            self.sent = 0;
            self.outgoing = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Ends our direction: all data, close_notify, then FIN. The FIN is sent even when the rest failed: otherwise the
    /// server and we would wait for each other.
    ///
    /// # Errors
    /// An error of send(2), or of TLS; a FIN that cannot be sent is no error.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sealed = Ok(());
        if !self.closing {
            self.closing = true;
            let last = self.packets.as_mut().map(|packets| packets.rest()).unwrap_or_default();
            sealed = CIPHERTEXT.with_borrow_mut(|memory| {
                if !last.is_empty() {
                    let sealed = self.seal(memory, |traffic, memory| traffic.encrypt(&last, memory))?;
                    self.outgoing.extend_from_slice(&memory[..sealed]);
                }
                let sealed = self.seal(memory, |traffic, memory| traffic.queue_close_notify(memory))?;
                self.outgoing.extend_from_slice(&memory[..sealed]);
                Ok(())
            });
        }
        let sent = ready!(self.poll_flush(cx));
        self.socket.finish();
        Poll::Ready(sealed.and(sent))
    }

    /// Decrypts all whole records in `ciphertext`. `plain` has at least its length, so it cannot overflow.
    fn open(&mut self, ciphertext: &mut [u8], plain: &mut [u8]) -> Opened {
        let mut opened = Opened { consumed: 0, plain: 0, then: Reading::Open };
        loop {
            let rest = &mut ciphertext[opened.consumed..];
            let UnbufferedStatus { mut discard, state, .. } = self.connection.process_tls_records(rest);
            let mut is_done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        let end = opened.plain + record.payload.len();
                        plain[opened.plain..end].copy_from_slice(record.payload);
                        opened.plain = end;
                        discard += record.discard;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => opened.then = Reading::Ended,
                Ok(_) => is_done = true,
                Err(error) => {
                    opened.then = Reading::Failed(error);
                    is_done = true;
                }
            }
            // After an error, `discard` may be more than there is.
            opened.consumed = (opened.consumed + discard).min(ciphertext.len());
            if is_done {
                break;
            }
        }
        if matches!(opened.then, Reading::Failed(_)) {
            alert(&mut self.connection, &mut ciphertext[opened.consumed..], &mut self.outgoing);
        }
        opened
    }

    /// Keeps an incomplete record; nothing comes after the end.
    fn keep(&mut self, rest: &[u8], then: Reading) {
        self.incoming.clear();
        if matches!(then, Reading::Open) && !rest.is_empty() {
            self.incoming.extend_from_slice(rest);
        } else {
            // An idle stream keeps no buffer.
            self.incoming = Vec::new();
        }
        self.reading = then;
    }

    /// Encrypts to the front of `memory`, after what rustls itself has to send first; returns the length. rustls'
    /// close_notify after a failure goes with the next flush.
    fn seal(
        &mut self,
        memory: &mut [u8],
        make: impl FnOnce(&mut WriteTraffic<'_, ClientConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> io::Result<usize> {
        let mut own = 0;
        loop {
            // `incoming` has no whole record, but rustls remembers how far it has read in it.
            let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut self.incoming);
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    match make(&mut traffic, &mut memory[own..]) {
                        Ok(made) => return Ok(own + made),
                        Err(error) => {
                            self.outgoing.extend_from_slice(&memory[..own]);
                            return Err(self.end_writing(error));
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    own += data.encode(&mut memory[own..]).map_err(io::Error::other)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => {}
                Ok(_) => return Err(io::ErrorKind::NotConnected.into()),
                Err(error) => return Err(tls_error(error)),
            }
        }
    }

    /// rustls encrypts no more. When the keys are used up it has a close_notify ready.
    fn end_writing(&mut self, error: EncryptError) -> io::Error {
        match error {
            EncryptError::EncryptExhausted => {
                self.closing = true;
                alert(&mut self.connection, &mut self.incoming, &mut self.outgoing);
                io::Error::other(KeyLimit)
            }
            EncryptError::InsufficientSize(_) => io::Error::other(error),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Stream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// How much plaintext leaves in one write: enough that a system call and a wake-up of the server serve many records,
/// and so little that they are still in the core's cache when the kernel copies them.
const SEALED_AT_ONCE: usize = 128 * 1024;

/// How much ciphertext without plaintext one turn may process: some 500 tickets, or the overhead of 3,000 records.
const BALLAST_MAX: usize = 64 * 1024;

thread_local! {
    /// Ciphertext of the stream of this worker that is being polled.
    static CIPHERTEXT: RefCell<Vec<u8>> = RefCell::new(vec![0; Stream::PORTION]);
}

/// The largest read in a handshake: a server's first flight is one or a few of these.
const FLIGHT: usize = 4096;
const TOO_LONG: rustls::Error = rustls::Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge);

fn encode(mut data: EncodeTlsData<'_, ClientConnectionData>, outgoing: &mut Vec<u8>) {
    let at = outgoing.len();
    let mut room = FLIGHT;
    loop {
        outgoing.resize(at + room, 0);
        match data.encode(&mut outgoing[at..]) {
            Ok(encoded) => return outgoing.truncate(at + encoded),
            Err(EncodeError::InsufficientSize(need)) => room = need.required_size,
            // rustls returns this on a second call after a success, and the success returns.
            Err(EncodeError::AlreadyEncoded) => return outgoing.truncate(at),
        }
    }
}

/// Encodes the alert that rustls has ready after an error. The input that caused the error must not be processed again.
fn alert(connection: &mut UnbufferedClientConnection, incoming: &mut [u8], outgoing: &mut Vec<u8>) {
    // rustls yields what is to be encoded before it looks at `incoming`.
    while connection.wants_write() {
        let Ok(ConnectionState::EncodeTlsData(data)) = connection.process_tls_records(incoming).state else {
            return;
        };
        encode(data, outgoing);
    }
}

fn tls_error(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
