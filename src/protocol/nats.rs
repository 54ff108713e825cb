//! NATS: the server's INFO comes in plaintext, TLS follows at once; of INFO the client gets what is known to be harmless, so
//! that nothing leads it past us, and its CONNECT says `"protocol":0`, so that the server sends no other INFO later.
//!
//! Sources: docs.nats.io, "NATS Protocol"; createClientEx and processPing in nats-server's server/server.go and client.go
//! (since 2.12 a client of protocol 1 gets an INFO with the cluster's addresses behind its first PONG); checkForSecure in
//! nats.go (a client with tls_required begins TLS by itself).

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value};

use super::lines::{
    LineDialogue, LineExchange, LineProbe, LineStep, ProbeReply, StartTls, begins_with, foreign,
};
use super::{
    Dialogue, DialogueError, FirstWords, Outbox, Probe, Protocol, Refusal, ReplyTo, TurnedAway, Upgrade,
    UpgradeError,
};

/// NATS' client protocol.
#[derive(Debug)]
pub(super) struct Nats;

impl Protocol for Nats {
    fn label(&self) -> &'static str {
        "nats"
    }

    fn server_greets(&self) -> bool {
        true
    }

    /// It waits for nobody.
    fn greeting_timeout(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        Some(Box::new(StartTls::new(Info::default())))
    }

    /// A server greets, then finds that it has no room (`maximum connections exceeded`).
    /// It says so behind a greeting, to its client.
    fn first_words(&self) -> FirstWords {
        FirstWords::Nothing
    }

    fn turned_away(&self, plaintext: &[u8]) -> Option<TurnedAway> {
        let line = plaintext.split(|byte| *byte == b'\n').next()?.trim_ascii_end();
        begins_with(line, "-ERR").then(|| error(line))
    }

    /// Where INFO comes behind TLS (`handshake_first`), or without any.
    fn dialogue(&self) -> Option<Box<dyn Dialogue>> {
        Some(Box::new(Rewriting { server: Server::Info(Vec::new()), client: Client::Connect(Vec::new()) }))
    }

    /// Without INFO in front: by one a client takes a server for found. nats.js, which then waits for its PONG until 20 s are over,
    /// whatever comes, goes on to its next server at once; others do, too. Where a server says no it has said INFO before, and
    /// some have a name for what it says then.
    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>> {
        // Clients give up for good after some of a server's errors (`Authorization Violation`).
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

    fn probe(&self, upgraded: bool) -> Option<Box<dyn Probe>> {
        let greeting: fn(&[u8]) -> ProbeReply =
            |line| if begins_with(line, "INFO") { ProbeReply::Good } else { ProbeReply::Bad };
        // Whoever has to log in is told so, which is an answer as good as PONG.
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

/// An INFO or a CONNECT. A cluster's addresses make the first one long.
const LINE_MAX: usize = 64 * 1024;

/// What a client may learn of a server, and as what. Everything else is left out: what would have it begin TLS, what leads to
/// servers without us, what only the server's operator wants to know, and whatever a later version adds. Clients do not read
/// keys as strictly as they are written here, so a list of what must not pass would never be complete.
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

/// What a value has to be. None of them holds others.
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

/// INFO for the client, made anew. Nobody has authenticated one that came before TLS, yet some of it is passed on: the server
/// says it once, and its nonce is what a client signs. A forged one can spoil a login, and no more: the signature goes to the
/// verified server.
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

/// INFO before TLS.
#[derive(Debug, Default)]
struct Info {
    for_client: Vec<u8>,
}

/// `-ERR 'words'`.
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
        Nats.turned_away(rest).map_or(UpgradeError::PlaintextAfterUpgrade, UpgradeError::from)
    }

    fn dialogue(&self) -> Option<Box<dyn Dialogue>> {
        Some(Box::new(Rewriting { server: Server::Passing, client: Client::Connect(Vec::new()) }))
    }
}

/// What is left to rewrite of either side: the first line of each.
#[derive(Debug)]
struct Rewriting {
    server: Server,
    client: Client,
}

/// The server's INFO, where it was not read before TLS.
#[derive(Debug)]
enum Server {
    Info(Vec<u8>),
    Passing,
}

/// The client's CONNECT.
#[derive(Debug)]
enum Client {
    Connect(Vec<u8>),
    Passing,
}

/// The client has had INFO.
const INFORMED: ReplyTo = ReplyTo::WELCOMED;

impl Dialogue for Rewriting {
    /// A client that says something else first (PING, as telnet users do) is let through: the server answers for itself.
    fn downstream_said(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
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
        match connect_without_async_info(line) {
            Some(connect) => out.to_upstream.extend(connect),
            None => out.to_upstream.extend_from_slice(line),
        }
        out.to_upstream.extend_from_slice(rest);
        self.client = Client::Passing;
        Ok(())
    }

    fn upstream_said(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
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

/// The client's options, with `"protocol":0`.
fn connect_without_async_info(line: &[u8]) -> Option<Vec<u8>> {
    let (command, options) = line.split_at_checked("CONNECT ".len())?;
    if !command.trim_ascii().eq_ignore_ascii_case(b"CONNECT") {
        return None;
    }
    let mut options: Map<String, Value> = serde_json::from_slice(options).ok()?;
    // Servers read keys in whatever case, and the last one counts.
    options.retain(|key, _| key == "protocol" || !key.eq_ignore_ascii_case("protocol"));
    options.insert("protocol".into(), 0.into());
    let options = serde_json::to_string(&options).ok()?;
    Some(format!("CONNECT {options}\r\n").into_bytes())
}

#[cfg(test)]
mod tests;
