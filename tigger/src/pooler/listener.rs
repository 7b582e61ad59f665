//! LISTEN for clients that have no server of their own. A pool has one more server, which listens to all that its clients
//! listen to, as long as there are any.
//!
//! Delivery is at most once, as in PostgreSQL within a connection, and a client that misses something learns of it: if this
//! server is lost, or a client does not take what comes for it, the client is disconnected, as it would be without a pooler.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::Instant;

use atomic_waker::AtomicWaker;
use tigger_proto::error::Error;
use tigger_proto::parameters::CLIENT_ENCODING;
use tigger_proto::server::listener::{self, Said};
use tigger_proto::wire::backend::message;
use tokio::sync::{mpsc, oneshot};

use super::clients::ClientInfo;
use super::login;
use super::pool::{Pool, PoolCore};
use super::server_conn::ServerInfo;
use crate::net::stream::Stream;

/// Bytes that may wait for a client that does not take them: some hundred of the longest messages.
const INBOX_LEN_MAX: usize = 1 << 20;

/// What has come for one client.
#[derive(Debug)]
pub struct Inbox {
    client: Arc<ClientInfo>,
    messages: Mutex<Vec<u8>>,
    waker: AtomicWaker,
}

impl Inbox {
    /// An empty one.
    pub fn new(client: Arc<ClientInfo>) -> Self {
        Self { client, messages: Mutex::default(), waker: AtomicWaker::new() }
    }

    fn push(&self, message: &[u8]) {
        let mut messages = self.messages.lock().expect("nobody panics with this lock");
        if messages.len() + message.len() > INBOX_LEN_MAX {
            self.client.end(Error::NotificationsMissed);
            return;
        }
        messages.extend_from_slice(message);
        drop(messages);
        self.waker.wake();
    }

    /// For the client's task: all that has come, as whole messages. The task is woken when there is more.
    pub fn poll_take(&self, cx: &Context<'_>) -> Option<Vec<u8>> {
        self.waker.register(cx.waker());
        let messages = std::mem::take(&mut *self.messages.lock().expect("nobody panics with this lock"));
        (!messages.is_empty()).then_some(messages)
    }
}

/// The pool's end of its listener, if there is one.
#[derive(Debug, Default)]
pub struct Listener {
    asks: Mutex<Option<mpsc::UnboundedSender<Ask>>>,
    server: Mutex<Option<Arc<ServerInfo>>>,
}

/// What the listener is asked for: by each client at most one LISTEN, which it waits for, and what undoes it.
#[derive(Debug)]
enum Ask {
    Listen {
        channel: Vec<u8>,
        sql: Vec<u8>,
        inbox: Arc<Inbox>,
        encoding: String,
        done: oneshot::Sender<Result<(), Error>>,
    },
    Unlisten {
        channel: Vec<u8>,
        inbox: Arc<Inbox>,
    },
    Leave(Arc<Inbox>),
    /// The server must go.
    End(Error),
}

impl Pool {
    /// Listens to `channel` for a client, which has sent `sql`, until it leaves or [`Self::unlisten`] is called. Its inbox
    /// gets each message that is sent after this.
    ///
    /// # Errors
    /// There is no server to listen with, or it refuses; the client's `client_encoding` is another than that server's, so that
    /// it could not read what comes.
    pub async fn listen(
        self: &Arc<Self>,
        channel: &[u8],
        sql: &[u8],
        inbox: &Arc<Inbox>,
        encoding: &str,
    ) -> Result<(), Error> {
        let (done, result) = oneshot::channel();
        let (channel, sql) = (channel.to_vec(), sql.to_vec());
        self.ask(Ask::Listen { channel, sql, inbox: Arc::clone(inbox), encoding: encoding.to_owned(), done });
        result.await.unwrap_or(Err(Error::ServerCrashed))
    }

    /// The client does not listen to `channel` any more.
    pub fn unlisten(self: &Arc<Self>, channel: &[u8], inbox: &Arc<Inbox>) {
        self.ask(Ask::Unlisten { channel: channel.to_vec(), inbox: Arc::clone(inbox) });
    }

    /// The client does not listen to anything any more.
    pub fn leave(self: &Arc<Self>, inbox: &Arc<Inbox>) {
        self.ask(Ask::Leave(Arc::clone(inbox)));
    }

    /// The server that listens must be replaced, or must not be there: those who listen are disconnected for this `reason`,
    /// because they could miss something, and may ask for another one.
    pub(super) fn end_listening(self: &Arc<Self>, reason: &Error) {
        self.ask(Ask::End(reason.clone()));
    }

    /// The server that listens.
    pub fn listening_server(&self) -> Option<Arc<ServerInfo>> {
        self.listener.server.lock().expect("nobody panics with this lock").clone()
    }

    /// Has the listener asked; to listen, it is started if there is none.
    fn ask(self: &Arc<Self>, ask: Ask) {
        let mut asks = self.listener.asks.lock().expect("nobody panics with this lock");
        if asks.is_none() && matches!(ask, Ask::Listen { .. }) {
            let (sender, receiver) = mpsc::unbounded_channel();
            *asks = Some(sender);
            let pool = Arc::clone(self);
            self.runtime().spawn(async move { Task::run(pool, receiver).await });
        }
        // The task takes the sender away before it ends, so that it gets all that was sent.
        if let Some(Err(error)) = asks.as_ref().map(|asks| asks.send(ask)) {
            tracing::debug!("listener has ended: {error}");
        }
    }
}

impl Pool {
    /// Takes away what leads to the listener, if `is_over` at this moment: whoever wants to listen from now on starts another
    /// one, for which there is room.
    fn end_listener(self: &Arc<Self>, is_over: impl FnOnce() -> bool) -> bool {
        let mut asks = self.listener.asks.lock().expect("nobody panics with this lock");
        if !is_over() {
            return false;
        }
        *self.listener.server.lock().expect("nobody panics with this lock") = None;
        self.run(|core| core.give_back_connection(Instant::now()));
        *asks = None;
        true
    }
}

/// Who listens to what.
#[derive(Debug, Default)]
struct Channels(HashMap<Vec<u8>, Vec<Arc<Inbox>>>);

impl Channels {
    /// True if somebody does already.
    fn has(&self, channel: &[u8]) -> bool {
        self.0.contains_key(channel)
    }

    fn add(&mut self, channel: Vec<u8>, inbox: Arc<Inbox>) {
        let inboxes = self.0.entry(channel).or_default();
        if !inboxes.iter().any(|other| Arc::ptr_eq(other, &inbox)) {
            inboxes.push(inbox);
        }
    }

    /// One client less; true if it was the last.
    fn remove(&mut self, channel: &[u8], inbox: &Arc<Inbox>) -> bool {
        let Some(inboxes) = self.0.get_mut(channel) else { return false };
        inboxes.retain(|other| !Arc::ptr_eq(other, inbox));
        let is_last = inboxes.is_empty();
        if is_last {
            self.0.remove(channel);
        }
        is_last
    }

    /// One client less, in all channels; those of which it was the last.
    fn leave(&mut self, inbox: &Arc<Inbox>) -> Vec<Vec<u8>> {
        let all: Vec<Vec<u8>> = self.0.keys().cloned().collect();
        all.into_iter().filter(|channel| self.remove(channel, inbox)).collect()
    }

    fn deliver(&self, channel: &[u8], message: &[u8]) {
        self.0.get(channel).into_iter().flatten().for_each(|inbox| inbox.push(message));
    }
}

/// The task that has the server.
struct Task {
    pool: Arc<Pool>,
    channels: Channels,
    stream: Stream,
    unread: Vec<u8>,
    encoding: String,
}

impl Task {
    /// Serves until nobody listens, or the server is lost.
    async fn run(pool: Arc<Pool>, mut asks: mpsc::UnboundedReceiver<Ask>) {
        let result = match pool.run(PoolCore::take_connection) {
            Ok(()) => {
                let result = Self::run_connected(&pool, &mut asks).await;
                if result.is_err() {
                    pool.end_listener(|| true);
                }
                result
            }
            Err(_) => {
                *pool.listener.asks.lock().expect("nobody panics with this lock") = None;
                Err(Error::TooManyServers)
            }
        };
        let Err(error) = result else { return };
        tracing::warn!("{}/{}: listening server: {error}", pool.database, pool.user);
        asks.close();
        while let Some(ask) = asks.recv().await {
            if let Ask::Listen { done, .. } = ask {
                // A client that has left does not care.
                drop(done.send(Err(error.clone())));
            }
        }
    }

    async fn run_connected(pool: &Arc<Pool>, asks: &mut mpsc::UnboundedReceiver<Ask>) -> Result<(), Error> {
        let (stream, unread, info, encoding) = connect(pool).await?;
        *pool.listener.server.lock().expect("nobody panics with this lock") = Some(info);
        let mut task = Self { pool: Arc::clone(pool), channels: Channels::default(), stream, unread, encoding };
        let result = task.serve(asks).await;
        if let Err(error) = &result {
            let inboxes = task.channels.0.values().flatten();
            inboxes.for_each(|inbox| inbox.client.end(error.clone()));
        }
        result
    }

    async fn serve(&mut self, asks: &mut mpsc::UnboundedReceiver<Ask>) -> Result<(), Error> {
        loop {
            while self.handle_message()?.is_some() {}
            tokio::select! {
                ask = asks.recv() => match ask {
                    Some(ask) => self.handle(ask).await?,
                    None => return Ok(()),
                },
                read = self.read() => match read {
                    Ok(0) | Err(_) => return Err(Error::ServerCrashed),
                    Ok(_) => {}
                },
            }
            // Nobody listens: unless somebody wants to at this moment, that is the end.
            if self.channels.0.is_empty() && self.pool.end_listener(|| asks.is_empty()) {
                return Ok(());
            }
        }
    }

    /// Not while all clients are suspended, who take nothing.
    async fn read(&mut self) -> io::Result<usize> {
        if let Some(pooler) = self.pool.pooler() {
            pooler.resumed().await;
        }
        self.stream.read_more(&mut self.unread).await
    }

    async fn handle(&mut self, ask: Ask) -> Result<(), Error> {
        match ask {
            Ask::Listen { channel, sql, inbox, encoding, done } => {
                let result = match () {
                    () if !encoding.eq_ignore_ascii_case(&self.encoding) => Err(Error::ListenEncoding),
                    () if self.channels.has(&channel) => Ok(()),
                    () => self.query(&sql).await?,
                };
                if result.is_ok() {
                    self.channels.add(channel, inbox);
                }
                // A client that has left meanwhile also asks to leave.
                drop(done.send(result));
            }
            Ask::Unlisten { channel, inbox } => {
                if self.channels.remove(&channel, &inbox) {
                    self.unlisten(&channel).await?;
                }
            }
            Ask::End(reason) => return Err(reason),
            Ask::Leave(inbox) => {
                for channel in self.channels.leave(&inbox) {
                    self.unlisten(&channel).await?;
                }
            }
        }
        Ok(())
    }

    async fn unlisten(&mut self, channel: &[u8]) -> Result<(), Error> {
        // It cannot be refused; and a server that is lost is lost for all.
        self.query(&[b"UNLISTEN ", &*listener::quoted(channel)].concat()).await?
    }

    /// The inner error is what the server says.
    async fn query(&mut self, sql: &[u8]) -> Result<Result<(), Error>, Error> {
        let mut query = Vec::new();
        message(&mut query, b'Q', |out| {
            out.extend_from_slice(sql);
            out.push(0);
        });
        self.stream.write_all(&query).await.map_err(|_| Error::ServerCrashed)?;
        let mut result = Ok(());
        loop {
            match self.handle_message() {
                Ok(Some(true)) => return Ok(result),
                Ok(Some(false)) => {}
                Ok(None) => {
                    if !matches!(self.stream.read_more(&mut self.unread).await, Ok(1..)) {
                        return result.and(Err(Error::ServerCrashed));
                    }
                }
                Err(error @ Error::ServerRefused(_)) => result = Err(error),
                Err(error) => return Err(error),
            }
        }
    }

    /// One message, if there is one; true if it is a ReadyForQuery. An error of the server is one here.
    fn handle_message(&mut self) -> Result<Option<bool>, Error> {
        let Some((len, said)) = listener::read(&self.unread)? else { return Ok(None) };
        let result = match said {
            Said::Notification { channel, message } => {
                self.channels.deliver(channel, message);
                Ok(Some(false))
            }
            Said::Error(fields) => Err(Error::ServerRefused(fields)),
            Said::Ready => Ok(Some(true)),
            Said::Other => Ok(Some(false)),
        };
        self.unread.drain(..len);
        result
    }
}

async fn connect(pool: &Arc<Pool>) -> Result<(Stream, Vec<u8>, Arc<ServerInfo>, String), Error> {
    let config = pool.config();
    let host = pool.choose_host(&config.database);
    let attempt = login::log_in(pool, &config, &host, None, |_, _| None::<()>);
    let (logged_in, _) = match config.connect_timeout {
        Some(limit) => tokio::time::timeout(limit, attempt).await.unwrap_or(Err(Error::ConnectTimeout)),
        None => attempt.await,
    }
    .inspect_err(|_| pool.leave_host())?;
    let encoding = logged_in.welcome.tracked.value(CLIENT_ENCODING).unwrap_or_default().to_owned();
    let info = Arc::new(logged_in.info(&host));
    Ok((logged_in.stream, logged_in.unread, info, encoding))
}
