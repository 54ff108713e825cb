//! A server that should greet and sends nothing: when that is reported, and for `check --connect`, what the server
//! speaks instead, asked over connections of their own. Sessions and probes only wait: a question in place of a
//! client's first words could make a server that greets late refuse this host.

use std::pin::pin;
use std::time::Duration;

use super::{Attempt, DialError, DialRecord, NothingBuffered, Upgraded, Upgrading, Way};
use crate::alarm::{self, Elapsed};
use crate::clock;
use crate::dial::attempt_deadline::AttemptDeadline;
use crate::dial::upgrade::UpgradeFailure;
use crate::protocol::{ASK_SILENT, recognize_answer};
use crate::sys::Socket;
use crate::tls::HandshakeError;

/// The silence after which it is reported, at the latest: longer than servers take that do not delay their greeting on
/// purpose (postscreen does, for 6 s, as a rule after a first line).
pub(super) const SILENCE: Duration = Duration::from_secs(3);
/// How long to wait for an answer to each question.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The result of waiting for a greeting.
type GreetingResult = Result<Result<(), UpgradeFailure>, Elapsed>;

impl Attempt<'_> {
    /// Waits on, and asks meanwhile what the server speaks instead; `tell` gets the report.
    ///
    /// # Errors
    /// The server answered as servers of another protocol do.
    pub(super) async fn examine_silence(
        &self,
        upgrading: &mut Upgrading<'_>,
        socket: &Socket,
        limit: AttemptDeadline,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<GreetingResult, DialError> {
        let protocol = self.settings.protocol.label();
        let waits = limit.length;
        tell(&format!(
            "the server waits for its client, it seems: nothing came within {SILENCE:?}, but servers of {protocol} speak \
             first. Is it of another protocol, or does it speak TLS with the first byte (tls.start: direct)? Waiting up to \
             {waits:?}"
        ));
        let mut greeting = pin!(alarm::timeout_at(limit.at, upgrading.wait_greeting(socket)));
        let seen = tokio::select! {
            biased;
            heard = &mut greeting => return Ok(heard),
            seen = self.recognize_silent() => seen,
        };
        let Some(seen) = seen else { return Ok(greeting.await) };
        Err(DialError::Upgrade {
            endpoint: self.endpoint.settings().name.clone(),
            reason: format!("the server does not greet as servers of {protocol} do; {seen}"),
            is_an_end: false,
        })
    }

    async fn recognize_silent(&self) -> Option<&'static str> {
        let until = clock::now() + ANSWER_MAX;
        if let Ok(Some(seen)) = alarm::timeout_at(until, self.answer_to_ssl_request()).await {
            return Some(seen);
        }
        let until = clock::now() + ANSWER_MAX;
        let is_tls = alarm::timeout_at(until, self.answers_in_tls()).await.unwrap_or(false);
        is_tls.then_some("it speaks TLS with the first byte (write tls.start: direct)")
    }

    async fn answer_to_ssl_request(&self) -> Option<&'static str> {
        let socket = self.connect(&mut DialRecord::default()).await.ok()?;
        socket.send_all(ASK_SILENT).await.ok()?;
        let mut answer = [0; 32];
        let read = socket.recv(&mut answer).await.ok()?;
        recognize_answer(&answer[..read], self.settings.protocol.label())
    }

    /// Whether a handshake succeeds, or fails for a reason that the server gave in TLS.
    async fn answers_in_tls(&self) -> bool {
        let Some(originator) = self.endpoint.originator() else { return false };
        let Ok(socket) = self.connect(&mut DialRecord::default()).await else { return false };
        let hello = Upgraded::new(NothingBuffered::tls_from_first_byte());
        match self.shake_hands(originator, Way::Direct, socket, hello, false).await {
            Ok(_) => true,
            Err(DialError::Tls { error, .. }) => matches!(
                error,
                HandshakeError::Tls(_) | HandshakeError::Certificate(_) | HandshakeError::Uncertified
            ),
            Err(_) => false,
        }
    }
}
