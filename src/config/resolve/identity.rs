//! Section `identities`, and the certificate and key that a cluster has inline.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::SettingsBuilder;
use crate::clock;
use crate::config::mistakes::{SourceLocation, quoted};
use crate::config::raw::Section;
use crate::credentials::{ends, near};
use crate::digest::Digest;
use crate::name::IdentityName;
use crate::tls::{CredentialRole, Identity, IdentityError, IdentitySource};

/// The identities of the file. One with faulty files is defined, but cannot be used.
#[derive(Default)]
pub(super) struct NamedIdentities {
    loaded: BTreeMap<String, LoadedIdentity>,
    used: BTreeSet<String>,
}

struct LoadedIdentity {
    at: SourceLocation,
    identity: Option<Arc<Identity>>,
    digest: Digest,
}

impl NamedIdentities {
    /// The digest of the section of that name.
    pub(super) fn digest(&self, name: &str) -> Option<&Digest> {
        self.loaded.get(name).map(|loaded| &loaded.digest)
    }
}

impl SettingsBuilder<'_> {
    pub(super) fn identities(&mut self, root: &Section) -> NamedIdentities {
        let mut identities = NamedIdentities::default();
        for (name, section) in root.names("identities") {
            let identity = if section.is_given("spiffe") {
                self.identity_of_agent(name, section)
            } else {
                self.identity_of_pair(name, section)
            };
            let loaded = LoadedIdentity { at: section.at.clone(), identity, digest: self.digest_of(section) };
            identities.loaded.insert(name.clone(), loaded);
        }
        identities
    }

    fn identity_of_pair(&mut self, name: &str, section: &Section) -> Option<Arc<Identity>> {
        let mut is_whole = true;
        for key in ["cert", "key"] {
            if !section.is_given(key) {
                let message = format!("`{key}` is missing: an identity is `cert` and `key`, or `spiffe`");
                self.findings.mistake(&section.at(key), message);
                is_whole = false;
            }
        }
        if is_whole { self.identity_of_files(name, section) } else { None }
    }

    /// The agent is asked at run time: it may not be there yet.
    fn identity_of_agent(&mut self, name: &str, section: &Section) -> Option<Arc<Identity>> {
        for key in ["cert", "key"] {
            if section.is_given(key) {
                let message =
                    format!("`{key}` is given together with `spiffe`; only one of the two ways can count");
                self.findings.mistake(&section.at(key), message);
            }
        }
        let text = section.text("spiffe")?;
        let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) else {
            let message = format!("{} is no unix socket: write `unix:/run/spire/agent.sock`", quoted(text));
            self.findings.mistake(&section.at("spiffe"), message);
            return None;
        };
        // As the SPIFFE standard writes it: unix:///run/spire/agent.sock.
        let path = path.strip_prefix("//").unwrap_or(path);
        let source = IdentitySource::Spiffe(self.path(path));
        Identity::load(IdentityName::from(name), source, &self.host.credential_files).ok().map(Arc::new)
    }

    /// Reads `cert` and `key` of a section, as they will be used.
    pub(super) fn identity_of_files(&mut self, name: &str, section: &Section) -> Option<Arc<Identity>> {
        let (cert, key) = (section.text("cert")?, section.text("key")?);
        // Both, then the verdict.
        let (cert, key) = (self.readable(cert, &section.at("cert")), self.readable(key, &section.at("key")));
        let (cert, key) = (cert?, key?);
        let source = IdentitySource::Files { cert: cert.clone(), key: key.clone() };
        match Identity::load(IdentityName::from(name), source, &self.host.credential_files) {
            Ok(identity) => {
                if let Some(end) = identity.not_after() {
                    self.warn_of_expiry(&cert, CredentialRole::Client, end, &section.at("cert"));
                }
                if let Some(exposure) = identity.exposure(&self.host.credential_files) {
                    self.findings.warning(&section.at("key"), exposure);
                }
                Some(Arc::new(identity))
            }
            Err(error) => {
                let name = match error {
                    IdentityError::Cert(_) => "cert",
                    IdentityError::Key(_) | IdentityError::Mismatch(_) => "key",
                };
                self.findings.mistake(&section.at(name), error.to_string());
                // Loading stops at the certificate; a missing key is worth reporting in the same run.
                if name == "cert"
                    && let Err(error) = File::open(&key)
                {
                    let message = format!("cannot read {}: {error}", key.display());
                    self.findings.mistake(&section.at("key"), message);
                }
                None
            }
        }
    }

    /// Warns of what expires soon or has expired, whether or not it is used.
    pub(super) fn warn_of_expiry(
        &mut self,
        file: &Path,
        role: CredentialRole,
        end: SystemTime,
        at: &SourceLocation,
    ) {
        let now = clock::wall();
        if near(role, end, now).is_some() {
            self.findings.warning(at, format!("{} {}", file.display(), ends(end, now)));
        }
    }

    /// The identity of that name, which a cluster refers to at `at`.
    pub(super) fn identity_by_name(
        &mut self,
        name: &str,
        identities: &mut NamedIdentities,
        at: &SourceLocation,
    ) -> Option<Arc<Identity>> {
        let Some(loaded) = identities.loaded.get(name) else {
            self.require_known("identity", name, identities.loaded.keys().map(String::as_str), at);
            return None;
        };
        identities.used.insert(name.to_owned());
        loaded.identity.clone()
    }

    pub(super) fn warn_of_unused_identities(&mut self, identities: &NamedIdentities) {
        // A cluster with a mistake may be the one that uses it.
        if !self.findings.mistakes.is_empty() {
            return;
        }
        for (name, LoadedIdentity { at, .. }) in &identities.loaded {
            if !identities.used.contains(name) {
                self.findings.warning(at, "no cluster uses this identity");
            }
        }
    }
}
