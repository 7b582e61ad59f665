//! The same interface without the feature `kernel`: nothing of it can exist.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use crate::{Carried, Ends, PoolRules, Sizes, TakenBack, Totals, Unavailable};

/// See the crate's description.
#[derive(Debug)]
pub enum Kernel {}

/// See the crate's description.
#[derive(Debug)]
pub enum PoolSlot {}

/// See the crate's description.
#[derive(Debug)]
pub enum ServerSlot {}

/// See the crate's description.
#[derive(Debug)]
pub enum ClientSlot {}

/// See the crate's description.
#[derive(Debug)]
pub enum Expected {}

macro_rules! absent {
    ($($type:ident { $($name:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)?;)* })*) => {
        $(#[allow(missing_docs, reason = "said in kernel.rs")]
        impl $type {
            $(pub fn $name(&self $(, $argument: $kind)*) $(-> $result)? { $(let _ = $argument;)* match *self {} })*
        })*
    };
}

impl Kernel {
    /// Says that there is no kernel path.
    ///
    /// # Errors
    /// Always.
    pub fn load(_: Sizes) -> Result<Arc<Self>, Unavailable> {
        Err(Unavailable("built without the feature `kernel`".into()))
    }

    #[allow(missing_docs, reason = "said in kernel.rs")]
    pub fn enter_pool(self: &Arc<Self>) -> Option<PoolSlot> {
        match **self {}
    }

    #[allow(missing_docs, reason = "said in kernel.rs")]
    pub fn enter_client(self: &Arc<Self>, _: Ends, _: u64) -> Option<ClientSlot> {
        match **self {}
    }

    #[allow(missing_docs, reason = "said in kernel.rs")]
    pub fn expect(self: &Arc<Self>, _: Ends) -> io::Result<Expected> {
        match **self {}
    }
}

absent! {
    Kernel {
        listen(address: std::net::SocketAddr) -> io::Result<()>;
        wakes() -> std::os::fd::BorrowedFd<'_>;
        clear_wakes();
        totals() -> Totals;
        programs() -> &[(String, usize)];
    }
    PoolSlot {
        set_rules(rules: PoolRules);
        grow(words: usize) -> usize;
        idle_word(index: usize) -> &AtomicU64;
        set_waiting(since: Option<Instant>);
        set_paused(paused: bool);
        linked(slot: usize) -> Option<u64>;
        is_orphan(slot: usize) -> bool;
        released_at(slot: usize) -> Option<Instant>;
        demand(slot: usize);
        take_back(slot: usize, client: u64) -> bool;
        begin_hold(slot: usize, client: u64) -> bool;
        end_hold(slot: usize);
        enter_server(slot: usize, ends: Ends) -> Option<ServerSlot>;
    }
    ServerSlot {
        lend(params: u64);
        withhold();
        hand_over(client: &ClientSlot, status: u8);
        push(client: &ClientSlot, kinds: &[u8], enders: u32);
        taken_back() -> TakenBack;
        is_in_flight() -> bool;
        is_unfit() -> bool;
        carried() -> Carried;
    }
    ClientSlot {
        hand_over(pool: &PoolSlot, params: u64, written: u64, read: u64);
        push(pool: &PoolSlot, params: u64, written: u64, read: u64);
        may_push() -> bool;
        is_handed_over() -> bool;
        reclaim();
        is_in_flight() -> bool;
        is_unfit() -> bool;
        reason() -> &'static str;
        request_at() -> Option<Instant>;
    }
}
