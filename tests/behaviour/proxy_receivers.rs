//! Which of our PROXY headers other projects' servers accept, for clients of every kind. docs/CONTEXT.md has the
//! table.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::proxies::haproxy;
use crate::harness::server::{dovecot, mariadb, postfix, slapd};
use crate::harness::{
    Ambassador, Client, Config, Conn, Pki, Server, Upstream, ambassador as command, finish,
};

use crate::health::wait_health;

/// A server that demands headers, and how a client sees that it serves.
struct Receiver {
    name: &'static str,
    server: &'static Server,
    port: usize,
    protocol: &'static str,
    sends: Vec<u8>,
    expects: &'static [u8],
}

fn receivers() -> Vec<Receiver> {
    let receiver = |name, server, port, protocol, sends: &[u8], expects| Receiver {
        name,
        server,
        port,
        protocol,
        sends: sends.to_vec(),
        expects,
    };
    // An anonymous bind, and its success.
    let bind = b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0";
    vec![
        receiver("Postfix", postfix(), 2, "smtp", b"EHLO client.test\r\nQUIT\r\n", b"221 "),
        receiver("Dovecot", dovecot(), 4, "imap", b"a CAPABILITY\r\n", b"a OK"),
        receiver("MariaDB", mariadb(), 0, "mysql", &login_of_nobody(), b"Access denied for user"),
        receiver("slapd", slapd(), 1, "ldap", bind, b"\x61\x07\x0a\x01\0"),
        receiver("HAProxy", haproxy(), 3, "tcp", b"GET / HTTP/1.0\r\n\r\n", b"src=127.0.0.1:"),
    ]
}

/// A HandshakeResponse41 without TLS, for a user that MariaDB does not know.
fn login_of_nobody() -> Vec<u8> {
    const CAPABILITIES: u32 = 0xa205;
    let head = [&CAPABILITIES.to_le_bytes()[..], &(1_u32 << 24).to_le_bytes(), &[45], &[0; 23]].concat();
    let payload = [&head[..], b"nobody\0\0"].concat();
    [&[u8::try_from(payload.len()).expect("it is short"), 0, 0, 1][..], &payload].concat()
}

impl Receiver {
    fn cluster(&self, more: &str) -> String {
        format!("protocol: {}\n{}\n{more}", self.protocol, self.server.tls(""))
    }

    #[track_caller]
    fn serves(&self, client: &mut Client, to_whom: &str) {
        client.send(&self.sends);
        let mut heard = Vec::new();
        while !heard.windows(self.expects.len()).any(|window| window == self.expects) {
            heard.extend(client.receive(1));
            assert!(heard.len() < 4096, "{} to {to_whom}: {}", self.name, heard.escape_ascii());
        }
    }
}

/// Scenario: unix clients were announced as AF_UNIX, in version 1 as UNKNOWN. HAProxy, Postfix and slapd rejected
/// them, while probes and `check --connect`, which sent LOCAL, succeeded; or, with version 1 and Postfix, the reverse.
#[test]
fn every_server_takes_the_header_of_every_client_and_of_every_probe() {
    for receiver in receivers() {
        // slapd reads version 2 only.
        let versions: &[&str] = if receiver.name == "slapd" { &["v2"] } else { &["v1", "v2"] };
        for version in versions {
            let address = receiver.server.address(receiver.port);
            let probe = if receiver.protocol == "tcp" { "tls" } else { "protocol" };
            let config = Config::new()
                .listener("app", "bind: [127.0.0.1:0, \"unix:{dir}/app.sock\"]\ncluster: up")
                .listener("behind", "bind: \"unix:{dir}/behind.sock\"\ncluster: up\naccept_proxy: true")
                .cluster(
                    "up",
                    &[&address],
                    &receiver.cluster(&format!(
                        "send_proxy: {version}\nhealth_check: {{ type: {probe}, interval: 100ms, timeout: 5s }}"
                    )),
                );
            let ambassador = Ambassador::start(&config);
            wait_health(&ambassador, &address, "healthy");
            receiver.serves(&mut ambassador.connect(), "a client over TCP");
            let unix = |name: &str| Client::unix(&ambassador.dir().join(name)).expect("it accepts");
            receiver.serves(&mut unix("app.sock"), "a unix client");
            for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
                let mut client = unix("behind.sock");
                client.send(header);
                receiver.serves(&mut client, "a client behind a proxy that does not say whose it is");
            }
            let file = ambassador.dir().join("check.yaml");
            std::fs::write(&file, config.render(ambassador.dir())).expect("a file");
            finish(command().args(["check", "--connect", "--config"]).arg(&file)).must_succeed();
        }
    }
}

/// A session of a listener with `context: connect`, whose client sends as much context as it may.
fn with_a_long_context(receiver: &Receiver, more: &str) -> (Ambassador, Client) {
    let config = Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\ncontext: connect").cluster(
        "up",
        &[&receiver.server.address(receiver.port)],
        &receiver.cluster(&format!("send_proxy: v2\n{more}")),
    );
    let ambassador = Ambassador::start(&config);
    let mut client = ambassador.connect();
    let context: Vec<_> = (0..4).map(|n| format!("k{n}={}", "x".repeat(240))).collect();
    let context = context.join(",");
    client.send(format!("CONNECT up HTTP/1.1\r\nHost: up\r\nAmbassador-Context: {context}\r\n\r\n"));
    (ambassador, client)
}

/// Scenario: MariaDB takes headers of 256 bytes, Postfix of 536, slapd of 548, and a client's context of 900 bytes ended the
/// session.
#[test]
fn a_header_has_no_more_than_the_servers_of_its_protocol_take() {
    for receiver in receivers() {
        let (_ambassador, mut client) = with_a_long_context(&receiver, "");
        receiver.serves(&mut client, "a client that sends much of itself");
    }
}

/// Scenario: MariaDB answers an unreadable header with an error, in plaintext, where TLS was to begin. The client and
/// the log got "sent plaintext after agreeing to TLS", or that the server spoke no TLS.
#[test]
fn what_mariadb_says_of_a_header_is_told() {
    let receiver = receivers().into_iter().find(|receiver| receiver.name == "MariaDB").expect("it is there");
    let (ambassador, mut client) = with_a_long_context(&receiver, "send_proxy_max: 1500");
    client.send(&receiver.sends);
    let (heard, _) = client.read_out();
    let heard = String::from_utf8_lossy(&heard).into_owned();
    let record = ambassador.record_of("upstream_refused");
    for said in [heard, record["error"].to_string()] {
        assert!(said.contains("Failed to parse proxy header"), "{said}");
    }
}

/// Scenario: the same from a more distant server: its error arrives when TLS has begun on our side.
#[test]
fn what_a_mysql_server_says_instead_of_tls_is_told_however_late_it_comes() {
    let upstream = Upstream::plain(|mut conn: Conn| async move {
        let greeting = b"\x0a10.11.6\0\x07\0\0\0abcdefgh\0\xff\xff\x2d\x02\0\xff\xdf\x15\0\0\0\0\0\0\0\0\0\0\
            ijklmnopqrst\0mysql_native_password\0";
        let error = b"\xff\x51\x04#HY000Failed to parse proxy header";
        let packet =
            |number: u8, payload: &[u8]| [&[payload.len() as u8, 0, 0, number][..], payload].concat();
        drop(conn.write_all(&packet(0, greeting)).await);
        // The request for TLS, which the hello follows at once.
        let mut asked = [0; 36];
        drop(conn.read_exact(&mut asked).await);
        drop(conn.write_all(&packet(2, error)).await);
        drop(conn.read_to_end(&mut Vec::new()).await);
    });
    let pki = Pki::new();
    let cluster = format!("protocol: mysql\ntls: {{ ca: {} }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let mut client = ambassador.connect();
    client.send(login_of_nobody());
    let (heard, _) = client.read_out();
    let heard = String::from_utf8_lossy(&heard).into_owned();
    assert!(heard.contains("#08004Failed to parse proxy header"), "{heard}");
}
