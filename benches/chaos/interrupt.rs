//! Ctrl-C and SIGTERM: noted, so that children and files are removed as at an orderly end.
//!
//! Lacks a forced exit: for that there is SIGKILL, and the kernel then ends the children.
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

static CAME: AtomicBool = AtomicBool::new(false);

pub(crate) fn came() -> bool {
    CAME.load(Ordering::Relaxed)
}

/// From now on such a signal is noted, and no longer ends the process.
pub(crate) fn watch() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                CAME.store(true, Ordering::Relaxed);
            }
        });
    });
    Ok(())
}
