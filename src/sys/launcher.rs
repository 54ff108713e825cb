//! The process that starts successors. It is forked before the daemon has read a file or given up a permission: so a
//! successor begins with all permissions of a fresh start, and the daemon itself never executes anything.
//!
//! The program, its arguments and its environment are those of its own start; the daemon can only pass it sockets and
//! send "start" and "kill". It has no descriptor but its end of the socket pair (and what was passed, until a
//! successor gets it), has read no key, blocks all signals, and ends with the daemon.

use std::ffi::OsString;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::SigSet;
use nix::unistd::ForkResult;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

use super::PASSED_MAX;
use super::confinement::is_single;

/// The daemon's side of the launcher. Dropping it ends the launcher; a successor that it has started goes on without
/// it.
#[derive(Debug)]
pub(crate) struct Launcher {
    line: OwnedFd,
    id: Pid,
    /// Number of the last start. Each answer has the number of its start, as it may come after the wait for it has
    /// ended.
    ordered: AtomicU32,
}

/// Lists the sockets that are passed: `NUMBER=ROLE`, separated by commas.
pub(super) const SOCKETS: &str = "AMBASSADOR_SOCKETS";
/// The process id of the predecessor that passes them.
pub(super) const PREDECESSOR: &str = "AMBASSADOR_PREDECESSOR";
/// The descriptor on which the successor reports that it is ready.
pub(super) const READY: &str = "AMBASSADOR_READY";

/// Messages of the daemon.
const PASS: u8 = b'p';
const START: u8 = b's';
const KILL: u8 = b'k';
/// Answers of the launcher.
const STARTED: u8 = b'+';
const FAILED: u8 = b'-';
const ENDED: u8 = b'.';

/// How long an answer may take: a fork, an exec, or the end of a process that was killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest message: [`PASSED_MAX`] roles, each with a listener's name.
const MESSAGE_MAX: usize = 128 * 1024;

pub(super) enum LauncherReply {
    Started(u32),
    Failed(String),
    /// The status of waitpid(2).
    Ended(i32),
}

impl Launcher {
    /// Forks the launcher. Only the daemon returns from this.
    ///
    /// # Errors
    /// What fork(2) returns; and when there is another thread already, whose locks would stay locked in the child.
    pub(crate) fn fork() -> io::Result<Self> {
        if !is_single()? {
            return Err(io::Error::other("there is more than one thread"));
        }
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&ours, Timeout::Recv, Some(PATIENCE))?;
        set_socket_timeout(&ours, Timeout::Send, Some(PATIENCE))?;
        let daemon = std::process::id();
        // SAFETY: this is the only thread, so the child may call functions that are not async-signal-safe.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Parent { child } => {
                let id = Pid::from_raw(child.as_raw()).ok_or(ErrorKind::InvalidData)?;
                Ok(Self { line: ours, id, ordered: AtomicU32::new(0) })
            }
            ForkResult::Child => {
                drop(ours);
                // Even after a panic it must not go on as a daemon.
                let _ = std::panic::catch_unwind(|| Serving::new(theirs, daemon).serve());
                std::process::exit(0)
            }
        }
    }

    /// Starts a successor with these sockets and their roles; `ready`: the descriptor on which it reports that it is
    /// ready. Returns the number of the start and the successor's process id.
    ///
    /// # Errors
    /// When the launcher is gone, cannot start it, or does not answer in time; then no successor is left running.
    pub(super) fn start(
        &self,
        sockets: &[(BorrowedFd<'_>, String)],
        ready: BorrowedFd<'_>,
    ) -> io::Result<(u32, u32)> {
        for chunk in sockets.chunks(PASSED_MAX) {
            let roles: Vec<_> = chunk.iter().map(|(_, role)| role.as_str()).collect();
            let descriptors: Vec<_> = chunk.iter().map(|(fd, _)| *fd).collect();
            send(&self.line, PASS, roles.join(",").as_bytes(), &descriptors)?;
        }
        let order = self.ordered.fetch_add(1, Ordering::Relaxed) + 1;
        send(&self.line, START, order.to_string().as_bytes(), &[ready])?;
        match self.answer(order) {
            Ok(LauncherReply::Started(id)) => Ok((order, id)),
            Ok(LauncherReply::Failed(reason)) => Err(io::Error::other(reason)),
            Ok(LauncherReply::Ended(_)) => Err(ErrorKind::UnexpectedEof.into()),
            Err(error) => {
                // A successor that starts all the same would accept connections beside us.
                self.kill();
                Err(error)
            }
        }
    }

    /// Kills the successor that was started last, if it lives.
    pub(crate) fn kill(&self) {
        // If the launcher is gone, nothing can be killed.
        let _ = send(&self.line, KILL, b"", &[]);
    }

    /// Waits for the next answer to that start; answers to earlier ones, which came too late, are skipped.
    pub(super) fn answer(&self, order: u32) -> io::Result<LauncherReply> {
        loop {
            let Message { kind, text, .. } = receive(&self.line)?.ok_or(ErrorKind::UnexpectedEof)?;
            let Some((to, text)) = text.split_once(' ') else { return Err(ErrorKind::InvalidData.into()) };
            if to.parse() != Ok(order) {
                continue;
            }
            return match kind {
                STARTED => Ok(LauncherReply::Started(text.parse().map_err(|_| ErrorKind::InvalidData)?)),
                FAILED => Ok(LauncherReply::Failed(text.to_owned())),
                ENDED => Ok(LauncherReply::Ended(text.parse().map_err(|_| ErrorKind::InvalidData)?)),
                _ => Err(ErrorKind::InvalidData.into()),
            };
        }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // The shutdown ends it; it is our child, so it has to be waited for.
        let _ = rustix::net::shutdown(&self.line, rustix::net::Shutdown::Both);
        let _ = waitpid(Some(self.id), WaitOptions::empty());
    }
}

/// The launcher's own state.
struct Serving {
    line: OwnedFd,
    daemon: u32,
    /// Sockets for the next successor.
    passed: Vec<(OwnedFd, String)>,
    successor: Option<Started>,
    /// The signal mask of a successor.
    signals: SigSet,
}

/// A successor that was started.
struct Started {
    order: u32,
    child: Child,
    /// Readable when the process has ended.
    pidfd: OwnedFd,
}

impl Serving {
    fn new(line: OwnedFd, daemon: u32) -> Self {
        let _ = rustix::thread::set_name(c"launcher");
        // Signals for the daemon may reach its whole process group: Ctrl-C, or a supervisor that signals every
        // process.
        let signals = SigSet::thread_get_mask().unwrap_or_else(|_| SigSet::empty());
        let _ = SigSet::all().thread_block();
        close_all_but(&line);
        Self { line, daemon, passed: Vec::new(), successor: None, signals }
    }

    /// Runs until the daemon closes its end.
    fn serve(mut self) {
        loop {
            let mut waiting = vec![PollFd::new(&self.line, PollFlags::IN)];
            waiting.extend(self.successor.as_ref().map(|started| PollFd::new(&started.pidfd, PollFlags::IN)));
            if poll(&mut waiting, None).is_err() {
                continue;
            }
            let is_said = !waiting[0].revents().is_empty();
            let has_ended = waiting.get(1).is_some_and(|pidfd| !pidfd.revents().is_empty());
            if has_ended && let Some(Started { order, mut child, .. }) = self.successor.take() {
                use std::os::unix::process::ExitStatusExt;
                let status = child.wait().map_or(0, ExitStatusExt::into_raw);
                let _ = send(&self.line, ENDED, format!("{order} {status}").as_bytes(), &[]);
            }
            if is_said && self.obey().is_none() {
                return;
            }
        }
    }

    /// Handles one message. `None`: the daemon is gone.
    fn obey(&mut self) -> Option<()> {
        let Message { kind, text, mut descriptors } = receive(&self.line).ok()??;
        match kind {
            PASS => self.passed.extend(descriptors.into_iter().zip(text.split(',').map(str::to_owned))),
            START => {
                let passed = std::mem::take(&mut self.passed);
                let order = text.parse().ok()?;
                self.end_successor();
                let started = descriptors.pop().ok_or_else(|| ErrorKind::InvalidInput.into());
                match started.and_then(|ready| self.start(order, &passed, &ready)) {
                    Ok(id) => send(&self.line, STARTED, format!("{order} {id}").as_bytes(), &[]).ok()?,
                    Err(error) => {
                        send(&self.line, FAILED, format!("{order} {error}").as_bytes(), &[]).ok()?
                    }
                }
            }
            KILL => {
                if let Some(started) = &mut self.successor {
                    let _ = started.child.kill();
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Kills the earlier successor: the daemon no longer waits for it, or it would not start another.
    fn end_successor(&mut self) {
        if let Some(mut started) = self.successor.take() {
            let _ = started.child.kill();
            let _ = started.child.wait();
        }
    }

    /// The child inherits the descriptors under the same numbers, for which they lose CLOEXEC; the caller closes them
    /// after the start.
    fn start(&mut self, order: u32, passed: &[(OwnedFd, String)], ready: &OwnedFd) -> io::Result<u32> {
        let list: Vec<_> = passed.iter().map(|(fd, role)| format!("{}={role}", fd.as_raw_fd())).collect();
        let program = program();
        let mut command = Command::new(&program);
        command
            .args(std::env::args_os().skip(1))
            .env(SOCKETS, list.join(","))
            .env(PREDECESSOR, self.daemon.to_string())
            .env(READY, ready.as_raw_fd().to_string())
            // Sockets from systemd are in the list too.
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES");
        let signals = self.signals;
        // SAFETY: sigprocmask(2) is async-signal-safe, and nothing else is done between fork and exec.
        unsafe { command.pre_exec(move || Ok(signals.thread_set_mask()?)) };
        for fd in passed.iter().map(|(fd, _)| fd).chain([ready]) {
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        let named = |error: io::Error| io::Error::other(format!("{}: {error}", program.display()));
        let mut child = command.spawn().map_err(named)?;
        let id = child.id();
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).ok_or(ErrorKind::InvalidData)?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => self.successor = Some(Started { order, child, pidfd }),
            Err(error) => {
                // Without a pidfd its end could not be reported.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error.into());
            }
        }
        Ok(id)
    }
}

struct Message {
    kind: u8,
    text: String,
    descriptors: Vec<OwnedFd>,
}

fn send(line: &OwnedFd, kind: u8, text: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(ErrorKind::InvalidInput.into());
    }
    sendmsg(line, &[IoSlice::new(&[kind]), IoSlice::new(text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message. `None`: the other side is gone.
fn receive(line: &OwnedFd) -> io::Result<Option<Message>> {
    let mut bytes = vec![0; MESSAGE_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(line, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    let Some((kind, text)) = bytes[..received.bytes].split_first() else { return Ok(None) };
    Ok(Some(Message { kind: *kind, text: String::from_utf8_lossy(text).into_owned(), descriptors }))
}

/// Closes the descriptors that are meant for the daemon: a socket that stays open here would go on accepting.
fn close_all_but(line: &OwnedFd) {
    const STDERR: RawFd = 2;
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    // The descriptor of the folder itself is among them, and is closed by then.
    for number in numbers.collect::<Vec<_>>() {
        if number > STDERR && number != line.as_raw_fd() {
            // SAFETY: borrowed only to check that it is open.
            let is_open = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_ok();
            // SAFETY: nothing else uses it: from here on this process runs `Serving` alone, which only has `line`.
            drop(is_open.then(|| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
}

/// The program at our own path: the new one, if it was replaced.
fn program() -> PathBuf {
    const DELETED: &str = " (deleted)";
    let path = std::fs::read_link("/proc/self/exe").unwrap_or_else(|error| {
        debug_assert_ne!(error.kind(), ErrorKind::InvalidInput, "it is a link");
        std::env::args_os().next().unwrap_or_else(|| OsString::from("ambassador")).into()
    });
    match path.to_str().and_then(|text| text.strip_suffix(DELETED)) {
        Some(replaced) => PathBuf::from(replaced),
        None => path,
    }
}
