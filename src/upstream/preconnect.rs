//! Upstream connections kept ready: dialled ahead of their clients, upgrade and handshake done.
//!
//! They hold leases like any other connection: picked by the balancing policy, counted in the limits, released when
//! dropped. One task per cluster, not on a worker, keeps their number; a session takes the oldest and moves it to its
//! own worker. Only for protocols whose servers wait for the client, and kept for less time than the server waits.

mod spares;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use crate::alarm;
use crate::caller::Caller;
use crate::clock;
use crate::drain::DrainWatch;
use crate::policy::backoff;
use crate::tls;

use super::Cluster;
use super::dial::{DialRecord, DialRequest, Dialled, Purpose, Ready, dial_anew};
use super::lease::Lease;
use super::probe::{VERDICT, shut_down_within};
pub(super) use spares::Spares;
use spares::{PORTION, Spare};

/// How many connections are kept ready, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The number of connections kept ready; at least 1.
    pub count: usize,
    /// None is kept for longer: servers close connections that are idle for some time.
    pub max_age: Duration,
}

/// Dials ahead in flight at once, per cluster.
const REFILLS_MAX: usize = 2;
/// The pause after a dial that failed, or a connection that the server ended early; it doubles, with jitter.
const SETBACK: Duration = Duration::from_millis(100);
const SETBACK_MAX: Duration = Duration::from_secs(5);
/// A connection that ends within this counts as rejected: a server may reject our certificate after the handshake.
const EARLY: Duration = Duration::from_secs(1);

/// Keeps a cluster's connections ready until the cluster is removed or replaced (`watch`), or the daemon drains
/// (`draining`). Returns at once without `preconnect`. `replaced` changes when a credential was replaced.
pub(crate) async fn run(
    cluster: Arc<Cluster>,
    rng: Rng,
    watch: DrainWatch,
    draining: DrainWatch,
    mut replaced: watch::Receiver<()>,
) {
    let Some(settings) = cluster.settings().dial.preconnect else { return };
    let mut keeper = Keeper::new(&cluster, settings, rng);
    let mut changes = cluster.changes();
    let mut stop = pin!(async {
        tokio::select! {
            () = watch.begun() => {}
            () = draining.begun() => {}
        }
    });
    loop {
        keeper.retire();
        let next = keeper.refill();
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(dialled) = keeper.dialling.next() => keeper.dialled(dialled),
            lost = cluster.spares().lost(&mut keeper.portion) => keeper.lost(&lost),
            Some(()) = keeper.closing.next() => {}
            () = cluster.spares().taken() => keeper.setbacks = 0,
            // Never an error: we hold the cluster.
            _ = changes.changed() => keeper.not_before = clock::now(),
            // Spares with the old credential are retired and replaced at once. The sender outlives this task.
            _ = replaced.changed() => {}
            () = alarm::sleep(next.saturating_duration_since(clock::now())) => {}
        }
    }
    keeper.end().await;
}

type Refill = Result<(Ready, Lease, DialRecord), ()>;

struct Keeper<'a> {
    cluster: &'a Arc<Cluster>,
    settings: Settings,
    rng: Rng,
    dialling: FuturesUnordered<BoxFuture<'static, Refill>>,
    /// Connections that are being closed in order.
    closing: FuturesUnordered<BoxFuture<'static, ()>>,
    /// Consecutive failures.
    setbacks: u32,
    not_before: Instant,
    /// The buffer for reads that detect the end of a spare.
    portion: Box<[u8; PORTION]>,
}

impl<'a> Keeper<'a> {
    fn new(cluster: &'a Arc<Cluster>, settings: Settings, rng: Rng) -> Self {
        let (dialling, closing) = (FuturesUnordered::new(), FuturesUnordered::new());
        let portion = Box::new([0; PORTION]);
        Self { cluster, settings, rng, dialling, closing, setbacks: 0, not_before: clock::now(), portion }
    }

    /// Begins the dials that are missing. Returns when to call it again at the latest.
    fn refill(&mut self) -> Instant {
        let now = clock::now();
        let spares = self.cluster.spares();
        while self.not_before <= now
            && self.dialling.len() < REFILLS_MAX
            && spares.len() + self.dialling.len() < self.settings.count
            && self.cluster.may_refill()
        {
            let cluster = Arc::clone(self.cluster);
            self.dialling.push(Box::pin(async move {
                let mut record = DialRecord::default();
                match dial_anew(&cluster, DialRequest::default(), Purpose::Spare, &mut record).await {
                    Ok(Dialled::Ready(ready, lease)) => Ok((ready, lease, record)),
                    // Preconnect is only for protocols whose servers do not speak first.
                    Ok(Dialled::ServerFirst(_)) | Err(_) => Err(()),
                }
            }));
        }
        let pause = if self.not_before > now { self.not_before } else { now + self.settings.max_age };
        spares.next_end().map_or(pause, |end| end.min(pause))
    }

    fn dialled(&mut self, dialled: Refill) {
        let Ok((ready, lease, record)) = dialled else { return self.set_back() };
        let now = clock::now();
        if self.cluster.waiting() > 0 {
            // Sessions in the queue go first: they need the place that the spare would take.
            return self.part(Spare { ready, lease, record, since: now, until: now });
        }
        // Jitter: spares dialled together do not all expire together.
        let age = self.settings.max_age.mul_f64(1.0 - 0.2 * self.rng.f64());
        self.cluster.spares().keep(Spare { ready, lease, record, since: now, until: now + age });
        self.show();
    }

    /// The server ended the connection, or sent bytes unasked.
    fn lost(&mut self, lost: &Spare) {
        self.cluster.metrics().preconnects_died.increment(1);
        let (cluster, endpoint) = (&self.cluster.settings().name, &lost.lease.endpoint().settings().name);
        let age = clock::now().saturating_duration_since(lost.since);
        tracing::debug!(%cluster, %endpoint, ?age, "the server ended a connection that was kept ready");
        if age < EARLY {
            self.set_back();
        }
        self.show();
    }

    /// Closes spares that are too old, and those whose endpoint or credential may not be used any more.
    fn retire(&mut self) {
        for spare in self.cluster.retire_spares(clock::now()) {
            self.cluster.metrics().preconnects_retired.increment(1);
            self.part(spare);
        }
        self.show();
    }

    fn part(&mut self, spare: Spare) {
        let Spare { ready: Ready { stream: mut end, .. }, lease, .. } = spare;
        // Bounded by the number of spares.
        self.closing.push(Box::pin(async move {
            shut_down_within(VERDICT, &mut end).await;
            drop((end, lease));
        }));
    }

    fn set_back(&mut self) {
        let pause = backoff::doubled(SETBACK, self.setbacks, SETBACK_MAX);
        self.not_before = clock::now() + backoff::jittered(pause, 0.5, &mut self.rng);
        self.setbacks = self.setbacks.saturating_add(1);
    }

    fn show(&self) {
        #[expect(clippy::cast_precision_loss, reason = "there are few")]
        self.cluster.metrics().preconnected.set(self.cluster.spares().len() as f64);
    }

    async fn end(mut self) {
        drop(std::mem::take(&mut self.dialling));
        for spare in self.cluster.spares().close() {
            self.part(spare);
        }
        self.show();
        self.closing.count().await;
    }
}

impl Cluster {
    /// Takes a connection that was kept ready, if there is one that is alive and that this caller may use now. Never
    /// one that the server has ended: whether the socket is readable is checked last.
    pub(super) fn take_ready(
        &self,
        caller: Option<&Caller>,
        record: &mut DialRecord,
    ) -> Option<(Ready, Lease)> {
        self.settings().dial.preconnect?;
        // Spares have the identity for connections without a caller; callers that get another identity cannot use them.
        let tls = self.settings().tls.as_ref().map(tls::Originator::identities);
        let is_theirs = tls.is_none_or(|tls| tls.choose(caller) == Ok(tls.for_nobody()));
        while let Some(spare) = is_theirs.then(|| self.spares().take()).flatten() {
            let endpoint = spare.lease.endpoint();
            // Also by the rules of the endpoint that it was dialled to.
            let is_theirs = endpoint.identity_for(caller) == Ok(endpoint.identity_for_nobody());
            if clock::now() >= spare.until || !is_theirs || !self.may_use(&spare) {
                self.spares().give_up(spare);
                continue;
            }
            if spare.ready.stream.is_readable() {
                continue;
            }
            let Spare { ready, mut lease, record: dialled, .. } = spare;
            let Ok(ready) = ready.register_here() else { continue };
            lease.record_taken();
            *record =
                DialRecord { endpoint: dialled.endpoint, agreed: dialled.agreed, ..DialRecord::default() };
            return Some((ready, lease));
        }
        self.metrics().preconnect_misses.increment(1);
        None
    }

    /// Whether its endpoint may be picked now, and the endpoint's credentials are still those of the spare's handshake.
    fn may_use(&self, spare: &Spare) -> bool {
        let endpoint = spare.lease.endpoint();
        let is_current = match (endpoint.originator(), &spare.record.agreed) {
            (Some(originator), Some(agreed)) => originator.is_current(originator.for_nobody(), agreed),
            (None, _) | (Some(_), None) => true,
        };
        is_current && self.state().cluster_state.may_pick(endpoint.id())
    }

    /// Closes the oldest spare at once, to free its place. Returns whether there was one.
    pub(super) fn close_oldest_spare(&self) -> bool {
        let evicted = self.spares().take();
        if evicted.is_some() {
            self.metrics().preconnects_retired.increment(1);
        }
        evicted.is_some()
    }

    /// Removes the spares that may not be used any more.
    fn retire_spares(&self, now: Instant) -> Vec<Spare> {
        self.spares().retire(|spare| now >= spare.until || !self.may_use(spare))
    }

    /// Whether there is a usable endpoint to dial ahead.
    fn may_refill(&self) -> bool {
        self.state().cluster_state.has_usable()
    }
}
