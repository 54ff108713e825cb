//! The login of a client whose session we have signed in already: it may send any name and password, and is taken at its
//! word. Whatever belongs to no login ends the dialogue and goes to the server as it is, so a client may also skip it.

use std::fmt;

use zeroize::Zeroizing;

use super::{Dialogue, DialogueError, Outbox, ReplyTo};

/// The most that is held of one command, or of one line of the server.
const HELD_MAX: usize = 16 * 1024;
/// Commands before the login, and the cancelled ones; clients have a handful.
const COMMANDS_MAX: u32 = 64;
/// The most that is repeated of the server's capabilities.
pub(super) const CAPABILITIES_MAX: usize = 3 * 1024;

/// One protocol's part of [`ClientLogin`].
pub(super) trait ClientDialogue: fmt::Debug + Send {
    /// The client's bytes that have not been taken yet, never none.
    ///
    /// # Errors
    /// The reason why they cannot be served.
    fn hear(&mut self, held: &[u8]) -> Result<ClientProgress, &'static str>;
}

/// What the client's bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClientProgress {
    /// Incomplete.
    More,
    /// The first `taken` bytes are answered with these words.
    Answer { taken: usize, words: Vec<u8> },
    /// The same, and the login is over.
    LoggedIn { taken: usize, words: Vec<u8> },
    /// They are for the server, from the first on.
    PassOn,
}

/// Answers the client's login.
pub(super) struct ClientLogin {
    dialogue: Box<dyn ClientDialogue>,
    client: Zeroizing<Vec<u8>>,
    /// The server's unfinished line: our answers must not get into it.
    server: Vec<u8>,
    commands: u32,
    is_over: bool,
}

impl fmt::Debug for ClientLogin {
    /// Without what the client has sent: its password may be a real one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientLogin")
            .field("dialogue", &self.dialogue)
            .field("is_over", &self.is_over)
            .finish_non_exhaustive()
    }
}

impl ClientLogin {
    /// `server`: what the server has sent of a line.
    pub(super) fn new(dialogue: Box<dyn ClientDialogue>, server: &[u8]) -> Self {
        let server = server.to_vec();
        Self { dialogue, client: Zeroizing::default(), server, commands: 0, is_over: false }
    }

    fn end(&mut self, out: &mut Outbox) {
        self.is_over = true;
        out.to_upstream.append(&mut self.client);
        out.to_downstream.append(&mut self.server);
    }
}

const fn of_client(reason: &'static str) -> DialogueError {
    DialogueError::of_client(reason, ReplyTo::WELCOMED)
}

impl Dialogue for ClientLogin {
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        self.client.extend_from_slice(bytes);
        while !self.is_over && !self.client.is_empty() {
            match self.dialogue.hear(&self.client).map_err(of_client)? {
                ClientProgress::More if self.client.len() > HELD_MAX => {
                    return Err(of_client("the client's login is longer than 16 KiB"));
                }
                ClientProgress::More => return Ok(()),
                ClientProgress::Answer { taken, words } => {
                    self.commands += 1;
                    if self.commands > COMMANDS_MAX {
                        return Err(of_client("the client sent more than 64 commands before a login"));
                    }
                    self.client.drain(..taken);
                    out.to_downstream.extend(words);
                }
                ClientProgress::LoggedIn { taken, words } => {
                    self.client.drain(..taken);
                    out.to_downstream.extend(words);
                    self.end(out);
                }
                ClientProgress::PassOn => self.end(out),
            }
        }
        if self.is_over {
            out.to_upstream.append(&mut self.client);
        }
        Ok(())
    }

    /// Whole lines are the client's: a server may end an idle session with one.
    fn on_upstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        self.server.extend_from_slice(bytes);
        let whole = match self.is_over {
            true => self.server.len(),
            false => self.server.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1),
        };
        out.to_downstream.extend(self.server.drain(..whole));
        if self.server.len() > HELD_MAX {
            let reason = "the server sent a line of more than 16 KiB before the client's first command";
            return Err(DialogueError::of_server(reason, ReplyTo::WELCOMED));
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.is_over
    }
}

/// The first line, without its end, and the number of its bytes with it.
pub(super) fn first_line(held: &[u8]) -> Option<(&[u8], usize)> {
    let end = held.iter().position(|byte| *byte == b'\n')?;
    let line = &held[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

/// The length of the first word, which has at most `most` bytes.
///
/// # Errors
/// It may go on, or is longer and so for the server.
pub(super) fn first_word(held: &[u8], most: usize) -> Result<usize, ClientProgress> {
    match held.iter().take(most + 1).position(|byte| matches!(byte, b' ' | b'\r' | b'\n')) {
        Some(end) => Ok(end),
        None if held.len() > most => Err(ClientProgress::PassOn),
        None => Err(ClientProgress::More),
    }
}
