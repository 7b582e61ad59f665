//! Commands of a client that are carried out here, because it has no server of its own: LISTEN and UNLISTEN by the pool's
//! listener, PREPARE and DEALLOCATE by whichever server it has now, and what EXECUTE needs before it can go there.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tigger_proto::client::command::Command;
use tigger_proto::client::{Asked, Client};
use tigger_proto::error::Error;
use tigger_proto::parameters::CLIENT_ENCODING;
use tigger_proto::prepared::Statement;
use tigger_proto::wire::backend::{self, TransactionStatus};
use tigger_proto::wire::error_response::{self, ErrorFields, Severity};
use tigger_proto::wire::frontend;

use super::client::{ClientConn, Farewell};
use super::link::{Link, LinkEnd};
use crate::pooler::clients::ClientInfo;
use crate::pooler::listener::Inbox;
use crate::pooler::pool::Pool;

/// The channels that a client listens to. It leaves them when this is dropped.
pub(super) struct Listening {
    pool: Arc<Pool>,
    inbox: Arc<Inbox>,
    channels: HashSet<Vec<u8>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.pool.leave(&self.inbox);
    }
}

/// What became of a command.
enum Outcome {
    /// The client gets these messages and a ReadyForQuery.
    Answered(Vec<u8>),
    /// The same, and the server has sent the ReadyForQuery.
    Relayed(Vec<u8>),
    /// The server can have it now.
    GoesOn,
}

impl Outcome {
    fn done(tag: &str) -> Self {
        let mut reply = Vec::new();
        backend::command_complete(&mut reply, tag);
        Self::Answered(reply)
    }

    fn failed(sqlstate: &str, text: &str) -> Self {
        let mut reply = Vec::new();
        error_response::write(&mut reply, Severity::Error, sqlstate, text);
        Self::Answered(reply)
    }

    fn of(result: Result<&'static str, Error>) -> Self {
        result.map_or_else(|error| Self::failed(error.sqlstate(), &error.text()), Self::done)
    }
}

impl ClientConn {
    /// True if it listens to something, where the pool does that for it.
    pub(super) fn is_listening(&self) -> bool {
        self.listening.is_some()
    }

    /// To anything.
    pub(super) fn stop_listening(&mut self) {
        self.listening = None;
        self.note_channels();
    }

    /// Sends what is pending, and then what came for a client that listens.
    pub(super) fn poll_notified(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        while let Some(messages) = self.listening.as_ref().and_then(|listening| listening.inbox.poll_take(cx)) {
            self.send_replies(cx, &messages)?;
            self.pool.counters.add_sent(messages.len() as u64);
            ready!(self.poll_flush(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Carries out the LISTEN or UNLISTEN at the start of `carry`, for which no server is needed.
    pub(super) async fn carry_out_unlinked(&mut self) -> Result<(), Farewell> {
        let message = std::mem::take(&mut self.carry);
        let (command, len) = Command::read(&message).expect("it was found to be one");
        self.carry = message[len..].to_vec();
        let listened = async {
            // Within a transaction it does not wait: the pause waits for that.
            self.pooler.unpaused(&self.pool).await;
            listen(&mut self.listening, &self.pool, &self.guard.info, &self.client, &command).await
        };
        let outcome = tokio::select! {
            biased;
            result = listened => Outcome::of(result),
            // What it sends meanwhile stays where it is.
            reason = std::future::poll_fn(|cx| self.guard.info.poll_end(cx)) => return Err(Farewell::Told(reason)),
        };
        self.note_channels();
        let (Outcome::Answered(mut reply) | Outcome::Relayed(mut reply)) = outcome else { return Ok(()) };
        backend::ready_for_query_in(&mut reply, TransactionStatus::Idle);
        self.pool.counters.add_sent(reply.len() as u64);
        self.reply(&reply).await.map_err(|_| Farewell::Silent(Error::ClientUnexpectedEof))
    }

    /// Carries out the command at the start of `carry`. `Err` when the link ends, as it does where nothing keeps the server.
    pub(super) async fn carry_out(&mut self, link: &mut Link) -> Result<(), LinkEnd> {
        link.flush().await?;
        let message = std::mem::take(&mut self.carry);
        let info = Arc::clone(&self.guard.info);
        let asked = self.client.command(&message).expect("it was found to be one");
        let (len, done) = match asked {
            Asked::Query(command, len) => {
                let outcome = self.outcome(link, &command, message.get(..len));
                tokio::select! {
                    biased;
                    outcome = outcome => (len, outcome),
                    reason = std::future::poll_fn(|cx| info.poll_end(cx)) => (0, Err(LinkEnd::ClientFails(reason))),
                }
            }
            Asked::Bind(sql) => {
                let command = Command::read_listen(&sql).expect("it was found to be one");
                let listened = listen(&mut self.listening, &self.pool, &info, &self.client, &command);
                let result = tokio::select! {
                    biased;
                    result = listened => result,
                    reason = std::future::poll_fn(|cx| info.poll_end(cx)) => Err(reason),
                };
                self.client.note_bound();
                // The server would have to answer in the place of what was prepared.
                (0, result.map(|_| Outcome::GoesOn).map_err(LinkEnd::ClientFails))
            }
        };
        self.note_channels();
        let reply = match done? {
            Outcome::GoesOn => {
                self.carry = message;
                link.rewalk();
                return Ok(());
            }
            Outcome::Relayed(reply) => reply,
            Outcome::Answered(mut reply) => {
                backend::ready_for_query_in(&mut reply, link.server.server.status());
                reply
            }
        };
        self.carry = message[len..].to_vec();
        link.tally.bytes_sent += reply.len() as u64;
        let is_over = link.server.server.status() == TransactionStatus::Idle;
        let time = link.handle_ready(&self.guard.info, 1, u64::from(is_over));
        self.pool.latencies.add(time, 1);
        link.rewalk();
        self.reply(&reply).await.map_err(|_| LinkEnd::ClientLeft(Error::ClientUnexpectedEof))?;
        if link.is_over(self) { Err(LinkEnd::Released) } else { Ok(()) }
    }

    async fn reply(&mut self, reply: &[u8]) -> io::Result<()> {
        std::future::poll_fn(|cx| Poll::Ready(self.send_replies(cx, reply))).await
    }

    /// `message` is there as a whole, but for a long EXECUTE.
    async fn outcome(
        &mut self,
        link: &mut Link,
        command: &Command<'_>,
        message: Option<&[u8]>,
    ) -> Result<Outcome, LinkEnd> {
        match command {
            Command::Listen { .. } | Command::Unlisten(_) => {
                let result = listen(&mut self.listening, &self.pool, &self.guard.info, &self.client, command).await;
                Ok(Outcome::of(result))
            }
            Command::Prepare { name, definition, before } => self.prepare(link, name, definition, *before).await,
            Command::Execute { name, .. } => {
                let statement = self.client.statements().commanded(name).expect("it was found to be known");
                match (self.create(link, &statement, None).await?, message) {
                    (Ok(()), _) => Ok(Outcome::GoesOn),
                    (Err((reply, _)), Some(_)) => Ok(Outcome::Relayed(reply)),
                    // The rest of the message would have to be skipped.
                    (Err((_, fields)), None) => Err(LinkEnd::ClientFails(Error::ServerRefused(fields))),
                }
            }
            Command::Deallocate(name) => {
                self.client.statements().deallocate(name);
                Ok(Outcome::done("DEALLOCATE"))
            }
        }
    }

    /// `before` the definition there were so many characters.
    async fn prepare(
        &mut self,
        link: &mut Link,
        name: &[u8],
        definition: &[u8],
        before: usize,
    ) -> Result<Outcome, LinkEnd> {
        let statements = self.client.statements();
        let known = statements.commanded(name);
        let statement = match statements.define(definition) {
            Ok(statement) => statement,
            Err(error) => return Ok(Outcome::failed(error.sqlstate(), &error.text())),
        };
        if let Some(known) = known {
            // The server must find it wrong as well, to end the transaction. Whether it is prepared there does not matter.
            self.fail(link, &known).await?;
            let text = format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(name));
            return Ok(Outcome::failed("42P05", &text));
        }
        // Another client may have prepared it there, as with a Parse.
        if !link.server.server.has_statement(&statement) {
            let moved = before as i64 - statement.head().len() as i64;
            if let Err((reply, _)) = self.create(link, &statement, Some(moved)).await? {
                return Ok(Outcome::Relayed(reply));
            }
        }
        self.client.statements().note_prepared(name.to_vec(), statement);
        Ok(Outcome::done("PREPARE"))
    }

    /// Has the server create a statement that it does not have, or has out of date. The inner error is what it says, up to
    /// its ReadyForQuery, with positions that are `moved`, and in short.
    async fn create(
        &mut self,
        link: &mut Link,
        statement: &Arc<Statement>,
        moved: Option<i64>,
    ) -> Result<Result<(), (Vec<u8>, ErrorFields)>, LinkEnd> {
        self.remove(link, statement).await?;
        let most = (link.rules.limits.prepared_max.max(1) - 1) as usize;
        while let Some(surplus) = link.server.server.statements().surplus(most) {
            self.remove(link, &surplus).await?;
        }
        let mut sql = Vec::new();
        statement.prepare(&mut sql);
        let (reply, result) = self.ask(link, &sql).await?;
        link.tally.server_parse_count += 1;
        Ok(match result {
            Ok(()) => {
                link.server.server.statements().note_created(statement);
                Ok(())
            }
            Err(fields) => Err((error_response::move_positions(&reply, moved), fields)),
        })
    }

    /// Has the server forget a statement, if it has it.
    async fn remove(&mut self, link: &mut Link, statement: &Statement) -> Result<(), LinkEnd> {
        if !link.server.server.statements().has(statement.id()) {
            return Ok(());
        }
        let mut sql = Vec::new();
        frontend::query(&mut sql, &format!("DEALLOCATE {}", statement.identifier()));
        let (_, result) = self.ask(link, &sql).await?;
        link.server.server.statements().note_removed(statement);
        // It is known to have it: who says that it has not has lost track.
        result.map_err(|fields| LinkEnd::ServerFails(Error::ServerRefused(fields)))
    }

    /// Has the server report an error, which ends a transaction.
    async fn fail(&mut self, link: &mut Link, known: &Statement) -> Result<(), LinkEnd> {
        if link.server.server.status() != TransactionStatus::InTransaction {
            return Ok(());
        }
        let mut sql = Vec::new();
        // There is no such cursor: names of statements are not names of cursors.
        frontend::query(&mut sql, &format!("CLOSE {}", known.identifier()));
        self.ask(link, &sql).await.map(drop)
    }

    /// Asks the server a question of our own: all that it says, and how it went.
    async fn ask(&mut self, link: &mut Link, query: &[u8]) -> Result<(Vec<u8>, Result<(), ErrorFields>), LinkEnd> {
        let mut reply = Vec::new();
        let keep = |bytes: &[u8]| {
            // An error and some notices: whoever says more does not go on saying it to us.
            let room = REPLY_LEN_MAX.saturating_sub(reply.len());
            reply.extend_from_slice(&bytes[..bytes.len().min(room)]);
        };
        let result = link.server.ask(query, &self.pool.tracked, keep).await.map_err(LinkEnd::ServerFails)?;
        if reply.len() == REPLY_LEN_MAX {
            return Err(LinkEnd::ServerFails(Error::ServerProtocol("long reply to PREPARE".into())));
        }
        Ok((reply, result))
    }

    /// For the console.
    fn note_channels(&mut self) {
        self.listening = self.listening.take().filter(|listening| !listening.channels.is_empty());
        self.guard.info.set_listening(self.listening.is_some());
        let prepared = self.client.statements().len();
        self.guard.info.prepared.store(prepared, Ordering::Relaxed);
    }
}

/// LISTEN or UNLISTEN of a client that listens to these; gives the tag.
async fn listen(
    listening: &mut Option<Listening>,
    pool: &Arc<Pool>,
    info: &Arc<ClientInfo>,
    client: &Client,
    command: &Command<'_>,
) -> Result<&'static str, Error> {
    match command {
        Command::Listen { channel, sql } => {
            let listening = listening.get_or_insert_with(|| Listening {
                pool: Arc::clone(pool),
                inbox: Arc::new(Inbox::new(Arc::clone(info))),
                channels: HashSet::new(),
            });
            if listening.channels.contains(channel) {
                return Ok("LISTEN");
            }
            if listening.channels.len() >= CHANNELS_MAX {
                return Err(Error::TooManyChannels);
            }
            let encoding = client.parameters.value(CLIENT_ENCODING).unwrap_or_default();
            pool.listen(channel, sql, &listening.inbox, encoding).await?;
            listening.channels.insert(channel.clone());
            Ok("LISTEN")
        }
        Command::Unlisten(Some(channel)) => {
            if let Some(listening) = listening
                && listening.channels.remove(channel)
            {
                pool.unlisten(channel, &listening.inbox);
            }
            Ok("UNLISTEN")
        }
        _ => {
            *listening = None;
            Ok("UNLISTEN")
        }
    }
}

/// Longest reply to a question of ours, in bytes.
const REPLY_LEN_MAX: usize = 64 * 1024;

/// Most channels of a client. PostgreSQL has no such limit; here the memory is that of all.
const CHANNELS_MAX: usize = 10_000;
