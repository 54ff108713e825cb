//! The configuration of each contestant: one listener, one upstream, as many workers as all others, no access log,
//! room for the sessions of the idle row, the server's name verified, sessions resumed.
//!
//! Each as its own manual advises for this job, else its defaults; a setting that makes a peer look worse than it is
//! would be our defect, so every setting has its reason beside it. Lacks per-row tuning: a user has one configuration
//! for all traffic.
mod ambassador;
mod envoy;
mod fleet;
mod haproxy;
mod nginx;
mod stunnel;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) use fleet::FleetJob;

use crate::peer::Peer;
use crate::pki::Pki;

/// The protocol that the contestant may know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    /// TLS, if any, from the first byte.
    Opaque,
    /// TLS, if any, after an SSLRequest.
    Postgres,
}

pub(crate) struct Job<'a> {
    pub(crate) program: &'a Path,
    pub(crate) listen: SocketAddr,
    pub(crate) upstream: SocketAddr,
    /// Absent if the upstream is plain.
    pub(crate) pki: Option<&'a Pki>,
    pub(crate) protocol: Protocol,
    pub(crate) workers: usize,
    /// In bulk rows; the splice floor sizes its pipes for it.
    pub(crate) sessions: usize,
    /// For the configuration file.
    pub(crate) folder: &'a Path,
}

impl Job<'_> {
    /// Writes the contestant's files and returns the command that starts it.
    pub(crate) fn command(&self, peer: Peer) -> io::Result<Command> {
        let mut command = Command::new(self.program);
        match peer {
            Peer::Floor => {
                command.arg("floor-epoll").args([self.listen, self.upstream].map(|at| at.to_string()));
            }
            Peer::FloorSplice => {
                command.arg("floor-splice").args([self.listen, self.upstream].map(|at| at.to_string()));
                // Many pipes of 1 MiB do not fit the cache; 256 KiB was the better of two trials.
                command.arg((if self.sessions == 1 { 1 << 20 } else { 256 << 10 }).to_string());
            }
            Peer::Ambassador => {
                let file = self.write("listeners.yaml", &ambassador::configuration(self))?;
                command.args(["run", "--config"]).arg(file);
            }
            Peer::Haproxy | Peer::HaproxySplice | Peer::HaproxyTuned => {
                let file = self.write("haproxy.cfg", &haproxy::configuration(self, peer))?;
                command.args(["-db", "-f"]).arg(file);
            }
            Peer::Nginx | Peer::NginxTuned => {
                let file = self.write("nginx.conf", &nginx::configuration(self, peer))?;
                command.arg("-p").arg(self.folder).args(["-e", "stderr", "-c"]).arg(file);
            }
            Peer::Envoy => {
                let file = self.write("envoy.yaml", &envoy::configuration(self))?;
                command.args(["--concurrency", &self.workers.to_string()]);
                command.args(["--disable-hot-restart", "--log-level", "error", "-c"]).arg(file);
            }
            Peer::Stunnel => {
                let pki = self.pki.ok_or_else(|| io::Error::other("stunnel is of no use without TLS"))?;
                command.arg(self.write("stunnel.conf", &stunnel::configuration(self, pki))?);
            }
        }
        Ok(command)
    }

    fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let file = self.folder.join(name);
        fs::write(&file, text)?;
        Ok(file)
    }
}
