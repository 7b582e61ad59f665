//! The kernel path, as the rest of the process sees it: whether there is one, and which end is where.
//!
//! ```text
//!                     hand_over                        the programs link, carry, release
//!   client  User ---------------------> Kernel, idle <-----------------------------------> Kernel, linked
//!            ^  <-- "not me", hang-up -----/                                                    |
//!            \------------- take_back: "not me", hang-up, a word from the server --------------/
//!
//!                     lend                             the programs claim, release
//!   server  User ---------------------> Idle <--------------------------------------------> with a client
//!            ^  <-- claim, close ---------/                                                     |
//!            \--------------------------------------- take_back -------------------------------/
//! ```
//! `User` is the state of everything that speaks TLS, or came through a Unix socket, and of clients and servers that are both
//! on other hosts. Where only one of a pair is on this host, the other is remote: what a remote client asks is pushed (it goes
//! from User to linked and back), what a remote server answers takes the pair back. The programs know a client or a server by
//! a slot, which [`KernelClient`] and [`KernelServer`] own.

mod client;
mod pool;
mod server;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tigger_bypass::{Carried, Ends, Expected, Kernel, PoolRules, Sizes, Totals, Unavailable};
use tigger_proto::parameters::ParameterSet;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use client::{CutShort, KernelClient, Reclaimed};
pub use pool::SharedPool;
pub use server::{KernelServer, Resumed};

use crate::config::{KernelPath as Setting, PoolMode, Settings};
use crate::pooler::rules::PoolConfig;
use crate::pooler::stats::Tally;

/// The kernel path of this process, or why there is none.
#[derive(Debug)]
pub struct KernelPath {
    kernel: Result<Arc<Kernel>, String>,
    hasher: RandomState,
}

impl KernelPath {
    /// Loads the programs, if the settings want them. Must come before the process gives up its rights.
    ///
    /// # Errors
    /// `kernel_path = require`, and it cannot be had.
    pub fn start(settings: &Settings) -> Result<Self, String> {
        let kernel = match settings.kernel_path {
            Setting::Off => Err("kernel_path = off".to_owned()),
            Setting::Auto | Setting::Require => {
                Kernel::load(sizes(settings)).map_err(|reason: Unavailable| reason.to_string())
            }
        };
        match (&kernel, settings.kernel_path) {
            (Err(reason), Setting::Require) => Err(format!("kernel_path = require, but {reason}")),
            _ => Ok(Self { kernel, hasher: RandomState::new() }),
        }
    }

    /// Why there is none; `None` if there is one.
    pub fn unavailable(&self) -> Option<&str> {
        self.kernel.as_ref().err().map(String::as_str)
    }

    /// Clients connect to this address.
    pub fn listen(&self, address: SocketAddr) {
        if let Ok(kernel) = &self.kernel
            && let Err(error) = kernel.listen(address)
        {
            tracing::warn!("kernel path: clients of {address} stay on the user path: {error}");
        }
    }

    /// A slot for a pool; `None` without a kernel path, or when it has no slot left.
    pub fn enter_pool(&self) -> Option<Arc<SharedPool>> {
        let slot = self.kernel.as_ref().ok()?.enter_pool();
        if slot.is_none() {
            tracing::warn!("kernel path: no room for another pool, it stays on the user path");
        }
        Some(Arc::new(SharedPool::new(slot?)))
    }

    /// A connection to a server on this host is about to be opened.
    pub fn expect(&self, ends: Ends) -> Option<Expected> {
        match self.kernel.as_ref().ok()?.expect(ends) {
            Ok(expected) => Some(expected),
            Err(error) => {
                tracing::warn!("kernel path: a server stays on the user path: {error}");
                None
            }
        }
    }

    /// Waits until servers were released while clients wait: see [`Kernel::wakes`]. For ever without a kernel path.
    ///
    /// # Errors
    /// The ring buffer cannot be watched.
    pub async fn woken(&self, wakes: &AsyncFd<OwnedFd>) -> io::Result<()> {
        wakes.readable().await?.clear_ready();
        if let Ok(kernel) = &self.kernel {
            kernel.clear_wakes();
        }
        Ok(())
    }

    /// What [`Self::woken`] waits for; `None` without a kernel path.
    ///
    /// # Errors
    /// The runtime cannot watch it.
    pub fn wakes(&self) -> io::Result<Option<AsyncFd<OwnedFd>>> {
        let Ok(kernel) = &self.kernel else { return Ok(None) };
        let fd = kernel.wakes().try_clone_to_owned()?;
        #[allow(
            deprecated,
            reason = "it is unsound for file descriptors that somebody else may close, which this is not"
        )]
        Ok(Some(AsyncFd::with_interest(fd, Interest::READABLE)?))
    }

    /// What it did so far; `None` without one.
    pub fn totals(&self) -> Option<Totals> {
        Some(self.kernel.as_ref().ok()?.totals())
    }

    /// The loaded programs and how many instructions each has.
    pub fn programs(&self) -> &[(String, usize)] {
        self.kernel.as_ref().map_or(&[], |kernel| kernel.programs())
    }

    /// A name for a parameter set: equal names mean equal sets. A keyed hash of 64 bits, so that the names of sets that
    /// came and went need no memory, and nobody can make two sets meet. Never 0.
    fn params(&self, set: &ParameterSet) -> u64 {
        self.hasher.hash_one(set).max(1)
    }
}

/// The name of a parameter set, kept for as long as the set does not change.
#[derive(Debug, Default)]
struct Params(Option<(ParameterSet, u64)>);

impl Params {
    fn of(&mut self, path: &KernelPath, set: &ParameterSet) -> u64 {
        match &self.0 {
            Some((known, name)) if known.is_same(set) => *name,
            _ => {
                let name = path.params(set);
                self.0 = Some((set.clone(), name));
                name
            }
        }
    }
}

/// Room for all clients that may come and, within reason, for all servers and pools.
fn sizes(settings: &Settings) -> Sizes {
    Sizes {
        clients: settings.max_client_conn.clamp(CLIENTS_MIN, CLIENTS_MAX),
        server_chunks: SERVER_CHUNKS,
        pools: POOLS,
    }
}

/// What the kernel path may do for clients of a pool.
pub fn pool_rules(config: &PoolConfig) -> PoolRules {
    let link = config.link;
    PoolRules {
        // A check before or a reset query after each transaction is the user path's, and so is refusing transactions in
        // statement mode.
        enabled: config.kernel_path != Setting::Off
            && !config.checks_each_use()
            && match link.mode {
                PoolMode::Session => true,
                PoolMode::Transaction => config.reset_query.is_none(),
                PoolMode::Statement => false,
            },
        session: link.mode == PoolMode::Session,
        simple_query: link.limits.simple_query,
        prepared: link.limits.prepared_max > 0,
        commands: link.limits.has_commands(),
        reply_limit: config.kernel_path_reply_limit,
        packet_len_max: link.limits.packet_len_max,
    }
}

/// What the kernel path carried, as the statistics count it.
pub fn tally(carried: &Carried) -> Tally {
    Tally {
        server_assignment_count: carried.links,
        xact_count: carried.xacts,
        query_count: carried.queries,
        bind_count: carried.binds,
        bytes_received: carried.received,
        bytes_sent: carried.sent,
        xact_time: carried.xact_time,
        query_time: carried.query_time,
        ..Tally::default()
    }
}

/// Clients for which there is room even with a small `max_client_conn`, which a reload may raise.
const CLIENTS_MIN: u32 = 1024;
/// A slot and the maps behind it take about 400 bytes: 100 MiB at most.
const CLIENTS_MAX: u32 = 1 << 18;
/// 4096 servers, 4 MiB.
const SERVER_CHUNKS: u32 = 64;
/// Each pool has a chunk of servers of its own, so more pools than chunks have no use.
const POOLS: u32 = SERVER_CHUNKS;
