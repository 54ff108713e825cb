//! A real PostgreSQL, Debian's, that demands TLS, a client certificate and SCRAM over TCP. One instance serves the
//! whole test process; it takes a second to start.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::daemon::{Account, as_account, directory, free_port, give, give_copy, keep};
use super::{Finished, Leaf, Pki, demand, finish, until};

pub(crate) const PASSWORD: &str = "correct horse";

pub(crate) struct Postgres {
    dir: PathBuf,
    port: u16,
    // Statics are never dropped, so their parts may as well be leaked.
    pki: &'static Pki,
    /// The certificate that `clientcert=verify-full` accepts for role `app`.
    app: &'static Leaf,
    // The pipe that ends the server when it is closed.
    _keeper: Child,
}

const HBA: &str = "
local   all all                   trust
hostssl replication app 127.0.0.1/32 scram-sha-256 clientcert=verify-full
hostssl all app      127.0.0.1/32 scram-sha-256 clientcert=verify-full
hostssl all reports  127.0.0.1/32 scram-sha-256 clientcert=verify-ca
hostssl all certonly 127.0.0.1/32 cert
hostssl all invoicing,reporting 127.0.0.1/32 cert map=units
hostssl replication app 127.0.0.1/32 scram-sha-256 clientcert=verify-full
";

/// `pg_ident.conf`: which certificate may use which role, where a line of the above has `map=units`.
const IDENT: &str = "
units  billing.unit.test  invoicing
units  report.unit.test   reporting
";

/// Common in practice: one line for all.
const HBA_FOR_ALL: &str = "
local   all all              trust
hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca
";

/// A role for each method of signing in, without client certificates.
const HBA_BY_METHOD: &str = "
local   all all        trust
hostssl all trusted    127.0.0.1/32 trust
hostssl all plain,tokened 127.0.0.1/32 password
hostssl all hashed     127.0.0.1/32 md5
hostssl replication scrammed 127.0.0.1/32 scram-sha-256
hostssl all scrammed,rotated 127.0.0.1/32 scram-sha-256
";

/// The issuer is only told to clients that have no token.
const HBA_BY_TOKEN: &str = "
local   all all              trust
hostssl all app 127.0.0.1/32 oauth issuer=\"https://127.0.0.1/\" scope=\"openid\"
";

const ROLES_BY_METHOD: &str = "
create role trusted login;
create role plain login password 'correct horse';
set password_encryption = md5;
create role hashed login password 'correct horse';
set password_encryption = 'scram-sha-256';
create role scrammed login replication password 'correct horse';
create role tokened login password 'ya29.token';
create role rotated login password 'correct horse';
create database orders;
";

/// PostgreSQL's default: connections are not logged.
const ALL_CONNECTIONS: &str = "log_connections = on\nlog_disconnections = on\n";

const ROLES: &str = "
create role app login replication password 'correct horse';
create role reports login password 'correct horse';
create role certonly login;
create role invoicing login;
create role reporting login;
grant all on schema public to app, reports;
";

/// The names in the server's certificate: one for `server_name`, the address for clusters without it.
const SERVER_NAMES: [&str; 2] = ["db.test", "127.0.0.1"];

impl Postgres {
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| {
            let pki: &Pki = Box::leak(Box::new(Pki::new()));
            let app = Box::leak(Box::new(pki.client("app")));
            Self::start(HBA, ALL_CONNECTIONS, pki, app)
        })
    }

    /// Another server, with the same roles and client certificates as the first.
    pub(crate) fn second() -> &'static Self {
        static SECOND: OnceLock<Postgres> = OnceLock::new();
        SECOND.get_or_init(|| {
            let first = Self::shared();
            Self::start(HBA, ALL_CONNECTIONS, first.pki, first.app)
        })
    }

    /// Like the second, with room for two sessions, and for this many of a superuser besides.
    pub(crate) fn small(reserved: u32) -> &'static Self {
        let first = Self::shared();
        let room = format!(
            "max_connections = {}\nsuperuser_reserved_connections = {reserved}\nmax_wal_senders = 0\n",
            2 + reserved
        );
        // Its end would remove the certificates of the first with it.
        Box::leak(Box::new(Self::start(HBA, &room, first.pki, first.app)))
    }

    /// A server with the roles `trusted`, `plain`, `hashed` and `scrammed`, each for one method of signing in, and the
    /// database `orders`. It asks for no certificate.
    pub(crate) fn by_method() -> &'static Self {
        static BY_METHOD: OnceLock<Postgres> = OnceLock::new();
        BY_METHOD.get_or_init(|| {
            let first = Self::shared();
            let server = Self::start(HBA_BY_METHOD, ALL_CONNECTIONS, first.pki, first.app);
            ROLES_BY_METHOD.trim().split_terminator(";").fold(String::new(), |before, statement| {
                // `set` lasts for a session, and `create database` stands alone.
                if statement.contains("database") {
                    server.as_superuser(&before);
                    server.as_superuser(statement);
                    return String::new();
                }
                before + statement + ";"
            });
            server
        })
    }

    /// A server of PostgreSQL 18 whose role `app` enters by a token, which is `token-of-app`.
    pub(crate) fn by_token() -> &'static Self {
        static BY_TOKEN: OnceLock<Postgres> = OnceLock::new();
        BY_TOKEN.get_or_init(|| {
            let first = Self::shared();
            let validator = oauth_validator();
            let logging = format!("{ALL_CONNECTIONS}oauth_validator_libraries = '{}'\n", validator.display());
            Self::start(HBA_BY_TOKEN, &logging, first.pki, first.app)
        })
    }

    /// A server with PostgreSQL's default logging, and one `pg_hba.conf` line for all. For one test at a time, which
    /// reads its log.
    pub(crate) fn quiet() -> MutexGuard<'static, Self> {
        static QUIET: OnceLock<Mutex<Postgres>> = OnceLock::new();
        let quiet = QUIET.get_or_init(|| {
            let pki: &Pki = Box::leak(Box::new(Pki::new()));
            let app = Box::leak(Box::new(pki.client("app")));
            Mutex::new(Self::start(HBA_FOR_ALL, "", pki, app))
        });
        quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn version(&self) -> u32 {
        let number = self.as_superuser("show server_version_num");
        number.parse::<u32>().expect("a number") / 10_000
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).expect("a readable log")
    }

    /// Its log up to a line that is written now, and with it everything that happened before.
    pub(crate) fn marked_log(&self) -> String {
        const MARK: &str = "LOG:  a mark of the test\n";
        let known = self.log().matches(MARK).count();
        self.as_superuser("do $$ begin raise log 'a mark of the test'; end $$");
        until("the mark is in the log", || {
            let log = self.log();
            (log.matches(MARK).count() > known).then_some(log)
        })
    }

    /// Fails if anything was logged since `before`, which is of [`Self::marked_log`].
    #[track_caller]
    pub(crate) fn must_have_logged_nothing_since(&self, before: &str) {
        let after = self.marked_log();
        let new = after.strip_prefix(before).expect("a log that only grows");
        let lines = new.lines().filter(|line| line.contains("LOG:") || line.contains("FATAL:"));
        assert_eq!(lines.count(), 1, "more than the mark was logged: {new}");
    }

    fn start(hba: &str, logging: &str, pki: &'static Pki, app: &'static Leaf) -> Self {
        let server = pki.server(&SERVER_NAMES);
        let dir = directory();
        // PostgreSQL refuses to run as root.
        let account = Account::of("postgres", "postgresql");
        let data = dir.join("data");
        fs::create_dir(&data).expect("a data directory");
        give(&data, account.as_ref());
        let mut initdb = as_account(&demand("initdb", "postgresql"), account.as_ref());
        initdb.args([
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
            "-D",
        ]);
        finish(initdb.arg(&data).current_dir(&dir)).must_succeed();
        for (from, to) in [(&pki.ca(), "ca.pem"), (&server.cert, "server.pem"), (&server.key, "server.key")] {
            give_copy(from, &data.join(to), account.as_ref());
        }
        fs::write(data.join("pg_hba.conf"), hba).expect("pg_hba.conf is written");
        fs::write(data.join("pg_ident.conf"), IDENT).expect("pg_ident.conf is written");
        let sockets = dir.join("sockets");
        fs::create_dir(&sockets).expect("a socket directory");
        give(&sockets, account.as_ref());
        fs::set_permissions(&sockets, Permissions::from_mode(0o755)).expect("a passable directory");
        let (port, keeper) = serve(&dir, account.as_ref(), pki, logging);
        let this = Self { dir, port, pki, app, _keeper: keeper };
        this.as_superuser(ROLES);
        this
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn pki(&self) -> &Pki {
        self.pki
    }

    /// The `tls:` line of a cluster that the server accepts for role `app`.
    pub(crate) fn tls(&self) -> String {
        self.tls_with(self.app, "")
    }

    /// The same with further keys, such as `, start: direct`.
    pub(crate) fn tls_and(&self, more: &str) -> String {
        self.tls_with(self.app, more)
    }

    /// The same with the certificate of role `certonly`; the second server accepts it too.
    pub(crate) fn tls_of_certonly() -> String {
        static CERTONLY: OnceLock<Leaf> = OnceLock::new();
        let shared = Self::shared();
        shared.tls_with(CERTONLY.get_or_init(|| shared.pki.client("certonly")), "")
    }

    fn tls_with(&self, Leaf { cert, key, .. }: &Leaf, more: &str) -> String {
        format!(
            "tls: {{ ca: {}, cert: {}, key: {}, server_name: db.test{more} }}",
            self.pki.ca().display(),
            cert.display(),
            key.display()
        )
    }

    /// Runs SQL as superuser over the server's own unix socket and returns the output of `psql -At`.
    #[track_caller]
    pub(crate) fn as_superuser(&self, sql: &str) -> String {
        psql(&self.of_superuser(), sql).must_succeed().stdout.trim().to_owned()
    }

    /// How the superuser connects.
    pub(crate) fn of_superuser(&self) -> String {
        let sockets = self.dir.join("sockets");
        format!("host={} port={} user=postgres dbname=postgres", sockets.display(), self.port)
    }
}

/// Compiles drivers/oauth_validator.c against the headers of the server, which `scripts/test-matrix` fetches with it.
fn oauth_validator() -> PathBuf {
    let told =
        finish(Command::new(demand("pg_config", "postgresql")).arg("--includedir-server")).must_succeed();
    let headers = PathBuf::from(told.stdout.trim());
    assert!(headers.join("libpq/oauth.h").exists(), "no headers of PostgreSQL 18 in {}", headers.display());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour/drivers/oauth_validator.c");
    let made = directory().join("oauth_validator.so");
    let mut compiler = Command::new(demand("cc", "gcc"));
    compiler.args(["-shared", "-fPIC", "-O1", "-I"]).arg(headers).arg("-o").arg(&made).arg(source);
    finish(&mut compiler).must_succeed();
    made
}

/// `psql` on a connection string, without the user's files.
#[track_caller]
pub(crate) fn psql(conninfo: &str, sql: &str) -> Finished {
    finish(psql_command(conninfo).args(["-c", sql]))
}

pub(crate) fn psql_command(conninfo: &str) -> Command {
    let mut command = libpq_client(&demand("psql", "postgresql-client"));
    command.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", conninfo]);
    command
}

/// A libpq program with the password set and without the environment's connection settings.
pub(crate) fn libpq_client(program: &Path) -> Command {
    let mut command = Command::new(program);
    for name in [
        "PGHOST",
        "PGPORT",
        "PGUSER",
        "PGDATABASE",
        "PGSSLMODE",
        "PGSERVICE",
        "PGCHANNELBINDING",
        "PGOPTIONS",
    ] {
        command.env_remove(name);
    }
    // A home without ~/.postgresql: a client certificate of the user must not be what logs in.
    command.env("PGPASSWORD", PASSWORD).env("HOME", "/nonexistent").env("LC_ALL", "C");
    command
}

fn serve(dir: &Path, account: Option<&Account>, pki: &Pki, logging: &str) -> (u16, Child) {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let port = free_port();
        configure(&dir.join("data"), &dir.join("sockets"), port, logging);
        let mut server = as_account(&demand("postgres", "postgresql"), account);
        server.arg("-D").arg(dir.join("data"));
        let mut keeper = keep(&server, "INT", dir, Some(pki));
        let socket = dir.join("sockets").join(format!(".s.PGSQL.{port}"));
        let accepts = || {
            let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
            if socket.exists() && log.contains("ready to accept connections") {
                return Some(true);
            }
            (log.contains("FATAL") || log.contains("database system is shut down")).then_some(false)
        };
        if until("PostgreSQL accepted connections", accepts) {
            return (port, keeper);
        }
        let log = fs::read_to_string(dir.join("log")).expect("a readable log");
        // Between our search for a free port and its bind another process may have taken the port.
        assert!(log.contains("could not bind") && attempt < 5, "PostgreSQL does not start:\n{log}");
        drop(keeper.kill());
        drop(keeper.wait());
    }
}

/// Without checkpoints on a clock: since version 15 each is a line in the log, and tests look for lines of a client.
fn configure(data: &Path, sockets: &Path, port: u16, logging: &str) {
    let settings = format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\n\
         ssl = on\nssl_ca_file = 'ca.pem'\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.key'\n\
         password_encryption = 'scram-sha-256'\nmax_connections = 100\nshared_buffers = 32MB\n\
         checkpoint_timeout = 1d\nfsync = off\n{logging}",
        sockets.display()
    );
    fs::write(data.join("postgresql.conf"), settings).expect("postgresql.conf is written");
}
