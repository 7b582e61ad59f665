//! The walker: finds message borders in a stream that arrives in chunks of any size.
//!
//! A message after start-up is one type byte and a four-byte length that counts itself but not the type
//! (manual, section 55.1.1). The walker looks at nothing else. Its state is one number, the bytes of the current
//! message still to come, so a message of a gigabyte costs as much memory as one of five bytes. A header cut by a
//! chunk's end is not consumed: the caller keeps those one to four bytes in front of the next chunk.

/// Bytes of a message header: type and length.
pub const HEADER_LEN: usize = 5;

/// PostgreSQL's own limit on a message is 1 GiB; the length field is a signed 32-bit number.
pub const MESSAGE_LEN_MAX: u32 = i32::MAX as u32;

/// Type and size of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type byte.
    pub kind: u8,
    /// The length field: body and itself, without the type byte; 4 to [`MESSAGE_LEN_MAX`].
    pub len: u32,
}

impl Header {
    /// Reads the header at the start of `buf`; `Ok(None)` when fewer than [`HEADER_LEN`] bytes are there.
    ///
    /// # Errors
    /// [`BadHeader`] when the length is below four or above `len_max`.
    #[inline]
    pub fn read(buf: &[u8], len_max: u32) -> Result<Option<Self>, BadHeader> {
        let Some(&[kind, a, b, c, d]) = buf.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes([a, b, c, d]);
        if len < 4 || len > len_max.min(MESSAGE_LEN_MAX) {
            return Err(BadHeader { bytes: [kind, a, b, c, d] });
        }
        Ok(Some(Self { kind, len }))
    }

    /// Bytes of the whole message, type byte included.
    #[inline]
    pub fn total(self) -> usize {
        self.len as usize + 1
    }
}

/// A length field that cannot be: the stream has lost its message borders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHeader {
    /// The five bytes read as a header.
    pub bytes: [u8; HEADER_LEN],
}

impl std::fmt::Display for BadHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bad packet header: '")?;
        for byte in self.bytes {
            write!(f, "{byte:02x}")?;
        }
        write!(f, "'")
    }
}

impl std::error::Error for BadHeader {}

/// Where a stream stands between two chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walker {
    rest: u32,
}

impl Walker {
    /// A walker in the middle of a message, of which `rest` bytes are still to come; 0 for between two messages.
    pub fn resume(rest: u32) -> Self {
        Self { rest }
    }

    /// True when the next byte starts a message.
    #[inline]
    pub fn at_border(self) -> bool {
        self.rest == 0
    }

    /// Bytes of the current message that are among the next `available` ones; they are taken as seen.
    #[inline]
    pub fn pass(&mut self, available: usize) -> usize {
        let n = available.min(self.rest as usize);
        self.rest -= n as u32;
        n
    }

    /// Enters the message `header` that starts `available` bytes before the chunk's end, and takes as many of its
    /// bytes as are there. Must be called at a border with at least a header available.
    #[inline]
    pub fn enter(&mut self, header: Header, available: usize) -> usize {
        debug_assert!(self.at_border() && available >= HEADER_LEN);
        // `len + 1` is at most 2^31, so it fits.
        self.rest = header.len + 1;
        self.pass(available)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![kind];
        out.extend((body.len() as u32 + 4).to_be_bytes());
        out.extend(body);
        out
    }

    /// Walks `stream` cut at `cuts`, carrying unfinished headers, and returns the headers met.
    fn walk(stream: &[u8], cuts: &[usize]) -> Vec<Header> {
        let mut walker = Walker::default();
        let mut carry: Vec<u8> = Vec::new();
        let mut seen = Vec::new();
        let mut from = 0;
        for &to in cuts.iter().chain([&stream.len()]) {
            let mut chunk = std::mem::take(&mut carry);
            chunk.extend(&stream[from..to]);
            from = to;
            let mut at = walker.pass(chunk.len());
            while let Some(header) = Header::read(&chunk[at..], MESSAGE_LEN_MAX).unwrap() {
                seen.push(header);
                at += walker.enter(header, chunk.len() - at);
            }
            carry = chunk[at..].to_vec();
            assert!(carry.len() < HEADER_LEN);
        }
        assert!(walker.at_border() && carry.is_empty());
        seen
    }

    #[test]
    fn every_single_split_gives_the_same_messages() {
        let stream: Vec<u8> =
            [message(b'Q', b"select 1\0"), message(b'S', b""), message(b'd', &[7; 40]), message(b'X', b"")].concat();
        let whole = walk(&stream, &[]);
        assert_eq!(whole.iter().map(|h| h.kind).collect::<Vec<_>>(), b"QSdX");
        for a in 0..=stream.len() {
            for b in a..=stream.len() {
                assert_eq!(walk(&stream, &[a, b]), whole, "cut at {a} and {b}");
            }
        }
    }

    #[test]
    fn one_byte_at_a_time() {
        let stream: Vec<u8> = [message(b'P', b"a\0b\0\0\0"), message(b'S', b"")].concat();
        let cuts: Vec<usize> = (0..stream.len()).collect();
        assert_eq!(walk(&stream, &cuts), walk(&stream, &[]));
    }

    #[test]
    fn lengths_at_their_limits() {
        let check = |len: u32, len_max: u32, good: bool| {
            let mut bytes = vec![b'Q'];
            bytes.extend(len.to_be_bytes());
            assert_eq!(Header::read(&bytes, len_max).is_ok(), good, "{len} of {len_max}");
        };
        check(0, MESSAGE_LEN_MAX, false);
        check(3, MESSAGE_LEN_MAX, false);
        check(4, MESSAGE_LEN_MAX, true);
        check(1 << 30, MESSAGE_LEN_MAX, true);
        check(i32::MAX as u32, MESSAGE_LEN_MAX, true);
        check(1 << 31, u32::MAX, false);
        check(u32::MAX, u32::MAX, false);
        check(1001, 1000, false);
        assert_eq!(
            Header::read(&[0x16, 0, 0, 0, 1], MESSAGE_LEN_MAX).unwrap_err().to_string(),
            "bad packet header: '1600000001'"
        );
    }

    proptest! {
        #[test]
        fn any_split_of_any_stream(
            bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..50)), 0..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        ) {
            let stream: Vec<u8> = bodies.iter().flat_map(|(kind, body)| message(*kind, body)).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|i| i.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let expected: Vec<Header> =
                bodies.iter().map(|(kind, body)| Header { kind: *kind, len: body.len() as u32 + 4 }).collect();
            prop_assert_eq!(walk(&stream, &cuts), expected);
        }
    }
}
