//! Where a cluster's endpoints come from, when not all of them are addresses in the configuration: host names, an SRV record,
//! or a file. [`follow`] is the task that finds them and keeps them true.
//!
//! The modules but `resolver`, `servers`, `file`, `own` and [`follow`] are pure. Lacks what becomes of sessions when endpoints go: that is
//! the cluster's.

mod file;
mod follow;
mod membership;
mod name;
mod own;
mod report;
mod resolv_conf;
mod resolver;
mod servers;
mod srv;
mod target;

pub use follow::{Means, follow, settle};
pub use membership::literal;
pub use own::{Entrance, Meeting, OwnAddresses, Ways};
pub(super) use report::Board;
pub use report::{Answer, Origin, OriginKind, Report};
pub use resolver::Resolver;
pub use target::{EndpointsFile, Parse, Service, Source, Target};
