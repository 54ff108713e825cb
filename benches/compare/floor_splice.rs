//! The floor of the bulk rows: splice(2) through a pipe, one blocking thread for each direction, so that it does
//! nothing but move bytes.
//!
//! Lacks an answer for many sessions (a thread and a pipe for each direction of each) and any care
//! for small messages; it is a limit to be compared with, not a design.
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::socket::{dial, listen};

pub(crate) fn run(listen_at: SocketAddr, upstream: SocketAddr, pipe_size: usize) -> io::Result<()> {
    let listener = listen(listen_at)?;
    loop {
        let (downstream, _) = listener.accept()?;
        downstream.set_nodelay(true)?;
        let Ok(upstream) = dial(upstream) else { continue };
        let (downstream, upstream) = (Arc::new(downstream), Arc::new(upstream));
        for (from, to) in [(&downstream, &upstream), (&upstream, &downstream)] {
            let (from, to) = (Arc::clone(from), Arc::clone(to));
            let pipe = pipe_of(pipe_size)?;
            thread::spawn(move || carry(&from, &to, &pipe, pipe_size));
        }
    }
}

fn pipe_of(size: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let pipe = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setpipe_size(&pipe.1, size)?;
    Ok(pipe)
}

/// Until `from` ends or either side breaks; then `to` is shut down.
fn carry(from: &TcpStream, to: &TcpStream, (outlet, inlet): &(OwnedFd, OwnedFd), most: usize) {
    let mut in_pipe = 0;
    loop {
        let moved = if in_pipe == 0 {
            splice(from, None, inlet, None, most, SpliceFlags::MOVE).inspect(|&came| in_pipe = came)
        } else {
            splice(outlet, None, to, None, in_pipe, SpliceFlags::MOVE).inspect(|&went| in_pipe -= went)
        };
        match moved {
            Ok(0) | Err(_) if moved != Err(Errno::INTR) => break,
            _ => {}
        }
    }
    // Already closed when the other direction broke first.
    let _ = to.shutdown(Shutdown::Write);
}
