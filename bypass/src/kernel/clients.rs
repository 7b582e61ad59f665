//! A client as the programs know it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::memory::{Shared, Slot, field};
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
        field!(slot, owner).set(intf::OWNER_USER);
        field!(slot, server).set(0);
        field!(slot, last_server).set(0);
        field!(slot, unread).set(0);
        field!(slot, reason).set(intf::REASON_NONE);
        field!(slot, handed_over).set(0);
        field!(slot, pushed).set(0);
        field!(slot, request_ns).set(0);
        field!(slot, sequence).set(captured.sequence);
        field!(slot, cookie).set(captured.cookie);
        self.ids[index as usize].store(id, Ordering::Release);
        let client = ClientSlot { kernel: Arc::clone(self), index, cookie: captured.cookie };
        self.assign(captured.cookie, intf::ROLE_CLIENT | index).then_some(client)
    }
}

impl ClientSlot {
    fn slot(&self) -> Slot<'_, types::client> {
        self.kernel.memory.client(self.index)
    }

    /// Leaves the client to the kernel path, which serves its next request if it can. `written` and `read` are the bytes
    /// that went through its socket on the user path since it was accepted: while anything of them is still on its way,
    /// the kernel path says "not me". `params` names its parameters.
    pub fn hand_over(&self, pool: &PoolSlot, params: u64, written: u64, read: u64) {
        self.describe(pool, params, written, read);
        let slot = self.slot();
        field!(slot, handed_over).set(1);
        field!(slot, owner).set(intf::OWNER_KERNEL);
    }

    /// Leaves the client, which is linked and whose requests are about to be sent, to the kernel path from its release
    /// on. Otherwise as [`Self::hand_over`].
    pub fn push(&self, pool: &PoolSlot, params: u64, written: u64, read: u64) {
        self.describe(pool, params, written, read);
        field!(self.slot(), pushed).set(1);
    }

    /// Tells the programs what they need to serve it.
    fn describe(&self, pool: &PoolSlot, params: u64, written: u64, read: u64) {
        let slot = self.slot();
        field!(slot, pool).set(pool.index);
        field!(slot, params).set(params);
        field!(slot, written).set(written);
        // The programs compare sequence numbers, which have 32 bits.
        field!(slot, read).set(read as u32);
        field!(slot, reason).set(intf::REASON_NONE);
    }

    /// True when the kernel path left a request of it here since the last [`Self::hand_over`], and only because no server
    /// was idle: then it has read everything that the user path sent it before, and replies of the kernel path cannot
    /// overtake anything.
    pub fn may_push(&self) -> bool {
        matches!(field!(self.slot(), reason).get(), intf::REASON_WAITING | intf::REASON_NO_SERVER)
    }

    /// CLOCK_MONOTONIC in nanoseconds.
    pub(super) fn now(&self) -> u64 {
        self.kernel.clock.now()
    }

    /// It is linked to this server.
    pub(super) fn set_server(&self, index: u32) {
        field!(self.slot(), server).set(index + 1);
    }

    /// True from [`Self::hand_over`] until the kernel path leaves something to the user path, or [`Self::reclaim`].
    pub fn is_handed_over(&self) -> bool {
        field!(self.slot(), owner).get() == intf::OWNER_KERNEL
    }

    /// The user path wants the client.
    pub fn reclaim(&self) {
        field!(self.slot(), pushed).set(0);
        field!(self.slot(), owner).set(intf::OWNER_USER);
    }

    /// True while the last reply that the kernel path carried may still be on its way to the client: whatever is sent on
    /// the user path now could overtake it.
    pub fn is_in_flight(&self) -> bool {
        let last = field!(self.slot(), last_server).get();
        if last == 0 {
            return false;
        }
        if self.kernel.ask_in_flight(last - 1) {
            return true;
        }
        field!(self.slot(), last_server).set(0);
        false
    }

    /// True when its application reads in a way that the kernel path cannot serve: the slot is to be dropped.
    pub fn is_unfit(&self) -> bool {
        field!(self.slot(), reason).get() == intf::REASON_BLOCKING
    }

    /// Why the client is on the user path, in one word; empty if it is not.
    pub fn reason(&self) -> &'static str {
        if self.is_handed_over() {
            return "";
        }
        match field!(self.slot(), reason).get() {
            intf::REASON_NONE => "busy",
            reason => intf::REASON_WORDS.get(reason as usize).copied().unwrap_or_default(),
        }
    }

    /// When the kernel path last carried a request of it.
    pub fn request_at(&self) -> Option<Instant> {
        self.kernel.clock.instant(field!(self.slot(), request_ns).get())
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        let slot = self.slot();
        field!(slot, owner).set(intf::OWNER_USER);
        field!(slot, cookie).set(0);
        self.kernel.ids[self.index as usize].store(0, Ordering::Release);
        self.kernel.forget(self.cookie);
        if self.is_unfit() && self.request_at().is_none() {
            self.kernel.release(self.cookie);
        }
        give_back(&self.kernel.free.clients, self.index);
    }
}
