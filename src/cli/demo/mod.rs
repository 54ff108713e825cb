//! `demo`: the main job with nothing else installed.
//!
//! It has a throw-away CA, two mTLS upstreams inside this process, a plaintext port that leads to them,
//! clients that send messages, and an upstream that stops meanwhile. Everything works as under `run`: a
//! real file, read by the real loader, and real sockets. The checks at the end are real too: it fails when
//! clients notice more than they should.

mod pki;
mod traffic;
mod upstream;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::CommandError;
use crate::admin::AdminState;
use crate::alarm;
use crate::clock;
use crate::config::Config;
use crate::daemon::RunningDaemon;
use crate::log::Log;
use crate::sys::LocalAddress;
use crate::workers;

use traffic::Traffic;
use upstream::Upstream;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Keep the daemon and the servers running after the demo, until ctrl-C
    #[arg(long)]
    keep: bool,
    /// Write a CA and server and client certificates for development to this folder, and exit
    #[arg(long, value_name = "DIR", conflicts_with = "keep")]
    write_certs: Option<PathBuf>,
}

/// Sessions at once, before and after an upstream stops.
const CLIENTS: usize = 8;
/// Echoes per client and step.
const ECHOES: usize = 500;

pub(super) fn demo(arguments: &Arguments) -> Result<(), CommandError> {
    if let Some(folder) = &arguments.write_certs {
        return write_certs(folder);
    }
    let folder = Scratch::make().map_err(|error| failed("cannot make a scratch folder", &error))?;
    pki::write(&folder.0).map_err(|error| failed("cannot make the certificates", &error))?;
    let runtime = workers::runtime().map_err(|error| failed("cannot start", &error))?;
    let played = runtime.block_on(alarm::drive(play(&folder.0, arguments.keep)));
    runtime.shutdown_background();
    played.map_err(|error| failed("cannot start", &error))?
}

fn write_certs(folder: &Path) -> Result<(), CommandError> {
    std::fs::create_dir_all(folder)
        .map_err(io::Error::other)
        .and_then(|()| pki::write(folder))
        .map_err(|error| failed("cannot write the certificates", &error))?;
    println!("wrote ca.pem, server.pem, server.key, client.pem, client.key to {}", folder.display());
    println!("for development only: the CA's key is not kept, and nothing here secures anything");
    Ok(())
}

async fn play(folder: &Path, keep: bool) -> Result<(), CommandError> {
    let io = |error: io::Error| failed("the demo's upstreams cannot start", &error);
    let first = Upstream::start("first", folder).await.map_err(io)?;
    let second = Upstream::start("second", folder).await.map_err(io)?;
    let config = configure(folder, [first.address(), second.address()])?;
    let running = |error: &dyn std::error::Error| CommandError::Running(error.to_string());
    let log = Log::install(&config.log).map_err(|error| running(&error))?;
    let running = RunningDaemon::start(config, log).map_err(|error| running(&error))?;
    let admin_state = running.admin_state();
    let local = local(admin_state)?;
    println!("plaintext  {local}  ->  mTLS  first {} , second {}", first.address(), second.address());
    if let Some(admin) = admin_state.view.get().admin {
        println!("status     http://{admin}/status  http://{admin}/metrics");
    }

    println!("\n{CLIENTS} clients talk through the plaintext port, {ECHOES} echoes each");
    let mut traffic =
        Traffic::open(local, CLIENTS).await.map_err(|error| failed("a client failed", &error))?;
    let before = traffic.echo(ECHOES).await;
    report(&before, &first, &second);
    expect(before.broken == 0, "a client broke while both upstreams were well")?;

    println!("\nthe first upstream stops while these sessions live; its own end, the others go on");
    let on_first = first.sessions();
    first.stop().await;
    let during = traffic.echo(ECHOES).await;
    println!("  {} of {CLIENTS} sessions ended with it, {} went on", during.broken, CLIENTS - during.broken);
    expect(during.broken == on_first, "sessions of the second upstream ended with the first")?;

    println!("\n{CLIENTS} new clients connect; the first upstream is still in the list and is tried");
    let mut newcomers =
        Traffic::open(local, CLIENTS).await.map_err(|error| failed("a new client failed", &error))?;
    let after = newcomers.echo(ECHOES).await;
    report(&after, &first, &second);
    expect(after.broken == 0, "a new client noticed the stopped upstream")?;
    println!("  all new sessions went to the other upstream: no client noticed");

    if keep {
        println!("\nstill running: talk to {local}, ctrl-C to stop");
        tokio::signal::ctrl_c().await.map_err(|error| failed("cannot wait for ctrl-C", &error))?;
    }
    drop((traffic, newcomers));
    let stopped = running.stop().await;
    println!("\nstopped; sessions cut: {}", stopped.forced);
    Ok(())
}

fn report(measured: &traffic::Measured, first: &Upstream, second: &Upstream) {
    println!("  sessions now: first {}, second {}", first.sessions(), second.sessions());
    println!(
        "  connect to first echo {} (median of {}), echo {} (median), {} (99 %)",
        micros(measured.connect),
        CLIENTS,
        micros(measured.echo),
        micros(measured.echo_99)
    );
}

fn micros(duration: Duration) -> String {
    format!("{} µs", duration.as_micros())
}

/// A configuration as a user would write it, with ports from the kernel.
fn configure(folder: &Path, upstreams: [SocketAddr; 2]) -> Result<Config, CommandError> {
    let [first, second] = upstreams;
    let text = format!(
        "admin: {{ bind: '127.0.0.1:0', control: 'off' }}\n\
         log: {{ level: error }}\n\
         runtime: {{ workers: 1 }}\n\
         shutdown: {{ drain_timeout: 2s }}\n\
         listeners:\n  demo: {{ bind: '127.0.0.1:0', cluster: upstreams }}\n\
         clusters:\n  upstreams:\n    protocol: tcp\n    endpoints: ['{first}', '{second}']\n    \
         tls: {{ ca: ca.pem, cert: client.pem, key: client.key, server_name: localhost }}\n"
    );
    let file = folder.join("listeners.yaml");
    std::fs::write(&file, text).map_err(|error| failed("cannot write the demo's configuration", &error))?;
    Config::load(&file).map_err(CommandError::Config)
}

fn local(admin_state: &AdminState) -> Result<SocketAddr, CommandError> {
    let view = admin_state.view.get();
    let addresses = view.listeners.iter().flat_map(|listener| &listener.addresses);
    let mut tcp = addresses.filter_map(|address| match address {
        LocalAddress::Tcp(address) => Some(*address),
        LocalAddress::Unix(_) => None,
    });
    tcp.next().ok_or_else(|| CommandError::Running("the demo's listener has no address".into()))
}

fn expect(holds: bool, otherwise: &str) -> Result<(), CommandError> {
    if holds { Ok(()) } else { Err(CommandError::Running(otherwise.into())) }
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> CommandError {
    CommandError::Running(format!("{what}: {error}"))
}

/// A private folder, removed on drop with everything in it.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> io::Result<Self> {
        let nanos = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let folder = std::env::temp_dir().join(format!("ambassador-demo-{}-{nanos}", std::process::id()));
        // It has keys: no other user may read it, and a folder that exists already may be another user's.
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // At worst it stays in the temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
