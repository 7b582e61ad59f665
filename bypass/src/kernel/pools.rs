//! A pool as the programs know it: its part of the idle set, and the words of its servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Instant;

use super::memory::{Shared, Slot, field};
use super::programs::types;
use super::{Kernel, give_back, intf, slot_id, take};
use crate::{LATENCY_BUCKETS, PoolRules};

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
            field!(slot, chunk[chunk]).set(intf::CHUNK_NONE);
            field!(slot, idle[chunk]).set(0);
            field!(slot, lendable[chunk]).set(0);
        }
        for bucket in 0..LATENCY_BUCKETS {
            field!(slot, latency[bucket]).set(0);
        }
        field!(slot, waiting_since).set(0);
        field!(slot, flags).set(0);
        Some(pool)
    }
}

impl PoolSlot {
    fn slot(&self) -> Slot<'_, types::pool> {
        self.kernel.memory.pool(self.index)
    }

    /// Puts rules in force.
    pub fn set_rules(&self, rules: PoolRules) {
        let slot = self.slot();
        field!(slot, reply_limit).set(rules.reply_limit);
        field!(slot, packet_len_max).set(rules.packet_len_max);
        let flags = [
            (rules.enabled, intf::POOL_ENABLED),
            (rules.session, intf::POOL_SESSION),
            (!rules.simple_query, intf::POOL_NO_QUERY),
            (rules.prepared, intf::POOL_PREPARED),
            (rules.commands, intf::POOL_COMMANDS),
        ];
        for (wanted, flag) in flags {
            self.set_flag(flag, wanted);
        }
    }

    fn set_flag(&self, flag: u32, value: bool) {
        let flags = field!(self.slot(), flags);
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
            if field!(slot, chunk[chunk]).get() == intf::CHUNK_NONE {
                let Some(free) = take(&self.kernel.free.chunks) else { return chunk };
                field!(slot, chunk[chunk]).set(free);
            }
        }
        words.min(intf::POOL_CHUNKS as usize)
    }

    /// A word of the idle set.
    pub fn idle_word(&self, index: usize) -> &AtomicU64 {
        field!(self.slot(), idle[index])
    }

    /// Since when the first of the clients that wait for a server does. What was released before the kernel path knew of
    /// it is found by a caller that looks at the idle set next.
    pub fn set_waiting(&self, since: Option<Instant>) {
        let since = since.map_or(0, |since| self.kernel.clock.nanos_of(since).max(1));
        field!(self.slot(), waiting_since).set(since);
        fence(Ordering::SeqCst);
    }

    /// How many queries the servers worked on for how long, as far as the kernel path carried the replies.
    pub fn latencies(&self) -> [u64; LATENCY_BUCKETS] {
        const { assert!(LATENCY_BUCKETS == intf::LATENCY_BUCKETS as usize) };
        std::array::from_fn(|bucket| field!(self.slot(), latency[bucket]).get())
    }

    /// Stops and starts linking.
    pub fn set_paused(&self, paused: bool) {
        self.set_flag(intf::POOL_PAUSED, paused);
    }

    /// Index of the server in a slot of the pool; `None` beyond the shared ones.
    pub(super) fn server_index(&self, slot: usize) -> Option<u32> {
        let chunk = slot / intf::CHUNK_SERVERS as usize;
        if chunk >= intf::POOL_CHUNKS as usize {
            return None;
        }
        let chunk = field!(self.slot(), chunk[chunk]).get();
        let within = slot as u32 % intf::CHUNK_SERVERS;
        (chunk != intf::CHUNK_NONE).then_some(chunk * intf::CHUNK_SERVERS + within)
    }

    fn server(&self, slot: usize) -> Option<Slot<'_, types::server>> {
        Some(self.kernel.memory.server(self.server_index(slot)?))
    }

    /// The word and the bit that say whether the kernel path may claim the server in this slot.
    fn lendable(&self, slot: usize) -> (&AtomicU64, u64) {
        let word = field!(self.slot(), lendable[slot / intf::CHUNK_SERVERS as usize]);
        (word, 1 << (slot as u32 % intf::CHUNK_SERVERS))
    }

    /// Lets the kernel path claim the server in this slot while it is idle, or not.
    pub(super) fn set_lendable(&self, slot: usize, value: bool) {
        let (word, bit) = self.lendable(slot);
        if value {
            word.fetch_or(bit, Ordering::AcqRel);
        } else {
            word.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// True when the kernel path may claim the server in this slot, once it is idle, although clients wait.
    pub fn overtakes(&self, slot: usize, now: Instant) -> bool {
        let is_lendable = self.server_index(slot).is_some() && {
            let (word, bit) = self.lendable(slot);
            word.load(Ordering::Acquire) & bit != 0
        };
        let since = field!(self.slot(), waiting_since).get();
        is_lendable && since != 0 && self.kernel.clock.nanos_of(now).saturating_sub(since) <= intf::OVERTAKE_NS
    }

    /// The client that is linked to the server in this slot.
    pub fn linked(&self, slot: usize) -> Option<u64> {
        let client = field!(self.server(slot)?, word).get() & intf::WORD_CLIENT;
        slot_id(&self.kernel, (client as u32).checked_sub(1)?)
    }

    /// True when the server in this slot is linked to a client that is gone.
    pub fn is_orphan(&self, slot: usize) -> bool {
        let Some(server) = self.server(slot) else { return false };
        let (links, word) = (field!(server, links).get(), field!(server, word).get());
        let Some(client) = ((word & intf::WORD_CLIENT) as u32).checked_sub(1) else { return false };
        let cookie = field!(self.kernel.memory.client(client), cookie).get();
        // Who links next says who it is before it changes the word. If the word is the same after that, and nobody has
        // linked meanwhile, then both belong together.
        cookie != field!(server, client_cookie).get()
            && word == field!(server, word).get()
            && links == field!(server, links).get()
    }

    /// When the server in this slot last sent a ReadyForQuery on the kernel path.
    pub fn released_at(&self, slot: usize) -> Option<Instant> {
        self.kernel.clock.instant(field!(self.server(slot)?, released_ns).get())
    }

    /// Asks that the server in this slot comes back to user space when it is released.
    pub fn demand(&self, slot: usize) {
        if let Some(server) = self.server(slot) {
            field!(server, word).fetch_or(intf::WORD_RETURN, Ordering::AcqRel);
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
            field!(server, word).fetch_and(!intf::WORD_CANCEL, Ordering::AcqRel);
        }
    }

    /// Sets a flag in the word of a server that is linked to this client.
    fn mark(&self, slot: usize, client: u64, flag: u64) -> bool {
        let Some(server) = self.server(slot) else { return false };
        let change = |word: u64| {
            let index = ((word & intf::WORD_CLIENT) as u32).checked_sub(1)?;
            let is_his = slot_id(&self.kernel, index) == Some(client)
                && field!(self.kernel.memory.client(index), cookie).get() == field!(server, client_cookie).get();
            is_his.then_some(word | flag)
        };
        field!(server, word).fetch_update(Ordering::AcqRel, Ordering::Acquire, change).is_ok()
    }
}

impl Drop for PoolSlot {
    fn drop(&mut self) {
        field!(self.slot(), flags).set(0);
        for chunk in 0..intf::POOL_CHUNKS as usize {
            match field!(self.slot(), chunk[chunk]).get() {
                intf::CHUNK_NONE => {}
                index => give_back(&self.kernel.free.chunks, index),
            }
        }
        give_back(&self.kernel.free.pools, self.index);
    }
}
