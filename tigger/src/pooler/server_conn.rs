//! A connection to a server: its socket, what the protocol knows of it, and what the console shows.

use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};

use tigger_bypass::ServerSlot;
use tigger_proto::error::Error;
use tigger_proto::parameters::{APPLICATION_NAME, Tracked};
use tigger_proto::pool::ServerId;
use tigger_proto::replication::Replication;
use tigger_proto::server::login::Welcome;
use tigger_proto::server::{OwnQuery, Server};
use tigger_proto::wire::error_response::ErrorFields;
use tigger_proto::wire::frontend;

use super::idle_watch::IdleWatch;
use crate::config::Host;
use crate::kernel_path::{KernelServer, Resumed};
use crate::net::address::Address;
use crate::net::connect::Place;
use crate::net::stream::Stream;
use crate::process::AtomicInstant;

/// A server that is logged in. It moves: in the pool while idle, with its client's task while linked.
#[derive(Debug)]
pub struct ServerConn {
    /// Its name in the pool.
    pub id: ServerId,
    /// The socket.
    pub stream: Stream,
    /// Protocol state.
    pub server: Server,
    /// Bytes read but not used yet: an unfinished header or short message.
    pub unread: Vec<u8>,
    /// What the console shows.
    pub info: Arc<ServerInfo>,
    /// How many bytes of `unread` the client has got already, from the kernel path.
    pub delivered: usize,
    /// Has it looked at when something arrives while it is idle.
    pub watch: IdleWatch,
    /// Its place on the kernel path.
    pub kernel: Option<KernelServer>,
    /// What it said at its login, for the replication client whose own it is.
    pub welcome: Option<Box<Welcome>>,
}

/// What everybody may know about a server.
#[derive(Debug)]
pub struct ServerInfo {
    /// Unique in this process.
    pub serial: u64,
    /// Where it is, by the configuration.
    pub host: Host,
    /// Where another connection to the same server goes: of a name with several addresses, to that one.
    pub place: Place,
    /// The server's end.
    pub remote: Address,
    /// Our end.
    pub local: Address,
    /// Microseconds since 1970 when it was connected.
    pub connected_at: u64,
    /// When it was last linked.
    pub request_at: AtomicInstant,
    /// The process id it reported.
    pub remote_pid: u32,
    /// Set for that of a replication client.
    pub replication: Option<Replication>,
    /// How many prepared statements it has, where they are tracked.
    pub prepared: AtomicUsize,
    /// `application_name` as it has it now.
    pub application_name: Mutex<Arc<str>>,
    /// What the kernel path does with it.
    pub kernel: Mutex<Weak<ServerSlot>>,
}

impl ServerInfo {
    /// What the kernel path does with it.
    pub fn kernel(&self) -> Option<Arc<ServerSlot>> {
        self.kernel.lock().expect("nobody panics with this lock").upgrade()
    }

    /// It has a place on the kernel path.
    pub fn set_kernel(&self, kernel: Weak<ServerSlot>) {
        *self.kernel.lock().expect("nobody panics with this lock") = kernel;
    }
}

/// Bytes read at once from an idle server, which rarely says anything.
const READ_LEN: usize = 4096;

impl ServerConn {
    /// Runs a simple query whose replies go to nobody.
    ///
    /// # Errors
    /// The connection is lost or broken. An error that the server reports is in the inner result, and leaves the server
    /// usable.
    pub async fn run(&mut self, sql: &str, tracked: &Tracked) -> Result<Result<(), ErrorFields>, Error> {
        let mut message = Vec::new();
        frontend::query(&mut message, sql);
        self.ask(&message, tracked, |_| {}).await
    }

    /// The same with a Query message; `on_reply` gets all that the server says.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn ask(
        &mut self,
        query: &[u8],
        tracked: &Tracked,
        mut on_reply: impl FnMut(&[u8]),
    ) -> Result<Result<(), ErrorFields>, Error> {
        self.server.handle_own_query();
        self.stream.write_all(query).await.map_err(|_| Error::ServerCrashed)?;
        let mut failure = None;
        loop {
            let step = self.server.handle_own_reply(&self.unread, tracked, &mut failure)?;
            let (OwnQuery::More(used) | OwnQuery::Done(used) | OwnQuery::Failed(used, _)) = &step;
            on_reply(&self.unread[..*used]);
            self.unread.drain(..*used);
            match step {
                OwnQuery::More(_) => {}
                OwnQuery::Done(_) => return Ok(Ok(())),
                OwnQuery::Failed(_, fields) => return Ok(Err(fields)),
            }
            match self.stream.read_more(&mut self.unread).await {
                Ok(0) | Err(_) => return Err(Error::ServerCrashed),
                Ok(_) => {}
            }
        }
    }

    /// Shows the console what the server's `application_name` is now.
    pub fn note_application_name(&self) {
        let name = self.server.parameters().value(APPLICATION_NAME).unwrap_or_default();
        *self.info.application_name.lock().expect("nobody panics with this lock") = name.into();
    }

    /// Prepares an idle server for the pool: handles what it sent unasked, and has its watcher woken when more comes.
    ///
    /// # Errors
    /// It must be closed instead.
    pub fn settle(&mut self, tracked: &Tracked) -> Result<(), Error> {
        loop {
            let used = self.server.handle_idle_bytes(&self.unread, tracked)?;
            self.unread.drain(..used);
            self.watch.reset();
            if self.stream.poll_readable(&mut Context::from_waker(&self.watch.waker)) == Poll::Pending {
                break;
            }
            let mut chunk = [0; READ_LEN];
            match self.stream.try_read(&mut chunk) {
                Ok(0) => return Err(Error::ServerCrashed),
                Ok(n) => self.unread.extend_from_slice(&chunk[..n]),
                // The readiness was old; asking cleared it, so that the next turn registers the watcher.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Error::ServerCrashed),
            }
        }
        self.unread.shrink_to(READ_LEN);
        self.kernel = self.kernel.take().filter(|kernel| !kernel.is_unfit());
        if let Some(kernel) = &mut self.kernel {
            kernel.lend(&mut self.server);
        }
        Ok(())
    }

    /// Has the watcher of a linked server woken when something arrives, because the kernel path carries the rest; false
    /// when something has arrived.
    pub fn watch_linked(&self) -> bool {
        self.watch.reset();
        self.unread.is_empty()
            && self.stream.poll_readable(&mut Context::from_waker(&self.watch.waker)) == Poll::Pending
    }

    /// Goes on where the kernel path left off.
    pub fn resume(&mut self) -> Resumed {
        let Some(kernel) = &mut self.kernel else { return Resumed::default() };
        let taken = kernel.taken_back();
        kernel.note_used(&mut self.server);
        self.server.resume(&taken.link);
        self.delivered = taken.delivered.len();
        self.unread = taken.delivered;
        taken.resumed
    }

    /// True when the last byte that the client got ended a message: only then may an error of ours follow.
    pub fn at_border(&self) -> bool {
        self.server.at_border() && self.delivered == 0
    }

    /// True when nothing has arrived since the server was settled; costs no system call.
    pub fn is_quiet(&self) -> bool {
        self.unread.is_empty() && !self.watch.has_woken()
    }

    /// Says goodbye, if the socket takes it at once, and closes the connection.
    pub fn close(mut self) {
        // The server sees the end of the stream anyway; Terminate only spares it a log line.
        if self.stream.try_write(&frontend::TERMINATE).is_err() {
            tracing::debug!("server {} was closed without Terminate", self.info.serial);
        }
    }
}
