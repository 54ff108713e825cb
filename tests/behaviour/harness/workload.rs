//! A SPIFFE Workload API in the test process: the one streaming call that issues X.509 certificates, over gRPC as it
//! is on the wire (HTTP/2, five bytes in front of each message), its messages written by hand, so that it shares
//! nothing with the ambassador's own client.

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};

use super::{Leaf, Pki};

/// One piece of an answer, hyper's own type.
type Body = hyper::body::Bytes;

/// An agent at a socket; dropped, it closes with all its connections.
pub(crate) struct Workload {
    path: PathBuf,
    issued: watch::Sender<Option<Vec<u8>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Workload {
    /// An agent without entries: it denies every request.
    pub(crate) fn start(path: &Path) -> Self {
        let (issued, watched) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let (at, (bound, is_bound)) = (path.to_owned(), std::sync::mpsc::channel());
        let serving = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = UnixListener::bind(&at).expect("a free path");
                bound.send(()).expect("somebody waits");
                tokio::select! {
                    () = serve(listener, watched) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name("agent".into()).spawn(serving).expect("a thread");
        is_bound.recv().expect("the agent is bound");
        Self { path: path.to_owned(), issued, stop: Some(stop), thread: Some(thread) }
    }

    /// Sends that certificate to all present and later callers.
    pub(crate) fn issue(&self, leaf: &Leaf, uri: &str, pki: &Pki) {
        self.issue_federated(leaf, uri, pki, &[]);
    }

    /// The same, with the CAs of other trust domains.
    pub(crate) fn issue_federated(&self, leaf: &Leaf, uri: &str, pki: &Pki, others: &[(&str, &Pki)]) {
        let key = leaf.key_der.secret_der();
        let svid = [field(1, uri.as_bytes()), field(2, &leaf.der), field(3, key), field(4, &pki.ca_der())];
        let other = |(domain, pki): &(&str, &Pki)| {
            field(3, &[field(1, domain.as_bytes()), field(2, &pki.ca_der())].concat())
        };
        let others: Vec<u8> = others.iter().flat_map(other).collect();
        self.issued.send_replace(Some([field(1, &svid.concat()), others].concat()));
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        drop(std::fs::remove_file(&self.path));
    }
}

/// A length-delimited field of protobuf.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        field.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    field.push(u8::try_from(length).expect("seven bits"));
    field.extend_from_slice(bytes);
    field
}

async fn serve(listener: UnixListener, issued: watch::Receiver<Option<Vec<u8>>>) {
    loop {
        let (stream, _) = listener.accept().await.expect("an agent accepts");
        tokio::spawn(connection(stream, issued.clone()));
    }
}

async fn connection(stream: UnixStream, issued: watch::Receiver<Option<Vec<u8>>>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond, issued.clone()));
    }
}

async fn answer<B>(
    request: Request<B>,
    mut respond: SendResponse<Body>,
    mut issued: watch::Receiver<Option<Vec<u8>>>,
) {
    // SPIRE demands it, so that no web page gets a certificate (SPIFFE Workload Endpoint §6.2.1).
    let is_ours = request.headers().get("workload.spiffe.io").is_some_and(|value| value == "true")
        && request.uri().path() == "/SpiffeWorkloadAPI/FetchX509SVID";
    let head = Response::builder().header("content-type", "application/grpc");
    if !is_ours || issued.borrow().is_none() {
        const PERMISSION_DENIED: &str = "7";
        let head = head.header("grpc-status", PERMISSION_DENIED).header("grpc-message", "no identity issued");
        drop(respond.send_response(head.body(()).expect("a head"), true));
        return;
    }
    let Ok(mut body) = respond.send_response(head.body(()).expect("a head"), false) else { return };
    loop {
        let message = issued.borrow_and_update().clone().expect("what was issued stays so");
        let length = u32::try_from(message.len()).expect("a small message").to_be_bytes();
        let frame = [&[0][..], &length, &message].concat();
        if body.send_data(frame.into(), false).is_err() {
            return;
        }
        if issued.changed().await.is_err() {
            let ended = HeaderMap::from_iter([(
                "grpc-status".parse().expect("a name"),
                HeaderValue::from_static("0"),
            )]);
            drop(body.send_trailers(ended));
            return;
        }
    }
}
