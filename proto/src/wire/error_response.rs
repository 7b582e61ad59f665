//! ErrorResponse and NoticeResponse (manual, sections 55.7 and 55.8): building ours, reading a server's.

use super::cstr;
use super::frame::{HEADER_LEN, Header};

/// What an ErrorResponse or NoticeResponse says, as far as a pooler needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorFields {
    /// Field `S`: ERROR, FATAL, PANIC, WARNING, NOTICE ... possibly localised.
    pub severity: String,
    /// Field `C`: the SQLSTATE.
    pub sqlstate: String,
    /// Field `M`: the primary message.
    pub message: String,
}

impl ErrorFields {
    /// Reads the body of a message `E` or `N`; fields that are missing stay empty, text that is not UTF-8 is replaced.
    pub fn read(body: &[u8]) -> Self {
        let mut fields = Self { severity: String::new(), sqlstate: String::new(), message: String::new() };
        let mut rest = body;
        while let Some((&code, after)) = rest.split_first() {
            if code == 0 {
                break;
            }
            let Some((value, after)) = cstr(after) else { break };
            let text = || String::from_utf8_lossy(value).into_owned();
            match code {
                b'S' => fields.severity = text(),
                b'C' => fields.sqlstate = text(),
                b'M' => fields.message = text(),
                _ => {}
            }
            rest = after;
        }
        fields
    }
}

/// Severity of a message we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The connection stays (admin console).
    Error,
    /// The connection ends.
    Fatal,
    /// For information.
    Notice,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Notice => "NOTICE",
        }
    }
}

/// Appends an ErrorResponse (a NoticeResponse for [`Severity::Notice`]) with PgBouncer's three fields S, C and M.
/// A NUL in `message` would end the field early, so such bytes are left out.
pub fn write(out: &mut Vec<u8>, severity: Severity, sqlstate: &str, message: &str) {
    let kind = if severity == Severity::Notice { b'N' } else { b'E' };
    super::backend::message(out, kind, |out| {
        for (code, value) in [(b'S', severity.name()), (b'C', sqlstate), (b'M', message)] {
            out.push(code);
            out.extend(value.bytes().filter(|&b| b != 0));
            out.push(0);
        }
        out.push(0);
    });
}

/// Moves the position in the query (field `P`, in characters) that each ErrorResponse and NoticeResponse among `messages`
/// tells by so many, or leaves it out: the client's query was another one than the server's.
pub fn move_positions(messages: &[u8], by: Option<i64>) -> Vec<u8> {
    let mut out = Vec::with_capacity(messages.len());
    let mut rest = messages;
    while let Ok(Some(header)) = Header::read(rest, u32::MAX)
        && header.total() <= rest.len()
    {
        let (message, after) = rest.split_at(header.total());
        match header.kind {
            b'E' | b'N' => super::backend::message(&mut out, header.kind, |out| {
                let mut fields = &message[HEADER_LEN..];
                while let Some((&code, value)) = fields.split_first()
                    && let Some((value, after)) = cstr(value)
                    && code != 0
                {
                    fields = after;
                    if code != b'P' {
                        out.extend([&[code], value, &[0]].concat());
                        continue;
                    }
                    let position = std::str::from_utf8(value).ok().and_then(|value| value.parse::<i64>().ok());
                    let moved = position.zip(by).and_then(|(position, by)| position.checked_add(by));
                    if let Some(moved) = moved.filter(|moved| *moved > 0) {
                        out.extend(format!("P{moved}\0").bytes());
                    }
                }
                out.push(0);
            }),
            _ => out.extend_from_slice(message),
        }
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_in_another_query() {
        let message = |position: &str| {
            let mut out = Vec::new();
            crate::wire::backend::message(&mut out, b'E', |out| {
                out.extend_from_slice(format!("SERROR\0{position}Lx\0\0").as_bytes());
            });
            crate::wire::backend::ready_for_query_in(&mut out, crate::wire::backend::TransactionStatus::Idle);
            out
        };
        let check = |position: &str, by, expected: &str| {
            assert_eq!(move_positions(&message(position), by), message(expected), "{position:?} by {by:?}");
        };
        check("P13\0", Some(-4), "P9\0");
        check("P13\0", Some(100), "P113\0");
        check("P13\0", None, "");
        check("P3\0", Some(-3), "");
        check("", Some(2), "");
        check("Px\0", Some(2), "");
        check("p13\0", Some(2), "p13\0");
        assert_eq!(move_positions(&message("")[..9], None), b"");
    }

    #[test]
    fn written_then_read() {
        let mut out = Vec::new();
        write(&mut out, Severity::Fatal, "08P01", "no such\0 database: x");
        assert_eq!(out[0], b'E');
        assert_eq!(u32::from_be_bytes(out[1..5].try_into().unwrap()) as usize, out.len() - 1);
        assert_eq!(
            ErrorFields::read(&out[5..]),
            ErrorFields { severity: "FATAL".into(), sqlstate: "08P01".into(), message: "no such database: x".into() }
        );
    }

    #[test]
    fn cut_bodies_do_not_panic() {
        let mut out = Vec::new();
        write(&mut out, Severity::Notice, "00000", "hello");
        for end in 5..out.len() {
            let _fields = ErrorFields::read(&out[5..end]);
        }
    }
}
