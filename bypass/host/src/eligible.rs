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
    // Where a text is that may be a command.
    let text_at = if seen[0] == b'Q' { HEADER_LEN } else { HEADER_LEN + 1 };
    let has_text = rules.commands && (seen[0] == b'Q' || seen[0] == b'P' && seen[HEADER_LEN] == 0);
    let text = seen.get(text_at..).filter(|text| has_text && !text.is_empty());
    let is_cut = rules.commands && matches!(seen[0], b'Q' | b'P') && seen.len() == text_at;
    let fixed = matches!(seen[0], b'S' | b'H');
    match len {
        ..4 | 0x8000_0000.. => Some("request"),
        len if len > rules.packet_len_max.min(rules.reply_limit) => Some("request_long"),
        _ if text.is_some_and(may_be_command) => Some("command"),
        len if is_cut && len as usize > text_at - 1 => Some("split"),
        len if fixed && len != 4 || (len as usize) < 4 + body_min => Some("request"),
        _ if seen[0] == b'Q' && (!rules.simple_query || open) => Some("request"),
        _ if named(seen, rules).is_some_and(|name| statement(name).is_some()) => None,
        // A name is empty when its first byte is the zero that ends it.
        _ if !rules.session && names.iter().any(|&at| seen[HEADER_LEN + at] != 0) => Some("named"),
        _ => None,
    }
}

/// Whether a query that begins like this may be a command, as far as it is looked at.
fn may_be_command(text: &[u8]) -> bool {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    if !is_space(&text[0]) && !b"lupedLUPED".contains(&text[0]) {
        return false;
    }
    let head = &text[..text.len().min(32)];
    let at = head.iter().position(|byte| !is_space(byte)).filter(|at| at + 3 <= head.len() && *at < 30);
    let Some(at) = at else { return true };
    let word = head[at..at + 3].to_ascii_lowercase();
    [b"lis", b"unl", b"pre", b"exe", b"dea"].iter().any(|command| **command == *word)
}

/// The client's names of prepared statements, the server's, and whether the server has them. As in `host.c`.
pub const STATEMENTS: [(&[u8], &[u8], bool); 3] = [(b"s", b"z", true), (b"t2", b"~6", true), (b"no", b"~7", false)];

/// The statement that a client calls so.
pub fn statement(name: &[u8]) -> Option<&'static (&'static [u8], &'static [u8], bool)> {
    STATEMENTS.iter().find(|(known, ..)| *known == name)
}

/// The name of the prepared statement that the request at the start of `seen` uses, if it is there as a whole and names
/// mean something else on servers.
pub fn named(seen: &[u8], rules: Rules) -> Option<&[u8]> {
    let &[kind, a, b, c, d, first, ..] = seen else { return None };
    let end = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_add(1).min(seen.len());
    let uses = rules.prepared && matches!((kind, first), (b'B', 0) | (b'D', b'S'));
    let rest = seen.get(6..end).filter(|_| uses)?;
    let len = rest.iter().position(|&byte| byte == 0)?;
    (1..59).contains(&len).then(|| &rest[..len])
}

/// Why a reply of this type is not for the kernel path.
pub fn reply_refusal(kind: u8, rules: Rules) -> Option<&'static str> {
    match kind {
        b'A' if rules.commands => Some("reply"),
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
        // Of a header alone it is not known what follows.
        b'C' if rules.prepared && matches!(len, 16 | 19) && seen.get(HEADER_LEN).is_none_or(|&tag| tag == b'D') => true,
        _ => !(4..=rules.packet_len_max.min(0x7fff_ffff)).contains(&len),
    }
}

/// True for the start of a CommandComplete that may say that all prepared statements are gone.
pub fn ends_all(seen: &[u8], rules: Rules) -> bool {
    let &[b'C', 0, 0, 0, len, b'D', ..] = seen else { return false };
    rules.prepared && matches!(len, 16 | 19)
}

const HEADER_LEN: usize = 5;
