//! Common parts of the benches that start programs: certificates, peers, processes, ports, sockets.
//!
//! Not every bench uses all of it.
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
