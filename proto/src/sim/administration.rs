//! What the process does for its pools: logins, evictions, grants; and the checks of every state that a pool can be in.

use std::time::Duration;

use super::checker::is_noise;
use super::driver::CHECK_QUERY;
use super::world::{Backend, Life, Link, Login, Outcome, Phase, SimServer, World};
use crate::error::Error;
use crate::pool::quota::Scope;
use crate::pool::{Action, Grant, PoolMode, Purpose, ServerId, ServerState};
use crate::server::Server;
use crate::wire::error_response::ErrorFields;
use crate::wire::frame::{Header, MESSAGE_LEN_MAX};

impl World {
    /// Carries out what a pool asks for.
    pub(super) fn act(&mut self, p: usize) -> Outcome {
        while let Some(action) = self.pools[p].pool.poll_action() {
            match action {
                Action::Connect(id) => {
                    self.check_connect(p)?;
                    self.logins.push(Login { pool: p, id });
                }
                Action::Close(_, server, error) => {
                    if self.trace {
                        eprintln!("pool {p} closes backend {}: {error}", server.backend);
                    }
                    match error {
                        Error::ServerLifetime => self.report.lifetimes_over += 1,
                        Error::ServerIdleTimeout => self.report.idle_timeouts += 1,
                        Error::Evicted => self.report.evictions += 1,
                        _ => {}
                    }
                    self.hang_up(server.backend);
                }
                Action::Check(id, server) => {
                    self.begin_own(p, Link { id, server }, CHECK_QUERY);
                    self.report.checks += 1;
                }
                Action::Grant(c, grant) => self.grant(p, c, grant)?,
                Action::Evict(scope) => self.evict(p, scope)?,
                Action::ConnectReplication(..) | Action::End(..) => return Err("nobody replicates here".into()),
                Action::ServeSoon => return Err("there is no kernel path".into()),
            }
        }
        Ok(())
    }

    fn grant(&mut self, p: usize, c: usize, grant: Grant<SimServer>) -> Outcome {
        let pool = &mut self.pools[p];
        if let Grant::Server(..) = grant {
            if pool.queue.pop_front() != Some(c) {
                return Err(format!("client {c} was served before its turn"));
            }
            if pool.pool.is_paused() {
                return Err(format!("client {c} was served in a paused pool"));
            }
            self.report.grants += 1;
        } else {
            pool.queue.retain(|&waiting| waiting != c);
        }
        self.clients[c].grant = Some(grant);
        Ok(())
    }

    /// A pool needs room: the longest idle server of the pools that share its quota goes.
    fn evict(&mut self, p: usize, scope: Scope) -> Outcome {
        if self.pools[p].pool.waiting_count() == 0 {
            return Err(format!("pool {p} evicts for nobody"));
        }
        let shares = |q: usize| match scope {
            Scope::Database => self.pools[q].database == self.pools[p].database,
            Scope::User => self.pools[q].user == self.pools[p].user,
        };
        let victim = (0..self.pools.len())
            .filter(|&q| q != p && shares(q))
            .filter_map(|q| Some((self.pools[q].pool.idle_since()?, q)))
            .min();
        let Some((_, q)) = victim else { return Ok(()) };
        if !self.pools[q].pool.evict() {
            return Err("nothing was evicted".to_owned());
        }
        self.act(q)?;
        self.pools[p].pool.check_launch(self.now);
        Ok(())
    }

    /// One login proceeds: to its end.
    pub(super) fn run_login(&mut self) -> Outcome<bool> {
        if self.logins.is_empty() {
            return Ok(false);
        }
        let at = self.random.below(self.logins.len());
        let Login { pool: p, id } = self.logins.swap_remove(at);
        let refused = |sqlstate: &str| {
            let fields =
                ErrorFields { severity: "FATAL".into(), sqlstate: sqlstate.into(), message: format!("no: {sqlstate}") };
            Error::ServerRefused(fields)
        };
        let failure = match self.random.below(60) {
            _ if !self.faults => None,
            0 => Some(refused("53300")),
            1 => Some(refused("57P03")),
            2 => Some(Error::ConnectFailed),
            _ => None,
        };
        let pool = &mut self.pools[p];
        match failure {
            Some(error) => {
                self.report.login_failures += 1;
                pool.pool.handle_connect_failed(self.now, id, &error);
            }
            None => {
                let capacity = self.random.pick(&[300, 1000, 8192, 65536]);
                let backend = self.backends.len();
                self.backends.push(Backend::new(p, id, self.dialect, capacity));
                if self.trace {
                    self.backends[backend].model.name = Some(format!("backend {backend}"));
                }
                let core = Server::new(pool.welcome.clone());
                let server = SimServer { core, backend, unread: Vec::new(), unsent: Vec::new() };
                let key = (backend as u64).to_be_bytes();
                pool.pool.handle_connected(self.now, id, server, key.into());
                self.report.logins += 1;
            }
        }
        self.act(p)?;
        Ok(true)
    }

    // Checks.

    fn check_connect(&mut self, p: usize) -> Outcome {
        let pool = &self.pools[p];
        let (total, size) = (pool.pool.total(), pool.limits.pool_size as usize);
        if total > size + pool.limits.reserve_pool_size as usize {
            return Err(format!("pool {p} has {total} servers"));
        }
        if total > size {
            let oldest = pool.pool.waiting().map(|waiting| waiting.since).min();
            let waited = oldest.map(|since| self.now - since);
            let long_enough = pool.limits.reserve_pool_timeout.is_some_and(|timeout| waited >= Some(timeout));
            if !long_enough {
                return Err(format!("pool {p} uses its reserve too early"));
            }
            self.report.reserve_uses += 1;
        }
        Ok(())
    }

    /// Invariant 3 by ground truth: the backend that a client is linked to does nothing for anybody else.
    pub(super) fn check_link(&self, c: usize, id: ServerId, server: &SimServer) -> Outcome {
        let backend = &self.backends[server.backend];
        let fault = |text: &str| Err(format!("client {c} got backend {}, which {text}", server.backend));
        if !server.core.is_idle() || !server.unsent.is_empty() {
            return fault("is not idle");
        }
        if !backend.open || backend.id != id {
            return fault("is closed or another");
        }
        if self.cancels.iter().any(|cancel| cancel.backend == server.backend && cancel.client != c) {
            return fault("has a cancel request in flight");
        }
        if !backend.alive {
            return Ok(());
        }
        if let Some(reason) = backend.model.soiled() {
            return fault(reason);
        }
        // Flush and COPY data outside COPY mean nothing, and come before what this client sends.
        if !messages(&backend.input_left(), |message| b"Hdcf".contains(&message[0])) {
            return fault("has unprocessed input");
        }
        let unread: Vec<u8> = server.unread.iter().copied().chain(backend.output_left()).collect();
        if !messages(&unread, is_noise) {
            return fault("has unread output");
        }
        Ok(())
    }

    /// A client that has all its replies does not keep a server that could serve others.
    pub(super) fn check_kept(&self, c: usize) -> Outcome {
        let client = &self.clients[c];
        match &client.phase {
            Phase::Linked(link) if self.pools[client.pool].mode != PoolMode::Session && !client.checker.in_doubt => {
                match self.backends[link.server.backend].model.soiled() {
                    None => Err(format!("client {c} keeps backend {} for nothing", link.server.backend)),
                    Some(_) => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// What holds after every step.
    pub(super) fn check(&self) -> Outcome {
        for p in 0..self.pools.len() {
            self.check_pool(p).map_err(|text| format!("pool {p}: {text}"))?;
        }
        let sum = |belongs: &dyn Fn(usize) -> bool| -> u32 {
            (0..self.pools.len()).filter(|&p| belongs(p)).map(|p| self.pools[p].pool.total() as u32).sum()
        };
        for (at, shared) in self.databases.iter().enumerate() {
            shared.check(sum(&|p| self.pools[p].database == at))?;
        }
        for (at, shared) in self.users.iter().enumerate() {
            shared.check(sum(&|p| self.pools[p].user == at))?;
        }
        Ok(())
    }

    fn check_pool(&self, p: usize) -> Outcome {
        let pool = &self.pools[p].pool;
        let (mut logins, mut idle, mut out, mut known) = (0, 0, 0, 0);
        for view in pool.servers() {
            let with = |link: &super::world::Link| link.id == view.id;
            match view.state {
                ServerState::Login => logins += 1,
                ServerState::Idle => idle += 1,
                ServerState::Active(client) => {
                    out += 1;
                    let client = &self.clients[client.0 as usize];
                    let linked = match &client.phase {
                        Phase::Linked(link) | Phase::Setting(link, _) => with(link),
                        _ => matches!(&client.grant, Some(Grant::Server(id, _)) if *id == view.id),
                    };
                    if !linked || client.pool != p {
                        return Err(format!("{view:?} is not with its client"));
                    }
                }
                ServerState::Tested => {
                    out += 1;
                    if !self.tests.iter().any(|test| test.pool == p && with(&test.link)) {
                        return Err(format!("{view:?} is not in a test"));
                    }
                }
                ServerState::BeingCanceled => {
                    out += 1;
                    if !self.cancels.iter().any(|cancel| cancel.pool == p && cancel.id == view.id) {
                        return Err(format!("{view:?} has no cancel request in flight"));
                    }
                }
            }
            known += usize::from(view.state != ServerState::Login);
        }
        let open = self.backends.iter().filter(|backend| backend.pool == p && backend.open).count();
        let waiting = pool.waiting().filter(|waiting| waiting.purpose == Purpose::Server).map(|waiting| waiting.waiter);
        let logging_in = self.logins.iter().filter(|login| login.pool == p).count();
        match () {
            () if logins > 1 || logins != logging_in => Err(format!("{logins} logins, {logging_in} under way")),
            () if known != open => Err(format!("{known} servers, {open} connections")),
            () if pool.busy() != out => Err(format!("{} busy, {out} out", pool.busy())),
            () if !waiting.eq(self.pools[p].queue.iter().copied()) => Err("the queue is in another order".to_owned()),
            () if idle > 0 && !self.pools[p].queue.is_empty() && !pool.is_paused() => {
                Err(format!("{idle} servers are idle while {:?} wait", self.pools[p].queue))
            }
            () if idle > 0 && pool.is_paused() => Err("servers are idle in a paused pool".to_owned()),
            () => Ok(()),
        }
    }

    // The end.

    /// Faults stop; everything that was begun ends, and every client gets what it is owed.
    pub(super) fn drain(&mut self) -> Outcome {
        self.faults = false;
        for p in 0..self.pools.len() {
            self.pools[p].pool.resume(self.now);
            self.act(p)?;
        }
        // Rounds without progress let time pass, more of it than any timeout.
        let mut resting = 0;
        for _ in 0..DRAIN_ROUNDS_MAX {
            let progress = self.drain_round()?;
            self.check()?;
            resting = if progress { 0 } else { resting + 1 };
            if (0..self.clients.len()).all(|c| !self.is_present(c)) && self.check_quiet().is_ok() || resting >= RESTING
            {
                break;
            }
            if !progress {
                self.advance_time(Duration::from_millis(200))?;
            }
        }
        for (c, client) in self.clients.iter().enumerate() {
            if client.life != Life::Gone {
                let pools: Vec<String> = self
                    .pools
                    .iter()
                    .map(|pool| {
                        format!("{:?} {:?} {:?}", pool.limits, pool.queue, pool.pool.servers().collect::<Vec<_>>())
                    })
                    .collect();
                let text = format!("client {c} of pool {} is stuck: {:?}", client.pool, client.life);
                return Err(format!("{text}, {:?}\n{pools:#?}", client.phase));
            }
        }
        self.check_quiet()?;
        self.close_all()
    }

    fn drain_round(&mut self) -> Outcome<bool> {
        let mut progress = false;
        for c in 0..self.clients.len() {
            progress |= self.client_writes(c, usize::MAX)?;
            progress |= self.read_client(c, usize::MAX)?;
            progress |= self.flush_to_server(c, usize::MAX)?;
            progress |= self.read_server(c, usize::MAX)?;
            progress |= self.flush_to_client(c, usize::MAX)?;
            progress |= self.client_reads(c, usize::MAX)?;
            progress |= self.take_grant(c)?;
        }
        for b in 0..self.backends.len() {
            progress |= self.backend_runs(b, usize::MAX);
            progress |= self.idle_server(b, usize::MAX)?;
        }
        progress |= self.run_tests(usize::MAX)?;
        progress |= self.run_login()?;
        progress |= self.run_cancel()?;
        Ok(progress)
    }

    /// In quiet times pools have their least number of servers.
    fn check_quiet(&self) -> Outcome {
        for (p, pool) in self.pools.iter().enumerate() {
            let (database, user) = (&self.databases[pool.database], &self.users[pool.user]);
            let room = !database.is_full() && !user.is_full();
            let most = pool.limits.pool_size.min(pool.limits.min_pool_size) as usize;
            if room && pool.pool.total() < most {
                return Err(format!("pool {p} has {} servers, min_pool_size is {most}", pool.pool.total()));
            }
        }
        Ok(())
    }

    fn close_all(&mut self) -> Outcome {
        for p in 0..self.pools.len() {
            let limits = crate::pool::PoolLimits { min_pool_size: 0, ..self.pools[p].limits };
            self.pools[p].limits = limits;
            self.pools[p].pool.set_limits(self.now, limits);
            self.pools[p].pool.reconnect(self.now, &Error::CloseNeeded);
            self.act(p)?;
        }
        while self.drain_round()? {}
        self.check()?;
        let used: u32 = self.databases.iter().chain(&self.users).map(|shared| shared.quota.used()).sum();
        let open = self.backends.iter().filter(|backend| backend.open).count();
        let waiting: usize = self.pools.iter().map(|pool| pool.pool.waiting_count()).sum();
        if used > 0 || open > 0 || waiting > 0 {
            return Err(format!("at the end {used} are counted, {open} open, {waiting} waiting"));
        }
        Ok(())
    }
}

impl super::world::Shared {
    fn check(&self, total: u32) -> Outcome {
        match self.quota.used() {
            used if used != total => Err(format!("{used} counted in a quota, {total} servers")),
            used if self.limit > 0 && used > self.limit => Err(format!("{used} of {} connections", self.limit)),
            _ => Ok(()),
        }
    }

    fn is_full(&self) -> bool {
        self.limit > 0 && self.quota.used() >= self.limit
    }
}

impl Backend {
    /// Input that was sent and not processed.
    fn input_left(&self) -> Vec<u8> {
        self.model.input().iter().copied().chain(self.input.bytes()).collect()
    }

    fn output_left(&self) -> impl Iterator<Item = u8> + '_ {
        self.output.bytes().chain(self.model.output().iter().copied())
    }
}

/// True when `bytes` are whole messages that all pass.
fn messages(bytes: &[u8], passes: impl Fn(&[u8]) -> bool) -> bool {
    let mut rest = bytes;
    while let Ok(Some(header)) = Header::read(rest, MESSAGE_LEN_MAX) {
        match rest.split_at_checked(header.total()) {
            Some((message, after)) if passes(message) => rest = after,
            _ => return false,
        }
    }
    rest.is_empty()
}

/// Longest way to the end of a schedule.
const DRAIN_ROUNDS_MAX: usize = 20_000;

/// Rounds without progress after which nothing more can happen: a minute, longer than all timeouts.
const RESTING: usize = 300;
