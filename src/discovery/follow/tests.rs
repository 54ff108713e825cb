//! How the task handles answers. No queries are sent.

use std::time::Duration;

use super::*;
use crate::cluster::{Address, ENDPOINTS_MAX, SrvService, fixture};
use crate::discovery::name::{FamilyAnswer, NameAnswer};
use crate::discovery::srv::SrvRecord;

/// The state of a cluster's discovery, without the task that sends queries.
fn following(source: Source) -> Following {
    let settings = crate::cluster::Settings { source: Some(source), ..fixture::settings(&[]) };
    let cluster = Cluster::new(settings, Rng::with_seed(1));
    Following::new(cluster, DiscoveryServices::default(), Rng::with_seed(2)).unwrap()
}

fn by_record() -> Source {
    let name = "_db._tcp.test".into();
    Source::Service(SrvService { name, server_name: None, own_domain_only: false })
}

fn listed(host: Host) -> Target {
    let server_name = std::net::Ipv4Addr::LOCALHOST.into();
    Target { address: Address { host, port: 1 }, weight: 1, priority: 0, server_name }
}

fn by_name(name: &str) -> Target {
    listed(Host::Name(name.into()))
}

fn service(following: &mut Following, targets: &[String]) {
    let record = |target: &String| SrvRecord { priority: 0, weight: 0, port: 1, target: target.clone() };
    let answered = Ok((targets.iter().map(record).collect(), Duration::from_secs(1)));
    following.take_answer(Question::Service, Answer::Service(answered));
    following.apply_endpoints();
}

fn name(following: &mut Following, name: &str, ip: Option<[u8; 4]>) {
    let absent = || FamilyAnswer::Absent("none".into());
    let found = |ip: [u8; 4]| FamilyAnswer::Found(vec![ip.into()], Duration::from_secs(1));
    let reply = NameAnswer { v4: ip.map_or_else(absent, found), v6: absent() };
    following.take_answer(Question::Name(name.into()), Answer::Name(reply, None));
    following.apply_endpoints();
}

fn members(following: &Following) -> Vec<String> {
    let endpoints = following.cluster.endpoints();
    endpoints.iter().map(|endpoint| endpoint.settings().name.to_string()).collect()
}

#[test]
fn what_a_record_no_longer_names_stays_until_it_is_known_where_the_new_is() {
    let mut following = following(by_record());
    service(&mut following, &["a.test.".into()]);
    name(&mut following, "a.test.", Some([10, 0, 0, 1]));
    service(&mut following, &["b.test.".into()]);
    assert_eq!(members(&following), ["10.0.0.1:1"], "b.test. is being asked for");
    name(&mut following, "b.test.", None);
    assert_eq!(members(&following), ["10.0.0.1:1"], "b.test. leads nowhere");
    name(&mut following, "b.test.", Some([10, 0, 0, 2]));
    assert_eq!(members(&following), ["10.0.0.2:1"]);
    service(&mut following, &["b.test.".into(), "c.test.".into()]);
    assert_eq!(members(&following), ["10.0.0.2:1"]);
    name(&mut following, "a.test.", Some([10, 0, 0, 9]));
    assert_eq!(members(&following), ["10.0.0.2:1"], "an answer that nobody waits for any more");
}

/// As after a reload: the cluster has endpoints before discovery begins.
#[test]
fn a_list_that_replaces_another_keeps_what_is_known_of_the_names_that_it_still_has() {
    let mut before = following(Source::Listed(vec![by_name("a.test")]));
    name(&mut before, "a.test", Some([10, 0, 0, 1]));
    let known = before.cluster.endpoints()[0].settings().clone();
    let elsewhere = Settings { name: "10.0.0.7:1".into(), host: Some("old.test".into()), ..known.clone() };
    before.cluster.set_endpoints(vec![elsewhere, known]);
    let mut after =
        Following::new(Arc::clone(&before.cluster), DiscoveryServices::default(), Rng::with_seed(3)).unwrap();
    after.apply_endpoints();
    assert_eq!(members(&after), ["10.0.0.1:1"], "old.test was taken out on purpose");
    name(&mut after, "a.test", None);
    assert_eq!(members(&after), ["10.0.0.1:1"], "and a.test is not given up for want of an answer");
}

#[test]
fn a_list_is_used_as_its_names_become_known() {
    let address = listed(Host::Ip([10, 0, 0, 9].into()));
    let mut following = following(Source::Listed(vec![by_name("a.test"), address, by_name("b.test")]));
    following.apply_endpoints();
    assert_eq!(members(&following), ["10.0.0.9:1"]);
    assert!(!following.cluster.discovery().is_settled);
    name(&mut following, "b.test", Some([10, 0, 0, 2]));
    assert_eq!(members(&following), ["10.0.0.9:1", "10.0.0.2:1"]);
    name(&mut following, "a.test", Some([10, 0, 0, 1]));
    assert_eq!(members(&following), ["10.0.0.1:1", "10.0.0.9:1", "10.0.0.2:1"], "in the file's order");
    assert!(following.cluster.discovery().is_settled);
}

#[test]
fn thousands_of_changes_leave_nothing_behind() {
    let mut following = following(by_record());
    for round in 0..5000_u32 {
        let targets: Vec<_> = (0..3).map(|index| format!("h{}.test.", round + index)).collect();
        service(&mut following, &targets);
        let [_, b, c, d] = round.to_be_bytes();
        // Some answers come after their name was dropped, some are empty.
        name(&mut following, &targets[0], (round % 3 > 0).then_some([10, b, c, d]));
        if round % 5 == 0 {
            targets.iter().for_each(|target| name(&mut following, target, Some([10, b, c, d])));
        }
    }
    assert!(following.names.len() <= 3 && following.in_flight.is_empty());
    assert!(following.outgoing.len() <= 2 * ENDPOINTS_MAX && following.applied.len() <= 2 * ENDPOINTS_MAX);
    assert!(following.cluster.view().len() <= 2 * ENDPOINTS_MAX);
}
