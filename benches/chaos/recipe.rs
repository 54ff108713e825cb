//! The configuration of each proxy: one listener, these endpoints, mTLS to each, least sessions first, one worker, 3 s
//! for a connect, three attempts if they can be configured.
//!
//! Beyond that each has its defaults; "checks" are a probe a second. A setting that makes a peer look worse than it is
//! would be our defect. Lacks the starting: that is `proxy`.
mod ambassador;
mod envoy;
mod haproxy;
mod nginx;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Pid;

use crate::brand::Brand;
use crate::pki::Pki;
use crate::scenario::Shape;
use crate::variant::Variant;

/// An endpoint in a configuration.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) key: usize,
    /// An address or a name.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) weight: Option<u32>,
    pub(crate) priority: u32,
}

pub(crate) struct Job<'a> {
    pub(crate) program: &'a Path,
    pub(crate) variant: &'a Variant,
    pub(crate) shape: &'a Shape,
    pub(crate) listen: SocketAddr,
    pub(crate) targets: Vec<Target>,
    pub(crate) pki: &'a Pki,
    /// The name server, if there are names.
    pub(crate) resolver: Option<Ipv4Addr>,
    /// For the configuration file and what else the proxy writes.
    pub(crate) folder: &'a Path,
}

/// How a new configuration comes into force.
pub(crate) enum Reload {
    /// A command that makes the process reload.
    Tell(Command),
    /// A process that takes over from it.
    Succeed(Command),
    /// SIGHUP: the configuration is read again.
    HangUp,
}

impl Job<'_> {
    /// Writes the files of the proxy.
    pub(crate) fn write(&self) -> io::Result<()> {
        let text = match self.variant.brand {
            Brand::Ambassador => ambassador::configuration(self),
            Brand::Haproxy => haproxy::configuration(self),
            Brand::Envoy => envoy::configuration(self),
            Brand::Nginx => nginx::configuration(self),
            Brand::Stunnel => return Err(io::Error::other("stunnel takes no part")),
        };
        fs::write(self.file(), text)
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        match self.variant.brand {
            Brand::Ambassador => command.args(["run", "--config"]).arg(self.file()),
            Brand::Haproxy => command.args(["-db", "-f"]).arg(self.file()),
            Brand::Envoy => {
                command.args(["--concurrency", "1", "--log-level", "warning"]);
                // A hot restart needs shared memory; only that scenario pays for it.
                if self.shape.reloads {
                    self.epoch(&mut command, 0)
                } else {
                    command.arg("--disable-hot-restart")
                };
                command.arg("-c").arg(self.file())
            }
            Brand::Nginx => command.arg("-p").arg(self.folder).args(["-e", "stderr", "-c"]).arg(self.file()),
            Brand::Stunnel => &mut command,
        };
        command
    }

    /// `count`: the number of processes so far, this one included; `predecessor`: the process to replace.
    pub(crate) fn reload(&self, count: u32, predecessor: Pid) -> Reload {
        let mut command = Command::new(self.program);
        match self.variant.brand {
            Brand::Ambassador => {
                command.args(["reload", "--config"]).arg(self.file());
                Reload::Tell(command)
            }
            Brand::Haproxy => {
                command.args(["-db", "-f"]).arg(self.file());
                Reload::Succeed({
                    command.args(["-sf", &predecessor.as_raw_nonzero().to_string()]);
                    command
                })
            }
            Brand::Envoy => {
                command.args(["--concurrency", "1", "--log-level", "warning"]);
                self.epoch(&mut command, count);
                command.arg("-c").arg(self.file());
                Reload::Succeed(command)
            }
            Brand::Nginx | Brand::Stunnel => Reload::HangUp,
        }
    }

    fn epoch<'c>(&self, command: &'c mut Command, epoch: u32) -> &'c mut Command {
        // Below 2^16, since the program multiplies it; the port is unique.
        let base = self.listen.port().to_string();
        command.args(["--base-id", &base, "--restart-epoch", &epoch.to_string()])
    }

    fn file(&self) -> PathBuf {
        self.folder.join(match self.variant.brand {
            Brand::Ambassador => "listeners.yaml",
            Brand::Haproxy => "haproxy.cfg",
            Brand::Envoy => "envoy.yaml",
            Brand::Nginx => "nginx.conf",
            Brand::Stunnel => "stunnel.conf",
        })
    }
}
