//! Which of the eligible endpoints takes the next session.
//!
//! Database clusters have two or three endpoints and sessions that live for hours, so counts are exact:
//! `least_connections` looks at every endpoint (sampling two of three picks a busier one a quarter of the
//! time) and counts dials in flight, or a burst would pile onto the one that was idle when it began.
//! What is eligible is decided elsewhere.

use std::cmp::Ordering;

use fastrand::Rng;

use super::slot::Slot;

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

impl Policy {
    /// The place in `slots` of the endpoint to use, one of `candidates`; `None` only when there is no candidate.
    pub fn pick(self, slots: &mut [Slot], candidates: &[usize], rng: &mut Rng) -> Option<usize> {
        match self {
            Self::RoundRobin => next_in_turn(slots, candidates),
            Self::LeastConnections => least_loaded(slots, candidates, rng),
        }
    }
}

/// Every candidate earns its weight, the richest is picked and pays what all earned.
fn next_in_turn(slots: &mut [Slot], candidates: &[usize]) -> Option<usize> {
    let mut total = 0;
    let mut richest: Option<usize> = None;
    for candidate in candidates.iter().copied() {
        let weight = i64::from(slots[candidate].weight);
        total += weight;
        slots[candidate].credit += weight;
        if richest.is_none_or(|best| slots[candidate].credit > slots[best].credit) {
            richest = Some(candidate);
        }
    }
    let picked = richest?;
    slots[picked].credit -= total;
    Some(picked)
}

/// A full scan; each of `n` equals is kept with probability 1/n (reservoir sampling).
fn least_loaded(slots: &[Slot], candidates: &[usize], rng: &mut Rng) -> Option<usize> {
    let mut best: Option<usize> = None;
    let mut equals = 0;
    for candidate in candidates.iter().copied() {
        match best.map_or(Ordering::Less, |best| cmp_load(&slots[candidate], &slots[best])) {
            Ordering::Less => {
                best = Some(candidate);
                equals = 1;
            }
            Ordering::Equal => {
                equals += 1;
                if rng.usize(..equals) == 0 {
                    best = Some(candidate);
                }
            }
            Ordering::Greater => {}
        }
    }
    best
}

/// Compares what each would carry per weight with one session more, without a division: so an idle endpoint of weight 2
/// goes before an idle one of weight 1.
fn cmp_load(one: &Slot, other: &Slot) -> Ordering {
    let ours = (u64::from(one.load.total()) + 1) * u64::from(other.weight);
    let theirs = (u64::from(other.load.total()) + 1) * u64::from(one.weight);
    ours.cmp(&theirs)
}

#[cfg(test)]
mod tests {
    use super::super::limits::Load;
    use super::super::slot::Id;
    use super::*;
    use crate::clock;

    fn slots(weights_and_loads: &[(u32, u32)]) -> Vec<Slot> {
        let slot = |&(weight, sessions): &(u32, u32)| Slot {
            load: Load { sessions, dials: 0 },
            ..Slot::new(Id::FIRST, weight, clock::now())
        };
        weights_and_loads.iter().map(slot).collect()
    }

    fn check_turns(weights: &[u32], expected: &[usize]) {
        let mut slots = slots(&weights.iter().map(|weight| (*weight, 0)).collect::<Vec<_>>());
        let all: Vec<_> = (0..slots.len()).collect();
        let mut rng = Rng::with_seed(1);
        let turns: Vec<_> =
            expected.iter().map(|_| Policy::RoundRobin.pick(&mut slots, &all, &mut rng).unwrap()).collect();
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
        let mut slots = slots(&[(1, 0), (1, 0), (1, 0)]);
        let mut rng = Rng::with_seed(1);
        let mut taken = [0; 3];
        for _ in 0..300 {
            taken[Policy::RoundRobin.pick(&mut slots, &[0, 1], &mut rng).unwrap()] += 1;
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
            let mut slots = slots(weights_and_loads);
            let all: Vec<_> = (0..slots.len()).collect();
            let picked = Policy::LeastConnections.pick(&mut slots, &all, &mut rng);
            assert_eq!(picked, Some(expected), "{weights_and_loads:?}");
        }
    }

    #[test]
    fn least_connections_breaks_ties_evenly() {
        let mut slots = slots(&[(1, 0), (1, 0), (1, 0)]);
        let mut rng = Rng::with_seed(7);
        let mut taken = [0_i32; 3];
        for _ in 0..30_000 {
            taken[Policy::LeastConnections.pick(&mut slots, &[0, 1, 2], &mut rng).unwrap()] += 1;
        }
        assert!(taken.iter().all(|count| (count - 10_000).abs() < 500), "{taken:?}");
    }

    #[test]
    fn no_candidate_is_no_pick() {
        let mut rng = Rng::with_seed(1);
        for policy in [Policy::RoundRobin, Policy::LeastConnections] {
            assert_eq!(policy.pick(&mut slots(&[(1, 0)]), &[], &mut rng), None);
        }
    }
}
