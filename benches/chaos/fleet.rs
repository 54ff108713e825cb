//! An endpoint as the stage sees it: a child that is killed, started, stopped and commanded.
//!
//! Lacks the serving: that is `endpoint`, the child's role.
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::endpoint::OPEN;
use crate::pki::Pki;
use crate::schedule::{Mode, Order};
use crate::speech::Speech;

/// A new child listens within this time, or has failed.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Endpoint {
    pub(crate) at: SocketAddr,
    command: Command,
    child: Option<Child>,
    /// Ready to listen in place of a killed one: starting a program takes longer than some stay dead.
    heir: Option<Child>,
    mode: Mode,
}

impl Endpoint {
    /// `key` is 0 to 9, the first byte of its answers.
    pub(crate) fn start(
        key: usize,
        at: SocketAddr,
        speech: Speech,
        pki: &Pki,
        stranger: &Pki,
    ) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("endpoint").args(["--at", &at.to_string(), "--key", &key.to_string()]);
        command.args(["--speech", speech.word()]);
        command.arg("--pki").arg(pki.folder()).arg("--stranger").arg(stranger.folder());
        let mut endpoint = Self { at, command, child: None, heir: None, mode: Mode::Well };
        endpoint.child = Some(endpoint.spawn(&[])?);
        Ok(endpoint)
    }

    /// Slow work, such as starting a spare child, is left for [`Endpoint::recover`].
    pub(crate) fn tell(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Kill => end(self.child.take()),
            Order::Start if self.child.is_none() => {
                self.child = self.heir.take();
                say(self.child.as_mut(), OPEN)?;
            }
            Order::Start => {}
            Order::Stop => self.signal(Signal::STOP),
            Order::Continue => self.signal(Signal::CONT),
            Order::Be(mode) => {
                self.mode = mode;
                say(self.child.as_mut(), &mode.word())?;
                say(self.heir.as_mut(), &mode.word())?;
            }
        }
        Ok(())
    }

    /// After commands: starts a spare child if the endpoint was killed.
    pub(crate) fn recover(&mut self) -> io::Result<()> {
        if self.child.is_none() && self.heir.is_none() {
            self.heir = Some(self.spawn(&["--held"])?);
        }
        Ok(())
    }

    /// Waits until a process listens there.
    pub(crate) fn await_listening(&self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match TcpStream::connect(self.at) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(Duration::from_millis(5)),
            }
        }
    }

    fn spawn(&self, more: &[&str]) -> io::Result<Child> {
        let mut command = Command::new(self.command.get_program());
        command.args(self.command.get_args()).args(["--mode", &self.mode.word()]).args(more);
        // Its errors on stderr belong among the stage's output.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            // A child that has ended meanwhile does not need it.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        end(self.child.take());
        end(self.heir.take());
    }
}

/// Only its death matters.
fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        drop(child.kill());
        drop(child.wait());
    }
}

fn say(child: Option<&mut Child>, word: &str) -> io::Result<()> {
    child.and_then(|child| child.stdin.as_mut()).map_or(Ok(()), |stdin| writeln!(stdin, "{word}"))
}
