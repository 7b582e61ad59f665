//! Addresses of both ends of a connection, as the console and the log show them.

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IPv4 or IPv6 address and port.
    Tcp(IpAddr, u16),
    /// A Unix socket, with the port number in its name.
    Unix(u16),
}

impl Address {
    /// Column `addr` of SHOW CLIENTS and SHOW SERVERS.
    pub fn host(&self) -> String {
        match self {
            Self::Tcp(ip, _) => ip.to_string(),
            Self::Unix(_) => "unix".into(),
        }
    }

    /// Column `port`.
    pub fn port(&self) -> u16 {
        match *self {
            Self::Tcp(_, port) | Self::Unix(port) => port,
        }
    }
}

impl Address {
    /// The address as `application_name_add_host` tells it to servers: with the process `pid` of a client that came through
    /// the Unix socket, and the name of its host, which is ours.
    pub fn details(&self, pid: Option<i32>) -> String {
        let host = || nix::unistd::gethostname().ok()?.into_string().ok();
        match (self, pid) {
            (Self::Unix(port), Some(pid)) => {
                format!("unix({pid}@{}):{port}", host().unwrap_or_else(|| "somehost".to_owned()))
            }
            _ => self.to_string(),
        }
    }

    /// The address as a socket has it; `None` for a Unix socket.
    pub fn socket_addr(&self) -> Option<std::net::SocketAddr> {
        match *self {
            Self::Tcp(ip, port) => Some((ip, port).into()),
            Self::Unix(_) => None,
        }
    }
}

impl From<std::net::SocketAddr> for Address {
    fn from(address: std::net::SocketAddr) -> Self {
        // A client of IPv4 that came to a socket of IPv6 is shown as what it is.
        Self::Tcp(address.ip().to_canonical(), address.port())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(IpAddr::V6(ip), port) => write!(f, "[{ip}]:{port}"),
            Self::Tcp(ip, port) => write!(f, "{ip}:{port}"),
            Self::Unix(port) => write!(f, "unix:{port}"),
        }
    }
}

/// The name of a Unix socket as the system wants it. With `@` in front, as PgBouncer and libpq write it, it is in the abstract
/// namespace, where no file has it (unix(7)): there it begins with a zero byte.
pub fn unix_name(path: &Path) -> PathBuf {
    match path.as_os_str().as_bytes() {
        [b'@', rest @ ..] => OsString::from_vec([b"\0", rest].concat()).into(),
        _ => path.to_owned(),
    }
}
