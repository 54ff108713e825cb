//! Our refusals, to be encoded by each protocol.

use std::borrow::Cow;

use super::{ReplyTo, TurnedAway};
use crate::escape::is_control;

/// What a client receives instead of an upstream.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// The kind, for protocols that have codes for it.
    pub kind: RefusalKind,
    /// The reason, a sentence for the client's user. It begins with the outcome, which scripts may look for.
    pub reason: &'a str,
    /// The session id, as in the log.
    pub session: &'a str,
    /// What the refusal answers.
    pub reply_to: ReplyTo,
    /// The server's own refusal, if it is the server that refuses: the client receives its words and code.
    pub server: Option<&'a TurnedAway>,
}

/// Kinds of refusal that protocols distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The client did not speak the protocol.
    BadRequest,
    /// The caller is not permitted.
    Denied,
    /// We could not sign in to the server for the client.
    LoginFailed,
    /// There is no room.
    Full,
    /// No endpoint could be reached, or none in time.
    Unreachable,
    /// The daemon is shutting down.
    ShuttingDown,
}

impl Refusal<'_> {
    /// The refusal in one line of printable characters, for protocols made of lines. An SMTP reply has 512 octets (RFC
    /// 5321 §4.5.3.1.5), and MySQL's clients show as many; the rest is in the log under the session id.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { reason, session, .. } = self;
        let plain = |c: char| if is_control(c) { ' ' } else { c };
        let sentence = match self.server {
            None => format!("ambassador: {} [session {session}]", cut(reason, 430)),
            // Clients search the beginning of a server's message.
            Some(server) => {
                format!("{} [ambassador: upstream_refused, session {session}]", cut(&server.words, 400))
            }
        };
        sentence.trim_start().chars().map(plain).collect()
    }

    /// The same refusal, in our words alone if the server's came before TLS and `may_pass` rejects them.
    ///
    /// Words from before TLS may come from an attacker on the path, who could otherwise only cut the connection and
    /// must not be able to do more: nothing that a client takes for success or for permanent, or that it displays or
    /// acts on as the server's. A protocol therefore lists what it passes on, only answers that mean "not now"; others
    /// are quoted within our own refusal.
    #[must_use]
    pub fn filtered(self, may_pass: impl FnOnce(&TurnedAway) -> bool) -> Self {
        Self { server: self.server.filter(|by| by.is_through_tls || may_pass(by)), ..self }
    }

    /// The server's own error number, if it is the server that refuses and there is one.
    #[must_use]
    pub fn server_code(&self) -> Option<u16> {
        self.server?.code
    }
}

/// At most `most` bytes, cut between characters.
fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    let ends = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= most);
    format!("{}...", &text[..ends.last().unwrap_or_default()]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_refusal_and_no_sentence_breaks_its_line() {
        let refusal = Refusal {
            server: None,
            kind: RefusalKind::Unreachable,
            reason: "connect_failed: a\r\nb\0c",
            session: "0123456789abcdef",
            reply_to: ReplyTo::default(),
        };
        assert_eq!(refusal.sentence(), "ambassador: connect_failed: a  b c [session 0123456789abcdef]");
    }

    /// The words on a certificate contain its names, which may be of any length.
    #[test]
    fn a_sentence_fits_into_a_line_with_its_session() {
        let refusal = Refusal {
            kind: RefusalKind::Unreachable,
            reason: &"ü".repeat(5000),
            session: "0123456789abcdef",
            server: None,
            reply_to: ReplyTo::default(),
        };
        let sentence = refusal.sentence();
        assert!(sentence.len() <= 480 && sentence.ends_with("ü... [session 0123456789abcdef]"), "{sentence}");
    }
}
