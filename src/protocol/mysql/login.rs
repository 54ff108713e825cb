//! The rest of MySQL's login, after the client's reply to the greeting and TLS, until OK or ERR.

use zeroize::Zeroizing;

use super::{
    AUTH_SWITCH, Dialogue, DialogueError, ERR, Login, OK, Outbox, Packets, Probe, RsaKey, SCRAMBLE, TooLong,
    nul, packet, reply_to,
};

/// Numbers the packets of each leg separately: the upgrade used a number on the server's leg, and our own answers use
/// numbers on the client's.
#[derive(Debug)]
pub(super) struct Authentication {
    pub(super) key: Option<&'static RsaKey>,
    pub(super) scramble: Vec<u8>,
    pub(super) plugin: Vec<u8>,
    pub(super) exchange: Exchange,
    /// The server's last packet, while the server waits for an answer: its number, and its first bytes.
    pub(super) asked: Option<(u8, Vec<u8>)>,
    pub(super) next_to_client: u8,
    pub(super) next_to_server: u8,
    pub(super) client: Packets,
    pub(super) server: Packets,
    pub(super) is_over: bool,
}

/// What the client's next packet may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exchange {
    Relayed,
    /// The server waits for the password in clear, as TLS allows (`01 04`); the client may encrypt it.
    Password,
    /// The client has our key: its packet is the encrypted password.
    Encrypted,
}

impl Authentication {
    fn client_packet(&mut self, sequence: u8, payload: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        self.next_to_client = sequence.wrapping_add(1);
        let asks_for_key = match self.exchange {
            Exchange::Relayed => self.plugin == b"sha256_password" && payload == [1],
            Exchange::Password => payload == [2],
            Exchange::Encrypted => false,
        };
        match (self.key, self.exchange) {
            (Some(key), _) if asks_for_key => {
                let answer = [&[1], key.public_pem().as_bytes()].concat();
                out.to_downstream.extend(packet(self.next_to_client, &answer));
                self.next_to_client = self.next_to_client.wrapping_add(1);
                self.exchange = Exchange::Encrypted;
                return Ok(());
            }
            (Some(key), Exchange::Password | Exchange::Encrypted) if RsaKey::may_have_encrypted(payload) => {
                let Some(password) = key.decrypt(payload).map(|plain| self.password(plain)) else {
                    return Err(self.of_client(
                        "the client encrypted its password with a public key that is not ours; remove its \
                         server-public-key-path (or serverRSAPublicKeyFile), so that it asks for the key",
                    ));
                };
                self.pass_on(&password, out);
            }
            (_, _) => self.pass_on(payload, out),
        }
        self.exchange = Exchange::Relayed;
        Ok(())
    }

    /// The client has XORed the password and its NUL with the scramble.
    fn password(&self, mut plain: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
        for (byte, mask) in plain.iter_mut().zip(self.scramble.iter().cycle()) {
            *byte ^= mask;
        }
        if let Some(end) = nul(&plain) {
            plain.truncate(end);
        }
        plain.push(0);
        plain
    }

    fn pass_on(&mut self, payload: &[u8], out: &mut Outbox) {
        self.asked = None;
        out.to_upstream.extend(packet(self.next_to_server, payload));
        self.next_to_server = self.next_to_server.wrapping_add(1);
    }

    fn server_packet(&mut self, sequence: u8, payload: &[u8], out: &mut Outbox) {
        self.next_to_server = sequence.wrapping_add(1);
        match payload {
            // Both sides count from 0 again with the next command.
            [OK | ERR, ..] => self.is_over = true,
            [AUTH_SWITCH, request @ ..] => {
                let mut parts = request.splitn(2, |byte| *byte == 0);
                self.plugin = parts.next().unwrap_or_default().to_vec();
                let data = parts.next().unwrap_or_default();
                if let Some(scramble) = data.get(..SCRAMBLE) {
                    self.scramble = scramble.to_vec();
                }
                self.exchange = Exchange::Relayed;
            }
            [1, 4] => self.exchange = Exchange::Password,
            _ => {}
        }
        // OK follows `01 03`; the server waits for no answer.
        self.asked = (payload != [1, 3]).then(|| (sequence, payload[..payload.len().min(2)].to_vec()));
        out.to_downstream.extend(packet(self.next_to_client, payload));
        self.next_to_client = self.next_to_client.wrapping_add(1);
    }

    const fn of_client(&self, reason: &'static str) -> DialogueError {
        DialogueError::of_client(reason, reply_to(self.next_to_client))
    }
}

impl Dialogue for Authentication {
    fn on_downstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        self.client.held.extend_from_slice(bytes);
        while !self.is_over {
            let next = self.client.next();
            match next
                .map_err(|TooLong| self.of_client("the client's login has a packet of impossible length"))?
            {
                Some((sequence, payload)) => self.client_packet(sequence, &payload, out)?,
                None => return Ok(()),
            }
        }
        out.to_upstream.append(&mut self.client.held);
        Ok(())
    }

    fn on_upstream(&mut self, bytes: &[u8], out: &mut Outbox) -> Result<(), DialogueError> {
        self.server.held.extend_from_slice(bytes);
        while !self.is_over {
            let next = self.server.next().map_err(|TooLong| {
                let reason = "the server's part in the login has a packet of impossible length";
                DialogueError::of_server(reason, reply_to(self.next_to_client))
            })?;
            match next {
                Some((sequence, payload)) => self.server_packet(sequence, &payload, out),
                None => return Ok(()),
            }
        }
        out.to_downstream.append(&mut self.server.held);
        out.to_upstream.append(&mut self.client.held);
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.is_over
    }

    fn rest(&mut self) -> Option<Box<dyn Probe>> {
        if self.is_over {
            return None;
        }
        let asked = self.asked.as_ref().map(|(sequence, payload)| (*sequence, &**payload));
        let (packets, plugin) = (std::mem::take(&mut self.server), std::mem::take(&mut self.plugin));
        Some(Box::new(Login::rest(packets, plugin, asked)))
    }
}
