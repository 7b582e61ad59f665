//! `server_check_query`: servers that were idle are seen to answer before clients get them, and clients notice nothing of
//! those that do not.

use tigger_testkit::{Postgres, Proxy, ProxyOptions};

use crate::support::{Console, options, own_postgres, postgres, proxy, until, until_logged};
use crate::wire::Wire;

/// A check that leaves a trace.
const COUNTED: &str = "insert into checks values (pg_backend_pid())";

/// A server that counts checks, and the options for it.
fn counting() -> Option<(Postgres, ProxyOptions)> {
    let postgres = own_postgres()?;
    postgres.psql("create table checks (pid int)").unwrap();
    let options = options(&postgres).setting("server_check_query", COUNTED);
    Some((postgres, options))
}

fn checks(postgres: &Postgres) -> u64 {
    postgres.psql("select count(*) from checks").unwrap().parse().unwrap()
}

/// A server of `proxy` that is stopped, as one to which the network has lost the way; it goes on when dropped.
struct Stopped(nix::unistd::Pid);

impl Stopped {
    fn new(pid: &str) -> Self {
        let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        nix::sys::signal::kill(self.0, nix::sys::signal::SIGCONT).unwrap();
    }
}

fn closed(proxy: &Proxy, reason: &str) {
    until_logged(proxy, &format!("closing because: test query failed: {reason}"));
}

#[test]
fn idle_servers_are_checked_again_and_again() {
    let Some((postgres, options)) = counting() else { return };
    let proxy = proxy(&options.setting("server_check_delay", "0.3"));
    let mut client = Wire::new(&proxy);
    let pid = client.value("select pg_backend_pid()");
    until("it was checked", || checks(&postgres) >= 3);
    assert_eq!(client.value("select pg_backend_pid()"), pid, "and is used again");
    assert_eq!(postgres.psql("select distinct pid from checks").unwrap(), pid);
    // While it is used it is not checked.
    client.query("begin");
    let before = checks(&postgres);
    client.query("select pg_sleep(1)");
    assert_eq!(checks(&postgres), before);
    client.query("commit");
    Console::new(&proxy).until_quiet("postgres");
}

#[test]
fn a_checked_server_is_idle_all_the_same() {
    let Some((postgres, options)) = counting() else { return };
    let proxy = proxy(&options.setting("server_check_delay", "0.3").setting("server_idle_timeout", "2"));
    let mut client = Wire::new(&proxy);
    client.value("select 1");
    until_logged(&proxy, "closing because: server idle timeout");
    assert!(checks(&postgres) > 0);
}

#[test]
fn an_empty_query_is_the_default() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).setting("server_check_delay", "0.3"));
    let pid = Wire::new(&proxy).value("select pg_backend_pid()");
    let query = format!("select query = '' from pg_stat_activity where pid = {pid}");
    until("it is the last query of the server", || postgres.psql(&query).unwrap() == "t");
}

#[test]
fn a_server_that_does_not_answer_is_not_used() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).setting("server_check_delay", "0.3").setting("server_connect_timeout", "3");
    let proxy = proxy(&options.pool_size(2));
    let mut client = Wire::new(&proxy);
    let pid = client.value("select pg_backend_pid()");
    let _stopped = Stopped::new(&pid);
    Console::new(&proxy).until_pool("postgres", "sv_tested", 1);
    assert_ne!(client.value("select pg_backend_pid()"), pid, "the client notices nothing");
    closed(&proxy, "no answer");
    assert_ne!(client.value("select pg_backend_pid()"), pid);
}

#[test]
fn a_check_that_fails_closes_the_server() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).setting("server_check_delay", "0.3");
    let proxy = proxy(&options.clone().setting("server_check_query", "select 1/0"));
    let mut client = Wire::new(&proxy);
    assert_eq!(client.value("select 1"), "1");
    closed(&proxy, "division by zero");
    assert_eq!(client.value("select 1"), "1");
    // A reload changes it.
    proxy.rewrite(&options.setting("server_check_query", "begin")).unwrap();
    let mut console = Console::new(&proxy);
    console.table("RELOAD");
    until_logged(&proxy, "closing because: test query left a transaction open");
    assert_eq!(client.value("select 1"), "1");
    console.until_quiet("postgres");
}

#[test]
fn a_delay_of_zero_checks_each_time() {
    let Some((postgres, options)) = counting() else { return };
    let options = options.setting("server_connect_timeout", "1").pool_size(2);
    let proxy = proxy(&options.clone().setting("server_check_delay", "0"));
    let mut clients = [Wire::new(&proxy), Wire::login(&proxy, &[("user", "postgres"), ("TimeZone", "Asia/Tokyo")])];
    for nth in 1..=5 {
        clients.iter_mut().for_each(|client| assert_eq!(client.value("select 1"), "1"));
        assert_eq!(checks(&postgres), nth * 2);
    }
    // Also who waited gets a server that was checked, and cancel requests still reach the query.
    let pid = clients[0].value("select pg_backend_pid()");
    let stopped = Stopped::new(&pid);
    assert_ne!(clients[0].value("select pg_backend_pid()"), pid);
    closed(&proxy, "no answer");
    drop(stopped);
    clients[0].start("select pg_sleep(600)");
    let mut console = Console::new(&proxy);
    until("it runs", || {
        postgres.psql("select count(*) from pg_stat_activity where query like '%600)'").unwrap() == "1"
    });
    clients[0].cancel();
    assert_eq!(clients[0].reply().refusal.unwrap().sqlstate, "57014");
    console.until_quiet("postgres");
    // Without it the kernel path may take over, where there is one.
    proxy.rewrite(&options.setting("server_check_delay", "30")).unwrap();
    console.table("RELOAD");
    let before = checks(&postgres);
    clients[0].value("select 1");
    assert_eq!(checks(&postgres), before);
}
