//! The observed health of each endpoint, and which one is probed next. The health check task works by this table; other
//! parts of the cluster read it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::sync::Notify;

use super::EndpointId;
use super::endpoint::Endpoint;
use crate::alarm;
use crate::policy::health::{Health, HealthStatus, Settings};
use crate::sync::{Mutex, MutexGuard};

/// Probes begin together at multiples of this part of their interval, within these bounds, so that the thread wakes once
/// for all of a time, of every cluster: a wake-up costs more than a probe. It moves each by half of that at most, where
/// the jitter of an interval is a tenth.
const GRAIN: u32 = 20;
const GRAIN_MIN: Duration = Duration::from_millis(10);
const GRAIN_MAX: Duration = Duration::from_millis(50);

/// The health of a cluster's endpoints by their probes; empty without a health check.
#[derive(Debug, Default)]
pub(crate) struct ProbeTable {
    table: Mutex<Table>,
    hurried: Notify,
}

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<EndpointId, Entry>,
    /// The next probes, of all entries whose probe is not in flight.
    due: BTreeSet<(Instant, EndpointId)>,
    /// Their beginnings are multiples of this.
    grain: Duration,
}

#[derive(Debug)]
struct Entry {
    endpoint: Arc<Endpoint>,
    health: Health,
}

/// An endpoint's health, as published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObservedHealth {
    /// The verdict of the probes.
    pub status: HealthStatus,
    /// How long it has had that status.
    pub age: Duration,
    /// Why the last probe failed, if it did.
    pub last_error: Option<String>,
}

impl ProbeTable {
    /// The table of the same cluster with another rhythm: the observed health stays.
    pub(crate) fn with_settings(&self, rhythm: Settings, now: Instant) -> Self {
        let under = |(id, entry): (&EndpointId, &Entry)| {
            let health = entry.health.under(rhythm, now);
            (*id, Entry { endpoint: Arc::clone(&entry.endpoint), health })
        };
        let entries = self.table().entries.iter().map(under).collect();
        // `follow` fills in the rest.
        Self { table: Mutex::new(Table { entries, ..Table::default() }), hurried: Notify::new() }
    }

    /// Restores what another process observed of an endpoint that has just joined: its probes go on from there.
    pub(crate) fn resume(&self, endpoint: &Arc<Endpoint>, health: Health) {
        // `follow` fills in `due`.
        self.table().entries.insert(endpoint.id(), Entry { endpoint: Arc::clone(endpoint), health });
    }

    /// Replaces the endpoints. Returns those that are new, in their order.
    pub(crate) fn follow<'a>(
        &self,
        endpoints: impl Iterator<Item = &'a Arc<Endpoint>>,
        settings: Settings,
        now: Instant,
    ) -> Vec<EndpointId> {
        let mut table = self.table();
        let mut before = std::mem::take(&mut table.entries);
        table.due.clear();
        table.grain = (settings.interval / GRAIN).clamp(GRAIN_MIN, GRAIN_MAX);
        let mut joined = Vec::new();
        for endpoint in endpoints {
            let id = endpoint.id();
            let mut entry = before.remove(&id).unwrap_or_else(|| {
                joined.push(id);
                Entry { endpoint: Arc::clone(endpoint), health: Health::new(settings, now) }
            });
            entry.endpoint = Arc::clone(endpoint);
            table.due.extend(entry.health.due().map(|due| (due, id)));
            table.entries.insert(id, entry);
        }
        drop(table);
        for gone in before.into_values() {
            if let Some(metrics) = gone.endpoint.check_metrics() {
                metrics.remove();
            }
        }
        joined
    }

    /// Begins the next probe that is due, give or take a few milliseconds.
    ///
    /// # Errors
    /// If no probe is due: the moment when the next one will begin, if there is any.
    pub(crate) fn begin_next(&self, now: Instant) -> Result<Arc<Endpoint>, Option<Instant>> {
        let mut table = self.table();
        let Some(&(due, id)) = table.due.first() else { return Err(None) };
        let begins = alarm::coalesced(due, table.grain);
        if begins > now {
            return Err(Some(begins));
        }
        table.due.pop_first();
        let entry = table.entries.get_mut(&id).expect("who is due has an entry");
        entry.health.begin(now);
        Ok(Arc::clone(&entry.endpoint))
    }

    /// Takes in a probe's result; returns the endpoint's status. `None`: the endpoint is no longer probed.
    pub(crate) fn observe(
        &self,
        id: EndpointId,
        now: Instant,
        result: Result<(), String>,
        rng: &mut Rng,
    ) -> Option<HealthStatus> {
        self.table().change(id, |health| {
            // An endpoint that was disabled and enabled again meanwhile has a new entry, with a probe of its own due.
            if health.due().is_none() {
                health.observe(now, result, rng);
            }
            health.status()
        })
    }

    /// Takes in a probe that failed for local reasons: no evidence about the endpoint.
    pub(crate) fn postpone(&self, id: EndpointId, now: Instant, why: String, rng: &mut Rng) {
        self.table().change(id, |health| {
            if health.due().is_none() {
                health.postpone(now, why, rng);
            }
        });
    }

    /// Expedites the next probe of an endpoint after evidence against it.
    pub(crate) fn suspect(&self, id: EndpointId, now: Instant) {
        if self.table().change(id, |health| health.suspect(now)) == Some(true) {
            self.hurried.notify_one();
        }
    }

    /// Waits until a probe is due earlier than it was.
    pub(crate) async fn wait_expedited(&self) {
        self.hurried.notified().await;
    }

    /// The health of an endpoint; `None` if it is not probed.
    pub(crate) fn observed(&self, id: EndpointId, now: Instant) -> Option<ObservedHealth> {
        let table = self.table();
        let Entry { health, .. } = table.entries.get(&id)?;
        Some(ObservedHealth {
            status: health.status(),
            age: now.saturating_duration_since(health.since()),
            last_error: health.last_error().map(str::to_owned),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }
}

impl Table {
    /// Changes an entry's health, and updates its place in `due`.
    fn change<T>(&mut self, id: EndpointId, how: impl FnOnce(&mut Health) -> T) -> Option<T> {
        let Entry { health, .. } = self.entries.get_mut(&id)?;
        let before = health.due();
        let changed = how(health);
        let after = health.due();
        if before != after {
            self.due.extend(after.map(|due| (due, id)));
            if let Some(before) = before {
                self.due.remove(&(before, id));
            }
        }
        Some(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::cluster::{Cluster, fixture};

    /// Each probe woke the thread for itself, which cost more than the probe.
    #[test]
    fn probes_that_are_due_within_milliseconds_begin_together_and_keep_their_jitter() {
        let addresses: Vec<_> = (1..=100).map(|host| format!("10.0.0.{host}:1")).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let cluster = Cluster::new(fixture::settings(&addresses), Rng::with_seed(1));
        let interval = Duration::from_millis(500);
        let rhythm = Settings { interval, healthy_threshold: 1, unhealthy_threshold: 1 };
        let (table, mut rng, begun) = (ProbeTable::default(), Rng::with_seed(2), clock::now());
        table.follow(cluster.endpoints().iter(), rhythm, begun);

        let grain = interval / GRAIN;
        let (mut now, mut wakes) = (begun + grain, 0);
        let mut last = BTreeMap::new();
        let mut waits = Vec::new();
        while now < begun + interval * 20 {
            wakes += 1;
            now = loop {
                match table.begin_next(now) {
                    Ok(endpoint) => {
                        waits.extend(last.insert(endpoint.id(), now).map(|before| now - before));
                        table.observe(endpoint.id(), now, Ok(()), &mut rng);
                    }
                    Err(next) => break next.unwrap(),
                }
            };
        }
        assert!(wakes <= 1 + 10_000 / 25, "{wakes} for {} probes", waits.len());
        // Without the first of each, which is spread over the interval.
        waits.drain(..100);
        let (all, average) = (waits.len(), waits.iter().sum::<Duration>() / waits.len() as u32);
        assert!((1_750..1_950).contains(&all), "{all} in ten seconds");
        assert!((interval.mul_f64(0.99)..interval.mul_f64(1.01)).contains(&average), "{average:?}");
        let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        let jitter = interval.mul_f64(0.9) - grain..=interval.mul_f64(1.1) + grain;
        assert!(jitter.contains(least) && jitter.contains(most), "{least:?} to {most:?}");
        assert!(*most - *least > interval / 10, "{least:?} to {most:?}");
    }
}
