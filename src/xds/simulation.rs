//! [`XdsClient`] beside a model of a control plane that changes its mind, sends half of what it has, sends bad resources, and loses its
//! streams or its memory. Whatever happens, in the end both have the same. The seed replays.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;
use prost::Message as _;

use super::client::tests::{resource, response};
use super::client::{XdsChange, XdsClient};
use super::message::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use crate::clock;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Default)]
struct Model {
    /// Version and port; port 0 is refused.
    resources: BTreeMap<&'static str, (u32, u16)>,
    changes: u32,
    /// What the client is known to have, by the names that it has subscribed to.
    subscribed: BTreeMap<String, Option<String>>,
    /// Names that it has subscribed to a moment ago: it hears of them even if they do not exist.
    fresh: BTreeSet<String>,
    requests: VecDeque<Vec<u8>>,
    responses: VecDeque<DeltaDiscoveryResponse>,
    /// Nonces without a reply, and whether that may be a NACK.
    open: VecDeque<(String, bool)>,
    nonces: u32,
    has_heard: bool,
}

impl Model {
    fn change(&mut self, rng: &mut Rng) {
        let name = NAMES[rng.usize(..NAMES.len())];
        self.changes += 1;
        if rng.u8(..4) == 0 {
            self.resources.remove(name);
        } else {
            let port = if rng.u8(..4) == 0 { 0 } else { rng.u16(1..) };
            self.resources.insert(name, (self.changes, port));
        }
    }

    fn hear(&mut self) {
        let Some(request) = self.requests.pop_front() else { return };
        let request = DeltaDiscoveryRequest::decode(&request[..]).unwrap();
        assert_eq!(request.node.is_some(), !self.has_heard, "the first request, and no other, says who asks");
        let is_first = !std::mem::replace(&mut self.has_heard, true);
        assert!(is_first || request.initial_resource_versions.is_empty());
        if !request.response_nonce.is_empty() {
            let (nonce, is_bad) = self.open.pop_front().expect("a response that had no reply");
            assert_eq!(request.response_nonce, nonce);
            // A bad one that is not wanted any more is no reason.
            assert!(is_bad || request.error_detail.is_none());
            assert!(
                request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty()
            );
            return;
        }
        for name in &request.resource_names_unsubscribe {
            assert!(self.subscribed.remove(name).is_some(), "{name} was never subscribed to");
        }
        for name in request.resource_names_subscribe {
            let version = request.initial_resource_versions.get(&name).cloned();
            assert!(!self.subscribed.contains_key(&name), "{name} was subscribed to");
            self.fresh.insert(name.clone());
            self.subscribed.insert(name, version);
        }
        assert!(!self.subscribed.is_empty() || !request.resource_names_unsubscribe.is_empty(), "no wildcard");
    }

    /// Sends what the client does not have, or a part of it.
    fn push(&mut self, rng: &mut Rng, is_whole: bool) {
        let (mut news, mut removed, mut is_bad) = (Vec::new(), Vec::new(), false);
        for (name, has) in &mut self.subscribed {
            if !is_whole && rng.bool() {
                continue;
            }
            match self.resources.get(name.as_str()) {
                Some((version, port)) if *has != Some(version.to_string()) => {
                    *has = Some(version.to_string());
                    is_bad |= *port == 0;
                    news.push(resource(name, &version.to_string(), *port));
                }
                None if has.is_some() || self.fresh.contains(name) => {
                    *has = None;
                    removed.push(name.clone());
                }
                Some(_) | None => {}
            }
        }
        self.fresh.retain(|name| !removed.contains(name) && news.iter().all(|one| one.name != *name));
        if news.is_empty() && removed.is_empty() {
            return;
        }
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        self.open.push_back((nonce.clone(), is_bad));
        self.responses
            .push_back(DeltaDiscoveryResponse { removed_resources: removed, ..response(&nonce, news) });
    }

    fn lose_stream(&mut self) {
        let (resources, changes) = (std::mem::take(&mut self.resources), self.changes);
        *self = Self { resources, changes, ..Self::default() };
    }
}

/// What a user of the client sees.
#[derive(Default)]
struct Seen {
    ports: BTreeMap<String, u16>,
    wanted: BTreeSet<&'static str>,
}

fn exchange(client: &mut XdsClient, model: &mut Model, seen: &mut Seen) {
    while let Some(request) = client.request(clock::now()) {
        model.requests.push_back(request);
    }
    if let Some(response) = model.responses.pop_front() {
        client.take(&response.encode_to_vec()).unwrap();
    }
    while let Some(change) = client.change() {
        match change {
            XdsChange::Accepted(name, assignment) => {
                assert!(seen.wanted.contains(name.as_str()));
                seen.ports.insert(name, assignment.endpoints[0].port);
            }
            XdsChange::Removed(name) => drop(seen.ports.remove(&name)),
            XdsChange::Rejected(..) | XdsChange::Missing(_) | XdsChange::Failed(..) => {}
        }
    }
}

fn run(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let mut client = XdsClient::new(Node::default());
    let (mut model, mut seen) = (Model::default(), Seen::default());
    client.opened();
    for _ in 0..rng.usize(50..300) {
        match rng.u8(..12) {
            0..=2 => model.change(&mut rng),
            3 => {
                let name = NAMES[rng.usize(..NAMES.len())];
                if seen.wanted.insert(name) {
                    client.subscribe(name);
                } else {
                    seen.wanted.remove(name);
                    seen.ports.remove(name);
                    client.unsubscribe(name);
                }
            }
            4 if rng.u8(..4) == 0 => {
                client.closed();
                model.lose_stream();
                client.opened();
            }
            4..=6 => model.hear(),
            7..=8 => model.push(&mut rng, false),
            _ => exchange(&mut client, &mut model, &mut seen),
        }
    }
    // What is refused for ever would leave the two apart.
    for (version, port) in model.resources.values_mut().filter(|(_, port)| *port == 0) {
        (*version, *port) = (*version + 1_000_000, 1);
    }
    for _ in 0..100 {
        exchange(&mut client, &mut model, &mut seen);
        model.hear();
        model.push(&mut rng, true);
    }
    assert!(model.open.is_empty(), "each response has its reply");
    let resources = model.resources.iter().filter(|(name, _)| seen.wanted.contains(*name));
    let expected: BTreeMap<_, _> = resources.map(|(name, (_, port))| ((*name).to_owned(), *port)).collect();
    assert_eq!(seen.ports, expected);
    let wanted: Vec<_> = seen.wanted.iter().map(|name| (*name).to_owned()).collect();
    assert!(wanted.iter().eq(model.subscribed.keys()));
}

#[test]
fn in_the_end_both_have_the_same_whatever_happened() {
    for seed in 0..2000 {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            panic!("seed {seed}");
        }
    }
}
