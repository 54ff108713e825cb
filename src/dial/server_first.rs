//! A server that has greeted and waits for the client: the part of an upgrade that no other endpoint can take over,
//! because the client gets this server's greeting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::cluster::{DialError, Lease, Ready};
use crate::credentials::{LoginCredential, LoginPermit};
use crate::protocol::{Greeting, UpgradeRequest};
use crate::sys::Socket;
use crate::tls::IdentityChoice;

use super::LOGIN_OK;
use super::attempt::Attempt;
use super::failure::DialFailure;
use super::login::{SignInAs, sign_in};
use super::probe::probe;
use super::record::DialRecord;

/// How long a client may take to reply to a server's greeting: less than the 10 s of MySQL's `connect_timeout`, so
/// that there is time to finish the dialogue without it.
pub(crate) const CLIENT_REPLY_TIMEOUT: Duration = Duration::from_secs(8);

/// End it by [`ServerFirstUpgrade::secure`] or [`ServerFirstUpgrade::finish_without_client`]: some servers block a host
/// whose connections end in between.
#[derive(Debug)]
pub(crate) struct ServerFirstUpgrade {
    lease: Lease,
    identity: IdentityChoice,
    socket: Socket,
    greeting: Greeting,
    greeted: Instant,
    /// The credential to sign in with, and the database, if we do that.
    login: Option<(Arc<LoginCredential>, Option<String>)>,
}

impl ServerFirstUpgrade {
    pub(super) fn new(lease: Lease, identity: IdentityChoice, socket: Socket, greeting: Greeting) -> Self {
        Self { lease, identity, socket, greeting, greeted: clock::now(), login: None }
    }

    /// Sign in with that credential once TLS is up.
    pub(super) fn sign_in_with(&mut self, credential: &Arc<LoginCredential>, database: Option<&str>) {
        self.login = Some((Arc::clone(credential), database.map(Into::into)));
    }

    /// The server's greeting, for the client to answer.
    pub(crate) fn greeting(&mut self) -> &mut Greeting {
        &mut self.greeting
    }

    /// Continues with the client's reply.
    ///
    /// # Errors
    /// [`DialFailure::NoLogin`], or that the only attempt failed.
    pub(crate) async fn secure(
        mut self,
        introduced: UpgradeRequest,
        record: &mut DialRecord,
    ) -> Result<(Ready, Lease), DialFailure> {
        let login = match self.login.take() {
            None => None,
            Some((credential, database)) => {
                // The server waits, and not for long.
                match credential.acquire(self.greeted + CLIENT_REPLY_TIMEOUT).await {
                    Ok(permit) => Some((permit, database)),
                    Err(none) => {
                        self.lease.cluster().metrics().record_login(none.label());
                        self.finish_without_client().await;
                        return Err(none.into());
                    }
                }
            }
        };
        let Self { mut lease, identity, socket, .. } = self;
        let UpgradeRequest { request, upgraded, .. } = introduced;
        let settings = lease.cluster().settings();
        let attempt = Attempt::resumed(settings, lease.endpoint(), identity);
        let mut secured = attempt.secure_after_reply(socket, &request, upgraded, record).await;
        if let (Ok(ready), Some((permit, database))) = (&mut secured, login)
            && let Err(error) = sign_in_once_read(ready, &lease, permit, database.as_deref(), record).await
        {
            secured = Err(error);
        }
        match secured {
            Ok(ready) => {
                lease.record_established(record.took());
                Ok((ready, lease))
            }
            Err(last) => {
                lease.record_failure(&last);
                Err(DialFailure::Failed { last, attempts: record.attempts, stopped: None })
            }
        }
    }

    /// Ends it without the client, as the server expects a conversation to end. The endpoint is not blamed for any
    /// result.
    pub(crate) async fn finish_without_client(self) {
        let Self { lease, identity, socket, mut greeting, .. } = self;
        let settings = lease.cluster().settings();
        let UpgradeRequest { request, upgraded, .. } = greeting.client_reply.conclude_without_client();
        let attempt = Attempt::resumed(settings, lease.endpoint(), identity);
        let mut unrecorded = DialRecord::default();
        let secured = attempt.secure_after_reply(socket, &request, upgraded, &mut unrecorded).await;
        if let Ok(ready) = secured {
            let _ = probe(settings, ready).await;
        }
    }
}

/// Signs in with the client's answer to the greeting, which the upgrade has kept, and tells the gate what came of it.
async fn sign_in_once_read(
    ready: &mut Ready,
    lease: &Lease,
    permit: LoginPermit,
    database: Option<&str>,
    record: &mut DialRecord,
) -> Result<(), DialError> {
    let settings = lease.cluster().settings();
    let who = SignInAs { permit: &permit, database };
    let opening = std::mem::take(&mut ready.first);
    // Boxed: most clusters do not need it, and it would enlarge every session.
    let signed_in = Box::pin(sign_in(ready, settings, lease.endpoint(), who, &opening, None, record)).await;
    let result = signed_in.as_ref().map_or_else(DialError::login_result, |()| LOGIN_OK);
    lease.cluster().metrics().record_login(result);
    match &signed_in {
        Ok(()) if ready.is_refused() => permit.give_back(),
        Ok(()) => permit.accept(),
        Err(error) => match error.login_rejection() {
            Some(words) => permit.reject(&words),
            // Not now: an answer, and none about the credential.
            None if error.is_refused() => permit.give_back(),
            None => {}
        },
    }
    signed_in
}
