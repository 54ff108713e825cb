//! Section `identities`, and the certificate and key that a cluster names in place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;

use super::Resolver;
use crate::clock;
use crate::config::mistakes::At;
use crate::config::raw::Section;
use crate::name::IdentityName;
use crate::tls::{Identity, IdentityError, IdentitySource};

/// A loaded identity with its name, as a cluster takes it.
pub(super) type Named = (IdentityName, Arc<Identity>);

/// The identities of the file. One whose files are at fault is known, but cannot be had.
#[derive(Default)]
pub(super) struct Identities {
    loaded: BTreeMap<String, (At, Option<Arc<Identity>>)>,
    used: BTreeSet<String>,
}

impl Resolver<'_> {
    pub(super) fn identities(&mut self, root: &Section) -> Identities {
        let mut identities = Identities::default();
        for (name, section) in root.names("identities") {
            let identity = self.identity_of_files(section);
            identities.loaded.insert(name.clone(), (section.at.clone(), identity));
        }
        identities
    }

    /// Reads `cert` and `key` of a section, just as they will be used.
    pub(super) fn identity_of_files(&mut self, section: &Section) -> Option<Arc<Identity>> {
        let source =
            IdentitySource { cert: self.path(section.text("cert")?), key: self.path(section.text("key")?) };
        match Identity::load(&source) {
            Ok(identity) => {
                if identity.not_after() < clock::wall() {
                    let message = format!("{} has expired", source.cert.display());
                    self.findings.warning(&section.at("cert"), message);
                }
                Some(Arc::new(identity))
            }
            Err(error) => {
                let key = match error {
                    IdentityError::Cert(_) => "cert",
                    IdentityError::Key(_) | IdentityError::Mismatch => "key",
                };
                self.findings.mistake(&section.at(key), error.to_string());
                // Loading stops at the certificate; a key that is not there is worth saying in the same run.
                if key == "cert"
                    && let Err(error) = File::open(&source.key)
                {
                    let message = format!("cannot read {}: {error}", source.key.display());
                    self.findings.mistake(&section.at("key"), message);
                }
                None
            }
        }
    }

    /// The identity of that name, which a cluster asks for at `at`.
    pub(super) fn identity_by_name(
        &mut self,
        name: &str,
        identities: &mut Identities,
        at: &At,
    ) -> Option<Named> {
        self.demand_known("identity", name, identities.loaded.keys().map(String::as_str), at)?;
        identities.used.insert(name.to_owned());
        let (_, identity) = identities.loaded.get(name)?;
        Some((IdentityName::from(name), Arc::clone(identity.as_ref()?)))
    }

    pub(super) fn warn_of_unused_identities(&mut self, identities: &Identities) {
        for (name, (at, _)) in &identities.loaded {
            if !identities.used.contains(name) {
                self.findings.warning(at, "no cluster uses this identity");
            }
        }
    }
}
