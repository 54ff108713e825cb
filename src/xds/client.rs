//! The client's side of delta ADS: what is subscribed to, what has been accepted, and what is to be sent next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;

use super::load_assignment::{LoadAssignment, TYPE_URL};
use super::message::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status};
use super::wire;
use crate::escape::escaped;

/// A resource of which nothing has come for that long does not exist (xDS protocol, "Knowing When a Requested Resource Does Not Exist").
const MISSING_AFTER: Duration = Duration::from_secs(15);
/// `google.rpc.Code.INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;
/// Of the bad resources of a response so many are named, and so many characters of each reason.
const NAMED_MAX: usize = 16;
/// See [`NAMED_MAX`]. A reason may quote what came, at any length.
const REASON_MAX: usize = 300;
/// Replies that wait to be sent. A server that has more to answer than that does not read.
const REPLIES_MAX: usize = 256;
/// The most resources, names and errors of one response: empty ones take two bytes, and a hundred times as much when they are read.
const ITEMS_MAX: usize = 65_536;

/// A client of one control plane. It asks for endpoints (EDS) by name.
#[derive(Debug)]
pub(crate) struct XdsClient {
    node: Node,
    /// By name, what is wanted.
    wanted: BTreeMap<String, Wanted>,
    /// `None`: there is no stream.
    stream: Option<Stream>,
    changes: VecDeque<XdsChange>,
}

/// A resource that is wanted.
#[derive(Debug, Default)]
struct Wanted {
    /// The last good one, and its version.
    accepted: Option<(String, Arc<LoadAssignment>)>,
    /// When it counts as missing.
    due: Option<Instant>,
    /// Whether `due` is to be set, when it is known what time it is.
    is_awaited: bool,
}

/// What is to be sent on a stream.
#[derive(Debug, Default)]
struct Stream {
    /// Whether a request was sent: the first one says who we are.
    has_sent: bool,
    /// Whether a subscription was sent: the first one says what we have.
    has_subscribed: bool,
    /// What the control plane has been asked for, and not been told to stop.
    subscribed: BTreeSet<String>,
    subscribe: BTreeSet<String>,
    unsubscribe: BTreeSet<String>,
    /// One for each response.
    replies: VecDeque<Reply>,
}

/// An ACK, or a NACK with its reason.
#[derive(Debug)]
struct Reply {
    nonce: String,
    error: Option<String>,
}

/// What has become of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum XdsChange {
    /// It is this now.
    Accepted(String, Arc<LoadAssignment>),
    /// What came under its name is refused, for the reason in words; the one of before is still good.
    Rejected(String, String),
    /// The control plane has removed it.
    Removed(String),
    /// The control plane says nothing about it, so it does not exist.
    Missing(String),
    /// The control plane has an error for it, in words.
    Failed(String, String),
}

impl XdsChange {
    fn name(&self) -> &str {
        match self {
            Self::Accepted(name, _)
            | Self::Rejected(name, _)
            | Self::Removed(name)
            | Self::Missing(name)
            | Self::Failed(name, _) => name,
        }
    }
}

impl XdsClient {
    pub(crate) const fn new(node: Node) -> Self {
        Self { node, wanted: BTreeMap::new(), stream: None, changes: VecDeque::new() }
    }

    /// Wants the endpoints of that name.
    pub(crate) fn subscribe(&mut self, name: &str) {
        let wanted = self.wanted.entry(name.to_owned()).or_default();
        let Some(stream) = &mut self.stream else { return };
        if stream.unsubscribe.remove(name) {
            // The control plane was not told to stop. What came meanwhile is still good; if nothing did, it may be missing.
            wanted.is_awaited = wanted.accepted.is_none();
            let known = wanted.accepted.as_ref().map(|(_, assignment)| Arc::clone(assignment));
            self.changes.extend(known.map(|assignment| XdsChange::Accepted(name.to_owned(), assignment)));
        } else {
            stream.subscribe.insert(name.to_owned());
        }
    }

    /// Does not want them any more.
    pub(crate) fn unsubscribe(&mut self, name: &str) {
        match &mut self.stream {
            Some(stream) if stream.subscribed.contains(name) => {
                stream.unsubscribe.insert(name.to_owned());
            }
            Some(stream) => {
                stream.subscribe.remove(name);
                self.wanted.remove(name);
            }
            None => drop(self.wanted.remove(name)),
        }
    }

    pub(crate) fn is_subscribed(&self, name: &str) -> bool {
        self.wanted.contains_key(name)
            && self.stream.as_ref().is_none_or(|stream| !stream.unsubscribe.contains(name))
    }

    /// A stream has begun.
    pub(crate) fn opened(&mut self) {
        self.stream = Some(Stream { subscribe: self.wanted.keys().cloned().collect(), ..Stream::default() });
    }

    /// The stream is over. What was accepted stays so.
    pub(crate) fn closed(&mut self) {
        let unsubscribed = self.stream.take().map(|stream| stream.unsubscribe).unwrap_or_default();
        self.wanted.retain(|name, _| !unsubscribed.contains(name));
        self.wanted.values_mut().for_each(|wanted| wanted.due = None);
    }

    /// The next request to send, a DeltaDiscoveryRequest.
    pub(crate) fn request(&mut self, now: Instant) -> Option<Vec<u8>> {
        let stream = self.stream.as_mut()?;
        for wanted in self.wanted.values_mut().filter(|wanted| wanted.is_awaited) {
            (wanted.is_awaited, wanted.due) = (false, Some(now + MISSING_AFTER));
        }
        // Apart from subscriptions: a server may drop a request whose nonce is not its latest any more.
        let request = if let Some(Reply { nonce, error }) = stream.replies.pop_front() {
            let error_detail = error.map(|message| Status { code: INVALID_ARGUMENT, message });
            DeltaDiscoveryRequest { response_nonce: nonce, error_detail, ..Default::default() }
        } else if stream.subscribe.is_empty() && stream.unsubscribe.is_empty() {
            return None;
        } else {
            let subscribe = std::mem::take(&mut stream.subscribe);
            let unsubscribe = std::mem::take(&mut stream.unsubscribe);
            stream.subscribed.retain(|name| !unsubscribe.contains(name));
            self.wanted.retain(|name, _| !unsubscribe.contains(name));
            self.changes.retain(|change| !unsubscribe.contains(change.name()));
            stream.subscribed.extend(subscribe.iter().cloned());
            let mut initial_resource_versions = BTreeMap::new();
            for name in &subscribe {
                let Some(wanted) = self.wanted.get_mut(name) else { continue };
                match &wanted.accepted {
                    None => wanted.due = Some(now + MISSING_AFTER),
                    Some((version, _)) if !stream.has_subscribed => {
                        initial_resource_versions.insert(name.clone(), version.clone());
                    }
                    Some(_) => {}
                }
            }
            stream.has_subscribed = true;
            DeltaDiscoveryRequest {
                resource_names_subscribe: subscribe.into_iter().collect(),
                resource_names_unsubscribe: unsubscribe.into_iter().collect(),
                initial_resource_versions,
                ..Default::default()
            }
        };
        let node = (!std::mem::replace(&mut stream.has_sent, true)).then(|| self.node.clone());
        Some(DeltaDiscoveryRequest { node, type_url: TYPE_URL.into(), ..request }.encode_to_vec())
    }

    /// Takes a response, a DeltaDiscoveryResponse. One of another type is left without a reply, which would be the first request of that
    /// type, and without names one for everything.
    ///
    /// # Errors
    /// The stream has to be ended: the response cannot be read, or the server does not read ours.
    pub(crate) fn take(&mut self, response: &[u8]) -> Result<(), String> {
        let items = wire::fields(response).filter(|field| matches!(field.tag, 2 | 6 | 8 | 9)).count();
        if items > ITEMS_MAX {
            return Err(format!("an answer has {items} resources, and {ITEMS_MAX} are the most"));
        }
        let response = DeltaDiscoveryResponse::decode(response)
            .map_err(|error| format!("an answer is no DeltaDiscoveryResponse: {error}"))?;
        if response.type_url != TYPE_URL {
            return Ok(());
        }
        let complaints = self.take_resources(&response);
        let error = (!complaints.is_empty()).then(|| joined(&complaints));
        if let Some(stream) = &mut self.stream {
            if stream.replies.len() >= REPLIES_MAX {
                return Err(format!("it does not read what it is answered: {REPLIES_MAX} replies wait"));
            }
            stream.replies.push_back(Reply { nonce: response.nonce, error });
        }
        Ok(())
    }

    /// Returns what is wrong with some.
    fn take_resources(&mut self, response: &DeltaDiscoveryResponse) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut count = BTreeMap::<&str, usize>::new();
        response.resources.iter().for_each(|one| *count.entry(name_of(one)).or_default() += 1);
        for resource in &response.resources {
            let name = name_of(resource);
            // Nobody wants it any more. And one without a body says that the one of before still holds.
            let (Some(wanted), Some(body)) = (self.wanted.get_mut(name), &resource.resource) else {
                continue;
            };
            let read = match count.get(name) {
                Some(1) => LoadAssignment::read(name, body),
                _ => Err("it is in the response twice".into()),
            };
            wanted.due = None;
            self.changes.push_back(match read {
                Ok(assignment) => {
                    let assignment = Arc::new(assignment);
                    wanted.accepted = Some((resource.version.clone(), Arc::clone(&assignment)));
                    XdsChange::Accepted(name.into(), assignment)
                }
                Err(reason) => {
                    let reason = shortened(&reason);
                    complaints.push(format!("{}: {reason}", escaped(name)));
                    XdsChange::Rejected(name.into(), reason)
                }
            });
        }
        let removed = response.removed_resource_names.iter().map(|one| &one.name);
        for name in response.removed_resources.iter().chain(removed) {
            if let Some(wanted) = self.wanted.get_mut(name) {
                *wanted = Wanted::default();
                self.changes.push_back(XdsChange::Removed(name.clone()));
            }
        }
        for error in &response.resource_errors {
            let name = error.resource_name.as_ref().map_or("", |one| one.name.as_str());
            if let Some(wanted) = self.wanted.get_mut(name) {
                wanted.due = None;
                let words = error.error_detail.as_ref().map_or("", |status| status.message.as_str());
                self.changes.push_back(XdsChange::Failed(name.into(), shortened(&escaped(words))));
            }
        }
        complaints
    }

    /// The next thing that has changed of what is wanted.
    pub(crate) fn change(&mut self) -> Option<XdsChange> {
        loop {
            let change = self.changes.pop_front()?;
            if self.is_subscribed(change.name()) {
                return Some(change);
            }
        }
    }

    /// When [`Self::tick`] has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.wanted.values().filter_map(|wanted| wanted.due).min()
    }

    /// Finds out what does not exist.
    pub(crate) fn tick(&mut self, now: Instant) {
        for (name, wanted) in &mut self.wanted {
            if wanted.due.is_some_and(|due| due <= now) {
                wanted.due = None;
                self.changes.push_back(XdsChange::Missing(name.clone()));
            }
        }
    }
}

fn name_of(resource: &Resource) -> &str {
    match (&*resource.name, &resource.resource_name) {
        ("", Some(name)) => &name.name,
        (name, _) => name,
    }
}

fn shortened(reason: &str) -> String {
    reason.chars().take(REASON_MAX).collect()
}

/// The complaints as the control plane's operator gets to see them.
fn joined(complaints: &[String]) -> String {
    let shown = complaints.iter().take(NAMED_MAX);
    let mut shown: Vec<_> = shown.map(|one| shortened(one)).collect();
    if complaints.len() > NAMED_MAX {
        shown.push(format!("and {} more", complaints.len() - NAMED_MAX));
    }
    shown.join("; ")
}

#[cfg(test)]
pub(in crate::xds) mod tests;
