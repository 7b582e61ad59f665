//! What a client does at the moment, which its task says and timeouts and the console read.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use crate::process::AtomicInstant;

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

/// The same in words that others may read while the client's task writes: the times first, then what they are for. Times only
/// go forward, so that who reads an old kind beside new times gives the client more time, never less.
#[derive(Debug)]
pub(super) struct Doing {
    kind: AtomicU8,
    since: AtomicInstant,
    transaction: AtomicInstant,
    /// Before that nobody need look at it.
    next_look: AtomicInstant,
}

impl Doing {
    pub(super) fn new(now: Instant) -> Self {
        let [since, transaction, next_look] = [now; 3].map(AtomicInstant::new);
        Self { kind: AtomicU8::new(0), since, transaction, next_look }
    }

    pub(super) fn is_look_due(&self, now: Instant) -> bool {
        self.next_look.is_past(now)
    }

    pub(super) fn set_next_look(&self, next: Instant) {
        self.next_look.store(next);
    }

    pub(super) fn set(&self, activity: Activity) {
        let (kind, times) = match activity {
            Activity::Idle { since } => (0, Some((since, since))),
            Activity::Waiting { since } => (1, Some((since, since))),
            Activity::Query { since, transaction } => (2, Some((since, transaction))),
            Activity::InTransaction { since, transaction } => (3, Some((since, transaction))),
            Activity::Linked => (4, None),
        };
        if let Some((since, transaction)) = times {
            self.transaction.store(transaction);
            self.since.store(since);
        }
        self.kind.store(kind, Ordering::Release);
    }

    pub(super) fn get(&self) -> Activity {
        let kind = self.kind.load(Ordering::Acquire);
        let (since, transaction) = (self.since.load(), self.transaction.load());
        match kind {
            0 => Activity::Idle { since },
            1 => Activity::Waiting { since },
            2 => Activity::Query { since, transaction },
            3 => Activity::InTransaction { since, transaction },
            _ => Activity::Linked,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_set_is_read() {
        let base = Instant::now();
        let at = |seconds| base + Duration::from_secs(seconds);
        let doing = Doing::new(base);
        assert_eq!(doing.get(), Activity::Idle { since: base });
        let query = Activity::Query { since: at(3), transaction: at(2) };
        for activity in [
            Activity::Waiting { since: at(1) },
            query,
            Activity::InTransaction { since: at(4), transaction: at(2) },
            Activity::Idle { since: at(5) },
            query,
        ] {
            doing.set(activity);
            assert_eq!(doing.get(), activity);
        }
        doing.set(Activity::Linked);
        assert_eq!(doing.get(), Activity::Linked);
        // Who has read the kind before that finds the times that belong to it.
        doing.kind.store(2, Ordering::Relaxed);
        assert_eq!(doing.get(), query);
    }

    #[test]
    fn looks() {
        let base = Instant::now();
        let doing = Doing::new(base);
        assert!(doing.is_look_due(base));
        doing.set_next_look(base + Duration::from_secs(2));
        assert!(!doing.is_look_due(base + Duration::from_secs(1)) && doing.is_look_due(base + Duration::from_secs(2)));
    }
}
