//! The idle set: which server slots of a pool may be claimed.
//!
//! A bitmap of atomic words. The lowest slot is claimed first, so that a few servers stay busy and the rest grow old
//! enough to be closed (last in, first out in effect). The words are atomic because the kernel path will claim from the
//! same memory; the user path calls it under the pool's lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// A set of slot numbers.
#[derive(Debug, Default)]
pub struct IdleSet {
    words: Vec<AtomicU64>,
}

impl IdleSet {
    /// Makes room for `slots` slots.
    pub fn grow(&mut self, slots: usize) {
        let words = slots.div_ceil(64);
        if words > self.words.len() {
            self.words.resize_with(words, AtomicU64::default);
        }
    }

    /// Takes the lowest slot out of the set.
    pub fn claim(&self) -> Option<usize> {
        for (index, word) in self.words.iter().enumerate() {
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

    /// Puts a slot into the set.
    pub fn release(&self, slot: usize) {
        let before = self.words[slot / 64].fetch_or(1 << (slot % 64), Ordering::AcqRel);
        debug_assert_eq!(before & (1 << (slot % 64)), 0, "slot {slot} released twice");
    }

    /// Takes this slot out of the set; false when it was not in it (claimed by somebody else).
    pub fn withdraw(&self, slot: usize) -> bool {
        let bit = 1 << (slot % 64);
        self.words[slot / 64].fetch_and(!bit, Ordering::AcqRel) & bit != 0
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
