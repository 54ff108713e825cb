//! Which failures set an endpoint aside, and what brings it back.

use super::*;

#[test]
fn an_ejected_endpoint_is_left_out_and_returns_by_a_trial_of_ours() {
    let mut world = World::new(Settings { outlier: Some(OUTLIER), slow_start: SECOND, ..PLAIN }, &[0, 0]);
    assert_eq!(world.cluster_state.next_trial(), None);
    world.eject(0);
    let events = world.cluster_state.take_events();
    let [ClusterEvent::Ejected { endpoint, ejection }] = events[..] else { panic!("{events:?}") };
    assert_eq!((endpoint, ejection.failures, ejection.again), (world.ids[0], 2, false));
    (0..2).for_each(|_| assert_eq!(world.pick(), Ok(1)));
    assert_eq!(world.trials(TrialVerdict::Serves(MS)), [0; 0], "it is too early");
    assert_eq!(world.wait(), ejection.lasts);
    assert_eq!(world.pick(), Ok(1), "no client pays for finding out");
    assert_eq!(world.trials(TrialVerdict::Serves(MS)), [0]);
    assert_eq!(world.take_event_names(), ["returned"]);
    assert_eq!(world.cluster_state.endpoint(endpoint).unwrap().back_since, Some(world.now));
    assert_eq!((world.pick(), world.cluster_state.next_trial()), (Ok(0), None));
}

#[test]
fn a_trial_that_fails_or_says_nothing_is_no_return() {
    let mut world = World::new(Settings { outlier: Some(OUTLIER), ..PLAIN }, &[0, 0]);
    world.eject(0);
    world.take_event_names();
    world.wait();
    let trial = world.cluster_state.begin_trials(world.now, &mut world.rng)[0];
    assert_eq!(world.cluster_state.next_trial(), None, "one at a time");
    world.cluster_state.record_trial(trial, TrialVerdict::Inconclusive, world.now, &mut world.rng);
    assert_eq!((world.take_event_names().len(), world.wait()), (0, OUTLIER.base_ejection_time));
    assert_eq!(world.trials(TrialVerdict::Fails(Fault::Handshake)), [0]);
    assert_eq!(world.take_event_names(), ["ejected again"]);
    assert_eq!(world.pick(), Ok(1));
}

/// A 421 before TLS ended the ejection of an endpoint with a bad certificate, and the next session failed on it.
#[test]
fn a_trial_that_is_turned_away_before_tls_ends_no_ejection_for_what_comes_behind() {
    for (fault, is_back) in [(Fault::Connect, true), (Fault::Upgrade, true), (Fault::Handshake, false)] {
        let mut world = World::new(Settings { outlier: Some(OUTLIER), ..PLAIN }, &[0, 0]);
        world.eject_for(0, fault);
        world.take_event_names();
        world.wait();
        assert_eq!(world.trials(TrialVerdict::TurnedAway), [0]);
        assert_eq!(world.take_event_names(), if is_back { &["returned"][..] } else { &[] }, "{fault:?}");
        // While it is ejected, another trial is due.
        assert_eq!(world.cluster_state.next_trial().is_some(), !is_back);
    }
}

#[test]
fn a_session_that_succeeds_where_nobody_should_be_ends_the_ejection() {
    let mut world = World::new(Settings { outlier: Some(OUTLIER), ..PLAIN }, &[0, 0]);
    world.eject(0);
    world.take_event_names();
    let mut plan = plan();
    let (id, ticket) = world.begin(&mut plan).unwrap();
    world.cluster_state.record_failure(id, ticket, Some(Fault::Connect), world.now, &mut world.rng);
    let (id, ticket) = world.begin(&mut plan).unwrap();
    assert_eq!(world.place(id), 0);
    world.cluster_state.record_established(id, ticket, MS, world.now);
    assert_eq!(world.take_event_names(), ["returned"]);
}

/// Probes found the endpoint healthy after a second, but that did not end its ejection of 29 s.
#[test]
fn a_probe_that_reaches_as_far_as_to_the_fault_ends_the_ejection_and_one_that_does_not_hurries_the_trial() {
    for (proven, is_back) in [(Fault::Connect, true), (Fault::Handshake, true)] {
        let mut world = World::new(Settings { outlier: Some(OUTLIER), ..PLAIN }, &[0, 0]);
        world.eject(0);
        world.take_event_names();
        world.cluster_state.set_health(world.ids[0], HealthStatus::Healthy, Some(proven), world.now);
        assert_eq!(world.take_event_names() == ["returned"], is_back, "{proven:?}");
    }
    let mut world = World::new(Settings { outlier: Some(OUTLIER), ..PLAIN }, &[0, 0]);
    for _ in 0..2 {
        world.cluster_state.record_session_age(world.ids[0], true, world.now, &mut world.rng);
    }
    assert_eq!(world.take_event_names(), ["ejected"]);
    world.check_health(0, HealthStatus::Healthy);
    assert_eq!((world.take_event_names().len(), world.wait()), (0, Duration::ZERO));
    let trial = world.cluster_state.begin_trials(world.now, &mut world.rng)[0];
    assert_eq!(trial.reach, Fault::EarlyClose);
}

#[test]
fn an_endpoint_that_got_slow_returns_only_when_that_is_how_it_is() {
    let hedge = Some(hedge::Settings::by_history(3 * SECOND));
    let mut world = World::new(Settings { outlier: Some(OUTLIER), hedge, ..PLAIN }, &[0, 0]);
    (0..9).for_each(|_| _ = world.succeed());
    world.eject(0);
    world.take_event_names();
    let mut tried = 0;
    loop {
        world.wait();
        assert_eq!(world.trials(TrialVerdict::Serves(2 * SECOND)), [0]);
        tried += 1;
        if world.take_event_names() == ["returned"] {
            break;
        }
    }
    assert_eq!(tried, 8);
}

#[test]
fn the_last_usable_endpoint_is_never_ejected() {
    let mut world = World::new(Settings { outlier: Some(OUTLIER), ..PLAIN }, &[0, 0, 1]);
    world.eject(0);
    world.eject(1);
    for _ in 0..20 {
        assert_eq!(world.fail(), Ok(2));
    }
    assert!(world.cluster_state.endpoint(world.ids[2]).unwrap().outlier().is_admitted());
}

#[test]
fn a_failure_that_is_not_the_endpoints_counts_for_nothing() {
    let settings = Settings { outlier: Some(OUTLIER), breaker: Some(BREAKER), ..PLAIN };
    let mut world = World::new(settings, &[0, 0]);
    for _ in 0..50 {
        let (id, ticket) = world.begin(&mut plan()).unwrap();
        world.cluster_state.record_failure(id, ticket, None, world.now, &mut world.rng);
    }
    assert_eq!(world.cluster_state.take_events(), []);
}

/// A server that greets and then fails TLS was never ejected: each greeting reset the failures before it.
#[test]
fn a_greeting_forgives_nothing_that_comes_after_it() {
    let mut world = World::new(Settings { outlier: Some(OUTLIER), ..PLAIN }, &[0, 1]);
    for _ in 0..2 {
        let (id, ticket) = world.begin(&mut plan()).unwrap();
        world.cluster_state.record_greeting(id, ticket, world.now);
        world.cluster_state.record_failure(id, ticket, Some(Fault::Handshake), world.now, &mut world.rng);
    }
    assert_eq!(world.take_event_names(), ["ejected"]);
    let (id, ticket) = (world.ids[0], world.cluster_state.begin_at(world.ids[0], &mut plan()).unwrap());
    world.cluster_state.record_greeting(id, ticket, world.now);
    assert_eq!(world.take_event_names(), [""; 0], "what it was set aside for is TLS");
}

#[test]
fn sessions_that_die_young_eject_and_ones_that_last_forgive() {
    let mut world = World::new(Settings { outlier: Some(OUTLIER), ..PLAIN }, &[0, 0]);
    let id = world.ids[0];
    for closed_early in [true, false, true] {
        world.cluster_state.record_session_age(id, closed_early, world.now, &mut world.rng);
    }
    assert_eq!(world.cluster_state.take_events(), []);
    world.cluster_state.record_session_age(id, true, world.now, &mut world.rng);
    let events = world.cluster_state.take_events();
    let [ClusterEvent::Ejected { ejection, .. }] = events[..] else { panic!("{events:?}") };
    assert_eq!(ejection.fault, Fault::EarlyClose);
}
