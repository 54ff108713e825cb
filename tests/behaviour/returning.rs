//! Listeners and clusters that are removed from the file and added again: they begin anew, and the drain of the old
//! ones does not touch the new ones.

use std::time::{Duration, Instant};

use crate::harness::{Ambassador, Client, Config, Upstream, roles, until};
use crate::reload::reload;

/// Listener `app`, if it is present, and `other`, each with a cluster of its own.
fn config(upstream: &Upstream, has_app: bool, port: u16, top: &str) -> Config {
    let config = Config::new().top(top).listener("other", "bind: 127.0.0.1:0\ncluster: beside");
    let config = config.cluster("beside", &[&upstream.address()], "");
    if !has_app {
        return config;
    }
    config.listener("app", &format!("bind: 127.0.0.1:{port}\ncluster: up")).cluster(
        "up",
        &[&upstream.address()],
        "",
    )
}

/// Scenario: a listener was removed and added again within drain_timeout. Its new sessions were drained as well: the
/// drain went by the listener's name.
#[test]
fn the_drain_of_a_listener_that_is_back_is_about_its_old_sessions_alone() {
    let window = Duration::from_secs(3);
    let upstream = Upstream::plain(roles::echo);
    let top = "shutdown: { drain_timeout: 3s }";
    let ambassador = Ambassador::start(&config(&upstream, true, 0, top));
    let address = ambassador.address("app");
    let mut old = ambassador.connect();
    old.echo("before");
    let removed = Instant::now();
    reload(&ambassador, &config(&upstream, false, 0, top));
    reload(&ambassador, &config(&upstream, true, address.port(), top));
    let mut new = Client::tcp(address).expect("the listener is back");
    // It has been silent for a while, like a pool's connection, and is not busy.
    let mut silent = Client::tcp(address).expect("the listener is back");
    new.echo("after");
    assert!(removed.elapsed() < window, "too slow a machine for this test");
    old.ending();
    assert_eq!(ambassador.record()["outcome"], "drained");
    ambassador.wait_line("the removed listener has drained");
    until("the window was over", || (removed.elapsed() > window + Duration::from_millis(500)).then_some(()));
    new.echo("and still");
    silent.echo("this one, too");
    let sessions = ambassador.get("/sessions").json();
    assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(2), "each once: {sessions}");
    ambassador.wait_active(2);
}

/// Scenario: a recreated cluster numbers its endpoints anew; sessions of the old cluster were taken, by number, for
/// those of an endpoint of the new one, and ended when that endpoint was removed.
#[test]
fn sessions_of_a_cluster_that_was_taken_out_are_not_those_of_the_one_that_is_put_back() {
    let (before, first, second) =
        (Upstream::plain(roles::echo), Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let with = |endpoints: Option<&[&str]>| {
        let config = Config::new()
            .top("shutdown: { drain_timeout: 60s }")
            .listener("other", "bind: 127.0.0.1:0\ncluster: beside")
            .cluster("beside", &[&first.address()], "");
        match endpoints {
            None => config,
            Some(endpoints) => config.listener("app", "bind: 127.0.0.1:0\ncluster: up").cluster(
                "up",
                endpoints,
                "on_removed: close",
            ),
        }
    };
    let ambassador = Ambassador::start(&with(Some(&[&before.address()])));
    let mut old = ambassador.connect();
    old.echo("before");
    // Its cluster keeps it: otherwise it would end with its endpoint.
    reload(&ambassador, &Config::app(&[&before.address()], "on_removed: keep"));
    reload(&ambassador, &with(None));
    reload(&ambassador, &with(Some(&[&first.address(), &second.address()])));
    reload(&ambassador, &with(Some(&[&second.address()])));
    let shown = ambassador.get("/sessions").json();
    assert_ne!(shown["sessions"][0]["endpoint"], first.address(), "{shown}");
    old.echo("after");
}
