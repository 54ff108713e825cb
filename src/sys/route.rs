//! What the kernel's routes say of an address: whether this host would know where to send a packet, and whether it would keep it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recvfrom, send, socket_with,
};

/// Whether there is a route and an address to send from. Asks the kernel by connecting a UDP socket, which sends nothing.
/// Where even that cannot be asked, the answer is yes.
#[must_use]
pub(crate) fn has_route(to: IpAddr) -> bool {
    /// Discard (RFC 863); any port would do.
    const PORT: u16 = 9;
    let from: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    match UdpSocket::bind(SocketAddr::new(from, 0)) {
        Ok(socket) => socket.connect(SocketAddr::new(to, PORT)).is_ok(),
        // Without IPv6 in the kernel there is none of its routes.
        Err(error) => error.raw_os_error() != Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()),
    }
}

/// Whether that address is one of this host's own, in the network namespace that we are in. Asks for the route there
/// (rtnetlink(7), RTM_GETROUTE): trying to bind to it would succeed for every address where `ip_nonlocal_bind` is on. Where that
/// cannot be asked, loopback is, and nothing else.
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
/// `nlmsghdr`, then `rtmsg`, in which the type of route is the eighth byte.
const HEADER: usize = 16;
const ROUTE_MESSAGE: usize = 12;
const TYPE: usize = HEADER + 7;

/// The type of the route to there; `None` where the kernel has another answer. It works the question off within send(2), so the
/// answer is there when that returns.
fn route_type(address: IpAddr) -> io::Result<Option<u8>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // NETLINK_ROUTE is number 0, which is what no protocol means.
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
        // Of those that documents use (RFC 5737, RFC 3849).
        for other in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
        // 127.0.0.1 as the kernel's routes have it, without the shortcut.
        assert_eq!(route_type(Ipv4Addr::LOCALHOST.into()).unwrap(), Some(RTN_LOCAL));
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        // Sends nothing.
        if socket.connect("192.0.2.1:9").is_ok() {
            let outer = socket.local_addr().unwrap().ip();
            assert!(is_own(outer), "{outer}");
        }
    }
}
