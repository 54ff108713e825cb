//! Which endpoint takes the next session: the whole decision as a cluster makes it under its lock, and the counting
//! over the session's life.
//!
//! Two and three endpoints are the usual cluster, 100 a large one, 10,000 an absurd one.

use std::time::Duration;

use ambassador::internals::clock;
use ambassador::internals::policy::balance::Policy;
use ambassador::internals::policy::cluster_state::{ClusterState, Settings};
use ambassador::internals::policy::eligibility::Panic;
use ambassador::internals::policy::endpoint_state::EndpointSpec;
use ambassador::internals::policy::limits::Settings as Limits;
use ambassador::internals::policy::retry::{Plan, Settings as Retry};
use ambassador::internals::policy::{breaker, budget, hedge, outlier};
use criterion::{BenchmarkId, Criterion};
use fastrand::Rng;

const ENDPOINTS: [usize; 5] = [2, 3, 16, 100, 10_000];
const TOOK: Duration = Duration::from_millis(1);

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for policy in Policy::ALL {
        for endpoints in ENDPOINTS {
            let id = BenchmarkId::new(policy.label(), endpoints);
            group.bench_function(id, |bencher| {
                let mut cluster_state = in_use(policy, endpoints);
                let (mut rng, now) = (Rng::with_seed(1), clock::now());
                bencher.iter(|| {
                    let mut plan = Plan::new(RETRY);
                    let (picked, ticket) = cluster_state
                        .begin(&mut plan, Some(7), now, &mut rng)
                        .expect("every session before has ended");
                    cluster_state.record_established(picked, ticket, TOOK, now);
                    cluster_state.record_session_end(picked);
                    picked
                });
            });
        }
    }
    group.finish();
}

/// Every weight and every load differs from its neighbour's, as in practice.
fn in_use(policy: Policy, endpoints: usize) -> ClusterState {
    let mut cluster_state = ClusterState::new(settings(policy));
    let member = |(key, weight)| EndpointSpec { id: None, weight, priority: 0, key };
    let members: Vec<_> = (0..).zip((1..=3).cycle()).map(member).take(endpoints).collect();
    for (id, sessions) in cluster_state.set_endpoints(&members, clock::now()).into_iter().zip((0..7).cycle())
    {
        for _ in 0..sessions {
            let ticket = cluster_state.begin_at(id, &mut Plan::new(RETRY)).expect("a member");
            cluster_state.record_established(id, ticket, TOOK, clock::now());
        }
    }
    cluster_state
}

/// The defaults of the configuration.
fn settings(balance: Policy) -> Settings {
    let (half, ten) = (Duration::from_millis(500), Duration::from_secs(10));
    Settings {
        balance,
        limits: LIMITS,
        outlier: Some(outlier::Settings {
            consecutive_failures: 3,
            base_ejection_time: half,
            max_ejection_time: ten,
            early_close: Duration::from_secs(1),
        }),
        breaker: Some(breaker::Settings {
            consecutive_failures: 5,
            open_for: half / 5,
            max_open_for: half,
            half_open_trials: 1,
        }),
        retry_budget: Some(budget::Settings { ratio: 0.2, min_per_second: 3.0 }),
        hedge: Some(hedge::Settings::by_history(Duration::from_secs(3))),
        panic: Panic::All,
        slow_start: Duration::ZERO,
        penalty: Duration::from_secs(3),
    }
}

const LIMITS: Limits =
    Limits { max_connections: 100_000, max_pending: 100, max_connections_per_endpoint: 100 };

const RETRY: Retry =
    Retry { attempts: None, backoff_base: Duration::from_millis(50), backoff_max: Duration::from_secs(1) };
