//! The admin console: the virtual database `pgbouncer`, with PgBouncer's commands and columns.
//!
//! Simple query protocol only, as there. What the commands do is in [`command`], what SHOW shows in [`show`].

mod command;
mod show;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tigger_proto::error::Error;
use tigger_proto::pool::ClientId;
use tigger_proto::wire::backend;
use tigger_proto::wire::error_response::{self, Severity};
use tigger_proto::wire::frame::{HEADER_LEN, Header};
use tokio::sync::Notify;

use crate::config::AuthType;
use crate::net::stream::Stream;
use crate::pooler::Pooler;
use crate::pooler::clients::Guard;
use crate::relay::{Pending, say_goodbye};

/// The PgBouncer version whose console this is; drivers and exporters decide by it what they ask.
const PGBOUNCER_VERSION: &str = "1.25.2";

/// User that may log in over a Unix socket without a password, if the process runs under the same account.
const LOCAL_ADMIN: &str = "pgbouncer";

/// Longest command, in bytes.
const COMMAND_LEN_MAX: u32 = 64 * 1024;

/// What a console user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything (`admin_users`).
    Admin,
    /// SHOW (`stats_users`).
    Stats,
}

impl Access {
    /// What `user` may do, if anything.
    pub fn of(pooler: &Pooler, stream: &Stream, user: &str) -> Option<Self> {
        let settings = &pooler.config().settings;
        let listed = |users: &[String]| users.iter().any(|name| name == user);
        if settings.auth_type == AuthType::Any || listed(&settings.admin_users) || is_local_admin(stream, user) {
            Some(Self::Admin)
        } else {
            listed(&settings.stats_users).then_some(Self::Stats)
        }
    }
}

/// True for the user `pgbouncer` on a Unix socket, from a process of our own account.
pub fn is_local_admin(stream: &Stream, user: &str) -> bool {
    user == LOCAL_ADMIN && stream.peer_cred().is_some_and(|peer| peer.uid() == nix::unistd::geteuid().as_raw())
}

/// What a client of the console is told at login.
pub fn login_parameters() -> Vec<(String, String)> {
    let version = format!("{PGBOUNCER_VERSION}/bouncer");
    [
        ("server_version", version.as_str()),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO"),
        ("TimeZone", "GMT"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", "on"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Console commands that wait, so that a cancel request can end them.
#[derive(Debug, Default)]
pub struct Console {
    waiting: Mutex<HashMap<ClientId, Arc<Notify>>>,
}

impl Console {
    /// A cancel request for a console client.
    pub fn cancel(&self, client: ClientId) {
        if let Some(notify) = self.waiting.lock().expect("nobody panics with this lock").get(&client) {
            notify.notify_one();
        }
    }

    /// Waits for `done`, unless the client cancels; then false.
    async fn wait(&self, client: ClientId, done: impl Future<Output = ()>) -> bool {
        let notify = Arc::new(Notify::new());
        self.waiting.lock().expect("nobody panics with this lock").insert(client, Arc::clone(&notify));
        let finished = tokio::select! {
            () = done => true,
            () = notify.notified() => false,
        };
        self.waiting.lock().expect("nobody panics with this lock").remove(&client);
        finished
    }
}

/// One client of the console.
pub struct Session {
    pooler: Arc<Pooler>,
    guard: Guard,
    stream: Stream,
    unread: Vec<u8>,
    access: Access,
    user: String,
}

impl Session {
    /// A session of a client that was welcomed.
    pub fn new(
        pooler: Arc<Pooler>,
        guard: Guard,
        stream: Stream,
        unread: Vec<u8>,
        access: Access,
        user: String,
    ) -> Self {
        Self { pooler, guard, stream, unread, access, user }
    }

    /// Answers commands until one side ends it.
    pub async fn serve(mut self) {
        let error = loop {
            if let Err(error) = self.serve_one().await {
                break error;
            }
        };
        self.pooler.leave_console(self.guard.info.id);
        if !matches!(error, Error::ClientClose | Error::ClientUnexpectedEof) {
            say_goodbye(&mut self.stream, &mut Pending::default(), &error.response()).await;
        }
        if self.pooler.config().settings.log_disconnections {
            let (id, remote) = (self.guard.info.id.0, self.guard.info.remote);
            tracing::info!("C-{id:#x}: pgbouncer/{}@{remote} closing because: {error}", self.user);
        }
    }

    async fn serve_one(&mut self) -> Result<(), Error> {
        let header = loop {
            match Header::read(&self.unread, COMMAND_LEN_MAX)? {
                Some(header) if self.unread.len() >= header.total() => break header,
                _ => self.read().await?,
            }
        };
        let body = self.unread[HEADER_LEN..header.total()].to_vec();
        self.unread.drain(..header.total());
        match header.kind {
            b'Q' => {
                let reply = self.answer(&body).await?;
                self.stream.write_all(&reply).await.map_err(|_| Error::ClientUnexpectedEof)
            }
            b'X' => Err(Error::ClientClose),
            b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H' | b'F' => Err(Error::ConsoleExtendedQuery),
            _ => Err(Error::UnknownPacket),
        }
    }

    async fn answer(&mut self, body: &[u8]) -> Result<Vec<u8>, Error> {
        let text = body.strip_suffix(b"\0").ok_or(Error::FailedToParse)?;
        let text = std::str::from_utf8(text).map_err(|_| Error::FailedToParse)?;
        let mut out = Vec::new();
        let client = self.guard.info.id;
        let run = command::run(&self.pooler, client, self.access, text, &mut out);
        // A client that hangs up in the middle of a PAUSE ends the wait.
        let gone = gone(&mut self.stream, &mut self.unread, &self.guard);
        let result = tokio::select! {
            biased;
            result = run => result,
            error = gone => return Err(error),
        };
        if let Err(refused) = result {
            error_response::write(&mut out, Severity::Error, refused.sqlstate, &refused.text);
        }
        backend::ready_for_query(&mut out);
        Ok(out)
    }

    async fn read(&mut self) -> Result<(), Error> {
        let Self { stream, unread, guard, .. } = self;
        let end = std::future::poll_fn(|cx| guard.info.poll_end(cx));
        tokio::select! {
            read = stream.read_more(unread) => match read {
                Ok(1..) => Ok(()),
                _ => Err(Error::ClientUnexpectedEof),
            },
            error = end => Err(error),
        }
    }
}

/// Ready when the client hung up or is disconnected. It may send its next commands meanwhile, up to a limit.
async fn gone(stream: &mut Stream, unread: &mut Vec<u8>, guard: &Guard) -> Error {
    loop {
        let end = std::future::poll_fn(|cx| guard.info.poll_end(cx));
        let full = unread.len() > COMMAND_LEN_MAX as usize;
        tokio::select! {
            error = end => return error,
            read = stream.read_more(unread), if !full => if !matches!(read, Ok(1..)) {
                return Error::ClientUnexpectedEof;
            },
        }
    }
}
