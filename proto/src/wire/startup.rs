//! The packets that open a connection: they have a length but no type byte (manual, sections 55.2.1 and 55.7).

use super::cstr;
use super::version::Version;

/// Longest start-up packet accepted, as PostgreSQL's MAX_STARTUP_PACKET_LENGTH (pqcomm.h).
pub const STARTUP_LEN_MAX: usize = 10_000;

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

/// A packet that opens a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartupPacket {
    /// Asks for TLS; answered by one byte.
    Ssl,
    /// Asks for GSSAPI encryption; answered by one byte.
    GssEnc,
    /// Asks to cancel the query of the client that was given this key.
    Cancel(Vec<u8>),
    /// Starts a session of protocol 3.`minor`.
    Startup {
        /// The minor version asked for.
        minor: u16,
        /// Name and value pairs in the order sent.
        parameters: Vec<(String, String)>,
    },
}

/// Why a start-up packet is refused; the text is PgBouncer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadStartup {
    /// The length is below 8 or above [`STARTUP_LEN_MAX`], or the version is not one we know.
    Header([u8; 8]),
    /// Protocol version 2.
    OldProtocol,
    /// No terminator, a name without a value, or text that is not UTF-8.
    Layout,
    /// A CancelRequest without a key, or with one longer than 256 bytes.
    Cancel,
}

impl std::fmt::Display for BadStartup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(bytes) => {
                write!(f, "bad packet header: '")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                write!(f, "'")
            }
            Self::OldProtocol => write!(f, "old V2 protocol not supported"),
            Self::Layout => write!(f, "invalid startup packet layout: expected terminator as last byte"),
            Self::Cancel => write!(f, "bad cancel request"),
        }
    }
}

impl std::error::Error for BadStartup {}

/// Reads the packet at the start of `buf`: `Ok(None)` when more bytes are needed, else the packet and its length.
///
/// # Errors
/// [`BadStartup`] as soon as the first eight bytes (length and code) cannot be right: nothing is buffered for a length
/// that will be refused.
pub fn read(buf: &[u8]) -> Result<Option<(StartupPacket, usize)>, BadStartup> {
    let Some(head) = buf.first_chunk::<8>() else {
        // A length that can never be right is refused at once, so that its sender does not wait for us.
        return match buf.first_chunk::<4>() {
            Some(len) if !length_ok(u32::from_be_bytes(*len)) => {
                let mut bytes = [0; 8];
                bytes[..buf.len()].copy_from_slice(buf);
                Err(BadStartup::Header(bytes))
            }
            _ => Ok(None),
        };
    };
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *head;
    let len = u32::from_be_bytes([l0, l1, l2, l3]);
    let code = u32::from_be_bytes([c0, c1, c2, c3]);
    if !length_ok(len) {
        return Err(BadStartup::Header(*head));
    }
    // Refused before the body is there, so that nothing is buffered in vain.
    match (code, len) {
        (SSL_REQUEST | GSSENC_REQUEST, 8) => {}
        // 4 bytes process id, and a secret of 4 bytes (3.0) to 256 bytes (3.2)
        (CANCEL_REQUEST, 16..=268) => {}
        (CANCEL_REQUEST, _) => return Err(BadStartup::Cancel),
        _ => match code >> 16 {
            3 => {}
            2 => return Err(BadStartup::OldProtocol),
            _ => return Err(BadStartup::Header(*head)),
        },
    }
    let Some(body) = buf.get(8..len as usize) else {
        return Ok(None);
    };
    let packet = match code {
        SSL_REQUEST => StartupPacket::Ssl,
        GSSENC_REQUEST => StartupPacket::GssEnc,
        CANCEL_REQUEST => StartupPacket::Cancel(body.to_vec()),
        _ => StartupPacket::Startup { minor: code as u16, parameters: read_parameters(body)? },
    };
    Ok(Some((packet, len as usize)))
}

fn length_ok(len: u32) -> bool {
    (8..=STARTUP_LEN_MAX as u32).contains(&len)
}

fn read_parameters(body: &[u8]) -> Result<Vec<(String, String)>, BadStartup> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| BadStartup::Layout);
    let mut parameters = Vec::new();
    let mut rest = body;
    loop {
        match rest {
            [0] => return Ok(parameters),
            [] | [0, ..] => return Err(BadStartup::Layout),
            _ => {}
        }
        let (name, after) = cstr(rest).ok_or(BadStartup::Layout)?;
        let (value, after) = cstr(after).ok_or(BadStartup::Layout)?;
        parameters.push((text(name)?, text(value)?));
        rest = after;
    }
}

/// Appends a StartupMessage of this version.
pub fn startup_message<'a, 'b>(
    out: &mut Vec<u8>,
    version: Version,
    parameters: impl Iterator<Item = (&'a str, &'b str)>,
) {
    packet(out, version.code(), |out| {
        for (name, value) in parameters {
            for text in [name, value] {
                out.extend_from_slice(text.as_bytes());
                out.push(0);
            }
        }
        out.push(0);
    });
}

/// Appends a CancelRequest for the server that gave this key.
pub fn cancel_request(out: &mut Vec<u8>, key: &[u8]) {
    packet(out, CANCEL_REQUEST, |out| out.extend_from_slice(key));
}

fn packet(out: &mut Vec<u8>, code: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend([0; 4]);
    out.extend(code.to_be_bytes());
    body(out);
    let len = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw(code: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        packet(&mut out, code, |out| out.extend_from_slice(body));
        out
    }

    #[test]
    fn packets() {
        #[track_caller]
        fn check(bytes: &[u8], expected: Result<StartupPacket, BadStartup>) {
            match (read(bytes), expected) {
                (Ok(Some((packet, len))), Ok(expected)) => {
                    assert_eq!(packet, expected);
                    assert_eq!(len, bytes.len());
                }
                (got, expected) => assert_eq!(got.map(|p| p.map(|p| p.0)), expected.map(Some)),
            }
        }
        let startup = |minor, list: &[(&str, &str)]| StartupPacket::Startup {
            minor,
            parameters: list.iter().map(|&(a, b)| (a.into(), b.into())).collect(),
        };
        check(&raw(SSL_REQUEST, b""), Ok(StartupPacket::Ssl));
        check(&raw(GSSENC_REQUEST, b""), Ok(StartupPacket::GssEnc));
        check(&raw(CANCEL_REQUEST, &[9; 8]), Ok(StartupPacket::Cancel(vec![9; 8])));
        check(&raw(CANCEL_REQUEST, &[9; 36]), Ok(StartupPacket::Cancel(vec![9; 36])));
        check(&raw(CANCEL_REQUEST, b""), Err(BadStartup::Cancel));
        check(&raw(CANCEL_REQUEST, &[9; 261]), Err(BadStartup::Cancel));
        check(&raw(3 << 16, b"user\0u\0database\0d\0\0"), Ok(startup(0, &[("user", "u"), ("database", "d")])));
        check(&raw(3 << 16 | 2, b"user\0u\0\0"), Ok(startup(2, &[("user", "u")])));
        check(&raw(3 << 16, b"options\0\0\0"), Ok(startup(0, &[("options", "")])));
        check(&raw(2 << 16, b"x"), Err(BadStartup::OldProtocol));
        check(&raw(3 << 16, b"user\0u\0"), Err(BadStartup::Layout));
        check(&raw(3 << 16, b"user\0u"), Err(BadStartup::Layout));
        check(&raw(3 << 16, b"user\0\0"), Err(BadStartup::Layout));
        check(&raw(3 << 16, b"user\0u\0\0junk\0"), Err(BadStartup::Layout));
        check(&raw(3 << 16, b"user\0\xff\0\0"), Err(BadStartup::Layout));
        check(b"\0\0\0\0\0\x03\0\0", Err(BadStartup::Header(*b"\0\0\0\0\0\x03\0\0")));
        check(b"\0\0\0\x04", Err(BadStartup::Header(*b"\0\0\0\x04\0\0\0\0")));
        check(b"\x80\0\0\0", Err(BadStartup::Header(*b"\x80\0\0\0\0\0\0\0")));
        check(b"\0\0\x27\x11", Err(BadStartup::Header(*b"\0\0\x27\x11\0\0\0\0")));
        check(b"GET / HT", Err(BadStartup::Header(*b"GET / HT")));
    }

    #[test]
    fn cut_anywhere_asks_for_more() {
        let bytes = raw(3 << 16, b"user\0u\0\0");
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Ok(None), "cut at {end}");
        }
    }

    #[test]
    fn what_will_be_refused_is_not_waited_for() {
        let check = |bytes: &[u8], expected| assert_eq!(read(bytes), Err(expected), "{bytes:?}");
        check(b"\0\0\x27\x10\0\x05\0\0", BadStartup::Header(*b"\0\0\x27\x10\0\x05\0\0"));
        check(b"\0\0\0\x09\x04\xd2\x16\x2f", BadStartup::Header(*b"\0\0\0\x09\x04\xd2\x16\x2f"));
        check(b"\0\0\x27\x10\0\x02\0\0", BadStartup::OldProtocol);
        check(b"\0\0\0\x0c\x04\xd2\x16\x2e", BadStartup::Cancel);
        check(b"\0\0\x01\x0d\x04\xd2\x16\x2e", BadStartup::Cancel);
    }

    proptest! {
        #[test]
        fn built_messages_read_back(list in prop::collection::vec(("[a-z_.]{1,9}", "[^\0]{0,20}"), 0..10)) {
            let mut out = Vec::new();
            startup_message(&mut out, Version::V3_0, list.iter().map(|(a, b)| (a.as_str(), b.as_str())));
            let expected = StartupPacket::Startup { minor: 0, parameters: list };
            prop_assert_eq!(read(&out), Ok(Some((expected, out.len()))));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _packet = read(&bytes);
        }
    }
}
