//! From the server's first message to its first ReadyForQuery: the SASL offer, the client's answer to it, and the
//! cancel key.

use super::{HEAD, be_u32, not_now};
use crate::protocol::{CancelKey, Dialogue, DialogueError, Outbox, ReplyTo, TurnedAway};

/// Follows the server's messages until it is ready for queries. It removes SCRAM-SHA-256-PLUS from the offer and
/// remembers the cancel key.
///
/// On a connection without TLS, such as the client's to us, libpq refuses the whole offer if it contains that name,
/// whatever `channel_binding` is set to.
#[derive(Debug)]
pub(super) struct Startup {
    strips_plus: bool,
    server: Server,
    pub(super) client: Client,
    cancel_key: Option<CancelKey>,
    refused: Option<TurnedAway>,
}

/// The position in the server's stream of messages.
#[derive(Debug)]
enum Server {
    /// The head of a message, as far as it was received.
    Head(Vec<u8>),
    /// The rest of a message that is passed on unchanged.
    Passing { left: usize, is_last: bool },
    /// A message that is buffered until it is complete; `length` is its total length.
    Collecting { message: Vec<u8>, length: usize },
    /// Nothing is left to rewrite.
    Finished,
}

/// What is expected of the client's login.
#[derive(Debug)]
pub(super) enum Client {
    /// Nothing to examine, or no longer.
    Passing,
    /// PLUS was removed from the offer: the client's answer, buffered until it shows the gs2 flag.
    Answering(Vec<u8>),
}

/// The longest SASL offer that is buffered; libpq refuses one over 2,000 bytes.
const OFFER_MAX: usize = 64 * 1024;
/// The longest BackendKeyData that is remembered: process id and a key of 4 to 256 bytes.
const KEY_MAX: usize = 4 + 4 + 256;
/// The longest error that is read; others are passed on unread. What ends a login is short.
const ERROR_MAX: usize = 8 * 1024;

impl Startup {
    pub(super) const fn new(strips_plus: bool) -> Self {
        Self {
            strips_plus,
            server: Server::Head(Vec::new()),
            client: Client::Passing,
            cancel_key: None,
            refused: None,
        }
    }

    /// Decides what to do with a message by its complete head.
    fn message_begins(&self, head: Vec<u8>, out: &mut Vec<u8>) -> Result<Server, DialogueError> {
        let length = be_u32(&head, 1).unwrap_or_default() as usize;
        if length < 4 {
            return Err(of_server("the server sent a message with an impossible length"));
        }
        let is_collected = match head[0] {
            b'R' if !(8..=OFFER_MAX).contains(&length) => {
                return Err(of_server("the server sent an authentication request with an impossible length"));
            }
            b'R' => true,
            b'K' => (12..=KEY_MAX).contains(&length),
            b'E' => (HEAD..=ERROR_MAX).contains(&length),
            _ => false,
        };
        if is_collected {
            return Ok(Server::Collecting { message: head, length: length + 1 });
        }
        out.extend_from_slice(&head);
        Ok(Server::Passing { left: length - 4, is_last: head[0] == b'Z' })
    }

    fn finish_message(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), DialogueError> {
        let first = be_u32(message, HEAD).unwrap_or_default();
        if message[0] == b'E' {
            self.refused = not_now(&message[HEAD..]);
        } else if message[0] == b'K' {
            self.cancel_key = Some(CancelKey { process: first, secret: message[HEAD + 4..].into() });
        } else if first == AUTHENTICATION_SASL && self.strips_plus {
            let rewritten = without_plus(message)?;
            if rewritten.len() < message.len() {
                self.client = Client::Answering(Vec::new());
            }
            out.extend_from_slice(&rewritten);
            return Ok(());
        }
        out.extend_from_slice(message);
        Ok(())
    }
}

impl Dialogue for Startup {
    /// A gs2 flag `y` means that the client could bind the channel and believes that the server cannot. The server can,
    /// sees a downgrade attack (RFC 5802 §6), and would refuse with an unhelpful error. The flag is part of the
    /// client's proof, so it cannot be corrected on the way.
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        let Client::Answering(held) = &mut self.client else {
            out.to_upstream.extend_from_slice(bytes);
            return Ok(());
        };
        held.extend_from_slice(bytes);
        match gs2_flag(held) {
            Gs2::Incomplete => return Ok(()),
            Gs2::CouldBind => {
                return Err(DialogueError::of_client(
                    "the client's login says that it could bind to a TLS channel (gs2 flag `y`), which the server takes \
                     for an attack; set `Channel Binding=Disable` in the client (Npgsql) and `scram_plus: keep` in \
                     the cluster, or leave `enableChannelBinding` off (node-postgres)",
                    ReplyTo::default(),
                ));
            }
            Gs2::Other => out.to_upstream.append(held),
        }
        self.client = Client::Passing;
        Ok(())
    }

    fn on_upstream(&mut self, mut bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        let out = &mut out.to_downstream;
        while !bytes.is_empty() {
            self.server = match std::mem::replace(&mut self.server, Server::Finished) {
                Server::Head(mut head) => {
                    bytes = take(bytes, HEAD - head.len(), &mut head);
                    if head.len() == HEAD { self.message_begins(head, out)? } else { Server::Head(head) }
                }
                Server::Passing { left, is_last } => {
                    let before = out.len();
                    bytes = take(bytes, left, out);
                    match left - (out.len() - before) {
                        0 if is_last => Server::Finished,
                        0 => Server::Head(Vec::new()),
                        left => Server::Passing { left, is_last },
                    }
                }
                Server::Collecting { mut message, length } => {
                    bytes = take(bytes, length - message.len(), &mut message);
                    if message.len() == length {
                        self.finish_message(&message, out)?;
                        Server::Head(Vec::new())
                    } else {
                        Server::Collecting { message, length }
                    }
                }
                Server::Finished => {
                    out.extend_from_slice(bytes);
                    return Ok(());
                }
            };
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        matches!((&self.server, &self.client), (Server::Finished, Client::Passing))
    }

    fn cancel_key(&mut self) -> Option<CancelKey> {
        self.cancel_key.take()
    }

    fn refused(&self) -> Option<&TurnedAway> {
        self.refused.as_ref()
    }
}

/// What a client's SASLInitialResponse says about channel binding.
enum Gs2 {
    Incomplete,
    CouldBind,
    Other,
}

/// `p`, length, mechanism and NUL, length of the answer, then the gs2 header. Other messages are not examined, and one
/// that ends before the flag is passed on unchanged.
fn gs2_flag(bytes: &[u8]) -> Gs2 {
    const MECHANISM_MAX: usize = 64;
    if bytes.first().is_some_and(|kind| *kind != b'p') {
        return Gs2::Other;
    }
    let Some(length) = be_u32(bytes, 1) else { return Gs2::Incomplete };
    let came = &bytes[HEAD..];
    let body = &came[..came.len().min((length as usize).saturating_sub(4))];
    let is_whole = bytes.len() > length as usize;
    let not_yet = if is_whole { Gs2::Other } else { Gs2::Incomplete };
    let Some(end) = body.iter().take(MECHANISM_MAX).position(|byte| *byte == 0) else {
        return if body.len() < MECHANISM_MAX { not_yet } else { Gs2::Other };
    };
    match (body[..end].starts_with(b"SCRAM-"), body.get(end + 5)) {
        (true, None) => not_yet,
        (true, Some(b'y')) => Gs2::CouldBind,
        _ => Gs2::Other,
    }
}

const fn of_server(reason: &'static str) -> DialogueError {
    DialogueError::of_server(reason, ReplyTo([0; 8]))
}

/// Moves at most `most` bytes to `to`. Returns the rest.
fn take<'a>(bytes: &'a [u8], most: usize, to: &mut Vec<u8>) -> &'a [u8] {
    let (taken, left) = bytes.split_at(most.min(bytes.len()));
    to.extend_from_slice(taken);
    left
}

pub(super) const AUTHENTICATION_SASL: u32 = 10;

/// The offer without the mechanisms that bind to a TLS channel, which the client does not have.
pub(super) fn without_plus(message: &[u8]) -> Result<Vec<u8>, DialogueError> {
    const MALFORMED: DialogueError = of_server("the server's list of logins (SASL) is malformed");
    let names = message[HEAD + 4..].strip_suffix(&[0]).ok_or(MALFORMED)?;
    let mut rewritten = message[..HEAD + 4].to_vec();
    for name in names.split_inclusive(|byte| *byte == 0) {
        match name.strip_suffix(&[0]) {
            None | Some([]) => return Err(MALFORMED),
            Some(mechanism) if mechanism.ends_with(b"-PLUS") => {}
            Some(_) => rewritten.extend_from_slice(name),
        }
    }
    if rewritten.len() == HEAD + 4 {
        return Err(of_server(
            "the server offers only logins that are bound to the TLS channel (SCRAM-SHA-256-PLUS), which a \
             client on a plaintext hop cannot make",
        ));
    }
    rewritten.push(0);
    let length = u32::try_from(rewritten.len() - 1).expect("an offer is bounded by OFFER_MAX");
    rewritten[1..HEAD].copy_from_slice(&length.to_be_bytes());
    Ok(rewritten)
}
