//! ambassador: plaintext in on this host, TLS or mTLS out, in the protocol's own way.
//!
//! The path of a connection, each a function under one screen: `listener::serve` → `session::run` →
//! `dial::dial` → `relay::relay`. docs/ARCHITECTURE.md has the map and the invariants; the numbers
//! below are the layers, and a module imports only from lower ones (`tests/tidy.rs`).

mod caller; // 0
mod clock; // 0
mod digest; // 0
mod escape; // 0
mod name; // 0
mod nonce;
mod outcome; // 0
mod quantity; // 0
mod rsa; // 0
mod sync; // 0
mod sys; // 0

mod alarm; // 1
mod blocking; // 1
mod head; // 1, pure
mod policy; // 1, pure
mod protocol;
mod xds; // 1 // 1, pure

mod drain; // 2
mod metrics; // 2
mod tls; // 2
mod watch; // 2
mod workers; // 2

mod http; // 3

mod credentials; // 4
mod log; // 4
mod relay; // 4

mod cluster; // 5
mod downstream; // 5

mod dial; // 6
mod discovery; // 6

mod health; // 7
mod session; // 7

mod admin; // 8
mod listener; // 8

mod config; // 9

mod daemon; // 10

pub mod cli; // 11

/// For this package's own benches, simulation and fuzz targets only; it changes without notice.
#[doc(hidden)]
pub mod internals {
    pub use crate::config::Config;
    pub use crate::drain::Drain;

    pub mod alarm {
        pub use crate::alarm::*;
    }
    pub mod clock {
        pub use crate::clock::*;
    }
    pub mod head {
        pub use crate::head::{HeadReader, Progress};
        pub mod connect {
            pub use crate::head::connect::RequestReader;
        }
        pub mod proxy {
            pub use crate::head::proxy::*;
        }
    }
    pub mod policy {
        pub use crate::policy::*;
    }
    pub mod protocol {
        pub use crate::protocol::*;
    }
    pub mod relay {
        pub use crate::relay::*;
    }
    pub mod sys {
        pub use crate::sys::{
            Bind, ConnectTarget, ListeningSocket, LocalAddress, Options, Socket, Transport, socket_owner,
        };
    }
    pub mod workers {
        pub use crate::workers::*;
    }
}
