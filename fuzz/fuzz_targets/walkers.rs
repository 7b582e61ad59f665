//! The taps of the kernel path against the user path: whatever two ends send, however it is cut, both find the same
//! messages, and both know the same of who owes what after each cut.
//!
//! An input is a byte of rules, a byte `n`, `n` pieces, a byte `m`, `m` bytes of the client and then those of the server.
//! A piece is one byte: its lowest six bits are the length (0 is 500), then whose it is and whether it joins the piece
//! before; before an even one the client has read all. The pieces are used again and again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tigger_bypass_host::conversation::{Conversation, Piece};
use tigger_bypass_host::taps::{Rules, Side};

fuzz_target!(|data: &[u8]| {
    let [rules, count, data @ ..] = data else { return };
    let Some((pieces, data)) = data.split_at_checked(usize::from(*count)) else { return };
    let Some((&len, data)) = data.split_first() else { return };
    let Some((requests, replies)) = data.split_at_checked(usize::from(len)) else { return };
    let rules = Rules {
        session: rules & 1 != 0,
        simple_query: rules & 2 == 0,
        reply_limit: [256 * 1024, 100, 20, 3][usize::from(rules >> 2 & 3)],
        packet_len_max: [i32::MAX as u32, 50, 10, 3][usize::from(rules >> 4 & 3)],
        remote: (rules & 0x40 != 0).then_some(Side::Client),
        // In session mode names are the servers'.
        prepared: rules & 0x81 == 0x80,
        commands: rules & 0x81 == 0x80,
    };
    let piece = |byte: &u8| Piece {
        side: if byte & 0x40 == 0 { Side::Client } else { Side::Server },
        len: if byte & 0x3f == 0 { 500 } else { usize::from(byte & 0x3f) },
        joined: byte & 0x80 != 0,
        all_read: byte & 1 == 0,
    };
    let turns = (requests.len() + replies.len()).min(TURNS_MAX);
    let pieces: Vec<Piece> = pieces.iter().cycle().take(turns).map(piece).collect();
    Conversation { rules, requests, replies, pieces: &pieces }.check();
});

/// More than the shortest pieces of most streams; the rest is dropped.
const TURNS_MAX: usize = 1000;
