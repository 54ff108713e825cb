//! HTTP for sources of credentials: one request, one answer, blocking.
//!
//! Over hyper, with TLS verified as that to servers is. Everything that a request could do beside the point is absent by
//! construction: no redirect is followed, no proxy of the environment is used, nothing is kept between requests. No error
//! shows what was sent or received.

use std::cell::Cell;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::{FetchError, moment};
use crate::tls::{self, Roots};
use crate::{alarm, clock, workers};

/// For the whole of a request: names, connection, TLS, answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// An address may take this long to connect while there is another one.
const CONNECT: Duration = Duration::from_secs(3);
/// The longest body of an answer, in bytes; its head has the same limit.
const ANSWER_MAX: usize = 64 * 1024;

/// A URL that may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpUrl {
    is_tls: bool,
    /// An IPv6 address is without brackets.
    host: String,
    port: u16,
    /// Path and query.
    target: String,
}

/// Where HTTP without TLS is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlainHttp {
    /// Nowhere.
    Never,
    /// At addresses that no router forwards to, loopback and link-local ones; of names at `localhost` alone.
    Local,
}

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

/// An answer that is no redirect.
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    /// For how long the server wants no further request.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl HttpAnswer {
    /// An error by this answer.
    pub(super) fn failure(&self, reason: String) -> FetchError {
        FetchError { reason, retry_after: self.retry_after }
    }
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
    #[error("{url}: no answer within {DEADLINE:?} ({step})")]
    TimedOut { url: String, step: &'static str },
    /// The server sends us elsewhere, and secrets do not go elsewhere.
    #[error(
        "{0} answers by a redirect (HTTP {1}), which is not followed: the configuration must have the final URL"
    )]
    Redirect(String, u16),
    /// The answer exceeds the limit.
    #[error("{0} answers with more than {max} bytes", max = ANSWER_MAX)]
    TooLong(String),
}

impl HttpUrl {
    /// Reads an absolute URL.
    ///
    /// # Errors
    /// What is wrong with it; it does not repeat the text.
    pub(crate) fn parse(text: &str, plain: PlainHttp) -> Result<Self, &'static str> {
        const WHAT: &str = "is no URL of the form https://HOST/PATH";
        let uri: Uri = text.parse().map_err(|_| WHAT)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(WHAT) };
        if text.contains('#') {
            return Err("has a fragment (`#`), which is never sent");
        }
        if authority.as_str().contains('@') {
            return Err("has a user or password in it; secrets belong into files");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || ServerName::try_from(host.as_str()).is_err() {
            return Err(WHAT);
        }
        let is_tls = scheme == "https";
        match (scheme, plain) {
            ("https", _) => {}
            ("http", PlainHttp::Local) if is_local(&host) => {}
            ("http", PlainHttp::Local) => {
                return Err("has no TLS, which only a loopback or link-local address may be without");
            }
            ("http", PlainHttp::Never) => return Err("has no TLS: secrets travel by https only"),
            _ => return Err(WHAT),
        }
        // `port()` has none for a number that is too large.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => {
                if is_tls {
                    443
                } else {
                    80
                }
            }
            Some(rest) => {
                let port = rest.strip_prefix(':').and_then(|port| port.parse().ok());
                port.filter(|port| *port != 0).ok_or(WHAT)?
            }
            None => return Err(WHAT),
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        Ok(Self { is_tls, host, port, target })
    }

    /// Host and port as in a Host field (RFC 9110 §7.2).
    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.is_tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// Without the query, which may hold more than a name.
impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "http{}://{}{path}", if self.is_tls { "s" } else { "" }, self.authority())
    }
}

/// Link-local services of AWS that have unique local addresses: the instance's metadata, and Pod Identity of EKS.
const OF_AWS: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)];

/// A name that means this host, and is not looked up for that (RFC 6761 §6.3). Azure Container Apps have it in
/// `IDENTITY_ENDPOINT`.
const LOCALHOST: &str = "localhost";

fn is_local(host: &str) -> bool {
    match host.parse() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local(),
        Ok(IpAddr::V6(address)) => {
            address.is_loopback() || address.is_unicast_link_local() || OF_AWS.contains(&address)
        }
        Err(_) => host.eq_ignore_ascii_case(LOCALHOST),
    }
}

/// As application/x-www-form-urlencoded has them.
pub(super) const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*');

/// The text as in a URL or form. It may be a secret.
pub(super) fn percent_encoded(text: &str, kept: &'static AsciiSet) -> Zeroizing<String> {
    // With its final capacity: a string that grows leaves a copy behind.
    let mut encoded = Zeroizing::new(String::with_capacity(3 * text.len()));
    encoded.extend(utf8_percent_encode(text, kept));
    encoded
}

/// A form: the field of the header that says so, and the body.
pub(super) fn form(fields: &[(&str, &str)]) -> (HttpField, Zeroizing<Vec<u8>>) {
    let most = fields.iter().map(|(name, value)| name.len() + 2 + 3 * value.len()).sum();
    let mut body = Zeroizing::new(Vec::with_capacity(most));
    for (name, value) in fields {
        if !body.is_empty() {
            body.push(b'&');
        }
        body.extend_from_slice(name.as_bytes());
        body.push(b'=');
        utf8_percent_encode(value, KEPT).for_each(|part| body.extend_from_slice(part.as_bytes()));
    }
    (HttpField(CONTENT_TYPE, Zeroizing::new("application/x-www-form-urlencoded".into())), body)
}

/// Sends the request and waits for the answer. Not to be called on a thread with a runtime.
///
/// # Errors
/// See [`HttpError`].
pub(crate) fn send(request: HttpRequest<'_>, roots: &Roots) -> Result<HttpAnswer, HttpError> {
    let url = request.url;
    let local = |error: std::io::Error| HttpError::Local(url.to_string(), error.to_string());
    let config = url.is_tls.then(|| tls::https_config(roots.clone())).transpose()?;
    let runtime = workers::runtime().map_err(local)?;
    let exchange = Exchange { url, until: clock::now() + DEADLINE, step: Cell::new("looking the name up") };
    let answering = Box::pin(exchange.run(request.method, request.headers, request.body, config));
    let answered = runtime.block_on(alarm::drive(alarm::timeout_at(exchange.until, answering)));
    // A question to the resolver may hang.
    runtime.shutdown_background();
    match answered.map_err(local)? {
        Ok(answer) => answer,
        Err(alarm::Elapsed) => Err(HttpError::TimedOut { url: url.to_string(), step: exchange.step.get() }),
    }
}

struct Exchange<'a> {
    url: &'a HttpUrl,
    until: Instant,
    /// What it is doing, in words.
    step: Cell<&'static str>,
}

impl Exchange<'_> {
    async fn run(
        &self,
        method: Method,
        headers: Vec<HttpField>,
        body: Zeroizing<Vec<u8>>,
        config: Option<Arc<ClientConfig>>,
    ) -> Result<HttpAnswer, HttpError> {
        let request = self.request(method, headers, body)?;
        let socket = self.connect().await?;
        let Some(config) = config else { return self.talk(socket, request).await };
        self.step.set("the TLS handshake");
        let name = ServerName::try_from(self.url.host.clone()).expect("it was read before");
        let stream = TlsConnector::from(config).connect(name, socket).await;
        self.talk(stream.map_err(|error| self.failed(tls::https_failure(&error)))?, request).await
    }

    fn failed(&self, reason: impl fmt::Display) -> HttpError {
        HttpError::Step { url: self.url.to_string(), step: self.step.get(), reason: reason.to_string() }
    }

    fn request(
        &self,
        method: Method,
        headers: Vec<HttpField>,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        let bad = |reason: &str| HttpError::Local(self.url.to_string(), reason.into());
        let mut request = Request::builder()
            .method(method)
            .uri(&self.url.target)
            .header(HOST, self.url.authority())
            .header(USER_AGENT, concat!("ambassador/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_LENGTH, body.len());
        for HttpField(name, value) in headers {
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| bad("a header field would have control characters"))?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        // The bytes are overwritten with their last reference.
        request.body(Full::new(Bytes::from_owner(body))).map_err(|_| bad("its request would be malformed"))
    }

    async fn connect(&self) -> Result<TcpStream, HttpError> {
        let HttpUrl { host, port, .. } = self.url;
        let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(address) => vec![(address, *port).into()],
            Err(_) if is_local(host) => {
                vec![(Ipv4Addr::LOCALHOST, *port).into(), (Ipv6Addr::LOCALHOST, *port).into()]
            }
            Err(_) => tokio::net::lookup_host((host.as_str(), *port))
                .await
                .map_err(|error| self.failed(error))?
                .collect(),
        };
        self.step.set("connecting");
        let mut reason = "the name has no address".to_owned();
        for (index, address) in addresses.iter().enumerate() {
            let until = match addresses.len() - index {
                1 => self.until,
                _ => self.until.min(clock::now() + CONNECT),
            };
            match alarm::timeout_at(until, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => return Ok(socket),
                Ok(Err(error)) => reason = format!("{address}: {error}"),
                Err(alarm::Elapsed) => reason = format!("{address}: timed out"),
            }
        }
        Err(self.failed(reason))
    }

    async fn talk(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<HttpAnswer, HttpError> {
        self.step.set("waiting for the answer");
        let handshake = http1::Builder::new().max_buf_size(ANSWER_MAX).handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.failed(error))?;
        let answering = async {
            let answer = sender.send_request(request).await.map_err(|error| self.failed(error))?;
            let status = answer.status();
            if status.is_redirection() {
                return Err(HttpError::Redirect(self.url.to_string(), status.as_u16()));
            }
            let retry_after = retry_after(answer.headers());
            let body = self.body(answer).await?;
            Ok(HttpAnswer { status: status.as_u16(), retry_after, body })
        };
        // The connection is served until the answer is whole; its own error is one of the answer, too.
        let (mut connection, mut answering) = (std::pin::pin!(connection), std::pin::pin!(answering));
        tokio::select! {
            answer = &mut answering => answer,
            _ = &mut connection => answering.await,
        }
    }

    async fn body(&self, answer: Response<Incoming>) -> Result<Zeroizing<Vec<u8>>, HttpError> {
        // With its final capacity: a vector that grows leaves a copy behind.
        let mut body = Zeroizing::new(Vec::with_capacity(ANSWER_MAX));
        let mut incoming = answer.into_body();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| self.failed(error))?;
            let Ok(data) = frame.into_data() else { continue };
            if body.len() + data.len() > ANSWER_MAX {
                return Err(HttpError::TooLong(self.url.to_string()));
            }
            body.extend_from_slice(&data);
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn urls_are_https_and_whole() {
        for (text, shown) in [
            ("https://login.test/t/oauth2/v2.0/token?a=b", "https://login.test/t/oauth2/v2.0/token"),
            ("https://login.test", "https://login.test/"),
            ("https://login.test:8443/x", "https://login.test:8443/x"),
            ("https://login.test:443/x", "https://login.test/x"),
            ("https://[::1]:9/x", "https://[::1]:9/x"),
        ] {
            assert_eq!(HttpUrl::parse(text, PlainHttp::Never).map(|url| url.to_string()), Ok(shown.into()));
        }
        for text in [
            "http://127.0.0.1/x",
            "http://login.test/x",
            "ftp://login.test/x",
            "login.test",
            "/token",
            "",
            "https://",
            "https:///x",
            "https://user:hunter2@login.test/x",
            "https://login.test/x#y",
            "https://login.test:0/x",
            "https://login.test:/x",
            "https://login.test:99999/x",
            "https://a b/x",
            "https://login.test/\u{e9}\n",
        ] {
            let reason = HttpUrl::parse(text, PlainHttp::Never).unwrap_err();
            assert!(!reason.contains("hunter2"), "{text}");
        }
        for (text, is_allowed) in [
            ("http://127.0.0.1:1/x", true),
            ("http://[::1]/x", true),
            ("http://169.254.169.254/latest", true),
            ("http://localhost/x", true),
            ("http://localhost.test/x", false),
            ("http://10.0.0.1/x", false),
            ("http://[fe80::1]/x", true),
            ("http://[fd00:ec2::254]/latest", true),
            ("http://[fd00:ec2::23]/v1/credentials", true),
            ("http://[fd00:ec2::1]/x", false),
            ("http://[fd00::254]/x", false),
        ] {
            assert_eq!(HttpUrl::parse(text, PlainHttp::Local).is_ok(), is_allowed, "{text}");
        }
    }

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
        for (answer, expected) in [
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
