//! A server as the programs know it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::memory::{atomic, load, load8, load32, store, store8, store32};
use super::programs::types;
use super::{ClientSlot, PoolSlot, intf};
use crate::{Carried, Ends, TakenBack};

/// The slot of a server whose own end is on this host.
#[derive(Debug)]
pub struct ServerSlot {
    pool: Arc<PoolSlot>,
    /// In the pool.
    slot: usize,
    index: u32,
    cookie: u64,
}

impl PoolSlot {
    /// Gives its slot to a server that was connected between these ends and is logged in. `None` when its end was not
    /// captured, because it is on another host, or when there is no slot.
    pub fn enter_server(self: &Arc<Self>, slot: usize, ends: Ends) -> Option<ServerSlot> {
        let index = self.server_index(slot)?;
        let captured = self.kernel.found(ends)?;
        let server = self.kernel.memory.server(index);
        self.set_lendable(slot, false);
        // Another generation, so that a program which still runs for the last server of this slot changes nothing.
        let generation = (load(&server.word) & intf::WORD_GENERATION)
            .wrapping_add(intf::WORD_GENERATION & !(intf::WORD_GENERATION << 1));
        store(&server.word, generation);
        store(&server.client_cookie, 0);
        store(&server.psock, 0);
        store(&server.params, 0);
        store32(&server.pool, self.index);
        store32(&server.slot, slot as u32);
        let counters = [&server.released_ns, &server.links, &server.received, &server.requests, &server.sent];
        let times = [&server.queries, &server.xacts, &server.query_time_ns, &server.xact_time_ns];
        for counter in counters.into_iter().chain(times) {
            store(counter, 0);
        }
        store(&server.cookie, captured.cookie);
        let entered = ServerSlot { pool: Arc::clone(self), slot, index, cookie: captured.cookie };
        self.kernel.assign(captured.cookie, intf::ROLE_SERVER | index).then_some(entered)
    }
}

impl ServerSlot {
    fn server(&self) -> &types::server {
        self.pool.kernel.memory.server(self.index)
    }

    /// Makes the server claimable for the kernel path as soon as it is in the idle set. The caller has it, and it has
    /// read all it was sent. `params` names its parameters.
    pub fn lend(&self, params: u64) {
        let server = self.server();
        store(&server.params, params);
        atomic(&server.word).fetch_and(intf::WORD_GENERATION, Ordering::AcqRel);
        self.pool.set_lendable(self.slot, true);
    }

    /// Keeps the server from the kernel path, for instance as long as it may have something unread.
    pub fn withhold(&self) {
        self.pool.set_lendable(self.slot, false);
        atomic(&self.server().word).fetch_and(intf::WORD_GENERATION, Ordering::AcqRel);
    }

    /// Links a client whose requests (their type bytes are `kinds`, `enders` of them are answered by ReadyForQuery) the
    /// user path is about to send to the server, as whole messages. The kernel path carries the replies. Then
    /// [`ClientSlot::push`] must follow, then the requests.
    pub fn push(&self, client: &ClientSlot, kinds: &[u8], enders: u32) {
        let server = self.server();
        for (place, kind) in server.log.iter().zip(kinds) {
            store8(place, *kind);
        }
        self.link(client, b'I', kinds.len() as u32, enders);
    }

    /// Leaves a linked pair to the kernel path, at a moment when the server owes nothing and has read everything.
    /// `status` is its transaction status. Then [`ClientSlot::hand_over`] must follow.
    pub fn hand_over(&self, client: &ClientSlot, status: u8) {
        self.link(client, status, 0, 0);
    }

    fn link(&self, client: &ClientSlot, status: u8, sent: u32, owed: u32) {
        let server = self.server();
        store(&server.client_cookie, client.cookie);
        let (reply, request) = (&server.reply[0], &server.request[0]);
        for field in [&reply.rest, &reply.answers, &request.rest, &request.base, &request.bytes] {
            store32(field, 0);
        }
        store32(&request.sent, sent);
        for field in [&reply.header_len, &reply.failed] {
            store8(field, 0);
        }
        store8(&reply.status, status);
        let now = client.now();
        store(&server.request_ns, now);
        store(&server.xact_ns, now);
        let kept = load(&server.word) & intf::WORD_GENERATION;
        client.set_server(self.index);
        store(&server.word, kept | u64::from(owed) * intf::WORD_OWED_ONE | u64::from(client.index + 1));
    }

    /// Where the pair stands after it was taken back: from then on the programs do not change it.
    pub fn taken_back(&self) -> TakenBack {
        let server = self.server();
        let word = load(&server.word);
        let reply = &server.reply[usize::from(word & intf::WORD_REPLY != 0)];
        let request = &server.request[usize::from(word & intf::WORD_REQUEST != 0)];
        let owed = ((word & intf::WORD_OWED) / intf::WORD_OWED_ONE) as usize;
        let (sent, base) = (load32(&request.sent), load32(&request.base));
        let log: Vec<u8> = (base..sent).map(|n| load8(&server.log[(n % intf::LOG_LEN) as usize])).collect();
        let header_len = usize::from(load8(&reply.header_len));
        TakenBack {
            requests: unanswered(&log, owed).to_vec(),
            answers: load32(&reply.answers),
            failed: load8(&reply.failed) != 0,
            status: load8(&reply.status),
            request_rest: load32(&request.rest),
            reply_rest: load32(&reply.rest),
            reply_header: reply.header[..header_len.min(reply.header.len())].iter().map(load8).collect(),
        }
    }

    /// What the kernel path did with this server.
    pub fn carried(&self) -> Carried {
        let server = self.server();
        Carried {
            links: load(&server.links),
            received: load(&server.received),
            requests: load(&server.requests),
            sent: load(&server.sent),
            queries: load(&server.queries),
            xacts: load(&server.xacts),
            query_time: load(&server.query_time_ns) / 1000,
            xact_time: load(&server.xact_time_ns) / 1000,
        }
    }
}

impl Drop for ServerSlot {
    fn drop(&mut self) {
        self.withhold();
        store(&self.server().cookie, 0);
        self.pool.kernel.release(self.cookie);
    }
}

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
