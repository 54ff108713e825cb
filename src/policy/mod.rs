//! Decisions about callers, endpoints and attempts. PURE: no tokio, socket, clock, entropy, log or metric; `now`
//! and the generator are arguments, so a seed replays a run.

pub mod admission;
pub mod balance;
pub mod breaker;
pub mod budget;
pub mod eligibility;
pub mod ewma;
pub mod flood;
pub mod health;
pub mod hedge;
pub mod limits;
pub mod outlier;
pub mod queue;
pub mod refresh;
pub mod retry;
pub mod roster;
pub mod rotation;
pub mod sampling;
pub mod shares;
pub mod slot;
pub mod winding;
