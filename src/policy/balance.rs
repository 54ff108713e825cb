//! Which of the eligible endpoints takes the next session.
//!
//! Database clusters have two or three endpoints and sessions that live for hours, so counts are exact: up to
//! `SCANNED` endpoints all are looked at (sampling two of three picks a busier one a quarter of the time), and dials in
//! flight count, or a burst would pile onto the one that was idle when it began. What is eligible is decided elsewhere.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::endpoint_state::EndpointState;

/// The algorithm, as named in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Smooth weighted round robin: weights 2 and 1 give a b a, never a a b.
    RoundRobin,
    /// The lowest (sessions + dials) per weight; ties at random.
    LeastConnections,
    /// The same, multiplied by how long dials take.
    Ewma,
    /// At random, by weight.
    Random,
    /// Always the same for the same key, as long as it is there (rendezvous hashing); a key whose endpoint is gone moves,
    /// and no other does. At random for a session without a key.
    SourceHash,
    /// The first in the file's order.
    First,
}

/// What a choice depends on beside the endpoints.
#[derive(Debug, Clone, Copy)]
pub struct PickContext {
    /// What `source_hash` is to keep together.
    pub key: Option<u64>,
    /// How long an endpoint that came back takes fewer sessions.
    pub slow_start: Duration,
    /// Now.
    pub now: Instant,
}

/// Up to so many candidates each is looked at; of more, two distinct ones drawn at random.
const SCANNED: usize = 16;
/// No endpoint counts as faster than this: below it, times are noise.
const FLOOR: f64 = 0.000_2;
/// No endpoint counts as slower than the fastest by more than this, so that one that is far away, or that failed once, is
/// not starved, and its average can recover.
const RATIO_MAX: f64 = 4.0;
/// An endpoint that has just come back takes at least this part of its share.
const RAMP_MIN: f64 = 0.1;
/// Round robin counts in parts of a weight, for endpoints that are coming back.
const PARTS: f64 = 1024.0;

impl Policy {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::RoundRobin, Self::LeastConnections, Self::Ewma, Self::Random, Self::SourceHash, Self::First];

    /// The word in the file.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
            Self::Ewma => "ewma",
            Self::Random => "random",
            Self::SourceHash => "source_hash",
            Self::First => "first",
        }
    }

    /// The place in `endpoint_states` of the endpoint to use, one of `candidates`; `None` only when there is no candidate.
    pub fn pick(
        self,
        endpoint_states: &mut [EndpointState],
        candidates: &[usize],
        choice: &PickContext,
        rng: &mut Rng,
    ) -> Option<usize> {
        let ramp = Ramp::of(endpoint_states, candidates, choice);
        match self {
            Self::RoundRobin => next_in_turn(endpoint_states, candidates, ramp),
            Self::LeastConnections => {
                cheapest(candidates, rng, |candidate| ramp.cost(&endpoint_states[candidate]))
            }
            Self::Ewma => {
                seed(endpoint_states, candidates, choice.now);
                let time =
                    |candidate: usize| endpoint_states[candidate].ewma.seconds().unwrap_or(FLOOR).max(FLOOR);
                let fastest = candidates.iter().copied().map(time).fold(f64::INFINITY, f64::min);
                let time = |candidate| time(candidate).min(fastest * RATIO_MAX);
                cheapest(candidates, rng, |candidate| {
                    ramp.cost(&endpoint_states[candidate]) * time(candidate)
                })
            }
            Self::Random => at_random(endpoint_states, candidates, ramp, rng),
            Self::SourceHash => match choice.key {
                Some(key) => by_key(endpoint_states, candidates, key),
                None => at_random(endpoint_states, candidates, ramp, rng),
            },
            Self::First => {
                candidates.iter().copied().min_by_key(|candidate| endpoint_states[*candidate].place)
            }
        }
    }
}

/// How much of its share an endpoint takes that came back a short while ago.
#[derive(Debug, Clone, Copy)]
struct Ramp {
    now: Instant,
    /// `None`: all take theirs whole.
    slow_start: Option<Duration>,
}

impl Ramp {
    /// Where all of them are coming back, or there is only one, nobody could take what it is spared.
    fn of(endpoint_states: &[EndpointState], candidates: &[usize], choice: &PickContext) -> Self {
        let ramp = Self { now: choice.now, slow_start: Some(choice.slow_start) };
        let is_whole = |candidate: &usize| ramp.part(&endpoint_states[*candidate]) >= 1.0;
        let matters = !choice.slow_start.is_zero() && candidates.iter().any(is_whole);
        Self { slow_start: ramp.slow_start.filter(|_| matters), ..ramp }
    }

    fn part(self, endpoint_state: &EndpointState) -> f64 {
        let (Some(slow_start), Some(since)) = (self.slow_start, endpoint_state.back_since) else {
            return 1.0;
        };
        let passed = self.now.saturating_duration_since(since).as_secs_f64();
        (passed / slow_start.as_secs_f64()).clamp(RAMP_MIN, 1.0)
    }

    fn weight(self, endpoint_state: &EndpointState) -> f64 {
        f64::from(endpoint_state.weight) * self.part(endpoint_state)
    }

    /// What each would carry per weight with one session more: so an idle endpoint of weight 2 goes before an idle one of
    /// weight 1. Equal fractions give equal quotients, so ties are found.
    fn cost(self, endpoint_state: &EndpointState) -> f64 {
        (f64::from(endpoint_state.load.total()) + 1.0) / self.weight(endpoint_state)
    }
}

/// Every candidate earns its weight, the richest is picked and pays what all earned.
fn next_in_turn(endpoint_states: &mut [EndpointState], candidates: &[usize], ramp: Ramp) -> Option<usize> {
    let mut total = 0;
    let mut richest: Option<usize> = None;
    for candidate in candidates.iter().copied() {
        // At most 65535 × 1024, and at least 102.
        let earned = (ramp.weight(&endpoint_states[candidate]) * PARTS) as i64;
        total += earned;
        endpoint_states[candidate].credit += earned;
        if richest.is_none_or(|best| endpoint_states[candidate].credit > endpoint_states[best].credit) {
            richest = Some(candidate);
        }
    }
    let picked = richest?;
    endpoint_states[picked].credit -= total;
    Some(picked)
}

fn cheapest(candidates: &[usize], rng: &mut Rng, cost: impl Fn(usize) -> f64) -> Option<usize> {
    if candidates.len() <= SCANNED {
        return least(candidates, rng, cost);
    }
    let first = rng.usize(..candidates.len());
    let second = rng.usize(..candidates.len() - 1);
    let second = second + usize::from(second >= first);
    least(&[candidates[first], candidates[second]], rng, cost)
}

/// Each of `n` equals is kept with probability 1/n (reservoir sampling).
fn least(candidates: &[usize], rng: &mut Rng, cost: impl Fn(usize) -> f64) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    let mut equals = 0;
    for candidate in candidates.iter().copied() {
        let cost = cost(candidate);
        match best {
            Some((_, lowest)) if cost > lowest => {}
            Some((_, lowest)) if cost >= lowest => {
                equals += 1;
                if rng.usize(..equals) == 0 {
                    best = Some((candidate, cost));
                }
            }
            _ => {
                best = Some((candidate, cost));
                equals = 1;
            }
        }
    }
    best.map(|(candidate, _)| candidate)
}

fn at_random(
    endpoint_states: &[EndpointState],
    candidates: &[usize],
    ramp: Ramp,
    rng: &mut Rng,
) -> Option<usize> {
    let total: f64 = candidates.iter().map(|candidate| ramp.weight(&endpoint_states[*candidate])).sum();
    let mut left = rng.f64() * total;
    let picked = candidates.iter().copied().find(|candidate| {
        left -= ramp.weight(&endpoint_states[*candidate]);
        left < 0.0
    });
    // What rounding leaves falls to the last.
    picked.or_else(|| candidates.last().copied())
}

/// Weighted rendezvous hashing: each candidate draws by key and name, and the luckiest has it. `-w / ln(u)`, so that the
/// shares are those of the weights.
fn by_key(endpoint_states: &[EndpointState], candidates: &[usize], key: u64) -> Option<usize> {
    let score = |candidate: usize| {
        let drawn = mix(key ^ endpoint_states[candidate].key);
        // 53 bits, strictly between 0 and 1.
        let drawn = ((drawn >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(endpoint_states[candidate].weight) / drawn.ln()
    };
    candidates
        .iter()
        .copied()
        .map(|candidate| (score(candidate), candidate))
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, candidate)| candidate)
}

/// Those that were never dialled count as their median neighbour: neither free, which would draw everything to them, nor
/// the slowest.
fn seed(endpoint_states: &mut [EndpointState], candidates: &[usize], now: Instant) {
    if candidates.iter().all(|candidate| endpoint_states[*candidate].ewma.seconds().is_some()) {
        return;
    }
    let mut known: Vec<_> = endpoint_states
        .iter()
        .filter(|endpoint_state| endpoint_state.is_member)
        .filter_map(|endpoint_state| endpoint_state.ewma.seconds())
        .collect();
    known.sort_by(f64::total_cmp);
    let Some(median) = known.get(known.len() / 2) else { return };
    candidates.iter().for_each(|candidate| endpoint_states[*candidate].ewma.seed(*median, now));
}

/// A hash that is the same in every process and every version: the keys of `source_hash` (FNV-1a, then mixed).
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// The finisher of splitmix64: each bit of what comes out depends on all that goes in.
const fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests;
