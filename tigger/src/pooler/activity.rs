//! What a client does at the moment, which its task says and timeouts and the console read.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a client does on the user path. PgBouncer calls all but waiting clients active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It is linked to no server.
    Idle {
        /// When it got its last reply, or logged in.
        since: Instant,
    },
    /// In the queue for a server.
    Waiting {
        /// When it asked.
        since: Instant,
    },
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
    /// It is linked to a server that owes nothing and is in no transaction.
    Linked,
}

/// The same in words that others may read while the client's task writes: the times first, then what they are for.
#[derive(Debug)]
pub(super) struct Doing {
    kind: AtomicU8,
    /// Nanoseconds since `base`.
    since: AtomicU64,
    transaction: AtomicU64,
    base: Instant,
}

impl Doing {
    pub(super) fn new(now: Instant) -> Self {
        Self { kind: AtomicU8::new(0), since: AtomicU64::new(0), transaction: AtomicU64::new(0), base: now }
    }

    pub(super) fn set(&self, activity: Activity) {
        let (kind, since, transaction) = match activity {
            Activity::Idle { since } => (0, since, since),
            Activity::Waiting { since } => (1, since, since),
            Activity::Query { since, transaction } => (2, since, transaction),
            Activity::InTransaction { since, transaction } => (3, since, transaction),
            Activity::Linked => (4, self.base, self.base),
        };
        let nanos = |time: Instant| time.saturating_duration_since(self.base).as_nanos() as u64;
        self.transaction.store(nanos(transaction), Ordering::Relaxed);
        self.since.store(nanos(since), Ordering::Relaxed);
        self.kind.store(kind, Ordering::Release);
    }

    pub(super) fn get(&self) -> Activity {
        let kind = self.kind.load(Ordering::Acquire);
        let time = |nanos: &AtomicU64| self.base + Duration::from_nanos(nanos.load(Ordering::Relaxed));
        let (since, transaction) = (time(&self.since), time(&self.transaction));
        match kind {
            0 => Activity::Idle { since },
            1 => Activity::Waiting { since },
            2 => Activity::Query { since, transaction },
            3 => Activity::InTransaction { since, transaction },
            _ => Activity::Linked,
        }
    }
}
