//! Makes the other modules' Settings from parsed sections, checked against each other and against the files
//! they name.
//!
//! A part that cannot be made is `None`, and the mistake was reported where it was found; the other parts
//! are still made, so one run shows every mistake. One file here per section.

mod address;
mod admin;
mod admission;
mod claimed_addresses;
mod cluster;
mod digest;
mod endpoint;
mod health_check;
mod host_view;
mod https;
mod identity;
mod kubernetes;
mod listener;
mod log;
mod login;
mod ports;
mod remote_source;
mod resilience;
mod tls;
mod xds;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::mistakes::{Findings, SourceLocation};
use super::raw::{Environment, Section};
use super::suggest::did_you_mean;
use super::{Config, FileAccess, Shutdown};
use crate::admin::ConfigId;
use crate::name::ClusterName;
use claimed_addresses::ClaimedAddresses;
pub(super) use host_view::HostView;
pub(super) use xds::XdsSection;

/// The clusters without mistakes.
type ClustersByName<'a> = BTreeMap<&'a ClusterName, &'a crate::cluster::Settings>;

pub(super) struct SettingsBuilder<'a> {
    pub(super) file: &'a Path,
    pub(super) environment: Environment<'a>,
    /// The files that the process is restricted to, if it is.
    pub(super) file_access: Option<&'a FileAccess>,
    /// Whether the process is or will be restricted.
    pub(super) is_confined: bool,
    pub(super) host: HostView,
    /// The control plane of section `xds`.
    pub(super) xds: XdsSection,
    pub(super) findings: &'a mut Findings,
}

impl SettingsBuilder<'_> {
    pub(super) fn config(&mut self, root: &Section) -> Option<Config> {
        self.is_confined = is_confined(root).unwrap_or_default();
        self.xds = self.xds(root);
        let mut identities = self.identities(root);
        let clusters: Vec<_> = root
            .names("clusters")
            .iter()
            .map(|(name, section)| self.cluster(name, section, &mut identities))
            .collect();
        self.warn_of_unused_identities(&identities);
        self.warn_of_unused_control_plane(root);

        let mut claimed = ClaimedAddresses::default();
        let known: BTreeSet<_> = root.names("clusters").iter().map(|(name, _)| name.as_str()).collect();
        let listeners: Vec<_> = root
            .names("listeners")
            .iter()
            .map(|(name, section)| self.listener(name, section, root, &known, &mut claimed))
            .collect();
        self.warn_of_unused_clusters(root);
        let admin = self.admin(root, &mut claimed);
        let log = self.log(root);
        let keep = self.keep(root);

        self.require_one(root, "listeners");
        self.require_one(root, "clusters");
        let by_name = clusters.iter().flatten().map(|cluster| (&cluster.name, cluster)).collect();
        self.refuse_loops(root, &listeners, &by_name);
        self.judge_queue_limits(root, &listeners, &by_name);
        self.require_login_guards(root, &listeners, &by_name);
        let listeners: Vec<_> = listeners.into_iter().collect::<Option<_>>()?;
        let clusters: Vec<_> = clusters.into_iter().collect::<Option<_>>()?;
        Some(Config {
            file: self.file.to_owned(),
            id: ConfigId::of(self.file),
            admin: admin?,
            log: log?,
            workers: workers(root)?,
            is_confined: is_confined(root)?,
            shutdown: shutdown(root)?,
            keep: keep?,
            listeners,
            clusters,
            warnings: self.findings.warning_lines(self.file),
        })
    }

    /// The folder of kept endpoints.
    fn keep(&mut self, root: &Section) -> Option<Option<PathBuf>> {
        let discovery = root.section("discovery")?;
        let at = discovery.at("keep");
        let folder = match discovery.optional_text("keep")? {
            Some("none") => return Some(None),
            Some(text) => absolute(&self.path(text)),
            None => {
                // systemd.exec(5): several are separated by colons.
                let given = (self.environment)("STATE_DIRECTORY").unwrap_or_default();
                let first = given.split(':').find(|folder| !folder.is_empty()).map(PathBuf::from);
                // A folder of systemd's that cannot be written is reported when something is written.
                return Some(first.filter(|folder| {
                    let file = folder.join("kept");
                    self.file_access.is_none_or(|file_access| file_access.may_replace(&file))
                }));
            }
        };
        if !folder.is_dir() {
            let message = format!("{} is no folder: nothing is kept", folder.display());
            self.findings.warning(&at, message);
        }
        self.require_replaceable(&folder.join("kept"), &at)?;
        Some(Some(folder))
    }

    fn require_one(&mut self, root: &Section, name: &str) {
        if root.is_empty_map(name) {
            self.findings.mistake(&root.at(name), format!("there are none; `{name}` needs at least one"));
        }
    }

    fn warn_of_unused_clusters(&mut self, root: &Section) {
        let used: BTreeSet<_> =
            root.names("listeners").iter().flat_map(|(_, listener)| listener::clusters(listener)).collect();
        for (name, cluster) in root.names("clusters") {
            if !used.contains(name.as_str()) {
                self.findings.warning(&cluster.at, "no listener leads to this cluster");
            }
        }
    }

    /// A name that must be in `known`; otherwise a mistake at `at`.
    fn require_known<'k>(
        &mut self,
        what: &str,
        name: &str,
        mut known: impl Iterator<Item = &'k str> + Clone,
        at: &SourceLocation,
    ) -> Option<()> {
        if known.clone().any(|known| known == name) {
            return Some(());
        }
        let advice = match known.next() {
            None => format!("; the file has no {what} at all"),
            Some(first) => did_you_mean(name, std::iter::once(first).chain(known)),
        };
        let name = super::mistakes::quoted(name);
        self.findings.mistake(at, format!("there is no {what} {name}{advice}"));
        None
    }

    /// A path of the file: a relative one starts from the file's own folder.
    fn path(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or_else(|| Path::new("")).join(path)
    }

    /// [`Self::path`] for a file that is read, now and later.
    fn readable(&mut self, written: &str, at: &SourceLocation) -> Option<PathBuf> {
        // Absolute, because a message about a missing file should show where a relative path starts.
        let path = absolute(&self.path(written));
        if written.starts_with('~') && !path.exists() {
            let message = format!("{}: `~` is not expanded here; write the whole path", path.display());
            self.findings.mistake(at, message);
            return None;
        }
        if self.file_access.is_some_and(|file_access| !self.host.may_read(file_access, &path)) {
            self.inaccessible(at, "read files there", path.parent());
            return None;
        }
        Some(path)
    }

    /// Reports a mistake if no socket may be made at that path.
    fn require_bindable(&mut self, path: &Path, at: &SourceLocation) -> Option<()> {
        if self.file_access.is_some_and(|file_access| !self.host.may_bind(file_access, path)) {
            self.inaccessible(at, "make sockets there", path.parent());
            return None;
        }
        self.warn_of_open_folder(path, at);
        self.require_folder(path, at)
    }

    /// Reports a mistake if that file may not be written to.
    fn require_writable(&mut self, path: &Path, at: &SourceLocation) -> Option<()> {
        if self.file_access.is_some_and(|file_access| !file_access.may_write(path)) {
            self.inaccessible(at, "write files there", path.parent());
            return None;
        }
        self.warn_of_open_folder(path, at);
        if path.exists() { Some(()) } else { self.require_folder(path, at) }
    }

    /// Reports a mistake if that file may not be replaced.
    fn require_replaceable(&mut self, path: &Path, at: &SourceLocation) -> Option<()> {
        if self.file_access.is_some_and(|file_access| !file_access.may_replace(path)) {
            self.inaccessible(at, "replace files there", path.parent());
            return None;
        }
        self.warn_of_open_folder(path, at);
        self.require_folder(path, at)
    }

    /// Warns where others could put a file of theirs in place of ours.
    fn warn_of_open_folder(&mut self, path: &Path, at: &SourceLocation) {
        if let Some(mode) = self.host.open_to_others(path) {
            let folder = path.parent().unwrap_or_else(|| Path::new(".")).display();
            let message = format!(
                "other users may write in {folder} (mode {mode:04o}) and could replace this path: give it a \
                 folder of its own (RuntimeDirectory=, LogsDirectory=)"
            );
            self.findings.warning(at, message);
        }
    }

    /// Making a file directly in `/` would need the right to make, and remove, files everywhere.
    fn require_folder(&mut self, path: &Path, at: &SourceLocation) -> Option<()> {
        if self.is_confined && path.parent().is_some_and(|folder| folder.parent().is_none()) {
            let message = "would be made directly in `/`, and so it would take the right to do so everywhere (Landlock): \
                           give it a folder, or write `runtime: { landlock: off }`";
            self.findings.mistake(at, message);
            return None;
        }
        Some(())
    }

    fn inaccessible(&mut self, at: &SourceLocation, what: &str, folder: Option<&Path>) {
        let folder = folder.unwrap_or_else(|| Path::new("/")).display();
        let message = format!(
            "is in {folder}, and since its start this process may not {what} (Landlock): replace it (SIGUSR2), which \
             ends no session, or restart it"
        );
        self.findings.mistake(at, message);
    }
}

pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn workers(root: &Section) -> Option<usize> {
    let runtime = root.section("runtime")?;
    if runtime.is_given("workers") {
        return usize::try_from(runtime.integer("workers")?).ok();
    }
    // As many as the cgroup and the affinity mask allow.
    Some(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

fn is_confined(root: &Section) -> Option<bool> {
    root.section("runtime")?.choice("landlock", &[("auto", true), ("off", false)])
}

fn shutdown(root: &Section) -> Option<Shutdown> {
    let shutdown = root.section("shutdown")?;
    Some(Shutdown {
        lame_duck: shutdown.duration("lame_duck")?,
        drain_timeout: shutdown.duration("drain_timeout")?,
        replaced_timeout: shutdown.duration_or_none("replaced_timeout")?,
    })
}
