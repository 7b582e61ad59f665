//! A server that does nothing but LISTEN: what it says between and in answer to queries, which are sent one by one.

use crate::error::Error;
use crate::wire::backend::kind;
use crate::wire::cstr;
use crate::wire::error_response::ErrorFields;
use crate::wire::frame::{HEADER_LEN, Header};

/// Longest message of such a server, in bytes: a NotificationResponse has a channel of at most 63 and a payload of at most
/// 8,000 (manual, NOTIFY).
const LEN_MAX: u32 = 16 * 1024;

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// A NotificationResponse, as it goes to clients.
    Notification {
        /// The channel.
        channel: &'a [u8],
        /// All of it.
        message: &'a [u8],
    },
    /// An ErrorResponse: in answer to a query, or before the server hangs up.
    Error(ErrorFields),
    /// The query is answered.
    Ready,
    /// Nothing that matters.
    Other,
}

/// The message at the start of `buf` and its length; `None` if it has not come as a whole.
///
/// # Errors
/// [`Error::ServerProtocol`]: it is too long, or broken.
pub fn read(buf: &[u8]) -> Result<Option<(usize, Said<'_>)>, Error> {
    let bad = |what: &str| Error::ServerProtocol(format!("bad message from listening server: {what}").into());
    let Some(header) = Header::read(buf, LEN_MAX).map_err(|error| bad(&error.to_string()))? else { return Ok(None) };
    let Some(message) = buf.get(..header.total()) else { return Ok(None) };
    let body = &message[HEADER_LEN..];
    let said = match header.kind {
        kind::NOTIFICATION_RESPONSE => {
            let channel = body.get(4..).and_then(cstr).ok_or_else(|| bad("NotificationResponse"))?.0;
            Said::Notification { channel, message }
        }
        kind::ERROR_RESPONSE => Said::Error(ErrorFields::read(body)),
        kind::READY_FOR_QUERY => Said::Ready,
        _ => Said::Other,
    };
    Ok(Some((header.total(), said)))
}

/// `name` as an SQL identifier.
pub fn quoted(name: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    for &byte in name {
        out.extend_from_slice(if byte == b'"' { b"\"\"" } else { std::slice::from_ref(&byte) });
    }
    out.push(b'"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let notification = b"A\0\0\0\x10\0\0\0\x07ch\0pay\0\0";
        let message = &notification[..17];
        assert_eq!(read(notification), Ok(Some((17, Said::Notification { channel: b"ch", message }))));
        for end in 0..17 {
            assert_eq!(read(&notification[..end]), Ok(None));
        }
        assert_eq!(read(b"Z\0\0\0\x05I"), Ok(Some((6, Said::Ready))));
        assert_eq!(read(b"C\0\0\0\x0bLISTEN\0"), Ok(Some((12, Said::Other))));
        assert!(
            matches!(read(b"E\0\0\0\x0dC57P01\0\0\0"), Ok(Some((_, Said::Error(fields)))) if fields.sqlstate == "57P01")
        );
        for bad in [b"A\0\0\0\x08\0\0\0\x07".as_slice(), b"A\0\0\0\x06\0\0", b"A\0\0\0\x03", b"A\0\xff\0\0"] {
            assert!(matches!(read(bad), Err(Error::ServerProtocol(_))), "{bad:?}");
        }
    }

    #[test]
    fn quoting() {
        assert_eq!(quoted(b"a \"b\""), b"\"a \"\"b\"\"\"");
    }
}
