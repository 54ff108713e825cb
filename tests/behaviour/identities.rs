//! `tls.identity` by caller: each caller has its own client certificate towards the server, and never another
//! caller's.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use crate::harness::other_user::{Namespace, OtherUser, User, Users};
use crate::harness::postgres::{self, Postgres};
use crate::harness::{Ambassador, Config, Leaf, Pki, ServerTls, Upstream, finish, roles, until};
use crate::reload::reload;

/// Two identities, `app` and `certonly`, and a cluster that chooses by these rules.
fn config(upstream: &str, bind: &str, pki: &Pki, leaves: [&Leaf; 2], rules: &str, more: &str) -> Config {
    let identity = |name: &str, Leaf { cert, key, .. }: &Leaf| {
        format!("  {name}: {{ cert: {}, key: {} }}", cert.display(), key.display())
    };
    let [app, certonly] = leaves;
    let identities = format!("identities:\n{}\n{}", identity("app", app), identity("certonly", certonly));
    let body =
        format!("bind: [ {bind}, \"unix:{{dir}}/app.sock\" ]\nmode: \"0666\"\nexpose: true\ncluster: up");
    let tls = format!("tls: {{ ca: {}, identity: [ {rules} ] }}\n{more}", pki.ca().display());
    Config::new().top(&identities).listener("app", &body).cluster("up", &[upstream], &tls)
}

const LOOPBACK: &str = "\"127.0.0.1:0\"";

fn start(config: &Config) -> Ambassador {
    let ambassador = Ambassador::start(config);
    // Other users must be able to traverse its folder.
    set_permissions(ambassador.dir(), Permissions::from_mode(0o755)).expect("our own folder");
    ambassador
}

fn targets(ambassador: &Ambassador) -> [String; 2] {
    [ambassador.address("app").to_string(), ambassador.dir().join("app.sock").display().to_string()]
}

const SERVED: &str = "got hello";

/// The client certificate of each handshake, and whether it was resumed.
fn handshakes(upstream: &Upstream) -> Vec<(String, bool)> {
    let notes = upstream.notes();
    let told = notes.iter().filter_map(|note| Some((note.rsplit_once("cn=")?.1, note.contains("Resumed"))));
    told.map(|(name, resumed)| (name.to_owned(), resumed)).collect()
}

/// A TLS ticket carries the identity it was made with: a session that another caller resumed would have the first
/// one's.
#[test]
fn each_caller_shows_his_own_certificate_and_resumes_his_own_sessions_only() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let pki = Pki::new();
    let (one, two) = (pki.client("app"), pki.client("certonly"));
    let server = pki.server(&["127.0.0.1"]);
    for tls in [ServerTls::new(&server).only_1_3(), ServerTls::new(&server).only_1_2()] {
        let upstream = Upstream::tls(tls.clients_of(&pki).build(), roles::echo);
        let rules = format!("{{ user: {}, use: app }}, {{ use: certonly }}", billing.name);
        let ambassador = start(&config(&upstream.address(), LOOPBACK, &pki, [&one, &two], &rules, ""));
        let [tcp, unix] = targets(&ambassador);
        for (user, target) in [
            (billing, &tcp),
            (billing, &unix),
            (reports, &unix),
            (billing, &tcp),
            (reports, &tcp),
            (reports, &unix),
        ] {
            let before = ambassador.records().len();
            assert_eq!(OtherUser::user(user).call(target, &[]).result(), SERVED);
            ambassador.wait_records(before + 1);
        }
        let expected = [
            ("app", false),
            ("app", true),
            ("certonly", false),
            ("app", true),
            ("certonly", true),
            ("certonly", true),
        ];
        assert_eq!(handshakes(&upstream), expected.map(|(name, resumed)| (name.to_owned(), resumed)));
        let identities: Vec<_> =
            ambassador.records().iter().map(|record| record["tls"]["identity"].clone()).collect();
        assert_eq!(identities, ["app", "app", "certonly", "app", "certonly", "certonly"]);
    }
}

/// Spare connections have the identity of the last rule; for callers with another identity a connection of their own
/// is dialled.
#[test]
fn a_connection_kept_ready_is_for_those_alone_whose_identity_it_was_made_with() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let pki = Pki::new();
    let (one, two) = (pki.client("app"), pki.client("certonly"));
    let upstream =
        Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build(), roles::echo);
    let rules = format!("{{ user: {}, use: app }}, {{ use: certonly }}", billing.name);
    let more = "protocol: redis\nconnect: { preconnect: 2 }";
    let ambassador = start(&config(&upstream.address(), LOOPBACK, &pki, [&one, &two], &rules, more));
    let ready = || ambassador.metrics().sum("preconnected", &[("cluster", "up")]);
    for target in targets(&ambassador) {
        for (user, identity, dials) in [(billing, "app", 1), (reports, "certonly", 0), (billing, "app", 1)] {
            until("two were ready", || (ready() == 2.0).then_some(()));
            let before = ambassador.records().len();
            assert_eq!(OtherUser::user(user).call(&target, &[]).result(), SERVED);
            let record = ambassador.wait_records(before + 1).remove(before);
            let said = (record["tls"]["identity"].as_str(), record["attempts"].as_u64());
            assert_eq!(said, (Some(identity), Some(dials)), "{record}");
        }
    }
    let shown = handshakes(&upstream);
    let of_app = shown.iter().filter(|(name, _)| name == "app").count();
    assert_eq!(of_app, 4, "one for each call of his, and none that was kept: {shown:?}");
}

#[test]
fn an_identity_that_names_other_files_after_a_reload_is_what_new_sessions_show() {
    let pki = Pki::new();
    let (one, two) = (pki.client("app"), pki.client("certonly"));
    let upstream =
        Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build(), roles::echo);
    let with = |app: &Leaf| {
        let certonly = "{ use: app }";
        config(&upstream.address(), LOOPBACK, &pki, [app, &two], certonly, "")
    };
    let ambassador = start(&with(&one));
    let mut old = ambassador.connect();
    old.echo("as the one");
    // The cluster's own lines are unchanged; the identity that they name is not.
    let reloaded = reload(&ambassador, &with(&two));
    assert!(reloaded["changes"].to_string().contains("cluster up changed"), "{reloaded}");
    ambassador.connect().echo("as the other");
    let shown = handshakes(&upstream);
    assert_eq!(shown, [("app".to_owned(), false), ("certonly".to_owned(), false)]);
    old.echo("a live session goes on");
}

#[test]
fn whoever_no_rule_is_for_is_denied_before_anything_goes_upstream() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let pki = Pki::new();
    let (one, two) = (pki.client("app"), pki.client("certonly"));
    let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build();
    let upstream = Upstream::tls(tls, roles::echo);
    let rules = format!("{{ user: {}, use: app }}", billing.name);
    let ambassador = start(&config(&upstream.address(), LOOPBACK, &pki, [&one, &two], &rules, ""));
    for target in targets(&ambassador) {
        assert_ne!(OtherUser::user(reports).call(&target, &[]).result(), SERVED);
    }
    assert_eq!(upstream.accepted(), 0);
    let record = ambassador.record_of("denied");
    let words =
        format!("no rule of the cluster's tls.identity is for user {} (uid {})", reports.name, reports.uid);
    assert!(record["error"].as_str().is_some_and(|error| error.starts_with(&words)), "{record}");
    assert_eq!(record["tls"], serde_json::Value::Null);
    for target in targets(&ambassador) {
        assert_eq!(OtherUser::user(billing).call(&target, &[]).result(), SERVED);
    }
}

/// The rule without conditions applies to callers of this host only.
#[test]
fn a_stranger_is_not_even_the_rest() {
    if Users::have().is_none() {
        return;
    }
    let Some(namespace) = Namespace::make(3) else { return };
    let pki = Pki::new();
    let (one, two) = (pki.client("app"), pki.client("certonly"));
    let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build();
    let upstream = Upstream::tls(tls, roles::echo);
    let bind = format!("\"{}:0\"", Namespace::gateway(3));
    let ambassador = start(&config(&upstream.address(), &bind, &pki, [&one, &two], "{ use: app }", ""));
    let [tcp, unix] = targets(&ambassador);
    assert_ne!(OtherUser::default().inside(&namespace).call(&tcp, &[]).result(), SERVED);
    let record = ambassador.record_of("denied");
    let error = record["error"].as_str().expect("an error");
    assert!(error.contains("tls.identity is for a stranger"), "{record}");
    assert_eq!(upstream.accepted(), 0);
    assert_eq!(OtherUser::default().call(&unix, &[]).result(), SERVED);
}

/// Scenario: a reload changed the rules while a session waited for room: the same positions, with other identities.
/// The session was shown with the identity that had its old position, or without a certificate if there was none.
#[test]
fn whoever_waits_while_the_rules_change_is_who_the_new_ones_say_and_nobody_else() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let pki = Pki::new();
    let (one, two) = (pki.client("app"), pki.client("certonly"));
    let tls = ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build();
    let upstream = Upstream::tls(tls, roles::echo);
    let full = "limits: { max_connections: 1, queue_timeout: 1m }\nconnect: { deadline: 1m }";
    let config = |rules: &str| config(&upstream.address(), LOOPBACK, &pki, [&one, &two], rules, full);
    let before = "{ user: root, use: app }, { user: root, group: root, use: app }, { use: certonly }";
    for (after, expected) in [
        (format!("{{ user: {}, use: certonly }}, {{ use: app }}", billing.name), Some("certonly")),
        (
            format!(
                "{{ user: root, use: app }}, {{ user: {}, use: certonly }}, {{ use: app }}",
                billing.name
            ),
            Some("certonly"),
        ),
        (format!("{{ user: {}, use: certonly }}, {{ user: root, use: app }}", reports.name), None),
    ] {
        let known = handshakes(&upstream).len();
        let ambassador = start(&config(before));
        let mut holder = ambassador.connect();
        holder.echo("held");
        let mut waits = OtherUser::user(billing).call(&targets(&ambassador)[0], &[]);
        until("it waits", || (ambassador.status()["clusters"][0]["waiting"] == 1).then_some(()));
        reload(&ambassador, &config(&after));
        drop(holder);
        let heard = waits.result();
        let shown: Vec<_> = handshakes(&upstream).into_iter().skip(known + 1).map(|(name, _)| name).collect();
        assert_eq!(
            (heard == SERVED, shown),
            (expected.is_some(), expected.iter().map(ToString::to_string).collect()),
            "{after}"
        );
        if expected.is_none() {
            let record = ambassador.record_of("denied");
            assert!(
                record["error"]
                    .as_str()
                    .is_some_and(|error| error.contains("no rule of the cluster's tls.identity is for")),
                "{record}"
            );
        }
    }
}

/// The server's own rules (`clientcert=verify-full`, `cert`) show which identity we used: with a wrong one the login
/// is refused.
#[test]
fn postgresql_lets_each_user_in_as_the_role_of_his_certificate_and_no_other() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let postgres = Postgres::shared();
    let pki = postgres.pki();
    let leaves = [&pki.client("app"), &pki.client("certonly")];
    let rules =
        format!("{{ user: {}, use: app }}, {{ user: {}, use: certonly }}", billing.name, reports.name);
    let config = config(&postgres.address(), LOOPBACK, pki, leaves, &rules, "protocol: postgres");
    let ambassador = start(&config);
    let port = ambassador.address("app").port();
    let login = |user: User, role: &str| {
        let conninfo = format!("host=127.0.0.1 port={port} user={role} dbname=postgres sslmode=disable");
        let psql = postgres::psql_command(&conninfo);
        let mut command = OtherUser::user(user).command(std::path::Path::new(psql.get_program()));
        command.args(psql.get_args());
        for (name, value) in psql.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        finish(command.args(["-c", "select current_user"]).current_dir("/"))
    };
    for _ in 0..2 {
        assert_eq!(login(billing, "app").must_succeed().stdout.trim(), "app");
        assert_eq!(login(reports, "certonly").must_succeed().stdout.trim(), "certonly");
        for (user, role) in [(billing, "certonly"), (reports, "app")] {
            let refused = login(user, role);
            assert_ne!(refused.code, 0);
            assert!(refused.stderr.contains("authentication failed"), "{}", refused.stderr);
        }
    }
}

/// Scenario: spare connections have the identity of the last rule. They filled the limits for callers with another
/// identity, and every session of those was refused.
#[test]
fn connections_kept_ready_for_others_make_way() {
    let pki = Pki::new();
    let (own, rest) = (pki.client("app"), pki.client("certonly"));
    let server = ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build();
    let upstream = Upstream::tls(server, roles::echo);
    let rules = format!("{{ user: {}, use: app }}, {{ use: certonly }}", nix::unistd::getuid());
    let more =
        "protocol: redis\nconnect: { preconnect: 3 }\nlimits: { max_connections: 4, queue_timeout: 0s }";
    let ambassador = start(&config(&upstream.address(), LOOPBACK, &pki, [&own, &rest], &rules, more));
    let ready = || ambassador.metrics().sum("preconnected", &[]);
    until("they were ready", || (ready() == 3.0).then_some(()));
    let clients = [(); 4].map(|()| {
        let mut client = ambassador.connect_to("app");
        client.echo("PING\r\n");
        client
    });
    until("they made way", || (ready() == 0.0).then_some(()));
    drop(clients);
}

/// Scenario: a user was recreated with another uid. Over a reload the old uid kept the identity, and the new one had
/// none, because the file's text was unchanged.
#[test]
fn a_user_who_was_made_anew_is_another_one_after_a_reload() {
    assert!(rustix::process::geteuid().is_root(), "a mount namespace needs root");
    let pki = Pki::new();
    let (one, two) = (pki.client("app"), pki.client("certonly"));
    let upstream =
        Upstream::tls(ServerTls::new(&pki.server(&["127.0.0.1"])).clients_of(&pki).build(), roles::echo);
    let dir = tempfile::tempdir().expect("a folder");
    let passwd = dir.path().join("passwd");
    // In place: this file is mounted over the host's.
    let alice_is = |uid: u32| {
        let text = format!("root:x:0:0::/root:/bin/sh\nalice:x:{uid}:65534::/:/bin/false\n");
        std::fs::write(&passwd, text).expect("a list of users");
    };
    alice_is(54_321);
    let rules = "{ user: alice, use: app }, { user: root, use: certonly }";
    let config = config(&upstream.address(), LOOPBACK, &pki, [&one, &two], rules, "");
    let ambassador = Ambassador::start_with(&config, |command| {
        let mut inside = std::process::Command::new("unshare");
        inside.args([
            "--mount",
            "--",
            "sh",
            "-c",
            r#"mount --bind "$1" /etc/passwd && shift && exec "$@""#,
            "sh",
        ]);
        inside.arg(&passwd).arg(command.get_program()).args(command.get_args());
        inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        inside.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        *command = inside;
    });
    ambassador.connect().echo("by root");
    let shown = || handshakes(&upstream).pop().map(|(name, _)| name);
    assert_eq!(shown().as_deref(), Some("certonly"));
    let changes = |expected: &[&str]| {
        let reloaded = ambassador.post("/reload").json();
        assert_eq!(reloaded["changes"], serde_json::json!(expected), "{reloaded}");
    };
    changes(&[]);
    alice_is(rustix::process::getuid().as_raw());
    changes(&["cluster up changed"]);
    ambassador.connect().echo("by whoever alice is now");
    assert_eq!(shown().as_deref(), Some("app"));
}
