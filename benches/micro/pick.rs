//! Which endpoint takes the next session: the whole decision as a cluster makes it under its lock, and the counting of the
//! session's life.
//!
//! Two and three endpoints are the usual cluster, 100 a large one, 10,000 an absurd one.

use std::time::Duration;

use ambassador::clock;
use ambassador::policy::balance::Policy;
use ambassador::policy::limits::Settings as Limits;
use ambassador::policy::retry::{Plan, Settings as Retry};
use ambassador::policy::roster::Roster;
use ambassador::policy::slot::Member;
use criterion::{BenchmarkId, Criterion};
use fastrand::Rng;

const ENDPOINTS: [usize; 5] = [2, 3, 16, 100, 10_000];
const POLICIES: [Policy; 2] = [Policy::RoundRobin, Policy::LeastConnections];

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for policy in POLICIES {
        for endpoints in ENDPOINTS {
            let id = BenchmarkId::new(policy.label(), endpoints);
            group.bench_function(id, |bencher| {
                let mut roster = in_use(policy, endpoints);
                let mut rng = Rng::with_seed(1);
                bencher.iter(|| {
                    let mut plan = Plan::new(RETRY);
                    let picked = roster.begin(&mut plan, &mut rng).expect("every session before has ended");
                    roster.established(picked);
                    roster.ended(picked);
                    picked
                });
            });
        }
    }
    group.finish();
}

/// Every weight and every load differs from its neighbour's, as they do in life.
fn in_use(policy: Policy, endpoints: usize) -> Roster {
    let mut roster = Roster::new(policy, LIMITS);
    let members: Vec<_> = (1..=3).cycle().map(|weight| Member { id: None, weight }).take(endpoints).collect();
    for (id, sessions) in roster.rearrange(&members, clock::now()).into_iter().zip((0..7).cycle()) {
        for _ in 0..sessions {
            roster.begin_at(id, &mut Plan::new(RETRY)).expect("a member");
            roster.established(id);
        }
    }
    roster
}

const LIMITS: Limits =
    Limits { max_connections: 100_000, max_pending: 100, max_connections_per_endpoint: 100 };

const RETRY: Retry =
    Retry { attempts: 3, backoff_base: Duration::from_millis(50), backoff_max: Duration::from_secs(1) };
