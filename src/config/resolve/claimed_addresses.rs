//! Which address is claimed at which place of the file. Two claims on one address would make the
//! second socket fail at the start, although the first may be the mistake.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::config::mistakes::SourceLocation;

/// The claims so far.
#[derive(Default)]
pub(super) struct ClaimedAddresses {
    tcp: BTreeMap<SocketAddr, SourceLocation>,
    /// The first claim on each port, per family: a socket on all addresses would collide with it.
    ports: BTreeMap<(bool, u16), SourceLocation>,
    /// By the path's usual notation: to compare the components of two paths takes long.
    unix: BTreeMap<OsString, SourceLocation>,
    systemd: BTreeMap<String, SourceLocation>,
}

impl ClaimedAddresses {
    /// Claims a TCP address, or says where it is claimed already. Port 0 is a new port each time.
    pub(super) fn tcp(&mut self, address: SocketAddr, at: &SourceLocation) -> Result<(), String> {
        if address.port() == 0 {
            return Ok(());
        }
        let port = (address.is_ipv6(), address.port());
        // Our IPv6 sockets are IPV6_V6ONLY, so the families do not collide.
        let all: IpAddr =
            if address.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let collides = if address.ip() == all {
            self.ports.get(&port)
        } else {
            let all = SocketAddr::new(all, address.port());
            self.tcp.get(&address).or_else(|| self.tcp.get(&all))
        };
        if let Some(first) = collides {
            return Err(taken(&address.to_string(), first));
        }
        self.ports.entry(port).or_insert_with(|| at.clone());
        self.tcp.insert(address, at.clone());
        Ok(())
    }

    /// Claims the path of a unix socket, or says where it is claimed already.
    pub(super) fn unix(&mut self, path: &Path, at: &SourceLocation) -> Result<(), String> {
        let usual = path.components().collect::<PathBuf>().into_os_string();
        if let Some(first) = self.unix.get(&usual) {
            return Err(taken(&format!("unix:{}", path.display()), first));
        }
        self.unix.insert(usual, at.clone());
        Ok(())
    }

    /// Claims the sockets that systemd passes under a name, or says where they are claimed already.
    pub(super) fn systemd(&mut self, name: &str, at: &SourceLocation) -> Result<(), String> {
        if let Some(first) = self.systemd.get(name) {
            return Err(taken(&format!("systemd:{name}"), first));
        }
        self.systemd.insert(name.to_owned(), at.clone());
        Ok(())
    }
}

fn taken(address: &str, first: &SourceLocation) -> String {
    format!("{address} is taken already by `{}` (line {})", first.path, first.position.line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::mistakes::Position;

    fn check(addresses: &[&str], collide: bool) {
        let mut claimed = ClaimedAddresses::default();
        let at =
            SourceLocation { position: Position { line: 1, column: 1 }, path: "listeners.a.bind".into() };
        let claimed: Vec<_> = addresses.iter().map(|a| claimed.tcp(a.parse().unwrap(), &at)).collect();
        assert_eq!(claimed.iter().any(Result::is_err), collide, "{addresses:?}");
    }

    #[test]
    fn a_path_is_claimed_in_any_notation() {
        let mut claimed = ClaimedAddresses::default();
        let at =
            SourceLocation { position: Position { line: 1, column: 1 }, path: "listeners.a.bind".into() };
        let mut claim = |path: &str| claimed.unix(Path::new(path), &at).is_ok();
        assert!(claim("/run/a.sock"));
        assert!(!claim("/run//./a.sock"));
        assert!(claim("/run/b/../a.sock"), "that may be another file, where `b` is a link");
        assert!(claim("run/a.sock"));
    }

    #[test]
    fn an_all_addresses_socket_collides_with_every_other_of_its_port_and_family() {
        check(&["127.0.0.1:1", "127.0.0.1:1"], true);
        check(&["127.0.0.1:1", "0.0.0.0:1"], true);
        check(&["0.0.0.0:1", "127.0.0.1:1"], true);
        check(&["[::]:1", "[::1]:1"], true);
        check(&["127.0.0.1:1", "127.0.0.2:1"], false);
        check(&["127.0.0.1:1", "127.0.0.1:2"], false);
        check(&["[::]:1", "0.0.0.0:1"], false);
        check(&["127.0.0.1:0", "127.0.0.1:0", "0.0.0.0:0"], false);
    }
}
