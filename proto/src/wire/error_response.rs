//! ErrorResponse and NoticeResponse (manual, sections 55.7 and 55.8): building ours, reading a server's.

use super::cstr;

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

#[cfg(test)]
mod tests {
    use super::*;

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
