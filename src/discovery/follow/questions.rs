//! The questions to name servers that are due, and their answers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::Id;

use super::Following;
use crate::cluster::{OriginKind, SrvService};
use crate::discovery::name::{Family, FamilyAnswer, NameAnswer};
use crate::discovery::query_result::QueryResult;
use crate::discovery::resolver::{Late, NoAnswer, Resolver};
use crate::discovery::srv::{self, SrvRecord};
use crate::policy::refresh_schedule::RefreshSchedule;
use crate::{clock, sys};

/// Queries in flight at once, for one cluster. The others wait for a free place, and the one overdue longest goes
/// first: names that are never answered do not starve the others.
const IN_FLIGHT_MAX: usize = 16;
/// Queries in flight beside those, for one family of names whose other family is known.
const LATE_MAX: usize = 64;

/// The SRV record to query, and its state.
pub(super) struct Asking {
    pub(super) service: SrvService,
    pub(super) schedule: RefreshSchedule,
    pub(super) is_settled: bool,
    pub(super) succeeded: Option<Instant>,
    pub(super) error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Question {
    Service,
    Name(String),
    /// The family of a name whose answer comes after the other family's.
    Late(String, Family),
}

pub(super) enum Answer {
    Service(Result<(Vec<SrvRecord>, Duration), NoAnswer>),
    Name(NameAnswer, Option<(Family, Late)>),
    Late(NameAnswer),
}

impl Following {
    /// The periodic queries, with their schedules.
    fn schedules(&mut self) -> impl Iterator<Item = (Question, &mut RefreshSchedule)> {
        let service = self.service.as_mut().map(|asking| (Question::Service, &mut asking.schedule));
        let names = self.names.iter_mut();
        service
            .into_iter()
            .chain(names.map(|(name, known)| (Question::Name(name.clone()), &mut known.schedule)))
    }

    /// When the next query is due. `None`: there is none, or no room until an answer comes.
    pub(super) fn due(&mut self) -> Option<Instant> {
        if !self.has_room() {
            return None;
        }
        let asked: BTreeSet<_> = self.in_flight.keys().cloned().collect();
        self.schedules()
            .filter(|(question, _)| !asked.contains(question))
            .map(|(_, schedule)| schedule.due())
            .min()
    }

    /// Whether another query may be sent. Queries that wait for a late family do not count, up to `LATE_MAX`.
    fn has_room(&self) -> bool {
        let late = self.in_flight.keys().filter(|question| matches!(question, Question::Late(..))).count();
        self.questions.len() - late.min(LATE_MAX) < IN_FLIGHT_MAX
    }

    /// The family of that name that is known while the query for the other one is in flight.
    fn known_family(&self, name: &str) -> Option<Family> {
        let is_late =
            |family: &Family| self.in_flight.contains_key(&Question::Late(name.to_owned(), *family));
        [Family::V4, Family::V6].into_iter().find(is_late).map(Family::other)
    }

    pub(super) fn hurry(&mut self) {
        let now = clock::now();
        self.schedules().for_each(|(_, schedule)| schedule.expedite(now));
    }

    pub(super) fn ask(&mut self) {
        let now = clock::now();
        let mut due: Vec<_> = self
            .schedules()
            .map(|(question, schedule)| (schedule.due(), question))
            .filter(|(due, _)| *due <= now)
            .collect();
        due.sort_unstable();
        for (_, question) in due {
            if !self.has_room() {
                break;
            }
            if self.in_flight.contains_key(&question) {
                continue;
            }
            let resolver = Arc::clone(&self.services.resolver);
            let from = self.cluster.settings().dial.local_address;
            let asked = question.clone();
            let asking = match (&question, &self.service) {
                (Question::Name(name), _) => {
                    self.questions.spawn(answer(resolver, name.clone(), self.known_family(name), from))
                }
                (_, Some(asking)) => {
                    let name = asking.service.name.clone();
                    let asking = async move { Answer::Service(resolver.service(&name).await) };
                    self.questions.spawn(async move { (asked, asking.await) })
                }
                (_, None) => continue,
            };
            self.in_flight.insert(question, asking.id());
        }
    }

    /// A query's task has panicked. It counts as a failed query, and is retried as one.
    pub(super) fn fail_lost(&mut self, task: Id) {
        let Some(question) =
            self.in_flight.iter().find(|(_, asking)| **asking == task).map(|(one, _)| one.clone())
        else {
            return;
        };
        let error = String::from("ambassador itself failed while it asked");
        let answered = match &question {
            Question::Service => Answer::Service(Err(NoAnswer::Failed(error))),
            Question::Name(_) => Answer::Name(
                NameAnswer { v4: FamilyAnswer::Failed(error.clone()), v6: FamilyAnswer::Failed(error) },
                None,
            ),
            Question::Late(_, family) => {
                Answer::Late(NameAnswer::of(*family, FamilyAnswer::Failed(error), FamilyAnswer::Pending))
            }
        };
        self.take_answer(question, answered);
    }

    pub(super) fn take_answer(&mut self, question: Question, answered: Answer) {
        self.in_flight.remove(&question);
        let now = clock::now();
        match (question, answered) {
            (Question::Name(name), Answer::Name(reply, late)) => {
                self.take_name_answer(&name, reply, now);
                if let Some((family, late)) = late {
                    self.wait_for(name, family, late);
                }
            }
            (Question::Late(name, _), Answer::Late(reply)) => self.take_late_answer(&name, reply, now),
            (_, Answer::Service(answered)) => self.take_service_answer(answered, now),
            (_, Answer::Name(..) | Answer::Late(_)) => {}
        }
    }

    fn take_name_answer(&mut self, name: &str, reply: NameAnswer, now: Instant) {
        let Some(known) = self.names.get_mut(name) else { return };
        let before = known.error.is_some();
        let answer = known.learn(reply, now, &mut self.rng);
        let found = known.addresses().count();
        let error = known.error.clone();
        self.record_answer(answer, OriginKind::Name, name, before, error, found);
    }

    fn wait_for(&mut self, name: String, family: Family, late: Late) {
        let question = Question::Late(name, family);
        let from = self.cluster.settings().dial.local_address;
        let asked = question.clone();
        let waiting = self.questions.spawn(async move {
            let reply = late.await.usable(from, sys::has_route).only_of(family);
            (asked, Answer::Late(reply))
        });
        self.in_flight.insert(question, waiting.id());
    }

    fn take_late_answer(&mut self, name: &str, reply: NameAnswer, now: Instant) {
        let Some(known) = self.names.get_mut(name) else { return };
        let before = known.error.is_some();
        known.learn_late(reply, now);
        let found = known.addresses().count();
        let error = known.error.clone();
        self.log_change(OriginKind::Name, name, before, error, found);
    }

    fn take_service_answer(&mut self, answered: Result<(Vec<SrvRecord>, Duration), NoAnswer>, now: Instant) {
        let Some(asking) = &mut self.service else { return };
        let before = asking.error.is_some();
        asking.is_settled = true;
        let has_something = !self.targets.is_empty();
        let judged = match answered {
            Ok((records, ttl)) => srv::targets(&asking.service, records)
                .map(|targets| (targets, ttl))
                .map_err(|error| (QueryResult::Negative, error)),
            Err(NoAnswer::Absent(error) | NoAnswer::NoSuchName(error)) => Err((QueryResult::Negative, error)),
            Err(NoAnswer::Failed(error)) => Err((QueryResult::Failed, error)),
        };
        let (name, mut targets) = (asking.service.name.clone(), None);
        let answer = match judged {
            Ok((found, ttl)) => {
                asking.schedule.record_answer(now, ttl, &mut self.rng);
                (asking.succeeded, asking.error) = (Some(now), None);
                targets = Some(found);
                QueryResult::Good
            }
            Err((answer, error)) => {
                asking.schedule.record_failure(now, has_something, &mut self.rng);
                asking.error = Some(error);
                answer
            }
        };
        let error = asking.error.clone();
        if let Some(targets) = targets {
            self.take(targets);
        }
        self.record_answer(answer, OriginKind::Service, &name, before, error, self.targets.len());
    }
}

impl Asking {
    pub(super) fn new(service: SrvService) -> Self {
        let schedule = RefreshSchedule::new(clock::now());
        Self { service, schedule, is_settled: false, succeeded: None, error: None }
    }
}

/// Resolves a name; with `only`, that family alone, because the query for the other one is in flight.
async fn answer(
    resolver: Arc<Resolver>,
    name: String,
    only: Option<Family>,
    from: Option<IpAddr>,
) -> (Question, Answer) {
    let answered = resolver.addresses(&name, only).await;
    let reply = answered.reply.usable(from, sys::has_route);
    let answered = match answered.late {
        // The usable addresses may be in the late answer.
        Some((_, late)) if !reply.has_found() => Answer::Name(late.await.usable(from, sys::has_route), None),
        late => Answer::Name(reply, late),
    };
    (Question::Name(name), answered)
}
