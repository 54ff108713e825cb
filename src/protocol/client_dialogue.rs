//! What a protocol knows of its client's login (driver: `client_login`), and what several of them need for that.

use std::fmt;

use super::lines::literal;

/// The most that is repeated of the server's capabilities.
pub(super) const CAPABILITIES_MAX: usize = 3 * 1024;

/// One protocol's part of a client's login.
pub(super) trait ClientDialogue: fmt::Debug + Send {
    /// The client's bytes that have not been taken yet, never none.
    ///
    /// # Errors
    /// The reason why they cannot be served.
    fn hear(&mut self, held: &[u8]) -> Result<ClientProgress, &'static str>;

    /// What a client that is held to its login, and has not logged in, gets in place of [`ClientProgress::PassOn`]. `None`:
    /// it is taken at its word.
    ///
    /// # Errors
    /// The reason why the session cannot go on.
    fn before_login(&mut self, held: &[u8]) -> Result<Option<ClientProgress>, &'static str>;

    /// A line of the server's reply to what [`ClientProgress::Ask`] has sent it, with its end: what the client gets for it,
    /// and whether the reply goes on. The line may be no line of a reply.
    ///
    /// # Errors
    /// The reason why the session cannot go on.
    fn reply(&mut self, line: &[u8]) -> Result<ReplyProgress, &'static str> {
        Ok(ReplyProgress::Over(line.to_vec()))
    }

    /// Whether the login is the end of the dialogue.
    fn ends_with_login(&self) -> bool {
        true
    }
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
    /// The same, and it is no login as it is demanded: a wrong one, or a command before it.
    Denied { taken: usize, words: Vec<u8>, why: NotLoggedIn },
    /// In place of the first `taken` bytes the server gets this command; those behind it wait for the reply.
    Ask { taken: usize, command: Vec<u8> },
    /// They are for the server, from the first on.
    PassOn,
}

/// Why a client that is held to its login has not got in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotLoggedIn {
    /// It has sent another user or password.
    Wrong,
    /// It has not logged in.
    Skipped,
}

impl NotLoggedIn {
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Wrong => "the client's user or password is not that of `login.client`",
            Self::Skipped => "the client has not logged in, as `login.client` demands",
        }
    }
}

/// What the client gets for a line of the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReplyProgress {
    /// This, and the reply goes on.
    More(Vec<u8>),
    /// This, and the reply is over.
    Over(Vec<u8>),
    /// The line as it is: it belongs to no reply, and from here on nothing is changed.
    PassOn,
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

/// The answer to a command that has to wait for the login; `taken`: its length, `None` while it is incomplete.
pub(super) fn skipped(taken: Option<usize>, words: &[u8]) -> ClientProgress {
    let why = NotLoggedIn::Skipped;
    taken.map_or(ClientProgress::More, |taken| ClientProgress::Denied { taken, words: words.to_vec(), why })
}

/// The answer to a wrong user or password.
pub(super) fn wrong(taken: usize, words: &[u8]) -> ClientProgress {
    ClientProgress::Denied { taken, words: words.to_vec(), why: NotLoggedIn::Wrong }
}

/// The string that `bytes` begin with, quoted or a literal, and what follows it, as IMAP and ManageSieve have them.
pub(super) fn string(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    if bytes.starts_with(b"{") {
        let (announced, length) = first_line(bytes)?;
        let (value, rest) = bytes[length..].split_at_checked(literal(announced)?)?;
        return Some((value.to_vec(), rest));
    }
    let mut value = Vec::new();
    let mut inside = bytes.strip_prefix(b"\"")?.iter().enumerate();
    while let Some((index, byte)) = inside.next() {
        match byte {
            b'"' => return Some((value, &bytes[index + 2..])),
            b'\\' => value.push(*inside.next()?.1),
            _ => value.push(*byte),
        }
    }
    None
}
