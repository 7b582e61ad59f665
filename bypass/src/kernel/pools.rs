//! A pool as the programs know it: its part of the idle set, and the words of its servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Instant;

use super::memory::{atomic, atomic32, load, load32, store, store32};
use super::programs::types;
use super::{Kernel, give_back, intf, slot_id, take};
use crate::PoolRules;

/// The slot of a pool.
#[derive(Debug)]
pub struct PoolSlot {
    pub(super) kernel: Arc<Kernel>,
    pub(super) index: u32,
}

impl Kernel {
    /// Gives a slot to a pool; `None` when there is none left.
    pub fn enter_pool(self: &Arc<Self>) -> Option<PoolSlot> {
        let pool = PoolSlot { kernel: Arc::clone(self), index: take(&self.free.pools)? };
        let slot = pool.slot();
        for chunk in 0..intf::POOL_CHUNKS as usize {
            store32(&slot.chunk[chunk], intf::CHUNK_NONE);
            store(&slot.idle[chunk], 0);
            store(&slot.lendable[chunk], 0);
        }
        store32(&slot.waiting, 0);
        store32(&slot.flags, 0);
        Some(pool)
    }
}

impl PoolSlot {
    fn slot(&self) -> &types::pool {
        self.kernel.memory.pool(self.index)
    }

    /// Puts rules in force.
    pub fn set_rules(&self, rules: PoolRules) {
        let slot = self.slot();
        store32(&slot.reply_limit, rules.reply_limit);
        store32(&slot.packet_len_max, rules.packet_len_max);
        let flags = [
            (rules.enabled, intf::POOL_ENABLED),
            (rules.session, intf::POOL_SESSION),
            (!rules.simple_query, intf::POOL_NO_QUERY),
        ];
        for (wanted, flag) in flags {
            self.set_flag(flag, wanted);
        }
    }

    fn set_flag(&self, flag: u32, value: bool) {
        let flags = atomic32(&self.slot().flags);
        if value {
            flags.fetch_or(flag, Ordering::SeqCst);
        } else {
            flags.fetch_and(!flag, Ordering::SeqCst);
        }
    }

    /// Makes words of the idle set; returns how many there are, at most `words`.
    pub fn grow(&self, words: usize) -> usize {
        let slot = self.slot();
        for chunk in 0..words.min(intf::POOL_CHUNKS as usize) {
            if load32(&slot.chunk[chunk]) == intf::CHUNK_NONE {
                let Some(free) = take(&self.kernel.free.chunks) else { return chunk };
                store32(&slot.chunk[chunk], free);
            }
        }
        words.min(intf::POOL_CHUNKS as usize)
    }

    /// A word of the idle set.
    pub fn idle_word(&self, index: usize) -> &AtomicU64 {
        atomic(&self.slot().idle[index])
    }

    /// How many clients wait for a server. What is claimed or found idle after this call is seen by a caller that looks
    /// at the idle set next.
    pub fn set_waiting(&self, clients: usize) {
        store32(&self.slot().waiting, u32::try_from(clients).unwrap_or(u32::MAX));
        fence(Ordering::SeqCst);
    }

    /// Stops and starts linking.
    pub fn set_paused(&self, paused: bool) {
        self.set_flag(intf::POOL_PAUSED, paused);
    }

    /// Index of the server in a slot of the pool; `None` beyond the shared ones.
    pub(super) fn server_index(&self, slot: usize) -> Option<u32> {
        let chunk = load32(self.slot().chunk.get(slot / intf::CHUNK_SERVERS as usize)?);
        let within = slot as u32 % intf::CHUNK_SERVERS;
        (chunk != intf::CHUNK_NONE).then_some(chunk * intf::CHUNK_SERVERS + within)
    }

    fn server(&self, slot: usize) -> Option<&types::server> {
        Some(self.kernel.memory.server(self.server_index(slot)?))
    }

    /// Lets the kernel path claim the server in this slot while it is idle, or not.
    pub(super) fn set_lendable(&self, slot: usize, value: bool) {
        let word = atomic(&self.slot().lendable[slot / intf::CHUNK_SERVERS as usize]);
        let bit = 1 << (slot as u32 % intf::CHUNK_SERVERS);
        if value {
            word.fetch_or(bit, Ordering::AcqRel);
        } else {
            word.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// The client that is linked to the server in this slot.
    pub fn linked(&self, slot: usize) -> Option<u64> {
        let client = load(&self.server(slot)?.word) & intf::WORD_CLIENT;
        slot_id(&self.kernel, (client as u32).checked_sub(1)?)
    }

    /// True when the server in this slot is linked to a client that is gone.
    pub fn is_orphan(&self, slot: usize) -> bool {
        let Some(server) = self.server(slot) else { return false };
        match ((load(&server.word) & intf::WORD_CLIENT) as u32).checked_sub(1) {
            None => false,
            Some(client) => load(&self.kernel.memory.client(client).cookie) != load(&server.client_cookie),
        }
    }

    /// When the server in this slot last sent a ReadyForQuery on the kernel path.
    pub fn released_at(&self, slot: usize) -> Option<Instant> {
        self.kernel.clock.instant(load(&self.server(slot)?.released_ns))
    }

    /// Asks that the server in this slot comes back to user space when it is released.
    pub fn demand(&self, slot: usize) {
        if let Some(server) = self.server(slot) {
            atomic(&server.word).fetch_or(intf::WORD_RETURN, Ordering::AcqRel);
        }
    }

    /// Takes the pair back; false when `client` is not linked to the server in this slot.
    pub fn take_back(&self, slot: usize, client: u64) -> bool {
        self.mark(slot, client, intf::WORD_USER)
    }

    /// The server in this slot is not released by the kernel path until [`Self::end_hold`]; false when `client` is not
    /// linked to it.
    pub fn begin_hold(&self, slot: usize, client: u64) -> bool {
        self.mark(slot, client, intf::WORD_CANCEL)
    }

    /// See [`Self::begin_hold`].
    pub fn end_hold(&self, slot: usize) {
        if let Some(server) = self.server(slot) {
            atomic(&server.word).fetch_and(!intf::WORD_CANCEL, Ordering::AcqRel);
        }
    }

    /// Sets a flag in the word of a server that is linked to this client.
    fn mark(&self, slot: usize, client: u64, flag: u64) -> bool {
        let Some(server) = self.server(slot) else { return false };
        let change = |word: u64| {
            let index = ((word & intf::WORD_CLIENT) as u32).checked_sub(1)?;
            let is_his = slot_id(&self.kernel, index) == Some(client)
                && load(&self.kernel.memory.client(index).cookie) == load(&server.client_cookie);
            is_his.then_some(word | flag)
        };
        atomic(&server.word).fetch_update(Ordering::AcqRel, Ordering::Acquire, change).is_ok()
    }
}

impl Drop for PoolSlot {
    fn drop(&mut self) {
        store32(&self.slot().flags, 0);
        for chunk in &self.slot().chunk {
            match load32(chunk) {
                intf::CHUNK_NONE => {}
                index => give_back(&self.kernel.free.chunks, index),
            }
        }
        give_back(&self.kernel.free.pools, self.index);
    }
}
