//! Cancel requests: to which server one goes, and that it hits nobody else's query.

use std::time::Instant;

use super::{ClientId, Pool, ServerId, State};

impl<S, W> Pool<S, W> {
    /// A cancel request for `client`: the server it is linked to and that server's key. The server is not given to
    /// another client before [`Self::end_cancel`], so that a late cancel hits nobody else's query.
    pub fn begin_cancel(&mut self, client: ClientId) -> Option<(ServerId, Box<[u8]>)> {
        let shared = self.shared.as_ref();
        self.slots.iter_mut().enumerate().find_map(|(index, slot)| {
            let entry = slot.entry.as_mut()?;
            let is_linked = match entry.state {
                State::Active { client: linked, cancelable } => cancelable && linked == client,
                State::Idle { .. } => shared.is_some_and(|shared| shared.begin_hold(index, client)),
                _ => false,
            };
            is_linked.then(|| {
                entry.cancels += 1;
                (ServerId { slot: index as u32, generation: slot.generation }, entry.key.clone())
            })
        })
    }

    /// The cancel request was delivered or failed.
    pub fn end_cancel(&mut self, now: Instant, id: ServerId) {
        let Some(entry) = self.entry_mut(id) else { return };
        entry.cancels -= 1;
        if entry.cancels > 0 {
            return;
        }
        if let Some(shared) = &self.shared {
            shared.end_hold(id.slot as usize);
        }
        let Some(entry) = self.entry_mut(id) else { return };
        if matches!(entry.state, State::BeingCanceled { .. }) {
            // Tested stands for "out" while the server passes through the checks of a release.
            if let State::BeingCanceled { server } =
                std::mem::replace(&mut entry.state, State::Tested { idle_since: None })
            {
                self.handle_release(now, id, server);
            }
        }
    }
}
