//! The compiler from `listeners.yaml` to the Settings of the other modules, which know nothing of YAML.
//!
//! It has two stages. `document` and `raw` parse the text to a tree with positions and check it against the
//! table of keys in `spec`. `resolve` makes settings of it: names that exist, files that were read, addresses
//! that can be bound together. Every mistake of a file is found in one run. Nothing here opens a socket, and
//! no text makes it panic.

mod document;
mod file_access;
mod key_docs;
mod mistakes;
mod raw;
mod resolve;
mod schema;
mod spec;
mod suggest;
mod synonyms;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use file_access::FileAccess;
pub(crate) use key_docs::{KeyDoc, key_docs};
pub(crate) use mistakes::{Mistakes, Position};
pub(crate) use schema::schema;

use crate::admin::ConfigId;
use crate::{admin, cluster, listener, log};
use mistakes::{Findings, SourceLocation};

/// The whole configuration: complete, consistent, immutable. It is all that a daemon needs to start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// Distinguishes it from other files.
    pub id: ConfigId,
    /// Which admin interfaces there are, and where.
    pub admin: admin::Settings,
    /// The log's outputs and level.
    pub log: log::Settings,
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Whether the process restricts itself to its [`FileAccess`].
    pub is_confined: bool,
    /// How long the daemon drains, and what happens to its sessions then.
    pub shutdown: Shutdown,
    /// The folder where the last good endpoints of clusters are kept; `None`: they are not.
    pub keep: Option<PathBuf>,
    /// In the file's order.
    pub listeners: Vec<listener::Settings>,
    /// In the file's order.
    pub clusters: Vec<cluster::Settings>,
    /// What is valid but questionable, logged at every start, such as a server that is not verified.
    pub warnings: Vec<String>,
}

/// How the daemon stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// How long it goes on accepting after it has become not ready.
    pub lame_duck: Duration,
    /// How long sessions may go on after it has stopped accepting.
    pub drain_timeout: Duration,
    /// How long sessions may go on in a process that was replaced; `None`: as long as they last.
    pub replaced_timeout: Option<Duration>,
}

impl Config {
    /// Reads the file and every file it names, with `${NAME}` from the process's environment.
    ///
    /// # Errors
    /// All mistakes of the file.
    pub fn load(path: &Path) -> Result<Self, Mistakes> {
        Self::load_within(path, None)
    }

    /// [`Self::load`] in a process that is restricted to `file_access`: a file outside it is a mistake.
    ///
    /// # Errors
    /// All mistakes of the file.
    pub fn load_within(path: &Path, file_access: Option<&FileAccess>) -> Result<Self, Mistakes> {
        Self::parse_within(&text_of(path)?, path, &process_environment, file_access)
    }

    /// The files that the configuration needs, resolved as the file system is now.
    #[must_use]
    pub fn file_access(&self) -> FileAccess {
        FileAccess::of(self, &process_environment)
    }

    /// Reads only the section `admin`. The rest of the file need not be right or readable, nor its variables
    /// set in our environment: a command may run as another user than the daemon.
    ///
    /// # Errors
    /// What is wrong with section `admin`.
    pub fn load_admin(path: &Path) -> Result<admin::Settings, Mistakes> {
        Self::parse_admin(&text_of(path)?, path)
    }

    /// The defaults of section `admin`, for when there is no file.
    ///
    /// # Errors
    /// None in practice; the defaults are right.
    pub fn default_admin() -> Result<admin::Settings, Mistakes> {
        Self::parse_admin("{}", Path::new("listeners.yaml"))
    }

    fn parse_admin(text: &str, file: &Path) -> Result<admin::Settings, Mistakes> {
        let environment = &process_environment;
        let document = document::parse(text).map_err(|mistake| Mistakes::new(file, text, vec![mistake]))?;
        let mut findings = Findings::default();
        let root = raw::DocumentReader { environment: Some(environment), findings: &mut findings }
            .root(&spec::table::ROOT, &document);
        let settings = resolve::SettingsBuilder {
            file,
            environment,
            file_access: None,
            is_confined: false,
            host: resolve::HostView::default(),
            xds: resolve::XdsSection::default(),
            findings: &mut findings,
        }
        .admin_alone(&root);
        settings.ok_or_else(|| {
            findings.mistakes.retain(|(at, _)| at.path.starts_with("admin"));
            Mistakes::new(file, text, findings.mistakes)
        })
    }

    /// Compiles a text as if `file` had it: relative paths start from that file's folder. `${NAME}` and the
    /// default path of the control socket are looked up in `environment`.
    ///
    /// # Errors
    /// All mistakes of the text.
    pub fn parse(
        text: &str,
        file: &Path,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Mistakes> {
        Self::parse_within(text, file, environment, None)
    }

    fn parse_within(
        text: &str,
        file: &Path,
        environment: &dyn Fn(&str) -> Option<String>,
        file_access: Option<&FileAccess>,
    ) -> Result<Self, Mistakes> {
        if text.len() > document::TEXT_MAX {
            return Err(Mistakes::unreadable(file, TOO_LARGE.into()));
        }
        let document = document::parse(text).map_err(|mistake| Mistakes::new(file, text, vec![mistake]))?;
        if document.value.is_scalar() {
            // The text is not shown: it may be a file with a password.
            return Err(Mistakes::unreadable(file, "is no configuration: expected a map of sections".into()));
        }
        let mut findings = Findings::default();
        let root = raw::DocumentReader { environment: Some(environment), findings: &mut findings }
            .root(&spec::table::ROOT, &document);
        let config = resolve::SettingsBuilder {
            file,
            environment,
            file_access,
            is_confined: false,
            host: resolve::HostView::default(),
            xds: resolve::XdsSection::default(),
            findings: &mut findings,
        }
        .config(&root);
        match config {
            Some(config) if findings.mistakes.is_empty() => Ok(config),
            _ => {
                if findings.mistakes.is_empty() {
                    // Not reachable as long as the stages report every `None`; a message is better than a
                    // panic.
                    let at =
                        SourceLocation { position: Position { line: 1, column: 1 }, path: String::new() };
                    findings
                        .mistake(&at, "is refused without a reason, which is a mistake of ambassador itself");
                }
                let warnings = findings.warning_lines(file);
                Err(Mistakes::new(file, text, findings.mistakes).with(warnings))
            }
        }
    }
}

fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn text_of(path: &Path) -> Result<String, Mistakes> {
    let bytes = read(path).map_err(|error| {
        let whole = resolve::absolute(path);
        let from = if whole == path { "it".into() } else { whole.display().to_string() };
        let tilde = if path.starts_with("~") { "; `~` was left as it is" } else { "" };
        Mistakes::unreadable(path, format!("cannot read {from}: {error}{tilde}"))
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        let line = valid.split('\n').count();
        Mistakes::unreadable(path, format!("line {line} is not UTF-8 text"))
    })
}

const TOO_LARGE: &str = "is larger than 1 MiB";

/// Reads the file, up to just beyond the limit.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(document::TEXT_MAX).unwrap_or(u64::MAX);
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() > document::TEXT_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, TOO_LARGE));
    }
    Ok(bytes)
}
