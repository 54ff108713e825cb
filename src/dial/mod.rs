//! A dial: lease → connect → upgrade → handshake, in bounded attempts under one deadline. Beside it, what else dials:
//! [`trials`], and [`preconnect`] for connections kept ready.
//!
//! Every attempt may be followed by another: no byte of the client has been sent, or only bytes that the server
//! answered with a refusal. Progress is written to a [`DialRecord`] as it happens, so a cancelled dial is recorded too.

mod attempt;
mod attempt_deadline;
mod connect;
mod dialled;
mod failure;
mod first_words;
mod hedging;
mod login;
pub(crate) mod preconnect;
mod probe;
mod proxy_header;
mod record;
mod request;
mod server_first;
pub(crate) mod trials;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use crate::alarm;
use crate::clock;
use crate::cluster::{AttemptBound, AttemptStep, Cluster, DialError, DialTarget, NoLease, Purpose, Spare};
use crate::credentials::{LoginCredential, LoginSettings};
use crate::policy::cluster_state::Unavailable;
use crate::policy::eligibility::NoEndpoint;
use crate::policy::retry;
use crate::protocol::LoginError;

use attempt_deadline::AttemptDeadline;
use hedging::Hedging;
use login::{SignInAs, sign_in};

pub(crate) use attempt::{connect_endpoint, examine_endpoint, probe_endpoint};
pub(crate) use dialled::Dialled;
pub(crate) use failure::DialFailure;
use failure::NoMoreAttempts;
pub(crate) use login::sign_in_once;
pub(crate) use probe::{
    VERDICT, conversation, converse, finish_dialogue, late_rejection, probe, rejected_within,
    shut_down_within,
};
pub(crate) use proxy_header::ProxyInfo;
pub(crate) use record::DialRecord;
use record::StepTime;
pub(crate) use request::{DialOverrides, DialRequest};
pub(crate) use server_first::{CLIENT_REPLY_TIMEOUT, ServerFirstUpgrade};

/// Takes a spare, or dials until an upstream is ready or no attempt is left.
///
/// Dropping the future cancels the dial; no endpoint is blamed.
///
/// # Errors
/// See [`DialFailure`].
pub(crate) async fn dial(
    cluster: &Arc<Cluster>,
    request: DialRequest<'_>,
    record: &mut DialRecord,
) -> Result<Dialled, DialFailure> {
    // A caller without an identity is refused before it waits for anything.
    cluster.settings().identifies(request.caller)?;
    let Some(login) = cluster.settings().login.as_ref().filter(|_| wants_login(cluster, &request)) else {
        return dial_any(cluster, request, record).await;
    };
    Box::pin(sign_in_and_dial(cluster, login, request, record)).await
}

/// Whether the dial is for a session: a cancel has a target or, if its key is unknown, no first message that could be signed
/// in with.
fn wants_login(cluster: &Cluster, request: &DialRequest<'_>) -> bool {
    let has_what_it_needs = request.opening.is_some() || cluster.settings().protocol.opening().is_none();
    request.target == DialTarget::Any && has_what_it_needs
}

/// A dial that signs in, with the caller's credential. One that no server has accepted yet is tried by one session at a
/// time.
async fn sign_in_and_dial(
    cluster: &Arc<Cluster>,
    login: &LoginSettings,
    request: DialRequest<'_>,
    record: &mut DialRecord,
) -> Result<Dialled, DialFailure> {
    let count = |result| cluster.metrics().record_login(result);
    let until = clock::now() + within(cluster, &request);
    let credential = login.choose(request.caller).inspect_err(|none| count(none.label()))?;
    if cluster.settings().protocol.must_finish_upgrade() {
        credential.await_turn(until).await.inspect_err(|none| count(none.label()))?;
        return dial_before_login(cluster, login, credential, request, record).await;
    }
    let permit = credential.acquire(until).await.inspect_err(|none| count(none.label()))?;
    if cluster.settings().dial.preconnect.is_some()
        && login.for_everybody().is_some_and(|shared| permit.is_of(shared))
        && let Some(opening) = request.opening.filter(|opening| opening.len() <= OPENING_KEPT_MAX)
    {
        cluster.spares().note_opening(opening);
    }
    let who = SignInAs { permit: &permit, database: login.database() };
    let dialled = dial_any(cluster, DialRequest { sign_in_as: Some(who), ..request }, record).await;
    match dialled {
        // The permit is given back: the client has yet to speak.
        Ok(Dialled::ServerFirst(mut server_first)) => {
            server_first.sign_in_with(credential, login.database());
            Ok(Dialled::ServerFirst(server_first))
        }
        Ok(Dialled::Ready(ready, lease)) => {
            count(LOGIN_OK);
            // An error about the client's request says nothing of the credential, which was not rejected either.
            match ready.is_refused() {
                true => permit.give_back(),
                false => permit.accept(),
            }
            Ok(Dialled::Ready(ready, lease))
        }
        Err(failure) => {
            if let DialFailure::Failed { last: error @ DialError::Login { .. }, .. } = &failure {
                count(error.login_result());
                if let Some(words) = error.login_rejection() {
                    permit.reject(&words);
                }
            } else if let DialFailure::Failed { last: DialError::Refused { .. }, .. } = &failure {
                // Not now: an answer, and none about the credential.
                permit.give_back();
            }
            Err(failure)
        }
    }
}

/// A dial whose server waits for the client's answer to its greeting. The credential is asked for when that has come: a client
/// that is silent must not keep it from others.
async fn dial_before_login(
    cluster: &Arc<Cluster>,
    login: &LoginSettings,
    credential: &Arc<LoginCredential>,
    request: DialRequest<'_>,
    record: &mut DialRecord,
) -> Result<Dialled, DialFailure> {
    match dial_any(cluster, request, record).await? {
        Dialled::ServerFirst(mut server_first) => {
            server_first.sign_in_with(credential, login.database());
            Ok(Dialled::ServerFirst(server_first))
        }
        // The configuration refuses clusters that lead here.
        Dialled::Ready(_, lease) => {
            let error = Box::new(LoginError::Client("its login was not read before TLS"));
            let last = DialError::Login { endpoint: lease.endpoint().settings().name.clone(), error };
            Err(DialFailure::Failed { last, attempts: record.attempts, stopped: None })
        }
    }
}

/// Longer first messages of clients are not remembered for spares.
const OPENING_KEPT_MAX: usize = 16 * 1024;

/// The label of a login that went well.
pub(super) const LOGIN_OK: &str = "ok";

async fn dial_any(
    cluster: &Arc<Cluster>,
    request: DialRequest<'_>,
    record: &mut DialRecord,
) -> Result<Dialled, DialFailure> {
    // A session bound to an endpoint, or with affinity, takes no spare: it may lead to another endpoint.
    if request.target == DialTarget::Any
        && request.affinity.is_none()
        && let Some(Spare { mut ready, lease, agreed, login, .. }) = cluster.take_spare(
            request.caller,
            request.sign_in_as.map(|who| (who.permit.issued(), request.opening.unwrap_or_default())),
        )
    {
        let endpoint = Some(lease.endpoint().settings().name.clone());
        *record = DialRecord { endpoint, agreed, ..DialRecord::default() };
        let until = clock::now() + within(cluster, &request);
        let settings = cluster.settings();
        let firm = request.overrides.deadline.map(|_| until);
        let begun = match request.sign_in_as {
            // Boxed: most clusters do not need it, and it would enlarge every dial.
            // Taken only by a session that wants that login.
            Some(who) if login.is_some() => {
                let user = who.permit.issued().credentials.user.as_str();
                record.login = Some(Box::new((user.into(), Duration::ZERO)));
                Ok(())
            }
            Some(who) => {
                let (endpoint, opening) = (lease.endpoint(), request.opening.unwrap_or_default());
                Box::pin(sign_in(&mut ready, settings, endpoint, who, opening, firm, record)).await
            }
            None => first_words::check(&mut ready, settings, lease.endpoint(), request.opening, until).await,
        };
        match begun {
            Ok(()) => {
                cluster.metrics().preconnect_hits.increment(1);
                return Ok(Dialled::Ready(ready, lease));
            }
            Err(error) if error.is_the_same_everywhere() => {
                return Err(DialFailure::Failed { last: error, attempts: 1, stopped: None });
            }
            // No second spare is tried: it may be of the same server.
            Err(error) => {
                cluster.metrics().preconnect_misses.increment(1);
                lease.record_turned_away(error.to_string());
                *record = DialRecord::default();
            }
        }
    }
    dial_anew(cluster, request, Purpose::Session, record).await
}

/// [`dial`] without spares.
pub(super) async fn dial_anew(
    cluster: &Arc<Cluster>,
    request: DialRequest<'_>,
    purpose: Purpose,
    record: &mut DialRecord,
) -> Result<Dialled, DialFailure> {
    let settings = cluster.settings();
    let (wanted, overrides) = (request.lease_request(purpose), request.overrides);
    let within = within(cluster, &request);
    let mut deadline = AttemptDeadline::after(clock::now(), AttemptBound::Deadline, within)
        .firm(overrides.deadline.is_some());
    // Waits for greetings extend the deadline by at most this much in all.
    let mut greetings = settings.dial.greeting_timeout;
    let attempts = [overrides.attempts, settings.dial.retry.attempts].into_iter().flatten().min();
    let mut plan = retry::Plan::new(retry::Settings { attempts, ..settings.dial.retry });
    let (mut last, mut has_waited) = (None, false);
    record.resolve = cluster.wait_found(deadline.at).await.map(StepTime::from).unwrap_or_default();
    loop {
        let mut is_unpaid = false;
        let is_over = match cluster.lease_in_turn(&wanted, &mut plan, deadline.at).await {
            Ok(lease) => {
                let hedging = Hedging { cluster, request, purpose, deadline, plan: &mut plan };
                match hedging.attempt(lease, record).await? {
                    Ok(dialled) => return Ok(dialled),
                    Err(error) => {
                        plan.record_failure(error.is_free());
                        let greeting = record.greeting.get().unwrap_or_default().min(greetings);
                        greetings -= greeting;
                        deadline = deadline.without(greeting);
                        if error.step() == AttemptStep::Connect {
                            cluster.discovery_cell().request_refresh();
                        }
                        if error.is_deadline() {
                            let attempts = plan.attempts();
                            if let Some(last) = last.take_if(|_| error.is_cut_short()) {
                                let stopped = Some(NoMoreAttempts::Deadline(within));
                                return Err(DialFailure::Failed { last, attempts, stopped });
                            }
                            // Silence of the server explains more than an earlier error.
                            let last =
                                if matches!(error, DialError::Silent { .. }) { Some(error) } else { last };
                            return Err(DialFailure::Deadline { deadline: within, attempts, last });
                        }
                        // A server that refused is not tried twice: with no untried endpoint left, the dial fails at
                        // once.
                        let is_shown = error.is_refused() && !cluster.has_untried(request.target, &plan)
                            || error.is_the_same_everywhere();
                        last = Some(error);
                        is_shown || !plan.has_attempt_left()
                    }
                }
            }
            // The budget refills over time.
            Err(NoLease::Unavailable(Unavailable::Budget)) if purpose == Purpose::Session => {
                cluster
                    .metrics()
                    .retry_budget_exhausted
                    .increment(u64::from(!std::mem::replace(&mut has_waited, true)));
                is_unpaid = true;
                false
            }
            Err(none) => return Err(nothing_left(cluster, none, last, plan.attempts())),
        };
        let wait = cluster.retry_delay(request.target, &mut plan, is_unpaid);
        let is_late = || async { alarm::timeout_at(deadline.at, alarm::sleep(wait)).await.is_err() };
        let stopped = if is_over { None } else { Some(NoMoreAttempts::Deadline(within)) };
        if is_over || is_late().await {
            let attempts = plan.attempts();
            return Err(match last {
                Some(last) => DialFailure::Failed { last, attempts, stopped },
                None => DialFailure::Deadline { deadline: within, attempts, last },
            });
        }
    }
}

/// How long a dial may take over all its attempts.
fn within(cluster: &Cluster, request: &DialRequest<'_>) -> Duration {
    let deadline = cluster.settings().dial.deadline;
    request.overrides.deadline.map_or(deadline, |own| own.min(deadline))
}

/// The failure when no lease is left. An earlier attempt's error explains more than the missing lease, so it comes
/// first.
fn nothing_left(cluster: &Cluster, none: NoLease, last: Option<DialError>, attempts: u32) -> DialFailure {
    let (unavailable, no_more, refusal) = match none {
        NoLease::Unavailable(why) => (why, NoMoreAttempts::Unavailable(why), DialFailure::Unavailable(why)),
        NoLease::Waited(why, no_room) => {
            (why, NoMoreAttempts::Waited(why, no_room), DialFailure::Waited(why, no_room))
        }
    };
    if let Some(last) = last {
        return DialFailure::Failed { last, attempts, stopped: Some(no_more) };
    }
    if unavailable == Unavailable::NoEndpoint(NoEndpoint::Empty) {
        cluster.discovery_cell().request_refresh();
        if let Some(reason) = cluster.discovery().why_empty() {
            return DialFailure::Unknown { reason };
        }
    }
    refusal
}
