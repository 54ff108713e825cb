//! A seeded simulation of the policies against a shadow model: endpoints that fail at random, sessions that
//! come and go, dials that are cancelled, many thousand steps of it.
//!
//! Everything flows from one seed, which a failure prints; `SEED=n cargo test --test simulation` replays it
//! and `SEEDS=n` runs that many.

use std::collections::BTreeMap;
use std::time::Duration;

use ambassador::clock;
use ambassador::policy::balance::Policy;
use ambassador::policy::health::Status;
use ambassador::policy::limits::Settings as Limits;
use ambassador::policy::retry::{Plan, Settings as Retry};
use ambassador::policy::roster::{Roster, Unavailable};
use ambassador::policy::slot::{Admin, Id, Member};
use fastrand::Rng;

const STEPS: usize = 2_000;
const SEEDS: u64 = 60;

/// The policies, used as a cluster uses them, and what must hold of them.
struct World {
    rng: Rng,
    limits: Limits,
    retry: Retry,
    roster: Roster,
    /// Shadow model: which endpoint each dial and each session is on.
    dials: BTreeMap<u64, Id>,
    sessions: BTreeMap<u64, Id>,
    /// Those that the cluster has, with the operator's order for each.
    members: BTreeMap<Id, Admin>,
    next: u64,
    picks: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let endpoints = rng.usize(1..=6);
        let policy = if rng.bool() { Policy::RoundRobin } else { Policy::LeastConnections };
        let limits = Limits {
            max_connections: rng.u32(1..60),
            max_pending: rng.u32(1..20),
            max_connections_per_endpoint: rng.u32(1..30),
        };
        let mut roster = Roster::new(policy, limits);
        let joining: Vec<_> = (0..endpoints).map(|_| Member { id: None, weight: rng.u32(1..5) }).collect();
        let ids = roster.rearrange(&joining, clock::now());
        Self {
            limits,
            retry: Retry {
                attempts: rng.u32(1..8),
                backoff_base: Duration::from_millis(rng.u64(0..50)),
                backoff_max: Duration::from_millis(rng.u64(50..500)),
            },
            roster,
            dials: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next: 0,
            members: ids.into_iter().map(|id| (id, Admin::Enabled)).collect(),
            picks: 0,
            rng,
        }
    }

    fn step(&mut self) {
        match self.rng.u32(..100) {
            0..=49 => self.dial_with_retries(),
            50..=59 => self.begin_and_leave_pending(),
            60..=69 => self.cancel_a_dial(),
            70 => self.change_members(),
            71 => self.order(),
            72 => self.probe(),
            _ => self.end_a_session(),
        }
        self.check();
    }

    /// Who may be picked, by a rule of its own.
    fn usable(&self) -> Vec<Id> {
        let enabled = self.members.iter().filter(|(_, admin)| **admin == Admin::Enabled).map(|(id, _)| *id);
        let is_up = |id: &Id| self.roster.slot(*id).expect("a member").health() != Status::Unhealthy;
        let (up, down): (Vec<_>, Vec<_>) = enabled.partition(is_up);
        let usable = if up.is_empty() { down } else { up };
        let has_room = |id: &Id| {
            self.roster.slot(*id).expect("a member").load().total() < self.limits.max_connections_per_endpoint
        };
        usable.into_iter().filter(has_room).collect()
    }

    fn lease(&mut self, plan: &mut Plan) -> Result<u64, Unavailable> {
        let usable = self.usable();
        let picked = self.roster.begin(plan, &mut self.rng)?;
        assert!(usable.contains(&picked), "picked {picked:?} of {usable:?}");
        self.picks += 1;
        self.next += 1;
        self.dials.insert(self.next, picked);
        Ok(self.next)
    }

    fn dial_with_retries(&mut self) {
        let mut plan = Plan::new(self.retry);
        let mut tried = Vec::new();
        while plan.has_attempt_left() {
            let Ok(dial) = self.lease(&mut plan) else { return };
            let endpoint = self.dials[&dial];
            let untried = self.usable().into_iter().any(|other| !tried.contains(&other) && other != endpoint);
            assert!(
                !(tried.contains(&endpoint) && untried),
                "went back to {endpoint:?} while an untried endpoint had room"
            );
            tried.push(endpoint);
            if self.rng.u32(..3) > 0 {
                return self.establish(dial);
            }
            self.forget_dial(dial);
            let has_untried = self.usable().iter().any(|usable| !tried.contains(usable));
            assert_eq!(self.roster.has_untried(&plan), has_untried);
            let wait = plan.wait(has_untried, &mut self.rng);
            assert!(wait <= self.retry.backoff_max.max(self.retry.backoff_base), "waited {wait:?}");
        }
        assert!(plan.attempts() <= self.retry.attempts);
    }

    /// Some leave, some join, one that left with sessions on it may come back.
    fn change_members(&mut self) {
        let mut members: Vec<_> = self.roster.slots().iter().map(|slot| Some(slot.id())).collect();
        members.retain(|_| self.rng.u32(..3) > 0);
        (0..self.rng.usize(..3)).for_each(|_| members.push(None));
        self.rng.shuffle(&mut members);
        let weight = self.rng.u32(1..5);
        let members: Vec<_> = members.into_iter().map(|id| Member { id, weight }).collect();
        let ids = self.roster.rearrange(&members, clock::now());
        let order = |id: Id| (id, self.roster.slot(id).expect("a member").admin());
        self.members = ids.into_iter().map(order).collect();
    }

    fn a_member(&mut self) -> Option<Id> {
        let among = self.members.len().max(1);
        self.members.keys().nth(self.rng.usize(..among)).copied()
    }

    fn order(&mut self) {
        let Some(id) = self.a_member() else { return };
        let admin = [Admin::Enabled, Admin::Enabled, Admin::Draining, Admin::Disabled][self.rng.usize(..4)];
        self.roster.set_admin(id, admin, clock::now());
        self.members.insert(id, admin);
    }

    fn probe(&mut self) {
        let Some(id) = self.a_member() else { return };
        let health = if self.rng.bool() { Status::Healthy } else { Status::Unhealthy };
        self.roster.set_health(id, health, clock::now());
    }

    fn begin_and_leave_pending(&mut self) {
        let mut plan = Plan::new(self.retry);
        let _ = self.lease(&mut plan);
    }

    fn cancel_a_dial(&mut self) {
        if let Some(dial) = self.dials.keys().next().copied() {
            if self.rng.bool() {
                self.establish(dial);
            } else {
                self.forget_dial(dial);
            }
        }
    }

    fn establish(&mut self, dial: u64) {
        let endpoint = self.dials.remove(&dial).expect("it was begun");
        self.roster.established(endpoint);
        self.sessions.insert(dial, endpoint);
    }

    fn forget_dial(&mut self, dial: u64) {
        let endpoint = self.dials.remove(&dial).expect("it was begun");
        self.roster.abandoned(endpoint);
    }

    fn end_a_session(&mut self) {
        let Some(session) = self.sessions.keys().nth(self.rng.usize(..self.sessions.len().max(1))).copied()
        else {
            return;
        };
        let endpoint = self.sessions.remove(&session).expect("it lives");
        self.roster.ended(endpoint);
    }

    fn check(&self) {
        let total = self.roster.total();
        assert!(total.total() <= self.limits.max_connections, "max_connections overshot");
        assert!(total.dials <= self.limits.max_pending, "max_pending overshot");
        assert_eq!(total.total() as usize, self.dials.len() + self.sessions.len(), "the total drifted");
        for slot in self.roster.slots() {
            let (id, load) = (slot.id(), slot.load());
            assert!(load.total() <= self.limits.max_connections_per_endpoint, "{id:?} overshot");
            let dials = self.dials.values().filter(|on| **on == id).count();
            let sessions = self.sessions.values().filter(|on| **on == id).count();
            let counted = (load.dials as usize, load.sessions as usize);
            assert_eq!(counted, (dials, sessions), "{id:?} drifted");
            assert_eq!(slot.is_member(), self.members.contains_key(&id), "{id:?}");
            assert!(slot.is_member() || load.total() > 0, "{id:?} is kept for nothing");
        }
        let mut used = self.dials.values().chain(self.sessions.values());
        assert!(used.all(|id| self.roster.slot(*id).is_some()), "forgotten while in use");
    }
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    match number("SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SEEDS").unwrap_or(SEEDS)).collect(),
    }
}

#[test]
fn limits_retries_and_balance_hold_whatever_happens() {
    for seed in seeds() {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.step();
            }
            world.picks
        });
        let picks = run.unwrap_or_else(|_| panic!("failed with SEED={seed}"));
        assert!(picks > 0, "SEED={seed} dialled nothing");
    }
}

#[test]
fn a_seed_replays() {
    let run = |seed| {
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        (world.picks, world.roster.total().sessions, world.next)
    };
    for seed in 0..10 {
        assert_eq!(run(seed), run(seed));
    }
}
