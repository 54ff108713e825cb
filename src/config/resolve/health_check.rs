//! Section `clusters.NAME.health_check`.

use std::sync::Arc;

use hyper::http::uri::PathAndQuery;

use super::SettingsBuilder;
use crate::cluster::health_check::{ByteExchange, Http, ProbeKind, Settings};
use crate::config::raw::Section;
use crate::policy::health;
use crate::protocol::Protocol;
use crate::tls::Originator;

impl SettingsBuilder<'_> {
    /// `Some(None)`: there are no probes. A key of another type than the chosen one is a mistake, because it would be
    /// ignored.
    pub(super) fn health_check(
        &mut self,
        cluster: &Section,
        protocol: Option<&dyn Protocol>,
        has_tls: bool,
        originator: Option<&Originator>,
    ) -> Option<Option<Settings>> {
        if !cluster.is_given("health_check") {
            return Some(None);
        }
        let check = cluster.section("health_check")?;
        let word = check.text("type");
        for name in ["http", "exchange"] {
            if check.is_given(name) && word.is_some_and(|word| word != name) {
                let message =
                    format!("`{name}` is for type {name}, and this one is {}", word.unwrap_or_default());
                self.findings.mistake(&check.at(name), message);
            }
        }
        let kind = match word? {
            "tcp" => Some(ProbeKind::Tcp),
            "tls" => self.tls_check(check, has_tls),
            "protocol" => self.protocol_check(check, protocol),
            "http" => self.http_check(check, has_tls, originator),
            _ => self.exchange_check(check),
        };
        self.require_politeness(check, protocol);
        Some(Some(Settings {
            kind: kind?,
            timeout: check.duration("timeout")?,
            rhythm: health::Settings {
                interval: check.duration("interval")?,
                healthy_threshold: check.integer("healthy_threshold")?,
                unhealthy_threshold: check.integer("unhealthy_threshold")?,
            },
        }))
    }

    fn tls_check(&mut self, check: &Section, has_tls: bool) -> Option<ProbeKind> {
        if !has_tls {
            self.findings.mistake(&check.at("type"), "type tls needs the cluster's `tls`, and there is none");
            return None;
        }
        Some(ProbeKind::Tls)
    }

    fn protocol_check(&mut self, check: &Section, protocol: Option<&dyn Protocol>) -> Option<ProbeKind> {
        let protocol = protocol?;
        // Whether an upgrade precedes it changes the probe, but not whether there is one.
        if protocol.probe(false).is_none() && protocol.probe(true).is_none() {
            let message = format!(
                "protocol {} has no conversation that shows a server at work; use type exchange, tls or tcp",
                protocol.label()
            );
            self.findings.mistake(&check.at("type"), message);
            return None;
        }
        Some(ProbeKind::Protocol)
    }

    fn http_check(
        &mut self,
        check: &Section,
        has_tls: bool,
        originator: Option<&Originator>,
    ) -> Option<ProbeKind> {
        let http = check.section("http")?;
        let path = http.text("path").and_then(|text| {
            let path = text.parse::<PathAndQuery>().ok().filter(|_| text.starts_with('/'));
            if path.is_none() {
                let message = "is no path of an HTTP request; it begins with `/`, and has no spaces in it";
                self.findings.mistake(&http.at("path"), message);
            }
            path
        });
        let tls = http.boolean("tls")?;
        if tls && !has_tls {
            let message = "`true` needs the cluster's `tls`, which says whom to trust, and there is none";
            self.findings.mistake(&http.at("tls"), message);
            return None;
        }
        let originator = if tls { Some(Arc::new(originator?.for_http())) } else { None };
        let port = http.integer("port").and_then(|port| u16::try_from(port).ok());
        Some(ProbeKind::Http(Box::new(Http {
            port: port?,
            path: path?,
            statuses: self.statuses(http)?,
            originator,
        })))
    }

    fn statuses(&mut self, http: &Section) -> Option<Vec<u16>> {
        if !http.is_given("status") {
            return Some(vec![200]);
        }
        let items = http.list("status")?;
        if items.is_empty() {
            self.findings.mistake(&http.at("status"), "the list is empty; no answer would mean healthy");
            return None;
        }
        let status = |number: u32| u16::try_from(number).ok();
        items.iter().map(|item| item.integer().and_then(status)).collect()
    }

    fn exchange_check(&mut self, check: &Section) -> Option<ProbeKind> {
        if !check.is_given("exchange") {
            let message = "type exchange needs `exchange: { send: …, expect: … }`";
            self.findings.mistake(&check.at("type"), message);
            return None;
        }
        let exchange = check.section("exchange")?;
        let send = if exchange.is_given("send") { exchange.bytes("send")? } else { &[] };
        Some(ProbeKind::Exchange(ByteExchange {
            send: send.to_vec(),
            expect: exchange.bytes("expect")?.to_vec(),
        }))
    }

    /// MySQL counts connections that end before a login against our host, and blocks it in the end, sessions included.
    fn require_politeness(&mut self, check: &Section, protocol: Option<&dyn Protocol>) {
        let Some(protocol) = protocol.filter(|protocol| protocol.must_finish_upgrade()) else { return };
        let Some(word @ ("tcp" | "tls" | "exchange")) = check.text("type") else { return };
        let label = protocol.label();
        let message = format!(
            "a {label} server counts connections that end without a login as errors of this host, and blocks it \
             after max_connect_errors of them: type {word} would have it block us; use type protocol"
        );
        self.findings.mistake(&check.at("type"), message);
    }
}
