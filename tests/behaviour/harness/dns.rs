//! A DNS server on an address of its own in 127/8, UDP and TCP, whose records and behaviour the test changes while it
//! runs; and a mount namespace with the test's `/etc/resolv.conf` and `/etc/hosts`.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fs, thread};

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{demand, until};

pub(crate) struct NameServer {
    ip: Ipv4Addr,
    shared: Arc<Shared>,
    dir: TempDir,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Absolute lower-case names → records; a name without records exists and has none.
    zone: Mutex<BTreeMap<String, Vec<Record>>>,
    mode: Mutex<DnsMode>,
    asked: AtomicUsize,
    asked_by_tcp: AtomicUsize,
    questions: Mutex<Vec<Asked>>,
    stop: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) is_ipv6: bool,
    pub(crate) by_tcp: bool,
    pub(crate) edns: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum DnsMode {
    /// As the zone says.
    #[default]
    Honest,
    Silent,
    Failing,
    /// SERVFAIL to AAAA, the zone's answer to the rest.
    FailingForIpv6,
    /// Nothing to AAAA, the zone's answer to the rest (systemd/systemd#22575).
    SilentForIpv6,
    /// As if the first A query was lost.
    LosesOne,
    /// Only from the fifth A query on.
    LosesFour,
    Refusing,
    /// Over UDP a truncated answer.
    Truncating,
    /// This code, if a query has EDNS.
    RejectingEdns(ResponseCode),
    /// The same, as servers answer that parse only the header: without the question.
    RejectingEdnsBarely,
}

const TICK: Duration = Duration::from_millis(50);

impl NameServer {
    /// With an empty zone: no name exists.
    #[track_caller]
    pub(crate) fn start() -> Self {
        let (ip, udp, tcp) = bound();
        let shared = Arc::new(Shared::default());
        let (by_udp, by_tcp) = (shared.clone(), shared.clone());
        let threads = vec![
            thread::spawn(move || serve_udp(&udp, &by_udp)),
            thread::spawn(move || serve_tcp(&tcp, &by_tcp)),
        ];
        let dir = tempfile::tempdir().expect("a temporary directory");
        let server = Self { ip, shared, dir, threads };
        server.set_resolv_conf("");
        server.set_hosts("");
        server
    }

    /// `name` has these addresses, of either family, and no others.
    pub(crate) fn set(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let data = addresses.iter().map(|ip| RData::from(ip.parse::<IpAddr>().expect("an IP address")));
        self.put(name, ttl, data.collect());
    }

    /// `name` is an alias of another name.
    pub(crate) fn set_alias(&self, name: &str, ttl: u32, of: &str) {
        self.put(name, ttl, vec![RData::CNAME(CNAME(absolute(of)))]);
    }

    /// `name` is a service with these records: priority, weight, port, target.
    pub(crate) fn set_service(&self, name: &str, ttl: u32, records: &[(u16, u16, u16, &str)]) {
        let data = |(priority, weight, port, target): &(u16, u16, u16, &str)| {
            RData::SRV(SRV::new(*priority, *weight, *port, absolute(target)))
        };
        self.put(name, ttl, records.iter().map(data).collect());
    }

    /// `name` no longer exists.
    pub(crate) fn forget(&self, name: &str) {
        self.shared.zone.lock().expect("a zone nobody poisoned").remove(&key(&absolute(name)));
    }

    pub(crate) fn set_mode(&self, mode: DnsMode) {
        *self.shared.mode.lock().expect("a mode nobody poisoned") = mode;
    }

    /// Number of queries so far, over UDP and TCP.
    pub(crate) fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// All queries so far, in order.
    pub(crate) fn questions(&self) -> Vec<Asked> {
        self.shared.questions.lock().expect("questions nobody poisoned").clone()
    }

    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    pub(crate) fn asked_by_tcp(&self) -> usize {
        self.shared.asked_by_tcp.load(Ordering::SeqCst)
    }

    /// The options in `/etc/resolv.conf` beside this server's address. Short timeouts, so that a silent server costs a
    /// test seconds.
    pub(crate) fn set_resolv_conf(&self, lines: &str) {
        let text = format!("nameserver {}\noptions timeout:1 attempts:1\n{lines}\n", self.ip);
        fs::write(self.dir.path().join("resolv.conf"), text).expect("a resolv.conf");
    }

    /// The whole text of `/etc/resolv.conf`.
    pub(crate) fn set_whole_resolv_conf(&self, text: &str) {
        fs::write(self.dir.path().join("resolv.conf"), text).expect("a resolv.conf");
    }

    /// The text of `/etc/hosts`.
    pub(crate) fn set_hosts(&self, lines: &str) {
        fs::write(self.dir.path().join("hosts"), lines).expect("a hosts file");
    }

    /// Runs the command with these files in `/etc`. Its process is that of the command, as it would be without.
    pub(crate) fn serves(&self, command: &mut Command) {
        inside(command, &self.dir.path().join("resolv.conf"), &self.dir.path().join("hosts"));
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn put(&self, name: &str, ttl: u32, data: Vec<RData>) {
        let name = absolute(name);
        let records = data.into_iter().map(|data| Record::from_rdata(name.clone(), ttl, data)).collect();
        self.shared.zone.lock().expect("a zone nobody poisoned").insert(key(&name), records);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect((self.ip, 53)));
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Debian's dnsmasq in the same place, which answers from a hosts file.
pub(crate) struct Dnsmasq {
    child: Child,
    dir: TempDir,
}

impl Dnsmasq {
    /// Every name of `hosts` (lines as in `/etc/hosts`) with a TTL of 1 s, and one service: its name, target, port, priority and
    /// weight, with commas between.
    #[track_caller]
    pub(crate) fn start(hosts: &str, services: &[String]) -> Self {
        let program = demand("dnsmasq", "dnsmasq-base");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (ip, udp, tcp) = bound();
        drop((udp, tcp));
        let in_dir = |name: &str| dir.path().join(name);
        fs::write(in_dir("names"), hosts).expect("a file of names");
        fs::write(in_dir("hosts"), "").expect("a hosts file");
        let text = format!("nameserver {ip}\noptions timeout:1 attempts:2\n");
        fs::write(in_dir("resolv.conf"), text).expect("a resolv.conf");
        let mut command = Command::new(program);
        command.args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--local-ttl=1",
        ]);
        command.args(["--conf-file=/dev/null", "--user=root", "--pid-file="]);
        command.arg(format!("--listen-address={ip}"));
        command.arg(format!("--addn-hosts={}", in_dir("names").display()));
        command.args(services.iter().map(|service| format!("--srv-host={service}")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("dnsmasq starts");
        until("dnsmasq listened", || TcpStream::connect((ip, 53)).ok());
        Self { child, dir }
    }

    pub(crate) fn set(&self, hosts: &str) {
        fs::write(self.dir.path().join("names"), hosts).expect("a file of names");
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("a process to signal");
    }

    pub(crate) fn serves(&self, command: &mut Command) {
        inside(command, &self.dir.path().join("resolv.conf"), &self.dir.path().join("hosts"));
    }

    pub(crate) fn stop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A mount namespace with these files in `/etc`.
fn inside(command: &mut Command, resolv_conf: &Path, hosts: &Path) {
    assert!(rustix::process::geteuid().is_root(), "a mount namespace and port 53 need root");
    let script =
        r#"mount --bind "$1" /etc/resolv.conf && mount --bind "$2" /etc/hosts && shift 2 && exec "$@""#;
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--", "sh", "-c", script, "sh"]).args([resolv_conf, hosts]);
    inside.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(name, value),
            None => inside.env_remove(name),
        };
    }
    inside.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    *command = inside;
}

/// resolv.conf has no ports, so it must be 53, and an address that no other server has.
#[track_caller]
fn bound() -> (Ipv4Addr, UdpSocket, TcpListener) {
    let seed = std::process::id();
    for attempt in 0..1000_u32 {
        let number = seed.wrapping_mul(2_654_435_761).wrapping_add(attempt.wrapping_mul(40_503));
        let [_, _, c, d] = number.to_be_bytes();
        let ip = Ipv4Addr::new(127, 53, c, d.clamp(1, 254));
        match (UdpSocket::bind((ip, 53)), TcpListener::bind((ip, 53))) {
            (Ok(udp), Ok(tcp)) => return (ip, udp, tcp),
            (Err(error), _) | (_, Err(error)) if error.kind() != ErrorKind::AddrInUse => {
                panic!("cannot bind {ip}:53: {error}")
            }
            _ => {}
        }
    }
    panic!("no address of 127.53/16 is free");
}

fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).expect("a name");
    name.set_fqdn(true);
    name
}

fn key(name: &Name) -> String {
    name.to_ascii().to_lowercase()
}

impl Shared {
    fn answer(&self, question: &[u8], is_udp: bool) -> Option<Vec<u8>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if !is_udp {
            self.asked_by_tcp.fetch_add(1, Ordering::SeqCst);
        }
        let question = Message::from_vec(question).expect("a DNS message");
        let query = question.queries.first().expect("a question").clone();
        let is_ipv6 = query.query_type() == RecordType::AAAA;
        let has_edns = question.edns.is_some();
        let before = {
            let mut questions = self.questions.lock().expect("questions nobody poisoned");
            questions.push(Asked { is_ipv6, by_tcp: !is_udp, edns: has_edns });
            questions.iter().filter(|asked| !asked.is_ipv6).count()
        };
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        let kind = query.query_type();
        let mode = *self.mode.lock().expect("a mode nobody poisoned");
        match mode {
            DnsMode::Silent => return None,
            DnsMode::SilentForIpv6 if is_ipv6 => return None,
            DnsMode::LosesOne if before < 2 => return None,
            DnsMode::LosesFour if before < 5 => return None,
            DnsMode::Refusing => answer.metadata.response_code = ResponseCode::Refused,
            DnsMode::RejectingEdns(code) if has_edns => {
                answer.metadata.response_code = code;
                // The upper bits of codes beyond 15 are there.
                answer.edns = (u16::from(code) > 15).then(Edns::new);
            }
            DnsMode::RejectingEdnsBarely if has_edns => {
                answer.metadata.response_code = ResponseCode::FormErr;
                return Some(answer.to_vec().expect("an answer that can be written"));
            }
            DnsMode::Failing => answer.metadata.response_code = ResponseCode::ServFail,
            DnsMode::FailingForIpv6 if kind == RecordType::AAAA => {
                answer.metadata.response_code = ResponseCode::ServFail;
            }
            DnsMode::Truncating if is_udp => answer.metadata.truncation = true,
            DnsMode::Honest
            | DnsMode::FailingForIpv6
            | DnsMode::SilentForIpv6
            | DnsMode::LosesOne
            | DnsMode::LosesFour
            | DnsMode::Truncating
            | DnsMode::RejectingEdns(_)
            | DnsMode::RejectingEdnsBarely => self.answer_honestly(&query, &mut answer),
        }
        answer.add_query(query);
        Some(answer.to_vec().expect("an answer that can be written"))
    }

    fn answer_honestly(&self, query: &Query, answer: &mut Message) {
        let kind = query.query_type();
        let zone = self.zone.lock().expect("a zone nobody poisoned");
        let mut name = query.name().clone();
        // An alias, or a chain of aliases, and the records at its end.
        for _ in 0..4 {
            let Some(records) = zone.get(&key(&name)) else {
                answer.metadata.response_code = ResponseCode::NXDomain;
                break;
            };
            let wanted =
                |record: &&Record| record.record_type() == kind || record.record_type() == RecordType::CNAME;
            answer.add_answers(records.iter().filter(wanted).cloned());
            match records.first().map(|record| &record.data) {
                Some(RData::CNAME(alias)) => name = alias.0.clone(),
                _ => break,
            }
        }
    }
}

fn serve_udp(socket: &UdpSocket, shared: &Shared) {
    socket.set_read_timeout(Some(TICK)).expect("a timeout");
    let mut buffer = [0; 4096];
    while !shared.stop.load(Ordering::SeqCst) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(answer) = shared.answer(&buffer[..length], true) {
            drop(socket.send_to(&answer, from as SocketAddr));
        }
    }
}

fn serve_tcp(listener: &TcpListener, shared: &Arc<Shared>) {
    // Whoever stops it connects once more, so that a blocking accept returns.
    while let Ok((stream, _)) = listener.accept()
        && !shared.stop.load(Ordering::SeqCst)
    {
        let shared = shared.clone();
        thread::spawn(move || converse(stream, &shared));
    }
}

fn converse(mut stream: TcpStream, shared: &Shared) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut question = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut question).ok()?;
        let answer = shared.answer(&question, false)?;
        let length = u16::try_from(answer.len()).expect("a short answer");
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).ok()?;
    }
}
