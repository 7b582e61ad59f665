//! What a pool shares with the kernel path, which claims idle servers and releases them without asking.
//!
//! The bookkeeping of a server that the kernel path has linked stays [idle](super::ServerState::Idle) here, with its
//! value in the pool: only the idle set lacks it, and its word (behind this trait) tells with whom it is. Whoever needs
//! the server on the user path takes the pair back first.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use super::{Action, ClientId, Pool, Purpose, ServerId, State, idle_since};

/// Memory of a pool that the kernel path reads and changes too, and what can be asked of it.
pub trait Shared: Debug + Send + Sync {
    /// Makes words of the idle set for `words` times 64 slots; returns how many there are. Slots beyond are the user
    /// path's alone.
    fn grow(&self, words: usize) -> usize;

    /// A word of the idle set.
    fn idle_word(&self, index: usize) -> &AtomicU64;

    /// Since when the first of the waiting clients waits, if any does. The kernel path tells of what it releases
    /// meanwhile, and claims nothing once that client has waited for long.
    fn set_waiting(&self, since: Option<Instant>);

    /// The same for a paused pool.
    fn set_paused(&self, paused: bool);

    /// True when the kernel path may claim the server in this slot, once it is idle, before the clients that wait.
    fn overtakes(&self, slot: usize, now: Instant) -> bool;

    /// The client that the kernel path has linked to the server in this slot.
    fn linked(&self, slot: usize) -> Option<ClientId>;

    /// True when the server in this slot is linked to a client that is gone: nobody will take the pair back.
    fn is_orphan(&self, slot: usize) -> bool;

    /// When the kernel path last released the server in this slot.
    fn released_at(&self, slot: usize) -> Option<Instant>;

    /// Asks that the server in this slot comes back to the user path when it is released. It may be released now.
    fn demand(&self, slot: usize);

    /// Takes the linked pair back, so that the kernel path leaves it alone; false when `client` is not linked to the
    /// server in this slot.
    fn take_back(&self, slot: usize, client: ClientId) -> bool;

    /// The server in this slot is not released by the kernel path until [`Self::end_hold`], because a cancel request for
    /// `client` is on its way; false when that client is not linked to it.
    fn begin_hold(&self, slot: usize, client: ClientId) -> bool;

    /// See [`Self::begin_hold`].
    fn end_hold(&self, slot: usize);
}

/// Where a server is of which something was heard while it was idle.
#[derive(Debug)]
pub enum Look<S> {
    /// It is idle, and out of the idle set now.
    Idle(S),
    /// The kernel path has linked it.
    Linked,
    /// The kernel path has it in hand: it is linked, or idle again, in a moment.
    Changing,
    /// The user path has it, or it is gone.
    Elsewhere,
}

impl<S, W> Pool<S, W> {
    /// Takes a pair back that the kernel path has linked: the server of `client`, which is then linked on the user path.
    /// It is looked for in the slot `hint` first. `None` when the kernel path has none linked to it.
    pub fn take_back(&mut self, client: ClientId, hint: Option<usize>) -> Option<(ServerId, S)> {
        let shared = Arc::clone(self.shared.as_ref()?);
        let index = hint.into_iter().chain(0..self.slots.len()).find(|&index| {
            let slot = self.slots.get(index).and_then(|slot| slot.entry.as_ref());
            let is_idle = slot.is_some_and(|entry| idle_since(entry).is_some());
            is_idle && shared.take_back(index, client)
        })?;
        Some(self.link(index, client))
    }

    /// Leaves a linked pair to the kernel path, which knows of the link already.
    pub fn hand_over(&mut self, now: Instant, id: ServerId, server: S) {
        if let Some(entry) = self.entry_mut(id) {
            debug_assert!(matches!(entry.state, State::Active { .. }), "{id:?} was not linked");
            entry.state = State::Idle { server, since: now, seen: now };
        }
    }

    /// The kernel path has released servers while clients wait, or could have claimed one that [was put before
    /// them](Action::ServeSoon).
    pub fn handle_wake(&mut self, now: Instant) {
        self.serve_idle(now);
        self.check_launch(now);
    }

    /// Gives what the kernel path has left in the idle set to clients that wait.
    pub(super) fn serve_idle(&mut self, now: Instant) {
        self.serves_soon = false;
        if !self.paused {
            self.serve_waiting(now);
        }
    }

    /// The client that the kernel path has linked to this server.
    pub fn linked_by_kernel(&self, id: ServerId) -> Option<ClientId> {
        let slot = self.slots.get(id.slot as usize).filter(|slot| slot.generation == id.generation)?;
        idle_since(slot.entry.as_ref()?)?;
        self.shared.as_ref()?.linked(id.slot as usize)
    }

    /// The servers whose values are here: the idle ones, and those that the kernel path has.
    pub fn at_home(&self) -> impl Iterator<Item = (ServerId, &S)> {
        self.entries().filter_map(|(id, entry)| match &entry.state {
            State::Idle { server, .. } => Some((id, server)),
            _ => None,
        })
    }

    /// Takes a server out of the idle set because bytes or a hang-up arrived on it, or tells why it is not in it. The
    /// driver gives it back by [`Self::handle_release`] or ends it by [`Self::handle_closed`].
    pub fn look_idle(&mut self, id: ServerId) -> Look<S> {
        if self.entry_mut(id).is_none_or(|entry| idle_since(entry).is_none()) {
            return Look::Elsewhere;
        }
        if self.linked_by_kernel(id).is_some() {
            return Look::Linked;
        }
        match self.take_idle(id) {
            Some(server) => Look::Idle(server),
            None => Look::Changing,
        }
    }

    /// True when clients wait for this server, and the kernel path may claim it first.
    pub(super) fn is_overtaken(&self, now: Instant, id: ServerId) -> bool {
        let Some(shared) = &self.shared else { return false };
        !self.paused
            && self.waiting.iter().any(|waiting| waiting.purpose == Purpose::Server)
            && shared.overtakes(id.slot as usize, now)
    }

    /// Has the waiting clients served in a moment.
    pub(super) fn serve_soon(&mut self) {
        if !self.serves_soon {
            self.serves_soon = true;
            self.actions.push_back(Action::ServeSoon);
        }
    }

    /// Lets the kernel path know whether clients wait.
    pub(super) fn tell_waiting(&self) {
        if let Some(shared) = &self.shared {
            shared.set_waiting(self.waiting.oldest());
        }
    }
}

#[cfg(test)]
mod tests;
