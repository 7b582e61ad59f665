//! A client as the kernel path knows it. Where its own end was captured, it is handed over while it is idle, and reclaimed
//! when the kernel path says "not me". Of a remote one only the replies can be the kernel path's: its requests are pushed.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tigger_bypass::{ClientSlot, Delivery, Ends, PoolSlot};
use tigger_proto::client::statements::NameChanges;
use tigger_proto::parameters::ParameterSet;

use super::{KernelPath, Params, SharedPool};
use crate::net::stream::Stream;

/// A client's slot.
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
    /// It has read what is counted in `written`: what is redirected to it overtakes nothing. It may be so without this.
    clean: bool,
    /// When it was last left to the kernel path, it had read all that had been sent to it but what was pending.
    may_push_pending: bool,
    /// Nothing was redirected to it since it had read all that was: it notices what comes over TCP.
    has_drained: bool,
}

/// Who has the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaimed {
    /// The user path had it all the time.
    Kept,
    /// The kernel path had it, and may have left a linked server.
    Fetched,
}

/// A client will not get the rest of a reply; see [`Delivery::Short`].
#[derive(Clone, Copy, Debug)]
pub struct CutShort;

impl KernelClient {
    /// The client at the other end of this connection, under this name; `None` where its end was not captured.
    pub fn enter(path: &Arc<KernelPath>, ends: Ends, stream: &Stream, id: u64) -> Option<Self> {
        Some(Self::new(path, path.kernel.as_ref().ok()?.enter_client(ends, stream.as_fd(), id)?))
    }

    /// The same for one whose end was not captured; `None` where the kernel path can do nothing for it either.
    pub fn enter_remote(path: &Arc<KernelPath>, stream: &Stream, id: u64) -> Option<Self> {
        let slot = path.kernel.as_ref().ok()?.enter_remote_client(stream.as_fd(), id)?;
        Some(Self::new(path, slot))
    }

    fn new(path: &Arc<KernelPath>, slot: ClientSlot) -> Self {
        Self {
            slot: Arc::new(slot),
            path: Arc::clone(path),
            params: Params::default(),
            handed_over: false,
            written: None,
            clean: false,
            may_push_pending: false,
            has_drained: true,
        }
    }

    /// Tells the programs what names of prepared statements stand for now. Before it is left to the kernel path.
    pub fn rename(&self, changes: NameChanges) {
        changes.gone.iter().for_each(|name| self.slot.remove_name(name));
        for (name, statement) in changes.new {
            self.slot.set_name(&name, (statement.id(), statement.name().as_bytes()));
        }
    }

    /// Leaves the client to the kernel path: nothing of it is half done here, but that `pending` bytes are still to be sent
    /// to it. Until its own end shows that all bytes that went through `stream`, and those, were read, the kernel path
    /// says "not me".
    pub fn hand_over(&mut self, pool: &SharedPool, parameters: &ParameterSet, stream: &Stream, pending: usize) {
        self.give(ClientSlot::hand_over, pool, parameters, stream, pending);
    }

    /// True when replies of the kernel path cannot overtake what was sent to it through `stream`. Where its own end was
    /// captured: the kernel path has seen a request that it sent when it had read everything, and nothing was sent to it
    /// since.
    pub fn may_push(&self, stream: &Stream) -> bool {
        self.is_remote() || self.is_clean(stream)
    }

    fn is_clean(&self, stream: &Stream) -> bool {
        self.written == Some(stream.written()) && (self.clean || self.slot.is_settled())
    }

    /// Sends replies through `stream` in the kernel path's way, if they can go it; returns how many bytes went.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn push_replies(&mut self, stream: &mut Stream, replies: &[u8]) -> io::Result<usize> {
        if self.is_remote() || !self.is_clean(stream) {
            return Ok(0);
        }
        self.push_armed(stream, replies)
    }

    /// The same for what was pending when the client was handed over; the first time it is tried.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn push_pending(&mut self, stream: &mut Stream, pending: &[u8]) -> io::Result<usize> {
        if !std::mem::take(&mut self.may_push_pending) {
            return Ok(0);
        }
        let n = self.push_armed(stream, pending)?;
        let written = stream.written() + (pending.len() - n) as u64;
        self.clean = n == pending.len();
        if n < pending.len() {
            // The tap counts all or nothing.
            self.slot.set_written(written);
        }
        self.written = Some(written);
        Ok(n)
    }

    /// True when it notices what is sent to it over TCP; else it must be asked again, because nothing tells when.
    pub fn has_drained(&mut self) -> bool {
        self.has_drained = self.has_drained || self.is_remote() || self.slot.has_drained();
        self.has_drained
    }

    fn push_armed(&mut self, stream: &mut Stream, replies: &[u8]) -> io::Result<usize> {
        let Ok(len @ 1..=PUSH_REPLIES_MAX) = u32::try_from(replies.len()) else { return Ok(0) };
        if !self.slot.arm(len) {
            return Ok(0);
        }
        let sent = stream.try_write(replies);
        let is_redirected = self.slot.disarm();
        match sent {
            Ok(n) => {
                if is_redirected {
                    stream.forget_written(n);
                    self.has_drained = false;
                }
                Ok(n)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Leaves the client, which is linked and whose requests are about to be sent, to the kernel path.
    pub fn push(&mut self, pool: &SharedPool, parameters: &ParameterSet, stream: &Stream) {
        self.give(ClientSlot::push, pool, parameters, stream, 0);
    }

    fn give(
        &mut self,
        by: fn(&ClientSlot, &PoolSlot, u64, u64, u64),
        pool: &SharedPool,
        parameters: &ParameterSet,
        stream: &Stream,
        pending: usize,
    ) {
        let clean = self.is_clean(stream);
        self.may_push_pending = clean && pending > 0;
        self.clean = clean && pending == 0;
        let written = stream.written() + pending as u64;
        let params = self.params.of(&self.path, parameters);
        by(&self.slot, &pool.slot, params, written, stream.read());
        self.written = Some(written);
        self.handed_over = true;
        self.has_drained = false;
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

    /// True when its own end was not captured: the user path has all its requests.
    pub fn is_remote(&self) -> bool {
        self.slot.is_remote()
    }

    /// The slot of the server that the kernel path has linked to it.
    pub fn linked(&self) -> Option<usize> {
        self.slot.linked()
    }

    /// True when its application reads in a way that the kernel path cannot serve; then its own end is to be let go.
    pub fn is_unfit(&self) -> bool {
        self.slot.is_unfit()
    }

    /// Waits until no reply of the kernel path is on its way, which bytes of the user path could overtake. The sender has
    /// its verdict and only needs a processor, so that there is no event to wait for, and hardly ever a wait.
    ///
    /// # Errors
    /// The client's socket took only a part of it.
    pub async fn landed(&self) -> Result<(), CutShort> {
        landed(|| self.slot.delivery()).await
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

/// Waits until what is asked for is no longer in flight.
pub(super) async fn landed(delivery: impl Fn() -> Delivery) -> Result<(), CutShort> {
    loop {
        match delivery() {
            Delivery::Done => return Ok(()),
            Delivery::InFlight => tokio::time::sleep(LANDING_POLL).await,
            Delivery::Short => return Err(CutShort),
        }
    }
}

/// Most bytes of replies that are pushed at once: the kernel hands a program no more than it has room for.
const PUSH_REPLIES_MAX: u32 = 32 * 1024;

const LANDING_POLL: Duration = Duration::from_millis(1);
