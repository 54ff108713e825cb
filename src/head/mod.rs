//! Heads: what a client, or another proxy before us, sends about a connection in front of its bytes. PURE: bytes in,
//! values out.
//!
//! A head is read strictly, in any portions, up to a bound of bytes; what follows it belongs to the session and is
//! never taken. Timeouts are the driver's (`downstream::read_head`), and which peers may send a head is the session's
//! decision.

pub(crate) mod connect;
pub(crate) mod proxy;

/// What a reader makes of the next bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress<T> {
    /// All of them belong to the head, and more have to follow.
    Incomplete,
    /// The head is complete.
    Whole {
        /// What the head says.
        head: T,
        /// How many of the last bytes belong to it; those after them are the session's.
        taken: usize,
    },
}

/// Reads one kind of head.
pub trait HeadReader {
    /// The content of a head.
    type Head;
    /// Why the bytes are not such a head.
    type Error;

    /// Takes the next bytes, at least one.
    ///
    /// # Errors
    /// When the bytes are not such a head.
    fn receive(&mut self, bytes: &[u8]) -> Result<Progress<Self::Head>, Self::Error>;
}
