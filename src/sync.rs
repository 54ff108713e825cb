//! A mutex without poisoning: every holder leaves the guarded value consistent, and a panic ends only its own task
//! (docs/ARCHITECTURE.md).

pub(crate) use std::sync::MutexGuard;
use std::sync::PoisonError;

/// [`std::sync::Mutex`], whose lock cannot fail.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T: ?Sized>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_one_holder_locks_nobody_out() {
        let counter = Mutex::new(1);
        let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            *counter.lock() += 1;
            let _guard = counter.lock();
            panic!("while it is held");
        }));
        assert!(held.is_err());
        assert_eq!(*counter.lock(), 2);
    }
}
