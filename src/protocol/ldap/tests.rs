//! Bytes as OpenLDAP 2.5 and Active Directory send them.

use super::*;
use proptest::prelude::*;

const AGREED: &[u8] = b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00";
/// Long length forms, and the name of the response at the end.
const AGREED_BY_AD: &[u8] =
    b"\x30\x84\x00\x00\x00\x28\x02\x01\x01\x78\x84\x00\x00\x00\x1f\x0a\x01\x00\x04\x00\x04\x00\x8a\x161.3.6.1.4.1.1466.20037";

fn answered(answer: &[u8], portion: usize) -> Result<bool, UpgradeError> {
    let mut upgrade = StartTls::default();
    assert!(matches!(upgrade.begin(), UpgradeStep::Send(bytes) if *bytes == *START_TLS));
    for bytes in answer.chunks(portion) {
        let step = upgrade.receive(bytes)?;
        if matches!(step, UpgradeStep::Upgrade(_)) {
            return Ok(true);
        }
        assert!(matches!(step, UpgradeStep::ReadAtMost(_)));
    }
    upgrade.receive(b"").map(|_| false)
}

#[test]
fn every_form_of_a_length_leads_to_tls() {
    for answer in [AGREED, AGREED_BY_AD, b"\x30\x81\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00"] {
        for portion in [1, 5, 512] {
            assert_eq!(answered(answer, portion), Ok(true), "{answer:x?}");
        }
    }
}

#[test]
fn hostile_answers_lead_nowhere() {
    let stuffed = [AGREED, b"\x30"].concat();
    for (answer, words) in [
        (&stuffed[..], "plaintext after agreeing"),
        (b"", "closed"),
        (&AGREED[..5], "closed"),
        (b"HTTP/1.1", "not LDAP"),
        (b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x02\x04\x00\x04\x00", "refusal"),
        (b"\x30\x0c\x02\x01\x02\x78\x07\x0a\x01\x00\x04\x00\x04\x00", "another request"),
        (b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00", "another request"),
        (b"\x30\x0c\x02\x01\x00\x78\x07\x0a\x01\x34\x04\x00\x04\x00", "notice of disconnection"),
        (b"\x30\x80\x02\x01", "malformed"),
        (b"\x30\x85\x01\x01", "malformed"),
        (b"\x30\x84\xff\xff\xff\xff", "malformed"),
        (b"\x30\x03\x02\x01\x01", "malformed"),
        (b"\x30\x05\x02\x01\x01\x78\x00", "malformed"),
    ] {
        let error = answered(answer, 512).expect_err("an error").to_string();
        assert!(error.contains(words), "{answer:x?}: {error}");
    }
}

const BIND: &[u8] = b"\x30\x0c\x02\x01\x07\x60\x07\x02\x01\x03\x04\x00\x80\x00";

#[test]
fn a_request_is_known_by_its_first_bytes() {
    for cut in 0..6 {
        assert!(matches!(judge(&BIND[..cut]), FirstMessageVerdict::Incomplete), "{cut}");
    }
    assert!(matches!(judge(BIND), FirstMessageVerdict::Speaks(ReplyTo([1, BIND_REQUEST, 0, 0, 0, 7, ..]))));
    assert!(matches!(judge(b"\x30\x84\0\0\0\x0c\x02\x01\x07\x63"), FirstMessageVerdict::Speaks(_)));
    for foreign in [
        &b"GET /"[..],
        b"\x30\x80",
        b"\x30\x0c\x04\x01\x07\x60",
        b"\x30\x0c\x02\x01\x07\x61",
        b"\x30\x0c\x02\x01\xff\x60",
    ] {
        assert!(matches!(judge(foreign), FirstMessageVerdict::Foreign(_)), "{foreign:x?}");
    }
}

#[test]
fn a_refusal_answers_what_was_asked() {
    let refusal =
        |reply_to| Refusal { server: None, kind: RefusalKind::Full, reason: "r", session: "s", reply_to };
    let bytes = result(&refusal(ReplyTo([1, BIND_REQUEST, 0, 0, 0, 200, 0, 0])));
    let message = element(&bytes).expect("a message");
    assert!(message.rest.is_empty());
    let id = element(message.content).expect("an id");
    assert_eq!((number(id.content), id.content), (Some(200), &[0, 200][..]));
    let response = element(id.rest).expect("a response");
    assert_eq!((response.tag, &response.content[..3]), (BIND_RESPONSE, &[ENUMERATED, 1, 51][..]));
    assert!(response.content.ends_with(b"ambassador: r [session s]"));
    let notice = result(&refusal(ReplyTo::default()));
    assert!(notice.ends_with(b"1.3.6.1.4.1.1466.20036") && notice[4] == 0);
}

#[test]
fn any_answer_to_a_bind_but_busy_and_unavailable_is_a_server_at_work() {
    for (code, serves) in [(0, true), (48, true), (49, true), (51, false), (52, false)] {
        let answer = [&b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01"[..], &[code], b"\x04\x00\x04\x00"].concat();
        let mut probe = AnonymousBind::default();
        assert!(matches!(probe.receive(&answer[..3]), Ok(ProbeStep::Incomplete)));
        assert_eq!(matches!(probe.receive(&answer[3..]), Ok(ProbeStep::Serves { .. })), serves, "{code}");
    }
    assert!(AnonymousBind::default().receive(b"HTTP/1.1 400\r\n").is_err());
    assert!(AnonymousBind::default().receive(b"").is_err());
}

proptest! {
    #[test]
    fn what_is_encoded_is_read_again(tag: u8, content in proptest::collection::vec(any::<u8>(), 0..400), id: u32) {
        let bytes = encoded(tag, &content);
        let read = element(&bytes).unwrap();
        prop_assert_eq!((read.tag, read.content, read.rest.len()), (tag, &content[..], 0));
        let id_bytes = integer(id);
        prop_assert_eq!(number(element(&id_bytes).unwrap().content), Some(id));
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, portion in 1_usize..20) {
        let _ = answered(&bytes, portion);
        let _ = answered(&[&b"\x30"[..], &bytes].concat(), portion);
        let _ = judge(&bytes);
        let _ = AnonymousBind::default().receive(&bytes);
    }
}
