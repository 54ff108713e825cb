//! Where a cluster's endpoints come from.

use super::*;

#[test]
fn a_list_of_addresses_has_nothing_to_find_out() {
    let cluster = &accept(&with("", BIND, "endpoints: ['[fe80::1%lo]:1', 10.0.0.1:2]")).clusters[0];
    assert!(cluster.source.is_none());
    let at: Vec<_> = cluster.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
    assert_eq!(at, ["[fe80::1%lo]:1", "10.0.0.1:2"]);
}

#[test]
fn an_srv_record_may_name_servers_of_its_domain_only_where_its_answer_alone_names_them() {
    let service = |cluster: &str| {
        let text = with("", BIND, &format!("endpoints: {{ srv: _db._tcp.example.com }}\n{cluster}"));
        match &accept(&text).clusters[0].source {
            Some(Source::Service(service)) => (service.name.clone(), service.own_domain_only),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(service(""), ("_db._tcp.example.com".into(), false));
    assert!(service("tls: {}").1);
    assert!(!service("tls: { server_name: db.example.com }").1);
}

#[test]
fn an_endpoints_file_is_a_list_like_the_configurations_own() {
    let file = |cluster: &str| {
        let text = with("", BIND, &format!("endpoints: {{ file: endpoints/orders.yaml }}\n{cluster}"));
        let config = accept(&text);
        match &config.clusters[0].source {
            Some(Source::File(file)) => file.clone(),
            other => panic!("{other:?}"),
        }
    };
    let orders = file("");
    assert_eq!(orders.path, Path::new("/etc/ambassador/endpoints/orders.yaml"));
    let parse = |text: &str| {
        let targets = (orders.parse)(text.as_bytes())?;
        Ok::<_, String>(
            targets.iter().map(|target| (target.address.to_string(), target.weight)).collect::<Vec<_>>(),
        )
    };
    let yaml = "endpoints:\n  - 10.0.0.1:1\n  - { address: db:2, weight: 3 }\n";
    let json =
        "{\n\t\"endpoints\": [\n\t\t\"10.0.0.1:1\",\n\t\t{ \"address\": \"db:2\", \"weight\": 3 }\n\t]\n}\n";
    for text in [yaml, json] {
        assert_eq!(parse(text), Ok(vec![("10.0.0.1:1".into(), 1), ("db:2".into(), 3)]), "{text}");
    }
    assert_eq!(parse("endpoints: []"), Ok(Vec::new()), "a way to say that there is none");
    let at = "/etc/ambassador/endpoints/orders.yaml:";
    for (text, words) in [
        ("", "1:1: endpoints: `endpoints` is missing"),
        ("endpoints:\n  - 10.0.0.1", "2:5: endpoints[0]: the port is missing"),
        ("endpoints: [a:1, b, a:1]", "1:18: endpoints[1]: the port of `b` is missing"),
        ("endpoints: [a:1, 'b", "1:18: "),
        ("endpoints: [{ address: 'a:1', wieght: 1 }]", "did you mean `weight`?"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(at) && error.contains(words), "{text}: {error}");
        assert!(!error.contains('\n'), "one line in the log: {error}");
    }
    assert!((orders.parse)(b"endpoints:\n\xff").unwrap_err().contains("yaml:2: is not UTF-8"));
    let local = file("connect: { local_address: 10.0.0.9 }");
    assert!((local.parse)(b"endpoints: ['[fd00::1]:1']").unwrap_err().contains("one is IPv4, one IPv6"));
}

/// The environment's values were substituted into an endpoints file, so its author could read them in `/status`, in the
/// log and in DNS queries.
#[test]
fn an_endpoints_file_gets_nothing_of_the_environment() {
    let config = accept(&with("", BIND, "endpoints: { file: endpoints.yaml }"));
    let Some(Source::File(file)) = &config.clusters[0].source else { panic!("a file") };
    for text in [
        "endpoints: ['${CARGO_PKG_NAME}:1']",
        "endpoints: [{ address: '${CARGO_PKG_NAME}/:1' }]",
        "endpoints: ['a$$b:1']",
    ] {
        let error = (file.parse)(text.as_bytes()).unwrap_err();
        assert!(
            error.contains("is not substituted in this file") && !error.contains("`ambassador"),
            "{error}"
        );
    }
}

#[test]
fn a_control_plane_that_nobody_asks_is_a_warning() {
    let top = "xds: { servers: \"http://127.0.0.1:18000\" }";
    let unused = accept(&with(top, BIND, ENDPOINTS)).warnings;
    assert!(
        unused.iter().any(|one| one.contains("xds: no cluster has its endpoints from there")),
        "{unused:?}"
    );
    assert_eq!(accept(&with(top, BIND, "endpoints: { xds: {} }")).warnings, [""; 0]);
}

#[test]
fn a_secret_that_is_not_there_yet_is_a_warning() {
    let source = "endpoints: { consul: { service: a, token: { file: /nowhere/token } } }";
    let warnings = accept(&with("", BIND, source)).warnings;
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(
        warning.contains("clusters.up.endpoints.consul.token.file: cannot read /nowhere/token"),
        "{warning}"
    );
    assert!(warning.ends_with("it is read again for each request"), "{warning}");
}
