//! Each policy by itself, on endpoint states made by hand.

use super::super::endpoint_state::Id;
use super::super::limits::Load;
use super::*;
use crate::clock;

const SECOND: Duration = Duration::from_secs(1);

fn slots(weights_and_loads: &[(u32, u32)]) -> Vec<EndpointState> {
    let endpoint_state = |(place, &(weight, sessions)): (usize, &(u32, u32))| EndpointState {
        place,
        weight,
        key: hash(format!("db{place}:5432").as_bytes()),
        load: Load { sessions, dials: 0 },
        ..EndpointState::new(Id::FIRST, clock::now())
    };
    weights_and_loads.iter().enumerate().map(endpoint_state).collect()
}

fn choice(key: Option<u64>) -> PickContext {
    PickContext { key, slow_start: Duration::ZERO, now: clock::now() }
}

fn all(endpoint_states: &[EndpointState]) -> Vec<usize> {
    (0..endpoint_states.len()).collect()
}

/// How often each endpoint is picked, in that many picks that change no load.
fn shares(
    policy: Policy,
    endpoint_states: &mut [EndpointState],
    choice: &PickContext,
    picks: u32,
) -> Vec<u32> {
    let (candidates, mut rng) = (all(endpoint_states), Rng::with_seed(7));
    let mut taken = vec![0; endpoint_states.len()];
    for _ in 0..picks {
        taken[policy.pick(endpoint_states, &candidates, choice, &mut rng).unwrap()] += 1;
    }
    taken
}

#[track_caller]
fn assert_near(shares: &[u32], expected: &[u32]) {
    let near = |(share, expected): (&u32, &u32)| share.abs_diff(*expected) * 20 <= *expected.max(&500);
    assert!(shares.iter().zip(expected).all(near), "{shares:?}, and {expected:?} were due");
}

fn check_turns(weights: &[u32], expected: &[usize]) {
    let mut endpoint_states = slots(&weights.iter().map(|weight| (*weight, 0)).collect::<Vec<_>>());
    let (all, mut rng) = (all(&endpoint_states), Rng::with_seed(1));
    let mut turn = || Policy::RoundRobin.pick(&mut endpoint_states, &all, &choice(None), &mut rng).unwrap();
    let turns: Vec<_> = expected.iter().map(|_| turn()).collect();
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
    let mut endpoint_states = slots(&[(1, 0), (1, 0), (1, 0)]);
    let mut rng = Rng::with_seed(1);
    let mut taken = [0; 3];
    for _ in 0..300 {
        taken[Policy::RoundRobin.pick(&mut endpoint_states, &[0, 1], &choice(None), &mut rng).unwrap()] += 1;
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
        let mut endpoint_states = slots(weights_and_loads);
        let all = all(&endpoint_states);
        let picked = Policy::LeastConnections.pick(&mut endpoint_states, &all, &choice(None), &mut rng);
        assert_eq!(picked, Some(expected), "{weights_and_loads:?}");
    }
}

#[test]
fn least_connections_breaks_ties_evenly() {
    for weights_and_loads in [[(1, 0), (1, 0), (1, 0)], [(3, 8), (1, 2), (2, 5)]] {
        let taken = shares(Policy::LeastConnections, &mut slots(&weights_and_loads), &choice(None), 30_000);
        assert_near(&taken, &[10_000, 10_000, 10_000]);
    }
}

/// Of many endpoints two are compared, and never one with itself: the busiest is never picked.
#[test]
fn above_sixteen_two_distinct_ones_are_compared() {
    let mut loads = vec![(1, 1); 20];
    loads[3] = (1, 9);
    loads[4] = (1, 0);
    let taken = shares(Policy::LeastConnections, &mut slots(&loads), &choice(None), 20_000);
    assert_eq!(taken[3], 0, "sampling with replacement would pick it now and then");
    assert!((1_800..2_200).contains(&taken[4]), "a tenth of the samples has it: {taken:?}");
    assert!(taken.iter().enumerate().all(|(place, taken)| *taken > 0 || place == 3), "{taken:?}");
}

fn timed(times_ms: &[Option<u64>]) -> Vec<EndpointState> {
    let mut endpoint_states = slots(&vec![(1, 0); times_ms.len()]);
    for (endpoint_state, ms) in endpoint_states.iter_mut().zip(times_ms) {
        ms.iter().for_each(|ms| endpoint_state.ewma.sample(Duration::from_millis(*ms), clock::now()));
    }
    endpoint_states
}

/// The loads after that many sessions that stay.
fn filled(mut endpoint_states: Vec<EndpointState>, sessions: u32) -> Vec<u32> {
    let (all, mut rng) = (all(&endpoint_states), Rng::with_seed(7));
    for _ in 0..sessions {
        let picked = Policy::Ewma.pick(&mut endpoint_states, &all, &choice(None), &mut rng).unwrap();
        endpoint_states[picked].load.sessions += 1;
    }
    endpoint_states.iter().map(|endpoint_state| endpoint_state.load.sessions).collect()
}

#[test]
fn ewma_shares_by_time_within_a_bounded_ratio() {
    assert_eq!(filled(timed(&[Some(10), Some(20)]), 300), [200, 100]);
    assert_eq!(filled(timed(&[Some(10), Some(10_000)]), 500), [400, 100], "four times at most");
    let alike = filled(timed(&[Some(0), Some(0)]), 100);
    assert_eq!(alike, [50, 50], "below the floor times are noise");
}

#[test]
fn ewma_takes_a_new_endpoint_for_its_median_neighbour() {
    assert_eq!(
        filled(timed(&[Some(10), Some(20), Some(40), None]), 90)[1],
        filled(timed(&[Some(10), Some(20), Some(40), None]), 90)[3]
    );
    assert_eq!(filled(timed(&[None, None]), 10), [5, 5]);
}

#[test]
fn random_shares_by_weight() {
    let taken = shares(Policy::Random, &mut slots(&[(1, 0), (3, 0), (6, 0)]), &choice(None), 50_000);
    assert_near(&taken, &[5_000, 15_000, 30_000]);
    let taken = shares(Policy::SourceHash, &mut slots(&[(1, 0), (3, 0), (6, 0)]), &choice(None), 50_000);
    assert_near(&taken, &[5_000, 15_000, 30_000]);
}

#[test]
fn a_key_keeps_its_endpoint_and_only_those_of_a_lost_one_move() {
    let mut endpoint_states = slots(&[(1, 0), (1, 0), (2, 0)]);
    let (all, mut rng) = (all(&endpoint_states), Rng::with_seed(7));
    let mut owner = |key: u64, candidates: &[usize], rng: &mut Rng| {
        Policy::SourceHash
            .pick(&mut endpoint_states, candidates, &choice(Some(hash(&key.to_le_bytes()))), rng)
            .unwrap()
    };
    let mut taken = [0; 3];
    for key in 0..20_000 {
        let owned = owner(key, &all, &mut rng);
        taken[owned] += 1;
        assert_eq!(owner(key, &all, &mut rng), owned);
        let without_first = owner(key, &[1, 2], &mut rng);
        assert!(owned == 0 || without_first == owned, "key {key} moved without need");
    }
    assert_near(&taken, &[5_000, 5_000, 10_000]);
}

/// A change of these hashes would move the keys of every cluster in use.
#[test]
fn hashes_are_what_they_always_were() {
    assert_eq!(hash(b""), 0xf52a_15e9_a9b5_e89b);
    assert_eq!(hash(b"db1.example.com:5432"), 13_286_228_875_910_633_870);
}

#[test]
fn first_goes_by_the_order_of_the_file() {
    let mut endpoint_states = slots(&[(1, 0), (1, 9), (1, 0)]);
    endpoint_states[1].place = 0;
    endpoint_states[0].place = 1;
    let mut rng = Rng::with_seed(7);
    assert_eq!(Policy::First.pick(&mut endpoint_states, &[0, 1, 2], &choice(None), &mut rng), Some(1));
    assert_eq!(Policy::First.pick(&mut endpoint_states, &[0, 2], &choice(None), &mut rng), Some(0));
}

#[test]
fn who_came_back_takes_a_growing_part_of_its_share_while_others_can_take_the_rest() {
    let now = clock::now();
    for policy in [Policy::RoundRobin, Policy::Random] {
        let mut both = slots(&[(1, 0), (1, 0)]);
        both[0].back_since = Some(now);
        let after = |passed| PickContext { key: None, slow_start: 10 * SECOND, now: now + passed };
        assert_near(&shares(policy, &mut both, &after(Duration::ZERO), 11_000), &[1_000, 10_000]);
        assert_near(&shares(policy, &mut both, &after(5 * SECOND), 12_000), &[4_000, 8_000]);
        assert_near(&shares(policy, &mut both, &after(10 * SECOND), 10_000), &[5_000, 5_000]);
        both[1].back_since = Some(now + SECOND);
        assert_near(&shares(policy, &mut both, &after(SECOND), 10_000), &[5_000, 5_000]);
    }
    let mut both = slots(&[(1, 2), (1, 9)]);
    both[0].back_since = Some(now);
    let early = PickContext { key: None, slow_start: 10 * SECOND, now };
    let picked = Policy::LeastConnections.pick(&mut both, &[0, 1], &early, &mut Rng::with_seed(1));
    assert_eq!(picked, Some(1), "2 + 1 at a tenth of the weight is more than 9 + 1");
}

#[test]
fn no_candidate_is_no_pick() {
    let mut rng = Rng::with_seed(1);
    for policy in Policy::ALL {
        for key in [None, Some(1)] {
            assert_eq!(policy.pick(&mut slots(&[(1, 0)]), &[], &choice(key), &mut rng), None);
        }
    }
}
