//! The PostgreSQL of the pgbench rows: one server, which outlasts the rows, with pgbench's tables in it.
//!
//! It accepts role `plain` without conditions, and role `mtls` only over TLS with a client certificate, so a proxy
//! that did not do its job would fail. Configured so that its disk does not matter. Lacks passwords: SCRAM costs the
//! server milliseconds a session and the proxy nothing.
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::account::Account;
use crate::pinned::Place;
use crate::pki::{Pki, SERVER_NAME};
use crate::process::Running;
use crate::programs::{find, lacking};
use crate::row::Wire;

/// For a server that creates its files on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const HBA: &str = "
host      all plain 127.0.0.1/32 trust
hostssl   all mtls  127.0.0.1/32 trust clientcert=verify-ca
";

pub(crate) struct Database {
    running: Running,
    pub(crate) at: SocketAddr,
}

/// The role and connection parameters of a client, as libpq's own variables.
#[derive(Clone, Default)]
pub(crate) struct Login(Vec<(&'static str, OsString)>);

impl Database {
    pub(crate) fn lacks() -> Option<String> {
        lacking(&["initdb", "postgres", "psql", "pgbench"])
    }

    /// `folder` is for it alone; it has to exist, and the account must be able to traverse it.
    pub(crate) fn start(folder: &Path, at: SocketAddr, pki: &Pki, place: &Place) -> io::Result<Self> {
        let account = Account::unprivileged()?;
        account.give(folder)?;
        let data = folder.join("data");
        let mut initdb = account.command(&program("initdb")?);
        initdb.args(["--no-sync", "--auth=trust", "--username=plain", "--encoding=UTF8", "--locale=C", "-D"]);
        must_succeed("initdb", initdb.arg(&data).current_dir("/"))?;
        for (from, to) in [
            (pki.ca(), "ca.pem"),
            (pki.certificate("server"), "server.pem"),
            (pki.key("server"), "server.key"),
        ] {
            fs::copy(from, data.join(to))?;
            account.give(&data.join(to))?;
        }
        fs::write(data.join("pg_hba.conf"), HBA)?;
        fs::write(data.join("postgresql.conf"), settings(at))?;

        let mut server = account.command(&program("postgres")?);
        server.arg("-D").arg(&data);
        let running = Running::start(&server, place, &folder.join("log"))?;
        let mut database = Self { running, at };
        database.fill(&folder.join("log"))?;
        Ok(database)
    }

    fn fill(&mut self, log: &Path) -> io::Result<()> {
        let login = Login::through_proxy(self.at, Wire::Plain);
        let mut role = login.command(&program("psql")?);
        role.args(["-X", "-q", "-c", "create role mtls superuser login"]);
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = must_succeed("psql", &mut role) {
            if self.running.has_ended() || Instant::now() > deadline {
                let said = fs::read_to_string(log).unwrap_or_default();
                let said = said.lines().find(|line| line.contains("FATAL")).unwrap_or_default();
                return Err(io::Error::other(format!("PostgreSQL does not start: {error} {said}")));
            }
            sleep(Duration::from_millis(20));
        }
        let mut tables = login.command(&program("pgbench")?);
        must_succeed("pgbench -i", tables.args(["-i", "-q", "--unlogged-tables"])).map(drop)
    }
}

impl Login {
    /// Plaintext, like an application to its ambassador; the role tells the server what to demand.
    pub(crate) fn through_proxy(at: SocketAddr, wire: Wire) -> Self {
        let role = match wire {
            Wire::Plain => "plain",
            Wire::Mtls => "mtls",
        };
        let mut login = Self::to(at, role);
        login.say("PGSSLMODE", "disable");
        login
    }

    /// What the client would do without a proxy: over mTLS it does the TLS itself.
    pub(crate) fn direct(at: SocketAddr, wire: Wire, pki: &Pki) -> Self {
        if wire == Wire::Plain {
            return Self::through_proxy(at, wire);
        }
        let mut login = Self::to(at, "mtls");
        login.say("PGHOST", SERVER_NAME);
        login.say("PGSSLMODE", "verify-full");
        login.say("PGSSLROOTCERT", pki.ca());
        login.say("PGSSLCERT", pki.certificate("client"));
        login.say("PGSSLKEY", pki.key("client"));
        login
    }

    fn to(at: SocketAddr, role: &str) -> Self {
        let mut login = Self::default();
        login.say("PGHOSTADDR", at.ip().to_string());
        login.say("PGPORT", at.port().to_string());
        login.say("PGUSER", role);
        login.say("PGDATABASE", "postgres");
        login.say("PGGSSENCMODE", "disable");
        login
    }

    fn say(&mut self, name: &'static str, value: impl Into<OsString>) {
        self.0.push((name, value.into()));
    }

    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // Without the user's variables and ~/.postgresql.
        command.env_clear().env("HOME", "/nonexistent").env("LC_ALL", "C");
        command.envs(self.0.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Logs failures only, and runs no background work of its own during measurements.
fn settings(at: SocketAddr) -> String {
    format!(
        "listen_addresses = '{}'\nport = {}\nunix_socket_directories = ''\nmax_connections = 100\n\
         ssl = on\nssl_ca_file = 'ca.pem'\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.key'\n\
         fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nautovacuum = off\n",
        at.ip(),
        at.port()
    )
}

fn program(name: &str) -> io::Result<std::path::PathBuf> {
    find(name).ok_or_else(|| io::Error::other(format!("not installed: {name}")))
}

fn must_succeed(name: &str, command: &mut Command) -> io::Result<Output> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(io::Error::other(format!("{name}: {last}")))
}
