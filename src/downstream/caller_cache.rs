//! A cache of the host's users, groups and control groups, so that most callers are described from memory.
//!
//! Answers of the user database are used for a minute; the ids of control groups are never reused, so their paths stay
//! in the cache as long as there is room. Look-ups run outside the lock, on threads that may block. For users: one
//! each and few at once, because a name service may hang for ever. For control groups: one each, within the bounds of
//! [`CgroupTree`], so that one user's groups do not delay others. Only these threads wait without a deadline, and a
//! shutdown does not wait for them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, User, getgrouplist};
use tokio::sync::watch;

use super::cgroup_tree::CgroupTree;
use crate::caller::{Caller, Cgroup};
use crate::clock;
use crate::policy::admission::Needs;
use crate::sync::{Mutex, MutexGuard};

/// What the kernel reports of a peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PeerCredentials {
    pub(super) uid: u32,
    pub(super) gid: Option<u32>,
    pub(super) pid: Option<u32>,
    /// The process's own groups; `None` if only those of its user can be looked up.
    pub(super) groups: Option<Vec<u32>>,
    pub(super) place: Option<CgroupPath>,
}

/// A control group as the kernel names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CgroupPath {
    Id(u64),
    Path(String),
}

impl PeerCredentials {
    /// The caller without names, and without groups and a control group that would have to be looked up.
    pub(super) fn without_names(&self) -> Caller {
        Caller {
            uid: self.uid,
            user: None,
            gid: self.gid,
            groups: own_groups(self).unwrap_or_default().into(),
            pid: self.pid,
            cgroup: None,
        }
    }
}

/// The cache, with its running look-ups.
#[derive(Debug)]
pub(crate) struct CallerCache {
    cgroups: CgroupTree,
    /// The overflow uid, which stands for users without one in our user namespace; `None` if every user has one.
    overflow: Option<u32>,
    state: Mutex<State>,
    /// Looks a user up in the databases.
    accounts: fn(u32) -> Account,
    /// Look-ups that run; a second one for the same key is not begun.
    asking: Mutex<BTreeSet<LookupKey>>,
    /// Changes when a look-up ends.
    ended: watch::Sender<()>,
}

/// What one look-up is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LookupKey {
    User(u32),
    Group(u64),
}

/// A running look-up. Its drop ends it, whatever came of it, and wakes the waiting callers.
struct LookupGuard(Arc<CallerCache>, LookupKey);

impl Drop for LookupGuard {
    fn drop(&mut self) {
        self.0.asking().remove(&self.1);
        self.0.ended.send_replace(());
    }
}

#[derive(Debug, Default)]
struct State {
    /// Descriptions that are shared by all sessions of a caller.
    callers: BTreeMap<(PeerCredentials, bool), (Instant, Arc<Caller>)>,
    accounts: BTreeMap<u32, (Instant, Account)>,
}

/// A user in the databases.
#[derive(Debug, Clone, Default)]
struct Account {
    name: Option<Arc<str>>,
    groups: Vec<u32>,
}

/// How long an answer of the databases is used.
const BELIEVED: Duration = Duration::from_secs(60);
/// Entries of each kind; when it is reached, all of the kind are dropped.
const KNOWN_MAX: usize = 4096;
/// Look-ups of users at the same time.
const ASKING_MAX: usize = 16;
/// Look-ups of control groups at the same time; each may wait for the scan of another.
const GROUPS_MAX: usize = 256;

impl Default for CallerCache {
    fn default() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self::new(cgroup_tree(&read("/proc/self/mountinfo")), overflow(&read("/proc/self/uid_map")), account)
    }
}

impl CallerCache {
    fn new(cgroup_tree: Option<PathBuf>, overflow: Option<u32>, accounts: fn(u32) -> Account) -> Self {
        Self {
            cgroups: CgroupTree::new(cgroup_tree),
            overflow,
            state: Mutex::default(),
            accounts,
            asking: Mutex::default(),
            ended: watch::Sender::new(()),
        }
    }

    /// Whether that uid may belong to any user without one in our namespace.
    pub(super) fn is_unmapped(&self, uid: u32) -> bool {
        self.overflow == Some(uid)
    }

    /// The caller, if nothing has to be looked up.
    pub(super) fn cached(&self, found: &PeerCredentials, needs: Needs, now: Instant) -> Option<Arc<Caller>> {
        let mut state = self.state();
        let key = (found.clone(), needs.groups);
        if let Some((read, caller)) = state.callers.get(&key)
            && is_believed(*read, now)
        {
            return Some(Arc::clone(caller));
        }
        let (read, account) = state.accounts.get(&found.uid).filter(|(read, _)| is_believed(*read, now))?;
        let read = *read;
        let cgroup = match &found.place {
            None => None,
            Some(CgroupPath::Path(path)) => Some(Arc::new(Cgroup::new(path))),
            Some(CgroupPath::Id(id)) => self.cgroups.cached(*id)?,
        };
        let groups = if needs.groups {
            own_groups(found).unwrap_or_else(|| account.groups.clone())
        } else {
            Vec::new()
        };
        let user = account.name.clone();
        let caller = Arc::new(Caller {
            uid: found.uid,
            user,
            gid: found.gid,
            groups: groups.into(),
            pid: found.pid,
            cgroup,
        });
        make_room(&mut state.callers);
        state.callers.insert(key, (read, Arc::clone(&caller)));
        Some(caller)
    }

    /// The caller, after looking up what is not known. No deadline here: its user has one.
    pub(super) async fn resolve(self: &Arc<Self>, found: &PeerCredentials, needs: Needs) -> Arc<Caller> {
        // Before the first check, so that no end of a look-up is missed after it.
        let mut ended = self.ended.subscribe();
        let mut asked = None;
        loop {
            let now = clock::now();
            if let Some(caller) = self.cached(found, needs, now) {
                return caller;
            }
            let missing = self.missing(found, now);
            if missing.is_none_or(|missing| asked == Some(missing) && !self.asking().contains(&missing)) {
                // Too many look-ups run, so its control group was not looked up this time.
                let elsewhere = PeerCredentials { place: None, ..found.clone() };
                let caller = self.cached(&elsewhere, needs, now);
                return caller.unwrap_or_else(|| Arc::new(found.without_names()));
            }
            asked = missing.filter(|missing| self.ask(*missing, found, now) || asked == Some(*missing));
            // The sender lives as long as `self`.
            let _ = ended.changed().await;
        }
    }

    /// What has to be looked up next.
    fn missing(&self, found: &PeerCredentials, now: Instant) -> Option<LookupKey> {
        let is_known = self.state().accounts.get(&found.uid).is_some_and(|(read, _)| is_believed(*read, now));
        match found.place {
            _ if !is_known => Some(LookupKey::User(found.uid)),
            Some(CgroupPath::Id(id)) if self.cgroups.cached(id).is_none() => Some(LookupKey::Group(id)),
            Some(CgroupPath::Id(_) | CgroupPath::Path(_)) | None => None,
        }
    }

    /// Begins a look-up, unless the same or too many others are running. Returns whether it was begun.
    fn ask(self: &Arc<Self>, what: LookupKey, found: &PeerCredentials, now: Instant) -> bool {
        let mut asking = self.asking();
        // Its look-up may have ended since it was found missing: the answer is stored before the guard is dropped.
        if self.missing(found, now) != Some(what) {
            return false;
        }
        let uid = found.uid;
        let (is_user, most) = match what {
            LookupKey::User(_) => (true, ASKING_MAX),
            LookupKey::Group(_) => (false, GROUPS_MAX),
        };
        let alike = asking.iter().filter(|one| matches!(one, LookupKey::User(_)) == is_user).count();
        if alike >= most || !asking.insert(what) {
            return false;
        }
        drop(asking);
        let turn = LookupGuard(Arc::clone(self), what);
        // Not among the tasks that a shutdown waits for: a look-up in a name service cannot be cancelled.
        tokio::task::spawn_blocking(move || {
            let LookupGuard(cache, what) = &turn;
            match what {
                LookupKey::User(uid) => cache.look_up(*uid, clock::now()),
                LookupKey::Group(id) => cache.cgroups.scan(*id, uid),
            }
        });
        true
    }

    /// Blocks while the user databases are asked.
    fn look_up(&self, uid: u32, now: Instant) {
        let account = (self.accounts)(uid);
        let mut state = self.state();
        make_room(&mut state.accounts);
        state.accounts.insert(uid, (now, account));
    }

    fn asking(&self) -> MutexGuard<'_, BTreeSet<LookupKey>> {
        self.asking.lock()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

fn is_believed(read: Instant, now: Instant) -> bool {
    now.saturating_duration_since(read) < BELIEVED
}

fn make_room<K: Ord, V>(known: &mut BTreeMap<K, V>) {
    if known.len() >= KNOWN_MAX {
        known.clear();
    }
}

/// A process's groups, with its effective one.
fn own_groups(found: &PeerCredentials) -> Option<Vec<u32>> {
    let mut groups = found.groups.clone()?;
    groups.extend(found.gid);
    groups.sort_unstable();
    groups.dedup();
    Some(groups)
}

/// Looks a user up in the databases. One that is not found has neither name nor groups.
fn account(uid: u32) -> Account {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return Account::default() };
    let listed = CString::new(user.name.as_str()).ok().and_then(|name| getgrouplist(&name, user.gid).ok());
    let mut groups: Vec<_> = listed.unwrap_or_else(|| vec![user.gid]).into_iter().map(Gid::as_raw).collect();
    groups.sort_unstable();
    groups.dedup();
    Account { name: Some(user.name.into()), groups }
}

/// The mount point of the unified hierarchy in /proc/self/mountinfo (proc_pid_mountinfo(5)).
fn cgroup_tree(mounts: &str) -> Option<PathBuf> {
    let of_cgroups = mounts.lines().find(|line| {
        line.split_once(" - ").is_some_and(|(_, behind)| behind.split(' ').next() == Some("cgroup2"))
    })?;
    of_cgroups.split(' ').nth(4).map(PathBuf::from)
}

/// The uid that the kernel shows for users without one in our namespace; `None` if every user of the host has one.
fn overflow(uid_map: &str) -> Option<u32> {
    const WHOLE: [&str; 3] = ["0", "0", "4294967295"];
    if uid_map.split_whitespace().eq(WHOLE) {
        return None;
    }
    let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
    Some(text.trim().parse().unwrap_or(65_534))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::*;

    const ALL: Needs = Needs { groups: true, unit: true };

    fn found(uid: u32, place: Option<CgroupPath>) -> PeerCredentials {
        PeerCredentials { uid, gid: None, pid: None, groups: None, place }
    }

    fn described(cache: &CallerCache, found: &PeerCredentials, now: Instant) -> Arc<Caller> {
        cache.look_up(found.uid, now);
        if let Some(CgroupPath::Id(id)) = found.place {
            cache.cgroups.scan(id, found.uid);
        }
        cache.cached(found, ALL, now).unwrap()
    }

    fn id_of(folder: &Path) -> u64 {
        std::fs::metadata(folder).unwrap().ino()
    }

    #[test]
    fn a_control_group_is_found_by_its_inode_and_then_remembered() {
        let root = tempfile::tempdir().unwrap();
        let service = root.path().join("system.slice/report.service");
        std::fs::create_dir_all(&service).unwrap();
        let cache = CallerCache::new(Some(root.path().into()), None, account);
        let (t0, caller) = (clock::now(), found(0, Some(CgroupPath::Id(id_of(&service)))));
        assert_eq!(cache.cached(&caller, ALL, t0), None, "nothing is known yet");
        let looked_up = described(&cache, &caller, t0);
        assert_eq!(looked_up.unit().unwrap().as_str(), "report.service");
        assert_eq!(looked_up.user.as_deref(), Some("root"));
        assert!(looked_up.groups.contains(&0));
        std::fs::remove_dir(&service).unwrap();
        let recalled = cache.cached(&caller, ALL, t0).unwrap();
        assert!(Arc::ptr_eq(&looked_up, &recalled), "sessions of one caller share what describes it");
        assert_eq!(cache.cached(&caller, ALL, t0 + BELIEVED), None, "databases change");
    }

    #[test]
    fn a_control_group_that_is_not_there_is_looked_for_once() {
        let root = tempfile::tempdir().unwrap();
        let cache = CallerCache::new(Some(root.path().into()), None, account);
        let (t0, caller) = (clock::now(), found(0, Some(CgroupPath::Id(u64::MAX))));
        assert!(described(&cache, &caller, t0).cgroup.is_none());
        let blind = CallerCache::new(None, None, account);
        assert!(described(&blind, &caller, t0).cgroup.is_none());
    }

    #[test]
    fn a_users_groups_are_those_of_the_database_and_a_processs_its_own() {
        let cache = CallerCache::new(None, None, account);
        let t0 = clock::now();
        let of_process = PeerCredentials { gid: Some(7), groups: Some(vec![9, 3]), ..found(0, None) };
        assert_eq!(*described(&cache, &of_process, t0).groups, [3, 7, 9]);
        let nobody = found(4_000_000_000, None);
        let caller = described(&cache, &nobody, t0);
        assert_eq!((caller.user.as_deref(), &*caller.groups), (None, &[][..]));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let cache = CallerCache::new(None, None, account);
        let t0 = clock::now();
        cache.look_up(0, t0);
        for pid in 0..2 * KNOWN_MAX as u32 {
            let _ = cache.cached(&PeerCredentials { pid: Some(pid), ..found(0, None) }, ALL, t0);
        }
        assert!(cache.state().callers.len() <= KNOWN_MAX);
    }

    #[test]
    fn the_hierarchy_is_found_among_the_mounts() {
        let v2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        let hybrid = "1 1 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n2 1 0:2 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        assert_eq!(cgroup_tree(v2), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup_tree(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup_tree("1 1 0:1 / / rw - ext4 /dev/root rw"), None);
    }

    #[test]
    fn only_where_users_may_lack_a_number_one_number_stands_for_them() {
        assert_eq!(overflow("         0          0 4294967295\n"), None);
        assert!(overflow("0 1000 1\n").is_some());
        let cache = CallerCache::new(None, Some(65_534), account);
        assert!(cache.is_unmapped(65_534) && !cache.is_unmapped(0));
    }

    /// Each session of a user who was not in the cache began a look-up of its own, on a thread of its own: a name
    /// service that hung took all of tokio's blocking threads.
    #[test]
    fn sessions_share_the_look_up_of_their_user_and_few_users_are_looked_up_at_once() {
        static GATE: Mutex<()> = Mutex::new(());
        static ASKED: Mutex<Vec<u32>> = Mutex::new(Vec::new());
        let accounts = |uid| {
            ASKED.lock().push(uid);
            drop(GATE.lock());
            Account { name: Some(format!("user{uid}").into()), groups: vec![uid] }
        };
        let cache = Arc::new(CallerCache::new(None, None, accounts));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let hangs = GATE.lock();
        let users = 2 * ASKING_MAX as u32;
        let asking: Vec<_> = (0..10 * users)
            .map(|number| {
                let cache = Arc::clone(&cache);
                runtime.spawn(async move { cache.resolve(&found(number % users, None), ALL).await })
            })
            .collect();
        let begun = clock::now();
        while ASKED.lock().len() < ASKING_MAX {
            runtime.block_on(tokio::task::yield_now());
            assert!(clock::now() < begun + Duration::from_secs(60), "{:?}", ASKED.lock());
        }
        runtime.block_on(tokio::task::yield_now());
        assert_eq!(cache.asking().len(), ASKING_MAX, "and no more");
        assert!(asking.iter().all(|one| !one.is_finished()));
        drop(hangs);
        for (number, one) in asking.into_iter().enumerate() {
            let caller = runtime.block_on(one).unwrap();
            assert_eq!(caller.user.as_deref(), Some(format!("user{}", number as u32 % users).as_str()));
        }
        let mut asked = ASKED.lock().clone();
        asked.sort_unstable();
        assert_eq!(asked, (0..users).collect::<Vec<_>>(), "each once");
        all_end(&cache);
    }

    /// An answer is there a moment before its look-up has ended.
    fn all_end(cache: &CallerCache) {
        let until = clock::now() + Duration::from_secs(10);
        while !cache.asking().is_empty() {
            assert!(clock::now() < until, "{:?}", cache.asking());
            std::thread::yield_now();
        }
    }

    /// Sixteen users whose control groups were gone took all look-ups, and services that had just started were
    /// described by their uid alone.
    #[test]
    fn lost_control_groups_of_many_users_hold_up_no_service() {
        let root = tempfile::tempdir().unwrap();
        let service = root.path().join("system.slice/report.service");
        std::fs::create_dir_all(&service).unwrap();
        std::fs::create_dir_all(root.path().join("user.slice")).unwrap();
        let cache = Arc::new(CallerCache::new(Some(root.path().into()), None, |_| Account::default()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let describe = |uid, id| {
            let cache = Arc::clone(&cache);
            runtime.spawn(async move { cache.resolve(&found(uid, Some(CgroupPath::Id(id))), ALL).await })
        };
        let lost: Vec<_> = (0..640_u64).map(|id| describe(1000 + id as u32 % 16, u64::MAX - id)).collect();
        let service = describe(0, id_of(&service));
        assert_eq!(runtime.block_on(service).unwrap().unit().unwrap().as_str(), "report.service");
        for one in lost {
            assert_eq!(runtime.block_on(one).unwrap().cgroup, None);
        }
        all_end(&cache);
    }
}
