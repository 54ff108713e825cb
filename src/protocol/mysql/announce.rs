//! The caller's unit as a connection attribute of the login, shown in `performance_schema.session_connect_attrs`.
//!
//! Only for clients that send attributes themselves (CLIENT_CONNECT_ATTRS). An attribute of that name from the client
//! is removed: it could have any value.
//!
//! Source: MySQL Internals, "Protocol::HandshakeResponse41" and "Protocol::LengthEncodedInteger".

use super::{
    CLIENT_CONNECT_ATTRS, CLIENT_CONNECT_WITH_DB, CLIENT_PLUGIN_AUTH, CLIENT_PLUGIN_AUTH_LENENC,
    CLIENT_SECURE_CONNECTION, FIXED, HEAD, le_u32, nul, packet,
};

/// The attribute's name; names with a leading underscore are MySQL's own.
const ATTRIBUTE: &[u8] = b"caller_unit";
/// The most that a server accepts of attributes in total.
const ATTRIBUTES_MAX: usize = 64 * 1024;

/// Adds the attribute to a HandshakeResponse41, which must be the first packet, and whole. A login that cannot carry it
/// stays as it is.
pub(super) fn announce(login: &mut Vec<u8>, unit: &str) {
    let Some(&[low, middle, high, sequence]) = login.first_chunk::<HEAD>() else { return };
    let end = HEAD + u32::from_le_bytes([low, middle, high, 0]) as usize;
    let announced = login.get(HEAD..end).and_then(|response| announced(response, unit));
    if let Some(response) = announced {
        login.splice(..end, packet(sequence, &response));
    }
}

fn announced(response: &[u8], unit: &str) -> Option<Vec<u8>> {
    let (from, attributes, to) = attributes(response)?;
    let mut ours = Vec::with_capacity(attributes.len() + ATTRIBUTE.len() + unit.len() + 2);
    let mut rest = attributes;
    while !rest.is_empty() {
        let pair = rest;
        let (name, behind) = text(rest)?;
        let (_, behind) = text(behind)?;
        if !name.eq_ignore_ascii_case(ATTRIBUTE) {
            ours.extend_from_slice(&pair[..pair.len() - behind.len()]);
        }
        rest = behind;
    }
    for part in [ATTRIBUTE, unit.as_bytes()] {
        append(&mut ours, part.len());
        ours.extend_from_slice(part);
    }
    if ours.len() > ATTRIBUTES_MAX {
        return None;
    }
    let mut announced = response[..from].to_vec();
    append(&mut announced, ours.len());
    announced.extend_from_slice(&ours);
    announced.extend_from_slice(&response[to..]);
    Some(announced)
}

/// The offset of the attributes' length, the attributes, and the offset of their end.
fn attributes(response: &[u8]) -> Option<(usize, &[u8], usize)> {
    let capabilities = le_u32(response)?;
    let has = |capability: u32| capabilities & capability != 0;
    if !has(CLIENT_CONNECT_ATTRS) {
        return None;
    }
    let user = response.get(FIXED..)?;
    let mut rest = user.get(nul(user)? + 1..)?;
    rest = if has(CLIENT_PLUGIN_AUTH_LENENC) {
        text(rest)?.1
    } else if has(CLIENT_SECURE_CONNECTION) {
        rest.get(1 + usize::from(*rest.first()?)..)?
    } else {
        rest.get(nul(rest)? + 1..)?
    };
    for _ in 0..u32::from(has(CLIENT_CONNECT_WITH_DB)) + u32::from(has(CLIENT_PLUGIN_AUTH)) {
        rest = rest.get(nul(rest)? + 1..)?;
    }
    let (attributes, behind) = text(rest)?;
    Some((response.len() - rest.len(), attributes, response.len() - behind.len()))
}

/// A length-encoded string, and the bytes after it.
pub(super) fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match bytes {
        [length @ 0..=0xfa, rest @ ..] => (usize::from(*length), rest),
        [0xfc, low, high, rest @ ..] => (usize::from(u16::from_le_bytes([*low, *high])), rest),
        [0xfd, low, middle, high, rest @ ..] => {
            (u32::from_le_bytes([*low, *middle, *high, 0]) as usize, rest)
        }
        // Longer than a packet of the login.
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// Appends a length as [`text`] has it.
pub(super) fn append(bytes: &mut Vec<u8>, length: usize) {
    let [low, middle, high, ..] = length.to_le_bytes();
    match length {
        0..=0xfa => bytes.push(low),
        0xfb..=0xffff => bytes.extend_from_slice(&[0xfc, low, middle]),
        _ => bytes.extend_from_slice(&[0xfd, low, middle, high]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::CLIENT_PROTOCOL_41;
    use super::*;

    const LOGIN: u32 = CLIENT_PROTOCOL_41 | CLIENT_SECURE_CONNECTION | CLIENT_CONNECT_ATTRS;

    fn pairs(attributes: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in attributes.iter().flat_map(|(name, value)| [name, value]) {
            append(&mut bytes, part.len());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }

    fn login(capabilities: u32, attributes: Option<&[(&str, &str)]>) -> Vec<u8> {
        let mut payload = capabilities.to_le_bytes().to_vec();
        payload.resize(FIXED, 0);
        payload.extend_from_slice(b"app\0\x03abc");
        if capabilities & CLIENT_CONNECT_WITH_DB != 0 {
            payload.extend_from_slice(b"shop\0");
        }
        if capabilities & CLIENT_PLUGIN_AUTH != 0 {
            payload.extend_from_slice(b"mysql_native_password\0");
        }
        if let Some(attributes) = attributes {
            let pairs = pairs(attributes);
            append(&mut payload, pairs.len());
            payload.extend_from_slice(&pairs);
        }
        // For example, a compression level.
        payload.push(3);
        packet(2, &payload)
    }

    #[test]
    fn the_attribute_is_added_to_those_of_the_client() {
        let ours = ("caller_unit", "a.service");
        let long = "v".repeat(300);
        let long = ("_long", long.as_str());
        for more in [
            0,
            CLIENT_CONNECT_WITH_DB,
            CLIENT_PLUGIN_AUTH,
            CLIENT_PLUGIN_AUTH_LENENC | CLIENT_CONNECT_WITH_DB,
        ] {
            for (given, expected) in [
                (&[][..], &[ours][..]),
                (&[("_pid", "7")], &[("_pid", "7"), ours]),
                (&[("Caller_Unit", "forged.service"), ("_pid", "7")], &[("_pid", "7"), ours]),
                (&[long], &[long, ours]),
            ] {
                let mut announced = login(LOGIN | more, Some(given));
                announce(&mut announced, "a.service");
                assert_eq!(announced, login(LOGIN | more, Some(expected)), "{more:x} {given:?}");
            }
        }
    }

    #[test]
    fn a_login_that_has_no_place_for_it_stays_as_it_is() {
        let large = "v".repeat(ATTRIBUTES_MAX - 10);
        let whole = login(LOGIN, Some(&[("_pid", "7")]));
        for login in [
            login(LOGIN & !CLIENT_CONNECT_ATTRS, None),
            login(LOGIN, Some(&[("_large", &large)])),
            whole[..whole.len() - 5].to_vec(),
            Vec::new(),
            vec![0; 4],
        ] {
            let mut announced = login.clone();
            announce(&mut announced, "a.service");
            assert_eq!(announced, login);
        }
    }

    #[test]
    fn no_bytes_whatever_make_it_panic() {
        let mut rng = fastrand::Rng::with_seed(13);
        for _ in 0..20_000 {
            let mut bytes =
                login(LOGIN | CLIENT_CONNECT_WITH_DB | CLIENT_PLUGIN_AUTH, Some(&[("_pid", "7")]));
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            bytes.truncate(rng.usize(..=bytes.len()));
            announce(&mut bytes, "a.service");
        }
    }
}
