//! What the tests of all logins made of lines do: conversations with servers and with clients, cut anywhere.

use std::sync::Arc;

use super::*;
use crate::protocol::login::{AllowedMechanisms, Secret};
use crate::protocol::{ClientCredentials, LoginCredentials, LoginStep, Outbox, Protocol, SecretKind};

pub(in crate::protocol) const SECRET: &str = "tanstaaftanstaaf";

/// A login as `tim`, with a password or token.
pub(in crate::protocol) struct Case<'a> {
    pub(in crate::protocol) protocol: &'a dyn Protocol,
    pub(in crate::protocol) kind: SecretKind,
    pub(in crate::protocol) secret: &'a str,
    pub(in crate::protocol) is_greeted: bool,
    /// The only mechanisms; none named: all.
    pub(in crate::protocol) mechanisms: &'static [&'static str],
    /// The client is held to the login of [`Held`].
    pub(in crate::protocol) is_held: bool,
}

/// The user `printer` with the password `tray 2`.
#[derive(Debug)]
pub(in crate::protocol) struct Held;

impl Held {
    pub(in crate::protocol) fn credentials() -> Arc<dyn ClientCredentials> {
        Arc::new(Self)
    }
}

impl ClientCredentials for Held {
    fn current(&self) -> Option<LoginCredentials> {
        let secret = Secret::new(SecretKind::Password, Zeroizing::new("tray 2".into()));
        Some(LoginCredentials { user: "printer".into(), secret })
    }
}

impl<'a> Case<'a> {
    pub(in crate::protocol) fn password(protocol: &'a dyn Protocol) -> Self {
        Self {
            protocol,
            kind: SecretKind::Password,
            secret: SECRET,
            is_greeted: false,
            mechanisms: &[],
            is_held: false,
        }
    }

    pub(in crate::protocol) fn token(protocol: &'a dyn Protocol) -> Self {
        Self { kind: SecretKind::BearerToken, ..Self::password(protocol) }
    }

    pub(in crate::protocol) fn login(&self) -> Box<dyn Login> {
        let secret = Secret::new(self.kind, Zeroizing::new(self.secret.into()));
        let context = LoginContext {
            credentials: LoginCredentials { user: "tim".into(), secret },
            mechanisms: match self.mechanisms {
                [] => AllowedMechanisms::default(),
                names => AllowedMechanisms::only(names),
            },
            database: None,
            client: self.is_held.then(Held::credentials),
            opening: &[],
            is_greeted: self.is_greeted,
            channel_binding: None,
            nonce: [7; 18],
        };
        self.protocol.login(context).expect("the protocol signs in")
    }

    /// The server says each text and is answered what is behind it; `""`: it goes on. Whole, and byte by byte.
    #[track_caller]
    pub(in crate::protocol) fn talk(&self, turns: &[(&str, &str)]) -> Result<SignedIn, LoginError> {
        self.talk_in(turns, 1)?;
        self.talk_in(turns, usize::MAX)
    }

    #[track_caller]
    fn talk_in(&self, turns: &[(&str, &str)], portion: usize) -> Result<SignedIn, LoginError> {
        let mut login = self.login();
        let mut step = login.begin()?;
        for (said, expected) in turns {
            if !said.is_empty() {
                let mut portions = said.as_bytes().chunks(portion.min(said.len())).peekable();
                while let Some(bytes) = portions.next() {
                    step = login.receive(bytes)?;
                    if let LoginStep::SignedIn(_) = &step
                        && portions.peek().is_some()
                        && portion == 1
                    {
                        break;
                    }
                }
            }
            match &step {
                LoginStep::Send(bytes) => {
                    assert_eq!(String::from_utf8_lossy(bytes), **expected, "to {said:?}")
                }
                LoginStep::Read | LoginStep::SignedIn(_) => assert_eq!(*expected, "", "to {said:?}"),
            }
        }
        match step {
            LoginStep::SignedIn(signed_in) => Ok(signed_in),
            other @ (LoginStep::Read | LoginStep::Send(_)) => panic!("no end: {other:?}"),
        }
    }

    /// The same for a login that fails.
    #[track_caller]
    pub(in crate::protocol) fn fails(&self, turns: &[(&str, &str)]) -> LoginError {
        let error = self.talk(turns).expect_err("a login that fails");
        let shown = format!("{error} {error:?} {:?}", self.login());
        assert!(!shown.contains(self.secret), "{shown}");
        error
    }

    /// Servers that send anything.
    pub(in crate::protocol) fn bears_any_server(&self, lines: &str) {
        let mut rng = fastrand::Rng::with_seed(17);
        for _ in 0..5000 {
            let bytes = spoilt(&mut rng, lines);
            let mut login = self.login();
            let _ = login.begin();
            for part in bytes.chunks(rng.usize(1..60)) {
                match login.receive(part) {
                    Ok(LoginStep::Read | LoginStep::Send(_)) => {}
                    Ok(LoginStep::SignedIn(_)) | Err(_) => break,
                }
            }
        }
    }
}

fn spoilt(rng: &mut fastrand::Rng, text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..rng.usize(0..5) {
        let at = rng.usize(..bytes.len());
        match rng.u8(..3) {
            0 => bytes[at] = rng.u8(..),
            1 => drop(bytes.remove(at)),
            _ => bytes.insert(at, *rng.choice(b"{}\r\n\"\\ +*[]=").expect("a byte")),
        }
    }
    bytes
}

/// What a client and a server get that are told this, whole or byte by byte, and whether the relay has taken over.
#[track_caller]
pub(in crate::protocol) fn client_says(
    signed_in: impl Fn() -> SignedIn,
    said: &str,
) -> (String, String, bool) {
    let [whole, single] = [usize::MAX, 1].map(|portion| {
        let mut dialogue = signed_in().dialogue.expect("one with the client");
        let (mut out, mut behind) = (Outbox::default(), Vec::new());
        for bytes in said.as_bytes().chunks(portion.min(said.len())) {
            match dialogue.is_finished() {
                true => behind.extend_from_slice(bytes),
                false => dialogue.on_downstream(bytes, &mut out).expect("a client that may be served"),
            }
        }
        out.to_upstream.extend(behind);
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (text(out.to_downstream), text(out.to_upstream), dialogue.is_finished())
    });
    assert_eq!(whole, single, "{said:?}");
    whole
}

/// Clients that send anything.
pub(in crate::protocol) fn bears_any_client(signed_in: impl Fn() -> SignedIn, lines: &str) {
    let mut rng = fastrand::Rng::with_seed(18);
    for _ in 0..5000 {
        let bytes = spoilt(&mut rng, lines);
        let mut dialogue = signed_in().dialogue.expect("one with the client");
        let mut out = Outbox::default();
        for part in bytes.chunks(rng.usize(1..60)) {
            if dialogue.is_finished() || dialogue.on_downstream(part, &mut out).is_err() {
                break;
            }
        }
        assert!(out.to_downstream.len() < 256 * 1024);
    }
    // Without end: neither a line nor a number of commands is held or answered without a limit.
    let begin = lines.split_inclusive([' ', '\n']).next().unwrap_or_default();
    for more in ["x", lines.split_inclusive('\n').next().unwrap_or_default()] {
        let mut dialogue = signed_in().dialogue.expect("one with the client");
        let mut out = Outbox::default();
        let _ = dialogue.on_downstream(begin.as_bytes(), &mut out);
        let ends = (0..100_000)
            .any(|_| dialogue.is_finished() || dialogue.on_downstream(more.as_bytes(), &mut out).is_err());
        assert!(ends && out.to_downstream.len() < 256 * 1024, "{more:?}");
    }
}
