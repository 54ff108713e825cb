//! Which of a cluster's identities a connection is made with: decided by who asks for it, before anything goes upstream.

use std::sync::Arc;

use super::identity::{Identity, NoCertificate};
use crate::caller::Caller;
use crate::name::IdentityName;
use crate::policy::admission::{Needs, Rule, first_match};

/// The identities of a cluster, and who gets which.
#[derive(Debug, Clone, Default)]
pub struct Identities {
    all: Vec<Arc<Identity>>,
    /// For whom the identity of the same place is; none, where the only one is for everybody.
    rules: Vec<Rule>,
}

/// A decision: the place of the identity among those of the [`Identities`] that made it, and of no others. Connections of
/// different choices have nothing in common, tickets least of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdentityChoice(usize);

impl IdentityChoice {
    /// For everybody: the only identity, or none.
    pub const ONLY: Self = Self(0);

    pub(super) const fn index(self) -> usize {
        self.0
    }
}

/// Why there is no identity for a caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    /// No rule means the caller.
    #[error("no rule of the cluster's tls.identity is for {0}")]
    Denied(String),
    /// There is one, without a certificate so far.
    #[error(transparent)]
    Absent(#[from] NoCertificate),
}

impl Identities {
    /// One for everybody.
    #[must_use]
    pub fn one(identity: Arc<Identity>) -> Self {
        Self { all: vec![identity], rules: Vec::new() }
    }

    /// By rules, of which the first that means the caller counts.
    #[must_use]
    pub fn by_rule(rules: Vec<(Rule, Arc<Identity>)>) -> Self {
        let (rules, all) = rules.into_iter().unzip();
        Self { all, rules }
    }

    /// All of them; one may be there several times.
    #[must_use]
    pub fn all(&self) -> &[Arc<Identity>] {
        &self.all
    }

    /// For whom the identity of the same place is; none, where the only one is for everybody.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What has to be known of a caller. `None`: nothing, there is no choice.
    #[must_use]
    pub fn needs(&self) -> Option<Needs> {
        Needs::of(&self.rules)
    }

    /// Which is for that caller; a stranger has none where there are rules.
    ///
    /// # Errors
    /// See [`NoIdentity`].
    pub fn choose(&self, caller: Option<&Caller>) -> Result<IdentityChoice, NoIdentity> {
        let choice = if self.rules.is_empty() {
            IdentityChoice::ONLY
        } else {
            let denied =
                || NoIdentity::Denied(caller.map_or_else(|| "a stranger".into(), ToString::to_string));
            IdentityChoice(first_match(&self.rules, caller).ok_or_else(denied)?)
        };
        if let Some(identity) = self.get(choice) {
            identity.current()?;
        }
        Ok(choice)
    }

    /// For a connection that no caller asks for, such as a probe: the one that is for the rest, else the last.
    #[must_use]
    pub fn for_nobody(&self) -> IdentityChoice {
        let rest = self.rules.iter().position(|rule| *rule == Rule::default());
        IdentityChoice(rest.unwrap_or_else(|| self.all.len().saturating_sub(1)))
    }

    /// Every choice that somebody may get; one, where there is none to be made.
    pub fn choices(&self) -> impl Iterator<Item = IdentityChoice> {
        (0..self.all.len().max(1)).map(IdentityChoice)
    }

    pub(super) fn get(&self, choice: IdentityChoice) -> Option<&Arc<Identity>> {
        self.all.get(choice.index())
    }

    /// Its name, where there is one.
    #[must_use]
    pub fn name(&self, choice: IdentityChoice) -> Option<&IdentityName> {
        self.get(choice).map(|identity| identity.name())
    }
}
