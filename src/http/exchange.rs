//! One request over a connection of its own, and the beginning of its answer, whose body is read as it comes.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::{HttpError, HttpField, HttpRequest, HttpUrl};
use crate::sync::Mutex;
use crate::{alarm, clock, sys, tls};

/// An address may take this long to connect while there is another one.
const CONNECT: Duration = Duration::from_secs(3);
/// After so much silence the kernel asks whether the server is still there, so often, and so many times: an answer may take for ever,
/// and a host that lost its power says nothing.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);
/// The longest head of an answer, in bytes. hyper reads bodies into a buffer of the same size.
const HEAD_MAX: usize = 64 * 1024;

/// How a request is made.
#[derive(Debug, Clone)]
pub(crate) struct HttpTerms<'a> {
    /// The server's addresses, tried in turn; unused where it has a unix socket.
    pub(crate) addresses: &'a [SocketAddr],
    /// For URLs with TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// By when the head of the answer must be there.
    pub(crate) until: Instant,
}

/// An answer whose head is there. It is no redirect.
pub(crate) struct HttpResponse {
    url: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    /// Serves the connection; it is polled while the body is read.
    connection: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpResponse").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Makes the request.
///
/// # Errors
/// See [`HttpError`].
pub(crate) async fn open(request: HttpRequest<'_>, terms: HttpTerms<'_>) -> Result<HttpResponse, HttpError> {
    let (url, begun, until) = (request.url, clock::now(), terms.until);
    let exchange = Exchange { url, until, step: Mutex::new("connecting") };
    match alarm::timeout_at(until, Box::pin(exchange.run(request, terms))).await {
        Ok(answer) => answer,
        Err(alarm::Elapsed) => {
            // As it was set, without the moment that has passed since.
            let after = Duration::from_secs_f64(
                (until.saturating_duration_since(begun).as_secs_f64() * 100.0).round() / 100.0,
            );
            Err(HttpError::TimedOut { url: url.to_string(), step: *exchange.step.lock(), after })
        }
    }
}

struct Exchange<'a> {
    url: &'a HttpUrl,
    until: Instant,
    /// What it is doing, in words.
    step: Mutex<&'static str>,
}

impl Exchange<'_> {
    async fn run(&self, request: HttpRequest<'_>, terms: HttpTerms<'_>) -> Result<HttpResponse, HttpError> {
        let request = request_of(request)?;
        if let Some(socket) = self.url.socket() {
            let stream = UnixStream::connect(socket).await.map_err(|error| self.failed(error))?;
            return self.talk(stream, request).await;
        }
        let socket = self.connect(terms.addresses).await?;
        let Some(config) = terms.tls.filter(|_| self.url.is_tls) else {
            return self.talk(socket, request).await;
        };
        *self.step.lock() = "the TLS handshake";
        let name = ServerName::try_from(self.url.host.clone()).expect("it was read before");
        let stream = TlsConnector::from(config).connect(name, socket).await;
        self.talk(stream.map_err(|error| self.failed(tls::https_failure(&error)))?, request).await
    }

    fn failed(&self, reason: impl fmt::Display) -> HttpError {
        HttpError::Step { url: self.url.to_string(), step: *self.step.lock(), reason: reason.to_string() }
    }

    async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream, HttpError> {
        let mut reason = "the name has no address".to_owned();
        for (index, address) in addresses.iter().enumerate() {
            let until = match addresses.len() - index {
                1 => self.until,
                _ => self.until.min(clock::now() + CONNECT),
            };
            match alarm::timeout_at(until, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => {
                    let (silence, interval, probes) = KEEPALIVE;
                    let set = sys::keep_alive(&socket, silence, interval, probes);
                    return set.map(|()| socket).map_err(|error| self.failed(error));
                }
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
    ) -> Result<HttpResponse, HttpError> {
        *self.step.lock() = "waiting for the answer";
        let handshake = http1::Builder::new().max_buf_size(HEAD_MAX).handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.failed(error))?;
        // Its own error is one of the answer, too.
        let mut connection: Pin<Box<dyn Future<Output = ()> + Send>> =
            Box::pin(async move { drop(connection.await) });
        let mut answering = std::pin::pin!(sender.send_request(request));
        let (answer, is_over) = tokio::select! {
            answer = &mut answering => (answer, false),
            () = &mut connection => (answering.await, true),
        };
        let answer: Response<Incoming> = answer.map_err(|error| self.failed(error))?;
        let status = answer.status();
        if status.is_redirection() {
            return Err(HttpError::Redirect(self.url.to_string(), status.as_u16()));
        }
        let (head, body) = answer.into_parts();
        let connection = (!is_over).then_some(connection);
        let (url, headers) = (self.url.to_string(), head.headers);
        Ok(HttpResponse { url, status: status.as_u16(), headers, body, connection })
    }
}

fn request_of(request: HttpRequest<'_>) -> Result<Request<Full<Bytes>>, HttpError> {
    let HttpRequest { method, url, headers, body } = request;
    let bad = |reason: &str| HttpError::Local(url.to_string(), reason.into());
    let mut request = Request::builder()
        .method(method)
        .uri(&url.target)
        .header(HOST, url.authority())
        .header(USER_AGENT, concat!("ambassador/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_LENGTH, body.len());
    for HttpField(name, value) in headers {
        let mut value =
            HeaderValue::from_str(&value).map_err(|_| bad("a header field would have control characters"))?;
        value.set_sensitive(true);
        request = request.header(name, value);
    }
    // The bytes are overwritten with their last reference.
    request.body(Full::new(Bytes::from_owner(body))).map_err(|_| bad("its request would be malformed"))
}

impl HttpResponse {
    /// The next part of the body; `None` at its end. Cancel-safe.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = match &mut self.connection {
                Some(connection) => tokio::select! {
                    biased;
                    frame = self.body.frame() => frame,
                    () = connection => {
                        self.connection = None;
                        continue;
                    }
                },
                None => self.body.frame().await,
            };
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| HttpError::Step {
                url: self.url.clone(),
                step: "waiting for the answer",
                reason: error.to_string(),
            })?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// Appends the whole of the body to `body`, which does not grow beyond its capacity: a vector that grows leaves a copy behind.
    ///
    /// # Errors
    /// The connection broke, or there is more.
    pub(crate) async fn read_into(&mut self, body: &mut Vec<u8>) -> Result<(), HttpError> {
        while let Some(data) = self.chunk().await? {
            if body.len() + data.len() > body.capacity() {
                return Err(HttpError::TooLong(self.url.clone(), body.capacity()));
            }
            body.extend_from_slice(&data);
        }
        Ok(())
    }
}
