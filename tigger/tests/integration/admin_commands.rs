//! Commands of the admin console that change something: PAUSE, RESUME, RECONNECT, KILL.

use std::thread;

use crate::support::{Console, join, options, postgres, proxy, until, until_logged};
use crate::wire::{Refusal, Wire, startup};

/// Runs a command that waits on a console of its own.
fn in_background(mut console: Console, command: &'static str) -> thread::JoinHandle<crate::wire::Reply> {
    thread::spawn(move || console.wire().query(command))
}

fn is_paused(console: &mut Console, database: &str) -> bool {
    &console.table("SHOW DATABASES").find("name", database).unwrap()["paused"] == "1"
}

#[test]
fn pause_waits_for_transactions_then_clients_wait_for_resume() {
    let Some(postgres) = postgres() else { return };
    for command in ["PAUSE", "PAUSE postgres"] {
        let proxy = proxy(&options(postgres));
        let [mut client, mut other] = [(); 2].map(|()| Wire::new(&proxy));
        let mut console = Console::new(&proxy);
        client.query("begin");
        let pause = in_background(Console::new(&proxy), command);
        until("the database is paused", || is_paused(&mut console, "postgres"));
        other.start("select 'other'");
        console.until_pool("postgres", "cl_waiting", 1);
        // The transaction that was open goes on, and PAUSE waits for it.
        assert_eq!(client.value("select 5"), "5");
        assert!(!pause.is_finished());
        assert_eq!(console.refused(command).text, "already suspended/paused");
        assert_eq!(client.query("commit").status, b'I');
        assert_eq!(join(pause).tags, ["PAUSE"]);
        assert!(console.table("SHOW SERVERS").rows.is_empty(), "servers are closed");
        until_logged(&proxy, "closing because: pause mode");
        assert_eq!(console.pool("postgres", "cl_waiting"), 1);
        client.start("select 'client'");
        console.until_pool("postgres", "cl_waiting", 2);
        // A new client can log in, and waits with its first query.
        let mut new = Wire::new(&proxy);
        new.start("select 'new'");
        console.until_pool("postgres", "cl_waiting", 3);
        console.table(&command.replace("PAUSE", "RESUME"));
        let values = [&mut other, &mut client, &mut new].map(|wire| wire.reply().value());
        assert_eq!(values, ["other", "client", "new"]);
        assert!(!is_paused(&mut console, "postgres"));
    }
}

#[test]
fn pause_of_one_database_leaves_the_others() {
    let Some(postgres) = postgres() else { return };
    let line = format!("second = host={} port={} dbname=postgres", postgres.host(), postgres.port());
    let proxy = proxy(&options(postgres).database(&line));
    let mut first = Wire::new(&proxy);
    let mut second = Wire::login(&proxy, &[("user", "postgres"), ("database", "second")]);
    let mut console = Console::new(&proxy);
    console.table("PAUSE second");
    second.start("select 2");
    console.until_pool("second", "cl_waiting", 1);
    assert_eq!(first.value("select 1"), "1");
    assert_eq!(console.refused("RESUME postgres").text, "database postgres is not paused");
    console.table("RESUME second");
    assert_eq!(second.reply().value(), "2");
}

/// Two clients log in while everything is paused, and are let in when it is resumed.
fn check_login_while_paused(proxy: &tigger_testkit::Proxy, database: &str) {
    let mut console = Console::new(proxy);
    console.table("PAUSE");
    let mut clients = ["alice", "bob"].map(|user| {
        let mut client = Wire::connect(proxy);
        client.send_raw(&startup(3 << 16, &[("user", user), ("database", database)]));
        client
    });
    // Nothing is connected for them.
    until("both wait", || {
        let pools = console.table("SHOW POOLS");
        let sum = |column| pools.iter().map(|row| row[column].parse::<u32>().unwrap()).sum::<u32>();
        sum("cl_waiting") == 2 && sum("sv_login") == 0
    });
    assert!(console.table("SHOW SERVERS").rows.is_empty());
    console.table("RESUME");
    for client in &mut clients {
        client.logged_in().unwrap();
        assert_eq!(client.value("select 1"), "1");
    }
}

#[test]
fn a_login_to_a_paused_database_waits_for_resume() {
    let Some(postgres) = postgres() else { return };
    check_login_while_paused(&proxy(&options(postgres)), "postgres");
}

#[test]
fn a_pause_of_everything_holds_for_databases_not_yet_known() {
    let Some(postgres) = postgres() else { return };
    check_login_while_paused(&proxy(&options(postgres)), "template1");
}

#[test]
fn a_cancel_request_ends_a_pause_that_waits() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let [mut client, mut other] = [(); 2].map(|()| Wire::new(&proxy));
    client.query("begin");
    let mut console = Console::new(&proxy);
    let mut pausing = Console::new(&proxy);
    pausing.wire().start("PAUSE");
    until("it is paused", || is_paused(&mut console, "postgres"));
    pausing.wire().cancel();
    let reply = pausing.wire().reply();
    assert!(reply.refusal.is_some() && reply.status == b'I', "{reply:?}");
    assert!(!is_paused(&mut console, "postgres"));
    client.query("commit");
    assert_eq!(other.value("select 1"), "1");
    // The console that was canceled goes on.
    assert_eq!(pausing.table("PAUSE").rows.len(), 0);
    assert_eq!(pausing.table("RESUME").rows.len(), 0);
}

#[test]
fn reconnect_replaces_servers_when_they_are_released() {
    let Some(postgres) = postgres() else { return };
    for command in ["RECONNECT", "RECONNECT postgres"] {
        let proxy = proxy(&options(postgres).pool_size(2));
        let [mut busy, mut idle] = [(); 2].map(|()| Wire::new(&proxy));
        busy.query("begin");
        let (old_busy, old_idle) = (busy.value("select pg_backend_pid()"), idle.value("select pg_backend_pid()"));
        let mut console = Console::new(&proxy);
        console.table(command);
        let servers = console.table("SHOW SERVERS");
        assert_eq!(
            (servers.column("remote_pid"), servers.column("close_needed")),
            (vec![old_busy.as_str()], vec!["1"])
        );
        assert_eq!(busy.value("select pg_backend_pid()"), old_busy, "not in a transaction");
        busy.query("commit");
        let pids = [&mut busy, &mut idle].map(|wire| wire.value("select pg_backend_pid()"));
        assert!(!pids.contains(&old_busy) && !pids.contains(&old_idle), "{pids:?}");
        until_logged(&proxy, "closing because: close_needed");
    }
}

#[test]
fn kill_disconnects_everybody_and_leaves_the_database_paused() {
    let Some(postgres) = postgres() else { return };
    let line = format!("victim = host={} port={} dbname=postgres", postgres.host(), postgres.port());
    let proxy = proxy(&options(postgres).database(&line).pool_size(1));
    let mut survivor = Wire::new(&proxy);
    let login = [("user", "postgres"), ("database", "victim")];
    let [mut active, mut waiting, mut idle] = [(); 3].map(|()| Wire::login(&proxy, &login));
    active.start("select pg_sleep(600)");
    let mut console = Console::new(&proxy);
    console.until_pool("victim", "sv_active", 1);
    let pid = console.table("SHOW SERVERS").find("database", "victim").unwrap()["remote_pid"].to_owned();
    waiting.start("select 1");
    console.until_pool("victim", "cl_waiting", 1);
    console.table("KILL victim");
    for wire in [&mut active, &mut waiting, &mut idle] {
        assert_eq!(wire.last_words(), Refusal::fatal("admin forced disconnect"));
    }
    console.until_quiet("victim");
    assert!(console.table("SHOW SERVERS").find("database", "victim").is_none());
    assert!(is_paused(&mut console, "victim"));
    assert_eq!(survivor.value("select 1"), "1");
    let mut next = Wire::login(&proxy, &login);
    next.start("select 'resumed'");
    console.until_pool("victim", "cl_waiting", 1);
    console.table("RESUME victim");
    assert_eq!(next.reply().value(), "resumed");
    postgres.psql(&format!("select pg_terminate_backend({pid})")).unwrap();
}

#[test]
fn several_commands_sent_ahead_are_answered_in_order() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    Wire::new(&proxy).query("select 1");
    let mut console = Console::new(&proxy);
    for command in ["PAUSE", "SHOW STATE", "RESUME", "SHOW STATE"] {
        console.wire().start(command);
    }
    let replies = [(); 4].map(|()| console.wire().reply());
    assert_eq!(replies[0].tags, ["PAUSE"]);
    assert_eq!(replies[1].clone().table().find("key", "paused").unwrap()["value"], *"yes");
    assert_eq!(replies[2].tags, ["RESUME"]);
    assert_eq!(replies[3].clone().table().find("key", "paused").unwrap()["value"], *"no");
}
