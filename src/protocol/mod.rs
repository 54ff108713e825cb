//! The protocols we upgrade, rewrite, probe and refuse in. PURE: bytes in, values out; no tokio, socket, clock,
//! entropy, log or metric.
//!
//! A protocol is one file that implements [`Protocol`], and one line in `PROTOCOLS`. What it brings, each a state
//! machine of its own that a driver feeds:
//! * [`Opening`]: what a client that speaks first says before we dial (driver: `downstream::read_opening`);
//! * [`Upgrade`]: the plaintext dialogue with the server before TLS (driver: `upstream::upgrade`), which may need the
//!   client in the middle: [`Introduction`] (driver: `session`);
//! * [`Dialogue`]: what is rewritten after TLS, and until when (driver: `relay`);
//! * [`Probe`]: a conversation without credentials that shows a server at work (driver: `upstream::probe`);
//! * [`Protocol::refusal`]: our refusal in the client's words.
//!
//! What binds them all (docs/protocols/README.md): the upgrade command travels alone; nothing is left over behind its
//! answer ([`NothingBuffered`]); what was learnt before TLS is forgotten; and there is no way on in plaintext.

mod amqp;
mod cassandra;
mod dialogue;
mod first_message;
mod ftp;
mod imap;
mod irc;
mod kafka;
mod ldap;
mod lines;
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
mod redis;
mod refusal;
mod sieve;
mod smtp;
mod tcp;
mod upgrade;
mod xmpp;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use dialogue::{Dialogue, DialogueError, Outbox};
pub use opening::{
    Answer, CancelKey, Opened, Opening, OpeningError, ReplyTo, Said, TLS_ALERT, TLS_HANDSHAKE,
};
pub use probe::{Probe, ProbeError, Probed};
pub use refusal::{Refusal, RefusalKind};
pub use upgrade::{
    Greeting, Introduced, Introduction, NothingBuffered, Step, Upgrade, UpgradeError, Upgraded,
};

use crate::rsa::RsaKey;

/// What a cluster speaks.
pub trait Protocol: fmt::Debug + Send + Sync {
    /// The word in the file.
    fn label(&self) -> &'static str;

    /// The ALPN protocols that its servers know, offered unless the file says otherwise.
    fn alpn(&self) -> &'static [&'static str] {
        &[]
    }

    /// For a client that speaks first: what reads its first message. The dial waits for it.
    fn opening(&self) -> Option<Box<dyn Opening>> {
        None
    }

    /// Whether the server speaks first, where TLS does not.
    fn server_greets(&self) -> bool {
        false
    }

    /// The dialogue that leads to TLS, where the protocol has one.
    fn upgrade(&self) -> Option<Box<dyn Upgrade>> {
        None
    }

    /// What is rewritten, where neither opening nor upgrade has said so.
    fn dialogue(&self) -> Option<Box<dyn Dialogue>> {
        None
    }

    /// A refusal in the client's words, or `None` where the protocol has none and a reset must do.
    fn refusal(&self, refusal: &Refusal<'_>) -> Option<Vec<u8>>;

    /// What a server says that way which has to begin TLS, and says in plaintext that it will not: the protocol's own error,
    /// where it has one. `None`: that is none.
    fn refused_in_plaintext(&self, heard: &[u8]) -> Option<UpgradeError> {
        let _ = heard;
        None
    }

    /// A conversation that shows a server at work. `upgraded`: its upgrade is behind it.
    fn probe(&self, upgraded: bool) -> Option<Box<dyn Probe>> {
        let _ = upgraded;
        None
    }

    /// Whether its logins have a place for the caller's unit, and whether only a login that goes over TLS has.
    fn announces(&self) -> Announces {
        Announces::Never
    }

    /// Puts the caller's unit into a login: [`Opened::bytes`] of a client that speaks first, else the [`Upgraded::first`] of
    /// its introduction. What has no place for it stays as it is.
    fn announce(&self, login: &mut Vec<u8>, unit: &str) {
        let _ = (login, unit);
    }

    /// Whether a server holds a connection that ends in the middle of its upgrade against us. If so, an upgrade that was
    /// begun is always carried through, with [`Introduction::alone`] where the client has left.
    fn parts_politely(&self) -> bool {
        false
    }

    /// How long a connection may be kept ready for a client to come, its upgrade and TLS behind it: safely less than what
    /// servers allow a client before its first word.
    ///
    /// # Errors
    /// Why none can be kept.
    fn keeps_ready(&self) -> Result<Duration, &'static str> {
        Err(if self.server_greets() {
            "its servers speak first, and what they say is for one client"
        } else {
            "nothing is known of who speaks first, and of how long a silent connection lives"
        })
    }

    /// What a user should know who does not verify the servers, behind the general warning.
    fn unverified_note(&self) -> Option<&'static str> {
        None
    }
}

/// Whether the server of a protocol can learn the caller's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announces {
    /// It has no place for it.
    Never,
    /// From a login that is read, which it is on its way to TLS only.
    OverTls,
    /// From each login.
    Always,
}

/// What protocols want to know of the configuration, and what they cannot make themselves.
#[derive(Debug, Clone)]
pub struct Options {
    /// `scram_plus`.
    pub scram_plus: postgres::ScramPlus,
    /// There is TLS, and it verifies the server.
    pub server_is_verified: bool,
    /// Decrypts passwords, for who asked for it: [`wants_rsa_key`].
    pub rsa_key: Option<&'static RsaKey>,
    /// What we call ourselves where a protocol wants a host's name.
    pub host_name: String,
}

/// Makes a protocol.
type Make = fn(&Options) -> Arc<dyn Protocol>;

/// Every protocol by its word in the file.
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

/// The words of all protocols, in the order of `PROTOCOLS`.
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

/// Whether a protocol has a use for [`Options::rsa_key`], which takes time to make.
#[must_use]
pub fn wants_rsa_key(label: &str) -> bool {
    label == "mysql"
}

/// The protocol of that word.
#[must_use]
pub fn named(label: &str, options: &Options) -> Option<Arc<dyn Protocol>> {
    let (_, make) = PROTOCOLS.iter().find(|(known, _)| *known == label)?;
    Some(make(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            scram_plus: postgres::ScramPlus::Auto,
            server_is_verified: true,
            rsa_key: None,
            host_name: "host.test".into(),
        }
    }

    #[test]
    fn each_protocol_is_found_by_its_own_word() {
        for label in LABELS {
            assert_eq!(named(label, &options()).expect("a protocol").label(), *label);
        }
        assert!(named("gopher", &options()).is_none());
    }
}
