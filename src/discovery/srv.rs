//! Makes targets of an SRV answer. Pure.

use rustls::pki_types::ServerName;

use crate::cluster::{Address, Host, SrvService, Target};

/// One record of an answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SrvRecord {
    pub(super) priority: u16,
    /// Absolute, with its final dot.
    pub(super) target: String,
    pub(super) port: u16,
    pub(super) weight: u16,
}

/// The targets, by priority; always in the same order for the same records.
pub(super) fn targets(service: &SrvService, mut records: Vec<SrvRecord>) -> Result<Vec<Target>, String> {
    records.retain(|record| record.port > 0 && record.target != ".");
    records.sort();
    records.dedup();
    let mut first_left_out = None;
    let mut targets = Vec::new();
    for record in &records {
        if service.own_domain_only && !is_within(&record.target, domain(&service.name)) {
            first_left_out = first_left_out.or(Some(&record.target));
            continue;
        }
        let host = record.target.trim_end_matches('.');
        let own = ServerName::try_from(host.to_owned()).ok();
        let Some(server_name) = service.server_name.clone().or(own) else { continue };
        targets.push(Target {
            address: Address { host: Host::Name(record.target.clone()), port: record.port },
            weight: u32::from(record.weight).max(1),
            priority: u32::from(record.priority),
            server_name,
        });
    }
    match (targets.is_empty(), first_left_out) {
        (false, _) => Ok(targets),
        (true, Some(target)) => Err(format!(
            "{} is outside {}: whoever forges an answer could name a server of his own; set tls.server_name",
            target.trim_end_matches('.'),
            domain(&service.name)
        )),
        (true, None) => Err("the answer says that nobody offers the service".into()),
    }
}

/// `example.com` of `_postgresql._tcp.example.com`.
fn domain(service: &str) -> &str {
    let mut rest = service.trim_end_matches('.');
    while let Some((label, behind)) = rest.split_once('.')
        && label.starts_with('_')
    {
        rest = behind;
    }
    rest
}

fn is_within(target: &str, domain: &str) -> bool {
    let (target, domain) = (target.trim_end_matches('.').to_lowercase(), domain.to_lowercase());
    target.strip_suffix(&domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(priority: u16, weight: u16, target: &str) -> SrvRecord {
        SrvRecord { priority, weight, port: 5432, target: target.into() }
    }

    fn service(own_domain_only: bool) -> SrvService {
        SrvService { name: "_postgresql._tcp.example.com".into(), server_name: None, own_domain_only }
    }

    fn named(targets: &[Target]) -> Vec<(String, u32)> {
        targets.iter().map(|target| (target.address.to_string(), target.weight)).collect()
    }

    #[test]
    fn priorities_are_kept_and_the_order_is_never_that_of_the_answer() {
        let names = ["c.example.com.", "b.example.com.", "a.example.com."];
        let records = [record(10, 5, names[0]), record(0, 5, names[1]), record(0, 5, names[2])];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let answer = order.map(|index: usize| records[index].clone()).to_vec();
            let found = targets(&service(false), answer).unwrap();
            let found: Vec<_> =
                found.iter().map(|target| (target.address.to_string(), target.priority)).collect();
            let of = |name: &str, priority| (format!("{name}:5432"), priority);
            assert_eq!(found, [of(names[2], 0), of(names[1], 0), of(names[0], 10)]);
        }
    }

    /// RFC 2782: among records whose weights sum up to s, one of weight 0 is selected once in s + 1 times.
    #[test]
    fn a_weight_of_0_is_a_small_share_and_not_none() {
        let answer = vec![record(0, 0, "a.example.com."), record(0, 99, "b.example.com.")];
        let weights: Vec<_> =
            targets(&service(false), answer).unwrap().iter().map(|target| target.weight).collect();
        assert_eq!(weights, [1, 99]);
    }

    #[test]
    fn repeated_records_and_those_that_lead_nowhere_do_not_count() {
        let mut portless = record(0, 1, "c.example.com.");
        portless.port = 0;
        let answer =
            vec![record(0, 1, "a.example.com."), record(0, 1, "a.example.com."), portless, record(0, 0, ".")];
        assert_eq!(named(&targets(&service(false), answer).unwrap()), [("a.example.com.:5432".into(), 1)]);
    }

    #[test]
    fn a_service_that_nobody_offers_says_so() {
        assert!(targets(&service(false), vec![record(0, 0, ".")]).unwrap_err().contains("nobody offers"));
        assert!(targets(&service(false), vec![]).unwrap_err().contains("nobody offers"));
    }

    #[test]
    fn the_name_for_tls_is_the_target_without_its_dot_unless_one_is_given() {
        let answer = || vec![record(0, 1, "a.example.com.")];
        let own = targets(&service(true), answer()).unwrap();
        assert_eq!(own[0].server_name, ServerName::try_from("a.example.com").unwrap());
        let given = ServerName::try_from("db").unwrap();
        let service = SrvService { server_name: Some(given.clone()), ..service(false) };
        assert_eq!(targets(&service, answer()).unwrap()[0].server_name, given);
    }

    #[test]
    fn a_forged_answer_cannot_name_a_server_of_another_domain() {
        let answer = |target: &str| vec![record(0, 1, target)];
        for inside in ["a.example.com.", "A.B.EXAMPLE.com.", "example.com."] {
            assert!(targets(&service(true), answer(inside)).is_ok(), "{inside}");
        }
        for outside in ["a.example.org.", "badexample.com.", "com.", "example.com.evil.org."] {
            let words = targets(&service(true), answer(outside)).unwrap_err();
            assert!(words.contains("outside example.com") && words.contains("tls.server_name"), "{words}");
            assert!(targets(&service(false), answer(outside)).is_ok(), "{outside}");
        }
    }
}
