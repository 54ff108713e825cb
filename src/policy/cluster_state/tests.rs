//! The parts of a cluster's state together.

mod breaking;
mod ejecting;

use fastrand::Rng;

use super::super::retry::{Plan, Settings as Retry};
use super::trials::TrialVerdict;
use super::*;
use crate::clock;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const LIMITS: Limits = Limits { max_connections: 100, max_pending: 100, max_connections_per_endpoint: 3 };
const OUTLIER: outlier::Settings = outlier::Settings {
    consecutive_failures: 2,
    base_ejection_time: SECOND,
    max_ejection_time: SECOND,
    early_close: SECOND,
};
const BREAKER: breaker::Settings = breaker::Settings {
    consecutive_failures: 4,
    open_for: SECOND,
    max_open_for: SECOND,
    half_open_trials: 1,
};
const PLAIN: Settings = Settings {
    balance: Policy::LeastConnections,
    limits: LIMITS,
    outlier: None,
    breaker: None,
    retry_budget: None,
    hedge: None,
    panic: Panic::All,
    slow_start: Duration::ZERO,
    penalty: SECOND,
};

/// A cluster's state with its clock and generator.
struct World {
    cluster_state: ClusterState,
    now: Instant,
    rng: Rng,
    ids: Vec<Id>,
}

fn member(id: Option<Id>, priority: u32) -> EndpointSpec {
    EndpointSpec { id, weight: 1, priority, key: 0 }
}

fn plan() -> Plan {
    Plan::new(Retry { attempts: Some(9), backoff_base: MS, backoff_max: MS })
}

impl World {
    /// One endpoint for each of these priorities.
    fn new(settings: Settings, priorities: &[u32]) -> Self {
        let (mut cluster_state, now) = (ClusterState::new(settings), clock::now());
        let specs: Vec<_> = priorities.iter().map(|priority| member(None, *priority)).collect();
        let ids = cluster_state.set_endpoints(&specs, now);
        Self { cluster_state, now, rng: Rng::with_seed(1), ids }
    }

    fn keep(&mut self, which: &[usize]) {
        let specs: Vec<_> = which.iter().map(|which| member(Some(self.ids[*which]), 0)).collect();
        let kept: Vec<_> = which.iter().map(|which| self.ids[*which]).collect();
        assert_eq!(self.cluster_state.set_endpoints(&specs, self.now), kept);
    }

    fn begin(&mut self, plan: &mut Plan) -> Result<(Id, DialTicket), Unavailable> {
        self.cluster_state.begin(plan, None, self.now, &mut self.rng)
    }

    /// Returns the endpoint of a session's first dial, which does not end.
    fn pick(&mut self) -> Result<usize, Unavailable> {
        self.begin(&mut plan()).map(|(id, _)| self.place(id))
    }

    fn place(&self, id: Id) -> usize {
        self.ids.iter().position(|known| *known == id).expect("one of ours")
    }

    fn put_session(&mut self, on: usize) {
        let ticket = self.cluster_state.begin_at(self.ids[on], &mut plan()).unwrap();
        self.cluster_state.record_established(self.ids[on], ticket, MS, self.now);
    }

    /// A session's only dial fails.
    fn fail(&mut self) -> Result<usize, Unavailable> {
        let (id, ticket) = self.begin(&mut plan())?;
        self.cluster_state.record_failure(id, ticket, Some(Fault::Connect), self.now, &mut self.rng);
        Ok(self.place(id))
    }

    fn succeed(&mut self) -> Result<usize, Unavailable> {
        let (id, ticket) = self.begin(&mut plan())?;
        self.cluster_state.record_established(id, ticket, MS, self.now);
        self.cluster_state.record_session_end(id);
        Ok(self.place(id))
    }

    /// Fails on that endpoint until it is ejected.
    fn eject(&mut self, which: usize) {
        self.eject_for(which, Fault::Connect);
    }

    fn eject_for(&mut self, which: usize, fault: Fault) {
        for _ in 0..200 {
            if self
                .cluster_state
                .endpoint(self.ids[which])
                .is_some_and(|endpoint_state| !endpoint_state.outlier().is_admitted())
            {
                return;
            }
            let (id, ticket) = self.begin(&mut plan()).unwrap();
            if id == self.ids[which] {
                self.cluster_state.record_failure(id, ticket, Some(fault), self.now, &mut self.rng);
            } else {
                self.cluster_state.record_abandoned(id, ticket);
            }
        }
        panic!("it was never ejected");
    }

    /// Sessions fail on every endpoint until the breaker opens.
    fn fail_everywhere(&mut self) {
        for _ in 0..100 {
            let mut plan = plan();
            for _ in 0..self.ids.len() {
                let Ok((id, ticket)) = self.begin(&mut plan) else { return };
                self.cluster_state.record_failure(id, ticket, Some(Fault::Connect), self.now, &mut self.rng);
            }
        }
        panic!("the breaker never opened");
    }

    /// Begins the trials that are due and ends them with that verdict. Returns their endpoints.
    fn trials(&mut self, verdict: TrialVerdict) -> Vec<usize> {
        let trials = self.cluster_state.begin_trials(self.now, &mut self.rng);
        for trial in &trials {
            self.cluster_state.record_trial(*trial, verdict, self.now, &mut self.rng);
        }
        let mut tried: Vec<_> = trials.iter().map(|trial| self.place(trial.endpoint)).collect();
        tried.sort_unstable();
        tried
    }

    /// Advances to the next trial.
    fn wait(&mut self) -> Duration {
        let next = self.cluster_state.next_trial().expect("there is something to try");
        let waited = next.saturating_duration_since(self.now);
        self.now = self.now.max(next);
        waited
    }

    fn check_health(&mut self, which: usize, health: HealthStatus) -> bool {
        let proven = (health == HealthStatus::Healthy).then_some(Fault::Handshake);
        self.cluster_state.set_health(self.ids[which], health, proven, self.now)
    }

    /// Takes all events, as words.
    fn take_event_names(&mut self) -> Vec<&'static str> {
        let names = self.cluster_state.take_events().into_iter().map(|event| match event {
            ClusterEvent::Ejected { ejection: Ejection { again: true, .. }, .. } => "ejected again",
            ClusterEvent::Ejected { .. } => "ejected",
            ClusterEvent::Returned { .. } => "returned",
            ClusterEvent::Breaker(transition) => transition.to.label(),
            ClusterEvent::Mode { to, .. } => to.label(),
        });
        names.collect()
    }
}

#[test]
fn an_untried_endpoint_goes_before_those_tried_and_those_before_ones_tried_twice() {
    let mut world = World::new(PLAIN, &[0, 0]);
    let mut plan = plan();
    let (first, _) = world.begin(&mut plan).unwrap();
    assert!(world.cluster_state.has_untried(&plan));
    let (second, _) = world.begin(&mut plan).unwrap();
    assert_ne!(first, second);
    assert!(!world.cluster_state.has_untried(&plan));
    plan.begin(world.ids[0]);
    assert_eq!(world.begin(&mut plan).unwrap().0, world.ids[1]);
}

#[test]
fn an_untried_endpoint_without_room_is_no_reason_to_hurry() {
    let mut world = World::new(PLAIN, &[0, 0]);
    (0..3).for_each(|_| world.put_session(1));
    let mut plan = plan();
    assert_eq!(world.begin(&mut plan).unwrap().0, world.ids[0]);
    assert!(!world.cluster_state.has_untried(&plan));
}

#[test]
fn an_endpoint_that_left_is_not_picked_and_is_forgotten_with_its_last_session() {
    let mut world = World::new(PLAIN, &[0, 0]);
    (0..2).for_each(|_| world.put_session(1));
    world.keep(&[0]);
    (0..3).for_each(|_| assert_eq!(world.pick(), Ok(0)));
    let full = Unavailable::Full(LimitReached::Endpoints(3));
    assert_eq!(world.pick(), Err(full), "the room that is left is on one that has left");
    let left = world.ids[1];
    world.cluster_state.record_session_end(left);
    assert_eq!(world.cluster_state.endpoint(left).unwrap().load().sessions, 1);
    world.cluster_state.record_session_end(left);
    assert!(world.cluster_state.endpoint(left).is_none());
    assert_eq!(world.cluster_state.begin_at(left, &mut plan()), Err(NoEndpoint::Removed));
    assert_eq!(world.cluster_state.total(), Load { sessions: 0, dials: 3 });
}

#[test]
fn who_comes_back_while_its_sessions_live_is_the_same() {
    let mut world = World::new(PLAIN, &[0]);
    world.put_session(0);
    world.keep(&[]);
    assert_eq!(world.pick(), Err(Unavailable::NoEndpoint(NoEndpoint::Empty)));
    world.keep(&[0]);
    assert_eq!(world.cluster_state.endpoint(world.ids[0]).unwrap().load().sessions, 1);
}

#[test]
fn an_id_is_never_given_twice() {
    let mut world = World::new(PLAIN, &[0, 0]);
    world.keep(&[]);
    let later =
        world.cluster_state.set_endpoints(&[member(Some(world.ids[0]), 0), member(None, 0)], world.now);
    assert!(later.iter().all(|id| !world.ids.contains(id)), "{:?}, then {later:?}", world.ids);
}

#[test]
fn orders_and_health_say_who_is_picked() {
    let mut world = World::new(PLAIN, &[0, 0]);
    let (first, second, now) = (world.ids[0], world.ids[1], world.now);
    assert!(world.cluster_state.set_admin(first, Admin::Draining, now));
    assert!(!world.cluster_state.set_admin(first, Admin::Draining, now));
    assert_eq!(world.pick(), Ok(1));
    assert!(world.check_health(1, HealthStatus::Unhealthy));
    assert_eq!(world.pick(), Ok(1), "nobody better is enabled");
    assert_eq!(
        world.cluster_state.take_events(),
        [ClusterEvent::Mode { from: Mode::Normal, to: Mode::Panic }]
    );
    world.cluster_state.set_admin(first, Admin::Enabled, now);
    assert_eq!(world.pick(), Ok(0));
    assert_eq!(
        world.cluster_state.take_events(),
        [ClusterEvent::Mode { from: Mode::Panic, to: Mode::Normal }]
    );
    assert!([first, second].iter().all(|id| world.cluster_state.set_admin(*id, Admin::Disabled, now)));
    assert_eq!(world.pick(), Err(Unavailable::NoEndpoint(NoEndpoint::NoneEnabled)));
}

#[test]
fn panic_never_refuses_when_checks_find_all_down_but_not_for_ejections() {
    let settings = Settings { panic: Panic::Never, outlier: Some(OUTLIER), ..PLAIN };
    let mut world = World::new(settings, &[0, 0]);
    world.eject(0);
    world.check_health(1, HealthStatus::Unhealthy);
    assert_eq!(world.pick(), Ok(0), "an ejection is a guess, and there is nobody else");
    world.check_health(0, HealthStatus::Unhealthy);
    assert_eq!(world.pick(), Err(Unavailable::NoEndpoint(NoEndpoint::AllDown { down: 2 })));
}

#[test]
fn a_higher_priority_is_used_while_the_lower_has_nobody_and_left_when_it_has() {
    let mut world = World::new(PLAIN, &[0, 0, 1, 2]);
    (0..2).for_each(|_| assert!(world.succeed().unwrap() < 2));
    world.check_health(0, HealthStatus::Unhealthy);
    (0..3).for_each(|_| assert_eq!(world.pick(), Ok(1)));
    assert_eq!(world.pick(), Ok(2), "the lower one has no room");
    world.check_health(1, HealthStatus::Unhealthy);
    world.check_health(2, HealthStatus::Unhealthy);
    assert_eq!(world.pick(), Ok(3));
    world.check_health(0, HealthStatus::Healthy);
    assert_eq!(world.pick(), Ok(0));
}

/// It has no load, so that every session tried it first; with few attempts, no other endpoint was tried.
#[test]
fn an_endpoint_that_turns_sessions_away_is_asked_last_for_a_while() {
    let mut world = World::new(PLAIN, &[0, 0, 1]);
    let mut once = plan();
    let (first, ticket) = world.begin(&mut once).unwrap();
    world.cluster_state.record_turned_away(first, world.now);
    world.cluster_state.record_abandoned(first, ticket);
    let first = world.place(first);
    for _ in 0..2 {
        assert_eq!(world.pick(), Ok(1 - first), "the other of the same priority");
    }
    world.now += crate::policy::endpoint_state::TURNS_AWAY_FOR;
    let picked: Vec<_> = (0..4).map(|_| world.pick().unwrap()).collect();
    assert!(picked.contains(&first), "{picked:?}");
    // It is still picked if it is the only one.
    let mut alone = World::new(PLAIN, &[0]);
    let (only, ticket) = alone.begin(&mut plan()).unwrap();
    alone.cluster_state.record_turned_away(only, alone.now);
    alone.cluster_state.record_abandoned(only, ticket);
    assert_eq!(alone.pick(), Ok(0));
}

/// Two healthy endpoints were ejected; when the third, the last one, failed, all attempts went to it.
#[test]
fn a_session_that_is_turned_down_goes_on_to_whatever_could_still_serve() {
    let mut world = World::new(Settings { outlier: Some(OUTLIER), ..PLAIN }, &[0; 4]);
    world.eject(0);
    world.eject(1);
    world.cluster_state.set_health(world.ids[1], HealthStatus::Healthy, None, world.now);
    world.check_health(3, HealthStatus::Unhealthy);
    let mut plan = plan();
    let order: Vec<_> = (0..5)
        .map(|_| {
            let (id, ticket) = world.begin(&mut plan).unwrap();
            world.cluster_state.record_failure(id, ticket, Some(Fault::Connect), world.now, &mut world.rng);
            world.place(id)
        })
        .collect();
    assert_eq!(order, [2, 1, 0, 3, 2], "usable, found healthy, unknown, found down; then all over again");
    let mut never = World::new(Settings { panic: Panic::Never, ..PLAIN }, &[0, 0]);
    never.check_health(1, HealthStatus::Unhealthy);
    let mut plan = self::plan();
    for _ in 0..3 {
        let (id, ticket) = never.begin(&mut plan).unwrap();
        never.cluster_state.record_failure(id, ticket, Some(Fault::Connect), never.now, &mut never.rng);
        assert_eq!(never.place(id), 0, "one in the wrong role does harm");
    }
}

#[test]
fn an_attempt_that_hangs_gets_another_endpoint_beside_it() {
    let hedge = Some(hedge::Settings::by_history(3 * SECOND));
    let budget = budget::Settings { ratio: 0.0, min_per_second: 1.0 };
    let mut world = World::new(Settings { hedge, retry_budget: Some(budget), ..PLAIN }, &[0, 0]);
    let mut plan = plan();
    let (first, _) = world.begin(&mut plan).unwrap();
    assert_eq!(world.cluster_state.hedge_after(first, &plan), Some(250 * MS));
    let (second, ticket) =
        world.cluster_state.begin_hedge(&mut plan, None, world.now, &mut world.rng).unwrap();
    assert_ne!(first, second);
    assert_eq!(world.cluster_state.hedge_after(first, &plan), None, "nobody is left");
    assert!(world.cluster_state.begin_hedge(&mut plan, None, world.now, &mut world.rng).is_none());
    world.cluster_state.record_established(second, ticket, 50 * MS, world.now);
    let mut next = self::plan();
    while world.begin(&mut next).unwrap().0 != second {
        next = self::plan();
    }
    assert_eq!(world.cluster_state.hedge_after(second, &next), Some(200 * MS), "by its own history");
    let hedges = (0..100).filter(|_| {
        let mut plan = self::plan();
        plan.begin(first);
        let hedge = world.cluster_state.begin_hedge(&mut plan, None, world.now, &mut world.rng);
        hedge.map(|(id, ticket)| world.cluster_state.record_abandoned(id, ticket)).is_some()
    });
    assert_eq!(hedges.count(), 9, "the budget of ten bounds them");
    world.check_health(1, HealthStatus::Unhealthy);
    let mut tightened = Plan::new(Retry { attempts: Some(1), backoff_base: MS, backoff_max: MS });
    let (only, _) = world.begin(&mut tightened).unwrap();
    assert_eq!(world.cluster_state.hedge_after(only, &tightened), None);
}

/// A cancel request goes to its endpoint in any state, and is no evidence.
#[test]
fn a_dial_to_a_given_endpoint_asks_nobody_and_teaches_nothing() {
    let settings = Settings { breaker: Some(BREAKER), outlier: Some(OUTLIER), ..PLAIN };
    let mut world = World::new(settings, &[0]);
    (0..4).for_each(|_| assert!(world.fail().is_ok()));
    let id = world.ids[0];
    let ticket = world.cluster_state.begin_at(id, &mut plan()).unwrap();
    world.cluster_state.record_established(id, ticket, MS, world.now);
    assert!(world.pick().is_err());
}

#[test]
fn retries_come_out_of_the_budget_while_others_are_on_their_way() {
    let budget = budget::Settings { ratio: 0.0, min_per_second: 1.0 };
    let mut world = World::new(Settings { retry_budget: Some(budget), ..PLAIN }, &[0, 0, 0]);
    let retry = |world: &mut World, is_free: bool| {
        let mut plan = plan();
        let (id, ticket) = world.begin(&mut plan)?;
        world.cluster_state.record_failure(id, ticket, Some(Fault::Handshake), world.now, &mut world.rng);
        plan.record_failure(is_free);
        world.begin(&mut plan)
    };
    let (id, only) = retry(&mut world, false).unwrap();
    world.cluster_state.record_abandoned(id, only);
    let _on_its_way = retry(&mut world, false).unwrap();
    let paid = (0..100).filter(|_| {
        let begun = retry(&mut world, false);
        begun.map(|(id, ticket)| world.cluster_state.record_abandoned(id, ticket)).is_ok()
    });
    assert_eq!(paid.count(), 10);
    assert_eq!(retry(&mut world, false), Err(Unavailable::Budget));
    let refused = retry(&mut world, true);
    assert!(refused.is_ok(), "a closed port cost nobody anything: {refused:?}");
    world.now += SECOND;
    assert!(retry(&mut world, false).is_ok());
}
