//! File access that the daemon gives up at its start, and how reload and replacement deal with that.
//!
//! Without Landlock in the kernel only the last test runs; the others print so and pass.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::harness::{Ambassador, Client, Config, End, Pki, ServerTls, Upstream, demand, roles, until};

/// The confinement logged at the start; `None`, with a message, if the kernel has no Landlock.
fn said(ambassador: &Ambassador) -> Option<String> {
    let said = ambassador.wait_line("landlock: ");
    if said.contains("file access is not restricted") {
        eprintln!("this kernel has no Landlock, so nothing was shown: {said}");
        return None;
    }
    Some(said)
}

/// The mistakes of a rejected reload.
#[track_caller]
fn refused(ambassador: &Ambassador, config: &Config) -> Vec<serde_json::Value> {
    ambassador.rewrite(config);
    let answer = ambassador.post("/reload");
    assert_eq!(answer.status, 422, "{}", answer.body);
    answer.json()["mistakes"].as_array().expect("a list").clone()
}

#[track_caller]
fn accepted(ambassador: &Ambassador, config: &Config) {
    ambassador.rewrite(config);
    let answer = ambassador.post("/reload");
    assert_eq!(answer.status, 200, "{}", answer.body);
}

fn unix(path: &Path, upstream: &Upstream) -> Config {
    let body = format!("bind: [ \"127.0.0.1:0\", \"unix:{}\" ]\ncluster: up", path.display());
    Config::new().listener("app", &body).cluster("up", &[&upstream.address()], "")
}

#[test]
fn the_kernel_keeps_the_daemon_from_files_outside_even_where_a_link_leads_there() {
    let (inside, outside) = (Upstream::plain(roles::echo), Upstream::plain(roles::echo));
    let (found, elsewhere) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let list = |upstream: &Upstream| format!("endpoints: [\"{}\"]", upstream.address());
    let (link, other) = (found.path().join("endpoints.yaml"), elsewhere.path().join("endpoints.yaml"));
    fs::write(found.path().join("1.yaml"), list(&inside)).expect("a file");
    fs::write(&other, list(&outside)).expect("a file");
    symlink("1.yaml", &link).expect("a link");
    let ambassador = Ambassador::start(&Config::app(&[&format!("{{ file: {} }}", link.display())], ""));
    let Some(said) = said(&ambassador) else { return };
    assert!(said.contains(&found.path().display().to_string()), "{said}");
    ambassador.connect().echo("by the list");
    let swap = |to: &Path| {
        symlink(to, link.with_extension("new")).expect("a link");
        fs::rename(link.with_extension("new"), &link).expect("a link in place");
    };
    swap(&other);
    // The user of the tests may read the file, root or not; so may the daemon, except for the access it gave up.
    until("the daemon could not read the file", || {
        ambassador.get("/status").body.contains("Permission denied").then_some(())
    });
    ambassador.connect().echo("by the list that was read");
    fs::write(found.path().join("2.yaml"), list(&outside)).expect("a file");
    swap(Path::new("2.yaml"));
    until("a new file in the folder counted", || {
        ambassador.connect().echo("to one or the other");
        (outside.accepted() > 0).then_some(())
    });
}

#[test]
fn a_reload_may_name_new_files_in_the_folders_that_it_had() {
    let pki = Pki::new();
    let upstream =
        Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build(), roles::echo);
    let tls = |name: &str| {
        let client = pki.client(name);
        let files = [&pki.ca(), &client.cert, &client.key].map(|path| path.display().to_string());
        format!("tls: {{ ca: {}, cert: {}, key: {} }}", files[0], files[1], files[2])
    };
    let config = |name: &str| Config::app(&[&upstream.address()], &tls(name));
    let ambassador = Ambassador::start(&config("one"));
    ambassador.connect().echo("as the one");
    // Neither existed when the daemon restricted itself.
    accepted(&ambassador, &config("other"));
    ambassador.connect().echo("as the other");
    let record = ambassador.wait_records(2);
    assert_eq!(record[1]["outcome"], "completed");
}

#[test]
fn a_reload_that_names_another_folder_is_refused_at_its_place_and_a_replacement_is_not() {
    let pki = Pki::new();
    let upstream = Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), roles::echo);
    let plain = Upstream::plain(roles::echo);
    let mut ambassador = Ambassador::start(&Config::app(&[&plain.address()], ""));
    if said(&ambassador).is_none() {
        return;
    }
    let secured = Config::app(&[&upstream.address()], &format!("tls: {{ ca: {} }}", pki.ca().display()));
    let mistakes = refused(&ambassador, &secured);
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert_eq!(mistakes[0]["path"], "clusters.up.tls.ca");
    assert!(mistakes[0]["line"].is_number() && mistakes[0]["column"].is_number(), "{mistakes:?}");
    let words = mistakes[0]["message"].as_str().expect("words");
    let folder = pki.ca().parent().expect("a folder").display().to_string();
    for part in [folder.as_str(), "Landlock", "SIGUSR2", "restart"] {
        assert!(words.contains(part), "{words} lacks {part}");
    }
    ambassador.connect().echo("as before");
    assert_eq!((plain.accepted(), upstream.accepted()), (1, 0));
    // The logged advice works; and a second time, since a successor is no more confined than a first start.
    ambassador.replace();
    ambassador.connect().echo("by the new file");
    assert_eq!((plain.accepted(), upstream.accepted()), (1, 1));
    let other = TempDir::new().expect("a folder");
    let path = other.path().join("app.sock");
    let mistakes = refused(&ambassador, &unix(&path, &plain));
    assert_eq!(mistakes[0]["path"], "listeners.app.bind[1]");
    ambassador.replace();
    Client::unix(&path).expect("a connection").echo("by the second successor");
}

#[test]
fn new_sockets_are_made_beside_those_that_there_were_and_removed_again() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&unix(Path::new("{dir}/one.sock"), &upstream));
    let (one, two) = (ambassador.dir().join("one.sock"), ambassador.dir().join("two.sock"));
    accepted(&ambassador, &unix(Path::new("{dir}/two.sock"), &upstream));
    Client::unix(&two).expect("a connection").echo("on the new one");
    assert!(!one.exists(), "the old one's file is gone");
    let elsewhere = TempDir::new().expect("a folder");
    if said(&ambassador).is_none() {
        return;
    }
    let config = unix(Path::new("{dir}/two.sock"), &upstream);
    let moved =
        config.admin(&format!("{{ bind: 127.0.0.1:0, control: \"unix:{}/c\" }}", elsewhere.path().display()));
    assert_eq!(refused(&ambassador, &moved)[0]["path"], "admin.control");
    Client::unix(&two).expect("a connection").echo("as before");
}

#[test]
fn a_log_is_written_and_rotated_in_its_folder_and_moves_nowhere_else() {
    let upstream = Upstream::plain(roles::echo);
    let (logs, elsewhere) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let to = |folder: &TempDir| {
        let path = folder.path().join("access.log");
        Config::app(&[&upstream.address()], "")
            .log(&format!("{{ format: json, access: {{ output: {} }} }}", path.display()))
    };
    let ambassador = Ambassador::start(&to(&logs));
    let path = logs.path().join("access.log");
    let lines = || fs::read_to_string(&path).unwrap_or_default().lines().count();
    ambassador.connect().echo("a record");
    until("the record was written", || (lines() == 1).then_some(()));
    fs::rename(&path, path.with_extension("1")).expect("as logrotate does");
    accepted(&ambassador, &to(&logs));
    ambassador.connect().echo("another");
    until("the next one was written to a new file", || (lines() == 1).then_some(()));
    if said(&ambassador).is_some() {
        assert_eq!(refused(&ambassador, &to(&elsewhere))[0]["path"], "log.access.output");
    }
}

#[test]
fn who_turns_it_off_may_name_any_folder_and_is_told_so() {
    let pki = Pki::new();
    let upstream = Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), roles::echo);
    let off = |config: Config| config.top("runtime: { landlock: off }");
    let ambassador = Ambassador::start(&off(Config::app(&["127.0.0.1:9"], "")));
    ambassador.wait_line("landlock: off");
    let tls = format!("tls: {{ ca: {} }}", pki.ca().display());
    accepted(&ambassador, &off(Config::app(&[&upstream.address()], &tls)));
    ambassador.connect().echo("over TLS");
    ambassador.rewrite(&Config::app(&[&upstream.address()], &tls));
    let needed = ambassador.post("/reload").json()["needs_restart"].to_string();
    assert!(needed.contains("runtime.landlock"), "{needed}");
}

#[test]
fn a_kernel_without_it_is_no_obstacle() {
    let pki = Pki::new();
    let upstream = Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).build(), roles::echo);
    for (error, words) in
        [("ENOSYS", "has no Landlock"), ("EOPNOTSUPP", "booted without Landlock"), ("EPERM", "a filter")]
    {
        let ambassador = Ambassador::start_with(&Config::app(&["127.0.0.1:9"], ""), |command| {
            let mut without = Command::new(demand("python3", "python3"));
            without.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/behaviour/drivers/without_landlock.py"));
            without.arg(error).arg(command.get_program()).args(command.get_args());
            for (name, value) in command.get_envs() {
                match value {
                    Some(value) => without.env(name, value),
                    None => without.env_remove(name),
                };
            }
            without.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            *command = without;
        });
        let said = ambassador.wait_line("landlock: file access is not restricted");
        assert!(said.contains(words), "{said}");
        assert_eq!(ambassador.connect().ending(), End::Reset);
        // Nothing was given up, so every file is accessible.
        let tls = format!("tls: {{ ca: {} }}", pki.ca().display());
        accepted(&ambassador, &Config::app(&[&upstream.address()], &tls));
        ambassador.connect().echo("over TLS");
    }
}
