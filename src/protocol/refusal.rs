//! Our refusals, for protocols to put into their words.

use std::borrow::Cow;

use super::{ReplyTo, TurnedAway};
use crate::escape::is_control;

/// What a client is told instead of getting an upstream.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// What kind it is; protocols have codes for some.
    pub kind: RefusalKind,
    /// Why, in a sentence for the client's user. It begins with the outcome, which scripts may look for.
    pub reason: &'a str,
    /// The session id that the log has too.
    pub session: &'a str,
    /// What it answers.
    pub reply_to: ReplyTo,
    /// What the server said, where it is the server that has no place: the client hears that, with the server's own code.
    pub server: Option<&'a TurnedAway>,
}

/// Kinds of refusal that protocols tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The client did not speak the protocol.
    BadRequest,
    /// Who connects may not.
    Denied,
    /// No room left.
    Full,
    /// No endpoint could be reached, or none in time.
    Unreachable,
    /// We are going away.
    ShuttingDown,
}

impl Refusal<'_> {
    /// The whole sentence, in one line of printable characters: it goes into protocols made of lines. An SMTP reply has 512
    /// octets (RFC 5321 §4.5.3.1.5), and MySQL's clients show as many; the session leads to the rest.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { reason, session, .. } = self;
        let plain = |c: char| if is_control(c) { ' ' } else { c };
        let sentence = match self.server {
            None => format!("ambassador: {} [session {session}]", cut(reason, 430)),
            // Clients look for what servers say at the beginning of it.
            Some(server) => {
                format!("{} [ambassador: upstream_refused, session {session}]", cut(&server.words, 400))
            }
        };
        sentence.trim_start().chars().map(plain).collect()
    }

    /// The same; in our words alone where the server's came before TLS and are not among those that may pass.
    ///
    /// What a server says before TLS may be anybody's on the way. Whoever could only have cut the connection must not bring about more:
    /// nothing that a client takes for success or for good, or that it shows or acts on as the server's will. A protocol therefore names
    /// what passes, and that is what only says "not now"; all else is quoted within our own refusal.
    #[must_use]
    pub fn filtered(self, may_pass: impl FnOnce(&TurnedAway) -> bool) -> Self {
        Self { server: self.server.filter(|by| by.is_through_tls || may_pass(by)), ..self }
    }

    /// The server's own number, where it is the server that says no and has one.
    #[must_use]
    pub fn server_code(&self) -> Option<u16> {
        self.server?.code
    }
}

/// So many bytes of it, at the end of a character.
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

    /// The words on a certificate have its names in them, which are as long as its owner likes.
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
