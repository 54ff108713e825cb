//! Which of the eligible endpoints takes the next session.
//!
//! Database clusters have two or three endpoints and sessions that live for hours, so counts are exact: up to `SCANNED`
//! endpoints are all compared (sampling two of three picks a busier one a quarter of the time). Dials in flight count,
//! or a burst would go to the endpoint that was idle when it began. Eligibility is decided elsewhere.

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
    /// As `LeastConnections`, multiplied by the average dial time.
    Ewma,
    /// At random, by weight.
    Random,
    /// The same endpoint for the same key (rendezvous hashing): if an endpoint leaves, only its keys move. At random
    /// for a session without a key.
    SourceHash,
    /// The first in the file's order.
    First,
}

/// What a pick depends on besides the endpoints.
#[derive(Debug, Clone, Copy)]
pub struct PickContext {
    /// The key of `source_hash`.
    pub key: Option<u64>,
    /// For how long an endpoint that came back takes fewer sessions.
    pub slow_start: Duration,
    /// The moment of the pick, for slow start and moving averages.
    pub now: Instant,
}

/// Up to this many candidates are all compared; of more, two distinct ones at random.
const SCANNED: usize = 16;
/// The shortest dial time in seconds that counts; below it, times are noise.
const FLOOR: f64 = 0.000_2;
/// The highest ratio of dial times that counts, so that an endpoint that is far away, or that failed once, still gets
/// sessions and its average can recover.
const RATIO_MAX: f64 = 4.0;
/// The least part of its share that an endpoint takes when it has just come back.
const RAMP_MIN: f64 = 0.1;
/// Round robin counts in these fractions of a weight, for endpoints in slow start.
const PARTS: f64 = 1024.0;

impl Policy {
    /// Every policy, in the order of [`Policy::LABELS`].
    pub const ALL: [Self; 6] =
        [Self::RoundRobin, Self::LeastConnections, Self::Ewma, Self::Random, Self::SourceHash, Self::First];

    /// Their names, in the same order.
    pub const LABELS: [&'static str; Self::ALL.len()] = {
        let mut labels = [""; Self::ALL.len()];
        let mut index = 0;
        while index < labels.len() {
            labels[index] = Self::ALL[index].label();
            index += 1;
        }
        labels
    };

    /// The name in the file.
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

    /// Picks one of `candidates`, which are indexes into `endpoint_states`; `None` only if there is no candidate.
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

/// Slow start: the part of its share that an endpoint takes after it came back.
#[derive(Debug, Clone, Copy)]
struct Ramp {
    now: Instant,
    /// `None`: all take their whole share.
    slow_start: Option<Duration>,
}

impl Ramp {
    /// Slow start applies only if some candidate takes its whole share: else none could take more.
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

    /// The load per weight with one session more, so that an idle endpoint of weight 2 goes before an idle one of
    /// weight 1. Equal fractions give equal quotients, so ties are found.
    fn cost(self, endpoint_state: &EndpointState) -> f64 {
        (f64::from(endpoint_state.load.total()) + 1.0) / self.weight(endpoint_state)
    }
}

/// Every candidate's credit grows by its weight; the highest is picked and pays the sum of all weights.
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
    // After rounding errors, the last one.
    picked.or_else(|| candidates.last().copied())
}

/// Weighted rendezvous hashing: each candidate draws `u` by key and name, and the highest score is picked. The score is
/// `-w / ln(u)`, so that the shares follow the weights.
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

/// Endpoints that were never dialled get the median average: with zero they would draw all sessions, and with the
/// highest none.
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

/// A hash that is the same in every process and every version, for the keys of `source_hash` (FNV-1a, then mixed).
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// The finisher of splitmix64: each output bit depends on all input bits.
const fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests;
