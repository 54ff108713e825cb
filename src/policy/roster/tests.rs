//! What the parts decide together.

use super::super::retry::Settings as Retry;
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
    panic: Panic::All,
    slow_start: Duration::ZERO,
    penalty: SECOND,
};

/// A roster with its clock and generator.
struct World {
    roster: Roster,
    now: Instant,
    rng: Rng,
    ids: Vec<Id>,
}

fn member(id: Option<Id>, priority: u32) -> Member {
    Member { id, weight: 1, priority, key: 0 }
}

fn plan() -> Plan {
    Plan::new(Retry { attempts: 9, backoff_base: MS, backoff_max: MS })
}

impl World {
    /// With an endpoint of each of these priorities.
    fn new(settings: Settings, priorities: &[u32]) -> Self {
        let (mut roster, now) = (Roster::new(settings), clock::now());
        let members: Vec<_> = priorities.iter().map(|priority| member(None, *priority)).collect();
        let ids = roster.rearrange(&members, now);
        Self { roster, now, rng: Rng::with_seed(1), ids }
    }

    fn keep(&mut self, which: &[usize]) {
        let members: Vec<_> = which.iter().map(|which| member(Some(self.ids[*which]), 0)).collect();
        let kept: Vec<_> = which.iter().map(|which| self.ids[*which]).collect();
        assert_eq!(self.roster.rearrange(&members, self.now), kept);
    }

    fn begin(&mut self, plan: &mut Plan) -> Result<(Id, Ticket), Unavailable> {
        self.roster.begin(plan, None, self.now, &mut self.rng)
    }

    /// The endpoint of a session's first dial, which goes on for ever.
    fn pick(&mut self) -> Result<usize, Unavailable> {
        self.begin(&mut plan()).map(|(id, _)| self.place(id))
    }

    fn place(&self, id: Id) -> usize {
        self.ids.iter().position(|known| *known == id).expect("one of ours")
    }

    fn put_session(&mut self, on: usize) {
        let ticket = self.roster.begin_at(self.ids[on], &mut plan()).unwrap();
        self.roster.established(self.ids[on], ticket, MS, self.now);
    }

    /// A dial by itself that fails.
    fn fail(&mut self) -> Result<usize, Unavailable> {
        let (id, ticket) = self.begin(&mut plan())?;
        self.roster.failed(id, ticket, Some(Fault::Connect), self.now, &mut self.rng);
        Ok(self.place(id))
    }

    fn succeed(&mut self) -> Result<usize, Unavailable> {
        let (id, ticket) = self.begin(&mut plan())?;
        self.roster.established(id, ticket, MS, self.now);
        self.roster.ended(id);
        Ok(self.place(id))
    }

    /// Fails on that endpoint until it is set aside.
    fn eject(&mut self, which: usize) {
        for _ in 0..200 {
            if self.roster.slot(self.ids[which]).is_some_and(|slot| !slot.outlier().is_in()) {
                return;
            }
            let (id, ticket) = self.begin(&mut plan()).unwrap();
            if id == self.ids[which] {
                self.roster.failed(id, ticket, Some(Fault::Connect), self.now, &mut self.rng);
            } else {
                self.roster.abandoned(id, ticket, self.now);
            }
        }
        panic!("it was never ejected");
    }
}

#[test]
fn an_untried_endpoint_goes_before_those_tried_and_those_before_ones_tried_twice() {
    let mut world = World::new(PLAIN, &[0, 0]);
    let mut plan = plan();
    let (first, _) = world.begin(&mut plan).unwrap();
    assert!(world.roster.has_untried(&plan, world.now));
    let (second, _) = world.begin(&mut plan).unwrap();
    assert_ne!(first, second);
    assert!(!world.roster.has_untried(&plan, world.now));
    plan.begin(world.ids[0]);
    assert_eq!(world.begin(&mut plan).unwrap().0, world.ids[1]);
}

#[test]
fn an_untried_endpoint_without_room_is_no_reason_to_hurry() {
    let mut world = World::new(PLAIN, &[0, 0]);
    (0..3).for_each(|_| world.put_session(1));
    let mut plan = plan();
    assert_eq!(world.begin(&mut plan).unwrap().0, world.ids[0]);
    assert!(!world.roster.has_untried(&plan, world.now));
}

#[test]
fn an_endpoint_that_left_is_not_picked_and_is_forgotten_with_its_last_session() {
    let mut world = World::new(PLAIN, &[0, 0]);
    (0..2).for_each(|_| world.put_session(1));
    world.keep(&[0]);
    (0..3).for_each(|_| assert_eq!(world.pick(), Ok(0)));
    let full = Unavailable::Full(Full::Endpoints(3));
    assert_eq!(world.pick(), Err(full), "the room that is left is on one that has left");
    let left = world.ids[1];
    world.roster.ended(left);
    assert_eq!(world.roster.slot(left).unwrap().load().sessions, 1);
    world.roster.ended(left);
    assert!(world.roster.slot(left).is_none());
    assert_eq!(world.roster.begin_at(left, &mut plan()), Err(Nobody::Forgotten));
    assert_eq!(world.roster.total(), Load { sessions: 0, dials: 3 });
}

#[test]
fn who_comes_back_while_its_sessions_live_is_the_same() {
    let mut world = World::new(PLAIN, &[0]);
    world.put_session(0);
    world.keep(&[]);
    assert_eq!(world.pick(), Err(Unavailable::Nobody(Nobody::Empty)));
    world.keep(&[0]);
    assert_eq!(world.roster.slot(world.ids[0]).unwrap().load().sessions, 1);
}

#[test]
fn an_id_is_never_given_twice() {
    let mut world = World::new(PLAIN, &[0, 0]);
    world.keep(&[]);
    let later = world.roster.rearrange(&[member(Some(world.ids[0]), 0), member(None, 0)], world.now);
    assert!(later.iter().all(|id| !world.ids.contains(id)), "{:?}, then {later:?}", world.ids);
}

#[test]
fn orders_and_health_say_who_is_picked() {
    let mut world = World::new(PLAIN, &[0, 0]);
    let (first, second, now) = (world.ids[0], world.ids[1], world.now);
    assert!(world.roster.set_admin(first, Admin::Draining, now));
    assert!(!world.roster.set_admin(first, Admin::Draining, now));
    assert_eq!(world.pick(), Ok(1));
    assert!(world.roster.set_health(second, Status::Unhealthy, now));
    assert_eq!(world.pick(), Ok(1), "nobody better is enabled");
    assert_eq!(world.roster.take_events(), [Event::Mode { from: Mode::Normal, to: Mode::Panic }]);
    world.roster.set_admin(first, Admin::Enabled, now);
    assert_eq!(world.pick(), Ok(0));
    assert_eq!(world.roster.take_events(), [Event::Mode { from: Mode::Panic, to: Mode::Normal }]);
    assert!([first, second].iter().all(|id| world.roster.set_admin(*id, Admin::Disabled, now)));
    assert_eq!(world.pick(), Err(Unavailable::Nobody(Nobody::NoneEnabled)));
}

#[test]
fn panic_never_refuses_when_checks_find_all_down_but_not_for_ejections() {
    let settings = Settings { panic: Panic::Never, outlier: Some(OUTLIER), ..PLAIN };
    let mut world = World::new(settings, &[0, 0]);
    world.eject(0);
    world.roster.set_health(world.ids[1], Status::Unhealthy, world.now);
    assert_eq!(world.pick(), Ok(0), "an ejection is a guess, and there is nobody else");
    world.roster.set_health(world.ids[0], Status::Unhealthy, world.now);
    assert_eq!(world.pick(), Err(Unavailable::Nobody(Nobody::AllDown { down: 2 })));
}

#[test]
fn a_higher_priority_is_used_while_the_lower_has_nobody_and_left_when_it_has() {
    let mut world = World::new(PLAIN, &[0, 0, 1, 2]);
    let (now, ids) = (world.now, world.ids.clone());
    (0..2).for_each(|_| assert!(world.succeed().unwrap() < 2));
    world.roster.set_health(ids[0], Status::Unhealthy, now);
    (0..3).for_each(|_| assert_eq!(world.pick(), Ok(1)));
    assert_eq!(world.pick(), Ok(2), "the lower one has no room");
    world.roster.set_health(ids[1], Status::Unhealthy, now);
    world.roster.set_health(ids[2], Status::Unhealthy, now);
    assert_eq!(world.pick(), Ok(3));
    world.roster.set_health(ids[0], Status::Healthy, now);
    assert_eq!(world.pick(), Ok(0));
}

#[test]
fn an_ejected_endpoint_is_left_out_and_returns_by_one_dial() {
    let mut world = World::new(Settings { outlier: Some(OUTLIER), slow_start: SECOND, ..PLAIN }, &[0, 0]);
    world.eject(0);
    let events = world.roster.take_events();
    let [Event::Ejected { endpoint, ejection }] = events[..] else { panic!("{events:?}") };
    assert_eq!((endpoint, ejection.failures, ejection.again), (world.ids[0], 2, false));
    (0..2).for_each(|_| assert_eq!(world.pick(), Ok(1)));
    world.now += SECOND;
    let (id, ticket) = world.begin(&mut plan()).unwrap();
    assert_eq!(id, world.ids[0], "it carries the least");
    assert_eq!(world.pick(), Ok(1), "one dial at a time");
    world.roster.established(id, ticket, MS, world.now);
    assert_eq!(world.roster.take_events(), [Event::Returned { endpoint: id }]);
    assert_eq!(world.roster.slot(id).unwrap().back_since, Some(world.now));
}

#[test]
fn a_trial_that_fails_or_is_called_off_is_no_return() {
    let mut world = World::new(Settings { outlier: Some(OUTLIER), ..PLAIN }, &[0, 0]);
    world.eject(0);
    (0..2).for_each(|_| world.put_session(1));
    world.now += SECOND;
    let (id, ticket) = world.begin(&mut plan()).unwrap();
    world.roster.abandoned(id, ticket, world.now);
    let (again, ticket) = world.begin(&mut plan()).unwrap();
    assert_eq!((id, again), (world.ids[0], world.ids[0]));
    world.roster.take_events();
    world.roster.failed(id, ticket, Some(Fault::Handshake), world.now, &mut world.rng);
    let events = world.roster.take_events();
    assert!(
        matches!(events[..], [Event::Ejected { ejection: Ejection { again: true, .. }, .. }]),
        "{events:?}"
    );
    assert_eq!(world.pick(), Ok(1));
}

#[test]
fn the_last_usable_endpoint_is_never_ejected() {
    let mut world = World::new(Settings { outlier: Some(OUTLIER), ..PLAIN }, &[0, 0, 1]);
    world.eject(0);
    world.eject(1);
    for _ in 0..20 {
        assert_eq!(world.fail(), Ok(2));
    }
    assert!(world.roster.slot(world.ids[2]).unwrap().outlier().is_in());
}

#[test]
fn a_failure_that_is_not_the_endpoints_counts_for_nothing() {
    let settings = Settings { outlier: Some(OUTLIER), breaker: Some(BREAKER), ..PLAIN };
    let mut world = World::new(settings, &[0, 0]);
    for _ in 0..50 {
        let (id, ticket) = world.begin(&mut plan()).unwrap();
        world.roster.failed(id, ticket, None, world.now, &mut world.rng);
    }
    assert_eq!(world.roster.take_events(), []);
}

#[test]
fn an_open_breaker_refuses_and_one_dial_closes_it() {
    let mut world = World::new(Settings { breaker: Some(BREAKER), ..PLAIN }, &[0, 0]);
    (0..4).for_each(|_| assert!(world.fail().is_ok()));
    assert!(matches!(world.pick(), Err(Unavailable::Breaker(Refused::Open { .. }))));
    assert_eq!(world.roster.total(), Load::default());
    world.now += SECOND;
    let (id, ticket) = world.begin(&mut plan()).unwrap();
    assert_eq!(world.pick(), Err(Unavailable::Breaker(Refused::Trying)));
    world.roster.established(id, ticket, MS, world.now);
    assert!(world.pick().is_ok());
    let turns = world.roster.take_events().into_iter().map(|event| match event {
        Event::Breaker(transition) => transition.to.label(),
        Event::Ejected { .. } | Event::Returned { .. } | Event::Mode { .. } => panic!("{event:?}"),
    });
    assert_eq!(turns.collect::<Vec<_>>(), ["open", "half_open", "closed"]);
}

/// A cancel goes to its endpoint through everything, and proves nothing.
#[test]
fn a_dial_to_a_given_endpoint_asks_nobody_and_teaches_nothing() {
    let settings = Settings { breaker: Some(BREAKER), outlier: Some(OUTLIER), ..PLAIN };
    let mut world = World::new(settings, &[0]);
    (0..4).for_each(|_| assert!(world.fail().is_ok()));
    let id = world.ids[0];
    let ticket = world.roster.begin_at(id, &mut plan()).unwrap();
    world.roster.established(id, ticket, MS, world.now);
    assert!(world.pick().is_err());
}

#[test]
fn retries_come_out_of_the_budget_and_first_attempts_do_not() {
    let budget = budget::Settings { ratio: 0.0, min_per_second: 1.0 };
    let mut world = World::new(Settings { retry_budget: Some(budget), ..PLAIN }, &[0, 0]);
    let attempt = |world: &mut World, plan: &mut Plan| {
        let (id, ticket) = world.begin(plan)?;
        world.roster.failed(id, ticket, Some(Fault::Connect), world.now, &mut world.rng);
        Ok::<_, Unavailable>(())
    };
    for _ in 0..10 {
        let mut plan = plan();
        assert_eq!(attempt(&mut world, &mut plan), Ok(()));
        assert_eq!(attempt(&mut world, &mut plan), Ok(()));
    }
    let mut plan = plan();
    assert_eq!(attempt(&mut world, &mut plan), Ok(()));
    assert_eq!(attempt(&mut world, &mut plan), Err(Unavailable::Budget));
    world.now += SECOND;
    assert_eq!(attempt(&mut world, &mut plan), Ok(()));
}

#[test]
fn sessions_that_die_young_eject_and_ones_that_last_forgive() {
    let mut world = World::new(Settings { outlier: Some(OUTLIER), ..PLAIN }, &[0, 0]);
    let id = world.ids[0];
    for died_young in [true, false, true] {
        world.roster.lasted(id, died_young, world.now, &mut world.rng);
    }
    assert_eq!(world.roster.take_events(), []);
    world.roster.lasted(id, true, world.now, &mut world.rng);
    let events = world.roster.take_events();
    let [Event::Ejected { ejection, .. }] = events[..] else { panic!("{events:?}") };
    assert_eq!(ejection.fault, Fault::EarlyClose);
}

#[test]
fn settings_that_switch_things_off_leave_nobody_behind() {
    let settings = Settings { breaker: Some(BREAKER), outlier: Some(OUTLIER), ..PLAIN };
    let mut world = World::new(settings, &[0, 0]);
    world.eject(0);
    (0..4).for_each(|_| _ = world.fail());
    assert!(world.pick().is_err());
    world.roster.take_events();
    world.roster.reconfigure(settings);
    assert!(world.pick().is_err(), "what stays as it was changes nothing");
    assert_eq!(world.roster.take_events(), []);
    world.roster.reconfigure(PLAIN);
    let events = world.roster.take_events();
    let [Event::Breaker(turned), Event::Returned { endpoint }] = events[..] else { panic!("{events:?}") };
    assert_eq!((turned.to, endpoint), (Label::Closed, world.ids[0]));
    assert!(world.roster.slot(endpoint).unwrap().outlier().is_in() && world.pick().is_ok());
}
