//! What administrators and other pools do to a pool: PAUSE, RESUME, RECONNECT, RELOAD, eviction.

use std::time::Instant;

use super::quota::{self, Scope};
use super::{Action, Error, Grant, NOBODY, Pool, PoolLimits, ServerId};

impl<S, W> Pool<S, W> {
    /// Takes over changed limits.
    pub fn set_limits(&mut self, now: Instant, limits: PoolLimits) {
        self.limits = limits;
        self.check_launch(now);
    }

    /// Stops linking; idle servers are closed at once, the others when released.
    pub fn pause(&mut self) {
        self.paused = true;
        if let Some(shared) = &self.shared {
            shared.set_paused(true);
        }
        self.close_all_idle(&Error::PauseMode);
    }

    /// Links again.
    pub fn resume(&mut self, now: Instant) {
        self.paused = false;
        if let Some(shared) = &self.shared {
            shared.set_paused(false);
        }
        self.serve_waiting(now);
        self.check_launch(now);
    }

    /// True after [`Self::pause`].
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Closes every server, those in use when they are released; those of replication clients at once, as PgBouncer does.
    pub fn reconnect(&mut self, now: Instant, reason: &Error) {
        self.welcome = false;
        self.end_replication(&Error::DatabaseConfigChanged);
        self.replace(now, |_| true, reason);
    }

    /// The same for the servers that are `hit`, but those of replication clients are closed when these leave.
    pub fn replace(&mut self, now: Instant, hit: impl Fn(ServerId) -> bool, reason: &Error) {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let id = ServerId { slot: index as u32, generation: slot.generation };
            let Some(entry) = slot.entry.as_mut().filter(|_| hit(id)) else { continue };
            entry.close_needed = true;
            if let Some(shared) = &self.shared {
                shared.demand(index);
            }
            self.close_idle(index, reason.clone());
        }
        self.check_launch(now);
    }

    /// Fails every waiting client.
    pub fn fail_waiting(&mut self, error: &Error) {
        while let Some(waiting) = self.waiting.pop_any() {
            self.actions.push_back(Action::Grant(waiting.waiter, Grant::Failed(error.clone())));
        }
        self.tell_waiting();
    }

    /// Since when the longest idle server is idle; what eviction compares.
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_servers().map(|(_, since)| since).min()
    }

    /// Closes the longest idle server.
    pub fn evict(&mut self) -> bool {
        let oldest = self.idle_servers().min_by_key(|(_, since)| *since);
        oldest.is_some_and(|(slot, _)| self.close_idle(slot, Error::Evicted))
    }

    /// Counts a connection that is not one of the pool's servers. An idle one of them is closed where there is no room.
    ///
    /// # Errors
    /// `max_db_connections` or `max_user_connections` is used up.
    pub fn take_connection(&mut self) -> Result<(), Scope> {
        loop {
            match quota::take(&self.database, &self.user) {
                Err(scope) if !self.evict() => return Err(scope),
                Err(_) => {}
                Ok(()) => return Ok(()),
            }
        }
    }

    /// One that was counted like that is closed.
    pub fn give_back_connection(&mut self, now: Instant) {
        quota::give_back(&self.database, &self.user);
        self.check_launch(now);
    }

    /// Slots of the idle servers and since when they are.
    pub(super) fn idle_servers(&self) -> impl Iterator<Item = (usize, Instant)> {
        (0..self.slots.len()).filter_map(|slot| Some((slot, self.idle_since_in(slot)?)))
    }

    /// Closes the server in this slot if it is idle.
    pub(super) fn close_idle(&mut self, slot: usize, reason: Error) -> bool {
        if !self.idle.withdraw(slot) {
            return false;
        }
        let (id, server) = self.link(slot, NOBODY);
        self.close(id, server, reason);
        true
    }

    pub(super) fn close_all_idle(&mut self, reason: &Error) {
        for slot in 0..self.slots.len() {
            self.close_idle(slot, reason.clone());
        }
    }
}
