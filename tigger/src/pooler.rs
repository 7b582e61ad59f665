//! The pooler: configuration in force, databases, pools, clients, and what administrators do to all of them.

pub mod activity;
pub mod cancel;
pub mod clients;
mod host_names;
mod idle_watch;
mod janitor;
pub mod latency;
pub mod listener;
mod login;
pub mod pool;
mod replaced;
pub mod rules;
pub mod server_conn;
pub mod shutdown;
pub mod stats;
pub mod suspension;
mod tested;
mod timeouts;
pub mod users;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use tigger_proto::auth::secret::Secret;
use tigger_proto::error::Error;
use tigger_proto::parameters::Tracked;
use tigger_proto::pool::quota::Quota;
use tigger_proto::server::login::ServerSecret;
use tokio::sync::{Notify, watch};

use crate::admin::Console;
use crate::config::{AuthType, Config, ConfigError, Database, Warning};
use crate::kernel_path::KernelPath;
use crate::net::resolver::Resolver;
use clients::{ClientInfo, Clients};
use pool::{Pool, PoolName};
use rules::PoolConfig;
use shutdown::Phase;
use stats::{Periods, Tally};
use suspension::Suspension;
use users::Users;

/// Everything that connections share.
#[derive(Debug)]
pub struct Pooler {
    /// Names of the tracked parameters.
    pub tracked: Arc<Tracked>,
    /// All clients.
    pub clients: Arc<Clients>,
    /// State of the admin console.
    pub console: Console,
    /// The kernel path, or why there is none.
    pub kernel_path: Arc<KernelPath>,
    /// Whether clients are suspended.
    pub suspension: Suspension,
    /// Addresses of hosts.
    pub resolver: Resolver,
    /// The runtime on which servers are opened.
    pub runtime: tokio::runtime::Handle,
    /// Notified when a server was closed or a client left: what PAUSE and a graceful stop wait for.
    pub changed: Notify,
    phase: watch::Sender<Phase>,
    config: ArcSwap<Config>,
    users: ArcSwap<Users>,
    mock_key: [u8; 32],
    /// PAUSE without a name: holds for databases that nobody has used yet, too.
    all_paused: AtomicBool,
    databases: Mutex<BTreeMap<Arc<str>, Arc<DatabaseState>>>,
    user_quotas: Mutex<HashMap<Arc<str>, Arc<Quota>>>,
    pools: RwLock<BTreeMap<PoolName, Arc<Pool>>>,
    periods: Mutex<Periods>,
}

/// What holds for all pools of a database.
#[derive(Debug, Default)]
pub struct DatabaseState {
    quota: Arc<Quota>,
    paused: AtomicBool,
}

impl DatabaseState {
    /// True after PAUSE or KILL.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Server connections of all its pools.
    pub fn connections(&self) -> u32 {
        self.quota.used()
    }
}

impl Pooler {
    /// A pooler for this configuration. Must be called on the runtime that will serve it.
    ///
    /// # Errors
    /// `auth_file` cannot be read, or the system gives no random bytes.
    pub fn new(config: Config, kernel_path: KernelPath) -> Result<Arc<Self>, String> {
        let mock_key = crate::process::random().map_err(|error| error.to_string())?;
        let (users, warnings) = Users::load(&config, mock_key).map_err(|error| error.to_string())?;
        log_warnings(&warnings);
        let extra = config.settings.track_extra_parameters.iter().map(String::as_str);
        Ok(Arc::new(Self {
            tracked: Arc::new(Tracked::new(extra)),
            clients: Arc::default(),
            console: Console::default(),
            kernel_path: Arc::new(kernel_path),
            suspension: Suspension::default(),
            resolver: Resolver::default(),
            runtime: tokio::runtime::Handle::current(),
            changed: Notify::new(),
            phase: watch::Sender::new(Phase::Running),
            config: ArcSwap::from_pointee(config),
            users: ArcSwap::from_pointee(users),
            mock_key,
            all_paused: AtomicBool::new(false),
            databases: Mutex::default(),
            user_quotas: Mutex::default(),
            pools: RwLock::default(),
            periods: Mutex::new(Periods::new(Instant::now())),
        }))
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The users in force.
    pub fn users(&self) -> Arc<Users> {
        self.users.load_full()
    }

    /// All pools, by name.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.pools.read().expect("nobody panics with this lock").values().cloned().collect()
    }

    /// Pools of one database, or all.
    pub fn pools_of<'a>(&self, database: Option<&'a str>) -> impl Iterator<Item = Arc<Pool>> + use<'a> {
        self.pools().into_iter().filter(move |pool| database.is_none_or(|name| *pool.database == *name))
    }

    /// The pool that serves `user` in `database`; makes it if it is the first time.
    ///
    /// # Errors
    /// There is no such database; `auth_type=any` and the database forces no user.
    pub fn pool(self: &Arc<Self>, database: &str, user: &str) -> Result<Arc<Pool>, Error> {
        let config = self.config();
        let line = config.database(database).ok_or_else(|| Error::NoSuchDatabase(database.to_owned()))?;
        if line.user.is_none() && config.settings.auth_type == AuthType::Any {
            tracing::warn!("auth_type=any requires a forced user for database {database:?}");
            return Err(Error::ConfigError);
        }
        let name = PoolName { database: database.into(), user: line.user.as_deref().unwrap_or(user).into() };
        if let Some(pool) = self.pools.read().expect("nobody panics with this lock").get(&name) {
            return Ok(Arc::clone(pool));
        }
        let mut pools = self.pools.write().expect("nobody panics with this lock");
        // Another client may have made it meanwhile.
        if let Some(pool) = pools.get(&name) {
            return Ok(Arc::clone(pool));
        }
        if line.auto {
            tracing::info!("registered new auto-database: {database}");
        }
        let state = self.database_state(&name.database);
        let quotas = (Arc::clone(&state.quota), self.user_quota(&name.user));
        self.set_quotas(&config, &line, &name.user, &quotas);
        let secret = server_secret(&line, &self.users(), &name.user);
        let pool_config = PoolConfig::of(&config, line, &name.user);
        let pool = Arc::new(Pool::new(name.clone(), pool_config, quotas, secret, self));
        if state.is_paused() || self.all_paused.load(Ordering::Relaxed) {
            state.paused.store(true, Ordering::Relaxed);
            pool.run(tigger_proto::pool::Pool::pause);
        }
        pools.insert(name, Arc::clone(&pool));
        Ok(pool)
    }

    /// State of a database, made if it has none yet.
    pub fn database_state(&self, name: &Arc<str>) -> Arc<DatabaseState> {
        let mut databases = self.databases.lock().expect("nobody panics with this lock");
        Arc::clone(databases.entry(Arc::clone(name)).or_default())
    }

    fn user_quota(&self, name: &Arc<str>) -> Arc<Quota> {
        let mut quotas = self.user_quotas.lock().expect("nobody panics with this lock");
        Arc::clone(quotas.entry(Arc::clone(name)).or_default())
    }

    fn set_quotas(&self, config: &Config, line: &Database, user: &str, quotas: &(Arc<Quota>, Arc<Quota>)) {
        let settings = config.pool_settings(line, user);
        quotas.0.set_limit(settings.max_db_connections.unwrap_or(0));
        quotas.1.set_limit(settings.max_user_connections.unwrap_or(0));
    }

    /// Makes the pools that must keep `min_pool_size` servers before any client comes: those of forced users.
    pub fn open_minimum(self: &Arc<Self>) {
        for (name, line) in &self.config().databases {
            if let Some(user) = &line.user
                && let Err(error) = self.pool(name, user)
            {
                tracing::warn!("database {name:?}: {error}");
            }
        }
    }

    /// Forgets pools that had neither clients nor servers for a while: those of automatic databases in any case, because their
    /// names come from clients, so that they must not pile up.
    fn forget_unused(&self, now: Instant) {
        let config = self.config();
        let limits = (config.settings.pool_idle_timeout, config.settings.autodb_idle_timeout);
        let is_unused = |pool: &Arc<Pool>| pool.run(|core| core.total() + core.waiting_count()) == 0;
        for pool in self.pools() {
            let limit = match limits {
                (Some(any), auto) if pool.is_auto() => any.min(auto),
                (None, auto) if pool.is_auto() => auto,
                (Some(any), _) => any,
                (None, _) => continue,
            };
            // Besides the registry and this loop, every client knows its pool.
            let unused = is_unused(&pool) && Arc::strong_count(&pool) == 2;
            if !pool.is_unused_for(now, unused, limit) {
                continue;
            }
            let mut pools = self.pools.write().expect("nobody panics with this lock");
            // Only the registry and this loop know it: no client is just about to use it.
            if Arc::strong_count(&pool) == 2 {
                tracing::info!("cleaning up idle pool: {}/{}", pool.database, pool.user);
                pools.remove(&pool.name());
            }
        }
        let mut databases = self.databases.lock().expect("nobody panics with this lock");
        databases.retain(|_, state| Arc::strong_count(&state.quota) > 1 || state.is_paused());
    }

    // What administrators do.

    /// Reads the configuration and `auth_file` again and puts them in force.
    ///
    /// # Errors
    /// Something in the files is wrong; then nothing changes.
    pub fn reload(self: &Arc<Self>) -> Result<(), ConfigError> {
        let (config, mut warnings) = self.config().reload()?;
        let (users, more) = Users::load(&config, self.mock_key)?;
        warnings.extend(more);
        log_warnings(&warnings);
        self.users.store(Arc::new(users));
        self.config.store(Arc::new(config));
        let config = self.config();
        for pool in self.pools() {
            match config.database(&pool.database) {
                Some(line) if line.user.as_ref().is_none_or(|user| **user == *pool.user) => {
                    let quotas = (Arc::clone(&self.database_state(&pool.database).quota), self.user_quota(&pool.user));
                    self.set_quotas(&config, &line, &pool.user, &quotas);
                    let secret = server_secret(&line, &self.users(), &pool.user);
                    pool.set_config(PoolConfig::of(&config, line, &pool.user), secret);
                }
                // Removed, or another user is forced now.
                line => {
                    let reason = if line.is_some() { Error::DatabaseConfigChanged } else { Error::DatabaseRemoved };
                    self.remove_pool(&pool, &reason);
                }
            }
        }
        self.forget_host_names();
        self.open_minimum();
        Ok(())
    }

    fn remove_pool(&self, pool: &Arc<Pool>, reason: &Error) {
        self.pools.write().expect("nobody panics with this lock").remove(&pool.name());
        self.end_clients(|info| info.pool().is_some_and(|its| Arc::ptr_eq(&its, pool)), reason);
        pool.run(|core| {
            core.pause();
            core.reconnect(Instant::now(), reason);
            // Those who log in are not among its clients yet.
            core.fail_waiting(reason);
        });
    }

    /// PAUSE: no client of these pools is linked from now on; idle servers are closed.
    pub fn pause(&self, database: Option<&str>) {
        self.set_paused(database, true);
        self.pools_of(database).for_each(|pool| {
            pool.run(tigger_proto::pool::Pool::pause);
            pool.end_listening(&Error::PauseMode);
        });
    }

    /// RESUME, after PAUSE or KILL.
    pub fn resume(&self, database: Option<&str>) {
        self.set_paused(database, false);
        self.pools_of(database).for_each(|pool| pool.run(|core| core.resume(Instant::now())));
        self.changed.notify_waiters();
    }

    /// Waits until this pool is not paused.
    pub async fn unpaused(&self, pool: &Arc<Pool>) {
        self.until(|| !pool.run(|core| core.is_paused())).await;
    }

    fn set_paused(&self, database: Option<&str>, paused: bool) {
        if database.is_none() {
            self.all_paused.store(paused, Ordering::Relaxed);
        }
        let names: Vec<Arc<str>> = match database {
            Some(name) => vec![name.into()],
            None => self.database_names().into_iter().map(Arc::from).collect(),
        };
        for name in names {
            self.database_state(&name).paused.store(paused, Ordering::Relaxed);
        }
    }

    /// Waits until no server of these pools is in use.
    pub async fn released(&self, database: Option<&str>) {
        self.until(|| self.pools_of(database).all(|pool| pool.run(|core| core.busy()) == 0)).await;
    }

    /// Waits until `done`, which only the events of `changed` can make true.
    async fn until(&self, done: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if done() {
                return;
            }
            changed.await;
        }
    }

    /// RECONNECT: every server is replaced when it is released.
    pub fn reconnect(&self, database: Option<&str>) {
        self.pools_of(database).for_each(|pool| {
            pool.run(|core| core.reconnect(Instant::now(), &Error::CloseNeeded));
            pool.end_listening(&Error::DatabaseConfigChanged);
        });
    }

    /// KILL: all clients and servers are disconnected at once; the database stays paused.
    pub fn kill(&self, database: Option<&str>) {
        self.pause(database);
        let hit =
            |info: &ClientInfo| info.pool().is_some_and(|pool| database.is_none_or(|name| *pool.database == *name));
        self.end_clients(hit, &Error::AdminDisconnect);
    }

    fn end_clients(&self, hit: impl Fn(&ClientInfo) -> bool, reason: &Error) {
        self.clients.all().iter().filter(|info| hit(info)).for_each(|info| info.end(reason.clone()));
    }

    /// Names of all databases: of the configuration, and automatic ones.
    pub fn database_names(&self) -> Vec<String> {
        let config = self.config();
        let mut names: Vec<String> = config.databases.keys().cloned().collect();
        names.extend(self.pools().iter().map(|pool| pool.database.to_string()));
        names.sort();
        names.dedup();
        names
    }

    /// Counters of each database.
    pub fn totals(&self) -> BTreeMap<String, Tally> {
        let mut totals: BTreeMap<String, Tally> = BTreeMap::new();
        for pool in self.pools() {
            let total = totals.entry(pool.database.to_string()).or_default();
            *total = total.plus(&pool.tally());
        }
        totals
    }

    /// Averages of a database over the last period.
    pub fn averages(&self, database: &str) -> Tally {
        self.periods.lock().expect("nobody panics with this lock").averages(database)
    }
}

fn log_warnings(warnings: &[Warning]) {
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
}

fn server_secret(line: &Database, users: &Users, user: &str) -> ServerSecret {
    let secret = match &line.password {
        Some(password) => Some(Secret::parse(password.expose())),
        None => users.secret(user).cloned(),
    };
    ServerSecret { secret, client_key: None }
}
