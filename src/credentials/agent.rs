//! A client of the SPIFFE Workload API: requests an identity's certificate and installs what the agent streams, as long
//! as the identity is in use.
//!
//! The agent decides when to rotate; no expiry is computed here. An agent that is absent, rejects us or ends the stream
//! is asked again, with exponential back-off.

use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::sync::Weak;
use std::time::Duration;

use futures_util::Stream;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use spiffe::{WorkloadApiClient, X509Context};
use zeroize::Zeroizing;

use super::Credentials;
use crate::alarm;
use crate::clock;
use crate::drain::DrainWatch;
use crate::tls::{Bundles, Identity, IdentitySource, Issued};

/// The deadline for the first response of an agent.
const ANSWER: Duration = Duration::from_secs(10);
/// The first pause between two attempts; it doubles up to the second.
const BACKOFF: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// How often to check, on a silent stream, whether the identity is still in use.
const LOOK: Duration = Duration::from_secs(60);

/// Runs until the identity is no longer in use, or the drain begins.
pub(super) async fn follow(credentials: Credentials, identity: Weak<Identity>, stop: DrainWatch) {
    let mut stop = pin!(stop.begun());
    let mut wait = BACKOFF;
    while let Some(agent) = identity.upgrade().and_then(|identity| agent_of(&identity)) {
        let listening = async {
            let ended = listen(&agent, ANSWER, |context| {
                wait = BACKOFF;
                match identity.upgrade() {
                    Some(identity) => {
                        credentials.record_agent_result(&identity, install(&identity, &context))
                    }
                    None => return false,
                }
                true
            });
            let reason = ended.await;
            if let (Some(reason), Some(identity)) = (reason, identity.upgrade()) {
                credentials.record_agent_result(&identity, Err(reason));
            }
        };
        tokio::select! {
            () = &mut stop => return,
            () = listening => {}
        }
        tokio::select! {
            () = &mut stop => return,
            () = alarm::sleep(wait) => wait = (wait * 2).min(BACKOFF_MAX),
        }
    }
}

/// Asks once, for commands without a daemon.
///
/// # Errors
/// Why there is no certificate, in words.
pub(crate) async fn fetch(identity: &Identity) -> Result<(), String> {
    let Some(agent) = agent_of(identity) else { return Ok(()) };
    let mut installed = Err(String::from("the agent has said nothing"));
    let ended = listen(&agent, ANSWER, |context| {
        installed = install(identity, &context).map(drop);
        false
    });
    match ended.await {
        Some(reason) => Err(reason),
        None => installed,
    }
}

fn agent_of(identity: &Identity) -> Option<std::path::PathBuf> {
    match identity.source() {
        IdentitySource::Spiffe(agent) => Some(agent.clone()),
        IdentitySource::Files { .. } => None,
    }
}

/// Passes what the agent sends to `take` until that returns `false` (`None`), or the stream ends (the reason).
async fn listen(agent: &Path, first: Duration, mut take: impl FnMut(X509Context) -> bool) -> Option<String> {
    let until = clock::now() + first;
    let late = || Some(format!("the agent did not answer within {first:?}"));
    let asking = async {
        let client = WorkloadApiClient::connect_to(format!("unix:{}", agent.display())).await?;
        client.stream_x509_contexts().await
    };
    let stream = match alarm::timeout_at(until, asking).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Some(describe(&error)),
        Err(_) => return late(),
    };
    let mut stream = pin!(stream);
    let mut is_first = true;
    loop {
        let deadline = if is_first { until } else { clock::now() + LOOK };
        match alarm::timeout_at(deadline, poll_fn(|cx| stream.as_mut().poll_next(cx))).await {
            Ok(Some(Ok(context))) => {
                is_first = false;
                if !take(context) {
                    return None;
                }
            }
            Ok(Some(Err(error))) => return Some(describe(&error)),
            Ok(None) => return Some("the agent ended the stream".into()),
            Err(_) if is_first => return late(),
            Err(_) => {}
        }
    }
}

/// The first SVID is the default one (SPIFFE Workload API §5.2.1).
fn install(identity: &Identity, context: &X509Context) -> Result<bool, String> {
    let svid = context.default_svid().ok_or("the agent has no X.509 certificate for us")?;
    let der = |certificates: &[spiffe::cert::Certificate]| {
        certificates.iter().map(|one| CertificateDer::from(one.as_bytes().to_vec())).collect::<Vec<_>>()
    };
    let bundles = context.bundle_set().iter();
    let bundles = bundles.map(|(domain, bundle)| (domain.as_str().to_owned(), der(bundle.authorities())));
    let issued = Issued {
        chain: der(svid.cert_chain()),
        key: Zeroizing::new(PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec()).into()),
        bundles: Bundles { own: svid.spiffe_id().trust_domain_name().to_owned(), all: bundles.collect() },
    };
    identity.install(issued).map_err(|error| error.to_string())
}

/// tonic's errors have the substance in their causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}
