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
//! ```

pub mod idle;
pub mod quota;
pub mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use idle::IdleSet;
use quota::{Quota, Scope};
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

/// Limits and times of a pool, under PgBouncer's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Servers in ordinary times.
    pub pool_size: u32,
    /// Servers kept open even if nobody asks.
    pub min_pool_size: u32,
    /// Servers beyond `pool_size` for clients that waited `reserve_pool_timeout`.
    pub reserve_pool_size: u32,
    /// See `reserve_pool_size`; `None`: the reserve is not used.
    pub reserve_pool_timeout: Option<Duration>,
    /// Age at which a server nobody uses is closed; zero: after one use.
    pub server_lifetime: Duration,
    /// Idle time after which a server is closed; `None`: never.
    pub server_idle_timeout: Option<Duration>,
    /// Pause between a failed login and the next.
    pub server_login_retry: Duration,
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
    /// Call [`Pool::wait`].
    MustWait,
    /// There is no server and logins fail.
    Failed(Error),
}

/// What a waiting client gets.
#[derive(Debug)]
pub enum Grant<S> {
    /// It is linked to this server.
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
    /// Close this server; the pool has forgotten it.
    Close(ServerId, S, Error),
    /// Tell this waiting client.
    Grant(W, Grant<S>),
    /// A new connection needs room: close the longest idle server of another pool of this database or user, then call
    /// [`Pool::check_launch`].
    Evict(Scope),
}

#[derive(Debug)]
enum State<S> {
    Login,
    Idle { server: S, since: Instant },
    Active { client: ClientId, cancelable: bool },
    Tested,
    BeingCanceled { server: S },
}

#[derive(Debug)]
struct Entry<S> {
    state: State<S>,
    connected_at: Instant,
    close_needed: bool,
    cancels: u32,
    key: Box<[u8]>,
}

#[derive(Debug)]
struct Slot<S> {
    generation: u32,
    entry: Option<Entry<S>>,
}

/// State of a server as SHOW SERVERS and SHOW POOLS name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Being connected and logged in.
    Login,
    /// In the pool.
    Idle,
    /// Linked to this client.
    Active(ClientId),
    /// Running the reset query.
    Tested,
    /// Released, but a cancel request for its last client is in flight.
    BeingCanceled,
}

/// One server, as the admin console sees it.
#[derive(Clone, Copy, Debug)]
pub struct ServerView {
    /// Its name.
    pub id: ServerId,
    /// Its state.
    pub state: ServerState,
    /// When it was connected (or the attempt began).
    pub connected_at: Instant,
    /// Will be closed when released.
    pub close_needed: bool,
    /// Cancel requests in flight to it.
    pub cancels: u32,
}

/// The pool of one (database, user). `S` is a server, `W` reaches a waiting client.
#[derive(Debug)]
pub struct Pool<S, W> {
    limits: PoolLimits,
    database: Arc<Quota>,
    user: Arc<Quota>,
    slots: Vec<Slot<S>>,
    idle: IdleSet,
    waiting: WaitingQueue<W>,
    paused: bool,
    welcome: bool,
    login_failed: Option<LoginFailed>,
    lifetime_closed_at: Option<Instant>,
    actions: VecDeque<Action<S, W>>,
}

#[derive(Debug)]
struct LoginFailed {
    at: Instant,
    text: String,
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
            waiting: WaitingQueue::new(),
            paused: false,
            welcome: false,
            login_failed: None,
            lifetime_closed_at: None,
            actions: VecDeque::new(),
        }
    }

    /// What the driver must do next; call until `None` after every other call.
    #[inline]
    pub fn poll_action(&mut self) -> Option<Action<S, W>> {
        self.actions.pop_front()
    }

    // What clients do.

    /// A client without a server has a request.
    pub fn claim(&mut self, now: Instant, client: ClientId) -> Claim<S> {
        if self.paused || !self.waiting.is_empty() {
            self.check_launch(now);
            return Claim::MustWait;
        }
        if let Some(slot) = self.idle.claim() {
            let (id, server) = self.link(slot, client);
            return Claim::Linked(id, server);
        }
        match self.failing() {
            Some(error) => {
                self.check_launch(now);
                Claim::Failed(error)
            }
            None => Claim::MustWait,
        }
    }

    /// Puts a client at the end of the queue.
    pub fn wait(&mut self, now: Instant, client: ClientId, purpose: Purpose, waiter: W) -> Ticket {
        let ticket = self.waiting.push(Waiting { client, since: now, purpose, waiter });
        self.check_launch(now);
        ticket
    }

    /// A waiting client gives up. False when it was granted something meanwhile, which it must take and give back.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        self.waiting.leave(ticket).is_some()
    }

    /// The error for a client that logs in while logins to the server fail and there is no server.
    pub fn failing(&self) -> Option<Error> {
        let failed = self.login_failed.as_ref()?;
        let any = self.entries().any(|(_, entry)| !matches!(entry.state, State::Login));
        (!any).then(|| Error::ServerLoginFailing(failed.text.clone()))
    }

    /// True when the parameters for welcoming clients are known.
    pub fn is_welcoming(&self) -> bool {
        self.welcome
    }

    /// A server comes back from its client, or from its test, in the idle state (invariant 3).
    pub fn handle_release(&mut self, now: Instant, id: ServerId, server: S) {
        let lifetime_over = self.is_lifetime_over(now, id);
        let surplus = self.has_surplus();
        let paused = self.paused;
        let Some(entry) = self.entry_mut(id) else {
            debug_assert!(false, "{id:?} released twice");
            return;
        };
        debug_assert!(matches!(entry.state, State::Active { .. } | State::Tested), "{id:?} was not out");
        let reason = match () {
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
        let was_out = self.forget(id).is_some_and(|e| matches!(e.state, State::Active { .. } | State::Tested));
        debug_assert!(was_out, "{id:?} was not out");
        self.check_launch(now);
    }

    /// The client left; the driver runs the reset query before it releases the server.
    pub fn begin_test(&mut self, id: ServerId) {
        if let Some(entry) = self.entry_mut(id) {
            entry.state = State::Tested;
        }
    }

    /// While false, cancel requests of the server's client are ignored (the driver runs a query of its own).
    pub fn set_cancelable(&mut self, id: ServerId, value: bool) {
        if let Some(Entry { state: State::Active { cancelable, .. }, .. }) = self.entry_mut(id) {
            *cancelable = value;
        }
    }

    // Cancel requests.

    /// A cancel request for `client`: the server it is linked to and that server's key. The server is not given to
    /// another client before [`Self::end_cancel`], so that a late cancel hits nobody else's query.
    pub fn begin_cancel(&mut self, client: ClientId) -> Option<(ServerId, Box<[u8]>)> {
        self.slots.iter_mut().enumerate().find_map(|(index, slot)| {
            let entry = slot.entry.as_mut()?;
            match entry.state {
                State::Active { client: linked, cancelable: true } if linked == client => {
                    entry.cancels += 1;
                    Some((ServerId { slot: index as u32, generation: slot.generation }, entry.key.clone()))
                }
                _ => None,
            }
        })
    }

    /// The cancel request was delivered or failed.
    pub fn end_cancel(&mut self, now: Instant, id: ServerId) {
        let Some(entry) = self.entry_mut(id) else { return };
        entry.cancels -= 1;
        if entry.cancels == 0 && matches!(entry.state, State::BeingCanceled { .. }) {
            // Tested stands for "out" while the server passes through the checks of a release.
            if let State::BeingCanceled { server } = std::mem::replace(&mut entry.state, State::Tested) {
                self.handle_release(now, id, server);
            }
        }
    }

    // What connecting brings.

    /// A login succeeded.
    pub fn handle_connected(&mut self, now: Instant, id: ServerId, server: S, key: Box<[u8]>) {
        self.login_failed = None;
        let Some(entry) = self.entry_mut(id) else {
            debug_assert!(false, "{id:?} connected without a login");
            return;
        };
        entry.connected_at = now;
        entry.key = key;
        entry.state = State::Tested;
        let close_needed = entry.close_needed;
        self.welcome = true;
        while let Some(waiting) = self.waiting.pop(Purpose::Login) {
            self.actions.push_back(Action::Grant(waiting.waiter, Grant::Welcome));
        }
        // Not a release: a server that lives for one use has not had it yet.
        if close_needed || self.paused {
            self.close(id, server, if close_needed { Error::CloseNeeded } else { Error::PauseMode });
        } else {
            self.make_idle(now, id, server);
        }
        self.check_launch(now);
    }

    /// A connection attempt or login failed.
    pub fn handle_connect_failed(&mut self, now: Instant, id: ServerId, error: &Error) {
        self.forget(id);
        self.login_failed = Some(LoginFailed { at: now, text: error.to_string() });
        if matches!(error, Error::ServerRefused(_)) && !error.is_temporary() {
            while let Some(waiting) = self.waiting.pop(Purpose::Login) {
                self.actions.push_back(Action::Grant(waiting.waiter, Grant::Failed(error.clone())));
            }
        }
        self.check_launch(now);
    }

    // What time brings.

    /// Closes what is too old or idle too long, opens what is missing. To be called several times a second.
    pub fn handle_tick(&mut self, now: Instant) {
        for slot in 0..self.slots.len() {
            if let Some(reason) = self.overdue(now, slot) {
                if reason == Error::ServerLifetime {
                    self.lifetime_closed_at = Some(now);
                }
                self.close_idle(slot, reason);
            }
        }
        self.check_launch(now);
    }

    /// Opens one connection if the pool needs one and may have it now.
    pub fn check_launch(&mut self, now: Instant) {
        let total = self.total();
        let limits = self.limits;
        let wanted = !self.waiting.is_empty() || total < limits.min_pool_size as usize;
        let logging_in = self.entries().any(|(_, entry)| matches!(entry.state, State::Login));
        let retry_later = self
            .login_failed
            .as_ref()
            .is_some_and(|failed| now.saturating_duration_since(failed.at) < limits.server_login_retry);
        if self.paused || !wanted || logging_in || retry_later {
            return;
        }
        let waited = self.waiting.oldest().map(|since| now.saturating_duration_since(since));
        let patience_over = waited.zip(limits.reserve_pool_timeout).is_some_and(|(waited, limit)| waited >= limit);
        let reserve = if patience_over { limits.reserve_pool_size } else { 0 };
        if total >= (limits.pool_size + reserve) as usize {
            return;
        }
        if let Err(scope) = quota::take(&self.database, &self.user) {
            self.actions.push_back(Action::Evict(scope));
            return;
        }
        let id = self.occupy(now);
        self.actions.push_back(Action::Connect(id));
    }

    // What administrators and other pools do.

    /// Takes over changed limits.
    pub fn set_limits(&mut self, now: Instant, limits: PoolLimits) {
        self.limits = limits;
        self.check_launch(now);
    }

    /// Stops linking; idle servers are closed at once, the others when released.
    pub fn pause(&mut self) {
        self.paused = true;
        self.close_all_idle(&Error::PauseMode);
    }

    /// Links again.
    pub fn resume(&mut self, now: Instant) {
        self.paused = false;
        self.serve_waiting(now);
        self.check_launch(now);
    }

    /// True after [`Self::pause`].
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Closes every server, those in use when they are released.
    pub fn reconnect(&mut self, now: Instant, reason: &Error) {
        for slot in &mut self.slots {
            if let Some(entry) = &mut slot.entry {
                entry.close_needed = true;
            }
        }
        self.welcome = false;
        self.close_all_idle(reason);
        self.check_launch(now);
    }

    /// Fails every waiting client.
    pub fn fail_waiting(&mut self, error: &Error) {
        for purpose in [Purpose::Login, Purpose::Server] {
            while let Some(waiting) = self.waiting.pop(purpose) {
                self.actions.push_back(Action::Grant(waiting.waiter, Grant::Failed(error.clone())));
            }
        }
    }

    /// Since when the longest idle server is idle; what eviction compares.
    pub fn idle_since(&self) -> Option<Instant> {
        self.entries().filter_map(|(_, entry)| idle_since(entry)).min()
    }

    /// Closes the longest idle server.
    pub fn evict(&mut self) -> bool {
        let oldest = self
            .entries()
            .filter_map(|(id, entry)| Some((idle_since(entry)?, id.slot)))
            .min_by_key(|(since, _)| *since);
        oldest.is_some_and(|(_, slot)| self.close_idle(slot as usize, Error::Evicted))
    }

    /// Takes an idle server out because bytes or a hang-up arrived on it; `None` when it is no longer idle. The driver
    /// gives it back by [`Self::handle_release`] or ends it by [`Self::handle_closed`].
    pub fn take_idle(&mut self, id: ServerId) -> Option<S> {
        self.entry_mut(id)?;
        let slot = id.slot as usize;
        if !self.idle.withdraw(slot) {
            return None;
        }
        let entry = self.slots[slot].entry.as_mut()?;
        match std::mem::replace(&mut entry.state, State::Tested) {
            State::Idle { server, .. } => Some(server),
            other => {
                entry.state = other;
                None
            }
        }
    }

    // What the console and the tests see.

    /// Servers in any state.
    pub fn total(&self) -> usize {
        self.entries().count()
    }

    /// Servers that are with a client or in a test: what PAUSE waits for.
    pub fn busy(&self) -> usize {
        self.entries().filter(|(_, e)| !matches!(e.state, State::Idle { .. } | State::Login)).count()
    }

    /// Each server.
    pub fn servers(&self) -> impl Iterator<Item = ServerView> {
        self.entries().map(|(id, entry)| ServerView {
            id,
            state: match entry.state {
                State::Login => ServerState::Login,
                State::Idle { .. } => ServerState::Idle,
                State::Active { client, .. } => ServerState::Active(client),
                State::Tested => ServerState::Tested,
                State::BeingCanceled { .. } => ServerState::BeingCanceled,
            },
            connected_at: entry.connected_at,
            close_needed: entry.close_needed,
            cancels: entry.cancels,
        })
    }

    /// Each waiting client, longest first.
    pub fn waiting(&self) -> impl Iterator<Item = &Waiting<W>> {
        self.waiting.iter()
    }

    /// How many clients wait.
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
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

    /// A server became free: the first waiting client gets it, or the idle set.
    fn make_idle(&mut self, now: Instant, id: ServerId, server: S) {
        let next = if self.paused { None } else { self.waiting.pop(Purpose::Server) };
        let Some(entry) = self.entry_mut(id) else { return };
        match next {
            Some(waiting) => {
                entry.state = State::Active { client: waiting.client, cancelable: true };
                self.actions.push_back(Action::Grant(waiting.waiter, Grant::Server(id, server)));
            }
            None => {
                entry.state = State::Idle { server, since: now };
                self.idle.release(id.slot as usize);
            }
        }
    }

    /// After a pause there may be both idle servers and waiting clients.
    fn serve_waiting(&mut self, now: Instant) {
        while self.waiting.iter().any(|waiting| waiting.purpose == Purpose::Server) {
            let Some(slot) = self.idle.claim() else { return };
            let (id, server) = self.link(slot, NOBODY);
            self.make_idle(now, id, server);
        }
    }

    fn occupy(&mut self, now: Instant) -> ServerId {
        let entry =
            Entry { state: State::Login, connected_at: now, close_needed: false, cancels: 0, key: Box::default() };
        let index = self.slots.iter().position(|slot| slot.entry.is_none()).unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, entry: None });
            self.idle.grow(self.slots.len());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[index];
        slot.generation = slot.generation.wrapping_add(1);
        slot.entry = Some(entry);
        ServerId { slot: index as u32, generation: slot.generation }
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

    /// Closes the server in this slot if it is idle.
    fn close_idle(&mut self, slot: usize, reason: Error) -> bool {
        if !self.idle.withdraw(slot) {
            return false;
        }
        let (id, server) = self.link(slot, NOBODY);
        self.close(id, server, reason);
        true
    }

    fn close_all_idle(&mut self, reason: &Error) {
        for slot in 0..self.slots.len() {
            self.close_idle(slot, reason.clone());
        }
    }

    fn overdue(&self, now: Instant, slot: usize) -> Option<Error> {
        let entry = self.slots[slot].entry.as_ref()?;
        let since = idle_since(entry)?;
        let id = ServerId { slot: slot as u32, generation: self.slots[slot].generation };
        let idle_too_long =
            self.limits.server_idle_timeout.is_some_and(|limit| now.saturating_duration_since(since) >= limit);
        if self.is_lifetime_over(now, id) {
            Some(Error::ServerLifetime)
        } else if idle_too_long && self.total() > self.limits.min_pool_size as usize {
            Some(Error::ServerIdleTimeout)
        } else if self.has_surplus() {
            Some(Error::CloseNeeded)
        } else {
            None
        }
    }

    /// True when a reload made the pool smaller than it is.
    fn has_surplus(&self) -> bool {
        let most = (self.limits.pool_size + self.limits.reserve_pool_size) as usize;
        self.slots.len() > most && self.total() > most
    }

    /// True when the server is too old. Such servers are closed `server_lifetime / pool_size` apart, so that a pool
    /// opened at once does not end at once.
    fn is_lifetime_over(&self, now: Instant, id: ServerId) -> bool {
        let lifetime = self.limits.server_lifetime;
        let Some(entry) = self.slots.get(id.slot as usize).and_then(|slot| slot.entry.as_ref()) else { return false };
        let gap = lifetime / self.limits.pool_size.max(1);
        now.saturating_duration_since(entry.connected_at) >= lifetime
            && self.lifetime_closed_at.is_none_or(|at| now.saturating_duration_since(at) >= gap)
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

fn state_name<S>(state: &State<S>) -> &'static str {
    match state {
        State::Login => "login",
        State::Idle { .. } => "idle",
        State::Active { .. } => "active",
        State::Tested => "tested",
        State::BeingCanceled { .. } => "being_canceled",
    }
}

#[cfg(test)]
mod tests {}
