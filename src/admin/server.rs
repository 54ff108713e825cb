//! Accepts admin connections and lets hyper speak HTTP/1.1 on them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::connections::{ConnectionGuard, ConnectionOwner, ConnectionTable};
use super::respond::answer;
use super::response::text;
use super::{AdminState, AdminTransport, browser, control};
use crate::alarm;
use crate::clock;
use crate::drain::{Drain, DrainWatch};
use crate::sys::{ListeningSocket, Peer, Socket, socket_owner};

/// How long a connection may be silent between requests.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long its first request may take to arrive.
const PATIENCE_FIRST: Duration = Duration::from_secs(2);
/// The longest life of a connection; clients reconnect.
const LIFETIME: Duration = Duration::from_secs(600);

pub(crate) async fn serve(
    listening: Arc<ListeningSocket>,
    transport: AdminTransport,
    admin_state: Arc<AdminState>,
    drain: Drain,
    watch: DrainWatch,
) {
    let connections = Arc::<ConnectionTable>::default();
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
                // When all connections have requests under way, a new one is closed, and the client
                // has to retry.
                let Some(guard) = connections.admit(caller(&socket, peer)) else { continue };
                let (admin_state, watch) = (Arc::clone(&admin_state), watch.clone());
                drain.spawn(converse(socket, guard, transport, admin_state, watch));
            }
            Err(error) => {
                tracing::warn!(%error, "the admin address cannot accept; new connections wait in the kernel's queue");
                alarm::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The owner whose limit a connection counts towards.
fn caller(socket: &Socket, peer: Peer) -> ConnectionOwner {
    match peer {
        Peer::Unix => socket
            .peer_process()
            .map_or(ConnectionOwner::Unknown, |process| ConnectionOwner::User(process.uid)),
        Peer::Tcp(from) => {
            let owner = socket.local().and_then(|local| socket_owner(from, local).ok().flatten());
            match owner {
                Some(owner) => ConnectionOwner::User(owner.uid),
                None => peer.other_host().map_or(ConnectionOwner::Unknown, ConnectionOwner::Host),
            }
        }
    }
}

async fn converse(
    socket: Socket,
    guard: ConnectionGuard,
    transport: AdminTransport,
    admin_state: Arc<AdminState>,
    watch: DrainWatch,
) {
    let asker = control::ControlPeer::of(&socket);
    // The file's mode ensures it too, unless it was changed.
    if transport == AdminTransport::Control && !asker.is_some_and(control::ControlPeer::is_authorized) {
        tracing::warn!(
            ?asker,
            "closed a connection to the control socket: its peer is neither our own user nor root"
        );
        return socket.abort();
    }
    let guard = Arc::new(guard);
    let served = Arc::clone(&guard);
    let service = service_fn(move |request| {
        let (admin_state, guard) = (Arc::clone(&admin_state), Arc::clone(&served));
        async move {
            let _asking = guard.begin_request();
            let answered = match browser::refusal(transport, &request) {
                Some(reason) => text(StatusCode::FORBIDDEN, reason),
                None if !admin_state.config_id.matches_request(request.headers()) => {
                    let own = admin_state.config_id.path().display();
                    let words =
                        format!("it is the daemon of {own}; name that file with --config if you mean it\n");
                    text(StatusCode::MISDIRECTED_REQUEST, &words)
                }
                None if guard.is_kept && !HEALTH.contains(&request.uri().path()) => {
                    text(StatusCode::SERVICE_UNAVAILABLE, KEPT)
                }
                None => match control::execute(&admin_state, transport, asker, &request).await {
                    Some(ordered) => ordered,
                    None => answer(&admin_state, &request).await,
                },
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
        // Errors of a connection are left to its client.
        _ = alarm::timeout_at(clock::now() + LIFETIME, connection.as_mut()) => {}
        () = guard.evicted() => {}
        () = never_asked(&guard) => {}
        () = watch.begun() => {
            connection.as_mut().graceful_shutdown();
            let _ = alarm::timeout_at(clock::now() + Duration::from_secs(1), connection).await;
        }
    }
}

/// The paths that are answered when only health is, and the response to all others then.
const HEALTH: [&str; 2] = ["/healthz", "/readyz"];
const KEPT: &str = "every place is taken but those for /healthz and /readyz: ask again in a moment\n";

/// Returns when the time for the first request is over.
async fn never_asked(guard: &ConnectionGuard) {
    alarm::sleep(PATIENCE_FIRST).await;
    if !guard.is_new() {
        std::future::pending::<()>().await;
    }
}
