//! A name server for the scenarios with names: A records with a TTL of 5 s, which the stage changes.
//!
//! Over UDP on an address of its own, port 53, since resolv.conf has no ports; proxies see that resolv.conf in a mount
//! namespace. Both need root. Lacks TCP: its answers are short.
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};

const TTL: u32 = 5;

/// Absolute names in lower case.
type Zone = Arc<Mutex<BTreeMap<String, Ipv4Addr>>>;

pub(crate) struct Names {
    pub(crate) server: Ipv4Addr,
    resolv_conf: PathBuf,
    zone: Zone,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Names {
    pub(crate) fn serve(folder: &Path) -> io::Result<Self> {
        let (server, socket) = bound()?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let resolv_conf = folder.join("resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {server}\n"))?;
        let (zone, stop) = (Zone::default(), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (zone, stop) = (Arc::clone(&zone), Arc::clone(&stop));
            thread::spawn(move || serve(&socket, &zone, &stop))
        };
        Ok(Self { server, resolv_conf, zone, stop, thread: Some(thread) })
    }

    pub(crate) fn set(&self, name: &str, address: Ipv4Addr) {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner).insert(format!("{name}."), address);
    }

    /// The same program with this server's resolv.conf as the host's. It stays one process.
    pub(crate) fn wrap(&self, command: &Command) -> Command {
        let mut wrapped = Command::new("unshare");
        wrapped.args(["--mount", "--", "sh", "-c"]);
        wrapped.arg(r#"mount --bind "$1" /etc/resolv.conf && shift && exec "$@""#).arg("sh");
        let program: [&OsStr; 2] = [self.resolv_conf.as_os_str(), command.get_program()];
        wrapped.args(program).args(command.get_args());
        wrapped
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// On an address that no other server has.
fn bound() -> io::Result<(Ipv4Addr, UdpSocket)> {
    let mut last = None;
    for number in 1..=50 {
        let server = Ipv4Addr::new(127, 77, 0, number);
        match UdpSocket::bind((server, 53)) {
            Ok(socket) => return Ok((server, socket)),
            Err(error) => last = Some(error),
        }
    }
    let why = last.map_or_else(String::new, |error| format!(": {error}"));
    Err(io::Error::other(format!("no port 53 for a name server on 127.77.0.0/16{why}")))
}

fn serve(socket: &UdpSocket, zone: &Zone, stop: &AtomicBool) {
    let mut question = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
        if let Some(answer) = answer(&question[..length], zone) {
            // A resolver that has ended asks no more.
            drop(socket.send_to(&answer, from));
        }
    }
}

fn answer(question: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?.clone();
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    let known = zone
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&query.name().to_ascii().to_lowercase())
        .copied();
    match known {
        None => answer.metadata.response_code = ResponseCode::NXDomain,
        Some(address) if query.query_type() == RecordType::A => {
            answer.add_answers([Record::from_rdata(
                query.name().clone(),
                TTL,
                RData::from(std::net::IpAddr::V4(address)),
            )]);
        }
        Some(_) => {}
    }
    answer.add_query(query);
    answer.to_vec().ok()
}
