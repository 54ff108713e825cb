//! One bidirectional stream of gRPC over a connection of its own ("gRPC over HTTP2" in gRPC's repository). Messages are bytes: what is in
//! them is the caller's matter. Lacks compression, which nobody may send to a client that does not offer it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::exchange::{ConnectTerms, Counted, Exchange, ReadCount};
use super::{HttpError, HttpField, HttpUrl};
use crate::escape::escaped;
use crate::sync::Mutex;

/// A message has its length in front of it, and whether it is compressed.
const PREFIX: usize = 5;
/// After so much silence the server is asked whether it is still there: the kernel of a process that is frozen answers TCP's keepalive.
/// Servers of grpc-go and of gRPC's C core end the connection of whoever asks more than once in five minutes (`too_many_pings`;
/// "Keepalive" in gRPC's documentation).
const PING: Duration = Duration::from_secs(330);
const _: () = assert!(PING.as_secs() > 300, "servers end the connection of whoever pings more often");
/// So long it may take to answer.
const PONG: Duration = Duration::from_secs(10);
/// Of a server's text so many characters are shown.
const SHOWN: usize = 300;

/// A stream. Dropped, it closes the connection.
pub(crate) struct GrpcStream {
    /// Of the server, without the method.
    url: String,
    count: Arc<ReadCount>,
    most: usize,
    outgoing: mpsc::Sender<Bytes>,
    incoming: Answering,
    connection: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    messages: Messages,
    /// What hyper does beside the connection.
    tasks: Owned,
}

impl Drop for GrpcStream {
    fn drop(&mut self) {
        // They may have what they are spawned by.
        self.tasks.0.lock().abort_all();
    }
}

/// Headers may come with the first message, so they are not waited for.
enum Answering {
    Head(Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>),
    Body(Incoming),
    Over,
}

impl fmt::Debug for GrpcStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcStream").field("url", &self.url).finish_non_exhaustive()
    }
}

/// How a stream ended that the server ended with an error, by gRPC's status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GrpcStatus(u16);

impl GrpcStatus {
    const OK: Self = Self(0);

    /// Its name in gRPC ("Status codes and their use in gRPC").
    const fn name(self) -> &'static str {
        match self.0 {
            0 => "OK",
            1 => "CANCELLED",
            3 => "INVALID_ARGUMENT",
            4 => "DEADLINE_EXCEEDED",
            5 => "NOT_FOUND",
            7 => "PERMISSION_DENIED",
            8 => "RESOURCE_EXHAUSTED",
            9 => "FAILED_PRECONDITION",
            10 => "ABORTED",
            12 => "UNIMPLEMENTED",
            13 => "INTERNAL",
            14 => "UNAVAILABLE",
            16 => "UNAUTHENTICATED",
            _ => "UNKNOWN",
        }
    }
}

impl GrpcStream {
    /// Calls `method`, such as `/package.Service/Method`. Messages of more than `most` bytes end the stream.
    ///
    /// # Errors
    /// No connection.
    pub(crate) async fn open(
        url: &HttpUrl,
        method: &str,
        headers: Vec<HttpField>,
        most: usize,
        terms: ConnectTerms<'_>,
    ) -> Result<Self, HttpError> {
        let (outgoing, queued) = mpsc::channel(1);
        let request = request_of(&url.below(method), headers, Outgoing(queued))?;
        let (exchange, count, tasks) = (Exchange::new(url), ReadCount::up_to(usize::MAX), Owned::default());
        let until = terms.until;
        let connecting = async {
            let stream = Counted { stream: exchange.connect(&terms).await?, count: Arc::clone(&count) };
            exchange.begin("the HTTP/2 handshake");
            let handshake = http2::Builder::new(tasks.clone())
                .timer(TokioTimer::new())
                .keep_alive_interval(PING)
                .keep_alive_timeout(PONG)
                .keep_alive_while_idle(true)
                .handshake(TokioIo::new(stream))
                .await;
            handshake.map_err(|error| exchange.failed(error))
        };
        let (mut sender, connection) = exchange.within(until, connecting).await?;
        let connection: Pin<Box<dyn Future<Output = ()> + Send>> =
            Box::pin(async move { drop(connection.await) });
        let head = Box::pin(async move { sender.send_request(request).await });
        Ok(Self {
            url: url.to_string(),
            count,
            most,
            outgoing,
            incoming: Answering::Head(head),
            connection: Some(connection),
            messages: Messages::default(),
            tasks,
        })
    }

    /// Whether the server has said anything: its settings come at once (RFC 9113 §3.4), so whoever is silent is no server of HTTP/2, or
    /// frozen.
    pub(crate) fn has_heard(&self) -> bool {
        self.count.is_some()
    }

    /// What sends messages on it.
    pub(crate) fn sender(&self) -> GrpcSender {
        GrpcSender(self.outgoing.clone())
    }

    /// The next message; `None` when the server has ended the stream without an error. Cancel-safe.
    ///
    /// # Errors
    /// Why the stream is over.
    pub(crate) async fn message(&mut self) -> Result<Option<Vec<u8>>, HttpError> {
        loop {
            if let Some(message) = self.messages.next() {
                return Ok(Some(message));
            }
            let event = match (&mut self.incoming, &mut self.connection) {
                (Answering::Over, _) => return Ok(None),
                (Answering::Head(head), Some(connection)) => tokio::select! {
                    biased;
                    head = head => Event::Head(head),
                    () = connection => Event::Closed,
                },
                (Answering::Head(head), None) => Event::Head(head.await),
                (Answering::Body(body), Some(connection)) => tokio::select! {
                    biased;
                    frame = body.frame() => Event::Frame(frame),
                    () = connection => Event::Closed,
                },
                (Answering::Body(body), None) => Event::Frame(body.frame().await),
            };
            match event {
                Event::Closed => self.connection = None,
                Event::Head(head) => {
                    let response = head.map_err(|error| self.failed(&in_full(&error)))?;
                    self.judge_head(&response)?;
                    self.incoming = Answering::Body(response.into_body());
                }
                Event::Frame(frame) => self.take_frame(frame)?,
            }
        }
    }

    fn take_frame(&mut self, frame: Option<hyper::Result<Frame<Bytes>>>) -> Result<(), HttpError> {
        let Some(frame) = frame else {
            return Err(self.failed("it ended without a status"));
        };
        let frame = frame.map_err(|error| self.failed(&in_full(&error)))?;
        match frame.into_data() {
            Ok(data) => self.messages.push(&data, self.most).map_err(|reason| self.failed(&reason)),
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                self.incoming = Answering::Over;
                self.judge_status(&trailers)
            }
        }
    }

    fn judge_head(&mut self, response: &Response<Incoming>) -> Result<(), HttpError> {
        let status = response.status();
        if status.is_redirection() {
            return Err(HttpError::Redirect(self.url.clone(), status.as_u16()));
        }
        let kind =
            response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if status.as_u16() != 200 || !kind.starts_with("application/grpc") {
            return Err(self.failed(&format!("HTTP {}: that is no gRPC", status.as_u16())));
        }
        if response.headers().contains_key("grpc-status") {
            self.incoming = Answering::Over;
            return self.judge_status(response.headers());
        }
        Ok(())
    }

    fn judge_status(&self, fields: &HeaderMap) -> Result<(), HttpError> {
        let text = |name: &str| fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let status = GrpcStatus(text("grpc-status").parse().unwrap_or(2));
        if status == GrpcStatus::OK {
            return Ok(());
        }
        let words = percent_encoding::percent_decode_str(text("grpc-message")).decode_utf8_lossy();
        let words: String = words.trim().chars().take(SHOWN).collect();
        let words = if words.is_empty() { String::new() } else { format!(": {}", escaped(&words)) };
        Err(HttpError::Status(self.url.clone(), format!("{}{words}", status.name())))
    }

    fn failed(&self, reason: &str) -> HttpError {
        HttpError::Step { url: self.url.clone(), step: "the stream", reason: reason.to_owned() }
    }
}

enum Event {
    Head(hyper::Result<Response<Incoming>>),
    Frame(Option<hyper::Result<Frame<Bytes>>>),
    Closed,
}

/// hyper's errors hold back what caused them.
fn in_full(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Sends messages on a stream.
#[derive(Debug, Clone)]
pub(crate) struct GrpcSender(mpsc::Sender<Bytes>);

impl GrpcSender {
    /// Sends a message when there is room for it. Cancel-safe: if it is dropped, nothing was sent. [`GrpcStream::message`] has to be
    /// polled meanwhile, or there will never be room. Where the stream is over, that tells why.
    pub(crate) async fn send(&self, message: &[u8]) {
        let mut framed = Vec::with_capacity(PREFIX + message.len());
        framed.push(0);
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
        framed.extend_from_slice(message);
        let _ = self.0.send(framed.into()).await;
    }
}

fn request_of(
    url: &HttpUrl,
    headers: Vec<HttpField>,
    body: Outgoing,
) -> Result<Request<Outgoing>, HttpError> {
    let bad = |reason: &str| HttpError::Local(url.to_string(), reason.into());
    let scheme = if url.is_tls() { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(url.authority()).path_and_query(url.target.clone());
    let uri = uri.build().map_err(|_| bad("its URL would be malformed"))?;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, concat!("ambassador/", env!("CARGO_PKG_VERSION")));
    for HttpField(name, value) in headers {
        let name: HeaderName = name;
        let mut value =
            HeaderValue::from_str(&value).map_err(|_| bad("a header field would have control characters"))?;
        value.set_sensitive(true);
        request = request.header(name, value);
    }
    request.body(body).map_err(|_| bad("its request would be malformed"))
}

/// The messages that are sent, one by one.
struct Outgoing(mpsc::Receiver<Bytes>);

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|message| message.map(|message| Ok(Frame::data(message))))
    }
}

/// Runs what hyper spawns, and ends it with itself.
#[derive(Clone, Default)]
struct Owned(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Owned {
    fn execute(&self, future: F) {
        let mut tasks = self.0.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(future);
    }
}

/// Cuts what comes into messages.
#[derive(Debug, Default)]
struct Messages {
    held: Vec<u8>,
    whole: VecDeque<Vec<u8>>,
}

impl Messages {
    fn push(&mut self, data: &[u8], most: usize) -> Result<(), String> {
        self.held.extend_from_slice(data);
        let mut used = 0;
        while let [compressed, a, b, c, d, rest @ ..] = &self.held[used..] {
            let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
            if *compressed != 0 {
                return Err("it sends a compressed message, which nobody asked for".into());
            }
            if length > most {
                return Err(format!("a message has {length} bytes, and {most} are the most"));
            }
            let Some(message) = rest.get(..length) else { break };
            self.whole.push_back(message.to_vec());
            used += PREFIX + length;
        }
        self.held.drain(..used);
        Ok(())
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        self.whole.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_wherever_the_parts_begin_and_end() {
        let stream = [&b"\0\0\0\0\x03abc"[..], b"\0\0\0\0\0", b"\0\0\0\0\x01d", b"\0\0"].concat();
        for size in 1..stream.len() {
            let mut messages = Messages::default();
            stream.chunks(size).for_each(|part| messages.push(part, 3).unwrap());
            let found: Vec<_> = std::iter::from_fn(|| messages.next()).collect();
            assert_eq!(found, [&b"abc"[..], b"", b"d"], "{size}");
            assert_eq!(messages.held, b"\0\0");
        }
        assert!(
            Messages::default().push(b"\0\0\0\0\x04", 3).unwrap_err().contains("4 bytes, and 3 are the most")
        );
        assert!(Messages::default().push(b"\x01\0\0\0\0", 3).unwrap_err().contains("compressed"));
    }
}
