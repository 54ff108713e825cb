//! A connection in memory whose every call can be cut short, kept waiting or made to fail, which no socket of loopback can.
//!
//! The fuzz target of relays has this file, too. Lacks any reaction of its peer: whoever holds that end plays it.

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

/// Our end.
#[derive(Debug)]
pub(crate) struct Wire(Rc<RefCell<State>>);

/// The other end, and what happens to the connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer(Rc<RefCell<State>>);

/// How a direction ends, behind what was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Orderly,
    /// An error of that number.
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
    /// Said by the peer, not read yet.
    said: VecDeque<u8>,
    said_end: Option<End>,
    /// Sent to the peer, not taken yet.
    heard: VecDeque<u8>,
    /// How many bytes wait for the peer at most.
    window: usize,
    /// What one call moves at most.
    portion: usize,
    /// Whether each call has to be made twice: at first nothing is ready.
    halts: bool,
    has_halted: bool,
    /// Which call fails for good, after how many of its kind that do not, and how.
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

/// Both ends; all is moved at once, and nothing fails.
pub(crate) fn wire() -> (Wire, Peer) {
    let state = Rc::new(RefCell::new(State {
        said: VecDeque::new(),
        said_end: None,
        heard: VecDeque::new(),
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
    /// Whether this call has to wait for another.
    fn halt(&mut self, cx: &Context<'_>) -> bool {
        if self.halts {
            self.has_halted = !self.has_halted;
            if self.has_halted {
                cx.waker().wake_by_ref();
            }
        }
        self.halts && self.has_halted
    }

    /// Counts a call that is about to be answered.
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
        // As the kernel has it: an end is the last thing that is sent.
        if let Some(errno) = self.refuses.or_else(|| self.finished.then_some(EPIPE)) {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        let room = self.window.saturating_sub(self.heard.len());
        if room == 0 {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.halt(cx) {
            return Poll::Pending;
        }
        self.meets_fault(Call::Send)?;
        let most = bytes.len().min(self.portion).min(room);
        self.heard.extend(&bytes[..most]);
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

    /// Says something, unless it has ended.
    pub(crate) fn say(&self, bytes: &[u8]) {
        let mut state = self.state();
        if state.said_end.is_none() {
            state.said.extend(bytes);
        }
        Self::wake(state);
    }

    /// Ends its direction; the first end counts.
    pub(crate) fn end(&self, end: End) {
        let mut state = self.state();
        state.said_end.get_or_insert(end);
        Self::wake(state);
    }

    /// Takes what was sent to it.
    pub(crate) fn hear(&self, most: usize) -> Vec<u8> {
        let mut state = self.state();
        let most = most.min(state.heard.len());
        let heard = state.heard.drain(..most).collect();
        Self::wake(state);
        heard
    }

    /// From now on sends fail.
    pub(crate) fn refuse(&self, errno: i32) {
        let mut state = self.state();
        state.refuses = Some(errno);
        Self::wake(state);
    }

    /// Lets so many bytes wait for it.
    pub(crate) fn set_window(&self, window: usize) {
        let mut state = self.state();
        state.window = window;
        Self::wake(state);
    }

    /// Lets a call move so much, every second time it is made or every time.
    pub(crate) fn set_portion(&self, portion: usize, halts: bool) {
        let mut state = self.state();
        (state.portion, state.halts) = (portion, halts);
    }

    /// Makes a call fail, after so many that do not.
    pub(crate) fn set_fault(&self, call: Call, after: usize, errno: i32) {
        self.state().fault = Some((call, after, errno));
    }

    /// Whether that call was made.
    pub(crate) fn has_failed(&self) -> bool {
        self.state().has_failed
    }

    /// What waits for it.
    pub(crate) fn waiting(&self) -> Vec<u8> {
        self.state().heard.iter().copied().collect()
    }

    /// What it said and nobody read.
    pub(crate) fn unread(&self) -> usize {
        self.state().said.len()
    }

    /// Whether all is read, and what was sent to it taken.
    pub(crate) fn is_quiet(&self) -> bool {
        self.state().said.is_empty() && self.state().heard.is_empty()
    }

    /// How our direction has ended for it, if it has; what it has not taken yet comes before that.
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

/// An error that no connection has by itself.
#[allow(dead_code, reason = "who has this file uses its part of it")]
pub(crate) const EIO: i32 = 5;
pub(crate) const EPIPE: i32 = 32;
pub(crate) const ECONNRESET: i32 = 104;

/// More than anything here takes.
const POLLS_MAX: usize = 4_000_000;

/// A future that is polled when it was woken, and by nothing else, with others in the same task.
pub(crate) struct Woken<F> {
    future: Pin<Box<F>>,
    woken: Arc<Flag>,
    /// So many times in all.
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

    /// Polls it until it is done, or waits for something that has not happened.
    pub(crate) async fn run(&mut self) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(&self.woken));
        while self.woken.0.swap(false, Ordering::Relaxed) {
            self.polls += 1;
            assert!(self.polls < POLLS_MAX, "it wakes itself for ever");
            if let Poll::Ready(output) = self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Poll::Ready(output);
            }
            // Who asked for another turn is woken by the runtime once everybody had one.
            tokio::task::yield_now().await;
        }
        Poll::Pending
    }
}
