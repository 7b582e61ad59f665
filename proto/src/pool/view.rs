//! What the console sees of a pool.

use std::time::Instant;

use super::{ClientId, Pool, ServerId, State, Waiting};

/// State of a server as SHOW SERVERS and SHOW POOLS name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Being connected and logged in.
    Login,
    /// In the pool.
    Idle,
    /// Linked to this client.
    Active(ClientId),
    /// Running the reset query or the check query.
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

impl<S, W> Pool<S, W> {
    /// Servers in any state.
    pub fn total(&self) -> usize {
        self.entries().count()
    }

    /// Servers that are with a client or in a test: what PAUSE waits for.
    pub fn busy(&self) -> usize {
        let is_busy = |id: ServerId, state: &State<S>| match state {
            State::Login => false,
            State::Idle { .. } => !self.is_idle(id.slot as usize),
            _ => true,
        };
        self.entries().filter(|(id, entry)| is_busy(*id, &entry.state)).count()
    }

    /// Servers that the kernel path has linked.
    pub fn linked_by_kernel_count(&self) -> usize {
        self.entries().filter(|(id, _)| self.linked_by_kernel(*id).is_some()).count()
    }

    /// Each server.
    pub fn servers(&self) -> impl Iterator<Item = ServerView> {
        self.entries().map(|(id, entry)| ServerView {
            id,
            state: match entry.state {
                State::Login => ServerState::Login,
                State::Idle { .. } => match self.linked_by_kernel(id) {
                    Some(client) => ServerState::Active(client),
                    None => ServerState::Idle,
                },
                State::Active { client, .. } => ServerState::Active(client),
                State::Tested { .. } => ServerState::Tested,
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
}
