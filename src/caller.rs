//! The process of this host that connected, as the kernel attests it, and its systemd unit.
//!
//! Values only: `downstream` and `sys` find them out, `policy` decides by them. A unit is derived from the path of a
//! cgroup in the same way as systemd does it, so that no user can choose the name of a caller: what a user's own
//! manager runs is always `user@UID.service/NAME`, and what a service makes below its own cgroup is still that service.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// A process of this host that connected. A peer that cannot be attributed to one is a stranger, and has no `Caller`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user: for a unix socket, of the process that connected; for TCP, the one that made the socket.
    pub uid: u32,
    /// That user's name, if the host knows one and it was looked up.
    pub user: Option<Arc<str>>,
    /// The effective group of a process that connected to a unix socket. The kernel does not report it for TCP.
    pub gid: Option<u32>,
    /// All its groups in ascending order, if they were looked up: for a unix socket those of the process, for TCP those
    /// that the host's database has for the user.
    pub groups: Arc<[u32]>,
    /// The process that connected to a unix socket; it may have ended. The kernel does not report it for TCP.
    pub pid: Option<u32>,
    /// Its control group, if it was looked up and found.
    pub cgroup: Option<Arc<Cgroup>>,
}

impl Caller {
    /// The unit it runs in.
    #[must_use]
    pub fn unit(&self) -> Option<&Unit> {
        self.cgroup.as_ref()?.unit.as_ref()
    }
}

/// As in messages: the user and, where it is known, the unit.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "user {user} (uid {})", self.uid)?,
            None => write!(f, "uid {}", self.uid)?,
        }
        self.unit().map_or(Ok(()), |unit| write!(f, " in {unit}"))
    }
}

/// The key by which limits for each caller count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallerKey {
    /// A service of the host.
    Unit(Unit),
    /// A user whose process belongs to no service, because a user may make any number of units.
    User(u32),
    /// A peer that is not on this host.
    Host(IpAddr),
    /// All other strangers together.
    Strangers,
}

impl CallerKey {
    /// The key of a caller, or of a stranger from that address.
    #[must_use]
    pub fn of(caller: Option<&Caller>, from: Option<IpAddr>) -> Self {
        match (caller, from) {
            (Some(caller), _) => match caller.unit().filter(|unit| !unit.is_session()) {
                Some(unit) => Self::Unit(unit.clone()),
                None => Self::User(caller.uid),
            },
            (None, Some(from)) if !from.to_canonical().is_loopback() => Self::Host(from.to_canonical()),
            (None, _) => Self::Strangers,
        }
    }
}

/// The words for it in log messages and refusals.
impl fmt::Display for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(unit) => unit.fmt(f),
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Host(from) => from.fmt(f),
            Self::Strangers => f.write_str("all who cannot be attributed to a process of this host together"),
        }
    }
}

/// A control group of the unified hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: Box<str>,
    unit: Option<Unit>,
}

impl Cgroup {
    /// By its path below the hierarchy's root.
    #[must_use]
    pub fn new(path: &str) -> Self {
        Self { path: path.into(), unit: Unit::of(path) }
    }

    /// The path, with a slash in front.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// A systemd unit: `report.service`, or `user@1000.service/report.service` for one of a user's own manager.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unit {
    name: Arc<str>,
    /// The length of the system manager's part.
    system: usize,
    is_session: bool,
}

impl Unit {
    /// The unit that a cgroup belongs to: below the slices, the first part of its path (`cg_path_get_unit` of systemd);
    /// below a user's manager the same again. Deeper parts are made by the unit itself.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        let is_session = parts.peek() == Some(&"user.slice");
        let mut below_slices = || parts.find(|part| !is_slice(part)).and_then(unit_name);
        let system = below_slices()?;
        let is_manager = system.starts_with("user@") && system.ends_with(".service");
        let name = match is_manager.then(below_slices).flatten() {
            Some(own) => format!("{system}/{own}").into(),
            None => system.into(),
        };
        Some(Self { name, system: system.len(), is_session })
    }

    /// The unit's name as systemd has it; a user's unit has its manager's in front.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Whether it has that name, or belongs to the user's manager of that name.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        *self.name == *name || self.name[..self.system] == *name
    }

    /// Whether a user made it by logging in or through the user's own manager, which can be done any number of times;
    /// otherwise it is a service of the host.
    #[must_use]
    pub const fn is_session(&self) -> bool {
        self.is_session
    }

    /// Whether a unit could have this name.
    #[must_use]
    pub fn is_possible(name: &str) -> bool {
        let (system, own) = name.split_once('/').map_or((name, None), |(system, own)| (system, Some(own)));
        let is_unescaped = |name: &str| unit_name(name) == Some(name);
        is_unescaped(system)
            && own.is_none_or(|own| {
                is_unescaped(own) && system.starts_with("user@") && system.ends_with(".service")
            })
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn is_slice(part: &str) -> bool {
    part.ends_with(".slice")
}

/// A part of a path as a unit's name; systemd puts an underscore before names that collide with the kernel's own files.
fn unit_name(part: &str) -> Option<&str> {
    /// Of the kinds that have processes: systemd.unit(5), systemd.resource-control(5).
    const KINDS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
    /// `UNIT_NAME_MAX` of systemd, in bytes.
    const LONGEST: usize = 255;
    let name = part.strip_prefix('_').unwrap_or(part);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    let is_kind = KINDS.iter().any(|kind| name.len() > kind.len() && name.ends_with(kind));
    (is_kind && name.len() <= LONGEST && name.bytes().all(allowed)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_what_systemd_would_say() {
        for (path, expected) in [
            ("/system.slice/report.service", Some("report.service")),
            ("/system.slice/system-worker.slice/worker@3.service", Some("worker@3.service")),
            ("/init.scope", Some("init.scope")),
            ("/report.service", Some("report.service")),
            ("/system.slice/_cpu.service", Some("cpu.service")),
            ("/system.slice/docker-0af.scope/init", Some("docker-0af.scope")),
            ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            (
                "/user.slice/user-1000.slice/user@1000.service/init.scope",
                Some("user@1000.service/init.scope"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/report.service/x",
                Some("user@1000.service/report.service"),
            ),
            ("/user.slice/user-1000.slice/user@1000.service", Some("user@1000.service")),
            ("/", None),
            ("", None),
            ("/system.slice", None),
            ("/docker/0af", None),
            ("/../report.service", None),
            ("/system.slice/.service", None),
            ("/system.slice/re port.service", None),
        ] {
            assert_eq!(Unit::of(path).as_ref().map(Unit::as_str), expected, "{path}");
        }
    }

    #[test]
    fn nobody_takes_a_services_name_by_making_a_cgroup_below_his_own() {
        for path in [
            "/user.slice/user-1000.slice/user@1000.service/report.service",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/report.service",
            "/system.slice/delegated.service/report.service",
            "/system.slice/delegated.service/system.slice/report.service",
            "/machine.slice/guest.scope/system.slice/report.service",
        ] {
            let unit = Unit::of(path).expect("there is one");
            assert!(!unit.is_named("report.service"), "{path} is {unit}");
        }
    }

    #[test]
    fn a_users_manager_stands_for_all_that_it_runs() {
        let unit =
            Unit::of("/user.slice/user-7.slice/user@7.service/app.slice/a.service").expect("it is one");
        assert!(unit.is_named("user@7.service"));
        assert!(unit.is_named("user@7.service/a.service"));
        assert!(!unit.is_named("a.service"));
        assert!(!unit.is_named("user@7.service/b.service"));
        assert!(unit.is_session());
        assert!(!Unit::of("/system.slice/a.service").expect("it is one").is_session());
    }

    #[test]
    fn a_share_is_a_services_else_a_users_else_a_hosts() {
        let caller = |cgroup: Option<&str>| Caller {
            uid: 7,
            user: None,
            gid: None,
            groups: Arc::new([]),
            pid: None,
            cgroup: cgroup.map(|path| Arc::new(Cgroup::new(path))),
        };
        let (local, mapped, remote) = ("127.0.0.1", "::ffff:127.0.0.1", "10.0.0.1");
        for (cgroup, expected) in [
            (Some("/system.slice/a.service"), "a.service"),
            (Some("/user.slice/user-7.slice/session-3.scope"), "uid 7"),
            (Some("/user.slice/user-7.slice/user@7.service/app.slice/a.service"), "uid 7"),
            (Some("/"), "uid 7"),
            (None, "uid 7"),
        ] {
            let caller = caller(cgroup);
            let key = CallerKey::of(Some(&caller), local.parse().ok());
            assert_eq!(key.to_string(), expected);
        }
        assert_eq!(CallerKey::of(None, remote.parse().ok()).to_string(), remote);
        for from in [local.parse().ok(), mapped.parse().ok(), None] {
            assert_eq!(CallerKey::of(None, from), CallerKey::Strangers);
        }
    }

    #[test]
    fn names_that_no_unit_can_have_are_known() {
        for name in ["a.service", "a@b.service", "x.scope", "user@1.service/a.service", "dev-disk\\x2d1.swap"]
        {
            assert!(Unit::is_possible(name), "{name}");
        }
        for name in [
            "",
            "a",
            ".service",
            "a.slice",
            "a.timer",
            "_a.service",
            "a b.service",
            "x.service/a.service",
            "/a",
        ] {
            assert!(!Unit::is_possible(name), "{name}");
        }
    }
}
