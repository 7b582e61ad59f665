//! Signals: the same as PgBouncer's, so that its service files work.

use std::{fs, thread};

use tigger_testkit::{Proxy, ProxyOptions, Psql, Signal};

use crate::support::{Console, assert_failed, join, options, postgres, proxy, until, until_logged};
use crate::wire::{POSTGRES, Refusal, Wire};

fn with_pidfile(options: ProxyOptions) -> ProxyOptions {
    options.setting("pidfile", "tigger.pid")
}

/// Waits for the end, which must be a good one that leaves no file behind.
#[track_caller]
fn assert_clean_end(proxy: &Proxy) {
    let status = proxy.wait_exit().unwrap();
    assert_eq!(status.code(), Some(0), "{status}\n{}", proxy.log());
    assert!(!proxy.socket_dir().join(format!(".s.PGSQL.{}", proxy.port())).exists(), "the socket's file is left");
    assert!(!proxy.socket_dir().join("tigger.pid").exists(), "the pidfile is left");
}

/// A new client is turned away, whether the listening socket is closed already or not.
#[track_caller]
fn assert_refuses_clients(proxy: &Proxy) {
    let run = Psql::new(proxy.conninfo()).run(&["select 1"]).unwrap();
    let text = if run.stderr.contains("refused") { "Connection refused" } else { "FATAL:  pooler is shutting down" };
    assert_failed(&run, text);
}

#[test]
fn int_waits_for_servers() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&with_pidfile(options(postgres)));
    let pid = fs::read_to_string(proxy.socket_dir().join("tigger.pid")).unwrap();
    assert_eq!(pid.trim(), proxy.pid().to_string());
    let [mut busy, mut idle] = [(); 2].map(|()| Wire::new(&proxy));
    busy.query("begin");
    proxy.signal(Signal::SIGINT).unwrap();
    until_logged(&proxy, "got SIGINT");
    assert_refuses_clients(&proxy);
    assert_eq!(busy.value("select 1"), "1");
    assert!(proxy.exited().unwrap().is_none());
    busy.query("commit");
    assert_eq!(idle.last_words(), Refusal::fatal("server shutting down"));
    assert_clean_end(&proxy);
}

#[test]
fn term_waits_for_clients() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&with_pidfile(options(postgres)));
    let [mut first, mut second] = [(); 2].map(|()| Wire::new(&proxy));
    proxy.signal(Signal::SIGTERM).unwrap();
    until_logged(&proxy, "got SIGTERM");
    assert_refuses_clients(&proxy);
    for _ in 0..3 {
        assert_eq!(first.value("select 1"), "1");
        assert_eq!(second.value("select 2"), "2");
    }
    drop(first);
    assert_eq!(second.value("select 2"), "2");
    assert!(proxy.exited().unwrap().is_none());
    drop(second);
    assert_clean_end(&proxy);
}

#[test]
fn a_second_signal_ends_at_once() {
    let Some(postgres) = postgres() else { return };
    for signals in
        [[Signal::SIGTERM, Signal::SIGTERM], [Signal::SIGTERM, Signal::SIGINT], [Signal::SIGINT, Signal::SIGINT]]
    {
        let proxy = proxy(&with_pidfile(options(postgres)));
        let mut client = Wire::new(&proxy);
        client.query("begin");
        let [first, second] = signals;
        proxy.signal(first).unwrap();
        until_logged(&proxy, &format!("got {first}"));
        assert_eq!(client.value("select 1"), "1");
        proxy.signal(second).unwrap();
        assert_eq!(client.last_words().text, "server shutting down", "{signals:?}");
        assert_clean_end(&proxy);
    }
}

#[test]
fn quit_ends_at_once() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&with_pidfile(options(postgres)));
    let mut client = Wire::new(&proxy);
    client.start("select pg_sleep(1)");
    Console::new(&proxy).until_pool("postgres", "sv_active", 1);
    proxy.signal(Signal::SIGQUIT).unwrap();
    assert_eq!(client.last_words(), Refusal::fatal("server shutting down"));
    assert_clean_end(&proxy);
}

#[test]
fn hup_reloads() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres);
    let proxy = proxy(&options);
    let mut client = Wire::new(&proxy);
    let mut console = Console::new(&proxy);
    proxy.rewrite(&options.pool_size(3)).unwrap();
    proxy.signal(Signal::SIGHUP).unwrap();
    until("the new size holds", || {
        &console.table("SHOW DATABASES").find("name", "postgres").unwrap()["pool_size"] == "3"
    });
    assert!(proxy.log().contains("got SIGHUP"));
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn hup_opens_the_log_file_again() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).setting("logfile", "tigger.log"));
    let log = |name: &str| fs::read_to_string(proxy.socket_dir().join(name)).unwrap_or_default();
    until("it logs", || log("tigger.log").contains("listening on"));
    fs::rename(proxy.socket_dir().join("tigger.log"), proxy.socket_dir().join("rotated.log")).unwrap();
    proxy.signal(Signal::SIGHUP).unwrap();
    until("there is a new file", || proxy.socket_dir().join("tigger.log").exists());
    assert!(Wire::try_login(&proxy, POSTGRES).is_ok());
    until("it is written to", || log("tigger.log").contains("login attempt"));
    assert!(!log("rotated.log").contains("login attempt"));
}

#[test]
fn usr1_pauses_and_usr2_resumes() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    let mut client = Wire::new(&proxy);
    let mut console = Console::new(&proxy);
    let paused = |console: &mut Console| console.table("SHOW STATE").find("key", "paused").unwrap()["value"].to_owned();
    proxy.signal(Signal::SIGUSR1).unwrap();
    until("it is paused", || paused(&mut console) == "yes");
    client.start("select 'resumed'");
    console.until_pool("postgres", "cl_waiting", 1);
    proxy.signal(Signal::SIGUSR2).unwrap();
    assert_eq!(client.reply().value(), "resumed");
    assert_eq!(paused(&mut console), "no");
    // No harm when there is nothing to resume.
    proxy.signal(Signal::SIGUSR2).unwrap();
    until("it came", || proxy.log().matches("got SIGUSR2").count() == 2);
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn usr2_while_shutting_down_is_ignored() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    let mut client = Wire::new(&proxy);
    client.query("begin");
    proxy.signal(Signal::SIGINT).unwrap();
    until_logged(&proxy, "got SIGINT");
    proxy.signal(Signal::SIGUSR2).unwrap();
    until_logged(&proxy, "got SIGUSR2 while shutting down, ignoring");
    let rest = thread::spawn(move || client.query("commit").status);
    assert_eq!(join(rest), b'I');
    assert_eq!(proxy.wait_exit().unwrap().code(), Some(0));
}
