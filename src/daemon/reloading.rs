//! Reloads, one after the other, and who waits for their results.

use tokio::sync::oneshot;

use crate::admin::ReloadResult;

use super::active_config::ActiveConfig;
use super::notify::{self, Notice};
use super::reload::Reload;
use super::start::RunningDaemon;

/// The current reload, and the requests for another one: the file may have changed since the current one read it.
#[derive(Default)]
pub(super) struct PendingReload {
    now: Option<Reload>,
    next: Option<Vec<oneshot::Sender<ReloadResult>>>,
}

impl PendingReload {
    /// Waits for the end of the current reload; for ever, if there is none. Cancel-safe.
    pub(super) async fn finish(&mut self, active: &mut ActiveConfig) -> ReloadResult {
        match &mut self.now {
            Some(reload) => reload.finish(active).await,
            None => std::future::pending().await,
        }
    }
}

impl RunningDaemon {
    /// Begins a reload now, or when the current one has ended.
    pub(super) fn reload(
        &self,
        reloading: &mut PendingReload,
        answer: Option<oneshot::Sender<ReloadResult>>,
    ) {
        if reloading.now.is_some() {
            reloading.next.get_or_insert_default().extend(answer);
        } else {
            self.begin_reload(reloading, answer.into_iter().collect());
        }
    }

    fn begin_reload(&self, reloading: &mut PendingReload, answers: Vec<oneshot::Sender<ReloadResult>>) {
        notify::send(&Notice::Reloading);
        reloading.now = Some(Reload::begin(&self.active, self.file_access.clone(), &self.readings, answers));
    }

    pub(super) fn finish_reload(&mut self, reloading: &mut PendingReload, reloaded: &ReloadResult) {
        if reloaded.ok
            && let Some(before) = self.ordered_level.take()
        {
            before.stop();
        }
        self.admin_state.record_reload(reloaded.ok);
        notify::send(&Notice::Ready);
        if let Some(reload) = reloading.now.take() {
            reload.reply(reloaded);
        }
        if let Some(answers) = reloading.next.take() {
            self.begin_reload(reloading, answers);
        }
    }
}
