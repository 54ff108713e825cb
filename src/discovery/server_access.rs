//! What it takes to ask a server that endpoints are discovered from: its addresses, the secret, and TLS by its CAs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use zeroize::Zeroizing;

use super::resolver::Resolver;
use crate::blocking::BlockingTask;
use crate::cluster::ControlPlane;
use crate::credentials::secret_of;
use crate::http::HttpUrl;
use crate::tls::{self, CredentialFiles, HttpVersion, Roots};
use crate::{alarm, clock};

/// For name, token and CAs.
const PATIENCE: Duration = Duration::from_secs(10);
/// For connecting, and TLS.
pub(super) const CONNECTION: Duration = Duration::from_secs(10);
/// TLS by the CAs on disk is used so long, unless a request fails: Consul may be asked each second, and the host's own CAs take
/// milliseconds.
const TLS_AGE: Duration = Duration::from_secs(60);

/// Finds out what a request needs.
#[derive(Debug)]
pub(super) struct ServerAccess {
    token: Option<PathBuf>,
    roots: Roots,
    version: HttpVersion,
    resolver: Arc<Resolver>,
    reading: BlockingTask<Result<FromDisk, String>>,
    /// What was read of the CAs, and when.
    tls: Option<(Arc<ClientConfig>, Instant)>,
}

/// What a request needs.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) token: Option<Zeroizing<String>>,
    /// Where it is asked over TLS.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

impl ServerAccess {
    pub(super) fn new(control_plane: &ControlPlane, version: HttpVersion, resolver: Arc<Resolver>) -> Self {
        let ControlPlane { token, roots, .. } = control_plane;
        let (token, roots) = (token.clone(), roots.clone());
        Self { token, roots, version, resolver, reading: BlockingTask::default(), tls: None }
    }

    /// To that server, within ten seconds.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn to(&mut self, url: &HttpUrl) -> Result<Access, String> {
        let finding = async {
            let FromDisk { token, tls } = self.read(url.is_tls()).await?;
            Ok(Access { addresses: self.addresses(url).await?, token, tls })
        };
        match alarm::timeout_at(clock::now() + PATIENCE, Box::pin(finding)).await {
            Ok(access) => access,
            Err(alarm::Elapsed) => {
                Err(format!("its name, token or CAs could not be read within {PATIENCE:?}"))
            }
        }
    }

    /// A request failed: its CAs may have been replaced.
    pub(super) fn forget(&mut self) {
        self.tls = None;
    }

    /// Reads the secret for each request, so that it may be replaced. A file system may hang; then that reading is waited for again, and
    /// no other one is begun.
    async fn read(&mut self, is_tls: bool) -> Result<FromDisk, String> {
        let known = self.tls.as_ref().filter(|(_, read)| clock::now() < *read + TLS_AGE);
        let known = known.filter(|_| is_tls).map(|(tls, _)| Arc::clone(tls));
        let roots = (is_tls && known.is_none()).then(|| self.roots.clone());
        if self.token.is_none() && roots.is_none() {
            return Ok(FromDisk { token: None, tls: known });
        }
        if !self.reading.is_busy() {
            let (token, version) = (self.token.clone(), self.version);
            let begun = self.reading.begin(move || FromDisk::read(token.as_deref(), roots, version));
            begun.map_err(|error| format!("no thread can be started: {error}"))?;
        }
        let read = self.reading.join().await;
        let FromDisk { token, tls } =
            read.map_err(|_| String::from("ambassador itself failed while it read it"))??;
        if let Some(tls) = &tls {
            self.tls = Some((Arc::clone(tls), clock::now()));
        }
        Ok(FromDisk { token, tls: tls.or(known) })
    }

    async fn addresses(&self, url: &HttpUrl) -> Result<Vec<SocketAddr>, String> {
        if let Some(addresses) = url.addresses() {
            return Ok(addresses);
        }
        let (host, port) = url.host();
        let found = self.resolver.addresses_of(host).await?;
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }
}

#[derive(Debug)]
struct FromDisk {
    token: Option<Zeroizing<String>>,
    tls: Option<Arc<ClientConfig>>,
}

impl FromDisk {
    fn read(token: Option<&Path>, roots: Option<Roots>, version: HttpVersion) -> Result<Self, String> {
        let token = token.map(secret_of).transpose()?;
        let tls = roots.map(|roots| tls::https_config(roots, version, &CredentialFiles::default()));
        Ok(Self { token, tls: tls.transpose().map_err(|error| error.to_string())? })
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// Each request began another reading of its token, with a thread that stayed for as long as the file system hung.
    #[tokio::test]
    async fn a_token_whose_reading_hangs_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        // Whoever opens it waits for a writer.
        mknodat(CWD, &token, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let control_plane =
            ControlPlane { servers: Vec::new(), roots: Roots::WebPki, token: Some(token.clone()) };
        let mut access = ServerAccess::new(&control_plane, HttpVersion::Http1, Arc::default());
        let read = alarm::drive(async {
            for _ in 0..3 {
                let soon = clock::now() + Duration::from_millis(50);
                assert!(alarm::timeout_at(soon, access.read(false)).await.is_err(), "nobody writes");
            }
            std::thread::spawn(move || std::fs::write(token, "secret\n").unwrap());
            access.read(false).await
        });
        assert_eq!(read.await.unwrap().unwrap().token.unwrap().as_str(), "secret");
    }
}
