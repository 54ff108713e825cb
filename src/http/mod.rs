//! HTTP requests of our own, to token endpoints and to what endpoints are discovered from: one request, one connection.
//!
//! Over hyper, with TLS verified as that to servers is. Everything that a request could do beside the point is absent by
//! construction: no redirect is followed, no proxy of the environment is used, nothing is kept between requests. No error
//! shows what was sent or received.

mod encoding;
mod exchange;
mod grpc;
pub(crate) mod moment;
mod url;

use std::fmt;
use std::time::Duration;

use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, RETRY_AFTER};
use zeroize::Zeroizing;

pub(crate) use encoding::{KEPT, form, percent_encoded};
pub(crate) use exchange::{ConnectTerms, HttpResponse, open};
pub(crate) use grpc::{GrpcSender, GrpcStream};
pub(crate) use url::{HttpUrl, PlainHttp};

use crate::tls::{self, CredentialFiles, HttpVersion, Roots};
use crate::{alarm, clock, workers};

/// For the whole of a request: names, connection, TLS, answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// The longest body of an answer, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// A request.
#[derive(Debug)]
pub(crate) struct HttpRequest<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a HttpUrl,
    pub(crate) headers: Vec<HttpField>,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// A header field; its `Debug` shows the name alone.
pub(crate) struct HttpField(pub(crate) HeaderName, pub(crate) Zeroizing<String>);

impl fmt::Debug for HttpField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpField").field(&self.0).finish_non_exhaustive()
    }
}

/// The value of `Authorization` with that token (RFC 6750 §2.1).
pub(crate) fn bearer(token: &str) -> Zeroizing<String> {
    // With its final capacity: a string that grows leaves a copy behind.
    let mut value = Zeroizing::new(String::with_capacity("Bearer ".len() + token.len()));
    value.push_str("Bearer ");
    value.push_str(token);
    value
}

/// An answer that is no redirect.
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    /// For how long the server wants no further request.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// RFC 9110 §10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => moment::of_http(text)?.duration_since(clock::wall()).ok(),
    }
}

impl fmt::Debug for HttpAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpAnswer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// The CAs cannot be used.
    #[error(transparent)]
    Setup(#[from] tls::SetupError),
    /// Something of this host.
    #[error("{0} cannot be asked: {1}")]
    Local(String, String),
    /// A step failed.
    #[error("{url}: {step} failed: {reason}")]
    Step {
        /// Where.
        url: String,
        step: &'static str,
        reason: String,
    },
    /// Nothing came in time.
    #[error("{url}: no answer within {after:?} ({step})")]
    TimedOut { url: String, step: &'static str, after: Duration },
    /// The server sends us elsewhere, and secrets do not go elsewhere.
    #[error(
        "{0} answers by a redirect (HTTP {1}), which is not followed: the configuration must have the final URL"
    )]
    Redirect(String, u16),
    /// The server has ended a stream with an error of gRPC, in words.
    #[error("{0}: {1}")]
    Status(String, String),
    /// The answer exceeds the limit.
    #[error("{0} answers with more than {1} bytes")]
    TooLong(String, usize),
}

/// Sends the request and waits for the answer. Not to be called on a thread with a runtime.
///
/// # Errors
/// See [`HttpError`].
pub(crate) fn send(request: HttpRequest<'_>, roots: &Roots) -> Result<HttpAnswer, HttpError> {
    let url = request.url;
    let local = |error: std::io::Error| HttpError::Local(url.to_string(), error.to_string());
    let tls = url
        .is_tls()
        .then(|| tls::https_config(roots.clone(), HttpVersion::Http1, &CredentialFiles::default()))
        .transpose()?;
    let runtime = workers::runtime().map_err(local)?;
    let until = clock::now() + DEADLINE;
    let answering = Box::pin(async {
        let addresses = look_up(url).await?;
        let mut answer = open(request, ConnectTerms { addresses: &addresses, tls, until }, until).await?;
        let mut body = Zeroizing::new(Vec::with_capacity(ANSWER_MAX));
        answer.read_into(&mut body).await?;
        let retry_after = retry_after(&answer.headers);
        Ok(HttpAnswer { status: answer.status, retry_after, body })
    });
    let answered = runtime.block_on(alarm::drive(alarm::timeout_at(until, answering)));
    // A question to the resolver may hang.
    runtime.shutdown_background();
    match answered.map_err(local)? {
        Ok(answer) => answer,
        Err(alarm::Elapsed) => {
            let step = "looking the name up, or reading the answer";
            Err(HttpError::TimedOut { url: url.to_string(), step, after: DEADLINE })
        }
    }
}

async fn look_up(url: &HttpUrl) -> Result<Vec<std::net::SocketAddr>, HttpError> {
    if let Some(addresses) = url.addresses() {
        return Ok(addresses);
    }
    let found = tokio::net::lookup_host(url.host()).await.map_err(|error| HttpError::Step {
        url: url.to_string(),
        step: "looking the name up",
        reason: error.to_string(),
    })?;
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use hyper::header::HeaderValue;

    use super::*;

    /// What a server answers to one request, and the request that it got.
    fn ask(answer: &'static [u8]) -> (Result<HttpAnswer, HttpError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let text = format!("http://{}/token?x=1", listener.local_addr().unwrap());
        let serving = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut portion = [0; 1024];
            while !request.ends_with(b"secret=hunter2") {
                let count = socket.read(&mut portion).unwrap();
                assert_ne!(count, 0, "{}", String::from_utf8_lossy(&request));
                request.extend_from_slice(&portion[..count]);
            }
            let _ = socket.write_all(answer);
            String::from_utf8(request).unwrap()
        });
        let url = HttpUrl::parse(&text, PlainHttp::Local).unwrap();
        let answered = send(
            HttpRequest {
                method: Method::POST,
                url: &url,
                headers: vec![HttpField(hyper::header::ACCEPT, Zeroizing::new("application/json".into()))],
                body: Zeroizing::new(b"secret=hunter2".to_vec()),
            },
            &Roots::WebPki,
        );
        (answered, serving.join().unwrap())
    }

    #[test]
    fn one_request_has_one_answer() {
        let (answered, request) = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        let answer = answered.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"{}"[..]));
        let lower = request.to_lowercase();
        assert!(lower.starts_with("post /token?x=1 http/1.1\r\n"), "{request}");
        for field in ["host: 127.0.0.1:", "accept: application/json", "content-length: 14"] {
            assert_eq!(lower.matches(field).count(), 1, "{field} in {request}");
        }
        let (chunked, _) =
            ask(b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n");
        assert_eq!(
            chunked.map(|answer| (answer.status, answer.body.to_vec())).unwrap(),
            (400, b"{}".to_vec())
        );
    }

    #[test]
    fn a_server_says_when_to_ask_again() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            retry_after(&headers).map(|after| after.as_secs())
        };
        for (text, expected) in [
            ("7", Some(7)),
            ("0", Some(0)),
            ("-1", None),
            ("soon", None),
            ("99999999999999999999999", None),
            ("Wed, 21 Oct 2015 07:28:00 GMT", None),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        assert!(read("Fri, 31 Dec 2100 23:59:59 GMT").is_some_and(|after| after > 86_400));
        let (answered, _) = ask(b"HTTP/1.1 429 Slow down\r\nRetry-After: 30\r\nContent-Length: 2\r\n\r\n{}");
        assert_eq!(answered.unwrap().retry_after, Some(Duration::from_secs(30)));
    }

    #[test]
    fn what_is_no_answer_is_an_error_that_shows_nothing_that_was_sent() {
        let long: &'static [u8] = Box::leak(
            [b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n".to_vec(), vec![b' '; 70000]]
                .concat()
                .into_boxed_slice(),
        );
        let endless: &'static [u8] =
            Box::leak([b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 200_000]].concat().into_boxed_slice());
        let chunk = [&b"400\r\n"[..], &[b' '; 1024], b"\r\n"].concat();
        let chunks: &'static [u8] = Box::leak(
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), chunk.repeat(70)]
                .concat()
                .into_boxed_slice(),
        );
        let before: &'static [u8] =
            Box::leak(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000).into_boxed_slice());
        for (answer, expected) in [
            (before, "waiting for the answer failed"),
            (&b"HTTP/1.1 302 Found\r\nLocation: https://evil.test/\r\n\r\n"[..], "redirect (HTTP 302)"),
            (b"HTTP/1.1 307 There\r\nLocation: /other\r\n\r\n", "redirect (HTTP 307)"),
            (long, "more than 65536 bytes"),
            (endless, "waiting for the answer failed"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", "waiting for the answer failed"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "waiting for the answer failed"),
            (b"", "waiting for the answer failed"),
            (chunks, "more than 65536 bytes"),
        ] {
            let error = ask(answer).0.unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("/token"), "{expected}: {error}");
            assert!(!error.contains("hunter2") && !error.contains("x=1"), "{error}");
        }
    }
}
