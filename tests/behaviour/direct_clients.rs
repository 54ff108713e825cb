//! Clients of protocols whose TLS begins with the first byte, against Debian's Redis, Memcached and Mosquitto with
//! client certificates demanded; and what client libraries report of a refusal.

use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::server::{PASSWORD, memcached, mosquitto, rabbitmq, redis};
use crate::harness::{
    Ambassador, ClosedPort, Config, Finished, Pki, Server, ServerTls, Upstream, ambassador, demand, finish,
};

fn to(server: &Server, protocol: &str) -> Ambassador {
    Ambassador::start(&Config::app(
        &[&server.address(0)],
        &format!("protocol: {protocol}\n{}", server.tls("")),
    ))
}

fn dead(protocol: &str) -> Ambassador {
    let pki = Pki::new();
    let cluster =
        format!("protocol: {protocol}\nconnect: {{ attempts: 1 }}\ntls: {{ ca: {} }}", pki.ca().display());
    Ambassador::start(&Config::app(&[&ClosedPort::new().address()], &cluster))
}

fn checks(server: &Server, protocol: &str) {
    let config = Config::app(&[&server.address(0)], &format!("protocol: {protocol}\n{}", server.tls("")));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("listeners.yaml");
    std::fs::write(&file, config.render(dir.path())).expect("a file to check");
    let finished = finish(ambassador().args(["check", "--connect", "--config"]).arg(&file)).must_succeed();
    assert!(finished.stdout.contains("answer     ok"), "{}", finished.stdout);
}

fn python(script: &str, ambassador: &Ambassador) -> Finished {
    let port = ambassador.address("app").port().to_string();
    finish(Command::new("/usr/bin/python3").args(["-c", script, &port, PASSWORD]))
}

// ---------------------------------------------------------------------------------------------------
// Redis

fn redis_cli(ambassador: &Ambassador, arguments: &[&str]) -> Finished {
    let port = ambassador.address("app").port().to_string();
    let mut command = Command::new(demand("redis-cli", "redis-tools"));
    command.args(["-h", "127.0.0.1", "-p", &port]).env("REDISCLI_AUTH", PASSWORD);
    finish(command.args(arguments))
}

#[test]
fn redis_cli_reaches_a_server_that_demands_mtls() {
    let ambassador = to(redis(), "redis");
    assert_eq!(redis_cli(&ambassador, &["set", "greeting", "hello"]).must_succeed().stdout.trim(), "OK");
    assert_eq!(redis_cli(&ambassador, &["get", "greeting"]).must_succeed().stdout.trim(), "hello");
}

#[test]
fn redis_py_pipelines_and_subscribes() {
    let ambassador = to(redis(), "redis");
    let script = "
import redis, sys
client = redis.Redis(port=int(sys.argv[1]), password=sys.argv[2])
pipeline = client.pipeline()
for number in range(1000):
    pipeline.set('n%d' % number, 'x' * 1000)
assert all(pipeline.execute())
subscription = client.pubsub()
subscription.subscribe('news')
while client.publish('news', 'hello') == 0:
    pass
messages = (message for message in subscription.listen() if message['type'] == 'message')
assert next(messages)['data'] == b'hello'
print('redis-py is content')
";
    assert_eq!(python(script, &ambassador).must_succeed().stdout.trim(), "redis-py is content");
}

#[test]
fn redis_cli_is_told_why_the_ambassador_refuses() {
    let ambassador = dead("redis");
    let finished = redis_cli(&ambassador, &["ping"]);
    let told = format!("{}{}", finished.stdout, finished.stderr);
    assert!(told.contains("LOADING ambassador: connect_failed: cannot connect to 127.0.0.1:"), "{told}");
}

/// In TLS 1.3 a client certificate is rejected after our side of the handshake is done.
#[test]
fn a_late_rejection_reaches_redis_clients_in_words() {
    let server = redis();
    let cluster = format!("protocol: redis\n{}", server.tls_without_certificate());
    let ambassador = Ambassador::start(&Config::app(&[&server.address(0)], &cluster));
    let finished = redis_cli(&ambassador, &["ping"]);
    let told = format!("{}{}", finished.stdout, finished.stderr);
    assert!(
        told.contains("LOADING ambassador: tls_failed: the server demands a client certificate"),
        "{told}"
    );
    assert_eq!(ambassador.record()["outcome"], "tls_failed");
}

#[test]
fn redis_cli_with_tls_is_turned_away_by_an_alert() {
    let ambassador = to(redis(), "redis");
    let finished = redis_cli(&ambassador, &["--tls", "--insecure", "ping"]);
    assert_ne!(finished.code, 0);
    let record = ambassador.record_of("bad_opening");
    assert!(record["error"].as_str().expect("words").contains("rediss://"), "{record}");
}

#[test]
fn a_port_scan_reaches_no_server() {
    let ambassador = to(redis(), "redis");
    drop(ambassador.connect());
    assert_eq!(ambassador.record()["attempts"], 0);
}

#[test]
fn check_connect_gets_an_answer_from_each() {
    checks(redis(), "redis");
    checks(memcached(), "memcached");
    checks(mosquitto(), "mqtt");
}

// ---------------------------------------------------------------------------------------------------
// Memcached and MQTT

#[test]
fn memcached_works_over_mtls_and_its_refusal_is_read() {
    let script = "
import sys
from pymemcache.client.base import Client
client = Client(('127.0.0.1', int(sys.argv[1])))
assert client.set('k', b'x' * 100000, noreply=False)
assert client.get('k') == b'x' * 100000
print('pymemcache is content')
";
    let finished = python(script, &to(memcached(), "memcached")).must_succeed();
    assert_eq!(finished.stdout.trim(), "pymemcache is content");
    let finished = python(script, &dead("memcached")).must_exit(1);
    finished.must_print("MemcacheServerError");
    finished.must_print("ambassador: connect_failed");
}

/// Scenario: OpenSSL without a session id context that asks for client certificates
/// (SSL_CTX_set_session_id_context(3)), such as memcached 1.6.18, answers a ticket with an alert: 24 of 60 sessions in
/// a row were refused.
#[test]
fn a_server_that_refuses_resumption_is_asked_for_a_full_handshake() {
    let ambassador = to(memcached(), "memcached");
    for _ in 0..60 {
        let mut client = ambassador.connect();
        client.send("version\r\n");
        client.expect("VERSION ");
    }
    let records = ambassador.wait_records(60);
    let others: Vec<_> = records
        .iter()
        .filter(|record| record["attempts"] != 1 || record["outcome"] == "tls_failed")
        .collect();
    assert!(others.is_empty(), "{others:?}");
    let metrics = ambassador.metrics();
    let refused = metrics.sum("tls_resumption_refused_total", &[("cluster", "up")]);
    assert!((1.0..10.0).contains(&refused), "{refused} refusals");
    assert_eq!(metrics.sum("ejections_total", &[]), 0.0);
    ambassador.wait_line("resumption refused");
}

#[test]
fn mosquittos_clients_publish_and_subscribe() {
    let ambassador = to(mosquitto(), "mqtt");
    let port = ambassador.address("app").port().to_string();
    let publish = demand("mosquitto_pub", "mosquitto-clients");
    let subscribe = demand("mosquitto_sub", "mosquitto-clients");
    finish(Command::new(publish).args(["-p", &port, "-t", "news", "-m", "hello", "-r", "-q", "1"]))
        .must_succeed();
    let finished = finish(Command::new(subscribe).args(["-p", &port, "-t", "news", "-C", "1", "-W", "20"]));
    assert_eq!(finished.must_succeed().stdout.trim(), "hello");
}

#[test]
fn an_mqtt_client_of_version_5_is_told_in_words() {
    let ambassador = dead("mqtt");
    let script = "
import sys
import paho.mqtt.client as mqtt
def on_connect(client, userdata, flags, reason, properties):
    print(reason, getattr(properties, 'ReasonString', ''))
    client.disconnect()
client = mqtt.Client('probe', protocol=mqtt.MQTTv5)
client.on_connect = on_connect
client.connect('127.0.0.1', int(sys.argv[1]))
for _ in range(20):
    client.loop(1)
    if not client.is_connected():
        break
";
    let finished = python(script, &ambassador);
    assert!(
        finished.stdout.contains("Server unavailable ambassador: connect_failed"),
        "{}{}",
        finished.stdout,
        finished.stderr
    );
    let port = ambassador.address("app").port().to_string();
    let mut publish = Command::new(demand("mosquitto_pub", "mosquitto-clients"));
    let finished = finish(publish.args(["-p", &port, "-t", "news", "-m", "hello"]));
    assert_ne!(finished.code, 0);
    finished.must_print("broker unavailable");
}

// ---------------------------------------------------------------------------------------------------
// RabbitMQ

const PIKA: &str = "
import sys, pika
login = pika.PlainCredentials('app', sys.argv[2])
where = pika.ConnectionParameters('127.0.0.1', int(sys.argv[1]), credentials=login, connection_attempts=1)
connection = pika.BlockingConnection(where)
channel = connection.channel()
channel.confirm_delivery()
channel.queue_declare('q', exclusive=True)
for number in range(100):
    channel.basic_publish('', 'q', b'%d' % number * 1000)
got = []
for method, _, body in channel.consume('q', auto_ack=True, inactivity_timeout=20):
    assert body == b'%d' % len(got) * 1000
    got.append(body)
    if len(got) == 100:
        break
channel.cancel()
connection.close()
print('pika is content')
";

#[test]
fn pika_publishes_and_consumes_and_is_told_why_it_is_refused() {
    let finished = python(PIKA, &to(rabbitmq(), "amqp")).must_succeed();
    assert_eq!(finished.stdout.trim(), "pika is content");
    let ambassador = dead("amqp");
    let finished = python(PIKA, &ambassador).must_exit(1);
    finished.must_print("ambassador: connect_failed: cannot connect to");
    finished.must_print(ambassador.record()["session"].as_str().expect("a session id"));
}

#[test]
fn check_connect_shows_rabbitmq_its_header() {
    checks(rabbitmq(), "amqp");
}

// ---------------------------------------------------------------------------------------------------
// Microsoft SQL Server: no server here, but a client

/// A scripted server, as strict as SQL Server: TLS with the first byte, and its protocol by ALPN.
#[test]
fn a_strict_server_gets_prelogin_inside_tls_and_neither_side_hears_of_encryption() {
    const ASKED: &[u8] = b"\x12\x01\x00\x14\0\0\x01\0\x01\x00\x06\x00\x01\xff\x00pad..";
    const ANSWERED: &[u8] = b"\x04\x01\x00\x0f\0\0\x01\0\x01\x00\x06\x00\x01\xff\x03";
    let pki = Pki::new();
    let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).alpn(&["tds/8.0"]).build();
    let upstream = Upstream::tls(tls, |mut conn| async move {
        let mut asked = [0; ASKED.len()];
        if conn.read_exact(&mut asked).await.is_ok() {
            conn.note(format!("encryption {}", asked[14]));
            drop(conn.write_all(&[ANSWERED, b"behind"].concat()).await);
        }
    });
    let cluster = format!("protocol: mssql\ntls: {{ ca: {} }}", pki.ca().display());
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let mut client = ambassador.connect();
    client.send(ASKED);
    client.expect([&ANSWERED[..14], &[2], b"behind"].concat());
    upstream.wait_note("encryption 2");
}

#[test]
fn freetds_shows_the_refusal() {
    let ambassador = dead("mssql");
    let port = ambassador.address("app").port().to_string();
    let mut tsql = Command::new(demand("tsql", "freetds-bin"));
    tsql.args(["-H", "127.0.0.1", "-p", &port, "-U", "app", "-P", PASSWORD]).env("TDSVER", "7.4");
    let finished = finish(&mut tsql);
    let told = format!("{}{}", finished.stdout, finished.stderr);
    assert!(told.contains("ambassador: connect_failed: cannot connect to"), "{told}");
}

// ---------------------------------------------------------------------------------------------------
// Others: what their libraries show

#[test]
fn pymongo_shows_the_refusal() {
    let script = "
import sys, pymongo
client = pymongo.MongoClient('127.0.0.1', int(sys.argv[1]), directConnection=True, serverSelectionTimeoutMS=1500)
try:
    client.admin.command('ping')
except Exception as error:
    print(error)
";
    let finished = python(script, &dead("mongodb")).must_succeed();
    assert!(finished.stdout.contains("ambassador: connect_failed"), "{}{}", finished.stdout, finished.stderr);
}
