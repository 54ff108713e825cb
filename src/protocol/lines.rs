//! Protocols made of lines: what leads to TLS, and what probes them. Each protocol says what a line means and how lines
//! belong together; here is what they share: lines are bounded, all of them together too, and nothing may be left over when
//! TLS begins.

use core::net::IpAddr;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;

use super::{
    Dialogue, NothingBuffered, Probe, ProbeError, ProbeStep, Upgrade, UpgradeError, UpgradeStep, Upgraded,
};
use crate::escape::is_control;

/// All that a server may say before TLS, or to a probe. Capability lists are some hundred bytes.
const SAID_MAX: usize = 64 * 1024;
/// What is read at once.
const PORTION: usize = 512;

/// What belongs together, by the protocol.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Each line is one.
    #[default]
    Lines,
    /// A line that ends in `{12}` goes on behind as many bytes, whatever they are (RFC 9051 §4.3, RFC 5804 §4).
    Literals,
    /// Of a reply that begins with `220-` all up to the line that begins with `220 `, whatever stands between them; the last line
    /// stands for it (RFC 959 §4.2).
    Replies,
}

/// Bytes on their way to be lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    framing: Framing,
    held: Vec<u8>,
    /// So much of it has no end of a line: a server may send byte by byte, and is not to make us look at all of it each time.
    /// Behind a literal's announcement it is the literal's end, which may not have come yet.
    searched: usize,
    /// Where the text behind the last literal begins.
    behind_literal: usize,
    /// The code of a reply that is not over.
    open: Option<[u8; 3]>,
    total: usize,
}

impl Lines {
    pub(super) fn framed(framing: Framing) -> Self {
        Self { framing, ..Self::default() }
    }

    /// False: it was too much.
    #[must_use]
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        self.total += bytes.len();
        self.held.extend_from_slice(bytes);
        self.total <= SAID_MAX
    }

    /// The next whole line with all that belongs to it, without its end.
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

    /// What has come behind the last line that was taken.
    pub(super) fn rest(&self) -> &[u8] {
        &self.held
    }
}

/// How many bytes a line announces at its end, as `{12}` or `{12+}`.
fn literal(line: &[u8]) -> Option<usize> {
    let inside = line.strip_suffix(b"\r").unwrap_or(line).strip_suffix(b"}")?;
    let digits = inside.rsplit(|byte| *byte == b'{').next().filter(|digits| digits.len() < inside.len())?;
    let digits = digits.strip_suffix(b"+").unwrap_or(digits);
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What a line of the server leads to.
pub(super) enum LineStep {
    /// Another line.
    More,
    /// Say this, alone, and wait for what it says then.
    Say(Cow<'static, [u8]>),
    /// TLS.
    Tls,
}

/// One protocol's part in [`StartTls`].
pub(super) trait LineDialogue: fmt::Debug + Send {
    /// What is one line to [`LineDialogue::line`].
    const FRAMING: Framing = Framing::Lines;

    /// See [`Upgrade::comes_from`].
    fn comes_from(&mut self, local: IpAddr) {
        let _ = local;
    }

    /// A line of the server, without its end.
    fn line(&mut self, line: &[u8]) -> Result<LineStep, UpgradeError>;

    /// What the client hears once TLS is up, for it has not heard the server's own greeting.
    fn welcome(&self) -> Vec<u8>;

    /// What it means that something stands behind the line that leads to TLS.
    fn left_over(&self, rest: &[u8]) -> UpgradeError {
        let _ = rest;
        UpgradeError::PlaintextAfterUpgrade
    }

    /// What is rewritten then.
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

    /// Lines that are here already, up to one that leads on.
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

    /// What the server said before it had our words is no answer to them: it would have us take a forged reply for one
    /// that it gives later.
    fn sent(&mut self) -> UpgradeStep {
        UpgradeStep::ReadAtMost(PORTION)
    }

    fn received(&mut self, bytes: &[u8]) -> Result<UpgradeStep, UpgradeError> {
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

/// The code of a reply as SMTP, NNTP and FTP have it, and whether it is the reply's last line.
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

/// Whether `line` begins with that word, in whatever case, and the word ends there.
pub(super) fn begins_with(line: &[u8], word: &str) -> bool {
    line.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word.as_bytes()))
        && line.get(word.len()).is_none_or(|next| !next.is_ascii_alphanumeric())
}

/// The error for a line that is not the protocol's.
pub(super) fn foreign(protocol: &'static str, line: &[u8]) -> UpgradeError {
    UpgradeError::NotTheProtocol { protocol, byte: line.first().copied().unwrap_or(b'\n') }
}

/// A server's words as people may be shown them; nobody has authenticated those from before TLS.
pub(super) fn printable(line: &[u8]) -> String {
    const LONGEST: usize = 200;
    String::from_utf8_lossy(line).chars().filter(|c| !is_control(*c)).take(LONGEST).collect()
}

/// What a line tells a probe.
pub(super) enum ProbeReply {
    /// More is to come.
    More,
    /// This is the answer that was hoped for.
    Good,
    /// It is another.
    Bad,
}

/// One exchange of a probe: what to say, if anything, and what an answer means.
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
    /// `greeting`: what the server's first words mean; `None` where they are behind us.
    pub(super) fn boxed(
        greeting: Option<fn(&[u8]) -> ProbeReply>,
        exchange: Option<LineExchange>,
        goodbye: &'static [u8],
    ) -> Box<dyn Probe> {
        Box::new(Self::framed(Framing::Lines, greeting, exchange, goodbye))
    }

    /// The same with lines that belong together.
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

    fn received(&mut self, bytes: &[u8]) -> Result<ProbeStep, ProbeError> {
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
