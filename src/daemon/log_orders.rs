//! Orders about the log: its level for a while, and its files opened again.

use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::alarm;
use crate::blocking::BlockingTask;

use super::reload;
use super::start::RunningDaemon;

impl RunningDaemon {
    /// Sets the log level until a reload, or for that long.
    pub(super) fn override_log_level(&mut self, level: LevelFilter, lasting: Option<Duration>) {
        let number = self.admin_state.log.override_level(level);
        if let Some(before) = self.ordered_level.take() {
            before.stop();
        }
        let Some(lasting) = lasting else { return };
        let admin = &self.active.services().admin;
        let order = admin.child();
        let (log, watch) = (self.admin_state.log.clone(), order.watch());
        self.ordered_level = Some(order);
        admin.spawn(async move {
            tokio::select! {
                () = watch.begun() => {}
                () = alarm::sleep(lasting) => log.end_override(number),
            }
        });
    }

    /// On a thread of its own, because opening a file may block.
    pub(super) fn reopen_log(&self) {
        let log = self.admin_state.log.clone();
        if let Err(error) = BlockingTask::default().begin(move || reload::reopen(&log)) {
            tracing::error!(%error, "the log's files are not opened again: there is no thread for it");
        }
    }
}
