//! Tables over logins as MySQL 9.7 and MariaDB 11.8 have them.

use super::probe::{NOBODY, QUIT};
use super::*;
use crate::outcome::Side;
use proptest::prelude::*;

pub(super) const SCRAMBLED: &[u8; SCRAMBLE] = b"abcdefghijklmnopqrst";

fn greeting_payload(capabilities: u32, plugin: &str) -> Vec<u8> {
    let [a, b, c, d] = capabilities.to_le_bytes();
    let mut payload = b"\x0a10.11.6-MariaDB\0".to_vec();
    payload.extend([7, 0, 0, 0]);
    payload.extend_from_slice(&SCRAMBLED[..8]);
    payload.extend([0, a, b, 45, 2, 0, c, d, 21]);
    payload.extend([0; 10]);
    payload.extend_from_slice(&SCRAMBLED[8..]);
    payload.push(0);
    payload.extend_from_slice(plugin.as_bytes());
    payload.push(0);
    payload
}

const ALL: u32 = 0xdfff_ffff;

pub(super) fn greeting(plugin: &str) -> Vec<u8> {
    packet(0, &greeting_payload(ALL, plugin))
}

fn protocol() -> MySql {
    MySql { key: Some(RsaKey::shared()), signs_in: false }
}

/// The greeting for the client, and the reader of its reply.
#[track_caller]
fn met(greeting: &[u8], portion: usize) -> Greeting {
    let mut upgrade = protocol().upgrade().unwrap();
    let mut step = upgrade.begin();
    for bytes in greeting.chunks(portion) {
        assert!(matches!(step, UpgradeStep::ReadAtMost(_)));
        step = upgrade.receive(bytes).unwrap();
    }
    let UpgradeStep::AwaitClientReply(greeting) = step else { panic!("the client should be met: {step:?}") };
    greeting
}

pub(super) const CAPABILITIES: u32 =
    CLIENT_PROTOCOL_41 | CLIENT_SECURE_CONNECTION | CLIENT_PLUGIN_AUTH | CLIENT_CONNECT_WITH_DB | 1;

pub(super) fn response(capabilities: u32, auth: &[u8], plugin: &str) -> Vec<u8> {
    let mut payload = capabilities.to_le_bytes().to_vec();
    payload.extend([0, 0, 0, 1, 45]);
    payload.resize(FIXED, 0);
    payload.extend_from_slice(b"app\0");
    payload.push(u8::try_from(auth.len()).unwrap());
    payload.extend_from_slice(auth);
    payload.extend_from_slice(b"orders\0");
    payload.extend_from_slice(plugin.as_bytes());
    payload.push(0);
    payload
}

#[track_caller]
fn introduced(plugin: &str, response: &[u8]) -> UpgradeRequest {
    let mut met = met(&greeting(plugin), 1000);
    met.client_reply.receive(&packet(1, response)).unwrap().expect("a whole packet")
}

#[test]
fn the_client_sees_the_servers_greeting_without_tls_and_nothing_else_changed() {
    for portion in [1, 3, 1000] {
        let met = met(&greeting("mysql_native_password"), portion);
        assert_eq!(met.words, packet(0, &greeting_payload(ALL & !CLIENT_SSL, "mysql_native_password")));
    }
}

/// The greeting was passed on as received but for one bit, although it is not authenticated: bytes without a known
/// meaning and names of any form passed. It is made anew of what is known.
#[test]
fn of_a_greeting_nothing_passes_that_is_not_known() {
    let clean = greeting_payload(ALL, "mysql_native_password");
    let version_end = nul(&clean).unwrap();
    let mut marked = clean.clone();
    marked[version_end + 22..version_end + 32].fill(0xee);
    marked.extend_from_slice(b"and more");
    let expected = packet(0, &greeting_payload(ALL & !CLIENT_SSL, "mysql_native_password"));
    assert_eq!(met(&packet(0, &marked), 1000).words, expected);

    // MariaDB has its own capabilities there: those that we know.
    marked[version_end + 14] &= !1;
    let words = met(&packet(0, &marked), 1000).words;
    assert_eq!(words[HEAD + version_end + 22..][..10], [0, 0, 0, 0, 0, 0, 0xee & 0x3f, 0, 0, 0]);

    let mut shown = clean;
    shown[1] = 0x1b;
    for malformed in [greeting_payload(ALL, "../x"), greeting_payload(ALL, &"x".repeat(65)), shown] {
        let error = protocol().upgrade().unwrap().receive(&packet(0, &malformed)).expect_err("an error");
        assert!(error.to_string().contains("malformed"), "{error}");
    }
}

#[test]
fn greetings_that_lead_nowhere() {
    let plain = packet(0, &greeting_payload(ALL & !CLIENT_SSL, "x"));
    let stuffed = [greeting("x"), packet(1, b"\0")].concat();
    let full = packet(0, b"\xff\x10\x04Too many connections");
    // MariaDB's answer to a PROXY header that it cannot read.
    let refusal = packet(1, b"\xff\x51\x04#HY000Failed to parse\x1b proxy header");
    let refused = [greeting("x"), refusal.clone()].concat();
    for (bytes, expected) in [
        (&plain[..], "has no CLIENT_SSL"),
        (&stuffed, "plaintext after agreeing"),
        (&full, "MySQL error 1040"),
        (&refused, "MySQL error 1105: Failed to parse proxy header"),
        (b"\x03\0\0\0\x0a1\0", "too short"),
        (b"\x01\0\0\0\x09", "not MySQL: byte 0x09"),
        (b"\0\0\0\0", "not MySQL"),
        (b"\xff\xff\xff\0", "longer than"),
        (b"", "closed"),
    ] {
        let error = protocol().upgrade().unwrap().receive(bytes).expect_err("an error").to_string();
        assert!(error.contains(expected), "{bytes:?}: {error}");
    }
    let behind = protocol().parse_refusal(&refusal).map(|by| by.to_string());
    assert!(behind.is_some_and(|words| words.contains("Failed to parse proxy header")));
    for other in [&refusal[..refusal.len() - 1], &greeting("x"), b"", b"\x16\x03\x01\0\x05hello"] {
        assert_eq!(protocol().parse_refusal(other), None);
    }
}

#[test]
fn tls_is_asked_for_with_the_clients_own_capabilities() {
    let sent = response(CAPABILITIES, b"proof", "mysql_native_password");
    let introduced = introduced("mysql_native_password", &sent);
    let mut expected = sent;
    expected[1] |= SSL_BIT;
    assert_eq!(introduced.request, packet(1, &expected[..FIXED]));
    assert_eq!(introduced.upgraded.first, packet(2, &expected));
    assert_eq!(introduced.reply_to, reply_to(2));
}

#[test]
fn clients_that_cannot_be_served_are_told_why() {
    let mut asks_tls = response(CAPABILITIES | CLIENT_SSL, b"", "x");
    asks_tls.truncate(FIXED);
    let old = response(CAPABILITIES & !CLIENT_PROTOCOL_41, b"", "x");
    let more = [packet(1, &response(CAPABILITIES, b"", "x")), b"x".to_vec()].concat();
    for (bytes, words) in [
        (packet(1, &asks_tls), "--ssl-mode=DISABLED"),
        (packet(1, &old), "4.1"),
        (packet(1, b"\x01"), "4.1"),
        (more, "behind its login"),
        (b"GET / HTTP/1.1\r\n".to_vec(), "impossible length"),
        (vec![0x16, 3, 1, 0], "TLS"),
    ] {
        let mut met = met(&greeting("x"), 1000);
        let error = met.client_reply.receive(&bytes).expect_err("an error");
        assert!(error.reason.contains(words), "{error}");
    }
}

/// 790 bytes: the packet begins like a TLS record, up to its third byte.
#[test]
fn a_login_of_some_lengths_is_not_taken_for_tls() {
    let mut sent = response(CAPABILITIES, b"proof", "mysql_native_password");
    sent.resize(0x0316, b'x');
    assert_eq!(packet(1, &sent)[..2], [0x16, 3]);
    introduced("mysql_native_password", &sent);
}

#[test]
fn a_server_whose_client_has_left_sees_a_whole_login() {
    let mut met = met(&greeting("caching_sha2_password"), 1000);
    let introduced = met.client_reply.conclude_without_client();
    assert_eq!(introduced.request[..4], [FIXED as u8, 0, 0, 1]);
    assert_eq!(introduced.upgraded.first[3], 2);
    assert!(introduced.upgraded.first.windows(NOBODY.len()).any(|window| window == NOBODY));
}

/// Plays a login: `>` the client's packets, `<` the server's. Returns what was sent to each leg.
fn play(
    mut dialogue: Box<dyn Dialogue>,
    turns: &[(char, Vec<u8>)],
    portion: usize,
) -> (Vec<u8>, Vec<u8>, bool) {
    let mut out = Outbox::default();
    for (side, bytes) in turns {
        for part in bytes.chunks(portion) {
            match side {
                '>' => dialogue.on_downstream(part, &mut out).unwrap(),
                _ => dialogue.on_upstream(part, &mut out).unwrap(),
            }
        }
    }
    (out.to_downstream, out.to_upstream, dialogue.is_finished())
}

fn login(plugin: &str) -> Box<dyn Dialogue> {
    introduced(plugin, &response(CAPABILITIES, b"proof", plugin)).upgraded.dialogue.unwrap()
}

#[test]
fn packets_are_numbered_for_each_leg_until_the_login_is_over() {
    let switch = [b"\xfeclient_ed25519\0", &[9_u8; 32][..]].concat();
    for portion in [1, 3, 1000] {
        let turns = [
            ('<', packet(3, &switch)),
            ('>', packet(3, &[5; 64])),
            ('<', packet(5, b"\0\0\0\x02\0\0\0")),
            // Later bytes are relayed as they are.
            ('>', packet(0, b"\x03select 1")),
            ('<', packet(1, b"\x01")),
        ];
        let (to_client, to_server, is_over) = play(login("x"), &turns, portion);
        assert_eq!(
            to_client,
            [packet(2, &switch), packet(4, b"\0\0\0\x02\0\0\0"), packet(1, b"\x01")].concat()
        );
        assert_eq!(to_server, [packet(4, &[5; 64]), packet(0, b"\x03select 1")].concat());
        assert!(is_over);
    }
    let (to_client, _, is_over) = play(login("x"), &[('<', packet(3, b"\xff\x15\x04#28000no"))], 2);
    assert_eq!((to_client, is_over), (packet(2, b"\xff\x15\x04#28000no"), true));
    // A fast login: two packets of the server in a row, without one of the client between.
    let turns = [('<', packet(3, &[1, 3])), ('<', packet(4, b"\0"))];
    assert_eq!(play(login("x"), &turns, 1000).0, [packet(2, &[1, 3]), packet(3, b"\0")].concat());
}

/// Encrypts a password with our key, as a client does.
fn encrypted(pem: &[u8], password: &[u8], scramble: &[u8]) -> Vec<u8> {
    use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
    let der = pem::parse(pem).expect("PEM");
    let key = PublicEncryptingKey::from_der(der.contents()).expect("a public key");
    let mut plain = [password, &[0]].concat();
    plain.iter_mut().zip(scramble.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    let mut ciphertext = vec![0; 256];
    let key = OaepPublicEncryptingKey::new(key).expect("OAEP");
    key.encrypt(&OAEP_SHA1_MGF1SHA1, &plain, &mut ciphertext, None).expect("encrypted");
    ciphertext
}

#[test]
fn a_cold_cache_gets_the_password_that_the_client_encrypted_for_us() {
    let mut dialogue = login("caching_sha2_password");
    let mut out = Outbox::default();
    dialogue.on_upstream(&packet(3, &[1, 4]), &mut out).unwrap();
    dialogue.on_downstream(&packet(3, &[2]), &mut out).unwrap();
    assert!(out.to_upstream.is_empty(), "the server would take the request for a password");
    let answer = out.to_downstream.split_off(packet(2, &[1, 4]).len());
    assert_eq!((answer[3], answer[4]), (4, 1));
    let ciphertext = encrypted(&answer[5..], b"correct horse battery staple", SCRAMBLED);
    dialogue.on_downstream(&packet(5, &ciphertext), &mut out).unwrap();
    assert_eq!(out.to_upstream, packet(4, b"correct horse battery staple\0"));
    out = Outbox::default();
    dialogue.on_upstream(&packet(5, b"\0"), &mut out).unwrap();
    assert_eq!(out.to_downstream, packet(6, b"\0"));
}

#[test]
fn a_client_that_trusts_its_hop_sends_the_password_as_it_is() {
    let mut dialogue = login("caching_sha2_password");
    let mut out = Outbox::default();
    dialogue.on_upstream(&packet(3, &[1, 4]), &mut out).unwrap();
    dialogue.on_downstream(&packet(3, b"secret\0"), &mut out).unwrap();
    assert_eq!(out.to_upstream, packet(4, b"secret\0"));
}

#[test]
fn sha256_password_asks_for_the_key_after_a_switch_and_in_its_login() {
    let new_scramble = b"ABCDEFGHIJKLMNOPQRST";
    let switch = [b"\xfesha256_password\0", &new_scramble[..], b"\0"].concat();
    // In the login: the server gets an empty proof of an unknown plugin, and so asks again by a switch.
    let sent = response(CAPABILITIES, &[1], "sha256_password");
    let introduced = introduced("sha256_password", &sent);
    assert!(introduced.upgraded.first.ends_with(b"app\0\0orders\0none\0"));
    let mut dialogue = introduced.upgraded.dialogue.unwrap();
    let mut out = Outbox::default();
    dialogue.on_upstream(&packet(3, &switch), &mut out).unwrap();
    dialogue.on_downstream(&packet(3, &[1]), &mut out).unwrap();
    let answer = out.to_downstream.split_off(packet(2, &switch).len());
    let ciphertext = encrypted(&answer[5..], b"secret", new_scramble);
    dialogue.on_downstream(&packet(5, &ciphertext), &mut out).unwrap();
    assert_eq!(out.to_upstream, packet(4, b"secret\0"));
}

#[test]
fn a_password_for_another_key_is_refused_in_words() {
    let mut dialogue = login("caching_sha2_password");
    let mut out = Outbox::default();
    dialogue.on_upstream(&packet(3, &[1, 4]), &mut out).unwrap();
    let error = dialogue.on_downstream(&packet(3, &[7; 256]), &mut out).unwrap_err();
    assert!(error.reason.contains("public key") && error.side == Side::Downstream);
    assert_eq!(error.reply_to, reply_to(4));
}

#[test]
fn packets_without_an_end_are_refused() {
    let mut out = Outbox::default();
    assert!(login("x").on_upstream(b"\xff\xff\xff\x03", &mut out).is_err());
    assert!(login("x").on_downstream(b"\xff\xff\xff\x03", &mut out).is_err());
}

fn probed(upgraded: bool, server: &[Vec<u8>]) -> (Vec<Vec<u8>>, Result<Vec<u8>, String>) {
    let mut probe = protocol().probe(upgraded).unwrap();
    let mut said = Vec::new();
    for bytes in server.iter().map(Vec::as_slice).chain([&b""[..]]) {
        match probe.receive(bytes) {
            Ok(ProbeStep::Incomplete) => {}
            Ok(ProbeStep::Send(bytes)) => said.push(bytes),
            Ok(ProbeStep::Serves { goodbye }) => return (said, Ok(goodbye)),
            Err(error) => return (said, Err(error.to_string())),
        }
    }
    panic!("a probe goes on behind the server's end")
}

#[test]
fn a_probe_sees_a_login_through() {
    let denied = packet(3, b"\xff\x15\x04#28000Access denied");
    assert_eq!(probed(true, std::slice::from_ref(&denied)), (vec![], Ok(vec![])));
    assert_eq!(probed(true, &[packet(3, b"\0\0")]).1, Ok(QUIT.to_vec()));
    // An answer whose length is not the plugin's counts as a broken handshake.
    for (plugin, length) in
        [("mysql_native_password", 20), ("client_ed25519", 64), ("caching_sha2_password", 32)]
    {
        let switch =
            packet(3, format!("\u{fe}{plugin}\0abc").chars().map(|c| c as u8).collect::<Vec<_>>().as_slice());
        let denied = packet(5, &denied[4..]);
        let (said, verdict) = probed(true, &[switch, denied]);
        assert_eq!((said, verdict), (vec![packet(4, &vec![0; length])], Ok(vec![])), "{plugin}");
    }
    let salted = [packet(3, b"\xfeparsec\0abc"), packet(5, b"\x01P\x00salt"), packet(7, &denied[4..])];
    assert_eq!(probed(true, &salted), (vec![packet(4, b""), packet(6, &[0; 96])], Ok(vec![])));
    // Two packets at once, and the full login of caching_sha2_password, if the password was not cached.
    let fast = [packet(3, &[1, 3]), packet(4, b"\0\0")].concat();
    assert_eq!(probed(true, &[fast]), (vec![], Ok(QUIT.to_vec())));
    assert_eq!(probed(true, &[packet(3, &[1, 4]), packet(5, &denied[4..])]).0, [packet(4, b"\0")]);
    let (said, verdict) = probed(false, &[greeting("mysql_native_password"), packet(2, &denied[4..])]);
    assert_eq!((said.len(), verdict), (1, Ok(vec![])));
    for (number, words) in [(1040_u16, "1040"), (1129, "FLUSH HOSTS"), (1053, "shutting down")] {
        let error = packet(0, &[&[ERR][..], &number.to_le_bytes(), b"x"].concat());
        assert!(probed(false, &[error]).1.unwrap_err().contains(words));
    }
    let endless = vec![packet(3, &[1, 9]); 20];
    assert!(probed(true, &endless).1.is_err(), "a server that always asks for more");
}

/// A client that leaves in the middle of a login counts as an error of this host, so the login is completed.
#[test]
fn a_login_whose_client_has_left_is_seen_through_from_wherever_it_is() {
    let switch = b"\xfeclient_ed25519\0abcdefghijklmnopqrstuvwxyzabcdef";
    let denied = b"\xff\x15\x04#28000no";
    let rest = |turns: &[(char, Vec<u8>)]| {
        let (mut dialogue, mut out) = (login("x"), Outbox::default());
        for (side, bytes) in turns {
            match side {
                '>' => dialogue.on_downstream(bytes, &mut out).unwrap(),
                _ => dialogue.on_upstream(bytes, &mut out).unwrap(),
            }
        }
        dialogue.rest()
    };
    // The server has not answered the login: there is nothing to send, and its question is answered.
    let mut waiting = rest(&[]).unwrap();
    assert_eq!(waiting.begin(), b"");
    assert_eq!(waiting.receive(&packet(3, switch)), Ok(ProbeStep::Send(packet(4, &[0; 64]))));
    assert_eq!(waiting.receive(&packet(5, denied)), Ok(ProbeStep::Serves { goodbye: vec![] }));
    // The server waits for an answer, of which the client has sent half.
    let mut asked = rest(&[('<', packet(3, switch)), ('>', packet(3, &[5; 64])[..30].to_vec())]).unwrap();
    assert_eq!(asked.begin(), packet(4, &[0; 64]));
    // The server waits for a password, and the client leaves (mysql without --get-server-public-key).
    let mut cold = rest(&[('<', packet(3, &[1, 4]))]).unwrap();
    assert_eq!(cold.begin(), packet(4, b"\0"));
    // The client has answered, and half of the server's reply has been received.
    let (half, other) = (packet(5, denied)[..7].to_vec(), packet(5, denied)[7..].to_vec());
    let mut answered = rest(&[('<', packet(3, switch)), ('>', packet(3, &[5; 64])), ('<', half)]).unwrap();
    assert_eq!(answered.begin(), b"");
    assert_eq!(answered.receive(&other), Ok(ProbeStep::Serves { goodbye: vec![] }));
    // A fast login whose client has left.
    let mut fast = rest(&[('<', packet(3, &[1, 3]))]).unwrap();
    assert_eq!(fast.begin(), b"");
    assert_eq!(fast.receive(&packet(4, b"\0\0")), Ok(ProbeStep::Serves { goodbye: QUIT.to_vec() }));
    assert!(rest(&[('<', packet(3, denied))]).is_none(), "the login is over");
}

#[test]
fn a_refusal_has_the_number_that_the_client_waits_for() {
    let refusal = |reply_to| Refusal {
        server: None,
        kind: RefusalKind::Unreachable,
        reason: "connect_failed: no",
        session: "00ff",
        reply_to,
    };
    let before = error_packet(&refusal(ReplyTo::default()));
    assert_eq!(before[3..7], [0, ERR, 0x51, 0x04]);
    assert!(before.ends_with(b"ambassador: connect_failed: no [session 00ff]") && before[7] == b'a');
    let after = error_packet(&refusal(reply_to(2)));
    assert_eq!((after[3], &after[7..13]), (2, &b"#08S01"[..]));
}

proptest! {
    #[test]
    fn no_login_panics_and_splits_change_nothing(server: Vec<u8>, client: Vec<u8>, portion in 1_usize..50) {
        let run = |portion: usize| {
            let (mut dialogue, mut out) = (login("x"), Outbox::default());
            let server = server.chunks(portion).try_for_each(|part| dialogue.on_upstream(part, &mut out));
            let client = client.chunks(portion).try_for_each(|part| dialogue.on_downstream(part, &mut out));
            (server.is_err(), client.is_err(), out.to_downstream, out.to_upstream, dialogue.is_finished())
        };
        prop_assert_eq!(run(portion), run(usize::MAX));
    }

    #[test]
    fn no_greeting_and_no_answer_panic(server: Vec<u8>, client: Vec<u8>) {
        let _ = protocol().upgrade().unwrap().receive(&server);
        let mut met = met(&greeting("x"), 1000);
        let _ = met.client_reply.receive(&packet(1, &client));
        let _ = met.client_reply.receive(&client);
    }
}
