//! Servers of other projects, each of which demands TLS and a client certificate. One instance of each serves the
//! whole test process (see `daemon`).

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::command::tree_of;
use super::daemon::{Account, as_account, directory, free_port, give, give_copy, keep};
use super::{Finished, Leaf, Pki, demand, finish, until_within};

/// The password of every user of every server.
pub(crate) const PASSWORD: &str = "correct horse";

/// How long a server may take to accept connections: RabbitMQ takes ten seconds on an idle machine.
const START_PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct Server {
    dir: PathBuf,
    ports: Vec<u16>,
    pki: Arc<Pki>,
    /// The client certificate that it accepts.
    app: Leaf,
    _keeper: Child,
}

/// The parameters of a server's start: its directory with `ca.pem`, `server.pem` and `server.key`, and its ports.
pub(super) struct Plan<'a> {
    pub(super) dir: &'a Path,
    pub(super) ports: &'a [u16],
    account: Option<&'a Account>,
}

impl Plan<'_> {
    pub(super) fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    pub(super) fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.dir.join(name), text).expect("a file of a server");
        self.file(name)
    }
}

impl Server {
    /// Starts the server of `command` on that many ports, and waits until all of them accept.
    pub(super) fn start(
        ports: usize,
        account: Option<&Account>,
        signal: &str,
        command: impl Fn(&Plan<'_>) -> Command,
    ) -> Self {
        Self::start_under(Arc::new(Pki::new()), ports, account, signal, command)
    }

    fn start_under(
        pki: Arc<Pki>,
        ports: usize,
        account: Option<&Account>,
        signal: &str,
        command: impl Fn(&Plan<'_>) -> Command,
    ) -> Self {
        let app = pki.client("app");
        let leaf = pki.server(&["srv.test", "127.0.0.1"]);
        let dir = directory();
        for (from, to) in [(&pki.ca(), "ca.pem"), (&leaf.cert, "server.pem"), (&leaf.key, "server.key")] {
            give_copy(from, &dir.join(to), account);
        }
        let mut attempt = 0;
        let (ports, keeper) = loop {
            attempt += 1;
            let ports: Vec<u16> = (0..ports).map(|_| free_port()).collect();
            let command = command(&Plan { dir: &dir, ports: &ports, account });
            let mut keeper = keep(&command, signal, &dir, Some(&pki));
            let accepts = || {
                if let Some(status) = keeper.try_wait().expect("a child to ask") {
                    return Some(Err(status));
                }
                ports.iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok()).then_some(Ok(()))
            };
            let what = format!("{:?} accepted connections", command.get_program());
            let started = until_within(START_PATIENCE, what, accepts);
            match started {
                Ok(()) => break (ports, keeper),
                // Between our search for a free port and its bind another process may have taken the port.
                Err(status) => {
                    let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
                    assert!(attempt < 3, "{:?} does not start ({status}):\n{log}", command.get_program());
                }
            }
        };
        Self { dir, ports, pki, app, _keeper: keeper }
    }

    pub(crate) fn address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.ports[index])
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The `tls:` line of a cluster that the server accepts, with these further keys.
    pub(crate) fn tls(&self, more: &str) -> String {
        let (ca, cert, key) = (self.pki.ca(), self.app.cert.display(), self.app.key.display());
        format!("tls: {{ ca: {}, cert: {cert}, key: {key}, server_name: srv.test{more} }}", ca.display())
    }

    /// The same with another certificate of its CA.
    pub(crate) fn tls_of(&self, leaf: &Leaf) -> String {
        let (ca, cert, key) = (self.pki.ca(), leaf.cert.display(), leaf.key.display());
        format!("tls: {{ ca: {}, cert: {cert}, key: {key}, server_name: srv.test }}", ca.display())
    }

    /// The certificate of [`Self::tls`].
    pub(crate) const fn app(&self) -> &Leaf {
        &self.app
    }

    /// Whose certificates it accepts.
    pub(crate) fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The same without our certificate.
    pub(crate) fn tls_without_certificate(&self) -> String {
        format!("tls: {{ ca: {}, server_name: srv.test }}", self.pki.ca().display())
    }

    /// Everything that it has printed so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

pub(super) fn shared(cell: &'static OnceLock<Server>, start: impl FnOnce() -> Server) -> &'static Server {
    cell.get_or_init(start)
}

/// MariaDB, which accepts PROXY headers: roles `app` (native password) and `ed` (ed25519), both only with a
/// certificate; database `shop`.
pub(crate) fn mariadb() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    shared(&SHARED, || {
        let server = Server::start(1, Account::of("mysql", "mariadb-server").as_ref(), "TERM", |plan| {
            let data = plan.dir.join("data");
            if !data.exists() {
                fs::create_dir(&data).expect("a data directory");
                give(&data, plan.account);
                give(plan.dir, plan.account);
                let mut install = Command::new(demand("mariadb-install-db", "mariadb-server"));
                install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
                install.arg(format!("--datadir={}", data.display()));
                if let Some(tree) = tree_of(&demand("mariadbd", "mariadb-server")) {
                    install.arg(format!("--basedir={}", tree.display()));
                }
                if plan.account.is_some() {
                    install.arg("--user=mysql");
                }
                finish(&mut install).must_succeed();
            }
            let program = demand("mariadbd", "mariadb-server");
            let mut command = Command::new(&program);
            command.args(["--no-defaults", "--bind-address=127.0.0.1", "--require-secure-transport=ON"]);
            if let Some(tree) = tree_of(&program).map(|tree| tree.display().to_string()) {
                command.arg(format!("--basedir={tree}")).arg(format!("--plugin-dir={tree}/lib/mysql/plugin"));
            }
            command.args([
                "--log-warnings=4",
                "--plugin-load-add=auth_ed25519",
                "--innodb-flush-log-at-trx-commit=0",
            ]);
            command.args(["--innodb-buffer-pool-size=16M", "--skip-name-resolve"]);
            command.arg("--proxy-protocol-networks=127.0.0.0/8");
            command.args(["--performance-schema=ON", "--performance-schema-max-table-instances=100"]);
            if plan.account.is_some() {
                command.arg("--user=mysql");
            }
            command.arg(format!("--port={}", plan.ports[0]));
            for (option, file) in [
                ("datadir", "data"),
                ("socket", "socket"),
                ("pid-file", "pid"),
                ("ssl-ca", "ca.pem"),
                ("ssl-cert", "server.pem"),
                ("ssl-key", "server.key"),
            ] {
                command.arg(format!("--{option}={}", plan.file(file)));
            }
            command
        });
        let roles = format!(
            "create database shop; create user app identified by '{PASSWORD}' require x509; \
             create user ed identified via ed25519 using password('{PASSWORD}') require x509; \
             grant all on shop.* to app, ed; grant select on performance_schema.* to app"
        );
        let mut client = Command::new(demand("mariadb", "mariadb-client"));
        client.args(["--no-defaults", "--user=root", "--socket"]).arg(server.dir().join("socket"));
        finish(client.args(["-e", &roles])).must_succeed();
        server
    })
}

/// MySQL's own server, if `scripts/test-matrix` has fetched it: its port and that of its X protocol; roles `app`
/// (caching_sha2_password) and `sha` (sha256_password), both only with a certificate; database `shop`.
pub(crate) fn mysql() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    shared(&SHARED, || {
        let server = Server::start(2, Account::of("mysql", "mariadb-server").as_ref(), "TERM", |plan| {
            let program = demand("mysqld", "mysql-server-core (unstable)");
            let tree = tree_of(&program).unwrap_or_else(|| "/usr".into()).display().to_string();
            let data = plan.dir.join("data");
            let begin = || {
                let mut command = Command::new(&program);
                command.args([
                    "--no-defaults",
                    "--log-error-verbosity=3",
                    "--skip-log-bin",
                    "--secure-file-priv=NULL",
                ]);
                command.arg(format!("--basedir={tree}")).arg(format!("--plugin-dir={tree}/lib/mysql/plugin"));
                command.arg(format!("--datadir={}", data.display()));
                if plan.account.is_some() {
                    command.arg("--user=mysql");
                }
                command
            };
            if !data.exists() {
                fs::create_dir(&data).expect("a data directory");
                give(&data, plan.account);
                give(plan.dir, plan.account);
                finish(begin().arg("--initialize-insecure")).must_succeed();
            }
            let mut command = begin();
            command.args([
                "--bind-address=127.0.0.1",
                "--mysqlx-bind-address=127.0.0.1",
                "--skip-name-resolve",
            ]);
            command.args(["--require-secure-transport=ON", "--innodb-flush-log-at-trx-commit=0"]);
            command.arg(format!("--port={}", plan.ports[0])).arg(format!("--mysqlx-port={}", plan.ports[1]));
            for (option, file) in [
                ("socket", "socket"),
                ("mysqlx-socket", "mysqlx-socket"),
                ("pid-file", "pid"),
                ("ssl-ca", "ca.pem"),
                ("ssl-cert", "server.pem"),
                ("ssl-key", "server.key"),
            ] {
                command.arg(format!("--{option}={}", plan.file(file)));
            }
            command
        });
        let roles = format!(
            "create database shop; create user app identified with caching_sha2_password by '{PASSWORD}' require x509; \
             create user sha identified with sha256_password by '{PASSWORD}' require x509; grant all on shop.* to app, sha"
        );
        let mut client = Command::new(demand("mysql", "mysql-client-core (unstable)"));
        client.args(["--no-defaults", "--user=root", "--socket"]).arg(server.dir().join("socket"));
        finish(client.args(["-e", &roles])).must_succeed();
        server
    })
}

/// Postfix' smtpd, on port 1 its postscreen and on port 2 an smtpd that demands a PROXY header, for mail from this
/// host over TLS; accepted mail is discarded.
pub(crate) fn postfix() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    shared(&SHARED, || {
        Server::start(3, None, "TERM", |plan| {
            for name in ["spool", "data"] {
                fs::create_dir_all(plan.dir.join(name)).expect("a directory");
            }
            give(&plan.dir.join("data"), Account::of("postfix", "postfix").as_ref());
            let [smtpd, postscreen, proxied] = plan.ports else { panic!("three ports") };
            postfix_files(
                plan,
                &format!(
                    "mynetworks = 127.0.0.0/8\nsmtpd_tls_req_ccert = yes\nsmtpd_tls_CAfile = {}\n\
                     postscreen_access_list =\npostscreen_cache_map =\npostscreen_greet_action = enforce\n\
                     postscreen_greet_wait = 2s\n",
                    plan.file("ca.pem")
                ),
                &format!(
                    "127.0.0.1:{smtpd} inet n - n - - smtpd\n127.0.0.1:{postscreen} inet n - n - 1 postscreen\n\
                     smtpd pass - - n - - smtpd\n\
                     127.0.0.1:{proxied} inet n - n - - smtpd -o smtpd_upstream_proxy_protocol=haproxy\n"
                ),
            )
        })
    })
}

/// Writes the files of a Postfix that demands TLS and discards mail, with these settings and listening services.
pub(super) fn postfix_files(plan: &Plan<'_>, settings: &str, listening: &str) -> Command {
    let dir = plan.dir.display();
    plan.write(
        "main.cf",
        &format!(
            "compatibility_level = 3.6\nqueue_directory = {dir}/spool\ndata_directory = {dir}/data\n\
             maillog_file = /dev/stdout\nmyhostname = mx.test\nmydestination = mx.test\n\
             inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nalias_maps =\n\
             local_recipient_maps =\ndefault_transport = discard:\nlocal_transport = discard:\n\
             smtpd_tls_security_level = encrypt\nsmtpd_tls_loglevel = 1\n\
             smtpd_tls_cert_file = {dir}/server.pem\nsmtpd_tls_key_file = {dir}/server.key\n\
             smtpd_tls_received_header = yes\n{settings}"
        ),
    );
    let services = "tlsproxy unix - - n - 0 tlsproxy\ndnsblog unix - - n - 0 dnsblog\n\
         cleanup unix n - n - 0 cleanup\nrewrite unix - - n - - trivial-rewrite\n\
         bounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\n\
         qmgr unix n - n 300 1 qmgr\npickup unix n - n 60 1 pickup\ndiscard unix - - n - - discard\n\
         tlsmgr unix - - n 1000? 1 tlsmgr\nanvil unix - - n - 1 anvil\n\
         proxymap unix - - n - - proxymap\npostlog unix-dgram n - n - 1 postlogd\n";
    plan.write("master.cf", &format!("{listening}{services}"));
    let mut command = Command::new(demand("postfix", "postfix"));
    command.arg("-c").arg(plan.dir).arg("start-fg");
    command
}

/// Dovecot: IMAP, POP3, ManageSieve and LMTP on the ports 0 to 3, for users `app`, `app-imap`, `app-pop3` and `app-sieve`;
/// IMAP behind a PROXY header on port 4, IMAP and POP3 with TLS from the first byte on 5 and 6.
pub(crate) fn dovecot() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    shared(&SHARED, || dovecot_with("auth_mechanisms = plain apop cram-md5\n", &[]))
}

/// The same with mechanisms of its own.
pub(crate) fn dovecot_with_scram() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    shared(&SHARED, || dovecot_with("auth_mechanisms = plain login scram-sha-256\n", &[]))
}

/// The same that takes the user from the certificate, by EXTERNAL.
pub(crate) fn dovecot_with_external() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    let external = "auth_mechanisms = plain external\nauth_ssl_username_from_cert = yes\n\
                    ssl_cert_username_field = commonName\npassdb {\n driver = static\n args = nopassword=y\n\
                    mechanisms = external\n}\n";
    shared(&SHARED, || dovecot_with(external, &[]))
}

/// The same that lets each user have one session of a protocol.
pub(crate) fn full_dovecot() -> Server {
    dovecot_with("auth_mechanisms = plain\nmail_max_userip_connections = 1\n", &[])
}

/// The same that takes OAuth tokens by these mechanisms, and has each checked as these settings of its `oauth2` say.
pub(crate) fn dovecot_with_oauth2(mechanisms: &str, settings: &str, files: &[(&str, &str)]) -> Server {
    let files = [files, &[("oauth2.conf", settings)]].concat();
    dovecot_with(&format!("auth_mechanisms = {mechanisms}\n{OAUTH2_PASSDB}"), &files)
}

/// Dovecot's settings for tokens; they are in `oauth2.conf` of its directory, which is written in place of DIR.
pub(super) const OAUTH2_PASSDB: &str =
    "passdb {\n driver = oauth2\n mechanisms = xoauth2 oauthbearer\n args = DIR/oauth2.conf\n}\n";

/// Writes these files into the server's directory, and puts that in place of DIR in them. Dovecot reads them as a user of its own.
pub(super) fn write_files(plan: &Plan<'_>, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = plan.dir.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        plan.write(name, &text.replace("DIR", &plan.dir.display().to_string()));
    }
}

/// Without Dovecot's penalty, by which a rejected login delays all others of the same address for up to 15 s.
fn dovecot_with(more: &str, files: &[(&str, &str)]) -> Server {
    Server::start(7, None, "TERM", |plan| {
        write_files(plan, files);
        let more = more.replace("DIR", &plan.dir.display().to_string());
        let account = Account::of("mail", "base-files");
        fs::create_dir_all(plan.dir.join("home")).expect("a directory");
        give(&plan.dir.join("home"), account.as_ref());
        let dir = plan.dir.display();
        let [imap, pop3, sieve, lmtp, proxied, imaps, pop3s] = plan.ports else { panic!("seven ports") };
        let listener = |name: &str, port: &u16| {
            format!("inet_listener {name} {{\n  address = 127.0.0.1\n  port = {port}\n }}\n")
        };
        let direct = |name: &str, port: &u16| listener(name, port).replace("  port", "  ssl = yes\n  port");
        let config = format!(
            "protocols = imap pop3 lmtp sieve\nbase_dir = {dir}/run\nstate_dir = {dir}/state\n\
                 log_path = /dev/stderr\nauth_verbose = yes\nssl = required\nssl_cert = <{dir}/server.pem\n\
                 ssl_key = <{dir}/server.key\nssl_ca = <{dir}/ca.pem\nssl_verify_client_cert = yes\n\
                 auth_ssl_require_client_cert = yes\nssl_require_crl = no\n{more}\
                 haproxy_trusted_networks = 127.0.0.0/8\n\
                 mail_location = maildir:{dir}/home/mail\nfirst_valid_uid = 1\nlast_valid_uid = 0\n\
                 passdb {{\n driver = passwd-file\n args = {dir}/users\n}}\n\
                 userdb {{\n driver = static\n args = uid=mail gid=mail home={dir}/home\n}}\n\
                 service imap-login {{\n {}{}{} }}\nservice pop3-login {{\n {}{} }}\n\
                 service managesieve-login {{\n {} }}\nservice lmtp {{\n user = mail\n {} }}\n\
                 service anvil {{\n unix_listener anvil-auth-penalty {{\n  mode = 0\n }}\n }}\n\
                 service stats {{\n unix_listener stats-writer {{\n  mode = 0666\n }}\n }}\n",
            listener("imap", imap),
            listener("proxied", proxied).replace("  port", "  haproxy = yes\n  port"),
            direct("imaps", imaps),
            listener("pop3", pop3),
            direct("pop3s", pop3s),
            listener("sieve", sieve),
            listener("lmtp", lmtp),
        );
        let users = ["app", "app-imap", "app-pop3", "app-sieve"];
        plan.write("users", &users.map(|user| format!("{user}:{{PLAIN}}{PASSWORD}::::::\n")).concat());
        let file = plan.write("dovecot.conf", &config);
        let mut command = Command::new(demand("dovecot", "dovecot-core"));
        command.args(["-F", "-c", &file]);
        command
    })
}

/// OpenLDAP with `dc=test`, whose `cn=admin,dc=test` has the password; a certificate of `service` is `cn=service,dc=test`. Port 1 demands a PROXY header of version 2.
pub(crate) fn slapd() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    shared(&SHARED, || {
        Server::start(2, None, "INT", |plan| {
            fs::create_dir_all(plan.dir.join("db")).expect("a directory");
            let dir = plan.dir.display();
            let config = format!(
                "include /etc/ldap/schema/core.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n\
                 pidfile {dir}/pid\nTLSCACertificateFile {dir}/ca.pem\nTLSCertificateFile {dir}/server.pem\n\
                 TLSCertificateKeyFile {dir}/server.key\nTLSVerifyClient demand\nsecurity ssf=128\n\
                 authz-regexp ^cn=service$ cn=service,dc=test\n\
                 database mdb\nsuffix dc=test\nrootdn cn=admin,dc=test\nrootpw \"{PASSWORD}\"\ndirectory {dir}/db\n"
            );
            let file = plan.write("slapd.conf", &config);
            let mut command = Command::new(demand("slapd", "slapd"));
            let [plain, proxied] = plan.ports else { panic!("two ports") };
            let urls = format!("ldap://127.0.0.1:{plain}/ pldap://127.0.0.1:{proxied}/");
            command.args(["-f", &file, "-d", "256", "-h", &urls]);
            command
        })
    })
}

/// A cluster of two NATS servers; their clients' ports are port 0 of each.
pub(crate) fn nats() -> &'static [Server; 2] {
    static SHARED: OnceLock<[Server; 2]> = OnceLock::new();
    SHARED.get_or_init(|| {
        let routes = [free_port(), free_port()];
        let pki = Arc::new(Pki::new());
        [0, 1].map(|index| {
            Server::start_under(Arc::clone(&pki), 1, None, "TERM", |plan| {
                let dir = plan.dir.display();
                let config = format!(
                    "listen: \"127.0.0.1:{}\"\nserver_name: node{index}\n\
                     tls {{ cert_file: \"{dir}/server.pem\", key_file: \"{dir}/server.key\", \
                     ca_file: \"{dir}/ca.pem\", verify: true }}\n\
                     authorization {{ user: app, password: \"{PASSWORD}\" }}\n\
                     cluster {{ name: test, listen: \"127.0.0.1:{}\", \
                     routes: [\"nats-route://127.0.0.1:{}\", \"nats-route://127.0.0.1:{}\"] }}\n",
                    plan.ports[0], routes[index], routes[0], routes[1]
                );
                let file = plan.write("nats.conf", &config);
                let mut command = Command::new(demand("nats-server", "nats-server"));
                command.args(["-c", &file]);
                command
            })
        })
    })
}

/// A NATS server with these further keys of `tls`, and that section of its configuration.
pub(crate) fn nats_with(tls: &str, authorization: &str) -> Server {
    Server::start(1, None, "TERM", |plan| {
        let dir = plan.dir.display();
        let config = format!(
            "listen: \"127.0.0.1:{}\"\ntls {{ {tls} cert_file: \"{dir}/server.pem\", key_file: \"{dir}/server.key\", \
             ca_file: \"{dir}/ca.pem\", verify: true }}\n{authorization}\n",
            plan.ports[0]
        );
        let file = plan.write("nats.conf", &config);
        let mut command = Command::new(demand("nats-server", "nats-server"));
        command.args(["-c", &file]);
        command
    })
}

/// A NATS server that accepts one client.
pub(crate) fn full_nats() -> Server {
    Server::start(1, None, "TERM", |plan| {
        let dir = plan.dir.display();
        let config = format!(
            "listen: \"127.0.0.1:{}\"\nmax_connections: 1\n\
             tls {{ cert_file: \"{dir}/server.pem\", key_file: \"{dir}/server.key\", \
             ca_file: \"{dir}/ca.pem\", verify: true }}\n",
            plan.ports[0]
        );
        let file = plan.write("nats.conf", &config);
        let mut command = Command::new(demand("nats-server", "nats-server"));
        command.args(["-c", &file]);
        command
    })
}

/// Redis, on a TLS port only.
pub(crate) fn redis() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    shared(&SHARED, || {
        Server::start(1, None, "TERM", |plan| {
            let mut command = Command::new(demand("redis-server", "redis-server"));
            command.args(["--port", "0", "--bind", "127.0.0.1", "--save", "", "--tls-auth-clients", "yes"]);
            command.args([
                "--requirepass",
                PASSWORD,
                "--tls-port",
                &plan.ports[0].to_string(),
                "--dir",
                &plan.file(""),
            ]);
            for (option, file) in [
                ("--tls-cert-file", "server.pem"),
                ("--tls-key-file", "server.key"),
                ("--tls-ca-cert-file", "ca.pem"),
            ] {
                command.args([option, &plan.file(file)]);
            }
            command
        })
    })
}

/// redis-cli with a certificate and the password of `default`, straight to that server.
pub(crate) fn redis_cli_of(server: &Server, arguments: &[&str]) -> Finished {
    let mut command = Command::new(demand("redis-cli", "redis-tools"));
    command.args(["-h", "127.0.0.1", "-p", &server.ports[0].to_string(), "--tls", "--cacert"]);
    command.arg(server.pki.ca()).arg("--cert").arg(&server.app.cert).arg("--key").arg(&server.app.key);
    finish(command.env("REDISCLI_AUTH", PASSWORD).args(arguments))
}

pub(crate) fn memcached() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    shared(&SHARED, || {
        Server::start(1, None, "TERM", |plan| {
            let options = format!(
                "ssl_chain_cert={},ssl_key={},ssl_ca_cert={},ssl_verify_mode=2",
                plan.file("server.pem"),
                plan.file("server.key"),
                plan.file("ca.pem")
            );
            let mut command = Command::new(demand("memcached", "memcached"));
            command.args([
                "-l",
                "127.0.0.1",
                "-p",
                &plan.ports[0].to_string(),
                "-m",
                "16",
                "-u",
                "root",
                "-Z",
            ]);
            command.args(["-o", &options, "-v"]);
            command
        })
    })
}

/// RabbitMQ, on a TLS port only, with an epmd of its own; EXTERNAL takes the user from the certificate's common name.
pub(crate) fn rabbitmq() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    shared(&SHARED, || {
        Server::start(1, Account::of("rabbitmq", "rabbitmq-server").as_ref(), "TERM", |plan| {
            give(plan.dir, plan.account);
            let dir = plan.dir.display();
            let config = format!(
                "listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{}\nssl_options.cacertfile = {dir}/ca.pem\n\
                 ssl_options.certfile = {dir}/server.pem\nssl_options.keyfile = {dir}/server.key\n\
                 ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\nlog.console = true\n\
                 log.file = false\ndefault_user = app\ndefault_pass = {PASSWORD}\n\
                 auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = AMQPLAIN\nauth_mechanisms.3 = EXTERNAL\n\
                 ssl_cert_login_from = common_name\n",
                plan.ports[0]
            );
            let plugins = plan.write("plugins", "[rabbitmq_auth_mechanism_ssl].\n");
            give(Path::new(&plugins), plan.account);
            let config = plan.write("rabbitmq.conf", &config);
            give(Path::new(&config), plan.account);
            // Debian's own start script demands root or `rabbitmq`; it calls this one.
            let server = Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
            assert!(server.exists(), "RabbitMQ is missing: apt-get install rabbitmq-server");
            let (registry, distribution) = (free_port(), free_port());
            let mut command = as_account(Path::new("/usr/bin/env"), plan.account);
            command.args([
                format!("HOME={dir}"),
                format!("ERL_EPMD_PORT={registry}"),
                "ERL_EPMD_ADDRESS=127.0.0.1".into(),
                "RABBITMQ_NODENAME=test@localhost".into(),
                format!("RABBITMQ_DIST_PORT={distribution}"),
                format!("RABBITMQ_MNESIA_BASE={dir}/mnesia"),
                format!("RABBITMQ_LOG_BASE={dir}"),
                "RABBITMQ_LOGS=-".into(),
                format!("RABBITMQ_CONFIG_FILE={config}"),
                "RABBITMQ_CONF_ENV_FILE=/dev/null".into(),
                format!("RABBITMQ_ENABLED_PLUGINS_FILE={dir}/plugins"),
            ]);
            let script = "epmd -address 127.0.0.1 -port \"$ERL_EPMD_PORT\" & registry=$!
                \"$1\" & server=$!
                trap 'kill $server; wait $server; kill $registry; exit' TERM
                wait $server; kill $registry";
            command.args(["sh", "-c", script, "rabbitmq"]).arg(server);
            command
        })
    })
}

pub(crate) fn mosquitto() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    shared(&SHARED, || {
        Server::start(1, Account::of("mosquitto", "mosquitto").as_ref(), "TERM", |plan| {
            let dir = plan.dir.display();
            let config = format!(
                "listener {} 127.0.0.1\ncafile {dir}/ca.pem\ncertfile {dir}/server.pem\nkeyfile {dir}/server.key\n\
                 require_certificate true\nallow_anonymous true\nlog_type all\nlog_dest stdout\n",
                plan.ports[0]
            );
            let file = plan.write("mosquitto.conf", &config);
            let mut command = Command::new(demand("mosquitto", "mosquitto"));
            command.args(["-c", &file]);
            command
        })
    })
}

/// Mosquitto that demands a password: of `app` and of `rejected`.
pub(crate) fn mosquitto_with_passwords() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    shared(&SHARED, || {
        Server::start(1, Account::of("mosquitto", "mosquitto").as_ref(), "TERM", |plan| {
            let dir = plan.dir.display();
            let passwords = plan.write("passwords", "");
            for user in ["app", "rejected"] {
                let mut passwd = Command::new(demand("mosquitto_passwd", "mosquitto"));
                finish(passwd.args(["-b", &passwords, user, PASSWORD])).must_succeed();
            }
            give(Path::new(&passwords), plan.account);
            let config = format!(
                "listener {} 127.0.0.1\ncafile {dir}/ca.pem\ncertfile {dir}/server.pem\nkeyfile {dir}/server.key\n\
                 require_certificate true\nallow_anonymous false\npassword_file {passwords}\nlog_type all\n\
                 log_dest stdout\n",
                plan.ports[0]
            );
            let file = plan.write("mosquitto.conf", &config);
            let mut command = Command::new(demand("mosquitto", "mosquitto"));
            command.args(["-c", &file]);
            command
        })
    })
}
