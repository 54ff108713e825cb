//! What is made of files once, for all that have the same content: a host's certificate and its CAs are named by each of
//! its clusters.
//!
//! The files are read each time, so content is never older than the reading; what costs is to parse and to keep it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use crate::digest::Digest;
use crate::sync::Mutex;

/// What is in use, by the digest of all that it is made of.
pub(super) struct SharedContent<V>(Mutex<Known<V>>);

struct Known<V> {
    by_digest: BTreeMap<Digest, Weak<V>>,
    /// At this size it is looked through for what is no longer in use.
    sweep_at: usize,
}

/// The least of [`Known::sweep_at`].
const SWEEP_LEAST: usize = 16;

impl<V> SharedContent<V> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Known { by_digest: BTreeMap::new(), sweep_at: SWEEP_LEAST }))
    }

    /// What is made of that content: the one in use, or a new one.
    ///
    /// # Errors
    /// Those of `make`; nothing is kept of them.
    pub(super) fn of<E>(&self, content: Digest, make: impl FnOnce() -> Result<V, E>) -> Result<Arc<V>, E> {
        let known = self.0.lock().by_digest.get(&content).and_then(Weak::upgrade);
        if let Some(known) = known {
            return Ok(known);
        }
        // Without the lock: it may take a millisecond. Who makes the same meanwhile has one of its own.
        let made = Arc::new(make()?);
        let Known { by_digest, sweep_at } = &mut *self.0.lock();
        by_digest.insert(content, Arc::downgrade(&made));
        if by_digest.len() >= *sweep_at {
            by_digest.retain(|_, known| known.strong_count() > 0);
            *sweep_at = SWEEP_LEAST.max(2 * by_digest.len());
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digester;

    fn digest(number: usize) -> Digest {
        let mut digester = Digester::default();
        digester.add(&number.to_le_bytes());
        digester.digest()
    }

    #[test]
    fn the_same_content_is_made_once_while_it_is_in_use() {
        let shared = SharedContent::<usize>::new();
        let mut made = 0;
        let mut of = |number| {
            shared.of(digest(number), || {
                made += 1;
                Ok::<_, ()>(made)
            })
        };
        let first = of(1).unwrap();
        assert!(Arc::ptr_eq(&first, &of(1).unwrap()));
        assert_eq!((*of(2).unwrap(), *first), (2, 1));
        drop(first);
        assert_eq!(*of(1).unwrap(), 3, "nobody had it any more");
        assert_eq!(shared.of(digest(9), || Err("no")), Err("no"));
        assert_eq!(shared.of(digest(9), || Ok::<_, ()>(7)).as_deref(), Ok(&7), "an error is not kept");
    }

    #[test]
    fn what_is_gone_takes_no_room() {
        let shared = SharedContent::<usize>::new();
        let held: Vec<_> =
            (0..20).map(|number| shared.of(digest(number), || Ok::<_, ()>(number)).unwrap()).collect();
        for number in 20..10_000 {
            shared.of(digest(number), || Ok::<_, ()>(number)).unwrap();
            assert!(shared.0.lock().by_digest.len() <= 2 * held.len() + SWEEP_LEAST);
        }
        assert!(held.iter().all(|one| Arc::ptr_eq(one, &shared.of(digest(**one), || Err(())).unwrap())));
    }
}
