//! Limits of each caller on a listener and in a cluster's queue, with two users of this host: one takes as much as it
//! can, and the other still gets its share.

use std::net::SocketAddr;

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::callers::{SERVED, config, start, tcp};
use crate::harness::other_user::{Cgroup, OtherUser, Users};
use crate::harness::{Ambassador, Upstream, roles, until};

#[test]
fn each_caller_has_its_own_connections_and_no_more() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, "per_caller: { max_connections: 3 }");
    let target = tcp(&ambassador);
    let mut flood = OtherUser::user(billing).call(&target, &["flood=10"]);
    assert_eq!(flood.result(), "served 3");
    assert_eq!(OtherUser::user(reports).call(&target, &["flood=2"]).result(), "served 2");
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
        OtherUser::user(billing).call(&target, &["flood=4"]).result(),
        "served 3",
        "they are given back"
    );
}

/// Scenario: a process may bind its end to any address of the host. Such a caller was taken for another host, and had
/// the `per_caller` limits once more for every address.
#[test]
fn the_hosts_own_addresses_are_no_callers_of_their_own() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // Sends nothing; the address is one for documentation (RFC 5737).
    if socket.connect("192.0.2.1:9").is_err() {
        return eprintln!("this host has no address but loopback: not tested");
    }
    let own = socket.local_addr().expect("an address").ip();
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, "per_caller: { max_connections: 1 }");
    let mut first = ambassador.connect();
    first.echo("the share is taken");
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    client.bind(&SocketAddr::new(own, 0).into()).expect("our own address");
    client.connect(&ambassador.address("app").into()).expect("it listens");
    let record = ambassador.record_of("caller_full");
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(record["caller"]["uid"], uid, "{record}");
    assert!(record["peer"].as_str().is_some_and(|peer| peer.starts_with(&own.to_string())), "{record}");
    first.echo("and whoever has it keeps it");
}

#[test]
fn a_caller_over_its_rate_is_refused_and_others_are_not() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, "per_caller: { connections_per_second: 1 }");
    let target = tcp(&ambassador);
    // As fast as they come: the first is served, and then one for each second that passes.
    let before = std::time::Instant::now();
    let served = OtherUser::user(billing).call(&target, &["flood=20"]).result();
    let most = 2 + before.elapsed().as_secs();
    let served: u64 = served.strip_prefix("served ").and_then(|count| count.parse().ok()).expect("a count");
    assert!((1..=most).contains(&served), "{served} of at most {most}");
    assert_eq!(OtherUser::user(reports).call(&target, &[]).result(), SERVED);
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
            OtherUser::user(billing).within(cgroup).call(&tcp(&ambassador), &[&format!("flood={count}")]);
        let heard = call.result();
        (call, heard)
    };
    let services = [flood(&one, 5), flood(&two, 5)];
    assert_eq!(services.each_ref().map(|(_, heard)| heard.as_str()), ["served 2"; 2]);
    // All login sessions of a user are one caller.
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
    until("six sessions were shown", || {
        (ambassador.metrics().sum("caller_sessions", &[]) == 6.0).then_some(())
    });
}

/// One service connects as fast as it can, in eight threads; every connection of the other one is served.
#[test]
fn a_caller_that_takes_all_it_can_takes_nothing_of_the_others() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let upstream = Upstream::plain(roles::echo);
    for limit in ["max_connections: 4", "connections_per_second: 20"] {
        let ambassador = start(&upstream, &format!("max_connections: 60\nper_caller: {{ {limit} }}"));
        let target = tcp(&ambassador);
        let mut noisy = OtherUser::user(billing).call(&target, &["storm"]);
        assert_eq!(noisy.result(), "storm");
        ambassador.record_of("caller_full");
        for _ in 0..5 {
            assert_eq!(OtherUser::user(reports).call(&target, &["flood=4"]).result(), "served 4", "{limit}");
            // Its own connections must have ended before it may have four again.
            until("the quiet caller's sessions had ended", || {
                let sessions = ambassador.get("/sessions").json();
                let theirs = sessions["sessions"]
                    .as_array()?
                    .iter()
                    .filter(|s| s["caller"]["uid"] == reports.uid)
                    .count();
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
}

#[test]
fn no_caller_has_more_waiting_than_its_share_or_the_listener_says() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let upstream = Upstream::plain(roles::echo);
    let limits =
        "limits: { max_connections: 1, max_pending: 6, queue_timeout: 1m }\nconnect: { deadline: 1m }";
    for (listener, words) in [
        ("per_caller: { max_queued: 3 }", "and this caller has reached per_caller.max_queued (3)"),
        ("", "and this caller has its share of limits.max_pending waiting already (3)"),
    ] {
        let ambassador = Ambassador::start(&config(&upstream, listener, limits));
        let mut holder = ambassador.connect();
        holder.echo("held");
        let target = tcp(&ambassador);
        let noisy = OtherUser::user(billing).call(&target, &["crowd=8"]);
        let records = ambassador.wait_records(5);
        for record in &records {
            assert_eq!(
                (&record["outcome"], &record["caller"]["uid"]),
                (&"caller_full".into(), &billing.uid.into())
            );
            let error = record["error"].as_str().expect("an error");
            assert!(
                error.starts_with("the cluster has reached max_connections (1), ") && error.ends_with(words),
                "{error}"
            );
        }
        assert_eq!(ambassador.metrics().sum("caller_refused_total", &[]), 5.0);
        let quiet = OtherUser::user(reports).call(&target, &["crowd=3"]);
        until("three of each wait", || (waiting(&ambassador) == 6).then_some(()));
        drop(holder);
        let records = ambassador.wait_records(12);
        let served = |uid: u32| {
            let of = |record: &&Value| record["outcome"] == "completed" && record["caller"]["uid"] == uid;
            records.iter().filter(of).count()
        };
        assert_eq!((served(billing.uid), served(reports.uid)), (3, 3));
        drop((noisy, quiet));
    }
}

fn waiting(ambassador: &Ambassador) -> u64 {
    ambassador.status()["clusters"][0]["waiting"].as_u64().expect("a number")
}

/// Twenty connections already wait when five of another caller arrive: these get every other turn.
#[test]
fn callers_that_wait_have_every_other_turn_however_many_connections_one_has() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    // With one slot, each turn ends when its client has its answer, and the next one begins after it. (Records are
    // written after the slot is free, and two workers may write them in either order.)
    let upstream = Upstream::plain(|mut conn| async move {
        let mut word = [0; 5];
        if conn.read_exact(&mut word).await.is_ok() {
            conn.note(format!("turn {}", String::from_utf8_lossy(&word)));
            drop(conn.write_all(&word).await);
            roles::echo(conn).await;
        }
    });
    let limits = "limits: { max_connections: 1, queue_timeout: 1m }\nconnect: { deadline: 1m }";
    let ambassador = Ambassador::start(&config(&upstream, "", limits));
    let mut holder = ambassador.connect();
    holder.echo("first");
    let mut calls = Vec::new();
    for (user, word, count, all) in [(billing, "noisy", 20, 20), (reports, "quiet", 5, 25)] {
        let options = [format!("crowd={count}"), format!("word={word}")];
        calls.push(OtherUser::user(user).call(&tcp(&ambassador), &options.each_ref().map(|word| &**word)));
        until(format!("{all} wait"), || (waiting(&ambassador) == all).then_some(()));
    }
    drop(holder);
    let turns = until("everybody had a turn", || {
        let turns: Vec<_> = upstream.notes().into_iter().filter(|note| note.starts_with("turn")).collect();
        (turns.len() == 26).then_some(turns)
    });
    let expected =
        [vec!["turn first"], ["turn noisy", "turn quiet"].repeat(5), vec!["turn noisy"; 15]].concat();
    assert_eq!(turns, expected);
}

/// One caller always has thirty connections, each of which is reopened as soon as it was served. In order of arrival,
/// another caller's connection would wait for thirty turns; it waits for a few.
#[test]
fn a_crowd_that_never_ends_delays_another_caller_by_a_few_of_its_turns() {
    let Some(Users { billing, .. }) = Users::have() else { return };
    let upstream = Upstream::plain(roles::echo);
    let limits = "limits: { max_connections: 1, queue_timeout: 1m }\nconnect: { deadline: 1m }";
    let ambassador = Ambassador::start(&config(&upstream, "", limits));
    let _noisy = OtherUser::user(billing).call(&tcp(&ambassador), &["crowd=30", "again", "hold=30"]);
    for _ in 0..5 {
        until("the crowd waits", || (waiting(&ambassador) >= 29).then_some(()));
        let before = upstream.accepted();
        ambassador.connect().echo("I am one");
        let turns = upstream.accepted() - before;
        // The running one, the next, and ours; the rest is for a machine that takes some turns to connect us.
        assert!(turns <= 10, "served after {turns} turns");
    }
}
