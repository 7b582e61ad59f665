//! Times after which a client or a query is given up, on whichever path it is, and what the client is told.

use std::time::{Duration, Instant};

use tigger_testkit::{Postgres, Proxy};

use crate::support::{Console, options, postgres, proxy};
use crate::wire::{Refusal, Wire};

fn limited(postgres: &Postgres, servers: u32, settings: &[(&str, &str)]) -> Proxy {
    let options = options(postgres).pool_size(servers);
    proxy(&settings.iter().fold(options, |options, (name, value)| options.setting(name, value)))
}

#[track_caller]
fn assert_ended(wire: &mut Wire, text: &str) {
    assert_eq!(wire.last_words(), Refusal::fatal(text));
}

#[test]
fn query_timeout() {
    let Some(postgres) = postgres() else { return };
    let proxy = limited(postgres, 1, &[("query_timeout", "1")]);
    let mut wire = Wire::new(&proxy);
    // Several, so that the kernel path has the client.
    for _ in 0..5 {
        assert_eq!(wire.value("select 1"), "1");
    }
    wire.start("select pg_sleep(1000)");
    assert_ended(&mut wire, "query timeout");
    // Its server went with it, and another comes.
    let mut other = Wire::new(&proxy);
    assert_eq!(other.value("select 2"), "2");
    Console::new(&proxy).until_quiet("postgres");
    assert!(proxy.log().contains("closing because: query timeout"), "{}", proxy.log());
}

#[test]
fn query_timeout_of_those_who_wait() {
    let Some(postgres) = postgres() else { return };
    let proxy = limited(postgres, 1, &[("query_timeout", "1")]);
    let (mut holder, mut wire) = (Wire::new(&proxy), Wire::new(&proxy));
    holder.query("begin");
    wire.start("select 1");
    assert_ended(&mut wire, "query_timeout");
    // Who is idle in a transaction runs no query.
    assert_eq!(holder.value("select 2"), "2");
}

#[test]
fn idle_transaction_timeout() {
    let Some(postgres) = postgres() else { return };
    let proxy = limited(postgres, 1, &[("idle_transaction_timeout", "1")]);
    for failed in [false, true] {
        let mut wire = Wire::new(&proxy);
        wire.value("select 1");
        wire.query("begin");
        if failed {
            assert_eq!(wire.query("select 1/0").status, b'E');
        }
        assert_ended(&mut wire, "idle transaction timeout");
    }
    // A query that takes longer is no idleness.
    let mut wire = Wire::new(&proxy);
    wire.query("begin");
    assert_eq!(wire.query("select pg_sleep(2.5)").status, b'T');
    assert_ended(&mut wire, "idle transaction timeout");
    Console::new(&proxy).until_quiet("postgres");
}

#[test]
fn transaction_timeout() {
    let Some(postgres) = postgres() else { return };
    let proxy = limited(postgres, 1, &[("transaction_timeout", "1")]);
    let mut wire = Wire::new(&proxy);
    wire.query("begin");
    // Its queries are short.
    let refusal = loop {
        let reply = wire.query("select 1");
        if reply.status == 0 {
            break reply.refusal;
        }
    };
    assert_eq!(refusal, Some(Refusal::fatal("transaction timeout")));
    let mut wire = Wire::new(&proxy);
    wire.start("select pg_sleep(1000)");
    assert_ended(&mut wire, "transaction timeout");
}

#[test]
fn client_idle_timeout() {
    let Some(postgres) = postgres() else { return };
    let proxy = limited(postgres, 1, &[("client_idle_timeout", "1")]);
    let mut console = Console::new(&proxy);
    let (mut silent, mut wire) = (Wire::new(&proxy), Wire::new(&proxy));
    // Who goes on asking is not idle, on whichever path; neither is who waits for a long query, nor who is in a transaction.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2500) {
        assert_eq!(wire.value("select 1"), "1");
    }
    assert_eq!(wire.query("select pg_sleep(2.5)").status, b'I');
    assert_ended(&mut silent, "client_idle_timeout");
    assert_ended(&mut wire, "client_idle_timeout");
    // The console is no client in this sense.
    assert_eq!(console.pool("postgres", "cl_active"), 0);
}

#[test]
fn a_linked_client_of_session_mode_may_be_idle() {
    let Some(postgres) = postgres() else { return };
    // One at a time: a transaction and the idleness after its BEGIN are nearly as old.
    for (limit, text) in
        [("transaction_timeout", "transaction timeout"), ("idle_transaction_timeout", "idle transaction timeout")]
    {
        let settings = [("client_idle_timeout", "1"), ("query_timeout", "1"), (limit, "1"), ("pool_mode", "session")];
        let proxy = limited(postgres, 2, &settings);
        let (mut wire, mut silent) = (Wire::new(&proxy), Wire::new(&proxy));
        assert_eq!(wire.value("select 1"), "1");
        // That one is not linked, and has been here for as long.
        assert_ended(&mut silent, "client_idle_timeout");
        assert_eq!(wire.value("select 2"), "2");
        wire.query("begin");
        assert_ended(&mut wire, text);
    }
}

#[test]
fn a_user_may_have_others() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(
        &options(postgres)
            .setting("query_timeout", "1000")
            .user_line("alice = query_timeout=1 idle_transaction_timeout=1")
            .user_line("bob = client_idle_timeout=1"),
    );
    let login = |user| Wire::login(&proxy, &[("user", user), ("database", "postgres")]);
    let (mut alice, mut bob) = (login("alice"), login("bob"));
    alice.start("select pg_sleep(1000)");
    assert_ended(&mut alice, "query timeout");
    assert_ended(&mut bob, "client_idle_timeout");
    let mut alice = login("alice");
    alice.query("begin");
    assert_ended(&mut alice, "idle transaction timeout");
}

#[test]
fn query_wait_notify() {
    let Some(postgres) = postgres() else { return };
    let proxy = limited(postgres, 1, &[("query_wait_notify", "1")]);
    let (mut holder, mut wire) = (Wire::new(&proxy), Wire::new(&proxy));
    for _ in 0..2 {
        assert_eq!(wire.value("select 1"), "1");
        holder.query("begin");
        wire.start("select 2");
        let (kind, body) = wire.message().unwrap();
        let text = String::from_utf8_lossy(&body);
        assert!(kind == b'N' && text.contains("SNOTICE\0C00000\0"), "{kind} {text}");
        assert!(text.contains("No server connection available in postgres backend, client being queued"), "{text}");
        // Once; then its query is served.
        holder.query("commit");
        assert_eq!(wire.reply().kinds, "TDCZ");
    }
}

#[test]
fn pool_idle_timeout() {
    let Some(postgres) = postgres() else { return };
    let settings = [("pool_idle_timeout", "1"), ("server_idle_timeout", "0.1")];
    let proxy = limited(postgres, 1, &settings);
    let mut console = Console::new(&proxy);
    let mut wire = Wire::new(&proxy);
    assert_eq!(wire.value("select 1"), "1");
    console.until_pool("postgres", "sv_idle", 0);
    // It has a client.
    assert_eq!(console.pool("postgres", "cl_active"), 1);
    drop(wire);
    crate::support::until_logged(&proxy, "cleaning up idle pool: postgres/postgres");
    assert!(console.table("SHOW POOLS").find("database", "postgres").is_none());
    assert_eq!(Wire::new(&proxy).value("select 1"), "1");
}
