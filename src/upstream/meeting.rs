//! A server that has greeted and waits for the client: the part of an upgrade that no other endpoint can take over,
//! because the client hears of this one.

use crate::protocol::{Greeting, Introduced};
use crate::sys::Socket;
use crate::tls::Choice;

use super::attempt::Attempt;
use super::dial::{DialRecord, Ready};
use super::failure::DialError;
use super::lease::Lease;
use super::probe::probe;

/// It has to end by [`Meeting::secure`] or [`Meeting::part`]: some servers block a host whose connections end in between.
#[derive(Debug)]
pub struct Meeting {
    lease: Lease,
    identity: Choice,
    socket: Socket,
    greeting: Greeting,
}

impl Meeting {
    pub(super) const fn new(lease: Lease, identity: Choice, socket: Socket, greeting: Greeting) -> Self {
        Self { lease, identity, socket, greeting }
    }

    /// The server's words, for the client to answer.
    pub fn greeting(&mut self) -> &mut Greeting {
        &mut self.greeting
    }

    /// Goes on with what the client said.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn secure(
        self,
        introduced: Introduced,
        record: &mut DialRecord,
    ) -> Result<(Ready, Lease), DialError> {
        let Self { mut lease, identity, socket, .. } = self;
        let Introduced { request, upgraded, .. } = introduced;
        let attempt = Attempt::resumed(lease.cluster().settings(), lease.endpoint(), identity);
        match attempt.secure_introduced(socket, &request, upgraded, record).await {
            Ok(ready) => {
                lease.established(record.took());
                Ok((ready, lease))
            }
            Err(error) => {
                lease.failed(&error);
                Err(error)
            }
        }
    }

    /// Ends it without a client, as the server expects a conversation to end. Nobody is blamed, whatever comes of it.
    pub async fn part(self) {
        let Self { lease, identity, socket, mut greeting } = self;
        let settings = lease.cluster().settings();
        let Introduced { request, upgraded, .. } = greeting.introduction.alone();
        let attempt = Attempt::resumed(settings, lease.endpoint(), identity);
        let mut unrecorded = DialRecord::default();
        let secured = attempt.secure_introduced(socket, &request, upgraded, &mut unrecorded).await;
        if let Ok(ready) = secured {
            let _ = probe(settings, ready).await;
        }
    }
}
