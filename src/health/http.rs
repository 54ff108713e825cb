//! The probe of type `http`: one GET to an HTTP server beside the endpoint, which knows more about it than a connection
//! shows.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{cmp, io};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Response};

use crate::clock;
use crate::cluster::health_check::Http;
use crate::cluster::{DialError, Endpoint, Settings as ClusterSettings};
use crate::dial::{DialRecord, connect_endpoint};
use crate::relay::UpstreamStream;
use crate::sys::Socket;
use crate::tls::HandshakeOptions;

use super::error::HealthCheckError;

/// Bytes read of a body before the connection is closed: the body is ignored, but a server whose body is read to the
/// end logs no error.
const BODY_MAX: usize = 64 * 1024;

/// Sends the request once. No deadline here: the caller has one.
pub(super) async fn ask(
    cluster: &ClusterSettings,
    http: &Http,
    endpoint: &Endpoint,
    record: &mut DialRecord,
) -> Result<(), HealthCheckError> {
    let socket = connect_endpoint(cluster, endpoint, Some(http.port), record).await?;
    let end = secure(socket, http, endpoint, record).await?;
    let host = endpoint.settings().authority(http.port);
    let asked = format!("GET {} at {host}", http.path);
    let request = Request::get(http.path.clone())
        .header("host", &host)
        .header("user-agent", concat!("ambassador/", env!("CARGO_PKG_VERSION")))
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| HealthCheckError::Answer(format!("{asked}: {error}")))?;
    let failed = |error: hyper::Error| HealthCheckError::Answer(format!("{asked}: {}", describe(&error)));
    let (mut sender, connection) = http1::handshake(Wire::new(end)).await.map_err(failed)?;
    let asking = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        read_out(response).await;
        Ok(status)
    };
    let (answered, _) = tokio::join!(asking, connection);
    let status = answered.map_err(failed)?;
    if http.statuses.contains(&status.as_u16()) {
        return Ok(());
    }
    let expected: Vec<_> = http.statuses.iter().map(ToString::to_string).collect();
    Err(HealthCheckError::Answer(format!("{asked}: answered {status}, expected {}", expected.join(" or "))))
}

async fn secure(
    socket: Socket,
    http: &Http,
    endpoint: &Endpoint,
    record: &mut DialRecord,
) -> Result<UpstreamStream, HealthCheckError> {
    let Some(originator) = &http.originator else { return Ok(UpstreamStream::Socket(socket)) };
    let begun = clock::now();
    let endpoint = endpoint.settings();
    let name = endpoint.server_name.clone();
    let originating = originator.originate(originator.for_nobody(), socket, name, HandshakeOptions::plain());
    let (stream, _) = originating
        .await
        .map_err(|error| HealthCheckError::Dial(DialError::Tls { endpoint: endpoint.name.clone(), error }))?;
    record.handshake = (clock::now() - begun).into();
    Ok(UpstreamStream::Tls(stream))
}

async fn read_out(response: Response<Incoming>) {
    let mut body = response.into_body();
    let mut read = 0;
    while read <= BODY_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        read += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// hyper says only "error reading a body from connection"; the reason is in the source error.
fn describe(error: &hyper::Error) -> String {
    let reason = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    match reason.and_then(crate::tls::late_rejection) {
        Some(rejected) => rejected,
        None => reason.map_or_else(|| error.to_string(), |reason| format!("{error}: {reason}")),
    }
}

/// An upstream with hyper's I/O traits. It buffers, because hyper may read less at once than TLS yields.
struct Wire {
    end: UpstreamStream,
    /// Bytes read; hyper has taken the first `taken` of them.
    read: Vec<u8>,
    taken: usize,
}

impl Wire {
    fn new(end: UpstreamStream) -> Self {
        Self { end, read: Vec::new(), taken: 0 }
    }
}

impl Read for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { end, read, taken } = self.get_mut();
        if *taken == read.len() {
            read.clear();
            *taken = 0;
            ready!(end.poll_read_scratch(cx, |bytes| read.extend_from_slice(bytes)))?;
        }
        let next = cmp::min(buffer.remaining(), read.len() - *taken);
        buffer.put_slice(&read[*taken..*taken + next]);
        *taken += next;
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().end.poll_send(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().end.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().end.poll_shutdown(cx).map(Ok)
    }
}
