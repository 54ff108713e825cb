//! A server that has greeted and waits for the client: the part of an upgrade that no other endpoint can take over,
//! because the client gets this server's greeting.

use crate::cluster::{DialError, Lease, Ready};
use crate::protocol::{Greeting, UpgradeRequest};
use crate::sys::Socket;
use crate::tls::IdentityChoice;

use super::attempt::Attempt;
use super::probe::probe;
use super::record::DialRecord;

/// End it by [`ServerFirstUpgrade::secure`] or [`ServerFirstUpgrade::finish_without_client`]: some servers block a host
/// whose connections end in between.
#[derive(Debug)]
pub(crate) struct ServerFirstUpgrade {
    lease: Lease,
    identity: IdentityChoice,
    socket: Socket,
    greeting: Greeting,
}

impl ServerFirstUpgrade {
    pub(super) const fn new(
        lease: Lease,
        identity: IdentityChoice,
        socket: Socket,
        greeting: Greeting,
    ) -> Self {
        Self { lease, identity, socket, greeting }
    }

    /// The server's greeting, for the client to answer.
    pub(crate) fn greeting(&mut self) -> &mut Greeting {
        &mut self.greeting
    }

    /// Continues with the client's reply.
    ///
    /// # Errors
    /// See [`DialError`].
    pub(crate) async fn secure(
        self,
        introduced: UpgradeRequest,
        record: &mut DialRecord,
    ) -> Result<(Ready, Lease), DialError> {
        let Self { mut lease, identity, socket, .. } = self;
        let UpgradeRequest { request, upgraded, .. } = introduced;
        let attempt = Attempt::resumed(lease.cluster().settings(), lease.endpoint(), identity);
        match attempt.secure_after_reply(socket, &request, upgraded, record).await {
            Ok(ready) => {
                lease.record_established(record.took());
                Ok((ready, lease))
            }
            Err(error) => {
                lease.record_failure(&error);
                Err(error)
            }
        }
    }

    /// Ends it without the client, as the server expects a conversation to end. The endpoint is not blamed for any
    /// result.
    pub(crate) async fn finish_without_client(self) {
        let Self { lease, identity, socket, mut greeting } = self;
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
