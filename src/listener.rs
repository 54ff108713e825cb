//! Accepts connections and hands each to a worker as a session.
//!
//! It decides only who is over the cap; everything else about a connection is the session's. An accept
//! that fails for want of descriptors or memory is waited out, never fatal: the connection stays in the
//! kernel's queue meanwhile.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustix::io::Errno;

use crate::alarm;
use crate::clock;
use crate::drain::{Drain, DrainWatch};
use crate::name::{ClusterName, ListenerName};
use crate::policy::sampling::Sampling;
use crate::session::{self, AccessLog, AdmissionSettings, Route};
use crate::sys::{Accepted, Bind, ListeningSocket, Peer};
use crate::upstream::discovery::EntryPoint;
use crate::workers::Workers;

/// One listener, complete and consistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub name: ListenerName,
    /// Where it accepts; at least one.
    pub binds: Vec<Bind>,
    /// The clusters its sessions go to: at least one, more only with `context`. They exist.
    pub clusters: Vec<ClusterName>,
    /// Every connection begins with a CONNECT request, which names one of them.
    pub context: bool,
    /// Live sessions over all its addresses; more are refused.
    pub max_connections: u32,
    /// Every connection begins with a PROXY header, and comes from this host.
    pub accept_proxy: bool,
    /// Which sessions leave a record; `None`: none does.
    pub records: Option<Sampling>,
    /// Who may connect, and what each caller may take.
    pub admission: AdmissionSettings,
}

/// Where these would accept, with each cluster that they lead to; a port of the kernel's choice is nobody's yet.
pub(crate) fn entry_points<'a>(listeners: impl IntoIterator<Item = &'a Settings>) -> Vec<EntryPoint> {
    let of = |listener: &'a Settings| {
        let addresses = listener.binds.iter().filter_map(|bind| match bind {
            Bind::Tcp(address) => Some(*address),
            Bind::Unix(_) | Bind::Systemd(_) => None,
        });
        let is_only = !listener.context;
        addresses.flat_map(move |address| {
            let clusters = listener.clusters.iter();
            clusters.map(move |cluster| EntryPoint { address, cluster: cluster.clone(), is_only })
        })
    };
    listeners.into_iter().flat_map(of).collect()
}

/// Where a listener's connections go at the moment. A reload puts another route in its place; each connection goes the
/// whole way by the one that it was accepted for.
#[derive(Debug)]
pub(crate) struct RouteCell(ArcSwap<Route>);

impl RouteCell {
    /// Begins with that one.
    #[must_use]
    pub(crate) fn new(route: Arc<Route>) -> Self {
        Self(ArcSwap::new(route))
    }

    /// The route for a connection that is accepted now.
    #[must_use]
    pub(crate) fn get(&self) -> Arc<Route> {
        self.0.load_full()
    }

    /// From now on that one.
    pub(crate) fn set(&self, route: Arc<Route>) {
        self.0.store(route);
    }
}

/// What every accept loop needs.
#[derive(Debug, Clone)]
pub(crate) struct AcceptContext {
    /// Where the listener's connections go.
    pub current: Arc<RouteCell>,
    /// Who runs them.
    pub workers: Arc<Workers>,
    /// Where their records go.
    pub access: Arc<AccessLog>,
    /// What tracks them.
    pub drain: Drain,
}

/// Accepts until the drain begins, and then those that wait already.
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
                            // It is accepted, and so it is served.
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
    // Whoever is connected already was promised to be served: closing the socket would reset them.
    for _ in 0..WAITING_MAX {
        let Ok((accepted, peer)) = listening.accept_waiting() else { break };
        service.begin(accepted, peer);
    }
}

/// As many as the kernel's queue holds.
const WAITING_MAX: usize = 4096;

impl AcceptContext {
    /// Whoever connects meanwhile waits in the kernel's queue.
    async fn wait_out(&self, error: &io::Error, pause: &mut AcceptBackoff) {
        let route = self.current.get();
        route.metrics().accept_errors.increment(1);
        if let Some(wait) = pause.after(error) {
            if pause.is_news(clock::now()) {
                tracing::warn!(listener = %route.listener(), %error, "cannot accept; whoever connects waits in the queue");
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
        let worker = self.workers.least_loaded();
        let access = Arc::clone(&self.access);
        self.drain.spawn_on(worker.handle(), session::run(accepted, admitted, access, worker.load()));
    }
}

/// The wait after an accept that failed for want of something the process shares: doubling, so that a host
/// out of descriptors is not made worse by a loop that asks for more.
#[derive(Debug, Default)]
struct AcceptBackoff {
    last: Option<Duration>,
    /// Errors in a row that seemed to belong to one connection each.
    single: u32,
    said: Option<Instant>,
}

impl AcceptBackoff {
    const FIRST: Duration = Duration::from_millis(5);
    const MOST: Duration = Duration::from_secs(1);
    /// So many in a row are no coincidence (a filter forbids every accept, say).
    const SINGLE_MAX: u32 = 16;

    /// How often it is said, at most: at the limit, every connection that ends lets another in.
    const SAID_AGAIN: Duration = Duration::from_secs(10);

    fn reset(&mut self) {
        *self = Self { said: self.said, ..Self::default() };
    }

    /// Whether it was not said a short while ago.
    fn is_news(&mut self, now: Instant) -> bool {
        let is_news = self.said.is_none_or(|said| now.saturating_duration_since(said) >= Self::SAID_AGAIN);
        if is_news {
            self.said = Some(now);
        }
        is_news
    }

    /// `None` for an error that belongs to one connection (it was reset in the queue, a firewall forbade it):
    /// the next may be fine.
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
