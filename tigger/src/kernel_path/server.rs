//! A server as the kernel path knows it: lent while idle, and what is known of it when it comes back. A remote one gets
//! requests from the kernel path, and its replies come to user space.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Instant;

use tigger_bypass::{Carried, Ends, Gate, ServerSlot};
use tigger_proto::client::WholeRequests;
use tigger_proto::server::{KernelLink, Server};
use tigger_proto::wire::backend::TransactionStatus;
use tigger_proto::wire::frontend::{Frontend, Request};

use super::client::{self, CutShort, KernelClient};
use super::{KernelPath, Params, SharedPool};
use crate::net::stream::Stream;

/// A server's slot.
#[derive(Debug)]
pub struct KernelServer {
    // The last owner's end frees the slot: nobody else may keep it alive.
    slot: Arc<ServerSlot>,
    path: Arc<KernelPath>,
    params: Params,
    /// The programs have been told of its prepared statements.
    told: bool,
    /// It has read all that was redirected to it.
    has_drained: bool,
}

/// What the bytes that the user path is about to see follow on.
#[derive(Debug)]
pub struct TakenBack {
    /// For the server's state.
    pub link: KernelLink,
    /// The start of a reply's header, which the client has got already.
    pub delivered: Vec<u8>,
    /// For the client.
    pub resumed: Resumed,
}

/// What the client's task goes on with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resumed {
    /// Bytes of the client's current message that are still to come.
    pub request_rest: u32,
    /// When the query that is not answered yet was sent.
    pub query_start: Option<Instant>,
    /// When the transaction began.
    pub xact_start: Option<Instant>,
}

/// Our socket again, for what is done with it while the pool has the server.
fn socket(stream: &Stream) -> Option<OwnedFd> {
    match stream.try_clone() {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!("kernel path: a server stays on the user path: {error}");
            None
        }
    }
}

impl KernelServer {
    /// The server that was connected in this slot of the pool; `None` where its end was not captured.
    pub fn enter(path: &Arc<KernelPath>, pool: &SharedPool, slot: u32, ends: Ends, stream: &Stream) -> Option<Self> {
        Some(Self::new(path, pool.enter_server(slot, ends, socket(stream)?)?))
    }

    /// The same for one whose end was not captured: it gets requests from the kernel path, as soon as it is lent.
    pub fn enter_remote(path: &Arc<KernelPath>, pool: &SharedPool, slot: u32, stream: &Stream) -> Option<Self> {
        Some(Self::new(path, pool.enter_remote_server(slot, socket(stream)?)?))
    }

    fn new(path: &Arc<KernelPath>, slot: ServerSlot) -> Self {
        Self { slot: Arc::new(slot), path: Arc::clone(path), params: Params::default(), told: false, has_drained: true }
    }

    /// True when its own end was not captured: the user path has all its replies.
    pub fn is_remote(&self) -> bool {
        self.slot.is_remote()
    }

    /// Links a client whose `requests`, which are these `bytes`, are pushed next, through what is returned; `client` must be
    /// pushed in between. The replies are the kernel path's. The server has read all it was sent.
    pub fn push(
        &mut self,
        client: &KernelClient,
        (requests, bytes): (&WholeRequests, &[u8]),
        server: &mut Server,
        xact_start: Instant,
    ) -> Arc<Gate> {
        self.slot.lend(self.params.of(&self.path, server.parameters()));
        self.tell_statements(server);
        let transaction = (server.hand_over().byte(), xact_start);
        let named = requests.named.then_some(bytes);
        self.slot.push(client.slot(), transaction, &requests.kinds, requests.enders, named);
        Arc::clone(self.slot.gate())
    }

    /// Lets the kernel path claim the server once it is in the idle set, unless it may have something unread that the
    /// user path sent: bytes of the kernel path would overtake it.
    pub fn lend(&mut self, server: &mut Server) {
        self.tell_statements(server);
        // Those that go out through our own socket overtake nothing.
        if server.has_read_all() || self.is_remote() {
            self.slot.lend(self.params.of(&self.path, server.parameters()));
        } else {
            self.slot.withhold();
        }
    }

    fn tell_statements(&mut self, server: &mut Server) {
        if server.statements().take_changed() || !self.told {
            self.told = true;
            self.slot.set_statements(server.statements().ids());
        }
    }

    /// Takes note of the prepared statements that the kernel path has used, so that others go first.
    pub fn note_used(&self, server: &mut Server) {
        for id in self.slot.take_used() {
            server.statements().touch(id);
        }
    }

    /// True when its process reads in a way that the kernel path cannot serve; then it is to be let go.
    pub fn is_unfit(&self) -> bool {
        self.slot.is_unfit()
    }

    /// Leaves the linked pair to the kernel path; `client` must be handed over next.
    pub fn hand_over(&mut self, client: &KernelClient, server: &mut Server, xact_start: Instant) {
        self.tell_statements(server);
        self.slot.hand_over(client.slot(), (server.hand_over().byte(), xact_start));
    }

    /// True when it notices what is sent to it over TCP; else it must be asked again, because nothing tells when.
    pub fn has_drained(&mut self) -> bool {
        self.has_drained = self.has_drained || self.is_remote() || self.slot.has_drained();
        self.has_drained
    }

    /// Where the pair stands that was taken back.
    pub fn taken_back(&mut self) -> TakenBack {
        self.has_drained = false;
        let taken = self.slot.taken_back();
        let requests = taken.requests.iter().filter_map(|&kind| match Frontend::from_kind(kind) {
            Some(Frontend::Request(request)) => Some(request),
            _ => None,
        });
        let requests: Vec<Request> = requests.collect();
        TakenBack {
            link: KernelLink {
                requests,
                answers: taken.answers,
                failed: taken.failed,
                status: TransactionStatus::from_byte(taken.status).unwrap_or(TransactionStatus::Idle),
                reply_rest: taken.reply_rest,
                sent: taken.sent,
            },
            delivered: taken.reply_header,
            resumed: Resumed {
                request_rest: taken.request_rest,
                query_start: taken.query_start,
                xact_start: taken.xact_start,
            },
        }
    }

    /// As [`KernelClient::landed`] for what this server said last. After the pair was taken back there is nothing new.
    ///
    /// # Errors
    /// The client's socket took only a part of it.
    pub async fn landed(&self) -> Result<(), CutShort> {
        client::landed(|| self.slot.delivery()).await
    }

    /// What the kernel path did with it.
    pub fn carried(&self) -> Carried {
        self.slot.carried()
    }

    /// For those who only look.
    pub fn watch(&self) -> Weak<ServerSlot> {
        Arc::downgrade(&self.slot)
    }
}
