//! Upstream connections kept ready: dialled ahead of their clients, upgrade and handshake done.
//!
//! They hold leases like any other connection: picked by the balancing policy, counted in the limits, released when
//! dropped. The cluster has them (`Spares`). One task per cluster, not on a worker, keeps their number; a session takes the oldest and moves it to its
//! own worker. Only for protocols whose servers wait for the client, and kept for less time than the server waits.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use crate::alarm;
use crate::clock;
use crate::cluster::{Cluster, Lease, PORTION, PreconnectSettings, Purpose, Ready, Spare, SpareLogin};
use crate::credentials::{LoginCredential, LoginSettings};
use crate::drain::DrainWatch;
use crate::policy::backoff;
use crate::tls::HandshakeInfo;

use super::dial_anew;
use super::dialled::Dialled;
use super::failure::DialFailure;
use super::login::SignInAs;
use super::probe::{VERDICT, shut_down_within};
use super::record::DialRecord;
use super::request::DialRequest;

/// Dials ahead in flight at once, per cluster.
const REFILLS_MAX: usize = 2;
/// The pause after a dial that failed, or a connection that the server ended early; it doubles, with jitter.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
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
    let login = cluster.settings().login.as_ref().and_then(LoginSettings::for_everybody);
    let mut logins = login.map(|credential| credential.changes());
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
            Some(dialled) = keeper.dialling.next() => keeper.store(dialled),
            lost = cluster.spares().lost(&mut keeper.portion) => keeper.record_loss(&lost),
            Some(()) = keeper.closing.next() => {}
            () = cluster.spares().taken() => keeper.failures = 0,
            // Never an error: we hold the cluster.
            _ = changes.changed() => keeper.not_before = clock::now(),
            // Spares with the old credential are retired and replaced at once. The sender outlives this task.
            _ = replaced.changed() => {}
            () = login_changed(&mut logins) => {}
            () = alarm::sleep(next.saturating_duration_since(clock::now())) => {}
        }
    }
    keeper.end().await;
}

type Refill = Result<DialledSpare, ()>;

/// A connection that is to be kept.
struct DialledSpare {
    ready: Ready,
    lease: Lease,
    agreed: Option<Box<HandshakeInfo>>,
    login: Option<SpareLogin>,
}

/// Dials one, and signs in on it as the last session did, where the cluster signs everybody in with one credential that a
/// server has accepted. Without that, it is kept as TLS leaves it.
async fn dial_spare(cluster: Arc<Cluster>) -> Refill {
    let login = cluster.settings().login.as_ref();
    let permit = login.and_then(LoginSettings::for_everybody).and_then(LoginCredential::acquire_accepted);
    let wanted = permit.zip(cluster.spares().opening());
    let request = match (&wanted, login) {
        (Some((permit, opening)), Some(login)) => DialRequest {
            sign_in_as: Some(SignInAs { permit, database: login.database() }),
            opening: Some(&**opening),
            ..DialRequest::default()
        },
        _ => DialRequest::default(),
    };
    let mut record = DialRecord::default();
    let dialled = dial_anew(&cluster, request, Purpose::Spare, &mut record).await;
    match dialled {
        // An error about what the client asked for: not to be kept.
        Ok(Dialled::Ready(ready, _)) if ready.is_refused() => Err(()),
        Ok(Dialled::Ready(ready, lease)) => {
            let login = wanted.map(|(permit, opening)| {
                let issued = Arc::clone(permit.issued());
                permit.accept();
                SpareLogin { issued, opening }
            });
            Ok(DialledSpare { ready, lease, agreed: record.agreed, login })
        }
        // Preconnect is only for protocols whose servers do not speak first.
        Ok(Dialled::ServerFirst(_)) => Err(()),
        Err(failure) => {
            if let (DialFailure::Failed { last, .. }, Some((permit, _))) = (&failure, wanted)
                && let Some(words) = last.login_rejection()
            {
                permit.reject(&words);
            }
            Err(())
        }
    }
}

/// Waits until the content of a login's credential has changed; for ever, where there is none.
async fn login_changed(changes: &mut Option<watch::Receiver<()>>) {
    match changes {
        // An error is the end of the credential, which the cluster holds.
        Some(changes) => drop(changes.changed().await),
        None => std::future::pending().await,
    }
}

struct Keeper<'a> {
    cluster: &'a Arc<Cluster>,
    settings: PreconnectSettings,
    rng: Rng,
    dialling: FuturesUnordered<BoxFuture<'static, Refill>>,
    /// Connections that are being closed in order.
    closing: FuturesUnordered<BoxFuture<'static, ()>>,
    /// Consecutive failures.
    failures: u32,
    not_before: Instant,
    /// The buffer for reads that detect the end of a spare.
    portion: Box<[u8; PORTION]>,
}

impl<'a> Keeper<'a> {
    fn new(cluster: &'a Arc<Cluster>, settings: PreconnectSettings, rng: Rng) -> Self {
        let (dialling, closing) = (FuturesUnordered::new(), FuturesUnordered::new());
        let portion = Box::new([0; PORTION]);
        Self { cluster, settings, rng, dialling, closing, failures: 0, not_before: clock::now(), portion }
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
            self.dialling.push(Box::pin(dial_spare(Arc::clone(self.cluster))));
        }
        let pause = if self.not_before > now { self.not_before } else { now + self.settings.max_age };
        spares.next_end().map_or(pause, |end| end.min(pause))
    }

    fn store(&mut self, dialled: Refill) {
        let Ok(DialledSpare { ready, lease, agreed, login }) = dialled else { return self.set_back() };
        let now = clock::now();
        if self.cluster.waiting() > 0 {
            // Sessions in the queue go first: they need the place that the spare would take.
            return self.part(Spare { ready, lease, agreed, since: now, until: now, login });
        }
        // Jitter: spares dialled together do not all expire together.
        let age = self.settings.max_age.mul_f64(1.0 - 0.2 * self.rng.f64());
        self.cluster.spares().keep(Spare { ready, lease, agreed, since: now, until: now + age, login });
        self.show();
    }

    /// The server ended the connection, or sent bytes unasked.
    fn record_loss(&mut self, lost: &Spare) {
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
        let pause = backoff::doubled(PAUSE_FIRST, self.failures, PAUSE_MAX);
        self.not_before = clock::now() + backoff::jittered(pause, 0.5, &mut self.rng);
        self.failures = self.failures.saturating_add(1);
    }

    fn show(&self) {
        self.cluster.metrics().preconnected.set(self.cluster.spares().len());
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
