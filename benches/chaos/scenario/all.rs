//! All scenarios, made from a seed: `chaos --list` shows them.
//!
//! Lacks aims: those are in `aims`, for the quick ones.
use std::time::Duration;

use fastrand::Rng;

use super::{Naming, Scenario, Shape};
use crate::schedule::{Act, Event, Mode, Order, Window, event, fault};
use crate::speech::Speech;

/// How many of them are played.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Extent {
    Full,
    /// Within some 30 s.
    Quick,
}

/// In the order in which they are played.
pub(crate) fn all(seed: u64, extent: Extent) -> Vec<Scenario> {
    let secs = |full, quick| if extent == Extent::Full { full } else { quick };
    let mut scenarios = deaths(seed, &secs);
    scenarios.extend(misbehaviour(&secs));
    scenarios.extend(settings(seed, &secs));
    if extent == Extent::Quick {
        // Several at once share the machine.
        for Scenario { shape, .. } in &mut scenarios {
            (shape.rest, shape.longs) = (shape.rest.mul_f64(1.5), shape.longs.min(3));
        }
    }
    scenarios
}

/// Each scenario has a generator of its own, so that a selection is played like the whole.
fn drawn(seed: u64, name: &str) -> Rng {
    let salt = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    Rng::with_seed(seed ^ salt)
}

fn deaths(seed: u64, secs: &impl Fn(u64, u64) -> u64) -> Vec<Scenario> {
    let new = Scenario::new;
    let span = secs(60, 30);
    let four = secs(22, 10) as f64;
    let mut fast = Shape::of(3);
    (fast.shorts, fast.rest) = (8, Duration::from_millis(50));
    vec![
        new(
            "kill",
            "one of three dies for 2 s, every 5 s",
            secs(34, 18),
            kills(seed, secs(34, 18), 3),
            Shape::of(3),
        ),
        new(
            "often",
            "one of three is dead for 1.5 s, after 1, 2 or 4 s of peace, again and again",
            span,
            often(seed, span, 3),
            Shape::of(3),
        ),
        new("often-150", "the same at some 150 sessions a second", span, often(seed, span, 3), fast),
        new(
            "pairs",
            "two of three die together for 2.5 s, every 9 s",
            secs(58, 20),
            pairs(seed, secs(58, 20)),
            Shape::of(3),
        ),
        new(
            "flap",
            "one of three is dead for 0.3 s of every 0.6 s",
            secs(32, 18),
            flaps(4.0, four),
            Shape::of(3),
        )
        .with_windows(vec![window(0, 4.0, Some(four))]),
        new(
            "twodie",
            "two of three are dead for 8 s, then another two for 6 s",
            34,
            twice_two(),
            Shape::of(3),
        ),
        new(
            "alldown",
            "all three are dead for 5 s",
            secs(32, 18),
            fault(4.0, 9.0, Order::Kill, &[0, 1, 2]).to_vec(),
            Shape::of(3),
        ),
        new(
            "single",
            "the only one is dead for 20 s",
            44,
            fault(4.0, 24.0, Order::Kill, &[0]).to_vec(),
            Shape::of(1),
        ),
    ]
}

fn misbehaviour(secs: &impl Fn(u64, u64) -> u64) -> Vec<Scenario> {
    let new = Scenario::new;
    let (span, off) = (secs(32, 18), secs(22, 12) as f64);
    let be = |mode| fault(4.0, off, Order::Be(mode), &[0]).to_vec();
    let always = |mode| vec![event(0.0, Act::Tell(Order::Be(mode), vec![0]))];
    let mut stops = fault(4.0, 9.0, Order::Stop, &[0]).to_vec();
    stops.extend(fault(18.0, 23.0, Order::Stop, &[1]));
    let flood = Shape { shorts: 0, longs: 0, flood: 100_000_000, ..Shape::of(1) };
    vec![
        new("stop", "one of three freezes for 5 s, then another", 34, stops, Shape::of(3)),
        new(
            "stop15",
            "one of three freezes for 15 s",
            32,
            fault(4.0, 19.0, Order::Stop, &[0]).to_vec(),
            Shape::of(3),
        ),
        new("rst", "one of three resets what it accepts", span, be(Mode::Reset), Shape::of(3)),
        new(
            "early",
            "one of three ends sessions right after the handshake",
            span,
            be(Mode::Early),
            Shape::of(3),
        ),
        new(
            "wrongcert",
            "one of three shows a certificate of another CA",
            span,
            be(Mode::WrongCert),
            Shape::of(3),
        ),
        new("slow", "one of three takes 2 s before its handshake", span, be(Mode::Slow), Shape::of(3)),
        new("blackhole", "one of three answers no SYN", span, be(Mode::Blackhole), Shape::of(3)),
        new(
            "slowread",
            "a client sends 100 MB to one that reads 250 KB/s",
            26,
            always(Mode::SlowReader),
            flood,
        ),
        new(
            "full",
            "one of three turns all sessions but one away, politely",
            30,
            always(Mode::Full),
            Shape::of(3),
        ),
    ]
}

fn settings(seed: u64, secs: &impl Fn(u64, u64) -> u64) -> Vec<Scenario> {
    let new = Scenario::new;
    let (short, long) = (secs(34, 18), secs(60, 30));
    let members = |at, who: &[usize]| event(at, Act::Members(who.to_vec()));
    let reload = vec![
        members(6.0, &[0, 1, 2]),
        members(12.0, &[0, 1]),
        members(18.0, &[1, 3]),
        members(24.0, &[0, 1, 3]),
    ];
    let primaries = fault(4.0, 12.0, Order::Kill, &[0, 1]);
    let shape = |change: fn(&mut Shape)| {
        let mut shape = Shape::of(3);
        change(&mut shape);
        shape
    };
    vec![
        new(
            "reload",
            "members come and go by new configurations",
            32,
            reload,
            Shape { members: 3, reloads: true, ..Shape::of(4) },
        ),
        new(
            "dns",
            "a name with a TTL of 5 s comes to stand for another endpoint",
            34,
            vec![event(8.0, Act::Rename(1))],
            Shape { members: 1, naming: Naming::OneName, ..Shape::of(2) },
        ),
        new(
            "names",
            "as `kill`, each endpoint by its name",
            short,
            kills(seed, short, 3),
            shape(|shape| shape.naming = Naming::NameEach),
        ),
        new("five", "as `often`, with five endpoints", long, often(seed, long, 5), Shape::of(5)),
        new(
            "weights",
            "as `kill`, with weights 3, 2 and 1",
            short,
            kills(seed, short, 3),
            shape(|shape| shape.weights = &[3, 2, 1]),
        ),
        new(
            "priorities",
            "two of priority 0 are dead for 8 s, with two of priority 1 behind them",
            short,
            primaries.to_vec(),
            Shape { priorities: &[0, 0, 1, 1], ..Shape::of(4) },
        ),
        new(
            "slowstart",
            "as `kill`, with a slow start of 10 s",
            short,
            kills(seed, short, 3),
            shape(|shape| shape.slow_start = true),
        ),
        new(
            "preconnect",
            "as `often` behind PostgreSQL's upgrade, with four connections kept ready",
            long,
            often(seed, long, 3),
            shape(|shape| (shape.speech, shape.preconnect) = (Speech::Postgres, 4)),
        ),
        new(
            "mysql",
            "as `often`, through the protocol's own upgrade",
            long,
            often(seed, long, 3),
            shape(|shape| shape.speech = Speech::Mysql),
        ),
        new(
            "postgres",
            "as `often`, through the protocol's own upgrade",
            long,
            often(seed, long, 3),
            shape(|shape| shape.speech = Speech::Postgres),
        ),
    ]
}

fn kills(seed: u64, secs: u64, endpoints: usize) -> Vec<Event> {
    let mut drawn = drawn(seed, "kill");
    let moments = (4..secs - 4).step_by(5);
    moments
        .flat_map(|at| fault(at as f64, at as f64 + 2.0, Order::Kill, &[drawn.usize(..endpoints)]))
        .collect()
}

/// So often that ejections overlap.
fn often(seed: u64, secs: u64, endpoints: usize) -> Vec<Event> {
    let mut drawn = drawn(seed, "often");
    let mut events = Vec::new();
    let mut at = 2.0;
    loop {
        at += [1.0, 2.0, 4.0][drawn.usize(..3)];
        // The last one needs time to return.
        if at > secs as f64 - 5.0 {
            return events;
        }
        events.extend(fault(at, at + 1.5, Order::Kill, &[drawn.usize(..endpoints)]));
        at += 1.5;
    }
}

fn pairs(seed: u64, secs: u64) -> Vec<Event> {
    let mut drawn = drawn(seed, "pairs");
    let moments = (4..secs - 8).step_by(9);
    moments
        .flat_map(|at| {
            let spared = drawn.usize(..3);
            let two: Vec<usize> = (0..3).filter(|&endpoint| endpoint != spared).collect();
            fault(at as f64, at as f64 + 2.5, Order::Kill, &two)
        })
        .collect()
}

fn flaps(from: f64, to: f64) -> Vec<Event> {
    let count = ((to - from) / 0.6) as usize;
    (0..count)
        .map(|turn| from + 0.6 * turn as f64)
        .flat_map(|at| fault(at, at + 0.3, Order::Kill, &[0]))
        .collect()
}

fn twice_two() -> Vec<Event> {
    [fault(4.0, 12.0, Order::Kill, &[0, 1]), fault(20.0, 26.0, Order::Kill, &[1, 2])].concat()
}

fn window(endpoint: usize, from: f64, to: Option<f64>) -> Window {
    Window { endpoint, from: Duration::from_secs_f64(from), to: to.map(Duration::from_secs_f64) }
}
