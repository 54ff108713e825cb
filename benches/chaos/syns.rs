//! First SYNs on loopback, from every process: the dials of a proxy and its health checks, including those to a dead
//! endpoint, which no server could count.
//!
//! A packet socket with a filter, which needs CAP_NET_RAW; without it dials are not counted, and the report says so.
//! Lacks IPv6, which is not used here.
use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::endpoint::FILLER;

/// The Ethernet header, which loopback has too.
const LINK: usize = 14;

const IPV4: u16 = 0x0800;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Syn {
    pub(crate) at: Instant,
    pub(crate) to: SocketAddr,
}

pub(crate) struct Syns {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Syn>>,
}

impl Syns {
    pub(crate) fn watch() -> io::Result<Self> {
        let socket = listen()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Ok(Self { stop, thread: thread::spawn(move || collect(socket, &stopped)) })
    }

    /// All SYNs since its start.
    pub(crate) fn end(self) -> Vec<Syn> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic")
    }
}

fn listen() -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(IPV4.to_be()))))?;
    socket.attach_filter(&FILTER)?;
    socket.set_recv_buffer_size(4 << 20)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}

/// TCP with SYN and without ACK: load the protocol, compare with 6; find the TCP header, load and mask its flags, compare
/// with SYN; 128 bytes, or nothing.
const FILTER: [SockFilter; 8] = [
    SockFilter::new(0x30, 0, 0, 23),
    SockFilter::new(0x15, 0, 5, 6),
    SockFilter::new(0xb1, 0, 0, 14),
    SockFilter::new(0x50, 0, 0, 27),
    SockFilter::new(0x54, 0, 0, 0x12),
    SockFilter::new(0x15, 0, 1, 2),
    SockFilter::new(0x06, 0, 0, 128),
    SockFilter::new(0x06, 0, 0, 0),
];

fn collect(mut socket: Socket, stop: &AtomicBool) -> Vec<Syn> {
    // A packet on loopback is seen twice, and a SYN without an answer is sent again.
    let mut known = BTreeSet::new();
    let mut syns = Vec::new();
    let mut packet = [0; 128];
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut packet) else { continue };
        let Some((from, to, ports)) = parse(&packet[..length]) else { continue };
        if from != FILLER && known.insert(ports) {
            syns.push(Syn { at: Instant::now(), to });
        }
    }
    syns
}

/// Source and destination; and both ports with the sequence number, which are the same in a retransmission.
fn parse(packet: &[u8]) -> Option<(Ipv4Addr, SocketAddr, [u8; 8])> {
    let ip = packet.get(LINK..)?;
    let address =
        |at: usize| -> Option<Ipv4Addr> { Some(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?.into()) };
    let header = usize::from(ip.first()? & 15) * 4;
    let ports: [u8; 8] = ip.get(header..header + 8)?.try_into().ok()?;
    let port = u16::from_be_bytes([ports[2], ports[3]]);
    Some((address(12)?, (address(16)?, port).into(), ports))
}
