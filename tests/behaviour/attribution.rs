//! Whose a connection is where it is not plain: sockets that change hands, control groups of containers and of users' own
//! managers, and a listening socket of another network namespace. docs/CALLERS.md, "Cases".

use crate::activation::activated;
use crate::callers::{SERVED, start, tcp, unix};
use crate::harness::somebody::{Cgroup, Namespace, Somebody, Users};
use crate::harness::{Ambassador, Config, Upstream, demand, roles};

/// The process that connected has ended when we look, and a child of it with another user goes on. Over TCP the socket is
/// still its maker's, unit and all; over a unix socket it is still whose connect(2) it was, of whom no unit is left.
#[test]
fn a_connection_that_is_handed_on_stays_whose_it_was() {
    let Some(Users { billing, reports }) = Users::have() else { return };
    let Some(service) = Cgroup::make("ambtest.slice/ambtest-hands.service") else { return };
    let upstream = Upstream::plain(roles::echo);
    let ambassador = start(&upstream, "");
    let hand = format!("hand={}", reports.uid);
    for (target, unit) in [(tcp(&ambassador), Some("ambtest-hands.service")), (unix(&ambassador), None)] {
        let before = ambassador.records().len();
        // Root makes it, for only root can become somebody else.
        let mut call = ambassador.frozen(|| {
            let mut call = Somebody::default().within(&service).call(&target, &[&hand]);
            assert_eq!(call.heard(), "handed");
            call
        });
        assert_eq!(call.heard(), SERVED);
        drop(call);
        let record = ambassador.wait_records(before + 1).remove(before);
        let caller = &record["caller"];
        assert_eq!((&caller["uid"], caller["unit"].as_str()), (&0.into(), unit), "{target}: {record}");
    }
    // What root gives away before it connects is the other one's, over TCP; who connects counts over a unix socket.
    let owned = format!("owned={}", billing.uid);
    for (target, expected) in [(tcp(&ambassador), billing.uid), (unix(&ambassador), 0)] {
        let before = ambassador.records().len();
        assert_eq!(Somebody::default().call(&target, &[&owned]).heard(), SERVED);
        let record = ambassador.wait_records(before + 1).remove(before);
        assert_eq!(record["caller"]["uid"], expected, "{target}: {record}");
    }
}

/// What the access log shows of clients in containers, and of what users run by themselves.
#[test]
fn containers_and_users_own_services_are_shown_by_the_unit_that_the_host_sees() {
    let Some(Users { billing, .. }) = Users::have() else { return };
    // IDs that no other run of the tests has, which may be going on.
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
        // Those that no systemd made have no unit.
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
        assert_eq!(Somebody::user(billing).within(&cgroup).call(&tcp(&ambassador), &[]).heard(), SERVED);
        let record = ambassador.wait_records(before + 1).remove(before);
        assert_eq!(record["caller"]["unit"].as_str(), unit.map(of_this_run).as_deref(), "{path}: {record}");
    }
}

/// Its clients come over a loopback that is not ours, and what the kernel would say of their addresses is about others.
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
    assert_ne!(Somebody::default().inside(&namespace).call(&target, &[]).heard(), SERVED);
    let record = ambassador.record_of("denied");
    let error = record["error"].as_str().expect("an error");
    assert!(error.ends_with("no process of this network namespace has the other end"), "{record}");
    assert_eq!(upstream.accepted(), 0);
}
