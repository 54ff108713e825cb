//! Certificates, keys and CAs that are replaced while the daemon runs: in one step, in several, and with mistakes.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use crate::harness::{Ambassador, Config, Conn, End, Leaf, Pki, ServerTls, Upstream, roles, until};

/// A folder whose `client.pem` and `client.key` change while the daemon runs.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn with(leaf: &Leaf) -> Self {
        let folder = Self(tempfile::tempdir().expect("a temporary directory"));
        folder.install(&leaf.cert, "client.pem");
        folder.install(&leaf.key, "client.key");
        folder
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A copy is renamed over the old file.
    pub(super) fn install(&self, from: &Path, name: &str) {
        let new = self.path(&format!("{name}.new"));
        fs::copy(from, &new).expect("a copy");
        fs::rename(new, self.path(name)).expect("a file in place");
    }

    fn tls(&self, pki: &Pki) -> String {
        let (cert, key) = (self.path("client.pem"), self.path("client.key"));
        format!("tls: {{ ca: {}, cert: {}, key: {} }}", pki.ca().display(), cert.display(), key.display())
    }
}

fn server(pki: &Pki) -> Arc<ServerConfig> {
    ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(pki).build()
}

fn reloads(ambassador: &Ambassador, kind: &str, result: &str) -> f64 {
    ambassador.metrics().sum("credential_reloads_total", &[("kind", kind), ("result", result)])
}

#[track_caller]
pub(super) fn wait_reload(ambassador: &Ambassador, kind: &str, result: &str) {
    until(format!("a reload of the {kind} was {result}"), || {
        (reloads(ambassador, kind, result) >= 1.0).then_some(())
    });
}

/// The client certificate of the newest connection, and whether it was resumed.
#[track_caller]
fn newest(upstream: &Upstream, ambassador: &Ambassador) -> (String, bool) {
    let before = upstream.notes().iter().filter(|note| note.starts_with("handshake")).count();
    ambassador.connect().echo("whoever I am");
    let note = upstream.notes().into_iter().filter(|note| note.starts_with("handshake")).nth(before);
    let note = note.expect("a handshake was noted");
    let name = note.rsplit_once("cn=").expect("a common name").1.to_owned();
    (name, note.contains("Resumed"))
}

fn credential(ambassador: &Ambassador, kind: &str) -> Value {
    let status = ambassador.status();
    let all = status["credentials"].as_array().expect("a list of credentials");
    all.iter().find(|credential| credential["kind"] == kind).expect("a credential of that kind").clone()
}

#[test]
fn a_pair_that_is_renamed_into_place_is_used_by_the_next_connection_and_no_ticket_of_the_old_one_is() {
    let pki = Pki::new();
    let (old, new) = (pki.client("old"), pki.client("new"));
    for tls in [
        ServerTls::new(&pki.server(&["127.0.0.1"])).only_1_3(),
        ServerTls::new(&pki.server(&["127.0.0.1"])).only_1_2(),
    ] {
        let folder = Folder::with(&old);
        let upstream = Upstream::tls(tls.clients_of(&pki).build(), roles::echo);
        let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &folder.tls(&pki)));
        assert_eq!(newest(&upstream, &ambassador), ("old".into(), false));
        assert_eq!(newest(&upstream, &ambassador), ("old".into(), true));
        let mut living = ambassador.connect();
        living.echo("made with the old one");
        folder.install(&new.cert, "client.pem");
        folder.install(&new.key, "client.key");
        wait_reload(&ambassador, "identity", "ok");
        assert_eq!(newest(&upstream, &ambassador), ("new".into(), false));
        assert_eq!(newest(&upstream, &ambassador), ("new".into(), true));
        living.echo("and goes on");
        assert_eq!(credential(&ambassador, "identity")["replaced"], 1);
        assert_eq!(reloads(&ambassador, "identity", "failed"), 0.0);
    }
}

/// The layout of a mounted Kubernetes Secret: `client.pem` → `..data/client.pem`, `..data` → a folder named by date.
#[test]
fn a_folder_swapped_by_a_link_is_noticed() {
    let pki = Pki::new();
    let folder = Folder(tempfile::tempdir().expect("a temporary directory"));
    for (version, name) in [("..2026_01", "old"), ("..2026_02", "new")] {
        let leaf = pki.client(name);
        fs::create_dir(folder.path(version)).expect("a folder");
        fs::copy(&leaf.cert, folder.path(version).join("client.pem")).expect("a copy");
        fs::copy(&leaf.key, folder.path(version).join("client.key")).expect("a copy");
    }
    symlink("..2026_01", folder.path("..data")).expect("a link");
    for name in ["client.pem", "client.key"] {
        symlink(format!("..data/{name}"), folder.path(name)).expect("a link");
    }
    let upstream = Upstream::tls(server(&pki), roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &folder.tls(&pki)));
    assert_eq!(newest(&upstream, &ambassador).0, "old");
    symlink("..2026_02", folder.path("..data_tmp")).expect("a link");
    fs::rename(folder.path("..data_tmp"), folder.path("..data")).expect("a swap");
    fs::remove_dir_all(folder.path("..2026_01")).expect("the old folder goes");
    wait_reload(&ambassador, "identity", "ok");
    assert_eq!(newest(&upstream, &ambassador).0, "new");
}

/// The certificate is there and its key is not yet: nothing is logged, nothing is used.
#[test]
fn a_half_written_pair_is_waited_for() {
    let pki = Pki::new();
    let (old, new) = (pki.client("old"), pki.client("new"));
    let folder = Folder::with(&old);
    let upstream = Upstream::tls(server(&pki), roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &folder.tls(&pki)));
    let text = fs::read(&new.cert).expect("a certificate");
    let (first, rest) = text.split_at(text.len() / 2);
    fs::write(folder.path("client.pem"), first).expect("half a certificate");
    assert_eq!(newest(&upstream, &ambassador).0, "old");
    fs::write(folder.path("client.pem"), [first, rest].concat()).expect("a whole one");
    assert_eq!(newest(&upstream, &ambassador).0, "old");
    fs::write(folder.path("client.key"), fs::read(&new.key).expect("a key")).expect("its key");
    wait_reload(&ambassador, "identity", "ok");
    assert_eq!(newest(&upstream, &ambassador).0, "new");
    assert_eq!(reloads(&ambassador, "identity", "failed"), 0.0);
}

#[test]
fn a_bad_pair_keeps_the_old_one_and_is_told_once() {
    let pki = Pki::new();
    let (old, new) = (pki.client("old"), pki.client("new"));
    let folder = Folder::with(&old);
    let upstream = Upstream::tls(server(&pki), roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &folder.tls(&pki)));
    folder.install(&new.cert, "client.pem");
    wait_reload(&ambassador, "identity", "failed");
    assert_eq!(newest(&upstream, &ambassador).0, "old");
    let told = "the private key does not belong to the certificate";
    let line = ambassador.wait_line(told);
    assert!(line.contains("client.pem") && line.contains("the old one stays in use"), "{line}");
    let error = credential(&ambassador, "identity")["error"].as_str().expect("an error").to_owned();
    assert!(error.contains(told), "{error}");
    // Touched, and still wrong: it is not logged again. Then comes an unreadable key, which is another error.
    fs::set_permissions(folder.path("client.key"), Permissions::from_mode(0o640)).expect("a mode");
    fs::write(folder.path("client.key"), "rubbish").expect("a file");
    until("the second fault was told", || (reloads(&ambassador, "identity", "failed") >= 2.0).then_some(()));
    assert_eq!(ambassador.lines().iter().filter(|line| line.contains(told)).count(), 1);
    // The right pair is used whenever it arrives.
    folder.install(&new.key, "client.key");
    wait_reload(&ambassador, "identity", "ok");
    assert_eq!(newest(&upstream, &ambassador).0, "new");
    assert_eq!(credential(&ambassador, "identity")["error"], Value::Null);
}

#[test]
fn a_ca_that_is_replaced_counts_for_the_next_connection_resumed_or_not() {
    let (pki, other) = (Pki::new(), Pki::new());
    let folder = Folder(tempfile::tempdir().expect("a temporary directory"));
    folder.install(&pki.ca(), "ca.pem");
    let upstream = Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), roles::echo);
    let tls = format!("tls: {{ ca: {} }}\nconnect: {{ attempts: 1 }}", folder.path("ca.pem").display());
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &tls));
    assert!(!newest(&upstream, &ambassador).1);
    assert!(newest(&upstream, &ambassador).1);
    folder.install(&other.ca(), "ca.pem");
    wait_reload(&ambassador, "ca", "ok");
    // There are tickets that the server would accept, of a server that is no longer trusted.
    let mut client = ambassador.connect();
    client.try_send("not for this server");
    let record = ambassador.record_of("tls_failed");
    assert!(record["error"].as_str().expect("an error").contains("not signed by a CA of tls.ca"), "{record}");
    // An unparsable file keeps the current CAs.
    fs::write(folder.path("ca.pem"), "rubbish").expect("a file");
    wait_reload(&ambassador, "ca", "failed");
    folder.install(&pki.ca(), "ca.pem");
    until("the first CA was back", || (reloads(&ambassador, "ca", "ok") >= 2.0).then_some(()));
    assert!(!newest(&upstream, &ambassador).1);
}

/// An idle session ends; a session whose client waits for an answer, or that is busy, may finish first.
#[test]
fn on_rotation_drain_ends_sessions_of_the_old_certificate_once_they_rest() {
    let pki = Pki::new();
    let (old, new) = (pki.client("old"), pki.client("new"));
    let folder = Folder::with(&old);
    let (answer, asked) = (Arc::new(Notify::new()), "a question that takes long");
    let script = {
        let answer = answer.clone();
        move |mut conn: Conn| {
            let answer = answer.clone();
            async move {
                let mut buffer = [0; 256];
                while let Ok(count @ 1..) = conn.read(&mut buffer).await {
                    if buffer[..count] == *asked.as_bytes() {
                        answer.notified().await;
                    }
                    drop(conn.write_all(&buffer[..count]).await);
                    drop(conn.flush().await);
                }
            }
        }
    };
    let upstream = Upstream::tls(server(&pki), script);
    let cluster = format!("{}\non_rotation: drain\nclosing_time: 1s", folder.tls(&pki));
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &cluster));
    let (mut resting, mut asking, mut busy) =
        (ambassador.connect(), ambassador.connect(), ambassador.connect());
    for client in [&mut resting, &mut asking, &mut busy] {
        client.echo("hello");
    }
    asking.send(asked);
    folder.install(&new.cert, "client.pem");
    folder.install(&new.key, "client.key");
    wait_reload(&ambassador, "identity", "ok");
    let mut young = ambassador.connect();
    young.echo("made with the new one");
    let first = until("the resting session ended", || {
        busy.echo("at work");
        ambassador.records().into_iter().next()
    });
    assert_eq!(
        (&first["outcome"], &first["closed_by"]),
        (&"rotated".into(), &"ambassador".into()),
        "{first}"
    );
    assert_eq!(resting.ending(), End::Orderly);
    assert_eq!(ambassador.records().len(), 1, "the others are at work");
    answer.notify_one();
    asking.expect(asked);
    let records = ambassador.wait_records(3);
    assert!(records.iter().all(|record| record["outcome"] == "rotated"), "{records:?}");
    young.echo("goes on");
    assert_eq!(ambassador.metrics().sum("connections_total", &[("outcome", "rotated")]), 3.0);
}

#[test]
fn no_session_fails_while_certificates_are_replaced_under_load() {
    const ROTATIONS: usize = 6;
    let pki = Pki::new();
    let leaves = [pki.client("even"), pki.client("odd")];
    let folder = Folder::with(&leaves[0]);
    let upstream = Upstream::tls(server(&pki), roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &folder.tls(&pki)));
    let (is_over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    ambassador.connect().echo("under load");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for rotation in 1..=ROTATIONS {
            let leaf = &leaves[rotation % 2];
            folder.install(&leaf.key, "client.key");
            folder.install(&leaf.cert, "client.pem");
            until(format!("rotation {rotation} was noticed"), || {
                (reloads(&ambassador, "identity", "ok") >= rotation as f64).then_some(())
            });
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let served = served.load(Ordering::Relaxed);
    assert!(served > ROTATIONS, "{served} sessions were no load");
    let records = ambassador.wait_records(served);
    assert!(records.iter().all(|record| record["outcome"] == "completed" && record["attempts"] == 1));
    assert!(upstream.notes().iter().all(|note| !note.contains("failed")), "{:?}", upstream.notes());
}

#[test]
fn a_certificate_that_ends_soon_and_a_key_that_everybody_may_read_are_warned_of() {
    let pki = Pki::new();
    let leaf = pki.client_until("soon", Duration::from_secs(2 * 24 * 60 * 60 + 600));
    let folder = Folder::with(&leaf);
    fs::set_permissions(folder.path("client.key"), Permissions::from_mode(0o644)).expect("a mode");
    let upstream = Upstream::tls(server(&pki), roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &folder.tls(&pki)));
    ambassador.wait_line("ends in 2 days");
    ambassador.wait_line("has mode 0644");
    // A replacement that expires soon is reported when it is read.
    let brief = pki.client_until("brief", Duration::from_secs(2 * 60 * 60 + 600));
    folder.install(&brief.cert, "client.pem");
    folder.install(&brief.key, "client.key");
    wait_reload(&ambassador, "identity", "ok");
    ambassador.wait_line("ends in 2 hours");
    let ends = |role| {
        ambassador.metrics().sum("certificate_expiry_timestamp_seconds", &[("cluster", "up"), ("role", role)])
    };
    let expires = credential(&ambassador, "identity")["expires"].as_u64().expect("seconds") as f64;
    assert_eq!(ends("client"), expires);
    // rcgen's default notAfter is the year 4096.
    assert!(ends("ca") > 60e9, "{}", ends("ca"));
    assert_eq!(folder.path("client.key").metadata().expect("a key").permissions().mode() & 0o777, 0o600);
}
