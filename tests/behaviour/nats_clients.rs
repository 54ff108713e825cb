//! A client of NATS against a cluster of two servers that demand TLS and a client certificate.

use serde_json::Value;

use crate::harness::server::{PASSWORD, nats};
use crate::harness::{Ambassador, Client, ClosedPort, Config, Pki, ambassador, finish};

fn to_nats() -> Ambassador {
    let [one, two] = nats();
    let cluster = format!("protocol: nats\nbalance: round_robin\n{}", one.tls(""));
    Ambassador::start(&Config::app(&[&one.address(0), &two.address(0)], &cluster))
}

fn line(client: &mut Client) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(client.receive(1));
    }
    String::from_utf8(line).expect("text")
}

/// The first messages of a client library; returns INFO.
fn log_in(client: &mut Client) -> Value {
    let info = line(client);
    let info: Value = serde_json::from_str(info.strip_prefix("INFO ").expect("INFO")).expect("JSON");
    let options = format!("{{\"verbose\":false,\"protocol\":1,\"user\":\"app\",\"pass\":\"{PASSWORD}\"}}");
    client.send(format!("CONNECT {options}\r\nPING\r\n"));
    assert_eq!(line(client), "PONG\r\n");
    info
}

#[test]
fn messages_cross_the_cluster_and_nothing_leads_past_the_ambassador() {
    let ambassador = to_nats();
    let mut clients = [ambassador.connect(), ambassador.connect()];
    let nodes: Vec<_> = clients
        .iter_mut()
        .map(|client| {
            let info = log_in(client);
            for key in ["tls_required", "tls_verify", "tls_available", "connect_urls"] {
                assert!(info.get(key).is_none(), "{key} in {info}");
            }
            info["server_name"].as_str().expect("a name").to_owned()
        })
        .collect();
    assert_ne!(nodes[0], nodes[1], "round robin");
    let [sender, receiver] = &mut clients;
    receiver.send("SUB greetings 1\r\nPING\r\n");
    assert_eq!(line(receiver), "PONG\r\n");
    // The subscription travels between the servers; a message may arrive before it.
    let mut heard = String::new();
    for _ in 0..500 {
        sender.send("PUB greetings 5\r\nhello\r\nPING\r\n");
        // `protocol: 0` prevents a second INFO after the first PONG.
        assert_eq!(line(sender), "PONG\r\n");
        receiver.send("PING\r\n");
        heard = line(receiver);
        if heard != "PONG\r\n" {
            break;
        }
    }
    assert_eq!(heard, "MSG greetings 1 5\r\n");
    assert_eq!(line(receiver), "hello\r\n");
}

#[test]
fn a_wrong_password_is_told_by_the_server_itself() {
    let ambassador = to_nats();
    let mut client = ambassador.connect();
    line(&mut client);
    client.send("CONNECT {\"user\":\"app\",\"pass\":\"wrong\"}\r\nPING\r\n");
    assert_eq!(line(&mut client), "-ERR 'Authorization Violation'\r\n");
}

#[test]
fn a_client_is_told_why_the_ambassador_refuses() {
    let pki = Pki::new();
    let cluster =
        format!("protocol: nats\nconnect: {{ attempts: 1 }}\ntls: {{ ca: {} }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&ClosedPort::new().address()], &cluster));
    let mut client = ambassador.connect();
    // No INFO: nats.js takes a server that has sent it for found, and then waits 20 s for its PONG in any case.
    let words = line(&mut client);
    assert!(words.starts_with("-ERR 'ambassador: connect_failed: cannot connect to 127.0.0.1:"), "{words}");
}

/// Scenario: after the server's INFO we sent a second one with the refusal, and nats-py reported an unexpected end.
#[test]
fn a_client_that_was_greeted_hears_the_refusal_alone() {
    let [one, _] = nats();
    let cluster = format!("protocol: nats\n{}", one.tls_without_certificate());
    let ambassador = Ambassador::start(&Config::app(&[&one.address(0)], &cluster));
    let (words, _) = ambassador.connect().read_out();
    let words = String::from_utf8(words).expect("text");
    assert_eq!(words.matches("INFO {").count(), 1, "{words}");
    assert!(words.contains("-ERR 'ambassador: tls_failed: the server "), "{words}");
}

#[test]
fn check_connect_pings_both_servers() {
    let [one, two] = nats();
    let cluster = format!("protocol: nats\n{}", one.tls(""));
    let config = Config::app(&[&one.address(0), &two.address(0)], &cluster);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("listeners.yaml");
    std::fs::write(&file, config.render(dir.path())).expect("a file to check");
    let finished = finish(ambassador().args(["check", "--connect", "--config"]).arg(&file)).must_succeed();
    assert_eq!(finished.stdout.matches("answer     ok").count(), 2, "{}", finished.stdout);
    assert!(!one.log().contains("TLS handshake error: remote error"), "{}", one.log());
}
