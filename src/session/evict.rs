//! The one task that ends sessions of a route and a cluster before their clients do, where the cluster's settings say so:
//! those on endpoints that went down or were removed, and those with an identity that was replaced.
//!
//! It looks at the cluster after each change, and at the route's sessions; neither knows of it. Sessions on an endpoint that
//! is down end at once; those on a removed one as in a drain: evenly over the closing time, resting ones first, and all that
//! are left at its end. An endpoint that comes back in time keeps the sessions that are left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch::Receiver;

use super::outdated::OutdatedSessions;
use super::route::Route;
use super::session_id::SessionId;
use crate::alarm;
use crate::clock;
use crate::cluster::{Cluster, EndpointId, EvictedEndpoint};
use crate::drain::DrainWatch;
use crate::outcome::Outcome;
use crate::policy::drain_schedule::DrainSchedule;

/// How often the sessions of an evicted endpoint are looked at.
const STEP: Duration = Duration::from_millis(100);
/// How often those with a replaced identity are.
const ROTATION_STEP: Duration = Duration::from_millis(250);

/// Runs until the drain begins, which ends sessions by its own rules. `replaced`: changes when a credential was replaced.
pub(crate) async fn evict_sessions(
    route: Arc<Route>,
    cluster: Arc<Cluster>,
    mut replaced: Receiver<()>,
    watch: DrainWatch,
) {
    let rotates = cluster.settings().drains_on_rotation;
    let mut changes = cluster.changes();
    let mut stop = std::pin::pin!(watch.begun());
    let (mut schedules, mut outdated) = (EvictionSchedules::new(), OutdatedSessions::new());
    // A dial that began with the identity before may become a session until then.
    let mut rotating_until = clock::now();
    loop {
        let now = clock::now();
        changes.mark_unchanged();
        let evicted = cluster.evicted_endpoints();
        let is_over = route.end_due(&cluster, &evicted, &mut schedules, now);
        if rotates {
            route.end_outdated(&cluster, &mut outdated, now);
        }
        let is_rotating = rotates && (!outdated.is_empty() || now < rotating_until);
        let step = if is_over { ROTATION_STEP } else { STEP };
        tokio::select! {
            () = &mut stop => return,
            changed = changes.changed() => if changed.is_err() { return },
            changed = replaced.changed(), if rotates => {
                if changed.is_err() {
                    return;
                }
                rotating_until = clock::now() + cluster.settings().dial.deadline;
            }
            () = alarm::sleep(step), if !is_over || is_rotating => {}
        }
    }
}

/// The sessions of each evicted endpoint, and since when it is evicted.
type EvictionSchedules = BTreeMap<EndpointId, (Instant, DrainSchedule<SessionId>)>;

impl Route {
    /// Stops the sessions that are due. True when all is done: the closing time is over, and so is the deadline of
    /// every dial that could still become a session on these endpoints.
    fn end_due(
        &self,
        cluster: &Arc<Cluster>,
        evicted: &[EvictedEndpoint],
        schedules: &mut EvictionSchedules,
        now: Instant,
    ) -> bool {
        let settings = cluster.settings();
        // A greeting is waited for beyond the deadline.
        let greeting =
            if settings.awaits_greetings() { settings.dial.greeting_timeout } else { Duration::ZERO };
        let (closing_time, deadline) = (settings.eviction.closing_time, settings.dial.deadline + greeting);
        let is_still =
            |endpoint, since| evicted.iter().any(|one| (one.endpoint, one.since) == (endpoint, since));
        schedules.retain(|endpoint, (since, _)| is_still(*endpoint, *since));
        for EvictedEndpoint { endpoint, since, outcome } in evicted {
            let closing_time = time_to_close(*outcome, closing_time);
            let live = self.activity_on(cluster, *endpoint, *since);
            let begin = || (*since, DrainSchedule::new(*since, closing_time));
            let (_, schedule) = schedules.entry(*endpoint).or_insert_with(begin);
            let due = match now < *since + closing_time {
                true => schedule.due(now, &live),
                false => live.into_iter().map(|(session, _)| session).collect(),
            };
            self.stop_sessions(&due, *outcome);
        }
        let is_over =
            |one: &EvictedEndpoint| now > one.since + time_to_close(one.outcome, closing_time) + deadline;
        evicted.iter().all(is_over)
    }
}

/// Zero for an endpoint that is down: the sooner a client is cut off, the sooner it is served elsewhere.
fn time_to_close(outcome: Outcome, closing_time: Duration) -> Duration {
    if outcome == Outcome::EndpointDown { Duration::ZERO } else { closing_time }
}

impl SessionId {
    /// The id as a fraction of the range of all ids, 0 to 1.
    pub(super) fn share(self) -> f64 {
        // Exact enough: 53 of its bits count.
        self.number() as f64 / u64::MAX as f64
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use fastrand::Rng;

    use super::super::{
        Admission, AdmissionSettings, Admitted, CallerLookups, CallerRequirements, Destination,
        DestinationCounters, SessionIds, Settings,
    };
    use super::*;
    use crate::cluster::OnEndpointLoss::{Close, Keep};
    use crate::cluster::{EvictionSettings, OnEndpointLoss, fixture};
    use crate::name::ListenerName;
    use crate::policy::endpoint_state::Admin;
    use crate::policy::health::HealthStatus;
    use crate::sys::Peer;

    const CLOSING_TIME: Duration = Duration::from_secs(5);

    fn cluster(route: &Route) -> &Arc<Cluster> {
        route.clusters().next().unwrap()
    }

    fn route(on_unhealthy: OnEndpointLoss, on_removed: OnEndpointLoss) -> Arc<Route> {
        let mut settings = fixture::settings(&["10.0.0.1:1", "10.0.0.2:1"]);
        settings.eviction = EvictionSettings { on_unhealthy, on_removed, closing_time: CLOSING_TIME };
        let cluster = Cluster::new(settings, Rng::with_seed(1));
        let admission = Admission::new(
            &AdmissionSettings::default(),
            CallerRequirements::default(),
            CallerLookups::default(),
        );
        let listener = ListenerName::from("app");
        let name = cluster.settings().name.clone();
        let settings = Settings {
            listener,
            max_connections: 1000,
            records: None,
            accept_proxy: false,
            context: false,
            admission,
        };
        let destination = Destination::new(cluster, DestinationCounters::of(&settings.listener, &name));
        Route::new(settings, vec![destination], Arc::new(SessionIds::new(7)), Arc::default(), None)
    }

    /// 200 sessions, on the route's endpoints in turn.
    fn sessions(route: &Arc<Route>) -> Vec<Admitted> {
        let endpoints = cluster(route).endpoints();
        let on = |endpoint: &Arc<crate::cluster::Endpoint>| {
            let admitted = route.admit(Peer::Tcp(([127, 0, 0, 1], 9).into())).unwrap();
            admitted.guard.note_established(endpoint.id(), None);
            admitted
        };
        endpoints.iter().cycle().take(200).map(on).collect()
    }

    fn stopped(sessions: &[Admitted]) -> Vec<Option<Outcome>> {
        let stopped = |admitted: &Admitted| {
            let order = std::pin::pin!(admitted.guard.live().stop_requested());
            match order.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(outcome) => Some(outcome),
                Poll::Pending => None,
            }
        };
        sessions.iter().map(stopped).collect()
    }

    /// Plays an eviction in steps of time.
    #[derive(Default)]
    struct Played {
        schedules: EvictionSchedules,
        passed: Duration,
    }

    impl Played {
        /// Plays in steps of [`STEP`] until `after` the eviction. Returns whether all is done.
        fn until(&mut self, route: &Route, after: Duration, mut each: impl FnMut(u64)) -> bool {
            let evicted = cluster(route).evicted_endpoints();
            let since = evicted.iter().map(|evicted| evicted.since).max().unwrap_or_else(clock::now);
            while self.passed < after {
                self.passed = (self.passed + STEP).min(after);
                each(self.passed.as_millis() as u64);
                route.end_due(cluster(route), &evicted, &mut self.schedules, since + self.passed);
            }
            route.end_due(cluster(route), &evicted, &mut self.schedules, since + self.passed)
        }
    }

    #[test]
    fn sessions_of_an_endpoint_taken_out_end_one_after_the_other_and_no_others() {
        let route = route(Keep, Close);
        let sessions = sessions(&route);
        let second = cluster(&route).endpoints()[1].settings().name.clone();
        assert!(cluster(&route).set_admin(second.as_str(), Admin::Disabled));
        let mut played = Played::default();
        let mut ended = |after| {
            let is_over = played.until(&route, after, |_| {});
            let ends = stopped(&sessions);
            assert!(ends.iter().step_by(2).all(Option::is_none), "those of the endpoint that stays");
            let removed: Vec<_> = ends.iter().skip(1).step_by(2).flatten().collect();
            assert!(removed.iter().all(|outcome| **outcome == Outcome::EndpointRemoved));
            (removed.len(), is_over)
        };
        assert_eq!(ended(Duration::ZERO), (0, false));
        let (half, _) = ended(CLOSING_TIME / 2);
        assert!((40..60).contains(&half), "{half} of 100");
        assert_eq!(ended(CLOSING_TIME), (100, false), "a dial may still become a session");
        assert_eq!(ended(CLOSING_TIME * 10), (100, true));
    }

    /// Their sessions lived on for the closing time of five seconds, and their clients were served nowhere meanwhile.
    #[test]
    fn sessions_of_an_endpoint_that_is_down_end_at_once() {
        let route = route(Close, Keep);
        let sessions = sessions(&route);
        let first = cluster(&route).endpoints()[0].id();
        assert!(cluster(&route).set_health(first, HealthStatus::Unhealthy, Err(None)));
        assert!(
            !Played::default().until(&route, Duration::ZERO, |_| {}),
            "a dial may still become a session"
        );
        let down: Vec<_> = stopped(&sessions).into_iter().step_by(2).flatten().collect();
        assert_eq!(down, [Outcome::EndpointDown; 100]);
    }

    #[test]
    fn those_that_rest_end_first_and_busy_ones_when_the_time_is_over() {
        let route = route(Keep, Close);
        let sessions = sessions(&route);
        for endpoint in cluster(&route).endpoints() {
            assert!(cluster(&route).set_admin(endpoint.settings().name.as_str(), Admin::Disabled));
        }
        let busy = |number: usize| number % 4 < 2;
        let mut played = Played::default();
        let exchange = |_| {
            for (_, admitted) in sessions.iter().enumerate().filter(|(number, _)| busy(*number)) {
                admitted.guard.live().note_exchange();
            }
        };
        let ended = |sessions: &[Admitted], target: bool| {
            let ends = stopped(sessions).into_iter().enumerate();
            ends.filter(|(number, end)| busy(*number) == target && end.is_some()).count()
        };
        played.until(&route, CLOSING_TIME - STEP, exchange);
        assert_eq!((ended(&sessions, false), ended(&sessions, true)), (100, 0));
        played.until(&route, CLOSING_TIME, exchange);
        assert_eq!(ended(&sessions, true), 100);
    }

    #[test]
    fn an_endpoint_that_comes_back_spares_the_sessions_that_are_left() {
        let route = route(Keep, Close);
        let sessions = sessions(&route);
        let endpoint = cluster(&route).endpoints()[0].settings().name.clone();
        assert!(cluster(&route).set_admin(endpoint.as_str(), Admin::Disabled));
        let mut played = Played::default();
        played.until(&route, CLOSING_TIME / 2, |_| {});
        let ended = stopped(&sessions).iter().flatten().count();
        assert!((40..60).contains(&ended), "{ended} of 100");
        cluster(&route).set_admin(endpoint.as_str(), Admin::Enabled);
        assert!(played.until(&route, CLOSING_TIME * 10, |_| {}));
        assert_eq!(stopped(&sessions).iter().flatten().count(), ended);
    }

    #[test]
    fn sessions_stay_where_they_are_by_default_and_while_an_endpoint_is_only_drained() {
        for (on_removed, admin) in [(Keep, Admin::Disabled), (Close, Admin::Draining)] {
            let route = route(Keep, on_removed);
            let sessions = sessions(&route);
            for endpoint in cluster(&route).endpoints() {
                cluster(&route).set_admin(endpoint.settings().name.as_str(), admin);
            }
            assert!(Played::default().until(&route, CLOSING_TIME * 10, |_| {}));
            assert!(stopped(&sessions).iter().all(Option::is_none), "{on_removed:?}");
        }
    }

    #[test]
    fn ids_spread_sessions_evenly() {
        let ids = SessionIds::new(7);
        let mut counts = [0_usize; 10];
        for _ in 0..10_000 {
            counts[((ids.next().share() * 10.0) as usize).min(9)] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }
}
