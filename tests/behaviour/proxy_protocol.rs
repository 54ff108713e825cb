//! PROXY headers: read from clients, and sent to the servers. HAProxy and nginx are on either side.

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;

use crate::harness::proxies::{haproxy, nginx};
use crate::harness::{
    Ambassador, Client, Config, Conn, End, Pki, Upstream, ambassador as command, finish, pgwire, roles,
};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Listener `app` that demands a header, in front of these endpoints.
fn accepting(bind: &str, upstream: &Upstream, cluster: &str) -> Config {
    let listener = format!("bind: {bind}\ncluster: up\naccept_proxy: true");
    Config::new().listener("app", &listener).cluster("up", &[&upstream.address()], cluster)
}

/// A header of version 2 from 192.0.2.1:12345 to 198.51.100.2:5432.
fn v2(extensions: &[u8]) -> Vec<u8> {
    let addresses = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0x15, 0x38];
    let length = u16::try_from(addresses.len() + extensions.len()).expect("a short header");
    [SIGNATURE, &[0x21, 0x11], &length.to_be_bytes(), &addresses, extensions].concat()
}

#[test]
fn a_header_is_taken_and_what_follows_it_reaches_the_server() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&accepting("127.0.0.1:0", &upstream, ""));
    let mut client = ambassador.connect();
    client.send("PROXY TCP4 192.0.2.1 198.51.100.2 12345 5432\r\nat once");
    client.expect("at once");
    client.echo("later");
    drop(client);
    let record = ambassador.record();
    assert_eq!(record["peer"], "192.0.2.1:12345", "{record}");
    let transport: SocketAddr =
        record["transport_peer"].as_str().expect("an address").parse().expect("an address");
    assert!(transport.ip().is_loopback());
    assert_eq!(record["outcome"], "completed");
    assert_eq!(record["sent_bytes"], 12, "the header is not the server's");
}

#[test]
fn a_header_of_version_2_may_come_byte_by_byte() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&accepting("127.0.0.1:0", &upstream, ""));
    let mut client = ambassador.connect();
    for byte in v2(b"\x02\0\x07db.test\x05\0\x04id-7") {
        client.send([byte]);
    }
    client.echo("hello");
    drop(client);
    let record = ambassador.record();
    assert_eq!(record["peer"], "192.0.2.1:12345", "{record}");
    assert_eq!(record["proxy_authority"], "db.test", "{record}");
    assert_eq!(record["proxy_unique_id"], "id-7", "{record}");
}

#[test]
fn a_connection_of_the_other_proxys_own_keeps_its_own_address() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&accepting("127.0.0.1:0", &upstream, ""));
    let mut client = ambassador.connect();
    client.send([SIGNATURE, &[0x20, 0, 0, 0]].concat());
    client.echo("probe");
    drop(client);
    let record = ambassador.record();
    assert!(record["peer"].as_str().expect("a peer").starts_with("127.0.0.1:"), "{record}");
    assert!(record["transport_peer"].is_null(), "{record}");
}

#[test]
fn without_a_header_nothing_reaches_the_server() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&accepting("127.0.0.1:0", &upstream, ""));
    for (sent, part) in [
        (&b"SELECT 1"[..], "does not begin with a PROXY header"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 1\r\nx", "malformed"),
        (&v2(b"\x03\0\x04\0\0\0\0"), "wrong checksum"),
        (b"PROXY TCP4 192.0.2.1", "did not send a whole PROXY header within 5s"),
    ] {
        let mut client = ambassador.connect();
        client.send(sent);
        assert_eq!(client.read_out(), (Vec::new(), End::Reset), "{part}");
        let record = ambassador.record_where(part, |record| record["error"].to_string().contains(part));
        assert_eq!(record["outcome"], "bad_opening", "{record}");
        assert_eq!(record["attempts"], 0, "{record}");
    }
    // A client that leaves within the header is no error.
    ambassador.connect().send("PROXY ");
    ambassador.record_of("downstream_gone");
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn a_missing_header_is_refused_in_the_words_of_the_protocol() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&accepting("127.0.0.1:0", &upstream, "protocol: postgres"));
    let mut client = ambassador.connect();
    client.send(pgwire::startup(&[("user", "app")]));
    let (answer, _) = client.read_out();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with('E') && answer.contains("bad_opening"), "{answer}");
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn haproxy_and_nginx_in_front_say_who_connects() {
    let upstream = Upstream::plain(roles::echo);
    for (proxy, port, socket, version) in
        [(haproxy(), 0, "v1.sock", 1), (haproxy(), 1, "v2.sock", 2), (nginx(), 0, "nginx.sock", 1)]
    {
        let bind = format!("unix:{}", proxy.dir().join(socket).display());
        let listener = format!("bind: {bind}\ncluster: up\naccept_proxy: true\nmode: \"0666\"");
        let config = Config::new().listener("app", &listener).cluster("up", &[&upstream.address()], "");
        let ambassador = Ambassador::start(&config);
        let address = proxy.address(port).parse().expect("an address");
        let mut client = Client::tcp(address).expect("the proxy accepts");
        client.echo("through both");
        let local = client.local();
        drop(client);
        let record = ambassador.record();
        assert_eq!(record["peer"], local.to_string(), "{record}");
        assert_eq!(record["transport_peer"], "unix", "{record}");
        if version == 2 {
            // %{+X}o makes it hexadecimal: address and port of the client.
            let id = record["proxy_unique_id"].as_str().expect("an id");
            assert!(id.starts_with("7F000001:"), "{record}");
        }
    }
}

#[test]
fn servers_are_told_in_version_1_who_connects() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], "send_proxy: v1"));
    let mut client = ambassador.connect();
    client.send("hello");
    let (from, to) = (client.local(), ambassador.address("app"));
    client.expect(format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nhello", from.port(), to.port()));
    drop(client);
    assert_eq!(ambassador.record()["sent_bytes"], 5, "the header is nobody's bytes");
}

#[test]
fn servers_are_told_in_version_2_who_connects_in_which_session() {
    let upstream = Upstream::plain(roles::echo);
    let config = Config::new()
        .listener("app", "bind: [127.0.0.1:0, \"unix:{dir}/app.sock\"]\ncluster: up")
        .cluster("up", &[&format!("localhost:{}", upstream.port())], "send_proxy: v2");
    let ambassador = Ambassador::start(&config);
    let mut client = Client::unix(&ambassador.dir().join("app.sock")).expect("it accepts");
    client.send("hello");
    let fixed = client.receive(16);
    // A client without an address: the header has the address of our own connection.
    assert_eq!(fixed[..14], [SIGNATURE, &[0x21, 0x11]].concat());
    let header = client.receive(usize::from(u16::from_be_bytes([fixed[14], fixed[15]])));
    client.expect("hello");
    drop(client);
    let record = ambassador.record();
    assert_eq!(header[..8], [127, 0, 0, 1, 127, 0, 0, 1]);
    assert_eq!(header[10..12], upstream.port().to_be_bytes());
    let extensions = extensions(&header[12..]);
    let value = |kind: u8| {
        let found = extensions.iter().find(|(known, _)| *known == kind);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    assert_eq!(value(0x02).as_deref(), Some("localhost"));
    assert_eq!(value(0x05).as_deref(), record["session"].as_str());
    assert!(value(0xe0).is_some_and(|host| !host.is_empty()));
    assert_eq!(value(0xe2), Some(rustix::process::geteuid().as_raw().to_string()));
    assert_eq!(value(0x03).map(|_| ()), Some(()), "a checksum");
}

/// Types and values of a header's TLVs.
fn extensions(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [kind, high, low, rest @ ..] = bytes {
        let (value, rest) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        found.push((*kind, value.to_vec()));
        bytes = rest;
    }
    found
}

#[test]
fn haproxy_reads_what_we_send_with_and_without_tls() {
    let proxy = haproxy();
    for (port, version, tls) in [(2, "v1", false), (2, "v2", false), (3, "v1", true), (3, "v2", true)] {
        let tls = if tls { proxy.tls_without_certificate() } else { String::new() };
        let endpoint = proxy.address(port).replace("127.0.0.1", "localhost");
        let ambassador =
            Ambassador::start(&Config::app(&[&endpoint], &format!("send_proxy: {version}\n{tls}")));
        let mut client = ambassador.connect();
        client.send("GET / HTTP/1.0\r\n\r\n");
        let (from, to) = (client.local(), ambassador.address("app"));
        let (answer, _) = client.read_out();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.contains(&format!("src={from} dst={to} ")), "{version} {tls}: {answer}");
        drop(client);
        if version == "v2" {
            let record = ambassador.record();
            let session = record["session"].as_str().expect("an id");
            assert!(answer.contains(&format!("id={session} ")), "{answer}");
            let authority = if tls.is_empty() { "authority=localhost " } else { "authority=srv.test " };
            assert!(answer.contains(authority), "{answer}");
        }
    }
}

#[test]
fn nginx_reads_what_we_send_with_and_without_tls() {
    let server = nginx();
    for (port, tls) in [(1, String::new()), (2, server.tls_without_certificate())] {
        let config = Config::app(&[&server.address(port)], &format!("send_proxy: v1\n{tls}"));
        let ambassador = Ambassador::start(&config);
        let mut client = ambassador.connect();
        let (from, to) = (client.local(), ambassador.address("app"));
        let (answer, _) = client.read_out();
        assert_eq!(String::from_utf8_lossy(&answer), format!("from {from} to {to}"));
    }
}

#[test]
fn every_attempt_sends_a_header_of_its_own_before_tls() {
    let pki = Pki::new();
    // Reads a header, then closes within the handshake.
    let upstream = Upstream::plain(|mut conn: Conn| async move {
        let mut begin = [0; 8];
        drop(conn.read_exact(&mut begin).await);
        conn.note(String::from_utf8_lossy(&begin));
    });
    let cluster =
        format!("send_proxy: v1\ntls: {{ ca: {} }}\nconnect: {{ attempts: 2 }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let mut client = ambassador.connect();
    client.send("x");
    client.ending();
    assert_eq!(ambassador.record_of("tls_failed")["attempts"], 2);
    assert_eq!(upstream.notes(), ["PROXY TC", "PROXY TC"]);
}

#[test]
fn what_one_proxy_said_is_passed_on_to_the_next() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&accepting("127.0.0.1:0", &upstream, "send_proxy: v1"));
    let mut client = ambassador.connect();
    client.send([&v2(b"")[..], b"x"].concat());
    client.expect("PROXY TCP4 192.0.2.1 198.51.100.2 12345 5432\r\nx");
}

/// Scenario: probes and `check --connect` sent LOCAL, or UNKNOWN in version 1, and sessions of unix clients AF_UNIX:
/// servers accepted the one and rejected the other, so that the cluster was healthy and no session was served, or the
/// reverse.
#[test]
fn a_check_speaks_as_a_session_of_a_unix_client_does() {
    for version in ["v1", "v2"] {
        // Reports the header without our port, and in version 2 without the fields that differ from session to
        // session.
        let upstream = Upstream::plain(move |mut conn: Conn| async move {
            let mut header =
                vec![0; if version == "v1" { "PROXY TCP4 127.0.0.1 127.0.0.1 ".len() } else { 24 }];
            drop(conn.read_exact(&mut header).await);
            if version == "v2" {
                header[14..16].fill(0);
            }
            conn.note(header.escape_ascii().to_string());
        });
        let config = Config::new().listener("app", "bind: \"unix:{dir}/app.sock\"\ncluster: up").cluster(
            "up",
            &[&upstream.address()],
            &format!("send_proxy: {version}"),
        );
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("listeners.yaml");
        std::fs::write(&file, config.render(dir.path())).expect("a file");
        finish(command().args(["check", "--connect", "--config"]).arg(&file)).must_succeed();
        let ambassador = Ambassador::start(&config);
        let mut client = Client::unix(&ambassador.dir().join("app.sock")).expect("it accepts");
        client.ending();
        let notes = upstream.notes();
        assert_eq!((notes.len(), &notes[0]), (2, &notes[1]));
    }
}

/// nginx before 1.23.3 accepts at most 107 bytes.
#[test]
fn a_header_is_as_short_as_its_receiver_wants_it() {
    let server = nginx();
    let cluster = "send_proxy: v2\nsend_proxy_max: 107";
    let ambassador = Ambassador::start(&Config::app(&[&server.address(1)], cluster));
    let mut client = ambassador.connect();
    let (from, to) = (client.local(), ambassador.address("app"));
    let (answer, _) = client.read_out();
    assert_eq!(String::from_utf8_lossy(&answer), format!("from {from} to {to}"));
}
