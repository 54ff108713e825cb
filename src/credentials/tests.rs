//! What a rotation does to logins.

use zeroize::Zeroizing;

use super::*;
use crate::policy::admission::Rule;
use crate::protocol::{AllowedMechanisms, LoginCredentials, Secret};

/// Scenario: certificates of SPIFFE live for an hour, and each rotation had every rejected password tried again, as a reload that
/// somebody orders has.
#[tokio::test]
async fn a_rotation_ends_no_pause_of_a_rejected_login() {
    alarm::drive(async {
        let source = PasswordFile::new("/nowhere".into(), Some("app".into()));
        let login = LoginCredential::new("orders".into(), Box::new(source), AllowedMechanisms::default());
        let secret = Secret::new(SecretKind::Password, Zeroizing::new("wrong".into()));
        let credentials = LoginCredentials { user: "app".into(), secret };
        login.install(FetchedLogin { credentials, expires: None });
        login.acquire(clock::now()).await.unwrap().reject("no");
        let all = Credentials::default();
        all.follow_logins(&LoginSettings::new(vec![(Rule::default(), Arc::clone(&login))], None));
        let agent = IdentitySource::Spiffe("/nowhere.sock".into());
        let identity = Arc::new(Identity::load("app".into(), agent, &CredentialFiles::default()).unwrap());
        all.record_agent_result(&identity, Ok(true));
        assert!(matches!(login.acquire(clock::now()).await, Err(NoLogin::Paused { .. })));
        all.refresh();
        assert!(login.acquire(clock::now()).await.is_ok(), "a reload was ordered");
    })
    .await
    .unwrap();
}
