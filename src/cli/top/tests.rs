//! The screen as text, at 80 columns and wide, and what keys do.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{Value, json};

use super::model::{Action, DaemonSample, Key, Model};
use super::view;
use crate::clock;

fn session(id: &str, endpoint: Option<&str>, age_ms: u64, bytes: u64) -> Value {
    json!({
        "session": id, "listener": "app", "cluster": "up", "endpoint": endpoint,
        "caller": { "uid": 5, "user": "billing", "unit": "report.service", "pid": 7 },
        "age_ms": age_ms, "sent_bytes": bytes, "received_bytes": 0,
    })
}

fn endpoint(name: &str, health: &str, error: Option<&str>) -> Value {
    json!({
        "name": name, "host": null, "addresses": [name], "state": "enabled", "health": health,
        "health_seconds": 1.0, "health_error": error, "ejected": null, "weight": 1, "priority": 0,
        "dial_ms": null, "sessions": 1, "pending_dials": 0, "ready": 0, "last_error": null,
    })
}

fn look(endpoints: &[Value], sessions: &[Value]) -> DaemonSample {
    let status = json!({
        "version": env!("CARGO_PKG_VERSION"), "pid": 4711, "state": "ready", "uptime_seconds": 7800.0, "config": "/etc/a.yaml",
        "admin": null, "listeners": [], "credentials": [],
        "clusters": [{
            "name": "up", "protocol": "tcp", "balance": "round_robin", "tls": "mtls", "breaker": "closed",
            "breaker_seconds_left": null, "mode": "normal", "sessions": 1, "pending_dials": 0, "waiting": 0, "endpoints": endpoints, "discovery": [],
        }],
    });
    let sample = |at: f64, bytes: u64| {
        json!({
            "at": at, "sessions": 1, "accepted": 10, "refused": 0, "sent_bytes": bytes, "received_bytes": 0,
            "dials": 0, "dial_seconds": 0.0,
        })
    };
    let history = json!({ "samples": [sample(0.0, 0), sample(5.0, 10_240), sample(10.0, 15_360)] });
    DaemonSample {
        status: serde_json::from_value(status).unwrap(),
        sessions: serde_json::from_value(json!({ "sessions": sessions })).unwrap(),
        history: serde_json::from_value(history).unwrap(),
    }
}

/// Three sessions sampled twice, two seconds apart: `b` moves most now, `a` is the oldest.
fn busy() -> (Model, Instant) {
    let (mut model, t0) = (Model::new(), clock::now());
    let endpoints =
        [endpoint("10.0.0.1:5432", "healthy", None), endpoint("10.0.0.2:5432", "unhealthy", Some("refused"))];
    let sessions = |a, b| {
        [
            session("aaaaaaaaaaaaaaaa", Some("10.0.0.1:5432"), 90_000, a),
            session("bbbbbbbbbbbbbbbb", Some("10.0.0.1:5432"), 5_000, b),
            session("cccccccccccccccc", None, 1_000, 0),
        ]
    };
    model.update(look(&endpoints, &sessions(1_000_000, 0)), t0);
    let t1 = t0 + Duration::from_secs(2);
    model.update(look(&endpoints, &sessions(1_000_000, 4096)), t1);
    (model, t1)
}

fn screen(model: &Model, now: Instant, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, model, now)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

fn ids(model: &Model) -> Vec<char> {
    model.visible().iter().map(|live| live.session.session.chars().next().unwrap()).collect()
}

fn press(model: &mut Model, keys: &str) -> Option<Action> {
    keys.chars().fold(None, |_, key| model.key(Key::Char(key)))
}

/// Errors quote a server's certificate, and names come from DNS.
#[test]
fn others_words_do_not_steer_the_terminal() {
    let (mut model, now) = busy();
    let endpoints = [endpoint("10.0.0.1:5432", "unhealthy", Some("a\u{202e}b\u{1b}[2Jc\u{9b}d"))];
    model.update(look(&endpoints, &[]), now);
    let screen = screen(&model, now, 160, 24).join("\n");
    assert!(
        screen.contains("unhealthy") && !screen.contains(|c: char| c != '\n' && crate::escape::is_control(c)),
        "{screen}"
    );
}

#[test]
fn eighty_columns_have_all_that_matters() {
    let (model, now) = busy();
    let screen = screen(&model, now, 80, 24);
    let ours = env!("CARGO_PKG_VERSION");
    assert_eq!(screen[0], format!("ambassador ready  pid 4711, up 2h10m, version {ours}, /etc/a.yaml"));
    assert_eq!(screen[1], "3 sessions  0.0 connections/s  0.0 refused/s  1.0 KiB/s to, 0 B/s from the upstr");
    assert!(screen[3].starts_with("max 2.0 KiB/s     \u{2588}"), "{}", screen[3]);
    assert_eq!(screen[4], "CLUSTER        ENDPOINT              STATE             SESSIONS WHY");
    assert_eq!(screen[5], "up             10.0.0.1:5432         healthy                  1");
    assert_eq!(screen[6], "up             10.0.0.2:5432         unhealthy                1 refused");
    assert_eq!(screen[7], "SESSION          LISTENER   ENDPOINT            AGE     SENT RECEIVED       RATE");
    assert_eq!(screen[8], "bbbbbbbbbbbbbbbb app        10.0.0.1:5432        5s  4.0 KiB      0 B  2.0 KiB/s");
    assert!(screen[10].starts_with("cccccccccccccccc app        dialling"), "{}", screen[10]);
    assert_eq!(screen[23], "q quit  s sort: rate  / filter  \u{2191}\u{2193} choose  k close session");
}

#[test]
fn a_wide_terminal_shows_callers_too_and_a_tiny_one_does_not_panic() {
    let (model, now) = busy();
    let wide = screen(&model, now, 160, 40).join("\n");
    assert!(wide.contains("billing, report.service") && wide.contains("CALLER"), "{wide}");
    for (width, height) in [(1, 1), (20, 5), (80, 3)] {
        screen(&model, now, width, height);
    }
}

#[test]
fn where_endpoints_do_not_fit_those_in_trouble_come_first() {
    let mut endpoints: Vec<_> =
        (0..40).map(|number| endpoint(&format!("10.0.0.{number}:1"), "healthy", None)).collect();
    endpoints.push(endpoint("10.0.1.1:1", "unhealthy", Some("refused")));
    let (mut model, now) = (Model::new(), clock::now());
    model.update(look(&endpoints, &[]), now);
    let screen = screen(&model, now, 80, 24);
    assert!(screen[5].contains("10.0.1.1:1") && screen[5].contains("refused"), "{}", screen[5]);
    assert!(screen[4].starts_with("CLUSTER (6/41)"), "{}", screen[4]);
}

#[test]
fn an_endpoint_that_is_set_aside_says_for_how_long_and_why() {
    let mut ejected = endpoint("10.0.0.1:1", "healthy", None);
    ejected["ejected"] = json!({ "fault": "connect_refused", "seconds_left": 62.0, "on_trial": false });
    let (mut model, now) = (Model::new(), clock::now());
    model.update(look(&[ejected], &[]), now);
    let screen = screen(&model, now, 80, 24);
    assert!(screen[5].contains("ejected 1m02s"), "{}", screen[5]);
    assert!(screen[5].ends_with("connect_refused"), "{}", screen[5]);
}

#[test]
fn what_is_wrong_with_a_cluster_as_a_whole_stands_above_its_endpoints() {
    let mut troubled = look(&[endpoint("10.0.0.1:1", "unhealthy", Some("refused"))], &[]);
    let cluster = &mut troubled.status.clusters[0];
    (cluster.mode, cluster.waiting) = ("panic".into(), 3);
    cluster.discovery =
        serde_json::from_value(json!([{ "name": "db.test", "last_error": "no answer" }, { "name": "x" }]))
            .unwrap();
    let (mut model, now) = (Model::new(), clock::now());
    model.update(troubled, now);
    let screen = screen(&model, now, 80, 24);
    for (line, words) in [
        (5, &["up", "full", "3 wait for room"][..]),
        (6, &["up", "panic", "all down, all used"]),
        (7, &["up", "search failing", "db.test", "no answer"]),
        (8, &["up", "10.0.0.1:1", "unhealthy"]),
    ] {
        assert!(words.iter().all(|word| screen[line].contains(word)), "{words:?}: {}", screen[line]);
    }
    let mut empty = look(&[], &[]);
    empty.status = serde_json::from_str("{ \"clusters\": [{ \"name\": \"old\" }] }").unwrap();
    model.update(empty, now);
    let screen = self::screen(&model, now, 80, 24);
    assert!(screen[0].starts_with("ambassador   pid –, up –, version – (asked by "), "{}", screen[0]);
    assert!(screen[5].starts_with("old") && screen[5].contains("no endpoint"), "{}", screen[5]);
}

#[test]
fn a_daemon_that_is_lost_is_said_to_be_and_what_it_said_last_stays() {
    let (mut model, now) = busy();
    model.set_unreachable("no daemon answers".into());
    let screen = screen(&model, now + Duration::from_secs(7), 80, 24);
    assert!(
        screen[0].starts_with("ambassador does not answer; below is what it said 7s ago"),
        "{}",
        screen[0]
    );
    assert!(screen[8].contains("bbbb"), "{}", screen[8]);
}

#[test]
fn sessions_are_sorted_and_filtered() {
    let (mut model, _) = busy();
    assert_eq!(ids(&model), ['b', 'a', 'c']);
    press(&mut model, "s");
    assert_eq!(ids(&model), ['a', 'b', 'c'], "by age");
    press(&mut model, "/BILLING");
    assert_eq!(ids(&model).len(), 3, "callers count, in any case");
    model.key(Key::Escape);
    press(&mut model, "/cccq");
    assert!(ids(&model).is_empty(), "q is typed, not obeyed");
    model.key(Key::Backspace);
    model.key(Key::Enter);
    assert_eq!(ids(&model), ['c']);
    assert_eq!(press(&mut model, "q"), Some(Action::Quit));
}

#[test]
fn a_session_is_closed_after_a_yes_and_nothing_else() {
    let (mut model, now) = busy();
    assert_eq!(press(&mut model, "k"), None);
    let foot = screen(&model, now, 80, 24).pop().unwrap();
    assert!(foot.starts_with("close session bbbbbbbbbbbbbbbb?"), "{foot}");
    assert_eq!(press(&mut model, "n"), None);
    assert_eq!(press(&mut model, "y"), None, "the question is over");
    model.key(Key::Down);
    assert_eq!(press(&mut model, "ky"), Some(Action::Close("aaaaaaaaaaaaaaaa".into())));
    model.key(Key::Char('/'));
    assert_eq!(model.key(Key::Interrupt), Some(Action::Quit), "Ctrl-C works everywhere");
}

#[test]
fn the_choice_stays_with_its_session_and_goes_on_when_that_is_gone() {
    let (mut model, now) = busy();
    model.key(Key::Down);
    assert_eq!(model.position(), Some(1));
    press(&mut model, "s");
    assert_eq!(model.position(), Some(0), "by age, it is the first");
    model.key(Key::End);
    assert_eq!(model.position(), Some(2));
    model.update(look(&[], &[session("dddddddddddddddd", None, 1, 0)]), now);
    assert_eq!(model.position(), Some(0));
    model.update(look(&[], &[]), now);
    assert_eq!(model.position(), None);
    press(&mut model, "k");
    assert_eq!(model.note.as_deref(), Some("there is no session to close"));
}
