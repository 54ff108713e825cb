//! The command line: the options of the user, and the hidden roles that the bench starts as children.
//!
//! It also takes what cargo and libtest pass to every bench, so that `cargo bench` and
//! `cargo test --benches` both do something sensible. Lacks: any reading of files or of the environment.
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::cargo::FromCargo;
use crate::peer::Peer;
use crate::pinned::{self, Place};
use crate::place::Cores;
use crate::{floor_epoll, floor_splice, mail, upstream};

/// CPU and memory per unit of work: ambassador, its peers and a bare relay, in interleaved rounds
#[derive(Parser)]
#[command(name = "compare", after_help = ROWS_HELP)]
pub(crate) struct Options {
    /// Each row for about 100 ms, floor and ambassador only, one round; fails when a row moves no bytes
    #[arg(long)]
    pub(crate) quick: bool,
    /// Rows to run, as globs over their names
    #[arg(long, value_name = "GLOB", value_delimiter = ',', default_value = "*")]
    pub(crate) rows: Vec<String>,
    /// Who takes part (default: everybody)
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) peers: Vec<Peer>,
    /// Interleaved rounds; the figure is their median
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=99))]
    rounds: Option<u16>,
    /// How long one contestant is measured in one round
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=60_000))]
    millis: Option<u64>,
    /// Worker threads or processes of each contestant that can have them; each gets a core if there are enough
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// The (first) core of the proxy, load and upstream then take another one; `none` pins nothing
    #[arg(long, value_name = "N|none")]
    core: Option<String>,
    /// Folder for compare.json and compare.svg (default: target/compare; with --quick none)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) cargo: FromCargo,

    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

const ROWS_HELP: &str = "Rows are named WIRE/WORK/SESSIONS, e.g. plain/64B/1, mtls/down/16, plain/connect, \
mtls/connect-full, mtls/idle, plain/beside, plain/64B/16/unpinned, mtls/pgbench/select, plain/mail, or growth/CLUSTERSxENDPOINTS[/mtls]/QUANTITY, e.g. growth/1000x3/reload; the pgbench rows need \
PostgreSQL, the mail rows Postfix. Peers not found on PATH may be named by AMBASSADOR_BIN, HAPROXY_BIN, NGINX_BIN, \
ENVOY_BIN, STUNNEL_BIN.";

/// A part that the contest starts as a child of its own.
#[derive(Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Role {
    /// Become the program named after `--`, on some cores, not outliving the contest
    #[command(hide = true)]
    Pinned {
        #[arg(long, value_delimiter = ',', required = true)]
        cores: Vec<usize>,
        #[arg(last = true, required = true)]
        program: Vec<std::ffi::OsString>,
    },
    #[command(hide = true)]
    Upstream {
        #[arg(long)]
        pki: PathBuf,
        #[arg(long)]
        sets: usize,
    },
    #[command(hide = true)]
    TlsFront {
        #[arg(long)]
        pki: PathBuf,
        #[arg(long)]
        sink: PathBuf,
    },
    #[command(hide = true)]
    FloorEpoll { listen: SocketAddr, upstream: SocketAddr },
    #[command(hide = true)]
    FloorSplice { listen: SocketAddr, upstream: SocketAddr, pipe: usize },
}

impl Role {
    pub(crate) fn play(&self) -> io::Result<()> {
        match self {
            Self::Pinned { cores, program } => Err(pinned::become_pinned(&Place::of(cores), program)),
            Self::Upstream { pki, sets } => upstream::run(pki, *sets),
            Self::TlsFront { pki, sink } => mail::run_front(pki, sink),
            Self::FloorEpoll { listen, upstream } => floor_epoll::run(*listen, *upstream),
            Self::FloorSplice { listen, upstream, pipe } => floor_splice::run(*listen, *upstream, *pipe),
        }
    }
}

impl Options {
    pub(crate) fn read() -> Self {
        let mut options = Self::parse();
        // Then a minute-long contest is not wanted.
        options.quick |= options.cargo.is_test();
        options
    }

    pub(crate) fn rounds(&self) -> usize {
        self.rounds.map_or(if self.quick { 1 } else { 3 }, usize::from)
    }

    pub(crate) fn span(&self) -> Duration {
        Duration::from_millis(self.millis.unwrap_or(if self.quick { 60 } else { 600 }))
    }

    /// Long enough for windows, buffers and allocators to reach their working size.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_millis(if self.quick { 20 } else { 150 })
    }

    pub(crate) fn peers(&self) -> Vec<Peer> {
        if !self.peers.is_empty() {
            return self.peers.clone();
        }
        Peer::all().into_iter().filter(|peer| !self.quick || !peer.is_foreign()).collect()
    }

    pub(crate) fn cores(&self) -> io::Result<Cores> {
        Cores::choose(self.core.as_deref(), self.workers())
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers.into()
    }

    pub(crate) fn out(&self) -> Option<PathBuf> {
        let default = (!self.quick).then(|| PathBuf::from("target/compare"));
        self.out.clone().or(default)
    }
}
