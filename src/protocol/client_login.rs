//! The login of a client whose session we have signed in already: it is taken at its word, whatever name and password it
//! sends, or held to those of `login.client`. Whatever belongs to no login ends the dialogue and goes to the server as it
//! is, so a client that is taken at its word may also skip it; one that is held to its login gets nothing there before it.

use std::fmt;

use zeroize::Zeroizing;

use super::client_dialogue::{ClientDialogue, ClientProgress, NotLoggedIn, ReplyProgress};
use super::{Dialogue, DialogueError, Outbox, ReplyTo};

/// The most that is held of one command, or of one line of the server.
const HELD_MAX: usize = 16 * 1024;
/// The most of the client that waits for a reply of the server.
const WAITING_MAX: usize = 64 * 1024;
/// Commands before the login, and the cancelled ones; clients have a handful.
const COMMANDS_MAX: u32 = 64;
/// Wrong logins. Libraries try each mechanism that they know (smtplib two of ours), and a person twice.
const WRONG_MAX: u32 = 5;

/// Answers the client's login.
pub(super) struct ClientLogin {
    dialogue: Box<dyn ClientDialogue>,
    client: Zeroizing<Vec<u8>>,
    /// The server's unfinished line: our answers must not get into it.
    server: Vec<u8>,
    commands: u32,
    wrong: u32,
    /// The server owes the reply to a command. Replies have the order of their commands, so commands wait for it.
    is_owed: bool,
    denied: Option<NotLoggedIn>,
    is_logged_in: bool,
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
        let (client, server) = (Zeroizing::default(), server.to_vec());
        let (commands, wrong, denied) = (0, 0, None);
        let (is_owed, is_logged_in, is_over) = (false, false, false);
        Self { dialogue, client, server, commands, wrong, is_owed, denied, is_logged_in, is_over }
    }

    fn end(&mut self, out: &mut Outbox) {
        self.is_over = true;
        out.to_upstream.append(&mut self.client);
        out.to_downstream.append(&mut self.server);
    }

    /// Handles the client's commands up to one that has to wait.
    fn advance(&mut self, out: &mut Outbox) -> Result<(), DialogueError> {
        while !self.is_over && !self.is_owed && !self.client.is_empty() {
            let mut progress = self.dialogue.hear(&self.client).map_err(of_client)?;
            if progress == ClientProgress::PassOn && !self.is_logged_in {
                let instead = self.dialogue.before_login(&self.client).map_err(of_client)?;
                progress = instead.unwrap_or(ClientProgress::PassOn);
            }
            match progress {
                ClientProgress::More if self.client.len() > HELD_MAX => {
                    return Err(of_client("the client's login is longer than 16 KiB"));
                }
                ClientProgress::More => return Ok(()),
                ClientProgress::Answer { taken, words } => self.answer(taken, words, out)?,
                ClientProgress::LoggedIn { taken, words } => {
                    self.answer(taken, words, out)?;
                    (self.denied, self.is_logged_in) = (None, true);
                    if self.dialogue.ends_with_login() {
                        self.end(out);
                    }
                }
                ClientProgress::Denied { taken, words, why } => {
                    self.denied = Some(why);
                    self.answer(taken, words, out)?;
                    self.wrong += u32::from(why == NotLoggedIn::Wrong);
                    if self.wrong >= WRONG_MAX {
                        return Err(of_client("the client has sent five wrong logins"));
                    }
                }
                ClientProgress::Ask { taken, command } => {
                    self.client.drain(..taken);
                    out.to_upstream.extend(command);
                    self.is_owed = true;
                }
                ClientProgress::PassOn => self.end(out),
            }
        }
        Ok(())
    }

    fn answer(&mut self, taken: usize, words: Vec<u8>, out: &mut Outbox) -> Result<(), DialogueError> {
        self.commands += 1;
        if self.commands > COMMANDS_MAX {
            return Err(of_client("the client sent more than 64 commands before a login"));
        }
        self.client.drain(..taken);
        out.to_downstream.extend(words);
        Ok(())
    }

    /// Passes on a whole line of the server.
    fn line(&mut self, line: Vec<u8>, out: &mut Outbox) -> Result<(), DialogueError> {
        if !self.is_owed {
            out.to_downstream.extend(line);
            return Ok(());
        }
        match self.dialogue.reply(&line).map_err(of_server)? {
            ReplyProgress::More(words) => out.to_downstream.extend(words),
            ReplyProgress::Over(words) => {
                out.to_downstream.extend(words);
                self.is_owed = false;
                return self.advance(out);
            }
            ReplyProgress::PassOn => {
                out.to_downstream.extend(line);
                self.is_owed = false;
                self.end(out);
            }
        }
        Ok(())
    }
}

const fn of_client(reason: &'static str) -> DialogueError {
    DialogueError::of_client(reason, ReplyTo::WELCOMED)
}

const fn of_server(reason: &'static str) -> DialogueError {
    DialogueError::of_server(reason, ReplyTo::WELCOMED)
}

impl Dialogue for ClientLogin {
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        self.client.extend_from_slice(bytes);
        self.advance(out)?;
        if self.is_over {
            out.to_upstream.append(&mut self.client);
        }
        if self.client.len() > WAITING_MAX {
            return Err(of_client("the client sends commands without waiting for their replies"));
        }
        Ok(())
    }

    /// Whole lines are the client's: a server may end an idle session with one.
    fn on_upstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        self.server.extend_from_slice(bytes);
        while !self.is_over
            && let Some(end) = self.server.iter().position(|byte| *byte == b'\n')
        {
            let line = self.server.drain(..=end).collect();
            self.line(line, out)?;
        }
        if self.is_over {
            out.to_downstream.append(&mut self.server);
        }
        if self.server.len() > HELD_MAX {
            return Err(of_server(
                "the server sent a line of more than 16 KiB before the client's first command",
            ));
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.is_over
    }

    fn denied(&self) -> Option<&'static str> {
        self.denied.map(NotLoggedIn::reason)
    }
}
