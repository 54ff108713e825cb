//! The schedule: commands to endpoints, changes of membership, renamings; and from them the spans in which an endpoint
//! is at fault.
//!
//! Lacks a clock: moments count from the start of a scenario.
use std::fmt;
use std::time::Duration;

use clap::ValueEnum;

/// How an endpoint behaves while it lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Mode {
    Well,
    /// A reset as soon as it has accepted.
    Reset,
    /// The end of the stream right after the handshake.
    Early,
    /// A certificate of a CA that nobody trusts.
    WrongCert,
    /// Two seconds before the handshake.
    Slow,
    /// SYNs go unanswered: its accept queue is full.
    Blackhole,
    /// It reads some 250 KB/s and answers nothing.
    SlowReader,
    /// It turns sessions away, politely, when it has one already.
    Full,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    Kill,
    Start,
    /// SIGSTOP: the kernel still accepts for it.
    Stop,
    Continue,
    Be(Mode),
}

impl Order {
    /// Whether it ends the fault.
    fn heals(self) -> bool {
        matches!(self, Self::Start | Self::Continue | Self::Be(Mode::Well))
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    Tell(Order, Vec<usize>),
    /// The configuration has these endpoints from now on, and the proxy reloads it.
    Members(Vec<usize>),
    /// The name resolves to this endpoint from now on.
    Rename(usize),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Event {
    pub(crate) at: Duration,
    pub(crate) act: Act,
}

/// A span in which an endpoint is at fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    pub(crate) endpoint: usize,
    pub(crate) from: Duration,
    /// Absent: until the end of the scenario.
    pub(crate) to: Option<Duration>,
}

pub(crate) fn event(at: f64, act: Act) -> Event {
    Event { at: Duration::from_secs_f64(at), act }
}

/// From `on` to `off` these endpoints are at fault.
pub(crate) fn fault(on: f64, off: f64, order: Order, endpoints: &[usize]) -> [Event; 2] {
    let undo = match order {
        Order::Kill | Order::Start => Order::Start,
        Order::Stop | Order::Continue => Order::Continue,
        Order::Be(_) => Order::Be(Mode::Well),
    };
    [event(on, Act::Tell(order, endpoints.to_vec())), event(off, Act::Tell(undo, endpoints.to_vec()))]
}

/// The spans of each endpoint.
pub(crate) fn windows(events: &[Event]) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    for Event { at, act } in events {
        let Act::Tell(order, endpoints) = act else { continue };
        for &endpoint in endpoints {
            let open = windows.iter_mut().find(|window| window.endpoint == endpoint && window.to.is_none());
            match open {
                Some(open) if order.heals() => open.to = Some(*at),
                None if !order.heals() => windows.push(Window { endpoint, from: *at, to: None }),
                _ => {}
            }
        }
    }
    windows
}

/// In readable form: `4.0s kill 1`.
impl fmt::Display for Event {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |of: &[usize]| of.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        write!(out, "{:.1}s ", self.at.as_secs_f64())?;
        match &self.act {
            Act::Tell(Order::Kill, who) => write!(out, "kill {}", list(who)),
            Act::Tell(Order::Start, who) => write!(out, "start {}", list(who)),
            Act::Tell(Order::Stop, who) => write!(out, "stop {}", list(who)),
            Act::Tell(Order::Continue, who) => write!(out, "continue {}", list(who)),
            Act::Tell(Order::Be(mode), who) => write!(out, "{} {}", mode.word(), list(who)),
            Act::Members(who) => write!(out, "members {}", list(who)),
            Act::Rename(who) => write!(out, "the name is {who}'s"),
        }
    }
}

impl Mode {
    /// The word on the command line of an endpoint, and in its commands.
    pub(crate) fn word(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
