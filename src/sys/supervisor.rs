//! The socket for notifications to a supervisor such as systemd (sd_notify(3)).

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// The longest wait for a supervisor that does not read.
const PATIENCE: Duration = Duration::from_millis(200);
/// The most descriptors of one message (SCM_MAX_FD).
pub(crate) const PASSED_MAX: usize = 253;

/// A socket connected to the supervisor.
#[derive(Debug)]
pub(crate) struct Supervisor(UnixDatagram);

impl Supervisor {
    /// Connects to that address, as in NOTIFY_SOCKET: a path, or `@` and an abstract name.
    ///
    /// # Errors
    /// When the address is invalid, or nothing listens there.
    pub(crate) fn at(address: &str) -> io::Result<Self> {
        let address = match address.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect_addr(&address)?;
        Ok(Self(socket))
    }

    /// Sends a message with these descriptors.
    ///
    /// # Errors
    /// What sendmsg(2) returns; `WouldBlock` when the supervisor does not read.
    pub(crate) fn notify(&self, words: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(&self.0, &[IoSlice::new(words.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}
