//! The command line: the options of the user, and the hidden roles that the bench starts as children.
//!
//! It also takes what cargo and libtest pass to every bench. Lacks any reading of files or of the environment.
use std::io;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::aims;
use crate::brand::Brand;
use crate::cargo::FromCargo;
use crate::endpoint;
use crate::pinned::{self, Place};
use crate::scenario::Extent;
use crate::variant::Variant;

/// What proxies lose while their upstreams half-fail: the same faults at the same moments behind each
#[derive(Parser)]
#[command(name = "chaos", after_help = HELP)]
#[command(mut_arg("list", |list| list.hide(false).help("What there is to play")))]
pub(crate) struct Options {
    /// A minute: shorter scenarios, some at once, ambassador only; fails when an aim is missed
    #[arg(long)]
    pub(crate) quick: bool,
    /// Scenarios to play, as globs over their names
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Who takes part (default: everybody)
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    variants: Vec<String>,
    /// One more ambassador, with lines of YAML for its cluster
    #[arg(long, value_name = "NAME=FILE")]
    pub(crate) tuned: Vec<String>,
    /// One more ambassador, of another build
    #[arg(long, value_name = "NAME=PROGRAM")]
    pub(crate) build: Vec<String>,
    /// What the schedules are made from
    #[arg(long, value_name = "N", default_value_t = 7)]
    seed: u64,
    /// So many times as many short sessions, for machines that are slower or faster than two idle cores
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = pace)]
    pub(crate) pace: f64,
    /// Folder for chaos.json and chaos.md (default: target/chaos; with --quick none)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Keep configurations and logs, and say where
    #[arg(long)]
    pub(crate) keep: bool,
    #[command(flatten)]
    pub(crate) cargo: FromCargo,

    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

const HELP: &str = "Variants: ambassador, ambassador-checks, haproxy-checks, haproxy, envoy-checks, envoy, nginx. Programs not \
found on PATH may be named by AMBASSADOR_BIN, HAPROXY_BIN, NGINX_BIN, ENVOY_BIN. As root it counts SYNs and plays the \
scenarios with names.";

/// A part that the show starts as a child of its own.
#[derive(Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Role {
    /// Become the program named after `--`, not outliving the show
    #[command(hide = true)]
    Pinned {
        #[arg(long, value_delimiter = ',', required = true)]
        cores: Vec<usize>,
        #[arg(last = true, required = true)]
        program: Vec<std::ffi::OsString>,
    },
    #[command(hide = true)]
    Endpoint(endpoint::Setup),
}

fn pace(said: &str) -> Result<f64, String> {
    match said.parse() {
        Ok(pace) if (0.01..=100.0).contains(&pace) => Ok(pace),
        _ => Err("0.01 to 100".to_owned()),
    }
}

impl Role {
    pub(crate) fn play(&self) -> io::Result<()> {
        match self {
            Self::Pinned { cores, program } => Err(pinned::become_pinned(&Place::of(cores), program)),
            Self::Endpoint(setup) => endpoint::run(setup),
        }
    }
}

impl Options {
    pub(crate) fn read() -> Self {
        Self::parse()
    }

    /// `cargo test --benches` passes no flag at all; the daemon is not optimised then, and no aim applies. One
    /// scenario shows that the bench works.
    fn is_taste(&self) -> bool {
        !self.quick && self.cargo.is_test()
    }

    /// Several scenarios at once, and only ambassador.
    pub(crate) fn is_brief(&self) -> bool {
        self.quick || self.is_taste()
    }

    pub(crate) fn extent(&self) -> Extent {
        if self.is_brief() { Extent::Quick } else { Extent::Full }
    }

    pub(crate) fn patterns(&self) -> Vec<String> {
        if !self.scenarios.is_empty() {
            return self.scenarios.clone();
        }
        match (self.is_taste(), self.quick) {
            (true, _) => vec!["kill".to_owned()],
            (_, true) => aims::names().map(str::to_owned).collect(),
            _ => vec!["*".to_owned()],
        }
    }

    /// One of those asked for that is not there.
    pub(crate) fn unknown_variant(&self, all: &[Variant]) -> Option<&str> {
        self.variants.iter().map(String::as_str).find(|name| all.iter().all(|variant| variant.name != *name))
    }

    pub(crate) fn wants(&self, variant: &Variant) -> bool {
        match self.variants.as_slice() {
            [] => !self.is_brief() || variant.brand == Brand::Ambassador,
            asked => asked.contains(&variant.name),
        }
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn out(&self) -> Option<PathBuf> {
        let default = (!self.is_brief()).then(|| PathBuf::from("target/chaos"));
        self.out.clone().or(default)
    }
}
