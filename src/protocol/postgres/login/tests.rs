//! Logins by each method, and what the server may answer.

use super::*;
use crate::protocol::Protocol as _;
use crate::protocol::login::Secret;

const NONCE: [u8; 18] = [7; 18];

fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = vec![0, 3, 0, 0];
    for (name, value) in parameters {
        body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes()[..], &body].concat()
}

struct Case<'a> {
    kind: SecretKind,
    database: Option<&'a str>,
    binding: Option<Vec<u8>>,
    mechanisms: AllowedMechanisms,
    opening: Vec<u8>,
}

impl Default for Case<'_> {
    fn default() -> Self {
        let opening = startup(&[("user", "anybody"), ("database", "orders"), ("application_name", "psql")]);
        Self {
            kind: SecretKind::Password,
            database: None,
            binding: None,
            mechanisms: Default::default(),
            opening,
        }
    }
}

impl Case<'_> {
    fn login(&self) -> StartupLogin {
        let secret = Secret::new(self.kind, Zeroizing::new("pencil".into()));
        StartupLogin::new(LoginContext {
            credentials: LoginCredentials { user: "app".into(), secret },
            mechanisms: self.mechanisms.clone(),
            database: self.database,
            client: None,
            opening: &self.opening,
            is_greeted: false,
            channel_binding: self.binding.clone(),
            nonce: NONCE,
        })
    }
}

fn begun(case: &Case<'_>) -> StartupLogin {
    let mut login = case.login();
    assert!(matches!(login.begin(), Ok(LoginStep::Send(_))));
    login
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    typed(kind, &[body]).to_vec()
}

fn request(kind: u32, data: &[u8]) -> Vec<u8> {
    message(b'R', &[&kind.to_be_bytes(), data].concat())
}

fn error(code: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("SFATAL\0VFATAL\0C{code}\0M{text}\0\0").as_bytes())
}

/// Methods `cert` and `trust`: the server asks for nothing. One that asks for a password gets none, and one that rejects has
/// judged the certificate.
#[test]
fn a_certificate_answers_no_question() {
    let case = Case { kind: SecretKind::Certificate, ..Case::default() };
    assert!(matches!(begun(&case).receive(&welcome()), Ok(LoginStep::SignedIn(_))));
    for (question, offered) in [
        (request(3, b""), "password"),
        (request(5, b"salt"), "md5"),
        (request(10, b"SCRAM-SHA-256\0OAUTHBEARER\0EXTERNAL\0\0"), "SCRAM-SHA-256, OAUTHBEARER, EXTERNAL"),
    ] {
        let error = begun(&case).receive(&question).unwrap_err();
        assert!(matches!(&error, LoginError::NoMechanism { kind: SecretKind::Certificate, .. }), "{error:?}");
        assert!(error.to_string().ends_with(offered), "{error}");
    }
    let no = error("28000", "certificate authentication failed for user \"app\"");
    let rejected = begun(&case).receive(&no).unwrap_err();
    assert!(matches!(rejected, LoginError::Rejected { is_of_secret: true, .. }), "{rejected}");
}

/// What is sent in answer, without its type and length.
#[track_caller]
fn sent(step: Result<LoginStep, LoginError>) -> Vec<u8> {
    match step {
        Ok(LoginStep::Send(bytes)) => bytes[HEAD..].to_vec(),
        other => panic!("{other:?}"),
    }
}

/// The rest of a login that went well.
fn welcome() -> Vec<u8> {
    [
        request(0, b""),
        message(b'S', b"server_version\0v18\0"),
        message(b'K', b"\0\0\0\x05abcd"),
        message(b'Z', b"I"),
    ]
    .concat()
}

#[test]
fn the_startup_has_our_user_and_everything_else_of_the_clients() {
    for (database, parameters, expected) in [
        (
            None,
            vec![("user", "x"), ("database", "d"), ("replication", "database")],
            vec![("user", "app"), ("database", "d"), ("replication", "database")],
        ),
        (None, vec![("application_name", "a")], vec![("user", "app"), ("application_name", "a")]),
        (Some("orders"), vec![("user", "x")], vec![("user", "app"), ("database", "orders")]),
        // libpq writes the user's name where no database is named.
        (
            Some("orders"),
            vec![("user", "x"), ("database", "x")],
            vec![("user", "app"), ("database", "orders")],
        ),
        (
            Some("orders"),
            vec![("database", "orders"), ("user", "x")],
            vec![("user", "app"), ("database", "orders")],
        ),
    ] {
        let case = Case { database, opening: startup(&parameters), ..Case::default() };
        match case.login().begin() {
            Ok(LoginStep::Send(bytes)) => assert_eq!(*bytes, startup(&expected), "{parameters:?}"),
            other => panic!("{other:?}"),
        }
    }
    let other = startup(&[("user", "x"), ("database", "y")]);
    let case = Case { database: Some("orders"), opening: other, ..Case::default() };
    assert_eq!(
        case.login().begin().unwrap_err().to_string(),
        "the client cannot be signed in: it asks for another database than login.database"
    );
    match (Case { opening: Vec::new(), ..Case::default() }).login().begin() {
        Ok(LoginStep::Send(bytes)) => {
            assert_eq!(*bytes, startup(&[("user", "app"), ("database", "postgres")]))
        }
        other => panic!("{other:?}"),
    }
    for malformed in [b"\0\0\0\x0a\0\x03\0\0ab".to_vec(), startup(&[("user", "x")])[..12].to_vec()] {
        let case = Case { opening: malformed, ..Case::default() };
        assert!(case.login().begin().is_err());
    }
}

#[test]
fn the_client_gets_what_the_server_says_behind_the_login() {
    let notice = message(b'N', b"SNOTICE\0\0");
    for cut in [1, 7, 1000] {
        let mut login = begun(&Case::default());
        assert_eq!(sent(login.receive(&request(3, b""))), b"pencil\0");
        let came = [notice.clone(), welcome(), b"more".to_vec()].concat();
        let mut step = LoginStep::Read;
        let mut given = 0;
        for part in came.chunks(cut) {
            given += part.len();
            step = login.receive(part).unwrap();
            if matches!(step, LoginStep::SignedIn(_)) {
                break;
            }
        }
        let LoginStep::SignedIn(signed_in) = step else { panic!("{step:?}") };
        assert_eq!(signed_in.to_client, came[..given]);
        assert!(given >= notice.len() + welcome().len() && signed_in.to_server.is_empty());
    }
}

#[test]
fn what_the_client_sent_behind_its_startup_is_the_servers_afterwards() {
    let opening = [startup(&[("user", "x")]), message(b'Q', b"select 1\0")].concat();
    let mut login = begun(&Case { opening, ..Case::default() });
    match login.receive(&welcome()).unwrap() {
        LoginStep::SignedIn(signed_in) => assert_eq!(signed_in.to_server, message(b'Q', b"select 1\0")),
        other @ (LoginStep::Send(_) | LoginStep::Read) => panic!("{other:?}"),
    }
}

/// `md5` and md5(md5(password + user) + salt), by PostgreSQL's documentation of "AuthenticationMD5Password".
#[test]
fn md5_is_libpqs() {
    let mut login = begun(&Case::default());
    let answer = sent(login.receive(&request(5, b"salt")));
    assert_eq!(answer, b"md52afb5b311168c70c7e1783b3f1da0ac3\0");
}

#[test]
fn scram_binds_to_the_channel_where_the_server_offers_it() {
    const OFFER: &[u8] = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
    for (binding, offer, begins) in [
        (Some(vec![1, 2]), OFFER, &b"SCRAM-SHA-256-PLUS\0\0\0\0\x35p=tls-server-end-point,,n=,r="[..]),
        (Some(vec![1, 2]), &OFFER[19..], b"SCRAM-SHA-256\0\0\0\0\x20y,,n=,r="),
        (None, OFFER, b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r="),
    ] {
        let mut login = begun(&Case { binding, ..Case::default() });
        let first = sent(login.receive(&request(10, offer)));
        assert!(first.starts_with(begins), "{}", String::from_utf8_lossy(&first));
    }
}

#[test]
fn a_server_that_lets_in_without_its_proof_is_refused() {
    let mut login = begun(&Case::default());
    sent(login.receive(&request(10, b"SCRAM-SHA-256\0\0")));
    let expected = LoginError::Unproven("it let us in without its signature");
    assert_eq!(login.receive(&welcome()).unwrap_err(), expected);
}

#[test]
fn each_error_has_its_own_meaning() {
    for (code, is_asked, is_rejected) in
        [("28P01", true, true), ("28000", false, true), ("53300", true, false), ("57P03", false, false)]
    {
        let mut login = begun(&Case::default());
        if is_asked {
            sent(login.receive(&request(3, b"")));
        }
        match (login.receive(&error(code, "no")).unwrap_err(), is_rejected) {
            (LoginError::Rejected { user, by, is_of_secret }, true) => {
                assert_eq!((user.as_str(), is_of_secret), ("app", is_asked), "{code}");
                assert!(by.kind.ends_with(code) && by.words == "no" && by.is_through_tls, "{by:?}");
            }
            (LoginError::TurnedAway(by), false) => assert!(by.is_through_tls, "{code}"),
            (error, _) => panic!("{code}: {error:?}"),
        }
    }
    // The client's own mistake, such as a database that does not exist: it gets the server's message.
    let mut login = begun(&Case::default());
    let none = error("3D000", "database \"x\" does not exist");
    match login.receive(&[request(0, b""), none.clone()].concat()).unwrap() {
        LoginStep::SignedIn(signed_in) => assert!(signed_in.to_client.ends_with(&none)),
        other @ (LoginStep::Send(_) | LoginStep::Read) => panic!("{other:?}"),
    }
}

#[test]
fn a_server_that_asks_for_less_than_is_allowed_gets_nothing() {
    const SCRAM: &[u8] = b"SCRAM-SHA-256\0\0";
    const BOTH: &[u8] = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
    use SecretKind::*;
    for (kind, allowed, is_bound, asked, offered) in [
        (Password, "scram-sha-256", true, request(3, b""), Some("password")),
        (Password, "scram-sha-256", true, request(5, b"salt"), Some("md5")),
        (Password, "scram-sha-256", true, request(0, b""), Some("none")),
        (Password, "scram-sha-256", true, request(7, b""), Some("GSS or SSPI")),
        (Password, "scram-sha-256", true, request(10, SCRAM), None),
        (Password, "scram-sha-256", true, request(10, BOTH), None),
        (Password, "scram-sha-256-plus", true, request(10, BOTH), None),
        (Password, "scram-sha-256-plus", true, request(10, SCRAM), Some("SCRAM-SHA-256")),
        (
            Password,
            "scram-sha-256-plus",
            false,
            request(10, BOTH),
            Some("SCRAM-SHA-256-PLUS, SCRAM-SHA-256, without a channel to bind to"),
        ),
        (Password, "md5", true, request(10, BOTH), Some("SCRAM-SHA-256-PLUS, SCRAM-SHA-256")),
        (Password, "md5", true, request(5, b"salt"), None),
        (Password, "password", true, request(3, b""), None),
        (Password, "none", true, request(3, b""), Some("password")),
        (PasswordToken, "password", true, request(3, b""), None),
        (PasswordToken, "none", true, request(3, b""), Some("password")),
        (BearerToken, "oauth", true, request(10, b"OAUTHBEARER\0\0"), None),
        (BearerToken, "none", true, request(10, b"OAUTHBEARER\0\0"), Some("OAUTHBEARER")),
        (BearerToken, "oauth", true, request(0, b""), Some("none")),
    ] {
        let binding = is_bound.then(|| vec![1]);
        let name = crate::protocol::postgres::Postgres::new(&Default::default())
            .login_mechanisms(kind)
            .iter()
            .find(|name| **name == allowed)
            .expect("a mechanism");
        let mechanisms = AllowedMechanisms::only(&[name]);
        let mut login = begun(&Case { kind, binding, mechanisms, ..Case::default() });
        let step = login.receive(&asked);
        match offered {
            None => drop(sent(step)),
            Some(offered) => {
                let error = step.unwrap_err();
                let expected = format!("`mechanisms` ({allowed}): {offered}");
                assert!(error.to_string().ends_with(&expected), "{error} {expected}");
                assert!(!login.has_proved() && error.rejection().is_none(), "{error}");
            }
        }
    }
    // Nothing to prove, and allowed.
    let mechanisms = AllowedMechanisms::only(&["none"]);
    let mut trusted = begun(&Case { mechanisms, ..Case::default() });
    assert!(matches!(trusted.receive(&welcome()), Ok(LoginStep::SignedIn(_))));
}

/// Scenario: a pooler quoted the password in an error about the database, and that error went to the client as it was.
#[test]
fn what_repeats_the_password_does_not_reach_the_client() {
    let mut login = begun(&Case::default());
    let quoted = error("3D000", "no database for app:pencil");
    let LoginStep::SignedIn(refused) = login.receive(&[request(0, b""), quoted].concat()).unwrap() else {
        panic!("it is the client's own error")
    };
    assert!(refused.is_refused);
    let expected = [request(0, b""), error("3D000", "its words repeat the secret")].concat();
    assert_eq!(refused.to_client, expected);
    // Before and after AuthenticationOk.
    let mut login = begun(&Case::default());
    assert_eq!(sent(login.receive(&request(3, b""))), b"pencil\0");
    let notice = message(b'N', b"SNOTICE\0Mthe password pencil is old\0\0");
    let parameter = message(b'S', b"session_authorization\0pencil\0");
    let come = [notice.clone(), request(0, b""), notice, parameter, message(b'Z', b"I")].concat();
    let LoginStep::SignedIn(signed_in) = login.receive(&come).unwrap() else { panic!("not signed in") };
    assert_eq!(signed_in.to_client, [request(0, b""), message(b'Z', b"I")].concat());
    // A pooler's rejection, with a code of its own.
    let mut login = begun(&Case::default());
    sent(login.receive(&request(3, b"")));
    let rejected = login.receive(&error("08P01", "wrong: pencil")).unwrap_err().to_string();
    assert!(rejected.contains("its words repeat the secret") && !rejected.contains("pencil"), "{rejected}");
}

/// Scenario: a certificate has no secret, so that PLAIN's message was the user's name between zeros; that is a part of
/// `session_authorization`, which never reached the client. libpq's drivers ask the server again for what is missing.
#[test]
fn a_login_without_a_secret_withholds_nothing() {
    let mut login = begun(&Case { kind: SecretKind::Certificate, ..Case::default() });
    let parameter = message(b'S', b"session_authorization\0app\0");
    let come = [request(0, b""), parameter, message(b'Z', b"I")].concat();
    let LoginStep::SignedIn(signed_in) = login.receive(&come).unwrap() else { panic!("not signed in") };
    assert_eq!(signed_in.to_client, come);
}

#[test]
fn a_token_goes_by_oauthbearer_alone() {
    let token = || Case { kind: SecretKind::BearerToken, ..Case::default() };
    let mut login = begun(&token());
    let first = sent(login.receive(&request(10, b"SCRAM-SHA-256\0OAUTHBEARER\0\0")));
    assert_eq!(first, b"OAUTHBEARER\0\0\0\0\x18n,,\x01auth=Bearer pencil\x01\x01");
    // The error's round trip: the server explains, we answer, and it refuses.
    assert_eq!(sent(login.receive(&request(11, b"{\"status\":\"invalid_token\"}"))), b"\x01");
    assert!(matches!(
        login.receive(&error("28000", "no")).unwrap_err(),
        LoginError::Rejected { is_of_secret: true, .. }
    ));
    for ask in [request(3, b""), request(5, b"salt"), request(10, b"SCRAM-SHA-256\0\0"), request(7, b"")] {
        let error = begun(&token()).receive(&ask).unwrap_err();
        assert!(matches!(error, LoginError::NoMechanism { .. }), "{error}");
    }
}

#[test]
fn no_bytes_whatever_make_it_panic() {
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..20_000 {
        let mut bytes = [request(10, b"SCRAM-SHA-256\0\0"), error("28P01", "x"), welcome()].concat();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(..bytes.len());
            bytes[at] = rng.u8(..);
        }
        let mut login = begun(&Case::default());
        for part in bytes.chunks(rng.usize(1..40)) {
            if !matches!(login.receive(part), Ok(LoginStep::Read | LoginStep::Send(_))) {
                break;
            }
        }
    }
}
