//! Answers one request; read-only.

use std::sync::Arc;

use hyper::header::{ACCEPT, ACCEPT_ENCODING, ALLOW, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, StatusCode};

use super::AdminState;
use super::page::{PAGE, policy};
use super::reports::Report;
use super::response::{HttpResponse, json, respond, text};
use super::status::{LogLevel, Phase};
use crate::clock;
use crate::metrics::prefers_openmetrics;

/// The answer to one request.
pub(super) async fn answer<B>(admin_state: &Arc<AdminState>, request: &Request<B>) -> HttpResponse {
    let is_gzipped = accepts_gzip(request.headers());
    match request.uri().path() {
        _ if !matches!(*request.method(), Method::GET | Method::HEAD) => not_allowed(),
        "/" => page(),
        "/metrics" => {
            let is_openmetrics = prefers_openmetrics(&listed(request.headers(), &ACCEPT));
            // HEAD shows nobody any values.
            let is_scrape = *request.method() == Method::GET;
            admin_state.exposition.wait_settled().await;
            let report = Report::Metrics { is_openmetrics, is_scrape };
            admin_state.reports.write(admin_state, report, is_gzipped).await
        }
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => readyz(admin_state, request.uri().query()),
        "/status" => admin_state.reports.write(admin_state, Report::Status, is_gzipped).await,
        "/sessions" => admin_state.reports.write(admin_state, Report::Sessions, is_gzipped).await,
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

fn page() -> HttpResponse {
    let mut answer = respond(StatusCode::OK, "text/html; charset=utf-8", PAGE.to_owned());
    let policy = HeaderValue::from_static(policy());
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    answer
}

fn not_allowed() -> HttpResponse {
    let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, ONLY_READS);
    refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    refused
}

/// A header that is a list, which may be in several lines (RFC 9110 §5.3).
fn listed(headers: &HeaderMap, name: &HeaderName) -> String {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.collect::<Vec<_>>().join(",")
}

/// Whether gzip is acceptable (RFC 9110 §12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    listed(headers, &ACCEPT_ENCODING).split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f32>);
        is_gzip && quality.is_ok_and(|quality| quality > 0.0)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_to_whoever_takes_it() {
        for (accepted, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("br,gzip ; q=1", true),
            ("", false),
            ("identity", false),
            ("gzip;q=0", false),
            ("gzip;q=x", false),
            ("x-gzip-not", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(ACCEPT_ENCODING, accepted.parse().expect("a header's value"));
            assert_eq!(accepts_gzip(&headers), expected, "{accepted}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
