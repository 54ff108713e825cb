//! What ejects, for how long, and what ends it.

use super::*;
use crate::clock;

const SECOND: Duration = Duration::from_secs(1);
const SETTINGS: Settings = Settings {
    consecutive_failures: 3,
    base_ejection_time: SECOND,
    max_ejection_time: Duration::from_secs(10),
    early_close: SECOND,
};

/// An endpoint with its clock and generator.
struct World {
    outlier: Outlier,
    now: Instant,
    rng: Rng,
}

impl World {
    fn new() -> Self {
        Self { outlier: Outlier::new(), now: clock::now(), rng: Rng::with_seed(3) }
    }

    fn ejected(fault: Fault) -> Self {
        let mut world = Self::new();
        assert_eq!(world.failing(&[fault; 3]), [false, false, true]);
        world
    }

    fn fail(&mut self, fault: Fault, may_eject: bool) -> Option<Ejection> {
        self.outlier.record_failure(&SETTINGS, fault, may_eject, self.now, &mut self.rng)
    }

    fn failing(&mut self, faults: &[Fault]) -> Vec<bool> {
        faults.iter().map(|fault| self.fail(*fault, true).is_some()).collect()
    }

    /// Fails until it is ejected again.
    fn eject(&mut self) -> Ejection {
        (0..3).find_map(|_| self.fail(Fault::Connect, true)).expect("three are enough")
    }

    fn fail_trial(&mut self, fault: Fault) -> Option<Ejection> {
        self.now = self.now.max(self.outlier.trial_due().expect("it is set aside"));
        self.outlier.begin_trial();
        self.outlier.record_trial_failure(&SETTINGS, fault, self.now, &mut self.rng)
    }

    fn pass(&mut self, seconds: u32, sessions: u32) {
        (0..sessions).for_each(|_| _ = self.outlier.record_success(self.now));
        self.now += seconds * SECOND;
    }
}

#[test]
fn three_of_a_kind_in_a_row_eject() {
    use Fault::{Connect, EarlyClose, Handshake, Upgrade};
    for (faults, expected) in [
        (&[Connect, Connect, Connect][..], &[false, false, true][..]),
        (&[Handshake, Handshake, Connect, Handshake], &[false, false, false, true]),
        (&[Connect, Connect, Handshake, Connect], &[false; 4]),
        (&[Upgrade, Upgrade, Connect, Handshake, Upgrade, Upgrade], &[false; 6]),
        (&[EarlyClose, EarlyClose, EarlyClose], &[false, false, true]),
    ] {
        assert_eq!(World::new().failing(faults), expected, "{faults:?}");
    }
}

#[test]
fn a_success_starts_over_but_a_session_has_to_last_to_forgive_one_that_did_not() {
    let mut world = World::new();
    world.failing(&[Fault::Connect, Fault::Connect]);
    world.outlier.record_success(world.now);
    assert_eq!(world.failing(&[Fault::Connect, Fault::Connect]), [false, false]);
    world.failing(&[Fault::EarlyClose, Fault::EarlyClose]);
    world.outlier.record_success(world.now);
    assert_eq!(world.failing(&[Fault::EarlyClose]), [true]);
    let mut world = World::new();
    world.failing(&[Fault::EarlyClose, Fault::EarlyClose]);
    assert!(!world.outlier.record_lasting_session(world.now));
    assert_eq!(world.failing(&[Fault::EarlyClose]), [false]);
}

#[test]
fn evidence_ends_an_ejection_if_it_reaches_as_far_as_to_the_fault() {
    for fault in Fault::ALL {
        for evidence in Fault::ALL {
            let mut world = World::ejected(fault);
            let is_back = world.outlier.end_ejection_up_to(evidence, world.now);
            assert_eq!((is_back, world.outlier.is_admitted()), (evidence >= fault, evidence >= fault));
            let mut tried = World::ejected(fault);
            tried.outlier.begin_trial();
            assert_eq!(tried.outlier.end_ejection_up_to(evidence, tried.now), evidence >= fault);
        }
    }
}

#[test]
fn a_session_that_succeeds_ends_it_and_one_that_lasts_where_sessions_died_young() {
    let mut world = World::ejected(Fault::Handshake);
    assert!(world.outlier.record_success(world.now) && world.outlier.is_admitted());
    assert!(!world.outlier.record_success(world.now), "it is back once");
    let mut world = World::ejected(Fault::EarlyClose);
    assert!(!world.outlier.record_success(world.now));
    assert!(world.outlier.record_lasting_session(world.now) && world.outlier.is_admitted());
}

#[test]
fn one_that_may_not_be_ejected_is_when_it_may() {
    let mut world = World::new();
    for _ in 0..5 {
        assert_eq!(world.fail(Fault::Connect, false), None);
    }
    assert_eq!(world.fail(Fault::Connect, true).unwrap().failures, 6);
}

#[test]
fn we_try_it_when_its_time_is_over() {
    let mut world = World::ejected(Fault::Connect);
    let due = world.outlier.trial_due().unwrap();
    assert!((SECOND * 3 / 4..=SECOND).contains(&(due - world.now)));
    world.outlier.begin_trial();
    assert_eq!(world.outlier.trial_due(), None);
    assert_eq!(world.fail(Fault::Connect, true), None, "a session's dial: the trial will tell");
    world.outlier.postpone_trial(due + SECOND);
    assert_eq!(world.outlier.trial_due(), Some(due + SECOND));
    world.outlier.expedite(due);
    world.outlier.expedite(due + SECOND);
    assert_eq!(world.outlier.trial_due(), Some(due));
    assert!(world.fail_trial(Fault::Handshake).unwrap().again);
    assert_eq!(
        world.outlier.record_trial_failure(&SETTINGS, Fault::Connect, world.now, &mut world.rng),
        None
    );
}

#[test]
fn the_time_grows_with_each_trial_that_fails_up_to_the_most() {
    let mut world = World::ejected(Fault::Handshake);
    for times in 2..=12_u32 {
        let Ejection { lasts, times: counted, .. } = world.fail_trial(Fault::Connect).expect("again");
        let whole = SECOND * times.min(10);
        assert_eq!(counted, times);
        assert!((whole * 3 / 4..=whole).contains(&lasts), "{lasts:?} the {times}th time");
    }
}

/// An endpoint that was down briefly again and again was ejected for 4, 8, ... 29 s, although it served well in
/// between.
#[test]
fn the_time_does_not_grow_where_the_endpoint_has_served_well_in_between() {
    for (seconds, sessions, grows) in [
        (0, 0, true),
        (0, 100, true),
        (2, 0, true),
        (2, 2, true),
        (1, 3, false),
        (2, 100, false),
        (10, 0, false),
    ] {
        let mut world = World::ejected(Fault::Connect);
        world.fail_trial(Fault::Connect);
        assert!(world.outlier.end_ejection_up_to(Fault::Handshake, world.now));
        world.pass(seconds, sessions);
        let times = world.eject().times;
        assert_eq!(times, if grows { 3 } else { 1 }, "{seconds} s, {sessions} sessions");
    }
}

#[test]
fn another_process_goes_on_where_it_was() {
    let mut world = World::new();
    world.failing(&[Fault::Connect, Fault::Connect]);
    let resume = |world: &World| Outlier::resume(&SETTINGS, world.outlier.snapshot(), world.now);
    world.outlier = resume(&world);
    assert_eq!(world.failing(&[Fault::Connect]), [true], "the third in a row");
    let before = world.outlier.snapshot();
    world.outlier = resume(&world);
    assert_eq!(world.outlier.snapshot(), before);
    world.outlier.begin_trial();
    world.outlier = resume(&world);
    assert_eq!(
        world.outlier.trial_due(),
        Some(world.now),
        "the trial of the other process says nothing here"
    );
    let far = State::Ejected { until: world.now + 1000 * SECOND, fault: Fault::Connect };
    let limited = Outlier::resume(&SETTINGS, Snapshot { state: far, ..before }, world.now);
    assert_eq!(limited.trial_due(), Some(world.now + SETTINGS.max_ejection_time));
}
