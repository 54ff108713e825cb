//! Upstream connections kept ready: dialled ahead of their clients, upgrade and handshake done.
//!
//! They are leases like any other: picked by the balance, counted in the limits, given back when dropped. One task per
//! cluster keeps their number, beside the workers; a session takes the oldest and moves it to its own worker. Only for
//! protocols whose servers wait for the client, and for less than the time that they wait.

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

/// How many, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// As many are kept ready; at least 1.
    pub count: usize,
    /// None is kept for longer: a server that has heard nothing for some time closes.
    pub max_age: Duration,
}

/// Dials at once that nobody waits for.
const REFILLS_MAX: usize = 2;
/// After a dial that failed, or a connection that the server ended at once; it doubles, with jitter.
const SETBACK: Duration = Duration::from_millis(100);
const SETBACK_MAX: Duration = Duration::from_secs(5);
/// A connection that ends within this was not wanted: what the server thinks of our certificate comes after the handshake.
const EARLY: Duration = Duration::from_secs(1);

/// Keeps a cluster's connections ready until it has had its day, or the daemon drains. Without `preconnect` there is nothing
/// to do. `replaced` changes when a credential was.
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
            // The cluster goes only when we do.
            _ = changes.changed() => keeper.not_before = clock::now(),
            // Those that it made useless make room for others at once. Who would tell goes only when we do.
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
    /// Those that end as servers like it.
    closing: FutureSet<'static, ()>,
    /// In a row.
    setbacks: u32,
    not_before: Instant,
    /// What is read into where nothing should come.
    portion: Box<[u8; PORTION]>,
}

impl<'a> Keeper<'a> {
    fn new(cluster: &'a Arc<Cluster>, settings: Settings, rng: Rng) -> Self {
        let (dialling, closing) = (FutureSet::default(), FutureSet::default());
        let portion = Box::new([0; PORTION]);
        Self { cluster, settings, rng, dialling, closing, setbacks: 0, not_before: clock::now(), portion }
    }

    /// Begins the dials that are missing. The moment to look again at the latest is the answer.
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
                    // The protocols that we are for have no meetings.
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
            // They came first, and want its room.
            return self.part(Spare { ready, lease, record, since: now, until: now });
        }
        // Not all at once, though they were dialled at once.
        let age = self.settings.max_age.mul_f64(1.0 - 0.2 * self.rng.f64());
        self.cluster.spares().keep(Spare { ready, lease, record, since: now, until: now + age });
        self.show();
    }

    /// The server ended it, or spoke out of turn.
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

    /// Parts from those that are too old, and from those whose endpoint or credential has had its day.
    fn retire(&mut self) {
        for spare in self.cluster.retire_spares(clock::now()) {
            self.cluster.metrics().preconnects_retired.increment(1);
            self.part(spare);
        }
        self.show();
    }

    fn part(&mut self, spare: Spare) {
        let Spare { ready: Ready { stream: mut end, .. }, lease, .. } = spare;
        // There is no more to it than there were spares.
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
    /// An upstream that was kept ready and that this caller may have, if there is one that lives and may be used now. Never
    /// one that the server has ended: the kernel is asked last of all.
    pub(super) fn take_ready(
        &self,
        caller: Option<&Caller>,
        record: &mut DialRecord,
    ) -> Option<(Ready, Lease)> {
        self.settings().dial.preconnect?;
        // They are all of one identity; who gets another one is not served by them.
        let tls = self.settings().tls.as_ref().map(tls::Originator::identities);
        let is_theirs = tls.is_none_or(|tls| tls.choose(caller) == Ok(tls.for_nobody()));
        while let Some(spare) = is_theirs.then(|| self.spares().take()).flatten() {
            let endpoint = spare.lease.endpoint();
            // By the rules that it was made under, too.
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

    /// Whether the balance may pick its endpoint now, and the endpoint's credentials are those that it was made with.
    fn may_use(&self, spare: &Spare) -> bool {
        let endpoint = spare.lease.endpoint();
        let is_current = match (endpoint.originator(), &spare.record.agreed) {
            (Some(originator), Some(agreed)) => originator.is_current(originator.for_nobody(), agreed),
            (None, _) | (Some(_), None) => true,
        };
        is_current && self.state().cluster_state.may_pick(endpoint.id())
    }

    /// Gives up the oldest at once, for its room. Whether there was one.
    pub(super) fn close_oldest_spare(&self) -> bool {
        let evicted = self.spares().take();
        if evicted.is_some() {
            self.metrics().preconnects_retired.increment(1);
        }
        evicted.is_some()
    }

    /// Takes out those that are not to be used any more.
    fn retire_spares(&self, now: Instant) -> Vec<Spare> {
        self.spares().retire(|spare| now >= spare.until || !self.may_use(spare))
    }

    /// Whether a dial ahead has somewhere to go where a session would be well off.
    fn may_refill(&self) -> bool {
        self.state().cluster_state.has_usable()
    }
}
