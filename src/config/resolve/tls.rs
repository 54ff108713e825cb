//! Section `clusters.NAME.tls`.

use std::path::PathBuf;
use std::sync::Arc;

use super::identity::NamedIdentities;
use super::{SettingsBuilder, address};
use crate::config::mistakes::{SourceLocation, quoted};
use crate::config::raw::{Item, Section};
use crate::policy::admission::Rule;
use crate::protocol::Protocol;
use crate::tls::{
    CredentialRole, ExtraChecks, Identities, Identity, IdentitySource, MinVersion, Originator,
    PeerVerification, Pin, Roots, Settings, SetupError, TlsStart, TrustError, Verify, revocation_lists,
};

/// The longest name of an ALPN protocol, in bytes (RFC 7301 §3.1).
const ALPN_MAX: usize = 255;

impl SettingsBuilder<'_> {
    /// Reads all the files it names. With an unknown protocol (a reported mistake), what depends on it is
    /// not checked.
    pub(super) fn tls(
        &mut self,
        cluster: &str,
        tls: &Section,
        protocol: Option<&dyn Protocol>,
        identities: &mut NamedIdentities,
    ) -> Option<Originator> {
        let identities = self.client_identities(cluster, tls, identities);
        let server_name = tls.optional_text("server_name").and_then(|text| {
            let parsed = text.map(address::server_name).transpose();
            parsed.map_err(|reason| self.findings.mistake(&tls.at("server_name"), reason)).ok()
        });
        let alpn = self.alpn(tls, protocol);
        let min_version =
            tls.choice("min_version", &[("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)]);
        let start = self.start(tls, protocol, min_version);
        let insecure_skip_verify = tls.boolean("insecure_skip_verify")?;
        let terms = self.terms(tls, identities.as_ref());
        if insecure_skip_verify {
            self.warn_of_insecurity(tls, protocol);
        }
        let settings = Settings {
            terms: Some(terms?).filter(|_| !insecure_skip_verify),
            identities: identities?,
            server_name: server_name?,
            alpn: alpn?,
            min_version: min_version?,
            start: start?,
        };
        self.originator(tls, &settings)
    }

    fn originator(&mut self, tls: &Section, settings: &Settings) -> Option<Originator> {
        let error = match Originator::new(settings, &self.host.credential_files) {
            Ok(originator) => return Some(originator),
            Err(error) => error,
        };
        let at = match &error {
            SetupError::Trust(TrustError::Roots(_)) => tls.at("ca"),
            SetupError::Trust(TrustError::Crl(_)) => tls.at("crl"),
            SetupError::Versions(_) => tls.at("min_version"),
        };
        self.findings.mistake(&at, error.to_string());
        None
    }

    /// What the server's certificate has to fulfil; checked even where `insecure_skip_verify` is set.
    fn terms(&mut self, tls: &Section, identities: Option<&Identities>) -> Option<PeerVerification> {
        let verify = self.verify(tls);
        let roots = verify.and_then(|verify| self.roots(tls, verify, identities));
        let crls = self.crls(tls);
        let (pins, uris) = (self.pins(tls), self.allowed_uris(tls));
        let demands = ExtraChecks { pins: pins?, uris: uris? };
        let (verify, roots) = (verify?, roots?);
        if verify == Verify::Ca && matches!(roots, Roots::System | Roots::WebPki) {
            let message = "`ca` asks for no name, so anybody would do who has a certificate of any public CA; name the file of \
                           your own CA as `tls.ca`";
            self.findings.mistake(&tls.at("verify"), message);
        }
        Some(PeerVerification { verify, roots, crls: crls?, extra_checks: demands })
    }

    /// How much of the server's certificate is verified, and whether the other keys go with that.
    fn verify(&mut self, tls: &Section) -> Option<Verify> {
        let insecure = tls.boolean("insecure_skip_verify") == Some(true);
        for key in ["verify", "pins", "allowed_uris", "crl"] {
            if insecure && tls.is_given(key) {
                let message = format!(
                    "`{key}` does not go with `insecure_skip_verify`, which accepts any certificate; one that a server signed \
                     itself can be named as `ca`, and `verify` says how much of it counts"
                );
                self.findings.mistake(&tls.at(key), message);
            }
        }
        let words = [("full", Verify::Full), ("ca", Verify::Ca), ("pin", Verify::Pin)];
        let verify = tls.choice("verify", &words)?;
        let unasked: &[(&str, &str)] = match verify {
            Verify::Full => &[],
            Verify::Ca => {
                &[("allowed_uris", "`allowed_uris` does not go with `verify: ca`, which asks for no name")]
            }
            Verify::Pin => &[
                ("allowed_uris", "`allowed_uris` does not go with `verify: pin`, which asks for no name"),
                ("crl", "`crl` does not go with `verify: pin`, which asks no CA"),
            ],
        };
        for (key, message) in unasked.iter().filter(|(key, _)| tls.is_given(key)) {
            self.findings.mistake(&tls.at(key), *message);
        }
        if verify == Verify::Pin && tls.is_given("ca") == tls.is_given("pins") {
            let message = "`pin` needs one of two: `ca`, a file of the servers' own certificates, or `pins`, their public keys";
            self.findings.mistake(&tls.at("verify"), message);
            return None;
        }
        Some(verify)
    }

    /// The roots; loaded here once, so that mistakes in them are found even if another part is wrong too, or
    /// if `insecure_skip_verify` means that they are not used.
    fn roots(&mut self, tls: &Section, verify: Verify, identities: Option<&Identities>) -> Option<Roots> {
        if verify == Verify::Pin && !tls.is_given("ca") {
            return Some(Roots::Nobody);
        }
        let all = identities.map(Identities::all).unwrap_or_default();
        if let Some(first) =
            all.iter().find(|identity| is_from_agent(identity)).filter(|_| !tls.is_given("ca"))
        {
            if all.iter().all(|identity| identity.source() == first.source()) {
                return Some(Roots::Bundle(Arc::clone(first)));
            }
            let message = "the identities come from several places, so their CAs are ambiguous; name the servers' CA as `ca`";
            self.findings.mistake(&tls.at("identity"), message);
            return None;
        }
        let ca = match tls.text("ca")? {
            list @ ("webpki" | "system") if verify == Verify::Pin => {
                let message = format!(
                    "`{list}` is a list of CAs; `verify: pin` needs the file of a server's own certificate"
                );
                self.findings.mistake(&tls.at("ca"), message);
                return None;
            }
            "webpki" => Roots::WebPki,
            "system" => Roots::System,
            path => Roots::File(self.readable(path, &tls.at("ca"))?),
        };
        if tls.is_given("ca") {
            let terms = PeerVerification {
                verify,
                roots: ca.clone(),
                crls: Vec::new(),
                extra_checks: ExtraChecks::default(),
            };
            let alone = Settings {
                terms: Some(terms),
                identities: Identities::default(),
                server_name: None,
                alpn: Vec::new(),
                min_version: MinVersion::Tls12,
                start: TlsStart::Direct,
            };
            let asked = self.originator(tls, &alone)?;
            for (role, end) in asked.trust().ends() {
                if let Roots::File(path) = &ca {
                    self.warn_of_expiry(path, role, end, &tls.at("ca"));
                }
            }
        }
        Some(ca)
    }

    /// One file, or a list of them.
    fn crls(&mut self, tls: &Section) -> Option<Vec<PathBuf>> {
        if !tls.is_given("crl") {
            return Some(Vec::new());
        }
        let named: Vec<_> = match tls.list("crl") {
            Some(items) => items.iter().map(|item| item.text().map(|path| (item.at.clone(), path))).collect(),
            None => vec![tls.text("crl").map(|path| (tls.at("crl"), path))],
        };
        if named.is_empty() {
            self.findings.mistake(&tls.at("crl"), "is an empty list; leave it out where nothing is revoked");
            return None;
        }
        let mut crl = |(at, path): (SourceLocation, &str)| {
            let path = self.readable(path, &at)?;
            match revocation_lists(&path, &self.host.credential_files) {
                Ok((_, ends)) => {
                    if let Some(end) = ends.into_iter().min() {
                        self.warn_of_expiry(&path, CredentialRole::Crl, end, &at);
                    }
                    Some(path)
                }
                Err(reason) => {
                    self.findings.mistake(&at, reason);
                    None
                }
            }
        };
        // All of them, then the verdict.
        named.into_iter().map(|named| named.and_then(&mut crl)).collect::<Vec<_>>().into_iter().collect()
    }

    fn pins(&mut self, tls: &Section) -> Option<Vec<Pin>> {
        self.required_items(tls, "pins", |text| {
            text.parse().map_err(|reason| {
                format!(
                    "{} {reason}; write the SHA-256 of the public key as `sha256//BASE64`, as curl does",
                    quoted(text)
                )
            })
        })
    }

    fn allowed_uris(&mut self, tls: &Section) -> Option<Vec<String>> {
        self.required_items(tls, "allowed_uris", |text| match text {
            _ if text.contains('*') => {
                Err("URIs are compared letter by letter; `*` stands for nothing else".into())
            }
            _ if text.contains("://") => Ok(text.to_owned()),
            _ => {
                Err(format!("{} is no URI; write one such as `spiffe://example.com/orders-db`", quoted(text)))
            }
        })
    }

    /// The parsed items of a list of requirements, if it is given.
    fn required_items<T>(
        &mut self,
        tls: &Section,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        if !tls.is_given(key) {
            return Some(Vec::new());
        }
        let items = tls.list(key)?;
        if items.is_empty() {
            self.findings.mistake(&tls.at(key), format!("is empty; without `{key}` nothing is demanded"));
            return None;
        }
        let parsed = items
            .iter()
            .map(|item| parse(item.text()?).map_err(|reason| self.findings.mistake(&item.at, reason)).ok());
        // All of them, then the verdict.
        parsed.collect::<Vec<_>>().into_iter().collect()
    }

    /// `cert` and `key`, or `identity`, or nothing.
    fn client_identities(
        &mut self,
        cluster: &str,
        tls: &Section,
        identities: &mut NamedIdentities,
    ) -> Option<Identities> {
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
                return self.identity_of_files(cluster, tls).map(Identities::one);
            }
            (false, false) if identity => {
                return match tls.list("identity") {
                    Some(items) => self.identities_by_rule(items, &tls.at("identity"), identities),
                    None => self
                        .identity_by_name(tls.text("identity")?, identities, &tls.at("identity"))
                        .map(Identities::one),
                };
            }
            (false, false) => return Some(Identities::default()),
        }
        None
    }

    /// A list of { user|group|unit: …, use: NAME }.
    fn identities_by_rule(
        &mut self,
        items: &[Item],
        at: &SourceLocation,
        identities: &mut NamedIdentities,
    ) -> Option<Identities> {
        if items.is_empty() {
            self.findings.mistake(at, "the list is empty, and would deny everybody");
        }
        let rules: Vec<_> = items
            .iter()
            .map(|item| {
                let section = item.section()?;
                let rule = self.caller_rule(section);
                let name = section.text("use")?;
                let identity = self.identity_by_name(name, identities, &section.at("use"));
                Some((rule?, identity?, &item.at))
            })
            .collect();
        let rest = rules.iter().flatten().position(|(rule, ..)| *rule == Rule::default());
        if let Some((.., after)) = rest.and_then(|rest| rules.iter().flatten().nth(rest + 1)) {
            self.findings.mistake(
                after,
                "is never reached: the rule before it has only `use` and applies to every caller",
            );
        }
        let rules: Vec<_> = rules.into_iter().collect::<Option<_>>()?;
        if rules.is_empty() {
            return None;
        }
        Some(Identities::by_rule(rules.into_iter().map(|(rule, identity, _)| (rule, identity)).collect()))
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

    fn start(
        &mut self,
        tls: &Section,
        protocol: Option<&dyn Protocol>,
        min_version: Option<MinVersion>,
    ) -> Option<TlsStart> {
        // Keys that only apply to TLS with the first byte, where the protocol's upgrade does not support
        // them.
        let asks_for_direct = |protocol: &dyn Protocol| {
            let is_new = min_version == Some(MinVersion::Tls13);
            let reason = [("min_version", is_new), ("alpn", tls.is_given("alpn"))];
            let mut reason = reason.into_iter().filter(|_| protocol.starts_either_way());
            reason.find_map(|(key, is_so)| is_so.then_some(key))
        };
        if !tls.is_given("start") {
            let protocol = protocol?;
            return Some(match protocol.upgrade() {
                None => TlsStart::Direct,
                Some(_) if !protocol.starts_either_way() => TlsStart::Upgrade,
                Some(_) if asks_for_direct(protocol).is_some() => TlsStart::Direct,
                Some(_) => TlsStart::EitherWay,
            });
        }
        let start = tls.choice("start", &[("upgrade", TlsStart::Upgrade), ("direct", TlsStart::Direct)])?;
        if let (TlsStart::Upgrade, Some(protocol)) = (start, protocol)
            && protocol.upgrade().is_none()
        {
            let label = protocol.label();
            let message =
                format!("protocol {label} has no upgrade to TLS; `direct` begins with the first byte");
            self.findings.mistake(&tls.at("start"), message);
            return None;
        }
        if let (TlsStart::Upgrade, Some(key)) = (start, protocol.and_then(asks_for_direct)) {
            let message = format!(
                "`{key}` does not go with `start: upgrade`: TDS 7 has TLS 1.2 only, and no ALPN; TDS 8.0 (`start: direct`) has both"
            );
            self.findings.mistake(&tls.at(key), message);
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

fn is_from_agent(identity: &Identity) -> bool {
    matches!(identity.source(), IdentitySource::Spiffe(_))
}
