//! How a cluster handles endpoints that fail: `circuit_breaker`, `outlier_detection`, `connect.retry_budget`,
//! `connect.hedge_after`, `panic`, `on_unhealthy`, `on_removed`.

use std::time::Duration;

use super::SettingsBuilder;
use crate::cluster::{EvictionSettings, OnEndpointLoss};
use crate::config::raw::Section;
use crate::policy::eligibility::Panic;
use crate::policy::{breaker, budget, hedge, outlier};
use crate::protocol::Protocol;
use crate::quantity::show_duration;

impl SettingsBuilder<'_> {
    /// `Some(None)`: it is off.
    pub(super) fn breaker(&mut self, cluster: &Section) -> Option<Option<breaker::Settings>> {
        let section = cluster.section("circuit_breaker")?;
        let times = self.up_to(section, "open_for", "max_open_for");
        let settings = breaker::Settings {
            consecutive_failures: section.integer("consecutive_failures")?,
            half_open_trials: section.integer("half_open_trials")?,
            open_for: times?.0,
            max_open_for: times?.1,
        };
        Some((settings.consecutive_failures > 0).then_some(settings))
    }

    /// `Some(None)`: it is off.
    pub(super) fn outlier(&mut self, cluster: &Section) -> Option<Option<outlier::Settings>> {
        let section = cluster.section("outlier_detection")?;
        let times = self.up_to(section, "base_ejection_time", "max_ejection_time");
        let settings = outlier::Settings {
            consecutive_failures: section.integer("consecutive_failures")?,
            early_close: section.duration("early_close")?,
            base_ejection_time: times?.0,
            max_ejection_time: times?.1,
        };
        Some((settings.consecutive_failures > 0).then_some(settings))
    }

    pub(super) fn panic(&mut self, cluster: &Section) -> Option<Panic> {
        if !cluster.is_given("panic") {
            let check = cluster.section("health_check");
            let asks_for_a_role = check.and_then(|check| check.text("type")) == Some("http");
            return Some(if asks_for_a_role { Panic::Never } else { Panic::All });
        }
        let panic = cluster.choice("panic", &[("all", Panic::All), ("never", Panic::Never)])?;
        if panic == Panic::Never {
            self.needs_health_check(cluster, "panic");
        }
        Some(panic)
    }

    pub(super) fn eviction(&mut self, cluster: &Section) -> Option<EvictionSettings> {
        let fates = [("keep", OnEndpointLoss::Keep), ("close", OnEndpointLoss::Close)];
        let on_unhealthy = cluster.choice("on_unhealthy", &fates)?;
        if on_unhealthy == OnEndpointLoss::Close {
            self.needs_health_check(cluster, "on_unhealthy");
        }
        Some(EvictionSettings {
            on_unhealthy,
            on_removed: cluster.choice("on_removed", &fates)?,
            closing_time: cluster.duration("closing_time")?,
        })
    }

    /// When an attempt counts as slow, and whether another one is then begun beside it.
    pub(super) fn hedging(
        &mut self,
        cluster: &Section,
        protocol: Option<&dyn Protocol>,
    ) -> Option<(Option<hedge::Settings>, bool)> {
        let connect = cluster.section("connect")?;
        let greeting_timeout = match connect.is_given("greeting_timeout") {
            true => connect.duration("greeting_timeout")?,
            false => protocol?.greeting_timeout(),
        };
        let by_history = hedge::Settings::by_history(connect.duration("timeout")?);
        let by_history = match protocol?.server_greets() && starts_by_upgrade(cluster) {
            true => by_history.greeting_within(greeting_timeout),
            false => by_history,
        };
        let minds = protocol.is_some_and(Protocol::must_finish_upgrade);
        if !connect.is_given("hedge_after") {
            return Some((Some(by_history), !minds));
        }
        match connect.duration_or_none("hedge_after")? {
            None => Some((None, false)),
            Some(after) => {
                if minds {
                    let message = format!(
                        "protocol {} does not go with it: its servers count logins that break off, and in the end block \
                         this host (MySQL's max_connect_errors)",
                        cluster.text("protocol").unwrap_or_default()
                    );
                    self.findings.mistake(&connect.at("hedge_after"), message);
                }
                Some((Some(hedge::Settings::fixed(after)), true))
            }
        }
    }

    fn needs_health_check(&mut self, cluster: &Section, key: &str) {
        if !cluster.is_given("health_check") {
            let message = "has no effect: the cluster has no `health_check` that could find an endpoint down";
            self.findings.mistake(&cluster.at(key), message);
        }
    }

    /// Two durations, of which the first must not exceed the second.
    fn up_to(&mut self, section: &Section, first: &str, most: &str) -> Option<(Duration, Duration)> {
        let (begins, ends) = (section.duration(first)?, section.duration(most)?);
        // When only one is given, the other's default is adjusted to it.
        match (section.is_given(first), section.is_given(most)) {
            (true, false) => return Some((begins, ends.max(begins))),
            (false, true) => return Some((begins.min(ends), ends)),
            (true, true) | (false, false) => {}
        }
        if begins > ends {
            let at = section.at(first);
            let (begins, ends) = (show_duration(begins), show_duration(ends));
            let message = format!("`{first}` ({begins}) is longer than `{most}` ({ends})");
            self.findings.mistake(&at, message);
        }
        Some((begins, ends))
    }
}

fn starts_by_upgrade(cluster: &Section) -> bool {
    let tls = cluster.section("tls").filter(|_| cluster.is_given("tls"));
    tls.is_some_and(|tls| tls.text("start") != Some("direct"))
}

pub(super) fn retry_budget(connect: &Section) -> Option<budget::Settings> {
    let budget = connect.section("retry_budget")?;
    let min_per_second = f64::from(budget.integer("min_per_second")?);
    Some(budget::Settings { ratio: budget.ratio("ratio")?, min_per_second })
}
