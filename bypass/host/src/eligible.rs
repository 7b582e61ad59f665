//! What the programs may redirect, said a second time and in other words than `frame.bpf.h`: a table for each direction.

use crate::taps::Rules;

/// Why the request at the start of `seen`, the rest of an element of a send, is not for the kernel path; `None` if it
/// is. `open`: an extended query was begun and not ended.
pub fn request_refusal(seen: &[u8], rules: Rules, open: bool) -> Option<&'static str> {
    // Length of the shortest body that is not broken, and where the names are that must be empty.
    let (body_min, names): (usize, &[usize]) = match seen[0] {
        b'X' => return Some("terminate"),
        b'Q' | b'S' | b'H' => (0, &[]),
        b'P' | b'E' => (1, &[0]),
        b'B' => (2, &[0, 1]),
        b'D' | b'C' => (2, &[1]),
        _ => return Some("request"),
    };
    if seen.len() < HEADER_LEN + body_min {
        return Some("split");
    }
    let len = u32::from_be_bytes([seen[1], seen[2], seen[3], seen[4]]);
    let fixed = matches!(seen[0], b'S' | b'H');
    match len {
        ..4 | 0x8000_0000.. => Some("request"),
        len if len > rules.packet_len_max.min(rules.reply_limit) => Some("request_long"),
        len if fixed && len != 4 || (len as usize) < 4 + body_min => Some("request"),
        _ if seen[0] == b'Q' && (!rules.simple_query || open) => Some("request"),
        // A name is empty when its first byte is the zero that ends it.
        _ if !rules.session && names.iter().any(|&at| seen[HEADER_LEN + at] != 0) => Some("named"),
        _ => None,
    }
}

/// Why a reply of this type is not for the kernel path.
pub fn reply_refusal(kind: u8) -> Option<&'static str> {
    match kind {
        b'S' => Some("parameter"),
        b'G' | b'H' | b'W' | b'c' | b'd' => Some("copy"),
        b'1' | b'2' | b'3' | b'A' | b'C' | b'D' | b'E' | b'I' | b'N' | b'T' | b'Z' | b'n' | b's' | b't' => None,
        _ => Some("reply"),
    }
}

/// True for the header (and status, of ReadyForQuery) of a reply that cannot be, or must not with these rules.
pub fn is_broken_reply(seen: &[u8], rules: Rules) -> bool {
    let Some(&[kind, a, b, c, d]) = seen.first_chunk::<HEADER_LEN>() else { return false };
    let len = u32::from_be_bytes([a, b, c, d]);
    match kind {
        b'Z' => seen
            .get(HEADER_LEN)
            .is_some_and(|status| len != 5 || len > rules.packet_len_max || !b"ITE".contains(status)),
        _ => !(4..=rules.packet_len_max.min(0x7fff_ffff)).contains(&len),
    }
}

const HEADER_LEN: usize = 5;
