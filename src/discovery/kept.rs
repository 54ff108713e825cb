//! The last good endpoints of a cluster, on disk: a host that boots while its control plane is down serves with them.
//!
//! They are used only where nothing else is known: when the first question has failed, or has had no answer for two seconds. What is
//! written is what was in use, so it needs no name server either. No secret is in it, and no certificate.
//!
//! The file is one line of JSON, replaced as a whole: written beside, flushed, renamed, and the folder flushed. It counts only for the
//! source that it was written for.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::fs::OFlags;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

use crate::cluster::{Addresses, ENDPOINTS_MAX, EndpointSettings as Settings, SourceIdentity};
use crate::name::{ClusterName, EndpointName};
use crate::sys::replace_file;

/// Of what is written today. Another one is not read.
const VERSION: u32 = 1;
/// A longer file is none of ours: 4096 endpoints have 1 MB.
const FILE_MAX: u64 = 8 * 1024 * 1024;
/// What a file's name may have of a cluster's. The rest is percent-encoded.
const IN_NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// Where a cluster's endpoints are kept, and for which source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeptFile {
    path: PathBuf,
    source: SourceIdentity,
}

/// Endpoints that were kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeptEndpoints {
    pub(super) endpoints: Vec<Settings>,
    /// When they were last known to be right.
    pub(super) written: SystemTime,
}

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    version: u32,
    source: SourceIdentity,
    /// In seconds since 1970.
    written: u64,
    endpoints: Vec<WrittenEndpoint>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WrittenEndpoint {
    name: String,
    addresses: Vec<SocketAddr>,
    host: Option<String>,
    weight: u32,
    priority: u32,
    server_name: String,
}

impl KeptFile {
    /// In that folder.
    pub(super) fn new(folder: &Path, cluster: &ClusterName, source: SourceIdentity) -> Self {
        let name = utf8_percent_encode(cluster.as_str(), IN_NAME);
        Self { path: folder.join(format!("discovery-{name}.json")), source }
    }

    /// What was kept of this source; `None`: nothing. It may block.
    ///
    /// # Errors
    /// Why a file that is there is not used.
    pub(super) fn read(&self) -> Result<Option<KeptEndpoints>, String> {
        let shown = self.path.display();
        // Opening a FIFO would wait for a writer.
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("flags of open(2) are an int");
        let file = match OpenOptions::new().read(true).custom_flags(nonblocking).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{shown}: cannot read it: {error}")),
        };
        let metadata = file.metadata().map_err(|error| format!("{shown}: cannot read it: {error}"))?;
        if !metadata.is_file() {
            return Err(format!("{shown}: it is no file"));
        }
        // Of whoever may write the folder: it says which servers are used, and by which names they are verified.
        if metadata.uid() != 0 && metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(format!("{shown}: it belongs to another user, so it is not used"));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(format!("{shown}: others than its owner may write it, so it is not used"));
        }
        let mut text = Vec::new();
        file.take(FILE_MAX)
            .read_to_end(&mut text)
            .map_err(|error| format!("{shown}: cannot read it: {error}"))?;
        let written: Written = serde_json::from_slice(&text)
            .map_err(|error| format!("{shown}: it is damaged, and not used: {error}"))?;
        if written.version != VERSION {
            return Err(format!("{shown}: it has version {}, and {VERSION} is known here", written.version));
        }
        if !written.source.is_same(&self.source) {
            return Ok(None);
        }
        let endpoints = written.endpoints.into_iter().take(ENDPOINTS_MAX).map(WrittenEndpoint::settings);
        let endpoints: Option<Vec<_>> = endpoints.collect();
        let endpoints = endpoints.ok_or_else(|| format!("{shown}: an endpoint of it makes no sense"))?;
        let written = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(written.written));
        let written =
            written.ok_or_else(|| format!("{shown}: it is damaged, and not used: its age makes no sense"))?;
        Ok((!endpoints.is_empty()).then_some(KeptEndpoints { endpoints, written }))
    }

    /// Replaces what is kept. It may block.
    ///
    /// # Errors
    /// The file system's; what was kept before is still there.
    pub(super) fn write(&self, endpoints: &[Settings], now: SystemTime) -> Result<(), String> {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let written = Written {
            version: VERSION,
            source: self.source.clone(),
            written: since.as_secs(),
            endpoints: endpoints.iter().map(WrittenEndpoint::of).collect(),
        };
        let replaced = serde_json::to_vec(&written)
            .map_err(io::Error::from)
            .and_then(|text| replace_file(&self.path, &text));
        replaced.map_err(|error| format!("{}: cannot write it: {error}", self.path.display()))
    }
}

impl WrittenEndpoint {
    fn of(settings: &Settings) -> Self {
        Self {
            name: settings.name.to_string(),
            addresses: settings.addresses.iter().collect(),
            host: settings.host.as_deref().map(ToOwned::to_owned),
            weight: settings.weight,
            priority: settings.priority,
            server_name: settings.server_name.to_str().into_owned(),
        }
    }

    fn settings(self) -> Option<Settings> {
        let addresses = match self.addresses[..] {
            [address] => Addresses::one(address),
            [first, second] => Addresses::pair(first, second),
            _ => return None,
        };
        let is_sane = (1..=65_535).contains(&self.weight) && !self.name.is_empty();
        is_sane.then_some(())?;
        Some(Settings {
            name: EndpointName::from(&*self.name),
            addresses,
            host: self.host.map(Into::into),
            weight: self.weight,
            priority: self.priority,
            server_name: ServerName::try_from(self.server_name).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn endpoint(address: &str) -> Settings {
        let address: SocketAddr = address.parse().unwrap();
        Settings {
            name: EndpointName::from(&*address.to_string()),
            addresses: Addresses::one(address),
            host: Some("db.test".into()),
            weight: 3,
            priority: 1,
            server_name: ServerName::try_from("db.test").unwrap(),
        }
    }

    fn kept_in(folder: &Path, cluster: &str, source: &str) -> KeptFile {
        let source = SourceIdentity { asks_for: source.into(), servers: Vec::new() };
        KeptFile::new(folder, &ClusterName::from(cluster), source)
    }

    #[test]
    fn what_is_kept_comes_back_for_the_same_source_alone() {
        let dir = tempfile::tempdir().unwrap();
        let kept = kept_in(dir.path(), "a/../b", "consul a");
        assert_eq!(kept.read(), Ok(None));
        let pair = Settings {
            addresses: Addresses::pair("[::1]:1".parse().unwrap(), "10.0.0.2:1".parse().unwrap()),
            ..endpoint("10.0.0.2:1")
        };
        let endpoints = vec![endpoint("10.0.0.1:1"), pair];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        kept.write(&endpoints, now).unwrap();
        assert_eq!(kept.read(), Ok(Some(KeptEndpoints { endpoints, written: now })));
        assert_eq!(kept_in(dir.path(), "a/../b", "consul b").read(), Ok(None));
        assert_eq!(kept.path.parent(), Some(dir.path()), "a name leads nowhere else");
        assert_eq!(fs::metadata(&kept.path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        kept.write(&[], now).unwrap();
        assert_eq!(kept.read(), Ok(None));
    }

    #[test]
    fn what_is_damaged_or_others_may_write_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let kept = kept_in(dir.path(), "a", "consul a");
        kept.write(&[endpoint("10.0.0.1:1")], SystemTime::UNIX_EPOCH).unwrap();
        let whole = fs::read_to_string(&kept.path).unwrap();
        let damaged = [
            (whole[..whole.len() / 2].to_owned(), "damaged"),
            (String::new(), "damaged"),
            (whole.replace("\"version\":1", "\"version\":2"), "version 2"),
            (whole.replace("\"weight\":3", "\"weight\":0"), "no sense"),
            (whole.replace("[\"10.0.0.1:1\"]", "[]"), "no sense"),
            (whole.replace("\"written\":0", &format!("\"written\":{}", u64::MAX)), "its age"),
        ];
        for (text, expected) in damaged {
            fs::write(&kept.path, text).unwrap();
            let error = kept.read().unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        fs::write(&kept.path, whole).unwrap();
        fs::set_permissions(&kept.path, fs::Permissions::from_mode(0o662)).unwrap();
        assert!(kept.read().unwrap_err().contains("may write it"));
    }

    /// Opening a FIFO for reading waits for somebody who writes.
    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let kept = kept_in(dir.path(), "a", "consul a");
        rustix::fs::mkfifoat(rustix::fs::CWD, &kept.path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        assert!(kept.read().unwrap_err().contains("it is no file"));
        fs::remove_file(&kept.path).unwrap();
        fs::create_dir(&kept.path).unwrap();
        assert!(kept.read().unwrap_err().contains("it is no file"));
    }

    #[test]
    fn a_folder_that_is_missing_or_full_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let kept = kept_in(&dir.path().join("missing"), "a", "consul a");
        assert!(kept.write(&[], SystemTime::UNIX_EPOCH).unwrap_err().contains("cannot write it"));
        assert_eq!(kept.read(), Ok(None));
    }
}
