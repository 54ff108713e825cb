//! `micro`: the time of one decision, one step of the relay and one step of a dialogue.
//!
//! Time on shared cores is a hint for the author of a change to these functions, never a gate: `benches/instructions`
//! is the gate. Tests run each of these once, so that they cannot rot.
#![forbid(unsafe_code)]

mod callers;
mod dialogue;
mod pick;
mod relay;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    pick::bench(&mut criterion);
    relay::bench(&mut criterion);
    dialogue::bench(&mut criterion);
    callers::bench(&mut criterion);
    criterion.final_summary();
}
