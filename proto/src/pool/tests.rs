//! Tests of the pool: each rule by itself, then random operations against what must always hold.

mod replication;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::parameters::{ParameterSet, Tracked};
use crate::replication::Replication;
use crate::wire::error_response::ErrorFields;

const LIMITS: PoolLimits = PoolLimits {
    pool_size: 2,
    min_pool_size: 0,
    reserve_pool_size: 0,
    reserve_pool_timeout: None,
    server_lifetime: Duration::from_secs(3600),
    server_idle_timeout: None,
    server_check_delay: None,
    server_round_robin: false,
    server_login_retry: Duration::from_secs(15),
    query_wait_timeout: None,
};

/// What a pool asked for, without what it hands over.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Did {
    Connect(u32),
    ConnectReplication(u32),
    End(u64, Error),
    Close(u32, Error),
    Check(u32),
    Server(u32, u32),
    Welcome(u32),
    Failed(u32, String),
    Evict(Scope),
}

/// A pool with a clock; servers are numbered in the order of their logins, clients wait under their own numbers.
struct Bench {
    pool: Pool<u32, u32>,
    now: Instant,
    logins: Vec<ServerId>,
    ids: HashMap<u32, ServerId>,
    servers: u32,
}

impl Bench {
    fn new(limits: PoolLimits) -> Self {
        Self::with(limits, &Arc::default(), &Arc::default())
    }

    fn with(limits: PoolLimits, database: &Arc<Quota>, user: &Arc<Quota>) -> Self {
        let pool = Pool::new(limits, Arc::clone(database), Arc::clone(user));
        Self { pool, now: Instant::now(), logins: Vec::new(), ids: HashMap::new(), servers: 0 }
    }

    /// A pool with this many idle servers.
    fn filled(limits: PoolLimits, servers: u32) -> Self {
        let mut bench = Self::new(limits);
        for client in 0..servers {
            assert!(bench.claim(client).is_none());
            bench.wait(client);
            bench.log_in();
        }
        for server in 0..servers {
            bench.release(server);
        }
        bench.did();
        bench
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.pool.handle_tick(self.now);
    }

    fn claim(&mut self, client: u32) -> Option<u32> {
        match self.pool.claim(self.now, ClientId(client.into())) {
            Claim::Linked(id, server) => {
                self.ids.insert(server, id);
                Some(server)
            }
            Claim::MustWait => None,
            Claim::Failed(error) => panic!("{error}"),
        }
    }

    fn wait(&mut self, client: u32) -> Ticket {
        self.wait_for(client, Purpose::Server)
    }

    fn wait_for(&mut self, client: u32, purpose: Purpose) -> Ticket {
        self.pool.wait(self.now, ClientId(client.into()), purpose, client)
    }

    fn replicate(&mut self, client: u32) -> Ticket {
        let startup = Startup {
            user: "u".into(),
            database: "d".into(),
            parameters: ParameterSet::new(&Tracked::new([])),
            replication: Some(Replication::Physical),
            options: None,
        };
        self.wait_for(client, Purpose::Replication(Arc::new(startup)))
    }

    fn release(&mut self, server: u32) {
        self.pool.handle_release(self.now, self.ids[&server], server);
    }

    /// The login under way succeeds.
    fn log_in(&mut self) -> u32 {
        self.collect();
        let (id, server) = (self.logins.pop().unwrap(), self.servers);
        self.ids.insert(server, id);
        self.servers += 1;
        self.pool.handle_connected(self.now, id, server, Box::from(server.to_be_bytes()));
        server
    }

    fn fail_login(&mut self, error: &Error) {
        self.collect();
        let id = self.logins.pop().unwrap();
        self.pool.handle_connect_failed(self.now, id, error);
    }

    /// Starts logins that were asked for, and returns everything that was.
    fn collect(&mut self) -> Vec<Did> {
        let mut did = Vec::new();
        while let Some(action) = self.pool.poll_action() {
            did.push(match action {
                Action::Connect(id) => {
                    self.logins.push(id);
                    Did::Connect(id.slot)
                }
                Action::ConnectReplication(id, _) => {
                    self.logins.push(id);
                    Did::ConnectReplication(id.slot)
                }
                Action::End(client, error) => Did::End(client.0, error),
                Action::Close(_, server, error) => Did::Close(server, error),
                Action::Check(id, server) => {
                    self.ids.insert(server, id);
                    Did::Check(server)
                }
                Action::Grant(client, Grant::Server(id, server)) => {
                    self.ids.insert(server, id);
                    Did::Server(client, server)
                }
                Action::Grant(client, Grant::Welcome) => Did::Welcome(client),
                Action::Grant(client, Grant::Failed(error)) => Did::Failed(client, error.to_string()),
                Action::Evict(scope) => Did::Evict(scope),
                Action::ServeSoon => unreachable!("there is no kernel path"),
            });
        }
        did
    }

    fn did(&mut self) -> Vec<Did> {
        self.collect()
    }

    #[track_caller]
    fn check(&mut self, expected: &[Did]) {
        assert_eq!(self.collect(), expected);
    }

    fn states(&self) -> Vec<ServerState> {
        self.pool.servers().map(|view| view.state).collect()
    }
}

fn refused(sqlstate: &str) -> Error {
    let message = format!("refused with {sqlstate}");
    Error::ServerRefused(ErrorFields { severity: "FATAL".into(), sqlstate: sqlstate.into(), message })
}

#[test]
fn the_lowest_idle_server_is_linked_first() {
    let mut bench = Bench::filled(PoolLimits { pool_size: 3, ..LIMITS }, 3);
    assert_eq!((bench.claim(1), bench.claim(2)), (Some(0), Some(1)));
    bench.release(0);
    // So a quiet client keeps getting the same server, and the others get old.
    assert_eq!((bench.claim(3), bench.claim(4), bench.claim(5)), (Some(0), Some(2), None));
}

#[test]
fn waiting_clients_are_served_in_order() {
    let mut bench = Bench::filled(LIMITS, 2);
    bench.claim(0);
    bench.claim(1);
    for client in 2..6 {
        bench.wait(client);
    }
    let ticket = bench.wait(9);
    bench.wait(6);
    assert!(bench.pool.leave(ticket) && !bench.pool.leave(ticket));
    bench.check(&[]);
    assert_eq!(bench.pool.waiting().map(|waiting| waiting.waiter).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    bench.release(1);
    bench.check(&[Did::Server(2, 1)]);
    // Nobody overtakes those who wait.
    assert_eq!(bench.claim(7), None);
    bench.release(0);
    bench.release(1);
    bench.check(&[Did::Server(3, 0), Did::Server(4, 1)]);
    assert_eq!(bench.pool.waiting_count(), 2);
}

#[test]
fn one_login_at_a_time_up_to_pool_size() {
    let mut bench = Bench::new(LIMITS);
    for client in 0..4 {
        assert_eq!(bench.claim(client), None);
        bench.wait(client);
    }
    bench.check(&[Did::Connect(0)]);
    bench.log_in();
    bench.check(&[Did::Server(0, 0), Did::Connect(1)]);
    bench.log_in();
    bench.check(&[Did::Server(1, 1)]);
    assert_eq!((bench.pool.total(), bench.pool.busy()), (2, 2));
}

#[test]
fn the_reserve_is_for_those_who_waited() {
    let reserve = PoolLimits { pool_size: 1, reserve_pool_size: 1, ..LIMITS };
    for (timeout, waited, expected) in
        [(Some(5), 4, false), (Some(5), 5, true), (Some(0), 0, true), (None, 1000, false)]
    {
        let mut bench =
            Bench::filled(PoolLimits { reserve_pool_timeout: timeout.map(Duration::from_secs), ..reserve }, 1);
        bench.claim(0);
        bench.wait(1);
        bench.pass(waited);
        assert_eq!(bench.did() == [Did::Connect(1)], expected, "{timeout:?} {waited}");
    }
}

#[test]
fn sizes_may_be_as_large_as_the_configuration_allows() {
    let reserve_pool_timeout = Some(Duration::ZERO);
    let most = PoolLimits { pool_size: u32::MAX, reserve_pool_size: u32::MAX, reserve_pool_timeout, ..LIMITS };
    let mut bench = Bench::filled(most, 1);
    assert_eq!(bench.claim(0), Some(0));
    bench.wait(1);
    bench.check(&[Did::Connect(1)]);
    bench.release(0);
    assert_eq!(bench.pool.total(), 2);
}

#[test]
fn min_pool_size_is_kept() {
    let mut bench = Bench::new(PoolLimits {
        min_pool_size: 2,
        pool_size: 3,
        server_idle_timeout: Some(Duration::from_secs(10)),
        ..LIMITS
    });
    bench.pass(0);
    bench.check(&[Did::Connect(0)]);
    bench.log_in();
    bench.log_in();
    bench.check(&[]);
    // A third goes when it was idle too long, two stay.
    assert_eq!((bench.claim(1), bench.claim(2)), (Some(0), Some(1)));
    bench.wait(3);
    bench.log_in();
    for server in 0..3 {
        bench.release(server);
    }
    bench.did();
    bench.pass(9);
    bench.check(&[]);
    bench.pass(1);
    bench.check(&[Did::Close(0, Error::ServerIdleTimeout)]);
    bench.pass(100);
    bench.check(&[]);
}

#[test]
fn nobody_is_evicted_for_min_pool_size() {
    let quota = Arc::new(Quota::new(1));
    let limits = PoolLimits { min_pool_size: 1, ..LIMITS };
    let (mut first, mut second) =
        (Bench::with(limits, &quota, &Arc::default()), Bench::with(limits, &quota, &Arc::default()));
    first.pass(0);
    first.log_in();
    second.pass(0);
    second.check(&[]);
    // But for a client.
    second.wait(1);
    second.check(&[Did::Evict(Scope::Database)]);
}

#[test]
fn failed_logins_are_retried_later_and_reported() {
    let mut bench = Bench::new(LIMITS);
    bench.wait(0);
    bench.fail_login(&Error::ConnectFailed);
    bench.pass(14);
    bench.check(&[]);
    let text = "server login has been failing, cached error: connect failed (server_login_retry)";
    assert_eq!(bench.pool.fail_fast(bench.now).unwrap().to_string(), text);
    // Those who wait go on waiting.
    assert_eq!(bench.pool.waiting_count(), 1);
    bench.pass(1);
    bench.check(&[Did::Connect(0)]);
    bench.log_in();
    bench.check(&[Did::Server(0, 0)]);
    assert!(bench.pool.fail_fast(bench.now).is_none());
    // With a server, one that fails is not the end.
    bench.wait(1);
    bench.fail_login(&Error::ConnectFailed);
    assert!(bench.pool.fail_fast(bench.now).is_none());
}

#[test]
fn claims_fail_fast() {
    let mut bench = Bench::new(LIMITS);
    let ticket = bench.wait(0);
    bench.fail_login(&refused("53300"));
    bench.pool.leave(ticket);
    let Claim::Failed(error) = bench.pool.claim(bench.now, ClientId(1)) else { panic!("not failed") };
    assert_eq!(error, Error::ServerLoginFailing("refused with 53300".into()));
    bench.check(&[]);
    // A claim after the pause tries again, and does not wait for it.
    bench.now += Duration::from_secs(15);
    assert!(matches!(bench.pool.claim(bench.now, ClientId(2)), Claim::Failed(_)));
    bench.check(&[Did::Connect(0)]);
}

#[test]
fn clients_do_not_wait_longer_than_query_wait_timeout() {
    let limits = PoolLimits { query_wait_timeout: Some(Duration::from_secs(3)), pool_size: 0, ..LIMITS };
    let mut bench = Bench::new(limits);
    bench.wait(0);
    bench.pass(1);
    bench.wait(1);
    bench.wait_for(2, Purpose::Login);
    bench.pass(1);
    assert_eq!(bench.pool.waiting_count(), 3);
    bench.pass(1);
    assert_eq!(bench.pool.waiting().map(|waiting| waiting.client.0).collect::<Vec<_>>(), [1, 2]);
    // A login has a time limit of its own.
    bench.pass(9);
    assert_eq!(bench.pool.waiting().map(|waiting| waiting.client.0).collect::<Vec<_>>(), [2]);
}

#[test]
fn login_errors_reach_those_who_log_in() {
    let check = |error: &Error, expected: &[Did]| {
        let mut bench = Bench::new(LIMITS);
        bench.wait_for(0, Purpose::Login);
        bench.wait(1);
        bench.wait_for(2, Purpose::Login);
        bench.fail_login(error);
        bench.check(expected);
    };
    let failed = |client| Did::Failed(client, "refused with 28P01".into());
    check(&refused("28P01"), &[failed(0), failed(2)]);
    // The server is starting up: it is asked again.
    check(&refused("57P03"), &[]);
    check(&Error::ConnectFailed, &[]);
}

#[test]
fn the_first_server_welcomes() {
    let mut bench = Bench::new(LIMITS);
    assert!(!bench.pool.is_welcoming());
    bench.wait_for(0, Purpose::Login);
    bench.wait_for(1, Purpose::Login);
    bench.check(&[Did::Connect(0)]);
    bench.log_in();
    bench.check(&[Did::Welcome(0), Did::Welcome(1)]);
    assert!(bench.pool.is_welcoming());
    assert_eq!(bench.states(), [ServerState::Idle]);
    bench.pool.reconnect(bench.now, &Error::CloseNeeded);
    assert!(!bench.pool.is_welcoming());
}

#[test]
fn old_servers_are_closed_with_a_gap() {
    let limits = PoolLimits { pool_size: 4, server_lifetime: Duration::from_secs(40), ..LIMITS };
    let mut bench = Bench::filled(limits, 4);
    assert_eq!(bench.claim(0), Some(0));
    bench.pass(39);
    bench.check(&[]);
    bench.pass(1);
    bench.check(&[Did::Close(1, Error::ServerLifetime)]);
    bench.pass(9);
    bench.release(0);
    bench.check(&[]);
    bench.pass(1);
    bench.check(&[Did::Close(0, Error::ServerLifetime)]);
    // One that is in use is closed when it comes back.
    assert_eq!(bench.claim(0), Some(2));
    bench.pass(10);
    bench.check(&[Did::Close(3, Error::ServerLifetime)]);
    bench.now += Duration::from_secs(10);
    bench.release(2);
    bench.check(&[Did::Close(2, Error::ServerLifetime)]);
}

#[test]
fn a_lifetime_of_one_use() {
    let mut bench = Bench::new(PoolLimits { server_lifetime: Duration::ZERO, min_pool_size: 1, ..LIMITS });
    bench.pass(0);
    bench.log_in();
    bench.pass(100);
    bench.check(&[]);
    assert_eq!(bench.claim(0), Some(0));
    bench.release(0);
    bench.check(&[Did::Close(0, Error::ServerLifetime), Did::Connect(0)]);
}

#[test]
fn reconnect_closes_servers_in_use_when_they_come_back() {
    let mut bench = Bench::filled(LIMITS, 2);
    assert_eq!(bench.claim(0), Some(0));
    bench.pool.reconnect(bench.now, &Error::CloseNeeded);
    bench.check(&[Did::Close(1, Error::CloseNeeded)]);
    bench.wait(1);
    bench.release(0);
    bench.check(&[Did::Connect(1), Did::Close(0, Error::CloseNeeded)]);
    // A login under way does not count either.
    bench.pool.reconnect(bench.now, &Error::CloseNeeded);
    bench.log_in();
    bench.check(&[Did::Close(2, Error::CloseNeeded), Did::Connect(0)]);
    bench.log_in();
    bench.check(&[Did::Server(1, 3)]);
}

#[test]
fn pause_and_resume() {
    let mut bench = Bench::filled(LIMITS, 2);
    assert_eq!(bench.claim(0), Some(0));
    bench.pool.pause();
    bench.check(&[Did::Close(1, Error::PauseMode)]);
    assert!(bench.pool.is_paused() && bench.pool.busy() == 1);
    assert_eq!(bench.claim(1), None);
    bench.wait(1);
    bench.release(0);
    bench.check(&[Did::Close(0, Error::PauseMode)]);
    bench.pass(1);
    bench.check(&[]);
    bench.pool.resume(bench.now);
    bench.check(&[Did::Connect(0)]);
    // Paused again during the login.
    bench.pool.pause();
    bench.log_in();
    bench.check(&[Did::Close(2, Error::PauseMode)]);
    bench.pool.resume(bench.now);
    bench.log_in();
    bench.check(&[Did::Server(1, 3)]);
}

#[test]
fn a_smaller_pool_shrinks() {
    let mut bench = Bench::filled(LIMITS, 2);
    assert_eq!(bench.claim(0), Some(0));
    bench.pool.set_limits(bench.now, PoolLimits { pool_size: 1, ..LIMITS });
    bench.release(0);
    bench.check(&[Did::Close(0, Error::CloseNeeded)]);
    let mut bench = Bench::filled(LIMITS, 2);
    bench.pool.set_limits(bench.now, PoolLimits { pool_size: 1, ..LIMITS });
    bench.pass(0);
    bench.check(&[Did::Close(0, Error::CloseNeeded)]);
}

#[test]
fn a_canceled_server_waits_for_its_cancel_request() {
    let mut bench = Bench::filled(LIMITS, 2);
    assert!(bench.pool.begin_cancel(ClientId(7)).is_none());
    assert_eq!(bench.claim(7), Some(0));
    let (id, key) = bench.pool.begin_cancel(ClientId(7)).unwrap();
    assert_eq!((id, &*key), (bench.ids[&0], &[0_u8, 0, 0, 0][..]));
    bench.pool.begin_cancel(ClientId(7)).unwrap();
    // Released before the requests ended.
    bench.release(0);
    assert_eq!(bench.states(), [ServerState::BeingCanceled, ServerState::Idle]);
    assert_eq!((bench.claim(1), bench.claim(2)), (Some(1), None));
    bench.wait(2);
    bench.pool.end_cancel(bench.now, id);
    bench.check(&[]);
    bench.pool.end_cancel(bench.now, id);
    bench.check(&[Did::Server(2, 0)]);
    // Ended before the release; and of a server that is gone.
    bench.pool.set_cancelable(id, true);
    bench.pool.begin_cancel(ClientId(2)).unwrap();
    bench.pool.end_cancel(bench.now, id);
    bench.pool.begin_cancel(ClientId(2)).unwrap();
    bench.pool.handle_closed(bench.now, id);
    bench.pool.end_cancel(bench.now, id);
    bench.check(&[]);
}

#[test]
fn a_granted_server_is_canceled_only_when_its_client_says_so() {
    let mut bench = Bench::filled(PoolLimits { pool_size: 1, ..LIMITS }, 1);
    bench.claim(0);
    bench.wait(1);
    bench.release(0);
    assert!(bench.pool.begin_cancel(ClientId(1)).is_none());
    bench.pool.set_cancelable(bench.ids[&0], true);
    assert!(bench.pool.begin_cancel(ClientId(1)).is_some());
    bench.pool.set_cancelable(bench.ids[&0], false);
    assert!(bench.pool.begin_cancel(ClientId(1)).is_none());
}

#[test]
fn a_canceled_server_is_closed_by_a_pause() {
    let mut bench = Bench::filled(LIMITS, 1);
    bench.claim(0);
    let (id, _) = bench.pool.begin_cancel(ClientId(0)).unwrap();
    bench.release(0);
    bench.pool.pause();
    bench.check(&[]);
    bench.pool.end_cancel(bench.now, id);
    bench.check(&[Did::Close(0, Error::PauseMode)]);
}

#[test]
fn the_longest_idle_server_is_evicted() {
    let mut bench = Bench::filled(PoolLimits { pool_size: 3, ..LIMITS }, 3);
    for client in 0..3 {
        bench.claim(client);
    }
    assert!(bench.pool.idle_since().is_none() && !bench.pool.evict());
    let start = bench.now;
    for server in [1, 2, 0] {
        bench.pass(1);
        bench.release(server);
    }
    assert_eq!(bench.pool.idle_since(), Some(start + Duration::from_secs(1)));
    assert!(bench.pool.evict() && bench.pool.evict() && bench.pool.evict() && !bench.pool.evict());
    bench.check(&[1, 2, 0].map(|server| Did::Close(server, Error::Evicted)));
}

#[test]
fn connections_besides_the_servers_count() {
    let (database, user) = (Arc::new(Quota::new(2)), Arc::new(Quota::new(2)));
    let mut bench = Bench::with(PoolLimits { pool_size: 2, ..LIMITS }, &database, &user);
    bench.wait(0);
    bench.log_in();
    bench.check(&[Did::Server(0, 0)]);
    assert_eq!(bench.pool.take_connection(), Ok(()));
    assert_eq!((database.used(), user.used()), (2, 2));
    // The only server is in use, so that nothing makes room.
    assert_eq!(bench.pool.take_connection(), Err(Scope::Database));
    bench.release(0);
    assert_eq!(bench.pool.take_connection(), Ok(()));
    bench.check(&[Did::Close(0, Error::Evicted)]);
    // Who waits gets a server as soon as there is room.
    bench.wait(1);
    bench.check(&[Did::Evict(Scope::Database)]);
    bench.pool.give_back_connection(bench.now);
    bench.log_in();
    bench.check(&[Did::Server(1, 1)]);
    bench.pool.give_back_connection(bench.now);
    assert_eq!((database.used(), user.used()), (1, 1));
}

#[test]
fn quotas_are_taken_from_both_or_none() {
    let (database, user) = (Arc::new(Quota::new(3)), Arc::new(Quota::new(1)));
    let mut bench = Bench::with(LIMITS, &database, &user);
    bench.wait(0);
    bench.wait(1);
    bench.log_in();
    bench.check(&[Did::Server(0, 0), Did::Evict(Scope::User)]);
    assert_eq!((database.used(), user.used()), (1, 1));
    user.set_limit(0);
    bench.pool.check_launch(bench.now);
    bench.check(&[Did::Connect(1)]);
    database.set_limit(2);
    bench.fail_login(&Error::ConnectFailed);
    assert_eq!((database.used(), user.used()), (1, 1));
    bench.pool.handle_closed(bench.now, bench.ids[&0]);
    assert_eq!((database.used(), user.used()), (0, 0));
}

#[test]
fn leaving_too_late() {
    let mut bench = Bench::filled(LIMITS, 1);
    bench.claim(0);
    let ticket = bench.wait(1);
    bench.release(0);
    // It was granted meanwhile, and must be given back.
    assert!(!bench.pool.leave(ticket));
    assert_eq!(bench.did()[1..], [Did::Server(1, 0)]);
    assert_eq!(bench.states()[0], ServerState::Active(ClientId(1)));
    bench.release(0);
    assert_eq!(bench.states()[0], ServerState::Idle);
}

#[test]
fn idle_servers_can_be_taken_out() {
    let mut bench = Bench::filled(LIMITS, 2);
    let id = bench.ids[&0];
    assert_eq!(bench.pool.take_idle(id), Some(0));
    assert_eq!(bench.pool.take_idle(id), None);
    assert_eq!(bench.states(), [ServerState::Tested, ServerState::Idle]);
    bench.release(0);
    assert_eq!(bench.claim(0), Some(0));
    assert_eq!(bench.pool.take_idle(id), None);
    bench.release(0);
    assert_eq!(bench.pool.take_idle(id), Some(0));
    bench.pool.handle_closed(bench.now, id);
    assert_eq!(bench.pool.take_idle(id), None);
    // Another server in the same slot is another server.
    bench.claim(1);
    bench.wait(2);
    bench.log_in();
    assert_eq!(bench.ids[&2].slot, id.slot);
    bench.release(2);
    assert_eq!(bench.pool.take_idle(id), None);
}

#[test]
fn servers_that_are_idle_for_long_are_checked() {
    let limits = PoolLimits {
        server_check_delay: Some(Duration::from_secs(30)),
        server_idle_timeout: Some(Duration::from_secs(100)),
        ..LIMITS
    };
    let mut bench = Bench::filled(limits, 2);
    bench.pass(29);
    // One is used, the other is not.
    assert_eq!(bench.claim(0), Some(0));
    bench.release(0);
    bench.check(&[]);
    bench.pass(1);
    bench.check(&[Did::Check(1)]);
    assert_eq!((bench.states(), bench.pool.busy()), (vec![ServerState::Idle, ServerState::Tested], 1));
    // Whoever comes now gets the other; a second one waits for the test.
    assert_eq!(bench.claim(0), Some(0));
    assert_eq!(bench.claim(1), None);
    bench.wait(1);
    bench.release(1);
    bench.check(&[Did::Server(1, 1)]);
    bench.release(0);
    bench.release(1);
    // A check is no use: it puts off the next check, and not the end.
    for _ in 0..3 {
        bench.pass(30);
        bench.check(&[Did::Check(0), Did::Check(1)]);
        bench.release(0);
        bench.release(1);
        bench.pass(1);
        bench.check(&[]);
    }
    bench.pass(7);
    bench.check(&[Did::Close(0, Error::ServerIdleTimeout), Did::Close(1, Error::ServerIdleTimeout)]);
}

#[test]
fn a_server_for_one_use_survives_its_check() {
    let limits = PoolLimits {
        server_check_delay: Some(Duration::from_secs(30)),
        server_lifetime: Duration::ZERO,
        min_pool_size: 1,
        ..LIMITS
    };
    let mut bench = Bench::new(limits);
    bench.pass(0);
    bench.log_in();
    bench.pass(30);
    bench.check(&[Did::Check(0)]);
    bench.release(0);
    bench.check(&[]);
    assert_eq!(bench.claim(0), Some(0));
    bench.release(0);
    assert_eq!(bench.did()[0], Did::Close(0, Error::ServerLifetime));
}

#[test]
fn a_server_that_fails_its_check_makes_room() {
    let limits = PoolLimits { server_check_delay: Some(Duration::from_secs(30)), pool_size: 1, ..LIMITS };
    let mut bench = Bench::filled(limits, 1);
    bench.pass(30);
    bench.check(&[Did::Check(0)]);
    assert_eq!(bench.claim(0), None);
    bench.wait(0);
    bench.pool.handle_closed(bench.now, bench.ids[&0]);
    bench.check(&[Did::Connect(0)]);
}

#[test]
fn round_robin() {
    let mut bench = Bench::filled(PoolLimits { pool_size: 3, server_round_robin: true, ..LIMITS }, 3);
    let use_one = |bench: &mut Bench| {
        bench.pass(1);
        let server = bench.claim(0).unwrap();
        bench.release(server);
        server
    };
    // All have been idle since the same moment; from then on it goes round.
    let first: Vec<u32> = (0..3).map(|_| use_one(&mut bench)).collect();
    let again: Vec<u32> = (0..3).map(|_| use_one(&mut bench)).collect();
    assert_eq!((&first[..], &again), (&[0, 1, 2][..], &first));
    // Two at once, released the other way round.
    assert_eq!((bench.claim(0), bench.claim(1)), (Some(0), Some(1)));
    bench.pass(1);
    bench.release(1);
    bench.pass(1);
    bench.release(0);
    assert_eq!([0, 1, 2].map(|_| use_one(&mut bench)), [2, 1, 0]);
    let limits = PoolLimits { server_round_robin: false, ..bench.pool.limits };
    bench.pool.set_limits(bench.now, limits);
    assert_eq!([0, 1].map(|_| use_one(&mut bench)), [0, 0]);
}

#[test]
fn session_pooling_tests_servers() {
    let mut bench = Bench::filled(LIMITS, 1);
    bench.claim(0);
    bench.pool.begin_test(bench.ids[&0]);
    assert_eq!((bench.states(), bench.pool.busy()), (vec![ServerState::Tested], 1));
    assert!(bench.pool.begin_cancel(ClientId(0)).is_none());
    bench.release(0);
    assert_eq!(bench.states(), [ServerState::Idle]);
}

#[test]
fn waiting_clients_can_be_failed() {
    let mut bench = Bench::new(LIMITS);
    bench.wait(0);
    bench.wait_for(1, Purpose::Login);
    bench.pool.fail_waiting(&Error::DatabaseRemoved);
    let failed = |client| Did::Failed(client, "database removed".into());
    bench.check(&[Did::Connect(0), failed(0), failed(1)]);
}

/// What a property test does next; the number chooses among what there is.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Claim,
    Replicate,
    Leave(usize),
    Release(usize),
    Close(usize),
    Test(usize),
    LogIn,
    FailLogin,
    TakeIdle(usize),
    BeginCancel(usize),
    EndCancel(usize),
    Pass(u64),
    Pause,
    Resume,
    Reconnect,
    Evict,
    Limits(u32),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        6 => Just(Claim),
        1 => Just(Replicate),
        1 => any::<usize>().prop_map(Leave),
        5 => any::<usize>().prop_map(Release),
        1 => any::<usize>().prop_map(Close),
        1 => any::<usize>().prop_map(Test),
        5 => Just(LogIn),
        1 => Just(FailLogin),
        1 => any::<usize>().prop_map(TakeIdle),
        1 => any::<usize>().prop_map(BeginCancel),
        1 => any::<usize>().prop_map(EndCancel),
        2 => (0..8_u64).prop_map(Pass),
        1 => Just(Pause),
        2 => Just(Resume),
        1 => Just(Reconnect),
        1 => Just(Evict),
        1 => (1..4_u32).prop_map(Limits),
    ]
}

/// A pool under random operations, and who has what.
struct Model {
    bench: Bench,
    /// Servers that are out, with their clients if they have one.
    out: Vec<(u32, Option<u32>)>,
    waiting: Vec<(u32, Ticket)>,
    /// Replication clients that wait, and servers that are one's own.
    replicating: Vec<(u32, Ticket)>,
    owned: HashSet<u32>,
    cancels: Vec<ServerId>,
    closed: HashSet<u32>,
    clients: u32,
}

impl Model {
    fn pick<T: Copy>(from: &[T], n: usize) -> Option<T> {
        (!from.is_empty()).then(|| from[n % from.len()])
    }

    fn take_out(&mut self, n: usize) -> Option<(u32, Option<u32>)> {
        (!self.out.is_empty()).then(|| self.out.swap_remove(n % self.out.len()))
    }

    fn apply(&mut self, operation: Operation) {
        let now = self.bench.now;
        match operation {
            Operation::Claim => {
                let client = self.clients;
                self.clients += 1;
                match self.bench.pool.claim(now, ClientId(client.into())) {
                    Claim::Linked(id, server) => {
                        assert!(self.waiting.is_empty(), "{client} did not wait its turn");
                        self.bench.ids.insert(server, id);
                        self.out.push((server, Some(client)));
                    }
                    Claim::MustWait => {
                        let ticket = self.bench.wait(client);
                        self.waiting.push((client, ticket));
                    }
                    Claim::Failed(_) => assert!(self.out.iter().all(|(server, _)| self.owned.contains(server))),
                }
            }
            Operation::Replicate => {
                let client = self.clients;
                self.clients += 1;
                let ticket = self.bench.replicate(client);
                self.replicating.push((client, ticket));
            }
            Operation::Leave(n) if n % 2 == 1 => {
                if let Some((client, ticket)) = Self::pick(&self.replicating, n) {
                    assert!(self.bench.pool.leave(ticket));
                    self.replicating.retain(|(waiting, _)| *waiting != client);
                }
            }
            Operation::Leave(n) => {
                if let Some((client, ticket)) = Self::pick(&self.waiting, n) {
                    assert!(self.bench.pool.leave(ticket));
                    self.waiting.retain(|(waiting, _)| *waiting != client);
                }
            }
            Operation::Release(n) => {
                if let Some((server, _)) = self.take_out(n) {
                    self.bench.release(server);
                }
            }
            Operation::Close(n) => {
                if let Some((server, _)) = self.take_out(n) {
                    assert!(self.closed.insert(server));
                    self.bench.pool.handle_closed(now, self.bench.ids[&server]);
                }
            }
            Operation::Test(n) => {
                if let Some((server, _)) = self.take_out(n) {
                    self.bench.pool.begin_test(self.bench.ids[&server]);
                    self.out.push((server, None));
                }
            }
            Operation::LogIn if !self.bench.logins.is_empty() => drop(self.bench.log_in()),
            Operation::FailLogin if !self.bench.logins.is_empty() => self.bench.fail_login(&Error::ConnectFailed),
            Operation::LogIn | Operation::FailLogin => {}
            Operation::TakeIdle(n) => {
                let idle: Vec<ServerId> = self.bench.pool.servers().map(|view| view.id).collect();
                if let Some(server) = Self::pick(&idle, n).and_then(|id| self.bench.pool.take_idle(id)) {
                    self.out.push((server, None));
                }
            }
            Operation::BeginCancel(n) => {
                if let Some((server, Some(client))) = Self::pick(&self.out, n) {
                    self.bench.pool.set_cancelable(self.bench.ids[&server], true);
                    let (id, key) = self.bench.pool.begin_cancel(ClientId(client.into())).unwrap();
                    assert_eq!((id, &*key), (self.bench.ids[&server], &server.to_be_bytes()[..]));
                    self.cancels.push(id);
                }
            }
            Operation::EndCancel(n) => {
                if !self.cancels.is_empty() {
                    let id = self.cancels.swap_remove(n % self.cancels.len());
                    self.bench.pool.end_cancel(now, id);
                }
            }
            Operation::Pass(seconds) => self.bench.pass(seconds),
            Operation::Pause => self.bench.pool.pause(),
            Operation::Resume => self.bench.pool.resume(now),
            Operation::Reconnect => self.bench.pool.reconnect(now, &Error::CloseNeeded),
            Operation::Evict => drop(self.bench.pool.evict()),
            Operation::Limits(pool_size) => {
                let limits = PoolLimits { pool_size, ..self.bench.pool.limits };
                self.bench.pool.set_limits(now, limits);
            }
        }
        self.judge();
    }

    fn judge(&mut self) {
        let mut all = VecDeque::from(self.bench.collect());
        while let Some(did) = all.pop_front() {
            match did {
                Did::Connect(_) | Did::ConnectReplication(_) => {
                    assert!(self.bench.logins.len() == 1, "two logins at once");
                }
                Did::Close(server, _) => assert!(self.closed.insert(server), "{server} closed twice"),
                Did::End(client, _) => {
                    let at = self.out.iter().position(|(_, linked)| linked.map(u64::from) == Some(client)).unwrap();
                    let (server, _) = self.out.swap_remove(at);
                    assert!(self.owned.contains(&server) && self.closed.insert(server));
                    self.bench.pool.handle_closed(self.bench.now, self.bench.ids[&server]);
                    all.extend(self.bench.collect());
                }
                Did::Server(client, server) => {
                    if self.replicating.first().is_some_and(|(waiting, _)| *waiting == client) {
                        self.replicating.remove(0);
                        assert!(self.owned.insert(server), "not its own");
                    } else {
                        assert_eq!(self.waiting.remove(0).0, client, "not the first");
                        assert!(!self.owned.contains(&server), "{server} is another's own");
                    }
                    assert!(self.out.iter().all(|(out, _)| *out != server), "{server} lent twice");
                    assert!(!self.closed.contains(&server));
                    assert!(!self.cancels.contains(&self.bench.ids[&server]), "{server} may be canceled");
                    self.out.push((server, Some(client)));
                }
                Did::Check(server) => self.out.push((server, None)),
                Did::Evict(_) => {}
                other => panic!("{other:?}"),
            }
        }
        let states = self.bench.states();
        let count = |wanted: fn(&ServerState) -> bool| states.iter().filter(|state| wanted(state)).count();
        let idle = count(|state| *state == ServerState::Idle);
        let pool = &self.bench.pool;
        assert_eq!(count(|state| matches!(state, ServerState::Active(_) | ServerState::Tested)), self.out.len());
        assert_eq!(count(|state| *state == ServerState::Login), self.bench.logins.len());
        assert_eq!(pool.total(), states.len());
        assert_eq!(states.len() - self.bench.logins.len() + self.closed.len(), self.bench.servers as usize, "leaked");
        assert_eq!(pool.waiting_count(), self.waiting.len() + self.replicating.len());
        assert!(
            idle == 0 || !pool.must_make_room(self.bench.now),
            "{idle} idle, but a replication client finds no room"
        );
        assert!(idle == 0 || (self.waiting.is_empty() && !pool.is_paused()), "{idle} idle, {:?} wait", self.waiting);
        assert_eq!(pool.database.used() as usize, pool.total());
    }
}

proptest! {
    #[test]
    fn no_server_is_leaked_or_lent_twice(operations in prop::collection::vec(operation(), 0..150)) {
        let limits = PoolLimits {
            pool_size: 3,
            min_pool_size: 1,
            reserve_pool_size: 1,
            reserve_pool_timeout: Some(Duration::from_secs(5)),
            server_lifetime: Duration::from_secs(30),
            server_idle_timeout: Some(Duration::from_secs(10)),
            server_check_delay: Some(Duration::from_secs(3)),
            server_round_robin: false,
            server_login_retry: Duration::from_secs(1),
            query_wait_timeout: None,
        };
        let bench = Bench::with(limits, &Arc::new(Quota::new(3)), &Arc::default());
        let mut model = Model {
            bench,
            out: Vec::new(),
            waiting: Vec::new(),
            replicating: Vec::new(),
            owned: HashSet::new(),
            cancels: Vec::new(),
            closed: HashSet::new(),
            clients: 0,
        };
        for operation in operations {
            model.apply(operation);
        }
    }
}
