//! Protocols made of lines: their upgrade and their probe. Each protocol interprets its lines and says how they are
//! framed; common to all of them: lines are bounded, so is their total, and no plaintext may be left when TLS begins.

use core::net::IpAddr;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;

use super::{
    Dialogue, NothingBuffered, Probe, ProbeError, ProbeStep, Upgrade, UpgradeError, UpgradeStep, Upgraded,
};
use crate::escape::is_control;

/// The most that a server may send before TLS, or to a probe. Capability lists have some hundred bytes.
pub(super) const SAID_MAX: usize = 64 * 1024;
/// The most that is read at once.
const PORTION: usize = 512;

/// [`Protocol::recognize`](super::Protocol::recognize) of the protocols that greet with code 220 (RFC 5321 §4.2, RFC
/// 959 §4.2).
pub(super) fn greets_220(first: &[u8]) -> Option<&'static str> {
    let is_220 = first.starts_with(b"220 ") || first.starts_with(b"220-");
    is_220.then_some("it greets as servers of smtp and ftp-control do")
}

/// How lines are framed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Each line stands alone.
    #[default]
    Lines,
    /// After a line that ends in `{12}`, so many bytes of any value belong to it (RFC 9051 §4.3, RFC 5804 §4).
    Literals,
    /// A reply that begins with `220-` extends to the line that begins with `220 `, whatever is in between; its last
    /// line is returned for it (RFC 959 §4.2).
    Replies,
}

/// Cuts bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    framing: Framing,
    held: Vec<u8>,
    /// This much of `held` needs no further search for the end of a line: a server may send byte by byte, and the whole
    /// must not be searched each time. After a literal's announcement it is the literal's end, which may not have been
    /// received yet.
    searched: usize,
    /// Where the text after the last literal begins.
    behind_literal: usize,
    /// The code of an unfinished reply.
    open: Option<[u8; 3]>,
    total: usize,
}

impl Lines {
    pub(super) fn framed(framing: Framing) -> Self {
        Self { framing, ..Self::default() }
    }

    /// Returns false if the total exceeds the limit.
    #[must_use]
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        self.total += bytes.len();
        self.held.extend_from_slice(bytes);
        self.total <= SAID_MAX
    }

    /// The next complete line, with the literals or lines that belong to it, without its end.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let line = self.next_line()?;
            if self.framing != Framing::Replies {
                return Some(line);
            }
            let code = line.first_chunk::<3>().copied();
            match (self.open, reply(&line)) {
                (None, Some((_, false))) => self.open = code,
                (None, _) => return Some(line),
                (Some(_), Some((_, true))) if self.open == code => {
                    self.open = None;
                    return Some(line);
                }
                (Some(_), _) => {}
            }
        }
    }

    fn next_line(&mut self) -> Option<Vec<u8>> {
        loop {
            let Some(end) = self.held.get(self.searched..)?.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.held.len();
                return None;
            };
            let end = self.searched + end;
            if self.framing == Framing::Literals
                && let Some(length) = literal(&self.held[self.behind_literal..end])
            {
                self.searched = (end + 1).saturating_add(length);
                self.behind_literal = self.searched;
                continue;
            }
            (self.searched, self.behind_literal) = (0, 0);
            let mut line: Vec<u8> = self.held.drain(..=end).collect();
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Some(line);
        }
    }

    /// The bytes after the last line that was taken.
    pub(super) fn rest(&self) -> &[u8] {
        &self.held
    }
}

/// The number of bytes that a line announces at its end, as `{12}` or `{12+}`.
pub(super) fn literal(line: &[u8]) -> Option<usize> {
    let inside = line.strip_suffix(b"\r").unwrap_or(line).strip_suffix(b"}")?;
    let digits = inside.rsplit(|byte| *byte == b'{').next().filter(|digits| digits.len() < inside.len())?;
    let digits = digits.strip_suffix(b"+").unwrap_or(digits);
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What to do after a line of the server.
pub(super) enum LineStep {
    More,
    /// Send this alone, then read the answer.
    Say(Cow<'static, [u8]>),
    Tls,
}

/// One protocol's part of [`StartTls`].
pub(super) trait LineDialogue: fmt::Debug + Send {
    /// How lines are framed for [`LineDialogue::line`].
    const FRAMING: Framing = Framing::Lines;

    fn comes_from(&mut self, local: IpAddr) {
        let _ = local;
    }

    /// A line of the server, without its end.
    fn line(&mut self, line: &[u8]) -> Result<LineStep, UpgradeError>;

    /// Sent to the client once TLS is up, because it has not received the server's own greeting.
    fn welcome(&self) -> Vec<u8>;

    /// The error if bytes follow the line that leads to TLS.
    fn left_over(&self, rest: &[u8]) -> UpgradeError {
        let _ = rest;
        UpgradeError::PlaintextAfterUpgrade
    }

    /// What is rewritten after TLS.
    fn dialogue(&self) -> Option<Box<dyn Dialogue>> {
        None
    }
}

/// An upgrade made of lines; the server speaks first.
#[derive(Debug)]
pub(super) struct StartTls<T> {
    talk: T,
    lines: Lines,
}

impl<T: LineDialogue> StartTls<T> {
    pub(super) fn new(talk: T) -> Self {
        Self { talk, lines: Lines::framed(T::FRAMING) }
    }

    /// Handles the lines received so far, up to one that needs an action.
    fn next(&mut self) -> Result<UpgradeStep, UpgradeError> {
        while let Some(line) = self.lines.next() {
            match self.talk.line(&line)? {
                LineStep::More => {}
                LineStep::Say(words) => return Ok(UpgradeStep::Send(words)),
                LineStep::Tls => {
                    let rest = self.lines.rest();
                    let proof = NothingBuffered::behind(rest).map_err(|_| self.talk.left_over(rest))?;
                    return Ok(UpgradeStep::Upgrade(Upgraded {
                        welcome: self.talk.welcome(),
                        dialogue: self.talk.dialogue(),
                        ..Upgraded::new(proof)
                    }));
                }
            }
        }
        Ok(UpgradeStep::ReadAtMost(PORTION))
    }
}

impl<T: LineDialogue> Upgrade for StartTls<T> {
    fn comes_from(&mut self, local: IpAddr) {
        self.talk.comes_from(local);
    }

    fn begin(&mut self) -> UpgradeStep {
        UpgradeStep::ReadAtMost(PORTION)
    }

    /// Bytes that the server sent before it had received ours are no answer to them: a forged reply would be taken for
    /// a later one.
    fn note_sent(&mut self) -> UpgradeStep {
        UpgradeStep::ReadAtMost(PORTION)
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<UpgradeStep, UpgradeError> {
        if bytes.is_empty() {
            return Err(UpgradeError::Closed);
        }
        if !self.lines.push(bytes) {
            return Err(UpgradeError::Endless(SAID_MAX));
        }
        let step = self.next()?;
        if matches!(step, UpgradeStep::Send(_)) && !self.lines.rest().is_empty() {
            return Err(UpgradeError::Unsuitable("the server answers before TLS what it was not asked"));
        }
        Ok(step)
    }
}

/// The code of a reply as in SMTP, NNTP and FTP, and whether this is the reply's last line.
pub(super) fn reply(line: &[u8]) -> Option<(u16, bool)> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match rest.first() {
        None | Some(b' ') => Some((code, true)),
        Some(b'-') => Some((code, false)),
        Some(_) => None,
    }
}

/// Whether `line` begins with that word, in any case, and the word ends there.
pub(super) fn begins_with(line: &[u8], word: &str) -> bool {
    line.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word.as_bytes()))
        && line.get(word.len()).is_none_or(|next| !next.is_ascii_alphanumeric())
}

/// The error for a line that is not of the protocol.
pub(super) fn foreign(protocol: &'static str, line: &[u8]) -> UpgradeError {
    UpgradeError::NotTheProtocol { protocol, byte: line.first().copied().unwrap_or(b'\n') }
}

/// A server's words in printable form; those from before TLS are not authenticated.
pub(super) fn printable(line: &[u8]) -> String {
    const LONGEST: usize = 200;
    String::from_utf8_lossy(line).chars().filter(|c| !is_control(*c)).take(LONGEST).collect()
}

/// What a line means to a probe.
pub(super) enum ProbeReply {
    More,
    Good,
    Bad,
}

/// One exchange of a probe: the bytes to send, if any, and the judge of the answer.
pub(super) struct LineExchange {
    pub(super) say: Cow<'static, [u8]>,
    pub(super) judge: fn(&[u8]) -> ProbeReply,
}

/// A probe made of exchanges.
pub(super) struct LineProbe {
    lines: Lines,
    exchanges: VecDeque<LineExchange>,
    goodbye: &'static [u8],
}

impl fmt::Debug for LineProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineProbe").field("lines", &self.lines).finish_non_exhaustive()
    }
}

impl LineProbe {
    /// `greeting`: judges the server's greeting; `None` if it has been read already.
    pub(super) fn boxed(
        greeting: Option<fn(&[u8]) -> ProbeReply>,
        exchange: Option<LineExchange>,
        goodbye: &'static [u8],
    ) -> Box<dyn Probe> {
        Box::new(Self::framed(Framing::Lines, greeting, exchange, goodbye))
    }

    /// As [`LineProbe::boxed`], with that framing.
    pub(super) fn framed(
        framing: Framing,
        greeting: Option<fn(&[u8]) -> ProbeReply>,
        exchange: Option<LineExchange>,
        goodbye: &'static [u8],
    ) -> Self {
        let greeting = greeting.map(|judge| LineExchange { say: Cow::Borrowed(b""), judge });
        let exchanges = greeting.into_iter().chain(exchange).collect();
        Self { lines: Lines::framed(framing), exchanges, goodbye }
    }
}

impl Probe for LineProbe {
    fn begin(&mut self) -> Vec<u8> {
        self.exchanges.front().map(|exchange| exchange.say.to_vec()).unwrap_or_default()
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
        if bytes.is_empty() {
            return Err(ProbeError("the server closed the connection before it had answered".into()));
        }
        if !self.lines.push(bytes) {
            return Err(ProbeError("the server's answer has no end".into()));
        }
        while let Some(line) = self.lines.next() {
            let Some(exchange) = self.exchanges.front() else { break };
            match (exchange.judge)(&line) {
                ProbeReply::More => continue,
                ProbeReply::Good => {}
                ProbeReply::Bad => {
                    return Err(ProbeError(format!("the server answered: {}", printable(&line)).into()));
                }
            }
            self.exchanges.pop_front();
            match self.exchanges.front() {
                Some(next) => return Ok(ProbeStep::Send(next.say.to_vec())),
                None => return Ok(ProbeStep::Serves { goodbye: self.goodbye.to_vec() }),
            }
        }
        Ok(ProbeStep::Incomplete)
    }
}

#[cfg(test)]
pub(super) mod tests;
