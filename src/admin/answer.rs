//! One request, one answer. Reads only.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::page::{PAGE, policy};
use super::status::{Phase, Sessions, Status};
use super::{Door, Subject};
use crate::clock;

/// The answers' body.
pub(super) type Answer = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";

pub(super) fn answer<B>(subject: &Subject, door: Door, request: &Request<B>) -> Answer {
    if door == Door::Address && !host_is_an_address(request) {
        return text(
            StatusCode::FORBIDDEN,
            "the Host header is neither an IP address nor localhost: refused, so that a web page cannot read \
             this by DNS rebinding\n",
        );
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, ONLY_READS);
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/" => page(),
        "/metrics" => metrics(subject),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => readyz(subject, request.uri().query()),
        "/status" => json(&Status::of(subject)),
        "/sessions" => json(&Sessions::of(subject)),
        "/history" => json(&subject.history.until(subject.started, clock::now(), subject.totals())),
        _ => text(StatusCode::NOT_FOUND, INDEX),
    }
}

const ONLY_READS: &str =
    "only GET and HEAD; what changes something is asked for by POST on the control socket\n";
const INDEX: &str = "ambassador: /metrics /healthz /readyz[?cluster=NAME] /status /sessions /history\n";

fn page() -> Answer {
    let mut answer = respond(StatusCode::OK, "text/html; charset=utf-8", PAGE.to_owned());
    let policy = hyper::header::HeaderValue::from_static(policy());
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    answer
}

fn metrics(subject: &Subject) -> Answer {
    subject.scene.get().routes().for_each(|route| route.publish_bytes());
    respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", subject.exposition.render())
}

/// Ready means that every listener is bound and none is about to go. Asked about one cluster, it also means
/// that the cluster exists.
fn readyz(subject: &Subject, query: Option<&str>) -> Answer {
    let reason = match subject.phase.get() {
        Phase::Ready => None,
        Phase::LameDuck => Some("lame duck: about to stop accepting"),
        Phase::Draining => Some("draining: no longer accepting"),
    };
    if let Some(reason) = reason {
        return text(StatusCode::SERVICE_UNAVAILABLE, &format!("{reason}\n"));
    }
    let cluster = query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("cluster=")));
    let scene = subject.scene.get();
    let exists = |name: &str| {
        let mut clusters = scene.listeners.iter().flat_map(|listener| listener.route.clusters());
        clusters.any(|cluster| cluster.settings().name.as_str() == name)
    };
    match cluster {
        Some(name) if !exists(name) => {
            text(StatusCode::NOT_FOUND, "no listener leads to a cluster of that name\n")
        }
        _ => text(StatusCode::OK, "ready\n"),
    }
}

/// `127.0.0.1:9901`, `[::1]:9901`, `localhost:9901`, each with or without the port.
fn host_is_an_address<B>(request: &Request<B>) -> bool {
    let Some(host) = request.headers().get(HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

pub(super) fn json(body: &impl Serialize) -> Answer {
    match serde_json::to_string_pretty(body) {
        Ok(body) => respond(StatusCode::OK, "application/json", body + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

pub(super) fn text(status: StatusCode, body: &str) -> Answer {
    respond(status, TEXT, body.to_owned())
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", hyper::header::HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_pass_the_host_check() {
        for (host, expected) in [
            (Some("127.0.0.1:9901"), true),
            (Some("127.0.0.1"), true),
            (Some("[::1]:9901"), true),
            (Some("LocalHost:1"), true),
            (Some("evil.example:9901"), false),
            (Some("127.0.0.1.evil.example"), false),
            (Some("localhost.evil.example"), false),
            (Some(""), false),
            (None, false),
        ] {
            let mut request = Request::new(());
            if let Some(host) = host {
                request.headers_mut().insert(HOST, host.parse().unwrap());
            }
            assert_eq!(host_is_an_address(&request), expected, "{host:?}");
        }
    }
}
