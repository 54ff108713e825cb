//! Decisions about callers, endpoints and attempts. PURE: no tokio, socket, clock, entropy, log or metric; `now`
//! and the generator are arguments, so a seed replays a run.

pub mod admission;
pub mod ask_schedule;
pub mod backoff;
pub mod balance;
pub mod breaker;
pub mod budget;
pub mod caller_limits;
pub mod cluster_state;
pub mod credential_rotation;
pub mod drain_schedule;
pub mod eligibility;
pub mod endpoint_state;
pub mod ewma;
pub mod health;
pub mod hedge;
pub mod limits;
pub mod login_gate;
pub mod outlier;
pub mod placement;
pub mod queue;
pub mod refresh_schedule;
pub mod refusal_records;
pub mod retry;
pub mod sampling;
