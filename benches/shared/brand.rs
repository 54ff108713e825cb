//! The project of a program, its path, and its version.
//!
//! Lacks the configuration: that is the bench's.
use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::programs::find;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Brand {
    Ambassador,
    Haproxy,
    Nginx,
    Envoy,
    Stunnel,
}

impl Brand {
    /// Its program, or the reason why there is none.
    pub(crate) fn program(self) -> io::Result<PathBuf> {
        let found = match self {
            Self::Ambassador => named_by("AMBASSADOR_BIN").or_else(beside_the_bench),
            Self::Haproxy => named_by("HAPROXY_BIN").or_else(|| find("haproxy")),
            Self::Nginx => named_by("NGINX_BIN").or_else(|| find("nginx")),
            Self::Envoy => named_by("ENVOY_BIN").or_else(|| find("envoy")),
            Self::Stunnel => named_by("STUNNEL_BIN").or_else(|| find("stunnel4")).or_else(|| find("stunnel")),
        };
        match found {
            Some(program) if program.is_file() => Ok(program),
            Some(program) => Err(io::Error::other(format!("no such program: {}", program.display()))),
            None => {
                Err(io::Error::other("not installed (scripts/compare and scripts/chaos install the peers)"))
            }
        }
    }

    /// The first line of the program's version output, reduced to name and number.
    pub(crate) fn version(self, program: &Path) -> io::Result<String> {
        let flag = match self {
            Self::Haproxy | Self::Nginx => "-v",
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
            Self::Nginx => format!("nginx {}", after("nginx/")),
            // "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/"
            Self::Haproxy => format!("HAProxy {}", after("version ").split(' ').next().unwrap_or(line)),
            // "stunnel 5.68 on x86_64-pc-linux-gnu platform", after a line about its configuration
            Self::Stunnel => {
                let line = words.lines().find(|line| line.starts_with("stunnel ")).unwrap_or(line);
                line.split(" on ").next().unwrap_or(line).to_owned()
            }
            Self::Ambassador => line.trim().to_owned(),
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
