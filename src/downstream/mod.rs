//! The client's side before and instead of a relay: what a client that speaks first says, and how it is
//! told no; and who it is. What context it passes is not here yet.

mod caller;
mod census;
mod head;
mod hierarchy;
mod opening;
mod refuse;

pub use caller::{Identified, Question, Stranger, identify};
pub use census::Census;
pub use head::{NoHead, read_head};
pub use opening::{NotOpened, Patience, introduce, read_opening};
pub use refuse::{answer_opening, refuse, say, welcome};
