//! Signs in to an LDAP server for the client, ahead of its first message: by a simple bind, or by SASL EXTERNAL with the TLS
//! client certificate. Whatever binds the client sends after that is the matter of [`OwnBinds`].
//!
//! Sources: RFC 4511 §4.2 (bind), §4.4.1 (notice of disconnection); RFC 4513 §5.1.2 (a bind without a password is anonymous,
//! so none is sent). Deliberately absent: other SASL mechanisms.

use super::bind::{BindResult, IN_PROGRESS, bind_message};
use super::own_binds::OwnBinds;
use super::{BIND_RESPONSE, Ber, EXTENDED_RESPONSE, INTEGER, SEQUENCE, element, number};
use crate::protocol::login::{
    AllowedMechanisms, Login, LoginContext, LoginCredentials, LoginError, LoginStep, SecretKind, SignedIn,
};
use crate::protocol::{Dialogue, Outbox};

/// The message id of our bind. StartTLS had 1; the client may reuse both, since both operations have ended by then.
const OWN_ID: u32 = 2;

/// One login.
#[derive(Debug)]
pub(super) struct BindLogin {
    credentials: LoginCredentials,
    opening: Vec<u8>,
    held: Vec<u8>,
}

const MALFORMED: LoginError = LoginError::Malformed { protocol: "LDAP", reason: "it is no answer to a bind" };

impl BindLogin {
    pub(super) fn new(context: LoginContext<'_>) -> Self {
        let LoginContext { credentials, opening, .. } = context;
        Self { credentials, opening: opening.to_vec(), held: Vec::new() }
    }

    fn signed_in(&mut self, behind: &[u8]) -> Result<LoginStep, LoginError> {
        let mut binds = OwnBinds::new(self.credentials.clone());
        let mut out = Outbox::default();
        binds
            .on_downstream(&std::mem::take(&mut self.opening), &mut out)
            .and_then(|()| binds.on_upstream(behind, &mut out))
            .map_err(|error| LoginError::Client(error.reason))?;
        let is_over = binds.is_finished();
        Ok(LoginStep::SignedIn(SignedIn {
            to_client: out.to_downstream,
            to_server: out.to_upstream,
            dialogue: (!is_over).then(|| Box::new(binds) as Box<dyn Dialogue>),
            ..SignedIn::default()
        }))
    }

    /// The result of the bind, or of the connection where the id is 0.
    fn result(&mut self, id: u32, result: &[u8], behind: &[u8]) -> Result<LoginStep, LoginError> {
        let result = BindResult::parse(result).ok_or(MALFORMED)?;
        let kind = if id == 0 { "LDAP notice of disconnection" } else { "LDAP result" };
        match result.code {
            0 if id == OWN_ID => self.signed_in(behind),
            0 | IN_PROGRESS => Err(MALFORMED),
            _ => {
                let by = result.verdict(kind, &self.credentials);
                match result.judges_secret() {
                    Some(is_of_secret) if id != 0 => {
                        let user = self.credentials.user.clone();
                        Err(LoginError::Rejected { user, by, is_of_secret })
                    }
                    _ => Err(LoginError::TurnedAway(by)),
                }
            }
        }
    }
}

impl Login for BindLogin {
    fn begin(&mut self) -> Result<LoginStep, LoginError> {
        let LoginCredentials { user, secret } = &self.credentials;
        let is_password = secret.kind() != SecretKind::Certificate;
        if is_password && (user.is_empty() || secret.expose().is_empty()) {
            let offered = "binds with a name and a password; others are anonymous";
            return Err(self.credentials.no_mechanism(&AllowedMechanisms::default(), &[offered]));
        }
        Ok(LoginStep::Send(bind_message(OWN_ID, &self.credentials)))
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<LoginStep, LoginError> {
        if bytes.is_empty() {
            return Err(LoginError::Closed);
        }
        self.held.extend_from_slice(bytes);
        if self.held[0] != SEQUENCE {
            return Err(MALFORMED);
        }
        let held = std::mem::take(&mut self.held);
        let message = match element(&held) {
            Err(Ber::Incomplete) => {
                self.held = held;
                return Ok(LoginStep::Read);
            }
            message => message.map_err(|_| MALFORMED)?,
        };
        let id = element(message.content).map_err(|_| MALFORMED)?;
        let response = element(id.rest).map_err(|_| MALFORMED)?;
        match (id.tag, number(id.content), response.tag) {
            (INTEGER, Some(OWN_ID), BIND_RESPONSE) => self.result(OWN_ID, response.content, message.rest),
            (INTEGER, Some(0), EXTENDED_RESPONSE) => self.result(0, response.content, b""),
            _ => Err(MALFORMED),
        }
    }
}

#[cfg(test)]
mod tests;
