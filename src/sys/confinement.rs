//! Landlock (landlock(7)): the process gives up access to all files but those that it will need, so that an attacker
//! in it has no more either. Which files these are is not decided here.

use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// What a process may do with files; all else is forbidden.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Files, and folders with all that is below them, that it may read. Missing ones are left out.
    pub read: Vec<PathBuf>,
    /// Folders in which, and below which, it may make, rename and remove sockets.
    pub sockets: Vec<PathBuf>,
    /// Folders in which, and below which, it may make files and write to them; and devices and pipes that it may write
    /// to.
    pub write: Vec<PathBuf>,
    /// Folders in which, and below which, it may replace files.
    pub replace: Vec<PathBuf>,
    /// Whether it may connect to other processes' abstract sockets.
    pub abstract_sockets: bool,
}

/// How much of the confinement the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confinement {
    Whole,
    /// As much as this version of Landlock's ABI supports: before 3 files may be truncated, before 6 other processes
    /// signalled.
    Partly(u32),
    /// Nothing: the kernel has no Landlock, or a seccomp filter hides it.
    NotThere,
    /// Nothing: the kernel was booted without it (`lsm=`).
    NotEnabled,
}

/// Why nothing is enforced although the kernel could.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfinementError {
    /// Landlock confines the calling thread and those that it starts, so there must be only one.
    #[error("there is more than one thread")]
    Threads,
    /// The number of threads is unknown.
    #[error("/proc/self/task: {0}")]
    Proc(#[from] io::Error),
    /// An error of the kernel, such as more than 16 layers.
    #[error(transparent)]
    Ruleset(#[from] RulesetError),
}

/// Whether this process has one thread.
pub(super) fn is_single() -> io::Result<bool> {
    Ok(std::fs::read_dir("/proc/self/task")?.count() == 1)
}

/// Gives up everything else, for good, for this thread and all that it starts. From then on it cannot execute programs
/// or signal other processes.
///
/// # Errors
/// See [`ConfinementError`]; then nothing is given up.
pub(crate) fn confine(permissions: &Permissions) -> Result<Confinement, ConfinementError> {
    if !is_single()? {
        return Err(ConfinementError::Threads);
    }
    Ok(give_up(permissions)?)
}

/// Confines this thread and those that it starts.
fn give_up(permissions: &Permissions) -> Result<Confinement, RulesetError> {
    // Every right of this ABI version is known not to be needed; later versions would have to be checked.
    let handled = AccessFs::from_all(ABI::V5);
    let mut scopes = BitFlags::from(Scope::Signal);
    scopes.set(Scope::AbstractUnixSocket, !permissions.abstract_sockets);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)?
        .scope(scopes)?
        .create()?;
    for path in &permissions.read {
        let Ok(metadata) = std::fs::metadata(path) else { continue };
        let rights = if metadata.is_dir() {
            AccessFs::ReadFile | AccessFs::ReadDir
        } else {
            AccessFs::ReadFile.into()
        };
        if let Ok(opened) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(opened, rights))?;
        }
    }
    for path in &permissions.sockets {
        if let Ok(opened) = PathFd::new(path) {
            let rights = AccessFs::MakeSock | AccessFs::RemoveFile;
            rules = rules.add_rule(PathBeneath::new(opened, rights))?;
        }
    }
    for path in &permissions.write {
        let Ok(metadata) = std::fs::metadata(path) else { continue };
        let rights = if metadata.is_dir() {
            AccessFs::WriteFile | AccessFs::MakeReg
        } else {
            // isatty(3) on a terminal needs an ioctl(2); a pipe is opened for reading and writing.
            AccessFs::WriteFile | AccessFs::ReadFile | AccessFs::IoctlDev
        };
        if let Ok(opened) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(opened, rights))?;
        }
    }
    for path in &permissions.replace {
        if let Ok(opened) = PathFd::new(path) {
            let rights = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile;
            // fsync(2) of the folder wants it open.
            rules = rules.add_rule(PathBeneath::new(opened, rights | AccessFs::ReadDir))?;
        }
    }
    let status = rules.restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced, _) => Confinement::Whole,
        (RulesetStatus::PartiallyEnforced, LandlockStatus::Available { effective_abi, .. }) => {
            Confinement::Partly(effective_abi as u32)
        }
        (_, LandlockStatus::NotEnabled) => Confinement::NotEnabled,
        (_, LandlockStatus::NotImplemented | LandlockStatus::Available { .. }) => Confinement::NotThere,
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::ErrorKind;
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::process::{Child, Command};

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    #[track_caller]
    fn check<T>(done: io::Result<T>, is_permitted: bool, what: &str) {
        match done {
            Ok(_) => assert!(is_permitted, "{what} was permitted"),
            Err(error) => {
                assert!(!is_permitted && error.kind() == ErrorKind::PermissionDenied, "{what}: {error}");
            }
        }
    }

    fn try_all(read: &Path, run: &Path, logs: &Path, outside: &Path, another: &Child) {
        check(fs::read(read.join("a.pem")), true, "reading a file");
        check(fs::read_dir(read), true, "listing its folder");
        check(fs::read(outside.join("a.pem")), false, "reading a file outside");
        check(fs::read(read.join("link.pem")), false, "reading a file outside by a link");
        check(fs::read_dir(outside), false, "listing a folder outside");
        check(File::create(read.join("b.pem")), false, "making a file");
        check(File::options().write(true).open(read.join("a.pem")), false, "writing a file");
        check(fs::remove_file(read.join("a.pem")), false, "removing a file");
        check(File::create(run.join("b.pem")), false, "making a file where sockets are made");
        check(UnixListener::bind(run.join("a.sock")), true, "making a socket");
        check(fs::rename(run.join("a.sock"), run.join("b.sock")), true, "renaming a socket");
        check(fs::remove_file(run.join("b.sock")), true, "removing a socket");
        check(UnixListener::bind(outside.join("a.sock")), false, "making a socket outside");
        check(File::options().append(true).create_new(true).open(logs.join("b.log")), true, "making a log");
        check(File::options().append(true).open(logs.join("b.log")), true, "writing to it");
        check(fs::read(logs.join("b.log")), false, "reading it");
        check(fs::remove_file(logs.join("b.log")), false, "removing it");
        check(File::options().write(true).open("/dev/null"), true, "writing to a device");
        check(File::options().write(true).open("/dev/zero"), false, "writing to another");
        check(fs::create_dir(run.join("more")), false, "making a folder");
        check(Command::new("/bin/true").status(), false, "executing");
        let pid = Pid::from_child(another);
        check(kill_process(pid, Signal::TERM).map_err(Into::into), false, "signalling another process");
    }

    /// Landlock confines one thread, so the rest of the test goes on without it.
    #[test]
    fn what_was_given_up_is_gone_and_the_rest_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let [read, run, logs, outside] =
            ["read", "run", "logs", "outside"].map(|folder| dir.path().join(folder));
        for folder in [&read, &run, &logs, &outside] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("a.pem"), "a").unwrap();
        }
        std::os::unix::fs::symlink(outside.join("a.pem"), read.join("link.pem")).unwrap();
        let permissions = Permissions {
            read: vec![read.clone(), "/no/such/folder".into()],
            sockets: vec![run.clone(), "/no/such/folder".into()],
            write: vec![logs.clone(), "/dev/null".into()],
            replace: Vec::new(),
            abstract_sockets: false,
        };
        assert!(matches!(confine(&permissions), Err(ConfinementError::Threads)), "a test has several");
        let mut another = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let confined = std::thread::scope(|scope| {
            let trying = scope.spawn(|| {
                let confined = give_up(&permissions).unwrap();
                // What the thread starts is confined too.
                std::thread::scope(|scope| {
                    if confined == Confinement::Whole {
                        scope.spawn(|| try_all(&read, &run, &logs, &outside, &another)).join().unwrap();
                    }
                });
                confined
            });
            trying.join().unwrap()
        });
        if confined != Confinement::Whole {
            eprintln!("this kernel has no Landlock, or an old one: {confined:?}; nothing was tried");
        }
        fs::read(outside.join("a.pem")).expect("another thread is not bound");
        another.kill().unwrap();
        another.wait().unwrap();
    }
}
