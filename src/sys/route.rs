//! Asks the kernel's routing tables about an address: whether there is a route to it, and whether it is this host's
//! own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recvfrom, send, socket_with,
};

/// Whether there is a route and an address to send from. Connects a UDP socket, which sends nothing. True if there is
/// no socket to ask with.
#[must_use]
pub(crate) fn has_route(to: IpAddr) -> bool {
    /// Discard (RFC 863); any port would do.
    const PORT: u16 = 9;
    let from: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    match UdpSocket::bind(SocketAddr::new(from, 0)) {
        Ok(socket) => socket.connect(SocketAddr::new(to, PORT)).is_ok(),
        // A kernel without IPv6 has no IPv6 routes.
        Err(error) => error.raw_os_error() != Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()),
    }
}

/// Whether that address is one of this host's own, in our network namespace. Asks for the route to it (rtnetlink(7),
/// RTM_GETROUTE), because with `ip_nonlocal_bind` bind(2) succeeds for every address. If the kernel does not answer,
/// only loopback is.
#[must_use]
pub(crate) fn is_own(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || route_type(address).is_ok_and(|found| found == Some(RTN_LOCAL))
}

// linux/netlink.h, linux/rtnetlink.h.
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const RTA_DST: u16 = 1;
const RTN_LOCAL: u8 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Sizes of `nlmsghdr` and `rtmsg`; the eighth byte of the latter is the route's type.
const HEADER: usize = 16;
const ROUTE_MESSAGE: usize = 12;
const TYPE: usize = HEADER + 7;

/// The type of the route to that address; `None` if the kernel answers with something else. It handles the request
/// within send(2), so the answer is there when that returns.
fn route_type(address: IpAddr) -> io::Result<Option<u8>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // NETLINK_ROUTE is 0, the default protocol.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    send(&socket, &question(address), SendFlags::empty())?;
    let mut answer = [0; 1024];
    let (_, received, from) = recvfrom(&socket, &mut answer[..], RecvFlags::empty())?;
    let is_kernel =
        from.and_then(|from| SocketAddrNetlink::try_from(from).ok()).is_some_and(|from| from.pid() == 0);
    let answer = &answer[..received.min(answer.len())];
    let kind = answer.get(4..6).map(|two| u16::from_ne_bytes([two[0], two[1]]));
    Ok(answer.get(TYPE).copied().filter(|_| is_kernel && kind == Some(RTM_NEWROUTE)))
}

fn question(address: IpAddr) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    };
    let bits = octets.len() as u8 * 8;
    let attribute = octets.len() as u16 + 4;
    let length = (HEADER + ROUTE_MESSAGE) as u32 + u32::from(attribute);
    let mut question = length.to_ne_bytes().to_vec();
    question.extend(RTM_GETROUTE.to_ne_bytes());
    question.extend(NLM_F_REQUEST.to_ne_bytes());
    question.extend([0; 8]);
    question.extend([family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    question.extend(attribute.to_ne_bytes());
    question.extend(RTA_DST.to_ne_bytes());
    question.extend(octets);
    question
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_route_to_loopback_and_none_to_a_link_without_its_interface() {
        assert!(has_route(Ipv4Addr::LOCALHOST.into()));
        assert!(!has_route("fe80::1".parse().unwrap()));
    }

    #[test]
    fn the_hosts_own_addresses_are_known_from_others() {
        for own in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        // Addresses for documentation (RFC 5737, RFC 3849).
        for other in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
        // 127.0.0.1 by the kernel's routes, without the shortcut for loopback.
        assert_eq!(route_type(Ipv4Addr::LOCALHOST.into()).unwrap(), Some(RTN_LOCAL));
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        // Sends nothing.
        if socket.connect("192.0.2.1:9").is_ok() {
            let outer = socket.local_addr().unwrap().ip();
            assert!(is_own(outer), "{outer}");
        }
    }
}
