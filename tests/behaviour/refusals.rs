//! What clients do with a refusal: try their next server, report this one as down, show the text.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::{
    Ambassador, ClosedPort, Config, End, Pki, Postgres, Upstream, demand, finish, roles, until,
};

fn dead(protocol: &str) -> Ambassador {
    let pki = Pki::new();
    let cluster =
        format!("protocol: {protocol}\nconnect: {{ attempts: 1 }}\ntls: {{ ca: {} }}", pki.ca().display());
    Ambassador::start(&Config::app(&[&ClosedPort::new().address()], &cluster))
}

/// Scenario: with SQLSTATE 08006 `pg_isready` reported "accepting connections" for a dead database, so that `until
/// pg_isready` ended.
#[test]
fn pg_isready_calls_a_dead_database_down() {
    let ambassador = dead("postgres");
    let port = ambassador.address("app").port().to_string();
    let finished = finish(Command::new(demand("pg_isready", "postgresql-client")).args([
        "-h",
        "127.0.0.1",
        "-p",
        &port,
    ]));
    let finished = finished.must_exit(1);
    assert!(finished.stdout.contains("rejecting connections"), "{}", finished.stdout);
}

/// Scenario: with SQLSTATE 08006 libpq stopped at the first of its hosts.
#[test]
fn psql_goes_on_to_its_next_host() {
    let server = Postgres::shared();
    let dead = dead("postgres");
    let cluster = format!("protocol: postgres\n{}", server.tls());
    let well = Ambassador::start(&Config::app(&[&server.address()], &cluster));
    let (dead, well) = (dead.address("app").port(), well.address("app").port());
    let conninfo = format!("host=127.0.0.1,127.0.0.1 port={dead},{well} user=app dbname=postgres");
    let finished = crate::harness::postgres::psql(&conninfo, "select 6 * 7").must_succeed();
    assert!(finished.stdout.contains("42"), "{}", finished.stdout);
}

/// Scenario: a pipeline of three commands, as ioredis opens with, got only one answer.
#[test]
fn each_command_of_a_redis_pipeline_is_answered() {
    let ambassador = dead("redis");
    let mut client = ambassador.connect();
    client.send("*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\nPING\r\nPING\r\n");
    let (words, end) = client.read_out();
    let words = String::from_utf8(words).expect("text");
    assert_eq!(words.matches("-LOADING ambassador: connect_failed: ").count(), 3, "{words}");
    assert_eq!(end, End::Orderly);
}

/// Scenario: phpredis' `lpush` returned false for a dead server, without an exception: that is what it makes of `-ERR`,
/// which a refusal was. A refused port raises. With redis-py an `-ERR` is a ResponseError, which is not retried.
#[test]
fn phpredis_and_redis_py_raise_for_a_dead_server_as_for_a_lost_connection() {
    const PHP: &str = "
$redis = new Redis();
try {
    $redis->connect('127.0.0.1', (int) $argv[1]);
    echo 'returned ', var_export($redis->lpush('list', 'value'), true), \"\\n\";
} catch (RedisException $error) {
    echo 'RedisException: ', $error->getMessage(), \"\\n\";
}
";
    const PYTHON: &str = "
import redis, sys
try:
    redis.Redis(port=int(sys.argv[1])).lpush('list', 'value')
except redis.ConnectionError as error:
    print(type(error).__name__ + ':', error)
";
    let ambassador = dead("redis");
    let port = ambassador.address("app").port().to_string();
    for (program, script, raised) in [
        (demand("php", "php-cli"), ["-r", PHP], "RedisException: LOADING ambassador: connect_failed: "),
        (PathBuf::from("/usr/bin/python3"), ["-c", PYTHON], "BusyLoadingError: ambassador: connect_failed: "),
    ] {
        let finished = finish(Command::new(program).args(script).arg(&port)).must_succeed();
        assert!(finished.stdout.contains(raised), "{}{}", finished.stdout, finished.stderr);
    }
}

/// A silent client keeps its slot as long as its server would let it, unless a client that speaks needs the slot.
#[test]
fn the_longest_silent_client_makes_room_for_one_that_speaks() {
    let pki = Pki::new();
    let cluster =
        format!("protocol: redis\nconnect: {{ attempts: 1 }}\ntls: {{ ca: {} }}", pki.ca().display());
    let config = Config::new().listener("app", "bind: 127.0.0.1:0\ncluster: up\nmax_connections: 2").cluster(
        "up",
        &[&ClosedPort::new().address()],
        &cluster,
    );
    let ambassador = Ambassador::start(&config);
    let mut first = ambassador.connect();
    ambassador.wait_active(1);
    let mut second = ambassador.connect();
    ambassador.wait_active(2);
    // In the first seconds no client counts as silent.
    let words = until("the newcomer is served", || {
        let mut third = ambassador.connect();
        third.send("PING\r\n");
        let words = String::from_utf8_lossy(&third.read_out().0).into_owned();
        (!words.contains("listener_full")).then_some(words)
    });
    assert!(words.starts_with("-LOADING ambassador: connect_failed: "), "{words}");
    assert_eq!(first.read_out(), (Vec::new(), End::Orderly), "no words that answer what it says next");
    assert_eq!(ambassador.record_of("listener_full")["attempts"], 0);
    second.send("PING\r\n");
    assert!(second.read_out().0.starts_with(b"-LOADING ambassador: connect_failed: "));
}

/// The same for a client that has the reply to its CONNECT and sends nothing: a pool would take a refusal for the
/// answer to its next request.
#[test]
fn a_silent_client_behind_connect_makes_room_without_a_word() {
    let upstream = Upstream::plain(roles::silent);
    let listener = "bind: 127.0.0.1:0\ncluster: up\ncontext: connect\nmax_connections: 1";
    let config =
        Config::new().listener("app", listener).cluster("up", &[&upstream.address()], "protocol: redis");
    let ambassador = Ambassador::start(&config);
    let ask = || {
        let mut client = ambassador.connect();
        client.send("CONNECT up:1 HTTP/1.1\r\nHost: up\r\n\r\n");
        client
    };
    let mut first = ask();
    first.expect("HTTP/1.1 200 ");
    until("the newcomer is served", || {
        let mut second = ask();
        let head = String::from_utf8_lossy(&second.receive(13)).into_owned();
        head.starts_with("HTTP/1.1 200 ").then_some(())
    });
    let (rest, end) = first.read_out();
    assert!(rest.ends_with(b"\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(end, End::Orderly);
}
