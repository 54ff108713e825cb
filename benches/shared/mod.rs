//! What the benches that start programs have in common: certificates, peers, processes, ports, sockets.
//!
//! Lacks a use of all of it by each bench.
pub(crate) mod brand;
pub(crate) mod cargo;
pub(crate) mod glob;
pub(crate) mod machine;
pub(crate) mod originate;
pub(crate) mod pinned;
pub(crate) mod pki;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod socket;
pub(crate) mod terminate;
