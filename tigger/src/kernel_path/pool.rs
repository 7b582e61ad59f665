//! What a pool shares with the kernel path: the sans-IO pool's view of the programs' memory.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use tigger_bypass::{Ends, PoolRules, PoolSlot, ServerSlot};
use tigger_proto::pool::ClientId;
use tigger_proto::pool::shared::Shared;

use crate::pooler::latency::Latencies;

/// A pool's slot.
#[derive(Debug)]
pub struct SharedPool {
    pub(super) slot: Arc<PoolSlot>,
}

impl SharedPool {
    pub(super) fn new(slot: PoolSlot) -> Self {
        Self { slot: Arc::new(slot) }
    }

    /// Puts rules in force.
    pub fn set_rules(&self, rules: PoolRules) {
        self.slot.set_rules(rules);
    }

    /// How long servers worked on queries whose replies the kernel path carried.
    pub fn latencies(&self) -> Latencies {
        Latencies(self.slot.latencies())
    }

    /// See [`PoolSlot::enter_server`].
    pub(super) fn enter_server(&self, slot: u32, ends: Ends, socket: OwnedFd) -> Option<ServerSlot> {
        self.slot.enter_server(slot as usize, ends, socket)
    }

    /// See [`PoolSlot::enter_remote_server`].
    pub(super) fn enter_remote_server(&self, slot: u32, socket: OwnedFd) -> Option<ServerSlot> {
        self.slot.enter_remote_server(slot as usize, socket)
    }
}

impl Shared for SharedPool {
    fn grow(&self, words: usize) -> usize {
        self.slot.grow(words)
    }

    fn idle_word(&self, index: usize) -> &AtomicU64 {
        self.slot.idle_word(index)
    }

    fn set_waiting(&self, since: Option<Instant>) {
        self.slot.set_waiting(since);
    }

    fn overtakes(&self, slot: usize, now: Instant) -> bool {
        self.slot.overtakes(slot, now)
    }

    fn set_paused(&self, paused: bool) {
        self.slot.set_paused(paused);
    }

    fn linked(&self, slot: usize) -> Option<ClientId> {
        self.slot.linked(slot).map(ClientId)
    }

    fn is_orphan(&self, slot: usize) -> bool {
        self.slot.is_orphan(slot)
    }

    fn released_at(&self, slot: usize) -> Option<Instant> {
        self.slot.released_at(slot)
    }

    fn demand(&self, slot: usize) {
        self.slot.demand(slot);
    }

    fn take_back(&self, slot: usize, client: ClientId) -> bool {
        self.slot.take_back(slot, client.0)
    }

    fn begin_hold(&self, slot: usize, client: ClientId) -> bool {
        self.slot.begin_hold(slot, client.0)
    }

    fn end_hold(&self, slot: usize) {
        self.slot.end_hold(slot);
    }
}
