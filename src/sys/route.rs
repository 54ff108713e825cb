//! Whether this host would know where to send a packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Whether there is a route and an address to send from. Asks the kernel by connecting a UDP socket, which sends nothing.
/// Where even that cannot be asked, the answer is yes.
#[must_use]
pub fn has_route(to: IpAddr) -> bool {
    /// Discard (RFC 863); any port would do.
    const PORT: u16 = 9;
    let from: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    match UdpSocket::bind(SocketAddr::new(from, 0)) {
        Ok(socket) => socket.connect(SocketAddr::new(to, PORT)).is_ok(),
        // Without IPv6 in the kernel there is none of its routes.
        Err(error) => error.raw_os_error() != Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()),
    }
}

/// Whether this host has the address. Asks the kernel by binding a UDP socket to it, which sends nothing; where even that
/// cannot be asked, the answer is no.
#[must_use]
pub fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_route_to_loopback_and_none_to_a_link_without_its_interface() {
        assert!(has_route(Ipv4Addr::LOCALHOST.into()));
        assert!(!has_route("fe80::1".parse().unwrap()));
    }
}
