//! Parses addresses: of listeners and of servers. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use nix::net::if_::if_nametoindex;
use rustls::pki_types::ServerName;

use crate::cluster::{Address, Host};
use crate::config::mistakes::quoted;

/// An address to accept on: an IP address and a port. A name could mean several addresses, or
/// another machine, so names are refused.
pub(super) fn local(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.ip() {
            // Our sockets are IPV6_V6ONLY, and the kernel refuses such an address there.
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
                let plain = SocketAddr::new(ip.to_canonical(), address.port());
                Err(format!("is an IPv4-mapped IPv6 address; write `{plain}`"))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => Ok(address),
        };
    }
    let shown = quoted(text);
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    if let Ok(ip) = text.parse() {
        return Err(without_port(text, ip));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{shown} is a port without an address: write `127.0.0.1:{text}`"));
    }
    if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
        if host.parse::<Ipv6Addr>().is_ok() {
            return Err(format!("an IPv6 address needs brackets: write `[{host}]:{port}`, in quotes"));
        }
        if port.parse::<u16>().is_err() {
            return Err(format!("the port of {shown} is not from 0 to 65535"));
        }
        return Err(match host {
            "localhost" => {
                format!(
                    "needs an address, not a name: write `127.0.0.1:{port}` (or \"[::1]:{port}\", or both)"
                )
            }
            "" | "*" => format!(
                "write `127.0.0.1:{port}`; every address of the host is `0.0.0.0:{port}` with `expose: true`"
            ),
            _ => format!("{shown} does not begin with an IP address"),
        });
    }
    if text.starts_with('/') || text.starts_with("./") {
        return Err(format!("a unix socket is written `unix:{}`", text.escape_default()));
    }
    Err(format!("{shown} is no address: write IP:PORT, \"[IPV6]:PORT\", unix:PATH or systemd:NAME"))
}

/// The last group of an IPv6 address without brackets may be meant as a port.
fn without_port(text: &str, ip: IpAddr) -> String {
    if let Some((host, port)) = text.rsplit_once(':')
        && host.parse::<Ipv6Addr>().is_ok()
        && port.parse::<u16>().is_ok_and(|port| port > 0)
    {
        return format!(
            "an IPv6 address needs brackets: write `[{host}]:{port}`, in quotes, where {port} is the port"
        );
    }
    let quotes = if ip.is_ipv6() { ", in quotes" } else { "" };
    format!("the port is missing: write `{}`{quotes}", SocketAddr::new(ip, 5432))
}

/// A server's address: a host and a port.
pub(super) fn upstream(text: &str) -> Result<Address, String> {
    let shown = || quoted(text);
    if text.contains("//") {
        return Err(format!("{} is a URL; write HOST:PORT alone", shown()));
    }
    if text.starts_with("unix:") {
        return Err("a unix socket cannot be an endpoint; write HOST:PORT".into());
    }
    if let Ok(ip) = text.parse() {
        return Err(without_port(text, ip));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("the port of {} is missing: write HOST:PORT", shown()));
    };
    let port = port
        .parse::<u16>()
        .ok()
        .filter(|number| *number > 0 && !port.starts_with('+'))
        .ok_or_else(|| format!("the port of {} is not from 1 to 65535", shown()))?;
    Ok(Address { host: self::host(host, port)?, port })
}

fn host(host: &str, port: u16) -> Result<Host, String> {
    let shown = || quoted(host);
    if let Some(inside) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return in_brackets(inside, shown);
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("an IPv6 address needs brackets: write `[{host}]:{port}`, in quotes"));
    }
    match ServerName::try_from(host.strip_suffix('.').unwrap_or(host)) {
        Ok(ServerName::IpAddress(_)) => {
            host.parse().map(Host::Ip).map_err(|_| format!("{} is no IP address", shown()))
        }
        Ok(_) => Ok(Host::Name(host.to_owned())),
        Err(_) => Err(format!("{} is neither a host name nor an IP address", shown())),
    }
}

fn in_brackets(inside: &str, shown: impl Fn() -> String) -> Result<Host, String> {
    let (ip, interface) = inside.split_once('%').map_or((inside, None), |(ip, name)| (ip, Some(name)));
    let ip = ip.parse::<Ipv6Addr>().map_err(|_| format!("{} is no IPv6 address", shown()))?;
    let Some(interface) = interface else { return Ok(Host::Ip(ip.into())) };
    if !ip.is_unicast_link_local() {
        return Err(format!("only a link-local address (fe80::…) belongs to an interface; {ip} does not"));
    }
    let scope = interface.parse().or_else(|_| if_nametoindex(interface));
    let scope = scope.map_err(|_| format!("there is no interface {} on this host", quoted(interface)))?;
    Ok(Host::LinkLocal { ip, interface: interface.to_owned(), scope })
}

/// A name with SRV records. Those of RFC 2782 begin with `_service._proto`, those of Consul do not.
pub(super) fn service(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=63).contains(&label.len()) && label.bytes().all(allowed)
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(format!("{} is no name of a service: write _SERVICE._tcp.DOMAIN", quoted(text)));
    }
    Ok(text.to_owned())
}

/// A name for TLS. A server whose name is an address is verified against that address.
pub(super) fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned())
        .map_err(|_| format!("{} is neither a host name nor an IP address", quoted(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_numeric() {
        for text in ["127.0.0.1:5432", "[::1]:5432", "0.0.0.0:0", "[fe80::1%2]:80"] {
            assert_eq!(local(text).map(|address| address.port()), local(text).map(|a| a.port()), "{text}");
            assert!(local(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_local_address_that_is_none_says_what_to_write() {
        for (text, part) in [
            ("localhost:5432", "write `127.0.0.1:5432`"),
            ("db:5432", "does not begin with an IP address"),
            ("5432", "write `127.0.0.1:5432`"),
            (":5432", "write `127.0.0.1:5432`"),
            ("*:5432", "`0.0.0.0:5432` with `expose: true`"),
            ("127.0.0.1", "write `127.0.0.1:5432`"),
            ("::1", "write `[::1]:5432`"),
            ("::1:5432", "write `[::1]:5432`, in quotes, where 5432 is the port"),
            ("1:2:3:4:5:6:7:8:5432", "write `[1:2:3:4:5:6:7:8]:5432`"),
            ("127.0.0.1:99999", "not from 0 to 65535"),
            ("[::ffff:127.0.0.1]:5432", "write `127.0.0.1:5432`"),
            ("/run/x.sock", "written `unix:/run/x.sock`"),
            ("tcp:x", "is no address"),
            ("é", "is no address"),
            ("", "without an address"),
        ] {
            let error = local(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn servers_have_a_host_and_a_port() {
        for (text, expected) in [
            ("db1.example.com:5432", Host::Name("db1.example.com".into())),
            ("db_1:5432", Host::Name("db_1".into())),
            ("10.0.0.7:5432", Host::Ip([10, 0, 0, 7].into())),
            ("[::1]:5432", Host::Ip(Ipv6Addr::LOCALHOST.into())),
            ("db1.example.com.:5432", Host::Name("db1.example.com.".into())),
            (
                "[fe80::1%lo]:5432",
                Host::LinkLocal { ip: "fe80::1".parse().unwrap(), interface: "lo".into(), scope: 1 },
            ),
            (
                "[fe80::1%7]:5432",
                Host::LinkLocal { ip: "fe80::1".parse().unwrap(), interface: "7".into(), scope: 7 },
            ),
        ] {
            assert_eq!(upstream(text), Ok(Address { host: expected, port: 5432 }), "{text}");
        }
    }

    #[test]
    fn an_endpoint_that_is_none_says_what_to_write() {
        for (text, part) in [
            ("db1", "port of `db1` is missing"),
            ("10.0.0.7", "write `10.0.0.7:5432`"),
            ("::1", "write `[::1]:5432`, in quotes"),
            ("::1:5432", "write `[::1]:5432`, in quotes, where 5432 is the port"),
            ("fe80::1:2:5432", "write `[fe80::1:2]:5432`, in quotes, where"),
            ("2001:db8::beef", "write `[2001:db8::beef]:5432`, in quotes"),
            ("db1:0", "from 1 to 65535"),
            ("db1:+5", "from 1 to 65535"),
            ("db1:x", "from 1 to 65535"),
            ("1:2:3:4:5:6:7:8:5432", "write `[1:2:3:4:5:6:7:8]:5432`"),
            ("[nope]:1", "no IPv6 address"),
            ("256.1.1.1:1", "neither a host name nor an IP address"),
            ("12345:1", "neither a host name nor an IP address"),
            ("127.1:1", "neither a host name nor an IP address"),
            ("db..example.com:1", "neither a host name nor an IP address"),
            (".:1", "neither a host name nor an IP address"),
            ("[fe80::1%nowhere]:1", "no interface `nowhere`"),
            ("[fd00::1%lo]:1", "only a link-local address"),
            (":5432", "neither a host name nor an IP address"),
            ("a b:5432", "neither a host name nor an IP address"),
            ("postgres://db1:5432", "is a URL"),
            ("unix:/x", "cannot be an endpoint"),
        ] {
            let error = upstream(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn services_are_names() {
        for text in ["_postgresql._tcp.example.com", "_postgresql._tcp.example.com.", "db.service.consul"] {
            assert_eq!(service(text).as_deref(), Ok(text));
        }
        for text in ["", ".", "a..b", "_postgresql._tcp.example.com:5432", "a b"] {
            assert!(service(text).unwrap_err().contains("_SERVICE._tcp.DOMAIN"), "{text}");
        }
    }
}
