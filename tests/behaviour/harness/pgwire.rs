//! The part of PostgreSQL's protocol that the tests speak by hand, on either side: first packets, messages, errors,
//! and servers that misbehave in ways that no real one can be made to.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Ambassador, Client, Config, Conn, End, Pki, ServerTls, Upstream};

pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F];
pub(crate) const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x30];
pub(crate) const AUTHENTICATION_OK: [u8; 9] = [b'R', 0, 0, 0, 8, 0, 0, 0, 0];
pub(crate) const READY_FOR_QUERY: [u8; 6] = [b'Z', 0, 0, 0, 5, b'I'];
/// The fatal handshake_failure that tells a TLS client that this port does not accept it.
pub(crate) const TLS_ALERT: [u8; 7] = [0x15, 3, 1, 0, 2, 2, 40];

/// The messages of a fake server after a successful login.
pub(crate) fn welcome() -> Vec<u8> {
    [&AUTHENTICATION_OK[..], &[b'K', 0, 0, 0, 12, 0, 0, 0, 42, 1, 2, 3, 4], &READY_FOR_QUERY].concat()
}

pub(crate) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = vec![0, 3, 0, 0];
    for (name, value) in parameters {
        body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).expect("a short packet");
    [&length.to_be_bytes()[..], &body].concat()
}

pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// AuthenticationSASL with these mechanisms.
pub(crate) fn sasl_offer(mechanisms: &[&str]) -> Vec<u8> {
    let names: String = mechanisms.iter().map(|name| format!("{name}\0")).collect();
    message(b'R', &[&[0, 0, 0, 10][..], names.as_bytes(), &[0]].concat())
}

/// An ErrorResponse as a client reads it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) severity: String,
    pub(crate) sqlstate: String,
    pub(crate) text: String,
}

impl Refusal {
    /// The session id, which the text has as `[session 0123456789abcdef]`.
    #[track_caller]
    pub(crate) fn session(&self) -> &str {
        let id =
            self.text.split_once("[session ").and_then(|(_, rest)| rest.split_once(']')).map(|(id, _)| id);
        let id = id.unwrap_or_else(|| panic!("no session id in {:?}", self.text));
        assert!(
            id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{id:?} is not 16 hex characters"
        );
        id
    }
}

#[track_caller]
pub(crate) fn read_message(client: &mut Client) -> (u8, Vec<u8>) {
    let head = client.receive(5);
    let length = u32::from_be_bytes(head[1..5].try_into().expect("four bytes"));
    let rest = usize::try_from(length)
        .ok()
        .and_then(|length| length.checked_sub(4))
        .expect("a length that counts itself");
    (head[0], client.receive(rest))
}

/// Reads the ErrorResponse that a refused client gets, and the orderly end after it: a reset could overtake the
/// message.
#[track_caller]
pub(crate) fn read_refusal(client: &mut Client) -> Refusal {
    let (kind, body) = read_message(client);
    assert_eq!(char::from(kind), 'E', "an ErrorResponse was due");
    let mut fields = BTreeMap::new();
    for field in body.split(|byte| *byte == 0).filter(|field| !field.is_empty()) {
        fields.insert(char::from(field[0]), String::from_utf8_lossy(&field[1..]).into_owned());
    }
    let mut field =
        |name| fields.remove(&name).unwrap_or_else(|| panic!("the ErrorResponse lacks field {name}"));
    let refusal = Refusal { severity: field('S'), sqlstate: field('C'), text: field('M') };
    assert_eq!(client.ending(), End::Orderly, "after its refusal a client gets a FIN");
    refusal
}

/// The server's half of SSLRequest → S → handshake. `None` if the client stopped; the notes have the reason.
pub(crate) async fn accept_ssl(mut conn: Conn, config: Arc<ServerConfig>) -> Option<Conn> {
    read_ssl_request(&mut conn).await?;
    conn.write_all(b"S").await.ok()?;
    conn.start_tls(config).await
}

/// Reads the SSLRequest that must open every connection of ours, and nothing more.
pub(crate) async fn read_ssl_request(conn: &mut Conn) -> Option<()> {
    let mut request = [0; 8];
    if let Err(error) = conn.read_exact(&mut request).await {
        conn.note(format!("no SSLRequest: {error}"));
        return None;
    }
    if request != SSL_REQUEST {
        conn.note(format!("not an SSLRequest: {request:x?}"));
        return None;
    }
    conn.note("SSLRequest");
    Some(())
}

/// Reads the StartupMessage and notes its parameters: `startup user=app database=postgres`.
pub(crate) async fn read_startup(conn: &mut Conn) -> Option<()> {
    let length = usize::try_from(conn.read_u32().await.ok()?).ok()?.checked_sub(4)?;
    let mut body = vec![0; length];
    conn.read_exact(&mut body).await.ok()?;
    let words: Vec<_> = body.get(4..)?.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let pairs: Vec<_> =
        words.chunks(2).filter(|pair| !pair[0].is_empty()).map(|pair| pair.join("=")).collect();
    conn.note(format!("startup {}", pairs.join(" ")));
    Some(())
}

/// A server that accepts TLS and a StartupMessage, sends `reply` and then echoes.
pub(crate) async fn login(conn: Conn, config: Arc<ServerConfig>, reply: Vec<u8>) {
    let Some(mut conn) = accept_ssl(conn, config).await else { return };
    if read_startup(&mut conn).await.is_some()
        && conn.write_all(&reply).await.is_ok()
        && conn.flush().await.is_ok()
    {
        super::roles::echo(conn).await;
    }
}

/// A PKI, a server config and an ambassador for a PostgreSQL cluster with one upstream.
pub(crate) struct World {
    pub(crate) pki: Pki,
    pub(crate) tls: Arc<ServerConfig>,
}

impl World {
    pub(crate) fn new() -> Self {
        let pki = Pki::new();
        let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).alpn(&["postgresql"]).build();
        Self { pki, tls }
    }

    pub(crate) fn ambassador(&self, upstream: &Upstream) -> Ambassador {
        self.ambassador_to(&upstream.address())
    }

    pub(crate) fn ambassador_to(&self, address: &str) -> Ambassador {
        let connect = "connect: { attempts: 1, handshake_timeout: 500ms }";
        Ambassador::start(&Config::postgres(
            &[address],
            &format!("tls: {{ ca: {} }}\n{connect}", self.pki.ca().display()),
        ))
    }

    /// A server that accepts every login and sends `reply` first.
    pub(crate) fn server(&self, reply: Vec<u8>) -> Upstream {
        let tls = self.tls.clone();
        Upstream::plain(move |conn| login(conn, tls.clone(), reply.clone()))
    }
}

pub(crate) fn app_startup() -> Vec<u8> {
    startup(&[("user", "app"), ("database", "postgres")])
}
