//! An identity from a SPIFFE Workload API: late, renewed, gone and back.

use std::path::PathBuf;

use crate::harness::workload::Workload;
use crate::harness::{Ambassador, Config, Pki, ServerTls, Upstream, ambassador, finish, roles, until};

const HERE: &str = "spiffe://example.com/ambassador";
const THERE: &str = "spiffe://example.com/orders-db";

struct Place {
    dir: tempfile::TempDir,
    pki: Pki,
    upstream: Upstream,
}

/// A server that demands a certificate of the trust domain, and has one itself.
fn place() -> Place {
    let pki = Pki::new();
    let server = pki.svid("server", THERE);
    let upstream = Upstream::tls(ServerTls::new(&server).clients_of(&pki).build(), roles::echo);
    Place { dir: tempfile::tempdir().expect("a temporary directory"), pki, upstream }
}

impl Place {
    fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// Without `cert`, `key` and `ca`: the agent has them all.
    fn config(&self) -> Config {
        let identities = format!("identities:\n  host: {{ spiffe: \"unix:{}\" }}", self.socket().display());
        let tls =
            format!("tls: {{ identity: host, allowed_uris: [\"{THERE}\"] }}\nconnect: {{ attempts: 1 }}");
        let config = Config::new().top(&identities).listener("app", "bind: 127.0.0.1:0\ncluster: up");
        config.cluster("up", &[&self.upstream.address()], &tls)
    }
}

fn wait_issued(ambassador: &Ambassador, count: f64) {
    until(format!("{count} certificates came from the agent"), || {
        let metrics = ambassador.metrics();
        (metrics.sum("credential_reloads_total", &[("kind", "identity"), ("result", "ok")]) >= count)
            .then_some(())
    });
}

#[test]
fn an_agent_that_is_not_there_yet_is_waited_for_while_the_cluster_refuses_in_words() {
    let place = place();
    let ambassador = Ambassador::start(&place.config());
    ambassador.connect().try_send("too early");
    let record = ambassador.record();
    assert_eq!(record["outcome"], "tls_failed", "{record}");
    let words = "identity host has no certificate yet: the SPIFFE agent at";
    assert!(record["error"].as_str().is_some_and(|error| error.starts_with(words)), "{record}");
    assert_eq!(place.upstream.accepted(), 0);
    // The agent runs, but denies the request.
    let agent = Workload::start(&place.socket());
    ambassador.wait_line("there is none yet: ");
    agent.issue(&place.pki.svid("first", HERE), HERE, &place.pki);
    wait_issued(&ambassador, 1.0);
    ambassador.connect().echo("secret");
    place.upstream.wait_note("cn=first");
    for role in ["client", "ca"] {
        let ends = ambassador.metrics().sum("certificate_expiry_timestamp_seconds", &[("role", role)]);
        assert!(ends > 1.7e9, "{role} ends at {ends}");
    }
}

#[test]
fn what_the_agent_renews_is_used_at_once_and_its_end_changes_nothing() {
    let place = place();
    let agent = Workload::start(&place.socket());
    agent.issue(&place.pki.svid("first", HERE), HERE, &place.pki);
    let ambassador = Ambassador::start(&place.config());
    wait_issued(&ambassador, 1.0);
    ambassador.connect().echo("as the first");
    agent.issue(&place.pki.svid("second", HERE), HERE, &place.pki);
    wait_issued(&ambassador, 2.0);
    ambassador.connect().echo("as the second");
    place.upstream.wait_note("cn=second");
    drop(agent);
    ambassador.connect().echo("still as the second");
    // It returns with a certificate, and another trust domain's key: our server is no longer trusted.
    let other = Pki::new();
    let agent = Workload::start(&place.socket());
    agent.issue(&place.pki.svid("third", HERE), HERE, &other);
    wait_issued(&ambassador, 3.0);
    ambassador.connect().try_send("to a stranger");
    let record = ambassador.record_of("tls_failed");
    assert!(record["error"].as_str().is_some_and(|error| error.contains("not signed by a CA")), "{record}");
}

/// The CAs of a trust domain count for its own names only: ours not for a partner's names, and a partner's not for
/// ours.
#[test]
fn a_federated_domain_is_trusted_for_its_own_names_where_the_file_names_them() {
    const ELSEWHERE: &str = "spiffe://partner.example/orders-db";
    let (ours, partner) = (Pki::new(), Pki::new());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("agent.sock");
    let agent = Workload::start(&socket);
    agent.issue_federated(&ours.svid("us", HERE), HERE, &ours, &[("spiffe://partner.example", &partner)]);
    let servers = [
        (ours.svid("ours", THERE), true),
        (partner.svid("partner", ELSEWHERE), true),
        (ours.svid("ours-as-partner", ELSEWHERE), false),
        (partner.svid("partner-as-ours", THERE), false),
        (partner.server_with_uris(&["127.0.0.1"], &[ELSEWHERE, THERE]), false),
    ];
    let upstreams: Vec<_> = servers
        .iter()
        .map(|(server, _)| Upstream::tls(ServerTls::new(server).clients_of(&ours).build(), roles::echo))
        .collect();
    let identities = format!("identities:\n  host: {{ spiffe: \"unix:{}\" }}", socket.display());
    let start = |uris: &str| {
        let tls = format!("tls: {{ identity: host, allowed_uris: [{uris}] }}\nconnect: {{ attempts: 1 }}");
        let mut config = Config::new().top(&identities);
        for (number, upstream) in upstreams.iter().enumerate() {
            let name = format!("s{number}");
            config = config.listener(&name, &format!("bind: 127.0.0.1:0\ncluster: {name}"));
            config = config.cluster(&name, &[&upstream.address()], &tls);
        }
        let ambassador = Ambassador::start(&config);
        wait_issued(&ambassador, 1.0);
        ambassador
    };
    let ambassador = start(&format!("\"{THERE}\", \"{ELSEWHERE}\""));
    for (number, (_, is_trusted)) in servers.iter().enumerate() {
        let name = format!("s{number}");
        let mut client = ambassador.connect_to(&name);
        if *is_trusted {
            client.echo("to whom we mean");
        } else {
            client.try_send("to somebody else");
            let of = |record: &serde_json::Value| record["listener"] == name.as_str();
            assert_eq!(ambassador.record_where(&name, of)["outcome"], "tls_failed");
        }
    }
    // Federated or not, a trust domain that the configuration does not name is not trusted.
    let ambassador = start(&format!("\"{THERE}\""));
    ambassador.connect_to("s0").echo("ours");
    ambassador.connect_to("s1").try_send("theirs");
    let record = ambassador.record_of("tls_failed");
    assert!(record["error"].as_str().is_some_and(|error| error.contains("partner.example")), "{record}");
}

#[test]
fn check_asks_the_agent_only_when_it_is_to_connect() {
    let place = place();
    let file = place.dir.path().join("listeners.yaml");
    std::fs::write(&file, place.config().render(place.dir.path())).expect("a file");
    let check = |more: &[&str]| finish(ambassador().args(["check", "--config"]).arg(&file).args(more));
    check(&[]).must_succeed();
    let refused = check(&["--connect"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stdout.contains("as host") && refused.stdout.contains("FAILED"), "{}", refused.stdout);
    let agent = Workload::start(&place.socket());
    agent.issue(&place.pki.svid("first", HERE), HERE, &place.pki);
    let fine = check(&["--connect"]);
    assert_eq!(fine.code, 0, "{}", fine.stdout);
}
