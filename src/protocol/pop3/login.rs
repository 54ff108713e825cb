//! Signs in to POP3 for the client: AUTH by what CAPA lists, or USER and PASS; and the client's own login.
//!
//! Sources: RFC 1939 §7 (USER, PASS, APOP), RFC 2449 (CAPA, response codes), RFC 3206 (SYS/TEMP, AUTH), RFC 5034 (AUTH;
//! §4: lines of 255 octets).

use zeroize::Zeroizing;

use super::{TurnedAway, begins_with, greeting, timestamp};
use crate::protocol::client_dialogue::{
    CAPABILITIES_MAX, ClientDialogue, ClientProgress, first_line, first_word, skipped, wrong,
};
use crate::protocol::client_sasl::{ClientCheck, OFFERED, SaslRequest, SaslVerdict};
use crate::protocol::line_login::{LoginDialogue, LoginProgress, SaslExchange, kept};
use crate::protocol::login::{LoginContext, LoginError, SecretKind, secret_message};
use crate::protocol::sasl::Mechanism;

/// One login.
#[derive(Debug)]
pub(super) struct Pop3Login {
    context: LoginContext<'static>,
    expects: Expects,
    /// The server's timestamp, for a client that uses APOP.
    timestamp: Option<Vec<u8>>,
    /// The server's capabilities, one a line; `None`: it has no CAPA.
    capabilities: Option<Vec<Vec<u8>>>,
}

/// What is to come from the server.
#[derive(Debug)]
enum Expects {
    Greeting,
    Status,
    Capabilities,
    Sasl(SaslExchange),
    User,
    Password,
}

/// Of a command with its end.
const LINE_MAX: usize = 255;

const fn malformed(reason: &'static str) -> LoginError {
    LoginError::Malformed { protocol: "POP3", reason }
}

impl Pop3Login {
    pub(super) fn new(context: LoginContext<'_>) -> Self {
        let context = kept(context);
        let expects = if context.is_greeted { Expects::Status } else { Expects::Greeting };
        Self { context, expects, timestamp: None, capabilities: None }
    }

    /// The arguments of a capability, if the server has it.
    fn capability(&self, name: &str) -> Option<&[u8]> {
        let mut lines = self.capabilities.iter().flatten();
        lines.find(|line| begins_with(line, name)).map(|line| &line[name.len()..])
    }

    fn authenticate(&mut self) -> Result<LoginProgress, LoginError> {
        let offered = String::from_utf8_lossy(self.capability("SASL").unwrap_or_default()).into_owned();
        let offered: Vec<&str> = offered.split_ascii_whitespace().collect();
        match SaslExchange::new(&offered, &self.context) {
            Ok(mut sasl) => {
                let begin = [b"AUTH ", sasl.mechanism().name().as_bytes()].concat();
                let room = LINE_MAX - begin.len() - b" \r\n".len();
                let said = match sasl.take_initial(room) {
                    Some(initial) => secret_message(&[&begin, b" ", &initial, b"\r\n"]),
                    None => secret_message(&[&begin, b"\r\n"]),
                };
                self.expects = Expects::Sasl(sasl);
                Ok(LoginProgress::Say(said))
            }
            Err(_) if self.takes_user() => {
                self.expects = Expects::User;
                Ok(LoginProgress::Say(secret_message(&[
                    b"USER ",
                    self.context.credentials.user.as_bytes(),
                    b"\r\n",
                ])))
            }
            Err(none) if !self.has_user() => Err(none),
            Err(_) => {
                let LoginContext { credentials, mechanisms, .. } = &self.context;
                let offered: Vec<_> = offered.into_iter().chain(["the commands USER and PASS"]).collect();
                Err(credentials.no_mechanism(mechanisms, &offered))
            }
        }
    }

    /// Servers without CAPA have USER, but for some with APOP alone.
    fn has_user(&self) -> bool {
        self.capabilities.is_none() || self.capability("USER").is_some()
    }

    /// USER and PASS are as strong as the mechanism LOGIN.
    fn takes_user(&self) -> bool {
        let LoginContext { credentials, mechanisms, .. } = &self.context;
        let fits = |text: &str| !text.contains(['\r', '\n', '\0']);
        let is_password = credentials.secret.kind() != SecretKind::BearerToken;
        let is_allowed = mechanisms.allows(Mechanism::Login.name());
        is_password
            && is_allowed
            && self.has_user()
            && fits(&credentials.user)
            && fits(credentials.secret.expose())
    }

    fn accepted(&mut self) -> Result<LoginProgress, LoginError> {
        match &mut self.expects {
            Expects::Sasl(sasl) => sasl.succeeded(None)?,
            Expects::User => {
                self.expects = Expects::Password;
                let secret = self.context.credentials.secret.expose().as_bytes();
                return Ok(LoginProgress::Say(secret_message(&[b"PASS ", secret, b"\r\n"])));
            }
            Expects::Greeting | Expects::Status | Expects::Capabilities | Expects::Password => {}
        }
        let to_client = match self.context.is_greeted {
            true => Vec::new(),
            // APOP cannot be held to the password, and is not offered then.
            false => greeting(self.timestamp.as_deref().filter(|_| self.context.client.is_none())),
        };
        let check = ClientCheck::new(self.context.client.clone());
        let client = Pop3Client::new(self.capabilities.as_deref().unwrap_or_default(), check);
        Ok(LoginProgress::SignedIn { to_client, client: Box::new(client) })
    }

    fn refused(&self, text: &[u8]) -> LoginError {
        let credentials = &self.context.credentials;
        let by = credentials.verdict(TurnedAway::new("POP3 -ERR", None, text), text);
        let not_now = ["[SYS/", "[IN-USE]", "[LOGIN-DELAY"];
        let marked = by.words.to_ascii_uppercase();
        let is_of_secret = match &self.expects {
            Expects::Greeting | Expects::Status | Expects::Capabilities => return LoginError::TurnedAway(by),
            _ if not_now.iter().any(|code| marked.starts_with(code)) => return LoginError::TurnedAway(by),
            Expects::Sasl(sasl) => sasl.has_proved(),
            Expects::User => false,
            Expects::Password => true,
        };
        LoginError::Rejected { user: credentials.user.clone(), by, is_of_secret }
    }
}

const CAPA: &[u8] = b"CAPA\r\n";

impl LoginDialogue for Pop3Login {
    fn begin(&mut self) -> Option<&'static [u8]> {
        self.context.is_greeted.then_some(CAPA)
    }

    fn line(&mut self, line: &[u8]) -> Result<LoginProgress, LoginError> {
        if matches!(self.expects, Expects::Capabilities) {
            return match line {
                b"." => self.authenticate(),
                _ => {
                    self.capabilities.get_or_insert_default().push(line.to_vec());
                    Ok(LoginProgress::More)
                }
            };
        }
        let is_ok = begins_with(line, "+OK");
        match (&mut self.expects, is_ok) {
            (Expects::Greeting, true) => {
                self.timestamp = timestamp(line).map(<[u8]>::to_vec);
                self.expects = Expects::Status;
                Ok(LoginProgress::Say(Zeroizing::new(CAPA.to_vec())))
            }
            (Expects::Status, true) => {
                self.expects = Expects::Capabilities;
                self.capabilities = Some(Vec::new());
                Ok(LoginProgress::More)
            }
            (_, true) => self.accepted(),
            (Expects::Status, false) if begins_with(line, "-ERR") => self.authenticate(),
            (_, false) if begins_with(line, "-ERR") => Err(self.refused(&line["-ERR".len()..])),
            (Expects::Sasl(sasl), false) if line.starts_with(b"+") => {
                Ok(LoginProgress::Say(secret_message(&[&sasl.answer(&line[1..], "POP3")?, b"\r\n"])))
            }
            _ => Err(malformed("a line that belongs to no login")),
        }
    }
}

/// The client's login.
#[derive(Debug)]
struct Pop3Client {
    /// The answer to CAPA.
    capabilities: Vec<u8>,
    asked: Option<SaslRequest>,
    check: ClientCheck,
}

/// Capabilities that are only of use before a login, and those that we have ourselves.
const OF_LOGIN: [&str; 6] = ["SASL", "USER", "STLS", "UTF8", "LANG", "XCLIENT"];

impl Pop3Client {
    fn new(known: &[Vec<u8>], check: ClientCheck) -> Self {
        let mut capabilities = format!("+OK\r\nUSER\r\nSASL {OFFERED}\r\n").into_bytes();
        let others = known.iter().filter(|line| !OF_LOGIN.iter().any(|word| begins_with(line, word)));
        for line in others.filter(|line| !line.is_empty() && !line.starts_with(b".")) {
            if capabilities.len() + line.len() < CAPABILITIES_MAX {
                capabilities.extend_from_slice(line);
                capabilities.extend_from_slice(b"\r\n");
            }
        }
        capabilities.extend_from_slice(b".\r\n");
        Self { capabilities, asked: None, check }
    }

    fn answered(&mut self, question: SaslRequest, answer: &[u8], taken: usize) -> ClientProgress {
        let words = match self.check.answer(question, answer) {
            SaslVerdict::Accepted => return logged_in(taken),
            SaslVerdict::Rejected => return wrong(taken, FAILED),
            SaslVerdict::Ask(next) => return self.ask(next, taken),
            SaslVerdict::Cancelled => &b"-ERR cancelled\r\n"[..],
            SaslVerdict::Malformed => b"-ERR no base64\r\n",
        };
        ClientProgress::Answer { taken, words: words.to_vec() }
    }

    fn ask(&mut self, question: SaslRequest, taken: usize) -> ClientProgress {
        self.asked = Some(question);
        ClientProgress::Answer { taken, words: format!("+ {}\r\n", question.challenge()).into_bytes() }
    }

    fn authenticate(&mut self, arguments: &[u8], taken: usize) -> ClientProgress {
        let mut words = arguments.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let Some(mechanism) = words.next() else {
            // The list, as some ask for it (RFC 1734's drafts); Outlook does.
            let list = format!("+OK\r\n{}\r\n.\r\n", OFFERED.replace(' ', "\r\n"));
            return ClientProgress::Answer { taken, words: list.into_bytes() };
        };
        match (SaslRequest::first(mechanism), words.next()) {
            (Some(question), Some(initial)) => self.answered(question, initial, taken),
            (Some(question), None) => self.ask(question, taken),
            (None, _) => {
                ClientProgress::Answer { taken, words: b"-ERR only PLAIN and LOGIN are offered\r\n".to_vec() }
            }
        }
    }
}

/// RFC 3206 §4.
const FAILED: &[u8] = b"-ERR [AUTH] Authentication failed\r\n";

fn logged_in(taken: usize) -> ClientProgress {
    ClientProgress::LoggedIn { taken, words: b"+OK Logged in\r\n".to_vec() }
}

/// A longer word is none that is answered here.
const WORD_MAX: usize = 16;

impl ClientDialogue for Pop3Client {
    fn before_login(&mut self, held: &[u8]) -> Result<Option<ClientProgress>, &'static str> {
        if !self.check.is_strict() {
            return Ok(None);
        }
        let line = first_line(held);
        Ok(Some(match line {
            Some((line, taken)) if line.eq_ignore_ascii_case(b"QUIT") => {
                ClientProgress::Ask { taken, command: b"QUIT\r\n".to_vec() }
            }
            line => skipped(line.map(|(_, taken)| taken), b"-ERR Log in first\r\n"),
        }))
    }

    fn hear(&mut self, held: &[u8]) -> Result<ClientProgress, &'static str> {
        if let Some(question) = self.asked {
            let Some((line, taken)) = first_line(held) else { return Ok(ClientProgress::More) };
            self.asked = None;
            return Ok(self.answered(question, line.trim_ascii(), taken));
        }
        let verb = match first_word(held, WORD_MAX) {
            Ok(end) => &held[..end],
            Err(progress) => return Ok(progress),
        };
        let is = |word: &str| verb.eq_ignore_ascii_case(word.as_bytes());
        if !["CAPA", "USER", "PASS", "APOP", "AUTH", "STLS", "UTF8"].into_iter().any(is) {
            return Ok(ClientProgress::PassOn);
        }
        let Some((line, taken)) = first_line(held) else { return Ok(ClientProgress::More) };
        let words = match () {
            () if is("APOP") && self.check.is_strict() => {
                return Ok(skipped(Some(taken), b"-ERR APOP is not offered, but USER and AUTH\r\n"));
            }
            () if is("PASS") => {
                let password = line.get(verb.len() + 1..).unwrap_or_default();
                let is_accepted = self.check.accepts_password(password);
                return Ok(if is_accepted { logged_in(taken) } else { wrong(taken, FAILED) });
            }
            () if is("APOP") => return Ok(logged_in(taken)),
            () if is("AUTH") => return Ok(self.authenticate(&line[verb.len()..], taken)),
            () if is("CAPA") => self.capabilities.clone(),
            () if is("USER") => {
                self.check.name(line[verb.len()..].trim_ascii());
                b"+OK\r\n".to_vec()
            }
            () => b"-ERR not offered here\r\n".to_vec(),
        };
        Ok(ClientProgress::Answer { taken, words })
    }
}

#[cfg(test)]
mod tests;
