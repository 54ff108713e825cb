//! Our name in EHLO: a domain, or the local address of the connection.
//!
//! RFC 5321 §4.1.1.1: the full name of the host if it has one, else an address literal. §4.1.2 and §4.1.3 define both;
//! servers refuse other forms (Exim's `helo_allow_chars`) or single words (Postfix' `reject_non_fqdn_helo_hostname`).
//! Whether the name resolves is not checked.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;

use super::Options;

#[derive(Debug, Clone)]
pub(super) enum EhloName {
    /// Configured, or the host's name.
    Given(String),
    /// The local address of the connection.
    Address(IpAddr),
}

impl EhloName {
    pub(super) fn of(options: &Options) -> Self {
        let host = Some(&options.host_name).filter(|name| is_domain(name) && name.contains('.'));
        match options.helo_name.as_ref().or(host) {
            Some(name) => Self::Given(name.clone()),
            None => Self::Address(Ipv4Addr::LOCALHOST.into()),
        }
    }

    pub(super) const fn comes_from(&mut self, local: IpAddr) {
        if let Self::Address(address) = self {
            *address = local;
        }
    }
}

impl fmt::Display for EhloName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(name) => f.write_str(name),
            Self::Address(address) => match address.to_canonical() {
                IpAddr::V4(address) => write!(f, "[{address}]"),
                IpAddr::V6(address) => write!(f, "[IPv6:{address}]"),
            },
        }
    }
}

/// Whether this text may be used in EHLO: a domain, or an address literal.
#[must_use]
pub fn helo_name(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inside) => match inside.strip_prefix("IPv6:") {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => inside.parse::<Ipv4Addr>().is_ok(),
        },
        None => is_domain(text),
    }
}

/// RFC 5321 §4.1.2 (letters, digits and hyphens within each label) and §4.5.3.1.2 (255 bytes), RFC 1035 §2.3.4 (63 a
/// label).
fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    };
    text.len() <= 255 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(host_name: &str, helo_name: Option<&str>) -> String {
        let helo_name = helo_name.map(Into::into);
        let options = Options { host_name: host_name.into(), helo_name, ..Options::default() };
        let mut name = EhloName::of(&options);
        name.comes_from("2001:db8::7".parse().unwrap());
        name.to_string()
    }

    /// A host called web_1 used that name towards an Exim, which answers 501; one called web is rejected by
    /// `reject_non_fqdn_helo_hostname`.
    #[test]
    fn a_host_without_a_full_name_goes_by_its_address() {
        for (host, expected) in [
            ("web_1", "[IPv6:2001:db8::7]"),
            ("web", "[IPv6:2001:db8::7]"),
            ("web_1.example.com", "[IPv6:2001:db8::7]"),
            ("-a.example.com", "[IPv6:2001:db8::7]"),
            ("a..example.com", "[IPv6:2001:db8::7]"),
            ("web-1.example.com", "web-1.example.com"),
        ] {
            assert_eq!(name(host, None), expected, "{host}");
            assert_eq!(name(host, Some("mail.test")), "mail.test");
        }
        let mut mapped = EhloName::Address(Ipv4Addr::LOCALHOST.into());
        mapped.comes_from("::ffff:10.0.0.7".parse().unwrap());
        assert_eq!(mapped.to_string(), "[10.0.0.7]");
    }

    #[test]
    fn a_name_for_ehlo_is_a_domain_or_a_literal() {
        for text in ["app.example.com", "app", "[10.0.0.7]", "[IPv6:2001:db8::1]", "xn--bcher-kva.example"] {
            assert!(helo_name(text), "{text}");
        }
        let long = "a".repeat(64);
        for text in [
            "",
            "web_1",
            "10.0.0.7 x",
            "[2001:db8::1]",
            "[10.0.0]",
            "a b",
            "a\r\nQUIT",
            "b\u{fc}cher.test",
            &long,
        ] {
            assert!(!helo_name(text), "{text}");
        }
    }
}
