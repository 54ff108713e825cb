//! The endpoints on disk: those in use go there, and come back where nothing else is known.

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime};

use super::Following;
use crate::clock;
use crate::cluster::Source;
use crate::discovery::keeping::{KeepEvent, Keeping, KnownEndpoints};
use crate::discovery::kept::KeptEndpoints;

impl Following {
    pub(super) fn begin_keeping(&mut self) {
        let source = self.cluster.settings().source.as_ref().and_then(Source::identity);
        let (folder, name) = (self.services.keep.clone(), self.cluster.settings().name.clone());
        self.keeping = Some(Keeping::new(folder, name, source, !self.applied.is_empty()));
    }

    pub(super) fn take_keep_event(&mut self, event: KeepEvent) {
        if let KeepEvent::Read(Some(kept)) = event {
            self.use_kept(kept);
        }
    }

    /// Nothing else is known, so what was kept is used.
    fn use_kept(&mut self, KeptEndpoints { mut endpoints, written }: KeptEndpoints) {
        if !self.applied.is_empty() {
            return;
        }
        self.leave_out_loops(&mut endpoints);
        if endpoints.is_empty() {
            return;
        }
        let age = clock::wall().duration_since(written).unwrap_or_default();
        let cluster = &self.cluster.settings().name;
        tracing::warn!(
            %cluster, endpoints = endpoints.len(), age_seconds = age.as_secs(),
            "nobody says where its endpoints are; those that were kept on disk are used"
        );
        self.cluster.set_endpoints(endpoints.clone());
        self.outgoing.clone_from(&endpoints);
        self.applied = endpoints;
        self.is_of_source = true;
        self.set_kept(Some(written));
    }

    pub(super) fn set_kept(&mut self, kept: Option<SystemTime>) {
        self.kept = kept;
        self.metrics.set_kept(kept);
    }

    /// Whether sessions had better wait: nothing is known yet, but endpoints may come from disk.
    pub(super) fn awaits_kept(&self) -> bool {
        self.applied.is_empty() && self.keeping.as_ref().is_some_and(Keeping::may_give) && !self.says_none()
    }

    /// Whether the source has said, and is believed, that there are no endpoints.
    fn says_none(&self) -> bool {
        self.has_heard() && self.targets.is_empty()
    }

    /// Writes the endpoints in use to disk if the source has said them, and wants those on disk if nothing is known. Returns when to
    /// come back.
    pub(super) fn keep(&mut self) -> Option<Instant> {
        let now = clock::now();
        let is_heard = !self.applied.is_empty() || self.says_none();
        let has_failed = self.cluster.discovery().origins.iter().any(|origin| origin.error.is_some());
        let is_urgent = has_failed || self.held.is_some();
        let keeping = self.keeping.as_mut()?;
        if is_heard {
            keeping.unwant();
        }
        let due = keeping.want(is_urgent, now);
        if !keeping.may_give()
            && let Some(held) = self.held.take()
        {
            // There is nothing on disk that would speak against it, or it is in use by now.
            self.take_remote(held);
            self.apply_endpoints();
        }
        if self.applied.is_empty() || self.kept.is_some() || !self.has_heard() || !self.have_names_settled() {
            return due;
        }
        let failing = self.names.iter().filter(|(_, known)| known.error.is_some());
        let unresolved: BTreeSet<_> =
            failing.map(|(name, _)| name.trim_end_matches('.').to_owned()).collect();
        let confirmed = self.confirmed().unwrap_or(now);
        let known = KnownEndpoints { endpoints: &self.applied, unresolved: &unresolved, confirmed };
        self.keeping.as_mut()?.keep(known, now, clock::wall())
    }

    /// Since when, at least, all that is known has been said to be so.
    fn confirmed(&self) -> Option<Instant> {
        let names = self.names.values().filter(|known| known.error.is_none());
        let names = names.filter_map(|known| known.succeeded);
        let service = self.service.as_ref().and_then(|asking| asking.succeeded);
        let remote = self.remote.as_ref().and_then(|remote| remote.last.succeeded);
        names.chain(service).chain(remote).min()
    }
}

#[cfg(test)]
mod tests;
