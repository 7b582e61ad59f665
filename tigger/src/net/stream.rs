//! A stream socket of either family, with poll functions that read into plain slices.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::UCred;
use tokio::net::{TcpStream, UnixStream};

/// Bytes read at once where no relay is at work: logins, the console, the proxy's own queries.
const READ_LEN: usize = 4096;

/// A connected socket, and how many bytes went through it: the kernel path must know when all of them have arrived.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    read: u64,
    written: u64,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self { socket: Socket::Tcp(stream), read: 0, written: 0 }
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self { socket: Socket::Unix(stream), read: 0, written: 0 }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    /// Reads what is there, up to the size of `buf`; 0 is the end of the stream.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(buf);
        // After a read that did not fill the buffer tokio waits for the next edge, so that no read ends in EAGAIN.
        ready!(match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut read),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, &mut read),
        })?;
        let n = read.filled().len();
        self.read += n as u64;
        Poll::Ready(Ok(n))
    }

    /// Writes what fits.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        })?;
        self.written += n as u64;
        Poll::Ready(Ok(n))
    }

    /// True when bytes or a hang-up may have arrived; else wakes the task when they do.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.socket {
            Socket::Tcp(stream) => stream.poll_read_ready(cx).map(drop),
            Socket::Unix(stream) => stream.poll_read_ready(cx).map(drop),
        }
    }

    /// Reads without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, else those of read(2).
    pub fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = match &self.socket {
            Socket::Tcp(stream) => stream.try_read(buf),
            Socket::Unix(stream) => stream.try_read(buf),
        }?;
        self.read += n as u64;
        Ok(n)
    }

    /// Writes without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room, else those of write(2).
    pub fn try_write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = match &self.socket {
            Socket::Tcp(stream) => stream.try_write(buf),
            Socket::Unix(stream) => stream.try_write(buf),
        }?;
        self.written += n as u64;
        Ok(n)
    }

    /// Another handle of the socket.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }

    /// Bytes read so far.
    pub fn read(&self) -> u64 {
        self.read
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// So many of the bytes written did not go through the connection: the kernel path took them.
    pub fn forget_written(&mut self, n: usize) {
        self.written -= n as u64;
    }

    /// Credentials of the process at the other end of a Unix socket; `None` for TCP.
    pub fn peer_cred(&self) -> Option<UCred> {
        match &self.socket {
            Socket::Tcp(_) => None,
            Socket::Unix(stream) => stream.peer_cred().ok(),
        }
    }

    /// Reads once and appends to `buf`; returns how many bytes, 0 at the end of the stream. A read that is given up leaves
    /// `buf` as it was.
    ///
    /// # Errors
    /// Those of read(2).
    pub async fn read_more(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            let mut chunk = [0; READ_LEN];
            let n = ready!(self.poll_read(cx, &mut chunk))?;
            buf.extend_from_slice(&chunk[..n]);
            Poll::Ready(Ok(n))
        })
        .await
    }

    /// Tells the other end that nothing more will be sent.
    ///
    /// # Errors
    /// Those of shutdown(2).
    pub fn shut_down_writing(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Socket::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
        }
    }

    /// Writes all of `buf`.
    ///
    /// # Errors
    /// Those of write(2).
    pub async fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        let mut at = 0;
        while at < buf.len() {
            match std::future::poll_fn(|cx| self.poll_write(cx, &buf[at..])).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => at += n,
            }
        }
        Ok(())
    }
}
