//! The protocols that we upgrade, rewrite, probe and refuse in. PURE: bytes in, values out; no tokio, socket, clock,
//! entropy, log or metric.
//!
//! A protocol is one file that implements [`Protocol`], and one line in `PROTOCOLS`. Its parts are state machines, each
//! with a driver that feeds it:
//! * [`Opening`]: the first message of a client that speaks first, before we dial (driver: `downstream::read_opening`);
//! * [`Upgrade`]: the plaintext dialogue with the server before TLS (driver: `dial::upgrade`), which may need the
//!   client's reply: [`ClientReply`] (driver: `downstream`);
//! * [`Dialogue`]: what is rewritten after TLS, and until when (driver: `relay`);
//! * [`Probe`]: a conversation without credentials that shows that a server works (driver: `dial::probe`);
//! * [`Protocol::refusal`]: our refusal in the client's protocol.
//!
//! Rules for all of them (docs/protocols/README.md): the upgrade command is sent alone; nothing may follow its answer
//! ([`NothingBuffered`]); what was received before TLS is discarded; and there is no fallback to plaintext.

mod amqp;
mod cassandra;
mod client_dialogue;
mod client_login;
mod client_sasl;
mod dialogue;
mod first_message;
mod ftp;
mod imap;
mod irc;
mod kafka;
mod ldap;
mod line_login;
mod lines;
mod login;
mod memcached;
mod mongodb;
mod mqtt;
mod mssql;
mod mysql;
mod mysqlx;
mod nats;
mod nntp;
mod opening;
mod pop3;
pub mod postgres;
mod probe;
mod recognize;
mod redis;
mod refusal;
mod sasl;
mod sieve;
mod smtp;
mod tcp;
mod upgrade;
mod verdict;
mod xmpp;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use dialogue::{Dialogue, DialogueError, Outbox};
pub use login::{
    AllowedMechanisms, ClientCredentials, LOGIN_MAX, Login, LoginContext, LoginCredentials, LoginError,
    LoginStep, Secret, SecretKind, SignedIn,
};
pub use mssql::{Packets, Wrapping, WrappingError};
pub use nats::nkey_credentials;
pub use opening::{
    CancelKey, ClientOpening, Opening, OpeningError, OpeningReply, OpeningState, ReplyTo, TLS_ALERT,
    TLS_HANDSHAKE,
};
pub use probe::{Probe, ProbeError, ProbeStep};
pub use recognize::{ASK_SILENT, recognize, recognize_answer};
pub use refusal::{Refusal, RefusalKind};
pub use smtp::helo_name;
pub use upgrade::{
    ClientReply, Greeting, NothingBuffered, TurnedAway, Upgrade, UpgradeError, UpgradeRequest, UpgradeStep,
    Upgraded,
};

use crate::rsa::RsaKey;

/// What a cluster speaks.
pub trait Protocol: fmt::Debug + Send + Sync {
    /// The name in the file.
    fn label(&self) -> &'static str;

    /// How its servers are known: for warnings and hints alone, since a server may use any port.
    fn service(&self) -> Service {
        Service::UNKNOWN
    }

    /// What a server seems to speak that begins with these bytes, if it is this protocol: for the user, who may have
    /// named the wrong port. It decides nothing.
    fn recognize(&self, first: &[u8]) -> Option<&'static str> {
        let _ = first;
        None
    }

    /// How long a PROXY header its servers accept, in bytes: the least of those that were measured (docs/CONTEXT.md has
    /// the table).
    fn proxy_header_max(&self) -> usize {
        1500
    }

    /// The ALPN protocols of its servers, offered unless the file says otherwise.
    fn alpn(&self) -> &'static [&'static str] {
        &[]
    }

    /// Reads the first message, if the client speaks first. The dial waits for it.
    fn opening(&self) -> Option<Box<dyn Opening>> {
        None
    }

    /// The same for a client that we sign in for: where the login is made of more than the client's first bytes.
    fn opening_for_login(&self) -> Option<Box<dyn Opening>> {
        self.opening()
    }

    /// Whether the server speaks first, unless TLS begins at once.
    fn server_greets(&self) -> bool {
        false
    }

    /// How long a server that speaks first may take for its greeting, unless the file says otherwise. A name lookup of
    /// the caller, a delay against robots, and a busy host all come before it.
    fn greeting_timeout(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// The dialogue that leads to TLS, if the protocol has one.
    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        None
    }

    /// Interprets plaintext from a server where TLS was to begin: some servers agree to TLS before they find that they
    /// are full. `None`: it is no refusal, and TLS has failed.
    fn parse_refusal(&self, plaintext: &[u8]) -> Option<TurnedAway> {
        let _ = plaintext;
        None
    }

    /// Which of the server's first words after TLS are examined, because they may turn the session away.
    fn first_words(&self) -> FirstWords {
        if self.server_greets() { FirstWords::Greeting } else { FirstWords::Nothing }
    }

    /// Interprets a server's first words after TLS, as far as they were received at once: its refusal, if they are one.
    fn parse_refusal_behind_tls(&self, first: &[u8]) -> Option<TurnedAway> {
        let mut upgrade = self.upgrade()?;
        let UpgradeStep::ReadAtMost(most) = upgrade.begin() else { return None };
        match upgrade.receive(&first[..first.len().min(most)]) {
            Err(UpgradeError::TurnedAway(by)) => Some(by),
            Err(_) | Ok(_) => None,
        }
    }

    /// [`Protocol::upgrade`] for a client with this preface ([`ClientOpening::preface`]); empty without a client.
    fn upgrade_for(&self, preface: &[u8]) -> Option<Box<dyn Upgrade>> {
        let _ = preface;
        self.upgrade()
    }

    /// Whether some of its servers accept only the upgrade and others only TLS with the first byte, and each closes
    /// connections of the other kind. If so, both are tried unless the file says which.
    fn starts_either_way(&self) -> bool {
        false
    }

    /// Cuts a client's bytes into packets, for servers that expect whole packets in TLS records.
    fn packets(&self) -> Option<Packets> {
        None
    }

    /// What is rewritten, unless the opening or the upgrade has its own dialogue.
    fn dialogue(&self) -> Option<Box<dyn Dialogue>> {
        None
    }

    /// If the client speaks first: how long its servers wait for its first byte. `None`: without limit, as servers
    /// without a timeout do, whose clients may open connections long before they use them.
    fn silence_timeout(&self) -> Option<Duration> {
        Some(Duration::from_secs(60))
    }

    /// A refusal in the client's protocol; `None` if the protocol has none, so that the connection is reset.
    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>>;

    /// A conversation that shows that a server works. `upgraded`: its upgrade has been completed.
    fn probe(&self, upgraded: bool) -> Option<Box<dyn Probe>> {
        let _ = upgraded;
        None
    }

    /// Whether its logins can carry the caller's unit, and whether only those that go over TLS can.
    fn announces(&self) -> CallerAnnouncement {
        CallerAnnouncement::Never
    }

    /// Puts the caller's unit into a login: [`ClientOpening::bytes`] of a client that speaks first, else
    /// [`Upgraded::first`]. A login that cannot carry it stays as it is.
    fn announce(&self, login: &mut Vec<u8>, unit: &str) {
        let _ = (login, unit);
    }

    /// Whether a server counts a connection that ends in the middle of its upgrade as this host's error. If so, an
    /// upgrade that was begun is always completed, with [`ClientReply::conclude_without_client`] if the client has
    /// left.
    fn must_finish_upgrade(&self) -> bool {
        false
    }

    /// How long a connection may be kept ready for a client after its upgrade and TLS: safely less than servers wait
    /// for a client's first byte.
    ///
    /// # Errors
    /// Why no connection can be kept ready.
    fn ready_lifetime(&self) -> Result<Duration, &'static str> {
        Err(if self.server_greets() {
            "its servers speak first, and what they say is for one client"
        } else {
            "nothing is known of who speaks first, and of how long a silent connection lives"
        })
    }

    /// The kinds of secrets that it can be signed in with; none: the client has to sign in.
    fn login_secrets(&self) -> &'static [SecretKind] {
        &[]
    }

    /// The names for `login.mechanisms` of those that can carry such a secret, the best first. None: there is one way only.
    fn login_mechanisms(&self, kind: SecretKind) -> &'static [&'static str] {
        let _ = kind;
        &[]
    }

    /// Whether a login of ours can hold the client to a user and password of its own.
    fn holds_clients(&self) -> bool {
        false
    }

    /// Whether the server takes the user's name from the TLS client certificate, so that a login by it needs none.
    fn certificate_names_user(&self) -> bool {
        false
    }

    /// Whether a login of ours names a database, so that `login.database` can set it.
    fn names_database_in_login(&self) -> bool {
        false
    }

    /// Signs in to the server for the client, once TLS is up.
    fn login(&self, context: LoginContext<'_>) -> Option<Box<dyn Login>> {
        let _ = context;
        None
    }

    /// Ends a session that is signed in, so that no server logs an error; empty where an end of the connection is usual.
    fn goodbye(&self) -> &'static [u8] {
        &[]
    }

    /// A note for users who do not verify the servers, in addition to the general warning.
    fn unverified_note(&self) -> Option<&'static str> {
        None
    }
}

/// How a protocol's servers are known to others: their words for the protocol, and its ports.
///
/// Source of ports: IANA's registry of service names and port numbers; RFC 8314 §3 (465, 993, 995), RFC 4642 §1 (563),
/// RFC 4217 (990).
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Other programs' names of the protocol, in lower case, with `_` for `-`; never accepted.
    pub names: &'static [&'static str],
    /// Those of the protocol with TLS from the first byte.
    pub tls_names: &'static [&'static str],
    /// Registered ports with an upgrade or without TLS.
    pub ports: &'static [u16],
    /// Registered ports with TLS from the first byte.
    pub tls_ports: &'static [u16],
}

impl Service {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { names: &[], tls_names: &[], ports: &[], tls_ports: &[] };
}

/// Which words of a server are examined before its session is relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstWords {
    /// No words are examined.
    Nothing,
    /// The greeting, if TLS precedes it.
    Greeting,
    /// The answer to the client's opening.
    Answer,
}

/// Whether the server of a protocol can learn the caller's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerAnnouncement {
    /// Its logins cannot carry it.
    Never,
    /// From a login that we parse; we do so only for upstream TLS.
    OverTls,
    /// From every login, with or without upstream TLS.
    Always,
}

/// What protocols need of the configuration and of the host.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What becomes of SCRAM-SHA-256-PLUS (the key `scram_plus`).
    pub scram_plus: postgres::ScramPlus,
    /// Upstream TLS is on and verifies the server.
    pub server_is_verified: bool,
    /// Makes the key that decrypts passwords, which takes time: called by a protocol that has a use for it.
    pub rsa_key: Option<fn() -> &'static RsaKey>,
    /// We sign in for the clients (the section `login`).
    pub signs_in: bool,
    /// The host's name, in any form.
    pub host_name: String,
    /// The name to use where a protocol wants a host's name, instead of `host_name`; [`helo_name`] checks it.
    pub helo_name: Option<String>,
}

type Make = fn(&Options) -> Arc<dyn Protocol>;

/// Every protocol by its name in the file.
const PROTOCOLS: &[(&str, Make)] = &[
    ("tcp", |_| Arc::new(tcp::Tcp)),
    ("postgres", |options| Arc::new(postgres::Postgres::new(options))),
    ("mysql", |options| Arc::new(mysql::MySql::new(options))),
    ("mysqlx", |_| Arc::new(mysqlx::MySqlX)),
    ("smtp", |options| Arc::new(smtp::Smtp::submission(options))),
    ("lmtp", |options| Arc::new(smtp::Smtp::delivery(options))),
    ("imap", |_| Arc::new(imap::Imap)),
    ("pop3", |_| Arc::new(pop3::Pop3)),
    ("sieve", |_| Arc::new(sieve::Sieve)),
    ("nntp", |_| Arc::new(nntp::Nntp)),
    ("ldap", |_| Arc::new(ldap::Ldap)),
    ("nats", |_| Arc::new(nats::Nats)),
    ("ftp-control", |_| Arc::new(ftp::FtpControl)),
    ("redis", |_| Arc::new(redis::Redis)),
    ("memcached", |_| Arc::new(memcached::Memcached)),
    ("mongodb", |_| Arc::new(mongodb::MongoDb)),
    ("cassandra", |_| Arc::new(cassandra::Cassandra)),
    ("kafka", |_| Arc::new(kafka::Kafka)),
    ("amqp", |_| Arc::new(amqp::Amqp)),
    ("mqtt", |_| Arc::new(mqtt::Mqtt)),
    ("xmpp", |_| Arc::new(xmpp::Xmpp)),
    ("irc", |_| Arc::new(irc::Irc)),
    ("mssql", |_| Arc::new(mssql::MsSql)),
];

/// The names of all protocols, in the order of `PROTOCOLS`.
pub const LABELS: &[&str] = &labels();

const fn labels() -> [&'static str; PROTOCOLS.len()] {
    let mut labels = [""; PROTOCOLS.len()];
    let mut index = 0;
    while index < labels.len() {
        labels[index] = PROTOCOLS[index].0;
        index += 1;
    }
    labels
}

/// The names of the protocols that can be signed in with such a secret.
pub fn that_sign_in(kind: SecretKind) -> impl Iterator<Item = &'static str> {
    all().filter(move |protocol| protocol.login_secrets().contains(&kind)).map(|protocol| protocol.label())
}

/// The names of the protocols with a choice of mechanisms.
pub fn that_choose_mechanisms() -> impl Iterator<Item = &'static str> {
    let chooses = |protocol: &Arc<dyn Protocol>| {
        SecretKind::ALL.iter().any(|kind| !protocol.login_mechanisms(*kind).is_empty())
    };
    all().filter(chooses).map(|protocol| protocol.label())
}

/// The names of the protocols whose clients can be held to a password of their own.
pub fn that_hold_clients() -> impl Iterator<Item = &'static str> {
    all().filter(|protocol| protocol.holds_clients()).map(|protocol| protocol.label())
}

/// The names of the protocols whose servers take the user from the TLS client certificate.
pub fn that_read_certificates() -> impl Iterator<Item = &'static str> {
    all()
        .filter(|protocol| {
            protocol.certificate_names_user() && protocol.login_secrets().contains(&SecretKind::Certificate)
        })
        .map(|protocol| protocol.label())
}

/// The names of the protocols whose logins name a database.
pub fn that_name_databases() -> impl Iterator<Item = &'static str> {
    all().filter(|protocol| protocol.names_database_in_login()).map(|protocol| protocol.label())
}

/// The protocol with that name.
#[must_use]
pub fn named(label: &str, options: &Options) -> Option<Arc<dyn Protocol>> {
    let (_, make) = PROTOCOLS.iter().find(|(known, _)| *known == label)?;
    Some(make(options))
}

/// Every protocol with the default options: for what is true of all clusters that speak it.
pub fn all() -> impl Iterator<Item = Arc<dyn Protocol>> {
    PROTOCOLS.iter().map(|(_, make)| make(&Options::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options { server_is_verified: true, host_name: "host.test".into(), ..Options::default() }
    }

    #[test]
    fn each_secret_of_a_protocol_with_a_choice_has_mechanisms() {
        for protocol in all() {
            for kind in SecretKind::ALL {
                let (label, names) = (protocol.label(), protocol.login_mechanisms(kind));
                let chooses = that_choose_mechanisms().any(|chooses| chooses == label);
                let is_known = protocol.login_secrets().contains(&kind);
                assert_eq!(!names.is_empty(), chooses && is_known, "{label} {kind:?}");
            }
        }
    }

    #[test]
    fn some_logins_name_a_database() {
        let names: Vec<_> = that_name_databases().collect();
        assert_eq!(names, ["postgres", "mysql", "mongodb"]);
    }

    #[test]
    fn each_protocol_is_found_by_its_own_word() {
        for label in LABELS {
            assert_eq!(named(label, &options()).expect("a protocol").label(), *label);
        }
        assert!(named("gopher", &options()).is_none());
    }

    /// A pool that opened connections early lost them after 60 s, although the servers would have kept them.
    #[test]
    fn silence_is_borne_as_long_as_by_the_servers() {
        let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
        for (label, expected) in [
            ("redis", None),
            ("memcached", None),
            ("ldap", None),
            ("mongodb", None),
            ("cassandra", None),
            ("kafka", minutes(10)),
            ("postgres", minutes(1)),
            ("amqp", minutes(1)),
        ] {
            let protocol = named(label, &options()).expect("a protocol");
            assert_eq!(protocol.silence_timeout(), expected, "{label}");
        }
    }

    /// An attacker on the path could forge an answer before TLS that a client takes for success (an LDAP Bind with code
    /// 0), for a permanent failure (SMTP 554, NATS' `Authorization Violation`), or for text to display (IMAP's ALERT).
    /// Only answers that mean "not now" are passed on.
    #[test]
    fn a_forged_no_is_no_more_than_a_cut_connection() {
        // A Bind with message id 7.
        let bind = ReplyTo([0, 0x60, 0, 0, 0, 7, 0, 0]);
        let refused = |label: &str, code: Option<u16>, words: &str, reply_to| {
            let by = TurnedAway::new("x", code, words.as_bytes());
            let (kind, session) = (RefusalKind::Full, "s");
            let refusal = Refusal { kind, reason: "quoted", session, reply_to, server: Some(&by) };
            named(label, &options()).unwrap().refusal(&refusal).unwrap()
        };
        let none = ReplyTo::default();
        for (label, code, words, expected) in [
            ("smtp", Some(554), "5.7.1 away", "421 4.4.5 ambassador: quoted"),
            ("smtp", Some(250), "2.0.0 queued", "421 4.4.5 ambassador: quoted"),
            ("smtp", Some(421), "5.7.1 away", "421 4.4.5 ambassador: quoted"),
            ("smtp", Some(421), "4.7.0 busy", "421 4.7.0 busy ["),
            ("nntp", Some(502), "denied", "400 ambassador: quoted"),
            ("nntp", Some(400), "busy", "400 busy ["),
            ("ftp-control", Some(530), "no", "421 ambassador: quoted"),
            ("ftp-control", Some(421), "full", "421 full ["),
            ("imap", None, "[ALERT] Call 555", "* BYE [UNAVAILABLE] ambassador: quoted"),
            ("imap", None, "[unavailable] Full", "* BYE [unavailable] Full ["),
            ("pop3", None, "[AUTH] bad password", "-ERR [SYS/TEMP] ambassador: quoted"),
            ("pop3", None, "full", "-ERR full ["),
            ("nats", None, "Authorization Violation", "-ERR 'ambassador: quoted"),
        ] {
            let answer = String::from_utf8(refused(label, code, words, none)).unwrap();
            assert!(answer.starts_with(expected), "{label} {code:?} {words}: {answer}");
        }
        // Through TLS only the server can have sent it.
        let by = TurnedAway::new("SMTP", Some(554), b"5.7.1 away").through_tls();
        let (kind, session, reply_to) = (RefusalKind::Full, "s", none);
        let refusal = Refusal { kind, reason: "quoted", session, reply_to, server: Some(&by) };
        let answer = named("smtp", &options()).unwrap().refusal(&refusal).unwrap();
        assert!(answer.starts_with(b"554 5.7.1 away ["), "{}", String::from_utf8_lossy(&answer));
        let passes = String::from_utf8(refused("nats", None, "maximum connections exceeded", none)).unwrap();
        assert!(passes.contains("-ERR 'maximum connections exceeded ["), "{passes}");
        for (code, told) in [(1045, 1040_u16), (0, 1040), (1129, 1129)] {
            let packet = refused("mysql", Some(code), "no", none);
            assert_eq!(packet[5..7], told.to_le_bytes(), "{code}: {packet:?}");
        }
        // ENUMERATED of the BindResponse: success, a comparison's results, a bind in progress; busy.
        for (code, told) in [(0, 51_u8), (5, 51), (6, 51), (14, 51), (256, 51), (52, 52)] {
            let response = refused("ldap", Some(code), "no", bind);
            let at = response.windows(2).position(|pair| pair == b"\x0a\x01").unwrap();
            assert_eq!(response[at + 2], told, "{code}: {response:?}");
        }
    }
}
