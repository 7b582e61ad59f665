//! One pool: the servers of one (database, user), who has them, and who waits.
//!
//! Pure bookkeeping: it opens no connection and reads no clock. The driver calls it under a lock, then carries out the
//! [`Action`]s it returns from [`Pool::poll_action`]. A server is a value that moves: in the pool while idle, with its
//! client while active, so that it cannot be in two places.
//!
//! ```text
//!            handle_connected            claim, grant                  handle_release
//! (launch) Login --------------> Idle -----------------> Active ----------------------------> Idle
//!             \                   |  \                     |  \--begin_test--> Tested --------/
//!   handle_connect_failed         |   idle timeout, lifetime,  \--release with a cancel in flight--> BeingCanceled
//!              \--> (free)        \-> reconnect, pause, evict --> (free)              end_cancel --> Idle
//!                                \--take_idle, server_check_delay--> Tested --handle_release--> Idle
//! ```

mod administration;
mod cancel;
pub mod idle;
mod limits;
mod login;
pub mod quota;
mod replication;
pub mod shared;
mod upkeep;
mod view;
pub mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::client::startup::Startup;
use crate::error::Error;
use idle::IdleSet;
pub use limits::PoolLimits;
use login::LoginFailed;
use quota::{Quota, Scope};
use replication::Owner;
use shared::Shared;
pub use view::{ServerState, ServerView};
use waiting::WaitingQueue;
pub use waiting::{Purpose, Ticket, Waiting};

/// When a client gives its server back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PoolMode {
    /// When it disconnects.
    #[default]
    Session,
    /// When its transaction ends.
    Transaction,
    /// After each query; transaction blocks are refused.
    Statement,
}

impl std::fmt::Display for PoolMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Session => "session",
            Self::Transaction => "transaction",
            Self::Statement => "statement",
        })
    }
}

/// Names a client, unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// Names a server of a pool: its slot, and which of the slot's successive servers it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServerId {
    /// Index of the slot.
    pub slot: u32,
    generation: u32,
}

/// What a pool says to a client that asks for a server.
#[derive(Debug)]
pub enum Claim<S> {
    /// Linked.
    Linked(ServerId, S),
    /// Call [`Pool::wait`], under the same lock: a server that is released in between would not be noticed.
    MustWait,
    /// There is no server and logins fail.
    Failed(Error),
}

/// What a waiting client gets.
#[derive(Debug)]
pub enum Grant<S> {
    /// It is linked to this server. Cancel requests are ignored until it calls [`Pool::set_cancelable`], so that none
    /// hits the query by which it sets its parameters.
    Server(ServerId, S),
    /// The pool knows the server's parameters now: the login can be finished.
    Welcome,
    /// It waited in vain.
    Failed(Error),
}

/// What the driver must do.
#[derive(Debug)]
pub enum Action<S, W> {
    /// Open a connection and log in, then call [`Pool::handle_connected`] or [`Pool::handle_connect_failed`].
    Connect(ServerId),
    /// The same for a replication client, as whom the server is to be logged in to.
    ConnectReplication(ServerId, Arc<Startup>),
    /// Close this server; the pool has forgotten it.
    Close(ServerId, S, Error),
    /// Run the check query on this server, which was idle for long, then call [`Pool::handle_release`] or
    /// [`Pool::handle_closed`].
    Check(ServerId, S),
    /// Tell this waiting client.
    Grant(W, Grant<S>),
    /// Disconnect this client, which is linked: its server is of no use any more.
    End(ClientId, Error),
    /// The kernel path may claim a server before those who wait: call [`Pool::handle_wake`] once others had their turn.
    ServeSoon,
    /// A new connection needs room: close the longest idle server of another pool of this database or user, then call
    /// [`Pool::check_launch`].
    Evict(Scope),
}

#[derive(Debug)]
enum State<S> {
    Login,
    /// It was last heard of at `seen`, which is later than `since` if it has been checked.
    Idle {
        server: S,
        since: Instant,
        seen: Instant,
    },
    Active {
        client: ClientId,
        cancelable: bool,
    },
    /// Since when it was idle, if nobody has used it before the test.
    Tested {
        idle_since: Option<Instant>,
    },
    BeingCanceled {
        server: S,
    },
}

#[derive(Debug)]
struct Entry<S> {
    state: State<S>,
    connected_at: Instant,
    close_needed: bool,
    cancels: u32,
    key: Box<[u8]>,
    /// The replication client whose own it is.
    owner: Option<Owner>,
}

impl<S> Entry<S> {
    /// True when it is with a client or in a test.
    fn is_out(&self) -> bool {
        matches!(self.state, State::Active { .. } | State::Tested { .. })
    }
}

#[derive(Debug)]
struct Slot<S> {
    generation: u32,
    entry: Option<Entry<S>>,
}

/// The pool of one (database, user). `S` is a server, `W` reaches a waiting client.
#[derive(Debug)]
pub struct Pool<S, W> {
    limits: PoolLimits,
    database: Arc<Quota>,
    user: Arc<Quota>,
    slots: Vec<Slot<S>>,
    idle: IdleSet,
    /// The kernel path, where there is one.
    shared: Option<Arc<dyn Shared>>,
    waiting: WaitingQueue<W>,
    /// [`Action::ServeSoon`] is under way.
    serves_soon: bool,
    paused: bool,
    welcome: bool,
    login_failed: Option<LoginFailed>,
    lifetime_closed_at: Option<Instant>,
    actions: VecDeque<Action<S, W>>,
}

impl<S, W> Pool<S, W> {
    /// An empty pool that counts its connections in these quotas.
    pub fn new(limits: PoolLimits, database: Arc<Quota>, user: Arc<Quota>) -> Self {
        Self {
            limits,
            database,
            user,
            slots: Vec::new(),
            idle: IdleSet::default(),
            shared: None,
            waiting: WaitingQueue::new(),
            serves_soon: false,
            paused: false,
            welcome: false,
            login_failed: None,
            lifetime_closed_at: None,
            actions: VecDeque::new(),
        }
    }

    /// The same, with a kernel path that claims from the same idle set.
    #[must_use]
    pub fn sharing(self, shared: Arc<dyn Shared>) -> Self {
        Self { idle: IdleSet::sharing(Arc::clone(&shared)), shared: Some(shared), ..self }
    }

    /// What the driver must do next; call until `None` after every other call.
    #[inline]
    pub fn poll_action(&mut self) -> Option<Action<S, W>> {
        self.actions.pop_front()
    }

    // What clients do.

    /// A client without a server has a request.
    pub fn claim(&mut self, now: Instant, client: ClientId) -> Claim<S> {
        if self.paused {
            return Claim::MustWait;
        }
        // Those who wait already may go on hoping; whoever comes now is told at once.
        if let Some(error) = self.fail_fast(now) {
            return Claim::Failed(error);
        }
        // Those who log in do not wait for this server.
        if !self.waiting.iter().any(|waiting| waiting.purpose == Purpose::Server)
            && let Some(slot) = self.claim_idle()
        {
            let (id, server) = self.link(slot, client);
            return Claim::Linked(id, server);
        }
        Claim::MustWait
    }

    /// Puts a client at the end of the queue.
    pub fn wait(&mut self, now: Instant, client: ClientId, purpose: Purpose, waiter: W) -> Ticket {
        let ticket = self.waiting.push(Waiting { client, since: now, purpose, waiter });
        self.tell_waiting();
        if self.shared.is_some() && !self.paused && !self.serves_soon {
            // The kernel path may have released one before it could know that somebody waits.
            self.serve_waiting(now);
        }
        self.check_launch(now);
        ticket
    }

    /// A waiting client gives up. False when it was granted something meanwhile, which it must take and give back.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        let left = self.waiting.leave(ticket).is_some();
        self.tell_waiting();
        left
    }

    /// A server comes back from its client, or from its test, in the idle state (invariant 3).
    pub fn handle_release(&mut self, now: Instant, id: ServerId, server: S) {
        let lifetime_over = self.is_lifetime_over(now, id) && !self.is_unused(id);
        let surplus = self.has_surplus();
        let paused = self.paused;
        let Some(entry) = self.entry_mut(id) else {
            debug_assert!(false, "{id:?} released twice");
            return;
        };
        debug_assert!(entry.is_out(), "{id:?} was not out");
        let reason = match () {
            () if entry.owner.is_some() => Error::ReplicationClientLeft,
            () if entry.close_needed => Error::CloseNeeded,
            () if paused => Error::PauseMode,
            () if lifetime_over => Error::ServerLifetime,
            () if surplus => Error::CloseNeeded,
            () if entry.cancels > 0 => {
                entry.state = State::BeingCanceled { server };
                return;
            }
            () => return self.make_idle(now, id, server),
        };
        if reason == Error::ServerLifetime {
            self.lifetime_closed_at = Some(now);
        }
        self.close(id, server, reason);
        self.check_launch(now);
    }

    /// The driver closed a server that was with a client or in its test.
    pub fn handle_closed(&mut self, now: Instant, id: ServerId) {
        let was_out = self.forget(id).is_some_and(|entry| entry.is_out());
        debug_assert!(was_out, "{id:?} was not out");
        self.check_launch(now);
    }

    /// The client left; the driver runs the reset query before it releases the server.
    pub fn begin_test(&mut self, id: ServerId) {
        if let Some(entry) = self.entry_mut(id) {
            entry.state = State::Tested { idle_since: None };
        }
    }

    /// While false, cancel requests of the server's client are ignored (the driver runs a query of its own).
    pub fn set_cancelable(&mut self, id: ServerId, value: bool) {
        if let Some(Entry { state: State::Active { cancelable, .. }, .. }) = self.entry_mut(id) {
            *cancelable = value;
        }
    }

    /// Takes an idle server out because bytes or a hang-up arrived on it; `None` when it is no longer idle. The driver
    /// gives it back by [`Self::handle_release`] or ends it by [`Self::handle_closed`].
    pub fn take_idle(&mut self, id: ServerId) -> Option<S> {
        self.entry_mut(id)?;
        let slot = id.slot as usize;
        let idle_since = self.idle_since_in(slot);
        if !self.idle.withdraw(slot) {
            return None;
        }
        let entry = self.slots[slot].entry.as_mut()?;
        match std::mem::replace(&mut entry.state, State::Tested { idle_since }) {
            State::Idle { server, .. } => Some(server),
            other => {
                entry.state = other;
                None
            }
        }
    }

    // Helpers.

    fn entries(&self) -> impl Iterator<Item = (ServerId, &Entry<S>)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let id = ServerId { slot: index as u32, generation: slot.generation };
            slot.entry.as_ref().map(|entry| (id, entry))
        })
    }

    fn entry_mut(&mut self, id: ServerId) -> Option<&mut Entry<S>> {
        let slot = self.slots.get_mut(id.slot as usize).filter(|slot| slot.generation == id.generation)?;
        slot.entry.as_mut()
    }

    /// Takes a server out of the idle set: that in the lowest slot, or the one that is idle longest.
    fn claim_idle(&self) -> Option<usize> {
        if !self.limits.server_round_robin {
            return self.idle.claim();
        }
        loop {
            let (slot, _) = self.idle_servers().min_by_key(|(_, since)| *since)?;
            // Else the kernel path took it in between.
            if self.idle.withdraw(slot) {
                return Some(slot);
            }
        }
    }

    /// Links the server in a slot just claimed from the idle set.
    fn link(&mut self, index: usize, client: ClientId) -> (ServerId, S) {
        let slot = &mut self.slots[index];
        let id = ServerId { slot: index as u32, generation: slot.generation };
        let entry = slot.entry.as_mut().expect("the idle set holds occupied slots only");
        match std::mem::replace(&mut entry.state, State::Active { client, cancelable: true }) {
            State::Idle { server, .. } => (id, server),
            other => unreachable!("slot {index} was in the idle set as {}", state_name(&other)),
        }
    }

    /// A server became free. The kernel path may have it before those who wait: a client that just got its answer often
    /// has its next request ready, and while each server went to the next in line at once, the kernel path would carry
    /// nothing until the line is empty, which under load it never is.
    fn make_idle(&mut self, now: Instant, id: ServerId, server: S) {
        if self.is_overtaken(now, id) && !self.must_make_room(now) {
            self.put_idle(now, id, server);
            self.serve_soon();
        } else {
            self.pass_on(now, id, server);
        }
    }

    /// The first waiting client gets a server, or the idle set.
    fn pass_on(&mut self, now: Instant, id: ServerId, server: S) {
        if self.must_make_room(now) {
            self.close(id, server, Error::Evicted);
            return self.check_launch(now);
        }
        let next = if self.paused { None } else { self.pop_waiting(&Purpose::Server) };
        match next {
            Some(waiting) => {
                let Some(entry) = self.entry_mut(id) else { return };
                // It does not know yet; see `Grant::Server`.
                entry.state = State::Active { client: waiting.client, cancelable: false };
                self.actions.push_back(Action::Grant(waiting.waiter, Grant::Server(id, server)));
            }
            None => self.put_idle(now, id, server),
        }
        if self.serves_replication_next() {
            self.check_launch(now);
        }
    }

    fn put_idle(&mut self, now: Instant, id: ServerId, server: S) {
        let Some(entry) = self.entry_mut(id) else { return };
        let since = match entry.state {
            State::Tested { idle_since: Some(since) } => since,
            _ => now,
        };
        entry.state = State::Idle { server, since, seen: now };
        self.idle.release(id.slot as usize);
    }

    /// After a pause there may be both idle servers and waiting clients.
    fn serve_waiting(&mut self, now: Instant) {
        while self.waiting.iter().any(|waiting| waiting.purpose == Purpose::Server) {
            let Some(slot) = self.claim_idle() else { return };
            let (id, server) = self.link(slot, NOBODY);
            self.pass_on(now, id, server);
        }
    }

    fn pop_waiting(&mut self, purpose: &Purpose) -> Option<Waiting<W>> {
        let waiting = self.waiting.pop(purpose)?;
        self.tell_waiting();
        Some(waiting)
    }

    /// True when the server in this slot is in the idle set: its state may say so although the kernel path has it.
    fn is_idle(&self, slot: usize) -> bool {
        self.idle.contains(slot)
    }

    fn forget(&mut self, id: ServerId) -> Option<Entry<S>> {
        self.entry_mut(id)?;
        quota::give_back(&self.database, &self.user);
        self.slots[id.slot as usize].entry.take()
    }

    fn close(&mut self, id: ServerId, server: S, reason: Error) {
        self.forget(id);
        self.actions.push_back(Action::Close(id, server, reason));
    }
}

/// Stands for a client where a server only passes through.
const NOBODY: ClientId = ClientId(u64::MAX);

fn idle_since<S>(entry: &Entry<S>) -> Option<Instant> {
    match entry.state {
        State::Idle { since, .. } => Some(since),
        _ => None,
    }
}

/// When an idle server was last released or checked on the user path.
fn last_seen<S>(entry: &Entry<S>) -> Option<Instant> {
    match entry.state {
        State::Idle { seen, .. } => Some(seen),
        _ => None,
    }
}

fn state_name<S>(state: &State<S>) -> &'static str {
    match state {
        State::Login => "login",
        State::Idle { .. } => "idle",
        State::Active { .. } => "active",
        State::Tested { .. } => "tested",
        State::BeingCanceled { .. } => "being_canceled",
    }
}

#[cfg(test)]
mod tests;
