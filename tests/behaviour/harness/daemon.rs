//! Debian's servers of other projects, as the tests start them: in a directory of their own, under the account that
//! they demand, on a port of 127.0.0.1. One instance serves the whole test process.
//!
//! Statics are never dropped, so a server's life depends on a pipe: a shell waits for the end of its stdin, which
//! comes when the test process ends in any way, stops the server and removes its files.

use std::fs::{self, File, Permissions};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Pki, demand, finish};

/// The account a server runs under; root may choose it, other users run it as themselves.
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// `package` creates the account if it is missing.
    pub(crate) fn of(user: &str, package: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let id = |flag| {
            let told = finish(Command::new("id").args([flag, user]));
            told.stdout
                .trim()
                .parse()
                .unwrap_or_else(|_| panic!("there is no user `{user}`: apt-get install {package} makes it"))
        };
        Some(Self { uid: id("-u"), gid: id("-g") })
    }
}

/// A directory that the server's account can traverse.
pub(crate) fn directory() -> PathBuf {
    let dir = tempfile::tempdir().expect("a temporary directory").keep();
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).expect("a passable directory");
    dir
}

/// `program` under that account.
pub(crate) fn as_account(program: &Path, account: Option<&Account>) -> Command {
    let Some(Account { uid, gid }) = account else { return Command::new(program) };
    let mut command = Command::new(demand("setpriv", "util-linux"));
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]).arg(program);
    command
}

/// Makes the file or directory that account's, with access for it alone.
pub(crate) fn give(path: &Path, account: Option<&Account>) {
    if let Some(Account { uid, gid }) = account {
        chown(path, Some(*uid), Some(*gid)).expect("root may chown");
    }
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
}

/// Copies a key or certificate to where only the account can read it.
pub(crate) fn give_copy(from: &Path, to: &Path, account: Option<&Account>) {
    fs::copy(from, to).expect("a copied file");
    give(to, account);
}

/// Starts `server` under a shell that ends it with the test process or the value. Its output goes to `log` in `dir`;
/// at the end it gets `signal`, and `dir` and the PKI's files are removed.
pub(crate) fn keep(server: &Command, signal: &str, dir: &Path, pki: Option<&Pki>) -> Child {
    const KEEPER: &str = r#"signal=$1 dir=$2 pki=$3; shift 3
"$@" </dev/null & server=$!
cat >/dev/null
kill -"$signal" $server; wait $server
rm -rf "$dir" "$pki""#;
    let log = File::create(dir.join("log")).expect("a log file");
    let mut shell = Command::new("sh");
    shell.args(["-c", KEEPER, "keeper", signal]).arg(dir);
    shell.arg(pki.map(|pki| pki.path("")).unwrap_or_default());
    shell.arg(server.get_program()).args(server.get_args()).current_dir("/");
    for (name, value) in server.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::piped()).stdout(log.try_clone().expect("a second handle")).stderr(log);
    shell.spawn().expect("a shell")
}

/// A free port of 127.0.0.1.
pub(crate) fn free_port() -> u16 {
    let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
    probe.local_addr().expect("an address").port()
}

/// An address of the loopback network for a server whose ports are fixed: no other one of the tests has it while the value
/// lives, in this test process or another.
pub(crate) struct OwnIp {
    ip: String,
    /// At the first of the ports, which the server uses by TCP.
    _claim: UdpSocket,
}

impl OwnIp {
    /// The next one where the TCP ports are free: a server of a test process that has just ended may be about to end.
    #[track_caller]
    pub(crate) fn next(ports: &[u16]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Test processes that run side by side begin far from each other.
        let begin = std::process::id().wrapping_mul(97);
        let next = || begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let mut candidates = (0..1000).map(|_| next() % (250 * 250));
        let found = candidates.find_map(|number| {
            let ip = format!("127.77.{}.{}", number / 250, 1 + number % 250);
            let claim = UdpSocket::bind((ip.as_str(), ports[0])).ok()?;
            let is_free = ports.iter().all(|port| TcpListener::bind((ip.as_str(), *port)).is_ok());
            is_free.then_some(Self { ip, _claim: claim })
        });
        found.unwrap_or_else(|| panic!("of a thousand addresses none has the ports {ports:?} free"))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.ip
    }
}
