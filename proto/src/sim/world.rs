//! The simulated world: clients, proxy, backends, time, and the events among which a schedule chooses.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::{BackendModel, Dialect, Hits, Parameters};
use super::checker::Checker;
use super::pipe::Pipe;
use super::random::Random;
use super::script::{self, APPLIED, Kept, PARAMETERS, Segment, Style, Then};
use super::{Options, Report};
use crate::client::Client;
use crate::parameters::{ParameterSet, Tracked};
use crate::pool::quota::Quota;
use crate::pool::{ClientId, Grant, Pool, PoolLimits, PoolMode, ServerId, Ticket};
use crate::prepared::Registry;
use crate::server::Server;
use crate::wire::error_response::ErrorFields;

/// What every step of the simulation returns: an error is a failure of the pooler.
pub(super) type Outcome<T = ()> = Result<T, String>;

pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: Instant,
    pub(super) trace: bool,
    /// Faults are injected until the world is drained.
    pub(super) faults: bool,
    pub(super) report: Report,
    pub(super) tracked: Tracked,
    pub(super) dialect: Dialect,
    pub(super) databases: Vec<Shared>,
    pub(super) users: Vec<Shared>,
    pub(super) pools: Vec<SimPool>,
    pub(super) clients: Vec<SimClient>,
    pub(super) backends: Vec<Backend>,
    pub(super) logins: Vec<Login>,
    pub(super) tests: Vec<Test>,
    pub(super) cancels: Vec<Cancel>,
    pub(super) hits: Hits,
}

/// A quota and its limit.
pub(super) struct Shared {
    pub(super) quota: Arc<Quota>,
    pub(super) limit: u32,
}

pub(super) struct SimPool {
    pub(super) pool: Pool<SimServer, usize>,
    pub(super) mode: PoolMode,
    pub(super) database: usize,
    pub(super) user: usize,
    pub(super) limits: PoolLimits,
    /// Clients that wait for a server, in the order in which they must get one.
    pub(super) queue: VecDeque<usize>,
    /// Values of a server that has just logged in.
    pub(super) welcome: ParameterSet,
    pub(super) registry: Arc<Registry>,
    /// Most prepared statements of a server; 0 = they are not looked after.
    pub(super) prepared_max: u32,
}

/// A server as the proxy has it: its state and what was read and not yet handled, or handled and not yet written.
#[derive(Debug)]
pub(super) struct SimServer {
    pub(super) core: Server,
    pub(super) backend: usize,
    pub(super) unread: Vec<u8>,
    pub(super) unsent: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: ServerId,
    pub(super) server: SimServer,
}

/// Where a client stands in the proxy.
#[derive(Debug)]
pub(super) enum Phase {
    /// Not connected yet.
    Absent,
    LoggingIn(Ticket),
    Unlinked,
    Waiting(Ticket),
    /// Linked; the proxy's SET is under way.
    Setting(Link, Option<ErrorFields>),
    Linked(Link),
    Closed,
}

/// What the application does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Talking,
    /// Wants all replies before it goes on.
    Expecting,
    /// Said goodbye or hung up.
    Leaving,
    /// Saw the end of the connection.
    Gone,
}

pub(super) struct SimClient {
    pub(super) pool: usize,
    pub(super) life: Life,
    pub(super) script: VecDeque<Segment>,
    /// The rest of the segment that is being written.
    pub(super) unwritten: Vec<u8>,
    pub(super) then: Then,
    pub(super) to_proxy: Pipe,
    pub(super) from_proxy: Pipe,
    pub(super) checker: Checker,
    pub(super) start_up: ParameterSet,
    /// One of its parameters is bad.
    pub(super) bad_start_up: bool,
    // The proxy's side.
    pub(super) phase: Phase,
    pub(super) core: Option<Client>,
    pub(super) unread: Vec<u8>,
    pub(super) unsent: Vec<u8>,
    pub(super) grant: Option<Grant<SimServer>>,
}

pub(super) struct Backend {
    pub(super) pool: usize,
    pub(super) id: ServerId,
    pub(super) model: BackendModel,
    pub(super) input: Pipe,
    pub(super) output: Pipe,
    /// The process runs.
    pub(super) alive: bool,
    /// The proxy has not closed its end.
    pub(super) open: bool,
}

pub(super) struct Login {
    pub(super) pool: usize,
    pub(super) id: ServerId,
}

/// A server that runs the reset query or the check query.
pub(super) struct Test {
    pub(super) pool: usize,
    pub(super) link: Link,
    pub(super) failure: Option<ErrorFields>,
}

pub(super) struct Cancel {
    pub(super) pool: usize,
    pub(super) id: ServerId,
    pub(super) backend: usize,
    pub(super) client: usize,
    pub(super) delivered: bool,
}

fn defaults() -> Parameters {
    PARAMETERS.iter().chain(&APPLIED).map(|(name, values)| ((*name).to_owned(), values[0].to_owned())).collect()
}

impl World {
    pub(super) fn new(seed: u64, options: &Options) -> Self {
        let mut random = Random::new(seed);
        let tracked = Tracked::new([]);
        let mut quotas = |count: usize| -> Vec<Shared> {
            (0..count)
                .map(|_| {
                    let limit = if random.chance(50) { 0 } else { random.between(1, 5) as u32 };
                    Shared { quota: Arc::new(Quota::new(limit)), limit }
                })
                .collect()
        };
        let (databases, users) = (quotas(2), quotas(2));
        let dialect = Dialect { reports_at_once: random.chance(50) };
        let mut world = Self {
            random,
            now: Instant::now(),
            trace: options.trace,
            faults: options.faults,
            report: Report::default(),
            tracked,
            dialect,
            databases,
            users,
            pools: Vec::new(),
            clients: Vec::new(),
            backends: Vec::new(),
            logins: Vec::new(),
            tests: Vec::new(),
            cancels: Vec::new(),
            hits: Hits::new(),
        };
        for _ in 0..world.random.between(1, 3) {
            world.add_pool();
        }
        let most = options.clients.max(2);
        for client in 0..world.random.between(2, most) {
            world.add_client(client);
        }
        world
    }

    fn add_pool(&mut self) {
        let mode = match self.random.below(8) {
            0 => PoolMode::Session,
            1 => PoolMode::Statement,
            _ => PoolMode::Transaction,
        };
        let (database, user) = [(0, 0), (0, 1), (1, 0)][self.pools.len()];
        let limits = self.limits();
        let mut welcome = ParameterSet::new(&self.tracked);
        for (name, values) in PARAMETERS {
            let position = self.tracked.position(name).expect("all of them are tracked");
            welcome.set(position, values[0]);
        }
        let quotas = (Arc::clone(&self.databases[database].quota), Arc::clone(&self.users[user].quota));
        let pool = Pool::new(limits, quotas.0, quotas.1);
        let prepared_max = match mode {
            PoolMode::Session => 0,
            _ => self.random.pick(&[0, 1, 2, 5, 200]),
        };
        let (queue, registry) = (VecDeque::new(), Arc::default());
        self.pools.push(SimPool { pool, mode, database, user, limits, queue, welcome, registry, prepared_max });
    }

    pub(super) fn limits(&mut self) -> PoolLimits {
        let random = &mut self.random;
        let mut seconds =
            |low: usize, high: usize| Duration::from_millis(random.between(low * 1000, high * 1000) as u64);
        let (reserve_pool_timeout, server_login_retry) = (seconds(0, 3), seconds(0, 3));
        let (lifetime, idle, check) = (seconds(5, 40), seconds(1, 20), seconds(1, 10));
        PoolLimits {
            pool_size: random.between(1, 4) as u32,
            min_pool_size: random.below(3) as u32,
            reserve_pool_size: random.below(3) as u32,
            reserve_pool_timeout: random.chance(80).then_some(reserve_pool_timeout),
            server_lifetime: match random.below(10) {
                0 => Duration::ZERO,
                1..=4 => lifetime,
                _ => Duration::from_secs(3600),
            },
            server_idle_timeout: random.chance(50).then_some(idle),
            server_check_delay: random.chance(50).then_some(check),
            server_round_robin: random.chance(30),
            server_login_retry,
            query_wait_timeout: None,
        }
    }

    fn add_client(&mut self, client: usize) {
        let random = &mut self.random;
        let pool = random.below(self.pools.len());
        let blocks = self.pools[pool].mode != PoolMode::Statement || random.chance(10);
        let size_max = if random.chance(10) { 200_000 } else { 3000 };
        let kept = match self.pools[pool].mode {
            PoolMode::Session => Kept::ByServer,
            _ if self.pools[pool].prepared_max > 0 => Kept::ByProxy,
            _ => Kept::No,
        };
        let style = Style { waits: random.pick(&[0, 50, 80, 100]), blocks, size_max, kept };
        let units = random.between(1, 12);
        let script = script::write(random, client as u32, units, style).into();
        let capacity = if size_max > 3000 { 65536 } else { random.pick(&[20, 300, 8192, 65536]) };
        // What it would have on a server of its own, with the parameters of its start-up packet.
        let mut parameters = defaults();
        let mut start_up = ParameterSet::new(&self.tracked);
        let bad_start_up = self.faults && random.chance(2);
        for (at, (name, values)) in PARAMETERS.iter().enumerate() {
            let position = self.tracked.position(name).expect("all of them are tracked");
            if random.chance(25) {
                let value = random.pick(values);
                start_up.set(position, value);
                value.clone_into(&mut parameters[at].1);
            }
            if bad_start_up && at == 0 {
                start_up.set(position, "bad");
            }
        }
        // Most clients ask for nothing more, as in life.
        let asks = random.chance(40);
        for (at, (name, values)) in APPLIED.iter().enumerate().filter(|_| asks) {
            if random.chance(50) {
                let value = random.pick(values);
                start_up.apply(name, value);
                value.clone_into(&mut parameters[PARAMETERS.len() + at].1);
            }
        }
        let bad_applied = self.faults && random.chance(2);
        if bad_applied {
            start_up.apply(APPLIED[0].0, "bad");
        }
        self.clients.push(SimClient {
            pool,
            life: Life::Talking,
            script,
            unwritten: Vec::new(),
            then: Then::GoOn,
            to_proxy: Pipe::new(capacity),
            from_proxy: Pipe::new(capacity),
            checker: Checker::new(client, parameters, self.dialect),
            start_up,
            bad_start_up: bad_start_up || bad_applied,
            phase: Phase::Absent,
            core: None,
            unread: Vec::new(),
            unsent: Vec::new(),
            grant: None,
        });
    }

    pub(super) fn id(client: usize) -> ClientId {
        ClientId(client as u64)
    }

    /// Most bytes of one read or write.
    fn most(&mut self) -> usize {
        match self.random.below(8) {
            0 => self.random.between(1, 6),
            1 | 2 => self.random.between(1, 200),
            _ => 65536,
        }
    }

    /// Something happens, or nothing where it was tried.
    pub(super) fn event(&mut self) -> Outcome {
        let (client, backend) = (self.random.below(self.clients.len()), self.backends.len());
        let most = self.most();
        match self.random.below(100) {
            0..=13 => self.client_writes(client, most).map(drop),
            14..=27 => self.read_client(client, most).map(drop),
            28..=37 => self.flush_to_server(client, most).map(drop),
            38..=52 => self.read_server(client, most).map(drop),
            53..=60 => self.flush_to_client(client, most).map(drop),
            61..=68 => self.client_reads(client, most).map(drop),
            69..=73 => self.take_grant(client).map(drop),
            74..=86 if backend > 0 => {
                let at = self.random.below(backend);
                self.backend_runs(at, most);
                Ok(())
            }
            87 | 88 if backend > 0 => {
                let at = self.random.below(backend);
                self.idle_server(at, most).map(drop)
            }
            89 | 90 => self.run_tests(most).map(drop),
            91..=93 => self.run_login().map(drop),
            94 | 95 => self.time_passes(),
            96 | 97 => self.run_cancel().map(drop),
            98 | 99 if self.faults => self.fault(client),
            _ => Ok(()),
        }
    }
}

impl Backend {
    pub(super) fn new(pool: usize, id: ServerId, dialect: Dialect, capacity: usize) -> Self {
        Self {
            pool,
            id,
            model: BackendModel::new(defaults(), dialect),
            input: Pipe::new(capacity),
            output: Pipe::new(capacity),
            alive: true,
            open: true,
        }
    }

    /// Moves flushed output to the connection.
    pub(super) fn send(&mut self, most: usize) -> bool {
        self.model.send(&mut self.output, most) > 0
    }
}
