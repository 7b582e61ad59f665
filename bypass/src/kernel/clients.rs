//! A client as the programs know it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::memory::{load, load32, store, store32};
use super::programs::types;
use super::{Kernel, PoolSlot, give_back, intf, take};
use crate::Ends;

/// The slot of a client whose own end is on this host.
#[derive(Debug)]
pub struct ClientSlot {
    kernel: Arc<Kernel>,
    pub(super) index: u32,
    pub(super) cookie: u64,
}

impl Kernel {
    /// Gives a slot to a client that is logged in, under the name `id` (not 0); the user path has it. `None` when its
    /// end was not captured, because it is on another host or in another network namespace, or when there is no slot.
    pub fn enter_client(self: &Arc<Self>, ends: Ends, id: u64) -> Option<ClientSlot> {
        let captured = self.found(ends)?;
        let index = take(&self.free.clients)?;
        let slot = self.memory.client(index);
        store32(&slot.owner, intf::OWNER_USER);
        store32(&slot.server, 0);
        store32(&slot.last_server, 0);
        store32(&slot.unread, 0);
        store32(&slot.reason, intf::REASON_NONE);
        store32(&slot.handed_over, 0);
        store32(&slot.pushed, 0);
        store(&slot.request_ns, 0);
        store32(&slot.sequence, captured.sequence);
        store(&slot.cookie, captured.cookie);
        self.ids[index as usize].store(id, Ordering::Release);
        let client = ClientSlot { kernel: Arc::clone(self), index, cookie: captured.cookie };
        self.assign(captured.cookie, intf::ROLE_CLIENT | index).then_some(client)
    }
}

impl ClientSlot {
    fn slot(&self) -> &types::client {
        self.kernel.memory.client(self.index)
    }

    /// Leaves the client to the kernel path, which serves its next request if it can. `written` and `read` are the bytes
    /// that went through its socket on the user path since it was accepted: while anything of them is still on its way,
    /// the kernel path says "not me". `params` names its parameters.
    pub fn hand_over(&self, pool: &PoolSlot, params: u64, written: u64, read: u64) {
        let slot = self.slot();
        store32(&slot.pool, pool.index);
        store(&slot.params, params);
        store(&slot.written, written);
        // The programs compare sequence numbers, which have 32 bits.
        store32(&slot.read, read as u32);
        store32(&slot.handed_over, 1);
        store32(&slot.owner, intf::OWNER_KERNEL);
    }

    /// Leaves the client, which is linked and whose requests are about to be sent, to the kernel path from its release
    /// on. Otherwise as [`Self::hand_over`].
    pub fn push(&self, pool: &PoolSlot, params: u64, written: u64, read: u64) {
        let slot = self.slot();
        store32(&slot.pool, pool.index);
        store(&slot.params, params);
        store(&slot.written, written);
        store32(&slot.read, read as u32);
        store32(&slot.pushed, 1);
    }

    /// True when it has read everything that the user path sent it before its last request, which had to wait only
    /// because no server was idle: replies of the kernel path cannot overtake anything.
    pub fn may_push(&self) -> bool {
        matches!(load32(&self.slot().reason), intf::REASON_WAITING | intf::REASON_NO_SERVER)
    }

    /// CLOCK_MONOTONIC in nanoseconds.
    pub(super) fn now(&self) -> u64 {
        self.kernel.clock.now()
    }

    /// It is linked to this server.
    pub(super) fn set_server(&self, index: u32) {
        store32(&self.slot().server, index + 1);
    }

    /// True from [`Self::hand_over`] until the kernel path leaves something to the user path, or [`Self::reclaim`].
    pub fn is_handed_over(&self) -> bool {
        load32(&self.slot().owner) == intf::OWNER_KERNEL
    }

    /// The user path wants the client.
    pub fn reclaim(&self) {
        store32(&self.slot().pushed, 0);
        store32(&self.slot().owner, intf::OWNER_USER);
    }

    /// True while the last reply that the kernel path carried may still be on its way to the client: whatever is sent on
    /// the user path now could overtake it.
    pub fn is_in_flight(&self) -> bool {
        let last = load32(&self.slot().last_server);
        if last == 0 {
            return false;
        }
        if self.kernel.ask_in_flight(last - 1) {
            return true;
        }
        store32(&self.slot().last_server, 0);
        false
    }

    /// Why the client is on the user path, in one word; empty if it is not.
    pub fn reason(&self) -> &'static str {
        if self.is_handed_over() {
            return "";
        }
        match load32(&self.slot().reason) {
            intf::REASON_NONE => "new",
            reason => intf::REASON_WORDS.get(reason as usize).copied().unwrap_or_default(),
        }
    }

    /// When the kernel path last carried a request of it.
    pub fn request_at(&self) -> Option<Instant> {
        self.kernel.clock.instant(load(&self.slot().request_ns))
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        let slot = self.slot();
        store32(&slot.owner, intf::OWNER_USER);
        store(&slot.cookie, 0);
        self.kernel.ids[self.index as usize].store(0, Ordering::Release);
        self.kernel.release(self.cookie);
        give_back(&self.kernel.free.clients, self.index);
    }
}
