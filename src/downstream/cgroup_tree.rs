//! Control groups by their ids, as the mounted hierarchy has them.
//!
//! Users make control groups below their own as they like, and whoever is not known yet has to wait for a reading. So what the
//! host's services run in is read first and by itself; of each user, and of each service, only so many groups are read;
//! one reading answers all who asked before it began, and the next does not follow at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::caller::Cgroup;
use crate::clock;
use crate::sync::{Mutex, MutexGuard};

/// The hierarchy, and what has been read of it.
#[derive(Debug)]
pub(super) struct CgroupTree {
    /// Where it is mounted.
    root: Option<PathBuf>,
    known: Mutex<Known>,
    /// From when on either part may be read again. Held while it is read.
    readings: [Mutex<Option<Instant>>; 2],
}

#[derive(Debug, Default)]
struct Known {
    /// By [`Part`].
    found: [BTreeMap<u64, Arc<Cgroup>>; 2],
    /// How many readings of each part have begun.
    begun: [u64; 2],
    /// Ids that were not found: gone, outside what we see, or one of too many.
    lost: BTreeSet<u64>,
    /// Ids that somebody waits for: whose they are, and how many wait.
    awaited: BTreeMap<u64, (u32, usize)>,
}

/// What is read in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All but what users run.
    Services = 0,
    /// What is below [`USERS`].
    Users = 1,
}

/// The slice below which users' sessions and managers are (systemd.special(7)).
const USERS: &str = "/user.slice";
/// Control groups of one user, or of one service, that are read.
const OWN_MAX: usize = 4096;
/// Of all together, in each part.
const ALL_MAX: usize = 65_536;
/// Ids that are lost; past it all are forgotten.
const LOST_MAX: usize = 4096;
/// Ids of one user that are waited for at once. Each takes a thread that waits; further ones are not found this time. Root's
/// are not counted: the host's services begin with many.
const AWAITED_MAX: usize = 32;
const ROOT: u32 = 0;
/// Readings take an eighth of a thread's time, where they are short.
const RESTS: u32 = 8;

impl Part {
    /// From the end of a reading to the beginning of the next, at most: as a rule [`RESTS`] times as long as it took.
    const fn longest_pause(self) -> Duration {
        match self {
            Self::Services => Duration::from_millis(100),
            Self::Users => Duration::from_secs(1),
        }
    }
}

/// Somebody waits for an id, until it is dropped.
struct Waiting<'a> {
    cgroup_tree: &'a CgroupTree,
    id: u64,
    /// The readings that had begun before.
    before: [u64; 2],
}

impl CgroupTree {
    pub(super) fn new(root: Option<PathBuf>) -> Self {
        Self { root, known: Mutex::default(), readings: Default::default() }
    }

    /// The control group, if it has been looked for before: `Some(None)` for one that could not be found.
    pub(super) fn cached(&self, id: u64) -> Option<Option<Arc<Cgroup>>> {
        let known = self.known();
        let found = known.found.iter().find_map(|part| part.get(&id));
        found.map(|cgroup| Some(Arc::clone(cgroup))).or_else(|| known.lost.contains(&id).then_some(None))
    }

    /// Looks for the control group of a process of that user. It blocks.
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

    /// Reads that part, unless somebody has done so since it was asked for. Whether the id is settled.
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

/// Every control group of a part by its id, which is the inode of its folder. Folders tell the inodes of what is in them, so
/// each is opened once and none is asked for. Breadth first: units are near the root, and what they make themselves is deep.
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
        // One that went away meanwhile has nobody in it.
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
                    // Of a folder that has too many the rest is the same owner's.
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

/// Whoever makes the control groups below: a user as a whole, or else what is below the slices, a service as a rule.
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

    /// 60,000 control groups of one user made a reading take seconds, and whoever was not known yet was nobody meanwhile: a service
    /// that had just been started was denied. Its groups are found without a look at the users', and of those each user has so
    /// many that are read.
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
