//! Protects the admin interfaces from web pages that a browser on this host has open.
//!
//! A page may have its own name resolve to our address and then read as if we were its server (DNS rebinding): so Host
//! must be an address, or `localhost`. It may send a request without reading the response, or load one as a script: so
//! a request that another site caused, as the browser says (Fetch Metadata, Origin of RFC 6454), is refused, except for
//! following a link to the page.

use std::net::{IpAddr, Ipv6Addr};

use hyper::HeaderMap;
use hyper::Request;
use hyper::header::{HOST, HeaderName, ORIGIN};

use super::AdminTransport;

const NO_ADDRESS: &str = "the Host header is neither an IP address nor localhost: refused, so that a web page cannot read this by \
                          DNS rebinding\n";
const ANOTHER_SITE: &str = "another site's page asks, says the browser: refused; a link may lead here\n";

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Why the request is refused, if it is.
pub(super) fn refusal<B>(transport: AdminTransport, request: &Request<B>) -> Option<&'static str> {
    let headers = request.headers();
    // No browser reaches the control socket unless it is forwarded (`ssh -L`). Other clients may send any Host there.
    let is_browsers = headers.contains_key(SITE) || headers.contains_key(ORIGIN);
    if (transport == AdminTransport::Address || is_browsers) && !is_for_an_address(request) {
        return Some(NO_ADDRESS);
    }
    (is_of_another_site(headers) || has_another_origin(headers)).then_some(ANOTHER_SITE)
}

/// By its only Host, and by its target where that has a host too (RFC 9112 §3.2.2).
fn is_for_an_address<B>(request: &Request<B>) -> bool {
    let is_address = |text: &str| is_address(text);
    only(request.headers(), &HOST).is_some_and(is_address)
        && request.uri().authority().is_none_or(|authority| is_address(authority.as_str()))
}

/// `127.0.0.1:9901`, `[::1]:9901`, `localhost:9901`, each with or without the port, and nothing else.
fn is_address(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, rest)) => match rest.strip_prefix(':') {
            Some(port) => (v6.parse::<Ipv6Addr>().is_ok(), Some(port)),
            None => (rest.is_empty() && v6.parse::<Ipv6Addr>().is_ok(), None),
        },
        None => {
            let (name, port) = authority.split_once(':').map_or((authority, None), |(n, p)| (n, Some(p)));
            let is_v4 = matches!(name.parse(), Ok(IpAddr::V4(_)));
            (is_v4 || name.eq_ignore_ascii_case("localhost"), port)
        }
    };
    // `parse` would accept a sign.
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    host && port.is_none_or(is_port)
}

/// As Fetch Metadata says; only browsers send it. Following a link to the page is allowed.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    let is = |name: &HeaderName, value: &str| only(headers, name) == Some(value);
    let is_ours = !headers.contains_key(SITE) || is(&SITE, "same-origin") || is(&SITE, "none");
    let is_visit = is(&MODE, "navigate") && is(&DEST, "document");
    !is_ours && !is_visit
}

/// Browsers send an origin with requests to another server, and with POST. Ours is `http://HOST`, or https behind a
/// proxy.
fn has_another_origin(headers: &HeaderMap) -> bool {
    let is_ours = |origin: &str| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.zip(only(headers, &HOST)).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
    };
    headers.contains_key(ORIGIN) && !only(headers, &ORIGIN).is_some_and(is_ours)
}

/// The value of a field that occurs once; of two values another reader might take either.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(transport: AdminTransport, target: &str, fields: &[(&str, &str)], expected: Option<&str>) {
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        assert_eq!(refusal(transport, &request), expected, "{transport:?} {target} {fields:?}");
    }

    #[test]
    fn only_addresses_and_localhost_pass_the_host_check() {
        for host in [
            "127.0.0.1:9901",
            "127.0.0.1",
            "[::1]:9901",
            "[::1]",
            "[fe80::1]:1",
            "LocalHost:1",
            "localhost",
            "10.1.2.3:80",
        ] {
            check(AdminTransport::Address, "/status", &[("host", host)], None);
        }
        for host in [
            "evil.example:9901",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "localhost.",
            "",
            ":9901",
            "[::1]x",
            "[::1]x:9901",
            "[::1].evil.example",
            "[::1]:9901x",
            "[::1",
            "::1",
            "[]",
            "[]:1",
            "[127.0.0.1]",
            "[evil.example]",
            "[::1]]",
            "[[::1]]",
            "[::1]:",
            "[::1%25lo]",
            "127.0.0.1:",
            "127.0.0.1:+1",
            "127.0.0.1:-1",
            "127.0.0.1:65536",
            "127.0.0.1:9901:9901",
            "127.0.0.1:9901@evil.example",
            "evil.example@127.0.0.1",
            "127.0.0.1/",
            "127.0.0.1 evil.example",
            "127.0.0.1, evil.example",
            "127.1",
            "0x7f.1",
            "2130706433",
            "127.0.0.01",
        ] {
            check(AdminTransport::Address, "/status", &[("host", host)], Some(NO_ADDRESS));
        }
        check(AdminTransport::Address, "/status", &[], Some(NO_ADDRESS));
        check(
            AdminTransport::Address,
            "/status",
            &[("host", "localhost"), ("host", "evil.example")],
            Some(NO_ADDRESS),
        );
        let local = &[("host", "localhost")];
        check(AdminTransport::Address, "http://evil.example/status", local, Some(NO_ADDRESS));
        check(AdminTransport::Address, "http://localhost/status", local, None);
    }

    #[test]
    fn what_another_sites_page_begins_is_refused_and_a_link_is_not() {
        let refused = Some(ANOTHER_SITE);
        for (site, mode, dest, expected) in [
            ("same-origin", "cors", "empty", None),
            ("none", "navigate", "document", None),
            ("cross-site", "navigate", "document", None),
            ("same-site", "navigate", "document", None),
            ("cross-site", "navigate", "iframe", refused),
            ("cross-site", "no-cors", "script", refused),
            ("cross-site", "no-cors", "image", refused),
            ("cross-site", "cors", "empty", refused),
            ("same-site", "cors", "empty", refused),
            ("same-site", "no-cors", "document", refused),
            ("something-new", "cors", "empty", refused),
            ("", "cors", "empty", refused),
        ] {
            for transport in [AdminTransport::Address, AdminTransport::Control] {
                let fields = [("host", "localhost:9901"), ("sec-fetch-site", site), ("sec-fetch-mode", mode)];
                check(transport, "/status", &[&fields[..], &[("sec-fetch-dest", dest)]].concat(), expected);
            }
        }
        let twice = [("host", "localhost"), ("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")];
        check(AdminTransport::Address, "/status", &twice, refused);
    }

    #[test]
    fn only_our_own_origin_is_ours() {
        for (origin, expected) in [
            ("http://localhost:9901", None),
            ("https://LOCALHOST:9901", None),
            ("http://localhost:3000", Some(ANOTHER_SITE)),
            ("http://localhost", Some(ANOTHER_SITE)),
            ("http://evil.example", Some(ANOTHER_SITE)),
            ("http://evil.example/localhost:9901", Some(ANOTHER_SITE)),
            ("null", Some(ANOTHER_SITE)),
            ("", Some(ANOTHER_SITE)),
            ("localhost:9901", Some(ANOTHER_SITE)),
        ] {
            for transport in [AdminTransport::Address, AdminTransport::Control] {
                check(transport, "/status", &[("host", "localhost:9901"), ("origin", origin)], expected);
            }
        }
    }

    #[test]
    fn the_control_socket_asks_for_no_host_but_of_a_browser() {
        check(AdminTransport::Control, "/reload", &[("host", "control")], None);
        check(AdminTransport::Control, "/reload", &[], None);
        // Forwarded to a TCP port, to which the page's name resolves.
        let rebound = [("host", "evil.example:1"), ("origin", "http://evil.example:1")];
        check(AdminTransport::Control, "/reload", &rebound, Some(NO_ADDRESS));
        let rebound = [("host", "evil.example:1"), ("sec-fetch-site", "same-origin")];
        check(AdminTransport::Control, "/reload", &rebound, Some(NO_ADDRESS));
    }
}
