//! The aims that a quick run checks, scenario by scenario, of ambassador alone.
//!
//! Lacks aims for figures of time that a busy machine moves: opening, CPU.
use crate::judge::Record;

/// A bound for one scenario; an absent bound is not checked.
struct Aim {
    scenario: &'static str,
    /// Lost sessions per thousand, beside those that were under way when their endpoint was killed.
    lost: Option<usize>,
    /// Seconds from a return to the last loss.
    recovery: Option<f64>,
    /// Seconds from a return until the endpoint is used.
    reuse: Option<f64>,
}

const fn aim(scenario: &'static str, lost: Option<usize>, recovery: Option<f64>, reuse: Option<f64>) -> Aim {
    Aim { scenario, lost, recovery, reuse }
}

/// While all endpoints are dead a session waits; while one lives, none has to be lost.
const AIMS: [Aim; 9] = [
    aim("kill", Some(0), Some(0.0), None),
    aim("often", Some(0), Some(0.0), None),
    aim("five", Some(0), Some(0.0), None),
    aim("pairs", Some(0), Some(0.0), None),
    aim("flap", Some(0), None, None),
    aim("alldown", None, Some(1.0), Some(5.0)),
    aim("rst", Some(0), None, None),
    aim("wrongcert", Some(0), None, None),
    aim("postgres", Some(0), Some(0.0), None),
];

/// The scenarios that have an aim.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    AIMS.iter().map(|aim| aim.scenario)
}

/// The missed aims, in words.
pub(crate) fn missed(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .flat_map(|record| {
            AIMS.iter().filter(|aim| aim.scenario == record.scenario).flat_map(|aim| aim.judge(record))
        })
        .collect()
}

impl Aim {
    fn judge(&self, record: &Record) -> Vec<String> {
        let mut missed = Vec::new();
        let who = format!("{} in {}", record.variant, record.scenario);
        let served = record.sessions - record.lost;
        if served == 0 {
            missed.push(format!("{who}: served nobody"));
        }
        if let Some(most) = self.lost
            && (record.lost - record.caught) * 1000 > most * record.sessions
        {
            let kinds: Vec<String> =
                record.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            missed.push(format!(
                "{who}: lost {} of {} sessions ({})",
                record.lost,
                record.sessions,
                kinds.join(", ")
            ));
        }
        if let (Some(most), Some(took)) = (self.recovery, record.recovery)
            && took > most
        {
            missed.push(format!(
                "{who}: still lost sessions {took:.1} s after endpoints came back, not {most:.1} s"
            ));
        }
        if let Some(most) = self.reuse {
            match record.reuse.iter().copied().collect::<Option<Vec<f64>>>() {
                None => missed.push(format!("{who}: an endpoint that came back was never used again")),
                Some(all) => match all.into_iter().reduce(f64::max) {
                    Some(took) if took > most => {
                        missed.push(format!(
                            "{who}: used an endpoint {took:.1} s after it came back, not {most:.1} s"
                        ));
                    }
                    _ => {}
                },
            }
        }
        missed
    }
}
