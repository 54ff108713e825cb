//! The contestants, and their rows.
//!
//! Lacks how each is configured: that is `recipe`.
use std::env;
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::brand::Brand;
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

    /// A third-party program: it may be missing, and it is what we compare with.
    pub(crate) fn is_foreign(self) -> bool {
        !self.is_floor() && self != Self::Ambassador
    }

    /// Tuned beyond its manual's advice for this job, to show its potential.
    pub(crate) fn is_tuned(self) -> bool {
        matches!(self, Self::HaproxyTuned | Self::NginxTuned)
    }

    /// What the kernel moves or encrypts for it, as configured here: splice(2), kTLS, sockmap.
    pub(crate) fn kernel_paths(self) -> &'static str {
        match self {
            Self::Floor | Self::Nginx | Self::NginxTuned | Self::Envoy | Self::Stunnel | Self::Haproxy => {
                "none"
            }
            Self::FloorSplice => "splice",
            Self::HaproxySplice | Self::HaproxyTuned => "splice (plain rows)",
            Self::Ambassador => "splice (plain bulk)",
        }
    }

    /// Whether its threads end, which loses the kernel's counts of their CPU time.
    pub(crate) fn ends_threads(self) -> bool {
        self == Self::Stunnel
    }

    pub(crate) fn serves(self, row: &Row) -> bool {
        let mtls = row.wire == Wire::Mtls;
        if let Work::Growth { quantity, .. } = row.work {
            let has_metrics = matches!(self, Self::Ambassador | Self::Haproxy | Self::Envoy);
            return has_metrics || (self == Self::Nginx && quantity.is_universal());
        }
        match self {
            Self::Ambassador => true,
            Self::Floor => !mtls,
            Self::FloorSplice => !mtls && matches!(row.work, Work::Bulk { .. }),
            Self::Stunnel => mtls,
            // They cannot ask PostgreSQL for TLS. Envoy can in its contrib build, which PyPI does not have.
            Self::Haproxy | Self::Nginx | Self::Envoy => !(mtls && matches!(row.work, Work::Pgbench { .. })),
            // Pipes and larger buffers do not affect small messages, and the run is long enough. With TLS nothing can
            // be spliced, so it would repeat plain HAProxy.
            Self::HaproxySplice => !mtls && !row.is_real_work(),
            Self::HaproxyTuned | Self::NginxTuned => !row.is_real_work(),
        }
    }

    /// The program's project; `None` is this bench itself.
    fn brand(self) -> Option<Brand> {
        match self {
            Self::Floor | Self::FloorSplice => None,
            Self::Ambassador => Some(Brand::Ambassador),
            Self::Haproxy | Self::HaproxySplice | Self::HaproxyTuned => Some(Brand::Haproxy),
            Self::Nginx | Self::NginxTuned => Some(Brand::Nginx),
            Self::Envoy => Some(Brand::Envoy),
            Self::Stunnel => Some(Brand::Stunnel),
        }
    }

    /// Its program, or in words why there is none.
    pub(crate) fn program(self) -> io::Result<PathBuf> {
        self.brand().map_or_else(env::current_exe, Brand::program)
    }

    pub(crate) fn version(self, program: &Path) -> io::Result<String> {
        self.brand().map_or_else(|| Ok("this bench".to_owned()), |brand| brand.version(program))
    }
}
