//! What a request does to prepared statements, kept until it is answered: an error before it skips it.

use std::sync::Arc;

use crate::prepared::Statement;

/// What a Parse or Close does to prepared statements.
#[derive(Clone, Debug)]
pub struct Effect {
    /// Creates it, or removes it.
    pub change: Change,
    /// Which.
    pub statement: Arc<Statement>,
    /// The server does it.
    pub on_server: bool,
    /// The name by which the client knows it, if the client did it.
    pub name: Option<Arc<[u8]>>,
    /// How many requests with a ReadyForQuery were sent before: an error skips up to the next one.
    pub group: u64,
}

/// What is done to a prepared statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Parse.
    Created,
    /// Close.
    Removed,
}

/// What a client must know of its prepared statements after replies of its server, one after the other.
#[derive(Clone, Debug)]
pub enum Correction {
    /// This is done.
    Done(Effect),
    /// All are gone: `DEALLOCATE ALL`.
    AllGone,
    /// All are gone, and nothing is listened to: `DISCARD ALL`.
    Discarded,
    /// An error has skipped something.
    Skipped {
        /// These statements were to be created.
        names: Vec<Arc<[u8]>>,
        /// This is still to be done, in this order.
        pending: Vec<Effect>,
    },
}
