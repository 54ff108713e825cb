//! Logins of protocols made of lines: the server's lines go in, and what is said to each comes out. Common to all of
//! them: lines are bounded, so is their total; and SASL travels in base64.

use std::fmt;

use zeroize::Zeroizing;

use super::Dialogue;
use super::client_dialogue::ClientDialogue;
use super::client_login::ClientLogin;
use super::lines::{Framing, Lines, SAID_MAX};
use super::login::{Login, LoginContext, LoginError, LoginStep, SignedIn};
use super::sasl::{Exchange, Mechanism, base64, from_base64};

/// What to do after a line of the server.
#[derive(Debug)]
pub(super) enum LoginProgress {
    /// Read the next line.
    More,
    /// Send this, then read the answer.
    Say(Zeroizing<Vec<u8>>),
    /// Signed in: this is sent to the client, and its own login is answered by `client`.
    SignedIn { to_client: Vec<u8>, client: Box<dyn ClientDialogue> },
}

/// One protocol's part of [`LineLogin`].
pub(super) trait LoginDialogue: fmt::Debug + Send {
    /// How lines are framed for [`LoginDialogue::line`].
    const FRAMING: Framing = Framing::Lines;

    /// What is said first; `None`: the server speaks.
    fn begin(&mut self) -> Option<&'static [u8]>;

    /// A line of the server, without its end.
    fn line(&mut self, line: &[u8]) -> Result<LoginProgress, LoginError>;
}

/// A login made of lines.
#[derive(Debug)]
pub(super) struct LineLogin<T> {
    dialogue: T,
    lines: Lines,
    /// Something was said in answer to the server; what is said first is a question for its capabilities.
    has_answered: bool,
}

impl<T: LoginDialogue> LineLogin<T> {
    pub(super) fn new(dialogue: T) -> Self {
        Self { dialogue, lines: Lines::framed(T::FRAMING), has_answered: false }
    }
}

/// We are signed in. `rest` is what the server has sent behind the end of the login: whole lines are the client's, and the
/// dialogue waits for the end of the last.
pub(super) fn signed_in(mut to_client: Vec<u8>, rest: &[u8], client: Box<dyn ClientDialogue>) -> LoginStep {
    let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    to_client.extend_from_slice(&rest[..whole]);
    let dialogue: Box<dyn Dialogue> = Box::new(ClientLogin::new(client, &rest[whole..]));
    LoginStep::SignedIn(SignedIn { to_client, dialogue: Some(dialogue), ..SignedIn::default() })
}

impl<T: LoginDialogue> Login for LineLogin<T> {
    fn begin(&mut self) -> Result<LoginStep, LoginError> {
        let said = self.dialogue.begin();
        Ok(said.map_or(LoginStep::Read, |said| LoginStep::Send(Zeroizing::new(said.to_vec()))))
    }

    fn has_proved(&self) -> bool {
        self.has_answered
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<LoginStep, LoginError> {
        if bytes.is_empty() {
            return Err(LoginError::Closed);
        }
        if !self.lines.push(bytes) {
            return Err(LoginError::Endless(SAID_MAX));
        }
        while let Some(line) = self.lines.next() {
            match self.dialogue.line(&line)? {
                LoginProgress::More => {}
                LoginProgress::Say(words) => {
                    self.has_answered = true;
                    return Ok(LoginStep::Send(words));
                }
                LoginProgress::SignedIn { to_client, client } => {
                    return Ok(signed_in(to_client, self.lines.rest(), client));
                }
            }
        }
        Ok(LoginStep::Read)
    }
}

/// The context without what only protocols with speaking clients need, so that it may be kept.
pub(super) fn kept(context: LoginContext<'_>) -> LoginContext<'static> {
    LoginContext { database: None, opening: &[], ..context }
}

/// A SASL exchange in base64.
#[derive(Debug)]
pub(super) struct SaslExchange {
    exchange: Exchange,
    /// The first message, while it is not sent.
    initial: Option<Zeroizing<Vec<u8>>>,
    /// Answers to challenges.
    answers: u32,
}

impl SaslExchange {
    /// Chooses among the offered mechanisms.
    ///
    /// # Errors
    /// [`LoginError::NoMechanism`].
    pub(super) fn new(offered: &[&str], context: &LoginContext<'_>) -> Result<Self, LoginError> {
        let exchange = Exchange::new(offered, context)?;
        let initial = exchange.initial();
        Ok(Self { exchange, initial, answers: 0 })
    }

    pub(super) const fn mechanism(&self) -> Mechanism {
        self.exchange.mechanism()
    }

    /// The first message, for the command itself, if there is one and it is no longer than that.
    pub(super) fn take_initial(&mut self, most: usize) -> Option<Zeroizing<Vec<u8>>> {
        let encoded = base64(self.initial.as_deref()?);
        if encoded.len() > most {
            return None;
        }
        self.initial = None;
        Some(encoded)
    }

    /// The answer to a challenge, in base64 both.
    ///
    /// # Errors
    /// It is no base64, wrong, or one too many.
    pub(super) fn answer(
        &mut self,
        challenge: &[u8],
        protocol: &'static str,
    ) -> Result<Zeroizing<Vec<u8>>, LoginError> {
        // The challenge is empty then.
        if let Some(initial) = self.initial.take() {
            return Ok(base64(&initial));
        }
        let reason = "a challenge that is no base64";
        let challenge = from_base64(challenge).ok_or(LoginError::Malformed { protocol, reason })?;
        self.answers += 1;
        self.exchange.challenged(&challenge).map(|answer| base64(&answer))
    }

    /// The server reports success.
    ///
    /// # Errors
    /// [`LoginError::Unproven`], [`LoginError::Malformed`].
    pub(super) fn succeeded(&mut self, data: Option<&[u8]>) -> Result<(), LoginError> {
        self.exchange.succeeded(data)
    }

    /// Whether the server has seen the secret, or a proof of it.
    pub(super) const fn has_proved(&self) -> bool {
        match self.exchange.mechanism() {
            Mechanism::Plain | Mechanism::XOAuth2 | Mechanism::OAuthBearer | Mechanism::External => {
                self.initial.is_none()
            }
            Mechanism::Login => self.answers >= 2,
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => self.answers >= 1,
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
