//! The worker's spare pipes. A session borrows one while a bulky flow moves and returns it empty as soon as the flow
//! pauses, so an idle session has none.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sys::Pipe;

/// Spare pipes kept per worker, of two descriptors each.
const SPARES: usize = 16;
/// Wide pipes of the process. They stay under `pipe-user-pages-soft` (64 MiB of one user), past which the kernel
/// makes an unprivileged user's new pipes two pages small; the rest is for ordinary ones.
const WIDE: usize = 48;

static WIDE_PIPES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    #[expect(clippy::vec_box, reason = "the box is lent with the pipe: a pointer in the session, and no allocation")]
    static SPARE: RefCell<Vec<Box<Pipe>>> = const { RefCell::new(Vec::new()) };
}

/// A borrowed pipe. Dropped empty, it goes back to the worker; dropped with bytes inside, it is closed.
#[derive(Debug)]
pub(super) struct Loan(Option<Box<Pipe>>);

impl Loan {
    /// An empty pipe; `None` when the process has no descriptors left, in which case the flow is copied.
    pub(super) fn borrow() -> Option<Self> {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        spare.or_else(make).map(|pipe| Self(Some(pipe)))
    }

    pub(super) fn pipe(&mut self) -> &mut Pipe {
        self.0.as_mut().expect("a loan has its pipe until it is dropped")
    }

    pub(super) fn held(&self) -> usize {
        self.0.as_ref().map_or(0, |pipe| pipe.held())
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(pipe) = self.0.take() else { return };
        SPARE.with_borrow_mut(|spare| {
            if pipe.held() == 0 && spare.len() < SPARES {
                spare.push(pipe);
            } else {
                WIDE_PIPES.fetch_sub(usize::from(pipe.is_wide()), Ordering::Relaxed);
            }
        });
    }
}

fn make() -> Option<Box<Pipe>> {
    let claimed = WIDE_PIPES
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |wide| (wide < WIDE).then_some(wide + 1));
    let pipe = Pipe::new(claimed.is_ok());
    if claimed.is_ok() && !pipe.as_ref().is_ok_and(Pipe::is_wide) {
        WIDE_PIPES.fetch_sub(1, Ordering::Relaxed);
    }
    pipe.ok().map(Box::new)
}
