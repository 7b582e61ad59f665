//! Any operations on two pools that share a quota: no server is lent twice, none is lost, those who wait are served in
//! turn, and what is counted adds up.
//!
//! An input is a list of operations of two bytes: which one (and, by its first bit, on which pool), and its argument.
#![no_main]

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tigger_proto::client::startup::Startup;
use tigger_proto::error::Error;
use tigger_proto::parameters::{ParameterSet, Tracked};
use tigger_proto::pool::quota::{Quota, Scope};
use tigger_proto::pool::{
    Action, Claim, ClientId, Grant, Pool, PoolLimits, Purpose, ServerId, ServerState, ServerView, Ticket,
};
use tigger_proto::replication::Replication;
use tigger_proto::wire::error_response::ErrorFields;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

const CLIENTS: u8 = 8;

fuzz_target!(|data: &[u8]| {
    let mut world = World::new();
    for &[op, arg] in data.as_chunks::<2>().0 {
        world.apply(op, arg);
        world.check();
    }
    world.finish();
});

/// A server connection: counted while it exists, so that one that is dropped in silence is missed.
struct Server {
    key: u8,
    alive: Rc<Cell<usize>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.alive.set(self.alive.get() - 1);
    }
}

/// Where the model sees a server.
enum Place {
    Connecting,
    InPool,
    /// With this client, if cancelable.
    Linked(Server, u64, bool),
    /// In its test.
    Tested(Server),
}

/// One pool and what it should be like.
struct Side {
    pool: Pool<Server, u64>,
    quota: Arc<Quota>,
    places: HashMap<ServerId, Place>,
    queue: VecDeque<(u64, Purpose, Ticket)>,
    /// Cancel requests in flight.
    cancels: Vec<ServerId>,
    limits: PoolLimits,
}

struct World {
    sides: [Side; 2],
    database: Arc<Quota>,
    alive: Rc<Cell<usize>>,
    elapsed: Duration,
    keys: u8,
}

impl World {
    fn new() -> Self {
        let database = Arc::new(Quota::new(0));
        let side = || {
            let (quota, limits) = (Arc::new(Quota::new(0)), limits(0x12));
            Side {
                pool: Pool::new(limits, Arc::clone(&database), Arc::clone(&quota)),
                quota,
                places: HashMap::new(),
                queue: VecDeque::new(),
                cancels: Vec::new(),
                limits,
            }
        };
        Self { sides: [side(), side()], database, alive: Rc::default(), elapsed: Duration::ZERO, keys: 0 }
    }

    fn now(&self) -> Instant {
        *START + self.elapsed
    }

    fn apply(&mut self, op: u8, arg: u8) {
        let (now, which) = (self.now(), usize::from(op & 1));
        let side = &mut self.sides[which];
        match op >> 1 {
            0..=3 => side.claim(now, u64::from(arg % CLIENTS)),
            4 => side.wait_for_login(now, u64::from(arg % CLIENTS)),
            5 => side.leave(arg),
            6..=9 => side.release(now, arg),
            10 => side.lose(now, arg),
            11 => side.test(arg),
            12..=15 => self.connected(which, arg),
            16 => side.connect_failed(now, arg),
            17 => {
                self.elapsed += Duration::from_millis(100 * u64::from(arg));
                side.pool.handle_tick(*START + self.elapsed);
            }
            18 => side.begin_cancel(arg),
            19 => side.end_cancel(now, arg),
            20 if arg & 1 == 0 => side.pool.pause(),
            20 => side.pool.resume(now),
            21 => side.pool.reconnect(now, &Error::CloseNeeded),
            22 => side.set_limits(now, limits(arg)),
            23 => drop(side.pool.evict()),
            24 => side.pool.fail_waiting(&Error::ShuttingDown),
            25 => side.take_idle(arg),
            26 => side.set_cancelable(arg),
            27 => self.database.set_limit(u32::from(arg % 8)),
            29 => side.replicate(now, u64::from(arg % CLIENTS)),
            28 => side.quota.set_limit(u32::from(arg % 8)),
            _ => side.pool.check_launch(now),
        }
        self.carry_out();
    }

    /// Does what the pools say until they say nothing more, as the driver does.
    fn carry_out(&mut self) {
        let now = self.now();
        for which in [0, 1, 0, 1, 0] {
            while let Some(action) = self.sides[which].pool.poll_action() {
                if let Some(scope) = self.sides[which].carry_out(now, action) {
                    let other = if scope == Scope::Database { 1 - which } else { which };
                    if self.sides[other].pool.evict() {
                        while let Some(action) = self.sides[other].pool.poll_action() {
                            assert!(self.sides[other].carry_out(now, action).is_none());
                        }
                        self.sides[which].pool.check_launch(now);
                    }
                }
            }
        }
    }

    fn connected(&mut self, which: usize, arg: u8) {
        let now = self.now();
        let side = &mut self.sides[which];
        let Some(id) = side.nth(arg, |place| matches!(place, Place::Connecting)) else { return };
        self.keys = self.keys.wrapping_add(1);
        self.alive.set(self.alive.get() + 1);
        let server = Server { key: self.keys, alive: Rc::clone(&self.alive) };
        side.places.insert(id, Place::InPool);
        side.pool.handle_connected(now, id, server, [self.keys].into());
    }

    fn check(&self) {
        for side in &self.sides {
            side.check();
        }
        assert_eq!(self.database.used() as usize, self.sides[0].pool.total() + self.sides[1].pool.total());
        let servers = |side: &Side| side.places.values().filter(|p| !matches!(p, Place::Connecting)).count();
        assert_eq!(self.alive.get(), self.sides.iter().map(servers).sum::<usize>(), "a server was lost");
    }

    /// Everything comes to its end: nothing may stay.
    fn finish(mut self) {
        for which in [0, 1] {
            let now = self.now();
            self.sides[which].pool.set_limits(now, limits(0));
            self.sides[which].pool.fail_waiting(&Error::ShuttingDown);
            self.sides[which].pool.pause();
            self.carry_out();
            for _ in 0..self.sides[which].cancels.len() {
                self.sides[which].end_cancel(now, 0);
                self.carry_out();
            }
            while !self.sides[which].places.is_empty() {
                self.connected(which, 0);
                self.carry_out();
                self.sides[which].release(now, 0);
                self.carry_out();
                self.check();
            }
            assert_eq!((self.sides[which].pool.total(), self.sides[which].pool.busy()), (0, 0));
        }
        assert_eq!((self.alive.get(), self.database.used()), (0, 0));
    }
}

impl Side {
    fn nth(&self, arg: u8, wanted: impl Fn(&Place) -> bool) -> Option<ServerId> {
        let mut ids: Vec<ServerId> = self.places.iter().filter(|(_, p)| wanted(p)).map(|(id, _)| *id).collect();
        ids.sort_unstable_by_key(|id| id.slot);
        ids.get(usize::from(arg) % ids.len().max(1)).copied()
    }

    fn is_free(&self, client: u64) -> bool {
        let linked = |place: &Place| matches!(place, Place::Linked(_, owner, _) if *owner == client);
        !self.places.values().any(linked) && !self.queue.iter().any(|(waiting, ..)| *waiting == client)
    }

    fn claim(&mut self, now: Instant, client: u64) {
        if !self.is_free(client) {
            return;
        }
        match self.pool.claim(now, ClientId(client)) {
            Claim::Linked(id, server) => {
                let waits = self.queue.iter().any(|(_, purpose, _)| *purpose == Purpose::Server);
                assert!(!self.pool.is_paused() && !waits, "linked past those who wait");
                self.link(id, server, client);
            }
            Claim::MustWait => {
                let ticket = self.pool.wait(now, ClientId(client), Purpose::Server, client);
                self.queue.push_back((client, Purpose::Server, ticket));
            }
            Claim::Failed(error) => assert!(matches!(error, Error::ServerLoginFailing(_))),
        }
    }

    fn wait_for_login(&mut self, now: Instant, client: u64) {
        if self.is_free(client) && !self.pool.is_welcoming() {
            let ticket = self.pool.wait(now, ClientId(client), Purpose::Login, client);
            self.queue.push_back((client, Purpose::Login, ticket));
        }
    }

    fn replicate(&mut self, now: Instant, client: u64) {
        if self.is_free(client) {
            let startup = Startup {
                user: "u".into(),
                database: "d".into(),
                parameters: ParameterSet::new(&Tracked::new([])),
                replication: Some(Replication::Logical),
                options: None,
            };
            let purpose = Purpose::Replication(Arc::new(startup));
            let ticket = self.pool.wait(now, ClientId(client), purpose.clone(), client);
            self.queue.push_back((client, purpose, ticket));
        }
    }

    fn link(&mut self, id: ServerId, server: Server, client: u64) {
        assert!(!self.cancels.contains(&id), "a cancel request for somebody else may hit it");
        let before = self.places.insert(id, Place::Linked(server, client, true));
        assert!(matches!(before, Some(Place::InPool)), "lent a server that was not in the pool");
    }

    fn leave(&mut self, arg: u8) {
        let place = usize::from(arg) % self.queue.len().max(1);
        if let Some((_, _, ticket)) = self.queue.remove(place) {
            assert!(self.pool.leave(ticket));
            assert!(!self.pool.leave(ticket), "left twice");
        }
    }

    /// Takes a server from its client or its test.
    fn take_back(&mut self, arg: u8) -> Option<(ServerId, Server)> {
        let id = self.nth(arg, |place| matches!(place, Place::Linked(..) | Place::Tested(_)))?;
        match self.places.insert(id, Place::InPool) {
            Some(Place::Linked(server, ..) | Place::Tested(server)) => Some((id, server)),
            _ => unreachable!("it was out"),
        }
    }

    fn release(&mut self, now: Instant, arg: u8) {
        if let Some((id, server)) = self.take_back(arg) {
            self.pool.handle_release(now, id, server);
        }
    }

    fn lose(&mut self, now: Instant, arg: u8) {
        if let Some((id, _server)) = self.take_back(arg) {
            self.places.remove(&id);
            self.pool.handle_closed(now, id);
        }
    }

    fn test(&mut self, arg: u8) {
        if let Some((id, server)) = self.take_back(arg) {
            self.pool.begin_test(id);
            self.places.insert(id, Place::Tested(server));
        }
    }

    fn take_idle(&mut self, arg: u8) {
        let Some(id) = self.nth(arg, |_| true) else { return };
        let idle = self.pool.servers().any(|view| view.id == id && view.state == ServerState::Idle);
        let taken = self.pool.take_idle(id);
        assert_eq!(taken.is_some(), idle);
        if let Some(server) = taken {
            self.places.insert(id, Place::Tested(server));
        }
    }

    fn connect_failed(&mut self, now: Instant, arg: u8) {
        let Some(id) = self.nth(arg, |place| matches!(place, Place::Connecting)) else { return };
        self.places.remove(&id);
        let refused = |sqlstate: &str| {
            Error::ServerRefused(ErrorFields {
                severity: "FATAL".into(),
                sqlstate: sqlstate.into(),
                message: "no".into(),
            })
        };
        let error = match arg % 3 {
            0 => Error::ConnectFailed,
            1 => refused("57P03"),
            _ => refused("28P01"),
        };
        self.pool.handle_connect_failed(now, id, &error);
    }

    fn begin_cancel(&mut self, arg: u8) {
        let client = u64::from(arg % CLIENTS);
        let linked = self.places.iter().find_map(|(id, place)| match place {
            Place::Linked(server, owner, true) if *owner == client => Some((*id, server.key)),
            _ => None,
        });
        let target = self.pool.begin_cancel(ClientId(client));
        assert_eq!(target.as_ref().map(|(id, key)| (*id, key[0])), linked);
        self.cancels.extend(target.map(|(id, _)| id));
    }

    fn end_cancel(&mut self, now: Instant, arg: u8) {
        if !self.cancels.is_empty() {
            let id = self.cancels.swap_remove(usize::from(arg) % self.cancels.len());
            self.pool.end_cancel(now, id);
        }
    }

    fn set_cancelable(&mut self, arg: u8) {
        let Some(id) = self.nth(arg >> 1, |place| matches!(place, Place::Linked(..))) else { return };
        if let Some(Place::Linked(_, _, cancelable)) = self.places.get_mut(&id) {
            *cancelable = arg & 1 == 1;
            self.pool.set_cancelable(id, *cancelable);
        }
    }

    fn set_limits(&mut self, now: Instant, limits: PoolLimits) {
        self.limits = limits;
        self.pool.set_limits(now, limits);
    }

    fn carry_out(&mut self, now: Instant, action: Action<Server, u64>) -> Option<Scope> {
        match action {
            Action::Connect(id) | Action::ConnectReplication(id, _) => {
                assert!(!self.pool.is_paused());
                assert!(self.pool.total() as u64 <= most(&self.limits), "more servers than allowed");
                assert!(self.places.insert(id, Place::Connecting).is_none(), "two servers of one name");
            }
            Action::Close(id, _server, _reason) => {
                assert!(matches!(self.places.remove(&id), Some(Place::InPool)), "closed what was not in the pool");
            }
            Action::Check(id, server) => {
                let place = self.places.insert(id, Place::Tested(server));
                assert!(matches!(place, Some(Place::InPool)), "checks what was not in the pool");
            }
            Action::End(client, _reason) => {
                let is_its = |place: &Place| matches!(place, Place::Linked(_, owner, _) if *owner == client.0);
                let id = self.places.iter().find(|(_, place)| is_its(place)).map(|(id, _)| *id);
                let id = id.expect("only linked clients are ended");
                self.places.remove(&id);
                self.pool.handle_closed(now, id);
            }
            Action::Grant(client, grant) => self.granted(client, grant),
            Action::Evict(scope) => return Some(scope),
            Action::ServeSoon => unreachable!("there is no kernel path"),
        }
        None
    }

    fn granted(&mut self, client: u64, grant: Grant<Server>) {
        let position = self.queue.iter().position(|(waiting, ..)| *waiting == client).expect("it waits");
        let (_, purpose, ticket) = self.queue[position].clone();
        let first = self.queue.iter().position(|(_, other, _)| *other == purpose);
        assert_eq!(first, Some(position), "out of turn");
        assert!(!self.pool.leave(ticket), "granted, but still in the queue");
        self.queue.remove(position);
        match grant {
            Grant::Server(id, server) => {
                assert_ne!(purpose, Purpose::Login);
                self.link(id, server, client);
                self.pool.set_cancelable(id, true);
            }
            Grant::Welcome => assert_eq!(purpose, Purpose::Login),
            Grant::Failed(_) => {}
        }
    }

    fn check(&self) {
        let views: Vec<ServerView> = self.pool.servers().collect();
        assert_eq!((views.len(), self.pool.total()), (self.places.len(), self.places.len()));
        assert_eq!(self.quota.used() as usize, views.len());
        for view in &views {
            let fits = match (self.places.get(&view.id), view.state) {
                (Some(Place::Connecting), ServerState::Login)
                | (Some(Place::InPool), ServerState::Idle)
                | (Some(Place::Tested(_)), ServerState::Tested) => true,
                (Some(Place::InPool), ServerState::BeingCanceled) => view.cancels > 0,
                (Some(Place::Linked(_, owner, _)), ServerState::Active(client)) => *owner == client.0,
                _ => false,
            };
            assert!(fits, "{view:?}");
            assert_eq!(view.cancels as usize, self.cancels.iter().filter(|id| **id == view.id).count());
        }
        let is = |state: ServerState| views.iter().filter(|view| view.state == state).count();
        assert!(is(ServerState::Login) <= 1, "more than one login at once");
        assert_eq!(self.pool.busy(), views.len() - is(ServerState::Idle) - is(ServerState::Login));
        let waiting = self.pool.waiting().map(|waiting| (waiting.waiter, &waiting.purpose));
        assert!(waiting.eq(self.queue.iter().map(|(client, purpose, _)| (*client, purpose))));
        assert_eq!(self.pool.waiting_count(), self.queue.len());
        if is(ServerState::Idle) > 0 && !self.pool.is_paused() {
            assert!(!self.queue.iter().any(|(_, purpose, _)| *purpose == Purpose::Server), "idle, but somebody waits");
        }
    }
}

fn most(limits: &PoolLimits) -> u64 {
    u64::from(limits.pool_size) + u64::from(limits.reserve_pool_size)
}

/// Small limits: two bits each of sizes, one each of times. And once the largest that a configuration may have.
fn limits(arg: u8) -> PoolLimits {
    let seconds = |seconds| Duration::from_secs(seconds);
    if arg == u8::MAX {
        return PoolLimits { pool_size: u32::MAX, reserve_pool_size: u32::MAX, ..limits(0) };
    }
    PoolLimits {
        pool_size: u32::from(arg & 3),
        min_pool_size: u32::from(arg >> 2 & 3).min(u32::from(arg & 3)),
        reserve_pool_size: u32::from(arg >> 4 & 1),
        reserve_pool_timeout: (arg & 0x20 == 0).then(|| seconds(5)),
        server_lifetime: seconds(if arg & 0x40 == 0 { 30 } else { 0 }),
        server_idle_timeout: (arg & 0x80 == 0).then(|| seconds(10)),
        server_check_delay: (arg & 0x40 == 0).then(|| seconds(4)),
        server_round_robin: arg & 0x20 != 0,
        server_login_retry: seconds(3),
        query_wait_timeout: None,
    }
}
