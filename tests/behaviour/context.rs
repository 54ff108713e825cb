//! CONNECT: clients that name their cluster and options for its dial, and the replies they get.

use std::fs;
use std::process::{Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::daemon::{directory, free_port, keep};
use crate::harness::{
    Ambassador, Client, ClosedPort, Config, Conn, Upstream, command, demand, finish, roles, until,
};

/// Listener `app` with the clusters `web` and `other`, by name.
fn config(web: &[&str], other: &[&str], cluster: &str) -> Config {
    Config::new()
        .listener("app", "bind: 127.0.0.1:0\ncluster: [web, other]\ncontext: connect")
        .cluster("web", web, cluster)
        .cluster("other", other, "")
}

/// Answers one HTTP request.
async fn web(mut conn: Conn) {
    let mut request = [0; 4096];
    if conn.read(&mut request).await.is_ok() {
        drop(conn.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n").await);
    }
}

/// A reply's status, its fields with their values, and what follows it.
struct Reply {
    status: u16,
    head: String,
    rest: String,
}

impl Reply {
    #[track_caller]
    fn of(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text).into_owned();
        let (head, rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no whole head: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Self { status: status.expect("a status"), head: head.into(), rest: rest.into() }
    }

    /// Reads a head, and leaves the bytes behind it.
    #[track_caller]
    fn read(client: &mut Client) -> Self {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            text.extend(client.receive(1));
        }
        Self::of(&text)
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Sends a CONNECT for `target` with these header lines.
#[track_caller]
fn ask(ambassador: &Ambassador, target: &str, lines: &str) -> (Client, Reply) {
    let mut client = ambassador.connect();
    client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{lines}\r\n"));
    let reply = Reply::read(&mut client);
    (client, reply)
}

#[test]
fn a_client_names_its_cluster_and_hears_what_it_got() {
    let (one, two) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let ambassador = Ambassador::start(&config(&[&one.address()], &[&two.address()], ""));
    let (mut client, reply) = ask(&ambassador, "other:80", "");
    assert_eq!(reply.status, 200, "{}", reply.head);
    client.echo("hello");
    assert_eq!(ambassador.metrics().sum("sessions_active", &[("cluster", "other")]), 1.0);
    drop(client);
    let record = ambassador.record();
    assert_eq!(reply.field("Ambassador-Session"), record["session"].as_str());
    assert_eq!(reply.field("Ambassador-Endpoint"), Some(two.address().as_str()));
    assert_eq!(reply.field("Ambassador-Attempts"), Some("1"));
    assert!(reply.field("Ambassador-Connect-Ms").expect("a time").parse::<f64>().expect("a number") >= 0.0);
    assert_eq!((&record["cluster"], &record["outcome"]), (&"other".into(), &"completed".into()));
    assert_eq!(ambassador.metrics().sum("sent_bytes_total", &[("cluster", "other")]), 5.0);
    assert_eq!((one.accepted(), two.accepted()), (0, 1));
}

#[test]
fn what_follows_the_request_reaches_the_server() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&config(&[&upstream.address()], &["127.0.0.1:1"], ""));
    let mut client = ambassador.connect();
    let request = "CONNECT web HTTP/1.1\r\nHost: web\r\n\r\nat once";
    for byte in request.bytes() {
        client.send([byte]);
    }
    assert_eq!(Reply::read(&mut client).status, 200);
    client.expect("at once");
}

#[test]
fn curl_and_nc_and_python_tunnel_through() {
    let upstream = Upstream::plain(web);
    let ambassador = Ambassador::start(&config(&[&upstream.address()], &["127.0.0.1:1"], ""));
    let proxy = ambassador.address("app");

    let mut curl = Command::new(demand("curl", "curl"));
    curl.args(["-sSv", "--proxytunnel", "--proxy", &format!("http://{proxy}"), "--noproxy", ""]);
    curl.args(["--proxy-header", "Ambassador-Context: job=nightly", "http://web:80/"]);
    let told = finish(&mut curl).must_succeed();
    assert_eq!(told.stdout, "hello\n");
    told.must_print("< Ambassador-Session: ");

    let mut nc = Command::new(demand("nc.openbsd", "netcat-openbsd"));
    nc.args(["-X", "connect", "-x", &proxy.to_string(), "web", "80"]);
    nc.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut nc = nc.spawn().expect("nc starts");
    let mut stdin = nc.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut stdin, b"GET / HTTP/1.0\r\n\r\n").expect("nc reads");
    drop(stdin);
    let told = command::wait(nc).must_succeed();
    assert!(told.stdout.ends_with("hello\n"), "{told:?}");

    let script = "import http.client, sys\n\
                  c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]))\n\
                  c.set_tunnel('web', 80, {'Ambassador-Attempts': '1'})\n\
                  c.request('GET', '/')\nsys.stdout.write(c.getresponse().read().decode())\n";
    let mut python = Command::new(demand("python3", "python3"));
    let told = finish(python.args(["-c", script, &proxy.port().to_string()])).must_succeed();
    assert_eq!(told.stdout, "hello\n");

    ambassador.record_where("context", |record| record["context"]["job"] == "nightly");
}

#[test]
fn ssh_comes_through_as_a_proxy_command() {
    let dir = directory();
    let path = |name: &str| dir.join(name).display().to_string();
    for key in ["host", "user"] {
        let mut keygen = Command::new(demand("ssh-keygen", "openssh-client"));
        finish(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)])).must_succeed();
    }
    fs::copy(dir.join("user.pub"), dir.join("authorized")).expect("a copied key");
    // The empty directory that sshd expects when it runs as root.
    drop(fs::create_dir_all("/run/sshd"));
    let port = free_port();
    let mut sshd = Command::new(demand("sshd", "openssh-server"));
    sshd.args(["-D", "-e", "-f", "/dev/null", "-p", &port.to_string(), "-h", &path("host")]);
    for option in [
        "ListenAddress=127.0.0.1".into(),
        format!("AuthorizedKeysFile={}", path("authorized")),
        format!("PidFile={}", path("pid")),
        "StrictModes=no".into(),
        "PermitRootLogin=yes".into(),
        "UsePAM=no".into(),
    ] {
        sshd.args(["-o", &option]);
    }
    let keeper = keep(&sshd, "TERM", &dir, None);
    until("sshd accepted connections", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    let address = format!("127.0.0.1:{port}");
    let ambassador = Ambassador::start(&config(&["127.0.0.1:1"], &[&address], ""));

    let nc = demand("nc.openbsd", "netcat-openbsd");
    let proxy = format!("ProxyCommand={} -X connect -x {} %h %p", nc.display(), ambassador.address("app"));
    let mut ssh = Command::new(demand("ssh", "openssh-client"));
    ssh.args(["-F", "/dev/null", "-o", &proxy, "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes"]);
    ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-i", &path("user"), "other", "echo through"]);
    let told = finish(&mut ssh);
    // It stops the server when its stdin ends, and then exits.
    drop(keeper.wait_with_output());
    assert_eq!(
        told.stdout,
        "through\n",
        "{told:?}\n{}",
        fs::read_to_string(dir.join("log")).unwrap_or_default()
    );
}

#[test]
fn no_attempts_means_one_try() {
    let (one, two, three) = (ClosedPort::new(), ClosedPort::new(), ClosedPort::new());
    let addresses = [one.address(), two.address(), three.address()];
    let web: Vec<_> = addresses.iter().map(String::as_str).collect();
    // This many failures in a row would open the breaker and eject each endpoint.
    let patient = "connect: { attempts: 3 }\ncircuit_breaker: { consecutive_failures: 100 }\n\
                   outlier_detection: { consecutive_failures: 100 }";
    let ambassador = Ambassador::start(&config(&web, &["127.0.0.1:1"], patient));
    for (lines, attempts) in [
        ("", 3),
        ("Ambassador-Attempts: 0\r\n", 1),
        ("Ambassador-Attempts: 1\r\n", 1),
        ("Ambassador-Attempts: 2\r\n", 2),
        ("Ambassador-Attempts: 100\r\n", 3),
    ] {
        let (_, reply) = ask(&ambassador, "web", lines);
        assert_eq!(reply.status, 502, "{}", reply.head);
        assert_eq!(reply.field("Ambassador-Outcome"), Some("connect_failed"));
        let session = reply.field("Ambassador-Session").expect("an id").to_owned();
        let record = ambassador.record_where(&session, |record| record["session"] == session.as_str());
        assert_eq!(record["attempts"], attempts, "{lines}: {record}");
    }
}

#[test]
fn a_deadline_is_tightened_and_never_loosened() {
    let upstream = Upstream::plain(roles::silent);
    let cluster = "tls: { insecure_skip_verify: true }\nconnect: { deadline: 10s, handshake_timeout: 10s }";
    let ambassador = Ambassador::start(&config(&[&upstream.address()], &[&upstream.address()], cluster));
    let (_, reply) = ask(&ambassador, "web", "Ambassador-Deadline: 200ms\r\n");
    assert_eq!((reply.status, reply.field("Ambassador-Outcome")), (504, Some("deadline_exceeded")));
    let record = ambassador.record();
    assert!(record["duration_ms"].as_f64().expect("a time") < 5000.0, "{record}");

    let cluster = "tls: { insecure_skip_verify: true }\nconnect: { deadline: 200ms, timeout: 200ms }";
    let ambassador = Ambassador::start(&config(&[&upstream.address()], &[&upstream.address()], cluster));
    let (_, reply) = ask(&ambassador, "web", "Ambassador-Deadline: 1h\r\n");
    assert_eq!(reply.status, 504, "{}", reply.head);
    assert!(ambassador.record()["duration_ms"].as_f64().expect("a time") < 5000.0);
}

#[test]
fn heads_that_are_none_get_a_status_and_reach_no_server() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&config(&[&upstream.address()], &[&upstream.address()], ""));
    let long = format!("CONNECT web HTTP/1.1\r\nHost: web\r\nX: {}\r\n\r\n", "x".repeat(9000));
    let many = format!("CONNECT web HTTP/1.1\r\nHost: web\r\n{}\r\n", "X: y\r\n".repeat(64));
    let with =
        |line: &str| format!("CONNECT web HTTP/1.1\r\nHost: web\r\n{line}\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    let heads = [
        ("GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\n".to_owned(), 405),
        ("CONNECT web HTTP/2.0\r\n\r\n".into(), 505),
        ("CONNECT web HTTP/1.1\nHost: web\n\n".into(), 400),
        ("CONNECT web HTTP/1.1\r\n\r\n".into(), 400),
        ("SSH-2.0-OpenSSH\r\n\r\n".into(), 400),
        ("\0\0\0\u{8}\u{4}\u{d2}\u{16}/".into(), 400),
        (with("Content-Length: 5"), 400),
        (with("Transfer-Encoding: chunked"), 400),
        (with("Transfer-Encoding : chunked"), 400),
        (with("X: a\r\n Transfer-Encoding: chunked"), 400),
        (with("Ambassador-Attempts: many"), 400),
        (with("Ambassador-Attempts: 1\r\nAmbassador-Attempts: 9"), 400),
        (with("Ambassador-Attemps: 1"), 400),
        (with("Ambassador-Context: job"), 400),
        (long, 431),
        (many, 431),
        ("CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere:443\r\n\r\n".into(), 404),
    ];
    for (head, status) in &heads {
        let mut client = ambassador.connect();
        client.try_send(head);
        let reply = Reply::of(&client.read_out().0);
        assert_eq!(reply.status, *status, "{head}\n{}", reply.head);
        assert_eq!(reply.field("Ambassador-Outcome"), Some("bad_context"), "{}", reply.head);
        assert!(reply.rest.contains("bad_context: "), "a line of text: {}", reply.rest);
    }
    let records = ambassador.wait_records(heads.len());
    assert!(records.iter().all(|record| record["outcome"] == "bad_context" && record["cluster"].is_null()));
    assert_eq!(upstream.accepted(), 0);
    assert_eq!(ambassador.metrics().sum("sessions_active", &[]), 0.0);
}

#[test]
fn a_slow_head_is_given_up_and_a_tls_client_gets_an_alert() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&config(&[&upstream.address()], &[&upstream.address()], ""));
    let mut slow = ambassador.connect();
    slow.send("CONNECT web HTTP/1.1\r\nHost: ");
    let mut tls = ambassador.connect();
    tls.send([0x16, 3, 1, 2, 0, 1]);
    assert_eq!(tls.read_out().0[..2], [0x15, 3]);
    let reply = Reply::of(&slow.read_out().0);
    assert_eq!((reply.status, reply.field("Ambassador-Outcome")), (408, Some("bad_context")));
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn who_is_not_let_in_hears_so_in_http() {
    let upstream = Upstream::plain(roles::echo);
    let listener = |more: &str| format!("bind: 127.0.0.1:0\ncluster: web\ncontext: connect\n{more}");
    let config = Config::new()
        .listener("app", &listener("allow: [{ user: 4242424 }]"))
        .listener("full", &listener("max_connections: 1"))
        .cluster("web", &[&upstream.address()], "limits: { max_connections: 1 }");
    let ambassador = Ambassador::start(&config);
    let (_, reply) = ask(&ambassador, "web", "");
    assert_eq!((reply.status, reply.field("Ambassador-Outcome")), (403, Some("denied")));
    let request = "CONNECT web HTTP/1.1\r\nHost: web\r\n\r\n";
    let mut first = ambassador.connect_to("full");
    first.send(request);
    assert_eq!(Reply::read(&mut first).status, 200);
    let mut second = ambassador.connect_to("full");
    second.send(request);
    let reply = Reply::of(&second.read_out().0);
    assert_eq!((reply.status, reply.field("Ambassador-Outcome")), (503, Some("listener_full")));
}

#[test]
fn the_clusters_own_protocol_begins_behind_the_reply() {
    let postgres = Upstream::plain(roles::echo);
    let smtp = Upstream::plain(roles::greet("220 mx.test ESMTP\r\n"));
    let config = Config::new()
        .listener("app", "bind: 127.0.0.1:0\ncluster: [db, mail]\ncontext: connect")
        .cluster("db", &[&postgres.address()], "protocol: postgres")
        .cluster("mail", &[&smtp.address()], "protocol: smtp");
    let ambassador = Ambassador::start(&config);
    let (mut client, reply) = ask(&ambassador, "mail:25", "");
    assert_eq!(reply.status, 200);
    client.expect("220 mx.test ESMTP\r\n");

    // We decline an SSLRequest; the bytes after it are for the server.
    let (mut client, reply) = ask(&ambassador, "db", "");
    assert_eq!(reply.status, 200);
    client.send([0, 0, 0, 8, 4, 210, 22, 47]);
    client.expect("N");
    let (mut client, _) = ask(&ambassador, "db", "");
    client.send("SSH-2.0");
    let (answer, _) = client.read_out();
    assert!(String::from_utf8_lossy(&answer).contains("bad_opening"), "in its own words: {answer:?}");
}

#[test]
fn what_a_client_says_of_itself_is_logged_and_passed_on() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&config(&[&upstream.address()], &["127.0.0.1:1"], "send_proxy: v2"));
    let (mut client, reply) = ask(&ambassador, "web", "Ambassador-Context: job=nightly,run=42\r\n");
    assert_eq!(reply.status, 200);
    let fixed = client.receive(16);
    let header = client.receive(usize::from(u16::from_be_bytes([fixed[14], fixed[15]])));
    let extension = b"\xe3\0\x13job=nightly, run=42";
    assert!(header.windows(extension.len()).any(|window| window == extension), "{}", header.escape_ascii());
    drop(client);
    let record = ambassador.record();
    assert_eq!(record["context"], serde_json::json!({ "job": "nightly", "run": "42" }));
}

/// Scenario: a client has the reply to its CONNECT and sends nothing. A drain took that session for a busy one and
/// waited for it through the whole window; a silent session of a plain listener is ended at once.
#[test]
fn a_drain_does_not_wait_for_those_that_asked_and_say_nothing() {
    let upstream = Upstream::plain(roles::echo);
    let config = config(&[&upstream.address()], &["127.0.0.1:1"], "protocol: postgres")
        .top("shutdown: { drain_timeout: 10m }");
    let mut ambassador = Ambassador::start(&config);
    let (mut client, reply) = ask(&ambassador, "web", "");
    assert_eq!(reply.status, 200);
    ambassador.signal(rustix::process::Signal::TERM);
    let (heard, _) = client.read_out();
    assert!(String::from_utf8_lossy(&heard).contains("drained"), "{}", heard.escape_ascii());
    assert_eq!(ambassador.wait_exit(), 0);
}

#[test]
fn a_drain_tells_those_that_have_not_asked_yet() {
    let upstream = Upstream::plain(roles::echo);
    let mut ambassador = Ambassador::start(&config(&[&upstream.address()], &[&upstream.address()], ""));
    let mut waiting = ambassador.connect();
    ambassador.wait_active(1);
    ambassador.signal(rustix::process::Signal::TERM);
    let reply = Reply::of(&waiting.read_out().0);
    assert_eq!((reply.status, reply.field("Ambassador-Outcome")), (503, Some("drained")));
    assert_eq!(ambassador.wait_exit(), 0);
}
