//! Signs in to Redis for the client: `AUTH` ahead of its first command. The client's own `AUTH` is then answered by us,
//! and its `HELLO` goes on without one, until its first other command: what follows that is relayed.
//!
//! Sources: redis.io, "AUTH", "HELLO", "ACL"; acl.c and server.c (error words; those of Redis 5 and older from its
//! server.c). Deliberately absent: an `AUTH` behind the client's first other command, which the server judges.

use std::collections::VecDeque;

use super::resp::{COMMAND_MAX, Command, LoginCommand, Replies, array, command, ignored};
use crate::protocol::login::{
    Login, LoginContext, LoginCredentials, LoginError, LoginStep, SignedIn, secret_message,
};
use crate::protocol::{Dialogue, DialogueError, Outbox, ReplyTo, TurnedAway};

/// One login.
#[derive(Debug)]
pub(super) struct AuthLogin {
    credentials: LoginCredentials,
    opening: Vec<u8>,
    held: Vec<u8>,
}

/// The longest answer to AUTH.
const ANSWER_MAX: usize = 4096;
/// The user that `AUTH` without a name is about.
const DEFAULT_USER: &str = "default";

const fn malformed(reason: &'static str) -> LoginError {
    LoginError::Malformed { protocol: "Redis", reason }
}

impl AuthLogin {
    pub(super) fn new(context: LoginContext<'_>) -> Self {
        let LoginContext { credentials, opening, .. } = context;
        Self { credentials, opening: opening.to_vec(), held: Vec::new() }
    }

    fn signed_in(&mut self) -> Result<SignedIn, LoginError> {
        let mut answers = OwnAnswers::default();
        let mut out = Outbox::default();
        let opening = std::mem::take(&mut self.opening);
        answers
            .on_downstream(&opening, &mut out)
            .map_err(|_| LoginError::Client("its first commands are too many AUTH and HELLO"))?;
        let is_over = answers.is_finished();
        Ok(SignedIn {
            to_client: out.to_downstream,
            to_server: out.to_upstream,
            dialogue: (!is_over).then(|| Box::new(answers) as Box<dyn Dialogue>),
            ..SignedIn::default()
        })
    }

    /// An error in answer to AUTH.
    fn error(&self, line: &[u8]) -> LoginError {
        let by = self.credentials.verdict(TurnedAway::new("Redis error", None, &line[1..]), line);
        let begins = |word: &str| {
            let words = line.get(1..).unwrap_or_default();
            words.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word.as_bytes()))
        };
        // The last is Redis 5's, and its heirs'.
        let is_of_secret = ["WRONGPASS", "NOAUTH", "ERR invalid"].into_iter().any(begins);
        // An old server that has no users, or one without a password: whatever the secret is.
        if is_of_secret || begins("ERR") && !begins("ERR max number of clients") || begins("NOPERM") {
            let user = self.credentials.user.clone();
            return LoginError::Rejected { user, by, is_of_secret };
        }
        LoginError::TurnedAway(by)
    }
}

impl Login for AuthLogin {
    fn begin(&mut self) -> Result<LoginStep, LoginError> {
        let LoginCredentials { user, secret } = &self.credentials;
        let (user, secret) = (user.as_bytes(), secret.expose().as_bytes());
        let length = |text: &[u8]| format!("${}\r\n", text.len());
        let (user_length, secret_length) = (length(user), length(secret));
        let (user_length, secret_length) = (user_length.as_bytes(), secret_length.as_bytes());
        // Servers without users (before Redis 6) know the short form alone.
        let message = if user == DEFAULT_USER.as_bytes() {
            secret_message(&[b"*2\r\n$4\r\nAUTH\r\n", secret_length, secret, b"\r\n"])
        } else {
            let named = [b"*3\r\n$4\r\nAUTH\r\n", user_length, user, b"\r\n"];
            secret_message(&[&named[..], &[secret_length, secret, b"\r\n"]].concat())
        };
        Ok(LoginStep::Send(message))
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<LoginStep, LoginError> {
        if bytes.is_empty() {
            return Err(LoginError::Closed);
        }
        self.held.extend_from_slice(bytes);
        let Some(end) = self.held.iter().position(|byte| *byte == b'\n') else {
            return if self.held.len() > ANSWER_MAX {
                Err(LoginError::Endless(ANSWER_MAX))
            } else {
                Ok(LoginStep::Read)
            };
        };
        let line = self.held[..end].trim_ascii_end();
        match line.first() {
            Some(b'+') if self.held.len() == end + 1 => self.signed_in().map(LoginStep::SignedIn),
            Some(b'+') => Err(malformed("more than one answer to AUTH")),
            Some(b'-') => Err(self.error(line)),
            _ => Err(malformed("its answer to AUTH is neither a simple string nor an error")),
        }
    }
}

/// Who answers a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answerer {
    Server,
    Us,
}

/// Answers the client's own logins, in the order of its commands.
#[derive(Debug, Default)]
struct OwnAnswers {
    /// Of the client: begins with a command that is not whole.
    held: Vec<u8>,
    /// Who answers the commands that have no answer yet.
    expected: VecDeque<Answerer>,
    replies: Replies,
    /// The client has sent another command.
    is_passing: bool,
}

const OK: &[u8] = b"+OK\r\n";
/// Answers that may be outstanding; a client has a handful.
const EXPECTED_MAX: usize = 256;

impl OwnAnswers {
    fn login(&mut self, login: LoginCommand, out: &mut Outbox) -> Result<(), DialogueError> {
        if self.expected.len() >= EXPECTED_MAX {
            let reason = "the client does not wait for the answers to its AUTH and HELLO";
            return Err(DialogueError::of_client(reason, ReplyTo::default()));
        }
        let LoginCommand { mut words, is_inline, .. } = login;
        let is_auth = words[0].eq_ignore_ascii_case(b"AUTH");
        if is_auth && matches!(words.len(), 2 | 3) {
            match self.expected.is_empty() && self.replies.is_between() {
                true => out.to_downstream.extend_from_slice(OK),
                false => self.expected.push_back(Answerer::Us),
            }
            return Ok(());
        }
        // What is wrong with it, the server says.
        if let Some(at) = auth_of_hello(&words) {
            words.drain(at..at + 3);
        }
        match is_inline {
            true => out.to_upstream.extend([words.join(&b' '), b"\r\n".to_vec()].concat()),
            false => out.to_upstream.extend(array(&words)),
        }
        self.expected.push_back(Answerer::Server);
        Ok(())
    }

    /// Gives our answers whose turn it is.
    fn answer(&mut self, out: &mut Outbox) {
        while self.expected.front() == Some(&Answerer::Us) {
            self.expected.pop_front();
            out.to_downstream.extend_from_slice(OK);
        }
    }
}

/// Where `AUTH user password` begins in `HELLO version [AUTH user password] [SETNAME name]`.
fn auth_of_hello(words: &[Vec<u8>]) -> Option<usize> {
    let mut at = 2;
    while let Some(option) = words.get(at) {
        if option.eq_ignore_ascii_case(b"AUTH") {
            return (words.len() >= at + 3).then_some(at);
        }
        at += if option.eq_ignore_ascii_case(b"SETNAME") { 2 } else { 1 };
    }
    None
}

impl Dialogue for OwnAnswers {
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        if self.is_passing {
            out.to_upstream.extend_from_slice(bytes);
            return Ok(());
        }
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let mut rest = &held[..];
        while !self.is_passing {
            rest = &rest[ignored(rest)..];
            if rest.is_empty() {
                return Ok(());
            }
            match command(rest) {
                Command::Incomplete => {
                    debug_assert!(rest.len() <= COMMAND_MAX);
                    self.held = rest.to_vec();
                    return Ok(());
                }
                Command::Login(login) => {
                    rest = &rest[login.length..];
                    self.login(login, out)?;
                }
                Command::Other => self.is_passing = true,
            }
        }
        out.to_upstream.extend_from_slice(rest);
        Ok(())
    }

    fn on_upstream(&mut self, mut bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        while !bytes.is_empty() && !self.is_finished() {
            let (length, is_reply) = self.replies.next(bytes).map_err(|_| {
                DialogueError::of_server("the server's answer is not Redis'", ReplyTo::default())
            })?;
            let (reply, rest) = bytes.split_at(length);
            out.to_downstream.extend_from_slice(reply);
            bytes = rest;
            if is_reply && self.expected.front() == Some(&Answerer::Server) {
                self.expected.pop_front();
            }
            if self.replies.is_between() {
                self.answer(out);
            }
        }
        out.to_downstream.extend_from_slice(bytes);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.is_passing && !self.expected.contains(&Answerer::Us)
    }
}

#[cfg(test)]
mod tests;
