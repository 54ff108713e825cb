//! `login`: clients of Redis, MQTT, LDAP, NATS, RabbitMQ and MongoDB that know no password, and a daemon that signs in for
//! them, against real servers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::harness::server::{
    PASSWORD, mosquitto_with_passwords, nats, rabbitmq, redis, redis_cli_of, slapd,
};
use crate::harness::{Ambassador, Client, Config, Finished, Server, ambassador, demand, finish};

const WRONG: &str = "battery staple";

/// A daemon that signs in to a server, with the directory of its password file.
struct SignedIn {
    ambassador: Ambassador,
    config: Config,
    secrets: tempfile::TempDir,
}

impl std::ops::Deref for SignedIn {
    type Target = Ambassador;

    fn deref(&self) -> &Ambassador {
        &self.ambassador
    }
}

impl SignedIn {
    fn to(server: &Server, protocol: &str, user: &str, password: &str) -> Self {
        let secrets = tempfile::tempdir().expect("a temporary directory");
        write(&secrets, password);
        let file = secrets.path().join("password");
        let cluster = format!(
            "protocol: {protocol}\n{}\nlogin: {{ as: \"{user}\", password: {{ file: {} }} }}",
            server.tls(""),
            file.display()
        );
        let listener = "bind: 127.0.0.1:0\ncluster: up\nallow: anyone";
        let config = Config::new().listener("app", listener).cluster("up", &[&server.address(0)], &cluster);
        Self { ambassador: Ambassador::start(&config), config, secrets }
    }

    fn port(&self) -> String {
        self.address("app").port().to_string()
    }

    /// What is true after so many sessions with a password that the server has rejected, and one with the right password. Clients
    /// that take long to start are few: a rejected password is tried again after a minute.
    fn was_asked_once(&self, sessions: usize) {
        let records = self.wait_records(sessions);
        assert!(records.iter().all(|record| record["outcome"] == "login_failed"), "{records:?}");
        let metrics = self.metrics();
        assert_eq!(metrics.sum("logins_total", &[("result", "rejected")]), 1.0);
        assert_eq!(metrics.sum("logins_total", &[("result", "paused")]), (sessions - 1) as f64);
        assert_eq!((metrics.sum("ejections_total", &[]), metrics.sum("breaker_state", &[])), (0.0, 0.0));
        write(&self.secrets, PASSWORD);
        self.wait_line("a credential for signing in was read");
    }

    fn shows_no_secret(&self) {
        let status = self.status().to_string();
        for text in [self.lines().join("\n"), self.get("/metrics").body, status] {
            assert!(!text.contains(PASSWORD) && !text.contains(WRONG), "a secret is shown");
        }
    }

    /// `check --connect` with the same configuration.
    fn checks(&self) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("listeners.yaml");
        fs::write(&path, self.config.render(dir.path())).expect("a file to check");
        let told =
            finish(ambassador().args(["check", "--connect", "--config"]).arg(&path)).must_succeed().stdout;
        assert!(told.contains("  login      ok      as "), "{told}");
    }
}

/// Replaces the password file as issuers of credentials do: by another one of its name.
fn write(secrets: &tempfile::TempDir, password: &str) {
    let new = secrets.path().join("new");
    fs::write(&new, format!("{password}\n")).expect("a file");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("a mode");
    fs::rename(new, secrets.path().join("password")).expect("a replaced file");
}

fn python(script: &str, ambassador: &SignedIn, more: &[&str]) -> Finished {
    finish(Command::new("/usr/bin/python3").args(["-c", script, &ambassador.port()]).args(more))
}

// ---------------------------------------------------------------------------------------------------
// Redis

fn redis_cli(ambassador: &SignedIn, options: &[&str]) -> Finished {
    let mut command = Command::new(demand("redis-cli", "redis-tools"));
    command.args(["-h", "127.0.0.1", "-p", &ambassador.port(), "--no-auth-warning"]).args(options);
    finish(&mut command)
}

/// A user of the server's ACL, made by its administrator.
fn redis_user(name: &str) {
    redis_cli_of(redis(), &["ACL", "SETUSER", name, "on", &format!(">{PASSWORD}"), "~*", "&*", "+@all"])
        .must_succeed();
}

#[test]
fn redis_clients_are_signed_in_whatever_they_send() {
    redis_user("app");
    for user in ["app", "default"] {
        let ambassador = SignedIn::to(redis(), "redis", user, PASSWORD);
        for options in [&[][..], &["-a", WRONG], &["--user", "x", "-a", WRONG], &["-3"], &["-3", "-a", WRONG]]
        {
            let told = redis_cli(&ambassador, &[options, &["ACL", "WHOAMI"]].concat()).must_succeed().stdout;
            assert_eq!(told.trim(), user, "{options:?}");
        }
        let records = ambassador.wait_records(5);
        assert!(records.iter().all(|record| record["outcome"] == "completed" && record["login_as"] == user));
        ambassador.checks();
        ambassador.shows_no_secret();
    }
}

const REDIS_PY: &str = "
import redis, sys
for options in [{}, {'password': 'x'}, {'username': 'u', 'password': 'x', 'client_name': 'me', 'db': 1}]:
    client = redis.Redis(port=int(sys.argv[1]), **options)
    pipeline = client.pipeline()
    for number in range(100):
        pipeline.set('login%d' % number, 'x' * 1000)
    assert all(pipeline.execute())
    assert client.acl_whoami() in ('app', b'app')
    client.close()
print('redis-py is content')
";

#[test]
fn redis_py_is_signed_in_and_pipelines() {
    redis_user("app");
    let ambassador = SignedIn::to(redis(), "redis", "app", PASSWORD);
    assert_eq!(python(REDIS_PY, &ambassador, &[]).must_succeed().stdout.trim(), "redis-py is content");
}

/// A client that sends everything at once, as ioredis and lettuce do.
#[test]
fn redis_answers_keep_the_order_of_a_pipeline() {
    redis_user("app");
    let ambassador = SignedIn::to(redis(), "redis", "app", PASSWORD);
    let mut client = ambassador.connect();
    client
        .send("HELLO 2 AUTH u p SETNAME me\r\nAUTH p\r\nAUTH u p\r\nCLIENT GETNAME\r\nAUTH u p\r\nPING\r\n");
    client.expect("*14\r\n$6\r\nserver\r\n");
    let mut told = Vec::new();
    while !told.ends_with(b"+PONG\r\n") {
        told.extend(client.receive(1));
    }
    let told = String::from_utf8_lossy(&told);
    // The last AUTH is behind another command: the server judges it.
    assert!(told.contains("*0\r\n+OK\r\n+OK\r\n$2\r\nme\r\n-WRONGPASS"), "{told}");
}

#[test]
fn redis_is_asked_once_with_a_rejected_password() {
    redis_user("rejected");
    let ambassador = SignedIn::to(redis(), "redis", "rejected", WRONG);
    for round in 0..10 {
        let told = redis_cli(&ambassador, &["PING"]);
        let told = format!("{}{}", told.stdout, told.stderr);
        assert!(told.contains("NOPERM ambassador: login_failed: "), "{round}: {told}");
        assert!(told.contains("invalid username-password pair"), "{round}: {told}");
    }
    ambassador.was_asked_once(10);
    let log = redis_cli_of(redis(), &["ACL", "LOG"]).must_succeed().stdout;
    let entries: Vec<_> = log.lines().collect();
    let at = entries.iter().position(|line| line.trim() == "rejected").expect("an entry in the server's log");
    let first = entries[..at].iter().rposition(|line| line.trim() == "count").expect("its count");
    assert_eq!(entries[first + 1].trim(), "1", "{log}");
    assert_eq!(redis_cli(&ambassador, &["PING"]).must_succeed().stdout.trim(), "PONG");
    ambassador.shows_no_secret();
}

// ---------------------------------------------------------------------------------------------------
// MQTT

fn publish(ambassador: &SignedIn, options: &[&str]) -> Finished {
    let mut command = Command::new(demand("mosquitto_pub", "mosquitto-clients"));
    finish(
        command.args(["-p", &ambassador.port(), "-t", "news", "-m", "hello", "-r", "-q", "1"]).args(options),
    )
}

#[test]
fn mqtt_clients_of_every_version_are_signed_in_whatever_they_send() {
    let server = mosquitto_with_passwords();
    let ambassador = SignedIn::to(server, "mqtt", "app", PASSWORD);
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        for options in [&[][..], &["-u", "x"], &["-u", "x", "-P", WRONG]] {
            publish(&ambassador, &[&["-V", version], options].concat()).must_succeed();
        }
        let will = ["--will-topic", "end", "--will-payload", "gone", "-i", "me"];
        publish(&ambassador, &[&["-V", version], &will[..]].concat()).must_succeed();
    }
    let subscribe = demand("mosquitto_sub", "mosquitto-clients");
    let mut subscribe = Command::new(subscribe);
    subscribe.args(["-p", &ambassador.port(), "-t", "news", "-C", "1", "-W", "20"]);
    assert_eq!(finish(&mut subscribe).must_succeed().stdout.trim(), "hello");
    assert!(ambassador.wait_records(13).iter().all(|record| record["outcome"] == "completed"));
    assert!(server.log().contains("u'app'"), "{}", server.log());
    ambassador.checks();
    ambassador.shows_no_secret();
}

/// paho sends user properties and a session expiry in its CONNECT of version 5.
#[test]
fn paho_with_properties_is_signed_in() {
    let ambassador = SignedIn::to(mosquitto_with_passwords(), "mqtt", "app", PASSWORD);
    let script = "
import sys
import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.packettypes import PacketTypes
def on_connect(client, userdata, flags, reason, properties):
    print(reason, getattr(properties, 'ReceiveMaximum', ''))
    client.disconnect()
client = mqtt.Client('', protocol=mqtt.MQTTv5)
client.on_connect = on_connect
client.will_set('end', 'gone')
properties = Properties(PacketTypes.CONNECT)
properties.SessionExpiryInterval = 60
properties.UserProperty = ('a', 'b')
client.connect('127.0.0.1', int(sys.argv[1]), properties=properties)
client.loop_forever()
";
    let told = python(script, &ambassador, &[]).must_succeed().stdout;
    assert!(told.starts_with("Success"), "{told}");
}

#[test]
fn a_broker_is_asked_once_with_a_rejected_password() {
    let server = mosquitto_with_passwords();
    let ambassador = SignedIn::to(server, "mqtt", "rejected", WRONG);
    for round in 0..10 {
        let options: &[&str] = if round % 2 == 0 { &["-V", "mqttv5"] } else { &[] };
        let told = publish(&ambassador, options);
        assert_ne!(told.code, 0);
        let told = format!("{}{}", told.stdout, told.stderr).to_lowercase();
        assert!(told.contains("not authori"), "{round}: {told}");
    }
    ambassador.was_asked_once(10);
    publish(&ambassador, &[]).must_succeed();
    ambassador.shows_no_secret();
}

// ---------------------------------------------------------------------------------------------------
// LDAP

const ADMIN: &str = "cn=admin,dc=test";

fn ldapwhoami(ambassador: &SignedIn, options: &[&str]) -> Finished {
    let mut command = Command::new(demand("ldapwhoami", "ldap-utils"));
    command.args(["-x", "-H", &format!("ldap://{}/", ambassador.address("app"))]).env("LDAPNOINIT", "1");
    finish(command.args(options))
}

#[test]
fn ldap_clients_are_signed_in_and_binds_of_others_are_the_servers() {
    let ambassador = SignedIn::to(slapd(), "ldap", ADMIN, PASSWORD);
    for options in [&[][..], &["-D", ADMIN, "-w", WRONG], &["-D", "CN=Admin, DC=test", "-w", "x"]] {
        let told = ldapwhoami(&ambassador, options).must_succeed().stdout;
        assert_eq!(told.trim(), format!("dn:{ADMIN}"), "{options:?}");
    }
    // A program that checks the password of one of its users.
    let told = ldapwhoami(&ambassador, &["-D", "cn=alice,dc=test", "-w", "x"]).must_exit(49).stderr;
    assert!(told.contains("Invalid credentials"), "{told}");
    let records = ambassador.wait_records(4);
    assert!(records.iter().all(|record| record["outcome"] == "completed" && record["login_as"] == ADMIN));
    let script = "
import ldap3, sys
server = ldap3.Server('127.0.0.1', port=int(sys.argv[1]), get_info=ldap3.NONE)
for login in [(), ('cn=admin,dc=test', 'wrong')]:
    connection = ldap3.Connection(server, *login, auto_bind=True)
    assert connection.extend.standard.who_am_i() == 'dn:cn=admin,dc=test'
    connection.unbind()
print('ldap3 is content')
";
    assert_eq!(python(script, &ambassador, &[]).must_succeed().stdout.trim(), "ldap3 is content");
    ambassador.checks();
    ambassador.shows_no_secret();
}

/// Scenario: a program that searches as its own user and checks its users' passwords on one and the same connection, as
/// Apache's mod_authnz_ldap and Dovecot do: its next bind as itself had a placeholder, which went to the server, failed there,
/// and counted against the account.
#[test]
fn a_pool_binds_as_itself_again_and_its_placeholder_reaches_no_server() {
    let server = slapd();
    let ambassador = SignedIn::to(server, "ldap", ADMIN, PASSWORD);
    let script = "
import ldap3, sys
server = ldap3.Server('127.0.0.1', port=int(sys.argv[1]), get_info=ldap3.NONE)
own = ('cn=admin,dc=test', 'wrong')
pool = ldap3.Connection(server, *own, auto_bind=True)
pool.add('dc=test', ['organization', 'dcObject'], {'o': 'Test', 'dc': 'test'})
pool.add('cn=erika,dc=test', 'person', {'sn': 'e', 'userPassword': 'right'})
who = lambda: pool.extend.standard.who_am_i()
for round in range(20):
    assert pool.search('dc=test', '(cn=erika)', attributes=['sn']), pool.result
    user = pool.entries[0].entry_dn
    # Behind another request, the connection is ours still.
    assert pool.rebind(*own) and who() == 'dn:cn=admin,dc=test', pool.result
    assert not pool.rebind(user, 'guess'), 'a wrong password'
    assert pool.result['result'] == 49, pool.result
    assert pool.rebind(*own) and who() == 'dn:cn=admin,dc=test', pool.result
    assert pool.rebind(user, 'right') and who() == 'dn:cn=erika,dc=test', pool.result
    assert pool.rebind(*own) and who() == 'dn:cn=admin,dc=test', pool.result
pool.unbind()
print('the pool is content')
";
    assert_eq!(python(script, &ambassador, &[]).must_succeed().stdout.trim(), "the pool is content");
    // On this connection no bind failed but those with the wrong password.
    let log = server.log();
    let conn =
        |line: &str| line.split_whitespace().find(|word| word.starts_with("conn=")).map(ToOwned::to_owned);
    let of_erika = log.lines().find(|line| line.contains("BIND dn=\"cn=erika,dc=test\"")).and_then(conn);
    let failed = log.lines().filter(|line| line.contains("RESULT tag=97 err=49") && conn(line) == of_erika);
    assert_eq!((of_erika.is_some(), failed.count()), (true, 20), "{log}");
    ambassador.shows_no_secret();
}

#[test]
fn a_directory_is_asked_once_with_a_rejected_password() {
    let server = slapd();
    let ambassador = SignedIn::to(server, "ldap", ADMIN, WRONG);
    let binds = || server.log().matches("RESULT tag=97 err=49").count();
    let before = binds();
    for round in 0..10 {
        let told = ldapwhoami(&ambassador, &["-D", ADMIN, "-w", "x"]).must_exit(50).stderr;
        assert!(told.contains("ambassador: login_failed: "), "{round}: {told}");
        assert!(told.contains("LDAP result 49: invalid credentials"), "{round}: {told}");
    }
    // Other tests bind as others meanwhile, by way of the same server.
    assert!(binds() - before < 10, "the server was asked for each session");
    ambassador.was_asked_once(10);
    ldapwhoami(&ambassador, &[]).must_succeed();
    ambassador.shows_no_secret();
}

// ---------------------------------------------------------------------------------------------------
// NATS

fn line(client: &mut Client) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(client.receive(1));
    }
    String::from_utf8(line).expect("text")
}

#[test]
fn nats_clients_are_signed_in_whatever_they_send() {
    let ambassador = SignedIn::to(&nats()[0], "nats", "app", PASSWORD);
    for (options, answers) in [
        ("{\"verbose\":false,\"protocol\":1}", 0),
        ("{\"protocol\":1}", 3),
        ("{\"verbose\":false,\"user\":\"x\",\"pass\":\"y\",\"auth_token\":\"z\"}", 0),
    ] {
        let mut client = ambassador.connect();
        assert!(line(&mut client).starts_with("INFO {"));
        client.send(format!("CONNECT {options}\r\nSUB here 1\r\nPUB here 5\r\nhello\r\nPING\r\n"));
        let mut told = String::new();
        while !told.ends_with("PONG\r\n") {
            told.push_str(&line(&mut client));
        }
        assert!(told.contains("MSG here 1 5\r\nhello\r\n"), "{options}: {told}");
        assert_eq!(told.matches("+OK").count(), answers, "{options}: {told}");
    }
    ambassador.checks();
    ambassador.shows_no_secret();
}

#[test]
fn nats_is_asked_once_with_a_rejected_password() {
    let ambassador = SignedIn::to(&nats()[0], "nats", "app", WRONG);
    let errors = || nats()[0].log().matches("authentication error").count();
    let before = errors();
    for round in 0..10 {
        let mut client = ambassador.connect();
        let (told, _) = client.read_out();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains("-ERR 'ambassador: login_failed: "), "{round}: {told}");
        assert!(told.contains("Authorization Violation"), "{round}: {told}");
    }
    // Other tests log in wrongly meanwhile.
    assert!((1..10).contains(&(errors() - before)), "the server was asked for each session");
    ambassador.was_asked_once(10);
    let mut client = ambassador.connect();
    client.expect("INFO {");
    ambassador.shows_no_secret();
}

// ---------------------------------------------------------------------------------------------------
// RabbitMQ

const PIKA: &str = "
import sys, pika
login = pika.PlainCredentials('guest', 'guest')
where = pika.ConnectionParameters('127.0.0.1', int(sys.argv[1]), credentials=login, connection_attempts=1)
try:
    connection = pika.BlockingConnection(where)
except Exception as error:
    sys.exit(repr(error))
channel = connection.channel()
channel.confirm_delivery()
queue = channel.queue_declare('', exclusive=True).method.queue
channel.basic_publish('', queue, b'hello', pika.BasicProperties(user_id='app'))
method, _, body = next(channel.consume(queue, auto_ack=True, inactivity_timeout=20))
assert body == b'hello'
connection.close()
print('pika is content')
";

/// The broker checks `user_id` against the user of the connection.
#[test]
fn pika_is_signed_in_with_the_password_of_nobody() {
    let ambassador = SignedIn::to(rabbitmq(), "amqp", "app", PASSWORD);
    assert_eq!(python(PIKA, &ambassador, &[]).must_succeed().stdout.trim(), "pika is content");
    let record = ambassador.record();
    assert_eq!((&record["outcome"], &record["login_as"]), (&"completed".into(), &"app".into()), "{record}");
    ambassador.checks();
    ambassador.shows_no_secret();
}

#[test]
fn rabbitmq_is_asked_once_with_a_rejected_password() {
    let ambassador = SignedIn::to(rabbitmq(), "amqp", "app", WRONG);
    let refusals = || rabbitmq().log().matches("user 'app' - invalid credentials").count();
    let before = refusals();
    for round in 0..3 {
        let told = python(PIKA, &ambassador, &[]).must_exit(1).stderr;
        assert!(told.contains("403") && told.contains("ambassador: login_failed"), "{round}: {told}");
        assert!(told.contains("ACCESS_REFUSED"), "{round}: {told}");
    }
    assert_eq!(refusals() - before, 1);
    ambassador.was_asked_once(3);
    python(PIKA, &ambassador, &[]).must_succeed();
    ambassador.shows_no_secret();
}
