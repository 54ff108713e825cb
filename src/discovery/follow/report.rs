//! What is told of a cluster's discovery: its status, its metrics, and one log line for each change between working and failing.

use super::{Following, Question};
use crate::clock;
use crate::cluster::{DiscoveryStatus, ENDPOINTS_MAX, Origin, OriginKind};
use crate::discovery::query_result::QueryResult;
use crate::discovery::source_update::LastUpdate;

impl Following {
    pub(super) fn report(&self, has_names_settled: bool) -> DiscoveryStatus {
        // Of an address that a service, file or server names; one of a name is the name's.
        let dial_loop = self.loops.iter().find(|(host, _)| !self.follows_name(host)).map(|(_, error)| error);
        let service = self.service.as_ref().map(|asking| Origin {
            kind: OriginKind::Service,
            name: asking.service.name.clone(),
            found: self.targets.len(),
            succeeded: asking.succeeded,
            due: Some(asking.schedule.due()),
            error: asking.error.as_ref().or(dial_loop).cloned(),
        });
        let origin = |kind, name: String, last: &LastUpdate| Origin {
            kind,
            name,
            found: self.targets.len(),
            succeeded: last.succeeded,
            due: None,
            error: last.error.as_ref().or(dial_loop).cloned(),
        };
        let file = self.file.as_ref();
        let file =
            file.map(|file| origin(OriginKind::File, file.file.path.display().to_string(), &file.last));
        let remote = self.remote.as_ref();
        let remote =
            remote.map(|remote| origin(remote.source.kind, remote.source.name.clone(), &remote.last));
        let names = self.names.iter().map(|(name, known)| Origin {
            kind: OriginKind::Name,
            name: name.clone(),
            found: known.addresses().count(),
            succeeded: known.succeeded,
            due: Some(known.schedule.due()),
            error: known.error.clone().or_else(|| self.loops.get(name.trim_end_matches('.')).cloned()),
        });
        let is_settled = has_names_settled
            && self.service.as_ref().is_none_or(|asking| asking.is_settled)
            && self.file.as_ref().is_none_or(|file| file.last.is_settled)
            && self.remote.as_ref().is_none_or(|remote| remote.last.is_settled)
            && !self.awaits_kept();
        let origins: Vec<_> = service.into_iter().chain(file).chain(remote).chain(names).collect();
        self.metrics.set_failing(origins.iter().filter(|origin| origin.error.is_some()).count());
        let is_complete = is_settled && !self.in_flight.keys().any(|one| matches!(one, Question::Late(..)));
        let (endpoints, kept, is_of_source) = (self.applied.len(), self.kept, self.is_of_source);
        DiscoveryStatus { is_settled, is_complete, endpoints, is_of_source, kept, origins }
    }

    fn follows_name(&self, host: &str) -> bool {
        self.names.keys().any(|name| name.trim_end_matches('.') == host)
    }

    /// Counts an answer in the metrics, and logs it.
    pub(super) fn record_answer(
        &self,
        answer: QueryResult,
        kind: OriginKind,
        origin: &str,
        was_failing: bool,
        error: Option<String>,
        found: usize,
    ) {
        self.metrics.record_answer(answer.label());
        if answer == QueryResult::Good {
            self.metrics.record_success(clock::wall());
        }
        self.log_change(kind, origin, was_failing, error, found);
    }

    /// Logs one line for each change between working and failing.
    pub(super) fn log_change(
        &self,
        kind: OriginKind,
        origin: &str,
        was_failing: bool,
        error: Option<String>,
        found: usize,
    ) {
        let (cluster, kind) = (&self.cluster.settings().name, kind.label());
        match error {
            Some(error) if !was_failing => {
                tracing::warn!(%cluster, kind, origin, error, kept = found, "discovery failed; the known endpoints stay in use");
            }
            None if was_failing => {
                tracing::info!(%cluster, kind, origin, found, "discovery works again")
            }
            Some(_) | None => {}
        }
    }

    pub(super) fn warn_of_excess(&mut self, leaves_some_out: bool) {
        if leaves_some_out && !self.leaves_some_out {
            let cluster = &self.cluster.settings().name;
            tracing::warn!(%cluster, most = ENDPOINTS_MAX, "more endpoints than are used; the rest is left out");
        }
        self.leaves_some_out |= leaves_some_out;
    }
}
