//! Replication clients: each has a server of its own, which was logged in for it and is closed after it. It counts as any
//! other server of the pool does; while there is no room for it, servers that are released make some.

use std::sync::Arc;
use std::time::Instant;

use super::{Action, ClientId, Error, Grant, Pool, Purpose, ServerId, State, Ticket, Waiting, quota};
use crate::client::startup::Startup;

/// The replication client whose own a server is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) client: ClientId,
    /// Its place in the queue until it gets the server.
    ticket: Ticket,
}

/// Whom a new server is for.
#[derive(Debug)]
pub(super) enum Demand {
    /// Whoever comes.
    Anybody,
    /// This replication client alone.
    Replication(Owner, Arc<Startup>),
}

impl<S, W> Pool<S, W> {
    /// Whom a new server would be for, if one is wanted: the first in the queue.
    pub(super) fn demand(&self) -> Option<Demand> {
        match self.waiting.first() {
            Some((ticket, Waiting { client, purpose: Purpose::Replication(startup), .. })) => {
                Some(Demand::Replication(Owner { client: *client, ticket }, Arc::clone(startup)))
            }
            Some(_) => Some(Demand::Anybody),
            None => (self.total() < self.limits.min_pool_size as usize).then_some(Demand::Anybody),
        }
    }

    /// True when it is a replication client's turn to get a server.
    pub(super) fn serves_replication_next(&self) -> bool {
        self.waiting.first().is_some_and(|(_, waiting)| matches!(waiting.purpose, Purpose::Replication(_)))
    }

    /// True when a server that becomes free must be closed, because a replication client's turn has come and there is no room
    /// for its own.
    pub(super) fn must_make_room(&self, now: Instant) -> bool {
        !self.paused
            && self.serves_replication_next()
            && !self.is_logging_in()
            && !self.must_retry_later(now)
            && (self.total() >= self.most_servers(now) || quota::is_full(&self.database, &self.user))
    }

    /// The server of a replication client has logged in.
    pub(super) fn give_own(&mut self, now: Instant, id: ServerId, server: S, owner: Owner) {
        let Some(entry) = self.entry_mut(id) else { return };
        let close_needed = entry.close_needed;
        let waiting = if close_needed || self.paused { None } else { self.waiting.leave(owner.ticket) };
        match waiting {
            Some(waiting) => {
                self.tell_waiting();
                if let Some(entry) = self.entry_mut(id) {
                    entry.state = State::Active { client: owner.client, cancelable: false };
                }
                self.actions.push_back(Action::Grant(waiting.waiter, Grant::Server(id, server)));
            }
            // Unless it has left, the client goes on waiting for another.
            None if close_needed => self.close(id, server, Error::CloseNeeded),
            None if self.paused => self.close(id, server, Error::PauseMode),
            None => self.close(id, server, Error::ReplicationClientLeft),
        }
        self.check_launch(now);
    }

    /// The server refused the login of a replication client. That need not be about others: it may lack a privilege.
    pub(super) fn refuse_own(&mut self, owner: Owner, error: &Error) {
        if let Some(waiting) = self.waiting.leave(owner.ticket) {
            self.tell_waiting();
            self.actions.push_back(Action::Grant(waiting.waiter, Grant::Failed(error.clone())));
        }
    }

    /// Has the replication clients disconnected: they would keep their servers for ever.
    pub(super) fn end_replication(&mut self, reason: &Error) {
        let clients: Vec<ClientId> = self
            .entries()
            .filter(|(_, entry)| matches!(entry.state, State::Active { .. }))
            .filter_map(|(_, entry)| Some(entry.owner?.client))
            .collect();
        self.actions.extend(clients.into_iter().map(|client| Action::End(client, reason.clone())));
    }
}
