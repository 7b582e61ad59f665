//! Messages a client sends after start-up (manual, section 55.7): their meaning for a pooler, and builders for the ones
//! we send to servers ourselves.

use super::backend::message;

/// What a message from a client means for pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frontend {
    /// A message the server answers, see [`Request`].
    Request(Request),
    /// `H` or `d`: no answer of its own, means nothing without a server.
    Silent,
    /// `X`.
    Terminate,
}

/// A message that the server answers, or (CopyEnd) that ends COPY-in mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Request {
    /// `P`, answered by ParseComplete.
    Parse,
    /// `B`, answered by BindComplete.
    Bind,
    /// `D`, answered by RowDescription or NoData.
    Describe,
    /// `E`, answered by CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// `C`, answered by CloseComplete.
    Close,
    /// `S`, answered by ReadyForQuery.
    Sync,
    /// `Q`, ends with ReadyForQuery.
    Query,
    /// `F`, ends with ReadyForQuery.
    FunctionCall,
    /// `c` or `f`.
    CopyEnd,
}

impl Frontend {
    /// From the type byte; `None` for a type no client may send after login.
    #[inline]
    pub fn from_kind(kind: u8) -> Option<Self> {
        Some(match kind {
            b'Q' => Self::Request(Request::Query),
            b'P' => Self::Request(Request::Parse),
            b'B' => Self::Request(Request::Bind),
            b'D' => Self::Request(Request::Describe),
            b'E' => Self::Request(Request::Execute),
            b'C' => Self::Request(Request::Close),
            b'S' => Self::Request(Request::Sync),
            b'F' => Self::Request(Request::FunctionCall),
            b'c' | b'f' => Self::Request(Request::CopyEnd),
            b'H' | b'd' => Self::Silent,
            b'X' => Self::Terminate,
            _ => return None,
        })
    }
}

/// Type byte of PasswordMessage, SASLInitialResponse and SASLResponse.
pub const PASSWORD: u8 = b'p';

/// A Terminate message.
pub const TERMINATE: [u8; 5] = *b"X\0\0\0\x04";

/// Appends a Query.
pub fn query(out: &mut Vec<u8>, sql: &str) {
    message(out, b'Q', |out| {
        out.extend_from_slice(sql.as_bytes());
        out.push(0);
    });
}

/// Appends a PasswordMessage.
pub fn password(out: &mut Vec<u8>, text: &str) {
    message(out, PASSWORD, |out| {
        out.extend_from_slice(text.as_bytes());
        out.push(0);
    });
}

/// Appends a SASLInitialResponse.
pub fn sasl_initial_response(out: &mut Vec<u8>, mechanism: &str, data: &[u8]) {
    message(out, PASSWORD, |out| {
        out.extend_from_slice(mechanism.as_bytes());
        out.push(0);
        out.extend((data.len() as u32).to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// Appends a SASLResponse.
pub fn sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    message(out, PASSWORD, |out| out.extend_from_slice(data));
}

/// Reads the body of a SASLInitialResponse: mechanism and data (`None` when the client sent no initial response).
pub fn read_sasl_initial_response(body: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let (mechanism, rest) = super::cstr(body)?;
    let (len, data) = rest.split_first_chunk::<4>()?;
    match i32::from_be_bytes(*len) {
        -1 if data.is_empty() => Some((mechanism, None)),
        len if usize::try_from(len).ok()? == data.len() => Some((mechanism, Some(data))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sasl_initial_response_reads_back() {
        let mut out = Vec::new();
        sasl_initial_response(&mut out, "SCRAM-SHA-256", b"n,,n=,r=x");
        assert_eq!(
            read_sasl_initial_response(&out[5..]),
            Some((b"SCRAM-SHA-256".as_slice(), Some(b"n,,n=,r=x".as_slice())))
        );
        assert_eq!(read_sasl_initial_response(b"M\0\xff\xff\xff\xff"), Some((b"M".as_slice(), None)));
        for bad in [b"M".as_slice(), b"M\0\0\0", b"M\0\0\0\0\x05abc", b"M\0\xff\xff\xff\xfe"] {
            assert_eq!(read_sasl_initial_response(bad), None);
        }
    }

    #[test]
    fn only_the_manuals_types_are_known() {
        let known: Vec<u8> = (0..=255).filter(|&kind| Frontend::from_kind(kind).is_some()).collect();
        assert_eq!(known, b"BCDEFHPQSXcdf");
    }
}
