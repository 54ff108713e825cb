//! Plays a scenario: every proxy with endpoints and clients of its own, all commanded at the same moments.
//!
//! Lacks evaluation: the observations go to `judge`.
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::interrupt;
use crate::judge::{Record, judge};
use crate::lane::{Entrant, Ground, Lane};
use crate::load::Diary;
use crate::names::Names;
use crate::scenario::{Naming, Scenario};
use crate::schedule::Event;
use crate::syns::{Syn, Syns};

/// For first health checks, and until all clients have their threads.
const SETTLING: Duration = Duration::from_millis(2500);

/// How often memory is read, and during a reload the processes.
const TICK: Duration = Duration::from_millis(500);

/// The observations of one lane, for the judge.
pub(crate) struct Seen<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) diary: &'a Diary,
    /// When the scenario began.
    pub(crate) began: Instant,
    /// `None` where they could not be counted.
    pub(crate) syns: Option<&'a [Syn]>,
    pub(crate) lane: &'a Lane<'a>,
    pub(crate) cpu: Duration,
    /// The largest growth of the proxy, in bytes.
    pub(crate) grown: u64,
}

/// The resources of a proxy between two moments.
struct Usage {
    cpu: Duration,
    memory: u64,
    peak: u64,
}

/// Troubles are proxies that did not start, or ended early.
pub(crate) struct Played {
    pub(crate) records: Vec<Record>,
    pub(crate) troubles: Vec<String>,
}

pub(crate) fn play(ground: &Ground, scenario: &Scenario, entrants: &[Entrant]) -> io::Result<Played> {
    let folder = ground.folder.join(scenario.name);
    std::fs::create_dir_all(&folder)?;
    let names = match scenario.shape.naming {
        Naming::Addresses => None,
        Naming::OneName | Naming::NameEach => Some(Names::serve(&folder)?),
    };
    let names = names.as_ref();
    let syns = Syns::watch().ok();
    let mut troubles = Vec::new();
    let mut lanes: Vec<Lane<'_>> = Vec::new();
    for (number, entrant) in (0..).zip(entrants.iter().filter(|entrant| entrant.variant.plays(scenario))) {
        match Lane::open(ground, scenario, entrant, number, names) {
            Ok(lane) => lanes.push(lane),
            Err(error) => troubles.push(format!("{} in {}: {error}", entrant.variant.name, scenario.name)),
        }
    }
    let began = Instant::now() + SETTLING;
    for lane in &mut lanes {
        lane.begin(began);
    }
    wait_until(began);
    let mut usage: Vec<Usage> = lanes.iter_mut().map(Usage::at_first).collect();
    let performed = perform(scenario, &mut lanes, &mut usage, began, names)?;
    for (lane, usage) in lanes.iter_mut().zip(&mut usage) {
        usage.cpu = lane.cpu().saturating_sub(usage.cpu);
        if lane.proxy_has_ended() && !interrupt::came() {
            troubles
                .push(format!("{} has ended in the midst of {}", lane.entrant.variant.name, scenario.name));
        }
    }
    let diaries: Vec<Diary> = lanes.iter_mut().map(Lane::finish).collect();
    let syns = syns.map(Syns::end);
    let scenario = &scenario.as_performed(performed);
    let seen = |(lane, (diary, usage)): (&Lane<'_>, (&Diary, &Usage))| {
        let (cpu, grown) = (usage.cpu, usage.peak.saturating_sub(usage.memory));
        judge(&Seen { scenario, diary, began, syns: syns.as_deref(), lane, cpu, grown })
    };
    let records = lanes.iter().zip(diaries.iter().zip(&usage)).map(seen).collect();
    Ok(Played { records, troubles })
}

/// Until the scenario is over, or the run is interrupted; returns the events with their times.
fn perform(
    scenario: &Scenario,
    lanes: &mut [Lane<'_>],
    usage: &mut [Usage],
    began: Instant,
    names: Option<&Names>,
) -> io::Result<Vec<Event>> {
    let mut performed = Vec::new();
    let mut events = scenario.events.iter().peekable();
    let end = began + scenario.lasts;
    let mut tick = began;
    while Instant::now() < end && !interrupt::came() {
        if let Some(event) = events.next_if(|event| Instant::now() >= began + event.at) {
            let at = began.elapsed();
            for lane in &mut *lanes {
                lane.act(&event.act, names)?;
            }
            performed.push(Event { at, act: event.act.clone() });
            continue;
        }
        if Instant::now() >= tick && (scenario.shape.reloads || scenario.shape.flood > 0) {
            for (lane, usage) in lanes.iter_mut().zip(&mut *usage) {
                usage.peak = usage.peak.max(lane.memory());
                // So that a process is read before it ends.
                lane.cpu();
            }
            // In the background: it must not delay the events.
            tick = Instant::now() + TICK;
        }
        let next = events.peek().map_or(end, |event| began + event.at);
        wait_until(next.min(tick.max(Instant::now() + Duration::from_millis(20))).min(end));
    }
    Ok(performed)
}

fn wait_until(moment: Instant) {
    sleep(moment.saturating_duration_since(Instant::now()));
}

impl Usage {
    fn at_first(lane: &mut Lane<'_>) -> Self {
        let memory = lane.memory();
        Self { cpu: lane.cpu(), memory, peak: memory }
    }
}
