//! Who can take part, where its program is and which version it has.
//!
//! Lacks how each is configured: that is `recipe`.
use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use crate::programs::find;
use crate::row::{Row, Wire, Work};

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Peer {
    /// A bare single-threaded epoll relay
    Floor,
    /// A bare relay by splice(2) and blocking threads, in bulk rows
    FloorSplice,
    Ambassador,
    Haproxy,
    /// The same with the splice options, in plain rows
    HaproxySplice,
    /// The same with larger pipes and buffers than its manual starts from
    HaproxyTuned,
    Nginx,
    /// The same with larger buffers than its manual starts from
    NginxTuned,
    Envoy,
    /// In mtls rows; it has a thread for each session
    Stunnel,
}

impl Peer {
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::FloorSplice => "floor-splice",
            Self::Ambassador => "ambassador",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy-splice",
            Self::HaproxyTuned => "haproxy-tuned",
            Self::Nginx => "nginx",
            Self::NginxTuned => "nginx-tuned",
            Self::Envoy => "envoy",
            Self::Stunnel => "stunnel",
        }
    }

    pub(crate) fn is_floor(self) -> bool {
        matches!(self, Self::Floor | Self::FloorSplice)
    }

    /// Somebody else's program: it may be missing, and it is what we compare with.
    pub(crate) fn is_foreign(self) -> bool {
        !self.is_floor() && self != Self::Ambassador
    }

    /// Set up beyond what its manual advises for this job, to show what is in it.
    pub(crate) fn is_tuned(self) -> bool {
        matches!(self, Self::HaproxyTuned | Self::NginxTuned)
    }

    /// Whether threads of it end, and take with them what the kernel counted for each.
    pub(crate) fn ends_threads(self) -> bool {
        self == Self::Stunnel
    }

    pub(crate) fn serves(self, row: &Row) -> bool {
        let mtls = row.wire == Wire::Mtls;
        match self {
            Self::Ambassador => true,
            Self::Floor => !mtls,
            Self::FloorSplice => !mtls && matches!(row.work, Work::Bulk { .. }),
            Self::Stunnel => mtls,
            // They cannot ask PostgreSQL for TLS. Envoy can in its contrib build, which PyPI does not have.
            Self::Haproxy | Self::Nginx | Self::Envoy => !(mtls && matches!(row.work, Work::Pgbench { .. })),
            // Pipes and larger buffers have no say in small messages, and the run is long enough. Under TLS
            // nothing can be spliced, so it would be plain HAProxy once more.
            Self::HaproxySplice => !mtls && !row.is_real_work(),
            Self::HaproxyTuned | Self::NginxTuned => !row.is_real_work(),
        }
    }

    /// Its program, or in words why there is none.
    pub(crate) fn program(self) -> io::Result<PathBuf> {
        let found = match self {
            Self::Floor | Self::FloorSplice => Some(env::current_exe()?),
            Self::Ambassador => named_by("AMBASSADOR_BIN").or_else(beside_the_bench),
            Self::Haproxy | Self::HaproxySplice | Self::HaproxyTuned => {
                named_by("HAPROXY_BIN").or_else(|| find("haproxy"))
            }
            Self::Nginx | Self::NginxTuned => named_by("NGINX_BIN").or_else(|| find("nginx")),
            Self::Envoy => named_by("ENVOY_BIN").or_else(|| find("envoy")),
            Self::Stunnel => named_by("STUNNEL_BIN").or_else(|| find("stunnel4")).or_else(|| find("stunnel")),
        };
        match found {
            Some(program) if program.is_file() => Ok(program),
            Some(program) => Err(io::Error::other(format!("no such program: {}", program.display()))),
            None => Err(io::Error::other("not installed (scripts/compare installs the peers)")),
        }
    }

    /// The first line of what the program says of itself, cut down to name and number.
    pub(crate) fn version(self, program: &Path) -> io::Result<String> {
        let flag = match self {
            Self::Floor | Self::FloorSplice => return Ok("this bench".to_owned()),
            Self::Haproxy | Self::HaproxySplice | Self::HaproxyTuned | Self::Nginx | Self::NginxTuned => "-v",
            Self::Ambassador | Self::Envoy => "--version",
            Self::Stunnel => "-version",
        };
        let output = Command::new(program).arg(flag).output()?;
        // nginx and stunnel answer on stderr.
        let words = [output.stdout, output.stderr].concat();
        let words = String::from_utf8_lossy(&words);
        let line = words.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown version");
        let after = |mark| line.split_once(mark).map_or(line, |(_, rest)| rest);
        Ok(match self {
            // "/path/to/envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL"
            Self::Envoy => format!("Envoy {}", line.rsplit('/').nth(3).unwrap_or("of unknown version")),
            // "nginx version: nginx/1.22.1"
            Self::Nginx | Self::NginxTuned => format!("nginx {}", after("nginx/")),
            // "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/"
            Self::Haproxy | Self::HaproxySplice | Self::HaproxyTuned => {
                format!("HAProxy {}", after("version ").split(' ').next().unwrap_or(line))
            }
            // "stunnel 5.68 on x86_64-pc-linux-gnu platform", after a line on what it is about to do
            Self::Stunnel => {
                let line = words.lines().find(|line| line.starts_with("stunnel ")).unwrap_or(line);
                line.split(" on ").next().unwrap_or(line).to_owned()
            }
            Self::Floor | Self::FloorSplice | Self::Ambassador => line.trim().to_owned(),
        })
    }
}

fn named_by(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from)
}

/// cargo puts the bench into `deps/` and the program one folder up.
fn beside_the_bench() -> Option<PathBuf> {
    let bench = env::current_exe().ok()?;
    bench
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("ambassador"))
        .find(|program| program.is_file())
}
