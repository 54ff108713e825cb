//! Signs in to MySQL and MariaDB for the client: from its HandshakeResponse41, rewritten, to the server's OK.
//!
//! Whatever happens, the server sees a whole login: one that ends in the middle counts towards `max_connect_errors`. So a
//! login that cannot be ours is carried through to its refusal, and only then reported. Sources: MySQL Internals,
//! "Connection Phase"; acl_authenticate and parse_client_handshake_packet in MariaDB's sql/sql_acl.cc (the capabilities
//! are those of the SSLRequest). Deliberately absent: COM_CHANGE_USER; a second factor; plugins that ask a person.

use zeroize::Zeroizing;

use super::probe::{Login as LoginOfNobody, NO_PLUGIN, NOBODY};
use super::{
    AUTH_SWITCH, CLIENT_CONNECT_ATTRS, CLIENT_CONNECT_WITH_DB, CLIENT_PLUGIN_AUTH, CLIENT_PLUGIN_AUTH_LENENC,
    CLIENT_SECURE_CONNECTION, CLIENT_SSL, ERR, FIXED, HEAD, Hello, NOT_NOW, OK, Packets, Probe, ProbeStep,
    RsaKey, TooLong, error_number, hello, packet, parse_refusal,
};
use crate::protocol::login::{
    AllowedMechanisms, LOGIN_MAX, Login, LoginContext, LoginCredentials, LoginError, LoginStep, SecretKind,
    secret_message,
};
use crate::protocol::verdict::REPEATS;

mod plugins;
mod response;
mod welcome;

pub(super) use plugins::PLUGINS;
use plugins::{CACHING_SHA2, CLEAR, NATIVE, PARSEC, in_clear, parsec_proof, proof};
use response::Response;
use welcome::Welcome;

/// One login.
#[derive(Debug)]
pub(super) struct SignIn {
    credentials: LoginCredentials,
    mechanisms: AllowedMechanisms,
    /// The database to use; `None`: the client's.
    database: Option<String>,
    nonce: [u8; 18],
    /// The client's HandshakeResponse41, and behind it, where the server's challenge is known, the greeting.
    opening: Vec<u8>,
    packets: Packets,
    total: usize,
    /// The plugin that the server goes by, and its challenge.
    plugin: Vec<u8>,
    scramble: Vec<u8>,
    rounds: u32,
    /// The server has a proof of ours, so that an error is about it.
    has_proved: bool,
    welcome: Welcome,
    /// The login cannot be ours: why, and the rest of it.
    leaving: Option<(LoginError, LoginOfNobody)>,
}

/// More exchanges than any plugin needs.
const ROUNDS_MAX: u32 = 8;
/// The client can change a password that has expired (MySQL 5.6).
const CLIENT_CAN_HANDLE_EXPIRED_PASSWORDS: u32 = 1 << 22;
/// The server's question for a second factor (MySQL 8.0.27).
const NEXT_FACTOR: u8 = 2;
/// Errors about what the client asks for: no access to the database, none of that name, an unknown character set.
const OF_CLIENT: [u16; 3] = [1044, 1049, 1115];
/// Errors that are about the user or the secret: access denied (1045, 1698), the password has expired (1820, 1862), the
/// account is locked (3118, 3955; MariaDB 4150, 4151), its plugin is missing (1524).
const OF_USER: [u16; 9] = [1045, 1524, 1698, 1820, 1862, 3118, 3955, 4150, 4151];
/// Errors by which a server calls a login broken: bad handshake, packets out of order, communication errors.
const BROKEN: [u16; 6] = [1043, 1156, 1158, 1159, 1160, 1161];
/// The client does not support the user's plugin.
const UNSUPPORTED: u16 = 1251;

const fn malformed(reason: &'static str) -> LoginError {
    LoginError::Malformed { protocol: "MySQL", reason }
}

/// The capabilities for the server: the client's, and what our own login needs, as far as the server has it. An expired
/// password of ours is not for the client to change.
pub(super) const fn capabilities(client: u32, hello: &Hello) -> u32 {
    let own =
        CLIENT_PLUGIN_AUTH | CLIENT_PLUGIN_AUTH_LENENC | CLIENT_SECURE_CONNECTION | CLIENT_CONNECT_WITH_DB;
    (client | CLIENT_SSL | own & hello.capabilities) & !CLIENT_CAN_HANDLE_EXPIRED_PASSWORDS
}

impl SignIn {
    pub(super) fn new(context: LoginContext<'_>, key: Option<&'static RsaKey>) -> Self {
        let LoginContext { credentials, mechanisms, database, opening, nonce, .. } = context;
        Self {
            credentials,
            mechanisms,
            database: database.map(Into::into),
            nonce,
            opening: opening.to_vec(),
            packets: Packets::default(),
            total: 0,
            plugin: Vec::new(),
            scramble: Vec::new(),
            rounds: 0,
            has_proved: false,
            welcome: Welcome::new(key, nonce),
            leaving: None,
        }
    }

    /// The database, or why the client cannot have its own.
    fn database<'a>(&'a self, of_client: &'a [u8], capabilities: u32) -> Result<&'a [u8], LoginError> {
        let Some(ours) = &self.database else { return Ok(of_client) };
        if !of_client.is_empty() && of_client != ours.as_bytes() {
            return Err(LoginError::Client("it asks for another database than login.database"));
        }
        if capabilities & CLIENT_CONNECT_WITH_DB == 0 {
            return Err(LoginError::Client("the server takes no database in a login (login.database)"));
        }
        Ok(ours.as_bytes())
    }

    /// Whether that plugin may carry the secret.
    fn allows(&self, plugin: &[u8]) -> bool {
        std::str::from_utf8(plugin).is_ok_and(|plugin| self.mechanisms.allows(plugin))
    }

    /// The plugin and the proof of the first packet. Without the server's challenge it names no plugin, so that the
    /// server asks.
    fn first_proof(&self, capabilities: u32, hello: Option<&Hello>) -> (&'static [u8], Zeroizing<Vec<u8>>) {
        let secret = &self.credentials.secret;
        let has = |all: u32| capabilities & all == all;
        let takes_token = has(CLIENT_PLUGIN_AUTH | CLIENT_PLUGIN_AUTH_LENENC) && self.allows(CLEAR);
        if secret.kind() == SecretKind::PasswordToken && takes_token {
            return (CLEAR, in_clear(secret));
        }
        let named = hello.map(|hello| &*hello.plugin);
        let plugin = match named {
            Some(_) if !has(CLIENT_PLUGIN_AUTH) => NATIVE,
            Some(named) if named == NATIVE => NATIVE,
            Some(named) if named == CACHING_SHA2 => CACHING_SHA2,
            _ => NO_PLUGIN,
        };
        let scramble = hello.map(|hello| &*hello.scramble).unwrap_or_default();
        match proof(plugin, scramble, secret) {
            Some(Ok(proof)) if self.allows(plugin) => (plugin, proof),
            _ => (NO_PLUGIN, Zeroizing::default()),
        }
    }

    /// The login for the server.
    fn login(
        &mut self,
        sequence: u8,
        response: &[u8],
        hello: Option<&Hello>,
    ) -> Result<LoginStep, LoginError> {
        let of_client = super::le_u32(response).unwrap_or_default();
        let capabilities = hello.map_or(of_client, |hello| capabilities(of_client, hello));
        let parsed = Response::parse(response);
        let is_old = hello.is_some() && capabilities & CLIENT_PLUGIN_AUTH == 0;
        let database = parsed
            .as_ref()
            .ok_or(LoginError::Client("its login is malformed"))
            .and_then(|parsed| self.database(parsed.database, capabilities))
            .and_then(|database| match is_old && !self.allows(NATIVE) {
                true => Err(self.no_mechanism("mysql_native_password")),
                false => Ok(database),
            });
        let user = self.credentials.user.as_bytes();
        match (parsed, database) {
            (Some(parsed), Ok(database)) if !user.contains(&0) => {
                let (plugin, proof) = self.first_proof(capabilities, hello);
                let login = parsed.write(capabilities, user, &proof, database, plugin);
                self.welcome.answers(sequence, &parsed, hello.map(|hello| &*hello.plugin));
                self.plugin = plugin.to_vec();
                self.has_proved = plugin != NO_PLUGIN;
                send(2, &login)
            }
            (_, database) => {
                let error = database.err().unwrap_or(LoginError::Client("login.as has a NUL"));
                self.leaving = Some((error, LoginOfNobody::of_nobody(true)));
                let login = Response::empty(response).write(capabilities, NOBODY, &[], b"", NO_PLUGIN);
                send(2, &login)
            }
        }
    }

    /// Reads one whole packet. `None`: another follows by itself.
    fn packet(&mut self, sequence: u8, payload: &[u8]) -> Result<Option<LoginStep>, LoginError> {
        self.rounds += 1;
        if self.rounds > ROUNDS_MAX {
            return Err(malformed("it asks without end"));
        }
        let (is_sha2, is_parsec) = (self.plugin == CACHING_SHA2, self.plugin == PARSEC);
        match payload {
            [OK, ..] => {
                let behind = std::mem::take(&mut self.packets.held);
                Ok(Some(LoginStep::SignedIn(self.welcome.accepted(payload, &behind))))
            }
            [ERR, ..] => self.error(payload).map(Some),
            [AUTH_SWITCH] => self.decline("mysql_old_password", sequence, payload).map(Some),
            [AUTH_SWITCH, request @ ..] => self.switch(sequence, payload, request).map(Some),
            // OK follows.
            [1, 3] if is_sha2 => Ok(None),
            // The server's cache is cold; TLS makes the password safe.
            [1, 4] if is_sha2 => self.prove(sequence, &in_clear(&self.credentials.secret)).map(Some),
            [1, salt @ ..] | salt if is_parsec => self.parsec(sequence, salt).map(Some),
            [NEXT_FACTOR, ..] => self.decline("a second factor", sequence, payload).map(Some),
            _ => Err(malformed("a packet that belongs to no login")),
        }
    }

    /// The server goes by another plugin, that of the user.
    fn switch(&mut self, sequence: u8, payload: &[u8], request: &[u8]) -> Result<LoginStep, LoginError> {
        let mut parts = request.splitn(2, |byte| *byte == 0);
        self.plugin = parts.next().unwrap_or_default().to_vec();
        self.scramble = parts.next().unwrap_or_default().to_vec();
        let proof = proof(&self.plugin, &self.scramble, &self.credentials.secret);
        match proof.filter(|_| self.allows(&self.plugin)) {
            Some(proof) => self.prove(sequence, &proof.map_err(malformed)?),
            None => {
                let plugin = String::from_utf8_lossy(&self.plugin);
                let plugin: String = plugin.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
                self.decline(&plugin, sequence, payload)
            }
        }
    }

    fn parsec(&mut self, sequence: u8, salt: &[u8]) -> Result<LoginStep, LoginError> {
        let proof = parsec_proof(&self.scramble, salt, &self.nonce, &self.credentials.secret);
        self.prove(sequence, &proof.map_err(malformed)?)
    }

    fn prove(&mut self, sequence: u8, proof: &[u8]) -> Result<LoginStep, LoginError> {
        self.has_proved = true;
        send(sequence.wrapping_add(1), proof)
    }

    /// The refusal that the login is led to counts as one of a wrong password.
    fn no_mechanism(&self, offered: &str) -> LoginError {
        let mut error = self.credentials.no_mechanism(&self.mechanisms, &[offered]);
        if let LoginError::NoMechanism { is_counted, .. } = &mut error {
            *is_counted = true;
        }
        error
    }

    /// The secret cannot be proved by that plugin, or must not: an answer of the right form leads to the refusal.
    fn decline(&mut self, offered: &str, sequence: u8, payload: &[u8]) -> Result<LoginStep, LoginError> {
        let error = self.no_mechanism(offered);
        let packets = std::mem::take(&mut self.packets);
        let mut rest = LoginOfNobody::rest(packets, self.plugin.clone(), Some((sequence, payload)));
        let due = rest.begin();
        self.leaving = Some((error, rest));
        Ok(LoginStep::Send(Zeroizing::new(due)))
    }

    /// An ERR: about room, about the user, about our login, or about what the client asked for, such as a database that
    /// does not exist: the client gets that one as it is.
    fn error(&self, payload: &[u8]) -> Result<LoginStep, LoginError> {
        let by = self.credentials.verdict(parse_refusal(payload), payload);
        let number = error_number(payload);
        if NOT_NOW.contains(&number) {
            return Err(LoginError::TurnedAway(by));
        }
        if number == UNSUPPORTED {
            return Err(self.no_mechanism(&by.to_string()));
        }
        if BROKEN.contains(&number) {
            return Err(malformed("it takes the login for a broken one"));
        }
        // Class 28 of SQLSTATE: invalid authorization.
        if OF_USER.contains(&number) || payload.get(3..6) == Some(b"#28") {
            let user = self.credentials.user.clone();
            return Err(LoginError::Rejected { user, by, is_of_secret: self.has_proved });
        }
        // Clouds have numbers of their own for a wrong token. What the client asks for is its own.
        if self.has_proved && !OF_CLIENT.contains(&number) {
            let user = self.credentials.user.clone();
            return Err(LoginError::Rejected { user, by, is_of_secret: true });
        }
        if self.credentials.is_repeated_in(payload) {
            let number = number.to_le_bytes();
            let state = payload.get(3..9).filter(|state| state[0] == b'#').unwrap_or_default();
            let clean = [&[ERR], &number[..], state, REPEATS.as_bytes()].concat();
            return Ok(LoginStep::SignedIn(self.welcome.refused(&clean)));
        }
        Ok(LoginStep::SignedIn(self.welcome.refused(payload)))
    }

    /// The rest of a login that cannot be ours.
    fn leave(&mut self, bytes: &[u8]) -> Option<Result<LoginStep, LoginError>> {
        let (error, rest) = self.leaving.as_mut()?;
        Some(match rest.receive(bytes) {
            Ok(ProbeStep::Incomplete) => Ok(LoginStep::Read),
            Ok(ProbeStep::Send(due)) => Ok(LoginStep::Send(Zeroizing::new(due))),
            Ok(ProbeStep::Serves { .. }) | Err(_) => Err(error.clone()),
        })
    }
}

impl Login for SignIn {
    fn begin(&mut self) -> Result<LoginStep, LoginError> {
        let mut opening = Packets { held: std::mem::take(&mut self.opening) };
        let first = opening.next().ok().flatten().filter(|(_, response)| response.len() > FIXED);
        // The configuration refuses clusters whose TLS begins otherwise.
        let Some((sequence, response)) = first else {
            return Err(LoginError::Client("its login was not read before TLS"));
        };
        let greeting = opening.next().ok().flatten();
        let hello = greeting.and_then(|(_, payload)| hello(&payload));
        self.login(sequence, &response, hello.as_ref())
    }

    fn has_proved(&self) -> bool {
        self.has_proved
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<LoginStep, LoginError> {
        self.total += bytes.len();
        if self.total > LOGIN_MAX {
            return Err(LoginError::Endless(LOGIN_MAX));
        }
        if let Some(step) = self.leave(bytes) {
            return step;
        }
        if bytes.is_empty() {
            return Err(LoginError::Closed);
        }
        self.packets.held.extend_from_slice(bytes);
        loop {
            match self.packets.next() {
                Ok(Some((sequence, payload))) => {
                    if let Some(step) = self.packet(sequence, &payload)? {
                        return Ok(step);
                    }
                }
                Ok(None) => return Ok(LoginStep::Read),
                Err(TooLong) => return Err(malformed("a packet of impossible length")),
            }
        }
    }
}

/// A packet with a secret.
fn send(sequence: u8, payload: &[u8]) -> Result<LoginStep, LoginError> {
    let length = u32::try_from(payload.len()).ok().filter(|length| *length < 1 << 24);
    let length = length.ok_or(LoginError::Client("its login is too long"))?.to_le_bytes();
    let mut head = [0; HEAD];
    head[..3].copy_from_slice(&length[..3]);
    head[3] = sequence;
    Ok(LoginStep::Send(secret_message(&[&head, payload])))
}

#[cfg(test)]
mod tests;
