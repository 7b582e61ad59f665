//! A linked pair: bytes move both ways until the server is released or something ends.

use std::borrow::Cow;
use std::io;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tigger_proto::client::FromClient;
use tigger_proto::error::Error;
use tigger_proto::parameters::APPLICATION_NAME;
use tigger_proto::pool::PoolMode;
use tigger_proto::server::FromServer;
use tigger_proto::wire::backend::TransactionStatus;
use tigger_proto::wire::frontend::TERMINATE;

use super::client::ClientConn;
use super::drain::DrainTimer;
use super::scratch::{self, Pending, Scratch};
use crate::kernel_path::{CutShort, Resumed};
use crate::pooler::activity::Activity;
use crate::pooler::clients::ClientInfo;
use crate::pooler::pool::Pool;
use crate::pooler::rules::LinkRules;
use crate::pooler::server_conn::ServerConn;
use crate::pooler::stats::Tally;

/// Why a link ends, or stops for a while.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LinkEnd {
    /// The client's next request is a command that is carried out here, see [`super::command`].
    Command,
    /// The transaction is over.
    Released,
    /// Both ends are on this host and between two requests: the kernel path goes on with the pair.
    HandedOver,
    /// The client said goodbye or hung up.
    ClientLeft(Error),
    /// The client is told this and disconnected.
    ClientFails(Error),
    /// The server failed: it is closed, the client is told this and disconnected.
    ServerFails(Error),
}

/// The linked server and what travels to it.
pub(super) struct Link {
    pub(super) server: Box<ServerConn>,
    pub(super) to_server: Pending,
    drain_timer: DrainTimer,
    pub(super) rules: LinkRules,
    /// The client's carry holds messages that were not walked yet, not only an unfinished header.
    unwalked: bool,
    pub(super) xact_start: Instant,
    query_start: Instant,
    /// When the last ReadyForQuery came.
    pub(super) last_ready: Instant,
    pub(super) tally: Tally,
}

impl Link {
    /// Starts with what the client sent before it was linked.
    pub(super) fn new(server: Box<ServerConn>, rules: LinkRules, now: Instant) -> Self {
        Self {
            server,
            to_server: Pending::default(),
            drain_timer: DrainTimer::default(),
            rules,
            unwalked: true,
            xact_start: now,
            query_start: now,
            last_ready: now,
            tally: Tally { server_assignment_count: 1, ..Tally::default() },
        }
    }

    /// Goes on with a pair that was taken back from the kernel path, and with what the client has sent since.
    pub(super) fn resumed(server: Box<ServerConn>, rules: LinkRules, resumed: Resumed) -> Self {
        let link = Self::new(server, rules, Instant::now());
        Self {
            tally: Tally::default(),
            query_start: resumed.query_start.unwrap_or(link.query_start),
            xact_start: resumed.xact_start.unwrap_or(link.xact_start),
            ..link
        }
    }

    /// The same with bytes that the server must get first.
    pub(super) fn sending(self, bytes: Vec<u8>) -> Self {
        Self { to_server: Pending::from(bytes), ..self }
    }

    /// Moves bytes as far as they go; ready when the link ends.
    pub(super) fn poll(&mut self, client: &mut ClientConn, cx: &mut Context<'_>) -> Poll<LinkEnd> {
        if let Some(reason) = client.guard.info.ended() {
            return Poll::Ready(LinkEnd::ClientFails(reason));
        }
        if let Some(number) = client.pooler.suspension.current() {
            return self.poll_suspended(client, cx, number);
        }
        loop {
            if self.must_part(client) {
                return Poll::Ready(LinkEnd::ServerFails(Error::DatabaseConfigChanged));
            }
            match self.poll_both(client, cx) {
                Ok(true) if self.is_over(client) => return Poll::Ready(LinkEnd::Released),
                Ok(true) if self.may_hand_over(client) => return Poll::Ready(LinkEnd::HandedOver),
                Ok(true) => self.end_if_spent(client, cx),
                Ok(false) => {
                    self.count_bytes(&client.pool);
                    return Poll::Pending;
                }
                Err(end) => return Poll::Ready(end),
            }
        }
    }

    /// Replication goes on for days: what it moves is counted meanwhile.
    fn count_bytes(&mut self, pool: &Pool) {
        if self.server.info.replication.is_some() {
            let Tally { bytes_received, bytes_sent, .. } = &mut self.tally;
            let (bytes_received, bytes_sent) = (std::mem::take(bytes_received), std::mem::take(bytes_sent));
            pool.counters.add(&Tally { bytes_received, bytes_sent, ..Tally::default() });
        }
    }

    /// In transaction and statement mode, the server is given back as soon as it is idle and the client has no message
    /// half sent.
    pub(super) fn is_over(&self, client: &ClientConn) -> bool {
        self.server.server.is_idle() && self.may_part(client)
    }

    /// A session is over when its server must be replaced at once, as soon as no transaction is lost (`server_fast_close`).
    fn must_part(&self, client: &ClientConn) -> bool {
        self.is_parting(client) && self.server.server.is_idle() && self.is_whole(client)
    }

    fn is_parting(&self, client: &ClientConn) -> bool {
        self.rules.mode == PoolMode::Session && client.guard.info.must_part(self.server.info.serial)
    }

    /// Where the pair stays together, the kernel path may have both between two requests: in session mode; and in a
    /// transaction whose replies can only come this way.
    fn may_hand_over(&self, client: &ClientConn) -> bool {
        let (Some(far), Some(server)) = (&client.kernel, &self.server.kernel) else { return false };
        let is_carried = match self.rules.mode {
            PoolMode::Session => !far.is_remote() || !server.is_remote(),
            PoolMode::Transaction => !far.is_remote() && server.is_remote(),
            PoolMode::Statement => false,
        };
        is_carried
            && !client.is_listening()
            && !self.is_parting(client)
            && self.tally.query_count > 0
            && self.server.server.is_between_requests()
            && self.is_whole(client)
            && client.client.at_border()
            && client.carry.is_empty()
            && self.server.watch_linked()
    }

    fn may_part(&self, client: &ClientConn) -> bool {
        self.rules.mode != PoolMode::Session && self.is_whole(client)
    }

    /// True when the server got the client's last message as a whole.
    pub(super) fn is_whole(&self, client: &ClientConn) -> bool {
        client.client.is_whole() && self.to_server.is_empty()
    }

    /// A server of which nobody knows what it owes is asked to end. What it still says is the client's, which then goes
    /// on with another one.
    fn end_if_spent(&mut self, client: &ClientConn, cx: &mut Context<'_>) {
        if self.must_end(client) {
            self.server.server.handle_terminate();
            // If it cannot be sent, the server is gone, which is what it asks for.
            if self.to_server.send(&mut self.server.stream, cx, &TERMINATE).is_err() {
                self.to_server = Pending::default();
            }
        }
    }

    fn must_end(&self, client: &ClientConn) -> bool {
        self.server.server.is_spent() && self.may_part(client)
    }

    /// Each direction once; false when nothing moved and the sockets will wake the task.
    fn poll_both(&mut self, client: &mut ClientConn, cx: &mut Context<'_>) -> Result<bool, LinkEnd> {
        let mut moved = false;
        let must_walk = self.unwalked && self.to_server.is_empty() && !client.carry.is_empty();
        if must_walk && self.poll_drained(cx).is_ready() {
            // Before anything is read: at the start of a link nothing else can move.
            self.poll_client(client, cx)?;
        }
        match client.poll_flush(cx) {
            // Nothing pending: more may be read.
            Poll::Ready(Ok(())) => moved |= self.poll_server(client, cx)?,
            Poll::Ready(Err(_)) => return Err(LinkEnd::ClientLeft(Error::ClientUnexpectedEof)),
            Poll::Pending => {}
        }
        // Before the client's next request is met, which must go to another server.
        if moved && (self.is_over(client) || self.must_end(client)) {
            return Ok(true);
        }
        match self.poll_flush(cx) {
            Poll::Ready(Ok(())) if self.server.server.is_ending() => self.shut_down_writing(),
            Poll::Ready(Ok(())) => moved |= self.poll_client(client, cx)?,
            // What the server said before it closed the connection is worth more than this error: read on.
            Poll::Ready(Err(_)) => self.to_server = Pending::default(),
            Poll::Pending => {}
        }
        Ok(moved)
    }

    /// A backend in COPY-in mode swallows Terminate; the end of its input it heeds.
    fn shut_down_writing(&self) {
        if let Err(error) = self.server.stream.shut_down_writing() {
            tracing::debug!("server was gone before its end: {error}");
        }
    }

    /// Server to client.
    fn poll_server(&mut self, client: &mut ClientConn, cx: &mut Context<'_>) -> Result<bool, LinkEnd> {
        let mut scratch = Scratch::take();
        let ServerConn { stream, server, unread, info, delivered, .. } = &mut *self.server;
        let len = match scratch.poll_fill(stream, cx, unread) {
            Poll::Pending => return Ok(false),
            Poll::Ready(None) if server.has_ended() => return Err(LinkEnd::Released),
            Poll::Ready(None) => return Err(LinkEnd::ServerFails(Error::ServerCrashed)),
            Poll::Ready(Some(len)) => len,
        };
        let ClientConn { client: peer, guard, pool, .. } = client;
        let mut replies = Replies { delivered: *delivered, ..Replies::default() };
        let result = loop {
            let reported = |position: usize, value: &str| {
                peer.parameters.set(position, value);
                if position == APPLICATION_NAME {
                    guard.info.set_application_name(value);
                    *info.application_name.lock().expect("nobody panics with this lock") = value.into();
                }
            };
            match server.handle_bytes(&scratch[replies.used..len], &pool.tracked, reported) {
                Ok(FromServer::Forward(n)) => {
                    replies.used += n;
                    break Ok(());
                }
                Ok(FromServer::Splice { forward, skip, insert }) => {
                    replies.splice(&scratch, forward, skip, insert.as_ref().map_or(&[], |message| message));
                }
                // The client must not read that its transaction has begun.
                Ok(FromServer::Ready(_))
                    if self.rules.mode == PoolMode::Statement && server.status() != TransactionStatus::Idle =>
                {
                    break Err(LinkEnd::ClientFails(Error::StatementPooling));
                }
                Ok(FromServer::Ready(n)) => {
                    replies.used += n;
                    replies.readies += 1;
                    replies.transactions += u64::from(server.status() == TransactionStatus::Idle);
                    if server.is_idle() && self.rules.mode != PoolMode::Session {
                        break Ok(());
                    }
                }
                Err(error) => break Err(LinkEnd::ServerFails(error)),
            }
        };
        if server.take_retired() {
            pool.retire_statements();
        }
        let resend = server.take_resend();
        if !resend.bytes.is_empty() {
            tracing::debug!("a request is sent once more, its prepared statements were out of date");
            self.tally.server_parse_count += resend.parses;
            self.to_server.keep(&resend.bytes);
        }
        unread.clear();
        unread.extend_from_slice(&scratch[replies.used..len]);
        *delivered = replies.still_delivered();
        let bytes = replies.bytes(&scratch);
        self.tally.bytes_sent += (replies.used - replies.skipped) as u64;
        if result.is_ok() && replies.readies > 0 {
            let time = self.handle_ready(&client.guard.info, replies.readies, replies.transactions);
            client.pool.latencies.add(time, replies.readies);
            // Before the client can have an answer to it: the server goes to the next, and the client to where its next
            // request is looked for.
            if client.carry.is_empty() && (self.is_over(client) || self.may_hand_over(client)) {
                client.to_client.keep(&bytes);
                return Ok(true);
            }
        }
        let sent = client.send_replies(cx, &bytes);
        result?;
        sent.map_err(|_| LinkEnd::ClientLeft(Error::ClientUnexpectedEof))?;
        Ok(true)
    }

    /// Waits until the last reply that the kernel path carried is where it belongs, if the server owes nothing: then it is not
    /// inside a send that waits for us.
    pub(super) async fn landed(&self) -> Result<(), LinkEnd> {
        match &self.server.kernel {
            Some(kernel) if !self.server.server.owes() => {
                kernel.landed().await.map_err(|CutShort| LinkEnd::ServerFails(Error::ServerCrashed))
            }
            _ => Ok(()),
        }
    }

    /// Ready when the server notices what is sent to it over TCP.
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(kernel) = &mut self.server.kernel else { return Poll::Ready(()) };
        self.drain_timer.poll(cx, || kernel.has_drained())
    }

    /// Sends what is pending for the server.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drained(cx));
        self.to_server.poll_flush(&mut self.server.stream, cx)
    }

    /// What the server was sent, before anything else is.
    pub(super) async fn flush(&mut self) -> Result<(), LinkEnd> {
        let flushed = std::future::poll_fn(|cx| self.poll_flush(cx)).await;
        flushed.map_err(|_| LinkEnd::ServerFails(Error::ServerCrashed))
    }

    /// There may be requests in the client's carry.
    pub(super) fn rewalk(&mut self) {
        self.unwalked = true;
    }

    /// Counts, and gives the time since the queries began.
    pub(super) fn handle_ready(&mut self, info: &ClientInfo, readies: u64, transactions: u64) -> Duration {
        let now = Instant::now();
        let time = now.duration_since(self.query_start);
        self.tally.query_count += readies;
        self.tally.query_time += time.as_micros() as u64;
        self.query_start = now;
        self.last_ready = now;
        if transactions > 0 {
            self.tally.xact_count += transactions;
            self.tally.xact_time += now.duration_since(self.xact_start).as_micros() as u64;
            self.xact_start = now;
        }
        let (server, transaction) = (&self.server.server, self.xact_start);
        info.set_activity(match server.status() {
            _ if server.owes() => Activity::Query { since: now, transaction },
            TransactionStatus::Idle => Activity::Linked,
            TransactionStatus::InTransaction | TransactionStatus::Failed => {
                Activity::InTransaction { since: now, transaction }
            }
        });
        time
    }

    /// Client to server.
    fn poll_client(&mut self, client: &mut ClientConn, cx: &mut Context<'_>) -> Result<bool, LinkEnd> {
        if std::mem::take(&mut self.unwalked) && (!client.carry.is_empty() || client.client.is_held()) {
            let mut bytes = std::mem::take(&mut client.carry);
            let moved = self.handle_client_bytes(client, cx, &bytes)?;
            bytes.clear();
            scratch::give_spare(&mut bytes);
            if moved || self.unwalked {
                return Ok(moved);
            }
            // There is too little of a message, and nothing wakes the task for the rest unless it is asked for.
        }
        if self.server.server.is_full() {
            // Only replies can go on from here.
            self.unwalked = true;
            return Ok(false);
        }
        let mut scratch = Scratch::take();
        let len = match scratch.poll_fill(&mut client.stream, cx, &client.carry) {
            Poll::Pending => return Ok(false),
            Poll::Ready(None) => return Err(LinkEnd::ClientLeft(Error::ClientUnexpectedEof)),
            Poll::Ready(Some(len)) => len,
        };
        self.tally.bytes_received += (len - client.carry.len()) as u64;
        self.handle_client_bytes(client, cx, &scratch[..len])?;
        // Also when all of it is a part of a header: the socket that was read does not wake the task for the rest.
        Ok(true)
    }

    /// Passes on what may be passed on and keeps the rest as the client's carry; false when nothing moved.
    fn handle_client_bytes(
        &mut self,
        client: &mut ClientConn,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Result<bool, LinkEnd> {
        if !self.server.server.owes() {
            if self.tally.query_count > 0 {
                self.query_start = Instant::now();
                if self.server.server.status() == TransactionStatus::Idle {
                    self.xact_start = self.query_start;
                }
            }
            let (since, transaction) = (self.query_start, self.xact_start);
            client.guard.info.set_activity(Activity::Query { since, transaction });
        }
        let (used, end) = self.walk(client, cx, bytes)?;
        client.carry.clear();
        client.carry.extend_from_slice(&bytes[used..]);
        match end {
            Some(end) => Err(end),
            None => Ok(used > 0),
        }
    }

    /// Sends what goes on to the server; gives how much of the bytes is done with, and why nothing more goes on, if so.
    fn walk(
        &mut self,
        client: &mut ClientConn,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Result<(usize, Option<LinkEnd>), LinkEnd> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let result = client.client.handle_bytes(rest, &mut self.server.server, self.rules.limits);
            let (n, end) = match result.map_err(LinkEnd::ClientFails)? {
                FromClient::Forward(n) => (n, None),
                FromClient::Full(n) => {
                    self.unwalked = true;
                    (n, None)
                }
                FromClient::Command(n) => (n, Some(LinkEnd::Command)),
                FromClient::Terminate(n) => (n, Some(LinkEnd::ClientLeft(Error::ClientClose))),
                FromClient::Splice { forward, skip, insert } => {
                    used += forward + skip;
                    self.send(cx, &[&rest[..forward], &insert].concat());
                    self.answer(client, cx)?;
                    continue;
                }
                FromClient::Discard(_) | FromClient::NeedServer => unreachable!("a linked client has a server"),
            };
            self.send(cx, &rest[..n]);
            return Ok((used + n, end));
        }
    }

    fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) {
        if self.to_server.send(&mut self.server.stream, cx, bytes).is_err() {
            self.to_server = Pending::default();
        }
    }

    /// Answers the requests to which the answer is ours, as far as it is their turn.
    fn answer(&mut self, client: &mut ClientConn, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        let uses = client.client.take_uses();
        self.tally.client_parse_count += uses.client_parses;
        self.tally.server_parse_count += uses.server_parses;
        self.tally.bind_count += uses.binds;
        client.guard.info.prepared.store(client.client.statements().len(), Ordering::Relaxed);
        self.server.info.prepared.store(self.server.server.statements().len(), Ordering::Relaxed);
        let mut replies = Vec::new();
        while let Some(message) = self.server.server.poll_fake() {
            replies.extend_from_slice(&message);
        }
        if replies.is_empty() {
            return Ok(());
        }
        self.tally.bytes_sent += replies.len() as u64;
        client.send_replies(cx, &replies).map_err(|_| LinkEnd::ClientLeft(Error::ClientUnexpectedEof))
    }
}

/// What was found in the bytes of a server.
#[derive(Default)]
struct Replies {
    /// Bytes of the client's, as far as they are not the server's bytes from `from` on.
    spliced: Vec<u8>,
    from: usize,
    /// Bytes that are done with.
    used: usize,
    /// Those of them that are for nobody.
    skipped: usize,
    /// The first bytes, which the client has already.
    delivered: usize,
    readies: u64,
    transactions: u64,
}

impl Replies {
    /// `forward` bytes are the client's, the next `skip` ones are not, and it gets `insert` instead.
    fn splice(&mut self, scratch: &[u8], forward: usize, skip: usize, insert: &[u8]) {
        let end = self.used + forward;
        self.spliced.extend_from_slice(&scratch[self.from.max(self.delivered).min(end)..end]);
        self.spliced.extend_from_slice(insert);
        self.used = end + skip;
        self.from = self.used;
        self.skipped += skip;
    }

    /// What the client gets.
    fn bytes<'a>(&self, scratch: &'a [u8]) -> Cow<'a, [u8]> {
        let rest = &scratch[self.from.max(self.delivered).min(self.used)..self.used];
        if self.spliced.is_empty() { rest.into() } else { [&self.spliced, rest].concat().into() }
    }

    /// Bytes that are not done with and that the client has already.
    fn still_delivered(&self) -> usize {
        self.delivered.saturating_sub(self.used)
    }
}
