//! Drives a protocol's login over a connection that TLS has secured.

use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::record::DialRecord;
use crate::alarm::{self, Elapsed};
use crate::clock;
use crate::cluster::{AttemptBound, AttemptStep, DialError, Endpoint, Ready, Settings as ClusterSettings};
use crate::credentials::{LoginCredential, LoginPermit, LoginSettings};
use crate::nonce;
use crate::protocol::{LOGIN_MAX, Login, LoginContext, LoginError, LoginStep, SignedIn};
use crate::relay::UpstreamStream;
use crate::tls;

/// Who a session is signed in as.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SignInAs<'a> {
    pub(crate) permit: &'a LoginPermit,
    pub(crate) database: Option<&'a str>,
}

/// How long a login may take at least, however short the handshake timeout is: servers delay the answer to a wrong password
/// (Dovecot up to 17 s, after others of the same host), and a login that is given up tells nothing.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Signs in, within [`LOGIN_TIMEOUT`] or the handshake timeout, if that is longer. `opening`: the client's first message, if it
/// speaks first; `firm`: the client's own deadline.
///
/// # Errors
/// [`DialError::Login`], [`DialError::Refused`] for a server that takes no session now, or a timeout.
pub(super) async fn sign_in(
    ready: &mut Ready,
    settings: &ClusterSettings,
    endpoint: &Endpoint,
    who: SignInAs<'_>,
    opening: &[u8],
    firm: Option<Instant>,
    record: &mut DialRecord,
) -> Result<(), DialError> {
    let begun = clock::now();
    let context = LoginContext {
        credentials: who.permit.issued().credentials.clone(),
        mechanisms: who.permit.mechanisms().clone(),
        database: who.database,
        client: who.permit.client(),
        opening,
        is_greeted: ready.is_upgraded,
        channel_binding: match &ready.stream {
            UpstreamStream::Tls(stream) => stream.channel_binding(),
            UpstreamStream::Socket(_) => None,
        },
        nonce: nonce::fresh(),
    };
    let mut login = settings.protocol.login(context).expect("the configuration has refused other protocols");
    if let Some(local) = ready.stream.local() {
        login.comes_from(local.ip());
    }
    login.greeted(&ready.welcome);
    let length = settings.dial.handshake_timeout.max(LOGIN_TIMEOUT);
    let limit = begun + length;
    let first = std::mem::take(&mut ready.first);
    let talked = alarm::timeout_at(
        firm.map_or(limit, |firm| firm.min(limit)),
        converse(&mut ready.stream, login, &first, who.permit),
    )
    .await;
    let name = || endpoint.settings().name.clone();
    let signed_in = match talked {
        Err(Elapsed) if firm.is_some_and(|firm| firm < limit) => {
            let (step, bound) = (AttemptStep::Login, AttemptBound::Deadline);
            let timeout = clock::now() - begun;
            return Err(DialError::Timeout { endpoint: name(), step, bound, timeout, is_fair: false });
        }
        Err(Elapsed) => {
            return Err(DialError::Login { endpoint: name(), error: Box::new(LoginError::Late(length)) });
        }
        Ok(Err(LoginError::TurnedAway(by))) => {
            return Err(DialError::Refused { endpoint: name(), by: Box::new(by.through_tls()) });
        }
        // What a server means by an end is not known; another endpoint would be shown the same secret.
        Ok(Err(error)) if error.is_of_endpoint() && who.permit.is_trial() && who.permit.is_shown() => {
            let error = LoginError::Unclear(error.to_string());
            return Err(DialError::Login { endpoint: name(), error: Box::new(error) });
        }
        Ok(Err(error)) => return Err(DialError::Login { endpoint: name(), error: Box::new(error) }),
        Ok(Ok(signed_in)) => signed_in,
    };
    ready.stream.note_accepted();
    let user = who.permit.issued().credentials.shown();
    record.login = Some(Box::new((user.into(), clock::now() - begun)));
    ready.signed_in = Some(Box::new(signed_in));
    Ok(())
}

/// Signs in once, without a client, for `check --connect`.
///
/// # Errors
/// In words: there is no credential, or the login failed.
pub(crate) async fn sign_in_once(
    ready: &mut Ready,
    settings: &ClusterSettings,
    endpoint: &Endpoint,
    login: &LoginSettings,
    credential: &Arc<LoginCredential>,
    record: &mut DialRecord,
) -> Result<(), String> {
    let until = clock::now() + LOGIN_TIMEOUT;
    let permit = credential.acquire(until).await.map_err(|none| none.to_string())?;
    let who = SignInAs { permit: &permit, database: login.database() };
    let opening = std::mem::take(&mut ready.first);
    match sign_in(ready, settings, endpoint, who, &opening, None, record).await {
        Ok(()) => {
            permit.accept();
            // Whether it arrives changes nothing.
            let goodbye = ready.stream.send_all(settings.protocol.goodbye());
            let _ = alarm::timeout_at(until, goodbye).await;
        }
        Err(error) => {
            if let Some(words) = error.login_rejection() {
                permit.reject(&words);
            }
            return Err(error.to_string());
        }
    }
    Ok(())
}

/// The conversation, without a deadline. `first` goes ahead of it.
async fn converse(
    end: &mut UpstreamStream,
    mut login: Box<dyn Login>,
    first: &[u8],
    permit: &LoginPermit,
) -> Result<SignedIn, LoginError> {
    let lost = |error: std::io::Error| match tls::late_rejection(&error) {
        Some(words) => LoginError::Lost(words),
        None => LoginError::Lost(error.to_string()),
    };
    let mut step = login.begin()?;
    if !first.is_empty() {
        end.send_all(first).await.map_err(lost)?;
    }
    let mut heard = 0;
    loop {
        match step {
            LoginStep::SignedIn(signed_in) => return Ok(signed_in),
            LoginStep::Send(bytes) => {
                let bytes: Zeroizing<Vec<u8>> = bytes;
                if login.has_proved() {
                    permit.note_shown();
                }
                end.send_all(&bytes).await.map_err(lost)?;
            }
            LoginStep::Read => {}
        }
        let (read, next) =
            end.read_scratch(|portion| (portion.len(), login.receive(portion))).await.map_err(lost)?;
        heard += read;
        if heard > LOGIN_MAX {
            return Err(LoginError::Endless(LOGIN_MAX));
        }
        step = next?;
    }
}
