//! Sessions that wait for a credential, share it, and find it rejected.

use zeroize::Zeroizing;

use super::*;
use crate::policy::admission::Rule;
use crate::protocol::Secret;

#[derive(Debug)]
struct Nothing;

impl LoginSource for Nothing {
    fn label(&self) -> &'static str {
        "password"
    }

    fn secret_kind(&self) -> SecretKind {
        SecretKind::Password
    }

    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn fetch(&self) -> Result<FetchedLogin, FetchError> {
        Err("nothing".to_owned().into())
    }
}

fn credential() -> Arc<LoginCredential> {
    LoginCredential::new("orders".into(), Box::new(Nothing), AllowedMechanisms::default())
}

fn fetched(password: &str, expires: Option<SystemTime>) -> FetchedLogin {
    let secret = Secret::new(SecretKind::Password, Zeroizing::new(password.into()));
    FetchedLogin { credentials: LoginCredentials { user: "app".into(), secret }, expires }
}

async fn at_once(credential: &Arc<LoginCredential>) -> Result<LoginPermit, NoLogin> {
    credential.acquire(clock::now()).await
}

#[tokio::test]
async fn a_session_waits_for_what_the_source_has_not_given_yet() {
    alarm::drive(async {
        let credential = credential();
        let error = at_once(&credential).await.unwrap_err().to_string();
        assert_eq!(error, "there is no credential to sign in with: password has not given one yet");
        let waiting = credential.acquire(clock::now() + Duration::from_secs(20));
        let giving = async {
            credential.install(fetched("a", None));
        };
        let (permit, ()) = tokio::join!(waiting, giving);
        assert_eq!(permit.unwrap().issued().credentials.secret.expose(), "a");
        credential.fail("it is down".into());
        assert!(at_once(&credential).await.is_ok(), "what it gave lives on");
        assert_eq!(credential.view().error.as_deref(), Some("it is down"));
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_expired_one_is_not_used() {
    alarm::drive(async {
        let credential = credential();
        credential.install(fetched("a", Some(clock::wall() - Duration::from_secs(1))));
        assert!(matches!(at_once(&credential).await, Err(NoLogin::Missing(_))));
        credential.install(fetched("b", Some(clock::wall() + Duration::from_secs(60))));
        assert!(at_once(&credential).await.is_ok());
    })
    .await
    .unwrap();
}

/// A hundred sessions at once with a wrong password are one rejected login at the server.
#[tokio::test]
async fn a_wrong_password_is_tried_once_by_any_number_of_sessions() {
    alarm::drive(async {
        let credential = credential();
        credential.install(fetched("wrong", None));
        let until = clock::now() + Duration::from_secs(20);
        let mut tried = 0;
        let first = credential.acquire(until).await.unwrap();
        let others = async {
            let mut paused = 0;
            for _ in 0..100 {
                match credential.acquire(until).await {
                    Ok(_) => tried += 1,
                    Err(NoLogin::Paused { words, .. }) => paused += usize::from(words == "no"),
                    Err(error) => panic!("{error}"),
                }
            }
            paused
        };
        let rejecting = async { first.reject("no") };
        let (paused, ()) = tokio::join!(others, rejecting);
        assert_eq!((paused, tried), (100, 0));
        assert!(credential.view().error.is_some());
        // The same content read again is no other credential.
        credential.install(fetched("wrong", None));
        assert!(matches!(at_once(&credential).await, Err(NoLogin::Paused { .. })));
        assert!(credential.install(fetched("right", None)));
        at_once(&credential).await.unwrap().accept();
        let both = (at_once(&credential).await, at_once(&credential).await);
        assert!(both.0.is_ok() && both.1.is_ok());
        assert_eq!((credential.view().error, credential.view().replaced), (None, 1));
    })
    .await
    .unwrap();
}

#[test]
fn each_caller_has_its_own_and_whoever_no_rule_is_for_is_denied() {
    let [reports, rest] = [credential(), credential()];
    let by_unit = |unit: &str| Rule { unit: Some(unit.into()), ..Rule::default() };
    let settings = LoginSettings::new(vec![(by_unit("report.service"), Arc::clone(&reports))], None);
    assert!(settings.needs().is_some_and(|needs| needs.unit));
    assert_eq!(settings.choose(None).unwrap_err(), NoLogin::Denied("a stranger".into()));
    let open = LoginSettings::new(
        vec![(by_unit("report.service"), Arc::clone(&reports)), (Rule::default(), Arc::clone(&rest))],
        None,
    );
    assert!(Arc::ptr_eq(open.choose(None).unwrap(), &rest));
    let everybody = LoginSettings::new(vec![(Rule::default(), rest)], None);
    assert!(everybody.needs().is_none() && everybody.choose(None).is_ok());
}

/// Scenario: the server delays its answer to a wrong password, and the application gives up after a second, in a loop: each
/// try was a rejected login at the server, and no pause ever began.
#[tokio::test]
async fn a_client_that_does_not_wait_for_the_answer_has_the_credential_paused() {
    alarm::drive(async {
        let credential = credential();
        credential.install(fetched("wrong", None));
        drop(at_once(&credential).await.unwrap());
        assert!(at_once(&credential).await.is_ok(), "nothing was shown");
        let shown = at_once(&credential).await.unwrap();
        assert!(shown.is_trial());
        shown.note_shown();
        drop(shown);
        assert!(matches!(at_once(&credential).await, Err(NoLogin::Paused { .. })));
        credential.end_pause();
        at_once(&credential).await.unwrap().accept();
        // One that a server has accepted is not doubted for a client that leaves.
        let permit = at_once(&credential).await.unwrap();
        assert!(!permit.is_trial());
        permit.note_shown();
        drop(permit);
        assert!(at_once(&credential).await.is_ok());
    })
    .await
    .unwrap();
}

/// Scenario: a reload while the first login was under way copied a gate that waited for it, and nobody ended that wait.
#[tokio::test]
async fn a_login_under_way_at_a_reload_keeps_nobody_waiting_after_it() {
    alarm::drive(async {
        let (before, after) = (credential(), credential());
        before.install(fetched("a", None));
        let _under_way = at_once(&before).await.unwrap();
        after.install(fetched("a", None));
        after.adopt(&before);
        assert!(at_once(&after).await.is_ok());
    })
    .await
    .unwrap();
}

/// Scenario: a metadata service gives the rejected token again, with what is left of its life, and it was tried at once.
#[tokio::test]
async fn a_token_that_is_given_again_with_another_end_is_the_same() {
    alarm::drive(async {
        let credential = credential();
        let end = |seconds| Some(clock::wall() + Duration::from_secs(seconds));
        credential.install(fetched("token", end(600)));
        at_once(&credential).await.unwrap().reject("no");
        credential.install(fetched("token", end(900)));
        assert!(matches!(at_once(&credential).await, Err(NoLogin::Paused { .. })));
        credential.install(fetched("another", end(900)));
        assert!(at_once(&credential).await.is_ok());
    })
    .await
    .unwrap();
}
