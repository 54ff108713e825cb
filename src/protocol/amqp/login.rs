//! Signs in to an AMQP 0-9-1 broker for the client, by PLAIN or, where the TLS client certificate is the proof, by EXTERNAL:
//! from the protocol header to Tune.
//!
//! A StartOk has the client's properties beside its login, and a client sends them only after a Start. So its header is
//! answered by a Start of ours before we dial; what it sends then goes to the broker with our login in it.
//!
//! Sources: AMQP 0-9-1 §1.4.2 (Connection.Start to Tune), §4.2.1 (fields); RabbitMQ, "Authentication failure notifications"
//! (a broker closes without a word unless the client can read its Close), rabbit_reader.erl (capabilities),
//! rabbit_auth_mechanism_ssl.erl (the name is the certificate's; what the response says is not read). Deliberately
//! absent: AMQP 1.0; more than one challenge.

use std::borrow::Cow;

use zeroize::Zeroizing;

use super::{FRAME_END, HEADER_0_9_1, METHOD, SPEAKS_TLS, STARTED, judge, method};
use crate::protocol::first_message::FirstMessageVerdict;
use crate::protocol::login::{
    AllowedMechanisms, Login, LoginContext, LoginCredentials, LoginError, LoginStep, SecretKind, SignedIn,
    secret_message,
};
use crate::protocol::sasl::plain;
use crate::protocol::{
    ClientOpening, Opening, OpeningError, OpeningState, ReplyTo, TLS_HANDSHAKE, TurnedAway,
};

/// The longest frame before Tune; RabbitMQ's `initial_frame_max` is 4,096, and 8,192 since 3.13.
const FRAME_MAX: usize = 128 * 1024;
/// Type, channel, and length of a frame.
const FRAME_HEAD: usize = 7;

const START: [u8; 4] = [0, 10, 0, 10];
const START_OK: [u8; 4] = [0, 10, 0, 11];
const SECURE: [u8; 4] = [0, 10, 0, 20];
const TUNE: [u8; 4] = [0, 10, 0, 30];
const CLOSE: [u8; 4] = [0, 10, 0, 50];

/// What a client may rely on, as RabbitMQ announces it.
const CAPABILITIES: [&str; 9] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
];
const FAILURE_CLOSE: &str = "authentication_failure_close";

/// A method frame of channel 0.
#[derive(Debug)]
struct Frame<'a> {
    /// Class and method.
    name: [u8; 4],
    arguments: &'a [u8],
    /// Of the whole frame.
    length: usize,
}

/// The first frame. `Ok(None)`: it is incomplete.
fn frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, ()> {
    let Some(head) = bytes.get(..FRAME_HEAD) else { return Ok(None) };
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    if head[..3] != [METHOD, 0, 0] || !(4..=FRAME_MAX).contains(&length) {
        return Err(());
    }
    let Some(whole) = bytes.get(FRAME_HEAD..=FRAME_HEAD + length) else { return Ok(None) };
    match whole.split_last() {
        Some((&FRAME_END, payload)) => {
            let (name, arguments) = payload.split_first_chunk().ok_or(())?;
            Ok(Some(Frame { name: *name, arguments, length: FRAME_HEAD + length + 1 }))
        }
        _ => Err(()),
    }
}

/// Cuts a long string, or a table, from the begin of `bytes`.
fn long<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *bytes = rest;
    Some(text)
}

/// Cuts a short string.
fn short<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    *bytes = rest;
    Some(text)
}

fn length_of(text: &[u8]) -> [u8; 4] {
    u32::try_from(text.len()).expect("an argument is bounded").to_be_bytes()
}

/// A table with the capabilities, and that name of a product.
fn properties(capabilities: &[&str]) -> Vec<u8> {
    let field = |name: &str, kind: u8, value: &[u8]| {
        let length = u8::try_from(name.len()).expect("a name is short");
        [&[length][..], name.as_bytes(), &[kind], value].concat()
    };
    let sized = |value: &[u8]| [&length_of(value)[..], value].concat();
    let flags: Vec<u8> = capabilities.iter().flat_map(|name| field(name, b't', &[1])).collect();
    let product = field("product", b'S', &sized(b"ambassador"));
    [field("capabilities", b'F', &sized(&flags)), product].concat()
}

/// The Start that a client gets before there is a broker.
fn own_start() -> Vec<u8> {
    let mut arguments = vec![0, 9];
    for part in [&properties(&CAPABILITIES)[..], b"PLAIN AMQPLAIN EXTERNAL", b"en_US"] {
        arguments.extend(length_of(part));
        arguments.extend_from_slice(part);
    }
    let [_, class, _, number] = START.map(u16::from);
    method(class, number, &arguments)
}

/// Reads the header and, once it is answered, the StartOk. Both are the opening.
#[derive(Debug, Default)]
pub(super) struct StartOpening {
    held: Vec<u8>,
    is_started: bool,
}

impl Opening for StartOpening {
    fn receive(&mut self, bytes: &[u8]) -> Result<OpeningState, OpeningError> {
        let refused = |reason, reply_to| Err(OpeningError { reply_to, ..OpeningError::new(reason) });
        self.held.extend_from_slice(bytes);
        if !self.is_started {
            if self.held[0] == TLS_HANDSHAKE {
                return Err(OpeningError::speaks_tls(SPEAKS_TLS));
            }
            return match judge(&self.held) {
                FirstMessageVerdict::Incomplete => Ok(OpeningState::Incomplete),
                FirstMessageVerdict::Foreign(reason) => refused(reason, ReplyTo::default()),
                FirstMessageVerdict::Speaks(_) if self.held == HEADER_0_9_1 => {
                    self.is_started = true;
                    Ok(OpeningState::Answer(Cow::Owned(own_start())))
                }
                FirstMessageVerdict::Speaks(reply_to) => {
                    refused("only clients of AMQP 0-9-1 can be signed in, and only after a Start", reply_to)
                }
            };
        }
        match frame(&self.held[HEADER_0_9_1.len()..]) {
            Ok(None) => Ok(OpeningState::Incomplete),
            Ok(Some(Frame { name: START_OK, .. })) => Ok(OpeningState::Opened(ClientOpening {
                bytes: std::mem::take(&mut self.held),
                may_half_close: true,
                reply_to: STARTED,
                ..ClientOpening::default()
            })),
            Ok(Some(_)) | Err(()) => refused("the client's answer to Start is not StartOk", STARTED),
        }
    }
}

/// One login.
#[derive(Debug)]
pub(super) struct StartLogin {
    credentials: LoginCredentials,
    mechanisms: AllowedMechanisms,
    opening: Vec<u8>,
    held: Vec<u8>,
    has_proved: bool,
}

const fn malformed(reason: &'static str) -> LoginError {
    LoginError::Malformed { protocol: "AMQP 0-9-1", reason }
}

/// The client's part of a StartOk that is kept, and what it sent after it.
struct ClientPart {
    properties: Vec<u8>,
    locale: Vec<u8>,
    behind: Vec<u8>,
}

impl StartLogin {
    pub(super) fn new(context: LoginContext<'_>) -> Self {
        let LoginContext { credentials, mechanisms, opening, .. } = context;
        Self { credentials, mechanisms, opening: opening.to_vec(), held: Vec::new(), has_proved: false }
    }

    fn client_part(&self) -> Result<ClientPart, LoginError> {
        if self.opening.is_empty() {
            let (properties, locale) = (properties(&[FAILURE_CLOSE]), b"en_US".to_vec());
            return Ok(ClientPart { properties, locale, behind: Vec::new() });
        }
        let read = || {
            let frames = self.opening.strip_prefix(HEADER_0_9_1)?;
            let Frame { name, mut arguments, length } = frame(frames).ok()??;
            let properties = long(&mut arguments)?.to_vec();
            let _mechanism = short(&mut arguments)?;
            let _response = long(&mut arguments)?;
            let locale = short(&mut arguments)?.to_vec();
            (name == START_OK).then(|| ClientPart { properties, locale, behind: frames[length..].to_vec() })
        };
        read().ok_or(LoginError::Client("its StartOk is malformed"))
    }

    /// In answer to the broker's Start.
    fn start_ok(&mut self, mut start: &[u8]) -> Result<LoginStep, LoginError> {
        const MALFORMED: LoginError = malformed("its Start is malformed");
        start = start.get(2..).ok_or(MALFORMED)?;
        let _properties = long(&mut start).ok_or(MALFORMED)?;
        let mechanisms = String::from_utf8_lossy(long(&mut start).ok_or(MALFORMED)?).into_owned();
        let kind = self.credentials.secret.kind();
        let ours = if kind == SecretKind::Certificate { "EXTERNAL" } else { "PLAIN" };
        if !mechanisms.split(' ').any(|mechanism| mechanism == ours) || !self.mechanisms.allows(ours) {
            return Err(self.credentials.no_mechanism(&self.mechanisms, &[&mechanisms]));
        }
        let ClientPart { properties, locale, .. } = self.client_part()?;
        let response = if kind == SecretKind::Certificate {
            secret_message(&[self.credentials.user.as_bytes()])
        } else {
            plain(&self.credentials)
        };
        let mechanism_length = [u8::try_from(ours.len()).expect("a name is short")];
        let locale_length = [u8::try_from(locale.len()).expect("it is a short string")];
        let (properties_length, response_length) = (length_of(&properties), length_of(&response));
        let arguments: [&[u8]; 9] = [
            &START_OK,
            &properties_length,
            &properties,
            &mechanism_length,
            ours.as_bytes(),
            &response_length,
            &response,
            &locale_length,
            &locale,
        ];
        let length: usize = arguments.iter().map(|part| part.len()).sum();
        let length = u32::try_from(length).expect("the arguments are bounded").to_be_bytes();
        let head: [&[u8]; 2] = [&[METHOD, 0, 0], &length];
        self.has_proved = true;
        Ok(LoginStep::Send(secret_message(&[&head[..], &arguments, &[&[FRAME_END]]].concat())))
    }

    fn rejected(&self, words: &[u8]) -> LoginError {
        let by = self.credentials.verdict(TurnedAway::new("AMQP error 403", None, words), words);
        LoginError::Rejected { user: self.credentials.shown().to_owned(), by, is_of_secret: true }
    }

    fn closed(&self, mut arguments: &[u8]) -> LoginError {
        const ACCESS_REFUSED: u16 = 403;
        let Some((code, rest)) = arguments.split_first_chunk() else {
            return malformed("its Close is malformed");
        };
        arguments = rest;
        let words = short(&mut arguments).unwrap_or_default();
        match u16::from_be_bytes(*code) {
            ACCESS_REFUSED if self.has_proved => self.rejected(words),
            code => {
                let by = TurnedAway::new("AMQP error", Some(code), words);
                LoginError::TurnedAway(self.credentials.verdict(by, words))
            }
        }
    }

    /// The connection has ended. Without the capability a broker says no in this way (§1.4.2.3 of the reference).
    fn ended(&self) -> LoginError {
        let reads_close = self.client_part().is_ok_and(|part| {
            let on = [FAILURE_CLOSE.as_bytes(), b"t\x01"].concat();
            part.properties.windows(on.len()).any(|window| window == on)
        });
        match self.has_proved && !reads_close {
            true => self.rejected(b"it closed the connection after the login, without a word"),
            false => LoginError::Closed,
        }
    }
}

impl Login for StartLogin {
    fn begin(&mut self) -> Result<LoginStep, LoginError> {
        self.client_part()?;
        Ok(LoginStep::Send(Zeroizing::new(HEADER_0_9_1.to_vec())))
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<LoginStep, LoginError> {
        if bytes.is_empty() {
            return Err(self.ended());
        }
        self.held.extend_from_slice(bytes);
        if self.held.starts_with(b"AMQP") {
            return Err(malformed("the broker speaks another version"));
        }
        let held = std::mem::take(&mut self.held);
        let Some(Frame { name, arguments, length }) =
            frame(&held).map_err(|()| malformed("it is no method"))?
        else {
            self.held = held;
            return Ok(LoginStep::Read);
        };
        match (name, self.has_proved) {
            (START, false) if length == held.len() => self.start_ok(arguments),
            (TUNE, true) => {
                let to_server = self.client_part()?.behind;
                Ok(LoginStep::SignedIn(SignedIn {
                    to_client: held,
                    to_server,
                    dialogue: None,
                    ..SignedIn::default()
                }))
            }
            (CLOSE, _) => Err(self.closed(arguments)),
            (SECURE, true) => Err(malformed("it asks for more than its mechanism has")),
            _ => Err(malformed("a method out of order")),
        }
    }
}

#[cfg(test)]
mod tests;
