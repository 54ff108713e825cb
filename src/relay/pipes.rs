//! The worker's spare pipes. A session borrows one while a bulky flow moves and gives it back empty as soon
//! as the flow pauses, so an idle session holds none.

use std::cell::RefCell;

use crate::sys::Pipe;

/// Spares kept per worker; each is two descriptors.
const SPARES: usize = 16;
/// Wide pipes lent at once per worker. Together they stay under `pipe-user-pages-soft` (64 MiB), past which
/// the kernel makes an unprivileged user's new pipes one page small.
const WIDE: usize = 24;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { spare: Vec::new(), wide: 0 }) };
}

struct Pool {
    spare: Vec<Pipe>,
    /// Wide pipes that exist, spare or lent.
    wide: usize,
}

/// A pipe for a while. Dropped empty it goes back to the worker; dropped with bytes inside it is closed.
#[derive(Debug)]
pub(super) struct Loan(Option<Pipe>);

impl Loan {
    /// An empty pipe; `None` when the process has no descriptors left, in which case the flow is copied.
    pub(super) fn borrow() -> Option<Self> {
        POOL.with_borrow_mut(|pool| {
            let pipe = match pool.spare.pop() {
                Some(pipe) => pipe,
                None => {
                    let pipe = Pipe::new(pool.wide < WIDE).ok()?;
                    pool.wide += usize::from(pipe.is_wide());
                    pipe
                }
            };
            Some(Self(Some(pipe)))
        })
    }

    pub(super) fn pipe(&mut self) -> &mut Pipe {
        self.0.as_mut().expect("a loan has its pipe until it is dropped")
    }

    pub(super) fn held(&self) -> usize {
        self.0.as_ref().map_or(0, Pipe::held)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(pipe) = self.0.take() else { return };
        POOL.with_borrow_mut(|pool| {
            if pipe.held() == 0 && pool.spare.len() < SPARES {
                pool.spare.push(pipe);
            } else {
                pool.wide -= usize::from(pipe.is_wide());
            }
        });
    }
}
