//! Things that break: backends, servers and clients that die at the worst moment. Nobody hangs, nothing is leaked, and
//! nobody gets a server in a state that another client left behind.

use std::{process::Command, thread, time::Duration};

use tigger_testkit::{Pgbench, Postgres, Signal};

use crate::support::{Console, DEADLINE, join, options, own_postgres, postgres, proxy, until, until_logged};
use crate::wire::{Wire, cstr, message};

fn kill_9(pid: &str) {
    tigger_testkit::run(Command::new("sh").args(["-c", &format!("kill -9 {pid}")]), DEADLINE)
        .unwrap()
        .checked()
        .unwrap();
}

#[test]
fn a_backend_killed_in_the_middle_of_a_query() {
    let Some(postgres) = own_postgres() else { return };
    let proxy = proxy(&options(&postgres).pool_size(1).setting("server_login_retry", "1"));
    let mut client = Wire::new(&proxy);
    let pid = client.value("select pg_backend_pid()");
    client.start("select pg_sleep(600)");
    let mut console = Console::new(&proxy);
    console.until_pool("postgres", "sv_active", 1);
    let mut waiting = Wire::new(&proxy);
    waiting.start("select 'served'");
    console.until_pool("postgres", "cl_waiting", 1);
    kill_9(&pid);
    let refusal = client.last_words();
    assert!(refusal.text == "server conn crashed?" || refusal.sqlstate.starts_with("57P"), "{refusal:?}");
    assert_eq!(refusal.severity, "FATAL");
    // Who waited gets the next server when PostgreSQL has recovered, or one that PostgreSQL let in for a moment before.
    let reply = waiting.reply();
    assert!(reply.status == b'I' || reply.refusal.is_some_and(|refusal| refusal.severity == "FATAL"));
    until("a new connection works", || proxy.psql("select 1").is_ok());
    assert_ne!(Wire::new(&proxy).value("select pg_backend_pid()"), pid);
    console.until_quiet("postgres");
}

#[test]
fn a_backend_that_is_terminated_tells_the_client_why() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let mut client = Wire::new(&proxy);
    let pid = client.value("select pg_backend_pid()");
    client.start("select pg_sleep(600)");
    Console::new(&proxy).until_pool("postgres", "sv_active", 1);
    postgres.psql(&format!("select pg_terminate_backend({pid})")).unwrap();
    let reply = client.reply();
    let refusal = reply.refusal.unwrap();
    assert_eq!(reply.status, 0, "the connection goes on");
    assert!(refusal.sqlstate == "57P01" || refusal.text == "server conn crashed?", "{refusal:?}");
    assert_eq!(Wire::new(&proxy).value("select 1"), "1");
}

#[test]
fn a_client_that_dies_in_a_transaction_leaves_nothing_behind() {
    let Some(postgres) = postgres() else { return };
    postgres.psql("drop table if exists faults_died; create table faults_died(a int)").unwrap();
    let proxy = proxy(&options(postgres).pool_size(1));
    let mut client = Wire::new(&proxy);
    client.query("begin; lock table faults_died; insert into faults_died values (1)");
    let pid = client.value("select pg_backend_pid()");
    drop(client);
    // Not reused: its transaction would be the next client's.
    let mut next = Wire::new(&proxy);
    let reply = next.query("select pg_backend_pid()");
    assert_eq!(reply.status, b'I');
    assert_ne!(reply.value(), pid);
    until_logged(&proxy, "closing because: client disconnect while server was not ready");
    let backends = format!("select count(*) from pg_stat_activity where pid = {pid}");
    until("its backend has ended", || postgres.psql(&backends).unwrap() == "0");
    assert_eq!(next.value("set lock_timeout = '30s'; select count(*) from faults_died"), "0");
}

#[test]
fn a_client_that_dies_in_the_middle_of_a_message_or_a_query() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let mut console = Console::new(&proxy);
    let mut pids = Vec::new();
    // Half a query; a query that runs; a COPY that was not ended; a result that nobody reads.
    let query = |sql: &str| message(b'Q', &cstr(sql));
    let deaths = [
        query("select 1, 2, 3")[..12].to_vec(),
        query("select pg_sleep(600)"),
        query("copy faults_copy from stdin"),
        query("select repeat('x', 1000) from generate_series(1, 1000000)"),
    ];
    for death in deaths {
        let mut client = Wire::new(&proxy);
        pids.push(client.value("create temp table if not exists faults_copy(a int); select pg_backend_pid()"));
        client.send_raw(&death);
        console.until_pool("postgres", "sv_active", 1);
        drop(client);
        console.until_quiet("postgres");
        let mut next = Wire::new(&proxy);
        let reply = next.query("select 1");
        assert_eq!((reply.kinds.as_str(), reply.status), ("TDCZ", b'I'));
        assert_ne!(next.value("select pg_backend_pid()"), *pids.last().unwrap());
    }
    let pids = pids.join(", ");
    postgres.psql(&format!("select pg_terminate_backend(pid) from unnest(array[{pids}]) pid")).unwrap();
}

#[test]
fn clients_that_die_while_waiting_leave_the_queue() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let mut holder = Wire::new(&proxy);
    holder.query("begin");
    let mut console = Console::new(&proxy);
    let mut waiting: Vec<Wire> = (0..5).map(|_| Wire::new(&proxy)).collect();
    for (client, nth) in waiting.iter_mut().zip(1..) {
        client.start("select 'still here'");
        console.until_pool("postgres", "cl_waiting", nth);
    }
    let mut last = waiting.pop().unwrap();
    drop(waiting);
    console.until_pool("postgres", "cl_waiting", 1);
    holder.query("commit");
    assert_eq!(last.reply().value(), "still here");
    console.until_quiet("postgres");
}

#[test]
fn postgres_crashes_and_comes_back_under_load() {
    let Some(mut postgres) = own_postgres() else { return };
    Pgbench::init(&postgres.conninfo(), 1).unwrap();
    let options = options(&postgres).pool_size(4).setting("server_login_retry", "1");
    let proxy = proxy(&options.setting("query_wait_timeout", "3"));
    let load = Pgbench::new(proxy.conninfo()).clients(12).threads(2).seconds(600).script(&["--builtin=tpcb-like"]);
    let load = thread::spawn(move || load.run().unwrap());
    let mut console = Console::new(&proxy);
    until("the load is on", || {
        let stats = console.table("SHOW STATS");
        stats.find("database", "postgres").is_some_and(|row| row["total_xact_count"].parse::<u64>().unwrap() > 200)
    });
    postgres.stop_immediate().unwrap();
    // All clients end with an error: none hangs, and none is told that all is well.
    let report = join(load);
    assert_eq!(report.aborted_clients, 12, "{}", report.stderr);
    postgres.restart().unwrap();
    console.until_pool("postgres", "sv_active", 0);
    until("the pool is back", || {
        Wire::try_login(&proxy, crate::wire::POSTGRES).is_ok_and(|mut wire| wire.query("select 1").status == b'I')
    });
    let report = Pgbench::new(proxy.conninfo()).clients(12).threads(2).script(&["--builtin=tpcb-like"]).run().unwrap();
    assert_eq!(report.failures(), 0, "{}", report.stderr);
    console.until_quiet("postgres");
    assert!(servers_in_postgres(&postgres) <= 4);
}

/// Backends that PostgreSQL has for the proxy.
fn servers_in_postgres(postgres: &Postgres) -> u32 {
    let count = "select count(*) from pg_stat_activity where client_addr is not null";
    postgres.psql(count).unwrap().parse().unwrap()
}

#[test]
fn idle_servers_that_were_terminated_are_given_to_nobody() {
    let Some(postgres) = own_postgres() else { return };
    let proxy = proxy(&options(&postgres).pool_size(5));
    let mut clients: Vec<Wire> = (0..5).map(|_| Wire::new(&proxy)).collect();
    let mut console = Console::new(&proxy);
    for round in 0..10 {
        // All five servers are open, then idle.
        clients.iter_mut().for_each(|client| client.start("begin"));
        clients.iter_mut().for_each(|client| assert_eq!(client.reply().status, b'T'));
        clients.iter_mut().for_each(|client| assert_eq!(client.query("commit").status, b'I'));
        let terminate =
            "select count(pg_terminate_backend(pid, 60000)) from pg_stat_activity where client_addr is not null";
        assert_eq!(postgres.psql(terminate).unwrap(), "5", "round {round}");
        for client in &mut clients {
            assert_eq!(client.query("select 1").value(), "1", "round {round}");
        }
    }
    console.until_quiet("postgres");
    assert!(proxy.log().contains("terminating connection due to administrator command"));
}

#[test]
fn a_postgres_that_stands_still_holds_up_only_its_own_clients() {
    let Some(still) = own_postgres() else { return };
    let Some(shared) = postgres() else { return };
    let line = format!("still = host={} port={} dbname=postgres", still.host(), still.port());
    let proxy = proxy(&options(shared).database(&line).setting("query_wait_timeout", "2").pool_size(1));
    let mut holder = Wire::login(&proxy, &[("user", "postgres"), ("database", "still")]);
    let mut waiting = Wire::login(&proxy, &[("user", "postgres"), ("database", "still")]);
    holder.start("select pg_sleep(600)");
    Console::new(&proxy).until_pool("still", "sv_active", 1);
    still.signal(Signal::SIGSTOP).unwrap();
    waiting.start("select 1");
    let mut other = Wire::new(&proxy);
    for _ in 0..100 {
        assert_eq!(other.value("select 1"), "1");
    }
    assert_eq!(waiting.last_words().text, "query_wait_timeout");
    still.signal(Signal::SIGCONT).unwrap();
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_costs_little_memory() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(2));
    let mut warm = Wire::new(&proxy);
    warm.query("select 1");
    let before = proxy.rss_kib().unwrap();
    let mut lazy = Wire::new(&proxy);
    lazy.start("select repeat('x', 1000) from generate_series(1, 200000)");
    Console::new(&proxy).until_pool("postgres", "sv_active", 1);
    let mut pids = std::collections::BTreeSet::new();
    let reading = std::time::Instant::now();
    while reading.elapsed() < Duration::from_millis(500) {
        pids.insert(warm.value("select pg_backend_pid()"));
    }
    assert_eq!(pids.len(), 1, "the other server stays with the lazy client");
    let grown = proxy.rss_kib().unwrap().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB for a client that does not read 200 MB");
    let reply = lazy.reply();
    assert_eq!((reply.rows.len(), reply.status), (200_000, b'I'));
}

#[test]
fn an_end_in_the_middle_of_a_result_cuts_no_message() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let mut console = Console::new(&proxy);
    for end in ["KILL postgres", "a terminated backend"] {
        let mut lazy = Wire::new(&proxy);
        let pid = lazy.value("select pg_backend_pid()");
        lazy.start("select repeat('x', 5000) from generate_series(1, 20000)");
        console.until_pool("postgres", "sv_active", 1);
        if end.starts_with("KILL") {
            console.table(end);
            console.table("RESUME postgres");
        } else {
            postgres.psql(&format!("select pg_terminate_backend({pid})")).unwrap();
        }
        let reply = lazy.reply();
        assert_eq!(reply.status, 0, "{end}: the connection goes on");
        // Had the error been put inside a message, the rest would not be messages of the protocol.
        assert!(reply.rows.iter().all(|row| row[0].as_ref().is_some_and(|value| value.len() == 5000)), "{end}");
        let kinds = reply.kinds.trim_end_matches('E').trim_end_matches('N').trim_start_matches('T').trim_matches('D');
        assert_eq!(kinds, "", "{end}");
        console.until_quiet("postgres");
    }
}
