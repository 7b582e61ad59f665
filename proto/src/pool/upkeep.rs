//! What time brings to a pool: servers that are too old or idle too long are closed, those that are idle for long are
//! checked, missing ones are opened.

use std::sync::Arc;
use std::time::Instant;

use super::replication::{Demand, Owner};
use super::{Action, Entry, Error, Grant, NOBODY, Pool, ServerId, Slot, State, idle_since, last_seen, quota};

impl<S, W> Pool<S, W> {
    /// Closes what is too old or idle too long, has checked what is idle for long, opens what is missing. To be called several times a second.
    pub fn handle_tick(&mut self, now: Instant) {
        for slot in 0..self.slots.len() {
            self.close_orphan(slot);
            self.demand_overdue(now, slot);
            if let Some(reason) = self.overdue(now, slot) {
                if reason == Error::ServerLifetime {
                    self.lifetime_closed_at = Some(now);
                }
                self.close_idle(slot, reason);
            } else if self.is_stale(now, slot) {
                let id = ServerId { slot: slot as u32, generation: self.slots[slot].generation };
                // The kernel path may just have claimed it.
                if let Some(server) = self.take_idle(id) {
                    self.actions.push_back(Action::Check(id, server));
                }
            }
        }
        if self.paused && self.shared.is_some() {
            // The kernel path may have released one while the pause began.
            self.close_all_idle(&Error::PauseMode);
        }
        if self.shared.is_some() {
            self.serve_idle(now);
        }
        self.fail_overdue(now);
        self.check_launch(now);
    }

    /// A client may have left in the moment in which the kernel path linked it.
    fn close_orphan(&mut self, slot: usize) {
        let is_linked = self.slots[slot].entry.as_ref().and_then(idle_since).is_some() && !self.is_idle(slot);
        if is_linked && self.shared.as_ref().is_some_and(|shared| shared.is_orphan(slot)) {
            let (id, server) = self.link(slot, NOBODY);
            self.close(id, server, Error::ClientLeftServerBusy);
        }
    }

    /// Has a server that the kernel path keeps busy come back when it is too old.
    fn demand_overdue(&self, now: Instant, slot: usize) {
        let Some(shared) = &self.shared else { return };
        let id = ServerId { slot: slot as u32, generation: self.slots[slot].generation };
        let is_linked = self.slots[slot].entry.as_ref().and_then(idle_since).is_some() && !self.is_idle(slot);
        if is_linked && (self.is_lifetime_over(now, id) || self.has_surplus()) {
            shared.demand(slot);
        }
    }

    /// Since when the server in this slot is in the idle set.
    pub(super) fn idle_since_in(&self, slot: usize) -> Option<Instant> {
        let since = idle_since(self.slots[slot].entry.as_ref()?)?;
        if !self.is_idle(slot) {
            return None;
        }
        let released = self.shared.as_ref().and_then(|shared| shared.released_at(slot));
        Some(released.map_or(since, |released| released.max(since)))
    }

    /// True when the server in this slot is idle and was not heard of for `server_check_delay`. Such servers are checked
    /// in advance, not when a client gets one: so the kernel path, which cannot check, finds none that is older, no client
    /// waits for the answer, and the servers show the network that they are in use.
    fn is_stale(&self, now: Instant, slot: usize) -> bool {
        let seen = self.idle_since_in(slot).zip(self.slots[slot].entry.as_ref().and_then(last_seen));
        let limit = self.limits.server_check_delay;
        limit.zip(seen).is_some_and(|(limit, (since, seen))| now.saturating_duration_since(since.max(seen)) >= limit)
    }

    /// Tells clients that have waited for `query_wait_timeout`.
    fn fail_overdue(&mut self, now: Instant) {
        let latest = self.limits.query_wait_timeout.and_then(|limit| now.checked_sub(limit));
        while let Some(waiting) = latest.and_then(|latest| self.waiting.pop_overdue(latest)) {
            self.tell_waiting();
            self.actions.push_back(Action::Grant(waiting.waiter, Grant::Failed(Error::QueryWaitTimeout)));
        }
    }

    /// Opens one connection if the pool needs one and may have it now.
    pub fn check_launch(&mut self, now: Instant) {
        // How many wait without a server is known once those in the idle set were given away.
        if !self.serves_soon
            && let Some(demand) = self.demand()
        {
            self.launch(now, &demand);
        }
    }

    /// Opens one connection if the pool may have one now.
    pub(super) fn launch(&mut self, now: Instant, demand: &Demand) {
        if self.paused || self.is_logging_in() || self.must_retry_later(now) {
            return;
        }
        let is_own = matches!(demand, Demand::Replication(..));
        // Idle servers are of no use to a replication client.
        while self.total() >= self.most_servers(now) {
            if !is_own || !self.evict() {
                return;
            }
        }
        while let Err(scope) = quota::take(&self.database, &self.user) {
            if is_own && self.evict() {
                continue;
            }
            // For min_pool_size alone nobody is evicted: pools would take each other's servers in turn.
            if !self.waiting.is_empty() {
                self.actions.push_back(Action::Evict(scope));
            }
            return;
        }
        let action = match demand {
            Demand::Anybody => Action::Connect(self.occupy(now, None)),
            Demand::Replication(owner, startup) => {
                Action::ConnectReplication(self.occupy(now, Some(*owner)), Arc::clone(startup))
            }
        };
        self.actions.push_back(action);
    }

    /// True while a login is under way; there is only one at a time.
    pub(super) fn is_logging_in(&self) -> bool {
        self.entries().any(|(_, entry)| matches!(entry.state, State::Login))
    }

    /// True when the last login has failed and the next is not due.
    pub(super) fn must_retry_later(&self, now: Instant) -> bool {
        let failed = self.login_failed.as_ref();
        failed.is_some_and(|failed| now.saturating_duration_since(failed.at) < self.limits.server_login_retry)
    }

    /// How many servers the pool may have now, including the reserve if a client has waited for long.
    pub(super) fn most_servers(&self, now: Instant) -> usize {
        let limits = self.limits;
        let waited = self.waiting.oldest().map(|since| now.saturating_duration_since(since));
        let patience_over = waited.zip(limits.reserve_pool_timeout).is_some_and(|(waited, limit)| waited >= limit);
        let reserve = if patience_over { limits.reserve_pool_size } else { 0 };
        limits.pool_size.saturating_add(reserve) as usize
    }

    fn occupy(&mut self, now: Instant, owner: Option<Owner>) -> ServerId {
        let entry = Entry {
            state: State::Login,
            connected_at: now,
            close_needed: false,
            cancels: 0,
            key: Box::default(),
            owner,
        };
        let index = self.slots.iter().position(|slot| slot.entry.is_none()).unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, entry: None });
            self.idle.grow(self.slots.len());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[index];
        slot.generation = slot.generation.wrapping_add(1);
        slot.entry = Some(entry);
        ServerId { slot: index as u32, generation: slot.generation }
    }

    fn overdue(&self, now: Instant, slot: usize) -> Option<Error> {
        let since = self.idle_since_in(slot)?;
        let id = ServerId { slot: slot as u32, generation: self.slots[slot].generation };
        let idle_too_long =
            self.limits.server_idle_timeout.is_some_and(|limit| now.saturating_duration_since(since) >= limit);
        // With a lifetime of one use, those that are idle have not had it yet.
        if !self.limits.server_lifetime.is_zero() && self.is_lifetime_over(now, id) {
            Some(Error::ServerLifetime)
        } else if idle_too_long && self.total() > self.limits.min_pool_size as usize {
            Some(Error::ServerIdleTimeout)
        } else if self.has_surplus() {
            Some(Error::CloseNeeded)
        } else {
            None
        }
    }

    /// True when the server lives for one use and comes back from a test before it.
    pub(super) fn is_unused(&self, id: ServerId) -> bool {
        let entry = self.slots.get(id.slot as usize).and_then(|slot| slot.entry.as_ref());
        let was_idle = entry.is_some_and(|entry| matches!(entry.state, State::Tested { idle_since: Some(_) }));
        was_idle && self.limits.server_lifetime.is_zero()
    }

    /// True when a reload made the pool smaller than it is.
    pub(super) fn has_surplus(&self) -> bool {
        let most = self.limits.pool_size.saturating_add(self.limits.reserve_pool_size) as usize;
        self.slots.len() > most && self.total() > most
    }

    /// True when the server is too old. Such servers are closed `server_lifetime / pool_size` apart, so that a pool
    /// opened at once does not end at once.
    pub(super) fn is_lifetime_over(&self, now: Instant, id: ServerId) -> bool {
        let lifetime = self.limits.server_lifetime;
        let Some(entry) = self.slots.get(id.slot as usize).and_then(|slot| slot.entry.as_ref()) else { return false };
        let gap = lifetime / self.limits.pool_size.max(1);
        now.saturating_duration_since(entry.connected_at) >= lifetime
            && self.lifetime_closed_at.is_none_or(|at| now.saturating_duration_since(at) >= gap)
    }
}
