//! Mail: Postfix's smtp-source as a child process, one session per message.
//!
//! A message is six small round trips and 4 KiB. Lacks sessions with several messages: those would repeat the
//! round-trip rows.
use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Course, Reading};
use crate::programs::find;

/// The number of messages in a span follows from its speed.
const WARM_UP: u32 = 64;

/// As in the rows of short sessions: a closed port is unusable for a time, and a round must not use up all ports.
const MESSAGES_AT_MOST: f64 = 20_000.0;

pub(super) fn run(course: &Course<'_>, at_once: usize) -> io::Result<Reading> {
    let took = send(course.target, at_once, WARM_UP)?;
    let in_span = f64::from(WARM_UP) * course.span.measured.as_secs_f64() / took.as_secs_f64();
    let messages = in_span.clamp(f64::from(WARM_UP), MESSAGES_AT_MOST) as u32;
    let before = course.meter.cpu()?;
    let wall = send(course.target, at_once, messages)?;
    let cpu = course.meter.cpu()?.saturating_sub(before);
    Ok(Reading { cpu, wall, units: f64::from(messages), ..Reading::default() })
}

fn send(to: SocketAddr, at_once: usize, messages: u32) -> io::Result<Duration> {
    let program = find("smtp-source").ok_or_else(|| io::Error::other("not installed: smtp-source"))?;
    let since = Instant::now();
    // If a proxy lost an answer, it would hang for minutes.
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", "60"]).arg(program).args(["-4", "-M", "localhost", "-l", "4096"]);
    command.args(["-s", &at_once.to_string(), "-m", &messages.to_string(), &to.to_string()]);
    let output = command.output()?;
    if output.status.success() {
        return Ok(since.elapsed());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(said.lines().last().unwrap_or("smtp-source did not end in time").to_owned()))
}
