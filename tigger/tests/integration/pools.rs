//! The life of servers: opened in advance, closed when old or idle, and what clients see of servers that cannot be
//! reached; and what each pool mode does when a server is given back.

use std::{
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use tigger_testkit::{Postgres, ProxyOptions, free_port};

use crate::support::{Console, options, own_postgres, postgres, proxy, until, until_logged};
use crate::wire::{POSTGRES, Refusal, Wire, cstr, message};

#[test]
fn min_pool_size_is_reached_and_kept() {
    let Some(postgres) = own_postgres() else { return };
    let proxy = proxy(&options(&postgres).setting("min_pool_size", "3").setting("server_idle_timeout", "1"));
    drop(Wire::new(&proxy));
    let mut console = Console::new(&proxy);
    console.until_pool("postgres", "sv_idle", 3);
    let backends = "select count(*) from pg_stat_activity where datname = 'postgres' and pid <> pg_backend_pid()";
    assert_eq!(postgres.psql(backends).unwrap(), "3");
    // One more than needed is closed when idle, and one that was lost is opened again.
    let mut clients: Vec<Wire> = (0..4).map(|_| Wire::new(&proxy)).collect();
    clients.iter_mut().for_each(|client| drop(client.query("begin")));
    drop(clients);
    console.until_pool("postgres", "sv_active", 0);
    console.until_pool("postgres", "sv_idle", 3);
    postgres.psql("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = 'postgres' limit 1").unwrap();
    until_logged(&proxy, "terminating connection due to administrator command");
    console.until_pool("postgres", "sv_idle", 3);
}

#[test]
fn old_servers_are_closed() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(2).setting("server_lifetime", "1"));
    let mut client = Wire::new(&proxy);
    // In a transaction a server gets as old as it likes.
    client.query("begin");
    let old = client.value("select pg_backend_pid()");
    client.query("select pg_sleep(1.5)");
    assert_eq!(client.value("select pg_backend_pid()"), old);
    client.query("commit");
    until_logged(&proxy, "closing because: server lifetime over");
    assert_ne!(client.value("select pg_backend_pid()"), old);
    Console::new(&proxy).until_pool("postgres", "sv_idle", 0);
}

#[test]
fn idle_servers_are_closed() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).setting("server_idle_timeout", "1"));
    let mut client = Wire::new(&proxy);
    let first = client.value("select pg_backend_pid()");
    let mut console = Console::new(&proxy);
    console.until_pool("postgres", "sv_idle", 0);
    until_logged(&proxy, "closing because: server idle timeout");
    assert_ne!(client.value("select pg_backend_pid()"), first);
}

#[test]
fn a_client_that_says_nothing_is_disconnected() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).setting("client_login_timeout", "1"));
    let mut logged_in = Wire::new(&proxy);
    let connected = Instant::now();
    let mut silent = Wire::connect(&proxy);
    let mut halfway = Wire::connect(&proxy);
    halfway.send_raw(b"\0\0\0\x54");
    for wire in [&mut silent, &mut halfway] {
        assert_eq!(wire.last_words(), Refusal::fatal("client_login_timeout"));
    }
    assert!(connected.elapsed() > Duration::from_millis(900), "{:?}", connected.elapsed());
    until_logged(&proxy, "closing because: client_login_timeout");
    // It is a limit for the login only.
    assert_eq!(logged_in.value("select 1"), "1");
}

#[test]
fn a_client_that_says_nothing_is_accepted_late() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).setting("client_login_timeout", "1");
    // The timeout begins when it is accepted, which tcp_defer_accept puts off by a second.
    let check = |proxy: &tigger_testkit::Proxy, least: Duration| {
        let connected = Instant::now();
        assert_eq!(Wire::connect(proxy).last_words(), Refusal::fatal("client_login_timeout"));
        assert!(connected.elapsed() > least, "{:?}", connected.elapsed());
    };
    let at_once = Duration::from_millis(900);
    check(&proxy(&options.clone().setting("tcp_defer_accept", "0")), at_once);
    let late = proxy(&options);
    check(&late, Duration::from_millis(1900));
    // Who speaks is let in, with each setting.
    assert_eq!(Wire::new(&late).value("select 1"), "1");
    late.rewrite(&options.setting("tcp_defer_accept", "0")).unwrap();
    Console::new(&late).table("RELOAD");
    assert_eq!(Wire::new(&late).value("select 1"), "1");
    check(&late, at_once);
}

#[test]
fn a_server_that_does_not_answer() {
    let Some(postgres) = postgres() else { return };
    // It accepts connections, or rather the kernel does, and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = format!("mute = host=127.0.0.1 port={}", mute.local_addr().unwrap().port());
    let options = options(postgres).database(&line).setting("server_connect_timeout", "1");
    let proxy = proxy(&options.setting("client_login_timeout", "3"));
    let login = [("user", "postgres"), ("database", "mute")];
    let mut first = Wire::connect(&proxy);
    first.send_raw(&crate::wire::startup(3 << 16, &login));
    until_logged(&proxy, "connect timeout");
    let text = "server login has been failing, cached error: connect timeout (server_login_retry)";
    assert_eq!(Wire::try_login(&proxy, &login).unwrap_err(), Refusal::fatal(text));
    assert_eq!(first.last_words(), Refusal::fatal("client_login_timeout (server down)"));
}

#[test]
fn a_server_that_is_not_there_fails_fast_and_is_tried_again() {
    let Some(mut postgres) = own_postgres() else { return };
    let options = options(&postgres).setting("server_login_retry", "1").setting("query_wait_timeout", "2");
    let proxy = proxy(&options);
    let mut client = Wire::new(&proxy);
    assert_eq!(client.value("select 1"), "1");
    postgres.stop_fast().unwrap();
    Console::new(&proxy).until_pool("postgres", "sv_idle", 0);
    // The first to ask waits for the attempt; when that failed, everybody is told at once.
    let text = "server login has been failing, cached error: connect failed (server_login_retry)";
    until("queries fail at once", || {
        let mut wire = Wire::new(&proxy);
        wire.start("select 1");
        let refusal = wire.last_words();
        assert!(["query_wait_timeout", text].contains(&refusal.text.as_str()), "{refusal:?}");
        refusal == Refusal::fatal(text)
    });
    client.start("select 1");
    assert_eq!(client.last_words(), Refusal::fatal(text));
    postgres.restart().unwrap();
    until("the server is tried again", || {
        Wire::try_login(&proxy, POSTGRES).is_ok_and(|mut wire| wire.query("select 1").status == b'I')
    });
}

#[test]
fn a_client_that_waits_for_its_login_is_let_in_when_the_server_comes() {
    let Some(mut postgres) = own_postgres() else { return };
    let options = options(&postgres).setting("server_login_retry", "1");
    postgres.stop_fast().unwrap();
    let proxy = proxy(&options);
    let mut first = Wire::connect(&proxy);
    first.send_raw(&crate::wire::startup(3 << 16, POSTGRES));
    until_logged(&proxy, "connect failed");
    postgres.restart().unwrap();
    first.logged_in().unwrap();
    assert_eq!(first.value("select 1"), "1");
}

#[test]
fn a_port_where_nothing_listens() {
    let Some(postgres) = postgres() else { return };
    let line = format!("nowhere = host=127.0.0.1 port={}", free_port());
    let proxy = proxy(&options(postgres).database(&line).setting("client_login_timeout", "2"));
    let login = [("user", "postgres"), ("database", "nowhere")];
    let mut first = Wire::connect(&proxy);
    first.send_raw(&crate::wire::startup(3 << 16, &login));
    until_logged(&proxy, "connect failed");
    let text = "server login has been failing, cached error: connect failed (server_login_retry)";
    assert_eq!(Wire::try_login(&proxy, &login).unwrap_err(), Refusal::fatal(text));
    // Another database is not affected.
    assert_eq!(Wire::new(&proxy).value("select 1"), "1");
}

#[test]
fn statement_mode_refuses_transactions() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_mode("statement").pool_size(1));
    let mut good = Wire::new(&proxy);
    assert_eq!(good.value("select 1"), "1");
    let mut bad = Wire::new(&proxy);
    bad.start("begin");
    assert_eq!(bad.last_words(), Refusal::fatal("transaction blocks not allowed in statement pooling mode"));
    assert_eq!(good.value("select 2"), "2");
    Console::new(&proxy).until_quiet("postgres");
}

#[test]
fn session_mode_keeps_the_server_and_resets_it_afterwards() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_mode("session").pool_size(1));
    let mut first = Wire::new(&proxy);
    let pid = first.value("select pg_backend_pid()");
    first.query("set work_mem = '77MB'; create temp table pools_temp(a int)");
    first.query("prepare pools_prepared as select 8");
    assert_eq!(first.value("execute pools_prepared"), "8");
    let mut second = Wire::new(&proxy);
    second.start("select pg_backend_pid()");
    Console::new(&proxy).until_pool("postgres", "cl_waiting", 1);
    drop(first);
    assert_eq!(second.reply().value(), pid, "the server was to be used again");
    assert_ne!(second.value("show work_mem"), "77MB");
    assert_eq!(second.value("select to_regclass('pools_temp') is null"), "t");
    let refusal = second.query("execute pools_prepared").refusal.unwrap();
    assert_eq!(refusal.sqlstate, "26000", "{refusal:?}");
}

#[test]
fn a_header_in_parts_reaches_the_server_of_its_client() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let mut client = Wire::new(&proxy);
    client.query("begin");
    let query = message(b'Q', &cstr("select 'whole'"));
    for cut in 1..=6 {
        client.send_raw(&query[..cut]);
        // Nothing tells when the proxy has read it; if it has not, this proves less, but does not fail.
        thread::sleep(Duration::from_millis(20));
        client.send_raw(&query[cut..]);
        assert_eq!(client.reply().value(), "whole");
    }
}

#[test]
fn an_empty_reset_query_resets_nothing() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_mode("session").pool_size(1).setting("server_reset_query", ""));
    Wire::new(&proxy).query("set work_mem = '77MB'");
    assert_eq!(Wire::new(&proxy).value("show work_mem"), "77MB");
}

#[test]
fn server_reset_query_always() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1).setting("server_reset_query_always", "1"));
    let mut first = Wire::new(&proxy);
    let pid = first.value("set work_mem = '77MB'; select pg_backend_pid()");
    assert_ne!(first.value("show work_mem"), "77MB");
    assert_eq!(Wire::new(&proxy).value("select pg_backend_pid()"), pid);
    // In a transaction nothing is reset.
    first.query("begin; set work_mem = '78MB'");
    assert_eq!(first.value("show work_mem"), "78MB");
    first.query("commit");
    assert_ne!(first.value("show work_mem"), "78MB");
}

#[test]
fn a_reset_query_that_fails_closes_the_server() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_mode("session").pool_size(1).setting("server_reset_query", "selekt"));
    let pid = Wire::new(&proxy).value("select pg_backend_pid()");
    assert_ne!(Wire::new(&proxy).value("select pg_backend_pid()"), pid);
    until_logged(&proxy, "reset query failed");
}

#[test]
fn a_pool_of_the_fallback_line_is_kept_for_a_while() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).setting("server_idle_timeout", "1").setting("stats_period", "1"));
    let login = [("user", "postgres"), ("database", "template1")];
    Wire::login(&proxy, &login).query("select 1");
    until_logged(&proxy, "closing because: server idle timeout");
    let periods = || proxy.log().matches("stats: ").count();
    let before = periods();
    until("some time has passed", || periods() > before + 1);
    assert!(!proxy.log().contains("cleaning up idle pool"), "{}", proxy.log());
    let stats = Console::new(&proxy).table("SHOW STATS");
    assert_eq!(&stats.find("database", "template1").unwrap()["total_query_count"], "1");
    // What is known about a server that refuses logins is kept, too: it is not asked again for each client.
    let login = [("user", "postgres"), ("database", "missing")];
    let refused = Wire::try_login(&proxy, &login).unwrap_err();
    assert_eq!(refused.sqlstate, "3D000");
    let before = periods();
    until("some time has passed", || periods() > before);
    assert!(Wire::try_login(&proxy, &login).unwrap_err().text.ends_with("(server_login_retry)"));
}

#[test]
fn server_round_robin() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).pool_size(3).setting("kernel_path", "off");
    let proxy = proxy(&options.clone().setting("server_round_robin", "1"));
    let mut clients: Vec<Wire> = (0..3).map(|_| Wire::new(&proxy)).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.query("begin").status, b'T'));
    clients.iter_mut().for_each(|client| assert_eq!(client.query("commit").status, b'I'));
    // One client, which is served anew only when its last server is back.
    let mut pids = || -> Vec<String> { (0..3).map(|_| clients[0].value("select pg_backend_pid()")).collect() };
    let (first, second) = (pids(), pids());
    assert_eq!(first, second);
    assert!(first[0] != first[1] && first[1] != first[2] && first[2] != first[0], "{first:?}");
    proxy.rewrite(&options).unwrap();
    Console::new(&proxy).table("RELOAD");
    let all = pids();
    assert!(all.iter().all(|pid| *pid == all[0]), "{all:?}");
}

/// The options of the tests of `connect_query`: one database, whose line ends with it.
fn connecting(postgres: &Postgres, sql: &str) -> ProxyOptions {
    let (host, port) = (postgres.host(), postgres.port());
    let line = format!("app = host={host} port={port} dbname=postgres connect_query='{}'", sql.replace('\'', "''"));
    ProxyOptions::new().database(&line).pool_mode("transaction")
}

const APP: &[(&str, &str)] = &[("user", "postgres"), ("database", "app")];

#[test]
fn connect_query_runs_once_on_each_server() {
    let Some(postgres) = own_postgres() else { return };
    postgres.psql("create table connects (pid int)").unwrap();
    let sql = "insert into connects values (pg_backend_pid()); set timezone = 'Asia/Tokyo'; set geqo_threshold = 7";
    let options = connecting(&postgres, sql);
    let proxy = proxy(&options);
    let mut clients: Vec<Wire> = (0..3).map(|_| Wire::login(&proxy, APP)).collect();
    for client in &mut clients {
        // What it sets is what clients without a wish of their own are told and get.
        assert_eq!(client.parameters["TimeZone"], "Asia/Tokyo");
        assert_eq!(client.query("begin").status, b'T');
        assert_eq!(client.value("show timezone"), "Asia/Tokyo");
        assert_eq!(client.value("show geqo_threshold"), "7");
    }
    clients.iter_mut().for_each(|client| assert_eq!(client.query("commit").status, b'I'));
    clients.iter_mut().for_each(|client| assert_eq!(client.value("select 1"), "1"));
    assert_eq!(postgres.psql("select count(*), count(distinct pid) from connects").unwrap(), "3|3");
    // Another one makes other servers.
    let pid = clients[0].value("select pg_backend_pid()");
    proxy.rewrite(&connecting(&postgres, "set geqo_threshold = 8")).unwrap();
    Console::new(&proxy).table("RELOAD");
    assert_eq!(clients[0].value("show geqo_threshold"), "8");
    assert_ne!(clients[0].value("select pg_backend_pid()"), pid);
}

#[test]
fn a_connect_query_that_fails_changes_nothing() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&connecting(postgres, "set geqo_threshold = 7; select 1/0"));
    let mut client = Wire::login(&proxy, APP);
    assert_eq!(client.value("show geqo_threshold"), "12");
    until_logged(&proxy, "connect_query failed: division by zero");
}

#[test]
fn a_server_that_a_connect_query_leaves_unusable_is_not_used() {
    let Some(postgres) = postgres() else { return };
    for (sql, reason) in [
        ("begin", "connect_query left a transaction open"),
        ("copy pg_class from stdin", "connect_query wants to copy"),
    ] {
        let proxy = proxy(&connecting(postgres, sql).setting("client_login_timeout", "1"));
        let refusal = Wire::try_login(&proxy, APP).unwrap_err();
        assert_eq!(refusal, Refusal::fatal("client_login_timeout (server down)"), "{sql}");
        until_logged(&proxy, &format!("login failed: {reason}"));
    }
}
