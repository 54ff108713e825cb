//! Server certificates that none of our libraries would serve with, on OpenSSL's own server.
//! src/tls/tests/certificates.rs has the table of what each `verify` accepts.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::harness::daemon::free_port;
use crate::harness::{Ambassador, Config, demand, finish, until};

/// `openssl s_server`, which answers each line with its reverse.
struct Server {
    process: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let mut openssl = Command::new(demand("openssl", "openssl"));
    finish(openssl.args(arguments.split(' ')).current_dir(folder)).must_succeed();
}

/// `server.pem` and `server.key`: a self-signed certificate of version 1, as `openssl x509 -req` makes them.
fn version_1(bits: u32) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    // More primes take seconds instead of a minute to find; whoever verifies sees their product alone.
    let primes = if bits > 4096 { 5 } else { 2 };
    let options = format!("-pkeyopt rsa_keygen_bits:{bits} -pkeyopt rsa_keygen_primes:{primes}");
    openssl(folder.path(), &format!("genpkey -algorithm RSA {options} -out server.key"));
    openssl(folder.path(), "req -new -key server.key -subj /CN=db.test -out server.csr");
    openssl(folder.path(), "x509 -req -in server.csr -days 9 -signkey server.key -out server.pem");
    folder
}

fn serve(folder: &Path, version: &str) -> Server {
    let port = free_port();
    let mut openssl = Command::new(demand("openssl", "openssl"));
    openssl.args([
        "s_server",
        "-accept",
        &format!("127.0.0.1:{port}"),
        "-cert",
        "server.pem",
        "-key",
        "server.key",
    ]);
    openssl.args(["-rev", "-quiet", "-cipher", "DEFAULT:@SECLEVEL=0", version]).current_dir(folder);
    let process = openssl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let server = Server { process: process.expect("openssl starts"), port };
    until("openssl listens", || TcpStream::connect(("127.0.0.1", port)).ok().map(drop));
    server
}

fn ambassador(server: &Server, tls: &str) -> Ambassador {
    let cluster = format!("tls: {{ server_name: db.test, {tls} }}\nconnect: {{ attempts: 1 }}");
    Ambassador::start(&Config::app(&[&format!("127.0.0.1:{}", server.port)], &cluster))
}

fn answers(ambassador: &Ambassador) {
    let mut client = ambassador.connect();
    client.send("abc\n");
    client.expect("cba\n");
}

/// Scenario: the manuals of PostgreSQL and MySQL make certificates of version 1, which failed as
/// `UnsupportedCertVersion` even with `insecure_skip_verify`, where certificates are not verified.
#[test]
fn a_certificate_of_version_1_is_taken_where_no_name_is_asked_for() {
    let folder = version_1(2048);
    let own = folder.path().join("server.pem");
    for version in ["-tls1_2", "-tls1_3"] {
        let server = serve(folder.path(), version);
        answers(&ambassador(&server, "insecure_skip_verify: true"));
        answers(&ambassador(&server, &format!("verify: ca, ca: {}", own.display())));
        answers(&ambassador(&server, &format!("verify: pin, ca: {}", own.display())));
    }
}

#[test]
fn a_servers_key_may_have_8192_bits() {
    let folder = version_1(8192);
    let own = folder.path().join("server.pem");
    for version in ["-tls1_2", "-tls1_3"] {
        let server = serve(folder.path(), version);
        answers(&ambassador(&server, &format!("verify: ca, ca: {}", own.display())));
    }
}

/// Scenario: a key of 1024 bits was reported as "not signed by a CA of tls.ca", although it was.
#[test]
fn a_servers_key_that_is_too_short_is_told_as_such() {
    let folder = version_1(1024);
    let own = fs::canonicalize(folder.path().join("server.pem")).expect("a path");
    for version in ["-tls1_2", "-tls1_3"] {
        let server = serve(folder.path(), version);
        for tls in ["insecure_skip_verify: true".into(), format!("verify: pin, ca: {}", own.display())] {
            let ambassador = ambassador(&server, &tls);
            ambassador.connect().try_send("abc\n");
            let error = ambassador.record()["error"].to_string();
            let words =
                "the server's key is RSA of 1024 bits, of which it must have 2048: it needs a new one";
            assert!(error.contains(words) && error.contains("certificate of `CN=db.test`"), "{error}");
        }
    }
}
