//! Which endpoint takes the next session: the balancers alone, and the whole decision as a cluster makes it
//! under its lock.
//!
//! Two and three endpoints are the usual cluster, 200 a large one.

use std::hint::black_box;
use std::time::Duration;

use ambassador::policy::balance::{Balancer, Candidate, Policy};
use ambassador::policy::limits::Settings as Limits;
use ambassador::policy::retry::{Plan, Settings as Retry};
use ambassador::policy::roster::Roster;
use criterion::{BenchmarkId, Criterion};
use fastrand::Rng;

const ENDPOINTS: [usize; 4] = [2, 3, 16, 200];
const POLICIES: [Policy; 2] = [Policy::RoundRobin, Policy::LeastConnections];

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for policy in POLICIES {
        for endpoints in ENDPOINTS {
            let id = BenchmarkId::new(policy.label(), endpoints);
            group.bench_function(id, |bencher| {
                let candidates = candidates(endpoints);
                let mut balancer = Balancer::new(policy, endpoints);
                let mut rng = Rng::with_seed(1);
                bencher.iter(|| balancer.pick(black_box(&candidates), &mut rng));
            });
        }
        for endpoints in ENDPOINTS {
            let id = BenchmarkId::new(format!("{}_whole_session", policy.label()), endpoints);
            group.bench_function(id, |bencher| {
                let mut roster = Roster::new(policy, LIMITS, vec![1; endpoints]);
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
fn candidates(endpoints: usize) -> Vec<Candidate> {
    let loads = (0_u32..).map(|index| (1 + index % 3, index % 7));
    (0..endpoints).zip(loads).map(|(index, (weight, load))| Candidate { index, weight, load }).collect()
}

const LIMITS: Limits = Limits { max_connections: 1000, max_pending: 100, max_connections_per_endpoint: 100 };

const RETRY: Retry =
    Retry { attempts: 3, backoff_base: Duration::from_millis(50), backoff_max: Duration::from_secs(1) };
