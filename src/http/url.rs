//! URLs that may be asked: https, and http where no network lies in between, or a unix socket.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use hyper::Uri;
use rustls::pki_types::ServerName;

/// A URL that may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpUrl {
    pub(super) is_tls: bool,
    /// An IPv6 address is without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// The socket of a server on this host, where it is not asked over TCP.
    pub(super) socket: Option<PathBuf>,
    /// Path and query.
    pub(super) target: String,
}

/// Where HTTP without TLS is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlainHttp {
    /// Nowhere.
    Never,
    /// At addresses that no router forwards to, loopback and link-local ones; of names at `localhost` alone.
    Local,
    /// Anywhere.
    Anywhere,
}

impl HttpUrl {
    /// Reads an absolute URL.
    ///
    /// # Errors
    /// What is wrong with it; it does not repeat the text.
    pub(crate) fn parse(text: &str, plain: PlainHttp) -> Result<Self, &'static str> {
        const WHAT: &str = "is no URL of the form https://HOST/PATH";
        let uri: Uri = text.parse().map_err(|_| WHAT)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(WHAT) };
        if text.contains('#') {
            return Err("has a fragment (`#`), which is never sent");
        }
        if authority.as_str().contains('@') {
            return Err("has a user or password in it; secrets belong into files");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || ServerName::try_from(host.as_str()).is_err() {
            return Err(WHAT);
        }
        let is_tls = scheme == "https";
        match (scheme, plain) {
            ("https", _) => {}
            ("http", PlainHttp::Anywhere) => {}
            ("http", PlainHttp::Local) if is_local(&host) => {}
            ("http", PlainHttp::Local) => {
                return Err("has no TLS, which only a loopback or link-local address may be without");
            }
            ("http", PlainHttp::Never) => return Err("has no TLS: secrets travel by https only"),
            _ => return Err(WHAT),
        }
        // `port()` has none for a number that is too large.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => {
                if is_tls {
                    443
                } else {
                    80
                }
            }
            Some(rest) => {
                let port = rest.strip_prefix(':').and_then(|port| port.parse().ok());
                port.filter(|port| *port != 0).ok_or(WHAT)?
            }
            None => return Err(WHAT),
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        Ok(Self { is_tls, host, port, socket: None, target })
    }

    /// Of a server behind a unix socket.
    #[must_use]
    pub(crate) fn at_socket(socket: PathBuf) -> Self {
        Self { is_tls: false, host: LOCALHOST.into(), port: 80, socket: Some(socket), target: "/".into() }
    }

    /// The same server, with that path and query below its own path. The path begins with a slash.
    #[must_use]
    pub(crate) fn below(&self, target: &str) -> Self {
        let own = self.target.split('?').next().unwrap_or_default().trim_end_matches('/');
        Self { target: format!("{own}{target}"), ..self.clone() }
    }

    /// Whether it is asked over TLS.
    #[must_use]
    pub(crate) const fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The socket that it is asked over.
    #[must_use]
    pub(crate) fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Its addresses, where they need no lookup: the host is an address, or this host.
    #[must_use]
    pub(crate) fn addresses(&self) -> Option<Vec<SocketAddr>> {
        let at = |ip: IpAddr| SocketAddr::new(ip, self.port);
        match self.host.parse::<IpAddr>() {
            Ok(ip) => Some(vec![at(ip)]),
            Err(_) if is_local(&self.host) => {
                Some(vec![at(Ipv4Addr::LOCALHOST.into()), at(Ipv6Addr::LOCALHOST.into())])
            }
            Err(_) => None,
        }
    }

    /// The name to look up, and the port.
    #[must_use]
    pub(crate) fn host(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Host and port as in a Host field (RFC 9110 §7.2).
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.is_tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// Without the query, which may hold more than a name.
impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        if let Some(socket) = &self.socket {
            return write!(f, "unix:{}{}", socket.display(), if path == "/" { "" } else { path });
        }
        write!(f, "http{}://{}{path}", if self.is_tls { "s" } else { "" }, self.authority())
    }
}

/// Link-local services of AWS that have unique local addresses: the instance's metadata, and Pod Identity of EKS.
const OF_AWS: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)];

/// A name that means this host, and is not looked up for that (RFC 6761 §6.3). Azure Container Apps have it in
/// `IDENTITY_ENDPOINT`.
const LOCALHOST: &str = "localhost";

fn is_local(host: &str) -> bool {
    match host.parse() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local(),
        Ok(IpAddr::V6(address)) => {
            address.is_loopback() || address.is_unicast_link_local() || OF_AWS.contains(&address)
        }
        Err(_) => host.eq_ignore_ascii_case(LOCALHOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_https_and_whole() {
        for (text, shown) in [
            ("https://login.test/t/oauth2/v2.0/token?a=b", "https://login.test/t/oauth2/v2.0/token"),
            ("https://login.test", "https://login.test/"),
            ("https://login.test:8443/x", "https://login.test:8443/x"),
            ("https://login.test:443/x", "https://login.test/x"),
            ("https://[::1]:9/x", "https://[::1]:9/x"),
        ] {
            assert_eq!(HttpUrl::parse(text, PlainHttp::Never).map(|url| url.to_string()), Ok(shown.into()));
        }
        for text in [
            "http://127.0.0.1/x",
            "http://login.test/x",
            "ftp://login.test/x",
            "login.test",
            "/token",
            "",
            "https://",
            "https:///x",
            "https://user:hunter2@login.test/x",
            "https://login.test/x#y",
            "https://login.test:0/x",
            "https://login.test:/x",
            "https://login.test:99999/x",
            "https://a b/x",
            "https://login.test/\u{e9}\n",
        ] {
            let reason = HttpUrl::parse(text, PlainHttp::Never).unwrap_err();
            assert!(!reason.contains("hunter2"), "{text}");
        }
        for (text, is_allowed) in [
            ("http://127.0.0.1:1/x", true),
            ("http://[::1]/x", true),
            ("http://169.254.169.254/latest", true),
            ("http://localhost/x", true),
            ("http://localhost.test/x", false),
            ("http://10.0.0.1/x", false),
            ("http://[fe80::1]/x", true),
            ("http://[fd00:ec2::254]/latest", true),
            ("http://[fd00:ec2::23]/v1/credentials", true),
            ("http://[fd00:ec2::1]/x", false),
            ("http://[fd00::254]/x", false),
        ] {
            assert_eq!(HttpUrl::parse(text, PlainHttp::Local).is_ok(), is_allowed, "{text}");
        }
    }

    #[test]
    fn what_is_asked_lies_below_the_servers_own_path() {
        for (base, target, expected) in [
            ("http://127.0.0.1:8500", "/v1/x?y=1", "http://127.0.0.1:8500/v1/x"),
            ("http://127.0.0.1:8500/", "/v1/x", "http://127.0.0.1:8500/v1/x"),
            ("http://127.0.0.1:8500/consul/", "/v1/x", "http://127.0.0.1:8500/consul/v1/x"),
        ] {
            let url = HttpUrl::parse(base, PlainHttp::Local).unwrap().below(target);
            assert_eq!((url.to_string(), url.target.ends_with(target)), (expected.into(), true));
        }
        let socket = HttpUrl::at_socket("/run/consul.sock".into());
        assert_eq!(
            (socket.to_string(), socket.authority()),
            ("unix:/run/consul.sock".into(), "localhost".into())
        );
        assert_eq!(socket.below("/v1/x").to_string(), "unix:/run/consul.sock/v1/x");
        assert!(HttpUrl::parse("http://consul.test/", PlainHttp::Anywhere).is_ok());
    }
}
