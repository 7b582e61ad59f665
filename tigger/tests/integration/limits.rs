//! Limits: who waits, in which order, for how long, and what those are told who cannot be served.

use std::time::Instant;

use tigger_testkit::{Postgres, ProxyOptions, Psql};

use crate::prepared::{bind, execute, parse, sync};
use crate::support::{Console, assert_failed, assert_kernel_path_used, options, postgres, proxy, until_logged};
use crate::wire::{POSTGRES, Refusal, Wire};

#[test]
fn waiting_clients_are_served_in_the_order_they_came() {
    let Some(postgres) = postgres() else { return };
    postgres.psql("drop sequence if exists limits_order; create sequence limits_order").unwrap();
    let proxy = proxy(&options(postgres).pool_size(1));
    let mut holder = Wire::new(&proxy);
    let mut waiting: Vec<Wire> = (0..8).map(|_| Wire::new(&proxy)).collect();
    let mut console = Console::new(&proxy);
    for round in 0..2 {
        holder.query("begin");
        for (client, nth) in waiting.iter_mut().zip(1..) {
            client.start("select nextval('limits_order')");
            console.until_pool("postgres", "cl_waiting", nth);
        }
        holder.query("commit");
        for (client, nth) in waiting.iter_mut().zip(1..) {
            assert_eq!(client.reply().value(), (round * 8 + nth).to_string());
        }
    }
    console.until_quiet("postgres");
}

#[test]
fn pool_size_is_never_exceeded() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(3));
    let mut clients: Vec<Wire> = (0..10).map(|_| Wire::new(&proxy)).collect();
    clients.iter_mut().for_each(|client| client.start("select pg_backend_pid(), pg_sleep(0.05)"));
    let mut pids: Vec<String> = clients.iter_mut().map(|client| client.reply().value()).collect();
    pids.sort();
    pids.dedup();
    assert_eq!(pids.len(), 3, "{pids:?}");
}

#[test]
fn query_wait_timeout() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1).setting("query_wait_timeout", "1"));
    let mut holder = Wire::new(&proxy);
    holder.query("begin");
    let mut late = Wire::new(&proxy);
    let asked = Instant::now();
    late.start("select 1");
    assert_eq!(late.last_words(), Refusal::fatal("query_wait_timeout"));
    assert!(asked.elapsed().as_secs_f32() > 0.9, "{:?}", asked.elapsed());
    until_logged(&proxy, "closing because: query_wait_timeout");
    // Who has a server may take as long as it likes.
    assert_eq!(holder.query("select 1").status, b'T');
    let mut console = Console::new(&proxy);
    assert_eq!(console.pool("postgres", "cl_waiting"), 0);
    let stats = console.table("SHOW STATS");
    let waited: u64 = stats.find("database", "postgres").unwrap()["total_wait_time"].parse().unwrap();
    assert!(waited > 900_000, "{waited} us");
}

#[test]
fn the_reserve_is_used_after_its_timeout() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).pool_size(1).setting("reserve_pool_size", "1");
    let proxy = proxy(&options.setting("reserve_pool_timeout", "1").setting("query_wait_timeout", "4"));
    let [mut holder, mut second, mut third] = [(); 3].map(|()| Wire::new(&proxy));
    holder.query("begin");
    let asked = Instant::now();
    second.start("begin");
    Console::new(&proxy).until_pool("postgres", "cl_waiting", 1);
    third.start("select 1");
    assert_eq!(second.reply().status, b'T');
    assert!(asked.elapsed().as_secs_f32() > 0.9, "{:?}", asked.elapsed());
    assert_ne!(holder.value("select pg_backend_pid()"), second.value("select pg_backend_pid()"));
    assert_eq!(third.last_words(), Refusal::fatal("query_wait_timeout"));
}

#[test]
fn the_use_of_the_reserve_is_logged() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).pool_size(1).setting("reserve_pool_size", "1");
    let proxy = proxy(&options.setting("reserve_pool_timeout", "0.2"));
    let [mut holder, mut second] = [(); 2].map(|()| Wire::new(&proxy));
    holder.query("begin");
    assert_eq!(second.query("select 1").status, b'I');
    until_logged(&proxy, "taking connection from reserve_pool");
}

#[test]
fn max_client_conn() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).setting("max_client_conn", "3"));
    let mut clients: Vec<Wire> = (0..3).map(|_| Wire::new(&proxy)).collect();
    let refusal = Wire::try_login(&proxy, POSTGRES).unwrap_err();
    assert_eq!(refusal, Refusal::fatal("no more connections allowed (max_client_conn)"));
    let run = Psql::new(proxy.conninfo()).run(&["select 1"]).unwrap();
    assert_failed(&run, "FATAL:  no more connections allowed (max_client_conn)");
    // The console is always open, and those who are in go on.
    let mut console = Console::new(&proxy);
    assert_eq!(console.pool("postgres", "cl_active"), 3);
    assert_eq!(clients[0].value("select 1"), "1");
    drop(console);
    drop(clients.pop());
    let mut last = Err(refusal);
    crate::support::until("there is room again", || {
        last = Wire::try_login(&proxy, POSTGRES);
        last.is_ok()
    });
    assert_eq!(last.unwrap().value("select 1"), "1");
}

/// With `options`, two clients may log in with the first parameters; those with the second are not affected. Whoever is in
/// stays, and a place that is left is free again.
fn check_client_limit(options: &ProxyOptions, limited: &[(&str, &str)], other: &[(&str, &str)], setting: &str) {
    let refusal = Refusal::fatal(&format!("client connections exceeded ({setting})"));
    let proxy = proxy(options);
    let mut clients: Vec<Wire> = (0..2).map(|_| Wire::login(&proxy, limited)).collect();
    for _ in 0..2 {
        assert_eq!(Wire::try_login(&proxy, limited).unwrap_err(), refusal);
    }
    assert_eq!(clients[0].value("select 1"), "1");
    let _others: Vec<Wire> = (0..3).map(|_| Wire::login(&proxy, other)).collect();
    let _consoles: Vec<Console> = (0..3).map(|_| Console::new(&proxy)).collect();
    until_logged(&proxy, &format!("closing because: client connections exceeded ({setting})"));
    drop(clients.pop());
    let mut next = Err(refusal.clone());
    crate::support::until("there is room again", || {
        next = Wire::try_login(&proxy, limited);
        next.is_ok()
    });
    assert_eq!(next.unwrap().value("select 1"), "1");
}

#[test]
fn max_db_client_connections_of_all_databases() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).setting("max_db_client_connections", "2");
    let options = options.database(&format!("many = {} max_db_client_connections=10", host(postgres)));
    check_client_limit(&options, &user_in("alice", "postgres"), &user_in("alice", "many"), "max_db_client_connections");
}

#[test]
fn max_db_client_connections_of_one_database() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).database(&format!("few = {} max_db_client_connections=2", host(postgres)));
    let limited = user_in("alice", "few");
    check_client_limit(&options, &limited, &user_in("alice", "postgres"), "max_db_client_connections");
}

#[test]
fn max_user_client_connections_of_all_users() {
    let Some(postgres) = postgres() else { return };
    let options =
        options(postgres).setting("max_user_client_connections", "2").user_line("bob = max_user_client_connections=10");
    let limited = user_in("alice", "postgres");
    check_client_limit(&options, &limited, &user_in("bob", "postgres"), "max_user_client_connections");
}

#[test]
fn max_user_client_connections_of_one_user_in_all_databases() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres)
        .database(&format!("one = {}", host(postgres)))
        .database(&format!("forced = {} user=bob", host(postgres)))
        .user_line("alice = max_user_client_connections=2");
    let proxy = proxy(&options);
    // Whom the server is logged in as does not matter.
    let _in = [Wire::login(&proxy, &user_in("alice", "one")), Wire::login(&proxy, &user_in("alice", "forced"))];
    let refused = Wire::try_login(&proxy, &user_in("alice", "postgres")).unwrap_err();
    assert_eq!(refused, Refusal::fatal("client connections exceeded (max_user_client_connections)"));
    Wire::login(&proxy, &user_in("bob", "forced"));
}

#[test]
fn the_console_shows_client_limits_and_a_reload_changes_them() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres);
    let proxy = proxy(&options.clone().setting("max_db_client_connections", "1"));
    let mut console = Console::new(&proxy);
    let shown = |console: &mut Console| {
        let databases = console.table("SHOW DATABASES");
        let row = databases.find("name", "postgres").unwrap();
        ["max_client_connections", "current_client_connections"].map(|column| row[column].to_owned())
    };
    assert_eq!(shown(&mut console), ["1", "0"]);
    let _first = Wire::new(&proxy);
    assert_eq!(shown(&mut console), ["1", "1"]);
    assert!(Wire::try_login(&proxy, POSTGRES).is_err());
    proxy.rewrite(&options.setting("max_user_client_connections", "2")).unwrap();
    console.table("RELOAD");
    let _second = Wire::new(&proxy);
    assert_eq!(shown(&mut console), ["0", "2"]);
    let refused = Wire::try_login(&proxy, POSTGRES).unwrap_err();
    assert_eq!(refused, Refusal::fatal("client connections exceeded (max_user_client_connections)"));
}

/// Two pools that may have one server together: the idle server of one makes room for the other, a busy one does not.
fn check_eviction(options: &ProxyOptions, first: &[(&str, &str)], second: &[(&str, &str)]) {
    let proxy = proxy(options);
    let (mut first, mut second) = (Wire::login(&proxy, first), Wire::login(&proxy, second));
    let mut console = Console::new(&proxy);
    for round in 0..3 {
        assert_eq!(first.value("select 1"), "1", "round {round}");
        assert_eq!(second.value("select 2"), "2", "round {round}");
        assert_eq!(console.table("SHOW SERVERS").rows.len(), 1);
    }
    assert!(proxy.log().contains("closing because: evicted"), "{}", proxy.log());
    first.query("begin");
    second.start("select 3");
    crate::support::until("the second client waits", || {
        let pools = console.table("SHOW POOLS");
        pools.iter().any(|row| &row["cl_waiting"] == "1")
    });
    assert_eq!(first.query("select 1").status, b'T');
    assert_eq!(console.table("SHOW SERVERS").rows.len(), 1);
    first.query("commit");
    assert_eq!(second.reply().value(), "3");
}

fn user_in<'a>(user: &'a str, database: &'a str) -> [(&'a str, &'a str); 2] {
    [("user", user), ("database", database)]
}

fn host(postgres: &Postgres) -> String {
    format!("host={} port={} dbname=postgres", postgres.host(), postgres.port())
}

#[test]
fn max_db_connections_of_all_users() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).setting("max_db_connections", "1");
    check_eviction(&options, &user_in("alice", "postgres"), &user_in("bob", "postgres"));
}

#[test]
fn max_db_connections_of_one_database() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).database(&format!("one = {} max_db_connections=1", host(postgres)));
    check_eviction(&options, &user_in("alice", "one"), &user_in("bob", "one"));
}

#[test]
fn max_user_connections_in_all_databases() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres)
        .database(&format!("one = {}", host(postgres)))
        .database(&format!("two = {}", host(postgres)))
        .user_line("alice = max_user_connections=1");
    check_eviction(&options, &user_in("alice", "one"), &user_in("alice", "two"));
}

#[test]
fn a_pool_size_of_its_own() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres)
        .database(&format!("big = {} pool_size=3", host(postgres)))
        .user_line("bob = pool_size=2")
        .pool_size(1);
    let proxy = proxy(&options);
    let mut console = Console::new(&proxy);
    for (user, database, size) in [("alice", "postgres", 1), ("alice", "big", 3), ("bob", "postgres", 2)] {
        let mut clients: Vec<Wire> = (0..6).map(|_| Wire::login(&proxy, &user_in(user, database))).collect();
        clients.iter_mut().for_each(|client| client.start("begin"));
        let is_full = |console: &mut Console| {
            let pools = console.table("SHOW POOLS");
            let row = pools.iter().find(|row| &row["user"] == user && &row["database"] == database).unwrap();
            let counts = ["sv_active", "cl_waiting"].map(|column| row[column].parse::<usize>().unwrap());
            assert!(counts[0] <= size, "{user} in {database}: {counts:?}");
            counts == [size, 6 - size]
        };
        crate::support::until("the pool is full and the others wait", || is_full(&mut console));
    }
}

#[test]
fn disable_pqexec() {
    let Some(postgres) = postgres() else { return };
    for path in ["off", "auto"] {
        let proxy = proxy(&options(postgres).setting("disable_pqexec", "1").setting("kernel_path", path));
        let mut console = Console::new(&proxy);
        for prelude in [None, Some("begin"), Some("select 1")] {
            let mut wire = Wire::new(&proxy);
            for sql in ["select 2", "select 3", "select 4"].into_iter().chain(prelude) {
                wire.send_raw(&[parse("", sql), bind("", &[]), execute(), sync()].concat());
                assert_eq!(wire.reply().refusal, None, "{sql}");
            }
            wire.start("select 5");
            assert_eq!(wire.last_words(), Refusal::fatal("PQexec disallowed"), "{path}, behind {prelude:?}");
        }
        until_logged(&proxy, "closing because: PQexec disallowed");
        console.until_quiet("postgres");
        assert_kernel_path_used(&mut console);
    }
}
