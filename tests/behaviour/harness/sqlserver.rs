//! A scripted SQL Server, since a real one is not available here: PRELOGIN, TLS in TDS packets, one login and one
//! answer to every request; strict where SQL Server is known to be. It speaks TDS 7.0 to 7.4, and MARS.
//!
//! Written from MS-TDS and MC-SMP, independently of the daemon's own code for them. It shows that clients and the
//! daemon understand the documents alike, not that SQL Server does.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::sync::Arc;

use rustls::{IoState, ServerConfig, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::upstream::{Conn, Upstream};

/// The one user, with the same password as on the other servers.
pub(crate) const USER: &str = "app";
const HEAD: usize = 8;
/// The packet size that it negotiates.
const PACKET_MAX: usize = 4096;

/// Differences from an ordinary server.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Temper {
    /// Its answer to ENCRYPT_ON; `None`: the same.
    pub(crate) encryption: Option<u8>,
    /// The type of its handshake packets; `None`: 0x12, as usual.
    pub(crate) carrier: Option<u8>,
    /// Routes every login to that host and port.
    pub(crate) routes_to: Option<(&'static str, u16)>,
    /// Closes the connection instead of answering a login.
    pub(crate) drops_logins: bool,
}

/// Runs it for each connection. Its notes have a line for PRELOGIN, for the handshake, for each login and each
/// request.
pub(crate) fn sql_server(tls: Arc<ServerConfig>, temper: Temper) -> Upstream {
    Upstream::plain(move |conn| {
        let tls = tls.clone();
        async move {
            let mut session = Session { conn, tls: None, temper, version: 0, streams: BTreeMap::new() };
            if let Err(error) = session.run(tls).await {
                session.conn.note(format!("ended: {error}"));
            }
        }
    })
}

struct Session {
    conn: Conn,
    tls: Option<ServerConnection>,
    temper: Temper,
    /// The TDS version: 0x74 for 7.4.
    version: u8,
    /// The MARS sessions: what each has received, and sent.
    streams: BTreeMap<u16, (u32, u32)>,
}

fn foreign(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// UTF-16, as in TDS.
fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn narrow(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units)
}

/// Prefixed with its length, one byte.
fn counted(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.chars().count()).expect("a short text")][..], &wide(text)].concat()
}

fn packets(kind: u8, message: &[u8]) -> Vec<Vec<u8>> {
    let portions: Vec<&[u8]> = message.chunks(PACKET_MAX - HEAD).collect();
    let last = portions.len() - 1;
    let packet = |(index, portion): (usize, &&[u8])| {
        let [high, low] = u16::try_from(HEAD + portion.len()).expect("a packet's length").to_be_bytes();
        [&[kind, u8::from(index == last), high, low, 0, 51, 1, 0], *portion].concat()
    };
    portions.iter().enumerate().map(packet).collect()
}

impl Session {
    async fn run(&mut self, tls: Arc<ServerConfig>) -> io::Result<()> {
        self.prelogin().await?;
        self.handshake(tls).await?;
        loop {
            let Some((stream, kind, message)) = self.message().await? else { return Ok(()) };
            let answer = match kind {
                0x10 if self.temper.drops_logins => return Ok(()),
                0x10 => self.login(&message)?,
                0x01 => self.batch(&message),
                0x03 => self.call(),
                // An attention: the request has been answered already.
                0x06 => self.done(0xfd, 0x20),
                kind => return Err(foreign(format!("a message of type {kind:#04x}"))),
            };
            self.answer(stream, &answer).await?;
        }
    }

    /// A packet outside of a message.
    async fn packet(&mut self) -> io::Result<Vec<u8>> {
        let mut packet = vec![0; HEAD];
        self.conn.read_exact(&mut packet).await?;
        let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        packet.resize(length.max(HEAD), 0);
        self.conn.read_exact(&mut packet[HEAD..]).await?;
        Ok(packet)
    }

    async fn prelogin(&mut self) -> io::Result<()> {
        let asked = self.packet().await?;
        if asked[0] != 0x12 {
            return Err(foreign(format!("the first packet is of type {:#04x}", asked[0])));
        }
        let payload = &asked[HEAD..];
        let options = payload.chunks(5).take_while(|option| option[0] != 0xff);
        let value = |option: &[u8]| {
            let [at, length] = [1, 3].map(|at| usize::from(u16::from_be_bytes([option[at], option[at + 1]])));
            payload[at..at + length].to_vec()
        };
        let asked: BTreeMap<u8, Vec<u8>> = options.map(|option| (option[0], value(option))).collect();
        let (encryption, mars) = (asked[&1][0], asked.get(&4).map_or(0, |mars| mars[0]));
        self.conn.note(format!("prelogin encryption={encryption} mars={mars}"));
        let encryption = if encryption == 1 { self.temper.encryption.unwrap_or(1) } else { 3 };
        let head = [0, 0, 16, 0, 6, 1, 0, 22, 0, 1, 4, 0, 23, 0, 1, 0xff];
        let answer = [&head[..], &[15, 0, 16, 172, 0, 0, encryption, mars]].concat();
        self.conn.write_all(&packets(4, &answer)[0]).await?;
        if encryption == 1 || encryption == 3 { Ok(()) } else { Err(foreign("no encryption of all")) }
    }

    async fn handshake(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        let carrier = self.temper.carrier.unwrap_or(0x12);
        while tls.is_handshaking() {
            let packet = self.packet().await?;
            if packet[0] != 0x12 {
                return Err(foreign(format!("a handshake in packets of type {:#04x}", packet[0])));
            }
            let processed = feed(&mut tls, &packet[HEAD..]);
            let mut flight = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut flight)?;
            }
            if !flight.is_empty() {
                self.conn.write_all(&packets(carrier, &flight).concat()).await?;
            }
            processed.map_err(|error| foreign(format!("handshake failed: {error}")))?;
        }
        self.conn.note(format!(
            "handshake {:?} sni={:?} alpn={:?} client={} kind={:?}",
            tls.protocol_version().expect("a finished handshake"),
            tls.server_name(),
            tls.alpn_protocol(),
            tls.peer_certificates().is_some(),
            tls.handshake_kind(),
        ));
        self.tls = Some(tls);
        Ok(())
    }

    /// The content of one TLS record; `None`: the client has ended TLS.
    async fn record(&mut self) -> io::Result<Option<Vec<u8>>> {
        let tls = self.tls.as_mut().expect("behind the handshake");
        let mut record = vec![0; 5];
        self.conn.read_exact(&mut record).await?;
        let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
        record.resize(5 + length, 0);
        self.conn.read_exact(&mut record[5..]).await?;
        let state = feed(tls, &record).map_err(io::Error::other)?;
        let (length, has_closed) = (state.plaintext_bytes_to_read(), state.peer_has_closed());
        let mut plaintext = vec![0; length];
        tls.reader().read_exact(&mut plaintext)?;
        Ok((!has_closed).then_some(plaintext))
    }

    /// A message of packets, each alone in its record: anything else closes the connection, as in SQL Server. With
    /// MARS, also the session that it belongs to.
    async fn message(&mut self) -> io::Result<Option<(Option<u16>, u8, Vec<u8>)>> {
        let mut message = Vec::new();
        loop {
            let Some(record) = self.record().await? else { return Ok(None) };
            let (stream, packet) = match record[..] {
                [0x53, flags, ..] => {
                    let stream = u16::from_le_bytes([record[2], record[3]]);
                    let length = u32::from_le_bytes([record[4], record[5], record[6], record[7]]) as usize;
                    if length != record.len() {
                        return Err(foreign(format!(
                            "a record of {} bytes for SMP's {length}",
                            record.len()
                        )));
                    }
                    let (received, _) = self.streams.entry(stream).or_insert((0, 0));
                    *received += u32::from(flags == 8);
                    // DATA is acknowledged, FIN answered with FIN; SYN and ACK are not answered.
                    if let Some(answer) = [(8, 2), (4, 4)].iter().find(|(asked, _)| *asked == flags) {
                        let smp = self.smp(stream, answer.1, &[]);
                        self.seal(&smp).await?;
                    }
                    if flags != 8 {
                        continue;
                    }
                    (Some(stream), &record[16..])
                }
                _ => (None, &record[..]),
            };
            if packet.len() < HEAD || usize::from(u16::from_be_bytes([packet[2], packet[3]])) != packet.len()
            {
                return Err(foreign(format!("a record of {} bytes that is no packet", packet.len())));
            }
            message.extend_from_slice(&packet[HEAD..]);
            if packet[1] & 1 == 1 {
                return Ok(Some((stream, packet[0], message)));
            }
        }
    }

    async fn answer(&mut self, stream: Option<u16>, message: &[u8]) -> io::Result<()> {
        for packet in packets(4, message) {
            let packet = match stream {
                None => packet,
                Some(stream) => self.smp(stream, 8, &packet),
            };
            self.seal(&packet).await?;
        }
        Ok(())
    }

    /// A MARS packet, with the client's window.
    fn smp(&mut self, stream: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
        let (received, sent) = self.streams.get_mut(&stream).expect("it has been opened");
        *sent += u32::from(flags == 8);
        let length = u32::try_from(16 + payload.len()).expect("a packet's length");
        let mut smp = vec![0x53, flags];
        smp.extend(stream.to_le_bytes());
        smp.extend([length, *sent, *received + 4].into_iter().flat_map(u32::to_le_bytes));
        [&smp, payload].concat()
    }

    async fn seal(&mut self, packet: &[u8]) -> io::Result<()> {
        let tls = self.tls.as_mut().expect("behind the handshake");
        io::Write::write_all(&mut tls.writer(), packet)?;
        let mut records = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut records)?;
        }
        self.conn.write_all(&records).await
    }

    /// LOGIN7: version, user, password, program; one user is accepted.
    fn login(&mut self, message: &[u8]) -> io::Result<Vec<u8>> {
        if message.len() < 94 {
            return Err(foreign("a login that is too short"));
        }
        let text = |at: usize| message[u16_at(message, at)..][..2 * u16_at(message, at + 2)].to_vec();
        let password = text(44).into_iter().map(|byte| (byte ^ 0xa5).rotate_left(4)).collect::<Vec<_>>();
        let (user, password, program) = (narrow(&text(40)), narrow(&password), narrow(&text(48)));
        let mut version = [message[4], message[5], message[6], message[7]];
        version.reverse();
        self.version = version[0];
        let wants_replica = message[26] & 0x20 != 0;
        self.conn.note(format!(
            "login user={user} tds={:02x} program={program} read-only={wants_replica}",
            self.version
        ));
        if (user.as_str(), password.as_str()) != (USER, super::server::PASSWORD) {
            let words = "Login failed for user.";
            let mut body = 18456_u32.to_le_bytes().to_vec();
            body.extend([1, 14, u8::try_from(words.len()).expect("short"), 0]);
            body.extend([wide(words), counted("scripted"), vec![0, 1, 0]].concat());
            body.extend(vec![0; if self.is_old() { 0 } else { 2 }]);
            return Ok([token(0xaa, &body), self.done(0xfd, 2)].concat());
        }
        let ack = [&[1][..], &version, &counted("Microsoft SQL Server"), &[15, 0, 16, 172]].concat();
        let size = [&[4][..], &counted("4096"), &counted("4096")].concat();
        let mut answer = [token(0xe3, &size), token(0xad, &ack)].concat();
        if let Some((host, port)) = self.temper.routes_to {
            let mut route = vec![0];
            route.extend(port.to_le_bytes());
            route.extend(u16::try_from(host.len()).expect("short").to_le_bytes());
            route.extend(wide(host));
            let length = u16::try_from(route.len()).expect("short").to_le_bytes();
            answer.extend(token(0xe3, &[&[20][..], &length, &route, &[0, 0]].concat()));
        }
        answer.extend(self.done(0xfd, 0));
        Ok(answer)
    }

    /// TDS 7.0 and 7.1 have shorter numbers.
    const fn is_old(&self) -> bool {
        self.version < 0x72
    }

    fn done(&self, token: u8, status: u8) -> Vec<u8> {
        [&[token, status, 0, 0xc1, 0][..], if self.is_old() { &[0; 4] } else { &[0; 8] }].concat()
    }

    fn batch(&mut self, message: &[u8]) -> Vec<u8> {
        let headers = if self.is_old() { 0 } else { u16_at(message, 0) };
        let text = narrow(&message[headers..]);
        self.conn.note(format!("batch of {}: {}", text.len(), text.chars().take(60).collect::<String>()));
        if text.trim_start().to_lowercase().starts_with("set ") {
            return self.done(0xfd, 0);
        }
        [self.rows(text.contains("wide")), self.done(0xfd, 0x10)].concat()
    }

    fn call(&self) -> Vec<u8> {
        self.conn.note("call");
        [self.rows(false), self.done(0xff, 0x11), vec![0x79, 0, 0, 0, 0], self.done(0xfe, 0)].concat()
    }

    /// One column `answer` with 42 in one row, or in more rows than fit a packet.
    fn rows(&self, many: bool) -> Vec<u8> {
        let usertype: &[u8] = if self.is_old() { &[0; 2] } else { &[0; 4] };
        let head = [&[0x81, 1, 0][..], usertype, &[0, 0, 0x38], &counted("answer")].concat();
        let row = [0xd1, 42, 0, 0, 0];
        [head, row.repeat(if many { 20_000 } else { 1 })].concat()
    }
}

/// rustls takes some 4 KiB at once.
fn feed(tls: &mut ServerConnection, mut records: &[u8]) -> Result<IoState, rustls::Error> {
    let mut state = tls.process_new_packets()?;
    while !records.is_empty() {
        tls.read_tls(&mut records).expect("a slice has no errors");
        state = tls.process_new_packets()?;
    }
    Ok(state)
}

fn token(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(body.len()).expect("a short token").to_le_bytes(), body].concat()
}
