//! The names that similar programs have for keys and values of `listeners.yaml`: for the messages of mistakes. Data and a lookup; none of these is ever accepted.
//!
//! The names are those of the configuration references of HAProxy 2.6 and 3.2, Envoy 1.3x (`Cluster`,
//! `UpstreamTlsContext`), stunnel 5, ghostunnel 1.8, nginx' stream module, and PgBouncer.

use super::key_docs::key_docs;
use super::spec::SectionSpec;
use super::suggest::{did_you_mean, folded};
use crate::protocol::{self, Service};

/// Another program's key, ours, and a note. In lower case, with `_` for `-`.
const KEYS: &[(&str, &str, &str)] = &[
    // Where applications connect.
    ("accept", BIND, ""),
    ("listen", BIND, ""),
    ("listen_addr", BIND, ""),
    ("backend", CLUSTER_OF, ""),
    ("default_backend", CLUSTER_OF, ""),
    ("proxy_pass", CLUSTER_OF, ""),
    ("upstream", CLUSTER_OF, ""),
    ("accept_proxy_protocol", "listeners.NAME.accept_proxy", ""),
    (
        "proxy_protocol",
        "listeners.NAME.accept_proxy",
        " (towards the servers it is `clusters.NAME.send_proxy`)",
    ),
    (
        "maxconn",
        "listeners.NAME.max_connections",
        " (of a cluster it is `clusters.NAME.limits.max_connections`)",
    ),
    // Where the servers are.
    ("server", ENDPOINTS, ""),
    ("servers", ENDPOINTS, ""),
    ("host", ENDPOINTS, ""),
    ("hosts", ENDPOINTS, ""),
    ("target", ENDPOINTS, ""),
    ("targets", ENDPOINTS, ""),
    ("upstreams", ENDPOINTS, ""),
    ("backends", ENDPOINTS, ""),
    ("load_assignment", ENDPOINTS, ""),
    ("lb_policy", "clusters.NAME.balance", ""),
    ("load_balancing", "clusters.NAME.balance", ""),
    ("send_proxy_v2", "clusters.NAME.send_proxy", " (v2)"),
    // TLS.
    ("ssl", "clusters.NAME.tls", ""),
    ("proxy_ssl", "clusters.NAME.tls", ""),
    ("transport_socket", "clusters.NAME.tls", ""),
    ("starttls", START, " (upgrade)"),
    ("sni", SERVER_NAME, ""),
    ("servername", SERVER_NAME, ""),
    ("hostname", SERVER_NAME, ""),
    ("checkhost", SERVER_NAME, ""),
    ("verifyhost", SERVER_NAME, ""),
    ("override_server_name", SERVER_NAME, ""),
    ("verify_dns", SERVER_NAME, ""),
    ("proxy_ssl_name", SERVER_NAME, ""),
    ("verify_uri", "clusters.NAME.tls.allowed_uris", ""),
    ("verify_spiffe_id", "clusters.NAME.tls.allowed_uris", ""),
    ("match_typed_subject_alt_names", "clusters.NAME.tls.allowed_uris", ""),
    ("verify_certificate_spki", "clusters.NAME.tls.pins", ""),
    ("verify_certificate_hash", "clusters.NAME.tls.pins", " (of the public key)"),
    ("ca_file", CA, ""),
    ("cafile", CA, ""),
    ("ca_cert", CA, ""),
    ("cacert", CA, ""),
    ("capath", CA, " (one file)"),
    ("root_ca", CA, ""),
    ("sslrootcert", CA, ""),
    ("trusted_ca", CA, ""),
    ("server_tls_ca_file", CA, ""),
    ("proxy_ssl_trusted_certificate", CA, ""),
    ("crt", CERT, ""),
    ("cert_file", CERT, ""),
    ("certificate", CERT, ""),
    ("certificate_chain", CERT, ""),
    ("client_cert", CERT, ""),
    ("sslcert", CERT, ""),
    ("keystore", CERT, " (PEM, with its key in `key`)"),
    ("proxy_ssl_certificate", CERT, ""),
    ("key_file", KEY, ""),
    ("client_key", KEY, ""),
    ("private_key", KEY, ""),
    ("sslkey", KEY, ""),
    ("proxy_ssl_certificate_key", KEY, ""),
    ("crl_file", "clusters.NAME.tls.crl", ""),
    ("crlfile", "clusters.NAME.tls.crl", ""),
    ("alpn_protocols", "clusters.NAME.tls.alpn", ""),
    ("ssl_min_ver", MIN_VERSION, ""),
    ("sslversionmin", MIN_VERSION, ""),
    ("sslversion", MIN_VERSION, ""),
    ("tls_minimum_protocol_version", MIN_VERSION, ""),
    ("verifychain", INSECURE, UNVERIFIED),
    ("verifypeer", INSECURE, UNVERIFIED),
    ("verify_peer", INSECURE, UNVERIFIED),
    ("proxy_ssl_verify", INSECURE, UNVERIFIED),
    ("sslmode", "clusters.NAME.tls.verify", " (`verify-full` is `full`, `verify-ca` is `ca`)"),
    ("insecure", INSECURE, ""),
    ("skip_verify", INSECURE, ""),
    ("tls_skip_verify", INSECURE, ""),
    // Times and numbers.
    ("connect_timeout", "clusters.NAME.connect.timeout", ""),
    ("proxy_connect_timeout", "clusters.NAME.connect.timeout", ""),
    ("timeoutconnect", "clusters.NAME.connect.timeout", ""),
    ("timeoutidle", "clusters.NAME.session.idle_timeout", ""),
    ("proxy_timeout", "clusters.NAME.session.idle_timeout", ""),
    ("retries", "clusters.NAME.connect.attempts", ""),
    ("max_connect_attempts", "clusters.NAME.connect.attempts", ""),
    ("bind_address", "clusters.NAME.connect.local_address", ""),
    ("source", "clusters.NAME.connect.local_address", ""),
    ("upstream_bind_config", "clusters.NAME.connect.local_address", ""),
    ("circuit_breakers", "clusters.NAME.limits", " (`circuit_breaker` is for clusters that fail)"),
    ("max_pending_requests", "clusters.NAME.limits.max_pending", ""),
    ("health_checks", "clusters.NAME.health_check", ""),
    ("check", "clusters.NAME.health_check", ""),
    ("inter", "clusters.NAME.health_check.interval", ""),
    ("rise", "clusters.NAME.health_check.healthy_threshold", ""),
    ("fall", "clusters.NAME.health_check.unhealthy_threshold", ""),
    // The process.
    ("nbthread", "runtime.workers", ""),
    ("threads", "runtime.workers", ""),
    ("concurrency", "runtime.workers", ""),
    ("log_level", "log.level", ""),
    ("debug", "log.level", ""),
    ("access_log_path", "log.access", ""),
    ("status", "admin.bind", ""),
    ("stats", "admin.bind", ""),
    ("shutdown_timeout", "shutdown.drain_timeout", ""),
    ("drain_time", "shutdown.drain_timeout", ""),
];
const BIND: &str = "listeners.NAME.bind";
const CLUSTER_OF: &str = "listeners.NAME.cluster";
const ENDPOINTS: &str = "clusters.NAME.endpoints";
const SERVER_NAME: &str = "clusters.NAME.tls.server_name";
const CA: &str = "clusters.NAME.tls.ca";
const CERT: &str = "clusters.NAME.tls.cert";
const KEY: &str = "clusters.NAME.tls.key";
const START: &str = "clusters.NAME.tls.start";
const MIN_VERSION: &str = "clusters.NAME.tls.min_version";
const INSECURE: &str = "clusters.NAME.tls.insecure_skip_verify";
const UNVERIFIED: &str = ", the other way round: servers are verified unless it is true";

/// Another program's word for a value, ours, and a note; those for a protocol are the protocol's own ([`Service`]).
const VALUES: &[(&str, &str, &str)] = &[
    ("verify_full", "full", ""),
    ("verify_ca", "ca", ""),
    ("true", "full", ""),
    ("false", "full", "; `insecure_skip_verify: true` is what checks nothing"),
    ("none", "full", "; `insecure_skip_verify: true` is what checks nothing"),
    ("ssl", "tls", ""),
    ("leastconn", "least_connections", ""),
    ("least_conn", "least_connections", ""),
    ("least_request", "least_connections", ""),
    ("source", "source_hash", ""),
    ("ip_hash", "source_hash", ""),
    ("ring_hash", "source_hash", ""),
    ("maglev", "source_hash", ""),
    ("tlsv1.2", "1.2", ""),
    ("tlsv1_2", "1.2", ""),
    ("tlsv1.3", "1.3", ""),
    ("tlsv1_3", "1.3", ""),
];
const DIRECT: &str = " and, as TLS begins with the first byte, `tls: { start: direct }`";
const TLS: &str = " and `tls: {}`, with which TLS begins with the first byte";

/// Advice on a key that is unknown in `spec`: which one it may mean, or where it belongs; the end of a sentence.
pub(super) fn advice(typed: &str, spec: &SectionSpec) -> String {
    let elsewhere = spec.sections().find(|(_, spec)| spec.key(typed).is_some());
    match elsewhere {
        Some((section, _)) => format!("; it belongs inside `{section}`"),
        None => suggest_key(typed, spec).unwrap_or_else(|| did_you_mean(typed, spec.names())),
    }
}

/// Our name of a key that is unknown in `spec`, or where it belongs: the end of a sentence.
fn suggest_key(typed: &str, spec: &SectionSpec) -> Option<String> {
    let word = folded(typed);
    if let Some((_, path, note)) = KEYS.iter().find(|(theirs, ..)| *theirs == word) {
        let key = path.rsplit('.').next().unwrap_or(path);
        let is_here = spec.key(key).is_some();
        return Some(if is_here {
            format!("; here that is `{key}`{note}")
        } else {
            format!("; that is `{path}`{note}")
        });
    }
    // One of our keys in another section, if it is the only one of that name.
    let mut places =
        key_docs().into_iter().map(|key| key.path).filter(|path| path.rsplit('.').next() == Some(typed));
    let position = places.next()?;
    places.next().is_none().then(|| format!("; it belongs to `{position}`"))
}

/// What to write instead of a word that is none of `words`: the end of a sentence.
pub(super) fn suggest_value(typed: &str, words: &[&str]) -> Option<String> {
    let word = folded(typed);
    let fits = |(theirs, ours, _): &&(&str, &str, &str)| *theirs == word && words.contains(ours);
    let (_, ours, more) = VALUES.iter().find(fits).copied().or_else(|| protocol_named(&word, words))?;
    Some(format!("; write `{ours}`{more}"))
}

/// The protocol, of those in `words`, that others call `word`, as [`VALUES`] has it.
fn protocol_named(word: &str, words: &[&str]) -> Option<(&'static str, &'static str, &'static str)> {
    protocol::all().filter(|protocol| words.contains(&protocol.label())).find_map(|protocol| {
        let Service { names, tls_names, .. } = protocol.service();
        let with_tls = if protocol.upgrade().is_some() { DIRECT } else { TLS };
        let found = |names: &[&'static str]| names.iter().copied().find(|name| *name == word);
        let plain = found(names).map(|name| (name, protocol.label(), ""));
        plain.or_else(|| found(tls_names).map(|name| (name, protocol.label(), with_tls)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec::table::ROOT;

    #[test]
    fn every_key_that_is_named_exists_and_no_word_is_ours_already() {
        let all: Vec<_> = key_docs().into_iter().map(|key| key.path).collect();
        for (theirs, path, _) in KEYS {
            assert!(all.iter().any(|known| known == path), "{theirs} leads to {path}, which there is not");
            assert_eq!(*theirs, folded(theirs), "a word is compared as it is folded");
        }
        for (theirs, ours, _) in VALUES {
            assert_ne!(theirs, ours);
            assert_eq!(*theirs, folded(theirs), "a word is compared as it is folded");
        }
        for service in protocol::all().map(|protocol| protocol.service()) {
            for theirs in service.names.iter().chain(service.tls_names) {
                assert!(!protocol::LABELS.contains(theirs), "{theirs} is a protocol of ours");
                assert_eq!(*theirs, folded(theirs), "a word is compared as it is folded");
            }
        }
    }

    #[test]
    fn a_key_is_told_by_its_place_unless_it_is_here() {
        let (clusters, tls) = (Some("; that is `clusters.NAME.tls.server_name`"), None::<&str>);
        assert_eq!(suggest_key("sni", &ROOT).as_deref(), clusters);
        assert_eq!(suggest_key("xyz", &ROOT).as_deref(), tls);
        assert_eq!(
            suggest_key("protocol", &ROOT).as_deref(),
            Some("; it belongs to `clusters.NAME.protocol`")
        );
        assert_eq!(suggest_key("timeout", &ROOT), None, "there are several");
    }

    #[test]
    fn a_value_is_told_with_what_else_it_takes() {
        let words = protocol::LABELS;
        assert_eq!(suggest_value("MariaDB", words).as_deref(), Some("; write `mysql`"));
        assert!(
            suggest_value("smtps", words)
                .is_some_and(|told| told.contains("`smtp`") && told.contains("start: direct"))
        );
        assert_eq!(suggest_value("mariadb", &["1.2", "1.3"]), None);
        assert_eq!(suggest_value("TLSv1.2", &["1.2", "1.3"]).as_deref(), Some("; write `1.2`"));
    }
}
