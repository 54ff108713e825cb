//! The process that starts successors. It is forked before the daemon has read a file or given up a right, and waits: so a
//! successor begins with what a start has, whatever its predecessor may do no more, and the daemon itself starts nothing.
//!
//! What it starts, with which arguments and environment, it knows from its own beginning; the daemon can only pass it sockets,
//! say "start" and say "kill". It holds no descriptor but its end of the line (and what is passed until that is handed on), has
//! read no key, hears no signal, and ends with the daemon.

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
use super::successor::{PREDECESSOR, READY, SOCKETS};

/// The line to it. Dropping it ends it; a successor that it has started is nobody's child then.
#[derive(Debug)]
pub(crate) struct Launcher {
    line: OwnedFd,
    id: Pid,
    /// Starts that were ordered: an answer says to which it is, for it may come when nobody waits for it any more.
    ordered: AtomicU32,
}

/// What the daemon says.
const PASS: u8 = b'p';
const START: u8 = b's';
const KILL: u8 = b'k';
/// What the launcher answers.
const STARTED: u8 = b'+';
const FAILED: u8 = b'-';
const ENDED: u8 = b'.';

/// How long an answer may take: a fork, an exec, or the end of a process that was killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest message: as many roles as there may be descriptors, each with a listener's name.
const MESSAGE_MAX: usize = 128 * 1024;

/// A message without its descriptors.
pub(super) enum LauncherReply {
    Started(u32),
    /// In words.
    Failed(String),
    /// As waitpid(2) has it.
    Ended(i32),
}

impl Launcher {
    /// Makes it. Here the daemon goes on; the launcher never comes back from this.
    ///
    /// # Errors
    /// What fork(2) says; and when there is another thread already, whose locks would be held for ever on the other side.
    pub(crate) fn fork() -> io::Result<Self> {
        if !is_single()? {
            return Err(io::Error::other("there is more than one thread"));
        }
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&ours, Timeout::Recv, Some(PATIENCE))?;
        set_socket_timeout(&ours, Timeout::Send, Some(PATIENCE))?;
        let daemon = std::process::id();
        // SAFETY: this is the only thread, so what is not async-signal-safe is whole in the child too.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Parent { child } => {
                let id = Pid::from_raw(child.as_raw()).ok_or(ErrorKind::InvalidData)?;
                Ok(Self { line: ours, id, ordered: AtomicU32::new(0) })
            }
            ForkResult::Child => {
                drop(ours);
                // Whatever ends it, it must not go on as a daemon.
                let _ = std::panic::catch_unwind(|| Serving::new(theirs, daemon).serve());
                std::process::exit(0)
            }
        }
    }

    /// Has a successor started, with these sockets by their roles, and with the descriptor on which it is to say that it is
    /// ready. The number of the order and the successor's process id are the answer.
    ///
    /// # Errors
    /// When the launcher is gone, or cannot start it, or not in time; then none is left running.
    pub(super) fn start(
        &self,
        sockets: &[(BorrowedFd<'_>, String)],
        ready: BorrowedFd<'_>,
    ) -> io::Result<(u32, u32)> {
        for chunk in sockets.chunks(PASSED_MAX) {
            let roles: Vec<_> = chunk.iter().map(|(_, role)| role.as_str()).collect();
            let descriptors: Vec<_> = chunk.iter().map(|(fd, _)| *fd).collect();
            say(&self.line, PASS, roles.join(",").as_bytes(), &descriptors)?;
        }
        let order = self.ordered.fetch_add(1, Ordering::Relaxed) + 1;
        say(&self.line, START, order.to_string().as_bytes(), &[ready])?;
        match self.answer(order) {
            Ok(LauncherReply::Started(id)) => Ok((order, id)),
            Ok(LauncherReply::Failed(reason)) => Err(io::Error::other(reason)),
            Ok(LauncherReply::Ended(_)) => Err(ErrorKind::UnexpectedEof.into()),
            Err(error) => {
                // One that starts all the same would take connections beside us.
                self.kill();
                Err(error)
            }
        }
    }

    /// Kills the successor that was started last, if it lives.
    pub(crate) fn kill(&self) {
        // A launcher that is gone kills nobody, and was nobody's parent any more.
        let _ = say(&self.line, KILL, b"", &[]);
    }

    /// Waits for the next answer to that order; those to earlier ones, which nobody waited for, are passed over.
    pub(super) fn answer(&self, order: u32) -> io::Result<LauncherReply> {
        loop {
            let Heard { kind, text, .. } = hear(&self.line)?.ok_or(ErrorKind::UnexpectedEof)?;
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
        // The end of the line is what it waits for; nobody else would take note of its end.
        let _ = rustix::net::shutdown(&self.line, rustix::net::Shutdown::Both);
        let _ = waitpid(Some(self.id), WaitOptions::empty());
    }
}

/// What the launcher has.
struct Serving {
    line: OwnedFd,
    daemon: u32,
    /// For the next one.
    passed: Vec<(OwnedFd, String)>,
    successor: Option<Started>,
    /// The signals that a successor is to hear.
    signals: SigSet,
}

/// A successor that was started.
struct Started {
    order: u32,
    child: Child,
    /// It can be read from when the process has ended.
    pidfd: OwnedFd,
}

impl Serving {
    fn new(line: OwnedFd, daemon: u32) -> Self {
        let _ = rustix::thread::set_name(c"launcher");
        // What is meant for the daemon may reach its whole group: Ctrl-C, or a supervisor that tells all.
        let signals = SigSet::thread_get_mask().unwrap_or_else(|_| SigSet::empty());
        let _ = SigSet::all().thread_block();
        close_all_but(&line);
        Self { line, daemon, passed: Vec::new(), successor: None, signals }
    }

    /// Until the daemon's end of the line is closed.
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
                let _ = say(&self.line, ENDED, format!("{order} {status}").as_bytes(), &[]);
            }
            if is_said && self.obey().is_none() {
                return;
            }
        }
    }

    /// `None`: nobody is there any more.
    fn obey(&mut self) -> Option<()> {
        let Heard { kind, text, mut descriptors } = hear(&self.line).ok()??;
        match kind {
            PASS => self.passed.extend(descriptors.into_iter().zip(text.split(',').map(str::to_owned))),
            START => {
                let passed = std::mem::take(&mut self.passed);
                let order = text.parse().ok()?;
                self.end_successor();
                let started = descriptors.pop().ok_or_else(|| ErrorKind::InvalidInput.into());
                match started.and_then(|ready| self.start(order, &passed, &ready)) {
                    Ok(id) => say(&self.line, STARTED, format!("{order} {id}").as_bytes(), &[]).ok()?,
                    Err(error) => say(&self.line, FAILED, format!("{order} {error}").as_bytes(), &[]).ok()?,
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

    /// Nobody waits for that one any more, or it would have been heard of.
    fn end_successor(&mut self) {
        if let Some(mut started) = self.successor.take() {
            let _ = started.child.kill();
            let _ = started.child.wait();
        }
    }

    /// Descriptors are inherited under the numbers that they have here, for which they lose CLOEXEC; they are closed here when
    /// it has started.
    fn start(&mut self, order: u32, passed: &[(OwnedFd, String)], ready: &OwnedFd) -> io::Result<u32> {
        let list: Vec<_> = passed.iter().map(|(fd, role)| format!("{}={role}", fd.as_raw_fd())).collect();
        let program = program();
        let mut command = Command::new(&program);
        command
            .args(std::env::args_os().skip(1))
            .env(SOCKETS, list.join(","))
            .env(PREDECESSOR, self.daemon.to_string())
            .env(READY, ready.as_raw_fd().to_string())
            // Those of systemd are in the list.
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
                // One whose end nobody would hear of.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error.into());
            }
        }
        Ok(id)
    }
}

struct Heard {
    kind: u8,
    text: String,
    descriptors: Vec<OwnedFd>,
}

fn say(line: &OwnedFd, kind: u8, text: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(ErrorKind::InvalidInput.into());
    }
    sendmsg(line, &[IoSlice::new(&[kind]), IoSlice::new(text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// `None`: the other side is gone.
fn hear(line: &OwnedFd) -> io::Result<Option<Heard>> {
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
    Ok(Some(Heard { kind: *kind, text: String::from_utf8_lossy(text).into_owned(), descriptors }))
}

/// What the process has inherited for the daemon's sake: a socket that stays open here would go on accepting.
fn close_all_but(line: &OwnedFd) {
    const STDERR: RawFd = 2;
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    // The folder's own is among them, and closed by then.
    for number in numbers.collect::<Vec<_>>() {
        if number > STDERR && number != line.as_raw_fd() {
            // SAFETY: borrowed to ask whether it is open.
            let is_open = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_ok();
            // SAFETY: nothing in this process uses it: all that it does from here on is in `Serving`, which has the line.
            drop(is_open.then(|| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
}

/// The program at our path: a newer one, where it was replaced.
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
