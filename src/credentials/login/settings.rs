//! How a cluster signs in: which credential for which caller.

use std::sync::Arc;

use super::{LoginCredential, NoLogin};
use crate::caller::Caller;
use crate::policy::admission::{Needs, Rule, first_match};

/// The credentials of a cluster, by caller.
#[derive(Debug, Clone)]
pub struct LoginSettings {
    /// The first rule that fits counts; one without conditions is for everybody, strangers included.
    rules: Vec<Rule>,
    /// One for each rule.
    credentials: Vec<Arc<LoginCredential>>,
    /// `login.database`.
    database: Option<String>,
}

impl LoginSettings {
    pub(crate) fn new(rules: Vec<(Rule, Arc<LoginCredential>)>, database: Option<String>) -> Self {
        let (rules, credentials) = rules.into_iter().unzip();
        Self { rules, credentials, database }
    }

    /// The database to sign in to, if one is set.
    pub(crate) fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    /// Every credential to sign in with.
    pub(crate) fn all(&self) -> &[Arc<LoginCredential>] {
        &self.credentials
    }

    /// Every credential, and the passwords that clients are held to: what is read and followed.
    pub(crate) fn followed(&self) -> impl Iterator<Item = &Arc<LoginCredential>> {
        self.credentials.iter().flat_map(|credential| [Some(credential), credential.client()]).flatten()
    }

    /// What must be looked up about callers, if anything.
    pub(crate) fn needs(&self) -> Option<Needs> {
        let is_for_everybody = self.rules == [Rule::default()];
        Needs::of(&self.rules).filter(|_| !is_for_everybody)
    }

    /// The credential for that caller.
    ///
    /// # Errors
    /// [`NoLogin::Denied`].
    pub(crate) fn choose(&self, caller: Option<&Caller>) -> Result<&Arc<LoginCredential>, NoLogin> {
        let everybody = self.rules.iter().position(|rule| *rule == Rule::default());
        let fits = first_match(&self.rules, caller).or(everybody);
        let denied = || NoLogin::Denied(caller.map_or_else(|| "a stranger".into(), ToString::to_string));
        fits.map(|index| &self.credentials[index]).ok_or_else(denied)
    }

    /// The credential without a caller, as for connections kept ready: of the rule for everybody.
    pub(crate) fn for_everybody(&self) -> Option<&Arc<LoginCredential>> {
        let everybody = self.rules.iter().position(|rule| *rule == Rule::default());
        everybody.map(|index| &self.credentials[index])
    }

    /// Continues with the contents of an earlier configuration.
    pub(crate) fn adopt(&self, earlier: &Self) {
        for (rule, credential) in self.rules.iter().zip(&self.credentials) {
            // `Debug` shows all settings of a source, and no secret.
            let is_same = |(known, before): &(&Rule, &Arc<LoginCredential>)| {
                *known == rule && format!("{:?}", before.source) == format!("{:?}", credential.source)
            };
            if let Some((_, before)) = earlier.rules.iter().zip(&earlier.credentials).find(is_same) {
                credential.adopt(before);
            }
        }
    }
}
