//! Upstream connections kept ready: dialled ahead of their clients, upgrade and handshake done.
//!
//! Spares are leases like any other: picked by the balance, counted in the limits, given back on drop. One task per
//! cluster keeps their number, beside the workers; a session takes the oldest and moves it to its own worker. Only for
//! protocols whose servers wait for the client, and for less time than they wait.

mod spares;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::sync::watch;

use crate::alarm;
use crate::caller::Caller;
use crate::clock;
use crate::drain::DrainWatch;
use crate::policy::backoff;
use crate::tls;

use super::Cluster;
use super::dial::{DialRecord, DialRequest, Dialled, Purpose, Ready, dial_anew};
use super::future_set::FutureSet;
use super::lease::Lease;
use super::probe::{VERDICT, shut_down_within};
pub(super) use spares::Spares;
use spares::{PORTION, Spare};

/// How many spares to keep, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The number of spares; at least 1.
    pub count: usize,
    /// The maximum age of a spare: servers close connections that stay silent.
    pub max_age: Duration,
}

/// Maximum number of dials for spares at the same time.
const REFILLS_MAX: usize = 2;
/// The pause after a failed dial, or a spare that the server closed early; it doubles, with jitter.
const SETBACK: Duration = Duration::from_millis(100);
const SETBACK_MAX: Duration = Duration::from_secs(5);
/// A spare closed within this was rejected: the server's verdict on our certificate comes after the handshake.
const EARLY: Duration = Duration::from_secs(1);

/// Keeps a cluster's spares until `watch` ends it, or the daemon drains (`draining`). Returns at once without
/// `preconnect`. `replaced` changes when a credential was replaced.
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
            dialled = keeper.dialling.next() => keeper.dialled(dialled),
            lost = cluster.spares().lost(&mut keeper.portion) => keeper.lost(&lost),
            () = keeper.closing.next() => {}
            () = cluster.spares().taken() => keeper.setbacks = 0,
            // `changed` cannot fail: we hold the cluster, which owns the sender.
            _ = changes.changed() => keeper.not_before = clock::now(),
            // Spares with the replaced credential are retired at once. The sender lives as long as we do.
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
    dialling: FutureSet<'static, Refill>,
    /// Spares that are closed in order.
    closing: FutureSet<'static, ()>,
    /// Consecutive setbacks.
    setbacks: u32,
    not_before: Instant,
    /// The buffer for unexpected bytes of servers.
    portion: Box<[u8; PORTION]>,
}

impl<'a> Keeper<'a> {
    fn new(cluster: &'a Arc<Cluster>, settings: Settings, rng: Rng) -> Self {
        let (dialling, closing) = (FutureSet::default(), FutureSet::default());
        let portion = Box::new([0; PORTION]);
        Self { cluster, settings, rng, dialling, closing, setbacks: 0, not_before: clock::now(), portion }
    }

    /// Begins the missing dials. Returns when to look again at the latest.
    fn refill(&mut self) -> Instant {
        let now = clock::now();
        let spares = self.cluster.spares();
        while self.not_before <= now
            && self.dialling.len() < REFILLS_MAX
            && spares.len() + self.dialling.len() < self.settings.count
            && self.cluster.may_refill()
        {
            let cluster = Arc::clone(self.cluster);
            self.dialling.push(async move {
                let mut record = DialRecord::default();
                match dial_anew(&cluster, DialRequest::default(), Purpose::Spare, &mut record).await {
                    Ok(Dialled::Ready(ready, lease)) => Ok((ready, lease, record)),
                    // `ServerFirst` cannot occur: spares are only for protocols without it.
                    Ok(Dialled::ServerFirst(_)) | Err(_) => Err(()),
                }
            });
        }
        let pause = if self.not_before > now { self.not_before } else { now + self.settings.max_age };
        spares.next_end().map_or(pause, |end| end.min(pause))
    }

    fn dialled(&mut self, dialled: Refill) {
        let Ok((ready, lease, record)) = dialled else { return self.set_back() };
        let now = clock::now();
        if self.cluster.waiting() > 0 {
            // Waiting sessions came first, and need its room.
            return self.part(Spare { ready, lease, record, since: now, until: now });
        }
        // Spread the ages, so that spares dialled together do not expire together.
        let age = self.settings.max_age.mul_f64(1.0 - 0.2 * self.rng.f64());
        self.cluster.spares().keep(Spare { ready, lease, record, since: now, until: now + age });
        self.show();
    }

    /// The server closed the spare, or sent bytes out of turn.
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

    /// Closes spares that are too old, or whose endpoint or credential is no longer usable.
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
        self.closing.push(async move {
            shut_down_within(VERDICT, &mut end).await;
            drop((end, lease));
        });
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
        self.closing.all().await;
    }
}

impl Cluster {
    /// A live spare that this caller may use, if there is one. Never one that the server has closed: the socket is
    /// checked last of all.
    pub(super) fn take_ready(
        &self,
        caller: Option<&Caller>,
        record: &mut DialRecord,
    ) -> Option<(Ready, Lease)> {
        self.settings().dial.preconnect?;
        // All spares have one identity; callers with another one cannot use them.
        let tls = self.settings().tls.as_ref().map(tls::Originator::identities);
        let is_theirs = tls.is_none_or(|tls| tls.choose(caller) == Ok(tls.for_nobody()));
        while let Some(spare) = is_theirs.then(|| self.spares().take()).flatten() {
            let endpoint = spare.lease.endpoint();
            // The rules that the spare was made under must agree, too.
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

    /// Whether the balance may pick its endpoint now, and the endpoint's credentials are still those it was made with.
    fn may_use(&self, spare: &Spare) -> bool {
        let endpoint = spare.lease.endpoint();
        let is_current = match (endpoint.originator(), &spare.record.agreed) {
            (Some(originator), Some(agreed)) => originator.is_current(originator.for_nobody(), agreed),
            (None, _) | (Some(_), None) => true,
        };
        is_current && self.state().cluster_state.may_pick(endpoint.id())
    }

    /// Closes the oldest spare at once, for its room. Returns whether there was one.
    pub(super) fn close_oldest_spare(&self) -> bool {
        let evicted = self.spares().take();
        if evicted.is_some() {
            self.metrics().preconnects_retired.increment(1);
        }
        evicted.is_some()
    }

    /// Removes the spares that must not be used any more.
    fn retire_spares(&self, now: Instant) -> Vec<Spare> {
        self.spares().retire(|spare| now >= spare.until || !self.may_use(spare))
    }

    /// Whether a usable endpoint is there to preconnect to.
    fn may_refill(&self) -> bool {
        self.state().cluster_state.has_usable()
    }
}
