//! Rules about callers: `listeners.*.allow`, and other choices by caller.

use nix::unistd::{Group, User};

use super::{ClustersByName, SettingsBuilder};
use crate::caller::Unit;
use crate::config::mistakes::quoted;
use crate::config::raw::Section;
use crate::listener;
use crate::policy::admission::Rule;
use crate::policy::caller_limits;
use crate::session::AdmissionSettings;

impl SettingsBuilder<'_> {
    pub(super) fn admission(&mut self, listener: &Section) -> Option<AdmissionSettings> {
        let (allow, per_caller) = (self.allow(listener), self.per_caller(listener));
        let (per_caller, max_queued) = per_caller?;
        Some(AdmissionSettings { allow: allow?, per_caller, max_queued })
    }

    /// The limits for each caller: of the listener, and of entries in a cluster's queue.
    fn per_caller(&mut self, listener: &Section) -> Option<(caller_limits::Settings, Option<u32>)> {
        if !listener.is_given("per_caller") {
            return Some((caller_limits::Settings::default(), None));
        }
        let per_caller = listener.section("per_caller")?;
        let settings = caller_limits::Settings {
            max_connections: per_caller.optional_integer("max_connections")?,
            connections_per_second: per_caller.optional_integer("connections_per_second")?,
        };
        let max_queued = per_caller.optional_integer("max_queued")?;
        if settings.is_off() && max_queued.is_none() {
            self.findings
                .mistake(&per_caller.at, "there is no limit in it; give one, or leave `per_caller` out");
        }
        if let (Some(one), Some(all)) = (settings.max_connections, listener.integer("max_connections"))
            && one >= all
        {
            let message = format!("one caller may take all {all} connections of the listener");
            self.findings.warning(&per_caller.at("max_connections"), message);
        }
        Some((settings, max_queued))
    }

    /// A limit of the queue needs a cluster that has one.
    pub(super) fn judge_queue_limits(
        &mut self,
        root: &Section,
        listeners: &[Option<listener::Settings>],
        clusters: &ClustersByName<'_>,
    ) {
        for (listener, (_, section)) in listeners.iter().zip(root.names("listeners")) {
            let Some(listener) = listener else { continue };
            let (Some(most), Some(per_caller)) =
                (listener.admission.max_queued, section.section("per_caller"))
            else {
                continue;
            };
            let its: Option<Vec<_>> = listener.clusters.iter().map(|name| clusters.get(name)).collect();
            // A cluster with a mistake has been reported.
            let Some(its) = its else { continue };
            let at = per_caller.at("max_queued");
            let mut queues = its.iter().filter(|cluster| !cluster.queue_timeout.is_zero()).peekable();
            if queues.peek().is_none() {
                let message = "has no effect: the listener's cluster has no queue; set `limits.queue_timeout` there, or leave this out";
                self.findings.mistake(&at, message);
            }
            if let Some(cluster) = queues.find(|cluster| cluster.limits.max_pending <= most) {
                let (name, all) = (&cluster.name, cluster.limits.max_pending);
                let message = format!("one caller may take all {all} places in the queue of cluster {name}");
                self.findings.warning(&at, message);
            }
        }
    }

    /// Who may connect; without rules, every client.
    fn allow(&mut self, listener: &Section) -> Option<Vec<Rule>> {
        if !listener.is_given("allow") || listener.text("allow") == Some("anyone") {
            return Some(Vec::new());
        }
        let items = listener.list("allow")?;
        if items.is_empty() {
            let message = "the list is empty, and would admit nobody; leave `allow` out to admit everybody";
            self.findings.mistake(&listener.at("allow"), message);
        }
        let rules: Vec<_> = items.iter().map(|item| self.allow_rule(item.section()?)).collect();
        if listener.boolean("expose") == Some(true) {
            let message = "whoever connects from another host is a stranger, and denied";
            self.findings.warning(&listener.at("allow"), message);
        }
        rules.into_iter().collect()
    }

    fn allow_rule(&mut self, section: &Section) -> Option<Rule> {
        let rule = self.caller_rule(section)?;
        if rule == Rule::default() {
            let message = "the rule names no user, group or unit, and would admit everybody; leave `allow` out for that";
            self.findings.mistake(&section.at, message);
        }
        Some(rule)
    }

    /// The rule made of `user`, `group` and `unit` of a section.
    pub(super) fn caller_rule(&mut self, section: &Section) -> Option<Rule> {
        let user = self.account(section, "user", |name| {
            User::from_name(name).map(|user| user.map(|user| user.uid.as_raw()))
        });
        let group = self.account(section, "group", |name| {
            Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw()))
        });
        let unit = self.unit(section);
        Some(Rule { user: user?, group: group?, unit: unit?.map(Into::into) })
    }

    fn unit<'s>(&mut self, section: &'s Section) -> Option<Option<&'s str>> {
        let Some(name) = section.optional_text("unit")? else { return Some(None) };
        if Unit::is_possible(name) {
            return Some(Some(name));
        }
        let name = quoted(name);
        let message = format!(
            "{name} is no unit that processes run in: write report.service, session-1.scope or \
             user@1000.service/report.service"
        );
        self.findings.mistake(&section.at("unit"), message);
        None
    }
}
