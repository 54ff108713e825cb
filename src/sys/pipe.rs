//! A pipe as the in-kernel buffer between two sockets.
//!
//! splice(2) moves page references, so a pipe's capacity counts *pages*, not bytes: a segment of one byte fills a slot
//! as a segment of 4 KiB does. So the number of bytes that fit is unknown; the caller moves what the kernel gives and
//! counts it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::descriptors::{DescriptorUser, check_headroom};

/// Both ends of a non-blocking pipe, with the count of bytes inside.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
    wide: bool,
}

impl Pipe {
    /// The most that one splice call moves, and the size of a wide pipe: the most that an unprivileged process may
    /// have (`/proc/sys/fs/pipe-max-size`, 1 MiB unless the host changed it).
    pub const WIDE: usize = 1 << 20;

    /// A new, empty pipe; with `wide`, of [`Pipe::WIDE`] bytes where the kernel grants it.
    ///
    /// Past `pipe-user-pages-soft` an unprivileged user gets no wide pipe; it keeps the ordinary 64 KiB then.
    ///
    /// # Errors
    /// What pipe2(2) returns: `EMFILE`, `ENFILE`.
    pub fn new(wide: bool) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        check_headroom(write.as_fd(), DescriptorUser::Dial)?;
        let wide = wide && fcntl_setpipe_size(&write, Self::WIDE).is_ok();
        Ok(Self { read, write, held: 0, wide })
    }

    /// How many bytes the pipe contains.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Whether it was granted [`Pipe::WIDE`].
    #[must_use]
    pub const fn is_wide(&self) -> bool {
        self.wide
    }

    /// Moves bytes from a socket into the pipe. `Ok(0)` need not be the end: at the mark of urgent data splice(2)
    /// returns it too, once the peer has sent its FIN, although bytes are queued behind it (and `WouldBlock` before
    /// that). Only recv(2) tells them apart.
    ///
    /// # Errors
    /// `WouldBlock` when the socket is empty *or* the pipe is full: with an empty pipe, which the caller has to
    /// ensure, it means the first.
    pub(super) fn fill(&mut self, from: impl AsFd, most: usize) -> io::Result<usize> {
        let moved = splice(from, None, &self.write, None, most, flags())?;
        self.held += moved;
        Ok(moved)
    }

    /// Moves bytes from the pipe, which must not be empty, into a socket.
    ///
    /// # Errors
    /// `WouldBlock` when the socket takes no more now; `WriteZero` when nothing moved without an error, as a caller's
    /// loop would never end.
    pub(super) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        match splice(&self.read, None, to, None, self.held, flags())? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            moved => {
                self.held -= moved;
                Ok(moved)
            }
        }
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}
