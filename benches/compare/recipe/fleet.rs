//! The configurations of the growth rows: a listener for each cluster, all on one port of many loopback addresses, and
//! endpoints that nobody listens at, without health checks.
//!
//! Each with its metrics, and with its own way of changing one cluster: ambassador by SIGHUP, HAProxy by a successor
//! (`-sf`), Envoy by a file of clusters that it watches. Lacks nginx's metrics, which its stream proxy does not have.
mod ambassador;
mod envoy;
mod haproxy;
mod nginx;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::growth::Fleet;
use crate::peer::Peer;
use crate::pki::Pki;

pub(crate) struct FleetJob<'a> {
    pub(crate) program: &'a Path,
    pub(crate) fleet: Fleet,
    /// Of all listeners.
    pub(crate) port: u16,
    pub(crate) admin: SocketAddr,
    /// Absent if the upstreams are plain.
    pub(crate) pki: Option<&'a Pki>,
    pub(crate) workers: usize,
    pub(crate) folder: &'a Path,
}

/// The `index`th address of 127.`group`.0.0/16; a /24 holds 250.
fn address(group: usize, index: usize) -> String {
    format!("127.{group}.{}.{}", index / 250, index % 250 + 1)
}

const ENDPOINT_PORT: u16 = 9;

impl FleetJob<'_> {
    /// In the first cluster, of a changed configuration alone.
    pub(crate) fn changed_endpoint() -> String {
        format!("{}:{ENDPOINT_PORT}", address(3, 0))
    }

    /// Of one cluster, without the port.
    fn endpoints(&self, cluster: usize, changed: bool) -> impl Iterator<Item = String> {
        let each = self.fleet.endpoints;
        (0..each).map(move |index| match (cluster, index) {
            (0, 0) if changed => address(3, 0),
            _ => address(2, cluster * each + index),
        })
    }

    fn listener(&self, cluster: usize) -> String {
        address(1, cluster)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "four play these rows; `Peer::serves` says which")]
    pub(crate) fn command(&self, peer: Peer, replaced: Option<i32>) -> Command {
        let mut command = Command::new(self.program);
        let file = self.folder.join(file_name(peer));
        match peer {
            Peer::Haproxy => {
                command.args(["-db", "-f"]).arg(file);
                command.args(replaced.iter().flat_map(|pid| ["-sf".to_owned(), pid.to_string()]));
            }
            Peer::Nginx => {
                command.arg("-p").arg(self.folder).args(["-e", "stderr", "-c"]).arg(file);
            }
            Peer::Envoy => {
                command.args(["--concurrency", &self.workers.to_string()]);
                command.args(["--disable-hot-restart", "--log-level", "error", "-c"]).arg(file);
            }
            _ => {
                command.args(["run", "--config"]).arg(file);
            }
        }
        command
    }

    /// Served with status 200 once it is ready, at the admin address.
    pub(crate) fn ready(&self, peer: Peer) -> Option<&'static str> {
        if peer == Peer::Ambassador { Some("/readyz") } else { (peer == Peer::Envoy).then_some("/ready") }
    }

    /// Envoy's are those that were ever used: all others are zero.
    pub(crate) fn metrics(&self, peer: Peer) -> Option<&'static str> {
        let metrics = if peer == Peer::Envoy { "/stats/prometheus?usedonly" } else { "/metrics" };
        (peer != Peer::Nginx).then_some(metrics)
    }

    pub(crate) fn shows_endpoints(&self, peer: Peer) -> &'static str {
        if peer == Peer::Envoy { "/clusters" } else { "/status" }
    }

    /// `changed`: with one endpoint of one cluster replaced.
    #[expect(clippy::wildcard_enum_match_arm, reason = "four play these rows; `Peer::serves` says which")]
    pub(crate) fn write(&self, peer: Peer, changed: bool) -> io::Result<()> {
        let text = match peer {
            Peer::Haproxy => haproxy::configuration(self, changed),
            Peer::Nginx => nginx::configuration(self, changed),
            Peer::Envoy => {
                // Envoy sees what is moved to the name, so that it never reads half a file.
                let new = self.folder.join("clusters.new");
                fs::write(&new, envoy::clusters(self, changed))?;
                fs::rename(new, self.folder.join("clusters.yaml"))?;
                envoy::bootstrap(self)
            }
            _ => ambassador::configuration(self, changed),
        };
        fs::write(self.folder.join(file_name(peer)), text)
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "four play these rows; `Peer::serves` says which")]
fn file_name(peer: Peer) -> &'static str {
    match peer {
        Peer::Haproxy => "haproxy.cfg",
        Peer::Nginx => "nginx.conf",
        Peer::Envoy => "envoy.yaml",
        _ => "listeners.yaml",
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes everything");
}
