//! The EndpointSlices of a Kubernetes Service, and the endpoints that they come to: which port, which conditions, whose zone.
//!
//! As kube-proxy does it, with one difference: endpoints that are hinted for other zones are not left out, but come last. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::endpoint_slice::{EndpointSlice, PortChoice, Readiness, SliceEndpoint, SlicePort};
use crate::cluster::{Target, ToTarget};
use crate::discovery::words;
use crate::escape::escaped;

/// The most slices that are held; with Kubernetes' own size of 100, far more endpoints than a cluster may have.
const SLICES_MAX: usize = 4096;
/// The most bytes that they may have together, as they came.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Of a service's ports so many are shown in an error.
const PORTS_SHOWN: usize = 8;

/// Which endpoints are made of slices, and how.
#[derive(Clone)]
pub(crate) struct EndpointChoice {
    pub(crate) port: PortChoice,
    /// Ours: endpoints hinted for it come first.
    pub(crate) zone: Option<String>,
    /// Makes targets.
    pub(crate) to_target: ToTarget,
}

impl fmt::Debug for EndpointChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointChoice")
            .field("port", &self.port)
            .field("zone", &self.zone)
            .finish_non_exhaustive()
    }
}

/// The slices of one service, by name.
#[derive(Debug, Default)]
pub(super) struct Slices {
    /// With its length.
    by_name: BTreeMap<String, (EndpointSlice, usize)>,
    bytes: usize,
}

/// An endpoint that may be used.
#[derive(Debug)]
struct Candidate<'a> {
    endpoint: &'a SliceEndpoint,
    readiness: Readiness,
    is_v6: bool,
}

impl Slices {
    /// Adds a slice, or replaces the one of its name. It came in so many bytes.
    ///
    /// # Errors
    /// It has no name, or there are too many.
    pub(super) fn put(&mut self, slice: EndpointSlice, bytes: usize) -> Result<(), String> {
        let name = slice.name().to_owned();
        if name.is_empty() {
            return Err("the answer has an EndpointSlice without a name: that is no Kubernetes".into());
        }
        self.remove(&name);
        self.bytes += bytes;
        self.by_name.insert(name, (slice, bytes));
        if self.by_name.len() > SLICES_MAX || self.bytes > BYTES_MAX {
            let most = BYTES_MAX / 1024 / 1024;
            return Err(format!(
                "the service has more than {SLICES_MAX} EndpointSlices, or {most} MiB of them"
            ));
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some((_, bytes)) = self.by_name.remove(name) {
            self.bytes -= bytes;
        }
    }

    fn all(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.by_name.values().map(|(slice, _)| slice)
    }

    /// The endpoints to use, by address and port, and what is wrong with others.
    ///
    /// # Errors
    /// The port is not clear.
    pub(super) fn targets(&self, choice: &EndpointChoice) -> Result<(Vec<Target>, Option<String>), String> {
        let candidates = usable(self.candidates(&choice.port)?);
        let zone = choice.zone.as_deref().filter(|zone| counts(&candidates, zone));
        let (mut targets, mut complaints) = (Vec::with_capacity(candidates.len()), Vec::new());
        for ((host, port), candidate) in &candidates {
            match (choice.to_target)(host, *port, 1) {
                Ok(target) => {
                    let priority = zone.map_or(0, |zone| u32::from(!candidate.endpoint.is_for(zone)));
                    targets.push(Target { priority, ..target });
                }
                Err(reason) => complaints.push(format!("endpoint {}: {reason}", words::shown(host))),
            }
        }
        Ok((targets, words::first_and_count(&complaints)))
    }

    /// Those that are ready or terminating. One may be in several slices for a moment; then it is as good as the best says.
    fn candidates(&self, port: &PortChoice) -> Result<BTreeMap<(&str, u16), Candidate<'_>>, String> {
        self.check_port(port)?;
        let mut found: BTreeMap<_, Candidate<'_>> = BTreeMap::new();
        for slice in self.all() {
            let (Some(is_v6), Some(port)) = (slice.is_v6(), slice.port(port)) else { continue };
            for endpoint in slice.endpoints() {
                let (Some(address), Some(readiness)) = (endpoint.address(), endpoint.readiness()) else {
                    continue;
                };
                let known = found.get(&(address, port)).map(|known| known.readiness);
                if known.is_none_or(|known| known < readiness) {
                    found.insert((address, port), Candidate { endpoint, readiness, is_v6 });
                }
            }
        }
        Ok(found)
    }

    /// That some slice with endpoints has the port, and that it is clear which one is meant.
    fn check_port(&self, choice: &PortChoice) -> Result<(), String> {
        let filled = || self.all().filter(|slice| !slice.endpoints().is_empty());
        let names: BTreeSet<_> = filled().flat_map(EndpointSlice::tcp_ports).map(SlicePort::name).collect();
        let is_clear = *choice != PortChoice::Only || names.len() <= 1;
        if filled().next().is_none() || is_clear && filled().any(|slice| slice.port(choice).is_some()) {
            return Ok(());
        }
        let shown: BTreeSet<_> =
            filled().flat_map(EndpointSlice::tcp_ports).map(ToString::to_string).collect();
        let shown: Vec<_> = shown.into_iter().take(PORTS_SHOWN).collect();
        let has =
            if shown.is_empty() { "no TCP port".into() } else { format!("TCP port {}", shown.join(", ")) };
        Err(match choice {
            PortChoice::Only if is_clear => {
                format!("the service has {has}, and no number of one: `port: NUMBER` says which")
            }
            PortChoice::Only => format!("the service has {has}: `port` says which"),
            PortChoice::Named(name) => format!("no port is named {}: the service has {has}", escaped(name)),
            PortChoice::Number(number) => {
                format!(
                    "its pods have no port {number} (the number is theirs, not the Service's): the service has {has}"
                )
            }
        })
    }
}

/// Those that are ready; where none is, those that still serve while they end, as kube-proxy does. A pod with addresses of both
/// families counts once, by the IPv4 one.
fn usable<'a>(mut found: BTreeMap<(&'a str, u16), Candidate<'a>>) -> BTreeMap<(&'a str, u16), Candidate<'a>> {
    let best = found.values().map(|candidate| candidate.readiness).max();
    found.retain(|_, candidate| Some(candidate.readiness) == best);
    let v4 = found.values().filter(|candidate| !candidate.is_v6);
    let pods: BTreeSet<_> = v4.filter_map(|candidate| candidate.endpoint.pod()).collect();
    found.retain(|_, candidate| {
        !candidate.is_v6 || candidate.endpoint.pod().is_none_or(|pod| !pods.contains(pod))
    });
    found
}

/// Whether hints count: each endpoint has some, one is for our zone, and all are ready.
fn counts(found: &BTreeMap<(&str, u16), Candidate<'_>>, zone: &str) -> bool {
    found.values().all(|candidate| {
        candidate.readiness == Readiness::Ready && candidate.endpoint.zones().next().is_some()
    }) && found.values().any(|candidate| candidate.endpoint.is_for(zone))
}
