//! The idle set: which server slots of a pool may be claimed.
//!
//! A bitmap of atomic words. The lowest slot is claimed first, so that a few servers stay busy and the rest grow old
//! enough to be closed (last in, first out in effect); `server_round_robin` withdraws a slot of its own choice instead. The words are atomic because the kernel path will claim from the
//! same memory; the user path calls it under the pool's lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shared::Shared;

/// A set of slot numbers.
#[derive(Debug, Default)]
pub struct IdleSet {
    /// The kernel path's memory, which holds the first words.
    shared: Option<Arc<dyn Shared>>,
    shared_words: usize,
    /// The words after those.
    own: Vec<AtomicU64>,
}

impl IdleSet {
    /// An empty set in the memory of the kernel path, as far as that goes.
    pub fn sharing(shared: Arc<dyn Shared>) -> Self {
        Self { shared: Some(shared), ..Self::default() }
    }

    /// Makes room for `slots` slots.
    pub fn grow(&mut self, slots: usize) {
        let words = slots.div_ceil(64);
        // Words cannot become shared once slots are behind them.
        if self.own.is_empty()
            && words > self.shared_words
            && let Some(shared) = &self.shared
        {
            self.shared_words = shared.grow(words).min(words);
        }
        let own = words.saturating_sub(self.shared_words);
        if own > self.own.len() {
            self.own.resize_with(own, AtomicU64::default);
        }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        match &self.shared {
            Some(shared) if index < self.shared_words => shared.idle_word(index),
            _ => &self.own[index - self.shared_words],
        }
    }

    /// Takes the lowest slot out of the set.
    pub fn claim(&self) -> Option<usize> {
        for index in 0..self.shared_words + self.own.len() {
            let word = self.word(index);
            let mut value = word.load(Ordering::Acquire);
            while value != 0 {
                let bit = value & value.wrapping_neg();
                value = word.fetch_and(!bit, Ordering::AcqRel);
                if value & bit != 0 {
                    return Some(index * 64 + bit.trailing_zeros() as usize);
                }
            }
        }
        None
    }

    /// True when the slot is in the set.
    pub fn contains(&self, slot: usize) -> bool {
        self.word(slot / 64).load(Ordering::Acquire) & (1 << (slot % 64)) != 0
    }

    /// Puts a slot into the set.
    pub fn release(&self, slot: usize) {
        let before = self.word(slot / 64).fetch_or(1 << (slot % 64), Ordering::AcqRel);
        debug_assert_eq!(before & (1 << (slot % 64)), 0, "slot {slot} released twice");
    }

    /// Takes this slot out of the set; false when it was not in it (claimed by somebody else).
    pub fn withdraw(&self, slot: usize) -> bool {
        let bit = 1 << (slot % 64);
        self.word(slot / 64).fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_first_and_each_once() {
        let mut idle = IdleSet::default();
        idle.grow(130);
        for slot in [129, 3, 64, 0] {
            idle.release(slot);
        }
        assert!(idle.withdraw(3));
        assert!(!idle.withdraw(3));
        assert_eq!(std::iter::from_fn(|| idle.claim()).collect::<Vec<_>>(), [0, 64, 129]);
    }

    #[test]
    fn threads_never_claim_the_same_slot() {
        let mut idle = IdleSet::default();
        idle.grow(100);
        let owners: Vec<AtomicU64> = (0..100).map(|_| AtomicU64::new(0)).collect();
        (0..100).for_each(|slot| idle.release(slot));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Some(slot) = idle.claim() {
                            assert_eq!(owners[slot].fetch_add(1, Ordering::SeqCst), 0);
                            owners[slot].fetch_sub(1, Ordering::SeqCst);
                            idle.release(slot);
                        }
                    }
                });
            }
        });
        assert_eq!(std::iter::from_fn(|| idle.claim()).count(), 100);
    }
}
