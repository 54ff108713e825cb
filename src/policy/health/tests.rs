//! Tables, and the definition of rise and fall as a property.

use fastrand::Rng;
use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

use super::{Duration, Health, HealthStatus, Instant, Settings, Transition};

const INTERVAL: Duration = Duration::from_secs(5);
const HASTY: Duration = Duration::from_secs(1);
const SETTINGS: Settings = Settings { interval: INTERVAL, healthy_threshold: 2, unhealthy_threshold: 3 };

fn start() -> (Health, Instant, Rng) {
    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
    let now = Instant::now();
    (Health::new(SETTINGS, now), now, Rng::with_seed(7))
}

fn failed() -> Result<(), String> {
    Err("it hangs".into())
}

/// Plays results (`+` success, `-` failure), each when its probe is due, and writes the status after each.
fn play(results: &str) -> String {
    let (mut health, _, mut rng) = start();
    let mut statuses = String::new();
    for result in results.chars() {
        let due = health.due().expect("none is on its way");
        health.begin(due);
        let transition = health.observe(due, if result == '+' { Ok(()) } else { failed() }, &mut rng);
        if let Some(Transition { to, .. }) = transition {
            assert_eq!(to, health.status());
        }
        statuses.push(match health.status() {
            HealthStatus::Undecided => '?',
            HealthStatus::Healthy => 'h',
            HealthStatus::Unhealthy => 'u',
        });
    }
    statuses
}

#[test]
fn the_first_result_decides_and_later_ones_need_their_threshold_in_a_row() {
    for (results, statuses) in [
        ("+", "h"),
        ("-", "u"),
        ("+---", "hhhu"),
        ("+--+--+---", "hhhhhhhhhu"),
        ("-++", "uuh"),
        ("-+-+-++", "uuuuuuh"),
        ("+---++---", "hhhuuhhhu"),
    ] {
        assert_eq!(play(results), statuses, "{results}");
    }
}

#[test]
fn an_undecided_endpoint_is_usable_and_an_unhealthy_one_is_not() {
    let (mut health, now, mut rng) = start();
    assert_eq!(health.due(), Some(now), "the first probe is due at once");
    assert!(health.is_usable());
    health.begin(now);
    let transition = health.observe(now + HASTY, failed(), &mut rng).expect("it is decided");
    assert_eq!(
        transition,
        Transition { from: HealthStatus::Undecided, to: HealthStatus::Unhealthy, lasted: HASTY, results: 1 }
    );
    assert!(!health.is_usable());
    assert_eq!((health.last_error(), health.since()), (Some("it hangs"), now + HASTY));
}

#[test]
fn a_probe_that_this_host_could_not_make_says_nothing_of_the_endpoint() {
    let (mut health, mut now, mut rng) = start();
    for _ in 0..100 {
        health.begin(now);
        health.postpone(now, "too many open files".into(), &mut rng);
        let due = health.due().expect("none is on its way");
        assert!(due > now, "it is not tried again at once");
        now = due;
    }
    assert_eq!(
        (health.status(), health.last_error()),
        (HealthStatus::Undecided, Some("too many open files"))
    );
    assert!(health.is_usable());
}

#[test]
fn the_last_error_goes_with_a_success_though_the_status_stays() {
    let (mut health, now, mut rng) = start();
    health.begin(now);
    health.observe(now, failed(), &mut rng);
    health.begin(now);
    assert_eq!(health.observe(now, Ok(()), &mut rng), None);
    assert_eq!((health.status(), health.last_error()), (HealthStatus::Unhealthy, None));
}

#[test]
fn probes_hurry_while_a_status_is_in_doubt() {
    let (mut health, mut now, mut rng) = start();
    let mut after = |result: Result<(), String>| {
        health.begin(now);
        health.observe(now, result, &mut rng);
        let wait = health.due().expect("none is on its way") - now;
        now += wait;
        wait
    };
    let about = |wait: Duration| wait.mul_f64(0.9)..=wait.mul_f64(1.1);
    assert!((HASTY..=INTERVAL).contains(&after(Ok(()))), "the second probes are spread over the interval");
    assert!(about(INTERVAL).contains(&after(Ok(()))));
    assert!(about(HASTY).contains(&after(failed())));
    assert!(about(HASTY).contains(&after(failed())));
    assert!(about(INTERVAL).contains(&after(failed())), "it is decided");
    assert!(about(INTERVAL).contains(&after(failed())));
    assert!(about(HASTY).contains(&after(Ok(()))));
    assert!(about(INTERVAL).contains(&after(Ok(()))), "it is decided");
}

/// A hanging server uses up the probe's timeout; the next probe need not wait as long again.
#[test]
fn an_interval_counts_from_the_beginning_of_a_probe() {
    let (mut health, now, mut rng) = start();
    for (took, result) in [(HASTY, Ok(())), (HASTY, Ok(())), (2 * INTERVAL, Ok(()))] {
        health.begin(now);
        health.observe(now + took, result, &mut rng);
        assert!(health.due().expect("none is on its way") >= now + took);
    }
    assert_eq!(health.due(), Some(now + 2 * INTERVAL));
}

#[test]
fn evidence_from_elsewhere_hurries_a_probe_no_more_often_than_doubt_does() {
    let (mut health, now, mut rng) = start();
    health.begin(now);
    health.observe(now, Ok(()), &mut rng);
    let half = HASTY / 2;
    assert!(health.suspect(now + half));
    assert_eq!(health.due(), Some(now + HASTY), "not at once: one has only just begun");
    assert!(!health.suspect(now + half), "it is as early as it can be");
    let later = now + HASTY;
    health.begin(later);
    assert!(!health.suspect(later), "one is on its way");
    assert_eq!(health.due(), None);
    health.observe(later + half, Ok(()), &mut rng);
    let due = health.due().expect("none is on its way");
    assert!(due <= later + HASTY.mul_f64(1.1), "which may have been too early to see it");
    health.begin(due);
    health.observe(due, Ok(()), &mut rng);
    assert!(health.suspect(due + 2 * HASTY));
    assert_eq!(health.due(), Some(due + 2 * HASTY), "at once");
    assert_eq!(health.status(), HealthStatus::Healthy, "evidence decides nothing here");
}

/// An interval of an hour asks for few probes, not for learning an hour late of what sessions met.
#[test]
fn haste_does_not_know_long_intervals() {
    let (_, now, mut rng) = start();
    let hour = Duration::from_secs(3600);
    let mut health = Health::new(Settings { interval: hour, ..SETTINGS }, now);
    health.begin(now);
    health.observe(now, Ok(()), &mut rng);
    assert!(health.suspect(now + 2 * HASTY));
    assert_eq!(health.due(), Some(now + 2 * HASTY));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// By definition: a status changes exactly when its threshold of results in a row speaks against it.
    #[test]
    fn the_status_is_what_its_definition_says(
        results in prop::collection::vec(any::<bool>(), 1..60),
        rise in 1..5_u32,
        fall in 1..5_u32,
    ) {
        let settings = Settings { healthy_threshold: rise, unhealthy_threshold: fall, ..SETTINGS };
        let (_, now, mut rng) = start();
        let mut health = Health::new(settings, now);
        let mut expected = None;
        for (index, well) in results.iter().enumerate() {
            let due = health.due().expect("none is on its way");
            health.begin(due);
            let turned = health.observe(due, if *well { Ok(()) } else { failed() }, &mut rng);
            let threshold = if *well { rise } else { fall } as usize;
            let in_a_row = results[..=index].iter().rev().take_while(|result| *result == well).count();
            let turns = match expected {
                None => true,
                Some(status) => status != *well && in_a_row >= threshold,
            };
            if turns {
                expected = Some(*well);
            }
            prop_assert_eq!(turned.is_some(), turns);
            prop_assert_eq!(health.is_usable(), expected == Some(true));
            let wait = health.due().expect("none is on its way") - due;
            prop_assert!(wait >= HASTY.mul_f64(0.9) && wait <= INTERVAL.mul_f64(1.1), "{:?}", wait);
        }
    }
}
