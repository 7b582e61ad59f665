//! SUSPEND: every client's task sends what is pending in either direction, takes its client and server back from the
//! kernel path, reads nothing more and waits for RESUME. Queries that run go on in their servers; what these answer stays in
//! the sockets. No client is accepted meanwhile, and time stands still: nobody is given up for taking too long.
//!
//! An unfinished header that was read already stays where it is.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tigger_proto::error::Error;
use tigger_proto::pool::ClientId;

use super::Pooler;
use super::clients::ClientInfo;

/// Whether the pooler is suspended.
#[derive(Debug, Default)]
pub struct Suspension {
    /// The number of the suspension in force, 0 for none.
    current: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many there were.
    count: u64,
    /// The console that has asked for the one in force.
    by: Option<ClientId>,
}

impl Suspension {
    /// The number of the suspension in force; `None` when there is none.
    pub fn current(&self) -> Option<u64> {
        Some(self.current.load(Ordering::SeqCst)).filter(|number| *number > 0)
    }

    /// False when it is suspended already.
    fn begin(&self, by: ClientId) -> bool {
        let mut state = self.state.lock().expect("nobody panics with this lock");
        if state.by.is_some() {
            return false;
        }
        state.count += 1;
        state.by = Some(by);
        self.current.store(state.count, Ordering::SeqCst);
        true
    }

    /// False when it is not suspended, or not by this console.
    fn end(&self, by: Option<ClientId>) -> bool {
        let mut state = self.state.lock().expect("nobody panics with this lock");
        if state.by.is_none() || by.is_some_and(|by| state.by != Some(by)) {
            return false;
        }
        state.by = None;
        self.current.store(0, Ordering::SeqCst);
        true
    }
}

impl Pooler {
    /// Suspends all clients, for the console `by`; false when they are already.
    pub fn suspend(&self, by: ClientId) -> bool {
        let begun = self.suspension.begin(by);
        if begun {
            self.clients.all().iter().for_each(|info| info.wake());
        }
        begun
    }

    /// Waits until all clients are suspended. Those that are not by `suspend_timeout`, because they or their servers do not
    /// take what is sent to them, are disconnected.
    pub async fn suspended(&self) {
        let Some(number) = self.suspension.current() else { return };
        let over = || self.suspension.current() != Some(number);
        let done = || over() || self.clients.all().iter().all(|info| info.is_suspended(number));
        let Some(limit) = self.config().settings.suspend_timeout else { return self.until(done).await };
        if tokio::time::timeout(limit, self.until(done)).await.is_err() {
            self.end_clients(|info| !info.is_suspended(number), &Error::SuspendTimeout);
            self.until(done).await;
        }
    }

    /// All clients go on; false when they were not suspended.
    pub fn end_suspension(&self) -> bool {
        self.release_suspended(None)
    }

    /// A console is gone: if it has suspended the clients, they go on, as nobody else may be able to say so.
    pub fn leave_console(&self, console: ClientId) {
        if self.release_suspended(Some(console)) {
            tracing::info!("admin disappeared when suspended, doing RESUME");
        }
    }

    fn release_suspended(&self, by: Option<ClientId>) -> bool {
        let ended = self.suspension.end(by);
        if ended {
            self.clients.all().iter().for_each(|info| info.wake());
            self.changed.notify_waiters();
        }
        ended
    }

    /// A client's task has nothing pending, and reads nothing while the suspension of this number is in force.
    pub fn note_suspended(&self, info: &ClientInfo, number: u64) {
        if info.set_suspended(number) {
            self.changed.notify_waiters();
        }
    }

    /// Waits until it is not suspended.
    pub async fn resumed(&self) {
        self.until(|| self.suspension.current().is_none()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let suspension = Suspension::default();
        let (first, second) = (ClientId(1), ClientId(2));
        assert!(!suspension.end(None) && suspension.current().is_none());
        assert!(suspension.begin(first) && !suspension.begin(second));
        assert_eq!(suspension.current(), Some(1));
        assert!(!suspension.end(Some(second)) && suspension.end(Some(first)) && !suspension.end(Some(first)));
        assert!(suspension.begin(second) && suspension.current() == Some(2) && suspension.end(None));
        assert_eq!(suspension.current(), None);
    }
}
