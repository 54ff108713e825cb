//! NATS: the server's INFO comes in plaintext, and TLS follows at once. The client gets only the fields of INFO that
//! are known to be harmless, so that it does not connect past us, and its CONNECT gets `"protocol":0`, so that the
//! server sends no further INFO.
//!
//! Sources: docs.nats.io, "NATS Protocol"; createClientEx and processPing in nats-server's server/server.go and
//! client.go (since 2.12 a client of protocol 1 gets an INFO with the cluster's addresses after its first PONG);
//! checkForSecure in nats.go (a client with tls_required begins TLS by itself).

mod login;
mod nkey;

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value};

pub use nkey::nkey_credentials;

use super::lines::{
    LineDialogue, LineExchange, LineProbe, LineStep, ProbeReply, StartTls, begins_with, foreign,
};
use super::{
    Dialogue, DialogueError, FirstWords, Login, LoginContext, Outbox, Probe, Protocol, Refusal, ReplyTo,
    SecretKind, TurnedAway, Upgrade, UpgradeError,
};

#[derive(Debug)]
pub(super) struct Nats;

impl Protocol for Nats {
    fn label(&self) -> &'static str {
        "nats"
    }

    fn recognize(&self, first: &[u8]) -> Option<&'static str> {
        first.starts_with(b"INFO {").then_some("it greets as servers of nats do")
    }

    fn server_greets(&self) -> bool {
        true
    }

    /// The server does not wait for anything before it.
    fn greeting_timeout(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        Some(Box::new(StartTls::new(Info::default())))
    }

    /// A server that has no room (`maximum connections exceeded`) finds that after its greeting, and tells the client
    /// itself.
    fn first_words(&self) -> FirstWords {
        FirstWords::Nothing
    }

    fn parse_refusal(&self, plaintext: &[u8]) -> Option<TurnedAway> {
        let line = plaintext.split(|byte| *byte == b'\n').next()?.trim_ascii_end();
        begins_with(line, "-ERR").then(|| error(line))
    }

    /// If INFO comes after TLS (`handshake_first`), or without TLS.
    fn dialogue(&self) -> Option<Box<dyn Dialogue>> {
        Some(Box::new(Rewriting::new(Server::Info(Vec::new()), CONNECT_OF_ALL)))
    }

    /// Our own refusal has no INFO before it: a client takes INFO for a usable server, and nats.js would then wait 20 s
    /// for its PONG, whatever comes. Without INFO it tries its next server at once, and so do others. A server's
    /// refusal does follow an INFO, as it does from the server, and some clients have a name for its error.
    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        // After some errors of a server clients give up for good (`Authorization Violation`).
        let refusal =
            &refusal.filtered(|by| by.words.to_ascii_lowercase().starts_with("maximum connections"));
        let words = refusal.sentence().replace('\'', "\"");
        let info = match refusal.reply_to {
            ReplyTo([0, ..]) if refusal.server.is_some() => {
                "INFO {\"server_id\":\"ambassador\",\"server_name\":\"ambassador\",\"version\":\"0.0.0\",\
                 \"proto\":0,\"headers\":true,\"max_payload\":1048576} \r\n"
            }
            _ => "",
        };
        Some(format!("{info}-ERR '{words}'\r\n").into_bytes())
    }

    fn login_secrets(&self) -> &'static [SecretKind] {
        &[SecretKind::Password, SecretKind::LoneToken, SecretKind::Nkey, SecretKind::Certificate]
    }

    /// `verify_and_map`.
    fn certificate_names_user(&self) -> bool {
        true
    }

    fn login(&self, context: LoginContext<'_>) -> Option<Box<dyn Login>> {
        Some(Box::new(login::ConnectLogin::new(context)))
    }

    fn probe(&self, upgraded: bool) -> Option<Box<dyn Probe>> {
        let greeting: fn(&[u8]) -> ProbeReply =
            |line| if begins_with(line, "INFO") { ProbeReply::Good } else { ProbeReply::Bad };
        // A server that demands a login sends an error, which proves as much as PONG.
        let ping = LineExchange {
            say: Cow::Borrowed(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":0}\r\nPING\r\n"),
            judge: |line| {
                let is_denied = begins_with(line, "-ERR 'Authorization Violation")
                    || begins_with(line, "-ERR 'Authentication");
                match line {
                    b"PONG" => ProbeReply::Good,
                    _ if is_denied => ProbeReply::Good,
                    _ if begins_with(line, "INFO") => ProbeReply::More,
                    _ => ProbeReply::Bad,
                }
            },
        };
        Some(LineProbe::boxed((!upgraded).then_some(greeting), Some(ping), b""))
    }
}

/// The longest INFO or CONNECT. A cluster's addresses make INFO long.
const LINE_MAX: usize = 64 * 1024;

/// The fields of INFO that are passed on, with their types. Everything else is left out: fields that would make a
/// client begin TLS, that lead to servers without us, that concern only the server's operator, and those of later
/// versions. Clients read keys less strictly than they are written here, so a list of forbidden ones would never be
/// complete.
const PASSED: [(&str, JsonKind); 14] = [
    ("server_id", JsonKind::Text),
    ("server_name", JsonKind::Text),
    ("version", JsonKind::Text),
    ("proto", JsonKind::Number),
    ("go", JsonKind::Text),
    ("headers", JsonKind::Flag),
    ("auth_required", JsonKind::Flag),
    ("max_payload", JsonKind::Number),
    ("jetstream", JsonKind::Flag),
    ("client_id", JsonKind::Number),
    ("client_ip", JsonKind::Text),
    ("nonce", JsonKind::Text),
    ("cluster", JsonKind::Text),
    ("domain", JsonKind::Text),
];

/// The type of a value; none is nested.
#[derive(Debug, Clone, Copy)]
enum JsonKind {
    Text,
    Number,
    Flag,
}

impl JsonKind {
    fn is_of(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Number => value.is_i64() || value.is_u64(),
            Self::Flag => value.is_boolean(),
        }
    }
}

/// INFO for the client, made anew. One from before TLS is not authenticated, yet some of it is passed on: the server
/// sends it only once, and a client signs its nonce. A forged one can only make a login fail, because the signature
/// goes to the verified server.
fn info_for_client(line: &[u8]) -> Option<Vec<u8>> {
    let info = line.strip_prefix(b"INFO ").or_else(|| line.strip_prefix(b"INFO\t"))?;
    let mut said: Map<String, Value> = serde_json::from_slice(info).ok()?;
    let mut info = Map::new();
    for (key, kind) in PASSED {
        if let Some(value) = said.remove(key).filter(|value| kind.is_of(value)) {
            info.insert(key.into(), value);
        }
    }
    let info = serde_json::to_string(&info).ok()?;
    Some(format!("INFO {info} \r\n").into_bytes())
}

/// Reads INFO before TLS.
#[derive(Debug, Default)]
struct Info {
    for_client: Vec<u8>,
}

fn error(line: &[u8]) -> TurnedAway {
    let words = line.get("-ERR".len()..).unwrap_or_default().trim_ascii();
    let words = words.strip_prefix(b"'").unwrap_or(words);
    TurnedAway::new("NATS -ERR", None, words.strip_suffix(b"'").unwrap_or(words))
}

impl LineDialogue for Info {
    fn line(&mut self, line: &[u8]) -> Result<LineStep, UpgradeError> {
        const MALFORMED: UpgradeError = UpgradeError::Unsuitable("the server's INFO is malformed");
        if begins_with(line, "-ERR") {
            return Err(error(line).into());
        }
        if !begins_with(line, "INFO") {
            return Err(foreign("NATS", line));
        }
        let said: Value = serde_json::from_slice(line.get(4..).unwrap_or_default()).map_err(|_| MALFORMED)?;
        let offers = |key: &str| said.get(key).and_then(Value::as_bool) == Some(true);
        if !offers("tls_required") && !offers("tls_available") {
            return Err(UpgradeError::NotOffered("tls_required or tls_available"));
        }
        self.for_client = info_for_client(line).ok_or(MALFORMED)?;
        Ok(LineStep::Tls)
    }

    fn welcome(&self) -> Vec<u8> {
        self.for_client.clone()
    }

    fn left_over(&self, rest: &[u8]) -> UpgradeError {
        Nats.parse_refusal(rest).map_or(UpgradeError::PlaintextAfterUpgrade, UpgradeError::from)
    }

    fn dialogue(&self) -> Option<Box<dyn Dialogue>> {
        Some(Box::new(Rewriting::new(Server::Passing, CONNECT_OF_ALL)))
    }
}

/// Rewrites the first line of each side.
#[derive(Debug)]
struct Rewriting {
    server: Server,
    client: Client,
    /// The options that are taken out of the client's CONNECT, in lower case.
    removed: &'static [&'static str],
}

/// What is taken out of every CONNECT.
const CONNECT_OF_ALL: &[&str] = &[];

impl Rewriting {
    const fn new(server: Server, removed: &'static [&'static str]) -> Self {
        Self { server, client: Client::Connect(Vec::new()), removed }
    }
}

/// The server's INFO, if it was not read before TLS.
#[derive(Debug)]
enum Server {
    Info(Vec<u8>),
    Passing,
}

/// How far the client's first line, its CONNECT, is read.
#[derive(Debug)]
enum Client {
    Connect(Vec<u8>),
    Passing,
}

/// The client has received INFO.
const INFORMED: ReplyTo = ReplyTo::WELCOMED;

impl Dialogue for Rewriting {
    /// A client that sends another command first (PING, as telnet users do) is not rewritten: the server answers it.
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        let Client::Connect(held) = &mut self.client else {
            out.to_upstream.extend_from_slice(bytes);
            return Ok(());
        };
        let before = held.len();
        held.extend_from_slice(bytes);
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n').map(|end| before + end) else {
            return if held.len() > LINE_MAX {
                Err(DialogueError::of_client("the client's CONNECT is longer than 64 KiB", INFORMED))
            } else {
                Ok(())
            };
        };
        let (line, rest) = held.split_at(end + 1);
        match connect_without_async_info(line, self.removed) {
            Some(connect) => out.to_upstream.extend(connect),
            None => out.to_upstream.extend_from_slice(line),
        }
        out.to_upstream.extend_from_slice(rest);
        self.client = Client::Passing;
        Ok(())
    }

    fn on_upstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        let Server::Info(held) = &mut self.server else {
            out.to_downstream.extend_from_slice(bytes);
            return Ok(());
        };
        let before = held.len();
        held.extend_from_slice(bytes);
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n').map(|end| before + end) else {
            return if held.len() > LINE_MAX {
                Err(DialogueError::of_server("the server's INFO is longer than 64 KiB", ReplyTo::default()))
            } else {
                Ok(())
            };
        };
        let (line, rest) = held.split_at(end + 1);
        let info = info_for_client(line).ok_or_else(|| {
            DialogueError::of_server("the server's first line is no INFO", ReplyTo::default())
        })?;
        out.to_downstream.extend(info);
        out.to_downstream.extend_from_slice(rest);
        self.server = Server::Passing;
        Ok(())
    }

    fn is_finished(&self) -> bool {
        matches!((&self.server, &self.client), (Server::Passing, Client::Passing))
    }
}

/// The client's options, with `"protocol":0`, and without those.
fn connect_without_async_info(line: &[u8], removed: &[&str]) -> Option<Vec<u8>> {
    let (command, options) = line.split_at_checked("CONNECT ".len())?;
    if !command.trim_ascii().eq_ignore_ascii_case(b"CONNECT") {
        return None;
    }
    let mut options: Map<String, Value> = serde_json::from_slice(options).ok()?;
    // Servers read keys in any case, and the last one counts.
    options.retain(|key, _| key == "protocol" || !key.eq_ignore_ascii_case("protocol"));
    options.retain(|key, _| !removed.iter().any(|removed| key.eq_ignore_ascii_case(removed)));
    options.insert("protocol".into(), 0.into());
    let options = serde_json::to_string(&options).ok()?;
    Some(format!("CONNECT {options}\r\n").into_bytes())
}

#[cfg(test)]
mod tests;
