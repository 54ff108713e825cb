//! Parses `/etc/resolv.conf` (resolv.conf(5)), with glibc's bounds. Pure.
//!
//! Parsed here because hickory-resolver 0.26.3 rejects the whole file for one bad word of `search`, takes `timeout:0`
//! literally, drops the interface of a link-local server, and ignores `rotate`, `use-vc`, `single-request`, `no-aaaa`
//! and `no-tld-query`. What is not understood is skipped and logged; the rest counts. Lacks `LOCALDOMAIN` and
//! `RES_OPTIONS`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hickory_resolver::proto::rr::Name;

/// The name servers, and how they are asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// In the order in which they are asked; never empty.
    pub(super) servers: Vec<ServerAddress>,
    /// Domains that are appended to short names.
    pub(super) search: Vec<Name>,
    /// A name with at least so many dots is tried as it is before it is searched for.
    pub(super) ndots: usize,
    /// How long one server may take.
    pub(super) timeout: Duration,
    /// How often all of them are asked.
    pub(super) attempts: u32,
    /// Each query begins with the next server.
    pub(super) rotate: bool,
    /// EDNS (RFC 6891).
    pub(super) edns: bool,
    /// TCP from the start.
    pub(super) use_vc: bool,
    /// AAAA is queried after A is answered.
    pub(super) single_request: bool,
    /// AAAA is not queried.
    pub(super) no_aaaa: bool,
    /// A name without a dot is not tried as it is.
    pub(super) no_tld_query: bool,
    /// What was skipped, for the log.
    pub(super) doubts: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerAddress {
    pub(super) ip: IpAddr,
    /// The interface of a link-local address; else 0.
    pub(super) scope: u32,
}

/// glibc's MAXNS: no resolver on this host uses further ones.
const SERVERS_MAX: usize = 3;
/// glibc: 6 before 2.26, unbounded since.
const SEARCH_MAX: usize = 32;
/// glibc's RES_MAXNDOTS, RES_MAXRETRANS (in seconds) and RES_MAXRETRY.
const NDOTS_MAX: usize = 15;
const TIMEOUT_MAX: u64 = 30;
const ATTEMPTS_MAX: u32 = 5;
/// Entries of `doubts`.
const DOUBTS_MAX: usize = 8;

impl ResolvConf {
    /// `hostname`: this host's name; its domain is searched if no other is given. `scope`: an interface's index by its
    /// name.
    pub(super) fn parse(text: &[u8], hostname: &str, scope: impl Fn(&str) -> Option<u32>) -> Self {
        let mut conf = Self::default();
        let mut search = None;
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = String::from_utf8_lossy(line);
            let mut words = line.split([';', '#']).next().unwrap_or_default().split_whitespace();
            let doubt = match (words.next(), words.clone().next()) {
                (Some("nameserver"), Some(server)) => conf.server(server, &scope),
                // The last of these lines counts, and `domain` takes one.
                (Some("domain"), Some(domain)) => conf.domains([domain].into_iter(), &mut search),
                (Some("search"), Some(_)) => conf.domains(words, &mut search),
                (Some("options"), _) => conf.options(words),
                (Some("nameserver" | "domain" | "search"), None) => Some("it says nothing".into()),
                (Some("sortlist") | None, _) => None,
                (Some(word), _) => Some(format!("`{word}` is not known")),
            };
            conf.doubts.extend(doubt.map(|doubt| format!("line {}: {doubt}", index + 1)));
        }
        conf.doubts.truncate(DOUBTS_MAX);
        let own = || hostname.split_once('.').and_then(|(_, domain)| Name::from_str_relaxed(domain).ok());
        conf.search = search.unwrap_or_else(|| own().into_iter().collect());
        if conf.servers.is_empty() {
            conf.servers.push(ServerAddress { ip: Ipv4Addr::LOCALHOST.into(), scope: 0 });
        }
        conf
    }

    fn server(&mut self, word: &str, scope: impl Fn(&str) -> Option<u32>) -> Option<String> {
        let (ip, interface) = word.split_once('%').map_or((word, None), |(ip, name)| (ip, Some(name)));
        let Ok(ip) = ip.parse::<IpAddr>() else { return Some(format!("`{word}` is no IP address")) };
        let scope = match (interface, ip) {
            (Some(interface), IpAddr::V6(ip)) if ip.is_unicast_link_local() => match scope(interface) {
                Some(scope) => scope,
                None => return Some(format!("this host has no interface `{interface}`")),
            },
            _ => 0,
        };
        // The unspecified address means this host, as in any dial on Linux.
        let ip = match ip {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V4(_) | IpAddr::V6(_) => ip,
        };
        let server = ServerAddress { ip, scope };
        if self.servers.len() < SERVERS_MAX && !self.servers.contains(&server) {
            self.servers.push(server);
        }
        None
    }

    fn domains<'a>(
        &self,
        words: impl Iterator<Item = &'a str>,
        search: &mut Option<Vec<Name>>,
    ) -> Option<String> {
        let mut bad = Vec::new();
        let known = words.filter_map(|word| {
            let name = Name::from_str_relaxed(word).ok().filter(|_| !word.contains(','));
            if name.is_none() {
                bad.push(format!("`{word}`"));
            }
            name
        });
        *search = Some(known.take(SEARCH_MAX).collect());
        (!bad.is_empty()).then(|| format!("no name of a domain: {}", bad.join(", ")))
    }

    fn options<'a>(&mut self, words: impl Iterator<Item = &'a str>) -> Option<String> {
        let mut bad = Vec::new();
        for word in words {
            let (key, value) = word.split_once(':').map_or((word, None), |(key, value)| (key, Some(value)));
            // Leading digits count, as with glibc's atoi; a number that is too large becomes the largest.
            let digits = |value: &str| value.chars().take_while(char::is_ascii_digit).collect::<String>();
            let number = value.map(digits).filter(|digits| !digits.is_empty());
            let number = number.map(|digits| digits.parse().unwrap_or(u64::MAX));
            match (key, number) {
                ("ndots", Some(ndots)) => {
                    self.ndots = usize::try_from(ndots).map_or(NDOTS_MAX, |ndots| ndots.min(NDOTS_MAX));
                }
                // With a timeout of 0 no answer could arrive.
                ("timeout", Some(seconds)) => {
                    self.timeout = Duration::from_secs(seconds.clamp(1, TIMEOUT_MAX));
                }
                ("attempts", Some(attempts)) => {
                    self.attempts =
                        u32::try_from(attempts).map_or(ATTEMPTS_MAX, |count| count.clamp(1, ATTEMPTS_MAX));
                }
                ("rotate", _) => self.rotate = true,
                ("edns0", _) => self.edns = true,
                ("use-vc", _) => self.use_vc = true,
                ("single-request", _) => self.single_request = true,
                ("no-aaaa", _) => self.no_aaaa = true,
                ("no-tld-query", _) => self.no_tld_query = true,
                // No effect here: each query has a socket of its own, the `ad` bit is never trusted, names are not
                // checked for their characters, reverse lookups are not made, and the file is read again whenever it
                // changes.
                (
                    "debug"
                    | "inet6"
                    | "single-request-reopen"
                    | "no-check-names"
                    | "no-reload"
                    | "trust-ad"
                    | "strict-error"
                    | "ip6-bytestring"
                    | "ip6-dotint"
                    | "no-ip6-dotint",
                    _,
                ) => {}
                _ => bad.push(format!("`{word}`")),
            }
        }
        (!bad.is_empty()).then(|| format!("not understood: {}", bad.join(", ")))
    }
}

/// The defaults of resolv.conf(5).
impl Default for ResolvConf {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
            edns: false,
            use_vc: false,
            single_request: false,
            no_aaaa: false,
            no_tld_query: false,
            doubts: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> ResolvConf {
        ResolvConf::parse(text.as_bytes(), "web1", |name| (name == "eth0").then_some(7))
    }

    fn servers(text: &str) -> Vec<String> {
        let shown = |server: &ServerAddress| match server.scope {
            0 => server.ip.to_string(),
            scope => format!("{}%{scope}", server.ip),
        };
        parsed(text).servers.iter().map(shown).collect()
    }

    fn search(text: &str) -> Vec<String> {
        parsed(text).search.iter().map(Name::to_ascii).collect()
    }

    #[test]
    fn without_a_server_the_one_on_this_host_is_asked() {
        for text in ["", "search a.test\n", "# nothing\n", "nameserver\n", "nameserver nonsense\n"] {
            assert_eq!(servers(text), ["127.0.0.1"], "{text:?}");
        }
    }

    #[test]
    fn servers_are_the_first_three_and_those_of_an_interface_keep_it() {
        let four = "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.1\nnameserver ::1\nnameserver 10.0.0.4\n";
        assert_eq!(servers(four), ["10.0.0.1", "10.0.0.2", "::1"]);
        assert_eq!(servers("nameserver fe80::1%eth0 # the router\n"), ["fe80::1%7"]);
        assert_eq!(servers("nameserver fe80::1%gone\nnameserver 10.0.0.1\n"), ["10.0.0.1"]);
        assert_eq!(servers("nameserver 0.0.0.0\n"), ["127.0.0.1"]);
    }

    /// hickory-resolver 0.26.3 rejects the whole file for one such word, so that no name resolved any more.
    #[test]
    fn a_bad_word_costs_itself_alone_and_is_told() {
        let long = "x".repeat(64);
        let text = format!("nameserver 10.0.0.1\nsearch a..b {long}.test a,b ok.test\nbanana split\n");
        let conf = parsed(&format!("{text}options timeout:soon ndots rotate flux:3\n"));
        let search: Vec<_> = conf.search.iter().map(Name::to_ascii).collect();
        assert_eq!((&search[..], conf.servers.len(), conf.rotate), (&["ok.test".to_owned()][..], 1, true));
        assert_eq!(conf.timeout, Duration::from_secs(5));
        let doubts = conf.doubts.join("; ");
        for said in ["line 2", "`a..b`", "`a,b`", "line 3: `banana`", "line 4", "`timeout:soon`", "`flux:3`"]
        {
            assert!(doubts.contains(said), "{said}: {doubts}");
        }
        assert!(!doubts.contains("rotate") && !doubts.contains("ok.test"), "{doubts}");
    }

    #[test]
    fn the_last_of_domain_and_search_counts_and_else_the_hosts_own_domain() {
        assert_eq!(search("search a.test b.test\ndomain c.test\n"), ["c.test"]);
        assert_eq!(search("domain c.test\nsearch a.test b.test\n"), ["a.test", "b.test"]);
        assert_eq!(search("nameserver 10.0.0.1\n"), [""; 0]);
        let own = |text: &str, hostname: &str| {
            let conf = ResolvConf::parse(text.as_bytes(), hostname, |_| None);
            conf.search.iter().map(Name::to_ascii).collect::<Vec<_>>()
        };
        assert_eq!(own("nameserver 10.0.0.1\n", "web1.corp.test"), ["corp.test"]);
        assert_eq!(own("search .\n", "web1.corp.test"), ["."]);
    }

    #[test]
    fn options_are_bounded_as_glibc_bounds_them() {
        let of = |options: &str| {
            let conf = parsed(&format!("options {options}\n"));
            (conf.ndots, conf.timeout.as_secs(), conf.attempts)
        };
        assert_eq!(of(""), (1, 5, 2));
        assert_eq!(of("ndots:0 timeout:0 attempts:0"), (0, 1, 1));
        assert_eq!(of("ndots:3 timeout:2 attempts:4"), (3, 2, 4));
        assert_eq!(of("ndots:99 timeout:4294967296 attempts:99999999999999999999"), (15, 30, 5));
        let all = "options edns0 trust-ad rotate use-vc single-request single-request-reopen no-aaaa no-tld-query debug \
                   inet6 no-check-names no-reload\nsortlist 10.0.0.0/255.0.0.0\n";
        let conf = parsed(all);
        assert!(conf.edns && conf.rotate && conf.use_vc && conf.single_request && conf.no_aaaa);
        assert!(conf.no_tld_query && conf.doubts.is_empty(), "{:?}", conf.doubts);
    }
}
