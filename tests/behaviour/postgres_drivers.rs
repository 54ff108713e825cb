//! Drivers that applications use, each running a small program in `drivers/`: libpq under several languages, and
//! drivers with their own implementation of the protocol. Each also gets a refusal, and must pass on its text.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::postgres::{PASSWORD, libpq_client};
use crate::harness::{Ambassador, ClosedPort, Config, Finished, Postgres, demand, finish};

/// Listener `app` leads to a PostgreSQL, listener `dead` to a port without a server.
fn to_postgres(endpoints: &[&Postgres]) -> Ambassador {
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address()).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let dead = ClosedPort::new().address();
    let cluster = format!("protocol: postgres\n{}", endpoints[0].tls());
    Ambassador::start(
        &Config::app(&addresses, &cluster).listener("dead", "bind: 127.0.0.1:0\ncluster: nobody").cluster(
            "nobody",
            &[&dead],
            &format!("{cluster}\nconnect: {{ attempts: 1 }}"),
        ),
    )
}

fn driver(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour/drivers").join(file)
}

/// Debian's interpreter: the modules are installed for that one.
fn python(module: &str, package: &str) -> Command {
    let mut python = libpq_client(Path::new("/usr/bin/python3"));
    let present = finish(python.args(["-c", &format!("import {module}")]));
    assert_eq!(present.code, 0, "{module} is missing: apt-get install {package}\n{}", present.stderr);
    libpq_client(Path::new("/usr/bin/python3"))
}

/// Runs a driver's program with the port of that listener, a user and the password.
fn run(mut program: Command, file: &str, ambassador: &Ambassador, listener: &str, user: &str) -> Finished {
    let port = ambassador.address(listener).port().to_string();
    finish(program.arg(driver(file)).args([&port, user, PASSWORD]))
}

/// The program works through the ambassador, and prints our sentence, in whatever form, if no endpoint can be reached.
#[track_caller]
fn works_and_passes_a_refusal_on(
    program: impl Fn() -> Command,
    file: &str,
    user: &str,
    dress: &str,
) -> Finished {
    let ambassador = to_postgres(&[Postgres::shared()]);
    let finished = run(program(), file, &ambassador, "app", user).must_succeed();
    assert!(finished.stdout.starts_with("42\n"), "{}", finished.stdout);
    let refused = run(program(), file, &ambassador, "dead", user).must_exit(1);
    refused.must_print(dress);
    must_have_our_words(&refused.stderr, &ambassador);
    finished
}

#[track_caller]
fn must_have_our_words(text: &str, ambassador: &Ambassador) {
    let record = ambassador.record_of("connect_failed");
    let (error, session) = (&record["error"], &record["session"]);
    let (error, session) = (error.as_str().expect("words"), session.as_str().expect("an id"));
    let sentence = format!("ambassador: connect_failed: {error} [session {session}]");
    assert!(text.contains(&sentence), "{sentence:?} is not in what the driver prints:\n{text}");
}

#[test]
fn psycopg_works_through_a_plaintext_port() {
    let ambassador = to_postgres(&[Postgres::shared()]);
    for sslmode in ["disable", "prefer"] {
        let port = ambassador.address("app").port();
        let conninfo = format!("host=127.0.0.1 port={port} user=app dbname=postgres sslmode={sslmode}");
        let mut python = python("psycopg", "python3-psycopg");
        let finished = finish(python.arg(driver("application.py")).arg(conninfo)).must_succeed();
        assert_eq!(finished.stdout.trim(), "psycopg is content");
    }
    assert!(ambassador.wait_records(6).iter().all(|record| record["outcome"] == "completed"));
    let port = ambassador.address("dead").port();
    let conninfo = format!("host=127.0.0.1 port={port} user=app dbname=postgres");
    let mut python = python("psycopg", "python3-psycopg");
    let refused = finish(python.arg(driver("application.py")).arg(conninfo)).must_exit(1);
    refused.must_print("psycopg.OperationalError: connection failed: FATAL:  ambassador: connect_failed: ");
    must_have_our_words(&refused.stderr, &ambassador);
}

/// Its cancels reach the right one of two servers, too.
#[test]
fn jdbc_works_through_a_plaintext_port() {
    let ambassador = to_postgres(&[Postgres::shared(), Postgres::second()]);
    let jar = Path::new("/usr/share/java/postgresql.jar");
    assert!(jar.exists(), "pgjdbc is missing: apt-get install libpostgresql-jdbc-java");
    demand("javac", "default-jdk-headless");
    let java = demand("java", "default-jdk-headless");
    // pgjdbc's default is sslmode=prefer: it asks for TLS, gets N and goes on.
    let url =
        |listener| format!("jdbc:postgresql://127.0.0.1:{}/postgres", ambassador.address(listener).port());
    let mut command = Command::new(java);
    command.args(["-XX:TieredStopAtLevel=1", "-cp"]).arg(jar).arg(driver("Jdbc.java")).args([
        &url("app"),
        "app",
        PASSWORD,
        &url("dead"),
    ]);
    let finished = finish(&mut command).must_succeed();
    assert!(finished.stdout.ends_with("JDBC is content\n"), "{}", finished.stdout);
    assert!(finished.stdout.starts_with("57P03 FATAL: ambassador: connect_failed: "), "{}", finished.stdout);
    must_have_our_words(&finished.stdout, &ambassador);
    let records = ambassador.wait_records(3);
    assert_eq!(records.iter().filter(|record| record["outcome"] == "completed").count(), 2, "{records:?}");
}

#[test]
fn asyncpg_works_through_a_plaintext_port() {
    let program = || python("asyncpg", "python3-asyncpg");
    let dress = "CannotConnectNowError: ambassador: connect_failed: ";
    let finished = works_and_passes_a_refusal_on(program, "with_asyncpg.py", "app", dress);
    assert!(finished.stdout.ends_with("cancelled\n"), "{}", finished.stdout);
}

/// Debian 12's is too old for SCRAM, so it logs in by certificate alone.
#[test]
fn pg8000_works_through_a_plaintext_port() {
    let postgres = Postgres::shared();
    let program = || python("pg8000", "python3-pg8000");
    let ambassador = {
        let dead = ClosedPort::new().address();
        let cluster = format!("protocol: postgres\n{}", Postgres::tls_of_certonly());
        Ambassador::start(
            &Config::app(&[&postgres.address()], &cluster)
                .listener("dead", "bind: 127.0.0.1:0\ncluster: nobody")
                .cluster("nobody", &[&dead], &format!("{cluster}\nconnect: {{ attempts: 1 }}")),
        )
    };
    let finished = run(program(), "with_pg8000.py", &ambassador, "app", "certonly").must_succeed();
    assert_eq!(finished.stdout, "42\n");
    let refused = run(program(), "with_pg8000.py", &ambassador, "dead", "certonly").must_exit(1);
    must_have_our_words(&refused.stderr, &ambassador);
}

#[test]
fn node_postgres_works_through_a_plaintext_port() {
    let modules = [
        PathBuf::from("/usr/share/nodejs"),
        // `scripts/test` unpacks it here: Debian's package depends on Debian's build of Node.
        Path::new(env!("CARGO_BIN_EXE_ambassador"))
            .ancestors()
            .nth(2)
            .expect("a target directory")
            .join("node-pg/usr/share/nodejs"),
    ];
    let modules = modules.into_iter().find(|modules| modules.join("pg").exists());
    let modules =
        modules.expect("node-postgres is missing: scripts/test fetches it (Debian package node-pg)");
    let program = || {
        let mut node = libpq_client(&demand("node", "nodejs"));
        node.env("NODE_PATH", &modules);
        node
    };
    works_and_passes_a_refusal_on(program, "with_node.js", "app", "error: ambassador: connect_failed: ");
}

#[test]
fn dbd_pg_works_through_a_plaintext_port() {
    let present = finish(Command::new("perl").args(["-MDBD::Pg", "-e", "1"]));
    assert_eq!(present.code, 0, "DBD::Pg is missing: apt-get install libdbd-pg-perl\n{}", present.stderr);
    let program = || libpq_client(&demand("perl", "perl"));
    works_and_passes_a_refusal_on(program, "with_dbi.pl", "app", "FATAL:  ambassador: connect_failed: ");
}

#[test]
fn pdo_works_through_a_plaintext_port() {
    let php = demand("php", "php-cli");
    let present = finish(Command::new(&php).args(["-r", "exit(extension_loaded('pdo_pgsql') ? 0 : 1);"]));
    assert_eq!(present.code, 0, "PDO's pgsql is missing: apt-get install php-pgsql\n{}", present.stderr);
    let dress = "SQLSTATE[08006] [7] connection to server at \"127.0.0.1\"";
    works_and_passes_a_refusal_on(|| libpq_client(&php), "with_pdo.php", "app", dress);
}
