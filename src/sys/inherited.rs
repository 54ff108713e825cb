//! Listening sockets that another process passed to us by descriptor: systemd, for its socket units or because it
//! keeps them for us over a restart (sd_listen_fds(3)), or the ambassador process that we replace. With them comes
//! that process's snapshot.
//!
//! They are taken from the environment once. Each is checked before it is used, as a descriptor may be anything.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use socket2::{Domain, SockRef, Type};

use super::launcher::SOCKETS;
use super::{
    Bind, BindError, ListeningSocket, LocalAddress, MemoryFile, Options, SystemdBind, is_succeeding,
};

/// The environment's list of descriptors is wrong.
#[derive(Debug, thiserror::Error)]
#[error("cannot take over the sockets that systemd passes: {0}")]
pub(crate) struct InheritedError(String);

/// What a passed descriptor is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// A socket of a socket unit, by its descriptor name.
    Systemd(String),
    /// A socket that the listener of this name bound.
    Listener(String),
    /// The socket of the admin address, or the control socket.
    Admin,
    /// A memory file with a process's snapshot.
    Snapshot,
    /// A pipe on which the process of that id goes on reporting its metrics.
    Reports(u32),
}

/// Descriptors that were passed to this process and have not been taken yet.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    passed: Vec<Passed>,
    /// Every name that systemd passed, taken or not.
    names: BTreeSet<String>,
}

#[derive(Debug)]
struct Passed {
    fd: OwnedFd,
    role: Role,
    /// The address that it listens on, or why nothing can be accepted on it.
    local: Result<LocalAddress, String>,
}

/// The first descriptor passed: SD_LISTEN_FDS_START.
const FIRST: RawFd = 3;
/// The name that systemd gives to a descriptor without one.
const UNNAMED: &str = "unknown";
/// The most descriptors that are accepted; a higher number is an error.
const MOST: usize = 1024;

impl Inherited {
    /// Takes what was passed to this process; a second call gets nothing. `environment` has LISTEN_PID, LISTEN_FDS and
    /// LISTEN_FDNAMES; if the first is another process's id, nothing is for us.
    ///
    /// # Errors
    /// When the variables contradict each other, or name a descriptor that is not open.
    pub(crate) fn take(environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, InheritedError> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(Self::default());
        }
        let announced = if is_succeeding(environment) {
            handed_over(&environment(SOCKETS).unwrap_or_default())
        } else {
            announced(environment, std::process::id())
                .map(|names| (FIRST..).zip(names.iter().map(|name| Role::of_descriptor(name))).collect())
        };
        let passed =
            announced.map_err(InheritedError)?.into_iter().map(|(number, role)| Passed::take(role, number));
        let passed = passed.collect::<Result<Vec<_>, _>>().map_err(InheritedError)?;
        let name = |passed: &Passed| match &passed.role {
            Role::Systemd(name) => Some(name.clone()),
            Role::Listener(_) | Role::Admin | Role::Snapshot | Role::Reports(_) => None,
        };
        let names = passed.iter().filter_map(name).collect();
        Ok(Self { passed, names })
    }

    /// The predecessor's snapshot, if it passed one.
    pub(crate) fn snapshot(&mut self) -> Option<MemoryFile> {
        let position = self.passed.iter().position(|passed| passed.role == Role::Snapshot)?;
        Some(MemoryFile::from(self.passed.remove(position).fd))
    }

    /// The pipes of the earlier processes that still have sessions, by process id, on which they report their metrics.
    pub(crate) fn reports(&mut self) -> Vec<(u32, OwnedFd)> {
        let (reports, others) = std::mem::take(&mut self.passed)
            .into_iter()
            .partition(|passed| matches!(passed.role, Role::Reports(_)));
        self.passed = others;
        let reports: Vec<Passed> = reports;
        let report = |passed: Passed| match passed.role {
            Role::Reports(process) => Some((process, passed.fd)),
            Role::Systemd(_) | Role::Listener(_) | Role::Admin | Role::Snapshot => None,
        };
        reports.into_iter().filter_map(report).collect()
    }

    /// The sockets for that address: those that were passed for it, or a newly bound one.
    ///
    /// # Errors
    /// What [`ListeningSocket::bind`] returns; or nothing usable was passed under that name.
    pub(crate) fn listen(
        &mut self,
        bind: &Bind,
        role: &Role,
        options: &Options,
    ) -> Result<Vec<ListeningSocket>, BindError> {
        match bind {
            Bind::Tcp(_) | Bind::Unix(_) => {
                let kept = self.take_bound(bind, role).and_then(|passed| passed.succeed(bind, options));
                kept.map_or_else(|| ListeningSocket::bind(bind, options), Ok).map(|listening| vec![listening])
            }
            Bind::Systemd(systemd) => {
                self.of_systemd(systemd, options).map_err(|reason| BindError::new(bind, reason))
            }
        }
    }

    /// Whether a socket was passed that is bound to that address.
    #[must_use]
    pub(crate) fn has(&self, bind: &Bind, role: &Role) -> bool {
        self.position(bind, role).is_some()
    }

    /// Takes a socket that is bound to that address.
    fn take_bound(&mut self, bind: &Bind, role: &Role) -> Option<Passed> {
        let position = self.position(bind, role)?;
        Some(self.passed.remove(position))
    }

    fn position(&self, bind: &Bind, role: &Role) -> Option<usize> {
        let fits = |passed: &Passed| {
            let is_kept = matches!(passed.role, Role::Listener(_) | Role::Admin);
            is_kept
                && match (bind, &passed.local) {
                    // A port that the kernel chose belongs to one listener.
                    (Bind::Tcp(wanted), Ok(LocalAddress::Tcp(bound))) if wanted.port() == 0 => {
                        wanted.ip() == bound.ip() && passed.role == *role
                    }
                    (Bind::Tcp(wanted), Ok(LocalAddress::Tcp(bound))) => wanted == bound,
                    (Bind::Unix(wanted), Ok(LocalAddress::Unix(path))) => names_same(&wanted.path, path),
                    (Bind::Tcp(_) | Bind::Unix(_) | Bind::Systemd(_), _) => false,
                }
        };
        self.passed.iter().position(fits)
    }

    fn of_systemd(&mut self, bind: &SystemdBind, options: &Options) -> Result<Vec<ListeningSocket>, String> {
        let (ours, others) = std::mem::take(&mut self.passed)
            .into_iter()
            .partition(|passed| passed.role == Role::Systemd(bind.name.clone()));
        self.passed = others;
        let ours: Vec<Passed> = ours;
        if ours.is_empty() {
            return Err(self.unknown(&bind.name));
        }
        ours.into_iter().map(|passed| passed.listen(bind, options)).collect()
    }

    fn unknown(&self, name: &str) -> String {
        let among =
            |names: &BTreeSet<String>| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        if self.names.is_empty() {
            return "systemd passed no sockets to this process: it is for a service that a .socket unit starts \
                    (LISTEN_FDS)"
                .into();
        }
        if self.names.contains(name) {
            return format!("the socket `{name}` is in use by another listener");
        }
        format!(
            "systemd passed no socket of that name, but {}: the name is FileDescriptorName= in the .socket unit",
            among(&self.names)
        )
    }

    /// Closes what has not been taken, and describes it.
    #[must_use]
    pub(crate) fn unused(self) -> Vec<String> {
        let describe = |passed: &Passed| {
            let what = match &passed.local {
                Ok(local) => format!("which listens on {local}"),
                Err(reason) => format!("which {reason}"),
            };
            match &passed.role {
                Role::Systemd(name) => format!(
                    "systemd passed the socket `{name}`, {what}, and no listener has `bind: systemd:{name}`; closing it"
                ),
                Role::Listener(name) => {
                    format!("closing a socket of listener `{name}`, {what}: nobody wants it any more")
                }
                Role::Admin => format!("closing a socket of the admin, {what}: nobody wants it any more"),
                Role::Snapshot | Role::Reports(_) => "closing what another process of ours wrote down".into(),
            }
        };
        self.passed.iter().map(describe).collect()
    }
}

impl Role {
    /// The prefix of descriptors that systemd keeps for us. Their names must not contain `:`.
    const KEPT: &str = "ambassador-kept.";

    /// The descriptor name under which systemd keeps it.
    #[must_use]
    pub(crate) fn to_descriptor(&self) -> String {
        match self {
            Self::Systemd(name) => name.clone(),
            Self::Listener(name) => format!("{}listener.{}", Self::KEPT, name.replace(':', "+")),
            Self::Admin => format!("{}admin", Self::KEPT),
            Self::Snapshot => format!("{}snapshot", Self::KEPT),
            Self::Reports(process) => format!("{}reports.{process}", Self::KEPT),
        }
    }

    /// The role of a descriptor that systemd passes under that name.
    fn of_descriptor(name: &str) -> Self {
        let Some(kept) = name.strip_prefix(Self::KEPT) else { return Self::Systemd(name.to_owned()) };
        if let Some(listener) = kept.strip_prefix("listener.") {
            return Self::Listener(listener.replace('+', ":"));
        }
        if let Some(process) = kept.strip_prefix("reports.").and_then(|process| process.parse().ok()) {
            return Self::Reports(process);
        }
        if kept == "snapshot" { Self::Snapshot } else { Self::Admin }
    }
}

/// Whether both are the same file; `bound` may be the temporary name that it had before the rename.
fn names_same(wanted: &Path, bound: &Path) -> bool {
    let inside = |path: &Path| path.parent().and_then(|folder| folder.canonicalize().ok());
    let beside =
        |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    wanted == bound
        || (inside(wanted) == inside(bound)
            && beside(bound).strip_prefix('.').is_some_and(|rest| {
                rest.starts_with(&format!("{}.", beside(wanted)))
                    || rest.bytes().all(|byte| byte.is_ascii_digit())
            }))
}

/// Parses the list of a predecessor.
fn handed_over(list: &str) -> Result<Vec<(RawFd, Role)>, String> {
    let each = list.split(',').filter(|item| !item.is_empty()).map(|item| {
        let (number, name) = item.split_once('=')?;
        Some((number.parse().ok().filter(|number| *number > 2)?, Role::of_descriptor(name)))
    });
    each.collect::<Option<Vec<_>>>().ok_or_else(|| format!("{SOCKETS} is `{}`", list.escape_default()))
}

/// The name of each descriptor from [`FIRST`] on.
fn announced(environment: &dyn Fn(&str) -> Option<String>, own: u32) -> Result<Vec<String>, String> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    let (Some(process), Some(count)) = (set("LISTEN_PID"), set("LISTEN_FDS")) else { return Ok(Vec::new()) };
    // The variables were meant for a parent of ours.
    if process.parse() != Ok(own) {
        return Ok(Vec::new());
    }
    let wrong = || format!("LISTEN_FDS is `{}`, and not a number up to {MOST}", count.escape_default());
    let count = count.parse::<usize>().ok().filter(|count| *count <= MOST).ok_or_else(wrong)?;
    let Some(names) = set("LISTEN_FDNAMES") else { return Ok(vec![UNNAMED.into(); count]) };
    let names: Vec<_> = names.split(':').map(str::to_owned).collect();
    if names.len() != count {
        return Err(format!("LISTEN_FDS says {count}, and LISTEN_FDNAMES has {} names", names.len()));
    }
    Ok(names)
}

impl Passed {
    fn take(role: Role, number: RawFd) -> Result<Self, String> {
        // SAFETY: only borrowed to check that it is open; the borrow ends with the line.
        let flags = fcntl_getfd(unsafe { std::os::fd::BorrowedFd::borrow_raw(number) });
        if flags.is_err() {
            return Err(format!("descriptor {number} (`{}`) is not open", role.to_descriptor()));
        }
        // SAFETY: it is open, and `take` runs once: it was passed to us, and nothing else in this process uses its
        // number.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        fcntl_setfd(&fd, FdFlags::CLOEXEC).map_err(|error| format!("descriptor {number}: {error}"))?;
        let local = listens_on(&fd);
        Ok(Self { fd, role, local })
    }

    /// `None` if it cannot be used any more: then a new one has to be bound.
    fn succeed(self, bind: &Bind, options: &Options) -> Option<ListeningSocket> {
        ListeningSocket::succeed(self.fd, self.local.ok()?, bind, options).ok()
    }

    fn listen(self, bind: &SystemdBind, options: &Options) -> Result<ListeningSocket, String> {
        let local = self.local?;
        if let LocalAddress::Tcp(address) = local
            && !address.ip().is_loopback()
            && !bind.expose
        {
            return Err(format!(
                "it is bound to {address}, which is not loopback: other hosts could connect in plaintext; \
                 `expose: true` says you mean it"
            ));
        }
        ListeningSocket::adopt(self.fd, local, options).map_err(|error| error.to_string())
    }
}

/// The address that it accepts on; an error says why it does not accept.
fn listens_on(fd: &impl AsFd) -> Result<LocalAddress, String> {
    let socket = SockRef::from(fd);
    let address = socket.local_addr().map_err(|_| "is no socket".to_owned())?;
    if socket.r#type().ok() != Some(Type::STREAM) {
        return Err("is no stream socket: ListenStream= makes one".into());
    }
    if !socket.is_listener().unwrap_or(false) {
        return Err("does not listen: with Accept=yes systemd passes single connections".into());
    }
    if let Some(tcp) = address.as_socket() {
        // Whether an IPv4-mapped IPv6 address is loopback depends on the IPv4 address.
        let ip = match tcp.ip() {
            IpAddr::V6(ip) => IpAddr::V6(ip).to_canonical(),
            IpAddr::V4(ip) => ip.into(),
        };
        return Ok(LocalAddress::Tcp((ip, tcp.port()).into()));
    }
    if address.domain() != Domain::UNIX {
        return Err("is neither a TCP nor a unix socket".into());
    }
    if let Some(name) = address.as_abstract_namespace() {
        let mut shown = std::ffi::OsString::from("@");
        shown.push(std::ffi::OsStr::from_bytes(name));
        return Ok(LocalAddress::Unix(shown.into()));
    }
    Ok(LocalAddress::Unix(address.as_pathname().map_or_else(PathBuf::new, PathBuf::from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(set: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let environment =
            |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        announced(&environment, 42)
    }

    #[test]
    fn descriptors_have_names_and_are_for_one_process() {
        let two = [("LISTEN_PID", "42"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "web:mail")];
        assert_eq!(names(&two), Ok(vec!["web".into(), "mail".into()]));
        assert_eq!(names(&two[..2]), Ok(vec![UNNAMED.into(), UNNAMED.into()]));
        assert_eq!(names(&[("LISTEN_PID", "41"), two[1], two[2]]), Ok(vec![]), "for somebody else");
        assert_eq!(names(&[]), Ok(vec![]));
        assert_eq!(names(&[two[0], ("LISTEN_FDS", "0")]), Ok(vec![]));
    }

    #[test]
    fn a_role_is_read_off_the_name_that_it_has_with_systemd() {
        for role in [
            Role::Systemd("web".into()),
            Role::Listener("db:1".into()),
            Role::Listener("snapshot".into()),
            Role::Admin,
            Role::Snapshot,
            Role::Reports(42),
        ] {
            assert_eq!(Role::of_descriptor(&role.to_descriptor()), role);
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let ours = ("LISTEN_PID", "42");
        for (count, list, part) in [
            ("3", "a:b", "LISTEN_FDNAMES has 2 names"),
            ("-1", "a", "LISTEN_FDS is `-1`"),
            ("9999999", "a", "not a number up to 1024"),
        ] {
            let error = names(&[ours, ("LISTEN_FDS", count), ("LISTEN_FDNAMES", list)]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
