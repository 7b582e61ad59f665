//! A client after its login: idle, waiting, linked, in turns, until it leaves.
//!
//! ```text
//! Idle --request--> (claim) --linked--> Linked --released, handed over--> Idle
//!   \                  \--must wait--> Waiting --granted--/
//!    \--taken back from the kernel path--> Linked
//! ```
//! While it is idle, the kernel path may serve it (see [`crate::kernel_path`]).

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tigger_proto::client::{Client, FromClient};
use tigger_proto::error::{Error, Level};

use super::command::Listening;
use super::drain::DrainTimer;
use super::link::{Link, LinkEnd};
use super::scratch::{self, Pending, Scratch};
use crate::kernel_path::KernelClient;
use crate::net::stream::Stream;
use crate::pooler::Pooler;
use crate::pooler::activity::Activity;
use crate::pooler::clients::Guard;
use crate::pooler::pool::Pool;
use crate::pooler::server_conn::ServerConn;
use crate::process::unix_micros;

/// A client that is logged in to a pool.
pub(super) struct ClientConn {
    pub(super) stream: Stream,
    pub(super) client: Client,
    pub(super) guard: Guard,
    pub(super) pool: Arc<Pool>,
    pub(super) pooler: Arc<Pooler>,
    /// Bytes read but not used: an unfinished header, or requests that wait for a server.
    pub(super) carry: Vec<u8>,
    pub(super) to_client: Pending,
    /// Until it is looked at again whether the client notices what comes over TCP.
    pub(super) drain_timer: DrainTimer,
    /// Its place on the kernel path.
    pub(super) kernel: Option<Box<KernelClient>>,
    /// What it listens to, where the pool does that for it.
    pub(super) listening: Option<Listening>,
}

/// How being idle ended.
enum Next {
    /// A request needs a server; it is in `carry`.
    Request,
    /// The kernel path gave the client back with its server.
    TakenBack(Box<Link>),
    /// A command that needs no server; it is in `carry`.
    Command,
}

/// Why a client is disconnected, and whether it is told.
#[derive(Debug)]
pub(super) enum Farewell {
    /// It left by itself.
    Silent(Error),
    /// It gets the error.
    Told(Error),
    /// It should get the error, but a message to it was cut in the middle: anything sent now would be read as its rest.
    Cut(Error),
}

impl Farewell {
    /// The same where nothing may be said any more.
    pub(super) fn without_words(self) -> Self {
        match self {
            Self::Told(error) => Self::Cut(error),
            silent => silent,
        }
    }
}

impl ClientConn {
    /// Serves the client until one side ends it.
    pub(super) async fn serve(mut self: Box<Self>) {
        // Registers the task's waker for the rest of its life.
        std::future::poll_fn(|cx| Poll::Ready(self.guard.info.poll_end(cx).is_ready())).await;
        let mut since = Instant::now();
        let farewell = loop {
            match self.serve_one(since).await {
                Ok(now) => since = now,
                Err(farewell) => break farewell,
            }
        };
        let farewell = Box::pin(self.part(farewell)).await;
        Box::pin(self.leave(farewell)).await;
    }

    /// Serves a replication client, which is linked to its own server as long as both live.
    pub(super) async fn serve_replication(mut self: Box<Self>, server: Box<ServerConn>) {
        std::future::poll_fn(|cx| Poll::Ready(self.guard.info.poll_end(cx).is_ready())).await;
        self.guard.info.set_activity(Activity::Linked);
        let mut link = Link::new(server, self.pool.link_rules().for_replication(), Instant::now());
        let end = std::future::poll_fn(|cx| link.poll(&mut self, cx)).await;
        // In session mode no link ends without a reason to part.
        let farewell = self.unlink(link, end).err().unwrap_or(Farewell::Silent(Error::ReplicationClientLeft));
        self.leave(farewell).await;
    }

    /// One turn: idle, as it is `since`, until a request comes, then linked until the server is released. Gives the time of that.
    /// What is done rarely is boxed: idle clients pay for the largest of all that may be awaited here.
    async fn serve_one(&mut self, since: Instant) -> Result<Instant, Farewell> {
        self.guard.info.set_activity(Activity::Idle { since });
        let next = self.idle().await?;
        let link = match next {
            Next::Request => {
                let asked = Instant::now();
                let mut server = self.acquire_ready(asked).await?;
                self.introduce(&mut server);
                // Not before: while it waited, the rules may have changed.
                Link::new(server, self.pool.link_rules(), asked)
            }
            Next::TakenBack(link) => {
                // What we say ourselves next must not overtake what the server said last.
                if let Err(end) = link.landed().await {
                    return self.unlink(*link, end);
                }
                *link
            }
            Next::Command => return Box::pin(self.carry_out_unlinked()).await.map(|()| Instant::now()),
        };
        let Some(mut link) = self.push(link)? else { return Ok(Instant::now()) };
        if self.kernel.as_ref().is_some_and(|kernel| kernel.is_remote()) {
            self.landed().await?;
        }
        let end = loop {
            let end = std::future::poll_fn(|cx| link.poll(self, cx)).await;
            if end != LinkEnd::Command {
                break end;
            }
            match Box::pin(self.carry_out(&mut link)).await {
                Ok(()) if link.is_over(self) && self.carry.is_empty() => break LinkEnd::Released,
                Ok(()) => {}
                Err(end) => break end,
            }
        };
        self.unlink(link, end)
    }

    /// Waits until a request needs a server, or the kernel path gives one back with the client.
    async fn idle(&mut self) -> Result<Next, Farewell> {
        loop {
            let is_suspended = self.pooler.suspension.current().is_some();
            if (is_suspended || !self.carry.is_empty())
                && let Some(link) = self.reclaim().await?
            {
                return Ok(Next::TakenBack(Box::new(link)));
            }
            if is_suspended {
                std::future::poll_fn(|cx| self.poll_resumed(cx)).await?;
            }
            if (!self.carry.is_empty() || self.client.is_held())
                && let Some(next) = self.look_at_carry()?
            {
                return Ok(next);
            }
            scratch::give_spare(&mut self.carry);
            self.carry.shrink_to(IDLE_CARRY_LEN);
            self.hand_over();
            // What the last server said goes out before anything new is done for a client that does not read.
            let taken = std::future::poll_fn(|cx| {
                if let Some(reason) = self.guard.info.ended() {
                    return Poll::Ready(Err(Farewell::Told(reason)));
                }
                if self.pooler.suspension.current().is_some() {
                    return Poll::Ready(Ok(None));
                }
                if self.kernel.is_some() && self.guard.info.poll_take_back(cx).is_ready() {
                    match self.take_back() {
                        Some(link) => return Poll::Ready(Ok(Some(link))),
                        // The server that asked for it was released meanwhile: it is looked at as an idle one.
                        None => self.pool.check_woken(),
                    }
                }
                match self.poll_notified(cx) {
                    Poll::Ready(Ok(())) => self.poll_more(cx).map_ok(|()| None),
                    Poll::Ready(Err(_)) => Poll::Ready(Err(Farewell::Silent(Error::ClientUnexpectedEof))),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await?;
            if let Some(link) = taken {
                return Ok(Next::TakenBack(Box::new(link)));
            }
        }
    }

    /// What the bytes in `carry` are, if that can be told; drops what nobody needs.
    fn look_at_carry(&mut self) -> Result<Option<Next>, Farewell> {
        let limits = self.pool.link_rules().limits;
        loop {
            match self.client.handle_bytes_unlinked(&self.carry, limits).map_err(Farewell::Told)? {
                FromClient::NeedServer => return Ok(Some(Next::Request)),
                FromClient::Command(_) => return Ok(Some(Next::Command)),
                FromClient::Terminate(_) => return Err(Farewell::Silent(Error::ClientClose)),
                FromClient::Discard(n) | FromClient::Forward(n) | FromClient::Full(n) => {
                    self.carry.drain(..n);
                    // Behind what was dropped there may be a whole request already: nothing more would come then.
                    if n == 0 || self.carry.is_empty() {
                        return Ok(None);
                    }
                }
                FromClient::Splice { .. } => unreachable!("only a linked client's messages are replaced"),
            }
        }
    }

    /// Reads once into `carry`.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Farewell>> {
        let mut scratch = Scratch::take();
        match scratch.poll_fill(&mut self.stream, cx, &self.carry) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(Err(Farewell::Silent(Error::ClientUnexpectedEof))),
            Poll::Ready(Some(len)) => {
                self.pool.counters.add_received((len - self.carry.len()) as u64);
                scratch::take_spare(&mut self.carry);
                self.carry.clear();
                self.carry.extend_from_slice(&scratch[..len]);
                Poll::Ready(Ok(()))
            }
        }
    }

    /// The link ended: the server goes where it belongs. Gives the time of the last reply.
    pub(super) fn unlink(&mut self, link: Link, end: LinkEnd) -> Result<Instant, Farewell> {
        let whole = link.is_whole(self);
        let Link { mut server, tally, last_ready, xact_start, .. } = link;
        self.guard.info.set_server(0);
        self.pool.counters.add(&tally);
        self.client.unlink(&mut server.server);
        if self.client.statements().take_discarded() && self.is_listening() {
            self.stop_listening();
        }
        if end == LinkEnd::HandedOver {
            self.hand_over_pair(server, xact_start);
            return Ok(last_ready);
        }
        let told = if server.at_border() { Farewell::Told } else { Farewell::Cut };
        if let LinkEnd::ServerFails(reason) = end {
            self.pool.close(server, &reason);
            return Err(told(reason));
        }
        if server.server.is_idle() && whole {
            let now = if end == LinkEnd::Released { last_ready } else { Instant::now() };
            self.pool.release(now, server);
        } else {
            let reason = match &end {
                LinkEnd::ClientFails(error) => error.clone(),
                LinkEnd::Released => Error::CloseNeeded,
                _ => Error::ClientLeftServerBusy,
            };
            self.pool.close(server, &reason);
        }
        match end {
            LinkEnd::Released | LinkEnd::HandedOver => Ok(last_ready),
            LinkEnd::Command => unreachable!("the link goes on after it"),
            LinkEnd::ClientLeft(reason) => Err(Farewell::Silent(reason)),
            LinkEnd::ClientFails(reason) | LinkEnd::ServerFails(reason) => Err(told(reason)),
        }
    }

    /// The last word to the client, and the log line.
    async fn leave(mut self, farewell: Farewell) {
        let name = self.name();
        let log = self.pooler.config().settings.log_disconnections;
        let reason = match farewell {
            Farewell::Silent(reason) | Farewell::Cut(reason) => reason,
            Farewell::Told(reason) => {
                let response = reason.response();
                let drained = tokio::time::timeout(GOODBYE_TIME_MAX, std::future::poll_fn(|cx| self.poll_drained(cx)));
                if drained.await.is_err() {
                    tracing::debug!("{name} does not read");
                }
                say_goodbye(&mut self.stream, &mut self.to_client, &response).await;
                if self.pooler.config().settings.log_pooler_errors {
                    tracing::warn!("{name} pooler error: {reason}");
                }
                reason
            }
        };
        let age = unix_micros().saturating_sub(self.guard.info.connected_at) / 1_000_000;
        match reason.level() {
            Level::Warning => tracing::warn!("{name} closing because: {reason} (age={age}s)"),
            Level::Info if log => tracing::info!("{name} closing because: {reason} (age={age}s)"),
            Level::Info => {}
        }
        let pooler = Arc::clone(&self.pooler);
        drop(self);
        pooler.changed.notify_waiters();
    }

    pub(super) fn name(&self) -> String {
        let info = &self.guard.info;
        format!("C-{:#x}: {}/{}@{}", info.id.0, self.pool.database, self.pool.user, info.remote)
    }
}

/// Sends an error after what is pending, as far as the client takes it within a short time.
pub(crate) async fn say_goodbye(stream: &mut Stream, pending: &mut Pending, response: &[u8]) {
    let mut response = Some(response);
    let all = std::future::poll_fn(|cx| {
        if let Some(response) = response.take() {
            pending.send(stream, cx, response)?;
        }
        pending.poll_flush(stream, cx)
    });
    match tokio::time::timeout(GOODBYE_TIME_MAX, all).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("client did not take its error: {error}"),
        Err(_) => tracing::debug!("client did not take its error in time"),
    }
}

/// Memory for the start of a message that an idle client may keep.
const IDLE_CARRY_LEN: usize = 512;

/// How long a client may take to accept its last message.
const GOODBYE_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(1);
