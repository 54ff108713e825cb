//! Finds the owner of a TCP socket of this host (sock_diag(7)): one request for one 4-tuple, one answer, by two system
//! calls. Never a dump of all sockets.
//!
//! Only our own network namespace is asked. Whether the owner can be trusted is not decided here, but there is only an
//! answer for a socket with exactly that 4-tuple that has been connected and still has a process: the kernel also
//! reports listeners on that port, and earlier connections in TIME_WAIT, as root's.

use std::cell::OnceCell;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recvfrom, send, socket_with,
};

/// The owner of a socket, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketOwner {
    /// The user who made it, which need not be the one who uses it now.
    pub uid: u32,
    /// The id of the control group (of the unified hierarchy) in which it was made.
    pub cgroup: Option<u64>,
}

/// The owner of the TCP socket that is bound to `local` and connected to `remote`; `None` if this network namespace
/// has no such socket, or no process has it open any more.
///
/// # Errors
/// When the kernel does not answer such requests, or not ours.
pub fn socket_owner(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<SocketOwner>> {
    thread_local! {
        static CHANNEL: OnceCell<Channel> = const { OnceCell::new() };
    }
    CHANNEL.with(|channel| {
        let channel = match channel.get() {
            Some(channel) => channel,
            None => {
                let opened = Channel::open()?;
                channel.get_or_init(|| opened)
            }
        };
        channel.ask(local, remote)
    })
}

/// Checks that the kernel answers such requests, with a connection of our own.
///
/// # Errors
/// When it does not, or there is no loopback.
pub(crate) fn checks_socket_owners() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let owner = socket_owner(client.local_addr()?, listener.local_addr()?)?;
    owner.map(|_| ()).ok_or_else(|| ErrorKind::NotFound.into())
}

/// A netlink socket to the kernel's socket diagnostics.
struct Channel {
    socket: OwnedFd,
    sequence: std::cell::Cell<u32>,
}

/// Answers to earlier requests that are skipped before we give up; there are none unless one was interrupted.
const STALE_MAX: usize = 16;

impl Channel {
    fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(SOCK_DIAG))?;
        Ok(Self { socket, sequence: std::cell::Cell::new(0) })
    }

    /// The kernel handles the request within send(2), so the answer is there when that returns.
    fn ask(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<SocketOwner>> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let (local, remote) = (canonical(local), canonical(remote));
        let Some(question) = question(sequence, local, remote) else { return Ok(None) };
        send(&self.socket, &question, SendFlags::empty())?;
        for _ in 0..STALE_MAX {
            let mut answer = [0; ANSWER_MAX];
            let (_, received, from) = match recvfrom(&self.socket, &mut answer[..], RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                received => received?,
            };
            let is_kernel = from
                .and_then(|from| SocketAddrNetlink::try_from(from).ok())
                .is_some_and(|from| from.pid() == 0);
            let answer = &answer[..received.min(ANSWER_MAX)];
            if is_kernel && u32_at(answer, 8) == Some(sequence) {
                return read_answer(answer, local, remote);
            }
        }
        Err(ErrorKind::InvalidData.into())
    }
}

/// The kernel's tables have an IPv4-mapped IPv6 address as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const INET_DIAG_CGROUP_ID: u16 = 21;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
const ESTABLISHED: u8 = 1;
/// The owner has finished sending, and still reads.
const FIN_WAIT: [u8; 2] = [4, 5];
/// `lo` of any namespace. Without it, sockets that are bound to that interface are not found.
const LOOPBACK_INTERFACE: u32 = 1;

/// Sizes of `nlmsghdr` and `inet_diag_req_v2`; the `inet_diag_sockid` is at the end of the latter.
const HEADER: usize = 16;
const QUESTION: usize = HEADER + 8 + SOCKET_ID;
const SOCKET_ID: usize = 48;
/// Length of ports and addresses within the id; the interface and the cookie follow.
const TUPLE: usize = 36;
/// Offset of the id in the answer, and the end of `inet_diag_msg`.
const ANSWER_ID: usize = HEADER + 4;
const ANSWER: usize = HEADER + 72;
/// With the attributes that the kernel adds, an answer has some 130 bytes.
const ANSWER_MAX: usize = 1024;

fn question(sequence: u32, local: SocketAddr, remote: SocketAddr) -> Option<[u8; QUESTION]> {
    let mut question = [0; QUESTION];
    let mut write = |at: usize, bytes: &[u8]| question[at..at + bytes.len()].copy_from_slice(bytes);
    write(0, &(QUESTION as u32).to_ne_bytes());
    write(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    write(6, &NLM_F_REQUEST.to_ne_bytes());
    write(8, &sequence.to_ne_bytes());
    let id = HEADER + 8;
    let family = match (local.ip(), remote.ip()) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            write(id + 4, &local.octets());
            write(id + 20, &remote.octets());
            AF_INET
        }
        (IpAddr::V6(local), IpAddr::V6(remote)) => {
            write(id + 4, &local.octets());
            write(id + 20, &remote.octets());
            AF_INET6
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    write(HEADER, &[family, TCP]);
    // Every state: the answer's state is checked later.
    write(HEADER + 4, &u32::MAX.to_ne_bytes());
    write(id, &local.port().to_be_bytes());
    write(id + 2, &remote.port().to_be_bytes());
    write(id + TUPLE, &LOOPBACK_INTERFACE.to_ne_bytes());
    // INET_DIAG_NOCOOKIE.
    write(id + TUPLE + 4, &[0xff; 8]);
    Some(question)
}

/// `None` for all but a connected socket with exactly that 4-tuple and a process.
fn read_answer(answer: &[u8], local: SocketAddr, remote: SocketAddr) -> io::Result<Option<SocketOwner>> {
    let malformed = || io::Error::from(ErrorKind::InvalidData);
    match u16_at(answer, 4).ok_or_else(malformed)? {
        SOCK_DIAG_BY_FAMILY => {}
        NLMSG_ERROR => {
            let errno = u32_at(answer, HEADER).ok_or_else(malformed)?.cast_signed().wrapping_neg();
            let error = io::Error::from_raw_os_error(errno);
            return if error.kind() == ErrorKind::NotFound { Ok(None) } else { Err(error) };
        }
        _ => return Err(malformed()),
    }
    let body = answer.get(..ANSWER).ok_or_else(malformed)?;
    let is_asked_for = tuple(body[HEADER], &body[ANSWER_ID..]) == Some((local, remote));
    let state = body[HEADER + 1];
    let is_connected = state == ESTABLISHED || FIN_WAIT.contains(&state);
    let at = ANSWER_ID + SOCKET_ID + 12;
    let (uid, inode) = (u32_at(body, at).ok_or_else(malformed)?, u32_at(body, at + 4).ok_or_else(malformed)?);
    if !is_asked_for || !is_connected || inode == 0 {
        return Ok(None);
    }
    let length = u32_at(answer, 0).and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let attributes = answer.get(ANSWER..length).unwrap_or_default();
    Ok(Some(SocketOwner { uid, cgroup: cgroup_id(attributes) }))
}

/// The addresses of an `inet_diag_sockid`, which are of the socket's family: a client's socket may have IPv4 addresses
/// as IPv6.
fn tuple(family: u8, id: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let port = |at: usize| Some(u16::from_be_bytes(id.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| match family {
        AF_INET => <[u8; 4]>::try_from(id.get(at..at + 4)?).ok().map(IpAddr::from),
        AF_INET6 => <[u8; 16]>::try_from(id.get(at..at + 16)?).ok().map(IpAddr::from),
        _ => None,
    };
    let [local, remote] =
        [(4, 0), (20, 2)].map(|(ip, at)| Some(SocketAddr::new(address(ip)?.to_canonical(), port(at)?)));
    Some((local?, remote?))
}

/// Searches the netlink attributes: length, type, value, and padding to a multiple of four.
fn cgroup_id(mut attributes: &[u8]) -> Option<u64> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let value = attributes.get(4..length)?;
        if u16_at(attributes, 2)? == INET_DIAG_CGROUP_ID {
            return value.try_into().ok().map(u64::from_ne_bytes);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddrV6};

    use socket2::{Domain, SockRef, Socket, Type};

    use super::*;

    fn us() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn connected(bind: &str) -> (TcpListener, TcpStream, TcpStream) {
        let listener = TcpListener::bind(bind).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        (listener, client, accepted)
    }

    fn owner_behind(accepted: &TcpStream) -> Option<u32> {
        let owner = socket_owner(accepted.peer_addr().unwrap(), accepted.local_addr().unwrap()).unwrap();
        owner.map(|owner| owner.uid)
    }

    #[test]
    fn we_are_told_here() {
        checks_socket_owners().unwrap();
    }

    #[test]
    fn the_owner_of_a_connected_socket_is_found_over_both_families() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let (_listener, client, accepted) = connected(bind);
            assert_eq!(owner_behind(&accepted), Some(us()), "{bind}");
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(owner_behind(&accepted), Some(us()), "{bind}: it has only finished sending");
        }
    }

    #[test]
    fn a_client_that_writes_ipv4_as_ipv6_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mapped = Ipv6Addr::from([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1]);
        let _client = TcpStream::connect(SocketAddrV6::new(mapped, port, 0, 0)).unwrap();
        let (accepted, from) = listener.accept().unwrap();
        assert!(from.is_ipv4(), "that is how we see it");
        assert_eq!(owner_behind(&accepted), Some(us()));
        let (from, to) = (from.port(), SocketAddr::from((mapped, port)));
        assert!(socket_owner((mapped, from).into(), to).unwrap().is_some(), "asked in that form too");
    }

    #[test]
    fn a_client_that_is_bound_to_an_interface_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        SockRef::from(&client).bind_device(Some(b"lo")).unwrap();
        client.connect(&listener.local_addr().unwrap().into()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(owner_behind(&accepted), Some(us()));
    }

    #[test]
    fn a_client_that_is_gone_has_no_owner_and_neither_has_what_it_leaves() {
        let (_listener, client, accepted) = connected("127.0.0.1:0");
        drop(client);
        assert_eq!(owner_behind(&accepted), None, "FIN_WAIT2 without a process");
        let (client, server) = (accepted.peer_addr().unwrap(), accepted.local_addr().unwrap());
        drop(accepted);
        assert_eq!(
            socket_owner(client, server).unwrap(),
            None,
            "TIME_WAIT, which the kernel reports as root's"
        );
    }

    #[test]
    fn a_listener_on_the_clients_port_is_not_taken_for_the_client() {
        // From an address of its own. On 127.0.0.1 every port may be in TIME_WAIT after other tests' connections
        // (28,000 take a few seconds), and such a port cannot be listened on.
        let own = SocketAddr::from(([127, 77, 0, 1], 0));
        // Another socket may use the port towards another address meanwhile.
        let listens = (0..100).find_map(|_| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            client.bind(&own.into()).unwrap();
            let to = listener.local_addr().unwrap();
            client.connect(&to.into()).unwrap();
            let (accepted, from) = listener.accept().unwrap();
            client.set_linger(Some(std::time::Duration::ZERO)).unwrap();
            drop((client, accepted));
            let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            other.set_reuse_address(true).unwrap();
            other.bind(&from.into()).and_then(|()| other.listen(1)).ok()?;
            Some((other, from, to))
        });
        let (_other, from, to) = listens.expect("a port that a client has left");
        assert_eq!(socket_owner(from, to).unwrap(), None);
    }

    #[test]
    fn no_text_whatever_makes_it_panic() {
        let (local, remote) = (([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into());
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let mut answer = vec![0; rng.usize(..200)];
            rng.fill(&mut answer);
            if answer.len() > 24 && rng.bool() {
                answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
            }
            let _ = read_answer(&answer, local, remote);
        }
    }
}
