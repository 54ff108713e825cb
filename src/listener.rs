//! Accepts connections and hands each to a worker as a session.
//!
//! It decides nothing about a connection but whether it exceeds the cap. An accept that fails for want of descriptors
//! or memory is retried after a pause, never fatal: the connection stays in the kernel's queue meanwhile.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustix::io::Errno;

use crate::alarm;
use crate::clock;
use crate::discovery::ListenerEdge;
use crate::drain::{Drain, DrainWatch};
use crate::name::{ClusterName, ListenerName};
use crate::policy::sampling::Sampling;
use crate::session::{self, AccessLog, AdmissionSettings, Route};
use crate::sys::{Accepted, Bind, ListeningSocket, Peer};
use crate::workers::Workers;

/// The settings of one listener, complete and consistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its name in the file.
    pub name: ListenerName,
    /// Where it accepts; at least one.
    pub binds: Vec<Bind>,
    /// The clusters its sessions go to: at least one, more only with `context`. They exist.
    pub clusters: Vec<ClusterName>,
    /// Every connection begins with a CONNECT request, which names one of `clusters`.
    pub context: bool,
    /// Live sessions over all its addresses; more are refused.
    pub max_connections: u32,
    /// Every connection begins with a PROXY header, and has to come from this host.
    pub accept_proxy: bool,
    /// Which sessions leave a record; `None`: none does.
    pub records: Option<Sampling>,
    /// Who may connect, and the limits of each caller.
    pub admission: AdmissionSettings,
}

/// The TCP addresses of these listeners, with each cluster that they lead to. A port that the kernel is to choose is 0
/// here.
pub(crate) fn listener_edges<'a>(listeners: impl IntoIterator<Item = &'a Settings>) -> Vec<ListenerEdge> {
    let of = |listener: &'a Settings| {
        let addresses = listener.binds.iter().filter_map(|bind| match bind {
            Bind::Tcp(address) => Some(*address),
            Bind::Unix(_) | Bind::Systemd(_) => None,
        });
        let is_only = !listener.context;
        addresses.flat_map(move |address| {
            let clusters = listener.clusters.iter();
            clusters.map(move |cluster| ListenerEdge { address, cluster: cluster.clone(), is_only })
        })
    };
    listeners.into_iter().flat_map(of).collect()
}

/// A listener's current route. A reload swaps it; each connection keeps the route that it was accepted for.
#[derive(Debug)]
pub(crate) struct RouteCell(ArcSwap<Route>);

impl RouteCell {
    #[must_use]
    pub(crate) fn new(route: Arc<Route>) -> Self {
        Self(ArcSwap::new(route))
    }

    /// The route for a connection that is accepted now.
    #[must_use]
    pub(crate) fn get(&self) -> Arc<Route> {
        self.0.load_full()
    }

    pub(crate) fn set(&self, route: Arc<Route>) {
        self.0.store(route);
    }
}

/// What every accept loop needs.
#[derive(Debug, Clone)]
pub(crate) struct AcceptContext {
    pub current: Arc<RouteCell>,
    /// The workers that run the sessions.
    pub workers: Arc<Workers>,
    /// Writes the sessions' records.
    pub access: Arc<AccessLog>,
    pub drain: Drain,
}

/// Accepts until the drain begins, then accepts the connections that are in the kernel's queue.
pub(crate) async fn serve(listening: Arc<ListeningSocket>, service: AcceptContext, watch: DrainWatch) {
    let mut pause = AcceptBackoff::default();
    let mut stop = std::pin::pin!(watch.begun());
    'accepting: loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listening.accept() => accepted,
        };
        match accepted {
            Ok((accepted, peer)) => {
                let mut room = accepted.leaves_room();
                while let Err(error) = room {
                    tokio::select! {
                        biased;
                        () = &mut stop => {
                            // It is accepted already, so it is served.
                            service.begin(accepted, peer);
                            break 'accepting;
                        }
                        () = service.wait_out(&error, &mut pause) => room = accepted.is_room(),
                    }
                }
                pause.reset();
                service.begin(accepted, peer);
            }
            Err(error) => service.wait_out(&error, &mut pause).await,
        }
    }
    // Closing the socket would reset the connections in the queue, which count as established for their clients.
    for _ in 0..WAITING_MAX {
        let Ok((accepted, peer)) = listening.accept_waiting() else { break };
        service.begin(accepted, peer);
    }
}

/// The length of the kernel's queue (`BACKLOG` of `sys::bind`).
const WAITING_MAX: usize = 4096;

impl AcceptContext {
    /// Waits after a failed accept; connections stay in the kernel's queue meanwhile.
    async fn wait_out(&self, error: &io::Error, pause: &mut AcceptBackoff) {
        let route = self.current.get();
        route.metrics().accept_errors.increment(1);
        if let Some(wait) = pause.after(error) {
            if pause.is_news(clock::now()) {
                tracing::warn!(listener = %route.listener(), %error, "cannot accept; new connections wait in the kernel's queue");
            }
            alarm::sleep(wait).await;
        }
    }

    fn begin(&self, accepted: Accepted, peer: Peer) {
        let admitted = match self.current.get().admit(peer) {
            Ok(admitted) => admitted,
            Err(record) => {
                accepted.abort();
                return self.access.write(&record, record.accepted());
            }
        };
        let worker = self.workers.place(admitted.accepted());
        let access = Arc::clone(&self.access);
        self.drain.spawn_on(worker.handle(), session::run(accepted, admitted, access, worker.load()));
    }
}

/// The pause after an accept that failed for want of a shared resource. It doubles, so that a loop does not make it
/// worse for a host that is out of descriptors.
#[derive(Debug, Default)]
struct AcceptBackoff {
    last: Option<Duration>,
    /// Errors in a row that seemed to concern one connection each.
    single: u32,
    said: Option<Instant>,
}

impl AcceptBackoff {
    const FIRST: Duration = Duration::from_millis(5);
    const MOST: Duration = Duration::from_secs(1);
    /// This many in a row are no coincidence (a seccomp filter may forbid every accept).
    const SINGLE_MAX: u32 = 16;

    /// Between two log lines, at least: at the limit of descriptors every connection that ends lets another one in.
    const SAID_AGAIN: Duration = Duration::from_secs(10);

    fn reset(&mut self) {
        *self = Self { said: self.said, ..Self::default() };
    }

    /// Whether the last log line was long enough ago.
    fn is_news(&mut self, now: Instant) -> bool {
        let is_news = self.said.is_none_or(|said| now.saturating_duration_since(said) >= Self::SAID_AGAIN);
        if is_news {
            self.said = Some(now);
        }
        is_news
    }

    /// `None` for an error that concerns one connection (it was reset in the queue, a firewall forbade it): the next
    /// accept may succeed.
    fn after(&mut self, error: &io::Error) -> Option<Duration> {
        let starved = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
        if !starved.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
            self.single += 1;
            if self.single < Self::SINGLE_MAX {
                return None;
            }
        }
        let wait = self.last.map_or(Self::FIRST, |last| (last * 2).min(Self::MOST));
        self.last = Some(wait);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_starved_accept_waits_longer_each_time_and_starts_over_after_a_success() {
        let starved = io::Error::from_raw_os_error(Errno::MFILE.raw_os_error());
        let mut pause = AcceptBackoff::default();
        assert_eq!(pause.after(&starved), Some(Duration::from_millis(5)));
        assert_eq!(pause.after(&starved), Some(Duration::from_millis(10)));
        for _ in 0..10 {
            pause.after(&starved);
        }
        assert_eq!(pause.after(&starved), Some(Duration::from_secs(1)));
        pause.reset();
        assert_eq!(pause.after(&starved), Some(Duration::from_millis(5)));
    }

    #[test]
    fn a_connection_reset_in_the_queue_delays_nobody() {
        let reset = io::Error::from_raw_os_error(Errno::CONNABORTED.raw_os_error());
        let mut pause = AcceptBackoff::default();
        assert_eq!(pause.after(&reset), None);
        let last = (0..100).map(|_| pause.after(&reset)).last().flatten();
        assert_eq!(last, Some(Duration::from_secs(1)), "but a hundred in a row do");
    }
}
