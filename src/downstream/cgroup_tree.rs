//! Finds control groups by their ids, by scanning the mounted hierarchy.
//!
//! Users may make any number of control groups below their own, and a new caller has to wait for a scan. So the groups
//! of the host's services are scanned first and separately; of each user and each service only [`OWN_MAX`] groups are
//! read; one scan answers all requests from before it began; and there is a pause before the next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::caller::Cgroup;
use crate::clock;
use crate::sync::{Mutex, MutexGuard};

/// The hierarchy, as far as it has been read.
#[derive(Debug)]
pub(super) struct CgroupTree {
    /// Where cgroup2 is mounted.
    root: Option<PathBuf>,
    known: Mutex<Known>,
    /// For each part, when it may be scanned again. Locked during a scan.
    readings: [Mutex<Option<Instant>>; 2],
}

#[derive(Debug, Default)]
struct Known {
    /// Of each [`Part`], the groups by their id.
    found: [BTreeMap<u64, Arc<Cgroup>>; 2],
    /// Scans of each part that have begun.
    begun: [u64; 2],
    /// Ids that were not found: the group is gone, not visible to us, or one of too many.
    lost: BTreeSet<u64>,
    /// Ids that are waited for: the uid of their process, and how many threads wait.
    awaited: BTreeMap<u64, (u32, usize)>,
}

/// What one scan reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All but what users run.
    Services = 0,
    /// What is below [`USERS`].
    Users = 1,
}

/// The slice of users' sessions and managers (systemd.special(7)).
const USERS: &str = "/user.slice";
/// Control groups of one user, or one service, that are read.
const OWN_MAX: usize = 4096;
/// Control groups of each part that are read.
const ALL_MAX: usize = 65_536;
/// Ids in `lost`; when it is reached, all are dropped.
const LOST_MAX: usize = 4096;
/// Ids of one user that are waited for at once, each by a thread; further ones are not found this time. Root is
/// exempt: many of the host's services start at the same time.
const AWAITED_MAX: usize = 32;
const ROOT: u32 = 0;
/// The pause after a scan, as a multiple of its duration: short scans take an eighth or less of a thread's time.
const RESTS: u32 = 8;

impl Part {
    /// The longest pause between two scans, which is otherwise [`RESTS`] times the duration of the first.
    const fn longest_pause(self) -> Duration {
        match self {
            Self::Services => Duration::from_millis(100),
            Self::Users => Duration::from_secs(1),
        }
    }
}

/// Counts a thread that waits for an id, until it is dropped.
struct Waiting<'a> {
    cgroup_tree: &'a CgroupTree,
    id: u64,
    /// `begun` of [`Known`] when the wait began.
    before: [u64; 2],
}

impl CgroupTree {
    pub(super) fn new(root: Option<PathBuf>) -> Self {
        Self { root, known: Mutex::default(), readings: Default::default() }
    }

    /// The control group, if it has been scanned for before; `Some(None)` if it was not found.
    pub(super) fn cached(&self, id: u64) -> Option<Option<Arc<Cgroup>>> {
        let known = self.known();
        let found = known.found.iter().find_map(|part| part.get(&id));
        found.map(|cgroup| Some(Arc::clone(cgroup))).or_else(|| known.lost.contains(&id).then_some(None))
    }

    /// Scans for the control group of a process of that user. Blocks.
    pub(super) fn scan(&self, id: u64, uid: u32) {
        let Some(waiting) = self.wait_for(id, uid) else { return };
        if !self.read(Part::Services, &waiting) && !self.read(Part::Users, &waiting) {
            let mut known = self.known();
            if known.lost.len() >= LOST_MAX {
                known.lost.clear();
            }
            known.lost.insert(id);
        }
    }

    fn wait_for(&self, id: u64, uid: u32) -> Option<Waiting<'_>> {
        let mut known = self.known();
        let of_user = known.awaited.values().filter(|(other, _)| *other == uid).count();
        if uid != ROOT && of_user >= AWAITED_MAX && !known.awaited.contains_key(&id) {
            return None;
        }
        known.awaited.entry(id).or_insert((uid, 0)).1 += 1;
        Some(Waiting { cgroup_tree: self, id, before: known.begun })
    }

    /// Scans that part, unless a scan of it has begun since the wait began. Returns whether the id is known now.
    fn read(&self, part: Part, Waiting { id, before, .. }: &Waiting<'_>) -> bool {
        let index = part as usize;
        let mut next = self.readings[index].lock();
        if self.cached(*id).is_some() {
            return true;
        }
        if self.known().begun[index] > before[index] {
            return false;
        }
        if let Some(next) = *next {
            std::thread::sleep(next.saturating_duration_since(clock::now()));
        }
        self.known().begun[index] += 1;
        let begun = clock::now();
        let found = self.root.as_deref().map(|root| found(root, part)).unwrap_or_default();
        self.known().found[index] = found;
        let ended = clock::now();
        *next = Some(ended + ((ended - begun) * RESTS).min(part.longest_pause()));
        self.cached(*id).is_some()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut known = self.cgroup_tree.known();
        if let Some((_, waiting)) = known.awaited.get_mut(&self.id) {
            *waiting -= 1;
            if *waiting == 0 {
                known.awaited.remove(&self.id);
            }
        }
    }
}

/// Every control group of a part by its id, which is the inode of its folder. Directory entries have the inodes, so
/// each folder is opened once and needs no stat(2). Breadth first: units are near the root, and the groups that they
/// make are deep.
fn found(root: &Path, part: Part) -> BTreeMap<u64, Arc<Cgroup>> {
    let mut found = BTreeMap::new();
    let mut own = BTreeMap::<String, usize>::new();
    let (top, first) = match part {
        Part::Services => ("", root.to_owned()),
        Part::Users => (USERS, root.join(&USERS[1..])),
    };
    let Ok(metadata) = std::fs::metadata(&first) else { return found };
    found.insert(metadata.ino(), Arc::new(Cgroup::new(if top.is_empty() { "/" } else { top })));
    let mut folders = VecDeque::from([(first, top.to_owned())]);
    while let Some((folder, path)) = folders.pop_front() {
        // A group that was removed meanwhile has no processes.
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|_| is_folder) else { continue };
            let path = format!("{path}/{name}");
            if part == Part::Services && path == USERS {
                continue;
            }
            if let Some(owner) = owner(&path) {
                let count = own.entry(owner.to_owned()).or_default();
                *count += 1;
                if *count > OWN_MAX {
                    // The rest of this folder has the same owner.
                    break;
                }
            }
            if found.len() >= ALL_MAX {
                return found;
            }
            found.insert(entry.ino(), Arc::new(Cgroup::new(&path)));
            folders.push_back((entry.path(), path));
        }
    }
    found
}

/// The owner that a group counts for: a user as a whole, else the first group below the slices, usually a service.
fn owner(path: &str) -> Option<&str> {
    let user = path.strip_prefix(USERS).and_then(|rest| rest.strip_prefix('/'));
    if let Some(user) = user {
        let length = user.find('/').unwrap_or(user.len());
        return Some(&path[..USERS.len() + 1 + length]);
    }
    let mut end = 0;
    for part in path.split_inclusive('/') {
        end += part.len();
        let name = part.trim_end_matches('/');
        if !name.is_empty() && !name.ends_with(".slice") {
            return Some(path[..end].trim_end_matches('/'));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn id_of(folder: &Path) -> u64 {
        fs::metadata(folder).unwrap().ino()
    }

    fn make(root: &Path, path: &str) -> u64 {
        fs::create_dir_all(root.join(path)).unwrap();
        id_of(&root.join(path))
    }

    #[test]
    fn below_slices_a_group_is_its_users_or_its_services() {
        for (path, expected) in [
            ("/system.slice", None),
            ("/system.slice/a.service", Some("/system.slice/a.service")),
            ("/system.slice/a.service/x/y", Some("/system.slice/a.service")),
            ("/a.slice/b.slice/c.scope/d", Some("/a.slice/b.slice/c.scope")),
            ("/docker/0af", Some("/docker")),
            ("/user.slice/user-7.slice", Some("/user.slice/user-7.slice")),
            ("/user.slice/user-7.slice/user@7.service/x", Some("/user.slice/user-7.slice")),
        ] {
            assert_eq!(owner(path), expected, "{path}");
        }
    }

    /// 60,000 control groups of one user made a scan take seconds, and new callers had no unit meanwhile: a service
    /// that had just been started was denied. Services are found without a scan of the users' groups, and of each user
    /// only so many are read.
    #[test]
    fn one_users_groups_do_not_hold_up_a_service_nor_another_user() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let mut last = 0;
        for number in 0..OWN_MAX + 500 {
            last = make(root, &format!("user.slice/user-7.slice/user@7.service/{number}"));
        }
        let service = make(root, "system.slice/report.service");
        let other = make(root, "user.slice/user-8.slice/session-1.scope");
        let cgroup_tree = CgroupTree::new(Some(root.into()));
        cgroup_tree.scan(service, 1);
        assert_eq!(cgroup_tree.cached(service).unwrap().unwrap().path(), "/system.slice/report.service");
        assert_eq!(cgroup_tree.known().begun, [1, 0], "the users' were not read");
        cgroup_tree.scan(other, 8);
        let path = "/user.slice/user-8.slice/session-1.scope";
        assert_eq!(cgroup_tree.cached(other).unwrap().unwrap().path(), path);
        let of_users = cgroup_tree.known().found[Part::Users as usize].len();
        assert!((OWN_MAX..OWN_MAX + 10).contains(&of_users), "{of_users}");
        cgroup_tree.scan(last, 7);
        assert!(cgroup_tree.cached(last).is_some(), "found, or one of too many: known for that from now on");
    }

    #[test]
    fn one_reading_answers_all_who_asked_before_it() {
        const ASKING: usize = 24;
        let folder = tempfile::tempdir().unwrap();
        let cgroup_tree = CgroupTree::new(Some(folder.path().into()));
        std::thread::scope(|scope| {
            let held = cgroup_tree.readings[0].lock();
            for id in 1..=ASKING as u64 {
                let cgroup_tree = &cgroup_tree;
                scope.spawn(move || cgroup_tree.scan(u64::MAX - id, 7));
            }
            let deadline = clock::now() + Duration::from_secs(60);
            while cgroup_tree.known().awaited.len() < ASKING && clock::now() < deadline {
                std::thread::yield_now();
            }
            drop(held);
        });
        assert!((1..=ASKING as u64).all(|id| cgroup_tree.cached(u64::MAX - id) == Some(None)));
        assert_eq!(cgroup_tree.known().begun, [1, 1], "readings for {ASKING} questions");
        assert!(cgroup_tree.known().awaited.is_empty());
    }

    #[test]
    fn one_user_has_so_many_waiting_and_no_more() {
        let cgroup_tree = CgroupTree::new(None);
        let waiting: Vec<_> =
            (0..AWAITED_MAX as u64).map(|id| cgroup_tree.wait_for(id, 7).unwrap()).collect();
        assert!(cgroup_tree.wait_for(1000, 7).is_none());
        assert!(cgroup_tree.wait_for(0, 7).is_some(), "for the same one");
        assert!(cgroup_tree.wait_for(1000, 8).is_some() && cgroup_tree.wait_for(1001, ROOT).is_some());
        drop(waiting);
        assert!(cgroup_tree.wait_for(1000, 7).is_some());
    }
}
