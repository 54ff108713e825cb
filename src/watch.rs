//! Follows files: reports that one may have changed, however it was replaced.
//!
//! Folders are watched rather than files: a file that is renamed into place is a new one, and where there is a
//! symbolic link, the link changes (Kubernetes swaps `..data`, certbot the links of `live/`). So the folder of each
//! link on the way to a file is watched, and the watches are made anew after every change. Reading the files is left
//! to the caller.
//!
//! To find out what to watch, the file system is read, which may hang; so that is a [`BlockingTask`].
//!
//! inotify does not report what another host does to a network file system, nor that a folder further up is replaced.
//! So the caller is told to look after [`LOOK_ANYWAY`] in any case.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::alarm;
use crate::blocking::BlockingTask;
use crate::clock;
use crate::sys::Inotify;

/// Files that are followed. To be used on the thread it was made on.
#[derive(Debug)]
pub(crate) struct Watch {
    files: Arc<[PathBuf]>,
    watched: Option<Watched>,
    pending: Option<PendingEvents>,
    /// The task that finds out what to watch next.
    making: BlockingTask<Watched>,
    /// When [`Watch::changed`] returns in any case.
    anyway: Instant,
}

/// Why files are to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileEvent {
    /// The kernel reported a change.
    Changed,
    /// They were not looked at for [`LOOK_ANYWAY`].
    Overdue,
}

/// Events that were not reported yet: reported at `quiet`, which each event postpones, at `latest` anyway.
#[derive(Debug, Clone, Copy)]
struct PendingEvents {
    latest: Instant,
    quiet: Instant,
}

#[derive(Debug)]
struct Watched {
    inotify: Arc<Inotify>,
    /// The names of entries that count, in any folder.
    names: BTreeSet<OsString>,
}

/// The longest wait for a change.
pub(crate) const LOOK_ANYWAY: Duration = Duration::from_secs(60);
/// A change may take several files, or several steps: it is reported after this long without an event, and after
/// `QUIET_AT_LAST` in all.
const QUIET: Duration = Duration::from_millis(50);
const QUIET_AT_LAST: Duration = Duration::from_millis(500);
/// A file system that takes longer to read is not watched, only looked at after [`LOOK_ANYWAY`].
const PATIENCE: Duration = Duration::from_secs(2);
/// The number of links that the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

impl Watch {
    /// Follows those files from now on, whether they exist or not.
    pub(crate) async fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let (files, making) = (files.into_iter().collect(), BlockingTask::default());
        let mut watch =
            Self { files, watched: None, pending: None, making, anyway: clock::now() + LOOK_ANYWAY };
        watch.make().await;
        watch
    }

    /// Returns when a file may have changed, after the last of several changes, or when there was no event for
    /// [`LOOK_ANYWAY`]. A change after it returns is reported by the next call. Dropping the future loses no event.
    pub(crate) async fn changed(&mut self) -> FileEvent {
        let settled = async {
            match &self.watched {
                Some(watched) => watched.wait_settled(&mut self.pending).await,
                // Without inotify, only [`LOOK_ANYWAY`] ends the wait.
                None => std::future::pending().await,
            }
        };
        let _ = alarm::timeout_at(self.anyway, settled).await;
        // Before the caller reads the files, so that a change during the read is reported again.
        self.make().await;
        self.anyway = clock::now() + LOOK_ANYWAY;
        if self.pending.take().is_some() { FileEvent::Changed } else { FileEvent::Overdue }
    }

    /// Watches the folders that count now; none, if it takes longer than [`PATIENCE`] to find them.
    async fn make(&mut self) {
        if !self.making.is_busy() {
            let Ok(inotify) = Inotify::new().inspect_err(
                |error| tracing::debug!(%error, "no inotify: files are looked at once a minute"),
            ) else {
                self.watched = None;
                return;
            };
            let (files, inotify) = (Arc::clone(&self.files), Arc::new(inotify));
            let begun = self.making.begin(move || watched(&files, inotify));
            if let Err(error) = begun {
                tracing::debug!(%error, "no thread: files are looked at once a minute");
            }
        }
        if self.making.is_busy() {
            let made = alarm::timeout_at(clock::now() + PATIENCE, self.making.join()).await;
            self.watched = made.ok().and_then(Result::ok);
        } else {
            self.watched = None;
        }
    }
}

impl Watched {
    async fn wait_event(&self) -> io::Result<()> {
        self.inotify.wait_event(|name: &OsStr| self.names.contains(name)).await
    }

    /// `pending` is the caller's, because this future may be dropped at any time and the kernel reports each event once.
    async fn wait_settled(&self, pending: &mut Option<PendingEvents>) {
        if pending.is_none() {
            if self.wait_event().await.is_err() {
                // Not expected of a descriptor of our own; the caller's deadline still ends the wait.
                return std::future::pending().await;
            }
            let now = clock::now();
            *pending = Some(PendingEvents { latest: now + QUIET_AT_LAST, quiet: now + QUIET });
        }
        while let Some(PendingEvents { latest, quiet }) = pending
            && alarm::timeout_at(*quiet.min(latest), self.wait_event()).await.is_ok()
        {
            *quiet = clock::now() + QUIET;
            if clock::now() >= *latest {
                return;
            }
        }
    }
}

fn watched(files: &[PathBuf], inotify: Arc<Inotify>) -> Watched {
    let mut names = BTreeSet::new();
    let mut folders = BTreeSet::new();
    for (folder, name) in files.iter().flat_map(|file| steps(file)) {
        folders.insert(folder);
        names.insert(name);
    }
    for folder in &folders {
        // If a folder does not exist yet, its nearest ancestor is watched for its creation.
        let nearest = folder.ancestors().find(|folder| inotify.follow(folder).is_ok());
        if nearest != Some(folder) {
            names.extend(folder.components().map(|step| step.as_os_str().to_owned()));
        }
    }
    Watched { inotify, names }
}

/// The directory entries that decide what `file` is: each link on the way, and the file at the end, as folder and
/// name. The folders' paths have no links, except after a loop of links.
#[must_use]
pub(crate) fn steps(file: &Path) -> Vec<(PathBuf, OsString)> {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let mut todo: VecDeque<OsString> = components(&absolute).collect();
    let (mut folder, mut found, mut links) = (PathBuf::from("/"), Vec::new(), 0);
    while let Some(step) = todo.pop_front() {
        match Path::new(&step).components().next() {
            Some(Component::RootDir) => folder = PathBuf::from("/"),
            Some(Component::ParentDir) => drop(folder.pop()),
            Some(Component::Normal(_)) => {
                let entry = folder.join(&step);
                match entry.read_link() {
                    Ok(target) if links < LINKS_MAX => {
                        links += 1;
                        found.push((folder.clone(), step));
                        for step in components(&target).collect::<Vec<_>>().into_iter().rev() {
                            todo.push_front(step);
                        }
                    }
                    _ if todo.is_empty() => found.push((folder.clone(), step)),
                    _ => folder = entry,
                }
            }
            Some(Component::CurDir | Component::Prefix(_)) | None => {}
        }
    }
    found
}

fn components(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().map(|component| component.as_os_str().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// What `act` does to the files is noticed well before [`LOOK_ANYWAY`].
    fn check(file: &Path, act: impl FnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let watching = async {
                let mut watch = Watch::new([file.to_owned()]).await;
                act();
                alarm::timeout_at(clock::now() + LOOK_ANYWAY / 2, watch.changed()).await
            };
            assert_eq!(alarm::drive(watching).await.expect("alarms"), Ok(FileEvent::Changed));
        });
    }

    #[test]
    fn a_file_that_is_written_or_renamed_into_place_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.pem");
        check(&file, || fs::write(&file, "new").unwrap());
        check(&file, || {
            fs::write(dir.path().join("other"), "newer").unwrap();
            fs::rename(dir.path().join("other"), &file).unwrap();
        });
        check(&file, || fs::remove_file(&file).unwrap());
    }

    #[test]
    fn a_link_on_the_way_that_is_swapped_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for version in ["..1", "..2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("a.pem"), version).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/a.pem", at("a.pem")).unwrap();
        check(&at("a.pem"), || {
            symlink("..2", at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        });
        // Through a link elsewhere, whose target is another file now.
        check(&at("a.pem"), || fs::write(at("..2").join("a.pem"), "3").unwrap());
    }

    /// The kernel had reported the change, and it was lost when the wait for silence was dropped.
    #[test]
    fn a_change_is_not_forgotten_when_nobody_waits_for_a_moment() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.pem");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let watching = async {
                let mut watch = Watch::new([file.clone()]).await;
                fs::write(&file, "new").unwrap();
                let begun = clock::now();
                let short = QUIET / 10;
                while alarm::timeout_at(clock::now() + short, watch.changed()).await.is_err() {
                    assert!(clock::now() - begun < LOOK_ANYWAY / 2, "it was forgotten");
                }
            };
            alarm::drive(watching).await.expect("alarms");
        });
    }

    #[test]
    fn a_folder_that_is_made_later_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("later").join("still").join("a.pem");
        check(&file, || fs::create_dir_all(file.parent().unwrap()).unwrap());
        check(&file, || fs::write(&file, "here").unwrap());
    }

    #[test]
    fn links_that_lead_nowhere_or_in_a_circle_end() {
        let dir = tempfile::tempdir().unwrap();
        symlink("round", dir.path().join("round")).unwrap();
        assert!(steps(&dir.path().join("round")).len() <= LINKS_MAX + 1);
        assert_eq!(steps(Path::new("/no/such/file")), [(PathBuf::from("/no/such"), "file".into())]);
        assert_eq!(steps(Path::new("/a/../b")), [(PathBuf::from("/"), "b".into())]);
    }
}
