//! The buffer that bytes pass through: one a thread, because a chunk is read, walked and written within one poll. What
//! the other side does not take at once is kept by the connection, so an idle client has no buffer.

use std::cell::Cell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll, ready};

use crate::net::stream::Stream;

/// Bytes read at once. Large, so that big results cost few system calls; a loopback socket gives up to 64 KiB.
const CHUNK_LEN: usize = 64 * 1024;

/// Most bytes a connection keeps in front of the next chunk.
pub(super) const CARRY_LEN_MAX: usize = CHUNK_LEN / 2;

/// Largest memory that is kept as [`give_spare`] says: enough for most queries and short results.
const SPARE_LEN_MAX: usize = 4096;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Gives a connection's buffer that has no memory what [`give_spare`] left on this thread.
pub(super) fn take_spare(buffer: &mut Vec<u8>) {
    if buffer.capacity() == 0 {
        *buffer = SPARE.take();
    }
}

/// Takes the memory from a connection's buffer if nothing is in it. The thread keeps it for the next that needs some, so that a
/// busy client does not allocate each time, and an idle one has none.
pub(super) fn give_spare(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > 0 {
        let buffer = std::mem::take(buffer);
        if buffer.capacity() <= SPARE_LEN_MAX {
            SPARE.set(buffer);
        }
    }
}

/// This thread's buffer, given back when dropped.
pub(super) struct Scratch(Box<[u8]>);

impl Scratch {
    /// Takes the thread's buffer, or makes one if it has none.
    pub(super) fn take() -> Self {
        Self(SCRATCH.take().unwrap_or_else(|| vec![0; CHUNK_LEN].into_boxed_slice()))
    }

    /// Reads from `stream` once, behind a copy of `carry` (at most [`CARRY_LEN_MAX`] bytes). Gives the length of both,
    /// or `None` when the other end hung up or the connection broke.
    pub(super) fn poll_fill(&mut self, stream: &mut Stream, cx: &mut Context<'_>, carry: &[u8]) -> Poll<Option<usize>> {
        match ready!(stream.poll_read(cx, &mut self.0[carry.len()..])) {
            Ok(0) => Poll::Ready(None),
            Ok(n) => {
                self.0[..carry.len()].copy_from_slice(carry);
                Poll::Ready(Some(carry.len() + n))
            }
            Err(error) => {
                tracing::debug!("read failed: {error}");
                Poll::Ready(None)
            }
        }
    }
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        SCRATCH.set(Some(std::mem::take(&mut self.0)));
    }
}

/// Bytes that a socket has not taken yet; at most what one or two reads brought.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
    at: usize,
}

impl From<Vec<u8>> for Pending {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0 }
    }
}

impl Pending {
    /// True when everything was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that are pending.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// The first `n` of them were sent by other means.
    pub(crate) fn advance(&mut self, n: usize) {
        self.at += n;
        self.end_if_taken();
    }

    fn end_if_taken(&mut self) {
        if self.at == self.bytes.len() {
            // The memory goes too: most of the time there is nothing pending.
            self.bytes.clear();
            self.at = 0;
            give_spare(&mut self.bytes);
        }
    }

    /// Keeps bytes after those pending.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            take_spare(&mut self.bytes);
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Sends bytes after those pending; keeps what is not taken at once.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn send(&mut self, stream: &mut Stream, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        while self.is_empty() && !bytes.is_empty() {
            match stream.poll_write(cx, bytes) {
                Poll::Ready(n) => bytes = &bytes[n?..],
                Poll::Pending => break,
            }
        }
        self.keep(bytes);
        Ok(())
    }

    /// Sends what is pending; ready when all was taken.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn poll_flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.bytes.len() {
            match ready!(stream.poll_write(cx, &self.bytes[self.at..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.at += n,
            }
        }
        self.end_if_taken();
        Poll::Ready(Ok(()))
    }
}
