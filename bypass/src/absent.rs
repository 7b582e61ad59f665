//! The same interface without the feature `kernel`: nothing of it can exist.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use crate::{
    Carried, Carries, Delivery, Ends, LATENCY_BUCKETS, PoolRules, Service, Sizes, TakenBack, Totals, Unavailable,
};

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
pub enum Gate {}

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
    pub fn enter_client(self: &Arc<Self>, _: Ends, _: BorrowedFd<'_>, _: u64) -> Option<ClientSlot> {
        match **self {}
    }

    #[allow(missing_docs, reason = "said in kernel.rs")]
    pub fn enter_remote_client(self: &Arc<Self>, _: BorrowedFd<'_>, _: u64) -> Option<ClientSlot> {
        match **self {}
    }

    #[allow(missing_docs, reason = "said in kernel.rs")]
    pub fn expect(self: &Arc<Self>, _: Ends) -> io::Result<Expected> {
        match **self {}
    }
}

impl PoolSlot {
    #[allow(missing_docs, reason = "said in kernel.rs")]
    pub fn enter_server(self: &Arc<Self>, _: usize, _: Ends, _: OwnedFd) -> Option<ServerSlot> {
        match **self {}
    }

    #[allow(missing_docs, reason = "said in kernel.rs")]
    pub fn enter_remote_server(self: &Arc<Self>, _: usize, _: OwnedFd) -> Option<ServerSlot> {
        match **self {}
    }
}

absent! {
    Kernel {
        listen(address: std::net::SocketAddr) -> io::Result<()>;
        wakes() -> BorrowedFd<'_>;
        clear_wakes();
        totals() -> Totals;
        programs() -> &[(String, usize)];
    }
    PoolSlot {
        set_rules(rules: PoolRules);
        grow(words: usize) -> usize;
        idle_word(index: usize) -> &AtomicU64;
        set_waiting(since: Option<Instant>);
        latencies() -> [u64; LATENCY_BUCKETS];
        set_paused(paused: bool);
        overtakes(slot: usize, now: Instant) -> bool;
        linked(slot: usize) -> Option<u64>;
        is_orphan(slot: usize) -> bool;
        released_at(slot: usize) -> Option<Instant>;
        demand(slot: usize);
        take_back(slot: usize, client: u64) -> bool;
        begin_hold(slot: usize, client: u64) -> bool;
        end_hold(slot: usize);
    }
    ServerSlot {
        lend(params: u64);
        withhold();
        set_statements(ids: impl Iterator<Item = u32>);
        take_used() -> std::iter::Empty<u32>;
        hand_over(client: &ClientSlot, transaction: (u8, Instant));
        push(client: &ClientSlot, transaction: (u8, Instant), kinds: &[u8], enders: u32, named: Option<&[u8]>);
        gate() -> &Arc<Gate>;
        taken_back() -> TakenBack;
        delivery() -> Delivery;
        has_drained() -> bool;
        is_remote() -> bool;
        is_unfit() -> bool;
        carried() -> Carried;
    }
    Gate {
        push(requests: &[u8]) -> usize;
        shut_down();
    }
    ClientSlot {
        hand_over(pool: &PoolSlot, params: u64, written: u64, read: u64);
        push(pool: &PoolSlot, params: u64, written: u64, read: u64);
        set_name(name: &[u8], on_servers: (u32, &[u8]));
        remove_name(name: &[u8]);
        is_settled() -> bool;
        set_written(written: u64);
        has_drained() -> bool;
        arm(len: u32) -> bool;
        disarm() -> bool;
        is_handed_over() -> bool;
        reclaim();
        delivery() -> Delivery;
        is_remote() -> bool;
        linked() -> Option<usize>;
        carries() -> Carries;
        service() -> Option<Service>;
        is_unfit() -> bool;
        reason() -> &'static str;
        request_at() -> Option<Instant>;
    }
}
