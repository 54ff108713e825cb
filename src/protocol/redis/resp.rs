//! RESP as far as a login needs it: where a command and where a reply ends, whatever is in it. Nothing is decided here.
//!
//! Sources: redis.io, "Redis serialization protocol specification" (RESP2 and RESP3); networking.c (inline commands).

use super::{length, split_line};

/// What stands at the begin of a client's bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// More bytes are needed.
    Incomplete,
    /// `AUTH` or `HELLO`, whole.
    Login(LoginCommand),
    /// Whatever else; its length is not known.
    Other,
}

/// A whole command of a login.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoginCommand {
    /// Bytes that it takes.
    pub(super) length: usize,
    /// Its words. Those of an inline command have their quotes.
    pub(super) words: Vec<Vec<u8>>,
    pub(super) is_inline: bool,
}

/// The longest command of a login; inline commands have the same limit in Redis.
pub(super) const COMMAND_MAX: usize = 64 * 1024;
/// `AUTH` and `HELLO` have fewer words.
const WORDS_MAX: usize = 16;

fn is_login(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"AUTH") || word.eq_ignore_ascii_case(b"HELLO")
}

/// The first command, without looking further. Lines that are no commands are to be removed before.
pub(super) fn command(bytes: &[u8]) -> Command {
    let limit = |incomplete| if bytes.len() > COMMAND_MAX { Command::Other } else { incomplete };
    let Some(end) = bytes.iter().take(COMMAND_MAX).position(|byte| *byte == b'\n') else {
        return limit(Command::Incomplete);
    };
    let (line, mut rest) = split_line(&bytes[..=end]);
    debug_assert!(rest.is_empty());
    rest = &bytes[end + 1..];
    if line.first() != Some(&b'*') {
        let words = inline_words(line);
        return match words.first() {
            Some(first) if is_login(first) && words.len() <= WORDS_MAX => {
                Command::Login(LoginCommand { length: end + 1, words, is_inline: true })
            }
            _ => Command::Other,
        };
    }
    let Some(count @ 1..=WORDS_MAX) = length(line, b'*') else { return Command::Other };
    let mut words = Vec::with_capacity(count);
    while words.len() < count {
        if !rest.contains(&b'\n') {
            // `$` and a length.
            return if rest.len() > 32 { Command::Other } else { limit(Command::Incomplete) };
        }
        let (head, behind) = split_line(rest);
        let Some(size) = length(head, b'$').filter(|size| *size <= COMMAND_MAX) else {
            return Command::Other;
        };
        if words.is_empty() && size > b"HELLO".len() {
            return Command::Other;
        }
        let Some(word) = behind.get(..size).filter(|_| behind.len() >= size + 2) else {
            return limit(Command::Incomplete);
        };
        if words.is_empty() && !is_login(word) {
            return Command::Other;
        }
        words.push(word.to_vec());
        rest = &behind[size + 2..];
    }
    Command::Login(LoginCommand { length: bytes.len() - rest.len(), words, is_inline: false })
}

/// The words of an inline command, as they are written: quotes keep spaces together (sdssplitargs).
fn inline_words(line: &[u8]) -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = Vec::new();
    let (mut is_inside, mut quote, mut is_escaped) = (false, None, false);
    for byte in line {
        if quote.is_none() && byte.is_ascii_whitespace() {
            is_inside = false;
            continue;
        }
        if !is_inside {
            words.push(Vec::new());
            is_inside = true;
        }
        words.last_mut().expect("a word was begun").push(*byte);
        match quote {
            Some(_) if is_escaped => is_escaped = false,
            Some(_) if *byte == b'\\' => is_escaped = true,
            Some(open) if open == *byte => quote = None,
            None if matches!(byte, b'"' | b'\'') => quote = Some(*byte),
            _ => {}
        }
    }
    words
}

/// The bytes at the begin that are no command: Redis ignores empty lines and empty arrays.
pub(super) fn ignored(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let empty =
            [&b"\r\n"[..], b"\n", b"*0\r\n", b"*-1\r\n"].into_iter().find(|empty| rest.starts_with(empty));
        match empty {
            Some(empty) => at += empty.len(),
            None => return at,
        }
    }
}

/// Those words as an array of bulk strings.
pub(super) fn array(words: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Finds the ends of a server's replies.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// The part of a line that has been received.
    line: Vec<u8>,
    /// Bytes of a string, with its end, that are still to come.
    skip: u64,
    /// Elements that are still to come of the reply that has begun; 0: none has.
    left: u64,
    /// The elements that are left are of a push message, which answers nothing.
    is_push: bool,
}

/// The longest line of a reply: a simple string, an error, or a length.
const LINE_MAX: usize = 64 * 1024;

/// The server's bytes are not RESP.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MalformedReply;

impl Replies {
    /// Reads up to the end of the first reply. Returns how many bytes that were, and whether it is there.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Result<(usize, bool), MalformedReply> {
        let mut at = 0;
        while at < bytes.len() {
            if self.skip > 0 {
                let more = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len() - at);
                (at, self.skip) = (at + more, self.skip - more as u64);
                if self.skip == 0 && self.element_ended() {
                    return Ok((at, true));
                }
                continue;
            }
            let byte = bytes[at];
            at += 1;
            self.line.push(byte);
            if self.line.len() > LINE_MAX {
                return Err(MalformedReply);
            }
            if byte == b'\n' && self.line_ended()? {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    /// Takes the line; returns whether the reply ends with it.
    fn line_ended(&mut self) -> Result<bool, MalformedReply> {
        let line = std::mem::take(&mut self.line);
        let line = line.trim_ascii_end();
        let (kind, rest) = line.split_first().ok_or(MalformedReply)?;
        let number = || std::str::from_utf8(rest).ok()?.parse::<i64>().ok();
        let count = || number().map(|count| u64::try_from(count).unwrap_or_default()).ok_or(MalformedReply);
        if self.left == 0 {
            (self.left, self.is_push) = (1, *kind == b'>');
        }
        match kind {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => Ok(self.element_ended()),
            b'$' | b'!' | b'=' => match number().ok_or(MalformedReply)? {
                ..0 => Ok(self.element_ended()),
                size => {
                    self.skip = size.unsigned_abs() + 2;
                    Ok(false)
                }
            },
            b'*' | b'~' | b'>' => self.contains(count()?).map(|()| self.element_ended()),
            b'%' => self.contains(count()?.saturating_mul(2)).map(|()| self.element_ended()),
            // Attributes stand before the element that they are about.
            b'|' => self.contains(count()?.saturating_mul(2)).map(|()| false),
            _ => Err(MalformedReply),
        }
    }

    fn contains(&mut self, elements: u64) -> Result<(), MalformedReply> {
        self.left = self.left.checked_add(elements).ok_or(MalformedReply)?;
        Ok(())
    }

    /// Returns whether a reply ended with this element.
    const fn element_ended(&mut self) -> bool {
        self.left -= 1;
        self.left == 0 && !self.is_push
    }

    /// Whether nothing of a reply, or of a push message, has been received without its end.
    pub(super) const fn is_between(&self) -> bool {
        self.left == 0 && self.line.is_empty()
    }
}
