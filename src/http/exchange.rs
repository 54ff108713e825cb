//! One request over a connection of its own, and the beginning of its answer, whose body is read as it comes.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::{HttpError, HttpField, HttpRequest, HttpUrl};
use crate::sync::Mutex;
use crate::{alarm, clock, sys, tls};

/// An address may take this long to connect while there is another one.
const CONNECT: Duration = Duration::from_secs(3);
/// An answer may take for ever, and a host that lost its power says nothing: it is given up after a minute.
const PATIENCE: sys::Options =
    sys::Options { keepalive: Some(Duration::from_secs(30)), user_timeout: Some(Duration::from_secs(60)) };
/// The longest head of an answer, in bytes. hyper reads bodies into a buffer of the same size.
const HEAD_MAX: usize = 64 * 1024;

/// So many bytes may come before the answer's head is there: any number of heads with a status below 200 may be in front of it (RFC 9110
/// §15.2).
const BEFORE_HEAD_MAX: usize = 2 * HEAD_MAX;

/// How a connection is made.
#[derive(Debug, Clone)]
pub(crate) struct ConnectTerms<'a> {
    /// The server's addresses, tried in turn; unused where it has a unix socket.
    pub(crate) addresses: &'a [SocketAddr],
    /// For URLs with TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// By when it must be there, with TLS.
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

/// Makes the request. The head of its answer must be there at `until`.
///
/// # Errors
/// See [`HttpError`].
pub(crate) async fn open(
    request: HttpRequest<'_>,
    terms: ConnectTerms<'_>,
    until: Instant,
) -> Result<HttpResponse, HttpError> {
    let exchange = Exchange::new(request.url);
    let request = request_of(request)?;
    let stream = exchange.connect(&terms).await?;
    exchange.begin("waiting for the answer");
    exchange.within(until, exchange.talk(stream, request)).await
}

/// A connection, over which a request may be sent.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A request that is under way.
pub(super) struct Exchange<'a> {
    url: &'a HttpUrl,
    begun: Instant,
    /// What it is doing, in words.
    step: Mutex<&'static str>,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(url: &'a HttpUrl) -> Self {
        Self { url, begun: clock::now(), step: Mutex::new("connecting") }
    }

    pub(super) fn begin(&self, step: &'static str) {
        *self.step.lock() = step;
    }

    pub(super) async fn within<T>(
        &self,
        until: Instant,
        work: impl Future<Output = Result<T, HttpError>>,
    ) -> Result<T, HttpError> {
        match alarm::timeout_at(until, Box::pin(work)).await {
            Ok(result) => result,
            Err(alarm::Elapsed) => {
                // As it was set, without the moment that has passed since.
                let after = Duration::from_secs_f64(
                    (until.saturating_duration_since(self.begun).as_secs_f64() * 100.0).round() / 100.0,
                );
                Err(HttpError::TimedOut { url: self.url.to_string(), step: *self.step.lock(), after })
            }
        }
    }

    /// A connection, in time.
    pub(super) async fn connect(&self, terms: &ConnectTerms<'_>) -> Result<Box<dyn Stream>, HttpError> {
        self.within(terms.until, self.connect_and_secure(terms)).await
    }

    async fn connect_and_secure(&self, terms: &ConnectTerms<'_>) -> Result<Box<dyn Stream>, HttpError> {
        if let Some(socket) = self.url.socket() {
            let stream = UnixStream::connect(socket).await.map_err(|error| self.failed(error))?;
            return Ok(Box::new(stream));
        }
        let socket = self.connect_to_one(terms.addresses, terms.until).await?;
        if !self.url.is_tls {
            return Ok(Box::new(socket));
        }
        let missing = || HttpError::Local(self.url.to_string(), "no CAs were read for it".into());
        let config = terms.tls.clone().ok_or_else(missing)?;
        self.begin("the TLS handshake");
        let name = ServerName::try_from(self.url.host.clone()).expect("it was read before");
        let stream = TlsConnector::from(config).connect(name, socket).await;
        Ok(Box::new(stream.map_err(|error| self.failed(tls::https_failure(&error)))?))
    }

    pub(super) fn failed(&self, reason: impl fmt::Display) -> HttpError {
        HttpError::Step { url: self.url.to_string(), step: *self.step.lock(), reason: reason.to_string() }
    }

    async fn connect_to_one(&self, addresses: &[SocketAddr], until: Instant) -> Result<TcpStream, HttpError> {
        let mut reason = "the name has no address".to_owned();
        for (index, address) in addresses.iter().enumerate() {
            let until = match addresses.len() - index {
                1 => until,
                _ => until.min(clock::now() + CONNECT),
            };
            match alarm::timeout_at(until, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => {
                    let set = PATIENCE.apply(&socket, address.ip());
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
        stream: Box<dyn Stream>,
        request: Request<Full<Bytes>>,
    ) -> Result<HttpResponse, HttpError> {
        let count = ReadCount::up_to(BEFORE_HEAD_MAX);
        let stream = Counted { stream, count: Arc::clone(&count) };
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
        count.lift();
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

/// How much was read from a connection, and how much may be.
#[derive(Debug)]
pub(super) struct ReadCount {
    read: AtomicUsize,
    most: AtomicUsize,
}

impl ReadCount {
    /// No more than that.
    pub(super) fn up_to(most: usize) -> Arc<Self> {
        Arc::new(Self { read: AtomicUsize::new(0), most: AtomicUsize::new(most) })
    }

    /// There is no bound any more.
    fn lift(&self) {
        self.most.store(usize::MAX, Ordering::Relaxed);
    }

    /// Whether anything was read.
    pub(super) fn is_some(&self) -> bool {
        self.read.load(Ordering::Relaxed) > 0
    }

    fn add(&self, read: usize) -> std::io::Result<()> {
        let before = self.read.fetch_add(read, Ordering::Relaxed);
        if before.saturating_add(read) > self.most.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("too much came before the answer"));
        }
        Ok(())
    }
}

/// A connection whose reading is counted.
pub(super) struct Counted {
    pub(super) stream: Box<dyn Stream>,
    pub(super) count: Arc<ReadCount>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        Poll::Ready(self.count.add(buffer.filled().len() - before))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
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
