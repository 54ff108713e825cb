//! Idle sessions: each has exchanged one message, then rests; measures the growth of the proxy.
//!
//! The first session is not counted: it loads code and tables that every later one shares. Lacks rounds: memory does
//! not drift with the machine.
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Course, Reading, open};
use crate::wire::{Ask, FILL};

const MESSAGE: usize = 64;

/// For buffers that a proxy frees only after a while.
const REST: Duration = Duration::from_secs(2);

pub(super) fn run(course: &Course<'_>, sessions: usize) -> io::Result<Reading> {
    let meter = course.meter;
    let first = exchange(course.target)?;
    let rest = REST.min(4 * course.span.measured);
    sleep(rest);
    let (since, cpu, before) = (Instant::now(), meter.cpu()?, meter.memory()?);
    let held = (0..sessions).map(|_| exchange(course.target)).collect::<io::Result<Vec<TcpStream>>>()?;
    sleep(rest);
    let memory = meter.memory()?.saturating_sub(before);
    let (wall, cpu) = (since.elapsed(), meter.cpu()?.saturating_sub(cpu));
    drop(first);
    Ok(Reading { cpu, wall, units: held.len() as f64, memory, ..Reading::default() })
}

fn exchange(target: SocketAddr) -> io::Result<TcpStream> {
    let mut session = open(target, Ask::Echo(MESSAGE))?;
    session.write_all(&FILL[..MESSAGE])?;
    session.read_exact(&mut [0; MESSAGE])?;
    Ok(session)
}
