//! Drivers that applications use, each running a small program of its own in `drivers/`: libpq under Python,
//! and pgjdbc, which speaks the protocol with code of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::postgres::{PASSWORD, libpq_client};
use crate::harness::{Ambassador, Config, Postgres, demand, finish};

fn to_postgres() -> Ambassador {
    let postgres = Postgres::shared();
    Ambassador::start(&Config::postgres(&[&postgres.address()], &postgres.tls()))
}

fn driver(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour/drivers").join(file)
}

#[test]
fn psycopg_works_through_a_plaintext_port() {
    let ambassador = to_postgres();
    // Debian's interpreter and no other: python3-psycopg is installed for that one.
    let mut python = libpq_client(Path::new("/usr/bin/python3"));
    let present = finish(python.args(["-c", "import psycopg"]));
    assert_eq!(present.code, 0, "psycopg is missing: apt-get install python3-psycopg\n{}", present.stderr);
    for sslmode in ["disable", "prefer"] {
        let port = ambassador.address("app").port();
        let conninfo = format!("host=127.0.0.1 port={port} user=app dbname=postgres sslmode={sslmode}");
        let mut python = libpq_client(Path::new("/usr/bin/python3"));
        let finished = finish(python.arg(driver("application.py")).arg(conninfo)).must_succeed();
        assert_eq!(finished.stdout.trim(), "psycopg is content");
    }
    assert!(ambassador.wait_records(6).iter().all(|record| record["outcome"] == "completed"));
}

#[test]
fn jdbc_works_through_a_plaintext_port() {
    let ambassador = to_postgres();
    let jar = Path::new("/usr/share/java/postgresql.jar");
    assert!(jar.exists(), "pgjdbc is missing: apt-get install libpostgresql-jdbc-java");
    demand("javac", "default-jdk-headless");
    let java = demand("java", "default-jdk-headless");
    // pgjdbc's default is sslmode=prefer: it asks for TLS, hears N and goes on.
    let url = format!("jdbc:postgresql://127.0.0.1:{}/postgres", ambassador.address("app").port());
    let mut command = Command::new(java);
    command
        .args(["-XX:TieredStopAtLevel=1", "-cp"])
        .arg(jar)
        .arg(driver("Jdbc.java"))
        .args([&url, "app", PASSWORD]);
    let finished = finish(&mut command).must_succeed();
    assert_eq!(finished.stdout.trim(), "JDBC is content");
    assert!(ambassador.wait_records(2).iter().all(|record| record["outcome"] == "completed"));
}

/// A program in an interpreter's own language, with the port as its first argument.
fn interpreted(interpreter: &str, flag: &str, package: &str, module: &str, script: &str) {
    let ambassador = to_postgres();
    let present = finish(Command::new(interpreter).args([flag, module]));
    assert_eq!(present.code, 0, "missing: apt-get install {package}\n{}", present.stderr);
    let port = ambassador.address("app").port().to_string();
    let finished = finish(Command::new(interpreter).args([flag, script, &port, PASSWORD])).must_succeed();
    assert_eq!(finished.stdout.trim(), "content");
    assert!(ambassador.wait_records(1).iter().all(|record| record["outcome"] == "completed"));
}

#[test]
fn asyncpg_works_through_a_plaintext_port() {
    let script = "
import asyncio, asyncpg, sys
async def main():
    connection = await asyncpg.connect(host='127.0.0.1', port=int(sys.argv[1]), user='app', password=sys.argv[2], database='postgres')
    assert await connection.fetchval('select $1::int + 1', 41) == 42
    await connection.close()
asyncio.run(main())
print('content')
";
    interpreted("/usr/bin/python3", "-c", "python3-asyncpg", "import asyncpg", script);
}

#[test]
fn perls_dbi_works_through_a_plaintext_port() {
    let script = "use DBI; my ($port, $password) = @ARGV; \
        my $db = DBI->connect(\"dbi:Pg:host=127.0.0.1;port=$port;dbname=postgres\", 'app', $password, {RaiseError => 1}); \
        my ($n) = $db->selectrow_array('select ?::int + 1', undef, 41); die $n unless $n == 42; $db->disconnect; \
        print 'content'";
    interpreted("/usr/bin/perl", "-e", "libdbd-pg-perl", "use DBD::Pg", script);
}
