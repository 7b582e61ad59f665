//! One direction of a connection: a bounded buffer between two ends that never see each other's pace.

use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Pipe {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// The writer hung up; what was written before can still be read.
    pub(super) closed: bool,
}

impl Pipe {
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::new(), capacity, closed: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// True when a reader meets the end.
    pub(super) fn is_over(&self) -> bool {
        self.closed && self.bytes.is_empty()
    }

    pub(super) fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        self.bytes.iter().copied()
    }

    /// Takes at most `most` of the first bytes of `from`, as far as there is room; returns how many.
    pub(super) fn write(&mut self, from: &mut Vec<u8>, most: usize) -> usize {
        let n = most.min(from.len()).min(self.capacity.saturating_sub(self.bytes.len()));
        self.bytes.extend(from.drain(..n));
        n
    }

    /// Moves at most `most` bytes to the end of `to`; returns how many.
    pub(super) fn read(&mut self, to: &mut Vec<u8>, most: usize) -> usize {
        let n = most.min(self.bytes.len());
        to.extend(self.bytes.drain(..n));
        n
    }

    /// Forgets what nobody will read.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }
}
