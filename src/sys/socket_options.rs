//! How long the kernel believes that a silent peer is still there.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// The time between keepalive probes, and how many may stay unanswered. Without a user timeout, which overrides the
/// count, a dead peer is detected 45 s after the silence; Linux's own defaults take 11 minutes.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
const PROBES: u32 = 3;

/// Socket options of both legs of a session, and of connections of our own on which the other side may be silent for long. Neither is set on loopback addresses, as the kernel knows at once when a
/// process of this host is gone (docs/DECISIONS.md); a loopback peer of a socket bound to another address gets
/// keepalive only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Silence after which the kernel probes the peer; `None` sends no keepalives.
    pub keepalive: Option<Duration>,
    /// How long sent data may stay unacknowledged, or unsendable because the peer does not read, before the kernel
    /// drops the connection (TCP_USER_TIMEOUT); `None` leaves it to retransmission, about 15 minutes. Keepalive does
    /// not run while data is in flight, hence both.
    pub user_timeout: Option<Duration>,
}

impl Options {
    /// Only what every socket has (TCP_NODELAY).
    pub const NONE: Self = Self { keepalive: None, user_timeout: None };

    /// `towards`: the peer's address, or a listening socket's own, whose accepted sockets inherit its options.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn apply(&self, socket: &impl AsFd, towards: IpAddr) -> io::Result<()> {
        let socket = SockRef::from(socket);
        // A relay must not add Nagle's delay to what an application sends now.
        socket.set_tcp_nodelay(true)?;
        if towards.is_loopback() {
            return Ok(());
        }
        if let Some(silence) = self.keepalive {
            socket.set_tcp_keepalive(
                &TcpKeepalive::new().with_time(silence).with_interval(PROBE_INTERVAL).with_retries(PROBES),
            )?;
        }
        if self.user_timeout.is_some() {
            socket.set_tcp_user_timeout(self.user_timeout)?;
        }
        Ok(())
    }

    /// Unsets the inherited user timeout on an accepted socket whose peer is on loopback.
    pub(super) fn reset_loopback(accepted: &impl AsFd) -> io::Result<()> {
        SockRef::from(accepted).set_tcp_user_timeout(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_is_probed_and_given_up_unless_it_is_on_this_host() {
        let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listening.local_addr().unwrap()).unwrap();
        let options =
            Options { keepalive: Some(Duration::from_secs(30)), user_timeout: Some(Duration::from_secs(60)) };
        options.apply(&socket, [127, 0, 0, 1].into()).unwrap();
        assert!(!SockRef::from(&socket).keepalive().unwrap(), "the kernel knows at once");
        // As towards another host.
        options.apply(&socket, [192, 0, 2, 1].into()).unwrap();
        let set = SockRef::from(&socket);
        assert!(set.keepalive().unwrap());
        let probes = (set.tcp_keepalive_time().unwrap(), set.tcp_keepalive_interval().unwrap());
        assert_eq!(probes, (Duration::from_secs(30), PROBE_INTERVAL));
        assert_eq!(set.tcp_keepalive_retries().unwrap(), PROBES);
        assert_eq!(set.tcp_user_timeout().unwrap(), options.user_timeout);
    }
}
