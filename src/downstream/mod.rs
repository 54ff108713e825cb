//! The client's side before and instead of a relay: what a client that speaks first says, and how it is
//! told no. Who it is, and what context it passes, are not here yet.

mod opening;
mod refuse;

pub use opening::{NotOpened, introduce, read_opening};
pub use refuse::{answer_opening, refuse, welcome};
