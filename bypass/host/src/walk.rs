//! The walker on a stream alone.

use crate::taps::Side;

/// How far it came, and what it has met. What is in it is C's; it goes into a packet as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    state: Vec<u32>,
}

impl Walk {
    /// Of what this side sends, where messages have at most `len_max` bytes. The server owes `owed` replies. `flags`: those
    /// of `enum pool_flags`.
    pub fn new(side: Side, flags: u32, len_max: u32, owed: u32) -> Self {
        // SAFETY: it takes nothing.
        let len = unsafe { walk_state_len() } as usize;
        let mut state = vec![0; len.div_ceil(4)];
        // SAFETY: as many bytes as it asks for, and aligned as its 32-bit fields.
        unsafe { walk_new(state.as_mut_ptr(), u32::from(side == Side::Server), flags, len_max, owed) };
        Self { state }
    }

    /// Walks on through these bytes, compiled for the host; returns how many it has walked.
    pub fn run(&mut self, bytes: &[u8]) -> usize {
        let mut bytes = bytes.to_vec();
        let len = u32::try_from(bytes.len()).expect("a stream is short");
        // SAFETY: as in `new`, and the bytes outlive the call.
        unsafe { walk_run(self.state.as_mut_ptr(), bytes.as_mut_ptr(), len) as usize }
    }

    /// As C has it.
    pub fn bytes(&self) -> Vec<u8> {
        self.state.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }
}

// SAFETY: as `walk.c` has them.
unsafe extern "C" {
    fn walk_state_len() -> u32;
    fn walk_new(state: *mut u32, is_reply: u32, flags: u32, len_max: u32, owed: u32);
    fn walk_run(state: *mut u32, stream: *mut u8, len: u32) -> u32;
}
