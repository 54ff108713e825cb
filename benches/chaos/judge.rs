//! The results of a scenario for the clients of one proxy, in figures.
//!
//! Moments are seconds, as in the report. Lacks an opinion: that is `aims`, and the reader's.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::load::{Diary, Loss, Opening};
use crate::scenario::Scenario;
use crate::schedule::{Act, Window};
use crate::stage::Seen;

#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) scenario: &'static str,
    pub(crate) variant: String,
    /// Attempted sessions, long ones included.
    pub(crate) sessions: usize,
    /// Sessions that were not served.
    pub(crate) lost: usize,
    pub(crate) kinds: BTreeMap<&'static str, usize>,
    /// Lost sessions that were under way when an endpoint was killed: their bytes were sent, so no proxy can save
    /// them.
    pub(crate) caught: usize,
    /// Long sessions that ended before their time, and how.
    pub(crate) cut: usize,
    pub(crate) cut_kinds: BTreeMap<&'static str, usize>,
    /// Seconds of the scenario in which one was lost or cut.
    pub(crate) loss_seconds: usize,
    /// Times of the served openings, in milliseconds.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) max: Option<f64>,
    /// The longest wait of a client for a refusal, in milliseconds.
    pub(crate) lost_max: Option<f64>,
    /// The longest that a long session waited for an answer, in milliseconds.
    pub(crate) stall: f64,
    /// From the return of endpoints to the end of the last session that was begun later and lost before another fault;
    /// the worst of all returns.
    pub(crate) recovery: Option<f64>,
    /// From the return of an endpoint until it has served a session; one for each return, absent if it has not.
    pub(crate) reuse: Vec<Option<f64>>,
    /// SYNs to an endpoint while it was at fault; absent if they could not be counted.
    pub(crate) dead_dials: Option<usize>,
    /// Sessions that were begun while an endpoint was at fault.
    pub(crate) fault_sessions: usize,
    pub(crate) cpu: Duration,
    /// Growth in bytes, if it was measured.
    pub(crate) grown: u64,
    /// Bytes of the flood.
    pub(crate) sent: usize,
    /// Sessions that each endpoint has served.
    pub(crate) served: BTreeMap<usize, usize>,
    /// On changes of members or names: how long a removed one served new sessions, and how long until the new one did.
    pub(crate) stale: Option<f64>,
    pub(crate) joined: Option<f64>,
}

pub(crate) fn judge(seen: &Seen<'_>) -> Record {
    let Seen { scenario, diary, .. } = seen;
    let losses = || diary.openings.iter().filter_map(|each| Some((each, each.outcome.err()?)));
    let mut record = Record {
        scenario: scenario.name,
        variant: seen.lane.entrant.variant.name.clone(),
        sessions: diary.openings.len(),
        lost: losses().count(),
        caught: losses().filter(|(each, loss)| was_caught(seen, each, *loss)).count(),
        cut: diary.cuts.len(),
        loss_seconds: loss_seconds(diary),
        lost_max: losses().map(|(each, _)| each.took).max().map(millis),
        stall: millis(diary.stall),
        recovery: recovery(scenario, diary),
        reuse: reuse(scenario, diary),
        dead_dials: dead_dials(seen),
        fault_sessions: diary.openings.iter().filter(|each| is_covered(scenario, each.at)).count(),
        cpu: seen.cpu,
        grown: seen.grown,
        sent: diary.sent,
        ..Record::default()
    };
    for (_, loss) in losses() {
        *record.kinds.entry(loss.word()).or_default() += 1;
    }
    for cut in &diary.cuts {
        *record.cut_kinds.entry(cut.loss.word()).or_default() += 1;
    }
    for endpoint in diary.openings.iter().filter_map(|each| each.outcome.ok()) {
        *record.served.entry(endpoint).or_default() += 1;
    }
    let mut took: Vec<Duration> =
        diary.openings.iter().filter(|each| each.outcome.is_ok()).map(|each| each.took).collect();
    took.sort_unstable();
    let rank = |share: f64| {
        Some(millis(*took.get(((took.len() as f64 * share) as usize).min(took.len().checked_sub(1)?))?))
    };
    (record.p50, record.p99, record.max) = (rank(0.5), rank(0.99), rank(1.0));
    (record.stale, record.joined) = changes(scenario, diary);
    record
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn loss_seconds(diary: &Diary) -> usize {
    let lost = diary.openings.iter().filter(|each| each.outcome.is_err()).map(Opening::ended);
    let seconds: BTreeSet<u64> =
        lost.chain(diary.cuts.iter().map(|cut| cut.at)).map(|moment| moment.as_secs()).collect();
    seconds.len()
}

/// Begun before they were gone and over after they lived: the stage and its clients have the same clock. Losses that
/// could have another reason are left out: refusals, and errors of a proxy that found no endpoint.
fn was_caught(seen: &Seen<'_>, opening: &Opening, loss: Loss) -> bool {
    let (began, ended) = (seen.began + opening.at, seen.began + opening.ended());
    matches!(loss, Loss::Closed | Loss::Reset | Loss::Broken)
        && seen.lane.deaths.iter().any(|death| began <= death.to && death.from <= ended)
}

fn covers(window: &Window, moment: Duration) -> bool {
    window.from <= moment && window.to.is_none_or(|to| moment < to)
}

fn is_covered(scenario: &Scenario, moment: Duration) -> bool {
    scenario.windows.iter().any(|window| covers(window, moment))
}

/// Sessions begun after one return and over before the next fault.
fn recovery(scenario: &Scenario, diary: &Diary) -> Option<f64> {
    let returns: BTreeSet<Duration> = scenario.windows.iter().filter_map(|window| window.to).collect();
    let after = |back: Duration| {
        let next = scenario.windows.iter().map(|window| window.from).filter(|from| *from > back).min();
        let next = next.unwrap_or(scenario.lasts);
        let lost = diary
            .openings
            .iter()
            .filter(|each| each.outcome.is_err() && back < each.at && each.ended() < next);
        lost.map(|each| each.ended().saturating_sub(back).as_secs_f64()).fold(0.0, f64::max)
    };
    returns.into_iter().map(after).reduce(f64::max)
}

fn reuse(scenario: &Scenario, diary: &Diary) -> Vec<Option<f64>> {
    let after = |(endpoint, back): (usize, Duration)| {
        let served = diary.openings.iter().filter(|each| each.outcome == Ok(endpoint) && each.ended() > back);
        served.map(|each| each.ended().saturating_sub(back).as_secs_f64()).reduce(f64::min)
    };
    scenario
        .windows
        .iter()
        .filter_map(|window| Some((window.endpoint, window.to.filter(|to| *to < scenario.lasts)?)))
        .map(after)
        .collect()
}

fn dead_dials(seen: &Seen<'_>) -> Option<usize> {
    let is_dead_dial = |at: Duration, endpoint: usize| {
        seen.scenario.windows.iter().any(|window| window.endpoint == endpoint && covers(window, at))
    };
    let count = seen.syns?.iter().filter(|syn| {
        let endpoint = seen.lane.endpoints.iter().position(|endpoint| endpoint.at == syn.to);
        let at = syn.at.checked_duration_since(seen.began);
        at.zip(endpoint).is_some_and(|(at, endpoint)| is_dead_dial(at, endpoint))
    });
    Some(count.count())
}

/// Results for members that were removed or added, and for a name that moved.
fn changes(scenario: &Scenario, diary: &Diary) -> (Option<f64>, Option<f64>) {
    let mut members: BTreeSet<usize> = (0..scenario.shape.members).collect();
    let (mut stale, mut joined) = (None::<f64>, None::<f64>);
    let served = |endpoint: usize| diary.openings.iter().filter(move |each| each.outcome == Ok(endpoint));
    for event in &scenario.events {
        let next: BTreeSet<usize> = match &event.act {
            Act::Members(next) => next.iter().copied().collect(),
            Act::Rename(next) => BTreeSet::from([*next]),
            Act::Tell(..) => continue,
        };
        let later = scenario.events.iter().find(|other| other.at > event.at);
        let until = later.map_or(scenario.lasts, |later| later.at);
        for &gone in members.difference(&next) {
            let last = served(gone).map(|each| each.at).filter(|at| event.at < *at && *at < until).max();
            let late = last.map_or(0.0, |last| last.saturating_sub(event.at).as_secs_f64());
            stale = Some(stale.unwrap_or_default().max(late));
        }
        for &new in next.difference(&members) {
            let first = served(new).map(Opening::ended).find(|ended| *ended > event.at);
            let late = first.map_or(f64::INFINITY, |first| (first - event.at).as_secs_f64());
            joined = Some(joined.unwrap_or_default().max(late));
        }
        members = next;
    }
    (stale, joined)
}

impl Record {
    /// SYNs to endpoints at fault, for each thousand sessions begun meanwhile.
    pub(crate) fn dead_dials_per_1000(&self) -> Option<f64> {
        let dials = self.dead_dials? as f64;
        (self.fault_sessions > 0).then(|| dials * 1e3 / self.fault_sessions as f64)
    }

    /// Milliseconds of CPU per 1,000 sessions.
    pub(crate) fn cpu_per_1000(&self) -> Option<f64> {
        (self.sessions > 0).then(|| self.cpu.as_secs_f64() * 1e6 / self.sessions as f64)
    }
}
