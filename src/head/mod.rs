//! Heads: what a client, or another proxy before us, says about a connection in front of its bytes. PURE: bytes in,
//! values out.
//!
//! A head is read strictly, in any portions, within a bound of bytes; what follows it belongs to the session and is
//! never taken. Who waits for how long, and who may send one at all, is the driver's (`downstream::read_head`).

pub(crate) mod connect;
pub(crate) mod proxy;

/// What a reader makes of the next bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress<T> {
    /// All of them are the head's, and more have to come.
    Incomplete,
    /// The head is whole.
    Whole {
        /// What it says.
        head: T,
        /// How many of the bytes given last are its own; those behind are the session's.
        taken: usize,
    },
}

/// Reads one kind of head.
pub trait HeadReader {
    /// What it says.
    type Head;
    /// Why it is none.
    type Error;

    /// More bytes, never none, in the order in which they came.
    ///
    /// # Errors
    /// They are no such head.
    fn received(&mut self, bytes: &[u8]) -> Result<Progress<Self::Head>, Self::Error>;
}
