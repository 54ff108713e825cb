//! MySQL's own server and clients (9.7), which Debian stable lacks: `scripts/test-matrix mysql-9.7` runs these tests.
//! Each plugin over TLS with a client certificate, and with an emptied authentication cache.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::harness::server::{PASSWORD, mysql};
use crate::harness::{Ambassador, Config, Finished, demand, finish, newer_clients, until};

/// A listener on TCP and one on a unix socket.
fn to_mysql() -> Ambassador {
    let server = mysql();
    let listener = "bind: [ 127.0.0.1:0, \"unix:{dir}/mysql.sock\" ]\ncluster: up";
    let cluster = format!("protocol: mysql\n{}", server.tls(""));
    Ambassador::start(&Config::new().listener("app", listener).cluster("up", &[&server.address(0)], &cluster))
}

fn client() -> Command {
    let mut command = Command::new(demand("mysql", "mysql-client-core (unstable)"));
    command.args(["--no-defaults", "--batch", "--skip-column-names"]);
    command
}

/// As root, directly to the server.
fn administer(sql: &str) {
    let socket = mysql().dir().join("socket");
    finish(client().args(["--user=root", "--socket"]).arg(socket).args(["-e", sql])).must_succeed();
}

/// The server's password cache is emptied, and no other test empties it while the guard lives.
fn cold() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    administer("flush privileges");
    turn
}

fn query(ambassador: &Ambassador, options: &[&str]) -> Finished {
    let port = ambassador.address("app").port().to_string();
    let mut command = client();
    command.args(["--ssl-mode=DISABLED", "--host=127.0.0.1", "--user=app"]);
    command.args([&format!("--port={port}"), &format!("--password={PASSWORD}")]).args(options);
    finish(
        command.args(["-e", "show session status like 'Ssl_version'; select length(repeat('x', 5000000))"]),
    )
}

fn script(ambassador: &Ambassador, mut command: Command, file: &str, user: &str) -> Finished {
    let driver = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour/drivers").join(file);
    let port = ambassador.address("app").port().to_string();
    finish(command.arg(driver).args([&port, user, PASSWORD]))
}

#[test]
#[ignore = "MySQL's server: scripts/test-matrix mysql-9.7"]
fn the_mysql_client_logs_in_with_a_cold_cache_and_a_warm_one() {
    let ambassador = to_mysql();
    let _turn = cold();
    let finished = query(&ambassador, &["--get-server-public-key"]).must_succeed();
    assert_eq!(finished.stdout, "Ssl_version\tTLSv1.3\n5000000\n");
    // With a warm cache no key is needed.
    query(&ambassador, &[]).must_succeed();
    let port = ambassador.address("app").port().to_string();
    let mut preferred = client();
    preferred.args(["--host=127.0.0.1", "--user=app", &format!("--port={port}"), "-e", "select 6 * 7"]);
    let finished = finish(preferred.arg(format!("--password={PASSWORD}"))).must_succeed();
    assert_eq!(finished.stdout, "42\n", "ssl-mode=PREFERRED is the client's default");
}

/// It would have to ask for a key, and by default it does not. To the server this must not look like a broken
/// handshake.
#[test]
#[ignore = "MySQL's server: scripts/test-matrix mysql-9.7"]
fn the_mysql_client_that_gives_up_in_its_login_is_seen_out_of_it() {
    let ambassador = to_mysql();
    let denied = || mysql().log().matches("Access denied for user 'app'").count();
    let broken = || mysql().log().matches("Got an error reading communication packets").count();
    let _turn = cold();
    let (before, broken_before) = (denied(), broken());
    query(&ambassador, &[]).must_exit(1).must_print("Authentication requires secure connection");
    until("the login was seen through", || (denied() > before).then_some(()));
    assert_eq!(broken(), broken_before, "{}", mysql().log());
}

#[test]
#[ignore = "MySQL's server: scripts/test-matrix mysql-9.7"]
fn a_unix_socket_needs_nothing_to_be_set_with_a_cold_cache() {
    let ambassador = to_mysql();
    let _turn = cold();
    let socket = format!("--socket={}", ambassador.dir().join("mysql.sock").display());
    let mut command = client();
    command.args(["--user=app", &socket, &format!("--password={PASSWORD}"), "-e", "select 6 * 7"]);
    assert_eq!(finish(&mut command).must_succeed().stdout, "42\n");
}

#[test]
#[ignore = "MySQL's server: scripts/test-matrix mysql-9.7"]
fn a_client_that_insists_on_tls_is_told_in_its_own_words() {
    let ambassador = to_mysql();
    query(&ambassador, &["--ssl-mode=REQUIRED"]).must_exit(1).must_print("SSL is required");
}

#[test]
#[ignore = "MySQL's server: scripts/test-matrix mysql-9.7"]
fn pymysql_logs_in_by_either_plugin_with_a_cold_cache() {
    let ambassador = to_mysql();
    for user in ["app", "sha"] {
        let _turn = cold();
        let finished = script(&ambassador, Command::new("/usr/bin/python3"), "with_pymysql.py", user);
        assert_eq!(finished.must_succeed().stdout, "42\n", "{user}");
    }
}

#[test]
#[ignore = "MySQL's server: scripts/test-matrix mysql-9.7"]
fn mysql_connector_python_logs_in_with_a_cold_cache() {
    let ambassador = to_mysql();
    let _turn = cold();
    let mut python = Command::new("/usr/bin/python3");
    python.env("PYTHONPATH", newer_clients("python"));
    assert_eq!(script(&ambassador, python, "with_connector_python.py", "app").must_succeed().stdout, "42\n");
}

#[test]
#[ignore = "MySQL's server: scripts/test-matrix mysql-9.7"]
fn mysql2_logs_in_by_either_plugin_with_a_cold_cache() {
    let ambassador = to_mysql();
    for user in ["app", "sha"] {
        let _turn = cold();
        let mut node = Command::new(demand("node", "nodejs"));
        node.env("NODE_PATH", newer_clients("node_modules"));
        assert_eq!(script(&ambassador, node, "with_mysql2.js", user).must_succeed().stdout, "42\n", "{user}");
    }
}

#[test]
#[ignore = "MySQL's server: scripts/test-matrix mysql-9.7"]
fn connector_j_of_mariadb_asks_for_the_key_where_it_is_told_to() {
    let ambassador = to_mysql();
    let _turn = cold();
    let port = ambassador.address("app").port();
    let url = format!("jdbc:mariadb://127.0.0.1:{port}/shop?allowPublicKeyRetrieval=true");
    let mut java = Command::new(demand("java", "default-jdk-headless"));
    java.args(["-XX:TieredStopAtLevel=1", "-cp"]).arg(newer_clients("mariadb-java-client.jar"));
    let driver = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour/drivers/ConnectorJ.java");
    let finished = finish(java.arg(driver).args([&url, "app", PASSWORD])).must_succeed();
    assert_eq!(finished.stdout.trim(), "Connector/J is content");
}

/// The X protocol: its capability `tls`, and what a raw client receives after it.
#[test]
#[ignore = "MySQL's server: scripts/test-matrix mysql-9.7"]
fn the_x_protocol_reaches_capabilities_behind_tls() {
    let server = mysql();
    let cluster = format!("protocol: mysqlx\n{}", server.tls(""));
    let ambassador = Ambassador::start(&Config::app(&[&server.address(1)], &cluster));
    let mut client = ambassador.connect();
    // CapabilitiesGet; the answer lists PLAIN, which a server offers only over TLS.
    client.send([1, 0, 0, 0, 1]);
    let mut said = Vec::new();
    until("the server offered PLAIN", || {
        said.extend(client.receive(1));
        said.ends_with(b"PLAIN").then_some(())
    });
}

/// Scenario: nobody but the daemon knows the password; clients have none, or a wrong one.
#[test]
#[ignore = "MySQL's server: scripts/test-matrix mysql-9.7"]
fn clients_without_the_password_are_signed_in_with_a_cold_cache_and_a_warm_one() {
    let server = mysql();
    let secrets = tempfile::tempdir().expect("a temporary directory");
    let file = secrets.path().join("password");
    std::fs::write(&file, PASSWORD).expect("a file");
    for user in ["app", "sha"] {
        let login = format!("login: {{ as: {user}, password: {{ file: {} }} }}", file.display());
        let cluster = format!("protocol: mysql\n{}\n{login}", server.tls(""));
        let listener = "bind: 127.0.0.1:0\ncluster: up\nallow: anyone";
        let config = Config::new().listener("app", listener).cluster("up", &[&server.address(0)], &cluster);
        let ambassador = Ambassador::start(&config);
        let port = ambassador.address("app").port().to_string();
        let _turn = cold();
        for options in [
            &[][..],
            &["--password=placeholder"],
            &["--default-auth=sha256_password", "--password=placeholder", "--get-server-public-key"],
            &["--default-auth=sha256_password"],
            &["--default-auth=mysql_clear_password", "--enable-cleartext-plugin", "--password=placeholder"],
        ] {
            let mut mysql = client();
            mysql.args(["--host=127.0.0.1", "--user=anybody", &format!("--port={port}")]).args(options);
            let told = finish(mysql.args(["-e", "select substring_index(current_user(), '@', 1)"]));
            assert_eq!(told.must_succeed().stdout, format!("{user}\n"), "{options:?}");
        }
        for password in ["", "placeholder"] {
            let mut node = Command::new(demand("node", "nodejs"));
            node.env("NODE_PATH", newer_clients("node_modules"));
            let mut connector = Command::new("/usr/bin/python3");
            connector.env("PYTHONPATH", newer_clients("python"));
            for (mut command, script) in [
                (Command::new("/usr/bin/python3"), "with_pymysql.py"),
                (connector, "with_connector_python.py"),
                (node, "with_mysql2.js"),
            ] {
                let driver =
                    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour/drivers").join(script);
                let told = finish(command.arg(driver).args([&port, "anybody", password]));
                assert_eq!(told.must_succeed().stdout, "42\n", "{script} {password:?}");
            }
            let url = format!("jdbc:mariadb://127.0.0.1:{port}/shop?allowPublicKeyRetrieval=true");
            let mut java = Command::new(demand("java", "default-jdk-headless"));
            java.args(["-XX:TieredStopAtLevel=1", "-cp"]).arg(newer_clients("mariadb-java-client.jar"));
            let driver =
                PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour/drivers/ConnectorJ.java");
            let told = finish(java.arg(driver).args([&url, "anybody", password])).must_succeed();
            assert_eq!(told.stdout.trim(), "Connector/J is content");
        }
    }
}
