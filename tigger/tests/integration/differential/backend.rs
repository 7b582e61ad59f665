//! What comes back: messages, made comparable, and readable.

use std::{collections::BTreeMap, fmt};

/// A backend message (manual, section 55.7).
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) body: Vec<u8>,
}

/// Stands for the end of the connection, where nobody asked for it.
pub(super) const END: u8 = 0;
/// Stands for what was waited for in vain.
pub(super) const NOTHING: u8 = 1;

impl Message {
    /// The message at the start of `buf`, and its length.
    pub(super) fn read(buf: &[u8]) -> Option<(Self, usize)> {
        let [kind, a, b, c, d, ..] = *buf else { return None };
        let total = 1 + u32::from_be_bytes([a, b, c, d]) as usize;
        assert!(total >= 5, "no message: {:?}", &buf[..5]);
        buf.get(5..total).map(|body| (Self { kind, body: body.to_vec() }, total))
    }
}

/// Replaces what is another with each connection: the key and the order of parameters at login, process numbers, and the
/// OIDs of relations that a script has made.
pub(super) fn normalised(mut messages: Vec<Message>) -> Vec<Message> {
    let login = messages.iter().position(|message| message.kind == b'Z').map_or(messages.len(), |ready| ready + 1);
    // Stable: the rest stays in its order.
    messages[..login].sort_by_key(|message| (message.kind == b'S').then(|| message.body.clone()));
    let mut relations = BTreeMap::new();
    for message in &mut messages {
        match message.kind {
            b'K' => message.body.clear(),
            b'A' => message.body[..4].fill(0),
            b'T' => number_relations(&mut message.body, &mut relations),
            _ => {}
        }
    }
    messages
}

/// Puts 1, 2, 3 and so on for the OIDs of relations that are not PostgreSQL's own (FirstNormalObjectId).
fn number_relations(body: &mut [u8], known: &mut BTreeMap<u32, u32>) {
    let mut at = 2;
    while let Some(name) = body[at..].iter().position(|byte| *byte == 0) {
        let oid = &mut body[at + name + 1..at + name + 5];
        let value = u32::from_be_bytes(oid.try_into().expect("four bytes"));
        if value >= 16_384 {
            let next = known.len() as u32 + 1;
            oid.copy_from_slice(&known.entry(value).or_insert(next).to_be_bytes());
        }
        at += name + 19;
    }
}

/// The type byte of a message with this name.
pub(super) fn kind_of(name: &str) -> Option<u8> {
    KINDS.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match KINDS.iter().find(|(kind, _)| *kind == self.kind) {
            Some((_, name)) => f.write_str(name)?,
            None => write!(f, "{}", self.kind.escape_ascii())?,
        }
        let strings = || self.body.split(|byte| *byte == 0).filter(|string| !string.is_empty());
        match self.kind {
            b'E' | b'N' => {
                strings().try_for_each(|field| write!(f, " {}={}", field[..1].escape_ascii(), Short(&field[1..])))
            }
            b'C' | b'S' | b'Z' => strings().try_for_each(|string| write!(f, " {}", Short(string))),
            b'D' => self.write_values(f, 2),
            b'V' => self.write_values(f, 0),
            b'T' => self.write_columns(f),
            _ if self.body.is_empty() => Ok(()),
            _ => write!(f, " {}", Short(&self.body)),
        }
    }
}

impl Message {
    /// Values with their lengths from `at` on.
    fn write_values(&self, f: &mut fmt::Formatter<'_>, at: usize) -> fmt::Result {
        let mut rest = &self.body[at..];
        while let Some((len, after)) = rest.split_first_chunk::<4>() {
            rest = after;
            match usize::try_from(i32::from_be_bytes(*len)) {
                Err(_) => f.write_str(" null")?,
                Ok(len) => {
                    let (value, after) = after.split_at(len);
                    write!(f, " {}", Short(value))?;
                    rest = after;
                }
            }
        }
        Ok(())
    }

    /// Names, and in hexadecimal: relation, column, type, size, modifier, format.
    fn write_columns(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = &self.body[2..];
        while let Some(end) = rest.iter().position(|byte| *byte == 0) {
            let (column, after) = rest.split_at(end + 19);
            let [relation, at, of, size, modifier, format] =
                [1..5, 5..7, 7..11, 11..13, 13..17, 17..19].map(|range| hex(&column[end..][range]));
            let name = Short(&column[..end]);
            write!(f, " {name}({relation}.{at} type {of} size {size} modifier {modifier} format {format})")?;
            rest = after;
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A text, or the beginning of a long one.
struct Short<'a>(&'a [u8]);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            long if long.len() > 200 => write!(f, "\"{}\"... ({} bytes)", long[..60].escape_ascii(), long.len()),
            text => write!(f, "\"{}\"", text.escape_ascii()),
        }
    }
}

const KINDS: [(u8, &str); 26] = [
    (END, "the connection ends"),
    (NOTHING, "nothing more comes"),
    (b'1', "ParseComplete"),
    (b'2', "BindComplete"),
    (b'3', "CloseComplete"),
    (b'A', "NotificationResponse"),
    (b'C', "CommandComplete"),
    (b'D', "DataRow"),
    (b'E', "ErrorResponse"),
    (b'G', "CopyInResponse"),
    (b'H', "CopyOutResponse"),
    (b'I', "EmptyQueryResponse"),
    (b'K', "BackendKeyData"),
    (b'N', "NoticeResponse"),
    (b'R', "Authentication"),
    (b'S', "ParameterStatus"),
    (b'T', "RowDescription"),
    (b'V', "FunctionCallResponse"),
    (b'W', "CopyBothResponse"),
    (b'Z', "ReadyForQuery"),
    (b'c', "CopyDone"),
    (b'd', "CopyData"),
    (b'n', "NoData"),
    (b's', "PortalSuspended"),
    (b't', "ParameterDescription"),
    (b'v', "NegotiateProtocolVersion"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Message {
        Message { kind, body: body.to_vec() }
    }

    #[test]
    fn what_differs_from_connection_to_connection_is_made_equal() {
        let column = |oid: u32| [b"\0\x01a\0", &oid.to_be_bytes()[..], &[0; 14]].concat();
        let connection = |first: &[u8], second: &[u8], key: u8, oid: u32| {
            let parameters = [message(b'S', first), message(b'S', second), message(b'K', &[key; 8])];
            let rest = [message(b'Z', b"I"), message(b'T', &column(oid)), message(b'T', &column(1259))];
            normalised([parameters.as_slice(), &rest].concat())
        };
        let one = connection(b"a\0b\0", b"c\0d\0", 1, 16_400);
        assert_eq!(one, connection(b"c\0d\0", b"a\0b\0", 2, 16_500));
        assert_ne!(one, connection(b"c\0d\0", b"a\0b\0", 2, 16_383));
        assert_ne!(one, connection(b"c\0d\0", b"a\0c\0", 2, 16_400));
    }

    #[test]
    fn messages_are_readable() {
        let check = |kind: u8, body: &[u8], text: &str| assert_eq!(format!("{:?}", message(kind, body)), text);
        check(b'D', b"\0\x02\0\0\0\x01a\xff\xff\xff\xff", "DataRow \"a\" null");
        check(b'E', b"SERROR\0C42601\0\0", "ErrorResponse S=\"ERROR\" C=\"42601\"");
        check(b'1', b"", "ParseComplete");
        let columns = b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
        let text = "RowDescription \"a\"(00000000.0000 type 00000017 size 0004 modifier ffffffff format 0000)";
        check(b'T', columns, text);
    }
}
