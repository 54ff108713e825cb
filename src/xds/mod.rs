//! xDS, by which control planes of Envoy's family tell proxies what there is: the client's side of the delta ADS protocol, and what a
//! ClusterLoadAssignment means. Pure: bytes and moments go in, requests and changes come out; [`crate::discovery`] has the stream.
//!
//! It follows the protocol's description ("xDS REST and gRPC protocol" in Envoy's documentation) and gRFC A27, A46 and A88. Lacks all
//! types but endpoints (EDS), state-of-the-world requests, resource TTLs (a client has to ask for them), and `xdstp:` authorities.

mod client;
mod load_assignment;
mod message;
#[cfg(test)]
mod simulation;
mod wire;

pub(crate) use client::{XdsChange, XdsClient};
pub(crate) use load_assignment::LoadAssignment;
pub(crate) use message::{Locality, Node, Struct};
