//! The protocol step by step, and [`XdsClient`] against a model of a control plane.

use super::*;
use crate::clock;
use crate::xds::message::{
    Address, Any, ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, ResourceError,
    ResourceName, SocketAddress,
};

fn node() -> Node {
    Node { id: "host-1".into(), ..Node::default() }
}

/// A resource with one endpoint, at that port; 0 is no port, so that it is refused.
pub(in crate::xds) fn resource(name: &str, version: &str, port: u16) -> Resource {
    let socket_address =
        SocketAddress { address: "10.0.0.1".into(), port_value: port.into(), ..SocketAddress::default() };
    let address = Address { socket_address: Some(socket_address), ..Address::default() };
    let endpoint =
        LbEndpoint { endpoint: Some(Endpoint { address: Some(address) }), ..LbEndpoint::default() };
    let locality = LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..LocalityLbEndpoints::default() };
    let assignment =
        ClusterLoadAssignment { cluster_name: name.into(), endpoints: vec![locality], policy: None };
    let body = Any { type_url: TYPE_URL.into(), value: assignment.encode_to_vec() };
    Resource { name: name.into(), version: version.into(), resource: Some(body), resource_name: None }
}

pub(in crate::xds) fn response(nonce: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse { nonce: nonce.into(), resources, type_url: TYPE_URL.into(), ..Default::default() }
}

fn ask(client: &mut XdsClient) -> Option<DeltaDiscoveryRequest> {
    client.request(clock::now()).map(|bytes| DeltaDiscoveryRequest::decode(&bytes[..]).unwrap())
}

fn answer(client: &mut XdsClient, response: &DeltaDiscoveryResponse) {
    client.take(&response.encode_to_vec()).unwrap();
}

fn changes(client: &mut XdsClient) -> Vec<String> {
    let changes = std::iter::from_fn(|| client.change());
    let shown = changes.map(|change| match change {
        XdsChange::Accepted(name, assignment) => format!("{name} {}", assignment.endpoints[0].port),
        XdsChange::Rejected(name, reason) => format!("{name} rejected: {reason}"),
        XdsChange::Removed(name) => format!("{name} removed"),
        XdsChange::Missing(name) => format!("{name} missing"),
        XdsChange::Failed(name, words) => format!("{name} failed: {words}"),
    });
    shown.collect()
}

/// A client of `names`, on a stream whose first request was sent.
fn subscribed(names: &[&str]) -> XdsClient {
    let mut client = XdsClient::new(node());
    names.iter().for_each(|name| client.subscribe(name));
    client.opened();
    assert_eq!(ask(&mut client).unwrap().resource_names_subscribe, names);
    client
}

#[test]
fn the_first_request_says_who_asks_and_each_response_has_one_reply() {
    let mut client = XdsClient::new(node());
    client.opened();
    assert_eq!(ask(&mut client), None, "an empty subscription would be one to everything");
    client.subscribe("orders");
    let first = ask(&mut client).unwrap();
    assert_eq!(first.node, Some(node()));
    assert_eq!((first.type_url.as_str(), first.response_nonce.as_str()), (TYPE_URL, ""));
    assert_eq!(
        (first.resource_names_subscribe, first.initial_resource_versions.len()),
        (vec!["orders".into()], 0)
    );
    assert_eq!(ask(&mut client), None);
    answer(&mut client, &response("n1", vec![resource("orders", "1", 5432)]));
    // An empty one has a reply, too.
    answer(&mut client, &response("n2", vec![]));
    client.subscribe("invoices");
    for nonce in ["n1", "n2"] {
        let ack = ask(&mut client).unwrap();
        let expected = DeltaDiscoveryRequest {
            type_url: TYPE_URL.into(),
            response_nonce: nonce.into(),
            ..Default::default()
        };
        assert_eq!(ack, expected, "no node, and no subscription that a stale nonce would lose");
    }
    let second = ask(&mut client).unwrap();
    assert_eq!((second.node, second.resource_names_subscribe), (None, vec!["invoices".into()]));
    assert_eq!(changes(&mut client), ["orders 5432"]);
}

#[test]
fn what_is_good_is_kept_and_what_is_bad_is_named() {
    let mut client = subscribed(&["bad", "good", "twice"]);
    let resources = ["good", "bad", "twice", "twice", "unasked"]
        .map(|name| resource(name, "1", if name == "bad" { 0 } else { 7 }));
    answer(&mut client, &response("n1", resources.to_vec()));
    let nack = ask(&mut client).unwrap();
    let error = nack.error_detail.unwrap();
    assert_eq!((nack.response_nonce.as_str(), error.code), ("n1", INVALID_ARGUMENT));
    assert!(
        error.message.starts_with("bad: endpoint 10.0.0.1: 0 is no port; twice: it is in"),
        "{}",
        error.message
    );
    assert_eq!(changes(&mut client)[..2], ["good 7", "bad rejected: endpoint 10.0.0.1: 0 is no port"]);
    let other = DeltaDiscoveryResponse { type_url: "type.googleapis.com/x".into(), ..response("n2", vec![]) };
    answer(&mut client, &other);
    assert_eq!(ask(&mut client), None, "a request of that type without names would be one for everything");
    assert!(client.take(b"\xff").is_err());
}

#[test]
fn a_new_stream_tells_what_was_accepted_and_not_what_was_rejected() {
    let mut client = subscribed(&["orders", "rejected", "worse"]);
    let resources = vec![resource("orders", "1", 1), resource("rejected", "1", 0), resource("worse", "1", 1)];
    answer(&mut client, &response("n1", resources));
    answer(&mut client, &response("n2", vec![resource("worse", "2", 0)]));
    client.closed();
    assert_eq!(ask(&mut client), None, "the replies die with their stream");
    client.opened();
    let again = ask(&mut client).unwrap();
    assert_eq!(again.node, Some(node()));
    let expected = [("orders", "1"), ("worse", "1")].map(|(name, version)| (name.into(), version.into()));
    assert_eq!(again.initial_resource_versions, expected.into());
    client.subscribe("late");
    assert_eq!(
        ask(&mut client).unwrap().initial_resource_versions.len(),
        0,
        "the first request alone has them"
    );
}

#[test]
fn what_is_removed_failed_or_never_comes_is_told() {
    let mut client = subscribed(&["a", "b", "c", "d"]);
    let begun = client.due().unwrap() - MISSING_AFTER;
    client.tick(begun + MISSING_AFTER / 2);
    answer(&mut client, &response("n1", vec![resource("a", "1", 1)]));
    let name = |name: &str| ResourceName { name: name.into() };
    let failed = ResourceError {
        resource_name: Some(name("c")),
        error_detail: Some(Status { code: 7, message: "not yours".into() }),
    };
    let removing = DeltaDiscoveryResponse {
        removed_resources: vec!["a".into(), "unasked".into()],
        removed_resource_names: vec![name("b")],
        resource_errors: vec![failed],
        ..response("n2", vec![])
    };
    answer(&mut client, &removing);
    assert_eq!(changes(&mut client), ["a 1", "a removed", "b removed", "c failed: not yours"]);
    client.tick(begun + MISSING_AFTER * 2);
    assert_eq!((changes(&mut client), client.due()), (vec!["d missing".to_owned()], None));
    // It may come later all the same.
    answer(&mut client, &response("n3", vec![resource("d", "1", 4)]));
    assert_eq!(changes(&mut client), ["d 4"]);
    client.closed();
    client.opened();
    let again = ask(&mut client).unwrap();
    assert_eq!(
        again.initial_resource_versions.keys().collect::<Vec<_>>(),
        ["d"],
        "what was removed is not there"
    );
    client.closed();
    assert_eq!(client.due(), None, "nobody could tell");
}

#[test]
fn an_unsubscription_is_sent_once_and_a_new_subscription_gets_the_resource_again() {
    let mut client = subscribed(&["a", "b"]);
    answer(&mut client, &response("n1", vec![resource("a", "1", 1), resource("b", "1", 2)]));
    ask(&mut client).unwrap();
    changes(&mut client);
    client.unsubscribe("a");
    client.subscribe("never sent");
    client.unsubscribe("never sent");
    let request = ask(&mut client).unwrap();
    assert_eq!(
        (request.resource_names_subscribe.len(), request.resource_names_unsubscribe),
        (0, vec!["a".into()])
    );
    answer(&mut client, &response("n2", vec![resource("a", "2", 9)]));
    assert_eq!(changes(&mut client), [""; 0], "it was under way");
    assert_eq!(ask(&mut client).unwrap().error_detail, None);
    // Changed one's mind before anything was sent: the server is still subscribed.
    client.unsubscribe("b");
    answer(&mut client, &response("n3", vec![resource("b", "2", 3)]));
    assert_eq!((changes(&mut client), client.is_subscribed("b")), (vec![], false));
    assert_eq!(ask(&mut client).unwrap().response_nonce, "n3");
    client.subscribe("b");
    assert_eq!((changes(&mut client), ask(&mut client)), (vec!["b 3".to_owned()], None));
    client.unsubscribe("b");
    client.subscribe("b");
    client.unsubscribe("b");
    assert_eq!(ask(&mut client).unwrap().resource_names_unsubscribe, ["b"]);
    client.subscribe("b");
    let again = ask(&mut client).unwrap();
    assert_eq!(
        (again.resource_names_subscribe, again.initial_resource_versions.len()),
        (vec!["b".into()], 0)
    );
    assert_eq!(changes(&mut client), [""; 0], "it has to come again");
    client.unsubscribe("b");
    client.closed();
    assert!(!client.is_subscribed("b"));
}

/// Whatever a control plane sends is taken, or ends the stream.
#[test]
fn bytes_that_are_damaged_anywhere_never_panic() {
    let mut rng = fastrand::Rng::with_seed(7);
    let whole = DeltaDiscoveryResponse {
        removed_resources: vec!["b".into()],
        ..response("n1", vec![resource("a", "1", 5432), resource("b", "2", 0)])
    };
    let whole = whole.encode_to_vec();
    for _ in 0..20_000 {
        let mut client = subscribed(&["a", "b"]);
        let mut damaged = whole[..rng.usize(..=whole.len())].to_vec();
        for _ in 0..rng.usize(..4) {
            if let Some(byte) = rng.choice(&mut damaged) {
                *byte = rng.u8(..);
            }
        }
        let most = usize::from(client.take(&damaged).is_ok());
        assert!(std::iter::from_fn(|| ask(&mut client)).count() <= most);
        changes_of_any_kind(&mut client);
    }
}

fn changes_of_any_kind(client: &mut XdsClient) {
    while client.change().is_some() {}
}

/// A server may send for ever without reading, and one message of little may be much when it is read.
#[test]
fn what_a_control_plane_sends_has_bounds() {
    let mut client = subscribed(&["a"]);
    for number in 0..REPLIES_MAX {
        answer(&mut client, &response(&number.to_string(), vec![]));
    }
    let error = client.take(&response("more", vec![]).encode_to_vec()).unwrap_err();
    assert!(error.contains("does not read what it is answered"), "{error}");
    assert_eq!(std::iter::from_fn(|| ask(&mut client)).count(), REPLIES_MAX);
    let many = DeltaDiscoveryResponse {
        removed_resources: vec![String::new(); ITEMS_MAX / 2],
        ..response("n", vec![Resource::default(); ITEMS_MAX / 2 + 1])
    };
    let error = client.take(&many.encode_to_vec()).unwrap_err();
    assert!(error.starts_with("an answer has 65537 resources"), "{error}");
    let long = "x".repeat(1_000_000);
    let mut odd = resource("a", "1", 1);
    odd.resource.as_mut().unwrap().type_url.clone_from(&long);
    answer(&mut client, &response("n", vec![odd]));
    let Some(XdsChange::Rejected(_, reason)) = client.change() else { panic!("it is refused") };
    assert_eq!(reason.len(), REASON_MAX);
}

/// What was not known before is missing 15 s after it was wanted again, though nothing is sent.
#[test]
fn a_subscription_that_was_never_taken_back_ends_as_missing_too() {
    let mut client = subscribed(&["a"]);
    let begun = client.due().unwrap() - MISSING_AFTER;
    client.tick(begun + MISSING_AFTER);
    assert_eq!(changes(&mut client), ["a missing"]);
    client.unsubscribe("a");
    client.subscribe("a");
    assert_eq!((ask(&mut client), client.due().is_some()), (None, true));
    client.tick(client.due().unwrap());
    assert_eq!(changes(&mut client), ["a missing"]);
}
