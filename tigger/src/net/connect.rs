//! Connecting to a server, and the options of its socket.

use std::io;
use std::time::Duration;

use nix::libc;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use super::address::Address;
use super::stream::Stream;
use crate::config::{Host, Settings};

/// Options of TCP sockets, from the settings `tcp_keep*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    keepalive: bool,
    count: Option<u32>,
    idle: Option<Duration>,
    interval: Option<Duration>,
}

impl TcpOptions {
    /// Those of the configuration.
    pub fn new(settings: &Settings) -> Self {
        Self {
            keepalive: settings.tcp_keepalive,
            count: settings.tcp_keepcnt,
            idle: settings.tcp_keepidle,
            interval: settings.tcp_keepintvl,
        }
    }

    /// Sets them, and TCP_NODELAY: a proxy must not wait for more bytes.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn apply(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        if self.keepalive {
            let mut keepalive = TcpKeepalive::new();
            if let Some(idle) = self.idle {
                keepalive = keepalive.with_time(idle);
            }
            if let Some(interval) = self.interval {
                keepalive = keepalive.with_interval(interval);
            }
            if let Some(count) = self.count {
                keepalive = keepalive.with_retries(count);
            }
            socket.set_keepalive(true)?;
            socket.set_tcp_keepalive(&keepalive)?;
        }
        if stream.peer_addr()?.ip() == stream.local_addr()?.ip() {
            unpace(&socket);
        }
        Ok(())
    }
}

/// Between two sockets of this host nothing is ever congested. A congestion control that paces (bbr, many systems'
/// default) costs a timer and a rate estimate for each segment there: 6 % of this process's CPU time in `pgbench -S`.
/// Linux allows reno to every user (net.ipv4.tcp_allowed_congestion_control).
fn unpace(socket: &SockRef<'_>) {
    if let Err(error) = socket.set_tcp_congestion(b"reno") {
        tracing::debug!("the system's congestion control stays: {error}");
    }
}

/// A new connection and its two ends: the server's and ours.
pub struct Connected {
    /// The socket.
    pub stream: Stream,
    /// Where the server is.
    pub remote: Address,
    /// Our end.
    pub local: Address,
}

/// Connects to the server at `host`; of a name's addresses the first that answers.
///
/// # Errors
/// Those of name resolution and connect(2).
pub async fn connect(host: &Host, port: u16, options: &TcpOptions) -> io::Result<Connected> {
    match host {
        Host::Tcp(name) => {
            let stream = TcpStream::connect((name.as_str(), port)).await?;
            options.apply(&stream)?;
            let (remote, local) = (stream.peer_addr()?.into(), stream.local_addr()?.into());
            Ok(Connected { stream: Stream::Tcp(stream), remote, local })
        }
        Host::Unix(_) => {
            let path = host.unix_socket(port).expect("a unix host has a socket");
            let stream = connect_unix(&path).await?;
            Ok(Connected { stream: Stream::Unix(stream), remote: Address::Unix(port), local: Address::Unix(port) })
        }
    }
}

/// connect(2) on a Unix socket fails with EAGAIN while the listener's queue is full, and no event tells when there is
/// room again. So it is tried again, ever slower; the caller has a time limit.
async fn connect_unix(path: &std::path::Path) -> io::Result<UnixStream> {
    let mut pause = Duration::from_millis(1);
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && pause < Duration::from_secs(2) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            result => return result,
        }
    }
}
