//! One attempt of a dial, and its hedges: attempts begun beside it when it does not answer. The first one ready wins.
//!
//! A hanging endpoint delays a session only until its own history counts it as slow; then the next endpoint is tried
//! beside it, and so on, as long as a usable endpoint is left and the retry budget allows it. If a hedge wins, the
//! endpoint of the first attempt is charged with a failure, unless its TLS was done. Servers of some protocols count
//! aborted logins against us: there an attempt is only given up when its endpoint is found down, or when its server
//! has not even greeted.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use crate::alarm::{self, Elapsed};
use crate::clock;
use crate::cluster::{AttemptStep, Cluster, DialError, DialTarget, Lease, Purpose};
use crate::policy::retry;
use crate::tls::IdentityChoice;

use super::attempt::{Attempt, AttemptResult};
use super::attempt_deadline::AttemptDeadline;
use super::dialled::Dialled;
use super::failure::DialFailure;
use super::record::DialRecord;
use super::request::DialRequest;
use super::server_first::ServerFirstUpgrade;

/// Maximum number of hedges at the same time.
const HEDGES_MAX: usize = 2;
/// The shortest wait before the next try for a hedge when no endpoint was available.
const AGAIN: Duration = Duration::from_millis(20);
/// The values of the label `result` of `hedged_dials_total`.
pub(super) const WON: &str = "won";
pub(super) const LOST: &str = "lost";
pub(super) const FAILED: &str = "failed";

/// What the first attempt and its hedges need.
pub(super) struct Hedging<'a, 'p> {
    pub(super) cluster: &'a Arc<Cluster>,
    pub(super) request: DialRequest<'a>,
    pub(super) purpose: Purpose,
    pub(super) deadline: AttemptDeadline,
    pub(super) plan: &'p mut retry::Plan,
}

/// A finished hedge, with all that belongs to it.
struct Hedge {
    lease: Lease,
    identity: IdentityChoice,
    record: DialRecord,
    result: Result<AttemptResult, DialError>,
}

/// How the attempts ended.
enum HedgeEvent {
    /// The first attempt ended, with success or failure.
    First(Result<AttemptResult, DialError>),
    /// A hedge succeeded; with the error of the first attempt if it had failed, and whether that lacked only its
    /// server's first words.
    Other(Box<(Hedge, Option<DialError>, bool)>),
    /// The first attempt was given up: its endpoint was found down or disabled.
    GaveUp,
}

impl<'a> Hedging<'a, '_> {
    /// Tries the lease's endpoint. The outer error ends the dial, the inner one this attempt.
    pub(super) async fn attempt(
        mut self,
        lease: Lease,
        record: &mut DialRecord,
    ) -> Result<Result<Dialled, DialError>, DialFailure> {
        let identity = self.identity(&lease)?;
        record.begin(&lease, self.plan.attempts());
        let begun = clock::now();
        let led = {
            let attempt = Attempt::on(self.cluster.settings(), lease.endpoint(), identity, self.deadline);
            let attempt = attempt.serving(&self.request);
            let mut first = pin!(attempt.establish(record));
            match self.patience(&lease) {
                None => HedgeEvent::First(first.await),
                Some(patience) => match alarm::timeout_at(begun + patience, first.as_mut()).await {
                    Ok(result) => HedgeEvent::First(result),
                    Err(Elapsed) if attempt.is_secured() => HedgeEvent::First(first.await),
                    // Boxed: rarely needed, and it would enlarge every dial.
                    Err(Elapsed) => {
                        Box::pin(self.attempt_with_hedges(&attempt, first, &lease, begun, patience)).await
                    }
                },
            }
        };
        let endpoint = lease.endpoint().settings().name.clone();
        let step = if record.connect.get().is_some() { AttemptStep::Handshake } else { AttemptStep::Connect };
        Ok(match led {
            HedgeEvent::First(Ok(established)) => Ok(self.conclude(established, lease, identity, record)),
            HedgeEvent::First(Err(error)) => {
                lease.record_failure(&error);
                Err(error)
            }
            HedgeEvent::GaveUp => {
                // The wait for a greeting does not count against the deadline.
                if let (Some(connect), None) = (record.connect.get(), record.greeting.get())
                    && self.cluster.settings().awaits_greetings()
                {
                    record.greeting = (clock::now() - begun).saturating_sub(connect).into();
                }
                let error = DialError::GivenUp { endpoint, step };
                lease.record_failure(&error);
                Err(error)
            }
            HedgeEvent::Other(other) => {
                let (hedge, failed, is_secured) = *other;
                let after = clock::now() - begun;
                match failed {
                    Some(error) => lease.record_failure(&error),
                    // TLS was done: the delay is the server's own work, which is no fault. The dial counts as
                    // cancelled.
                    None if is_secured => drop(lease),
                    None => lease.record_failure(&DialError::Outpaced { endpoint, step, after }),
                }
                let resolve = record.resolve;
                *record = DialRecord { attempts: self.plan.attempts(), resolve, ..hedge.record };
                let established =
                    hedge.result.unwrap_or_else(|_| unreachable!("it is the one that went well"));
                Ok(self.conclude(established, hedge.lease, hedge.identity, record))
            }
        })
    }

    /// How long to wait before the first hedge; `None`: no hedge. Without an endpoint for a hedge now, one may still
    /// come back during a long wait for a greeting.
    fn patience(&self, lease: &Lease) -> Option<Duration> {
        // A secret that no server has accepted is shown to one.
        if self.request.sign_in_as.is_some_and(|who| who.permit.is_trial()) {
            return None;
        }
        let settings = self.cluster.settings();
        let may_return =
            self.request.target == DialTarget::Any && settings.hedge.is_some() && settings.awaits_greetings();
        let late = may_return.then_some(settings.dial.handshake_timeout);
        lease.hedge_delay().or(late).filter(|_| self.purpose == Purpose::Session)
    }

    fn identity(&self, lease: &Lease) -> Result<IdentityChoice, DialFailure> {
        match self.purpose {
            Purpose::Session => Ok(lease.endpoint().identity_for(self.request.caller)?),
            Purpose::Spare => Ok(lease.endpoint().identity_for_nobody()),
        }
    }

    fn conclude(
        &self,
        established: AttemptResult,
        mut lease: Lease,
        identity: IdentityChoice,
        record: &DialRecord,
    ) -> Dialled {
        match established {
            AttemptResult::Ready(ready) => {
                match self.purpose {
                    Purpose::Session => lease.record_established(record.took()),
                    Purpose::Spare => lease.record_kept(record.took()),
                }
                Dialled::Ready(ready, lease)
            }
            AttemptResult::AwaitsClientReply(socket, greeting) => {
                lease.record_greeting();
                Dialled::ServerFirst(Box::new(ServerFirstUpgrade::new(lease, identity, socket, greeting)))
            }
        }
    }

    /// Begins hedges, one after the other, while the first attempt does not answer.
    async fn attempt_with_hedges(
        &mut self,
        attempt: &Attempt<'_>,
        mut first: Pin<&mut impl Future<Output = Result<AttemptResult, DialError>>>,
        lease: &Lease,
        begun: Instant,
        patience: Duration,
    ) -> HedgeEvent {
        let mut changes = self.cluster.changes();
        let mut others = OtherAttempts::new(self.cluster, begun, patience);
        let mut failed = None;
        loop {
            // Only the server's first words are missing: no reason for a hedge.
            let is_secured = failed.is_none() && attempt.is_secured();
            if failed.is_none()
                && !is_secured
                && others.flight.is_empty()
                && self.cluster.is_given_up(lease.endpoint().id(), self.plan)
            {
                return HedgeEvent::GaveUp;
            }
            while !is_secured && others.may_begin(failed.is_some()) && self.begin(&mut others) {}
            if failed.is_some() && others.flight.is_empty() {
                break;
            }
            let due = others.due();
            tokio::select! {
                biased;
                result = first.as_mut(), if failed.is_none() => match result {
                    Ok(established) => return HedgeEvent::First(Ok(established)),
                    Err(error) if others.flight.is_empty() || error.is_the_same_everywhere() => {
                        return HedgeEvent::First(Err(error));
                    }
                    Err(error) => failed = Some(error),
                },
                Some(hedge) = others.flight.next() => match hedge.result {
                    Ok(_) => {
                        others.record_win();
                        return HedgeEvent::Other(Box::new((hedge, failed, attempt.is_secured())));
                    }
                    Err(error) => {
                        others.record_failure();
                        hedge.lease.record_failure(&error);
                        if error.is_the_same_everywhere() {
                            return HedgeEvent::First(Err(error));
                        }
                    }
                },
                () = due, if !is_secured => {}
                // `changed` cannot fail: we hold the cluster, which owns the sender.
                _ = changes.changed() => {}
            }
        }
        HedgeEvent::First(Err(failed.expect("it has failed, and nobody else is on the way")))
    }

    /// Begins one more hedge. Returns whether there was an endpoint for it.
    fn begin(&mut self, others: &mut OtherAttempts<'a>) -> bool {
        let leased = self.cluster.lease_hedge(self.request.affinity, self.plan);
        let Some((lease, identity)) = leased.and_then(|lease| {
            let identity = self.identity(&lease).ok()?;
            Some((lease, identity))
        }) else {
            others.postpone();
            return false;
        };
        let (cluster, request, deadline, attempts) =
            (self.cluster, self.request, self.deadline.for_another(), self.plan.attempts());
        others.begin(async move {
            let mut record = DialRecord::default();
            record.begin(&lease, attempts);
            let result = {
                let attempt = Attempt::on(cluster.settings(), lease.endpoint(), identity, deadline);
                attempt.serving(&request).establish(&mut record).await
            };
            Hedge { lease, identity, record, result }
        });
        true
    }
}

/// The hedges of one attempt.
struct OtherAttempts<'a> {
    cluster: &'a Cluster,
    patience: Duration,
    flight: FuturesUnordered<BoxFuture<'a, Hedge>>,
    /// When the next hedge may begin; `None`: never.
    next: Option<Instant>,
}

impl<'a> OtherAttempts<'a> {
    /// Where servers count aborted logins, hedges begin only when a server has not greeted within the handshake
    /// timeout: a longer wait would be abandoned in the end anyway.
    fn new(cluster: &'a Cluster, begun: Instant, patience: Duration) -> Self {
        let settings = cluster.settings();
        let late = patience.max(settings.dial.handshake_timeout);
        let (patience, next) = match settings.hedges {
            true => (patience, Some(clock::now())),
            false => (late, settings.awaits_greetings().then_some(begun + late)),
        };
        Self { cluster, patience, flight: FuturesUnordered::new(), next }
    }

    /// `at_once`: the first attempt has failed.
    fn may_begin(&self, at_once: bool) -> bool {
        self.flight.len() < HEDGES_MAX
            && self.next.is_some_and(|next| next <= clock::now() || (at_once && self.flight.is_empty()))
    }

    fn begin(&mut self, attempt: impl Future<Output = Hedge> + Send + 'a) {
        self.flight.push(Box::pin(attempt));
        self.next = Some(clock::now() + self.patience);
    }

    /// No endpoint is available now; one may come back, and the retry budget refills.
    fn postpone(&mut self) {
        self.next = Some(clock::now() + self.patience.max(AGAIN));
    }

    fn record_win(&self) {
        self.cluster.metrics().record_hedge(WON);
    }

    /// The next hedge may begin at once.
    fn record_failure(&mut self) {
        self.cluster.metrics().record_hedge(FAILED);
        self.next = self.next.map(|_| clock::now());
    }

    /// Waits until the next hedge may begin.
    fn due(&self) -> impl Future<Output = ()> + use<> {
        alarm::sleep_until(self.next.filter(|_| self.flight.len() < HEDGES_MAX))
    }
}

impl Drop for OtherAttempts<'_> {
    fn drop(&mut self) {
        (0..self.flight.len()).for_each(|_| self.cluster.metrics().record_hedge(LOST));
    }
}
