//! The messages of clients and endpoints: 16 bytes, and back the endpoint's key and the same 16 bytes; bare, or within
//! as much of MySQL's and PostgreSQL's protocols as a login needs.
//!
//! Sources: MySQL's client/server protocol ("Connection Phase"), PostgreSQL's documentation, chapter "Message Formats".
//! Lacks passwords, statements and results: a proxy reads none of them.
use std::io::{self, Read, Write};

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Speech {
    Echo,
    Mysql,
    Postgres,
}

/// The result of a login.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Login {
    Done,
    /// The other side refused with an error message.
    Refused,
    /// It reported that an endpoint was found and went away during the session.
    Broken,
}

pub(crate) const MESSAGE: usize = 16;

/// In place of an endpoint's key: it is full.
pub(crate) const ENOUGH: u8 = b'E';

/// CLIENT_SSL in the second byte of the capabilities, and of the request for TLS.
const SSL: u8 = 0x08;

impl Speech {
    /// As it stands on the command line of an endpoint.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Mysql | Self::Postgres => self.protocol(),
        }
    }

    /// As configurations have it.
    pub(crate) fn protocol(self) -> &'static str {
        match self {
            Self::Echo => "tcp",
            Self::Mysql => "mysql",
            Self::Postgres => "postgres",
        }
    }

    /// The bytes in front of the 16 bytes. MySQL: length, number, COM_QUERY. PostgreSQL: Query and its length.
    pub(crate) fn asking(self) -> &'static [u8] {
        match self {
            Self::Echo => &[],
            Self::Mysql => &[17, 0, 0, 0, 3],
            Self::Postgres => &[b'Q', 0, 0, 0, 20],
        }
    }

    /// The bytes in front of the key and the 16 bytes.
    pub(crate) fn answering(self) -> &'static [u8] {
        match self {
            Self::Echo => &[],
            Self::Mysql => &[17, 0, 0, 1],
            Self::Postgres => &[b'D', 0, 0, 0, 21],
        }
    }

    /// The client's login on the plaintext hop.
    pub(crate) fn log_in(self, stream: &mut (impl Read + Write)) -> io::Result<Login> {
        match self {
            Self::Echo => Ok(Login::Done),
            Self::Mysql => {
                // The greeting, or an error in its place.
                let greeting = mysql_packet(stream)?.1;
                if greeting.first() != Some(&10) {
                    return Ok(Login::refused(&greeting));
                }
                stream.write_all(&mysql(1, MYSQL_LOGIN))?;
                let answer = mysql_packet(stream)?.1;
                Ok(if answer.first() == Some(&0) { Login::Done } else { Login::refused(&answer) })
            }
            Self::Postgres => {
                stream.write_all(POSTGRES_STARTUP)?;
                loop {
                    match postgres_message(stream)? {
                        (b'Z', _) => return Ok(Login::Done),
                        (b'E', words) => return Ok(Login::refused(&words)),
                        _ => {}
                    }
                }
            }
        }
    }

    /// The endpoint's messages before TLS.
    pub(crate) fn upgrade(self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        match self {
            Self::Echo => Ok(()),
            Self::Mysql => {
                stream.write_all(&mysql(0, MYSQL_GREETING))?;
                let (_, request) = mysql_packet(stream)?;
                let asks = request.len() == 32 && request[1] & SSL != 0;
                if asks { Ok(()) } else { Err(io::Error::other("no request for TLS")) }
            }
            Self::Postgres => {
                let mut request = [0; 8];
                stream.read_exact(&mut request)?;
                if request[4..] != [0x04, 0xD2, 0x16, 0x2F] {
                    return Err(io::Error::other("no SSLRequest"));
                }
                stream.write_all(b"S")
            }
        }
    }

    /// The endpoint's side of the login, over TLS.
    pub(crate) fn let_in(self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        match self {
            Self::Echo => Ok(()),
            Self::Mysql => {
                let (sequence, _) = mysql_packet(stream)?;
                stream.write_all(&mysql(sequence.wrapping_add(1), b"\0\0\0\x02\0\0\0"))?;
                stream.flush()
            }
            Self::Postgres => {
                let mut length = [0; 4];
                stream.read_exact(&mut length)?;
                let rest = (u32::from_be_bytes(length) as usize).saturating_sub(4).min(LONGEST);
                stream.read_exact(&mut vec![0; rest])?;
                stream.write_all(POSTGRES_WELCOME)?;
                stream.flush()
            }
        }
    }
}

impl Login {
    /// ambassador's refusals begin with the outcome.
    fn refused(words: &[u8]) -> Self {
        const BROKEN: &[u8] = b"upstream_reset";
        let is_broken = words.windows(BROKEN.len()).any(|part| part == BROKEN);
        if is_broken { Self::Broken } else { Self::Refused }
    }
}

/// More than any message of a login here.
const LONGEST: usize = 4096;

/// HandshakeV10: version, thread, half a scramble, capabilities, character set, status, the rest of both, plugin.
const MYSQL_GREETING: &[u8] = b"\x0a8.4.0\0\x07\0\0\0ABCDEFGH\0\xff\xff\x2d\x02\0\xff\xdf\x15\0\0\0\0\0\0\0\0\0\0IJKLMNOPQRST\0mysql_native_password\0";

/// HandshakeResponse41 of `chaos` with a proof that is not verified: capabilities (LONG_PASSWORD, PROTOCOL_41,
/// SECURE_CONNECTION, PLUGIN_AUTH), the largest packet, the character set, 23 zero bytes, name, proof, plugin.
const MYSQL_LOGIN: &[u8] = b"\x01\x82\x08\x00\0\0\0\x01\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0chaos\0\x05proofmysql_native_password\0";

const POSTGRES_STARTUP: &[u8] = b"\0\0\0\x14\0\x03\0\0user\0chaos\0\0";

/// AuthenticationOk, BackendKeyData, ReadyForQuery.
const POSTGRES_WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x2a\x01\x02\x03\x04Z\0\0\0\x05I";

fn mysql(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let [low, middle, high, ..] = payload.len().to_le_bytes();
    [&[low, middle, high, sequence], payload].concat()
}

fn mysql_packet(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
    let mut payload = vec![0; length.min(LONGEST)];
    stream.read_exact(&mut payload)?;
    Ok((head[3], payload))
}

fn postgres_message(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let mut body = vec![0; length.saturating_sub(4).min(LONGEST)];
    stream.read_exact(&mut body)?;
    Ok((head[0], body))
}
