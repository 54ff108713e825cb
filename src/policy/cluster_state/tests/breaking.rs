//! When the breaker of a cluster opens, what closes it, and the trials in between.

use super::*;

#[test]
fn an_open_breaker_refuses_until_a_trial_of_ours_succeeds() {
    let mut world = World::new(Settings { breaker: Some(BREAKER), ..PLAIN }, &[0, 0]);
    (0..4).for_each(|_| assert!(world.fail().is_ok()));
    assert_eq!(world.pick(), Err(Unavailable::Breaker(BreakerOpen)));
    assert_eq!(world.cluster_state.total(), Load::default());
    assert!((SECOND * 3 / 4..=SECOND).contains(&world.wait()));
    assert_eq!(world.trials(TrialVerdict::Fails(Fault::Connect)), [0, 1]);
    assert_eq!(world.pick(), Err(Unavailable::Breaker(BreakerOpen)));
    world.wait();
    assert_eq!(world.trials(TrialVerdict::Serves(MS)), [0, 1]);
    assert!(world.pick().is_ok());
    assert_eq!(world.take_event_names(), ["open", "half_open", "open", "half_open", "closed"]);
}

/// Five failed dials to a dead endpoint opened the breaker for 4 s, although two endpoints had not been tried.
#[test]
fn the_breaker_stays_closed_while_an_endpoint_is_good_or_unknown() {
    let mut world = World::new(Settings { breaker: Some(BREAKER), ..PLAIN }, &[0, 1]);
    for _ in 0..50 {
        assert_eq!(world.fail(), Ok(0), "by its priority");
    }
    assert_eq!(world.take_event_names(), [""; 0]);
    let mut plan = plan();
    for _ in 0..2 {
        let (id, ticket) = world.begin(&mut plan).unwrap();
        world.cluster_state.record_failure(id, ticket, Some(Fault::Connect), world.now, &mut world.rng);
    }
    assert_eq!(world.take_event_names(), ["open"]);
}

#[test]
fn whoever_may_be_good_closes_the_breaker() {
    let opened = || {
        let mut world = World::new(Settings { breaker: Some(BREAKER), ..PLAIN }, &[0, 0]);
        world.fail_everywhere();
        assert_eq!(world.take_event_names(), ["open"]);
        world
    };
    let mut joined = opened();
    let specs = [Some(joined.ids[0]), None].map(|id| member(id, 0));
    joined.ids = joined.cluster_state.set_endpoints(&specs, joined.now);
    assert_eq!(joined.take_event_names(), ["closed"]);
    assert!(joined.pick().is_ok());
    let mut probed = opened();
    probed.check_health(1, HealthStatus::Healthy);
    assert_eq!(probed.take_event_names(), ["closed"]);
    let mut hinted = opened();
    hinted.cluster_state.set_health(hinted.ids[1], HealthStatus::Healthy, Some(Fault::Connect), hinted.now);
    assert_eq!(
        (hinted.take_event_names().len(), hinted.wait()),
        (0, Duration::ZERO),
        "a port that is open is a hint"
    );
    let mut late = World::new(Settings { breaker: Some(BREAKER), ..PLAIN }, &[0, 0]);
    let (id, ticket) = late.begin(&mut plan()).unwrap();
    late.fail_everywhere();
    late.take_event_names();
    late.cluster_state.record_established(id, ticket, MS, late.now);
    assert_eq!(late.take_event_names(), ["closed"], "a dial from before that succeeds now");
}

/// Where servers greet, one silent client kept a half-open breaker from closing.
#[test]
fn a_greeting_shows_that_the_endpoint_serves() {
    let mut world = World::new(Settings { breaker: Some(BREAKER), outlier: Some(OUTLIER), ..PLAIN }, &[0, 0]);
    let (id, ticket) = world.begin(&mut plan()).unwrap();
    world.fail_everywhere();
    world.cluster_state.record_greeting(id, ticket, world.now);
    assert!(world.pick().is_ok());
    world.cluster_state.record_abandoned(id, ticket);
}

/// Timeouts of dials from before an endpoint came back ejected it again.
#[test]
fn what_began_before_an_endpoint_came_back_says_nothing() {
    let mut world = World::new(Settings { outlier: Some(OUTLIER), breaker: Some(BREAKER), ..PLAIN }, &[0]);
    let old = [(); 3].map(|()| world.begin(&mut plan()).unwrap());
    world.now += SECOND;
    let _ = old.map(|(id, ticket)| {
        world.cluster_state.record_failure(id, ticket, Some(Fault::Connect), world.now, &mut world.rng)
    });
    let hanging = [(); 3].map(|()| world.begin(&mut plan()).unwrap());
    world.now += SECOND;
    let (id, ticket) = hanging[0];
    world.cluster_state.record_failure(id, ticket, Some(Fault::Connect), world.now, &mut world.rng);
    assert_eq!(world.take_event_names(), ["open"]);
    world.wait();
    world.trials(TrialVerdict::Serves(MS));
    for (id, ticket) in &hanging[1..] {
        world.cluster_state.record_failure(*id, *ticket, Some(Fault::Connect), world.now, &mut world.rng);
    }
    assert_eq!(world.take_event_names(), ["half_open", "closed"]);
    assert!(world.pick().is_ok());
}

#[test]
fn a_trial_that_hangs_holds_up_neither_the_others_nor_the_next_round() {
    let mut world = World::new(Settings { breaker: Some(BREAKER), ..PLAIN }, &[0, 0]);
    (0..4).for_each(|_| assert!(world.fail().is_ok()));
    world.wait();
    let trials = world.cluster_state.begin_trials(world.now, &mut world.rng);
    let second = trials.iter().find(|trial| trial.endpoint == world.ids[1]).copied().unwrap();
    world.cluster_state.record_trial(second, TrialVerdict::Fails(Fault::Connect), world.now, &mut world.rng);
    world.wait();
    assert_eq!(world.trials(TrialVerdict::Serves(MS)), [1]);
    assert!(world.pick().is_ok());
}

/// A reload ends the task that makes the trials: the endpoints of trials in progress would have stayed on trial for
/// ever.
#[test]
fn trials_that_nobody_will_hear_of_are_made_anew() {
    let mut world = World::new(Settings { breaker: Some(BREAKER), outlier: Some(OUTLIER), ..PLAIN }, &[0, 0]);
    world.eject(0);
    world.fail_everywhere();
    world.take_event_names();
    world.wait();
    let lost = world.cluster_state.begin_trials(world.now, &mut world.rng);
    assert_eq!(lost.len(), 2);
    world.cluster_state.forget_trials(world.now);
    assert_eq!(world.take_event_names(), ["half_open", "open"]);
    world.wait();
    world.now += SECOND;
    assert_eq!(world.trials(TrialVerdict::Serves(MS)), [0, 1]);
    assert!(world.pick().is_ok() && world.cluster_state.next_trial().is_none());
}

#[test]
fn settings_that_switch_things_off_leave_nobody_behind() {
    let settings = Settings { breaker: Some(BREAKER), outlier: Some(OUTLIER), ..PLAIN };
    let mut world = World::new(settings, &[0, 0]);
    world.eject(0);
    (0..4).for_each(|_| _ = world.fail());
    assert!(world.pick().is_err());
    world.wait();
    let trial = world.cluster_state.begin_trials(world.now, &mut world.rng)[0];
    world.cluster_state.take_events();
    world.cluster_state.reconfigure(settings);
    assert!(world.pick().is_err(), "what stays as it was changes nothing");
    assert_eq!(world.cluster_state.take_events(), []);
    world.cluster_state.reconfigure(PLAIN);
    let events = world.cluster_state.take_events();
    let [ClusterEvent::Breaker(turned), ClusterEvent::Returned { endpoint }] = events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((turned.to, endpoint), (StateLabel::Closed, world.ids[0]));
    assert!(world.cluster_state.endpoint(endpoint).unwrap().outlier().is_admitted() && world.pick().is_ok());
    world.cluster_state.record_trial(trial, TrialVerdict::Serves(MS), world.now, &mut world.rng);
    assert_eq!(world.cluster_state.take_events(), [], "it returned once, whatever becomes of its trial");
}
