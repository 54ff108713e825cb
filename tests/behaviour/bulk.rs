//! Large amounts: 200 MB in each direction at once, byte for byte, and 2,000 sessions at the same time.

use crate::harness::{Ambassador, Client, Config, Pki, ServerTls, Upstream, roles};

const BYTES: usize = 200_000_000;

#[test]
fn two_hundred_megabytes_each_way_arrive_byte_for_byte() {
    let upstream = Upstream::plain(roles::exchange(BYTES));
    exchange(&upstream, &Ambassador::start(&Config::app(&[&upstream.address()], "")));
}

#[test]
fn two_hundred_megabytes_each_way_arrive_byte_for_byte_through_mtls() {
    let pki = Pki::new();
    let (server, client) = (pki.server(&["127.0.0.1"]), pki.client("app"));
    let upstream = Upstream::tls(ServerTls::new(&server).clients_of(&pki).build(), roles::exchange(BYTES));
    let (ca, cert, key) = (pki.ca(), client.cert.display(), client.key.display());
    let tls = format!("tls: {{ ca: {}, cert: {cert}, key: {key} }}", ca.display());
    exchange(&upstream, &Ambassador::start(&Config::app(&[&upstream.address()], &tls)));
}

#[track_caller]
fn exchange(upstream: &Upstream, ambassador: &Ambassador) {
    ambassador.connect().exchange(BYTES);
    upstream.wait_note(&format!("identical {BYTES}"));
    let record = ambassador.record();
    assert_eq!(record["outcome"], "completed");
    let bytes = Some(BYTES as u64);
    assert_eq!((record["sent_bytes"].as_u64(), record["received_bytes"].as_u64()), (bytes, bytes));
}

#[test]
fn two_thousand_sessions_live_at_once_half_of_them_in_mtls() {
    const EACH: usize = 1000;
    // Both ends of every session are ours, and a session has two sockets in the daemon: 4,000 descriptors here, more
    // there.
    raise_descriptor_limit();
    let pki = Pki::new();
    let (server, identity) = (pki.server(&["127.0.0.1"]), pki.client("app"));
    let plain = Upstream::plain(roles::echo);
    let mutual = Upstream::tls(ServerTls::new(&server).clients_of(&pki).build(), roles::echo);
    let (ca, cert, key) = (pki.ca(), identity.cert.display(), identity.key.display());
    let tls = format!("tls: {{ ca: {}, cert: {cert}, key: {key} }}", ca.display());
    // The defaults are for one application's pool, not for a burst of a thousand connects.
    let limits = "limits: { max_connections: 1100, max_connections_per_endpoint: 1100, max_pending: 1100 }";
    let config = Config::new()
        .listener("plain", "bind: 127.0.0.1:0\ncluster: plain\nmax_connections: 1100")
        .listener("mutual", "bind: 127.0.0.1:0\ncluster: mutual\nmax_connections: 1100")
        .cluster("plain", &[&plain.address()], limits)
        .cluster("mutual", &[&mutual.address()], &format!("{tls}\n{limits}"));
    let ambassador = Ambassador::start(&config);
    let mut clients: Vec<Client> = Vec::new();
    for number in 0..EACH {
        for listener in ["plain", "mutual"] {
            let mut client = ambassador.connect_to(listener);
            client.send(format!("{listener} {number}"));
            clients.push(client);
        }
    }
    let words = |index: usize| format!("{} {}", ["plain", "mutual"][index % 2], index / 2);
    for (index, client) in clients.iter_mut().enumerate() {
        client.expect(words(index));
    }
    ambassador.wait_active(2 * EACH as u64);
    assert_eq!((plain.active(), mutual.active()), (EACH, EACH));
    assert_eq!(ambassador.metrics().sum("sessions_active", &[]), 2.0 * EACH as f64);
    for (index, client) in clients.iter_mut().enumerate() {
        client.echo(&words(index));
    }
    drop(clients);
    ambassador.wait_active(0);
    let records = ambassador.wait_records(2 * EACH);
    assert!(records.iter().all(|record| record["outcome"] == "completed"));
}

/// Many systems start processes with a soft limit of 1,024 descriptors and a higher hard limit.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the hard limit is ours to use");
    assert!(
        maximum.is_none_or(|most| most >= 8192),
        "2,000 sessions need more descriptors than `ulimit -Hn` allows"
    );
}
