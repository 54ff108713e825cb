//! The path of a program: on PATH, or in Debian's folders outside of PATH.
//!
//! Lacks installing: that is scripts/compare.
use std::env;
use std::fs;
use std::path::PathBuf;

pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Daemons are in sbin, which is not on every PATH, PostgreSQL's in a folder for each version.
    let folders = env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .chain(newest_postgresql());
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// The missing ones of `names`.
pub(crate) fn lacking(names: &[&str]) -> Option<String> {
    let missing: Vec<&str> = names.iter().copied().filter(|name| find(name).is_none()).collect();
    (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
}

fn newest_postgresql() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|entry| entry.ok());
    let number = |name: std::ffi::OsString| name.to_str()?.parse::<u32>().ok();
    let newest = versions.filter_map(|entry| Some((number(entry.file_name())?, entry.path())));
    newest.max().map(|(_, folder)| folder.join("bin"))
}
