//! A pool with real servers: the sans-IO pool under a lock, and the one place that carries out its decisions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tigger_bypass::{Carried, Delivery};
use tigger_proto::error::{Error, Level};
use tigger_proto::parameters::Tracked;
use tigger_proto::pool::quota::{Quota, Scope};
use tigger_proto::pool::shared::{Look, Shared};
use tigger_proto::pool::{Action, Grant, Pool as Core, ServerId};
use tigger_proto::prepared::Registry;
use tigger_proto::server::login::{ServerSecret, Welcome};
use tokio::sync::oneshot;

use super::Pooler;
use super::latency::{Histogram, Latencies};
use super::listener::Listener;
use super::rules::{LinkRules, PoolConfig};
use super::server_conn::{ServerConn, ServerInfo};
use super::stats::{Counters, Tally};
use crate::config::{Database, Host, LoadBalanceHosts};
use crate::kernel_path::{self, KernelPath, SharedPool};

/// How a waiting client is told.
pub type Waiter = oneshot::Sender<Grant<Box<ServerConn>>>;

/// The bookkeeping of this pool.
pub type PoolCore = Core<Box<ServerConn>, Waiter>;

/// The pool of one (database, user).
#[derive(Debug)]
pub struct Pool {
    /// Name of the database as clients know it.
    pub database: Arc<str>,
    /// The user that servers are logged in as.
    pub user: Arc<str>,
    /// Counters of its traffic on the user path.
    pub counters: Counters,
    /// How long servers worked on queries of the user path.
    pub latencies: Histogram,
    /// What the kernel path carried with servers that are closed.
    carried_before: Mutex<Carried>,
    /// Names of the tracked parameters.
    pub tracked: Arc<Tracked>,
    /// The prepared statements of its clients and servers.
    pub prepared: Arc<Registry>,
    config: ArcSwap<PoolConfig>,
    core: Mutex<PoolCore>,
    kernel_path: Arc<KernelPath>,
    /// What it shares with the kernel path.
    shared: Option<Arc<SharedPool>>,
    welcome: Mutex<Option<Arc<Welcome>>>,
    servers: Mutex<HashMap<ServerId, Arc<ServerInfo>>>,
    secret: Mutex<ServerSecret>,
    /// Listens for its clients.
    pub(super) listener: Listener,
    /// Counts up to the host, of several, that a new server is on.
    host: AtomicUsize,
    /// Since when nothing used it.
    unused_since: Mutex<Option<Instant>>,
    pooler: Weak<Pooler>,
    runtime: tokio::runtime::Handle,
}

/// Names a pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolName {
    /// The database as clients name it.
    pub database: Arc<str>,
    /// The user that servers are logged in as.
    pub user: Arc<str>,
}

impl Pool {
    /// A pool without servers.
    pub fn new(
        name: PoolName,
        config: PoolConfig,
        quotas: (Arc<Quota>, Arc<Quota>),
        secret: ServerSecret,
        pooler: &Arc<Pooler>,
    ) -> Self {
        let core = Core::new(config.limits, quotas.0, quotas.1);
        let shared = if kernel_path::pool_rules(&config).enabled { pooler.kernel_path.enter_pool() } else { None };
        let core = match &shared {
            Some(shared) => {
                shared.set_rules(kernel_path::pool_rules(&config));
                core.sharing(Arc::clone(shared) as Arc<dyn Shared>)
            }
            None => core,
        };
        Self {
            database: name.database,
            user: name.user,
            counters: Counters::default(),
            latencies: Histogram::default(),
            carried_before: Mutex::default(),
            tracked: Arc::clone(&pooler.tracked),
            prepared: Arc::default(),
            core: Mutex::new(core),
            kernel_path: Arc::clone(&pooler.kernel_path),
            shared,
            config: ArcSwap::from_pointee(config),
            welcome: Mutex::default(),
            servers: Mutex::default(),
            secret: Mutex::new(secret),
            listener: Listener::default(),
            host: AtomicUsize::new(0),
            unused_since: Mutex::default(),
            pooler: Arc::downgrade(pooler),
            runtime: pooler.runtime.clone(),
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<PoolConfig> {
        self.config.load_full()
    }

    /// Its name.
    pub fn name(&self) -> PoolName {
        PoolName { database: Arc::clone(&self.database), user: Arc::clone(&self.user) }
    }

    /// True when the database was made from the fallback entry `*`.
    pub fn is_auto(&self) -> bool {
        self.config.load().database.auto
    }

    /// Notes whether it is unused now; true when it has been for `limit`.
    pub(super) fn is_unused_for(&self, now: Instant, unused: bool, limit: Duration) -> bool {
        let mut since = self.unused_since.lock().expect("nobody panics with this lock");
        *since = if unused { since.or(Some(now)) } else { None };
        since.is_some_and(|since| now.saturating_duration_since(since) >= limit)
    }

    /// What a link needs of it.
    pub fn link_rules(&self) -> LinkRules {
        self.config.load().link
    }

    /// See [`PoolConfig::checks_each_use`].
    pub fn checks_each_use(&self) -> bool {
        self.config.load().checks_each_use()
    }

    /// Puts a new configuration in force. Servers connected under another one are replaced.
    pub fn set_config(self: &Arc<Self>, config: PoolConfig, secret: ServerSecret) {
        let now = Instant::now();
        let old = self.config.load_full();
        let changed = !old.database.reaches_same_server(&config.database) || self.secret().secret != secret.secret;
        if changed {
            *self.secret.lock().expect("nobody panics with this lock") = secret;
        }
        let limits = config.limits;
        if let Some(shared) = &self.shared {
            shared.set_rules(kernel_path::pool_rules(&config));
        }
        self.config.store(Arc::new(config));
        self.run(|core| {
            core.set_limits(now, limits);
            if changed {
                core.reconnect(now, &Error::DatabaseConfigChanged);
            }
        });
        if changed {
            self.end_listening(&Error::DatabaseConfigChanged);
        }
    }

    /// The host for a new server.
    pub(super) fn choose_host(&self, database: &Database) -> Host {
        let turn = match database.load_balance_hosts {
            LoadBalanceHosts::RoundRobin => self.host.fetch_add(1, Ordering::Relaxed),
            LoadBalanceHosts::Disable => self.host.load(Ordering::Relaxed),
        };
        database.hosts[turn % database.hosts.len()].clone()
    }

    /// A connection to the host that was chosen last has failed: the next is on another, if there is one.
    pub(super) fn leave_host(&self) {
        if self.config.load().database.load_balance_hosts == LoadBalanceHosts::Disable {
            self.host.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// With what servers are logged in to.
    pub fn secret(&self) -> ServerSecret {
        self.secret.lock().expect("nobody panics with this lock").clone()
    }

    /// A client proved itself with this key: with the same secret on both sides, it also opens servers.
    pub fn set_client_key(&self, key: tigger_proto::auth::secret::Key) {
        self.secret.lock().expect("nobody panics with this lock").client_key = Some(key);
    }

    /// What the first server of this pool said about itself.
    pub fn welcome(&self) -> Option<Arc<Welcome>> {
        self.welcome.lock().expect("nobody panics with this lock").clone()
    }

    /// A server logged in and said this.
    pub fn set_welcome(&self, welcome: Welcome) {
        *self.welcome.lock().expect("nobody panics with this lock") = Some(Arc::new(welcome));
    }

    /// The kernel path of the process.
    pub fn kernel_path(&self) -> &Arc<KernelPath> {
        &self.kernel_path
    }

    /// What this pool shares with the kernel path.
    pub fn shared(&self) -> Option<&Arc<SharedPool>> {
        self.shared.as_ref()
    }

    /// Counters of its traffic on both paths.
    pub fn tally(&self) -> Tally {
        self.counters.read().plus(&kernel_path::tally(&self.carried()))
    }

    /// How long servers worked on queries, on both paths.
    pub fn latencies(&self) -> Latencies {
        let user = self.latencies.read();
        self.shared.as_ref().map_or(user, |shared| shared.latencies().plus(&user))
    }

    /// What the kernel path carried of it.
    pub fn carried(&self) -> Carried {
        // Under the lock under which servers are forgotten, so that none is counted twice.
        let servers = self.servers.lock().expect("nobody panics with this lock");
        let before = *self.carried_before.lock().expect("nobody panics with this lock");
        let now = servers.values().filter_map(|info| Some(info.kernel()?.carried()));
        now.fold(before, |sum, carried| sum.plus(&carried))
    }

    /// What the console shows of a server.
    pub fn server_info(&self, id: ServerId) -> Option<Arc<ServerInfo>> {
        self.servers.lock().expect("nobody panics with this lock").get(&id).cloned()
    }

    /// The servers of which this holds.
    pub(super) fn servers_of(&self, holds: impl Fn(&ServerInfo) -> bool) -> Vec<ServerId> {
        let servers = self.servers.lock().expect("nobody panics with this lock");
        servers.iter().filter(|(_, info)| holds(info)).map(|(id, _)| *id).collect()
    }

    /// What all pools share; `None` at the end of the process.
    pub(super) fn pooler(&self) -> Option<Arc<Pooler>> {
        self.pooler.upgrade()
    }

    /// Enters a server for the console.
    pub fn enter_server(&self, id: ServerId, info: Arc<ServerInfo>) {
        self.servers.lock().expect("nobody panics with this lock").insert(id, info);
    }

    /// Asks the bookkeeping and carries out what follows from it.
    pub fn run<R>(self: &Arc<Self>, ask: impl FnOnce(&mut PoolCore) -> R) -> R {
        let mut actions = Vec::new();
        let result = {
            let mut core = self.core.lock().expect("nobody panics with this lock");
            let result = ask(&mut core);
            while let Some(action) = core.poll_action() {
                actions.push(action);
            }
            result
        };
        for action in actions {
            self.act(action);
        }
        result
    }

    fn act(self: &Arc<Self>, action: Action<Box<ServerConn>, Waiter>) {
        match action {
            Action::Connect(id) => {
                let pool = Arc::clone(self);
                if self.run(|core| core.total()) > self.config.load().limits.pool_size as usize {
                    tracing::warn!("{}/{}: taking connection from reserve_pool", self.database, self.user);
                }
                self.runtime.spawn(async move { super::login::connect(&pool, id, None).await });
            }
            Action::ConnectReplication(id, startup) => {
                let pool = Arc::clone(self);
                self.runtime.spawn(async move { super::login::connect(&pool, id, Some(&startup)).await });
            }
            Action::Close(id, server, reason) => {
                self.log_close(&server.info, &reason);
                self.forget(id, *server);
            }
            Action::Check(_, server) => self.begin_check(server),
            Action::Grant(waiter, grant) => {
                // The client left while it was served: what it got goes back.
                if let Err(Grant::Server(id, server)) = waiter.send(grant) {
                    self.run(|core| core.handle_release(Instant::now(), id, server));
                }
            }
            Action::End(client, reason) => {
                let info = self.pooler.upgrade().and_then(|pooler| pooler.clients.by_id(client));
                // It may just have left.
                info.into_iter().for_each(|info| info.end(reason.clone()));
            }
            Action::ServeSoon => {
                let pool = Arc::clone(self);
                self.runtime.spawn(async move {
                    // Not by a timer: where nobody claims the server, who waits must not wait longer.
                    tokio::task::yield_now().await;
                    pool.run(|core| core.handle_wake(Instant::now()));
                });
            }
            Action::Evict(scope) => self.make_room(scope),
        }
    }

    /// Closes the longest idle server of the other pools that share a quota with this one.
    fn make_room(self: &Arc<Self>, scope: Scope) {
        let Some(pooler) = self.pooler.upgrade() else { return };
        let shares = |other: &Arc<Self>| {
            !Arc::ptr_eq(other, self)
                && match scope {
                    Scope::Database => other.database == self.database,
                    Scope::User => other.user == self.user,
                }
        };
        let oldest = pooler
            .pools()
            .into_iter()
            .filter(shares)
            .filter_map(|pool| Some((pool.run(|core| core.idle_since())?, pool)))
            .min_by_key(|(since, _)| *since);
        if let Some((_, other)) = oldest
            && other.run(PoolCore::evict)
        {
            self.run(|core| core.check_launch(Instant::now()));
        }
    }

    /// A client is done with an idle server.
    pub fn release(self: &Arc<Self>, now: Instant, server: Box<ServerConn>) {
        if self.config.load().reset_query.is_some() && server.info.replication.is_none() {
            self.reset(server);
        } else {
            self.give_back(now, server);
        }
    }

    /// An idle server of which nothing is left of its last client goes back.
    pub fn give_back(self: &Arc<Self>, now: Instant, mut server: Box<ServerConn>) {
        match server.settle(&self.tracked) {
            Ok(()) => self.run(|core| core.handle_release(now, server.id, server)),
            Err(reason) => self.close(server, &reason),
        }
    }

    /// Closes a server that is out of the pool, with a client or in its test.
    #[allow(clippy::boxed_local, reason = "servers travel in boxes")]
    pub fn close(self: &Arc<Self>, server: Box<ServerConn>, reason: &Error) {
        self.log_close(&server.info, reason);
        let id = server.id;
        self.run(|core| core.handle_closed(Instant::now(), id));
        self.forget(id, *server);
    }

    /// Prepared statements are out of date: the kernel path must not use what any server has.
    pub fn retire_statements(&self) {
        tracing::info!("{}/{}: a table has changed, statements are prepared again", self.database, self.user);
        let servers = self.servers.lock().expect("nobody panics with this lock");
        servers.values().filter_map(|info| info.kernel()).for_each(|slot| slot.set_statements(std::iter::empty()));
    }

    /// Ends the connections of servers that are about to send the rest of a reply of which a client's socket took only a
    /// part: nobody else may get it.
    pub fn end_cut_short(&self) {
        // Under the lock under which servers are forgotten: their slots must not outlive them.
        let servers = self.servers.lock().expect("nobody panics with this lock");
        let slots = servers.values().filter_map(|info| info.kernel());
        for slot in slots.filter(|slot| slot.delivery() == Delivery::Short) {
            tracing::warn!(
                "{}/{}: a client's socket did not take a reply, its server is ended",
                self.database,
                self.user
            );
            slot.gate().shut_down();
        }
    }

    /// The bookkeeping has forgotten this server.
    fn forget(&self, id: ServerId, server: ServerConn) {
        {
            let mut servers = self.servers.lock().expect("nobody panics with this lock");
            servers.remove(&id);
            if let Some(kernel) = &server.kernel {
                let mut before = self.carried_before.lock().expect("nobody panics with this lock");
                *before = before.plus(&kernel.carried());
            }
        }
        server.close();
        if let Some(pooler) = self.pooler.upgrade() {
            pooler.changed.notify_waiters();
        }
    }

    /// Bytes or a hang-up came from a server. If the kernel path has linked it, its client is told, which takes the pair
    /// back; false if it has not.
    pub(super) fn tell_linked(&self, id: ServerId) -> bool {
        // Should the slot be another server's by now, its client finds nothing to do.
        let client = self.shared.as_ref().and_then(|shared| shared.linked(id.slot as usize));
        let info = client.and_then(|client| self.pooler.upgrade()?.clients.by_id(client));
        info.is_some_and(|info| {
            info.ask_take_back();
            true
        })
    }

    /// Bytes or a hang-up came from an idle server, and nothing watches it any more.
    pub(super) fn check_idle(self: &Arc<Self>, id: ServerId) {
        match self.run(|core| core.look_idle(id)) {
            Look::Idle(server) => self.give_back(Instant::now(), server),
            Look::Linked if self.tell_linked(id) => {}
            Look::Linked | Look::Changing => {
                // The kernel path is about to link or to release it, and only needs a processor for that.
                let pool = Arc::clone(self);
                self.runtime.spawn(async move {
                    tokio::time::sleep(CHANGING_POLL).await;
                    pool.check_idle(id);
                });
            }
            Look::Elsewhere => {}
        }
    }

    /// Looks at all servers that were heard of while the pool had them.
    pub fn check_woken(self: &Arc<Self>) {
        let woken: Vec<ServerId> = self.run(|core| {
            let woken = core.at_home().filter(|(_, server)| server.watch.has_woken());
            woken.map(|(id, _)| id).collect()
        });
        woken.into_iter().for_each(|id| self.check_idle(id));
    }

    /// The runtime on which servers are opened and watched.
    pub(super) fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }

    fn log_close(&self, info: &ServerInfo, reason: &Error) {
        let (database, user, remote) = (&self.database, &self.user, info.remote);
        match reason.level() {
            Level::Warning => tracing::warn!(
                "S-{:#x}: {database}/{user}@{remote} closing because: {reason}{}",
                info.serial,
                age(info)
            ),
            Level::Info if self.config.load().log_disconnections => {
                tracing::info!(
                    "S-{:#x}: {database}/{user}@{remote} closing because: {reason}{}",
                    info.serial,
                    age(info)
                );
            }
            Level::Info => {}
        }
    }
}

/// Time until a server is looked at again that the kernel path is about to link or to release.
const CHANGING_POLL: Duration = Duration::from_millis(1);

fn age(info: &ServerInfo) -> String {
    format!(" (age={}s)", crate::process::unix_micros().saturating_sub(info.connected_at) / 1_000_000)
}
