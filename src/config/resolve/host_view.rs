//! What of the host a configuration depends on, each thing looked at once for all the clusters and listeners that name it:
//! a system call or two for each of thousands add up.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::FileAccess;
use crate::sys::Folder;
use crate::tls::CredentialFiles;

/// The host as it was found while one file was compiled.
#[derive(Default)]
pub(in crate::config) struct HostView {
    /// What the clusters' TLS is made of.
    pub(super) credential_files: CredentialFiles,
    name: OnceCell<String>,
    readable: RefCell<BTreeMap<PathBuf, bool>>,
    bindable: RefCell<BTreeMap<PathBuf, bool>>,
    open_folders: RefCell<BTreeMap<PathBuf, Option<u32>>>,
}

impl HostView {
    /// The host's own name, from uname(2).
    pub(super) fn name(&self) -> String {
        let name = self.name.get_or_init(|| {
            let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
            if name.is_empty() { "localhost".into() } else { name }
        });
        name.clone()
    }

    /// Whether `file_access`, always the same, has that file.
    pub(super) fn may_read(&self, file_access: &FileAccess, file: &Path) -> bool {
        once(&self.readable, file, || file_access.may_read(file))
    }

    /// Whether `file_access`, always the same, lets sockets be made in the folder of that one.
    pub(super) fn may_bind(&self, file_access: &FileAccess, socket: &Path) -> bool {
        let folder = socket.parent().unwrap_or_else(|| Path::new(""));
        once(&self.bindable, folder, || file_access.may_bind(socket))
    }

    /// The mode of the folder of `file`, if other users may write there.
    pub(super) fn open_to_others(&self, file: &Path) -> Option<u32> {
        let folder = file.parent().unwrap_or_else(|| Path::new(""));
        let look = || Folder::of(file).ok().and_then(|folder| folder.open_to_others());
        once(&self.open_folders, folder, look)
    }
}

fn once<T: Copy>(known: &RefCell<BTreeMap<PathBuf, T>>, path: &Path, look: impl FnOnce() -> T) -> T {
    if let Some(known) = known.borrow().get(path) {
        return *known;
    }
    let found = look();
    known.borrow_mut().insert(path.to_owned(), found);
    found
}
