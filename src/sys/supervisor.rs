//! The socket on which a supervisor such as systemd hears of us (sd_notify(3)).

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// A supervisor that does not read holds us up no longer than this.
const PATIENCE: Duration = Duration::from_millis(200);
/// As many descriptors as one message may carry (SCM_MAX_FD).
pub(crate) const PASSED_MAX: usize = 253;

/// Where we tell it.
#[derive(Debug)]
pub(crate) struct Supervisor(UnixDatagram);

impl Supervisor {
    /// The one at that address, as NOTIFY_SOCKET has it: a path, or a name behind `@`.
    ///
    /// # Errors
    /// When it is no address, or nobody is there.
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

    /// Tells it, and passes the descriptors along.
    ///
    /// # Errors
    /// What sendmsg(2) says; `WouldBlock` when it does not read.
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
