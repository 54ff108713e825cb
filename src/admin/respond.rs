//! Answers one request; read-only.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::AdminState;
use super::page::{PAGE, policy};
use super::status::{LogLevel, Phase, SessionList, Status};
use crate::clock;
use crate::metrics::{self, OPENMETRICS, openmetrics, prefers_openmetrics};

pub(super) type HttpResponse = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";

pub(super) fn handle<B>(admin_state: &AdminState, request: &Request<B>) -> HttpResponse {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, ONLY_READS);
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/" => page(),
        "/metrics" => metrics(admin_state, request),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => readyz(admin_state, request.uri().query()),
        "/status" => json(&Status::of(admin_state)),
        "/sessions" => json(&SessionList::of(admin_state)),
        "/log" => json(&LogLevel::of(&admin_state.log, None)),
        "/history" => {
            json(&admin_state.history.until(admin_state.started, clock::now(), admin_state.counters()))
        }
        _ => text(StatusCode::NOT_FOUND, INDEX),
    }
}

const ONLY_READS: &str =
    "only GET and HEAD; what changes something is asked for by POST on the control socket\n";
const INDEX: &str = "ambassador: /metrics /healthz /readyz[?cluster=NAME] /status /sessions /log /history\n";

/// Headers of every response for browsers: no sniffing of the type, no frames, no window shared with the page that
/// opened it, no use by other sites, no referrer.
const KEPT_APART: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
];

fn page() -> HttpResponse {
    let mut answer = respond(StatusCode::OK, "text/html; charset=utf-8", PAGE.to_owned());
    let policy = hyper::header::HeaderValue::from_static(policy());
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    answer
}

fn metrics<B>(admin_state: &AdminState, request: &Request<B>) -> HttpResponse {
    let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let text = admin_state.metrics().render();
    if prefers_openmetrics(&accepted.collect::<Vec<_>>().join(",")) {
        return respond(StatusCode::OK, OPENMETRICS, openmetrics(&text));
    }
    respond(StatusCode::OK, metrics::TEXT, text)
}

/// Ready means that every listener is bound and the daemon is not shutting down. With a cluster in the query, it also
/// means that the cluster exists.
fn readyz(admin_state: &AdminState, query: Option<&str>) -> HttpResponse {
    let reason = match admin_state.phase.get() {
        Phase::Ready => None,
        Phase::LameDuck => Some("lame duck: about to stop accepting"),
        Phase::Draining => Some("draining: no longer accepting"),
    };
    if let Some(reason) = reason {
        return text(StatusCode::SERVICE_UNAVAILABLE, &format!("{reason}\n"));
    }
    let cluster = query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("cluster=")));
    let view = admin_state.view.get();
    let exists = |name: &str| {
        let mut clusters = view.listeners.iter().flat_map(|listener| listener.route.clusters());
        clusters.any(|cluster| cluster.settings().name.as_str() == name)
    };
    match cluster {
        Some(name) if !exists(name) => {
            text(StatusCode::NOT_FOUND, "no listener leads to a cluster of that name\n")
        }
        _ => text(StatusCode::OK, "ready\n"),
    }
}

pub(super) fn json(body: &impl Serialize) -> HttpResponse {
    match serde_json::to_string_pretty(body) {
        Ok(body) => respond(StatusCode::OK, "application/json", body + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

pub(super) fn text(status: StatusCode, body: &str) -> HttpResponse {
    respond(status, TEXT, body.to_owned())
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> HttpResponse {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    for (name, value) in KEPT_APART {
        headers.insert(name, hyper::header::HeaderValue::from_static(value));
    }
    answer
}
