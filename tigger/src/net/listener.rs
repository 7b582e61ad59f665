//! Listening sockets: binding them as the settings say, and accepting clients without ever spinning or crashing.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::setsockopt;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::address::{Address, unix_name};
use super::connect::TcpOptions;
use super::stream::Stream;
use crate::config::Settings;

/// One listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: Listening,
    port: u16,
    /// TCP_DEFER_ACCEPT as it was last set.
    defers: bool,
    /// Given up for a moment when no file descriptor is left, so that a client can be accepted and turned away.
    reserve: Option<File>,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, #[allow(dead_code, reason = "kept for its Drop")] Option<SocketFile>),
}

/// The file of a Unix socket, removed with the listener.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!("could not remove {}: {error}", self.0.display());
        }
    }
}

/// A client that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// Its socket.
    pub stream: Stream,
    /// Its end.
    pub remote: Address,
    /// Ours.
    pub local: Address,
}

impl Listener {
    /// Binds every address that the settings name.
    ///
    /// # Errors
    /// The first that cannot be bound, with its name.
    pub fn bind_all(settings: &Settings) -> Result<Vec<Self>, String> {
        let mut listeners = Vec::new();
        for address in tcp_addresses(settings)? {
            let socket = bind_tcp(address, settings).map_err(|error| format!("{address}: {error}"))?;
            tracing::info!("listening on {address}");
            listeners.push(Self::new(Listening::Tcp(socket), settings.listen_port));
        }
        if let Some(dir) = &settings.unix_socket_dir {
            let path = Path::new(dir).join(format!(".s.PGSQL.{}", settings.listen_port));
            let (socket, file) =
                bind_unix(&path, settings).map_err(|error| format!("unix:{}: {error}", path.display()))?;
            tracing::info!("listening on unix:{}", path.display());
            listeners.push(Self::new(Listening::Unix(socket, file), settings.listen_port));
        }
        if listeners.is_empty() {
            return Err("nothing to listen on: set listen_addr or unix_socket_dir".into());
        }
        Ok(listeners)
    }

    fn new(socket: Listening, port: u16) -> Self {
        Self { socket, port, defers: false, reserve: File::open("/dev/null").ok() }
    }

    /// Where it listens; none for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Listening::Tcp(listener) => listener.local_addr().ok(),
            Listening::Unix(..) => None,
        }
    }

    /// Has clients accepted only once they have said something, or no longer.
    pub fn defer_accept(&mut self, defer: bool) {
        let Listening::Tcp(listener) = &self.socket else { return };
        if defer == self.defers {
            return;
        }
        self.defers = defer;
        let seconds = if defer { DEFER_ACCEPT_SECONDS } else { 0 };
        if let Err(error) = setsockopt(listener, DeferAccept, &seconds) {
            tracing::warn!("tcp_defer_accept: {error}");
        }
    }

    /// The next client. Failures are logged and waited out, so this returns only with one.
    pub async fn accept(&mut self, options: &TcpOptions) -> Accepted {
        loop {
            match self.try_accept(options).await {
                Ok(accepted) => return accepted,
                Err(error) if is_out_of_files(&error) => self.refuse_one(&error).await,
                // The client was gone before it was accepted, or a setsockopt on such a one failed.
                Err(error) => tracing::info!("accept failed: {error}"),
            }
        }
    }

    async fn try_accept(&self, options: &TcpOptions) -> io::Result<Accepted> {
        match &self.socket {
            Listening::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                options.apply(&stream)?;
                let local = stream.local_addr()?.into();
                Ok(Accepted { stream: Stream::from(stream), remote: remote.into(), local })
            }
            Listening::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let address = Address::Unix(self.port);
                Ok(Accepted { stream: Stream::from(stream), remote: address, local: address })
            }
        }
    }

    /// No descriptor is left: uses the reserved one to take a client from the queue and hang up on it. Without that it
    /// would wait in the queue, unanswered, and accept would fail at once again and again.
    async fn refuse_one(&mut self, error: &io::Error) {
        self.reserve = None;
        let refused = match &self.socket {
            Listening::Tcp(listener) => listener.accept().await.map(drop),
            Listening::Unix(listener, _) => listener.accept().await.map(drop),
        };
        self.reserve = File::open("/dev/null").ok();
        tracing::warn!("out of file descriptors, client refused: {error}");
        if refused.is_err() || self.reserve.is_none() {
            // Somebody else took the descriptor; nothing can be done before one is closed.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// See tcp(7). Neither nix nor socket2 has it, but nix has what makes such options.
#[derive(Clone, Copy, Debug)]
struct DeferAccept;

nix::setsockopt_impl!(
    DeferAccept,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    u32,
    nix::sys::socket::sockopt::SetStruct<u32>
);

/// How long the kernel waits for the first bytes before it has a client accepted without: as PgBouncer. Longer would put
/// off `client_login_timeout`, and no client needs longer between connecting and its first message.
const DEFER_ACCEPT_SECONDS: u32 = 1;

fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

fn tcp_addresses(settings: &Settings) -> Result<Vec<SocketAddr>, String> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for name in &settings.listen_addr {
        let name = if name == "*" { "0.0.0.0" } else { name };
        let found = (name, settings.listen_port).to_socket_addrs().map_err(|error| format!("{name}: {error}"))?;
        addresses.extend(found);
        if name == "0.0.0.0" && Path::new("/proc/net/if_inet6").exists() {
            addresses.push((std::net::Ipv6Addr::UNSPECIFIED, settings.listen_port).into());
        }
    }
    addresses.dedup();
    Ok(addresses)
}

fn bind_tcp(address: SocketAddr, settings: &Settings) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    TcpOptions::new(settings).size_buffers(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(settings.listen_backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

fn bind_unix(path: &Path, settings: &Settings) -> io::Result<(UnixListener, Option<SocketFile>)> {
    let name = unix_name(path);
    // A name in the abstract namespace has no file.
    let has_file = name == path;
    if has_file {
        remove_stale(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(&name)?)?;
    let file = has_file.then(|| SocketFile(path.to_owned()));
    if has_file {
        if let Some(group) = &settings.unix_socket_group {
            let gid = nix::unistd::Group::from_name(group)?.map(|group| group.gid);
            let gid = gid.ok_or_else(|| io::Error::other(format!("no such group: {group}")))?;
            nix::unistd::chown(path, None, Some(gid))?;
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(settings.unix_socket_mode))?;
    }
    socket.listen(i32::try_from(settings.listen_backlog).unwrap_or(i32::MAX))?;
    let listener: std::os::unix::net::UnixListener = socket.into();
    Ok((UnixListener::from_std(listener)?, file))
}

/// Removes the socket file of a process that is gone; one that answers is left, and binding fails.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(_) => Ok(()),
    }
}
