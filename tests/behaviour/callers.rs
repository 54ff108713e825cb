//! Which local processes may connect, and how they are identified: several users, control groups and network
//! namespaces.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::other_user::{APPS, Cgroup, Namespace, OtherUser, Users};
use crate::harness::postgres::psql_command;
use crate::harness::server::{PASSWORD, mariadb};
use crate::harness::{Ambassador, Config, Postgres, Upstream, demand, finish, pgwire, roles, until};

/// Listener `app` on TCP and on a unix socket with mode 0666, with these additional keys.
pub(super) fn config(upstream: &Upstream, listener: &str, cluster: &str) -> Config {
    let body = format!(
        "bind: [ \"127.0.0.1:0\", \"unix:{{dir}}/app.sock\" ]\nmode: \"0666\"\ncluster: up\n{listener}"
    );
    Config::new().listener("app", &body).cluster("up", &[&upstream.address()], cluster)
}

pub(super) fn start(upstream: &Upstream, listener: &str) -> Ambassador {
    let ambassador = Ambassador::start(&config(upstream, listener, ""));
    open_to_all(&ambassador);
    ambassador
}

/// Other users must be able to traverse its folder.
pub(super) fn open_to_all(ambassador: &Ambassador) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(ambassador.dir(), std::fs::Permissions::from_mode(0o755))
        .expect("our own folder");
}

pub(super) fn tcp(ambassador: &Ambassador) -> String {
    ambassador.address("app").to_string()
}

pub(super) fn unix(ambassador: &Ambassador) -> String {
    ambassador.dir().join("app.sock").display().to_string()
}

/// The record of that user's session.
#[track_caller]
pub(super) fn record_of(ambassador: &Ambassador, uid: u32) -> Value {
    ambassador.record_where(&format!("uid {uid}"), |record| record["caller"]["uid"] == uid)
}

pub(super) const SERVED: &str = "got hello";

#[test]
fn only_the_users_that_are_named_may_connect() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, &format!("allow: [ {{ user: {} }} ]", billing.name));
    for target in [tcp(&ambassador), unix(&ambassador)] {
        assert_eq!(OtherUser::user(billing).call(&target, &[]).result(), SERVED, "{target}");
        let refused = OtherUser::user(reports).call(&target, &[]).result();
        assert!(refused == "reset" || refused == "end", "{target}: {refused}");
        // Root has no special rights.
        assert_ne!(OtherUser::default().call(&target, &[]).result(), SERVED, "{target}");
    }
    assert_eq!(upstream.accepted(), 2, "nothing of the others went upstream");
    let record = record_of(&ambassador, reports.uid);
    assert_eq!(record["outcome"], "denied", "{record}");
    assert_eq!(record["closed_by"], "ambassador");
    assert_eq!(record["caller"]["user"], reports.name);
    let words =
        format!("no rule of the listener's `allow` is for user {} (uid {})", reports.name, reports.uid);
    assert!(record["error"].as_str().is_some_and(|error| error.starts_with(&words)), "{record}");
    assert_eq!(record_of(&ambassador, billing.uid)["outcome"], "completed");
    assert_eq!(ambassador.metrics().sum("connections_total", &[("outcome", "denied")]), 4.0);
}

#[test]
fn a_supplementary_group_counts_the_databases_over_tcp_and_the_processs_own_over_a_unix_socket() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, &format!("allow: [ {{ group: {APPS} }} ]"));
    let (tcp, unix) = (tcp(&ambassador), unix(&ambassador));
    // Both processes have a group that the user database does not list for their users.
    let (without, with) = (OtherUser::user(billing), OtherUser::user(reports).group(APPS));
    assert_eq!(without.call(&tcp, &[]).result(), SERVED);
    assert_ne!(without.call(&unix, &[]).result(), SERVED);
    assert_ne!(with.call(&tcp, &[]).result(), SERVED);
    assert_eq!(with.call(&unix, &[]).result(), SERVED);
}

#[test]
fn a_unit_is_known_by_its_control_group_over_tcp_and_over_a_unix_socket() {
    let Some(Users { billing, .. }) = Users::have() else { return };
    let (Some(report), Some(other)) = (
        Cgroup::make("ambtest.slice/ambtest-report.service"),
        Cgroup::make("ambtest.slice/ambtest-other.service"),
    ) else {
        return;
    };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, "allow: [ { unit: ambtest-report.service } ]");
    for target in [tcp(&ambassador), unix(&ambassador)] {
        assert_eq!(OtherUser::user(billing).within(&report).call(&target, &[]).result(), SERVED, "{target}");
        assert_ne!(OtherUser::user(billing).within(&other).call(&target, &[]).result(), SERVED, "{target}");
        assert_ne!(OtherUser::user(billing).call(&target, &[]).result(), SERVED, "{target}");
    }
    let records = ambassador.wait_records(6);
    let units: Vec<_> =
        records.iter().map(|record| record["caller"]["unit"].as_str().unwrap_or("none")).collect();
    let once = ["ambtest-report.service", "ambtest-other.service"];
    for unit in once {
        assert_eq!(units.iter().filter(|known| **known == unit).count(), 2, "{units:?}");
    }
    assert!(report.id() != other.id());
}

#[test]
fn a_service_of_a_users_own_manager_does_not_go_by_the_name_of_one_of_the_hosts() {
    let Some(Users { billing, .. }) = Users::have() else { return };
    let path = "user.slice/user-9.slice/user@9.service/app.slice/ambtest-report.service";
    let Some(own) = Cgroup::make(path) else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, "allow: [ { unit: ambtest-report.service } ]");
    assert_ne!(OtherUser::user(billing).within(&own).call(&tcp(&ambassador), &[]).result(), SERVED);
    assert_eq!(ambassador.record()["caller"]["unit"], "user@9.service/ambtest-report.service");
    let named = start(&upstream, "allow: [ { unit: user@9.service/ambtest-report.service } ]");
    assert_eq!(OtherUser::user(billing).within(&own).call(&tcp(&named), &[]).result(), SERVED);
}

#[test]
fn the_keys_of_a_rule_must_all_match_and_one_rule_is_enough() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let Some(report) = Cgroup::make("ambtest-both.service") else { return };
    let upstream = Upstream::plain(roles::echo);
    let rules = format!(
        "allow:\n  - {{ user: {}, unit: ambtest-both.service }}\n  - {{ user: {} }}",
        billing.name, reports.uid
    );
    let ambassador = start(&upstream, &rules);
    let target = tcp(&ambassador);
    assert_eq!(OtherUser::user(billing).within(&report).call(&target, &[]).result(), SERVED);
    assert_ne!(OtherUser::user(billing).call(&target, &[]).result(), SERVED);
    assert_ne!(OtherUser::default().within(&report).call(&target, &[]).result(), SERVED);
    assert_eq!(OtherUser::user(reports).call(&target, &[]).result(), SERVED);
}

#[test]
fn a_client_is_known_however_it_writes_our_address() {
    let Some(Users { billing, .. }) = Users::have() else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, &format!("allow: [ {{ user: {} }} ]", billing.name));
    for options in [&["mapped"][..], &["device=lo"]] {
        let caller = if options[0] == "mapped" { OtherUser::user(billing) } else { OtherUser::default() };
        let heard = caller.call(&tcp(&ambassador), options).result();
        // Only root may bind to an interface; it is known here, and therefore denied by name.
        assert_eq!(heard == SERVED, options[0] == "mapped", "{options:?}: {heard}");
    }
    record_of(&ambassador, 0);
}

/// Over TCP a socket belongs to its creator, even if the creator changes its uid or passes the socket on. Over a unix
/// socket the caller is the process that called connect(2).
#[test]
fn a_socket_that_changes_hands_stays_its_makers() {
    let Some(Users { billing, .. }) = Users::have() else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, "");
    let becomes = format!("become={}", billing.uid);
    let after = format!("after={}", billing.uid);
    for (target, option, expected) in [
        (tcp(&ambassador), &becomes, 0),
        (tcp(&ambassador), &after, 0),
        (unix(&ambassador), &becomes, billing.uid),
        (unix(&ambassador), &after, 0),
    ] {
        let before = ambassador.records().len();
        assert_eq!(OtherUser::default().call(&target, &[option]).result(), SERVED);
        let record = ambassador.wait_records(before + 1).remove(before);
        assert_eq!(record["caller"]["uid"], expected, "{target} {option}: {record}");
    }
}

/// A client that resets its connection leaves its bytes with us and its port to the next client, which must not get
/// its identity.
#[test]
fn a_client_that_has_left_is_not_taken_for_the_next_one_with_its_port() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, &format!("allow: [ {{ user: {} }} ]", billing.name));
    let target = tcp(&ambassador);
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("it has one")
        .port();
    let from = format!("from={port}");
    let mut allowed = ambassador.frozen(|| {
        // `heard` waits for the end of the first, so that the second comes after it.
        assert_eq!(OtherUser::user(reports).call(&target, &[&from, "reset"]).result(), "");
        let allowed = OtherUser::user(billing).call(&target, &[&from]);
        until("the second was connected", || {
            let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
            let ours = format!("0100007F:{port:04X} 0100007F:{:04X} 01", ambassador.address("app").port());
            table.contains(&ours).then_some(())
        });
        allowed
    });
    assert_eq!(allowed.result(), SERVED);
    drop(allowed);
    let records = ambassador.wait_records(2);
    let denied = records.iter().find(|record| record["outcome"] == "denied").expect("the first was denied");
    assert!(denied["caller"].is_null(), "{denied}");
    assert!(denied["error"].as_str().is_some_and(|error| error.contains("a stranger")), "{denied}");
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn a_peer_of_another_host_is_a_stranger() {
    if Users::have().is_none() {
        return;
    }
    let Some(namespace) = Namespace::make(1) else { return };
    let upstream = Upstream::plain(roles::echo);
    let gateway = Namespace::gateway(1);
    let body = format!("bind: \"{gateway}:0\"\nexpose: true\ncluster: up\nallow: [ {{ user: root }} ]");
    let config = Config::new().listener("app", &body).cluster("up", &[&upstream.address()], "");
    let ambassador = Ambassador::start(&config);
    let target = tcp(&ambassador);
    assert_ne!(OtherUser::default().inside(&namespace).call(&target, &[]).result(), SERVED);
    let record = ambassador.record_of("denied");
    assert!(record["error"].as_str().is_some_and(|error| error.ends_with("is not of this host")), "{record}");
    assert!(record["caller"].is_null());
    assert_eq!(upstream.accepted(), 0);
    ambassador.wait_line("whoever connects from another host is a stranger, and denied");
}

#[test]
fn a_client_of_another_network_namespace_is_known_over_a_unix_socket() {
    let Some(Users { billing, .. }) = Users::have() else { return };
    let Some(namespace) = Namespace::make(2) else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, &format!("allow: [ {{ user: {} }} ]", billing.name));
    assert_eq!(OtherUser::user(billing).inside(&namespace).call(&unix(&ambassador), &[]).result(), SERVED);
    let record = record_of(&ambassador, billing.uid);
    assert!(record["caller"]["pid"].as_u64().is_some_and(|pid| pid > 0), "{record}");
}

/// The same command, as arguments of a program that prepares its environment.
pub(super) fn run_by(command: &mut Command, program: &str, arguments: &[&str]) {
    let mut outer = Command::new(program);
    outer.args(arguments).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    *command = outer;
}

/// The same command in a mount namespace of its own, where that folder is `/run`. Root makes it in the namespace of the host's
/// users, anybody else in a new one, as its root.
#[track_caller]
pub(super) fn run_with_run_folder(command: &mut Command, run: &Path) {
    let is_root = rustix::process::geteuid().is_root();
    let namespaces: &[_] = if is_root { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] };
    let run = run.display().to_string();
    let script = r#"mount --bind "$0" /run && exec "$@""#;
    let arguments = [namespaces, &["--", "sh", "-c", script, &run]].concat();
    let probe = finish(Command::new(demand("unshare", "util-linux")).args(&arguments).arg("true"));
    assert_eq!(
        probe.code, 0,
        "this test needs a mount namespace: let root run it, with CAP_SYS_ADMIN, or allow user namespaces \
         (user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns): {}",
        probe.stderr
    );
    run_by(command, "unshare", &arguments);
}

/// As in a unit whose RestrictAddressFamilies= lacks AF_NETLINK. Rules can only deny then, and the log says so at the
/// start; unix sockets, and listeners without rules, are not affected.
#[test]
fn where_the_kernel_tells_nothing_of_tcp_clients_the_log_says_so_and_rules_deny_them() {
    const WITHOUT: &str = include_str!("drivers/without_netlink.py");
    let probe = finish(Command::new("/usr/bin/python3").args(["-c", WITHOUT, "/bin/true"]));
    if probe.code != 0 {
        eprintln!("this needs a kernel with seccomp filters: not tested: {}", probe.stderr);
        return;
    }
    let upstream = Upstream::plain(roles::echo);
    let start = |listener: &str| {
        let ambassador = Ambassador::start_with(&config(&upstream, listener, ""), |command| {
            run_by(command, "/usr/bin/python3", &["-c", WITHOUT]);
        });
        open_to_all(&ambassador);
        ambassador
    };
    let words = "the kernel does not tell who connects over loopback";
    let us = rustix::process::geteuid().as_raw();
    let ruled = start(&format!("allow: [ {{ user: {us} }} ]"));
    let line = ruled.wait_line(words);
    assert!(line.contains("AF_NETLINK in RestrictAddressFamilies"), "{line}");
    assert_ne!(OtherUser::default().call(&tcp(&ruled), &[]).result(), SERVED);
    let record = ruled.record_of("denied");
    let error = record["error"].as_str().expect("an error");
    assert!(error.contains("a stranger: the kernel does not tell"), "{record}");
    assert_eq!(OtherUser::default().call(&unix(&ruled), &[]).result(), SERVED);
    let free = start("");
    assert_eq!(OtherUser::default().call(&tcp(&free), &[]).result(), SERVED);
    assert!(free.record()["caller"].is_null());
    assert!(free.lines().iter().all(|line| !line.contains(words)), "nobody asks, so nothing is missing");
}

/// A hundred units have series of their own; later ones share one.
#[test]
fn units_beyond_the_first_hundred_share_a_series() {
    if Users::have().is_none() {
        return;
    }
    let slice = format!("ambtest-many{}.slice", std::process::id());
    let path = |number: usize| format!("{slice}/ambtest-u{number}.service");
    let cgroups: Option<Vec<_>> = (0..103).map(|number| Cgroup::make(&path(number))).collect();
    let Some(cgroups) = cgroups else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, "");
    // One process moves from one to the next; a socket belongs to the control group in which it was created.
    let moves = "home=$1; port=$2; shift 2; for unit; do \
                 echo $$ >$unit/cgroup.procs && exec 3<>/dev/tcp/127.0.0.1/$port && \
                 printf x >&3 && read -rn1 -u3 && exec 3>&- || exit 1; done; \
                 echo $$ >$home/cgroup.procs";
    let root = cgroups[0].path().parent().and_then(Path::parent).expect("the hierarchy's root");
    let port = ambassador.address("app").port().to_string();
    let mut bash = Command::new("bash");
    bash.args(["-c", moves, "bash"]).arg(root).arg(port).args(cgroups.iter().map(Cgroup::path));
    finish(&mut bash).must_succeed();
    ambassador.wait_records(103);
    let metrics = ambassador.metrics();
    let of = |unit: &str| metrics.sum("caller_connections_total", &[("unit", unit)]);
    assert_eq!((of("ambtest-u0.service"), of("ambtest-u102.service"), of("other")), (1.0, 0.0, 3.0));
    assert_eq!(metrics.sum("caller_connections_total", &[]), 103.0);
    // A caller without a unit is not counted as one.
    ambassador.connect().echo("from nowhere");
    until("we are counted", || {
        (ambassador.metrics().sum("caller_connections_total", &[("unit", "none")]) == 1.0).then_some(())
    });
}

/// Users without a number in the daemon's user namespace all appear as `nobody` there.
#[test]
fn a_user_without_a_number_in_our_user_namespace_is_a_stranger() {
    let Some(Users { billing, .. }) = Users::have() else { return };
    let probe = finish(Command::new("unshare").args(["--user", "--map-root-user", "true"]));
    if probe.code != 0 {
        eprintln!("this needs user namespaces: not tested: {}", probe.stderr);
        return;
    }
    let upstream = Upstream::plain(roles::echo);
    let allow = "allow: [ { user: 65534 }, { user: root } ]";
    let ambassador = Ambassador::start_with(&config(&upstream, allow, ""), |command| {
        run_by(command, "unshare", &["--user", "--map-root-user"]);
    });
    open_to_all(&ambassador);
    for target in [tcp(&ambassador), unix(&ambassador)] {
        assert_ne!(OtherUser::user(billing).call(&target, &[]).result(), SERVED, "{target}");
        assert_eq!(OtherUser::default().call(&target, &[]).result(), SERVED, "{target}");
    }
    let record = ambassador.record_of("denied");
    assert!(record["error"].as_str().is_some_and(|error| error.ends_with("user namespace")), "{record}");
}

#[test]
fn a_denied_client_is_told_in_its_protocol() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let upstream = Upstream::plain(roles::silent);
    let allow = format!("allow: [ {{ user: {} }} ]", billing.name);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let startup = format!("say={}", hex(&pgwire::app_startup()));
    for (protocol, options, parts) in [
        ("postgres", &[startup.as_str()][..], &["C28000", "ambassador: denied: no rule"][..]),
        ("mysql", &[], &["\u{15}\u{4}ambassador: denied: no rule"]),
        ("smtp", &[], &["421 5.7.1 ambassador: denied: no rule"]),
    ] {
        let ambassador = Ambassador::start(&config(&upstream, &allow, &format!("protocol: {protocol}")));
        let heard = OtherUser::user(reports).call(&tcp(&ambassador), options).result();
        for part in parts {
            assert!(heard.contains(part), "{protocol}: {heard:?} lacks {part:?}");
        }
        let session = ambassador.record_of("denied")["session"].as_str().map(str::to_owned).expect("an id");
        assert!(heard.contains(&session), "{protocol}: {heard:?}");
    }
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn postgres_shows_the_callers_unit_behind_the_applications_name() {
    let Some(Users { billing, .. }) = Users::have() else { return };
    let Some(report) = Cgroup::make("ambtest.slice/ambtest-announced.service") else { return };
    let postgres = Postgres::shared();
    let start = |announce: bool| {
        let cluster = format!("{}\nannounce_caller: {announce}", postgres.tls());
        Ambassador::start(&Config::postgres(&[&postgres.address()], &cluster))
    };
    let ask = |ambassador: &Ambassador, within: Option<&Cgroup>, name: &str| {
        let port = ambassador.address("app").port();
        let conninfo = format!("host=127.0.0.1 port={port} user=app dbname=postgres sslmode=prefer");
        let mut psql = psql_command(&conninfo);
        psql.env("PGAPPNAME", name);
        psql.args(["-c", "select application_name from pg_stat_activity where pid = pg_backend_pid()"]);
        let caller = OtherUser::user(billing);
        let caller = match within {
            Some(cgroup) => caller.within(cgroup),
            None => caller,
        };
        caller.run(&psql).must_succeed().stdout.trim().to_owned()
    };
    let announcing = start(true);
    assert_eq!(ask(&announcing, Some(&report), "billing run"), "billing run [ambtest-announced.service]");
    let long = "n".repeat(63);
    let shortened = format!("{} [ambtest-announced.service]", "n".repeat(63 - 28));
    assert_eq!(ask(&announcing, Some(&report), &long), shortened, "what the server keeps is the whole unit");
    assert_eq!(ask(&announcing, None, "billing run"), "billing run", "nothing is invented");
    assert_eq!(ask(&start(false), Some(&report), "billing run"), "billing run");
}

#[test]
fn mariadb_shows_the_callers_unit_among_the_connections_attributes() {
    let Some(Users { billing, .. }) = Users::have() else { return };
    let Some(report) = Cgroup::make("ambtest.slice/ambtest-attribute.service") else { return };
    let server = mariadb();
    let cluster = format!("protocol: mysql\n{}\nannounce_caller: true", server.tls(""));
    let ambassador = Ambassador::start(&Config::app(&[&server.address(0)], &cluster));
    let mut client = Command::new(demand("mariadb", "mariadb-client"));
    client.args([
        "--no-defaults",
        "--skip-ssl",
        "--batch",
        "--skip-column-names",
        "--host=127.0.0.1",
        "--user=app",
    ]);
    client.arg(format!("--port={}", ambassador.address("app").port())).arg(format!("--password={PASSWORD}"));
    client.args([
        "-e",
        "select attr_name, attr_value from performance_schema.session_connect_attrs \
         where processlist_id = connection_id() and attr_name in ('caller_unit', 'program_name') order by attr_name",
    ]);
    let shown = OtherUser::user(billing).within(&report).run(&client).must_succeed().stdout;
    let (ours, theirs) = shown.split_once('\n').expect("two attributes");
    assert_eq!(ours, "caller_unit\tambtest-attribute.service");
    assert!(theirs.starts_with("program_name\t"), "{shown}");
    assert_eq!(OtherUser::user(billing).run(&client).must_succeed().stdout, theirs, "nothing is invented");
}

#[test]
fn nobody_is_looked_up_where_nobody_asks() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = Ambassador::start(&config(&upstream, "", "").log("{ access: false }"));
    let mut client = ambassador.connect();
    client.echo("hello");
    assert!(ambassador.get("/sessions").json()["sessions"][0]["caller"].is_null());
}

#[test]
fn a_live_session_shows_its_caller() {
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, "");
    let mut client = ambassador.connect();
    client.echo("hello");
    let sessions = ambassador.get("/sessions").json();
    let caller = &sessions["sessions"][0]["caller"];
    assert_eq!(caller["uid"], rustix::process::geteuid().as_raw(), "{sessions}");
    assert!(caller["pid"].is_null(), "the kernel does not tell it of TCP");
}
