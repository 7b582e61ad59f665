//! What logins to servers bring: servers, the words that welcome clients, or errors.

use std::time::Instant;

use super::replication::Demand;
use super::{Action, Entry, Error, Grant, Pool, Purpose, ServerId, State};

/// The last login has failed.
#[derive(Debug)]
pub(super) struct LoginFailed {
    pub(super) at: Instant,
    text: String,
}

impl<S, W> Pool<S, W> {
    /// The error for a client that comes while logins to the server fail and there is no server. Its coming is a reason
    /// to try again, once `server_login_retry` is over.
    pub fn fail_fast(&mut self, now: Instant) -> Option<Error> {
        let failed = self.login_failed.as_ref()?;
        let is_hope = |entry: &Entry<S>| entry.owner.is_none() && !matches!(entry.state, State::Login);
        if self.entries().any(|(_, entry)| is_hope(entry)) {
            return None;
        }
        let error = Error::ServerLoginFailing(failed.text.clone());
        let demand = self.demand().unwrap_or(Demand::Anybody);
        self.launch(now, &demand);
        Some(error)
    }

    /// True when the parameters for welcoming clients are known.
    pub fn is_welcoming(&self) -> bool {
        self.welcome
    }

    /// A login succeeded.
    pub fn handle_connected(&mut self, now: Instant, id: ServerId, server: S, key: Box<[u8]>) {
        self.login_failed = None;
        let Some(entry) = self.entry_mut(id) else {
            debug_assert!(false, "{id:?} connected without a login");
            return;
        };
        entry.connected_at = now;
        entry.key = key;
        if let Some(owner) = entry.owner {
            return self.give_own(now, id, server, owner);
        }
        entry.state = State::Tested { idle_since: None };
        let close_needed = entry.close_needed;
        self.welcome = true;
        while let Some(waiting) = self.pop_waiting(&Purpose::Login) {
            self.actions.push_back(Action::Grant(waiting.waiter, Grant::Welcome));
        }
        // Not a release: a server that lives for one use has not had it yet.
        if close_needed || self.paused {
            self.close(id, server, if close_needed { Error::CloseNeeded } else { Error::PauseMode });
        } else {
            self.pass_on(now, id, server);
        }
        self.check_launch(now);
    }

    /// A connection attempt or login failed.
    pub fn handle_connect_failed(&mut self, now: Instant, id: ServerId, error: &Error) {
        let owner = self.forget(id).and_then(|entry| entry.owner);
        let is_final = error.ends_logins();
        if let (Some(owner), true) = (owner, is_final) {
            self.refuse_own(owner, error);
            return self.check_launch(now);
        }
        self.login_failed = Some(LoginFailed { at: now, text: error.to_string() });
        if is_final {
            while let Some(waiting) = self.pop_waiting(&Purpose::Login) {
                self.actions.push_back(Action::Grant(waiting.waiter, Grant::Failed(error.clone())));
            }
        }
        self.check_launch(now);
    }
}
