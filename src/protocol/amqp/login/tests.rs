//! The client's Start, the broker's, and how a broker says no.

use super::*;
use crate::protocol::login::Secret;

fn login(opening: &[u8]) -> StartLogin {
    let secret = Secret::new(SecretKind::Password, Zeroizing::new("pencil".into()));
    StartLogin::new(LoginContext {
        credentials: LoginCredentials { user: "app".into(), secret },
        mechanisms: Default::default(),
        database: None,
        client: None,
        opening,
        is_greeted: false,
        channel_binding: None,
        nonce: [0; 18],
    })
}

fn start_ok(properties: &[u8], mechanism: &[u8], response: &[u8]) -> Vec<u8> {
    let mechanism_length = [u8::try_from(mechanism.len()).unwrap()];
    let arguments: [&[u8]; 7] = [
        &length_of(properties),
        properties,
        &mechanism_length,
        mechanism,
        &length_of(response),
        response,
        b"\x05en_US",
    ];
    method(10, 11, &arguments.concat())
}

fn tune() -> Vec<u8> {
    method(10, 30, b"\x07\xff\0\x02\0\0\0\x3c")
}

fn close(code: u16, words: &str) -> Vec<u8> {
    let length = [u8::try_from(words.len()).unwrap()];
    method(10, 50, &[&code.to_be_bytes()[..], &length, words.as_bytes(), b"\0\0\0\0"].concat())
}

fn started(opening: &[u8]) -> StartLogin {
    let mut login = login(opening);
    match login.begin() {
        Ok(LoginStep::Send(bytes)) => assert_eq!(*bytes, *HEADER_0_9_1),
        other => panic!("{other:?}"),
    }
    assert!(matches!(login.receive(&own_start()), Ok(LoginStep::Send(_))));
    login
}

#[test]
fn the_client_is_started_before_there_is_a_broker() {
    for size in [1, 1000] {
        let mut opening = StartOpening::default();
        let mut state = OpeningState::Incomplete;
        for part in HEADER_0_9_1.chunks(size) {
            state = opening.receive(part).unwrap();
        }
        let OpeningState::Answer(ref start) = state else { panic!("{state:?}") };
        let Frame { name, mut arguments, length } = frame(start).unwrap().unwrap();
        assert_eq!((name, length), (START, start.len()));
        arguments = &arguments[2..];
        assert!(long(&mut arguments).unwrap().ends_with(b"\x07productS\0\0\0\x0aambassador"));
        assert_eq!(long(&mut arguments).unwrap(), b"PLAIN AMQPLAIN EXTERNAL");
        assert_eq!((long(&mut arguments).unwrap(), arguments), (&b"en_US"[..], &b""[..]));
        let answer = start_ok(b"", b"EXTERNAL", b"");
        for part in answer.chunks(size) {
            state = opening.receive(part).unwrap();
        }
        let OpeningState::Opened(opened) = state else { panic!("{state:?}") };
        assert_eq!(opened.bytes, [&HEADER_0_9_1[..], &answer].concat());
    }
    for (first, second, expected) in [
        (&b"AMQP\x03\x01\0\0"[..], &b""[..], ReplyTo([3, 0, 0, 0, 0, 0, 0, 0])),
        (b"GET /", b"", ReplyTo::default()),
        (HEADER_0_9_1, b"HTTP/1.1 400", STARTED),
        (HEADER_0_9_1, &tune(), STARTED),
    ] {
        let mut opening = StartOpening::default();
        let mut state = opening.receive(first);
        if !second.is_empty() {
            state = opening.receive(second);
        }
        assert_eq!(state.unwrap_err().reply_to, expected, "{first:?} {second:?}");
    }
}

#[test]
fn the_clients_properties_go_on_with_our_login() {
    let mine = properties(&["basic.nack"]);
    for (mechanism, response) in
        [(&b"PLAIN"[..], &b"\0u\0p"[..]), (b"AMQPLAIN", b"\x05LOGINS\0"), (b"EXTERNAL", b"")]
    {
        let opening = [&HEADER_0_9_1[..], &start_ok(&mine, mechanism, response), b"behind"].concat();
        let mut login = login(&opening);
        login.begin().unwrap();
        let start = own_start();
        let (first, last) = start.split_at(20);
        assert!(matches!(login.receive(first), Ok(LoginStep::Read)));
        match login.receive(last) {
            Ok(LoginStep::Send(bytes)) => assert_eq!(*bytes, start_ok(&mine, b"PLAIN", b"\0app\0pencil")),
            other => panic!("{other:?}"),
        }
        match login.receive(&tune()) {
            Ok(LoginStep::SignedIn(signed_in)) => {
                assert_eq!((signed_in.to_client, &*signed_in.to_server), (tune(), &b"behind"[..]));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(login(b"AMQP\0\0\x09\x01nonsense").begin(), Err(LoginError::Client(_))));
}

#[test]
fn a_certificate_signs_in_by_external_alone() {
    for user in ["", "app"] {
        let mut login = login(b"");
        let secret = Secret::new(SecretKind::Certificate, Zeroizing::new("7".into()));
        login.credentials = LoginCredentials { user: user.into(), secret };
        login.begin().unwrap();
        let LoginStep::Send(bytes) = login.receive(&own_start()).unwrap() else { panic!("a StartOk") };
        assert_eq!(*bytes, start_ok(&properties(&[FAILURE_CLOSE]), b"EXTERNAL", user.as_bytes()));
        let no = login.receive(&close(403, "ACCESS_REFUSED")).unwrap_err().to_string();
        assert!(
            no.contains(if user.is_empty() { "as the certificate's subject (" } else { "as app (" }),
            "{no}"
        );
        let arguments = [&b"\0\x09\0\0\0\0"[..], b"\0\0\0\x05PLAIN", b"\0\0\0\x05en_US"].concat();
        let mut other = StartLogin { has_proved: false, ..login };
        let error = other.receive(&method(10, 10, &arguments)).unwrap_err();
        assert!(matches!(error, LoginError::NoMechanism { kind: SecretKind::Certificate, .. }), "{error}");
    }
}

#[test]
fn each_end_has_its_own_meaning() {
    let silent = [&HEADER_0_9_1[..], &start_ok(&properties(&[]), b"PLAIN", b"")].concat();
    let reads = [&HEADER_0_9_1[..], &start_ok(&properties(&[FAILURE_CLOSE]), b"PLAIN", b"")].concat();
    let refused = |opening: &[u8], answer: &[u8]| started(opening).receive(answer).unwrap_err();
    assert!(matches!(refused(&silent, b""), LoginError::Rejected { is_of_secret: true, .. }));
    assert_eq!(refused(&reads, b""), LoginError::Closed);
    assert_eq!(login(&silent).receive(b"").unwrap_err(), LoginError::Closed);
    let no = refused(b"", &close(403, "ACCESS_REFUSED - Login was refused"));
    let LoginError::Rejected { user, by, is_of_secret: true } = no else { panic!("{no}") };
    assert!(user == "app" && by.is_through_tls && by.words == "ACCESS_REFUSED - Login was refused");
    assert!(matches!(refused(b"", &close(320, "CONNECTION_FORCED")), LoginError::TurnedAway(_)));
    for answer in
        [method(10, 20, b"\0\0\0\0"), own_start(), b"HTTP/1.1".to_vec(), b"AMQP\0\0\x09\x01".to_vec()]
    {
        assert!(matches!(refused(b"", &answer), LoginError::Malformed { .. }), "{answer:?}");
    }
    let mut other = login(b"");
    let arguments = [&b"\0\x09\0\0\0\0"[..], b"\0\0\0\x08EXTERNAL", b"\0\0\0\x05en_US"].concat();
    let error = other.receive(&method(10, 10, &arguments)).unwrap_err();
    assert!(matches!(&error, LoginError::NoMechanism { offered, .. } if offered == "EXTERNAL"), "{error}");
    other.mechanisms = AllowedMechanisms::only(&["EXTERNAL"]);
    let error = other.receive(&own_start()).unwrap_err().to_string();
    assert!(error.ends_with("(EXTERNAL): PLAIN AMQPLAIN EXTERNAL"), "{error}");
}

#[test]
fn no_bytes_whatever_make_it_panic() {
    let mut rng = fastrand::Rng::with_seed(17);
    let client = start_ok(&properties(&["basic.nack"]), b"PLAIN", b"\0u\0p");
    for _ in 0..20_000 {
        let mut spoilt = [client.clone(), [own_start(), close(403, "no")].concat()];
        for bytes in &mut spoilt {
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
        }
        let mut opening = StartOpening::default();
        opening.receive(HEADER_0_9_1).unwrap();
        let _ = opening.receive(&spoilt[0]);
        let mut login = login(&[&HEADER_0_9_1[..], &spoilt[0]].concat());
        let _ = login.begin();
        for part in [&spoilt[1][..own_start().len()], &spoilt[1][own_start().len()..], b""] {
            if login.receive(part).is_err() {
                break;
            }
        }
    }
}
