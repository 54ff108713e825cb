//! Which files a daemon with a configuration needs: those that it reads, now and when they are replaced, those of its
//! log, and the folders of its sockets. Landlock's rules are made of this; a reload is checked against it, because
//! Landlock's rules cannot be relaxed.
//!
//! Rules are for folders, not files: a replaced file is another file of the same name, and Landlock's rights belong to
//! the file, not to the name. Only for a file directly in `/` the file itself is permitted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Config;
use super::raw::Environment;
use crate::admin::Control;
use crate::cluster::Source;
use crate::credentials::LoginSettings;
use crate::log::Output;
use crate::sys::{Bind, Permissions};
use crate::tls::IdentitySource;
use crate::watch;

/// What a restricted process may access. All paths are without links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileAccess {
    /// Folders of the configuration's files.
    files: BTreeSet<PathBuf>,
    /// What every process of the host may need: databases of users, names and CAs, and the kernel's files.
    system: BTreeSet<PathBuf>,
    /// Folders of its sockets.
    sockets: BTreeSet<PathBuf>,
    /// Folders of its log; a log that is no regular file is listed itself.
    logs: BTreeSet<PathBuf>,
    /// Folders of the files that it replaces.
    replaced: BTreeSet<PathBuf>,
    /// Folders that did not exist, and could not be permitted.
    absent: BTreeSet<PathBuf>,
    speaks_to_abstract_sockets: bool,
}

/// What getpwnam(3) and the like, the resolver and the search for the host's CAs read, on any distribution. None of it
/// is secret beyond what its own permissions protect.
const SYSTEM: [&str; 19] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    // For callers, our own metrics, our own limits.
    "/proc",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    // Name servers, where /etc/resolv.conf leads there.
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    // Users and groups.
    "/run/systemd/userdb",
    "/run/userdb",
    "/run/host/userdb",
    "/var/lib/extrausers",
    "/var/lib/sss/mc",
    // The host's CAs.
    "/var/lib/ca-certificates",
    "/var/lib/pki",
];

/// Files that are read again while the daemon runs, and may be links to anywhere.
const FOLLOWED: [&str; 5] =
    ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group"];

impl FileAccess {
    /// For that configuration, on this host, as the file system is now.
    pub(super) fn of(config: &Config, environment: Environment<'_>) -> Self {
        let mut file_access = Self::default();
        file_access.system.extend(SYSTEM.iter().filter_map(|folder| Path::new(folder).canonicalize().ok()));
        for file in FOLLOWED {
            let folders = folders_of(Path::new(file));
            file_access.system.extend(folders.filter(|folder| folder.is_dir() && folder.parent().is_some()));
        }
        let given = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // The folder of systemd's credentials, and the variables that change where `ca: system` looks.
        file_access
            .files
            .extend(given("CREDENTIALS_DIRECTORY").and_then(|folder| folder.canonicalize().ok()));
        // As a list, which rustls-native-certs takes it for.
        let certificates = environment("SSL_CERT_DIR").unwrap_or_default();
        file_access
            .files
            .extend(std::env::split_paths(&certificates).filter_map(|folder| folder.canonicalize().ok()));
        for file in files(config).into_iter().chain(given("SSL_CERT_FILE")) {
            file_access.add_file(&file);
        }
        for file in replaced(config) {
            file_access.add_file(&file);
            match folder_of_target(&file) {
                // A rule for `/` would permit everything; such a configuration is refused.
                Some(folder) if folder.parent().is_none() => {}
                Some(folder) => drop(file_access.replaced.insert(folder)),
                None => file_access.absent.extend(file.parent().map(Path::to_owned)),
            }
        }
        for socket in sockets(config) {
            match folder_of(&socket) {
                // A rule for `/` would permit everything; such a configuration is refused.
                Some(folder) if folder.parent().is_none() => {}
                Some(folder) => drop(file_access.sockets.insert(folder)),
                None => file_access.absent.extend(socket.parent().map(Path::to_owned)),
            }
        }
        file_access.logs.extend([&config.log.events, &config.log.access].into_iter().filter_map(|target| {
            match &target.output {
                Output::File(path) => written(path),
                // Open already, or connected to, which Landlock does not restrict.
                Output::Stderr | Output::Stdout | Output::Journal(_) => None,
            }
        }));
        // systemd.exec(5): several are separated by colons.
        let given_logs = environment("LOGS_DIRECTORY").unwrap_or_default();
        file_access
            .logs
            .extend(given_logs.split(':').filter_map(|folder| Path::new(folder).canonicalize().ok()));
        let supervisor = environment("NOTIFY_SOCKET");
        file_access.speaks_to_abstract_sockets = supervisor.is_some_and(|address| address.starts_with('@'));
        file_access
    }

    fn add_file(&mut self, file: &Path) {
        for folder in folders_of(file) {
            if folder.parent().is_none() {
                self.files.extend(file.canonicalize().ok());
            } else if folder.is_dir() {
                self.files.insert(folder);
            } else {
                self.absent.insert(folder);
            }
        }
    }

    /// Whether that file, which need not exist, may be read.
    #[must_use]
    pub fn may_read(&self, file: &Path) -> bool {
        let Some((folder, name)) = watch::steps(file).pop() else { return false };
        let file = folder.join(name);
        self.files.iter().chain(&self.system).any(|permitted| file.starts_with(permitted))
    }

    /// Whether a socket may be made there.
    #[must_use]
    pub fn may_bind(&self, socket: &Path) -> bool {
        // A missing folder is reported elsewhere.
        folder_of(socket)
            .is_none_or(|folder| self.sockets.iter().any(|permitted| folder.starts_with(permitted)))
    }

    /// Whether that file may be written to, or made.
    #[must_use]
    pub fn may_write(&self, file: &Path) -> bool {
        written(file).is_none_or(|path| self.logs.iter().any(|permitted| path.starts_with(permitted)))
    }

    /// Whether that file may be replaced by another one of its name.
    #[must_use]
    pub fn may_replace(&self, file: &Path) -> bool {
        // A missing folder is reported elsewhere.
        folder_of_target(file)
            .is_none_or(|folder| self.replaced.iter().any(|permitted| folder.starts_with(permitted)))
    }

    /// Folders of the configuration's files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    /// Folders of its sockets.
    pub fn sockets(&self) -> impl Iterator<Item = &Path> {
        self.sockets.iter().map(PathBuf::as_path)
    }

    /// Folders of its log.
    pub fn logs(&self) -> impl Iterator<Item = &Path> {
        self.logs.iter().map(PathBuf::as_path)
    }

    /// Folders of the configuration that do not exist, and will not be permitted when they do.
    pub fn absent(&self) -> impl Iterator<Item = &Path> {
        self.absent.iter().map(PathBuf::as_path)
    }

    /// The rules for the kernel.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        Permissions {
            read: self.files.union(&self.system).cloned().collect(),
            sockets: self.sockets.iter().cloned().collect(),
            write: self.logs.iter().cloned().collect(),
            replace: self.replaced.iter().cloned().collect(),
            abstract_sockets: self.speaks_to_abstract_sockets,
        }
    }
}

/// The configuration's file and every file that it names.
fn files(config: &Config) -> Vec<PathBuf> {
    let mut files = vec![config.file.clone()];
    files.extend(config.keep.iter().map(|folder| folder.join("kept")));
    for cluster in &config.clusters {
        let endpoints = cluster.source.as_ref().and_then(Source::file);
        files.extend(endpoints.map(|endpoints| endpoints.path.clone()));
        files.extend(cluster.source.iter().flat_map(Source::further_files).cloned());
        let logins = cluster.login.iter().flat_map(LoginSettings::followed);
        files.extend(logins.flat_map(|login| login.source().files()));
        let Some(tls) = &cluster.tls else { continue };
        files.extend(tls.trust().files().cloned());
        for identity in tls.identities().all() {
            // Landlock does not restrict connecting to an agent's socket.
            if let IdentitySource::Files { cert, key } = identity.source() {
                files.extend([cert.clone(), key.clone()]);
            }
        }
    }
    files
}

/// Every file that it replaces.
fn replaced(config: &Config) -> Vec<PathBuf> {
    let logins = config.clusters.iter().flat_map(|cluster| &cluster.login).flat_map(LoginSettings::all);
    let kept = config.keep.iter().map(|folder| folder.join("kept"));
    logins.flat_map(|login| login.source().written()).chain(kept).collect()
}

/// Every unix socket that it makes.
fn sockets(config: &Config) -> Vec<PathBuf> {
    let binds = config.listeners.iter().flat_map(|listener| &listener.binds);
    let mut sockets: Vec<_> = binds
        .filter_map(|bind| match bind {
            Bind::Unix(unix) => Some(unix.path.clone()),
            Bind::Tcp(_) | Bind::Systemd(_) => None,
        })
        .collect();
    match &config.admin.control {
        Control::At(path) | Control::Default(path) => sockets.push(path.clone()),
        Control::Off => {}
    }
    sockets
}

/// The folders of the file and of each link on the way to it.
fn folders_of(file: &Path) -> impl Iterator<Item = PathBuf> {
    watch::steps(file).into_iter().map(|(folder, _)| folder)
}

/// What has to be writable so that the file can be written and made again: its folder, or the file itself where it is
/// no regular file, such as a terminal, or where its folder is `/`.
fn written(file: &Path) -> Option<PathBuf> {
    let is_plain = file.metadata().is_ok_and(|metadata| metadata.is_file());
    match file.canonicalize() {
        Ok(file) if !is_plain => Some(file),
        Ok(file) => {
            file.parent().map(|folder| if folder.parent().is_none() { &*file } else { folder }.to_owned())
        }
        // The target of a dangling link will be created. A rule for `/` would permit everything.
        Err(_) => watch::steps(file)
            .pop()
            .and_then(|(folder, _)| folder.canonicalize().ok())
            .filter(|folder| folder.parent().is_some()),
    }
}

/// The folder of the file that it is, or is a link to.
fn folder_of_target(file: &Path) -> Option<PathBuf> {
    file.canonicalize().ok().and_then(|file| file.parent().map(Path::to_owned)).or_else(|| folder_of(file))
}

fn folder_of(file: &Path) -> Option<PathBuf> {
    let folder = std::path::absolute(file).ok()?.parent()?.to_owned();
    folder.canonicalize().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// The file access for a file in `folder` with a cluster of these lines, with the folder's name for `{dir}`.
    fn file_access(folder: &Path, listener: &str, cluster: &str) -> FileAccess {
        let text = format!(
            "admin: {{ control: off }}\nlog: {{ output: {{dir}}/../log/a.log, access: {{ output: /dev/null }} }}\nlisteners: {{ a: {{ cluster: c, {listener} }} }}\nclusters: {{ c: {{ {cluster} }} }}"
        );
        let text = text.replace("{dir}", &folder.display().to_string());
        let environment = |name: &str| (name == "NOTIFY_SOCKET").then(|| "@abstract".to_owned());
        let config = Config::parse(&text, &folder.join("listeners.yaml"), &environment);
        FileAccess::of(&config.unwrap_or_else(|mistakes| panic!("{mistakes}")), &environment)
    }

    #[test]
    fn the_folders_of_the_files_are_read_and_those_of_the_sockets_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for folder in ["conf", "found", "run", "log", "elsewhere"] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        let found = root.join("found");
        let file_access = file_access(
            &root.join("conf"),
            "bind: [\"unix:{dir}/../run/app.sock\", \"127.0.0.1:0\"]",
            "endpoints: { file: ../found/endpoints.yaml }",
        );
        assert_eq!(file_access.files().collect::<Vec<_>>(), [root.join("conf"), found.clone()]);
        assert_eq!(file_access.sockets().collect::<Vec<_>>(), [root.join("run")]);
        assert!(file_access.may_read(&root.join("conf/listeners.yaml")), "itself");
        assert!(file_access.may_read(&root.join("conf/deeper/new.pem")), "whatever comes below it");
        assert!(file_access.may_read(&found.join("endpoints.yaml")));
        assert!(file_access.may_read(Path::new("/etc/hosts")));
        for forbidden in ["elsewhere/key.pem", "run/app.sock", "confidential", "conf/../elsewhere/key.pem"] {
            assert!(!file_access.may_read(&root.join(forbidden)), "{forbidden}");
        }
        assert!(file_access.may_bind(&root.join("run/other.sock")));
        assert!(!file_access.may_bind(&root.join("conf/app.sock")));
        assert!(file_access.may_bind(&root.join("missing/app.sock")), "binding says what is wrong");
        assert!(
            file_access.may_write(&root.join("log/other.log"))
                && file_access.may_write(Path::new("/dev/null"))
        );
        assert!(
            !file_access.may_write(&root.join("conf/a.log"))
                && !file_access.may_write(Path::new("/dev/zero"))
        );
        let permissions = file_access.permissions();
        assert!(permissions.abstract_sockets, "the supervisor is spoken to over one");
        assert!(permissions.read.contains(&found) && permissions.read.contains(&"/etc".into()));
        assert_eq!(permissions.sockets, [root.join("run")]);
    }

    #[test]
    fn a_link_is_followed_to_where_the_file_is_and_may_be_swapped_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for folder in ["conf", "live", "archive", "outside", "log"] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        fs::write(root.join("archive/1.yaml"), "endpoints: []").unwrap();
        symlink("../archive/1.yaml", root.join("live/now.yaml")).unwrap();
        let file_access =
            file_access(&root.join("conf"), "bind: 127.0.0.1:0", "endpoints: { file: ../live/now.yaml }");
        let expected = ["archive", "conf", "live"].map(|folder| root.join(folder));
        assert_eq!(file_access.files().collect::<Vec<_>>(), expected);
        fs::remove_file(root.join("live/now.yaml")).unwrap();
        symlink("../archive/2.yaml", root.join("live/now.yaml")).unwrap();
        assert!(file_access.may_read(&root.join("live/now.yaml")));
        fs::remove_file(root.join("live/now.yaml")).unwrap();
        symlink("../outside/3.yaml", root.join("live/now.yaml")).unwrap();
        assert!(!file_access.may_read(&root.join("live/now.yaml")), "it is the file that counts");
    }

    #[test]
    fn a_folder_that_is_not_there_cannot_be_permitted_and_the_root_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("conf")).unwrap();
        fs::create_dir(root.join("log")).unwrap();
        let root = root.join("conf");
        let file_access =
            file_access(&root, "bind: \"unix:{dir}/none/a.sock\"", "endpoints: { file: later/on.yaml }");
        let absent = [root.join("later"), root.join("none")];
        assert_eq!(file_access.absent().collect::<Vec<_>>(), absent);
        let mut file_access = FileAccess::default();
        file_access.add_file(Path::new("/listeners.yaml"));
        assert!(!file_access.may_read(Path::new("/root/key.pem")), "{file_access:?}");
        assert_eq!(written(Path::new("/no-such.log")), None);
    }
}
