//! What each caller may take of a listener and of a cluster's queue, shown with two users of this host: one takes all it can,
//! and the other has its share all the same.

use serde_json::Value;

use crate::callers::{SERVED, start, tcp};
use crate::harness::somebody::{Cgroup, Somebody, Users};
use crate::harness::{Upstream, roles, until};

#[test]
fn each_caller_has_its_own_connections_and_no_more() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, "per_caller: { max_connections: 3 }");
    let target = tcp(&ambassador);
    let mut flood = Somebody::user(billing).call(&target, &["flood=10"]);
    assert_eq!(flood.heard(), "served 3");
    assert_eq!(Somebody::user(reports).call(&target, &["flood=2"]).heard(), "served 2");
    let record = ambassador.record_of("caller_full");
    let words = format!("uid {} has reached per_caller.max_connections (3)", billing.uid);
    assert_eq!(
        (record["error"].as_str(), &record["caller"]["uid"]),
        (Some(&*words), &billing.uid.into()),
        "{record}"
    );
    assert_eq!(ambassador.metrics().sum("connections_total", &[("outcome", "caller_full")]), 7.0);
    drop(flood);
    ambassador.wait_active(0);
    assert_eq!(
        Somebody::user(billing).call(&target, &["flood=4"]).heard(),
        "served 3",
        "they are given back"
    );
}

#[test]
fn a_caller_over_its_rate_is_refused_and_others_are_not() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, "per_caller: { connections_per_second: 1 }");
    let target = tcp(&ambassador);
    // As fast as they come: the first is served, and of the others one for each second that passes.
    let before = std::time::Instant::now();
    let served = Somebody::user(billing).call(&target, &["flood=20"]).heard();
    let most = 2 + before.elapsed().as_secs();
    let served: u64 = served.strip_prefix("served ").and_then(|count| count.parse().ok()).expect("a count");
    assert!((1..=most).contains(&served), "{served} of at most {most}");
    assert_eq!(Somebody::user(reports).call(&target, &[]).heard(), SERVED);
    let record = ambassador.record_of("caller_full");
    assert!(
        record["error"].as_str().is_some_and(|error| error.contains("connections_per_second (1)")),
        "{record}"
    );
}

#[test]
fn services_are_counted_apart_even_of_one_user() {
    let Some(Users { billing, .. }) = Users::have() else { return };
    let made = [
        "ambtest-one.service",
        "ambtest-two.service",
        "user.slice/ambtest-a.scope",
        "user.slice/ambtest-b.scope",
    ]
    .map(Cgroup::make);
    let [Some(one), Some(two), Some(a), Some(b)] = made else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, "per_caller: { max_connections: 2 }");
    let flood = |cgroup: &Cgroup, count: usize| {
        let mut call =
            Somebody::user(billing).within(cgroup).call(&tcp(&ambassador), &[&format!("flood={count}")]);
        let heard = call.heard();
        (call, heard)
    };
    let services = [flood(&one, 5), flood(&two, 5)];
    assert_eq!(services.each_ref().map(|(_, heard)| heard.as_str()), ["served 2"; 2]);
    // A user may log in as often as he likes.
    let sessions = [flood(&a, 1), flood(&b, 5)];
    assert_eq!(sessions.each_ref().map(|(_, heard)| heard.as_str()), ["served 1"; 2]);
    let metrics = ambassador.metrics();
    for (unit, connections, refused) in [("ambtest-one.service", 5.0, 3.0), ("users", 6.0, 4.0)] {
        let of = |name| metrics.sum(name, &[("unit", unit)]);
        assert_eq!(
            (of("caller_connections_total"), of("caller_refused_total")),
            (connections, refused),
            "{unit}"
        );
    }
    assert_eq!(metrics.sum("caller_sessions", &[]), 6.0);
}

/// One service makes connections as fast as it can, in eight threads; the other one's are served, every one.
#[test]
fn a_caller_that_takes_all_it_can_takes_nothing_of_the_others() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, "max_connections: 40\nper_caller: { max_connections: 4 }");
    let target = tcp(&ambassador);
    let mut noisy = Somebody::user(billing).call(&target, &["storm"]);
    assert_eq!(noisy.heard(), "storm");
    ambassador.record_of("caller_full");
    for _ in 0..5 {
        assert_eq!(Somebody::user(reports).call(&target, &["flood=4"]).heard(), "served 4");
        // Its own have to be gone before it may have four again.
        until("the quiet caller's sessions had ended", || {
            let sessions = ambassador.get("/sessions").json();
            let theirs =
                sessions["sessions"].as_array()?.iter().filter(|s| s["caller"]["uid"] == reports.uid).count();
            (theirs == 0).then_some(())
        });
    }
    drop(noisy);
    let of_reports = |record: &&Value| record["caller"]["uid"] == reports.uid;
    let records = ambassador.records();
    assert!(records.iter().filter(of_reports).all(|record| record["outcome"] == "completed"));
    assert!(
        records.iter().all(|record| record["outcome"] != "listener_full"),
        "the listener always had room"
    );
}
