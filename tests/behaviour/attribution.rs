//! Attribution of connections in the unclear cases: sockets that change their owner, control groups of containers and
//! of users' own managers, and a listening socket of another network namespace. docs/CALLERS.md, "Cases".

use crate::activation::activated;
use crate::callers::{SERVED, start, tcp, unix};
use crate::harness::other_user::{Cgroup, Namespace, OtherUser, Users};
use crate::harness::{Ambassador, Config, Upstream, demand, roles};

/// The process that connected has ended when we look, and its child with another uid continues. Over TCP the socket
/// still belongs to its creator, with the unit; over a unix socket to the uid that called connect(2), without a unit.
#[test]
fn a_connection_that_is_handed_on_stays_whose_it_was() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let Some(service) = Cgroup::make("ambtest.slice/ambtest-hands.service") else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, "");
    let hand = format!("hand={}", reports.uid);
    for (target, unit) in [(tcp(&ambassador), Some("ambtest-hands.service")), (unix(&ambassador), None)] {
        let before = ambassador.records().len();
        // Root creates it, since only root can change its uid.
        let mut call = ambassador.frozen(|| {
            let mut call = OtherUser::default().within(&service).call(&target, &[&hand]);
            assert_eq!(call.result(), "handed");
            call
        });
        assert_eq!(call.result(), SERVED);
        drop(call);
        let record = ambassador.wait_records(before + 1).remove(before);
        let caller = &record["caller"];
        assert_eq!((&caller["uid"], caller["unit"].as_str()), (&0.into(), unit), "{target}: {record}");
    }
    // A socket that root passes to another uid before it connects: over TCP the new owner counts; over a unix socket
    // the uid that connects.
    let owned = format!("owned={}", billing.uid);
    for (target, expected) in [(tcp(&ambassador), billing.uid), (unix(&ambassador), 0)] {
        let before = ambassador.records().len();
        assert_eq!(OtherUser::default().call(&target, &[&owned]).result(), SERVED);
        let record = ambassador.wait_records(before + 1).remove(before);
        assert_eq!(record["caller"]["uid"], expected, "{target}: {record}");
    }
}

/// The access log's entries for clients in containers, and for units of users' own managers.
#[test]
fn containers_and_users_own_services_are_shown_by_the_unit_that_the_host_sees() {
    let Some(Users { billing, .. }) = Users::have() else { return };
    // IDs that no concurrent run of the tests has.
    let id = std::process::id();
    let cases = [
        ("system.slice/docker-ID1.scope", Some("docker-ID1.scope")),
        ("machine.slice/libpod-ID2.scope/container", Some("libpod-ID2.scope")),
        (
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podID.slice/cri-containerd-ID3.scope",
            Some("cri-containerd-ID3.scope"),
        ),
        (
            "machine.slice/systemd-nspawn@ID.service/payload/system.slice/sshd.service",
            Some("systemd-nspawn@ID.service"),
        ),
        (
            "user.slice/user-9.slice/user@9.service/app.slice/report-ID.service",
            Some("user@9.service/report-ID.service"),
        ),
        (
            "user.slice/user-9.slice/user@9.service/user.slice/libpod-ID4.scope",
            Some("user@9.service/libpod-ID4.scope"),
        ),
        ("user.slice/user-9.slice/session-ID.scope", Some("session-ID.scope")),
        // Containers without systemd have no unit.
        ("docker/ID5", None),
        ("kubepods/burstable/podID/ID6", None),
        ("lxc.payload.ID/system.slice/sshd.service", None),
    ];
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, "");
    for (path, unit) in cases {
        let of_this_run = |text: &str| text.replace("ID", &id.to_string());
        let Some(cgroup) = Cgroup::make(&of_this_run(path)) else { return };
        let before = ambassador.records().len();
        assert_eq!(OtherUser::user(billing).within(&cgroup).call(&tcp(&ambassador), &[]).result(), SERVED);
        let record = ambassador.wait_records(before + 1).remove(before);
        assert_eq!(record["caller"]["unit"].as_str(), unit.map(of_this_run).as_deref(), "{path}: {record}");
    }
}

/// Its clients connect over another namespace's loopback; the kernel's answers about their addresses would be about
/// other sockets.
#[test]
fn clients_of_a_socket_that_another_network_namespace_bound_are_strangers() {
    if Users::have().is_none() {
        return;
    }
    let Some(namespace) = Namespace::make(4) else { return };
    let upstream = Upstream::plain(roles::echo);
    let body = "bind: systemd:web\ncluster: up\nallow: [ { user: root } ]";
    let config = Config::new().listener("app", body).cluster("up", &[&upstream.address()], "");
    demand("python3", "python3");
    let ambassador = Ambassador::start_with(&config, |command| {
        activated(command, &["web=tcp:127.0.0.1:0"]);
        command.env("BIND_IN", namespace.path());
    });
    let target = tcp(&ambassador);
    assert_ne!(OtherUser::default().inside(&namespace).call(&target, &[]).result(), SERVED);
    let record = ambassador.record_of("denied");
    let error = record["error"].as_str().expect("an error");
    assert!(error.ends_with("no process of this network namespace has the other end"), "{record}");
    assert_eq!(upstream.accepted(), 0);
}
