//! SUSPEND: everything that is under way is sent, nothing more is read, and after RESUME all goes on. On both paths.

use std::{
    thread,
    time::{Duration, Instant},
};

use tigger_testkit::{Postgres, Proxy, ProxyOptions, Signal};

use crate::support::{Console, assert_kernel_path_used, options, postgres, proxy, until, until_logged};
use crate::wire::{POSTGRES, Refusal, Wire, startup};

/// Runs a test on the user path, and with a kernel path that must have had its share.
fn on_both_paths(
    change: impl Fn(ProxyOptions) -> ProxyOptions,
    test: impl Fn(&'static Postgres, &Proxy, &mut Console),
) {
    let Some(postgres) = postgres() else { return };
    for path in ["off", "auto"] {
        let proxy = proxy(&change(options(postgres).setting("kernel_path", path)));
        let mut console = Console::new(&proxy);
        let mut warm = Wire::new(&proxy);
        (0..5).for_each(|_| assert_eq!(warm.value("select 1"), "1"));
        drop(warm);
        console.until_pool("postgres", "cl_active", 0);
        test(postgres, &proxy, &mut console);
        assert_kernel_path_used(&mut console);
    }
}

/// How many servers had this as their last query. Not those that were asked how many: theirs only contains it.
fn asked(postgres: &Postgres, query: &str) -> String {
    postgres.psql(&format!("select count(*) from pg_stat_activity where query = $${query}$$")).unwrap()
}

/// Asserts for a while that something stays as it is: that nothing happens has no event.
#[track_caller]
fn assert_stays(holds: impl Fn() -> bool) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        assert!(holds());
        thread::sleep(Duration::from_millis(20));
    }
}

fn state(console: &mut Console) -> Vec<(String, String)> {
    let table = console.table("SHOW STATE");
    table.iter().map(|row| (row["key"].to_owned(), row["value"].to_owned())).collect()
}

fn states(active: &str, paused: &str, suspended: &str) -> Vec<(String, String)> {
    [("active", active), ("paused", paused), ("suspended", suspended)].map(|(a, b)| (a.to_owned(), b.to_owned())).into()
}

#[test]
fn nothing_is_read_until_resume() {
    for mode in ["transaction", "session"] {
        on_both_paths(
            |options| options.pool_size(2).pool_mode(mode),
            |postgres, proxy, console| {
                let mut clients = [(); 2].map(|()| Wire::new(proxy));
                for client in &mut clients {
                    (0..4).for_each(|_| assert_eq!(client.value("select 1"), "1"));
                }
                for round in 0..3 {
                    console.table("SUSPEND");
                    assert_eq!(state(console), states("no", "no", "yes"));
                    let mark = format!("mark {mode} {} {round}", proxy.port());
                    for client in &mut clients {
                        client.start(&format!("select '{mark}'"));
                    }
                    assert_stays(|| asked(postgres, &format!("select '{mark}'")) == "0");
                    console.table("RESUME");
                    assert_eq!(state(console), states("yes", "no", "no"));
                    for client in &mut clients {
                        assert_eq!(client.reply().value(), mark);
                        (0..4).for_each(|_| assert_eq!(client.value("select 2"), "2"));
                    }
                }
            },
        );
    }
}

#[test]
fn transactions_and_queries_that_run_go_on_afterwards() {
    for mode in ["transaction", "session"] {
        on_both_paths(
            |options| options.pool_mode(mode),
            |_, proxy, console| {
                let (mut open, mut running) = (Wire::new(proxy), Wire::new(proxy));
                open.query("begin; create temporary table t(a) on commit drop as select 7");
                (0..3).for_each(|_| assert_eq!(open.value("select a from t"), "7"));
                running.start("select pg_sleep(0.5), 'done'");
                console.until_pool("postgres", "sv_active", 2);
                // It does not wait for either of them.
                console.table("SUSPEND");
                assert_eq!(console.pool("postgres", "sv_active"), 2);
                let linked = console.table("SHOW KERNEL_PATH");
                assert_eq!(
                    &linked.find("name", "linked_now").unwrap()["value"],
                    "0",
                    "the kernel path has none of them"
                );
                open.start("select a + 1 from t");
                console.table("RESUME");
                assert_eq!(running.reply().rows, [[Some(String::new()), Some("done".into())]]);
                assert_eq!(open.reply().value(), "8");
                (0..3).for_each(|_| assert_eq!(open.value("select a from t"), "7"));
                assert_eq!(open.query("commit").tags, ["COMMIT"]);
                drop((open, running));
                console.until_quiet("postgres");
            },
        );
    }
}

#[test]
fn who_waits_for_a_server_waits_on() {
    on_both_paths(
        |options| options.pool_size(1).setting("query_wait_timeout", "1"),
        |_, proxy, console| {
            let (mut holder, mut waiting) = (Wire::new(proxy), Wire::new(proxy));
            holder.query("begin");
            waiting.start("select 'waited'");
            console.until_pool("postgres", "cl_waiting", 1);
            console.table("SUSPEND");
            holder.start("commit");
            // Time stands still: nobody is told that it took too long.
            thread::sleep(Duration::from_millis(1200));
            assert_eq!(console.pool("postgres", "cl_waiting"), 1);
            console.table("RESUME");
            let reply = waiting.reply();
            // The time is over by now, and which of the two is first is not certain.
            match reply.refusal {
                Some(refusal) => assert_eq!(refusal, Refusal::fatal("query_wait_timeout")),
                None => assert_eq!(reply.value(), "waited"),
            }
            assert_eq!(holder.reply().tags, ["COMMIT"]);
        },
    );
}

#[test]
fn notifications_wait() {
    on_both_paths(
        |options| options,
        |postgres, proxy, console| {
            let mut client = Wire::new(proxy);
            assert_eq!(client.query("listen suspended").tags, ["LISTEN"]);
            console.table("SUSPEND");
            let mut sent =
                || console.table("SHOW STATS").find("database", "postgres").unwrap()["total_sent"].to_owned();
            let before = sent();
            postgres.psql("notify suspended, 'it waits'").unwrap();
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(300) {
                assert_eq!(sent(), before);
            }
            console.table("RESUME");
            let (kind, body) = client.message().unwrap();
            assert!(kind == b'A' && body.ends_with(b"suspended\0it waits\0"), "{kind} {body:?}");
            assert_eq!(client.value("select 1"), "1");
        },
    );
}

#[test]
fn new_clients_wait() {
    on_both_paths(
        |options| options,
        |_, proxy, console| {
            console.table("SUSPEND");
            let mut new = Wire::connect(proxy);
            new.send_raw(&startup(3 << 16, POSTGRES));
            assert_stays(|| !proxy.log().contains("C-0x3: postgres"));
            console.table("RESUME");
            new.logged_in().unwrap();
            assert_eq!(new.value("select 1"), "1");
        },
    );
}

#[test]
fn it_ends_with_its_console() {
    on_both_paths(
        |options| options,
        |_, proxy, console| {
            let mut client = Wire::new(proxy);
            client.value("select 1");
            let mut other = Console::new(proxy);
            other.table("SUSPEND");
            assert_eq!(state(console), states("no", "no", "yes"));
            client.start("select 'after'");
            drop(other);
            assert_eq!(client.reply().value(), "after");
            until_logged(proxy, "admin disappeared when suspended, doing RESUME");
            assert_eq!(state(console), states("yes", "no", "no"));
            // By a signal, too.
            console.table("SUSPEND");
            client.start("select 'signal'");
            proxy.signal(Signal::SIGUSR2).unwrap();
            assert_eq!(client.reply().value(), "signal");
            until_logged(proxy, "got SIGUSR2, continuing from SUSPEND");
        },
    );
}

#[test]
fn the_end_does_not_wait_for_it() {
    let Some(postgres) = postgres() else { return };
    for path in ["off", "auto"] {
        let proxy = proxy(&options(postgres).pool_mode("session").setting("kernel_path", path));
        let (mut console, mut client) = (Console::new(&proxy), Wire::new(&proxy));
        (0..5).for_each(|_| assert_eq!(client.value("select 1"), "1"));
        assert_kernel_path_used(&mut console);
        console.table("SUSPEND");
        client.start("select 2");
        proxy.signal(Signal::SIGINT).unwrap();
        assert_eq!(client.last_words(), Refusal::fatal("server shutting down"));
        until_logged(&proxy, "suspend was in effect, going down immediately");
        assert_eq!(proxy.wait_exit().unwrap().code(), Some(0));
    }
}

/// A client that asks for much and reads nothing, until the proxy can send it no more.
fn stuck(proxy: &Proxy, console: &mut Console) -> Wire {
    let mut client = Wire::new(proxy);
    client.value("select 1");
    client.start("select repeat('x', 1000000) from generate_series(1, 1000)");
    let mut sent = String::new();
    until("the client's socket is full", || {
        let before = std::mem::replace(
            &mut sent,
            console.table("SHOW STATS").find("database", "postgres").unwrap()["total_sent"].to_owned(),
        );
        thread::sleep(Duration::from_millis(100));
        console.pool("postgres", "sv_active") == 1 && before == sent
    });
    client
}

#[test]
fn stragglers_are_dropped_after_suspend_timeout() {
    on_both_paths(
        |options| options.setting("suspend_timeout", "0.5"),
        |_, proxy, console| {
            let mut good = Wire::new(proxy);
            good.value("select 1");
            let _stuck = stuck(proxy, console);
            console.table("SUSPEND");
            assert_eq!(console.table("SHOW CLIENTS").iter().filter(|row| &row["database"] == "postgres").count(), 1);
            until_logged(proxy, "closing because: suspend_timeout");
            console.table("RESUME");
            assert_eq!(good.value("select 1"), "1");
        },
    );
}

#[test]
fn a_straggler_holds_it_up_until_the_console_leaves() {
    on_both_paths(
        |options| options.setting("suspend_timeout", "0"),
        |_, proxy, console| {
            let mut good = Wire::new(proxy);
            good.value("select 1");
            let _stuck = stuck(proxy, console);
            let mut other = Console::new(proxy);
            other.wire().start("SUSPEND");
            until("it is suspended", || state(console) == states("no", "no", "yes"));
            good.start("select 'held'");
            assert_stays(|| !proxy.log().contains("closing because: suspend_timeout"));
            assert_eq!(console.refused("SUSPEND").text, "already suspended/paused");
            drop(other);
            assert_eq!(good.reply().value(), "held");
            assert_eq!(state(console), states("yes", "no", "no"));
        },
    );
}

#[test]
fn what_excludes_it() {
    let Some(postgres) = postgres() else { return };
    let line = |name| format!("{name} = host={} port={} dbname=postgres", postgres.host(), postgres.port());
    let options = ProxyOptions::new().database(&line("postgres")).database(&line("other"));
    let proxy = proxy(&options.setting("stats_users", "watcher").user("watcher", ""));
    let mut console = Console::new(&proxy);
    let error = |console: &mut Console, command: &str| {
        let refusal = console.refused(command);
        assert_eq!((&*refusal.severity, &*refusal.sqlstate), ("ERROR", "08P01"), "{command}");
        refusal.text
    };
    console.table("PAUSE other");
    assert_eq!(error(&mut console, "SUSPEND"), "cannot suspend with paused databases");
    console.table("RESUME other");
    console.table("PAUSE");
    assert_eq!(error(&mut console, "SUSPEND"), "already suspended/paused");
    console.table("RESUME");
    console.table("SUSPEND");
    for command in ["SUSPEND", "PAUSE", "PAUSE other"] {
        assert_eq!(error(&mut console, command), "already suspended/paused", "{command}");
    }
    assert_eq!(error(&mut console, "RESUME other"), "database other is not paused");
    console.table("RESUME");
    assert_eq!(error(&mut console, "RESUME"), "pooler is not paused/suspended");
    assert_eq!(error(&mut console, "SUSPEND other"), "invalid command 'SUSPEND other', use SHOW HELP;");
    let mut watcher = Wire::login(&proxy, &[("user", "watcher"), ("database", "pgbouncer")]);
    assert_eq!(watcher.query("SUSPEND").refusal.unwrap().text, "admin access needed");
}
