//! Giving up all files but those that the configuration has to do with, and saying what came of it.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, Reach};
use crate::sys::{Confinement, ConfinementError, confine};

use super::words::list;

/// What was given up at the start.
#[derive(Debug)]
pub struct Confined {
    /// What is left, and how well the rest is kept from us; `None`: the file says that nothing be given up.
    outcome: Option<(Arc<Reach>, Result<Confinement, ConfinementError>)>,
}

impl Confined {
    /// Gives up what the configuration lets be given up, and the kernel knows how to. Before there is a second thread: what comes
    /// from the first one is bound by it too.
    #[must_use]
    pub fn as_far_as_possible(config: &Config) -> Self {
        let outcome = config.is_confined.then(|| {
            let reach = config.reach();
            let confined = confine(&reach.permissions());
            (Arc::new(reach), confined)
        });
        Self { outcome }
    }

    /// What a reload has to keep to; `None`: to nothing.
    pub(super) fn reach(&self) -> Option<Arc<Reach>> {
        match &self.outcome {
            Some((reach, Ok(Confinement::Whole | Confinement::Partly(_)))) => Some(Arc::clone(reach)),
            Some((_, Ok(Confinement::NotThere | Confinement::NotEnabled) | Err(_))) | None => None,
        }
    }

    /// In the log, for whoever asks what this process could do.
    pub(super) fn say(&self) {
        let Some((reach, confined)) = &self.outcome else {
            return tracing::info!("landlock: off, as runtime.landlock says");
        };
        let degree = match confined {
            Ok(Confinement::Whole) => String::new(),
            Ok(Confinement::Partly(version)) => {
                format!(", as far as this kernel goes (version {version} of Landlock's interface)")
            }
            Ok(Confinement::NotThere) => {
                return tracing::info!(
                    "landlock: nothing is given up, for this kernel has none, or a filter of system calls says so"
                );
            }
            Ok(Confinement::NotEnabled) => {
                return tracing::info!(
                    "landlock: nothing is given up, for this kernel was booted without it (lsm=)"
                );
            }
            Err(error) => return tracing::warn!(%error, "landlock: nothing is given up"),
        };
        let files = list(reach.files().map(Path::display));
        let sockets = match list(reach.sockets().map(Path::display)) {
            none if none.is_empty() => "no sockets".to_owned(),
            some => format!("sockets below {some}"),
        };
        let logs = match list(reach.logs().map(Path::display)) {
            none if none.is_empty() => "no files".to_owned(),
            some => format!("files below {some}"),
        };
        tracing::info!(
            "landlock: this process reads what is below {files}, and what every program of a host reads; it makes {sockets}, and \
             writes {logs}; nothing else{degree}"
        );
        for folder in reach.absent() {
            tracing::warn!(
                folder = %folder.display(),
                "landlock: a folder that the configuration names does not exist; when it does, this process cannot use it before it \
                 is replaced (SIGUSR2) or restarted"
            );
        }
    }
}
