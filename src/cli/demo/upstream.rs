//! An echo server that requires a client certificate, and can be stopped.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::clock;
use crate::drain::{Drain, DrainWatch};

pub(super) struct Upstream {
    address: SocketAddr,
    sessions: Arc<AtomicUsize>,
    tasks: Drain,
}

impl Upstream {
    pub(super) async fn start(name: &'static str, folder: &Path) -> io::Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(server_config(folder)?));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (sessions, tasks) = (Arc::new(AtomicUsize::new(0)), Drain::default());
        tasks.spawn(accept(name, listener, acceptor, Arc::clone(&sessions), tasks.clone(), tasks.watch()));
        Ok(Self { address, sessions, tasks })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Closes the port and every session.
    pub(super) async fn stop(&self) {
        self.tasks.begin();
        let _ = self.tasks.finished(clock::now() + Duration::from_secs(5)).await;
    }
}

fn server_config(folder: &Path) -> io::Result<ServerConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(folder.join("ca.pem")).map_err(io::Error::other)?)
        .map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(io::Error::other)?;
    let certificate = CertificateDer::from_pem_file(folder.join("server.pem")).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).map_err(io::Error::other)?;
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate], key)
        .map_err(io::Error::other)
}

async fn accept(
    name: &'static str,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    sessions: Arc<AtomicUsize>,
    tasks: Drain,
    watch: DrainWatch,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = watch.begun() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (acceptor, sessions, watch) = (acceptor.clone(), Arc::clone(&sessions), watch.clone());
        tasks.spawn(async move {
            sessions.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                _ = echo(name, stream, acceptor) => {}
                () = watch.begun() => {}
            }
            sessions.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Sends its name, then returns what it receives.
async fn echo(name: &'static str, stream: TcpStream, acceptor: TlsAcceptor) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    tracing::debug!(upstream = name, "a session with a client certificate");
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..read]).await?;
    }
}
