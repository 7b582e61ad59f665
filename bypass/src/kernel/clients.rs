//! A client as the programs know it.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use libbpf_rs::{MapCore, MapFlags};

use super::memory::{Shared, Slot, field};
use super::programs::types;
use super::{Kernel, PoolSlot, give_back, intf, take};
use crate::{Carries, Delivery, Ends, Service};

/// The slot of a client.
#[derive(Debug)]
pub struct ClientSlot {
    kernel: Arc<Kernel>,
    pub(super) index: u32,
    /// Of the end that gets its replies: its own, or ours to it.
    pub(super) cookie: u64,
    /// Of our end, if the programs see it; else 0.
    gate: u64,
    remote: bool,
    /// Its names of prepared statements that the programs know, as keys of their map.
    names: Mutex<HashSet<Vec<u8>>>,
}

impl Kernel {
    /// Gives a slot to a client that is logged in, under the name `id` (not 0); the user path has it. `None` when its
    /// end was not captured, because it is on another host or in another network namespace, or when there is no slot.
    /// `socket` is our end; the slot must be dropped before that is closed.
    pub fn enter_client(self: &Arc<Self>, ends: Ends, socket: BorrowedFd<'_>, id: u64) -> Option<ClientSlot> {
        let captured = self.found(ends)?;
        let mut client = self.new_client(captured.cookie, captured.sequence, false, id)?;
        client.gate = self.enter_gate(socket, intf::ROLE_CLIENT | client.index);
        field!(client.slot(), gate).set(client.gate);
        self.assign(captured.cookie, intf::ROLE_CLIENT | client.index).then_some(client)
    }

    /// The same for a client whose end was not captured: the kernel path can only bring it its replies, through `socket`,
    /// our end of its TCP connection. `None` when the kernel cannot do
    /// that, or there is no slot.
    pub fn enter_remote_client(self: &Arc<Self>, socket: BorrowedFd<'_>, id: u64) -> Option<ClientSlot> {
        if !self.remote {
            return None;
        }
        let cookie = self.enter_sink(socket).ok()?;
        self.new_client(cookie, 0, true, id)
    }

    /// What the server of this client was sent since it was idle, if that was kept.
    pub(super) fn sent(&self, client: u32) -> Option<Vec<u8>> {
        let slot = self.memory.client(client);
        let len = field!(slot, sent_len).get().min(intf::SENT_LEN) as usize;
        (len > 0).then(|| (0..len).map(|place| field!(slot, sent[place]).get()).collect())
    }

    fn new_client(self: &Arc<Self>, cookie: u64, sequence: u32, remote: bool, id: u64) -> Option<ClientSlot> {
        let index = take(&self.free.clients)?;
        let slot = self.memory.client(index);
        field!(slot, owner).set(intf::OWNER_USER);
        field!(slot, server).set(0);
        field!(slot, last_server).set(0);
        field!(slot, unread).set(0);
        field!(slot, reason).set(intf::REASON_NONE);
        field!(slot, settled).set(0);
        field!(slot, push).set(0);
        field!(slot, gate).set(0);
        field!(slot, gate_psock).set(0);
        field!(slot, psock).set(0);
        field!(slot, pushed).set(0);
        field!(slot, request_ns).set(0);
        field!(slot, released_ns).set(0);
        field!(slot, sequence).set(sequence);
        field!(slot, remote).set(remote.into());
        field!(slot, sink.address).set(0);
        field!(slot, cookie).set(cookie);
        self.ids[index as usize].store(id, Ordering::Release);
        let names = Mutex::default();
        Some(ClientSlot { kernel: Arc::clone(self), index, cookie, gate: cookie, remote, names })
    }
}

impl ClientSlot {
    fn slot(&self) -> Slot<'_, types::client> {
        self.kernel.memory.client(self.index)
    }

    /// Leaves the client to the kernel path, which serves its next request if it can. `written` and `read` are the bytes
    /// that went through its socket on the user path since it was accepted: while anything of them is still on its way,
    /// the kernel path says "not me". `params` names its parameters.
    pub fn hand_over(&self, pool: &PoolSlot, params: u64, written: u64, read: u64) {
        self.describe(pool, params, written, read);
        let slot = self.slot();
        if !self.remote {
            field!(slot, owner).set(intf::OWNER_KERNEL);
        }
    }

    /// Leaves the client, which is linked and whose requests are about to be sent, to the kernel path from its release
    /// on, unless it is a remote one. Otherwise as [`Self::hand_over`].
    pub fn push(&self, pool: &PoolSlot, params: u64, written: u64, read: u64) {
        self.describe(pool, params, written, read);
        field!(self.slot(), pushed).set((!self.remote).into());
    }

    /// It calls a prepared statement `name`: the one with this id in its pool, and with this name on servers, which must be
    /// of the same length. While it is on the user path. A name that the kernel path cannot know stays the user path's.
    pub fn set_name(&self, name: &[u8], (id, on_servers): (u32, &[u8])) {
        let Some(key) = self.name_key(name) else { return };
        if id >= intf::STATEMENTS || on_servers.len() != name.len() {
            return self.remove_name(name);
        }
        let value = [&id.to_ne_bytes()[..], &padded(on_servers)].concat();
        // There may be no room.
        if self.kernel.maps.names.update(&key, &value, MapFlags::ANY).is_ok() {
            self.known_names().insert(key);
        }
    }

    /// It has no prepared statement of this name any more. While it is on the user path.
    pub fn remove_name(&self, name: &[u8]) {
        if let Some(key) = self.name_key(name)
            && self.known_names().remove(&key)
        {
            self.forget_name(&key);
        }
    }

    fn known_names(&self) -> MutexGuard<'_, HashSet<Vec<u8>>> {
        self.names.lock().expect("nobody panics with this lock")
    }

    fn forget_name(&self, key: &[u8]) {
        // It fails only if it is not there.
        drop(self.kernel.maps.names.delete(key));
    }

    fn name_key(&self, name: &[u8]) -> Option<Vec<u8>> {
        // The programs take a name of that length for one that was cut.
        (name.len() < intf::NAME_LEN as usize - 1).then(|| [&self.index.to_ne_bytes()[..], &padded(name)].concat())
    }

    /// True when its end was not captured, so that its requests are always the user path's.
    pub fn is_remote(&self) -> bool {
        self.remote
    }

    /// The slot, in its pool, of the server that the kernel path has linked to it.
    pub fn linked(&self) -> Option<usize> {
        let server = self.kernel.memory.server(field!(self.slot(), server).get().checked_sub(1)?);
        let client = (field!(server, word).get() & intf::WORD_CLIENT) as u32;
        let is_linked = client == self.index + 1 && field!(server, client_cookie).get() == self.cookie;
        is_linked.then(|| field!(server, slot).get() as usize)
    }

    /// Tells the programs what they need to serve it.
    fn describe(&self, pool: &PoolSlot, params: u64, written: u64, read: u64) {
        let slot = self.slot();
        field!(slot, pool).set(pool.index);
        field!(slot, params).set(params);
        field!(slot, written).set(written);
        // The programs compare sequence numbers, which have 32 bits.
        field!(slot, read).set(read as u32);
        field!(slot, reason).set(intf::REASON_NONE);
        field!(slot, settled).set(0);
    }

    /// Corrects `written` of [`Self::hand_over`].
    pub fn set_written(&self, written: u64) {
        field!(self.slot(), written).set(written);
    }

    /// True when the kernel path has seen a request of it since the last [`Self::hand_over`], and that it had read by then
    /// all that the user path had sent it: what is redirected to it now cannot overtake anything.
    pub fn is_settled(&self) -> bool {
        field!(self.slot(), settled).get() != 0
    }

    /// True when it has read all that was redirected to it: only then it notices for certain what comes over TCP.
    pub fn has_drained(&self) -> bool {
        self.kernel.ask_drained(intf::ROLE_CLIENT | self.index)
    }

    /// What is sent next through our end, so many bytes of replies, may go the kernel path's way, if the client does not
    /// have too much to read already: then false. To be followed by [`Self::disarm`].
    pub fn arm(&self, len: u32) -> bool {
        let slot = self.slot();
        let limit = field!(self.kernel.memory.pool(field!(slot, pool).get()), reply_limit).get();
        let fits = field!(slot, unread).get().saturating_add(len) <= limit;
        field!(slot, push).set(if fits { len } else { 0 });
        fits
    }

    /// True when what was sent since [`Self::arm`] was redirected, so that it did not go through TCP.
    pub fn disarm(&self) -> bool {
        field!(self.slot(), push).swap(0, Ordering::AcqRel) == 0
    }

    /// What its server is about to be sent, if it may have to be sent once more; else nothing. While it is on the user path.
    pub(super) fn keep_sent(&self, bytes: &[u8]) {
        let slot = self.slot();
        let kept = if bytes.len() <= intf::SENT_LEN as usize { bytes } else { &[] };
        for (place, byte) in kept.iter().enumerate() {
            field!(slot, sent[place]).set(*byte);
        }
        field!(slot, sent_len).set(kept.len() as u32);
    }

    /// It is linked to this server.
    pub(super) fn set_server(&self, index: u32) {
        field!(self.slot(), server).set(index + 1);
    }

    /// True from [`Self::hand_over`] until the kernel path leaves something to the user path, or [`Self::reclaim`].
    pub fn is_handed_over(&self) -> bool {
        field!(self.slot(), owner).get() == intf::OWNER_KERNEL
    }

    /// The user path wants the client.
    pub fn reclaim(&self) {
        field!(self.slot(), pushed).set(0);
        field!(self.slot(), owner).set(intf::OWNER_USER);
    }

    /// What became of the last reply that the kernel path carried.
    pub fn delivery(&self) -> Delivery {
        let Some(last) = field!(self.slot(), last_server).get().checked_sub(1) else { return Delivery::Done };
        let delivery = self.kernel.ask_delivery(last);
        if delivery == Delivery::Done {
            field!(self.slot(), last_server).set(0);
        }
        delivery
    }

    /// True when its application reads in a way that the kernel path cannot serve: the slot is to be dropped.
    pub fn is_unfit(&self) -> bool {
        field!(self.slot(), reason).get() == intf::REASON_BLOCKING
    }

    /// Why the client is on the user path, in one word; empty if it is not, or with its requests only.
    pub fn reason(&self) -> &'static str {
        if self.is_handed_over() {
            return "";
        }
        match field!(self.slot(), reason).get() {
            intf::REASON_NONE if self.remote => "",
            intf::REASON_NONE => "busy",
            reason => intf::REASON_WORDS.get(reason as usize).copied().unwrap_or_default(),
        }
    }

    /// What the kernel path carries for it, while it does.
    pub fn carries(&self) -> Carries {
        let server = field!(self.slot(), server).get().checked_sub(1);
        match server.map(|server| field!(self.kernel.memory.server(server), remote).get()) {
            _ if self.remote => Carries::Replies,
            Some(1) => Carries::Requests,
            _ => Carries::Both,
        }
    }

    /// What the kernel path does for it, if it has it.
    pub fn service(&self) -> Option<Service> {
        let (slot, clock) = (self.slot(), &self.kernel.clock);
        let Some(server) = field!(slot, server).get().checked_sub(1).filter(|_| self.linked().is_some()) else {
            let last = field!(slot, request_ns).get().max(field!(slot, released_ns).get());
            return self.is_handed_over().then(|| Service::Idle(clock.instant(last)));
        };
        let server = self.kernel.memory.server(server);
        // In this order: times are written before the word says what they are for.
        let word = field!(server, word).get();
        if word & intf::WORD_CLIENT != u64::from(self.index + 1) || word & intf::WORD_USER != 0 {
            return None;
        }
        let status = field!(server, reply[usize::from(word & intf::WORD_REPLY != 0)].status).get();
        let time = |nanos: &AtomicU64| clock.instant(nanos.get());
        let transaction = time(field!(server, xact_ns));
        Some(match word & (intf::WORD_OWED | intf::WORD_OPEN) {
            0 if status == b'I' => Service::Linked,
            0 => Service::InTransaction { since: time(field!(server, released_ns))?, transaction: transaction? },
            _ => Service::Query { since: time(field!(server, request_ns))?, transaction: transaction? },
        })
    }

    /// When the kernel path last carried a request of it.
    pub fn request_at(&self) -> Option<Instant> {
        self.kernel.clock.instant(field!(self.slot(), request_ns).get())
    }
}

/// A name in the programs' maps.
fn padded(name: &[u8]) -> [u8; intf::NAME_LEN as usize] {
    let mut padded = [0; intf::NAME_LEN as usize];
    padded[..name.len()].copy_from_slice(name);
    padded
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        self.known_names().iter().for_each(|key| self.forget_name(key));
        let slot = self.slot();
        field!(slot, owner).set(intf::OWNER_USER);
        field!(slot, cookie).set(0);
        self.kernel.ids[self.index as usize].store(0, Ordering::Release);
        if self.remote {
            self.kernel.leave_sink(self.cookie);
        } else {
            self.kernel.forget(self.cookie);
            self.kernel.release(self.gate);
        }
        if self.is_unfit() && self.request_at().is_none() {
            self.kernel.release(self.cookie);
        }
        give_back(&self.kernel.free.clients, self.index);
    }
}
