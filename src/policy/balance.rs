//! Which of the eligible endpoints takes the next session.
//!
//! Database clusters have two or three endpoints and sessions that live for hours, so counts are exact:
//! `least_connections` looks at every endpoint (sampling two of three picks a busier one a quarter of the
//! time) and counts dials in flight, or a burst would pile onto the one that was idle when it began.
//! What is eligible is decided elsewhere.

use std::cmp::Ordering;

use fastrand::Rng;

/// The algorithm, as named in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Smooth weighted round robin: weights 2 and 1 give a b a, never a a b.
    RoundRobin,
    /// The lowest (sessions + dials) per weight; ties at random.
    LeastConnections,
}

impl Policy {
    /// The word in the file.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
        }
    }
}

/// An endpoint that may be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the cluster.
    pub index: usize,
    /// Its share, at least 1.
    pub weight: u32,
    /// Its live sessions and dials in flight.
    pub load: u32,
}

/// A policy with what it remembers between picks.
#[derive(Debug)]
pub struct Balancer {
    policy: Policy,
    /// Round robin's credit of each endpoint, by its place in the cluster.
    credit: Vec<i64>,
}

impl Balancer {
    /// For a cluster of `endpoints` endpoints.
    #[must_use]
    pub fn new(policy: Policy, endpoints: usize) -> Self {
        Self { policy, credit: vec![0; endpoints] }
    }

    /// The place of the endpoint to use; `None` only when there is no candidate.
    pub fn pick(&mut self, candidates: &[Candidate], rng: &mut Rng) -> Option<usize> {
        match self.policy {
            Policy::RoundRobin => self.next_in_turn(candidates),
            Policy::LeastConnections => least_loaded(candidates, rng),
        }
    }

    /// Every candidate earns its weight, the richest is picked and pays what all earned.
    fn next_in_turn(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let mut total = 0;
        let mut richest: Option<usize> = None;
        for candidate in candidates {
            total += i64::from(candidate.weight);
            self.credit[candidate.index] += i64::from(candidate.weight);
            if richest.is_none_or(|best| self.credit[candidate.index] > self.credit[best]) {
                richest = Some(candidate.index);
            }
        }
        let picked = richest?;
        self.credit[picked] -= total;
        Some(picked)
    }
}

/// A full scan; each of `n` equals is kept with probability 1/n (reservoir sampling).
fn least_loaded(candidates: &[Candidate], rng: &mut Rng) -> Option<usize> {
    let mut best: Option<Candidate> = None;
    let mut equals = 0;
    for candidate in candidates {
        match best.map_or(Ordering::Less, |best| candidate.cmp_load(&best)) {
            Ordering::Less => {
                best = Some(*candidate);
                equals = 1;
            }
            Ordering::Equal => {
                equals += 1;
                if rng.usize(..equals) == 0 {
                    best = Some(*candidate);
                }
            }
            Ordering::Greater => {}
        }
    }
    best.map(|candidate| candidate.index)
}

impl Candidate {
    /// Compares what each would carry per weight with one session more, without a division: so an idle
    /// endpoint of weight 2 goes before an idle one of weight 1.
    fn cmp_load(&self, other: &Self) -> Ordering {
        let ours = (u64::from(self.load) + 1) * u64::from(other.weight);
        let theirs = (u64::from(other.load) + 1) * u64::from(self.weight);
        ours.cmp(&theirs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(weights_and_loads: &[(u32, u32)]) -> Vec<Candidate> {
        weights_and_loads
            .iter()
            .enumerate()
            .map(|(index, &(weight, load))| Candidate { index, weight, load })
            .collect()
    }

    fn check_turns(weights: &[u32], expected: &[usize]) {
        let all = candidates(&weights.iter().map(|weight| (*weight, 0)).collect::<Vec<_>>());
        let mut balancer = Balancer::new(Policy::RoundRobin, all.len());
        let mut rng = Rng::with_seed(1);
        let turns: Vec<_> = expected.iter().map(|_| balancer.pick(&all, &mut rng).unwrap()).collect();
        assert_eq!(turns, expected, "weights {weights:?}");
    }

    #[test]
    fn round_robin_is_smooth_and_weighted() {
        check_turns(&[1], &[0, 0, 0]);
        check_turns(&[1, 1, 1], &[0, 1, 2, 0, 1, 2]);
        check_turns(&[2, 1], &[0, 1, 0, 0, 1, 0]);
        check_turns(&[5, 1, 1], &[0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn round_robin_shares_evenly_among_those_left_when_one_is_tried_already() {
        let all = candidates(&[(1, 0), (1, 0), (1, 0)]);
        let mut balancer = Balancer::new(Policy::RoundRobin, 3);
        let mut rng = Rng::with_seed(1);
        let mut taken = [0; 3];
        for _ in 0..300 {
            taken[balancer.pick(&all[..2], &mut rng).unwrap()] += 1;
        }
        assert_eq!(taken, [150, 150, 0]);
    }

    #[test]
    fn least_connections_takes_the_least_loaded_per_weight() {
        let mut rng = Rng::with_seed(1);
        for (weights_and_loads, expected) in [
            (&[(1, 3), (1, 2), (1, 9)][..], 1),
            (&[(1, 0), (2, 0)], 1),
            (&[(4, 7), (1, 2)], 0),
            (&[(1, 1), (3, 4)], 1),
        ] {
            let all = candidates(weights_and_loads);
            let picked = Balancer::new(Policy::LeastConnections, all.len()).pick(&all, &mut rng);
            assert_eq!(picked, Some(expected), "{weights_and_loads:?}");
        }
    }

    #[test]
    fn least_connections_breaks_ties_evenly() {
        let all = candidates(&[(1, 0), (1, 0), (1, 0)]);
        let mut balancer = Balancer::new(Policy::LeastConnections, 3);
        let mut rng = Rng::with_seed(7);
        let mut taken = [0_i32; 3];
        for _ in 0..30_000 {
            taken[balancer.pick(&all, &mut rng).unwrap()] += 1;
        }
        assert!(taken.iter().all(|count| (count - 10_000).abs() < 500), "{taken:?}");
    }

    #[test]
    fn no_candidate_is_no_pick() {
        let mut rng = Rng::with_seed(1);
        for policy in [Policy::RoundRobin, Policy::LeastConnections] {
            assert_eq!(Balancer::new(policy, 2).pick(&[], &mut rng), None);
        }
    }
}
