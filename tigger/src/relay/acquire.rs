//! How a client gets a server: at once or after waiting in the queue, alive, and with the client's parameters.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tigger_proto::error::Error;
use tigger_proto::pool::{Claim, Grant, Purpose};
use tigger_proto::wire::error_response::{self, Severity};
use tokio::sync::oneshot;

use super::client::{ClientConn, Farewell};
use super::scratch::CARRY_LEN_MAX;
use crate::pooler::activity::Activity;
use crate::pooler::server_conn::ServerConn;

/// How waiting for a server ended.
enum Waited {
    Granted(Box<ServerConn>),
    Failed(Error),
    /// The client did not wait for the answer, which may still come.
    Gone(Farewell),
}

impl ClientConn {
    /// Gets a server with this client's parameters.
    pub(super) async fn acquire_ready(&mut self, asked: Instant) -> Result<Box<ServerConn>, Farewell> {
        loop {
            let mut server = self.acquire(asked).await?;
            if self.client.parameters.served_by(server.server.parameters()) {
                server.server.unite_parameters(&mut self.client.parameters);
                return Ok(server);
            }
            if let Some(server) = Box::pin(self.reset_parameters(server)).await {
                return Box::pin(self.set_parameters(server)).await;
            }
        }
    }

    /// Gets a server from the pool, at once or after waiting.
    async fn acquire(&mut self, asked: Instant) -> Result<Box<ServerConn>, Farewell> {
        let info = Arc::clone(&self.guard.info);
        info.request_at.store(asked);
        loop {
            let checks = self.pool.checks_each_use();
            let parameters = &self.client.parameters;
            let (claim, mut waiting) = self.pool.run(|core| match core.claim(asked, info.id) {
                Claim::Linked(id, server) => {
                    // A cancel request must not hit the query that sets the parameters, nor the check.
                    if checks || !parameters.served_by(server.server.parameters()) {
                        core.set_cancelable(id, false);
                    }
                    (Some(Claim::Linked(id, server)), None)
                }
                Claim::MustWait => {
                    let (sender, receiver) = oneshot::channel();
                    (None, Some((core.wait(asked, info.id, Purpose::Server, sender), receiver)))
                }
                claim => (Some(claim), None),
            });
            let server = match (claim, &mut waiting) {
                (Some(Claim::Linked(_, server)), _) => server,
                (Some(Claim::Failed(error)), _) => return Err(Farewell::Told(error)),
                (_, Some((ticket, receiver))) => {
                    info.set_activity(Activity::Waiting { since: asked });
                    let waited = self.wait(receiver).await;
                    info.set_activity(Activity::Query { since: asked, transaction: asked });
                    self.pool.counters.add_wait(asked.elapsed());
                    match waited {
                        Waited::Granted(server) => {
                            if !checks && self.client.parameters.served_by(server.server.parameters()) {
                                self.pool.run(|core| core.set_cancelable(server.id, true));
                            }
                            server
                        }
                        Waited::Failed(error) => return Err(Farewell::Told(error)),
                        Waited::Gone(farewell) => {
                            let left = self.pool.run(|core| core.leave(*ticket));
                            // Granted in the same moment: it goes back.
                            if !left && let Ok(Grant::Server(_, server)) = receiver.await {
                                self.pool.give_back(Instant::now(), server);
                            }
                            return Err(farewell);
                        }
                    }
                }
                (_, None) => unreachable!("a client that must wait has a place in the queue"),
            };
            let server = match self.check_alive(server) {
                Some(server) if checks => Box::pin(self.check(server)).await,
                server => server,
            };
            if let Some(server) = server {
                info.set_server(server.info.serial);
                server.info.request_at.store(asked);
                return Ok(server);
            }
        }
    }

    /// Waits for the grant (or the pool's word that it took too long), for the client to hang up, or for an administrator.
    async fn wait(&mut self, receiver: &mut oneshot::Receiver<Grant<Box<ServerConn>>>) -> Waited {
        tokio::select! {
            biased;
            granted = receiver => match granted {
                Ok(Grant::Server(_, server)) => Waited::Granted(server),
                Ok(Grant::Failed(error)) => Waited::Failed(error),
                // The pool is gone.
                Ok(Grant::Welcome) | Err(_) => Waited::Failed(Error::ServerShuttingDown),
            },
            farewell = std::future::poll_fn(|cx| self.poll_gone(cx)) => Waited::Gone(farewell),
        }
    }

    /// Ready when a waiting client is gone. It may go on sending, up to a limit.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Farewell> {
        if let Some(reason) = self.guard.info.ended() {
            return Poll::Ready(Farewell::Told(reason));
        }
        match self.poll_resumed(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(farewell)) => return Poll::Ready(farewell),
            Poll::Pending => return Poll::Pending,
        }
        if self.guard.info.poll_notice(cx).is_ready() {
            let mut notice = Vec::new();
            error_response::write(&mut notice, Severity::Notice, "00000", WAIT_NOTICE);
            if self.send_replies(cx, &notice).is_err() {
                return Poll::Ready(Farewell::Silent(Error::ClientUnexpectedEof));
            }
        }
        while self.carry.len() < CARRY_LEN_MAX / 2 {
            match self.poll_more(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(farewell)) => return Poll::Ready(farewell),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }

    /// A server may have died in the pool a moment ago: then the next one is tried.
    fn check_alive(&self, mut server: Box<ServerConn>) -> Option<Box<ServerConn>> {
        if server.is_quiet() {
            return Some(server);
        }
        match server.settle(&self.pool.tracked) {
            Ok(()) => Some(server),
            Err(reason) => {
                self.pool.close(server, &reason);
                None
            }
        }
    }

    /// The server must show that it answers before the client gets it: else the next one is tried.
    async fn check(&self, mut server: Box<ServerConn>) -> Option<Box<ServerConn>> {
        if let Err(reason) = self.pool.check(&mut server).await {
            self.pool.close(server, &reason);
            return None;
        }
        if self.client.parameters.served_by(server.server.parameters()) {
            self.pool.run(|core| core.set_cancelable(server.id, true));
        }
        Some(server)
    }

    /// Takes from the server what was applied for other clients. A server that does not give it up is closed, and the next
    /// one is tried: this client has nothing to do with it.
    async fn reset_parameters(&mut self, mut server: Box<ServerConn>) -> Option<Box<ServerConn>> {
        let own = &self.client.parameters;
        let Some(sql) = own.reset_query(server.server.parameters()) else { return Some(server) };
        let failure = match server.run(&sql, &self.pool.tracked).await {
            Ok(Ok(())) => {
                server.server.handle_reset(own);
                return Some(server);
            }
            Ok(Err(fields)) => Error::ServerProtocol(format!("parameter cannot be reset: {}", fields.message).into()),
            Err(error) => error,
        };
        self.guard.info.set_server(0);
        self.pool.close(server, &failure);
        None
    }

    /// Gives the server this client's values of the tracked parameters, and of those that are applied.
    async fn set_parameters(&mut self, mut server: Box<ServerConn>) -> Result<Box<ServerConn>, Farewell> {
        let tracked = &self.pool.tracked;
        let own = &self.client.parameters;
        if let Some(sql) = own.set_query(server.server.parameters(), tracked) {
            match server.run(&sql, tracked).await {
                Ok(Ok(())) => server.server.handle_applied(own),
                Ok(Err(fields)) => {
                    tracing::info!("{}: server refused a parameter: {}", self.name(), fields.message);
                    self.guard.info.set_server(0);
                    if own.applies_to(server.server.parameters()) {
                        // All of the query is undone: the server is as good as it was.
                        self.pool.give_back(Instant::now(), server);
                        return Err(Farewell::Told(Error::ParameterRefused(fields)));
                    }
                    self.pool.close(server, &Error::InvalidServerParameter);
                    return Err(Farewell::Told(Error::InvalidServerParameter));
                }
                Err(error) => {
                    self.guard.info.set_server(0);
                    self.pool.close(server, &error);
                    return Err(Farewell::Told(error));
                }
            }
        }
        self.pool.run(|core| core.set_cancelable(server.id, true));
        server.note_application_name();
        // The server's spelling of the values counts, so that the next comparison finds them equal.
        self.client.parameters = server.server.parameters().clone();
        Ok(server)
    }
}

/// PgBouncer's words to a client that has waited for `query_wait_notify`.
const WAIT_NOTICE: &str = "No server connection available in postgres backend, client being queued";
