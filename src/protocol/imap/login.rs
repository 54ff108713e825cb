//! Signs in to IMAP for the client: AUTHENTICATE by what the server offers, or LOGIN; and the client's own login.
//!
//! Sources: RFC 9051 §6.2.2, §6.2.3 (AUTHENTICATE, LOGIN), RFC 4959 (SASL-IR), RFC 5530 (response codes), RFC 2971 (ID),
//! RFC 2683 §3.2.1.5 (lines of 8,000 octets). The client is told the capabilities that the server has after the login:
//! some clients ask for them before it alone (imaplib).

use std::collections::VecDeque;

use zeroize::Zeroizing;

use super::{GREETING, TurnedAway, begins_with, bye, status};
use crate::protocol::client_dialogue::{
    CAPABILITIES_MAX, ClientDialogue, ClientProgress, first_line, first_word, skipped, string, wrong,
};
use crate::protocol::client_sasl::{ClientCheck, SaslRequest, SaslVerdict};
use crate::protocol::line_login::{LoginDialogue, LoginProgress, SaslExchange, kept};
use crate::protocol::lines::{Framing, literal};
use crate::protocol::login::{LoginContext, LoginError, SecretKind, secret_message};
use crate::protocol::sasl::Mechanism;

/// One login.
#[derive(Debug)]
pub(super) struct ImapLogin {
    context: LoginContext<'static>,
    expects: Expects,
    /// The server's latest.
    capabilities: Vec<String>,
    /// Those from before the login.
    before: Vec<String>,
}

/// What is to come from the server.
#[derive(Debug)]
enum Expects {
    Greeting,
    Capabilities,
    Sasl(SaslExchange),
    /// The parts of LOGIN that are still to be sent, each after a literal was agreed to.
    Login(VecDeque<Zeroizing<Vec<u8>>>),
}

/// Servers take lines of this length.
const LINE_MAX: usize = 8000;

const fn malformed(reason: &'static str) -> LoginError {
    LoginError::Malformed { protocol: "IMAP", reason }
}

impl ImapLogin {
    fn turned_away(&self, line: &[u8]) -> LoginError {
        LoginError::TurnedAway(self.context.credentials.verdict(bye(line), line))
    }

    pub(super) fn new(context: LoginContext<'_>) -> Self {
        let context = kept(context);
        let expects = if context.is_greeted { Expects::Capabilities } else { Expects::Greeting };
        Self { context, expects, capabilities: Vec::new(), before: Vec::new() }
    }

    /// Whether the server had it before the login.
    fn has(&self, capability: &str) -> bool {
        self.before.iter().any(|known| known.eq_ignore_ascii_case(capability))
    }

    fn greeting(&mut self, line: &[u8]) -> Result<LoginProgress, LoginError> {
        match status(line) {
            Some("OK") if self.learn_code(&line["* OK".len()..]) => self.authenticate(),
            Some("OK") => {
                self.expects = Expects::Capabilities;
                Ok(LoginProgress::Say(Zeroizing::new(CAPABILITY.to_vec())))
            }
            // It knows us, by our certificate or address.
            Some("PREAUTH") => {
                self.learn_code(&line["* PREAUTH".len()..]);
                Ok(self.signed_in())
            }
            Some("BYE") => Err(self.turned_away(line)),
            _ => Err(malformed("no greeting")),
        }
    }

    /// Learns the capabilities of a `[CAPABILITY …]` at the beginning of a status line's text.
    fn learn_code(&mut self, text: &[u8]) -> bool {
        let inside = code(text);
        let is_list = begins_with(inside, "CAPABILITY");
        if is_list {
            self.learn(&inside["CAPABILITY".len()..]);
        }
        is_list
    }

    fn learn(&mut self, words: &[u8]) {
        let words = words.split(|byte| *byte == b' ').filter_map(|word| std::str::from_utf8(word).ok());
        let plain = |word: &&str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic() && byte != b']')
        };
        let mut total = 0;
        let bounded = words.filter(plain).take_while(|word| {
            total += word.len() + 1;
            total <= CAPABILITIES_MAX
        });
        self.capabilities = bounded.map(Into::into).collect();
    }

    /// Chooses how to sign in. What was known until now is not what the server can do after it.
    fn authenticate(&mut self) -> Result<LoginProgress, LoginError> {
        self.before = std::mem::take(&mut self.capabilities);
        let offered: Vec<&str> = self
            .before
            .iter()
            .filter(|word| word.get(..5).is_some_and(|begin| begin.eq_ignore_ascii_case("AUTH=")))
            .map(|word| &word[5..])
            .collect();
        match SaslExchange::new(&offered, &self.context) {
            Ok(mut sasl) => {
                let has_initial = self.has("SASL-IR");
                let initial = has_initial.then(|| sasl.take_initial(LINE_MAX - 64)).flatten();
                let name = sasl.mechanism().name().as_bytes();
                let begin: &[&[u8]] = &[b"amb3 AUTHENTICATE ", name];
                let said = match &initial {
                    Some(initial) => secret_message(&[begin, &[b" ", initial, b"\r\n"]].concat()),
                    None => secret_message(&[begin, &[&b"\r\n"[..]]].concat()),
                };
                self.expects = Expects::Sasl(sasl);
                Ok(LoginProgress::Say(said))
            }
            Err(_) if self.takes_login() => {
                let credentials = &self.context.credentials;
                let mut parts = login_command(&credentials.user, credentials.secret.expose());
                let first = parts.pop_front().expect("a command has at least one part");
                self.expects = Expects::Login(parts);
                Ok(LoginProgress::Say(first))
            }
            Err(none) if self.has("LOGINDISABLED") => Err(none),
            Err(_) => {
                let LoginContext { credentials, mechanisms, .. } = &self.context;
                let offered: Vec<_> = offered.into_iter().chain(["the command LOGIN"]).collect();
                Err(credentials.no_mechanism(mechanisms, &offered))
            }
        }
    }

    /// The command LOGIN is as strong as the mechanism of that name.
    fn takes_login(&self) -> bool {
        let LoginContext { credentials, mechanisms, .. } = &self.context;
        let is_password =
            !matches!(credentials.secret.kind(), SecretKind::BearerToken | SecretKind::Certificate);
        is_password && mechanisms.allows(Mechanism::Login.name()) && !self.has("LOGINDISABLED")
    }

    fn continuation(&mut self, text: &[u8]) -> Result<LoginProgress, LoginError> {
        let said = match &mut self.expects {
            Expects::Sasl(sasl) => secret_message(&[&sasl.answer(text, "IMAP")?, b"\r\n"]),
            Expects::Login(parts) => parts.pop_front().ok_or(malformed("a continuation too many"))?,
            Expects::Greeting | Expects::Capabilities => return Err(malformed("a continuation unasked")),
        };
        Ok(LoginProgress::Say(said))
    }

    /// The tagged answer to AUTHENTICATE or LOGIN.
    fn judged(&mut self, answer: &[u8]) -> Result<LoginProgress, LoginError> {
        let has_proved = match &mut self.expects {
            Expects::Sasl(sasl) => sasl.has_proved(),
            Expects::Login(parts) => parts.is_empty(),
            Expects::Greeting | Expects::Capabilities => return Err(malformed("an answer unasked")),
        };
        if begins_with(answer, "OK") {
            match &mut self.expects {
                Expects::Sasl(sasl) => sasl.succeeded(None)?,
                Expects::Greeting | Expects::Capabilities | Expects::Login(_) if !has_proved => {
                    return Err(malformed("success before the end of the login"));
                }
                Expects::Greeting | Expects::Capabilities | Expects::Login(_) => {}
            }
            self.learn_code(&answer["OK".len()..]);
            return Ok(self.signed_in());
        }
        let credentials = &self.context.credentials;
        let Some(kind) =
            [("NO", "IMAP NO"), ("BAD", "IMAP BAD")].into_iter().find(|(word, _)| begins_with(answer, word))
        else {
            return Err(malformed("an answer that is neither OK, NO nor BAD"));
        };
        let text = &answer[kind.0.len()..];
        let by = credentials.verdict(TurnedAway::new(kind.1, None, text), text);
        let not_now = ["UNAVAILABLE", "INUSE", "LIMIT", "SERVERBUG"];
        if not_now.iter().any(|word| begins_with(code(text), word)) {
            return Err(LoginError::TurnedAway(by));
        }
        Err(LoginError::Rejected { user: credentials.user.clone(), by, is_of_secret: has_proved })
    }

    fn signed_in(&mut self) -> LoginProgress {
        let to_client = if self.context.is_greeted { Vec::new() } else { GREETING.to_vec() };
        let client =
            ImapClient::new(&self.before, &self.capabilities, ClientCheck::new(self.context.client.clone()));
        LoginProgress::SignedIn { to_client, client: Box::new(client) }
    }
}

const CAPABILITY: &[u8] = b"amb2 CAPABILITY\r\n";

impl LoginDialogue for ImapLogin {
    const FRAMING: Framing = Framing::Literals;

    fn begin(&mut self) -> Option<&'static [u8]> {
        self.context.is_greeted.then_some(CAPABILITY)
    }

    fn line(&mut self, line: &[u8]) -> Result<LoginProgress, LoginError> {
        if matches!(self.expects, Expects::Greeting) {
            return self.greeting(line);
        }
        if let Some(text) = line.strip_prefix(b"+") {
            return self.continuation(text);
        }
        if let Some(answer) = line.strip_prefix(b"amb3 ") {
            return self.judged(answer);
        }
        if let Some(data) = line.strip_prefix(b"* ") {
            match status(line) {
                Some("BYE") => return Err(self.turned_away(line)),
                Some("OK") => _ = self.learn_code(&data["OK".len()..]),
                _ if begins_with(data, "CAPABILITY") => self.learn(&data["CAPABILITY".len()..]),
                _ => {}
            }
            return Ok(LoginProgress::More);
        }
        match (line.strip_prefix(b"amb2 "), &self.expects) {
            (Some(_), Expects::Capabilities) => self.authenticate(),
            _ => Err(malformed("a line that belongs to no login")),
        }
    }
}

/// The text in brackets at the beginning of a status line's text; empty if there is none.
fn code(text: &[u8]) -> &[u8] {
    let Some(rest) = text.trim_ascii_start().strip_prefix(b"[") else { return b"" };
    rest.iter().position(|byte| *byte == b']').map_or(b"", |end| &rest[..end])
}

/// LOGIN, in one part for each literal that the server has to agree to, and one more.
fn login_command(user: &str, password: &str) -> VecDeque<Zeroizing<Vec<u8>>> {
    let mut parts = VecDeque::new();
    let most = (user.len() + password.len()) * 2 + 64;
    let part = |begin: &[u8]| {
        let mut part = Zeroizing::new(Vec::with_capacity(most));
        part.extend_from_slice(begin);
        part
    };
    let mut open = part(b"amb3 LOGIN");
    for text in [user, password] {
        open.push(b' ');
        if text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_control()) {
            open.push(b'"');
            for byte in text.bytes() {
                if matches!(byte, b'"' | b'\\') {
                    open.push(b'\\');
                }
                open.push(byte);
            }
            open.push(b'"');
        } else {
            open.extend_from_slice(format!("{{{}}}\r\n", text.len()).as_bytes());
            parts.push_back(std::mem::replace(&mut open, part(text.as_bytes())));
        }
    }
    open.extend_from_slice(b"\r\n");
    parts.push_back(open);
    parts
}

/// The client's login.
#[derive(Debug)]
struct ImapClient {
    /// What it is told before its login, and with its success.
    before: String,
    after: String,
    /// AUTHENTICATE's tag, and what the client was asked.
    asked: Option<(Vec<u8>, SaslRequest)>,
    /// Literals of the present command that were agreed to.
    agreed: usize,
    check: ClientCheck,
}

/// Capabilities that are of no use to a client of ours.
fn is_of_login(word: &str) -> bool {
    let is = |begin: &str| word.get(..begin.len()).is_some_and(|this| this.eq_ignore_ascii_case(begin));
    is("AUTH=") || is("STARTTLS") || is("LOGINDISABLED") || is("LOGIN-REFERRALS")
}

impl ImapClient {
    /// `after`: empty if the server has not told.
    fn new(before: &[String], after: &[String], check: ClientCheck) -> Self {
        let of_session = |words: &[String]| -> Vec<String> {
            words.iter().filter(|word| !is_of_login(word)).cloned().collect()
        };
        let (before, after) = (of_session(before), of_session(after));
        let known = if after.is_empty() { before } else { after.clone() };
        let base = known.is_empty().then_some("IMAP4rev1");
        let own = known.iter().map(String::as_str).filter(|word| !word.eq_ignore_ascii_case("SASL-IR"));
        let login = ["SASL-IR", "AUTH=PLAIN", "AUTH=LOGIN"];
        let told: Vec<&str> = base.into_iter().chain(own).chain(login).collect();
        Self { before: told.join(" "), after: after.join(" "), asked: None, agreed: 0, check }
    }

    fn logged_in(&mut self, tag: &[u8], taken: usize) -> ClientProgress {
        let code = match &*self.after {
            "" => String::new(),
            known => format!("[CAPABILITY {known}] "),
        };
        ClientProgress::LoggedIn { taken, words: tagged(tag, &format!("OK {code}Logged in")) }
    }

    /// The client's answer to a question, or its initial response.
    fn answered(&mut self, tag: &[u8], question: SaslRequest, answer: &[u8], taken: usize) -> ClientProgress {
        let words = match self.check.answer(question, answer) {
            SaslVerdict::Accepted => return self.logged_in(tag, taken),
            SaslVerdict::Rejected => return wrong(taken, &tagged(tag, FAILED)),
            SaslVerdict::Ask(next) => return self.ask(tag, next, taken),
            SaslVerdict::Cancelled => tagged(tag, "BAD AUTHENTICATE cancelled"),
            SaslVerdict::Malformed => tagged(tag, "BAD no base64"),
        };
        ClientProgress::Answer { taken, words }
    }

    /// LOGIN, with its arguments and their end.
    fn login(&mut self, tag: &[u8], arguments: &[u8], taken: usize) -> ClientProgress {
        if !self.check.is_strict() {
            return self.logged_in(tag, taken);
        }
        let Some((user, password)) = user_and_password(arguments) else {
            let words = tagged(tag, "BAD LOGIN has a user and a password");
            return ClientProgress::Answer { taken, words };
        };
        match self.check.accepts(&user, &password) {
            true => self.logged_in(tag, taken),
            false => wrong(taken, &tagged(tag, FAILED)),
        }
    }

    fn ask(&mut self, tag: &[u8], question: SaslRequest, taken: usize) -> ClientProgress {
        self.asked = Some((tag.to_vec(), question));
        ClientProgress::Answer { taken, words: format!("+ {}\r\n", question.challenge()).into_bytes() }
    }

    fn authenticate(&mut self, tag: &[u8], arguments: &[u8], taken: usize) -> ClientProgress {
        let mut words = arguments.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        match (words.next().and_then(SaslRequest::first), words.next()) {
            (Some(question), Some(initial)) => self.answered(tag, question, initial, taken),
            (Some(question), None) => self.ask(tag, question, taken),
            (None, _) => {
                ClientProgress::Answer { taken, words: tagged(tag, "NO only PLAIN and LOGIN are offered") }
            }
        }
    }

    /// The end of a command with its literals; `Err`: what comes before it.
    fn command_end(&mut self, held: &[u8]) -> Result<usize, ClientProgress> {
        let (mut at, mut literals) = (0, 0);
        loop {
            let Some((line, length)) = held.get(at..).and_then(first_line) else {
                return Err(ClientProgress::More);
            };
            let Some(bytes) = literal(line) else { return Ok(at + length) };
            at = (at + length).saturating_add(bytes);
            if !line.ends_with(b"+}") {
                literals += 1;
                if literals > self.agreed {
                    self.agreed = literals;
                    return Err(ClientProgress::Answer { taken: 0, words: b"+ go on\r\n".to_vec() });
                }
            }
        }
    }
}

/// RFC 5530 §3.
const FAILED: &str = "NO [AUTHENTICATIONFAILED] Authentication failed";

/// The arguments of LOGIN: two strings, or atoms, and the end of the line.
fn user_and_password(arguments: &[u8]) -> Option<(Vec<u8>, Zeroizing<Vec<u8>>)> {
    let (user, rest) = argument(arguments)?;
    let (password, end) = argument(rest)?;
    let password = Zeroizing::new(password);
    end.trim_ascii().is_empty().then_some((user, password))
}

/// The next argument, and what follows it.
fn argument(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let text = text.strip_prefix(b" ")?;
    if matches!(text.first()?, b'"' | b'{') {
        return string(text);
    }
    let end = text.iter().position(|byte| matches!(byte, b' ' | b'\r' | b'\n')).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_vec(), &text[end..]))
}

/// The end of a command of which no further part is agreed to: only what follows unasked belongs to it (RFC 7888).
fn refused_end(held: &[u8]) -> Option<usize> {
    let mut at = 0usize;
    loop {
        let (line, length) = first_line(held.get(at..)?)?;
        at += length;
        match literal(line).filter(|_| line.ends_with(b"+}")) {
            Some(bytes) => at = at.saturating_add(bytes),
            None => return Some(at),
        }
    }
}

fn tagged(tag: &[u8], words: &str) -> Vec<u8> {
    [tag, b" ", words.as_bytes(), b"\r\n"].concat()
}

/// A longer tag or command is none that is answered here.
const WORD_MAX: usize = 255;

impl ClientDialogue for ImapClient {
    fn before_login(&mut self, held: &[u8]) -> Result<Option<ClientProgress>, &'static str> {
        if !self.check.is_strict() {
            return Ok(None);
        }
        let Some((line, length)) = first_line(held) else { return Ok(Some(ClientProgress::More)) };
        let mut words = line.split(|byte| *byte == b' ');
        let tag = words.next().filter(|tag| !tag.is_empty() && tag.iter().all(u8::is_ascii_alphanumeric));
        let is_logout = words.next().is_some_and(|verb| verb.eq_ignore_ascii_case(b"LOGOUT"));
        Ok(Some(match tag {
            Some(tag) if is_logout && words.next().is_none() => {
                ClientProgress::Ask { taken: length, command: tagged(tag, "LOGOUT") }
            }
            tag => skipped(refused_end(held), &tagged(tag.unwrap_or(b"*"), "BAD Please log in first")),
        }))
    }

    fn hear(&mut self, held: &[u8]) -> Result<ClientProgress, &'static str> {
        if let Some((tag, question)) = self.asked.take() {
            let Some((line, taken)) = first_line(held) else {
                self.asked = Some((tag, question));
                return Ok(ClientProgress::More);
            };
            return Ok(self.answered(&tag, question, line.trim_ascii(), taken));
        }
        let (tag, rest) = match first_word(held, WORD_MAX) {
            Ok(end) => held.split_at(end),
            Err(progress) => return Ok(progress),
        };
        let Some(rest) = rest.strip_prefix(b" ").filter(|_| !tag.is_empty()) else {
            return Ok(ClientProgress::PassOn);
        };
        let verb = match first_word(rest, WORD_MAX) {
            Ok(end) => &rest[..end],
            Err(progress) => return Ok(progress),
        };
        let is = |word: &str| verb.eq_ignore_ascii_case(word.as_bytes());
        if !["CAPABILITY", "NOOP", "ID", "STARTTLS", "LOGIN", "AUTHENTICATE"].into_iter().any(is) {
            return Ok(ClientProgress::PassOn);
        }
        let taken = match self.command_end(held) {
            Ok(taken) => taken,
            Err(before) => return Ok(before),
        };
        self.agreed = 0;
        let begin = tag.len() + 1 + verb.len();
        let arguments = held[begin..taken].trim_ascii();
        let words = match () {
            () if is("LOGIN") => return Ok(self.login(tag, &held[begin..taken], taken)),
            () if is("AUTHENTICATE") => return Ok(self.authenticate(tag, arguments, taken)),
            () if is("CAPABILITY") => [
                format!("* CAPABILITY {}\r\n", self.before).as_bytes(),
                &tagged(tag, "OK CAPABILITY completed"),
            ]
            .concat(),
            () if is("ID") => [&b"* ID NIL\r\n"[..], &tagged(tag, "OK ID completed")].concat(),
            () if is("NOOP") => tagged(tag, "OK NOOP completed"),
            () => tagged(tag, "BAD there is no TLS on this connection"),
        };
        Ok(ClientProgress::Answer { taken, words })
    }
}

#[cfg(test)]
mod tests;
