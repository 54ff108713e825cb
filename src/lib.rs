//! ambassador: plaintext in on this host, TLS or mTLS out, in the protocol's own way.
//!
//! The path of a connection, each a function under one screen: `listener::serve` → `session::run` →
//! `upstream::dial` → `relay::relay`. docs/ARCHITECTURE.md has the map and the invariants; the numbers
//! below are the layers, and a module imports only from lower ones (`tests/tidy.rs`).

pub mod caller; // 0
pub mod clock; // 0
pub mod digest; // 0
pub mod escape; // 0
pub mod name; // 0
pub mod outcome; // 0
pub mod quantity; // 0
pub mod rsa; // 0
pub mod sync; // 0
pub mod sys; // 0

pub mod alarm; // 1
pub mod blocking; // 1
pub mod head; // 1, pure
pub mod policy; // 1, pure
pub mod protocol; // 1, pure

pub mod drain; // 2
pub mod metrics; // 2
pub mod tls; // 2
pub mod watch; // 2
pub mod workers; // 2

pub mod credentials; // 3
pub mod log; // 3
pub mod relay; // 3

pub mod downstream; // 4
pub mod upstream; // 4

pub mod session; // 5

pub mod admin; // 6
pub mod listener; // 6

pub mod config; // 7

pub mod daemon; // 8

pub mod cli; // 9
