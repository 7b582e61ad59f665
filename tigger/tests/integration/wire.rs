//! A client on a bare socket: it can send anything, and sees every message that comes back.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};
use tigger_testkit::{Host, Proxy, Table};

use crate::support::DEADLINE;

/// What a [`Wire`] speaks over.
pub(crate) trait Connection: Read + Write + Send {}
impl<T: Read + Write + Send> Connection for T {}

/// A connection to the proxy.
pub(crate) struct Wire {
    socket: Box<dyn Connection>,
    /// The last value of each ParameterStatus.
    pub(crate) parameters: BTreeMap<String, String>,
    /// BackendKeyData.
    pub(crate) key: Vec<u8>,
    /// Port to send a cancel request to.
    port: u16,
}

/// An ErrorResponse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) severity: String,
    pub(crate) sqlstate: String,
    pub(crate) text: String,
}

impl Refusal {
    /// An error with which the proxy ends a connection.
    pub(crate) fn fatal(text: &str) -> Self {
        Self { severity: "FATAL".into(), sqlstate: "08P01".into(), text: text.into() }
    }

    pub(crate) fn read(body: &[u8]) -> Self {
        let mut refusal = Self::default();
        for field in body.split(|byte| *byte == 0).filter(|field| !field.is_empty()) {
            let value = String::from_utf8_lossy(&field[1..]).into_owned();
            match field[0] {
                b'S' => refusal.severity = value,
                b'C' => refusal.sqlstate = value,
                b'M' => refusal.text = value,
                _ => {}
            }
        }
        refusal
    }
}

/// All that came up to a ReadyForQuery, or to the end of the connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Option<String>>>,
    /// Command tags.
    pub(crate) tags: Vec<String>,
    /// Type bytes of all messages in order.
    pub(crate) kinds: String,
    pub(crate) refusal: Option<Refusal>,
    /// Status byte of ReadyForQuery; 0 when the connection ended instead.
    pub(crate) status: u8,
}

impl Reply {
    pub(crate) fn table(self) -> Table {
        let text = |value: Option<String>| value.unwrap_or_default();
        let rows = self.rows.into_iter().map(|row| row.into_iter().map(text).collect()).collect();
        Table { columns: self.columns, rows }
    }

    /// The only value.
    #[track_caller]
    pub(crate) fn value(&self) -> String {
        assert!(self.refusal.is_none() && self.status != 0, "{self:?}");
        self.rows[0][0].clone().unwrap_or_default()
    }
}

/// A TCP socket that does not block, as that of most drivers: the kernel path leaves others alone. It is waited for with
/// poll(2), at most [`DEADLINE`].
struct Polled(TcpStream);

impl Polled {
    fn wait(&self, events: PollFlags) -> io::Result<()> {
        wait_for(&self.0, events)
    }
}

/// Connects a socket that does not block.
pub(crate) fn non_blocking(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None).unwrap();
    let connected = socket.connect(&address.into());
    let socket = TcpStream::from(socket);
    if connected.is_err_and(|error| error.raw_os_error() == Some(nix::libc::EINPROGRESS)) {
        wait_for(&socket, PollFlags::POLLOUT).unwrap();
    }
    assert!(socket.take_error().unwrap().is_none(), "connecting to {address}");
    socket.set_nodelay(true).unwrap();
    socket
}

/// Waits with poll(2) until one of `events` is there, at most [`DEADLINE`].
pub(crate) fn wait_for(socket: &TcpStream, events: PollFlags) -> io::Result<()> {
    let mut polled = [PollFd::new(socket.as_fd(), events)];
    match poll(&mut polled, PollTimeout::try_from(DEADLINE).unwrap())? {
        0 => Err(ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

impl Read for Polled {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buf) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::POLLIN)?,
                result => return result,
            }
        }
    }
}

impl Write for Polled {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(buf) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::POLLOUT)?,
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Wire {
    /// Connects to the proxy over IPv4, on its own host, and sends nothing.
    pub(crate) fn connect(proxy: &Proxy) -> Self {
        Self::connect_from(proxy.host(), proxy)
    }

    /// The same from another host.
    pub(crate) fn connect_from(host: &Host, proxy: &Proxy) -> Self {
        let address = proxy.address_from(host);
        host.inside(|| Self::connect_to(&address, proxy.port())).unwrap()
    }

    /// Logs in from `host` as `postgres` to database `postgres`.
    #[track_caller]
    pub(crate) fn new_from(host: &Host, proxy: &Proxy) -> Self {
        Self::connect_from(host, proxy).logs_in()
    }

    /// Logs in as `postgres` to database `postgres`.
    #[track_caller]
    pub(crate) fn logs_in(self) -> Self {
        self.try_log_in(POSTGRES).unwrap_or_else(|refusal| panic!("{refusal:?}"))
    }

    pub(crate) fn connect_to(host: &str, port: u16) -> Self {
        Self::over(Polled(non_blocking((host, port).to_socket_addrs().unwrap().next().unwrap())), port)
    }

    /// Speaks over a socket that does not block, and may still be connecting.
    pub(crate) fn polled(socket: TcpStream, port: u16) -> Self {
        let polled = Polled(socket);
        polled.wait(PollFlags::POLLOUT).unwrap();
        Self::over(polled, port)
    }

    /// Speaks over this connection to the proxy on `port`.
    pub(crate) fn over(socket: impl Connection + 'static, port: u16) -> Self {
        Self { socket: Box::new(socket), parameters: BTreeMap::new(), key: Vec::new(), port }
    }

    pub(crate) fn connect_unix(directory: &Path, port: u16) -> Self {
        let socket = UnixStream::connect(directory.join(format!(".s.PGSQL.{port}"))).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self::over(socket, port)
    }

    /// Logs in with these start-up parameters, without a password.
    #[track_caller]
    pub(crate) fn login(proxy: &Proxy, parameters: &[(&str, &str)]) -> Self {
        Self::try_login(proxy, parameters).unwrap_or_else(|refusal| panic!("{refusal:?}"))
    }

    /// Logs in as `postgres` to database `postgres`.
    #[track_caller]
    pub(crate) fn new(proxy: &Proxy) -> Self {
        Self::login(proxy, POSTGRES)
    }

    pub(crate) fn try_login(proxy: &Proxy, parameters: &[(&str, &str)]) -> Result<Self, Refusal> {
        Self::connect(proxy).try_log_in(parameters)
    }

    fn try_log_in(mut self, parameters: &[(&str, &str)]) -> Result<Self, Refusal> {
        self.send_raw(&startup(3 << 16, parameters));
        self.logged_in().map(|()| self)
    }

    /// Logs in as `postgres` to database `postgres` with this minor version of the protocol, which must not be negotiated.
    #[track_caller]
    pub(crate) fn speaks(mut self, minor: u32, parameters: &[(&str, &str)]) -> Self {
        self.send_raw(&startup(3 << 16 | minor, &[POSTGRES, parameters].concat()));
        let reply = self.reply();
        assert!(reply.status == b'I' && !reply.kinds.contains('v'), "{reply:?}");
        self
    }

    /// Reads up to the first ReadyForQuery.
    pub(crate) fn logged_in(&mut self) -> Result<(), Refusal> {
        let reply = self.reply();
        match reply.refusal {
            Some(refusal) => Err(refusal),
            None if reply.status == b'I' => Ok(()),
            None => panic!("no login: {reply:?}"),
        }
    }

    /// Sends bytes as they are. A connection that the other side has closed takes none: what it said is read later.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        match self.socket.write_all(bytes) {
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                panic!("sending: {error}")
            }
            _ => {}
        }
    }

    pub(crate) fn send(&mut self, kind: u8, body: &[u8]) {
        self.send_raw(&message(kind, body));
    }

    /// Sends a simple query without reading the reply.
    pub(crate) fn start(&mut self, sql: &str) {
        self.send(b'Q', &cstr(sql));
    }

    pub(crate) fn query(&mut self, sql: &str) -> Reply {
        self.start(sql);
        self.reply()
    }

    /// The only value of a query that must succeed.
    #[track_caller]
    pub(crate) fn value(&mut self, sql: &str) -> String {
        self.query(sql).value()
    }

    /// The next message; `None` at the end of the connection.
    pub(crate) fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 5];
        self.fill(&mut header)?;
        let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let mut body = vec![0; len - 4];
        self.fill(&mut body)?;
        Some((header[0], body))
    }

    /// Reads exactly as many bytes; `None` when the connection ends first.
    pub(crate) fn fill(&mut self, buf: &mut [u8]) -> Option<()> {
        match self.socket.read_exact(buf) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => None,
            Err(error) => panic!("reading: {error}"),
        }
    }

    /// Reads up to the next ReadyForQuery or the end of the connection.
    pub(crate) fn reply(&mut self) -> Reply {
        let mut reply = Reply::default();
        while let Some((kind, body)) = self.message() {
            reply.kinds.push(char::from(kind));
            match kind {
                b'E' => reply.refusal = Some(Refusal::read(&body)),
                b'T' => reply.columns = column_names(&body),
                b'D' => reply.rows.push(values(&body)),
                b'C' => reply.tags.push(text(&body).0),
                b'K' => self.key = body,
                b'S' => {
                    let (name, rest) = text(&body);
                    self.parameters.insert(name, text(rest).0);
                }
                b'Z' => {
                    reply.status = body[0];
                    break;
                }
                _ => {}
            }
        }
        reply
    }

    /// The error that ended the connection; fails when it goes on.
    #[track_caller]
    pub(crate) fn last_words(&mut self) -> Refusal {
        let reply = self.reply();
        assert_eq!(reply.status, 0, "the connection goes on: {reply:?}");
        reply.refusal.clone().unwrap_or_else(|| panic!("closed without a word: {reply:?}"))
    }

    /// Asserts that the connection ended without a further message.
    #[track_caller]
    pub(crate) fn assert_closed(&mut self) {
        let message = self.message();
        assert!(message.is_none(), "expected the end of the connection, got {message:?}");
    }

    /// Sends a cancel request for this client and waits until the proxy has closed its connection.
    pub(crate) fn cancel(&self) {
        self.canceler().cancel();
    }

    /// Can cancel this client's queries from elsewhere.
    pub(crate) fn canceler(&self) -> Canceler {
        Canceler { port: self.port, key: self.key.clone() }
    }
}

/// What is needed to cancel the queries of a client.
pub(crate) struct Canceler {
    port: u16,
    key: Vec<u8>,
}

impl Canceler {
    /// Sends a cancel request and waits until the proxy has closed its connection.
    pub(crate) fn cancel(&self) {
        let mut wire = Wire::connect_to("127.0.0.1", self.port);
        wire.send_raw(&packet(CANCEL_REQUEST, &self.key));
        wire.assert_closed();
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("port", &self.port).finish_non_exhaustive()
    }
}

/// A packet without a type byte: length, code, body.
pub(crate) fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 8).unwrap();
    [&len.to_be_bytes(), &code.to_be_bytes(), body].concat()
}

/// A StartupMessage of this protocol version.
pub(crate) fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body: Vec<u8> = parameters.iter().flat_map(|(name, value)| [cstr(name), cstr(value)].concat()).collect();
    body.push(0);
    packet(version, &body)
}

/// A message: type byte, length, body.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &len.to_be_bytes(), body].concat()
}

/// Zero-terminated.
pub(crate) fn cstr(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

fn text(body: &[u8]) -> (String, &[u8]) {
    let end = body.iter().position(|byte| *byte == 0).unwrap();
    (String::from_utf8_lossy(&body[..end]).into_owned(), &body[end + 1..])
}

/// Names in a RowDescription: each is followed by 18 bytes of types.
fn column_names(body: &[u8]) -> Vec<String> {
    let mut rest = &body[2..];
    let mut names = Vec::new();
    while !rest.is_empty() {
        let (name, after) = text(rest);
        names.push(name);
        rest = &after[18..];
    }
    names
}

/// Values of a DataRow.
fn values(body: &[u8]) -> Vec<Option<String>> {
    let mut rest = &body[2..];
    let mut values = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let len = i32::from_be_bytes(*len);
        let (value, after) = after.split_at(usize::try_from(len).unwrap_or(0));
        values.push((len >= 0).then(|| String::from_utf8_lossy(value).into_owned()));
        rest = after;
    }
    values
}

/// Start-up parameters of most clients.
pub(crate) const POSTGRES: &[(&str, &str)] = &[("user", "postgres"), ("database", "postgres")];
pub(crate) const CANCEL_REQUEST: u32 = 80_877_102;
pub(crate) const SSL_REQUEST: u32 = 80_877_103;
pub(crate) const GSSENC_REQUEST: u32 = 80_877_104;
