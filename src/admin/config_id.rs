//! Identifies a daemon by its configuration file, and checks whether a request is meant for it.
//!
//! Two daemons of one user that do not set `admin.control` have the same default path for it, and one HTTP address may
//! be another daemon's by now. So a request on behalf of a file names it, and a daemon of another file refuses.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_encode};

use crate::digest::Digester;

/// The configuration file that a request is meant for, once for each of its names; bytes that are not printable ASCII
/// are percent-encoded.
pub(crate) const MEANT: HeaderName = HeaderName::from_static("ambassador-config");

const ENCODED: &AsciiSet = &CONTROLS.add(b'%').add(b' ');

/// A configuration file by the names that distinguish it from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigId {
    /// With its folder's links resolved, but not its own: the target of the file's own link may change while it is in
    /// use.
    named: PathBuf,
    /// With all links resolved.
    real: PathBuf,
}

impl ConfigId {
    /// For the file as it is now. It reads the file system, which may block.
    #[must_use]
    pub fn of(file: &Path) -> Self {
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let folder = absolute.parent().and_then(|folder| folder.canonicalize().ok());
        let named = match (folder, absolute.file_name()) {
            (Some(folder), Some(name)) => folder.join(name),
            (None, _) | (_, None) => absolute.clone(),
        };
        let real = absolute.canonicalize().unwrap_or_else(|_| named.clone());
        Self { named, real }
    }

    /// The path for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.named
    }

    /// The headers of a request that is meant for this file's daemon.
    pub fn headers(&self) -> impl Iterator<Item = HeaderValue> {
        let value = |path: &PathBuf| {
            let encoded = percent_encode(path.as_os_str().as_bytes(), ENCODED).to_string();
            HeaderValue::try_from(encoded).expect("printable ASCII and encoded bytes make a value")
        };
        [&self.named, &self.real].into_iter().map(value)
    }

    /// Whether a request with those headers is meant for this file's daemon; one that names no file is.
    #[must_use]
    pub fn matches_request(&self, headers: &HeaderMap) -> bool {
        let mut names = headers.get_all(&MEANT).iter().peekable();
        names.peek().is_none() || names.any(|name| self.is_called(&decoded(name)))
    }

    fn is_called(&self, name: &Path) -> bool {
        name == self.named || name == self.real
    }

    /// Where this file's daemon has its control socket when another daemon has the default path, the likeliest first.
    pub fn alternative_control_sockets(&self, default: &Path) -> impl Iterator<Item = PathBuf> {
        let mut both = vec![self.beside(default, &self.named), self.beside(default, &self.real)];
        both.dedup();
        both.into_iter()
    }

    fn beside(&self, default: &Path, name: &Path) -> PathBuf {
        let mut digester = Digester::default();
        digester.add(name.as_os_str().as_bytes());
        let digest = digester.digest();
        let mut file = OsString::from(default.file_stem().unwrap_or_else(|| OsStr::new("control")));
        file.push(format!("-{}.sock", digest.short()));
        default.with_file_name(file)
    }
}

fn decoded(value: &HeaderValue) -> PathBuf {
    let bytes: Vec<u8> = percent_decode(value.as_bytes()).collect();
    PathBuf::from(OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn asked(by: &ConfigId) -> HeaderMap {
        by.headers().map(|value| (MEANT, value)).collect()
    }

    #[test]
    fn a_file_is_known_by_each_of_its_names_and_no_other_is_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["one.yaml", "zwei ä%20.yaml"] {
            std::fs::write(at(name), "").unwrap();
        }
        symlink("one.yaml", at("link.yaml")).unwrap();
        symlink(".", at("folder")).unwrap();
        let one = ConfigId::of(&at("one.yaml"));
        for name in ["one.yaml", "link.yaml", "folder/one.yaml", "folder/folder/link.yaml"] {
            assert!(one.matches_request(&asked(&ConfigId::of(&at(name)))), "{name}");
        }
        let other = ConfigId::of(&at("zwei ä%20.yaml"));
        assert!(other.matches_request(&asked(&other)));
        assert!(!one.matches_request(&asked(&other)) && !other.matches_request(&asked(&one)));
        assert!(one.matches_request(&HeaderMap::new()), "whoever names no file means whoever listens");
        let default = Path::new("/run/ambassador/control.sock");
        let beside = |id: &ConfigId| id.alternative_control_sockets(default).next().unwrap();
        assert!(beside(&one).starts_with("/run/ambassador"));
        assert_ne!(beside(&one), beside(&other));
    }

    /// As Kubernetes swaps a configuration: it is the same daemon's before and after.
    #[test]
    fn what_the_file_is_a_link_to_may_change() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["1.yaml", "2.yaml"] {
            std::fs::write(at(name), "").unwrap();
        }
        symlink("1.yaml", at("l.yaml")).unwrap();
        let before = ConfigId::of(&at("l.yaml"));
        std::fs::remove_file(at("l.yaml")).unwrap();
        symlink("2.yaml", at("l.yaml")).unwrap();
        let after = ConfigId::of(&at("l.yaml"));
        assert!(before.matches_request(&asked(&after)));
        let default = Path::new("control.sock");
        assert_eq!(
            before.alternative_control_sockets(default).next(),
            after.alternative_control_sockets(default).next()
        );
    }
}
