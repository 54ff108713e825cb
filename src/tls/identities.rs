//! Which of a cluster's identities a connection uses: decided by its caller, before anything is sent upstream.

use std::sync::Arc;

use super::identity::{Identity, NoCertificate};
use crate::caller::Caller;
use crate::name::IdentityName;
use crate::policy::admission::{Needs, Rule, first_match};

/// The identities of a cluster, and which caller gets which.
#[derive(Debug, Clone, Default)]
pub struct Identities {
    all: Vec<Arc<Identity>>,
    /// `rules[n]` selects the callers of `all[n]`; empty where one identity is for all callers.
    rules: Vec<Rule>,
}

/// A decision: the index of an identity in the [`Identities`] that decided. Connections of different choices share
/// nothing, in particular no tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdentityChoice(usize);

impl IdentityChoice {
    /// The choice without rules: the only identity, or none.
    pub const ONLY: Self = Self(0);

    pub(super) const fn index(self) -> usize {
        self.0
    }
}

/// Why there is no identity for a caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    /// No rule matches the caller.
    #[error("no rule of the cluster's tls.identity is for {0}")]
    Denied(String),
    /// The identity has no certificate yet.
    #[error(transparent)]
    Absent(#[from] NoCertificate),
}

impl Identities {
    /// One identity for all callers.
    #[must_use]
    pub fn one(identity: Arc<Identity>) -> Self {
        Self { all: vec![identity], rules: Vec::new() }
    }

    /// By rules: the first that matches the caller decides.
    #[must_use]
    pub fn by_rule(rules: Vec<(Rule, Arc<Identity>)>) -> Self {
        let (rules, all) = rules.into_iter().unzip();
        Self { all, rules }
    }

    /// All identities; one may occur several times.
    #[must_use]
    pub fn all(&self) -> &[Arc<Identity>] {
        &self.all
    }

    /// The rule of each identity; empty where the only one is for all callers.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What has to be known of a caller. `None`: nothing, as there is no choice.
    #[must_use]
    pub fn needs(&self) -> Option<Needs> {
        Needs::of(&self.rules)
    }

    /// The identity for that caller; where there are rules, a stranger gets none.
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

    /// For a connection without a caller, such as a probe: the identity without conditions, else the last.
    #[must_use]
    pub fn for_nobody(&self) -> IdentityChoice {
        let rest = self.rules.iter().position(|rule| *rule == Rule::default());
        IdentityChoice(rest.unwrap_or_else(|| self.all.len().saturating_sub(1)))
    }

    /// Every choice that a caller may get; at least one.
    pub fn choices(&self) -> impl Iterator<Item = IdentityChoice> {
        (0..self.all.len().max(1)).map(IdentityChoice)
    }

    pub(super) fn get(&self, choice: IdentityChoice) -> Option<&Arc<Identity>> {
        self.all.get(choice.index())
    }

    /// The name of the chosen identity, if there is one.
    #[must_use]
    pub fn name(&self, choice: IdentityChoice) -> Option<&IdentityName> {
        self.get(choice).map(|identity| identity.name())
    }
}
