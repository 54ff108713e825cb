//! One name and its addresses, from the last good answers. Pure.
//!
//! The two families are queried and kept separately: a failed query for one does not affect the other.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::query_result::QueryResult;
use crate::policy::refresh_schedule::RefreshSchedule;

/// The answers to the queries for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NameAnswer {
    pub(super) v4: FamilyAnswer,
    pub(super) v6: FamilyAnswer,
}

/// The answer to the query for one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FamilyAnswer {
    /// At least one address, and for how long.
    Found(Vec<IpAddr>, Duration),
    /// There is no address; the text says why.
    Absent(String),
    /// The query failed; the text says why.
    Failed(String),
    /// The query is in flight.
    Pending,
}

/// An address family, with a query of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// A name's addresses and the state of its queries.
#[derive(Debug)]
pub(super) struct KnownName {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
    pub(super) schedule: RefreshSchedule,
    /// Whether a query has ended, well or badly.
    pub(super) is_settled: bool,
    pub(super) succeeded: Option<Instant>,
    pub(super) error: Option<String>,
    /// Why each family's last query failed; while one is in flight, the result of the previous one.
    failed: [Option<String>; 2],
}

/// Most addresses of one name; the rest of a longer answer is left out.
pub(super) const ADDRESSES_MAX: usize = 256;

impl NameAnswer {
    pub(super) const fn of(family: Family, half: FamilyAnswer, other: FamilyAnswer) -> Self {
        match family {
            Family::V4 => Self { v4: half, v6: other },
            Family::V6 => Self { v4: other, v6: half },
        }
    }

    /// The reply with that family alone; the other becomes `Pending`.
    pub(super) fn only_of(self, family: Family) -> Self {
        let half = if family == Family::V4 { self.v4 } else { self.v6 };
        Self::of(family, half, FamilyAnswer::Pending)
    }

    pub(super) const fn has_found(&self) -> bool {
        matches!(self, Self { v4: FamilyAnswer::Found(..), .. } | Self { v6: FamilyAnswer::Found(..), .. })
    }

    /// Removes addresses that cannot be dialled from here: with `from`, those of the other family; else those that this
    /// host has no route to, unless it has a route to none of them (then the dial reports it).
    pub(super) fn usable(self, from: Option<IpAddr>, has_route: impl Fn(IpAddr) -> bool) -> Self {
        let Some(from) = from else {
            let is_reachable = self.addresses().any(|ip| has_route(*ip));
            return if is_reachable { self.only(has_route, "this host has no route to it") } else { self };
        };
        let (own, other) = if from.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        let words = format!("it has only {other} addresses, and `connect.local_address` is {own}");
        self.only(|ip| ip.is_ipv4() == from.is_ipv4(), &words)
    }

    /// The addresses, or why there are none.
    pub(super) fn found(&self) -> Result<Vec<IpAddr>, String> {
        self.judge().map(|_| self.addresses().copied().collect()).map_err(|(_, error)| error)
    }

    fn addresses(&self) -> impl Iterator<Item = &IpAddr> {
        [&self.v4, &self.v6].into_iter().flat_map(|half| match half {
            FamilyAnswer::Found(addresses, _) => &addresses[..],
            FamilyAnswer::Absent(_) | FamilyAnswer::Failed(_) | FamilyAnswer::Pending => &[],
        })
    }

    fn only(self, is_usable: impl Fn(IpAddr) -> bool, words: &str) -> Self {
        let keep = |half| match half {
            FamilyAnswer::Found(mut addresses, ttl) => {
                addresses.retain(|ip| is_usable(*ip));
                if addresses.is_empty() {
                    FamilyAnswer::Absent(words.to_owned())
                } else {
                    FamilyAnswer::Found(addresses, ttl)
                }
            }
            FamilyAnswer::Absent(_) | FamilyAnswer::Failed(_) | FamilyAnswer::Pending => half,
        };
        Self { v4: keep(self.v4), v6: keep(self.v6) }
    }

    /// For how long the reply holds, or why it has no addresses.
    fn judge(&self) -> Result<Duration, (QueryResult, String)> {
        match (&self.v4, &self.v6) {
            (FamilyAnswer::Found(_, one), FamilyAnswer::Found(_, other)) => Ok(*one.min(other)),
            (FamilyAnswer::Found(_, ttl), _) | (_, FamilyAnswer::Found(_, ttl)) => Ok(*ttl),
            (FamilyAnswer::Failed(words), _) | (_, FamilyAnswer::Failed(words)) => {
                Err((QueryResult::Failed, words.clone()))
            }
            // The longer text: the reason why addresses were left out is more useful than "there are none".
            (FamilyAnswer::Absent(v4), FamilyAnswer::Absent(v6)) => {
                Err((QueryResult::Negative, if v6.len() > v4.len() { v6 } else { v4 }.clone()))
            }
            (FamilyAnswer::Absent(words), FamilyAnswer::Pending)
            | (FamilyAnswer::Pending, FamilyAnswer::Absent(words)) => {
                Err((QueryResult::Negative, words.clone()))
            }
            (FamilyAnswer::Pending, FamilyAnswer::Pending) => {
                Err((QueryResult::Failed, "nobody was asked".into()))
            }
        }
    }
}

impl KnownName {
    pub(super) const fn new(now: Instant) -> Self {
        let schedule = RefreshSchedule::new(now);
        let failed = [None, None];
        Self {
            v4: Vec::new(),
            v6: Vec::new(),
            schedule,
            is_settled: false,
            succeeded: None,
            error: None,
            failed,
        }
    }

    /// Takes in a reply. If either family has addresses, each family's answer replaces what was known unless its query
    /// failed. If neither has, everything is kept: NXDOMAIN may be an operator's mistake, and is no better evidence
    /// than a failed query.
    pub(super) fn learn(&mut self, reply: NameAnswer, now: Instant, rng: &mut Rng) -> QueryResult {
        self.is_settled = true;
        match reply.judge() {
            Ok(ttl) => {
                self.take(reply);
                self.succeeded = Some(now);
                self.schedule.record_answer(now, ttl, rng);
                QueryResult::Good
            }
            Err((answer, words)) => {
                self.error = Some(words);
                let has_something = self.addresses().next().is_some();
                self.schedule.record_failure(now, has_something, rng);
                answer
            }
        }
    }

    /// Takes in the family whose answer came after the other one's, which had addresses.
    pub(super) fn learn_late(&mut self, reply: NameAnswer, now: Instant) {
        if let Ok(ttl) = reply.judge() {
            self.schedule.shorten(now, ttl);
        }
        self.take(reply);
    }

    fn take(&mut self, reply: NameAnswer) {
        let known = [&mut self.v4, &mut self.v6].into_iter().zip(&mut self.failed);
        known.zip([reply.v4, reply.v6]).for_each(|((known, failed), half)| replace(known, failed, half));
        self.error = self.failed.iter().flatten().last().cloned();
    }

    /// IPv4 first.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.iter().chain(&self.v6).copied()
    }

    /// One host with an address of each family.
    pub(super) fn pair(&self) -> Option<(IpAddr, IpAddr)> {
        match (&self.v4[..], &self.v6[..]) {
            ([v4], [v6]) => Some((*v4, *v6)),
            _ => None,
        }
    }
}

fn replace(known: &mut Vec<IpAddr>, failed: &mut Option<String>, half: FamilyAnswer) {
    *failed = match half {
        FamilyAnswer::Found(mut addresses, _) => {
            // Servers rotate their answers; the order means nothing.
            addresses.sort();
            addresses.dedup();
            addresses.truncate(ADDRESSES_MAX);
            *known = addresses;
            None
        }
        FamilyAnswer::Absent(_) => {
            known.clear();
            None
        }
        FamilyAnswer::Failed(words) => Some(words),
        FamilyAnswer::Pending => return,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn found(addresses: &[&str]) -> FamilyAnswer {
        FamilyAnswer::Found(addresses.iter().map(|ip| ip.parse().unwrap()).collect(), TTL)
    }

    fn absent() -> FamilyAnswer {
        FamilyAnswer::Absent("no address".into())
    }

    fn failed() -> FamilyAnswer {
        FamilyAnswer::Failed("no answer".into())
    }

    /// What is known after these replies, one a second.
    fn known(replies: Vec<(FamilyAnswer, FamilyAnswer)>) -> (KnownName, Vec<QueryResult>) {
        let (mut now, mut rng) = (crate::clock::now(), Rng::with_seed(3));
        let mut known = KnownName::new(now);
        let mut learn = |(v4, v6)| {
            now += Duration::from_secs(1);
            known.learn(NameAnswer { v4, v6 }, now, &mut rng)
        };
        let answers = replies.into_iter().map(&mut learn).collect();
        (known, answers)
    }

    fn check(replies: Vec<(FamilyAnswer, FamilyAnswer)>, expected: &[&str], answer: QueryResult) {
        let (known, answers) = known(replies);
        let addresses: Vec<_> = known.addresses().map(|ip| ip.to_string()).collect();
        assert_eq!(
            (&addresses[..], answers.last()),
            (&expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..], Some(&answer))
        );
        assert!(known.is_settled);
    }

    #[test]
    fn good_answers_replace_and_others_leave_what_is_known() {
        let one = || found(&["10.0.0.1"]);
        let six = || found(&["fd00::1"]);
        check(vec![(one(), absent())], &["10.0.0.1"], QueryResult::Good);
        check(vec![(one(), six())], &["10.0.0.1", "fd00::1"], QueryResult::Good);
        check(vec![(one(), absent()), (found(&["10.0.0.2"]), absent())], &["10.0.0.2"], QueryResult::Good);
        check(vec![(one(), six()), (one(), absent())], &["10.0.0.1"], QueryResult::Good);
        check(vec![(one(), six()), (one(), failed())], &["10.0.0.1", "fd00::1"], QueryResult::Good);
        check(
            vec![(one(), six()), (failed(), found(&["fd00::2"]))],
            &["10.0.0.1", "fd00::2"],
            QueryResult::Good,
        );
        check(vec![(one(), six()), (absent(), absent())], &["10.0.0.1", "fd00::1"], QueryResult::Negative);
        check(vec![(one(), six()), (absent(), failed())], &["10.0.0.1", "fd00::1"], QueryResult::Failed);
        check(vec![(failed(), failed())], &[], QueryResult::Failed);
        check(vec![(absent(), absent())], &[], QueryResult::Negative);
    }

    #[test]
    fn the_order_of_an_answer_means_nothing_and_its_length_is_bounded() {
        check(
            vec![(found(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]), absent())],
            &["10.0.0.1", "10.0.0.2"],
            QueryResult::Good,
        );
        let many = (0..1000_u32).map(|index| IpAddr::from(index.to_be_bytes())).collect();
        let (known, _) = known(vec![(FamilyAnswer::Found(many, TTL), absent())]);
        assert_eq!(known.addresses().count(), ADDRESSES_MAX);
    }

    #[test]
    fn the_error_is_shown_until_all_is_well_again() {
        let error = |replies| known(replies).0.error;
        assert_eq!(error(vec![(found(&["10.0.0.1"]), absent())]), None);
        assert_eq!(error(vec![(found(&["10.0.0.1"]), failed())]).as_deref(), Some("no answer"));
        assert_eq!(error(vec![(failed(), failed()), (found(&["10.0.0.1"]), absent())]), None);
    }

    /// A server that never answers AAAA queries: each answer for IPv4 counts when it comes.
    #[test]
    fn what_comes_late_changes_only_its_own_half() {
        let (now, mut rng) = (crate::clock::now(), Rng::with_seed(3));
        let mut known = KnownName::new(now);
        let shown =
            |known: &KnownName| known.addresses().map(|ip| ip.to_string()).collect::<Vec<_>>().join(" ");
        let early = |known: &mut KnownName, rng: &mut Rng| {
            known.learn(NameAnswer { v4: found(&["10.0.0.1"]), v6: FamilyAnswer::Pending }, now, rng)
        };
        assert_eq!(early(&mut known, &mut rng), QueryResult::Good);
        assert_eq!((shown(&known), known.error.as_deref()), ("10.0.0.1".into(), None));
        known.learn_late(NameAnswer { v4: FamilyAnswer::Pending, v6: failed() }, now);
        assert_eq!((shown(&known), known.error.as_deref()), ("10.0.0.1".into(), Some("no answer")));
        assert_eq!(early(&mut known, &mut rng), QueryResult::Good);
        assert_eq!(known.error.as_deref(), Some("no answer"), "it has not come meanwhile");
        let due = known.schedule.due();
        let soon = FamilyAnswer::Found(vec!["fd00::1".parse().unwrap()], Duration::from_secs(5));
        known.learn_late(NameAnswer { v4: FamilyAnswer::Pending, v6: soon }, now);
        assert_eq!((shown(&known), known.error.as_deref()), ("10.0.0.1 fd00::1".into(), None));
        assert!(known.schedule.due() < due, "the shorter TTL counts");
        known.learn_late(NameAnswer { v4: FamilyAnswer::Pending, v6: absent() }, now);
        assert_eq!(shown(&known), "10.0.0.1");
    }

    #[test]
    fn a_pair_is_one_address_of_each_family() {
        let pair = |v4, v6| known(vec![(v4, v6)]).0.pair().is_some();
        assert!(pair(found(&["10.0.0.1"]), found(&["fd00::1"])));
        assert!(!pair(found(&["10.0.0.1", "10.0.0.2"]), found(&["fd00::1"])));
        assert!(!pair(found(&["10.0.0.1"]), absent()));
    }

    #[test]
    fn what_cannot_be_dialled_from_here_is_left_out() {
        let both = || NameAnswer { v4: found(&["10.0.0.1"]), v6: found(&["fd00::1"]) };
        let only = |reply: NameAnswer| reply.addresses().map(ToString::to_string).collect::<Vec<_>>();
        let (v4, v6): (IpAddr, IpAddr) = ("10.9.9.9".parse().unwrap(), "fd00::9".parse().unwrap());
        assert_eq!(only(both().usable(Some(v4), |_| true)), ["10.0.0.1"]);
        assert_eq!(only(both().usable(Some(v6), |_| true)), ["fd00::1"]);
        assert_eq!(only(both().usable(None, |ip| ip.is_ipv4())), ["10.0.0.1"]);
        assert_eq!(only(both().usable(None, |_| false)).len(), 2, "the dial says why");
        let six = NameAnswer { v4: absent(), v6: found(&["fd00::1"]) };
        let (_, words) = six.usable(Some(v4), |_| true).judge().unwrap_err();
        assert!(words.contains("only IPv6 addresses") && words.contains("local_address"), "{words}");
    }
}
