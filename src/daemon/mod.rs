//! Builds everything from a [`Config`], starts it, changes it when the file has changed, and stops it.
//!
//! Settings before sockets, sockets before ready: when [`RunningDaemon::start`] returns, every listener accepts.

mod active_config;
mod clusters;
mod confinement;
mod draining;
mod listeners;
mod log_orders;
mod notify;
mod reload;
mod reloading;
mod restart;
mod services;
mod signals;
mod sockets;
mod start;
mod startup_log;
mod stopping;
mod watchdog;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::admin::Command;
use crate::config::Config;
use crate::log::Log;
use crate::metrics;
use crate::sys::Launcher;

pub(crate) use confinement::ProcessConfinement;
pub(crate) use sockets::make_folders;
pub(crate) use start::{RunningDaemon, StartError};

use notify::Notice;
use reloading::PendingReload;
use restart::{Handover, Reporter};
use signals::{DaemonEvent, Signals};

/// Runs until SIGTERM or SIGINT, then drains. The caller has set up the log. `launcher`: starts a successor, if there
/// is one. `confined`: how file access was restricted.
///
/// # Errors
/// When it cannot start; a daemon that has started ends without an error.
pub(crate) async fn run(
    config: Config,
    log: Log,
    launcher: io::Result<Launcher>,
    confined: ProcessConfinement,
) -> Result<(), StartError> {
    let launcher = launcher.map(Arc::new);
    if let Err(error) = &launcher {
        tracing::warn!(%error, "SIGUSR2 will not work: the process that starts a successor cannot be forked");
    }
    let mut signals = Signals::install()?;
    let mut running = RunningDaemon::start(config, log)?;
    confined.log();
    running.file_access = confined.file_access();
    running.take_over();
    let mut handover: Option<Handover> = None;
    let mut reloading = PendingReload::default();
    let stop = loop {
        let removal = running.active.next_removal();
        let event = tokio::select! {
            biased;
            event = signals.next() => event,
            successor = wait_ready(&mut handover) => DaemonEvent::Succeeded(successor),
            reloaded = reloading.finish(&mut running.active) => DaemonEvent::Reloaded(reloaded),
            Some(command) = running.commands.recv() => DaemonEvent::Ordered(command),
            () = removal => DaemonEvent::Removal,
        };
        match event {
            DaemonEvent::Stop(signal) => break signal,
            DaemonEvent::Removal => running.active.remove_drained(),
            DaemonEvent::Reload => running.reload(&mut reloading, None),
            DaemonEvent::Reopen => running.reopen_log(),
            DaemonEvent::Ordered(Command::Reload(answer)) => running.reload(&mut reloading, Some(answer)),
            DaemonEvent::Reloaded(reloaded) => running.finish_reload(&mut reloading, &reloaded),
            DaemonEvent::Ordered(Command::LogLevel(level, lasting, answer)) => {
                running.override_log_level(level, lasting);
                let _ = answer.send(());
            }
            DaemonEvent::Ordered(Command::Drain(answer)) => {
                let _ = answer.send(());
                break "POST /drain";
            }
            DaemonEvent::Replace if handover.is_some() => tracing::warn!("a successor is starting already"),
            DaemonEvent::Replace => {
                handover = match &launcher {
                    Ok(launcher) => {
                        let (sockets, services) = (running.active.sockets(), running.active.services());
                        Handover::begin(&sockets, services, &running.predecessors, launcher)
                    }
                    Err(error) => {
                        tracing::error!(%error, "no successor: the process that starts one could not be forked; restart instead");
                        metrics::record_replacement(false);
                        None
                    }
                };
            }
            DaemonEvent::Succeeded(None) => {
                handover = None;
                running.admin_state.handing_over.store(false, Ordering::Release);
                running.predecessors.pause(false);
            }
            DaemonEvent::Succeeded(Some(successor)) => {
                let reporter = handover.take().map(|handover| Reporter::to(handover.into_report_pipe()));
                drop(reloading);
                // The launcher's end makes the successor our supervisor's child, before the supervisor is told of it.
                drop(launcher);
                running.retire(successor, reporter, &mut signals).await;
                return Ok(());
            }
        }
    };
    // Dropping it answers pending reload requests with an error.
    drop(reloading);
    if let Some(handover) = handover {
        handover.abandon();
    }
    tracing::info!(by = stop, "stopping");
    notify::send(&Notice::Stopping);
    RunningDaemon::or_exit(running.stop(), &mut signals).await;
    Ok(())
}

/// The end of a handover; never, where there is none.
async fn wait_ready(handover: &mut Option<Handover>) -> Option<u32> {
    match handover {
        Some(handover) => handover.wait_ready().await,
        None => std::future::pending().await,
    }
}
