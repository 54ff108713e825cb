//! The writing end of a queue: the open output, how lines are written, and what is reported when that fails.
//!
//! A line is never torn: when the disk is full in the middle of one, its rest is written first when there is room
//! again, and the lines that come meanwhile are lost.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, access, fchmod, openat, statat};
use rustix::io::Errno;

use super::timestamp::timestamp;
use super::{KINDS, LOST, Output};
use crate::clock;
use crate::escape::escaped;
use crate::sys::{Folder, Journal};

/// The mode of a file that we make: its group may read it, for log collectors.
const MODE: u32 = 0o640;
/// Bytes that are written to a pipe at once without being mixed with others' (PIPE_BUF), so that a successor may share
/// it.
const PIPE_PORTION: usize = 4096;
/// Bytes that are written to a file at once.
const FILE_PORTION: usize = 64 * 1024;
/// The shortest interval between checks that a file still has its name.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The shortest interval between reports that an output fails.
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// An output with the lines to be written to it next.
#[derive(Debug)]
pub(super) struct Sink {
    output: Output,
    way: OutputKind,
    /// Bytes per write; 0 where each line is a message of its own.
    portion: usize,
    batch: Batch,
    trouble: Option<OutputFailure>,
    said: Option<Instant>,
    looked: Instant,
}

#[derive(Debug)]
enum OutputKind {
    Stream(File),
    Journal(Journal),
}

impl OutputKind {
    /// What is no regular file may be a pipe that other processes write to.
    fn portion(&self) -> usize {
        match self {
            Self::Stream(file) if file.metadata().is_ok_and(|open| open.is_file()) => FILE_PORTION,
            Self::Stream(_) => PIPE_PORTION,
            Self::Journal(_) => 0,
        }
    }
}

#[derive(Debug)]
struct OutputFailure {
    /// Lines of this kind of output that were lost before.
    lost: u64,
}

/// Consecutive lines, and where each ends.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// The first is the rest of a line that was begun.
    begins_with_rest: bool,
}

impl Sink {
    /// Opens the output; a missing file is made.
    ///
    /// # Errors
    /// Errors of open(2), connect(2) and the like.
    pub(super) fn open(output: &Output) -> io::Result<Self> {
        let stream = |fd: io::Result<OwnedFd>| fd.map(|fd| OutputKind::Stream(fd.into()));
        let way = match output {
            Output::Stderr => stream(io::stderr().as_fd().try_clone_to_owned()),
            Output::Stdout => stream(io::stdout().as_fd().try_clone_to_owned()),
            Output::Journal(path) => Journal::at(path).map(OutputKind::Journal),
            Output::File(path) => open(path).map(OutputKind::Stream),
        }?;
        Ok(Self {
            output: output.clone(),
            portion: way.portion(),
            way,
            batch: Batch::default(),
            trouble: None,
            said: None,
            looked: clock::now(),
        })
    }

    pub(super) const fn kind(&self) -> usize {
        self.output.kind()
    }

    /// Whether a line of that size still fits into this write.
    pub(super) fn has_room(&self, size: usize) -> bool {
        self.batch.bytes.len() + size <= self.portion
    }

    pub(super) fn add(&mut self, line: &[u8]) {
        self.batch.add(line);
    }

    /// Writes the added lines. Those that cannot be written are lost and counted, and the failure is reported.
    pub(super) fn write(&mut self) {
        self.follow();
        let written = match &mut self.way {
            OutputKind::Stream(file) => self.batch.write_to(file),
            OutputKind::Journal(journal) => {
                let sent = journal.send(&self.batch.bytes);
                self.batch.clear();
                sent.map_err(|error| (1, error))
            }
        };
        match written {
            Ok(()) => self.record_recovery(),
            Err((lines, error)) => self.record_failure(lines, &error),
        }
    }

    /// Opens a file again by its name.
    ///
    /// # Errors
    /// When it cannot be opened; then the one that is open stays.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let (Output::File(path), OutputKind::Stream(file)) = (&self.output, &mut self.way) {
            *file = open(path)?;
            self.portion = self.way.portion();
            // The rest would begin the new file.
            let torn = u64::from(self.batch.drop_rest());
            LOST[self.output.kind()].fetch_add(torn, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Opens the file again if its name leads to another one. A process that was replaced and lives on gets no signal
    /// for that.
    fn follow(&mut self) {
        let now = clock::now();
        if now - self.looked < LOOK_AGAIN {
            return;
        }
        self.looked = now;
        if let (Output::File(path), OutputKind::Stream(file)) = (&self.output, &self.way)
            && let Ok(open) = file.metadata()
            && !std::fs::metadata(path)
                .is_ok_and(|there| (there.dev(), there.ino()) == (open.dev(), open.ino()))
        {
            // The old file stays in use until the next check.
            if let Err(error) = self.reopen()
                && self.is_news(now)
            {
                tracing::warn!(
                    output = %self.output, %error,
                    "the log's file was renamed, and a new one cannot be opened: lines go to the renamed file"
                );
            }
        }
    }

    /// Whether a failure of this output may be reported again.
    fn is_news(&mut self, now: Instant) -> bool {
        let is_news = self.said.is_none_or(|said| now - said >= SAID_AGAIN);
        if is_news {
            self.said = Some(now);
        }
        is_news
    }

    fn record_recovery(&mut self) {
        let Some(OutputFailure { lost }) = self.trouble.take() else { return };
        let lost = LOST[self.kind()].load(Ordering::Relaxed) - lost;
        tracing::warn!(output = %self.output, lost, "the log can be written again");
    }

    fn record_failure(&mut self, lines: u64, error: &io::Error) {
        let before = LOST[self.kind()].fetch_add(lines, Ordering::Relaxed);
        if self.trouble.is_some() {
            return;
        }
        self.trouble = Some(OutputFailure { lost: before });
        if !self.is_news(clock::now()) {
            return;
        }
        if !matches!(self.output, Output::Stderr) {
            write_to_stderr(&format!(
                "cannot write the log to {}: {error}; until that is over its lines are lost, and counted in \
                 log_lines_lost_total{{output=\"{}\"}}",
                self.output,
                KINDS[self.kind()]
            ));
        }
    }
}

/// Whether the output could be opened, as far as that can be found out without side effects. For `check`, which makes
/// no file.
///
/// # Errors
/// Why not.
pub(crate) fn accepts(output: &Output) -> io::Result<()> {
    let path = match output {
        Output::Stderr | Output::Stdout => return Ok(()),
        Output::Journal(path) => return Journal::at(path).map(drop),
        Output::File(path) => path,
    };
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    if is_link && Folder::of(path)?.is_shared() {
        return Err(io::Error::other(ANOTHERS));
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Ok(_) => Ok(access(path, Access::WRITE_OK)?),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.map_or_else(|| PathBuf::from("."), Path::to_owned);
            if !std::fs::metadata(&folder)?.is_dir() {
                return Err(ErrorKind::NotADirectory.into());
            }
            Ok(access(&folder, Access::WRITE_OK | Access::EXEC_OK)?)
        }
        Err(error) => Err(error),
    }
}

/// Where others may write in the folder, a link or a file there may be theirs, and is not written to.
const ANOTHERS: &str =
    "others may write in its folder, and what has that name there is a link or a file of theirs";

fn open(path: &Path) -> io::Result<File> {
    let folder = Folder::of(path)?;
    let name = path.file_name().ok_or(ErrorKind::IsADirectory)?;
    let append = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(MODE);
    match openat(&folder, name, append | OFlags::CREATE | OFlags::EXCL, mode) {
        Ok(made) => {
            // The umask is meant for sockets, so the mode is set explicitly.
            fchmod(&made, mode)?;
            return Ok(made.into());
        }
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let is_shared = folder.is_shared();
    let (no_links, look) = if is_shared {
        (OFlags::NOFOLLOW, AtFlags::SYMLINK_NOFOLLOW)
    } else {
        (OFlags::empty(), AtFlags::empty())
    };
    // Opened for reading too, so that opening waits for no reader, and a reader that comes back finds what was written
    // meanwhile (fifo(7)).
    let is_fifo = statat(&folder, name, look)
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Fifo);
    let access = if is_fifo { append.difference(OFlags::WRONLY) | OFlags::RDWR } else { append };
    // A dangling link exists, and its target is created.
    let opened = match openat(&folder, name, access | OFlags::CREATE | no_links, mode) {
        Err(Errno::LOOP) if is_shared => return Err(io::Error::other(ANOTHERS)),
        opened => File::from(opened?),
    };
    let found = opened.metadata()?;
    let is_ours = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
    if is_shared && !(is_ours && found.nlink() == 1) {
        return Err(io::Error::other(ANOTHERS));
    }
    Ok(opened)
}

/// Writes one line, if that does not block.
fn write_to_stderr(message: &str) {
    let stderr = io::stderr();
    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut ready, Some(&now)).is_ok_and(|ready| ready > 0) {
        let _ = stderr.lock().write_all(format_self_line(message).as_bytes());
    }
}

/// A line about the log itself, for stderr, in the form that stderr usually has.
fn format_self_line(words: &str) -> String {
    let mut line = timestamp();
    if io::stderr().is_terminal() {
        let _ = writeln!(line, " ERROR {}", escaped(words));
    } else {
        let object = serde_json::json!({ "timestamp": line, "level": "ERROR", "message": words, "target": module_path!() });
        line = format!("{object}\n");
    }
    line
}

impl Batch {
    fn add(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.ends.push(self.bytes.len());
    }

    fn clear(&mut self) {
        *self = Self { bytes: std::mem::take(&mut self.bytes), ..Self::default() };
        self.bytes.clear();
    }

    /// Drops the rest of a line. Returns whether there was one.
    fn drop_rest(&mut self) -> bool {
        let had_rest = std::mem::take(&mut self.begins_with_rest);
        if had_rest {
            let size = self.ends.remove(0);
            self.bytes.drain(..size);
            self.ends.iter_mut().for_each(|end| *end -= size);
        }
        had_rest
    }

    /// Writes everything and becomes empty. On an error the rest of a begun line stays, and the others are lost: the
    /// error has their number.
    fn write_to(&mut self, to: &mut (impl Write + AsFd)) -> Result<(), (u64, io::Error)> {
        let mut written = 0;
        let error = loop {
            if written == self.bytes.len() {
                self.clear();
                return Ok(());
            }
            match to.write(&self.bytes[written..]) {
                Ok(0) => break ErrorKind::WriteZero.into(),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process that shares the descriptor may have made it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(to, PollFlags::OUT)], None);
                }
                Err(error) => break error,
            }
        };
        Err((self.keep_rest_of_line(written), error))
    }

    /// After a write that stopped at `written`, keeps the rest of the line in which it stopped. Returns how many lines
    /// are lost.
    fn keep_rest_of_line(&mut self, written: usize) -> u64 {
        let whole = self.ends.iter().take_while(|end| **end <= written).count();
        let start = whole.checked_sub(1).map_or(0, |last| self.ends[last]);
        let left = self.ends.len() - whole;
        let rest = self.ends.get(whole).map(|end| self.bytes[written..*end].to_vec());
        let is_begun = start < written || (whole == 0 && self.begins_with_rest);
        self.clear();
        match rest.filter(|_| is_begun) {
            Some(rest) => {
                self.add(&rest);
                self.begins_with_rest = true;
                left as u64 - 1
            }
            None => left as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::BorrowedFd;

    /// Takes that many bytes and is full then.
    struct Disk {
        room: usize,
        written: Vec<u8>,
        descriptor: File,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            let count = bytes.len().min(self.room);
            self.room -= count;
            self.written.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl AsFd for Disk {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.descriptor.as_fd()
        }
    }

    fn write(batch: &mut Batch, disk: &mut Disk, lines: &[&str]) -> u64 {
        lines.iter().for_each(|line| batch.add(line.as_bytes()));
        batch.write_to(disk).map_or_else(|(lost, _)| lost, |()| 0)
    }

    #[test]
    fn a_disk_that_fills_up_anywhere_tears_no_line_and_every_lost_line_is_counted() {
        let lines = ["first\n", "second\n", "3\n"];
        let size = lines.concat().len();
        for room in 0..=size {
            let descriptor = File::open("/dev/null").unwrap();
            let mut disk = Disk { room, written: Vec::new(), descriptor };
            let mut batch = Batch::default();
            let mut lost = write(&mut batch, &mut disk, &lines);
            // Still full: the begun line is kept, and new ones are lost.
            let begun = !disk.written.is_empty() && !disk.written.ends_with(b"\n");
            lost += write(&mut batch, &mut disk, &["meanwhile\n"]);
            assert_eq!(batch.ends.len(), usize::from(begun), "{room}");
            disk.room = 1000;
            lost += write(&mut batch, &mut disk, &["behind\n"]);
            let text = String::from_utf8(disk.written).unwrap();
            let known =
                |line: &str| lines.concat().lines().chain(["meanwhile", "behind"]).any(|known| known == line);
            assert!(text.ends_with("behind\n") && text.lines().all(known), "{room}: {text:?}");
            assert_eq!(lost, 5 - text.lines().count() as u64, "{room}: {text:?}");
        }
    }

    /// A user who may write in the log's folder put a link in its place, and the lines of a daemon running as root went
    /// into the link's target. In such a folder no link is followed and no other user's file is written to; elsewhere
    /// links still work.
    #[test]
    fn where_others_may_write_a_link_in_the_logs_place_is_not_followed() {
        use std::fs::{self, Permissions};
        use std::os::unix::fs::{PermissionsExt, symlink};

        let folder = tempfile::tempdir().unwrap();
        let [victim, linked, log] = ["victim", "linked.log", "a.log"].map(|name| folder.path().join(name));
        fs::write(&victim, "").unwrap();
        symlink(&victim, &linked).unwrap();
        let write = |path: &Path| open(path).and_then(|mut file| file.write_all(b"line\n"));
        for mode in [0o777, 0o1777] {
            fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            assert!(write(&linked).is_err() && accepts(&Output::File(linked.clone())).is_err(), "{mode:o}");
            write(&log).unwrap();
            write(&log).unwrap();
            accepts(&Output::File(log.clone())).unwrap();
            fs::remove_file(&log).unwrap();
            fs::hard_link(&victim, &log).unwrap();
            assert_eq!(write(&log).unwrap_err().to_string(), ANOTHERS, "{mode:o}");
            fs::remove_file(&log).unwrap();
        }
        assert_eq!(fs::read(&victim).unwrap(), b"");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        write(&linked).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"line\n");
    }

    #[test]
    fn the_rest_of_a_line_does_not_begin_another_file() {
        let descriptor = File::open("/dev/null").unwrap();
        let mut disk = Disk { room: 4, written: Vec::new(), descriptor };
        let mut batch = Batch::default();
        assert_eq!(write(&mut batch, &mut disk, &["first\n"]), 0);
        batch.add(b"second\n");
        assert!(batch.drop_rest());
        (disk.room, disk.written) = (1000, Vec::new());
        assert_eq!(write(&mut batch, &mut disk, &["third\n"]), 0);
        assert_eq!(disk.written, b"second\nthird\n");
        assert!(!batch.drop_rest());
    }
}
