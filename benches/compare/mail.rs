//! The receiver of the mail rows: Postfix's smtp-sink, behind TLS if the wire asks for it.
//!
//! smtp-sink has no TLS, so the `tls-front` role stands in front of it: to a proxy the two are one server that speaks
//! TLS from the first byte, as on port 465. Each contestant has its own, so that its closed connections do not crowd
//! the port table that another has to search. Lacks STARTTLS, which no contestant but stunnel would speak.
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Instant;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use crate::account::Account;
use crate::load::PATIENCE;
use crate::pinned::Place;
use crate::pki::Pki;
use crate::process::Running;
use crate::programs::{find, lacking};
use crate::row::Wire;
use crate::socket;
use crate::terminate::server_config;

pub(crate) struct MailServer {
    pub(crate) at: SocketAddr,
    // Only kept; the front is dropped before the sink.
    _running: Vec<Running>,
}

impl MailServer {
    pub(crate) fn lacks() -> Option<String> {
        lacking(&["smtp-source", "smtp-sink"])
    }

    /// `folder` is for it alone; `free` is a port for it.
    pub(crate) fn start(
        wire: Wire,
        folder: &Path,
        free: SocketAddr,
        pki: &Pki,
        place: &Place,
    ) -> io::Result<Self> {
        let socket = folder.join("sink");
        let listen = match wire {
            Wire::Plain => free.to_string(),
            Wire::Mtls => format!("unix:{}", socket.display()),
        };
        let sink = start_sink(&listen, folder, place)?;
        if wire == Wire::Plain {
            await_that(|| socket::dial(free).is_ok())?;
            return Ok(Self { at: free, _running: vec![sink] });
        }
        await_that(|| socket.exists())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("tls-front").arg("--pki").arg(pki.folder()).arg("--sink").arg(&socket);
        let (front, words) = Running::start_talking(&command, place)?;
        let mut port = String::new();
        BufReader::new(words).read_line(&mut port)?;
        let port = port.trim().parse().map_err(|_| io::Error::other("the TLS front did not say its port"))?;
        Ok(Self { at: (Ipv4Addr::LOCALHOST, port).into(), _running: vec![front, sink] })
    }
}

fn start_sink(listen: &str, folder: &Path, place: &Place) -> io::Result<Running> {
    let account = Account::unprivileged()?;
    fs::create_dir_all(folder)?;
    account.give(folder)?;
    let program = find("smtp-sink").ok_or_else(|| io::Error::other("not installed: smtp-sink"))?;
    let mut sink = account.command(&program);
    sink.args(["-4", listen, "4096"]);
    Running::start(&sink, place, &folder.with_extension("log"))
}

fn await_that(holds: impl Fn() -> bool) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            return Err(io::Error::other("smtp-sink does not start"));
        }
        sleep(std::time::Duration::from_millis(5));
    }
    Ok(())
}

/// The `tls-front` role: serves for ever; its port is the first line on stdout.
pub(crate) fn run_front(pki: &Path, sink: &Path) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(server_config(&Pki::at(pki), true)?);
    let listener = socket::listen((Ipv4Addr::LOCALHOST, 0).into())?;
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?.port());
    let sink: Arc<Path> = sink.into();
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            let (acceptor, sink) = (acceptor.clone(), Arc::clone(&sink));
            // A session that fails is the proxy's failure, and smtp-source reports it.
            tokio::spawn(async move {
                let mut sink = UnixStream::connect(sink).await?;
                let mut session = acceptor.accept(socket).await?;
                copy_bidirectional(&mut session, &mut sink).await
            });
        }
    })
}
