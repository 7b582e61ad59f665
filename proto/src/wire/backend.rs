//! Messages a server sends (manual, section 55.7): their type bytes, the bodies a pooler reads, and builders for the
//! ones it sends in a server's place (login, admin console).

use super::cstr;
use super::version::Version;

/// Type bytes of backend messages.
pub mod kind {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// The status byte of ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`: not in a transaction block.
    Idle,
    /// `T`: in a transaction block.
    InTransaction,
    /// `E`: in a failed transaction block.
    Failed,
}

impl TransactionStatus {
    /// From the wire's byte; `None` for any other than I, T and E.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::InTransaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }

    /// The wire's byte.
    pub fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// What a server asks for at login, or that it is satisfied (manual 55.7, message `R`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// Logged in.
    Ok,
    /// The password as it is.
    CleartextPassword,
    /// MD5 with this salt.
    Md5Password([u8; 4]),
    /// SASL; the list of mechanisms.
    Sasl(Vec<&'a [u8]>),
    /// server-first-message.
    SaslContinue(&'a [u8]),
    /// server-final-message.
    SaslFinal(&'a [u8]),
    /// A request code this proxy does not know (Kerberos, GSSAPI, SSPI ...).
    Other(u32),
}

impl<'a> Authentication<'a> {
    /// Reads the body of a message `R`; `None` when it is cut short.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (code, rest) = body.split_first_chunk::<4>()?;
        Some(match u32::from_be_bytes(*code) {
            0 => Self::Ok,
            3 => Self::CleartextPassword,
            5 => Self::Md5Password(*rest.first_chunk::<4>()?),
            10 => Self::Sasl(rest.split(|&b| b == 0).filter(|name| !name.is_empty()).collect()),
            11 => Self::SaslContinue(rest),
            12 => Self::SaslFinal(rest),
            other => Self::Other(other),
        })
    }
}

/// Reads the body of a ParameterStatus: name and value.
pub fn read_parameter_status(body: &[u8]) -> Option<(&str, &str)> {
    let (name, rest) = cstr(body)?;
    let (value, _) = cstr(rest)?;
    Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
}

/// Reads the body of a NegotiateProtocolVersion that answers a StartupMessage without `_pq_.` options: the version that the
/// server speaks. `None` for a version that nobody speaks, and for anything else.
pub fn read_negotiation(body: &[u8]) -> Option<Version> {
    let (code, unknown) = body.split_first_chunk::<4>()?;
    let code = u32::from_be_bytes(*code);
    [Version::V3_0, Version::V3_2].into_iter().find(|version| version.code() == code && unknown == [0; 4])
}

/// Appends one message; `body` writes what follows the length.
pub fn message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    let at = out.len();
    out.extend([0; 4]);
    body(out);
    let len = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

fn put_cstr(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// Appends a message `R` with this request code and data.
pub fn authentication(out: &mut Vec<u8>, request: &Authentication<'_>) {
    message(out, kind::AUTHENTICATION, |out| {
        let (code, data): (u32, Vec<u8>) = match request {
            Authentication::Ok => (0, Vec::new()),
            Authentication::CleartextPassword => (3, Vec::new()),
            Authentication::Md5Password(salt) => (5, salt.to_vec()),
            Authentication::Sasl(names) => {
                (10, names.iter().flat_map(|name| name.iter().copied().chain([0])).chain([0]).collect())
            }
            Authentication::SaslContinue(data) => (11, data.to_vec()),
            Authentication::SaslFinal(data) => (12, data.to_vec()),
            Authentication::Other(code) => (*code, Vec::new()),
        };
        out.extend(code.to_be_bytes());
        out.extend(data);
    });
}

/// Appends a ParameterStatus.
pub fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    message(out, kind::PARAMETER_STATUS, |out| {
        put_cstr(out, name);
        put_cstr(out, value);
    });
}

/// Appends a BackendKeyData with the key's bytes (process id, then secret).
pub fn backend_key_data(out: &mut Vec<u8>, key: &[u8]) {
    message(out, kind::BACKEND_KEY_DATA, |out| out.extend_from_slice(key));
}

/// Appends a ReadyForQuery with status I.
pub fn ready_for_query(out: &mut Vec<u8>) {
    ready_for_query_in(out, TransactionStatus::Idle);
}

/// Appends a ReadyForQuery.
pub fn ready_for_query_in(out: &mut Vec<u8>, status: TransactionStatus) {
    message(out, kind::READY_FOR_QUERY, |out| out.push(status.byte()));
}

/// Appends a NegotiateProtocolVersion: the version that is spoken, and the `_pq_.` options we do not know.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, version: Version, unknown: &[String]) {
    message(out, kind::NEGOTIATE_PROTOCOL_VERSION, |out| {
        // The whole number, although the manual speaks of the minor version (backend_startup.c).
        out.extend(version.code().to_be_bytes());
        out.extend((unknown.len() as u32).to_be_bytes());
        for name in unknown {
            put_cstr(out, name);
        }
    });
}

/// Column types of the admin console's results, with PostgreSQL's type OIDs (pg_type.dat).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// text
    Text,
    /// int4
    Int4,
    /// int8
    Int8,
    /// numeric
    Numeric,
}

impl ColumnType {
    fn oid_and_size(self) -> (u32, i16) {
        match self {
            Self::Text => (25, -1),
            Self::Int4 => (23, 4),
            Self::Int8 => (20, 8),
            Self::Numeric => (1700, -1),
        }
    }
}

/// Appends a RowDescription of columns that belong to no table, in text format.
pub fn row_description<'a>(out: &mut Vec<u8>, columns: impl ExactSizeIterator<Item = (&'a str, ColumnType)>) {
    message(out, kind::ROW_DESCRIPTION, |out| {
        out.extend((columns.len() as u16).to_be_bytes());
        for (name, ty) in columns {
            let (oid, size) = ty.oid_and_size();
            put_cstr(out, name);
            out.extend([0; 6]); // no table, no column number
            out.extend(oid.to_be_bytes());
            out.extend(size.to_be_bytes());
            out.extend((-1_i32).to_be_bytes()); // type modifier
            out.extend([0; 2]); // text
        }
    });
}

/// Appends a DataRow of text values; `None` is NULL.
pub fn data_row(out: &mut Vec<u8>, values: &[Option<String>]) {
    message(out, kind::DATA_ROW, |out| {
        out.extend((values.len() as u16).to_be_bytes());
        for value in values {
            match value {
                Some(text) => {
                    out.extend((text.len() as u32).to_be_bytes());
                    out.extend_from_slice(text.as_bytes());
                }
                None => out.extend((-1_i32).to_be_bytes()),
            }
        }
    });
}

/// Appends a CommandComplete with this tag.
pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    message(out, kind::COMMAND_COMPLETE, |out| put_cstr(out, tag));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authentication_requests_read_back() {
        for request in [
            Authentication::Ok,
            Authentication::CleartextPassword,
            Authentication::Md5Password([1, 2, 3, 4]),
            Authentication::Sasl(vec![b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"]),
            Authentication::SaslContinue(b"r=abc"),
            Authentication::SaslFinal(b"v=abc"),
            Authentication::Other(7),
        ] {
            let mut out = Vec::new();
            authentication(&mut out, &request);
            assert_eq!(Authentication::read(&out[5..]), Some(request));
        }
        assert_eq!(Authentication::read(&[0, 0, 0]), None);
        assert_eq!(Authentication::read(&[0, 0, 0, 5, 1]), None);
    }

    #[test]
    fn parameter_status_reads_back() {
        let mut out = Vec::new();
        parameter_status(&mut out, "TimeZone", "UTC");
        assert_eq!(read_parameter_status(&out[5..]), Some(("TimeZone", "UTC")));
        assert_eq!(read_parameter_status(b"TimeZone\0UTC"), None);
    }

    #[test]
    fn negotiation_layout() {
        let mut out = Vec::new();
        negotiate_protocol_version(&mut out, Version::V3_0, &["_pq_.x".into()]);
        assert_eq!(out, b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0");
        assert_eq!(read_negotiation(&out[5..]), None, "we send no options");
        out.clear();
        negotiate_protocol_version(&mut out, Version::V3_2, &[]);
        assert_eq!(read_negotiation(&out[5..]), Some(Version::V3_2));
        assert_eq!(read_negotiation(b"\0\x03\0\0\0\0\0\0"), Some(Version::V3_0));
        assert_eq!(read_negotiation(b"\0\x03\0\x01\0\0\0\0"), None);
        assert_eq!(read_negotiation(b"\0\x03\0\0"), None);
    }

    #[test]
    fn rows_layout() {
        let mut out = Vec::new();
        data_row(&mut out, &[Some("ab".into()), None]);
        assert_eq!(out, b"D\0\0\0\x10\0\x02\0\0\0\x02ab\xff\xff\xff\xff");
        out.clear();
        row_description(&mut out, [("n", ColumnType::Int4)].into_iter());
        assert_eq!(out, b"T\0\0\0\x1a\0\x01n\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0");
    }
}
