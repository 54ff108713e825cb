//! Free ports, chosen before the program that is to listen starts.
//!
//! Lacks a reservation: before the program's own listen another process might take one.
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use super::socket;

pub(crate) struct Ports {
    next: u16,
}

impl Ports {
    /// Below the kernel's ephemeral ports, and apart from a second bench's.
    pub(crate) fn new() -> Self {
        Self { next: 20_000 + u16::try_from(std::process::id() % 8000).expect("below 8000") }
    }

    pub(crate) fn free(&mut self) -> io::Result<SocketAddr> {
        for _ in 0..1000 {
            let at = (Ipv4Addr::LOCALHOST, self.next).into();
            self.next = if self.next < 32_000 { self.next + 1 } else { 20_000 };
            if socket::listen(at).is_ok() {
                return Ok(at);
            }
        }
        Err(io::Error::other("no free port between 20000 and 32000"))
    }
}
