//! The kernel path of Tigger: queries and results that move inside the kernel, without waking a user thread.
//!
//! Where a client or a server is on this host, the *far end* of its connection, the application's or PostgreSQL's own
//! socket, is captured by BPF programs. What it sends is redirected to the other far end, in the sender's context, and
//! neither our sockets nor this process sees it. Whatever the programs do not handle takes the ordinary way, and the
//! process serves it: the kernel path may always say "not me".
//!
//! This is the only crate with unsafe code, clang and kernel knowledge. `src/bpf/intf.h` is the contract with the
//! programs. Without the feature `kernel`, or where the system lacks something, [`Kernel::load`] says why.
//!
//! The programs know clients, servers and pools by slots in memory that both sides map: [`ClientSlot`], [`ServerSlot`]
//! and [`PoolSlot`] own them, and a slot is free again when its owner is dropped.

#[cfg(not(feature = "kernel"))]
#[path = "absent.rs"]
mod kernel;
#[cfg(feature = "kernel")]
mod kernel;

pub use kernel::{ClientSlot, Expected, Gate, Kernel, PoolSlot, ServerSlot};

use std::net::SocketAddr;
use std::time::Instant;

/// Why there is no kernel path; one line for the log and the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// How much the kernel path can hold. What does not fit is served by the user path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Clients; at most 2^24 - 1.
    pub clients: u32,
    /// Servers of all pools, in chunks of 64; each pool takes whole chunks.
    pub server_chunks: u32,
    /// Pools.
    pub pools: u32,
}

/// Both ends of a TCP connection to or from this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The application's or PostgreSQL's end.
    pub far: SocketAddr,
    /// Ours.
    pub near: SocketAddr,
}

/// What holds for the clients of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolRules {
    /// The kernel path may link them.
    pub enabled: bool,
    /// A server is kept until its client leaves.
    pub session: bool,
    /// The simple query protocol is allowed.
    pub simple_query: bool,
    /// Prepared statements have other names on servers than with clients: those that the kernel path is told.
    pub prepared: bool,
    /// Queries may be commands that the user path carries out: LISTEN, PREPARE and the like.
    pub commands: bool,
    /// `kernel_path_reply_limit`: bytes that a client may have to read, and that a server gets within one request.
    pub reply_limit: u32,
    /// `max_packet_size`: longest message, in bytes.
    pub packet_len_max: u32,
}

/// What of a client's traffic is the kernel path's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// Requests and replies.
    Both,
    /// Requests: its server was not captured.
    Requests,
    /// Replies: it was not captured itself.
    Replies,
}

/// What the kernel path does for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Nothing, since its last request or reply; `None` if there was none.
    Idle(Option<Instant>),
    /// It is linked to a server that owes nothing and is in no transaction.
    Linked,
    /// Its server works on requests.
    Query {
        /// When they were sent.
        since: Instant,
        /// When the transaction began.
        transaction: Instant,
    },
    /// It is in a transaction, and its server owes nothing.
    InTransaction {
        /// The last reply.
        since: Instant,
        /// When the transaction began.
        transaction: Instant,
    },
}

/// What became of the last reply that the kernel path carried for a client, or from a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is where it should be.
    Done,
    /// Bytes of it may be on their way: whatever is sent now could overtake them.
    InFlight,
    /// A socket took a part of it. The server is about to send the rest, which nobody else may get: its connection is to
    /// be shut down at once.
    Short,
}

/// Where a pair stands that was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenBack {
    /// Type bytes of the requests since the last one that ReadyForQuery has answered, in order.
    pub requests: Vec<u8>,
    /// How many of them got their reply since the last ReadyForQuery.
    pub answers: u32,
    /// An ErrorResponse came since the last ReadyForQuery.
    pub failed: bool,
    /// Status byte of the last ReadyForQuery.
    pub status: u8,
    /// When the query was sent that is not answered yet; `None` if there is none.
    pub query_start: Option<Instant>,
    /// When the transaction began; `None` outside of one.
    pub xact_start: Option<Instant>,
    /// Bytes of the client's current message that are still to come.
    pub request_rest: u32,
    /// Bytes of the server's current message that are still to come.
    pub reply_rest: u32,
    /// The start of a reply's header that the client has got already.
    pub reply_header: Vec<u8>,
    /// What the server was sent since it was idle, if it was short, and used named prepared statements.
    pub sent: Option<Vec<u8>>,
}

/// What the kernel path did with one server since it was connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Times a client was linked.
    pub links: u64,
    /// Bytes from clients.
    pub received: u64,
    /// Requests that are answered by ReadyForQuery.
    pub requests: u64,
    /// Bind messages of named prepared statements, where they are tracked.
    pub binds: u64,
    /// Bytes to clients.
    pub sent: u64,
    /// ReadyForQuery messages.
    pub queries: u64,
    /// Transactions.
    pub xacts: u64,
    /// Microseconds that the server worked.
    pub query_time: u64,
    /// Microseconds that clients were in a transaction.
    pub xact_time: u64,
}

impl Carried {
    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            links: self.links + other.links,
            received: self.received + other.received,
            requests: self.requests + other.requests,
            binds: self.binds + other.binds,
            sent: self.sent + other.sent,
            queries: self.queries + other.queries,
            xacts: self.xacts + other.xacts,
            query_time: self.query_time + other.query_time,
            xact_time: self.xact_time + other.xact_time,
        }
    }
}

/// Buckets of a histogram of latencies: number n has those of 2^(n-1) up to 2^n times 1024 ns, the first those below 1024
/// ns, the last all that do not fit the others.
pub const LATENCY_BUCKETS: usize = 32;

/// What the kernel path did as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Far ends captured.
    pub captured: u64,
    /// Far ends that could not be captured: another proxy has them, or there was no room.
    pub capture_failed: u64,
    /// How often something was left to the user path, by reason.
    pub reasons: Vec<(&'static str, u64)>,
}
