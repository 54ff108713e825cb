//! What an answer is made of: status, type, and the headers that keep it apart from other sites.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

pub(super) type HttpResponse = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";

/// Headers of every response for browsers: no sniffing of the type, no frames, no window shared with the page that
/// opened it, no use by other sites, no referrer.
const KEPT_APART: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
];

pub(super) fn json(body: &impl Serialize) -> HttpResponse {
    match serde_json::to_string_pretty(body) {
        Ok(body) => respond(StatusCode::OK, "application/json", body + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

pub(super) fn text(status: StatusCode, body: &str) -> HttpResponse {
    respond(status, TEXT, body.to_owned())
}

pub(super) fn respond(status: StatusCode, kind: &'static str, body: String) -> HttpResponse {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in KEPT_APART {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}
