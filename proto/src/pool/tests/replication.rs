//! Replication clients and the servers that are their own.

use super::*;

/// A pool in which this many servers are idle, and a replication client waits.
fn waiting(limits: PoolLimits, idle: u32) -> Bench {
    let mut bench = Bench::filled(limits, idle);
    bench.replicate(50);
    bench
}

#[test]
fn each_gets_a_server_of_its_own() {
    let mut bench = waiting(LIMITS, 1);
    bench.check(&[Did::ConnectReplication(1)]);
    // An idle server is for others, also while it waits.
    assert_eq!(bench.claim(1), Some(0));
    assert_eq!(bench.log_in(), 1);
    bench.check(&[Did::Server(50, 1)]);
    assert_eq!(bench.states(), [ServerState::Active(ClientId(1)), ServerState::Active(ClientId(50))]);
    assert!(bench.pool.begin_cancel(ClientId(50)).is_none());
    bench.pool.set_cancelable(bench.ids[&1], true);
    assert!(bench.pool.begin_cancel(ClientId(50)).is_some());
    // It goes to nobody else, even if somebody waits.
    bench.wait(2);
    bench.release(1);
    bench.check(&[Did::Close(1, Error::ReplicationClientLeft), Did::Connect(1)]);
}

#[test]
fn it_welcomes_nobody() {
    let mut bench = Bench::new(LIMITS);
    bench.replicate(50);
    bench.wait_for(1, Purpose::Login);
    bench.check(&[Did::ConnectReplication(0)]);
    bench.log_in();
    bench.check(&[Did::Server(50, 0), Did::Connect(1)]);
    assert!(!bench.pool.is_welcoming());
    bench.log_in();
    bench.check(&[Did::Welcome(1)]);
}

#[test]
fn idle_servers_make_room() {
    let mut bench = waiting(LIMITS, 2);
    bench.check(&[Did::Close(0, Error::Evicted), Did::ConnectReplication(0)]);
    // So do those of the same database, if that is full.
    let database = Arc::new(Quota::new(1));
    let mut bench = Bench::with(LIMITS, &database, &Arc::default());
    bench.wait(0);
    bench.log_in();
    bench.release(0);
    bench.did();
    bench.replicate(50);
    bench.check(&[Did::Close(0, Error::Evicted), Did::ConnectReplication(0)]);
    let mut other = Bench::with(LIMITS, &database, &Arc::default());
    other.replicate(50);
    other.check(&[Did::Evict(Scope::Database)]);
}

#[test]
fn released_servers_make_room_in_turn() {
    let mut bench = Bench::filled(LIMITS, 2);
    assert_eq!((bench.claim(0), bench.claim(1)), (Some(0), Some(1)));
    bench.wait(2);
    bench.replicate(50);
    bench.wait(3);
    bench.check(&[]);
    bench.release(0);
    bench.check(&[Did::Server(2, 0)]);
    bench.release(1);
    bench.check(&[Did::Close(1, Error::Evicted), Did::ConnectReplication(1)]);
    // While it logs in, the next goes on.
    bench.release(0);
    bench.check(&[Did::Server(3, 0)]);
    bench.log_in();
    bench.check(&[Did::Server(50, 2)]);
}

#[test]
fn a_login_that_is_refused_is_its_own_affair() {
    let mut bench = Bench::new(LIMITS);
    bench.replicate(50);
    bench.wait_for(1, Purpose::Login);
    bench.fail_login(&refused("42501"));
    bench.check(&[Did::Failed(50, "refused with 42501".into()), Did::Connect(0)]);
    assert!(bench.pool.fail_fast(bench.now).is_none());
    // That there is no server is everybody's.
    let mut bench = waiting(LIMITS, 0);
    bench.fail_login(&Error::ConnectFailed);
    bench.check(&[]);
    assert!(bench.pool.fail_fast(bench.now).is_some());
    bench.pass(15);
    bench.check(&[Did::ConnectReplication(0)]);
    bench.fail_login(&refused("57P03"));
    bench.check(&[]);
    bench.pass(15);
    bench.log_in();
    bench.check(&[Did::Server(50, 0)]);
}

#[test]
fn leaving_during_the_login() {
    let mut bench = Bench::new(LIMITS);
    let ticket = bench.replicate(50);
    bench.did();
    assert!(bench.pool.leave(ticket));
    bench.log_in();
    bench.check(&[Did::Close(0, Error::ReplicationClientLeft)]);
    assert_eq!((bench.pool.total(), bench.pool.database.used()), (0, 0));
}

#[test]
fn administrators() {
    let mut bench = waiting(LIMITS, 0);
    bench.did();
    bench.pool.pause();
    bench.log_in();
    bench.check(&[Did::Close(0, Error::PauseMode)]);
    bench.pool.resume(bench.now);
    bench.did();
    bench.pool.reconnect(bench.now, &Error::CloseNeeded);
    bench.log_in();
    bench.check(&[Did::Close(1, Error::CloseNeeded), Did::ConnectReplication(0)]);
    bench.log_in();
    bench.check(&[Did::Server(50, 2)]);
    bench.pool.reconnect(bench.now, &Error::CloseNeeded);
    bench.check(&[Did::End(50, Error::DatabaseConfigChanged)]);
    bench.pool.handle_closed(bench.now, bench.ids[&2]);
    assert_eq!(bench.pool.total(), 0);
}
