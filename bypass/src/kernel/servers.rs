//! A server as the programs know it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::memory::{Shared, Slot, field};
use super::programs::types;
use super::{ClientSlot, Kernel, PoolSlot, intf};
use crate::{Carried, Delivery, Ends, TakenBack};

/// The slot of a server.
#[derive(Debug)]
pub struct ServerSlot {
    pool: Arc<PoolSlot>,
    /// In the pool.
    slot: usize,
    index: u32,
    /// Of its own end, if that was captured.
    cookie: Option<u64>,
    gate: Arc<Gate>,
}

/// Our end of a server's connection, through which requests are pushed while the pool has the server.
#[derive(Debug)]
pub struct Gate {
    kernel: Arc<Kernel>,
    index: u32,
    cookie: u64,
    socket: OwnedFd,
}

impl Gate {
    fn new(pool: &PoolSlot, index: u32, cookie: u64, socket: OwnedFd) -> Self {
        Self { kernel: Arc::clone(&pool.kernel), index, cookie, socket }
    }

    /// Sends what the server takes at once; returns how many bytes that were. They take the kernel path's way if they can,
    /// so that the server must have read all that was sent to it before. For whoever has pushed.
    pub fn push(&self, requests: &[u8]) -> usize {
        let server = self.kernel.memory.server(self.index);
        field!(server, push).set(requests.len() as u32);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the bytes outlive the call.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), requests.as_ptr().cast(), requests.len(), flags) };
        // Where the connection is broken, the program has not seen it.
        field!(server, push).set(0);
        usize::try_from(sent).unwrap_or(0)
    }

    /// Ends the connection, whoever has it.
    pub fn shut_down(&self) {
        // SAFETY: the descriptor is ours. It fails only where the connection has ended by itself.
        unsafe { libc::shutdown(self.socket.as_raw_fd(), libc::SHUT_RDWR) };
    }
}

impl PoolSlot {
    /// Gives its slot to a server that was connected between these ends, ours being `socket`, and is logged in. `None`
    /// when its end was not captured, because it is on another host, or when there is no slot.
    pub fn enter_server(self: &Arc<Self>, slot: usize, ends: Ends, socket: OwnedFd) -> Option<ServerSlot> {
        let index = self.server_index(slot)?;
        let captured = self.kernel.found(ends)?;
        let gate = self.kernel.enter_gate(socket.as_fd(), intf::ROLE_SERVER | index);
        let server = self.new_server(slot, index, Some(captured.cookie), Gate::new(self, index, gate, socket));
        self.kernel.assign(captured.cookie, intf::ROLE_SERVER | index).then_some(server)
    }

    /// The same for a server whose end was not captured: the kernel path can only bring it requests, through `socket`, our
    /// end of its TCP connection. `None` when the kernel cannot do that, or there is no slot.
    pub fn enter_remote_server(self: &Arc<Self>, slot: usize, socket: OwnedFd) -> Option<ServerSlot> {
        if !self.kernel.remote {
            return None;
        }
        let index = self.server_index(slot)?;
        let gate = self.kernel.enter_sink(socket.as_fd()).ok()?;
        Some(self.new_server(slot, index, None, Gate::new(self, index, gate, socket)))
    }

    fn new_server(self: &Arc<Self>, slot: usize, index: u32, cookie: Option<u64>, gate: Gate) -> ServerSlot {
        let server = self.kernel.memory.server(index);
        self.set_lendable(slot, false);
        // Another generation, so that a program which still runs for the last server of this slot changes nothing.
        let generation = (field!(server, word).get() & intf::WORD_GENERATION)
            .wrapping_add(intf::WORD_GENERATION & !(intf::WORD_GENERATION << 1));
        field!(server, word).set(generation);
        field!(server, client_cookie).set(0);
        field!(server, psock).set(0);
        field!(server, sink.address).set(0);
        field!(server, push).set(0);
        field!(server, gate).set(gate.cookie);
        field!(server, remote).set(cookie.is_none().into());
        field!(server, params).set(0);
        field!(server, pool).set(self.index);
        field!(server, slot).set(slot as u32);
        for counter in [
            field!(server, released_ns),
            field!(server, links),
            field!(server, received),
            field!(server, requests),
            field!(server, binds),
            field!(server, sent),
            field!(server, queries),
            field!(server, xacts),
            field!(server, query_time_ns),
            field!(server, xact_time_ns),
        ] {
            counter.set(0);
        }
        field!(server, cookie).set(cookie.unwrap_or(0));
        let server = ServerSlot { pool: Arc::clone(self), slot, index, cookie, gate: Arc::new(gate) };
        server.set_statements(std::iter::empty());
        server.take_used().for_each(drop);
        server
    }
}

impl ServerSlot {
    fn server(&self) -> Slot<'_, types::server> {
        self.pool.kernel.memory.server(self.index)
    }

    /// Makes the server claimable for the kernel path as soon as it is in the idle set. The caller has it, and it has
    /// read all it was sent. `params` names its parameters.
    pub fn lend(&self, params: u64) {
        let server = self.server();
        field!(server, params).set(params);
        self.begin_replies(b'I');
        field!(server, word).fetch_and(intf::WORD_GENERATION, Ordering::AcqRel);
        self.pool.set_lendable(self.slot, true);
    }

    /// The prepared statements that it has, by their ids in its pool, which must be told before it is lent or linked. Those
    /// with higher ids than the kernel path knows are left out.
    pub fn set_statements(&self, ids: impl Iterator<Item = u32>) {
        let mut words = [0; intf::STATEMENT_WORDS as usize];
        for id in ids.filter(|id| *id < intf::STATEMENTS) {
            words[id as usize / 64] |= 1 << (id % 64);
        }
        let prepared = self.pool.kernel.memory.prepared(self.index);
        for (place, word) in words.into_iter().enumerate() {
            field!(prepared, has[place]).set(word);
        }
    }

    /// The prepared statements that the kernel path has used since this was last asked.
    pub fn take_used(&self) -> impl Iterator<Item = u32> {
        let prepared = self.pool.kernel.memory.prepared(self.index);
        let words = field!(prepared, used_words).swap(0, Ordering::AcqRel);
        let places = (0..intf::STATEMENT_WORDS).filter(move |place| words >> place & 1 != 0);
        places.flat_map(move |place| {
            let word = field!(prepared, used[place as usize]).swap(0, Ordering::AcqRel);
            (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| place * 64 + bit)
        })
    }

    /// True when its end was not captured, so that its replies are always the user path's.
    pub fn is_remote(&self) -> bool {
        self.cookie.is_none()
    }

    /// True when its process reads in a way that the kernel path cannot serve: the slot is to be dropped.
    pub fn is_unfit(&self) -> bool {
        field!(self.server(), psock).get() == intf::PSOCK_UNFIT
    }

    /// Keeps the server from the kernel path, for instance as long as it may have something unread.
    pub fn withhold(&self) {
        self.pool.set_lendable(self.slot, false);
        field!(self.server(), word).fetch_and(intf::WORD_GENERATION, Ordering::AcqRel);
    }

    /// Links a client whose requests (their type bytes are `kinds`, `enders` of them are answered by ReadyForQuery) the
    /// user path is about to send to the server, as whole messages. The kernel path carries the replies. Then
    /// [`ClientSlot::push`] must follow, then [`Gate::push`]. `status` and `xact_start` are of its transaction.
    /// `named`: the bytes, if prepared statements are among them, under the server's names.
    pub fn push(
        &self,
        client: &ClientSlot,
        (status, xact_start): (u8, Instant),
        kinds: &[u8],
        enders: u32,
        named: Option<&[u8]>,
    ) {
        let server = self.server();
        for (place, kind) in kinds.iter().enumerate().take(intf::LOG_LEN as usize) {
            field!(server, log[place]).set(*kind);
        }
        self.link(client, (status, xact_start), (kinds.len() as u32, enders), named);
    }

    /// Our end of the connection.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Leaves a linked pair to the kernel path, at a moment when the server owes nothing and has read everything.
    /// `status` and `xact_start` are of its transaction. Then [`ClientSlot::hand_over`] must follow.
    pub fn hand_over(&self, client: &ClientSlot, (status, xact_start): (u8, Instant)) {
        self.link(client, (status, xact_start), (0, 0), None);
    }

    /// The stream of replies is that of a new link.
    fn begin_replies(&self, status: u8) {
        let server = self.server();
        field!(server, reply[0].rest).set(0);
        field!(server, reply[0].answers).set(0);
        field!(server, reply[0].header_len).set(0);
        field!(server, reply[0].failed).set(0);
        field!(server, reply[0].status).set(status);
    }

    fn link(
        &self,
        client: &ClientSlot,
        (status, xact_start): (u8, Instant),
        (sent, owed): (u32, u32),
        named: Option<&[u8]>,
    ) {
        let server = self.server();
        field!(server, named).set(named.is_some().into());
        client.keep_sent(named.unwrap_or_default());
        field!(server, client_cookie).set(client.cookie);
        field!(server, request[0].rest).set(0);
        field!(server, request[0].sent).set(sent);
        field!(server, request[0].base).set(0);
        field!(server, request[0].bytes).set(0);
        self.begin_replies(status);
        let clock = &self.pool.kernel.clock;
        field!(server, request_ns).set(clock.now());
        field!(server, xact_ns).set(clock.nanos_of(xact_start));
        let kept = field!(server, word).get() & intf::WORD_GENERATION;
        client.set_server(self.index);
        field!(server, word).set(kept | (u64::from(owed) * intf::WORD_OWED_ONE) | u64::from(client.index + 1));
    }

    /// Where the pair stands after it was taken back: from then on the programs do not change it.
    pub fn taken_back(&self) -> TakenBack {
        let server = self.server();
        let word = field!(server, word).get();
        let reply = usize::from(word & intf::WORD_REPLY != 0);
        let request = usize::from(word & intf::WORD_REQUEST != 0);
        let owed = ((word & intf::WORD_OWED) / intf::WORD_OWED_ONE) as usize;
        let (sent, base) = (field!(server, request[request].sent).get(), field!(server, request[request].base).get());
        let log: Vec<u8> = (base..sent).map(|n| field!(server, log[(n % intf::LOG_LEN) as usize]).get()).collect();
        let header_len = usize::from(field!(server, reply[reply].header_len).get()).min(HEADER_MAX);
        let (requests, status) = (unanswered(&log, owed).to_vec(), field!(server, reply[reply].status).get());
        let time_of = |nanos: &AtomicU64, counts: bool| self.pool.kernel.clock.instant(nanos.get()).filter(|_| counts);
        let (is_asked, is_open) = (!requests.is_empty(), status != b'I');
        let client = ((word & intf::WORD_CLIENT) as u32).checked_sub(1);
        TakenBack {
            query_start: time_of(field!(server, request_ns), is_asked),
            xact_start: time_of(field!(server, xact_ns), is_asked || is_open),
            requests,
            answers: field!(server, reply[reply].answers).get(),
            failed: field!(server, reply[reply].failed).get() != 0,
            status,
            request_rest: field!(server, request[request].rest).get(),
            reply_rest: field!(server, reply[reply].rest).get(),
            reply_header: (0..header_len).map(|n| field!(server, reply[reply].header[n]).get()).collect(),
            sent: client.and_then(|client| self.pool.kernel.sent(client)),
        }
    }

    /// True when it has read all that was redirected to it: only then it notices for certain what comes over TCP. PostgreSQL
    /// always does; a server may be another proxy.
    pub fn has_drained(&self) -> bool {
        self.pool.kernel.ask_drained(intf::ROLE_SERVER | self.index)
    }

    /// What became of the last reply that it sent on the kernel path.
    pub fn delivery(&self) -> Delivery {
        self.pool.kernel.ask_delivery(self.index)
    }

    /// What the kernel path did with this server.
    pub fn carried(&self) -> Carried {
        let server = self.server();
        Carried {
            links: field!(server, links).get(),
            received: field!(server, received).get(),
            requests: field!(server, requests).get(),
            binds: field!(server, binds).get(),
            sent: field!(server, sent).get(),
            queries: field!(server, queries).get(),
            xacts: field!(server, xacts).get(),
            query_time: field!(server, query_time_ns).get() / 1000,
            xact_time: field!(server, xact_time_ns).get() / 1000,
        }
    }
}

impl Drop for ServerSlot {
    fn drop(&mut self) {
        self.withhold();
        field!(self.server(), cookie).set(0);
        field!(self.server(), gate).set(0);
        let kernel = &self.pool.kernel;
        let Some(cookie) = self.cookie else { return kernel.leave_sink(self.gate.cookie) };
        kernel.forget(cookie);
        kernel.release(self.gate.cookie);
        if self.is_unfit() && self.carried() == Carried::default() {
            kernel.release(cookie);
        }
    }
}

/// Bytes of `reply_state.header`: a header is handled when it is whole, so that the last of them is never asked for.
const HEADER_MAX: usize = 5;

/// The requests behind the last one that ReadyForQuery has answered, when `owed` are still to come.
fn unanswered(log: &[u8], owed: usize) -> &[u8] {
    let ends = |kind: &u8| matches!(kind, b'Q' | b'S');
    let ended = log.iter().filter(|kind| ends(kind)).count().saturating_sub(owed);
    match ended {
        0 => log,
        n => {
            let last = log.iter().enumerate().filter(|(_, kind)| ends(kind)).nth(n - 1);
            last.map_or(log, |(at, _)| &log[at + 1..])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_answered() {
        let check = |log: &str, owed: usize, expected: &str| {
            assert_eq!(unanswered(log.as_bytes(), owed), expected.as_bytes(), "{log} {owed}");
        };
        check("", 0, "");
        check("Q", 0, "");
        check("Q", 1, "Q");
        check("PBES", 1, "PBES");
        check("PBESPBES", 1, "PBES");
        check("PBESPB", 0, "PB");
        check("QQPBESQP", 2, "PBESQP");
        check("QQPBESQP", 1, "QP");
    }
}
