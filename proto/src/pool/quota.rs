//! Limits that several pools share: `max_db_connections` and `max_user_connections`.

use std::sync::atomic::{AtomicU32, Ordering};

/// A counted limit; by default none.
#[derive(Debug, Default)]
pub struct Quota {
    /// 0: no limit.
    limit: AtomicU32,
    used: AtomicU32,
}

/// Which quota is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `max_db_connections`
    Database,
    /// `max_user_connections`
    User,
}

impl Quota {
    /// A quota of `limit`, 0 for none.
    pub fn new(limit: u32) -> Self {
        Self { limit: AtomicU32::new(limit), used: AtomicU32::new(0) }
    }

    /// Changes the limit; what is used stays used.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// How much is used.
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        limit != 0 && self.used() >= limit
    }

    fn take(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |used: u32| (limit == 0 || used < limit).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self) {
        let before = self.used.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "quota given back twice");
    }
}

/// Takes one connection from both quotas or from none.
pub(super) fn take(database: &Quota, user: &Quota) -> Result<(), Scope> {
    if !database.take() {
        return Err(Scope::Database);
    }
    if !user.take() {
        database.give_back();
        return Err(Scope::User);
    }
    Ok(())
}

/// True when [`take`] would fail.
pub(super) fn is_full(database: &Quota, user: &Quota) -> bool {
    database.is_full() || user.is_full()
}

/// Gives back what [`take`] took.
pub(super) fn give_back(database: &Quota, user: &Quota) {
    database.give_back();
    user.give_back();
}
