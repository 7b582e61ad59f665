//! What a client expects to read: messages known to the byte, and rows too large to be held, known by how they are made.

use std::fmt;

/// The next message, or a run of rows.
#[derive(Clone)]
pub(super) enum Expect {
    /// Exactly this one.
    Message { kind: u8, body: Vec<u8> },
    /// These, one after the other.
    Rows(Rows),
    /// An ErrorResponse after which the connection goes on.
    Error { sqlstate: &'static str, message: String },
    /// A NoticeResponse.
    Notice { message: String },
    /// BackendKeyData, whatever the key.
    Key,
    /// The end of a LISTEN, which fails where the server that listens is lost.
    Listening,
}

impl Expect {
    /// How many messages it stands for.
    pub(super) fn messages(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.left(),
            Self::Message { .. } | Self::Error { .. } | Self::Notice { .. } | Self::Key | Self::Listening => 1,
        }
    }

    /// True for the end of a simple query or of an extended one.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Self::Message { kind: b'Z', .. })
    }
}

impl fmt::Debug for Expect {
    /// For messages of failures: bodies are mostly text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message { kind, body } => write!(f, "{} {}", char::from(*kind), body.escape_ascii()),
            Self::Rows(rows) => rows.fmt(f),
            Self::Error { sqlstate, message } => write!(f, "E {sqlstate} {message}"),
            Self::Notice { message } => write!(f, "N {message}"),
            Self::Key => write!(f, "K"),
            Self::Listening => write!(f, "C LISTEN"),
        }
    }
}

/// In which message a row comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// DataRow with one column.
    DataRow,
    /// CopyData with one line of one column.
    CopyData,
}

impl Framing {
    /// The type byte.
    pub(super) fn kind(self) -> u8 {
        match self {
            Self::DataRow => b'D',
            Self::CopyData => b'd',
        }
    }
}

/// Rows `token:number:filling:token` with numbers from `next` to `last`.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub(super) framing: Framing,
    pub(super) token: String,
    pub(super) next: usize,
    pub(super) last: usize,
    /// The letter that fills them up.
    pub(super) fill: u8,
    /// How often.
    pub(super) width: usize,
}

impl Rows {
    /// The expression and the FROM clause that make them; `token` is an SQL expression.
    pub(super) fn sql(&self, token: &str) -> String {
        let Self { next, last, width, .. } = self;
        let fill = char::from(self.fill);
        format!(
            "{token} || ':' || i || ':' || repeat('{fill}', {width}) || ':' || {token} as {} from generate_series({next}, {last}) i",
            self.token
        )
    }

    /// How many have not come.
    pub(super) fn left(&self) -> usize {
        self.last + 1 - self.next
    }

    /// The next one.
    pub(super) fn row(&self) -> Row {
        let text = format!("{}:{}:", self.token, self.next);
        let len = text.len() + self.width + 1 + self.token.len();
        let (head, tail) = match self.framing {
            Framing::DataRow => (data_row_head(len), format!(":{}", self.token)),
            Framing::CopyData => (Vec::new(), format!(":{}\n", self.token)),
        };
        Row { head: [head, text.into_bytes()].concat(), fill: self.fill, width: self.width, tail: tail.into_bytes() }
    }
}

/// The body of one of [`Rows`].
#[derive(Debug)]
pub(super) struct Row {
    head: Vec<u8>,
    fill: u8,
    width: usize,
    tail: Vec<u8>,
}

impl Row {
    /// Length of the body.
    pub(super) fn len(&self) -> usize {
        self.head.len() + self.width + self.tail.len()
    }

    /// The first byte of `bytes`, which stand at `at` in the body, that is not what it should be.
    pub(super) fn mismatch(&self, at: usize, bytes: &[u8]) -> Option<usize> {
        let tail_at = self.head.len() + self.width;
        // Most bytes of a large row are filling: they are compared as fast as it goes.
        if at >= self.head.len() && at + bytes.len() <= tail_at {
            return bytes.iter().position(|byte| *byte != self.fill);
        }
        let expected = |position: usize| match position {
            _ if position < self.head.len() => self.head[position],
            _ if position < tail_at => self.fill,
            _ => self.tail[position - tail_at],
        };
        (0..bytes.len()).find(|offset| bytes[*offset] != expected(at + offset))
    }
}

/// A type that a column has.
#[derive(Clone, Copy, Debug)]
pub(super) struct ColumnType {
    oid: u32,
    len: i16,
}

/// `text`.
pub(super) const TEXT: ColumnType = ColumnType { oid: 25, len: -1 };
/// `integer`.
pub(super) const INTEGER: ColumnType = ColumnType { oid: 23, len: 4 };
/// `bigint`.
pub(super) const BIGINT: ColumnType = ColumnType { oid: 20, len: 8 };

/// RowDescription of one column that is no table's, in text format.
pub(super) fn row_description(name: &str, column: ColumnType) -> Expect {
    let mut body = vec![0, 1];
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(&[0; 7]); // End of the name; no table, no column of one.
    body.extend_from_slice(&column.oid.to_be_bytes());
    body.extend_from_slice(&column.len.to_be_bytes());
    body.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0, 0]); // No type modifier; text.
    Expect::Message { kind: b'T', body }
}

/// ParameterDescription of one parameter of type `text`.
pub(super) fn parameter_description() -> Expect {
    Expect::Message { kind: b't', body: [&[0, 1], &TEXT.oid.to_be_bytes()[..]].concat() }
}

/// DataRow with one value.
pub(super) fn data_row(value: &str) -> Expect {
    Expect::Message { kind: b'D', body: [&data_row_head(value.len()), value.as_bytes()].concat() }
}

fn data_row_head(len: usize) -> Vec<u8> {
    [&[0, 1], &u32::try_from(len).unwrap().to_be_bytes()[..]].concat()
}
