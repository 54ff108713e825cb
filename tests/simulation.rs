//! A seeded simulation of the policies against a shadow model: endpoints that fail at random, sessions that
//! come and go, dials that are cancelled, many thousand steps of it.
//!
//! Everything flows from one seed, which a failure prints; `SEED=n cargo test --test simulation` replays it
//! and `SEEDS=n` runs that many.

use std::collections::BTreeMap;
use std::time::Duration;

use ambassador::policy::balance::Policy;
use ambassador::policy::limits::{Full, Settings as Limits};
use ambassador::policy::retry::{Plan, Settings as Retry};
use ambassador::policy::roster::Roster;
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
    dials: BTreeMap<u64, usize>,
    sessions: BTreeMap<u64, usize>,
    next: u64,
    picks: Vec<u64>,
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
        let weights = (0..endpoints).map(|_| rng.u32(1..5)).collect();
        Self {
            limits,
            retry: Retry {
                attempts: rng.u32(1..8),
                backoff_base: Duration::from_millis(rng.u64(0..50)),
                backoff_max: Duration::from_millis(rng.u64(50..500)),
            },
            roster: Roster::new(policy, limits, weights),
            dials: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next: 0,
            picks: vec![0; endpoints],
            rng,
        }
    }

    fn step(&mut self) {
        match self.rng.u32(..10) {
            0..=4 => self.dial_with_retries(),
            5 => self.begin_and_leave_pending(),
            6 => self.cancel_a_dial(),
            _ => self.end_a_session(),
        }
        self.check();
    }

    fn lease(&mut self, plan: &mut Plan) -> Result<u64, Full> {
        let with_room = self.roster.with_room();
        let picked = self.roster.begin(plan, &mut self.rng)?;
        assert!(with_room.contains(&picked), "picked an endpoint without room");
        self.picks[picked] += 1;
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
            let untried =
                self.roster.with_room().into_iter().any(|other| !tried.contains(&other) && other != endpoint);
            assert!(
                !(tried.contains(&endpoint) && untried),
                "went back to {endpoint} while an untried endpoint had room"
            );
            tried.push(endpoint);
            if self.rng.u32(..3) > 0 {
                return self.establish(dial);
            }
            self.forget_dial(dial);
            let wait = plan.wait(&self.roster.with_room(), &mut self.rng);
            assert!(wait <= self.retry.backoff_max.max(self.retry.backoff_base), "waited {wait:?}");
        }
        assert!(plan.attempts() <= self.retry.attempts);
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
        for (endpoint, load) in self.roster.loads().iter().enumerate() {
            assert!(load.total() <= self.limits.max_connections_per_endpoint, "endpoint {endpoint} overshot");
            let dials = self.dials.values().filter(|on| **on == endpoint).count();
            let sessions = self.sessions.values().filter(|on| **on == endpoint).count();
            assert_eq!(
                (load.dials as usize, load.sessions as usize),
                (dials, sessions),
                "endpoint {endpoint} drifted"
            );
        }
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
        assert!(picks.iter().sum::<u64>() > 0, "SEED={seed} dialled nothing");
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
