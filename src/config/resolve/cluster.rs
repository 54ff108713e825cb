//! Section `clusters`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::SettingsBuilder;
use super::digest::ResolvedNames;
use super::endpoint::ClusterContext;
use super::identity::NamedIdentities;
use super::resilience::retry_budget;
use crate::cluster::{DialSettings, PreconnectSettings, SendProxy, Settings};
use crate::config::mistakes::quoted;
use crate::config::raw::Section;
use crate::name::ClusterName;
use crate::policy::{balance, limits, retry};
use crate::protocol::{self, CallerAnnouncement, Options, Protocol, postgres};
use crate::quantity::show_duration;
use crate::rsa::RsaKey;
use crate::tls::{Originator, TlsStart};
use crate::{relay, sys};

impl SettingsBuilder<'_> {
    pub(super) fn cluster(
        &mut self,
        name: &str,
        cluster: &Section,
        identities: &mut NamedIdentities,
    ) -> Option<Settings> {
        let protocol = self.protocol(cluster);
        let has_tls = cluster.is_given("tls");
        let tls = match cluster.section("tls") {
            Some(section) => self.tls(name, section, protocol.as_deref(), identities).map(Some),
            None if has_tls => None,
            None => Some(None),
        };
        let originator = tls.as_ref().and_then(Option::as_ref);
        let health_check = self.health_check(cluster, protocol.as_deref(), has_tls, originator);
        let local_address = self.local_address(cluster);
        let dial = self.dial(cluster, protocol.as_deref(), local_address);
        let around = ClusterContext {
            name: name.to_owned(),
            has_tls,
            server_name: tls.as_ref().and_then(|tls| tls.as_ref()?.server_name().cloned()),
            local_address: local_address.flatten(),
        };
        let announce_caller = self.announce_caller(cluster, protocol.as_deref());
        let login = self.login(name, cluster, protocol.as_deref(), originator);
        let endpoints = self.endpoints(cluster, &around);
        if let (Some(protocol), Some(tls)) = (protocol.as_deref(), &tls) {
            let start = tls.as_ref().map(Originator::start);
            self.warn_of_ports(cluster, protocol, start);
        }
        let (known, source) = endpoints.map(|endpoints| (endpoints.known, endpoints.source)).unzip();
        let looked_up = ResolvedNames {
            tls: tls.as_ref().and_then(Option::as_ref),
            endpoints: known.as_deref().unwrap_or_default(),
            source: source.as_ref().and_then(Option::as_ref),
        };
        let (digest, tls_digest) = self.digests(identities, name, cluster, &looked_up);
        let (breaker, outlier) = (self.breaker(cluster), self.outlier(cluster));
        let hedging = self.hedging(cluster, protocol.as_deref());
        let send_proxy = self.send_proxy(cluster, protocol.as_deref());
        let (panic, eviction) = (self.panic(cluster), self.eviction(cluster));
        Some(Settings {
            name: ClusterName::from(name),
            digest,
            tls_digest,
            protocol: protocol?,
            endpoints: known?,
            source: source?,
            balance: balance(cluster)?,
            tls: tls?,
            dial: dial?,
            send_proxy: send_proxy?,
            limits: limits(cluster)?,
            queue_timeout: queue_timeout(cluster)?,
            takes_turns: cluster.section("limits")?.is_given("queue_timeout"),
            breaker: breaker?,
            outlier: outlier?,
            retry_budget: Some(retry_budget(cluster.section("connect")?)?),
            hedge: hedging.as_ref()?.0,
            hedges: hedging?.1,
            panic: panic?,
            slow_start: cluster.duration("slow_start")?,
            eviction: eviction?,
            drains_on_rotation: cluster.choice("on_rotation", &[("keep", false), ("drain", true)])?,
            socket: socket(cluster)?,
            session: session(cluster)?,
            announce_caller: announce_caller?,
            login: login?,
            health_check: health_check?,
        })
    }

    fn warn_of_ports(&mut self, cluster: &Section, protocol: &dyn Protocol, start: Option<TlsStart>) {
        for item in cluster.list("endpoints").unwrap_or_default() {
            let text = item.text().or_else(|| item.section()?.text("address"));
            if let Some(port) = text.and_then(|text| text.rsplit_once(':')?.1.parse().ok()) {
                self.warn_of_port(port, &item.at, protocol, start);
            }
        }
    }

    fn protocol(&mut self, cluster: &Section) -> Option<Arc<dyn Protocol>> {
        let scram_plus = self.scram_plus(cluster);
        let tls = cluster.section("tls").filter(|_| cluster.is_given("tls"));
        let server_is_verified = tls.is_some_and(|tls| tls.boolean("insecure_skip_verify") == Some(false));
        let label = cluster.text("protocol")?;
        let options = Options {
            scram_plus: scram_plus?,
            server_is_verified,
            rsa_key: tls.is_some().then_some(RsaKey::shared),
            signs_in: cluster.is_given("login"),
            host_name: self.host.name(),
            helo_name: self.helo_name(cluster)?,
        };
        protocol::named(label, &options)
    }

    fn helo_name(&mut self, cluster: &Section) -> Option<Option<String>> {
        let at = cluster.at("helo_name");
        let given = cluster.optional_text("helo_name")?;
        if given.is_some() && cluster.text("protocol").is_some_and(|word| !["smtp", "lmtp"].contains(&word)) {
            self.findings.mistake(&at, "`helo_name` is for the protocols smtp and lmtp");
        }
        if let Some(text) = given.filter(|text| !protocol::helo_name(text)) {
            let message = format!(
                "{} cannot stand in EHLO: write a domain (letters, digits, `-`, `.`), or an address as \"[10.0.0.7]\" or \
                 \"[IPv6:2001:db8::7]\"",
                quoted(text)
            );
            self.findings.mistake(&at, message);
            return None;
        }
        Some(given.map(Into::into))
    }

    fn send_proxy(
        &mut self,
        cluster: &Section,
        protocol: Option<&dyn Protocol>,
    ) -> Option<Option<SendProxy>> {
        let version = cluster.text("send_proxy")?;
        let is_bounded = cluster.is_given("send_proxy_max");
        if is_bounded && version != "v2" {
            let reason = "`send_proxy_max` needs `send_proxy: v2`; version 1 has no more than addresses";
            self.findings.mistake(&cluster.at("send_proxy_max"), reason);
            return None;
        }
        let most = match is_bounded {
            true => cluster.integer("send_proxy_max")? as usize,
            false => protocol?.proxy_header_max(),
        };
        let versions = [
            ("none", None),
            ("v1", Some(SendProxy::V1)),
            ("v2", Some(SendProxy::V2 { host: self.host.name(), most })),
        ];
        cluster.choice("send_proxy", &versions)
    }

    fn announce_caller(&mut self, cluster: &Section, protocol: Option<&dyn Protocol>) -> Option<bool> {
        let announces = cluster.boolean("announce_caller")?;
        let reason = match protocol.map(Protocol::announces).filter(|_| announces) {
            Some(CallerAnnouncement::Never) => "`announce_caller` is for the protocols postgres and mysql",
            Some(CallerAnnouncement::OverTls) if !cluster.is_given("tls") => {
                "`announce_caller` needs `tls` here: a login of this protocol is read on its way to TLS only"
            }
            None | Some(CallerAnnouncement::Always | CallerAnnouncement::OverTls) => return Some(announces),
        };
        self.findings.mistake(&cluster.at("announce_caller"), reason);
        None
    }

    fn scram_plus(&mut self, cluster: &Section) -> Option<postgres::ScramPlus> {
        let at = cluster.at("scram_plus");
        if cluster.is_given("scram_plus") && cluster.text("protocol").is_some_and(|word| word != "postgres") {
            self.findings.mistake(&at, "`scram_plus` is for protocol postgres");
        }
        let meanings = [
            ("auto", postgres::ScramPlus::Auto),
            ("strip", postgres::ScramPlus::Strip),
            ("keep", postgres::ScramPlus::Keep),
        ];
        let scram_plus = cluster.choice("scram_plus", &meanings)?;
        let verifies =
            cluster.section("tls").and_then(|tls| tls.boolean("insecure_skip_verify")) != Some(true);
        if scram_plus == postgres::ScramPlus::Strip && !verifies {
            let message = "`strip` does not go with `insecure_skip_verify`: channel binding is only taken \
                           away where our own verification of the server replaces it";
            self.findings.mistake(&at, message);
        }
        Some(scram_plus)
    }

    fn dial(
        &mut self,
        cluster: &Section,
        protocol: Option<&dyn Protocol>,
        local_address: Option<Option<IpAddr>>,
    ) -> Option<DialSettings> {
        let connect = cluster.section("connect")?;
        let preconnect = self.preconnect(cluster, connect, protocol);
        let greeting_timeout = self.greeting_timeout(connect, protocol);
        let retry = self.retry(connect);
        let (timeout, deadline) = (connect.duration("timeout"), connect.duration("deadline"));
        if let (Some(timeout), Some(deadline)) = (timeout, deadline)
            && deadline < timeout
        {
            let (timeout, deadline) = (show_duration(timeout), show_duration(deadline));
            let message =
                format!("the deadline over all attempts ({deadline}) is shorter than `timeout` ({timeout})");
            self.findings.warning(&connect.at("deadline"), message);
        }
        Some(DialSettings {
            connect_timeout: timeout?,
            handshake_timeout: connect.duration("handshake_timeout")?,
            greeting_timeout: greeting_timeout?,
            deadline: deadline?,
            retry: retry?,
            local_address: local_address?,
            preconnect: preconnect?,
        })
    }

    /// The protocol's, unless the file sets it.
    fn greeting_timeout(&mut self, connect: &Section, protocol: Option<&dyn Protocol>) -> Option<Duration> {
        let protocol = protocol?;
        if !connect.is_given("greeting_timeout") {
            return Some(protocol.greeting_timeout());
        }
        if !protocol.server_greets() {
            let label = protocol.label();
            let message =
                format!("has no effect: servers of protocol {label} wait for the client's first word");
            self.findings.mistake(&connect.at("greeting_timeout"), message);
        }
        connect.duration("greeting_timeout")
    }

    fn preconnect(
        &mut self,
        cluster: &Section,
        connect: &Section,
        protocol: Option<&dyn Protocol>,
    ) -> Option<Option<PreconnectSettings>> {
        let count = connect.integer("preconnect")?;
        if count == 0 {
            return Some(None);
        }
        let at = connect.at("preconnect");
        if let Some(most) = cluster.section("limits").and_then(|limits| limits.integer("max_connections"))
            && count >= most
        {
            let message =
                format!("leaves no room for a session: `limits.max_connections` ({most}) counts them, too");
            self.findings.mistake(&at, message);
        }
        if cluster.text("balance") == Some("source_hash") {
            let message = "does not go with `balance: source_hash`: each session belongs to one endpoint, and is not given \
                           what was made ready on another";
            self.findings.mistake(&at, message);
        }
        if cluster.text("send_proxy").is_some_and(|version| version != "none") {
            let message = "does not go with `send_proxy`: the header comes first and names the client, which is not known yet";
            self.findings.mistake(&at, message);
        }
        let protocol = protocol?;
        match protocol.ready_lifetime() {
            Ok(max_age) => Some(Some(PreconnectSettings { count: usize::try_from(count).ok()?, max_age })),
            Err(why) => {
                let label = protocol.label();
                self.findings.mistake(&at, format!("protocol {label} cannot be dialled ahead: {why}"));
                None
            }
        }
    }

    fn retry(&mut self, connect: &Section) -> Option<retry::Settings> {
        let backoff = connect.section("backoff");
        let waits = backoff.and_then(|backoff| Some((backoff.duration("base")?, backoff.duration("max")?)));
        if let (Some(backoff), Some((base, max))) = (backoff, waits)
            && base > max
        {
            let at = backoff.at(if backoff.is_given("base") { "base" } else { "max" });
            let (base, max) = (show_duration(base), show_duration(max));
            self.findings.mistake(
                &at,
                format!("the first wait (`base`, {base}) is longer than the longest (`max`, {max})"),
            );
        }
        let (backoff_base, backoff_max): (Duration, Duration) = waits?;
        Some(retry::Settings { attempts: connect.optional_integer("attempts")?, backoff_base, backoff_max })
    }

    fn local_address(&mut self, cluster: &Section) -> Option<Option<IpAddr>> {
        let connect = cluster.section("connect")?;
        let Some(text) = connect.optional_text("local_address")? else { return Some(None) };
        if let Ok(address) = text.parse() {
            return Some(Some(address));
        }
        let message = format!("{} is no IP address; write it without a port", quoted(text));
        self.findings.mistake(&connect.at("local_address"), message);
        None
    }
}

fn balance(cluster: &Section) -> Option<balance::Policy> {
    cluster.choice("balance", &balance::Policy::ALL.map(|policy| (policy.label(), policy)))
}

fn limits(cluster: &Section) -> Option<limits::Settings> {
    let limits = cluster.section("limits")?;
    Some(limits::Settings {
        max_connections: limits.integer("max_connections")?,
        max_pending: limits.integer("max_pending")?,
        max_connections_per_endpoint: limits.integer("max_connections_per_endpoint")?,
    })
}

/// As long as a session's dial may take, unless the file sets it.
fn queue_timeout(cluster: &Section) -> Option<Duration> {
    let limits = cluster.section("limits")?;
    match limits.is_given("queue_timeout") {
        true => limits.duration("queue_timeout"),
        false => cluster.section("connect")?.duration("deadline"),
    }
}

fn session(cluster: &Section) -> Option<relay::Settings> {
    let session = cluster.section("session")?;
    Some(relay::Settings {
        idle_timeout: session.duration_or_none("idle_timeout")?,
        half_close_timeout: session.duration_or_none("half_close_timeout")?,
        max_lifetime: session.duration_or_none("max_lifetime")?,
    })
}

fn socket(cluster: &Section) -> Option<sys::Options> {
    let session = cluster.section("session")?;
    Some(sys::Options {
        keepalive: session.duration_or_none("keepalive")?,
        user_timeout: session.duration_or_none("user_timeout")?,
    })
}
