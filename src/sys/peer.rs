//! The peer of a unix socket, as the kernel recorded it at connect(2): credentials, groups, and a descriptor of the
//! process, which cannot come to mean another process as a pid can.

use std::ffi::c_void;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A process that connected.
#[derive(Debug)]
pub struct PeerProcess<'a> {
    /// Its effective uid at connect(2).
    pub uid: u32,
    /// Its effective gid at connect(2).
    pub gid: u32,
    /// Its pid; `None` if it is in a namespace that we cannot see.
    pub pid: Option<u32>,
    socket: BorrowedFd<'a>,
}

/// A control group as a process reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessCgroup {
    Id(u64),
    /// By its path below the root of the unified hierarchy.
    Path(String),
}

impl<'a> PeerProcess<'a> {
    /// The process at the other end of a connected unix socket.
    pub(super) fn of(socket: BorrowedFd<'a>) -> io::Result<Self> {
        let found = getsockopt(&socket, PeerCredentials)?;
        let pid = u32::try_from(found.pid()).ok().filter(|pid| *pid != 0);
        Ok(Self { uid: found.uid(), gid: found.gid(), pid, socket })
    }

    /// Its supplementary groups at connect(2) (SO_PEERGROUPS, Linux 4.13).
    ///
    /// # Errors
    /// What getsockopt(2) returns.
    pub fn groups(&self) -> io::Result<Vec<u32>> {
        let mut groups = vec![0_u32; 32];
        loop {
            let mut length = (groups.len() * size_of::<u32>()) as libc::socklen_t;
            // SAFETY: the pointer is to as many bytes as `length` says, which the kernel keeps to; both outlive the
            // call.
            let result = unsafe {
                libc::getsockopt(
                    self.socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_PEERGROUPS,
                    groups.as_mut_ptr().cast::<c_void>(),
                    &raw mut length,
                )
            };
            let found = length as usize / size_of::<u32>();
            if result == 0 {
                groups.truncate(found);
                return Ok(groups);
            }
            let error = io::Error::last_os_error();
            // With ERANGE, `length` is the needed size; NGROUPS_MAX is 65,536.
            if error.raw_os_error() != Some(libc::ERANGE) || found <= groups.len() {
                return Err(error);
            }
            groups.resize(found, 0);
        }
    }

    /// Its current control group; `None` if it has ended, or the kernel has no SO_PEERPIDFD (Linux 6.5).
    #[must_use]
    pub fn cgroup(&self) -> Option<ProcessCgroup> {
        let process = getsockopt(&self.socket, PeerPidfd).ok()?;
        cgroup_id(&process).map(ProcessCgroup::Id).or_else(|| {
            let path = cgroup_path(self.pid?)?;
            // Found by pid, which is the process's own as long as that has not ended.
            (!has_ended(&process)).then_some(ProcessCgroup::Path(path))
        })
    }
}

/// `struct pidfd_info` of linux/pidfd.h, its first version.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    rest: [u32; 12],
}

/// Asks the process's descriptor (Linux 6.13).
fn cgroup_id(process: &OwnedFd) -> Option<u64> {
    const PIDFD_INFO_CGROUPID: u64 = 1 << 2;
    /// `_IOWR(0xFF, 11, struct pidfd_info)`.
    const PIDFD_GET_INFO: libc::Ioctl = 0xc040_ff0b;
    const { assert!(size_of::<PidfdInfo>() == 0x40, "the request's number says so") };
    let mut info = PidfdInfo { mask: PIDFD_INFO_CGROUPID, ..PidfdInfo::default() };
    // SAFETY: the request's number says how large the structure is; the kernel writes no more than that, and only
    // during the call.
    let result = unsafe { libc::ioctl(process.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (result == 0 && info.mask & PIDFD_INFO_CGROUPID != 0).then_some(info.cgroup)
}

/// The line of the unified hierarchy in /proc/PID/cgroup.
fn cgroup_path(pid: u32) -> Option<String> {
    let lines = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    lines.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// A process's descriptor becomes readable when it ends (pidfd_open(2)).
fn has_ended(process: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_err() || !polled[0].revents().is_empty()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_other_end_of_a_pair_is_ourselves() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = PeerProcess::of(one.as_fd()).unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
        assert_eq!(peer.pid, Some(std::process::id()));
        let ours: Vec<_> = rustix::process::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        assert_eq!(peer.groups().unwrap(), ours);
    }

    #[test]
    fn both_ways_to_a_processs_cgroup_lead_to_the_same() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = PeerProcess::of(one.as_fd()).unwrap();
        let path = cgroup_path(std::process::id()).expect("the host has the unified hierarchy");
        match peer.cgroup() {
            Some(ProcessCgroup::Path(found)) => assert_eq!(found, path),
            Some(ProcessCgroup::Id(id)) => {
                use std::os::unix::fs::MetadataExt;
                let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(|root| format!("{root}{path}"));
                let ids = roots.map(|root| std::fs::metadata(root).map_or(0, |folder| folder.ino()));
                assert!(ids.contains(&id), "{id} is none of {ids:?}");
            }
            None => eprintln!("this kernel has no SO_PEERPIDFD; nothing was compared"),
        }
    }
}
