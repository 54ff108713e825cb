//! Consul's catalog: the instances of a service that are healthy, followed by blocking queries of its HTTP API.
//!
//! `/v1/health/service/NAME` waits until something has changed, and names the state that it answers for by an index, which the next
//! request sends along. The index of a restarted or restored server may go back, and then the query begins anew; 0 is no index
//! (Consul's documentation, "Blocking Queries"). The index also moves with changes of other services, so contents are compared.
//! Pure.

use std::fmt;
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::words;
use crate::cluster::{
    RemoteAnswer, RemoteProgress, RemoteQuery, RemoteReads, RemoteRequest, Target, ToTarget,
};
use crate::http::{HttpField, KEPT, percent_encoded};

/// How long a query may wait for a change. Consul adds up to a sixteenth, so that its clients do not all come back at once.
const WAIT: Duration = Duration::from_secs(300);
/// How long the agent may take for an answer that it need not wait for.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is asked for.
#[derive(Clone)]
pub(crate) struct ConsulSettings {
    /// The service's name.
    pub(crate) service: String,
    /// Tags that an instance must have, all of them.
    pub(crate) tags: Vec<String>,
    /// Another datacenter than the agent's.
    pub(crate) datacenter: Option<String>,
    /// Consul Enterprise: the namespace.
    pub(crate) namespace: Option<String>,
    /// Consul Enterprise: the admin partition.
    pub(crate) partition: Option<String>,
    /// Whether instances with a check that warns are used too, with their weight for that.
    pub(crate) includes_warning: bool,
    /// Whether any server may answer, also one that has lost the leader.
    pub(crate) is_stale: bool,
    /// Makes targets.
    pub(crate) to_target: ToTarget,
}

impl fmt::Debug for ConsulSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulSettings").field("service", &self.service).finish_non_exhaustive()
    }
}

/// The query, and where it is.
#[derive(Debug)]
pub(crate) struct ConsulQuery {
    settings: ConsulSettings,
    /// Of the last answer; `None`: the next request does not wait.
    index: Option<u64>,
    has_token: bool,
    /// The instances of the last answer, and what was wrong with others.
    said: Option<(Vec<Target>, Option<String>)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Service,
    #[serde(default)]
    checks: Option<Vec<Check>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    node: String,
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: i64,
    #[serde(default)]
    weights: Option<Weights>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    #[serde(default = "one")]
    passing: i64,
    #[serde(default = "one")]
    warning: i64,
}

/// Consul's default.
const fn one() -> i64 {
    1
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(default)]
    status: String,
}

impl ConsulSettings {
    /// The service, and what chooses among its instances: another choice has other endpoints.
    pub(crate) fn describe(&self) -> String {
        let Self { service, tags, datacenter, namespace, partition, includes_warning, .. } = self;
        let named = [("datacenter", datacenter), ("namespace", namespace), ("partition", partition)];
        let named = named.into_iter().filter_map(|(what, name)| Some(format!("{what} {}", name.as_ref()?)));
        let tags = (!tags.is_empty()).then(|| format!("tags {}", tags.join(" ")));
        let choice: Vec<_> =
            named.chain(tags).chain(includes_warning.then(|| "also with warnings".into())).collect();
        if choice.is_empty() { service.clone() } else { format!("{service} ({})", choice.join(", ")) }
    }
}

impl ConsulQuery {
    pub(crate) const fn new(settings: ConsulSettings) -> Self {
        Self { settings, index: None, has_token: false, said: None }
    }

    /// The instances that may be used, by node and id, as Consul's order is none; and what is wrong with the first of those that cannot be.
    fn targets(&self, body: &[u8]) -> Result<(Vec<Target>, Option<String>), String> {
        let entries: Vec<serde_json::Value> = serde_json::from_slice(body)
            .map_err(|error| format!("the answer is no list of services: {error}"))?;
        let (mut read, mut complaints) = (Vec::with_capacity(entries.len()), Vec::new());
        for entry in entries {
            match Entry::deserialize(&entry) {
                Ok(entry) => read.push(entry),
                Err(error) => complaints.push(format!("{} makes no sense: {error}", called(&entry))),
            }
        }
        read.sort_by(|one, other| {
            (&one.node.node, &one.service.id).cmp(&(&other.node.node, &other.service.id))
        });
        let mut targets = Vec::with_capacity(read.len());
        for (entry, weight) in read.iter().filter_map(|entry| Some((entry, self.weight(entry)?))) {
            match self.target(entry, weight) {
                Ok(target) => targets.push(target),
                Err(complaint) => complaints.push(complaint),
            }
        }
        Ok((targets, words::first_and_count(&complaints)))
    }

    /// `None`: it is not to be used.
    fn weight(&self, entry: &Entry) -> Option<u32> {
        let is = |status: &str| entry.checks.iter().flatten().any(|check| check.status == status);
        let weights = entry.service.weights.as_ref();
        let weight = match (is("critical"), is("warning")) {
            (true, _) => return None,
            (false, true) if !self.settings.includes_warning => return None,
            (false, true) => weights.map_or(1, |weights| weights.warning),
            (false, false) => weights.map_or(1, |weights| weights.passing),
        };
        u32::try_from(weight.min(65_535)).ok().filter(|weight| *weight > 0)
    }

    fn target(&self, Entry { node, service, .. }: &Entry, weight: u32) -> Result<Target, String> {
        let of = |reason: &str| format!("{}: {reason}", instance(&service.id, &node.node));
        let port = match service.port {
            0 => return Err(of("it is registered without a port")),
            port => u16::try_from(port).map_err(|_| of(&format!("{port} is no port")))?,
        };
        let host = if service.address.is_empty() { &node.address } else { &service.address };
        (self.settings.to_target)(host, port, weight).map_err(|reason| of(&reason))
    }

    /// Why an answer is no list, in words.
    fn refusal(&self, status: u16, body: &[u8]) -> String {
        let said = words::and_says(&String::from_utf8_lossy(body));
        match status {
            401 | 403 if self.has_token => format!(
                "the token may not read it (HTTP {status}{said}); it needs service:read and node:read"
            ),
            401 | 403 => format!("it wants a token (HTTP {status}{said})"),
            404 => "there is no Consul at that address (HTTP 404)".into(),
            _ => format!("HTTP {status}{said}"),
        }
    }
}

impl RemoteQuery for ConsulQuery {
    fn request(&mut self, token: Option<&str>) -> RemoteRequest {
        let encoded = |text: &str| percent_encoded(text, KEPT).to_string();
        let ConsulSettings {
            service,
            tags,
            datacenter,
            namespace,
            partition,
            includes_warning,
            is_stale,
            ..
        } = &self.settings;
        let mut target = format!("/v1/health/service/{}?", encoded(service));
        let mut add = |name: &str, value: Option<&str>| {
            if !target.ends_with('?') {
                target.push('&');
            }
            target.push_str(name);
            if let Some(value) = value {
                target.push('=');
                target.push_str(&encoded(value));
            }
        };
        // Without it Consul also sends those that are critical.
        if !includes_warning {
            add("passing", None);
        }
        if *is_stale {
            add("stale", None);
        }
        tags.iter().for_each(|tag| add("tag", Some(tag)));
        for (name, value) in [("dc", datacenter), ("ns", namespace), ("partition", partition)] {
            if let Some(value) = value {
                add(name, Some(value));
            }
        }
        if let Some(index) = self.index {
            add("index", Some(&index.to_string()));
            add("wait", Some(&format!("{}s", WAIT.as_secs())));
        }
        self.has_token = token.is_some();
        let token = token.map(|token| {
            HttpField(HeaderName::from_static("x-consul-token"), Zeroizing::new(token.to_owned()))
        });
        let patience = if self.index.is_some() { WAIT + WAIT / 16 + PATIENCE } else { PATIENCE };
        RemoteRequest::get(target, token, RemoteReads::Whole, patience)
    }

    fn take(&mut self, answer: &RemoteAnswer<'_>) -> Result<RemoteProgress, String> {
        if answer.status != 200 {
            return Err(self.refusal(answer.status, answer.body));
        }
        let index = field(answer.headers, "x-consul-index").and_then(|index| index.parse::<u64>().ok());
        let index = index.ok_or("the answer has no X-Consul-Index: that is no Consul")?;
        let (targets, complaint) = self.targets(answer.body)?;
        if targets.is_empty() {
            if let Some(complaint) = complaint {
                return Err(complaint);
            }
            if field(answer.headers, "x-consul-results-filtered-by-acls") == Some("true") {
                let token = if self.has_token { "the token" } else { "a token, which is missing," };
                return Err(format!("its ACLs hide the instances: {token} needs service:read and node:read"));
            }
            // A server that has just begun knows nothing yet.
            if field(answer.headers, "x-consul-knownleader") == Some("false") {
                return Err("it knows no instance, and has no leader that would".into());
            }
        }
        self.index = if self.index.is_some_and(|before| index < before) { None } else { Some(index.max(1)) };
        let said = (targets, complaint);
        if self.said.as_ref() == Some(&said) {
            return Ok(RemoteProgress::Unchanged);
        }
        let (targets, complaint) = self.said.insert(said).clone();
        Ok(RemoteProgress::known(targets, complaint))
    }

    fn reset(&mut self) {
        (self.index, self.said) = (None, None);
    }
}

fn instance(id: &str, node: &str) -> String {
    format!("service {} of node {}", words::shown(id), words::shown(node))
}

/// What an entry is called that cannot be read as a whole.
fn called(entry: &serde_json::Value) -> String {
    let text = |part: &str, field: &str| entry[part][field].as_str().unwrap_or_default();
    instance(text("Service", "ID"), text("Node", "Node"))
}

fn field<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests;
