//! The endpoints on disk: those in use go there, and come back where nothing else is known.

use std::time::{Instant, SystemTime};

use super::Following;
use crate::clock;
use crate::cluster::Source;
use crate::discovery::keeping::Keeping;
use crate::discovery::kept::KeptEndpoints;

impl Following {
    pub(super) fn begin_keeping(&mut self) {
        let source = self.cluster.settings().source.as_ref().and_then(Source::identity);
        let (folder, name) = (self.services.keep.clone(), self.cluster.settings().name.clone());
        self.keeping = Some(Keeping::new(folder, name, source, !self.applied.is_empty()));
    }

    /// Nothing else is known, so what was kept is used.
    pub(super) fn use_kept(&mut self, KeptEndpoints { mut endpoints, written }: KeptEndpoints) {
        let is_wanted = self.keeping.as_ref().is_some_and(Keeping::is_wanted);
        endpoints.retain(|one| !self.is_loop(one));
        if !is_wanted || !self.applied.is_empty() || endpoints.is_empty() {
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
        self.set_kept(Some(written));
    }

    pub(super) fn set_kept(&mut self, kept: Option<SystemTime>) {
        self.kept = kept;
        self.metrics.set_kept(kept);
        if let Some(keeping) = &mut self.keeping {
            keeping.unwant();
        }
    }

    /// Writes the endpoints in use to disk if all that is asked has answered well, and wants those on disk if nothing has. Returns
    /// when to come back.
    pub(super) fn keep(&mut self) -> Option<Instant> {
        let (status, now) = (self.cluster.discovery(), clock::now());
        let has_failed = status.origins.iter().any(|origin| origin.error.is_some());
        let keeping = self.keeping.as_mut()?;
        if self.applied.is_empty() {
            keeping.want(has_failed, now);
            return keeping.due();
        }
        if self.kept.is_some() || has_failed || !status.is_settled {
            return None;
        }
        keeping.keep(&self.applied, now, clock::wall())
    }
}
