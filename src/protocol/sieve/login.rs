//! Signs in to ManageSieve for the client by AUTHENTICATE; and the client's own login.
//!
//! Source: RFC 5804 §1.7 (capabilities), §2.1 (AUTHENTICATE), §1.3 (response codes), §4 (strings: quoted ones of up to
//! 1,024 octets; a client's literals are `{12+}`).

use zeroize::Zeroizing;

use super::{TurnedAway, begins_with, text};
use crate::protocol::client_dialogue::{
    CAPABILITIES_MAX, ClientDialogue, ClientProgress, first_line, first_word, skipped, string, wrong,
};
use crate::protocol::client_sasl::{ClientCheck, OFFERED, SaslRequest, SaslVerdict};
use crate::protocol::line_login::{LoginDialogue, LoginProgress, SaslExchange, kept};
use crate::protocol::lines::{Framing, literal};
use crate::protocol::login::{LoginContext, LoginError, secret_message};
use crate::protocol::sasl::from_base64;

/// One login.
#[derive(Debug)]
pub(super) struct SieveLogin {
    context: LoginContext<'static>,
    /// `None`: the capabilities come first, which greet or follow STARTTLS.
    sasl: Option<SaslExchange>,
    /// The mechanisms that the server offers.
    offered: String,
    /// The server's other capabilities, for the client.
    capabilities: Vec<u8>,
}

/// Of a quoted string.
const QUOTED_MAX: usize = 1024;

const fn malformed(reason: &'static str) -> LoginError {
    LoginError::Malformed { protocol: "ManageSieve", reason }
}

impl SieveLogin {
    pub(super) fn new(context: LoginContext<'_>) -> Self {
        Self { context: kept(context), sasl: None, offered: String::new(), capabilities: Vec::new() }
    }

    fn learn(&mut self, line: &[u8]) -> Result<(), LoginError> {
        let (name, rest) = string(line).ok_or(malformed("a capability that is no string"))?;
        match () {
            () if name.eq_ignore_ascii_case(b"SASL") => {
                let value = string(rest.trim_ascii_start()).map(|(value, _)| value).unwrap_or_default();
                self.offered = String::from_utf8_lossy(&value).into_owned();
            }
            () if name.eq_ignore_ascii_case(b"STARTTLS") => {}
            () if self.capabilities.len() + line.len() < CAPABILITIES_MAX => {
                self.capabilities.extend_from_slice(line);
                self.capabilities.extend_from_slice(b"\r\n");
            }
            () => {}
        }
        Ok(())
    }

    fn authenticate(&mut self) -> Result<LoginProgress, LoginError> {
        let offered: Vec<&str> = self.offered.split_ascii_whitespace().collect();
        let mut sasl = SaslExchange::new(&offered, &self.context)?;
        let name = sasl.mechanism().name().as_bytes();
        let said = match sasl.take_initial(usize::MAX) {
            Some(initial) => secret_message(&[b"AUTHENTICATE \"", name, b"\" ", &quoted(&initial), b"\r\n"]),
            None => secret_message(&[b"AUTHENTICATE \"", name, b"\"\r\n"]),
        };
        self.sasl = Some(sasl);
        Ok(LoginProgress::Say(said))
    }

    fn accepted(&mut self, line: &[u8]) -> Result<LoginProgress, LoginError> {
        let data = match code(line) {
            code if begins_with(code, "SASL") => {
                let (data, _) =
                    string(code["SASL".len()..].trim_ascii_start()).ok_or(malformed("a bad code"))?;
                Some(from_base64(&data).ok_or(malformed("data that is no base64"))?)
            }
            _ => None,
        };
        self.sasl.as_mut().expect("it was begun").succeeded(data.as_deref())?;
        let client = SieveClient::new(&self.capabilities, ClientCheck::new(self.context.client.clone()));
        Ok(LoginProgress::SignedIn { to_client: client.capabilities.clone(), client: Box::new(client) })
    }

    fn refused(&self, kind: &'static str, line: &[u8]) -> LoginError {
        let credentials = &self.context.credentials;
        let by = credentials.verdict(TurnedAway::new(kind, None, text(line)), line);
        match &self.sasl {
            Some(sasl) if kind == NO && !begins_with(code(line), "TRYLATER") => {
                LoginError::Rejected { user: credentials.user.clone(), by, is_of_secret: sasl.has_proved() }
            }
            _ => LoginError::TurnedAway(by),
        }
    }
}

const NO: &str = "ManageSieve NO";
const BYE: &str = "ManageSieve BYE";

impl LoginDialogue for SieveLogin {
    const FRAMING: Framing = Framing::Literals;

    fn begin(&mut self) -> Option<&'static [u8]> {
        None
    }

    fn line(&mut self, line: &[u8]) -> Result<LoginProgress, LoginError> {
        if begins_with(line, "NO") {
            return Err(self.refused(NO, line));
        }
        if begins_with(line, "BYE") {
            return Err(self.refused(BYE, line));
        }
        match &mut self.sasl {
            None if begins_with(line, "OK") => self.authenticate(),
            None => self.learn(line).map(|()| LoginProgress::More),
            Some(_) if begins_with(line, "OK") => self.accepted(line),
            Some(sasl) => {
                let (challenge, _) = string(line).ok_or(malformed("a challenge that is no string"))?;
                let answer = quoted(&sasl.answer(&challenge, "ManageSieve")?);
                Ok(LoginProgress::Say(secret_message(&[&answer, b"\r\n"])))
            }
        }
    }
}

/// Base64 as a string of the protocol.
fn quoted(base64: &[u8]) -> Zeroizing<Vec<u8>> {
    match base64.len() <= QUOTED_MAX {
        true => secret_message(&[b"\"", base64, b"\""]),
        false => secret_message(&[format!("{{{}+}}\r\n", base64.len()).as_bytes(), base64]),
    }
}

/// The response code behind OK, NO or BYE, from its name on; empty if there is none.
fn code(line: &[u8]) -> &[u8] {
    let rest = line.iter().position(|byte| *byte == b' ').map_or(&b""[..], |at| &line[at..]);
    rest.trim_ascii_start().strip_prefix(b"(").unwrap_or_default()
}

/// The client's login.
#[derive(Debug)]
struct SieveClient {
    /// The greeting, and the answer to CAPABILITY.
    capabilities: Vec<u8>,
    asked: Option<SaslRequest>,
    check: ClientCheck,
}

impl SieveClient {
    fn new(known: &[u8], check: ClientCheck) -> Self {
        let capabilities =
            [known, format!("\"SASL\" \"{OFFERED}\"\r\nOK \"ambassador ready.\"\r\n").as_bytes()].concat();
        Self { capabilities, asked: None, check }
    }

    fn answered(&mut self, question: SaslRequest, answer: &[u8], taken: usize) -> ClientProgress {
        let words = match self.check.answer(question, answer) {
            SaslVerdict::Accepted => {
                return ClientProgress::LoggedIn { taken, words: b"OK \"Logged in.\"\r\n".to_vec() };
            }
            SaslVerdict::Rejected => return wrong(taken, b"NO \"Authentication failed.\"\r\n"),
            SaslVerdict::Ask(next) => return self.ask(next, taken),
            SaslVerdict::Cancelled => &b"NO \"Cancelled.\"\r\n"[..],
            SaslVerdict::Malformed => b"NO \"No base64.\"\r\n",
        };
        ClientProgress::Answer { taken, words: words.to_vec() }
    }

    fn ask(&mut self, question: SaslRequest, taken: usize) -> ClientProgress {
        self.asked = Some(question);
        ClientProgress::Answer { taken, words: format!("\"{}\"\r\n", question.challenge()).into_bytes() }
    }

    fn authenticate(&mut self, arguments: &[u8], taken: usize) -> ClientProgress {
        let mechanism = string(arguments);
        let question = mechanism.as_ref().and_then(|(name, _)| SaslRequest::first(name));
        let rest = mechanism.as_ref().map(|(_, rest)| rest.trim_ascii_start()).unwrap_or_default();
        match (question, rest) {
            (None, _) => ClientProgress::Answer {
                taken,
                words: b"NO \"Only PLAIN and LOGIN are offered.\"\r\n".to_vec(),
            },
            (Some(question), b"") => self.ask(question, taken),
            (Some(question), rest) => match string(rest) {
                Some((initial, _)) => self.answered(question, &initial, taken),
                None => ClientProgress::Answer { taken, words: b"NO \"A string is expected.\"\r\n".to_vec() },
            },
        }
    }
}

/// The length of the first command with its literals; `None`: it is incomplete.
fn command_end(held: &[u8]) -> Option<usize> {
    let mut at = 0usize;
    loop {
        let (line, length) = first_line(held.get(at..)?)?;
        at = (at + length).saturating_add(match literal(line) {
            Some(bytes) => bytes,
            None => return Some(at + length),
        });
    }
}

/// A longer command is none that is answered here.
const WORD_MAX: usize = 16;

impl ClientDialogue for SieveClient {
    fn before_login(&mut self, held: &[u8]) -> Result<Option<ClientProgress>, &'static str> {
        if !self.check.is_strict() {
            return Ok(None);
        }
        let end = command_end(held);
        Ok(Some(match end {
            Some(taken) if held[..taken].trim_ascii_end().eq_ignore_ascii_case(b"LOGOUT") => {
                ClientProgress::Ask { taken, command: b"LOGOUT\r\n".to_vec() }
            }
            end => skipped(end, b"NO \"Log in first.\"\r\n"),
        }))
    }

    fn hear(&mut self, held: &[u8]) -> Result<ClientProgress, &'static str> {
        if let Some(question) = self.asked {
            let Some(taken) = command_end(held) else { return Ok(ClientProgress::More) };
            self.asked = None;
            let answer = string(held).map(|(answer, _)| answer).unwrap_or_else(|| b"?".to_vec());
            return Ok(self.answered(question, &answer, taken));
        }
        let verb = match first_word(held, WORD_MAX) {
            Ok(end) => &held[..end],
            Err(progress) => return Ok(progress),
        };
        let is = |word: &str| verb.eq_ignore_ascii_case(word.as_bytes());
        if !["AUTHENTICATE", "CAPABILITY", "STARTTLS", "NOOP"].into_iter().any(is) {
            return Ok(ClientProgress::PassOn);
        }
        let Some(taken) = command_end(held) else { return Ok(ClientProgress::More) };
        let arguments = held[verb.len()..taken].trim_ascii();
        let words = match () {
            () if is("AUTHENTICATE") => return Ok(self.authenticate(arguments, taken)),
            () if is("CAPABILITY") => self.capabilities.clone(),
            () if is("STARTTLS") => b"NO \"There is no TLS on this connection.\"\r\n".to_vec(),
            () if arguments.is_empty() => b"OK \"Done.\"\r\n".to_vec(),
            // The client's own string (RFC 5804 §2.13).
            () => [b"OK (TAG ", arguments, b") \"Done.\"\r\n"].concat(),
        };
        Ok(ClientProgress::Answer { taken, words })
    }
}

#[cfg(test)]
mod tests;
