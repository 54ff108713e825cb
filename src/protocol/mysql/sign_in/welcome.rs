//! The client's side of a login whose result is known: it is taken at its word, and its library has to be content.
//!
//! A library goes by its own plugin until it sees OK. Where the plugin has had what it waits for, OK is next; where it
//! has not (the client prefers another plugin than the greeting names, and waits for the server to ask), it is asked by a
//! plugin that every library answers without a person, and whatever it answers is right. Sources: run_plugin_auth and
//! client_mpvio_read_packet in libmysqlclient's and MariaDB Connector/C's sources, and both libraries' plugins.

use super::plugins::{CACHING_SHA2, CLEAR, NATIVE, SHA256};
use super::response::Response;
use super::{AUTH_SWITCH, Packets, RsaKey, TooLong, packet};
use crate::protocol::login::SignedIn;
use crate::protocol::{Dialogue, DialogueError, Outbox, Probe, ProbeError, ProbeStep};

use super::super::probe::QUIT;
use super::super::{PACKET_MAX, SCRAMBLE, reply_to};

/// What the client knows of the login so far.
#[derive(Debug)]
pub(super) struct Welcome {
    key: Option<&'static RsaKey>,
    nonce: [u8; 18],
    /// The number of the next packet for the client.
    next: u8,
    /// The plugin that the client goes by; `None`: it is older than plugins.
    plugin: Option<Vec<u8>>,
    /// The plugin of the greeting.
    greeted: Vec<u8>,
    /// Of its proof: the length and the first byte. The rest is nobody's business.
    length: usize,
    first: Option<u8>,
}

/// The length of a proof of `caching_sha2_password`, to which the server answers before OK.
const SHA2_PROOF: usize = 32;
const FAST: &[u8] = &[1, 3];

/// What the client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Ok,
    /// `01 03`, then OK.
    FastOk,
    /// The server's public key.
    Key,
    /// A challenge.
    Challenge,
}

impl Welcome {
    pub(super) const fn new(key: Option<&'static RsaKey>, nonce: [u8; 18]) -> Self {
        Self { key, nonce, next: 0, plugin: None, greeted: Vec::new(), length: 0, first: None }
    }

    /// This was the client's answer to a greeting that named that plugin.
    pub(super) fn answers(&mut self, sequence: u8, response: &Response<'_>, greeted: Option<&[u8]>) {
        self.next = sequence.wrapping_add(1);
        self.plugin = response.plugin.map(<[u8]>::to_vec);
        self.greeted = greeted.unwrap_or_default().to_vec();
        (self.length, self.first) = (response.proof.len(), response.proof.first().copied());
    }

    fn wanted(&self) -> Awaits {
        let Some(plugin) = &self.plugin else { return Awaits::Ok };
        // Its plugin has seen the greeting's challenge.
        let is_challenged = *plugin == self.greeted;
        match (&**plugin, self.length) {
            (CACHING_SHA2, SHA2_PROOF) => Awaits::FastOk,
            (SHA256, 1) if self.first == Some(1) && self.key.is_some() => Awaits::Key,
            (NATIVE | CACHING_SHA2 | SHA256 | CLEAR, 1..) => Awaits::Ok,
            (NATIVE | CACHING_SHA2, 0) if is_challenged => Awaits::Ok,
            _ => Awaits::Challenge,
        }
    }

    /// A plugin that the client answers by: its own if it is one of the two, else the greeting's.
    fn plugin_to_ask(&self) -> &'static [u8] {
        let named = [self.plugin.as_deref().unwrap_or_default(), &self.greeted];
        let known = |named: &&[u8]| [NATIVE, CACHING_SHA2].into_iter().find(|known| known == named);
        named.iter().find_map(known).unwrap_or(NATIVE)
    }

    /// The server has let us in by this packet; `behind`: what it has sent after it.
    pub(super) fn accepted(&self, ok: &[u8], behind: &[u8]) -> SignedIn {
        let (next, after) = (self.next, self.next.wrapping_add(1));
        let told = |to_client: Vec<u8>| SignedIn {
            to_client: [&to_client[..], behind].concat(),
            ..SignedIn::default()
        };
        let (question, plugin) = match self.wanted() {
            Awaits::Ok => return told(packet(next, ok)),
            Awaits::FastOk => return told([packet(next, FAST), packet(after, ok)].concat()),
            Awaits::Key => {
                let pem = self.key.map(RsaKey::public_pem).unwrap_or_default();
                ([&[1], pem.as_bytes()].concat(), SHA256)
            }
            Awaits::Challenge => {
                let plugin = self.plugin_to_ask();
                ([&[AUTH_SWITCH], plugin, b"\0", &self.challenge(), b"\0"].concat(), plugin)
            }
        };
        let formality = Formality {
            plugin,
            ok: ok.to_vec(),
            client: Packets::default(),
            behind: behind.to_vec(),
            next,
            is_over: false,
        };
        SignedIn {
            to_client: packet(next, &question),
            dialogue: Some(Box::new(formality)),
            ..SignedIn::default()
        }
    }

    /// The server refuses what the client asked for, by this packet.
    pub(super) fn refused(&self, error: &[u8]) -> SignedIn {
        SignedIn { to_client: packet(self.next, error), is_refused: true, ..SignedIn::default() }
    }

    /// Printable, as servers make theirs; nobody verifies the answer.
    fn challenge(&self) -> [u8; SCRAMBLE] {
        let mut challenge = [b'!'; SCRAMBLE];
        challenge.iter_mut().zip(self.nonce).for_each(|(byte, nonce)| *byte += nonce % 94);
        challenge
    }
}

/// The client's answer to our question; then it gets the server's OK.
#[derive(Debug)]
struct Formality {
    plugin: &'static [u8],
    ok: Vec<u8>,
    client: Packets,
    /// What the server has sent since.
    behind: Vec<u8>,
    next: u8,
    is_over: bool,
}

impl Formality {
    fn answered(&mut self, sequence: u8, answer: &[u8], out: &mut Outbox) {
        let mut next = sequence.wrapping_add(1);
        if self.plugin == CACHING_SHA2 && answer.len() == SHA2_PROOF {
            out.to_downstream.extend(packet(next, FAST));
            next = next.wrapping_add(1);
        }
        out.to_downstream.extend(packet(next, &self.ok));
        out.to_downstream.append(&mut self.behind);
        out.to_upstream.append(&mut self.client.held);
        self.is_over = true;
    }
}

impl Dialogue for Formality {
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        if self.is_over {
            out.to_upstream.extend_from_slice(bytes);
            return Ok(());
        }
        self.client.held.extend_from_slice(bytes);
        let answer = self.client.next().map_err(|TooLong| {
            let reason = "the client's login has a packet of impossible length";
            DialogueError::of_client(reason, reply_to(self.next.wrapping_add(1)))
        })?;
        if let Some((sequence, answer)) = answer {
            self.answered(sequence, &answer, out);
        }
        Ok(())
    }

    fn on_upstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        if self.is_over {
            out.to_downstream.extend_from_slice(bytes);
            return Ok(());
        }
        self.behind.extend_from_slice(bytes);
        if self.behind.len() > PACKET_MAX {
            let reason = "the server speaks although nothing was asked";
            return Err(DialogueError::of_server(reason, reply_to(self.next.wrapping_add(1))));
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.is_over
    }

    fn rest(&mut self) -> Option<Box<dyn Probe>> {
        (!self.is_over).then(|| Box::new(Quit) as Box<dyn Probe>)
    }
}

/// The client has left before it answered: the server, which has let us in, gets an end in order.
#[derive(Debug)]
struct Quit;

impl Probe for Quit {
    fn begin(&mut self) -> Vec<u8> {
        QUIT.to_vec()
    }

    fn receive(&mut self, _: &[u8]) -> Result<ProbeStep, ProbeError> {
        Ok(ProbeStep::Serves { goodbye: Vec::new() })
    }
}
