//! Connecting to a server, and the options of its socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use nix::libc;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::address::{Address, unix_name};
use super::stream::Stream;
use crate::config::Settings;

/// Options of TCP connections, from the settings `tcp_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    keepalive: bool,
    count: Option<u32>,
    idle: Option<Duration>,
    interval: Option<Duration>,
    user_timeout: Option<Duration>,
    buffer: Option<usize>,
}

impl TcpOptions {
    /// Those of the configuration.
    pub fn new(settings: &Settings) -> Self {
        Self {
            keepalive: settings.tcp_keepalive,
            count: settings.tcp_keepcnt,
            idle: settings.tcp_keepidle,
            interval: settings.tcp_keepintvl,
            user_timeout: (settings.tcp_user_timeout > 0)
                .then(|| Duration::from_millis(settings.tcp_user_timeout.into())),
            buffer: (settings.tcp_socket_buffer > 0).then_some(settings.tcp_socket_buffer as usize),
        }
    }

    /// Sets the sizes of the buffers alone: before the socket connects or listens, because TCP agrees then on the scale in
    /// which the receiver tells what it has room for.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn size_buffers(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if let Some(size) = self.buffer {
            socket.set_recv_buffer_size(size)?;
            socket.set_send_buffer_size(size)?;
        }
        Ok(())
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
        if self.user_timeout.is_some() {
            socket.set_tcp_user_timeout(self.user_timeout)?;
        }
        self.size_buffers(&socket)?;
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

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the first of these addresses that answers.
    Tcp(Vec<SocketAddr>),
    /// At a Unix socket, whose name has this number.
    Unix(PathBuf, u16),
}

/// Connects to the server at `place`. `announce` is told both ends of a TCP connection before it is opened, if the server is
/// on this host, and what it returns is kept until the end of the call and given back.
///
/// # Errors
/// Those of connect(2).
pub async fn connect<A>(
    place: &Place,
    options: &TcpOptions,
    announce: impl Fn(SocketAddr, SocketAddr) -> Option<A>,
) -> io::Result<(Connected, Option<A>)> {
    match place {
        Place::Tcp(addresses) => {
            let (stream, announced) = connect_tcp(addresses, options, announce).await?;
            options.apply(&stream)?;
            let (remote, local) = (stream.peer_addr()?.into(), stream.local_addr()?.into());
            Ok((Connected { stream: stream.into(), remote, local }, announced))
        }
        Place::Unix(path, port) => {
            let stream = connect_unix(path).await?;
            let address = Address::Unix(*port);
            Ok((Connected { stream: stream.into(), remote: address, local: address }, None))
        }
    }
}

async fn connect_tcp<A>(
    addresses: &[SocketAddr],
    options: &TcpOptions,
    announce: impl Fn(SocketAddr, SocketAddr) -> Option<A>,
) -> io::Result<(TcpStream, Option<A>)> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for &server in addresses {
        let (socket, announced) = match bound_socket(server)? {
            Some((socket, ours)) => (socket, announce(server, ours)),
            None => (new_socket(server)?, None),
        };
        options.size_buffers(&SockRef::from(&socket))?;
        match socket.connect(server).await {
            Ok(stream) => return Ok((stream, announced)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn new_socket(server: SocketAddr) -> io::Result<TcpSocket> {
    if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

/// A socket whose own address is known before it connects; `None` where the server is on another host. Only there does
/// the own address matter, and only there must it be spared: a bound port is taken for all destinations.
fn bound_socket(server: SocketAddr) -> io::Result<Option<(TcpSocket, SocketAddr)>> {
    // Connecting a datagram socket sends nothing, but chooses the address from which the server is reached.
    let probe = std::net::UdpSocket::bind((if server.is_ipv4() { ANY_V4 } else { ANY_V6 }, 0))?;
    if probe.connect(server).is_err() {
        // The TCP connection tells why.
        return Ok(None);
    }
    let ours = probe.local_addr()?.ip();
    if !server.ip().is_loopback() && ours != server.ip() {
        return Ok(None);
    }
    let socket = new_socket(server)?;
    socket.bind((ours, 0).into())?;
    let ours = socket.local_addr()?;
    Ok(Some((socket, ours)))
}

const ANY_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// connect(2) on a Unix socket fails with EAGAIN while the listener's queue is full, and no event tells when there is
/// room again. So it is tried again, ever slower; the caller has a time limit.
async fn connect_unix(path: &std::path::Path) -> io::Result<UnixStream> {
    let name = unix_name(path);
    let mut pause = Duration::from_millis(1);
    loop {
        match UnixStream::connect(&name).await {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && pause < Duration::from_secs(2) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn options_of_a_connection() {
        let check = |settings: &Settings, expected: (Option<Duration>, bool)| {
            let options = TcpOptions::new(settings);
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            stream.set_nonblocking(true).unwrap();
            let stream = TcpStream::from_std(stream).unwrap();
            options.apply(&stream).unwrap();
            let socket = SockRef::from(&stream);
            // Linux doubles what it is asked for, for its own bookkeeping (socket(7)).
            let buffers = [socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap()];
            // Unset is told as 0.
            let user_timeout = socket.tcp_user_timeout().unwrap().filter(|time| !time.is_zero());
            assert_eq!((user_timeout, buffers == [32768; 2]), expected);
            assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
        };
        let defaults = Settings::default();
        check(&defaults, (None, false));
        let settings = Settings { tcp_user_timeout: 2500, tcp_socket_buffer: 16384, ..defaults };
        check(&settings, (Some(Duration::from_millis(2500)), true));
    }
}
