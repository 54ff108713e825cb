//! A seeded simulation of the policies against a shadow model: endpoints that fail and return, probes, operators'
//! requests, endpoints that join and leave, cancelled sessions and dials, a clock that stands still and one that
//! jumps.
//!
//! Everything follows from one seed, which a failure prints; `SEED=n cargo test --test simulation` replays it and
//! `SEEDS=n` runs that many.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ambassador::internals::clock;
use ambassador::internals::policy::balance::Policy;
use ambassador::internals::policy::cluster_state::trials::{Trial, TrialVerdict};
use ambassador::internals::policy::cluster_state::{
    ClusterEvent, ClusterState, DialTicket, Settings, Unavailable,
};
use ambassador::internals::policy::eligibility::{Mode, NoEndpoint, Panic};
use ambassador::internals::policy::endpoint_state::{Admin, EndpointSpec, EndpointState, Id};
use ambassador::internals::policy::health::HealthStatus;
use ambassador::internals::policy::limits::{LimitReached, Settings as Limits};
use ambassador::internals::policy::outlier::{self, Fault};
use ambassador::internals::policy::retry::{Plan, Settings as Retry};
use ambassador::internals::policy::{breaker, budget, hedge};
use fastrand::Rng;

const STEPS: usize = 700;
const SEEDS: u64 = 60;
/// For the endpoints' shares.
const PICKS: u32 = 6_000;

struct Dial {
    id: Id,
    ticket: DialTicket,
}

/// The policies, used as a cluster uses them, and their invariants.
struct World {
    rng: Rng,
    now: Instant,
    settings: Settings,
    retry: Retry,
    cluster_state: ClusterState,
    /// Shadow model: the endpoint of each dial and each session.
    dials: BTreeMap<u64, Dial>,
    sessions: BTreeMap<u64, Id>,
    /// The members of the cluster, each with the operator's setting.
    members: BTreeMap<Id, Admin>,
    /// How likely a dial to each fails, in percent.
    failing: BTreeMap<Id, u32>,
    /// Endpoints whose last reported evidence is a failure.
    bad: BTreeSet<Id>,
    /// Our own trials under way.
    trials: Vec<Trial>,
    /// The breaker's last reported state.
    breaker: breaker::StateLabel,
    next: u64,
    picks: u64,
    /// The events that occurred, so that a simulation that never gets anywhere is noticed.
    seen: BTreeMap<&'static str, u64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (now, settings) = (clock::now(), settings(&mut rng));
        let mut world = Self {
            retry: Retry {
                attempts: Some(rng.u32(1..8)),
                backoff_base: Duration::from_millis(rng.u64(0..50)),
                backoff_max: Duration::from_millis(rng.u64(50..500)),
            },
            cluster_state: ClusterState::new(settings),
            settings,
            now,
            dials: BTreeMap::new(),
            sessions: BTreeMap::new(),
            members: BTreeMap::new(),
            failing: BTreeMap::new(),
            bad: BTreeSet::new(),
            trials: Vec::new(),
            breaker: breaker::StateLabel::Closed,
            next: 0,
            picks: 0,
            seen: BTreeMap::new(),
            rng,
        };
        let endpoints = world.rng.usize(1..=24);
        world.set_members(&vec![None; endpoints]);
        world
    }

    fn step(&mut self) {
        match self.rng.u32(..100) {
            0..=49 => self.dial_with_retries(),
            50..=59 => drop(self.lease(&mut Plan::new(self.retry))),
            60..=69 => self.end_a_dial(),
            70 => self.change_members(),
            71 => self.order(),
            72 => self.probe(),
            73 => self.weather(),
            99 => self.replace(),
            74 => self.reconfigure(),
            75..=78 => self.pass_time(),
            79..=84 => self.try_ourselves(),
            _ => self.end_a_session(),
        }
        self.check();
    }

    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// Mostly a little; sometimes not at all, or by an hour.
    fn pass_time(&mut self) {
        let most = [0, 10, 100, 1_000, 10_000, 3_600_000][self.rng.usize(..6)];
        self.now += Duration::from_millis(self.rng.u64(..=most));
    }

    /// Which endpoints fail from now on.
    fn weather(&mut self) {
        let (all_fail, all_work) = (self.rng.u32(..8) == 0, self.rng.u32(..8) == 0);
        for id in self.members.keys() {
            let percent = [0, 0, 20, 100][self.rng.usize(..4)];
            self.failing.insert(
                *id,
                if all_fail {
                    100
                } else if all_work {
                    0
                } else {
                    percent
                },
            );
        }
    }

    fn slot(&self, id: Id) -> &EndpointState {
        self.cluster_state.endpoint(id).expect("a member has its slot")
    }

    /// Other settings, as by a reload.
    fn reconfigure(&mut self) {
        if self.rng.bool() {
            return;
        }
        let limits = self.settings.limits;
        self.settings = Settings { limits, ..settings(&mut self.rng) };
        self.cluster_state.reconfigure(self.settings);
        // Another task continues, which gets no result of the trials before it.
        self.trials.clear();
        self.cluster_state.forget_trials(self.now);
        self.note_events();
        self.saw("reconfigured");
    }

    /// Another process takes over: its state comes from snapshots; it does not know the sessions of this one.
    fn replace(&mut self) {
        if self.rng.u32(..4) > 0 {
            return;
        }
        let known: Vec<_> = self
            .cluster_state
            .endpoints()
            .iter()
            .filter(|endpoint_state| endpoint_state.is_present())
            .map(EndpointState::snapshot)
            .collect();
        let breaker = self.cluster_state.breaker_snapshot();
        let was_good: Vec<_> = self.members.keys().map(|id| !self.bad.contains(id)).collect();
        let failing: Vec<_> =
            self.members.keys().map(|id| self.failing.get(id).copied().unwrap_or(0)).collect();
        self.cluster_state = ClusterState::new(self.settings);
        (self.dials, self.sessions, self.trials) = Default::default();
        self.bad.clear();
        self.set_members(&vec![None; known.len()]);
        let ids: Vec<_> = self.members.keys().copied().collect();
        for (((id, snapshot), was_good), failing) in ids.into_iter().zip(known).zip(was_good).zip(failing) {
            self.members.insert(id, snapshot.admin);
            self.failing.insert(id, failing);
            if !was_good {
                self.bad.insert(id);
            }
            self.cluster_state.resume(id, snapshot, self.now);
        }
        if let Some(breaker) = breaker {
            self.cluster_state.resume_breaker(breaker, self.now);
        }
        self.breaker =
            self.cluster_state.breaker().map_or(breaker::StateLabel::Closed, breaker::State::label);
        self.note_events();
        self.saw("replaced");
    }

    /// Due trials begin, and others end.
    fn try_ourselves(&mut self) {
        let next = self.cluster_state.next_trial();
        let begun = self.cluster_state.begin_trials(self.now, &mut self.rng);
        assert!(begun.is_empty() || next.is_some_and(|next| next <= self.now), "tried too early");
        for trial in &begun {
            assert_eq!(self.members.get(&trial.endpoint), Some(&Admin::Enabled), "nobody wants it");
            let is_on_its_way = self.trials.iter().any(|other| other.endpoint == trial.endpoint);
            assert!(!is_on_its_way, "two trials of one endpoint");
        }
        self.trials.extend(begun);
        assert!(
            self.cluster_state.next_trial().is_none_or(|next| next > self.now),
            "what is due would be due for ever: a loop without a pause"
        );
        self.note_events();
        while self.rng.u32(..4) > 0 && !self.trials.is_empty() {
            let trial = self.trials.swap_remove(self.rng.usize(..self.trials.len()));
            let fails = self.rng.u32(..100) < self.failing.get(&trial.endpoint).copied().unwrap_or(0);
            let verdict = match fails {
                _ if self.rng.u32(..10) == 0 => TrialVerdict::Inconclusive,
                true => TrialVerdict::Fails(Fault::Connect),
                false if self.rng.u32(..10) == 0 => TrialVerdict::TurnedAway,
                false => TrialVerdict::Serves(Duration::from_micros(self.rng.u64(50..100_000))),
            };
            self.cluster_state.record_trial(trial, verdict, self.now, &mut self.rng);
            match verdict {
                // One of several required trials proves nothing yet.
                TrialVerdict::Serves(_) | TrialVerdict::TurnedAway
                    if self.settings.breaker.is_some_and(|breaker| breaker.half_open_trials > 1) => {}
                TrialVerdict::Serves(_) | TrialVerdict::TurnedAway => _ = self.bad.remove(&trial.endpoint),
                TrialVerdict::Fails(_) => _ = self.bad.insert(trial.endpoint),
                TrialVerdict::Inconclusive => {}
            }
            self.note_events();
            self.saw("tried");
        }
    }

    /// The endpoints that may be picked, by independent rules: for a session's first attempt those without evidence
    /// against them, and for the others all that could still serve, the best first.
    fn usable(&self, is_retry: bool) -> Vec<Vec<Id>> {
        let enabled = self.members.iter().filter(|(_, admin)| **admin == Admin::Enabled).map(|(id, _)| *id);
        let enabled: Vec<_> = enabled.collect();
        let is_up = |id: &Id| self.slot(*id).health() != HealthStatus::Unhealthy;
        let (well, down): (Vec<_>, Vec<_>) = enabled.into_iter().partition(is_up);
        let (best, ejected): (Vec<_>, Vec<_>) =
            well.into_iter().partition(|id| self.slot(*id).outlier().is_admitted());
        let is_found_well = |id: &Id| self.slot(*id).health() == HealthStatus::Healthy;
        let (found_well, unknown) = ejected.into_iter().partition(is_found_well);
        let panic = if self.settings.panic == Panic::All { down } else { Vec::new() };
        let mut classes = [best, found_well, unknown, panic];
        if !is_retry {
            let count = if !classes[0].is_empty() {
                1
            } else if classes[1..3].iter().any(|class| !class.is_empty()) {
                3
            } else {
                4
            };
            classes[count..].iter_mut().for_each(Vec::clear);
        }
        classes.iter_mut().for_each(|class| class.retain(|id| self.has_room(*id)));
        classes.into()
    }

    fn has_room(&self, id: Id) -> bool {
        self.slot(id).load().total() < self.settings.limits.max_connections_per_endpoint
    }

    fn lease(&mut self, plan: &mut Plan) -> Result<u64, Unavailable> {
        let is_retry = plan.attempts() > 0;
        let (classes, tries) = (self.usable(is_retry), |id: &Id| plan.tries(*id));
        let usable = classes.concat();
        let least = usable.iter().map(tries).min();
        let untried = classes
            .into_iter()
            .map(|class| class.into_iter().filter(|id| Some(tries(id)) == least).collect::<Vec<_>>());
        let mut next = untried.into_iter().find(|class| !class.is_empty()).unwrap_or_default();
        let first = next.iter().map(|id| self.slot(*id).priority()).min();
        next.retain(|id| Some(self.slot(*id).priority()) == first);
        let total = self.cluster_state.total();
        let key = self.rng.bool().then(|| self.rng.u64(..10));
        let room = self.cluster_state.room();
        let begun = self.cluster_state.begin(plan, key, self.now, &mut self.rng);
        let said = begun.as_ref().map(|_| ()).map_err(|unavailable| *unavailable);
        assert!(is_retry || said == room, "{room:?} was told, and then {said:?}");
        self.note_events();
        let (id, ticket) = begun.inspect_err(|unavailable| self.check_refused(*unavailable, &usable))?;
        assert!(next.contains(&id), "picked {id:?} of {next:?}");
        assert_eq!(
            self.breaker,
            breaker::StateLabel::Closed,
            "dialled for a session while the breaker is open"
        );
        assert_eq!(self.cluster_state.total().total(), total.total() + 1);
        self.picks += 1;
        self.next += 1;
        self.dials.insert(self.next, Dial { id, ticket });
        Ok(self.next)
    }

    /// In no history is a session refused while an endpoint is left that may be good.
    fn check_refused(&mut self, why: Unavailable, usable: &[Id]) {
        let (total, limits) = (self.cluster_state.total(), self.settings.limits);
        match why {
            Unavailable::Breaker(_) => {
                assert_ne!(self.breaker, breaker::StateLabel::Closed, "refused by a closed breaker");
                let may_be_good =
                    |(id, admin): (&Id, &Admin)| *admin == Admin::Enabled && !self.bad.contains(id);
                assert!(!self.members.iter().any(may_be_good), "{:?} may be good", self.members);
                self.saw("breaker");
            }
            Unavailable::Full(LimitReached::Connections(most)) => assert_eq!(total.total(), most),
            Unavailable::Full(LimitReached::Pending(most)) => {
                assert!(total.dials >= most && most == limits.max_pending);
            }
            Unavailable::Full(LimitReached::Endpoints(_)) => assert_eq!(usable, [], "they had room"),
            Unavailable::NoEndpoint(nobody) => {
                assert_eq!(usable, [], "{nobody}");
                assert!(nobody != NoEndpoint::Empty || self.members.is_empty());
                self.saw("nobody");
            }
            Unavailable::Budget => self.saw("budget"),
        }
    }

    fn dial_with_retries(&mut self) {
        let mut plan = Plan::new(self.retry);
        while plan.has_attempt_left() {
            let Ok(dial) = self.lease(&mut plan) else { return };
            if self.rng.u32(..5) == 0 {
                self.hedge(&mut plan);
            }
            if self.try_it(dial) {
                return;
            }
            plan_failed(&mut plan, &mut self.rng);
            let has_untried = self.usable(true).concat().iter().any(|usable| plan.tries(*usable) == 0);
            assert_eq!(self.cluster_state.has_untried(&plan), has_untried);
            let wait = plan.wait(has_untried, &mut self.rng);
            assert!(wait <= self.retry.backoff_max.max(self.retry.backoff_base), "waited {wait:?}");
            self.now += wait;
        }
        assert!(plan.attempts() <= self.retry.attempts.unwrap_or(u32::MAX));
    }

    /// One more dial beside the first, which ends by itself.
    fn hedge(&mut self, plan: &mut Plan) {
        let best = self.usable(false).swap_remove(0);
        let Some((id, ticket)) = self.cluster_state.begin_hedge(plan, None, self.now, &mut self.rng) else {
            return;
        };
        assert!(best.contains(&id) && plan.tries(id) == 1, "{id:?} is not one to hedge with");
        self.next += 1;
        self.dials.insert(self.next, Dial { id, ticket });
        self.saw("hedged");
    }

    /// By the failure rate of its endpoint. Returns whether it became a session.
    fn try_it(&mut self, dial: u64) -> bool {
        let id = self.dials[&dial].id;
        let fails = self.rng.u32(..100) < self.failing.get(&id).copied().unwrap_or(0);
        let took = Duration::from_micros(self.rng.u64(50..100_000));
        let Dial { id, ticket } = self.dials.remove(&dial).expect("it was begun");
        if !fails {
            self.cluster_state.record_established(id, ticket, took, self.now);
            self.sessions.insert(dial, id);
            self.bad.remove(&id);
        } else if self.rng.u32(..10) == 0 {
            self.cluster_state.record_failure(id, ticket, None, self.now, &mut self.rng);
        } else {
            let fault = [Fault::Connect, Fault::Upgrade, Fault::Handshake][self.rng.usize(..3)];
            self.cluster_state.record_failure(id, ticket, Some(fault), self.now, &mut self.rng);
            self.bad.insert(id);
        }
        self.note_events();
        !fails
    }

    fn end_a_dial(&mut self) {
        let Some(dial) = self.dials.keys().next().copied() else { return };
        if self.rng.bool() {
            self.try_it(dial);
            return;
        }
        let Dial { id, ticket } = self.dials.remove(&dial).expect("it was begun");
        self.cluster_state.record_abandoned(id, ticket);
        self.note_events();
    }

    fn end_a_session(&mut self) {
        let among = self.sessions.len().max(1);
        let Some(session) = self.sessions.keys().nth(self.rng.usize(..among)).copied() else { return };
        let id = self.sessions.remove(&session).expect("it lives");
        let closed_early = self.rng.u32(..100) < self.failing.get(&id).copied().unwrap_or(0);
        self.cluster_state.record_session_age(id, closed_early, self.now, &mut self.rng);
        self.cluster_state.record_session_end(id);
        self.note_events();
    }

    /// Some leave, some join, and one that left with sessions may return.
    fn change_members(&mut self) {
        let mut members: Vec<_> =
            self.cluster_state.endpoints().iter().map(|endpoint_state| Some(endpoint_state.id())).collect();
        members.retain(|_| self.rng.u32(..8) > 0);
        (0..self.rng.usize(..3)).for_each(|_| members.push(None));
        members.truncate(24);
        self.rng.shuffle(&mut members);
        self.set_members(&members);
    }

    fn set_members(&mut self, members: &[Option<Id>]) {
        let tiers = self.rng.u32(1..=3);
        let member = |id: &Option<Id>, rng: &mut Rng| EndpointSpec {
            id: *id,
            weight: rng.u32(1..5),
            priority: rng.u32(..tiers),
            key: rng.u64(..),
        };
        let members: Vec<_> = members.iter().map(|id| member(id, &mut self.rng)).collect();
        let ids = self.cluster_state.set_endpoints(&members, self.now);
        self.members = ids.into_iter().map(|id| (id, self.slot(id).admin())).collect();
        self.note_events();
    }

    fn a_member(&mut self) -> Option<Id> {
        let among = self.members.len().max(1);
        self.members.keys().nth(self.rng.usize(..among)).copied()
    }

    fn order(&mut self) {
        let Some(id) = self.a_member() else { return };
        let admin = [Admin::Enabled, Admin::Enabled, Admin::Draining, Admin::Disabled][self.rng.usize(..4)];
        self.cluster_state.set_admin(id, admin, self.now);
        self.members.insert(id, admin);
        self.note_events();
    }

    fn probe(&mut self) {
        let Some(id) = self.a_member() else { return };
        let health = if self.rng.bool() { HealthStatus::Healthy } else { HealthStatus::Unhealthy };
        let proven = [Fault::Connect, Fault::Handshake, Fault::EarlyClose][self.rng.usize(..3)];
        self.cluster_state.set_health(
            id,
            health,
            (health == HealthStatus::Healthy).then_some(proven),
            self.now,
        );
        match health {
            HealthStatus::Healthy if proven >= Fault::Handshake => _ = self.bad.remove(&id),
            HealthStatus::Unhealthy => _ = self.bad.insert(id),
            HealthStatus::Healthy | HealthStatus::Undecided => {}
        }
        self.note_events();
        if health == HealthStatus::Healthy && proven == Fault::EarlyClose {
            assert!(self.slot(id).outlier().is_admitted(), "a penalty outlived the evidence of health");
        }
    }

    /// Checks the reported events against the allowed transitions.
    fn note_events(&mut self) {
        for event in self.cluster_state.take_events() {
            match event {
                ClusterEvent::Ejected { endpoint, ejection } => {
                    let most = self.settings.outlier.expect("it ejects").max_ejection_time;
                    assert!(ejection.lasts <= most, "{:?}", ejection.lasts);
                    let is_usable = |id: &Id| {
                        let endpoint_state = self.slot(*id);
                        self.members[id] == Admin::Enabled
                            && endpoint_state.health() != HealthStatus::Unhealthy
                            && endpoint_state.outlier().is_admitted()
                    };
                    let is_left = self.members.keys().filter(|id| **id != endpoint).any(is_usable);
                    assert!(is_left || ejection.again, "the last usable endpoint was ejected");
                    self.saw("ejected");
                }
                ClusterEvent::Returned { .. } => self.saw("returned"),
                ClusterEvent::Mode { to: Mode::Panic, .. } => {
                    assert_eq!(self.settings.panic, Panic::All);
                    self.saw("panic");
                }
                ClusterEvent::Mode { .. } => self.saw("mode"),
                ClusterEvent::Breaker(transition) => self.turn_breaker(transition),
            }
        }
    }

    fn turn_breaker(&mut self, breaker::Transition { from, to, open_for }: breaker::Transition) {
        assert_eq!(from, self.breaker);
        match (from, to) {
            (breaker::StateLabel::Closed, breaker::StateLabel::Open) => {
                let open_for = open_for.expect("it says how long");
                assert!(open_for <= self.settings.breaker.expect("it has one").max_open_for);
                self.saw("opened");
            }
            (breaker::StateLabel::Open, breaker::StateLabel::HalfOpen)
            | (breaker::StateLabel::HalfOpen, breaker::StateLabel::Open) => {}
            (breaker::StateLabel::HalfOpen | breaker::StateLabel::Open, breaker::StateLabel::Closed) => {
                self.saw("closed")
            }
            (from, to) => panic!("from {from:?} to {to:?}"),
        }
        self.breaker = to;
    }

    fn check(&self) {
        let (total, limits) = (self.cluster_state.total(), self.settings.limits);
        assert!(total.total() <= limits.max_connections, "max_connections overshot");
        assert!(total.dials <= limits.max_pending, "max_pending overshot");
        assert_eq!(total.total() as usize, self.dials.len() + self.sessions.len(), "the total drifted");
        for endpoint_state in self.cluster_state.endpoints() {
            let (id, load) = (endpoint_state.id(), endpoint_state.load());
            assert!(load.total() <= limits.max_connections_per_endpoint, "{id:?} overshot");
            let dials = self.dials.values().filter(|dial| dial.id == id).count();
            let sessions = self.sessions.values().filter(|on| **on == id).count();
            let counted = (load.dials as usize, load.sessions as usize);
            assert_eq!(counted, (dials, sessions), "{id:?} drifted");
            assert_eq!(endpoint_state.is_present(), self.members.contains_key(&id), "{id:?}");
            assert!(endpoint_state.is_present() || load.total() > 0, "{id:?} is kept for nothing");
        }
        let mut used = self.dials.values().map(|dial| &dial.id).chain(self.sessions.values());
        assert!(used.all(|id| self.cluster_state.endpoint(*id).is_some()), "forgotten while in use");
        let label = self.cluster_state.breaker().map(breaker::State::label);
        let expected = self.breaker;
        assert!(label.is_none_or(|label| label == expected), "{label:?}, and {expected:?} was told");
    }
}

/// Whether a failure was free for the server decides whether the budget pays for the next attempt.
fn plan_failed(plan: &mut Plan, rng: &mut Rng) {
    plan.record_failure(rng.bool());
}

fn settings(rng: &mut Rng) -> Settings {
    let mut time = |most: u64| Duration::from_millis(rng.u64(1..most));
    let (short, long, slow_start, penalty) = (time(5_000), time(60_000), time(20_000), time(5_000));
    let mut number = |most: u32| rng.u32(1..most);
    let outlier = outlier::Settings {
        consecutive_failures: number(6),
        base_ejection_time: short,
        max_ejection_time: short + long,
        early_close: short,
    };
    let breaker = breaker::Settings {
        consecutive_failures: number(12),
        open_for: short,
        max_open_for: short + long,
        half_open_trials: number(4),
    };
    let limits = Limits {
        max_connections: number(60),
        max_pending: number(20),
        max_connections_per_endpoint: number(30),
    };
    Settings {
        balance: Policy::ALL[rng.usize(..Policy::ALL.len())],
        limits,
        outlier: (rng.u32(..5) > 0).then_some(outlier),
        breaker: (rng.u32(..5) > 0).then_some(breaker),
        retry_budget: rng
            .bool()
            .then(|| budget::Settings { ratio: rng.f64(), min_per_second: f64::from(rng.u32(..5)) }),
        hedge: rng.bool().then(|| hedge::Settings::by_history(penalty)),
        panic: if rng.bool() { Panic::All } else { Panic::Never },
        slow_start: if rng.bool() { slow_start } else { Duration::ZERO },
        penalty,
    }
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    match number("SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SEEDS").unwrap_or(SEEDS)).collect(),
    }
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    (0..STEPS).for_each(|_| world.step());
    world
}

#[test]
fn what_must_hold_of_a_cluster_holds_whatever_happens() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds() {
        let world = std::panic::catch_unwind(|| run(seed));
        let world = world.unwrap_or_else(|_| panic!("failed with SEED={seed}"));
        world.seen.into_iter().for_each(|(what, times)| *seen.entry(what).or_default() += times);
    }
    if seeds().len() > 20 {
        let all = [
            "breaker",
            "budget",
            "closed",
            "ejected",
            "hedged",
            "mode",
            "nobody",
            "opened",
            "panic",
            "reconfigured",
            "replaced",
            "returned",
            "tried",
        ];
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), all, "some of it never happened: {seen:?}");
    }
}

#[test]
fn a_seed_replays() {
    let replay = |seed| {
        let world = run(seed);
        (world.picks, world.cluster_state.total().sessions, world.next, world.seen)
    };
    for seed in 0..10 {
        assert_eq!(replay(seed), replay(seed));
    }
}

/// Over time each endpoint has its share, by every policy with shares, while sessions come and go.
#[test]
fn weights_are_honoured_over_time() {
    for seed in seeds().into_iter().take(5) {
        for policy in [Policy::RoundRobin, Policy::LeastConnections, Policy::Ewma, Policy::Random] {
            let mut rng = Rng::with_seed(seed);
            let quiet = settings(&mut rng);
            let limits =
                Limits { max_connections: 10_000, max_pending: 100, max_connections_per_endpoint: 10_000 };
            let mut cluster_state = ClusterState::new(Settings { balance: policy, limits, ..quiet });
            let weights: Vec<_> = (0..rng.usize(2..6)).map(|_| rng.u32(1..6)).collect();
            let members: Vec<_> = weights
                .iter()
                .map(|weight| EndpointSpec { id: None, weight: *weight, priority: 0, key: 0 })
                .collect();
            let now = clock::now();
            let ids = cluster_state.set_endpoints(&members, now);
            let (mut live, mut taken) = (Vec::new(), BTreeMap::new());
            for _ in 0..PICKS {
                let mut plan = Plan::new(Retry {
                    attempts: Some(1),
                    backoff_base: Duration::ZERO,
                    backoff_max: Duration::ZERO,
                });
                let (id, ticket) =
                    cluster_state.begin(&mut plan, None, now, &mut rng).expect("there is room");
                cluster_state.record_established(id, ticket, Duration::from_millis(1), now);
                *taken.entry(id).or_insert(0.0) += 1.0;
                live.push(id);
                if live.len() > 300 {
                    cluster_state.record_session_end(live.swap_remove(rng.usize(..live.len())));
                }
            }
            let whole: u32 = weights.iter().sum();
            for (id, weight) in ids.iter().zip(&weights) {
                let (share, due) = (taken[id] / f64::from(PICKS), f64::from(*weight) / f64::from(whole));
                assert!((share - due).abs() < 0.05, "SEED={seed} {policy:?} {weights:?}: {share} of {due}");
            }
        }
    }
}
