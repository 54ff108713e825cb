//! Accepts the admin's connections and lets hyper speak HTTP/1.1 on them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use super::Subject;
use super::answer::{answer, text};
use super::{browser, control};
use crate::alarm;
use crate::clock;
use crate::drain::{Drain, DrainWatch};
use crate::sys::{Accepted, Listening, Socket};

/// Which way a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The HTTP address.
    Address,
    /// The control socket, which only its owner reaches.
    Control,
}

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may be silent before or between requests.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection's whole life: scrapers come again.
const LIFETIME: Duration = Duration::from_secs(600);

/// Serves until the drain begins.
pub async fn serve(
    listening: Arc<Listening>,
    door: Door,
    subject: Arc<Subject>,
    drain: Drain,
    watch: DrainWatch,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut stop = std::pin::pin!(watch.begun());
    loop {
        let permit = Arc::clone(&room).acquire_owned();
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = async { (permit.await, listening.accept().await) } => accepted,
        };
        match accepted {
            (Ok(permit), Ok((accepted, _))) => {
                let (subject, watch) = (Arc::clone(&subject), watch.clone());
                drain.spawn(async move {
                    converse(accepted, door, subject, watch).await;
                    drop(permit);
                });
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "the admin cannot accept; waiting");
                alarm::sleep(Duration::from_millis(100)).await;
            }
            (Err(_closed), Ok(_)) => break,
        }
    }
}

async fn converse(accepted: Accepted, door: Door, subject: Arc<Subject>, watch: DrainWatch) {
    let Ok(socket) = Socket::adopt(accepted) else { return };
    let asker = control::Asker::of(&socket);
    // The file's mode says so too, unless somebody changed it.
    if door == Door::Control && !asker.is_some_and(control::Asker::is_welcome) {
        tracing::warn!(?asker, "somebody else than our own user and root came to the control socket");
        return socket.abort();
    }
    let service = service_fn(move |request| {
        let subject = Arc::clone(&subject);
        async move {
            let answered = match browser::refusal(door, &request) {
                Some(reason) => text(StatusCode::FORBIDDEN, reason),
                None if !subject.config_id.is_meant(request.headers()) => {
                    let own = subject.config_id.path().display();
                    let words =
                        format!("it is the daemon of {own}; name that file with --config if you mean it\n");
                    text(StatusCode::MISDIRECTED_REQUEST, &words)
                }
                None => {
                    if request.uri().path() == "/metrics" {
                        subject.exposition.settled().await;
                    }
                    match control::obey(&subject, door, asker, &request).await {
                        Some(ordered) => ordered,
                        None => answer(&subject, &request),
                    }
                }
            };
            Ok::<_, Infallible>(answered)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // What goes wrong on a connection is its client's to see.
        _ = alarm::before(clock::now() + LIFETIME, connection.as_mut()) => {}
        () = watch.begun() => {
            connection.as_mut().graceful_shutdown();
            let _ = alarm::before(clock::now() + Duration::from_secs(1), connection).await;
        }
    }
}
