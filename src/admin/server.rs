//! Accepts the admin's connections and lets hyper speak HTTP/1.1 on them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::Subject;
use super::answer::{answer, text};
use super::places::{Caller, Place, Places};
use super::{browser, control};
use crate::alarm;
use crate::clock;
use crate::drain::{Drain, DrainWatch};
use crate::sys::{Listening, Peer, Socket, socket_owner};

/// Which way a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The HTTP address.
    Address,
    /// The control socket, which only its owner reaches.
    Control,
}

/// How long a connection may be silent between requests.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long until its first request is whole.
const PATIENCE_FIRST: Duration = Duration::from_secs(2);
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
    let places = Arc::<Places>::default();
    let mut stop = std::pin::pin!(watch.begun());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listening.accept() => accepted,
        };
        match accepted {
            Ok((accepted, peer)) => {
                let Ok(socket) = Socket::adopt(accepted) else { continue };
                // Whoever finds all places taken by others who ask is let go, and comes again.
                let Some(place) = places.take(caller(&socket, peer)) else { continue };
                let (subject, watch) = (Arc::clone(&subject), watch.clone());
                drain.spawn(converse(socket, place, door, subject, watch));
            }
            Err(error) => {
                tracing::warn!(%error, "the admin cannot accept; waiting");
                alarm::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Whose share of the places a connection takes.
fn caller(socket: &Socket, peer: Peer) -> Caller {
    match peer {
        Peer::Unix => socket.peer_process().map_or(Caller::Unknown, |process| Caller::User(process.uid)),
        Peer::Tcp(from) => {
            let owner = socket.local().and_then(|local| socket_owner(from, local).ok().flatten());
            match owner {
                Some(owner) => Caller::User(owner.uid),
                None => peer.other_host().map_or(Caller::Unknown, Caller::Host),
            }
        }
    }
}

async fn converse(socket: Socket, place: Place, door: Door, subject: Arc<Subject>, watch: DrainWatch) {
    let asker = control::Asker::of(&socket);
    // The file's mode says so too, unless somebody changed it.
    if door == Door::Control && !asker.is_some_and(control::Asker::is_welcome) {
        tracing::warn!(?asker, "somebody else than our own user and root came to the control socket");
        return socket.abort();
    }
    let place = Arc::new(place);
    let served = Arc::clone(&place);
    let service = service_fn(move |request| {
        let (subject, place) = (Arc::clone(&subject), Arc::clone(&served));
        async move {
            let _asking = place.ask();
            let answered = match browser::refusal(door, &request) {
                Some(reason) => text(StatusCode::FORBIDDEN, reason),
                None if !subject.config_id.is_meant(request.headers()) => {
                    let own = subject.config_id.path().display();
                    let words =
                        format!("it is the daemon of {own}; name that file with --config if you mean it\n");
                    text(StatusCode::MISDIRECTED_REQUEST, &words)
                }
                None if place.is_kept && !HEALTH.contains(&request.uri().path()) => {
                    text(StatusCode::SERVICE_UNAVAILABLE, KEPT)
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
        () = place.dismissed() => {}
        () = never_asked(&place) => {}
        () = watch.begun() => {
            connection.as_mut().graceful_shutdown();
            let _ = alarm::before(clock::now() + Duration::from_secs(1), connection).await;
        }
    }
}

/// What is answered in the places that are kept for it, and what anything else is told there.
const HEALTH: [&str; 2] = ["/healthz", "/readyz"];
const KEPT: &str = "every place is taken but those for /healthz and /readyz: ask again in a moment\n";

/// The patience with a connection that has asked nothing is over.
async fn never_asked(place: &Place) {
    alarm::sleep(PATIENCE_FIRST).await;
    if !place.is_new() {
        std::future::pending::<()>().await;
    }
}
