//! A file that is replaced as a whole: at any moment its name is that of a whole one, the old or the new.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;

/// Replaces the file, or makes it: with mode 0600, belonging to whom the old one, or else the folder, belongs to. The content is written
/// beside, flushed and renamed, and the folder flushed (rename(2), fsync(2)). A link stays one. It may block.
///
/// # Errors
/// The file system's; then the old file is still there.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidFilename)?);
    // While a process is replaced by its successor, both may write the file.
    name.push(format!(".{}.new", std::process::id()));
    let beside = folder.join(name);
    // Of an earlier process with our number that was killed in the middle.
    let _ = fs::remove_file(&beside);
    let written = write_new(&beside, &path, folder, content).and_then(|()| fs::rename(&beside, &path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write_new(beside: &Path, path: &Path, folder: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    let owner = fs::metadata(path).or_else(|_| fs::metadata(folder))?;
    let own = file.metadata()?;
    if rustix::process::geteuid().is_root() && (own.uid(), own.gid()) != (owner.uid(), owner.gid()) {
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.write_all(content)?;
    file.sync_all()
}
