//! Admission: rules about callers. All keys of one rule must match, and rules are alternatives.
//!
//! A stranger, a peer that cannot be attributed to a process of this host, matches no rule, not even an empty one.

use std::sync::Arc;

use crate::caller::Caller;

/// A rule; every key that is given must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// The uid that the caller must have.
    pub user: Option<u32>,
    /// One of the caller's groups.
    pub group: Option<u32>,
    /// The caller's unit, as [`crate::caller::Unit::is_named`] compares it.
    pub unit: Option<Arc<str>>,
}

/// What must be known about callers besides their user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// The caller's groups ([`Caller::groups`]).
    pub groups: bool,
    /// The caller's control group ([`Caller::cgroup`]), which names its unit.
    pub unit: bool,
}

impl Rule {
    /// Whether the rule matches the caller.
    #[must_use]
    pub fn matches(&self, caller: &Caller) -> bool {
        self.user.is_none_or(|uid| caller.uid == uid)
            && self.group.is_none_or(|gid| caller.gid == Some(gid) || caller.groups.contains(&gid))
            && self.unit.as_ref().is_none_or(|name| caller.unit().is_some_and(|unit| unit.is_named(name)))
    }

    /// What the rule needs to know about callers.
    #[must_use]
    pub const fn needs(&self) -> Needs {
        Needs { groups: self.group.is_some(), unit: self.unit.is_some() }
    }
}

impl Needs {
    /// What these rules need; `None` if there are none, so that no caller is looked up.
    #[must_use]
    pub fn of(rules: &[Rule]) -> Option<Self> {
        rules.iter().map(Rule::needs).reduce(Self::and)
    }

    /// Needs whatever one of the two needs.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { groups: self.groups || other.groups, unit: self.unit || other.unit }
    }
}

/// The first rule that matches the caller; `None` for a stranger, too.
#[must_use]
pub fn first_match(rules: &[Rule], caller: Option<&Caller>) -> Option<usize> {
    let caller = caller?;
    rules.iter().position(|rule| rule.matches(caller))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::Cgroup;

    fn caller(uid: u32, groups: &[u32], cgroup: &str) -> Caller {
        let cgroup = Some(Arc::new(Cgroup::new(cgroup)));
        Caller { uid, user: None, gid: None, groups: groups.into(), pid: None, cgroup }
    }

    fn rule(user: Option<u32>, group: Option<u32>, unit: Option<&str>) -> Rule {
        Rule { user, group, unit: unit.map(Arc::from) }
    }

    #[test]
    fn the_keys_of_a_rule_must_all_match() {
        let report = "/system.slice/report.service";
        for (user, group, unit, expected) in [
            (None, None, None, true),
            (Some(7), None, None, true),
            (Some(8), None, None, false),
            (None, Some(20), None, true),
            (None, Some(21), None, false),
            (None, None, Some("report.service"), true),
            (None, None, Some("other.service"), false),
            (Some(7), Some(20), Some("report.service"), true),
            (Some(7), Some(20), Some("other.service"), false),
            (Some(7), Some(21), Some("report.service"), false),
            (Some(8), Some(20), Some("report.service"), false),
        ] {
            let rule = rule(user, group, unit);
            assert_eq!(rule.matches(&caller(7, &[10, 20], report)), expected, "{rule:?}");
        }
    }

    #[test]
    fn a_caller_whose_unit_or_groups_are_unknown_matches_no_rule_about_them() {
        let unknown = Caller { uid: 0, user: None, gid: None, groups: Arc::new([]), pid: None, cgroup: None };
        assert!(!rule(None, None, Some("a.service")).matches(&unknown));
        assert!(!rule(None, Some(0), None).matches(&unknown));
        assert!(rule(Some(0), None, None).matches(&unknown));
    }

    #[test]
    fn the_first_rule_that_matches_counts_and_a_stranger_matches_none() {
        let rules = [rule(Some(1), None, None), rule(None, Some(5), None), Rule::default()];
        assert_eq!(first_match(&rules, Some(&caller(2, &[5], "/"))), Some(1));
        assert_eq!(first_match(&rules, Some(&caller(2, &[], "/"))), Some(2));
        assert_eq!(first_match(&rules[..2], Some(&caller(2, &[], "/"))), None);
        assert_eq!(first_match(&rules, None), None, "an empty rule is for callers too");
    }

    #[test]
    fn only_what_a_rule_asks_about_has_to_be_found_out() {
        let needs = [rule(Some(1), None, None), rule(None, Some(1), None)].map(|rule| rule.needs());
        assert_eq!(needs[0], Needs::default());
        assert_eq!(needs[0].and(needs[1]), Needs { groups: true, unit: false });
    }
}
