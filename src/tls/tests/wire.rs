//! A connection in memory whose every call can be cut short, delayed or made to fail, which no socket of loopback can.
//!
//! The fuzz target of relays uses this file, too. The peer does nothing by itself: the test moves it.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::sys::{Socket, Transport};

#[derive(Debug)]
pub(crate) struct Wire(Rc<RefCell<State>>);

/// The other end, and the control of the connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer(Rc<RefCell<State>>);

/// How a direction ends, after all data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Orderly,
    Failed(i32),
}

/// One of the calls that may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Recv,
    Send,
}

#[derive(Debug)]
struct State {
    /// Sent by the peer, not read yet.
    said: VecDeque<u8>,
    said_end: Option<End>,
    /// Sent to the peer, not received yet.
    received: VecDeque<u8>,
    /// How many bytes may wait for the peer.
    window: usize,
    /// How many bytes one call may move.
    portion: usize,
    /// Whether each call has to be made twice: the first returns pending.
    halts: bool,
    has_halted: bool,
    /// Which call fails, after how many of its kind that succeed, and with which errno.
    fault: Option<(Call, usize, i32)>,
    has_failed: bool,
    /// Sends fail from now on.
    refuses: Option<i32>,
    finished: bool,
    aborted: bool,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Both ends; every call moves everything, and nothing fails.
pub(crate) fn wire() -> (Wire, Peer) {
    let state = Rc::new(RefCell::new(State {
        said: VecDeque::new(),
        said_end: None,
        received: VecDeque::new(),
        window: usize::MAX,
        portion: usize::MAX,
        halts: false,
        has_halted: false,
        fault: None,
        has_failed: false,
        refuses: None,
        finished: false,
        aborted: false,
        closed: false,
        reader: None,
        writer: None,
    }));
    (Wire(Rc::clone(&state)), Peer(state))
}

impl State {
    /// Whether this call returns pending.
    fn halt(&mut self, cx: &Context<'_>) -> bool {
        if self.halts {
            self.has_halted = !self.has_halted;
            if self.has_halted {
                cx.waker().wake_by_ref();
            }
        }
        self.halts && self.has_halted
    }

    /// Counts a call that is about to succeed, or fails it.
    fn meets_fault(&mut self, call: Call) -> io::Result<()> {
        match &mut self.fault {
            Some((of, 0, errno)) if *of == call => {
                self.has_failed = true;
                return Err(io::Error::from_raw_os_error(*errno));
            }
            Some((of, left, _)) if *of == call => *left -= 1,
            _ => {}
        }
        Ok(())
    }

    fn recv(&mut self, cx: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.said.is_empty() && self.said_end.is_none() && !matches!(self.fault, Some((Call::Recv, 0, _)))
        {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.halt(cx) {
            return Poll::Pending;
        }
        self.meets_fault(Call::Recv)?;
        match self.said_end {
            Some(End::Orderly) if self.said.is_empty() => return Poll::Ready(Ok(0)),
            Some(End::Failed(errno)) if self.said.is_empty() => {
                return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
            }
            _ => {}
        }
        let most = buffer.len().min(self.portion).min(self.said.len());
        for (place, byte) in buffer.iter_mut().zip(self.said.drain(..most)) {
            *place = byte;
        }
        Poll::Ready(Ok(most))
    }

    fn send(&mut self, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // As in the kernel: nothing can be sent after the end.
        if let Some(errno) = self.refuses.or_else(|| self.finished.then_some(EPIPE)) {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        let room = self.window.saturating_sub(self.received.len());
        if room == 0 {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.halt(cx) {
            return Poll::Pending;
        }
        self.meets_fault(Call::Send)?;
        let most = bytes.len().min(self.portion).min(room);
        self.received.extend(&bytes[..most]);
        Poll::Ready(Ok(most))
    }
}

impl Transport for Wire {
    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().recv(cx, buffer)
    }

    fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().send(cx, bytes)
    }

    fn finish(&self) {
        self.0.borrow_mut().finished = true;
    }

    fn abort(&self) {
        self.0.borrow_mut().aborted = true;
    }

    fn peer(&self) -> Option<SocketAddr> {
        None
    }

    fn socket(&self) -> Option<&Socket> {
        None
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.borrow_mut().closed = true;
    }
}

#[allow(dead_code, reason = "who has this file uses its part of it")]
impl Peer {
    fn state(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }

    fn wake(mut state: RefMut<'_, State>) {
        let wakers = [state.reader.take(), state.writer.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Sends bytes to us, unless its direction has ended.
    pub(crate) fn send(&self, bytes: &[u8]) {
        let mut state = self.state();
        if state.said_end.is_none() {
            state.said.extend(bytes);
        }
        Self::wake(state);
    }

    /// Ends its direction; only the first end counts.
    pub(crate) fn end(&self, end: End) {
        let mut state = self.state();
        state.said_end.get_or_insert(end);
        Self::wake(state);
    }

    /// Receives what was sent to it.
    pub(crate) fn receive(&self, most: usize) -> Vec<u8> {
        let mut state = self.state();
        let most = most.min(state.received.len());
        let received = state.received.drain(..most).collect();
        Self::wake(state);
        received
    }

    /// Makes sends fail from now on.
    pub(crate) fn refuse(&self, errno: i32) {
        let mut state = self.state();
        state.refuses = Some(errno);
        Self::wake(state);
    }

    /// Sets how many bytes may wait for it.
    pub(crate) fn set_window(&self, window: usize) {
        let mut state = self.state();
        state.window = window;
        Self::wake(state);
    }

    /// Sets how much a call moves, and whether only every second call does.
    pub(crate) fn set_portion(&self, portion: usize, halts: bool) {
        let mut state = self.state();
        (state.portion, state.halts) = (portion, halts);
    }

    /// Makes a call fail, after that many of its kind that succeed.
    pub(crate) fn set_fault(&self, call: Call, after: usize, errno: i32) {
        self.state().fault = Some((call, after, errno));
    }

    /// Whether the call set to fail was made.
    pub(crate) fn has_failed(&self) -> bool {
        self.state().has_failed
    }

    /// What it has not received yet.
    pub(crate) fn waiting(&self) -> Vec<u8> {
        self.state().received.iter().copied().collect()
    }

    /// How many bytes it sent that were not read.
    pub(crate) fn unread(&self) -> usize {
        self.state().said.len()
    }

    /// Whether everything was read and received.
    pub(crate) fn is_quiet(&self) -> bool {
        self.state().said.is_empty() && self.state().received.is_empty()
    }

    /// How our direction has ended, if it has; unreceived bytes come before the end.
    pub(crate) fn ended(&self) -> Option<End> {
        let state = self.state();
        match (state.aborted && state.closed, state.finished || state.closed) {
            (true, _) => Some(End::Failed(ECONNRESET)),
            (false, true) => Some(End::Orderly),
            (false, false) => None,
        }
    }

    /// Whether the connection is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed
    }
}

/// An error that does not occur by itself.
#[allow(dead_code, reason = "who has this file uses its part of it")]
pub(crate) const EIO: i32 = 5;
pub(crate) const EPIPE: i32 = 32;
pub(crate) const ECONNRESET: i32 = 104;

/// More than any test here needs.
const POLLS_MAX: usize = 4_000_000;

/// A future that is polled only when it was woken, although it shares a task with others.
pub(crate) struct Woken<F> {
    future: Pin<Box<F>>,
    woken: Arc<Flag>,
    /// The number of polls.
    pub(crate) polls: usize,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<F: Future> Woken<F> {
    pub(crate) fn new(future: F) -> Self {
        Self { future: Box::pin(future), woken: Arc::new(Flag(AtomicBool::new(true))), polls: 0 }
    }

    /// Polls it until it is done, or waits for an event that has not happened.
    pub(crate) async fn run(&mut self) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(&self.woken));
        while self.woken.0.swap(false, Ordering::Relaxed) {
            self.polls += 1;
            assert!(self.polls < POLLS_MAX, "it wakes itself for ever");
            if let Poll::Ready(output) = self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Poll::Ready(output);
            }
            // A future that yielded is woken by the runtime after all others had a turn.
            tokio::task::yield_now().await;
        }
        Poll::Pending
    }
}
