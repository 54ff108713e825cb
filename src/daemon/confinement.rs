//! Restricts the process to the files that the configuration needs, and logs the result.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, FileAccess};
use crate::sys::{Confinement, ConfinementError, confine};

use super::startup_log::summarize;

/// The restriction applied at the start.
#[derive(Debug)]
pub(crate) struct ProcessConfinement {
    /// The files left, and how well the kernel enforces it; `None`: the configuration turns it off.
    outcome: Option<(Arc<FileAccess>, Result<Confinement, ConfinementError>)>,
}

impl ProcessConfinement {
    /// Restricts the process as far as the configuration asks and the kernel can. To be called before there is a second
    /// thread: threads inherit it.
    #[must_use]
    pub(crate) fn apply(config: &Config) -> Self {
        let outcome = config.is_confined.then(|| {
            let file_access = config.file_access();
            let confined = confine(&file_access.permissions());
            (Arc::new(file_access), confined)
        });
        Self { outcome }
    }

    /// The files that a reload is limited to; `None`: no limit.
    pub(super) fn file_access(&self) -> Option<Arc<FileAccess>> {
        match &self.outcome {
            Some((file_access, Ok(Confinement::Whole | Confinement::Partly(_)))) => {
                Some(Arc::clone(file_access))
            }
            Some((_, Ok(Confinement::NotThere | Confinement::NotEnabled) | Err(_))) | None => None,
        }
    }

    /// Logs what the process can access.
    pub(super) fn log(&self) {
        let Some((file_access, confined)) = &self.outcome else {
            return tracing::info!("landlock: off, as runtime.landlock says");
        };
        let degree = match confined {
            Ok(Confinement::Whole) => String::new(),
            Ok(Confinement::Partly(version)) => {
                format!(", as far as this kernel goes (version {version} of Landlock's interface)")
            }
            Ok(Confinement::NotThere) => {
                return tracing::info!(
                    "landlock: file access is not restricted: this kernel has no Landlock, or a filter of system calls hides it"
                );
            }
            Ok(Confinement::NotEnabled) => {
                return tracing::info!(
                    "landlock: file access is not restricted: this kernel was booted without Landlock (lsm=)"
                );
            }
            Err(error) => return tracing::warn!(%error, "landlock: file access is not restricted"),
        };
        let files = summarize(file_access.files().map(Path::display));
        let sockets = match summarize(file_access.sockets().map(Path::display)) {
            none if none.is_empty() => "no sockets".to_owned(),
            some => format!("sockets below {some}"),
        };
        let logs = match summarize(file_access.logs().map(Path::display)) {
            none if none.is_empty() => "no files".to_owned(),
            some => format!("files below {some}"),
        };
        tracing::info!(
            "landlock: this process reads what is below {files}, and what every program of a host reads; it makes {sockets}, and \
             writes {logs}; nothing else{degree}"
        );
        for folder in file_access.absent() {
            tracing::warn!(
                folder = %folder.display(),
                "landlock: a folder that the configuration names does not exist; when it does, this process cannot use it before it \
                 is replaced (SIGUSR2) or restarted"
            );
        }
    }
}
