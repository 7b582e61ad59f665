//! What several fuzz targets share: a stream that arrives in chunks.
//!
//! An input of these targets is one byte `n`, then `n` chunk sizes, then the stream. The sizes are used again and again;
//! without sizes, each byte comes alone.

#![forbid(unsafe_code)]

/// A stream and the sizes of the chunks in which it arrives.
#[derive(Clone, Copy, Debug)]
pub struct Chunked<'a> {
    /// The whole stream.
    pub stream: &'a [u8],
    /// `None`: one piece.
    sizes: Option<&'a [u8]>,
}

/// How far a stream was handled.
#[derive(Debug, PartialEq, Eq)]
pub struct Fed<E> {
    /// Bytes used, from the start.
    pub used: usize,
    /// Why it ended early.
    pub end: Option<E>,
}

impl<'a> Chunked<'a> {
    /// Reads an input; `None` when it is too short.
    pub fn read(data: &'a [u8]) -> Option<Self> {
        let (&count, rest) = data.split_first()?;
        let (sizes, stream) = rest.split_at_checked(usize::from(count))?;
        Some(Self { stream, sizes: Some(sizes) })
    }

    /// The same stream in one piece.
    pub fn whole(self) -> Self {
        Self { sizes: None, ..self }
    }

    /// Feeds the stream to `handle`, which gets all that arrived and was not used yet, and returns how much it uses of it
    /// and why it ends here, if it does.
    pub fn feed<E>(self, mut handle: impl FnMut(&[u8]) -> (usize, Option<E>)) -> Fed<E> {
        let (mut used, mut arrived) = (0, 0);
        let mut sizes = self.sizes.unwrap_or_default().iter().cycle();
        while arrived < self.stream.len() {
            let size = match self.sizes {
                None => self.stream.len(),
                // A chunk of nothing would never end.
                Some(_) => sizes.next().map_or(1, |&size| usize::from(size).max(1)),
            };
            arrived = self.stream.len().min(arrived + size);
            let (n, end) = handle(&self.stream[used..arrived]);
            assert!(n <= arrived - used, "{n} bytes used of {}", arrived - used);
            used += n;
            if end.is_some() {
                return Fed { used, end };
            }
        }
        Fed { used, end: None }
    }
}
