//! The upstream's side of mTLS, on rustls' unbuffered interface: records are opened in the shared inbox and made in
//! the shared outbox, so the upstream stays cheap enough to keep a good proxy busy.
//!
//! Lacks the TLS parameters: those are in `terminate`.
use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus, WriteTraffic};
use rustls::{HandshakeKind, ServerConfig};

use super::talk::Talk;
use crate::socket::{receive_some, send_some};
use crate::wire::{FILL, Tally};

/// More than any flight of a handshake here.
const FLIGHT: usize = 16 * 1024;

pub(super) struct Tls {
    connection: UnbufferedServerConnection,
    /// A record that has not completely arrived.
    partial: Vec<u8>,
    /// Records that the socket has not taken yet.
    unsent: Vec<u8>,
    counted: bool,
}

impl Tls {
    pub(super) fn new(config: &Arc<ServerConfig>) -> io::Result<Self> {
        let connection = UnbufferedServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        Ok(Self { connection, partial: Vec::new(), unsent: Vec::new(), counted: false })
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Reads once and opens the records; false at the end of the stream.
    pub(super) fn read(
        &mut self,
        socket: &TcpStream,
        talk: &mut Talk,
        inbox: &mut [u8],
        tally: &mut Tally,
    ) -> io::Result<bool> {
        let kept = self.partial.len();
        let Some(came) = receive_some(socket, &mut inbox[kept..])? else { return Ok(true) };
        inbox[..kept].copy_from_slice(&self.partial);
        self.partial.clear();
        let open = self.open_records(&mut inbox[..kept + came], talk)? && came > 0;
        self.count(tally);
        Ok(open)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls may add states; none that we asked for")]
    fn open_records(&mut self, inbox: &mut [u8], talk: &mut Talk) -> io::Result<bool> {
        let mut done = 0;
        let mut open = true;
        loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.connection.process_tls_records(&mut inbox[done..]);
            let more = match state.map_err(io::Error::other)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(io::Error::other)?;
                        discard += record.discard;
                        talk.hear(record.payload)?;
                    }
                    true
                }
                ConnectionState::EncodeTlsData(mut flight) => {
                    append(&mut self.unsent, |room| flight.encode(room).map_err(failed))?;
                    true
                }
                // The encoded bytes are in `unsent`, and `write` follows at once.
                ConnectionState::TransmitTlsData(flight) => {
                    flight.done();
                    true
                }
                ConnectionState::PeerClosed => {
                    open = false;
                    true
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    if !open {
                        append(&mut self.unsent, |room| traffic.queue_close_notify(room).map_err(failed))?;
                    }
                    false
                }
                // Blocked until more arrives, closed, or a state that this server never offers.
                _ => false,
            };
            done += discard;
            if !more {
                self.partial.extend_from_slice(&inbox[done..]);
                return Ok(open);
            }
        }
    }

    fn count(&mut self, tally: &mut Tally) {
        if self.counted || self.connection.is_handshaking() {
            return;
        }
        self.counted = true;
        match self.connection.handshake_kind() {
            Some(HandshakeKind::Resumed) => tally.resumed_handshakes += 1,
            _ => tally.full_handshakes += 1,
        }
    }

    /// Sends unsent bytes, else makes and sends records of owed bytes.
    pub(super) fn write(&mut self, socket: &TcpStream, talk: &mut Talk, outbox: &mut [u8]) -> io::Result<()> {
        if self.has_unsent() {
            let sent = send_some(socket, &self.unsent)?;
            self.unsent.drain(..sent);
        }
        let owed = talk.owes();
        if owed == 0 || self.has_unsent() {
            return Ok(());
        }
        let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut []);
        if let ConnectionState::WriteTraffic(mut traffic) = state.map_err(io::Error::other)? {
            let made = seal(&mut traffic, &FILL[..owed], outbox)?;
            talk.has_sent(owed);
            let sent = send_some(socket, &outbox[..made])?;
            self.unsent.extend_from_slice(&outbox[sent..made]);
        }
        Ok(())
    }
}

fn seal<Data>(traffic: &mut WriteTraffic<'_, Data>, plain: &[u8], outbox: &mut [u8]) -> io::Result<usize> {
    traffic.encrypt(plain, outbox).map_err(failed)
}

fn append(unsent: &mut Vec<u8>, write: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
    let before = unsent.len();
    unsent.resize(before + FLIGHT, 0);
    let written = write(&mut unsent[before..])?;
    unsent.truncate(before + written);
    Ok(())
}

/// rustls' own errors of the unbuffered interface do not all fit into an `io::Error`.
fn failed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}
