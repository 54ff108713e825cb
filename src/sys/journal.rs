//! The socket of journald (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>). Sending blocks while journald does not
//! read, so it needs a thread of its own.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr, sendto,
};

/// The size that libsystemd asks for; the kernel may grant less.
const BUFFER: usize = 8 * 1024 * 1024;

/// Where entries are sent.
#[derive(Debug)]
pub(crate) struct Journal {
    socket: UnixDatagram,
    /// Given with each message instead of a connection, as journald may bind anew.
    at: SocketAddrUnix,
}

impl Journal {
    /// Uses the socket at that path.
    ///
    /// # Errors
    /// When nothing listens there, or we may not write to it.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        let at = SocketAddrUnix::new(path)?;
        UnixDatagram::unbound()?.connect(path)?;
        let socket = UnixDatagram::unbound()?;
        let _ = set_socket_send_buffer_size(&socket, BUFFER);
        Ok(Self { socket, at })
    }

    /// Sends one entry. An entry that is too large for a datagram is sent as a memory file.
    ///
    /// # Errors
    /// What sendmsg(2) returns.
    pub(crate) fn send(&self, entry: &[u8]) -> io::Result<()> {
        match sendto(&self.socket, entry, SendFlags::NOSIGNAL, &self.at) {
            Ok(_) => Ok(()),
            Err(Errno::MSGSIZE | Errno::NOBUFS) => self.send_as_file(entry),
            Err(error) => Err(error.into()),
        }
    }

    /// The file is sealed: journald does not read one that could change.
    fn send_as_file(&self, entry: &[u8]) -> io::Result<()> {
        let memory = memfd_create("journal-entry", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut file = File::from(memory);
        file.write_all(entry)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [file.as_fd()];
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg_addr(&self.socket, &self.at, &[IoSlice::new(&[])], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::io::{IoSliceMut, Read, Seek};

    #[test]
    fn an_entry_that_no_datagram_holds_comes_as_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.sock");
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(&path).unwrap();
        let entry = vec![b'x'; 20 * 1024 * 1024];
        journal.send(&entry).unwrap();
        journal.send(b"MESSAGE=small\n").unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 100];
        let received =
            recvmsg(&journald, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::empty())
                .unwrap();
        assert_eq!(received.bytes, 0);
        let passed = ancillary.drain().find_map(|message| {
            if let RecvAncillaryMessage::ScmRights(mut passed) = message { passed.next() } else { None }
        });
        let mut file = File::from(passed.unwrap());
        file.rewind().unwrap();
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert_eq!(read, entry);
        let size = journald.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..size], b"MESSAGE=small\n");
    }

    #[test]
    fn a_place_where_nobody_listens_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Journal::at(&folder.path().join("nobody.sock")).is_err());
    }
}
