//! Endpoints from Kubernetes: a stand-in for an API server, which cuts, forgets, refuses, and is down.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::callers::run_with_run_folder;
use crate::harness::discovery::{
    KeepFolder, check_with, cluster, echoes, member, members, origin, wait_error, wait_members, wait_well,
};
use crate::harness::kubernetes::{KubeApi, pod, pod_for};
use crate::harness::secrets::Secrets;
use crate::harness::{Ambassador, Config, Pki, ServerTls, Upstream, until};

const LOCAL: &str = "127.0.0.1";

fn source(api: &KubeApi, more: &str) -> String {
    format!("{{ kubernetes: {{ service: orders, namespace: shop, address: \"{}\"{more} }} }}", api.url())
}

fn start(api: &KubeApi, more: &str) -> Ambassador {
    Ambassador::start(&Config::app(&[&source(api, more)], ""))
}

fn has_failed(ambassador: &Ambassador) -> bool {
    ambassador.lines().iter().any(|line| line.contains("discovery failed"))
}

fn ready() -> Value {
    pod(LOCAL, true, false)
}

#[test]
fn endpoints_come_in_pages_and_follow_the_watch() {
    let api = KubeApi::start();
    let [one, two, three, four] = echoes();
    api.put("orders-1", one.port(), &[ready()]);
    api.put("orders-2", two.port(), &[ready(), pod("127.0.0.2", false, false)]);
    api.put("orders-3", three.port(), &[ready()]);
    api.set_pages(1, false);
    let ambassador = start(&api, "");
    wait_members(&ambassador, &[&one, &two, &three]);
    ambassador.connect().echo("found");
    let found = origin(&ambassador);
    assert_eq!(
        (&found["kind"], &found["name"], &found["found"]),
        (&json!("kubernetes"), &json!("shop/orders"), &json!(3))
    );
    api.wait_watch(0);
    api.put("orders-4", four.port(), &[ready()]);
    wait_members(&ambassador, &[&one, &two, &three, &four]);
    api.put("orders-3", three.port(), &[pod(LOCAL, false, false)]);
    wait_members(&ambassador, &[&one, &two, &four]);
    api.delete("orders-1");
    wait_members(&ambassador, &[&two, &four]);
    // A version that a bookmark tells is where the next watch goes on.
    let bookmark = api.bookmark();
    let before = api.watches();
    api.end_watches();
    assert_eq!(api.wait_watch(before), bookmark);
    api.put("orders-1", one.port(), &[ready()]);
    wait_members(&ambassador, &[&one, &two, &four]);
    assert_eq!(api.lists(), 3, "one list, of three pages: {:?}", api.requests());
    assert!(!has_failed(&ambassador));
}

#[test]
fn a_stream_that_is_cut_in_the_middle_of_a_line_loses_nothing() {
    let api = KubeApi::start();
    let [one, two] = echoes();
    api.put("orders-1", one.port(), &[ready()]);
    let ambassador = start(&api, "");
    wait_members(&ambassador, &[&one]);
    api.wait_watch(0);
    api.cut_watches();
    wait_error(&ambassador, &api.url());
    ambassador.connect().echo("the endpoints stay");
    api.put("orders-2", two.port(), &[ready()]);
    wait_members(&ambassador, &[&one, &two]);
    wait_well(&ambassador);
    api.wait_watch(1);
    api.delete("orders-1");
    wait_members(&ambassador, &[&two]);
}

#[test]
fn what_the_server_has_forgotten_is_listed_again_and_is_no_failure() {
    let api = KubeApi::start();
    let [one, two, three] = echoes();
    api.put("orders-1", one.port(), &[ready()]);
    api.put("orders-2", two.port(), &[ready()]);
    // The second page is forgotten before it is asked for.
    api.set_pages(1, true);
    let ambassador = start(&api, "");
    wait_members(&ambassador, &[&one, &two]);
    api.wait_watch(0);
    let lists = api.lists();
    assert_eq!(lists, 4, "a page, a lost one, and two: {:?}", api.requests());
    // And the version of the watch, after a change that nobody will tell any more.
    api.forget();
    let before = api.watches();
    api.end_watches();
    api.wait_watch(before);
    api.put("orders-3", three.port(), &[ready()]);
    wait_members(&ambassador, &[&one, &two, &three]);
    assert!(api.lists() > lists);
    assert!(!has_failed(&ambassador));
}

#[test]
fn a_token_is_read_again_when_it_is_refused() {
    let api = KubeApi::start();
    let [one, two] = echoes();
    api.put("orders-1", one.port(), &[ready()]);
    api.want_token("first");
    let secrets = Arc::new(Secrets::of("first"));
    let ambassador = start(&api, &format!(", token: {{ file: {} }}", secrets.path().display()));
    wait_members(&ambassador, &[&one]);
    api.wait_watch(0);
    // The server knows the new one only, and the file has it when the old one is refused.
    let file = Arc::clone(&secrets);
    api.want_token_and("second", move || file.write("second"));
    api.end_watches();
    api.wait_watch(1);
    assert!(!has_failed(&ambassador), "{:?}", ambassador.lines());
    api.put("orders-2", two.port(), &[ready()]);
    wait_members(&ambassador, &[&one, &two]);
    let refused: Vec<_> = api.requests().into_iter().filter(|one| one.status == 401).collect();
    assert_eq!((refused.len(), refused[0].token.as_deref()), (1, Some("first")));
    // One that stays wrong is an error.
    api.want_token("third");
    api.end_watches();
    wait_error(&ambassador, "the token is not accepted (HTTP 401: Unauthorized)");
    ambassador.connect().echo("the endpoints stay");
    secrets.write("third");
    api.wait_watch(2);
    api.delete("orders-1");
    wait_members(&ambassador, &[&two]);
    wait_well(&ambassador);
    let log = ambassador.lines().join("\n");
    assert!(!log.contains("second"), "no token is in the log");
}

#[test]
fn a_role_that_lacks_a_verb_is_told_in_words() {
    let api = KubeApi::start();
    let [one, two] = echoes();
    api.put("orders-1", one.port(), &[ready()]);
    api.want_token("token");
    api.deny(&["list", "watch"]);
    let secrets = Secrets::of("token");
    let ambassador = start(&api, &format!(", token: {{ file: {} }}", secrets.path().display()));
    wait_error(
        &ambassador,
        "the token may not list endpointslices in namespace shop (HTTP 403: endpointslices",
    );
    wait_error(
        &ambassador,
        "it needs a Role with the verbs list and watch for endpointslices of discovery.k8s.io",
    );
    api.deny(&["watch"]);
    wait_members(&ambassador, &[&one]);
    wait_error(&ambassador, "the token may not watch endpointslices");
    let (refused, lists) = (api.requests().len(), api.lists());
    until("the watch was asked for again", || (api.requests().len() >= refused + 2).then_some(()));
    assert_eq!(api.lists(), lists, "it does not list for ever");
    api.deny(&[]);
    api.wait_watch(0);
    api.put("orders-2", two.port(), &[ready()]);
    wait_members(&ambassador, &[&one, &two]);
    wait_well(&ambassador);
    let nobody = start(&api, "");
    wait_error(&nobody, "it wants a token (HTTP 401: Unauthorized)");
}

#[test]
fn a_terminating_endpoint_takes_no_new_session_while_another_is_ready() {
    let api = KubeApi::start();
    let [one, two, three] = echoes();
    api.put("orders-1", one.port(), &[ready()]);
    let ambassador = start(&api, "");
    wait_members(&ambassador, &[&one]);
    let mut lasting = ambassador.connect();
    lasting.echo("before");
    api.wait_watch(0);
    // All end: they serve still, and kube-proxy uses them, too.
    api.put("orders-1", one.port(), &[pod(LOCAL, false, true)]);
    api.put("orders-3", three.port(), &[pod(LOCAL, false, true), pod("127.0.0.9", false, false)]);
    wait_members(&ambassador, &[&one, &three]);
    ambassador.connect().echo("the last resort");
    api.put("orders-2", two.port(), &[ready()]);
    wait_members(&ambassador, &[&two]);
    lasting.echo("after");
    let before = one.accepted() + three.accepted();
    for _ in 0..4 {
        ambassador.connect().echo("new");
    }
    assert_eq!((one.accepted() + three.accepted(), two.accepted()), (before, 4));
    let cluster = cluster(&ambassador);
    let mut states = cluster["endpoints"].as_array().expect("endpoints").iter().map(|one| &one["state"]);
    assert!(states.any(|state| state == "removed"), "its session is still shown: {cluster}");
}

#[test]
fn endpoints_hinted_for_our_zone_come_first() {
    let api = KubeApi::start();
    let [mut ours, theirs] = echoes();
    api.put("orders-1", ours.port(), &[pod_for(LOCAL, "a")]);
    api.put("orders-2", theirs.port(), &[pod_for(LOCAL, "b")]);
    let ambassador = start(&api, ", zone: a");
    wait_members(&ambassador, &[&ours, &theirs]);
    let priority = |upstream: &Upstream| member(&ambassador, upstream)["priority"].clone();
    assert_eq!([priority(&ours), priority(&theirs)], [0, 1]);
    for _ in 0..4 {
        ambassador.connect().echo("near");
    }
    assert_eq!(theirs.accepted(), 0);
    api.wait_watch(0);
    // A server without a hint: now none counts.
    api.put("orders-2", theirs.port(), &[ready()]);
    until("hints do not count any more", || (priority(&theirs) == 0).then_some(()));
    api.put("orders-2", theirs.port(), &[pod_for(LOCAL, "b")]);
    until("hints count again", || (priority(&theirs) == 1).then_some(()));
    // Ours dies: the others are better than none.
    ours.stop();
    ambassador.connect().echo("far");
}

#[test]
fn a_host_that_starts_while_the_api_server_is_down_serves_with_what_was_kept() {
    let mut api = KubeApi::start();
    let [one, two] = echoes();
    api.put("orders-1", one.port(), &[ready()]);
    let folder = KeepFolder::new();
    let config = |more: &str| folder.of(Config::app(&[&source(&api, more)], ""));
    let (same, other_port) = (config(""), config(", port: pg"));
    folder.fill(&same, &one);
    api.stop();
    let after = Ambassador::start(&same);
    wait_members(&after, &[&one]);
    after.connect().echo("kept");
    assert_eq!(cluster(&after)["discovery"][1]["kind"], "kept");
    // What was kept of another port is of no use.
    let other = Ambassador::start(&other_port);
    wait_error(&other, &api.url());
    assert_eq!(members(&other), [""; 0]);
    drop(other);
    let watches = api.watches();
    api.begin();
    wait_well(&after);
    api.wait_watch(watches);
    api.put("orders-2", two.port(), &[ready()]);
    wait_members(&after, &[&one, &two]);
    // And down again, while it runs.
    api.stop();
    wait_error(&after, &api.url());
    after.connect().echo("the endpoints stay");
    api.begin();
    wait_well(&after);
}

/// A service account as the kubelet mounts it: links, which are turned at once to a folder with the new token.
fn write_account(folder: &Path, version: &str, ca: &Path, token: &str) {
    let files = folder.join(format!("..{version}"));
    fs::create_dir_all(&files).expect("a folder");
    fs::copy(ca, files.join("ca.crt")).expect("a file");
    fs::write(files.join("token"), token).expect("a file");
    fs::write(files.join("namespace"), "shop").expect("a file");
    symlink(format!("..{version}"), folder.join("..data_tmp")).expect("a link");
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("a turned link");
    for name in ["ca.crt", "token", "namespace"] {
        // It is there already, the second time.
        let _ = symlink(format!("..data/{name}"), folder.join(name));
    }
}

#[test]
fn in_a_pod_the_service_account_is_all_that_is_needed() {
    let pki = Pki::new();
    let api = KubeApi::start_with(Some(ServerTls::new(&pki.server(&[LOCAL])).build()));
    let [one, two] = echoes();
    api.put("orders-1", one.port(), &[ready()]);
    api.want_token("first");
    let run = tempfile::tempdir().expect("a folder");
    let account = run.path().join("secrets/kubernetes.io/serviceaccount");
    write_account(&account, "2026_1", &pki.ca(), "first");
    let config = Config::app(&["{ kubernetes: { service: orders } }"], "");
    let in_pod = |config: &Config| {
        Ambassador::start_with(config, |command| {
            run_with_run_folder(command, run.path());
            command.env("KUBERNETES_SERVICE_HOST", LOCAL).env("KUBERNETES_SERVICE_PORT", api.port());
        })
    };
    let ambassador = in_pod(&config);
    wait_members(&ambassador, &[&one]);
    assert_eq!(origin(&ambassador)["name"], "shop/orders");
    // The kubelet renews the token.
    api.wait_watch(0);
    write_account(&account, "2026_2", &pki.ca(), "second");
    fs::remove_dir_all(account.join("..2026_1")).expect("the old folder");
    api.want_token("second");
    api.end_watches();
    api.wait_watch(1);
    api.put("orders-2", two.port(), &[ready()]);
    wait_members(&ambassador, &[&one, &two]);
    assert!(!has_failed(&ambassador), "{:?}", ambassador.lines());
    // A server that is named does not get the pod's token.
    let stranger = KubeApi::start();
    stranger.want_token("second");
    let named = in_pod(&Config::app(&[&source(&stranger, "")], ""));
    wait_error(&named, "it wants a token");
    assert!(stranger.requests().iter().all(|request| request.token.is_none()));
}

#[test]
fn an_api_server_is_verified_by_the_cas_that_are_named() {
    let (pki, strangers) = (Pki::new(), Pki::new());
    let api = KubeApi::start_with(Some(ServerTls::new(&pki.server(&[LOCAL])).build()));
    let [one] = echoes();
    api.put("orders-1", one.port(), &[ready()]);
    let verified = start(&api, &format!(", ca: {}", pki.ca().display()));
    wait_members(&verified, &[&one]);
    let unverified = start(&api, &format!(", ca: {}", strangers.ca().display()));
    wait_error(&unverified, "the TLS handshake failed");
    assert_eq!(members(&unverified), [""; 0]);
}

#[test]
fn mistakes_have_their_place_and_check_connect_tells_what_was_found() {
    let api = KubeApi::start();
    let [one] = echoes();
    api.put("orders-1", one.port(), &[ready()]);
    let check = |endpoints: &str, more: &[&str], host: &str| {
        check_with(endpoints, more, |command| {
            command.env("KUBERNETES_SERVICE_HOST", host).env("KUBERNETES_SERVICE_PORT", "443");
        })
    };
    let at = "address: \"https://k8s.test\"";
    for (endpoints, host, expected) in [
        ("{ kubernetes: {} }", "", "`service` is missing"),
        ("{ kubernetes: { service: orders } }", "", "`address` is missing: outside a pod"),
        ("{ kubernetes: { service: orders } }", "10.96.0.1", "serviceaccount/namespace cannot be read"),
        ("{ kubernetes: { service: orders } }", "a b", "are no host and port"),
        ("{ kubernetes: { service: orders, AT } }", "", "`namespace` is missing"),
        (
            "{ kubernetes: { service: Orders_1, namespace: shop, AT } }",
            "",
            "`Orders_1` is no name in Kubernetes",
        ),
        ("{ kubernetes: { service: orders, namespace: a/b, AT } }", "", "`a/b` is no name in Kubernetes"),
        (
            "{ kubernetes: { service: orders, namespace: shop, address: \"http://k8s.test\" } }",
            "",
            "has no TLS",
        ),
        (
            "{ kubernetes: { service: orders }, consul: { service: a } }",
            "",
            "`consul` and `kubernetes` do not go together",
        ),
    ] {
        let told = check(&endpoints.replace("AT", at), &[], host).must_exit(78);
        assert!(told.stderr.contains(expected), "{endpoints}: {}", told.stderr);
    }
    for more in ["", ", port: pg", ", port: 5432", ", zone: a"] {
        check(&format!("{{ kubernetes: {{ service: orders, namespace: shop, {at}{more} }} }}"), &[], "")
            .must_succeed();
    }
    let told = check(&source(&api, ""), &["--connect"], "").must_succeed();
    assert!(told.stdout.contains(&format!("clusters.up {}", one.address())), "{}", told.stdout);
    let told = check(&source(&api, ", port: metrics"), &["--connect"], "").must_exit(1);
    assert!(told.stdout.contains("no port is named metrics: the service has TCP port pg"), "{}", told.stdout);
}
