//! A client whose own end is on this host: handed over to the kernel path while it is idle, and reclaimed when the kernel
//! path says "not me".

use std::sync::{Arc, Weak};
use std::time::Duration;

use tigger_bypass::{ClientSlot, Ends, PoolSlot};
use tigger_proto::parameters::ParameterSet;

use super::{KernelPath, Params, SharedPool};
use crate::net::stream::Stream;

/// An application's end of a connection.
#[derive(Debug)]
pub struct KernelClient {
    // The last owner's end frees the slot: nobody else may keep it alive.
    slot: Arc<ClientSlot>,
    path: Arc<KernelPath>,
    params: Params,
    /// The kernel path may have it, and may have linked it.
    handed_over: bool,
    /// Bytes that had been sent to it when it was last left to the kernel path.
    written: Option<u64>,
}

/// Who has the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaimed {
    /// The user path had it all the time.
    Kept,
    /// The kernel path had it, and may have left a linked server.
    Fetched,
}

impl KernelClient {
    /// The client at the other end of this connection, under this name; `None` where its end was not captured.
    pub fn enter(path: &Arc<KernelPath>, ends: Ends, id: u64) -> Option<Self> {
        let slot = path.kernel.as_ref().ok()?.enter_client(ends, id)?;
        Some(Self {
            slot: Arc::new(slot),
            path: Arc::clone(path),
            params: Params::default(),
            handed_over: false,
            written: None,
        })
    }

    /// Leaves the client to the kernel path: nothing of it is half done here. Until its own end shows that all bytes
    /// that went through `stream` were read, the kernel path says "not me".
    pub fn hand_over(&mut self, pool: &SharedPool, parameters: &ParameterSet, stream: &Stream) {
        self.give(ClientSlot::hand_over, pool, parameters, stream);
    }

    /// True when the kernel path left its last request here only because it had no server, and nothing was sent to it
    /// since: then the replies may be the kernel path's.
    pub fn may_push(&self, stream: &Stream) -> bool {
        self.written == Some(stream.written()) && self.slot.may_push()
    }

    /// Leaves the client, which is linked and whose requests are about to be sent, to the kernel path.
    pub fn push(&mut self, pool: &SharedPool, parameters: &ParameterSet, stream: &Stream) {
        self.give(ClientSlot::push, pool, parameters, stream);
    }

    fn give(
        &mut self,
        by: fn(&ClientSlot, &PoolSlot, u64, u64, u64),
        pool: &SharedPool,
        parameters: &ParameterSet,
        stream: &Stream,
    ) {
        let params = self.params.of(&self.path, parameters);
        by(&self.slot, &pool.slot, params, stream.written(), stream.read());
        self.written = Some(stream.written());
        self.handed_over = true;
    }

    /// True while the kernel path may have it.
    pub fn is_handed_over(&self) -> bool {
        self.handed_over
    }

    /// The user path takes it. What the kernel path has linked must be taken back next.
    pub fn reclaim(&mut self) -> Reclaimed {
        if !std::mem::take(&mut self.handed_over) {
            return Reclaimed::Kept;
        }
        self.slot.reclaim();
        Reclaimed::Fetched
    }

    /// True while a reply of the kernel path may be on its way, which bytes of the user path could overtake.
    pub fn is_in_flight(&self) -> bool {
        self.slot.is_in_flight()
    }

    /// True when its application reads in a way that the kernel path cannot serve; then it is to be let go.
    pub fn is_unfit(&self) -> bool {
        self.slot.is_unfit()
    }

    /// Waits until no reply of the kernel path is on its way. The sender has its verdict and only needs a processor, so
    /// that there is no event to wait for, and hardly ever a wait.
    pub async fn landed(&self) {
        while self.is_in_flight() {
            tokio::time::sleep(LANDING_POLL).await;
        }
    }

    /// The programs' view.
    pub(super) fn slot(&self) -> &ClientSlot {
        &self.slot
    }

    /// For those who only look.
    pub fn watch(&self) -> Weak<ClientSlot> {
        Arc::downgrade(&self.slot)
    }
}

const LANDING_POLL: Duration = Duration::from_millis(1);
