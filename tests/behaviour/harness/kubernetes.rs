//! A Kubernetes API server, as far as EndpointSlices go: lists in pages, watches, bookmarks, forgotten versions, tokens and roles.
//!
//! No real one was to be had: what it answers has the shape of recorded answers and of the API's documentation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::{Conn, Upstream, until};

const PATH: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dorders";

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct KubeRequest {
    /// Of its query, without the selector.
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) token: Option<String>,
    pub(crate) status: u16,
}

impl KubeRequest {
    pub(crate) fn is_watch(&self) -> bool {
        self.query.contains_key("watch")
    }
}

pub(crate) struct KubeApi {
    upstream: Option<Upstream>,
    address: String,
    tls: Option<Arc<ServerConfig>>,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// Of the last change in the whole cluster.
    version: u64,
    /// What lies before is forgotten.
    oldest: u64,
    slices: BTreeMap<String, Value>,
    /// What a list in pages goes on with.
    lists: BTreeMap<u64, Vec<Value>>,
    events: Vec<(u64, &'static str, Value)>,
    /// Items in a page, where the client asks for more.
    page: usize,
    forgets_pages: bool,
    token: Option<String>,
    /// Done before the next token is refused.
    before_refusal: Option<Box<dyn FnOnce() + Send>>,
    denied: BTreeSet<&'static str>,
    requests: Vec<KubeRequest>,
    orders: Orders,
}

/// What watches are told to do, each counted.
#[derive(Debug, Clone, Copy, Default)]
struct Orders {
    bookmarks: u64,
    cuts: u64,
    ends: u64,
}

impl KubeApi {
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    pub(crate) fn start_with(tls: Option<Arc<ServerConfig>>) -> Self {
        let state = State { version: 100, page: 1000, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: watch::channel(()).0 });
        let mut api = Self { upstream: None, address: "127.0.0.1:0".into(), tls, shared };
        api.begin();
        api
    }

    /// Starts it again, where it was.
    pub(crate) fn begin(&mut self) {
        let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
        let upstream = Upstream::plain_at(&self.address, move |conn| {
            let (shared, tls) = (Arc::clone(&shared), tls.clone());
            async move {
                let conn = match tls {
                    Some(tls) => conn.start_tls(tls).await,
                    None => Some(conn),
                };
                if let Some(conn) = conn {
                    // The client may leave at any time.
                    let _ = serve(conn, &shared).await;
                }
            }
        });
        self.address = upstream.address();
        self.upstream = Some(upstream);
    }

    /// Kills it.
    pub(crate) fn stop(&mut self) {
        self.upstream = None;
    }

    pub(crate) fn url(&self) -> String {
        format!("http{}://{}", if self.tls.is_some() { "s" } else { "" }, self.address)
    }

    pub(crate) fn port(&self) -> &str {
        self.address.rsplit(':').next().expect("a port")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("a state nobody poisoned")
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.shared.changed.send_replace(());
        changed
    }

    /// Adds a slice of the service, or replaces it.
    pub(crate) fn put(&self, name: &str, port: u16, endpoints: &[Value]) {
        self.change(|state| {
            state.version += 1;
            let slice = slice(name, state.version, port, endpoints);
            let before = state.slices.insert(name.to_owned(), slice.clone());
            let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
            state.events.push((state.version, kind, slice));
        });
    }

    pub(crate) fn delete(&self, name: &str) {
        self.change(|state| {
            state.version += 1;
            let mut slice = state.slices.remove(name).expect("a slice of that name");
            slice["metadata"]["resourceVersion"] = json!(state.version.to_string());
            state.events.push((state.version, "DELETED", slice));
        });
    }

    /// Something else in the cluster changes, and watches are told the version. Returns it.
    pub(crate) fn bookmark(&self) -> String {
        self.change(|state| {
            state.version += 1;
            state.orders.bookmarks += 1;
            state.version.to_string()
        })
    }

    /// Ends the watches, as at their timeout.
    pub(crate) fn end_watches(&self) {
        self.change(|state| state.orders.ends += 1);
    }

    /// Cuts the watches' connections in the middle of a line.
    pub(crate) fn cut_watches(&self) {
        self.change(|state| state.orders.cuts += 1);
    }

    /// Forgets every version before now, as etcd when it is compacted.
    pub(crate) fn forget(&self) {
        self.change(|state| {
            state.version += 1;
            state.oldest = state.version;
            state.lists.clear();
        });
    }

    /// Pages have that many items; the next further page is forgotten before it is asked for.
    pub(crate) fn set_pages(&self, items: usize, forgets_next: bool) {
        self.change(|state| (state.page, state.forgets_pages) = (items, forgets_next));
    }

    /// Wants that token from now on.
    pub(crate) fn want_token(&self, token: &str) {
        self.change(|state| state.token = Some(token.to_owned()));
    }

    /// The same, and does that before it refuses the next one.
    pub(crate) fn want_token_and(&self, token: &str, act: impl FnOnce() + Send + 'static) {
        self.change(|state| {
            state.token = Some(token.to_owned());
            state.before_refusal = Some(Box::new(act));
        });
    }

    /// The verbs that the role does not have.
    pub(crate) fn deny(&self, verbs: &[&'static str]) {
        self.change(|state| state.denied = verbs.iter().copied().collect());
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<KubeRequest> {
        self.state().requests.clone()
    }

    pub(crate) fn lists(&self) -> usize {
        self.requests().iter().filter(|request| !request.is_watch()).count()
    }

    /// Waits for the next watch that is let in after those `before`, and returns the version that it goes on from.
    #[track_caller]
    pub(crate) fn wait_watch(&self, before: usize) -> String {
        until("a watch began", || {
            let watches =
                self.requests().into_iter().filter(|request| request.is_watch() && request.status == 200);
            watches.skip(before).last().map(|request| request.query["resourceVersion"].clone())
        })
    }

    pub(crate) fn watches(&self) -> usize {
        self.requests().iter().filter(|request| request.is_watch() && request.status == 200).count()
    }
}

/// As EndpointSlice's controller makes it.
fn slice(name: &str, version: u64, port: u16, endpoints: &[Value]) -> Value {
    json!({
        "metadata": {
            "name": name, "generateName": "orders-", "namespace": "shop", "uid": "19c23c9e-58c6-4676-ab46-ce85c96ce2d9",
            "resourceVersion": version.to_string(), "generation": 1, "creationTimestamp": "2026-11-06T08:58:24Z",
            "labels": { "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": "orders" },
            "annotations": { "endpoints.kubernetes.io/last-change-trigger-time": "2026-11-06T08:58:42Z" },
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Service", "name": "orders",
                "uid": "28540fa8-22cc-4f07-8393-81bacc1ee305", "controller": true, "blockOwnerDeletion": true }],
            "managedFields": [{ "manager": "kube-controller-manager", "operation": "Update",
                "apiVersion": "discovery.k8s.io/v1", "time": "2026-11-06T08:58:42Z", "fieldsType": "FieldsV1",
                "fieldsV1": { "f:addressType": {}, "f:endpoints": {}, "f:ports": {} } }],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": "pg", "protocol": "TCP", "port": port }],
    })
}

/// An endpoint of a slice.
pub(crate) fn pod(address: &str, ready: bool, terminating: bool) -> Value {
    json!({
        "addresses": [address],
        "conditions": { "ready": ready, "serving": true, "terminating": terminating },
        "targetRef": { "kind": "Pod", "namespace": "shop", "name": "orders-56c4d977d8-zxknh",
            "uid": "4d8cffb5-5c4c-4604-9395-b4efe905ddf0" },
        "nodeName": "node-1", "zone": "a",
    })
}

/// The same, ready and hinted for a zone.
pub(crate) fn pod_for(address: &str, zone: &str) -> Value {
    let mut pod = pod(address, true, false);
    pod["hints"] = json!({ "forZones": [{ "name": zone }] });
    pod
}

async fn serve(mut conn: Conn, shared: &Shared) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(conn.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default();
    let bearer = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("authorization: bearer ").map(|_| line));
    let token = bearer.map(|line| line["authorization: bearer ".len()..].to_owned());
    let query: BTreeMap<_, _> = target
        .strip_prefix(PATH)
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        })
        .collect();
    let (status, body) = {
        let mut state = shared.state.lock().expect("a state nobody poisoned");
        let (status, body) = state.answer(target, &query, token.as_deref());
        state.requests.push(KubeRequest { query: query.clone(), token, status });
        (status, body)
    };
    let Some(body) = body else { return watch_for(conn, shared, &query).await };
    let answer = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    conn.write_all(answer.as_bytes()).await?;
    conn.shutdown().await
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "code": code })
}

impl State {
    /// `None` for the body: a watch begins.
    fn answer(
        &mut self,
        target: &str,
        query: &BTreeMap<String, String>,
        token: Option<&str>,
    ) -> (u16, Option<String>) {
        let verb = if query.contains_key("watch") { "watch" } else { "list" };
        if token != self.token.as_deref() {
            if let Some(act) = self.before_refusal.take() {
                act();
            }
            return (401, Some(status(401, "Unauthorized", "Unauthorized").to_string()));
        }
        if !target.starts_with(PATH) {
            return (404, Some("404 page not found\n".into()));
        }
        if self.denied.contains(verb) {
            let message = format!(
                "endpointslices.discovery.k8s.io is forbidden: User \"system:serviceaccount:shop:ambassador\" cannot {verb} resource \
                 \"endpointslices\" in API group \"discovery.k8s.io\" in the namespace \"shop\""
            );
            return (403, Some(status(403, "Forbidden", &message).to_string()));
        }
        if verb == "watch" {
            return (200, None);
        }
        self.list(query)
    }

    fn list(&mut self, query: &BTreeMap<String, String>) -> (u16, Option<String>) {
        let limit =
            query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX).min(self.page);
        let (version, from) = match query.get("continue").and_then(|name| name.split_once('.')) {
            Some((version, from)) => (version.parse().expect("ours"), from.parse().expect("ours")),
            None => {
                self.lists.insert(self.version, self.slices.values().cloned().collect());
                (self.version, 0)
            }
        };
        let is_forgotten = from > 0 && std::mem::take(&mut self.forgets_pages);
        let Some(items) = self.lists.get(&version).filter(|_| !is_forgotten) else {
            let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list \
                           without the continue parameter, or use the continue token in this response to retrieve the remainder \
                           of the results.";
            let mut gone = status(410, "Expired", message);
            gone["metadata"] = json!({ "continue": "inconsistent" });
            return (410, Some(gone.to_string()));
        };
        let page: Vec<_> = items.iter().skip(from).take(limit).collect();
        let mut metadata = json!({ "resourceVersion": version.to_string() });
        let rest = items.len() - (from + page.len());
        if rest > 0 {
            metadata["continue"] = json!(format!("{version}.{}", from + page.len()));
            metadata["remainingItemCount"] = json!(rest);
        }
        let list = json!({ "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": metadata, "items": page });
        (200, Some(list.to_string()))
    }

    /// What happened after that version.
    fn events_after(&self, seen: u64) -> Vec<(u64, String)> {
        let new = self.events.iter().filter(|(version, ..)| *version > seen);
        let lines = new.map(|(version, kind, slice)| {
            let mut object = slice.clone();
            (object["kind"], object["apiVersion"]) = (json!("EndpointSlice"), json!("discovery.k8s.io/v1"));
            (*version, json!({ "type": kind, "object": object }).to_string())
        });
        lines.collect()
    }
}

async fn watch_for(mut conn: Conn, shared: &Shared, query: &BTreeMap<String, String>) -> std::io::Result<()> {
    let mut changed = shared.changed.subscribe();
    let number = |name: &str| query.get(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    let mut seen = number("resourceVersion");
    let end = tokio::time::sleep(Duration::from_secs(number("timeoutSeconds")));
    tokio::pin!(end);
    let (oldest, begun) = {
        let state = shared.state.lock().expect("a state nobody poisoned");
        (state.oldest, state.orders)
    };
    let mut bookmarks = begun.bookmarks;
    conn.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .await?;
    if seen < oldest {
        let gone = status(410, "Expired", &format!("too old resource version: {seen} ({oldest})"));
        write_line(&mut conn, &json!({ "type": "ERROR", "object": gone }).to_string()).await?;
        return conn.write_all(b"0\r\n\r\n").await;
    }
    loop {
        let (lines, orders, version) = {
            let state = shared.state.lock().expect("a state nobody poisoned");
            (state.events_after(seen), state.orders, state.version)
        };
        if orders.cuts > begun.cuts {
            let line = lines
                .first()
                .map_or_else(|| "{\"type\":\"ADDED\",\"obj".to_owned(), |(_, line)| line.clone());
            let chunk = format!("{:x}\r\n{}", line.len() + 1, &line[..line.len() / 2]);
            conn.write_all(chunk.as_bytes()).await?;
            return conn.flush().await;
        }
        for (version, line) in lines {
            write_line(&mut conn, &line).await?;
            seen = version;
        }
        if orders.bookmarks > bookmarks {
            bookmarks = orders.bookmarks;
            // As servers write an object that has nothing else.
            let object = json!({ "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
                "metadata": { "resourceVersion": version.to_string(), "creationTimestamp": null },
                "addressType": "", "endpoints": null, "ports": null });
            write_line(&mut conn, &json!({ "type": "BOOKMARK", "object": object }).to_string()).await?;
            seen = version;
        }
        if orders.ends > begun.ends {
            return conn.write_all(b"0\r\n\r\n").await;
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = &mut end => return conn.write_all(b"0\r\n\r\n").await,
            _ = conn.read_u8() => return Ok(()),
        }
    }
}

async fn write_line(conn: &mut Conn, line: &str) -> std::io::Result<()> {
    // In two chunks: lines are none.
    let (first, second) = line.split_at(line.len() / 2);
    conn.write_all(format!("{:x}\r\n{first}\r\n", first.len()).as_bytes()).await?;
    conn.flush().await?;
    conn.write_all(format!("{:x}\r\n{second}\n\r\n", second.len() + 1).as_bytes()).await?;
    conn.flush().await
}
