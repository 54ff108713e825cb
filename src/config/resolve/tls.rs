//! Section `clusters.NAME.tls`.

use std::sync::Arc;

use super::identity::Identities;
use super::{Resolver, address};
use crate::config::raw::Section;
use crate::protocol::Protocol;
use crate::tls::{Identity, MinVersion, Originator, Roots, Settings, SetupError, Start};

/// Length of an ALPN protocol's name (RFC 7301 §3.1).
const ALPN_MAX: usize = 255;

impl Resolver<'_> {
    /// Reads all the files it names. A protocol that is not known (a mistake, reported) is judged by nobody.
    pub(super) fn tls(
        &mut self,
        cluster: &str,
        tls: &Section,
        protocol: Option<&dyn Protocol>,
        identities: &mut Identities,
    ) -> Option<Originator> {
        let identity = self.client_identity(cluster, tls, identities);
        let server_name = tls.optional_text("server_name").and_then(|text| {
            let parsed = text.map(address::server_name).transpose();
            parsed.map_err(|reason| self.findings.mistake(&tls.at("server_name"), reason)).ok()
        });
        let alpn = self.alpn(tls, protocol);
        let start = self.start(tls, protocol);
        let min_version =
            tls.choice("min_version", &[("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)]);
        let insecure_skip_verify = tls.boolean("insecure_skip_verify")?;
        let ca = self.roots(tls);
        if insecure_skip_verify {
            self.warn_of_insecurity(tls, protocol);
        }
        let settings = Settings {
            ca: ca?,
            identity: identity?,
            server_name: server_name?,
            alpn: alpn?,
            min_version: min_version?,
            start: start?,
            insecure_skip_verify,
        };
        self.originator(tls, &settings)
    }

    fn originator(&mut self, tls: &Section, settings: &Settings) -> Option<Originator> {
        let error = match Originator::new(settings) {
            Ok(originator) => return Some(originator),
            Err(error) => error,
        };
        let at = match &error {
            SetupError::Roots(_) => tls.at("ca"),
            SetupError::Versions(_) => tls.at("min_version"),
        };
        self.findings.mistake(&at, error.to_string());
        None
    }

    /// The roots, tried on their own: they are judged where another part is at fault too, and where
    /// `insecure_skip_verify` means that nobody will ask them.
    fn roots(&mut self, tls: &Section) -> Option<Roots> {
        let ca = match tls.text("ca")? {
            "webpki" => Roots::WebPki,
            "system" => Roots::System,
            path => Roots::File(self.path(path)),
        };
        if tls.is_given("ca") {
            let alone = Settings {
                ca: ca.clone(),
                identity: None,
                server_name: None,
                alpn: Vec::new(),
                min_version: MinVersion::Tls12,
                start: Start::Direct,
                insecure_skip_verify: false,
            };
            let asked = self.originator(tls, &alone)?;
            if let (Some(end), Roots::File(path)) = (asked.trust().not_after(), &ca) {
                self.warn_of_the_end(path, end, &tls.at("ca"));
            }
        }
        Some(ca)
    }

    /// `cert` and `key`, or `identity`, or nothing.
    fn client_identity(
        &mut self,
        cluster: &str,
        tls: &Section,
        identities: &mut Identities,
    ) -> Option<Option<Arc<Identity>>> {
        let (cert, key, identity) = (tls.is_given("cert"), tls.is_given("key"), tls.is_given("identity"));
        if identity && (cert || key) {
            let message = "is given together with `cert` or `key`; only one of the two ways can count";
            self.findings.mistake(&tls.at("identity"), message);
        }
        match (cert, key) {
            (true, false) => {
                self.findings.mistake(&tls.at("cert"), "`key` is missing: a certificate needs its key")
            }
            (false, true) => {
                self.findings.mistake(&tls.at("key"), "`cert` is missing: a key needs its certificate")
            }
            (true, true) => {
                return Some(Some(self.identity_of_files(cluster, tls)?));
            }
            (false, false) if identity => {
                let named = self.identity_by_name(tls.text("identity")?, identities, &tls.at("identity"))?;
                return Some(Some(named));
            }
            (false, false) => return Some(None),
        }
        None
    }

    fn alpn(&mut self, tls: &Section, protocol: Option<&dyn Protocol>) -> Option<Vec<String>> {
        if !tls.is_given("alpn") {
            return Some(protocol?.alpn().iter().map(|name| (*name).to_owned()).collect());
        }
        let names = tls.list("alpn")?.iter().map(|item| match item.text() {
            Some(name) if name.len() > ALPN_MAX => {
                let message = format!("an ALPN name has at most {ALPN_MAX} bytes");
                self.findings.mistake(&item.at, message);
                None
            }
            Some(name) => Some(name.to_owned()),
            None => None,
        });
        // All of them, then the verdict: `collect` alone would stop at the first mistake.
        names.collect::<Vec<_>>().into_iter().collect()
    }

    fn start(&mut self, tls: &Section, protocol: Option<&dyn Protocol>) -> Option<Start> {
        if !tls.is_given("start") {
            return Some(if protocol?.upgrade().is_some() { Start::Upgrade } else { Start::Direct });
        }
        let start = tls.choice("start", &[("upgrade", Start::Upgrade), ("direct", Start::Direct)])?;
        if let (Start::Upgrade, Some(protocol)) = (start, protocol)
            && protocol.upgrade().is_none()
        {
            let label = protocol.label();
            let message =
                format!("protocol {label} has no upgrade to TLS; `direct` begins with the first byte");
            self.findings.mistake(&tls.at("start"), message);
            return None;
        }
        Some(start)
    }

    fn warn_of_insecurity(&mut self, tls: &Section, protocol: Option<&dyn Protocol>) {
        let mut message =
            String::from("the servers are not verified: whoever sits between can read and change all");
        if tls.is_given("ca") {
            message += "; `ca` is not asked";
        }
        if let Some(note) = protocol.and_then(Protocol::unverified_note) {
            message = format!("{message}; {note}");
        }
        self.findings.warning(&tls.at("insecure_skip_verify"), message);
    }
}
