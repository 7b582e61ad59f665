//! Tests of servers: the reset query of those that come back, the check query of those that were idle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tigger_proto::error::Error;

use super::pool::Pool;
use super::server_conn::ServerConn;
use crate::config::Settings;

/// The check of servers that were idle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// An empty one is an empty query.
    pub sql: String,
    /// Idle time after which it is run; zero: at each use.
    pub delay: Duration,
}

impl Check {
    /// That of the configuration; `None`: nothing is checked.
    pub fn new(settings: &Settings) -> Option<Self> {
        let sql = match settings.server_check_query.as_deref()? {
            "<empty>" => "",
            sql => sql,
        };
        Some(Self { sql: sql.to_owned(), delay: settings.server_check_delay })
    }
}

impl Pool {
    /// Runs the reset query before the server is released.
    pub(super) fn reset(self: &Arc<Self>, mut server: Box<ServerConn>) {
        self.run(|core| core.begin_test(server.id));
        let pool = Arc::clone(self);
        self.runtime().spawn(async move {
            let sql = pool.config().reset_query.clone().unwrap_or_default();
            let result = pool.run_own(&mut server, "reset", &sql).await;
            // Whether it did depends on the query.
            server.server.doubt_applied();
            pool.end_test(server, result);
        });
    }

    /// Checks an idle server that the bookkeeping took out for it.
    pub(super) fn begin_check(self: &Arc<Self>, mut server: Box<ServerConn>) {
        let pool = Arc::clone(self);
        self.runtime().spawn(async move {
            let result = pool.check(&mut server).await;
            pool.end_test(server, result);
        });
    }

    /// Sees whether a server that nobody is linked to, or that just got its client, still answers.
    ///
    /// # Errors
    /// It does not, and must be closed.
    pub async fn check(&self, server: &mut ServerConn) -> Result<(), Error> {
        let config = self.config();
        let Some(check) = &config.check else { return Ok(()) };
        let run = self.run_own(server, "test", &check.sql);
        match config.connect_timeout {
            // As long as a new connection may take: then one would have been as good.
            Some(limit) => tokio::time::timeout(limit, run)
                .await
                .unwrap_or_else(|_| Err(Error::ServerProtocol("test query failed: no answer".into()))),
            None => run.await,
        }
    }

    /// Runs a query of our own, which must succeed and leave the server idle.
    async fn run_own(&self, server: &mut ServerConn, what: &str, sql: &str) -> Result<(), Error> {
        match server.run(sql, &self.tracked).await? {
            Ok(()) if server.server.is_idle() => Ok(()),
            Ok(()) => Err(Error::ServerProtocol(format!("{what} query left a transaction open").into())),
            Err(fields) => Err(Error::ServerProtocol(format!("{what} query failed: {}", fields.message).into())),
        }
    }

    /// A server comes back from its test.
    fn end_test(self: &Arc<Self>, server: Box<ServerConn>, result: Result<(), Error>) {
        match result {
            Ok(()) => self.give_back(Instant::now(), server),
            Err(reason) => self.close(server, &reason),
        }
    }
}
