//! HandshakeResponse41, taken apart and put together again with another user and proof.

use zeroize::Zeroizing;

use super::super::announce::{append, text};
use super::super::{le_u32, nul};
use super::{
    CLIENT_CONNECT_ATTRS, CLIENT_CONNECT_WITH_DB, CLIENT_PLUGIN_AUTH, CLIENT_PLUGIN_AUTH_LENENC,
    CLIENT_SECURE_CONNECTION, FIXED, secret_message,
};

/// The parts of a client's login, without its user.
#[derive(Debug, Clone, Copy)]
pub(super) struct Response<'a> {
    /// Capabilities, maximum packet size, character set.
    fixed: &'a [u8],
    pub(super) proof: &'a [u8],
    /// Empty if it names none.
    pub(super) database: &'a [u8],
    /// Of a client that knows of plugins.
    pub(super) plugin: Option<&'a [u8]>,
    /// Attributes, and what else may follow (a level of compression).
    rest: &'a [u8],
}

impl<'a> Response<'a> {
    /// Of a payload longer than [`FIXED`]. `None`: its lengths lead out of it.
    pub(super) fn parse(payload: &'a [u8]) -> Option<Self> {
        let capabilities = le_u32(payload)?;
        let has = |capability: u32| capabilities & capability != 0;
        let (fixed, user) = payload.split_at_checked(FIXED)?;
        let rest = user.get(nul(user)? + 1..)?;
        let (proof, rest) = if has(CLIENT_PLUGIN_AUTH_LENENC) {
            text(rest)?
        } else if has(CLIENT_SECURE_CONNECTION) {
            let (length, rest) = rest.split_first()?;
            rest.split_at_checked(usize::from(*length))?
        } else {
            until_nul(rest)
        };
        let (database, rest) = if has(CLIENT_CONNECT_WITH_DB) { until_nul(rest) } else { (&[][..], rest) };
        let (plugin, rest) = if has(CLIENT_PLUGIN_AUTH) { until_nul(rest) } else { (&[][..], rest) };
        let plugin = has(CLIENT_PLUGIN_AUTH).then_some(plugin);
        Some(Self { fixed, proof, database, plugin, rest })
    }

    /// Of a login that is not to be understood: nothing but its fixed part.
    pub(super) fn empty(payload: &'a [u8]) -> Self {
        Self { fixed: &payload[..FIXED], proof: &[], database: &[], plugin: None, rest: &[] }
    }

    /// The login with these capabilities, which have to be those of the SSLRequest.
    pub(super) fn write(
        &self,
        capabilities: u32,
        user: &[u8],
        proof: &[u8],
        database: &[u8],
        plugin: &[u8],
    ) -> Zeroizing<Vec<u8>> {
        let when = |capability: u32, part: &'static [u8]| match capabilities & capability {
            0 => &[][..],
            _ => part,
        };
        let given = |capability: u32, part| if capabilities & capability == 0 { &[][..] } else { part };
        let mut length = Vec::new();
        // Without the capability it is one byte: proofs are shorter than 251 then.
        append(&mut length, proof.len());
        let attributes: &[u8] = match self.rest {
            [] => when(CLIENT_CONNECT_ATTRS, b"\0"),
            rest => rest,
        };
        secret_message(&[
            &capabilities.to_le_bytes(),
            &self.fixed[4..],
            user,
            b"\0",
            &length,
            proof,
            given(CLIENT_CONNECT_WITH_DB, database),
            when(CLIENT_CONNECT_WITH_DB, b"\0"),
            given(CLIENT_PLUGIN_AUTH, plugin),
            when(CLIENT_PLUGIN_AUTH, b"\0"),
            attributes,
        ])
    }
}

/// Up to a NUL, or to the end: some clients leave out the last NUL.
fn until_nul(bytes: &[u8]) -> (&[u8], &[u8]) {
    match nul(bytes) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[]),
    }
}
