//! Privileges that the daemon drops at its start, and which callers may control it.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Ambassador, Config, Pki, ServerTls, Upstream, demand, finish, roles, until};

#[test]
fn the_daemon_gains_no_privileges_any_more() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    ambassador.connect().echo("it works");
    let tasks = fs::read_dir(format!("/proc/{}/task", ambassador.pid().as_raw_nonzero())).expect("our child");
    for task in tasks.flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        assert!(status.is_empty() || status.contains("NoNewPrivs:\t1"), "{status}");
    }
}

/// The files in /proc of a process that is not dumpable belong to root, whatever its uid: a debugger is refused by the
/// same check.
#[test]
fn no_core_file_and_no_debugger_of_its_own_user_shows_the_daemons_memory() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test runs the daemon as another user, which only root may do"
    );
    const NOBODY: u32 = 65534;
    let as_nobody = |program: &OsStr| {
        let mut command = Command::new(demand("setpriv", "util-linux"));
        command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()]);
        command.arg(program);
        command
    };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start_with(&Config::app(&[&upstream.address()], ""), |command| {
        let file = Path::new(command.get_args().last().expect("the configuration's path"));
        let folder = file.parent().expect("a folder");
        for path in [folder, file, &folder.join("notify.sock")] {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
        let mut wrapped = as_nobody(command.get_program());
        wrapped.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        wrapped.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        *command = wrapped;
    });
    let daemon = ambassador.pid().as_raw_nonzero().to_string();
    let launcher = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).expect("our child");
    for process in [daemon.as_str(), launcher.trim()] {
        let file = format!("/proc/{process}/environ");
        assert_eq!(fs::metadata(format!("/proc/{process}")).expect("it lives").uid(), NOBODY, "{process}");
        assert_eq!(fs::metadata(&file).expect("it lives").uid(), 0, "{file}");
        let mut reader = as_nobody(OsStr::new("cat"));
        let finished = finish(reader.arg(&file));
        assert_ne!(finished.code, 0, "its own user reads {file}");
        finished.must_print("Permission denied");
    }
}

/// The writable memory of a process, as far as it can be read.
fn memory(process: rustix::process::Pid) -> Vec<u8> {
    let file = |name: &str| format!("/proc/{}/{name}", process.as_raw_nonzero());
    let maps = fs::read_to_string(file("maps")).expect("its maps");
    let memory = fs::File::open(file("mem")).expect("its memory, which root may read");
    let mut bytes = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let range = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let number = |text: &str| u64::from_str_radix(text, 16).expect("a hexadecimal number");
        let (from, to) = (number(range.0), number(range.1));
        let mut part = vec![0; usize::try_from(to - from).expect("it fits")];
        if memory.read_exact_at(&mut part, from).is_ok() {
            bytes.append(&mut part);
        }
    }
    bytes
}

#[test]
fn a_key_that_was_read_is_nowhere_in_memory_as_it_was_read() {
    assert!(rustix::process::geteuid().is_root(), "only root may read the memory of the daemon");
    let pki = Pki::new();
    let (first, second) = (pki.client("first"), pki.client("second"));
    let upstream =
        Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build(), roles::echo);
    let tls = format!(
        "tls: {{ ca: {}, cert: {}, key: {} }}",
        pki.ca().display(),
        first.cert.display(),
        first.key.display()
    );
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], &tls));
    ambassador.connect().echo("as the first");
    let text = fs::read_to_string(&first.key).expect("the key");
    let other = fs::read_to_string(&second.key).expect("another key");
    fs::copy(&second.key, &first.key).expect("a new key");
    fs::copy(&second.cert, &first.cert).expect("a new certificate");
    until("the new pair was in use", || {
        let reloads = ambassador.metrics().sum("credential_reloads_total", &[("result", "ok")]);
        (reloads >= 1.0).then_some(())
    });
    ambassador.connect().echo("as the second");
    let memory = memory(ambassador.pid());
    let holds = |part: &[u8]| memory.windows(part.len()).any(|window| window == part);
    assert!(holds(&first.der.as_ref()[40..80]) || holds(&second.der.as_ref()[40..80]), "the search works");
    for (leaf, text) in [(&first, &text), (&second, &other)] {
        // From the middle: the allocator writes to the beginning of freed memory.
        let end_of_line = text.find("KEY-----").expect("PEM") + 72;
        assert!(!holds(&text.as_bytes()[end_of_line - 30..end_of_line + 30]), "the text of the key");
        let der = leaf.key_der.secret_der();
        assert!(!holds(&der[36..68]), "the key itself, in the order of its encoding");
    }
}

#[test]
fn the_control_socket_hears_its_own_user_and_root_only() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test is another user for a moment, which only root may be"
    );
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&Config::app(&[&upstream.address()], ""));
    // As if its mode had been opened to all.
    fs::set_permissions(ambassador.dir(), Permissions::from_mode(0o755)).expect("our directory");
    fs::set_permissions(ambassador.control(), Permissions::from_mode(0o666)).expect("its socket");
    let ask = |user: &str| {
        let mut curl = Command::new(demand("setpriv", "util-linux"));
        curl.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into()]);
        curl.arg(demand("curl", "curl")).arg("-sS").arg("--unix-socket").arg(ambassador.control());
        finish(curl.args(["--max-time", "20", "http://control/healthz"]))
    };
    assert_eq!(ask("0").must_succeed().stdout, "ok\n");
    let stranger = ask("65534");
    assert_ne!(stranger.code, 0, "{stranger:?}");
    assert_eq!(stranger.stdout, "");
    ambassador.wait_line("its peer is neither our own user nor root");
}
