//! The console's commands and the life of servers, while the kernel path carries load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use tigger_testkit::{Postgres, Proxy, ProxyOptions};

use super::{Counters, figure, kernel_proxy, warm_up};
use crate::support::{Console, join, options, postgres, proxy, until, until_logged};
use crate::wire::{POSTGRES, Refusal, Wire, cstr, message};

/// Clients that ask and wait, each in a thread, until [`Self::stop`]; each looks at what it gets.
struct Load {
    stop: Arc<AtomicBool>,
    replies: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(proxy: &Proxy, clients: usize) -> Self {
        let (stop, replies) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |nth: usize| {
            let (mut client, stop, replies) = (Wire::new(proxy), Arc::clone(&stop), Arc::clone(&replies));
            thread::spawn(move || {
                for turn in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    assert_eq!(client.value(&format!("select 'client {nth} {turn}'")), format!("client {nth} {turn}"));
                    replies.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, replies, clients }
    }

    /// Waits until it has come some way further.
    #[track_caller]
    fn goes_on(&self) {
        let before = self.replies.load(Ordering::Relaxed);
        until("the load goes on", || self.replies.load(Ordering::Relaxed) > before + 500);
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(join);
    }
}

/// A proxy under load that the kernel path carries, for `test`; then the load must end well.
fn under_load(options: &ProxyOptions, clients: usize, test: impl FnOnce(&Proxy, &mut Console, &Load)) {
    let Some(proxy) = kernel_proxy(options) else { return };
    let mut console = Console::new(&proxy);
    let load = Load::start(&proxy, clients);
    load.goes_on();
    until("the kernel path carries", || Counters::read(&mut console).get("replies_kernel") > 100);
    test(&proxy, &mut console, &load);
    load.goes_on();
    load.stop();
    console.until_quiet("postgres");
}

fn server_pids(console: &mut Console) -> Vec<String> {
    console.table("SHOW SERVERS").column("remote_pid").iter().map(|pid| (*pid).to_owned()).collect()
}

#[test]
fn pause_and_resume() {
    let Some(postgres) = postgres() else { return };
    under_load(&options(postgres).pool_size(4), 4, |_, console, load| {
        for _ in 0..5 {
            console.table("PAUSE");
            assert_eq!(figure(console, "linked_now"), "0");
            assert_eq!(console.pool("postgres", "sv_active"), 0);
            // The clients have read their last replies, and wait.
            console.until_pool("postgres", "cl_waiting", 4);
            let (before, counters) = (load.replies.load(Ordering::Relaxed), Counters::read(console));
            assert_eq!(Counters::read(console).since(&counters).get("replies_kernel"), 0);
            assert_eq!(load.replies.load(Ordering::Relaxed), before);
            console.table("RESUME");
            load.goes_on();
            let carried = Counters::read(console).since(&counters);
            assert!(carried.get("replies_kernel") > 0, "{carried:?}");
        }
    });
}

#[test]
fn suspend_and_resume() {
    let Some(postgres) = postgres() else { return };
    under_load(&options(postgres).pool_size(4), 8, |_, console, load| {
        for _ in 0..20 {
            console.table("SUSPEND");
            assert_eq!(figure(console, "linked_now"), "0");
            let (before, counters) = (load.replies.load(Ordering::Relaxed), Counters::read(console));
            // A client may still be about to count the reply that it has got.
            let later = Counters::read(console).since(&counters);
            assert_eq!((later.get("replies_kernel"), later.get("replies_user")), (0, 0));
            assert!(load.replies.load(Ordering::Relaxed) <= before + 8);
            console.table("RESUME");
            load.goes_on();
            let carried = Counters::read(console).since(&counters);
            assert!(carried.get("replies_kernel") > 0, "{carried:?}");
        }
    });
}

#[test]
fn a_pause_waits_for_a_transaction_of_the_kernel_path() {
    let Some(postgres) = postgres() else { return };
    let Some((_proxy, mut console, mut client)) = in_transaction(postgres, |options| options) else { return };
    console.wire().start("PAUSE");
    // It goes on up to its end, and no further.
    assert_eq!(client.value("select 1"), "1");
    assert_eq!(client.query("commit").status, b'I');
    assert_eq!(console.wire().reply().tags, ["PAUSE"]);
    client.start("select 2");
    console.until_pool("postgres", "cl_waiting", 1);
    console.table("RESUME");
    assert_eq!(client.reply().value(), "2");
}

/// A client in a transaction that the kernel path has linked.
fn in_transaction(
    postgres: &Postgres,
    change: impl FnOnce(ProxyOptions) -> ProxyOptions,
) -> Option<(Proxy, Console, Wire)> {
    let proxy = kernel_proxy(&change(options(postgres).pool_size(1)))?;
    let (mut console, mut client) = (Console::new(&proxy), Wire::new(&proxy));
    until("the kernel path has the transaction", || {
        warm_up(&mut console, &mut client);
        assert_eq!(client.query("begin").status, b'T');
        let linked = figure(&mut console, "linked_now") == "1";
        if !linked {
            client.query("rollback");
        }
        linked
    });
    Some((proxy, console, client))
}

#[test]
fn reconnect() {
    let Some(postgres) = postgres() else { return };
    under_load(&options(postgres).pool_size(2), 2, |_, console, load| {
        let old = server_pids(console);
        console.table("RECONNECT");
        until("all servers are new", || server_pids(console).iter().all(|pid| !old.contains(pid)));
        load.goes_on();
    });
}

#[test]
fn a_reload_with_a_smaller_pool() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres);
    under_load(&options.clone().pool_size(4), 4, |proxy, console, load| {
        until("all servers work", || server_pids(console).len() == 4);
        proxy.rewrite(&options.clone().default_setting("kernel_path", "auto").pool_size(1)).unwrap();
        console.table("RELOAD");
        until("one server is left", || server_pids(console).len() == 1);
        load.goes_on();
        assert_eq!(server_pids(console).len(), 1);
    });
}

#[test]
fn a_reload_that_turns_it_off_and_on() {
    let Some(postgres) = postgres() else { return };
    let line = |more: &str| {
        ProxyOptions::new().setting("kernel_path", "auto").database(&format!(
            "postgres = host={} port={}{more}",
            postgres.host(),
            postgres.port()
        ))
    };
    under_load(&line(""), 2, |proxy, console, load| {
        for _ in 0..3 {
            proxy.rewrite(&line(" kernel_path=off")).unwrap();
            console.table("RELOAD");
            until("it carries nothing", || {
                let before = Counters::read(console);
                load.goes_on();
                Counters::read(console).since(&before).get("replies_kernel") == 0
            });
            proxy.rewrite(&line("")).unwrap();
            console.table("RELOAD");
            until("it carries again", || {
                let before = Counters::read(console);
                load.goes_on();
                Counters::read(console).since(&before).get("replies_kernel") > 0
            });
        }
    });
}

#[test]
fn server_lifetime() {
    let Some(postgres) = postgres() else { return };
    under_load(&options(postgres).pool_size(2).setting("server_lifetime", "1"), 2, |proxy, console, load| {
        let first = server_pids(console);
        until("servers are replaced", || proxy.log().matches("server lifetime over").count() >= 4);
        until("the first are gone", || server_pids(console).iter().all(|pid| !first.contains(pid)));
        load.goes_on();
    });
}

#[test]
fn server_idle_timeout() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).pool_size(4).setting("server_idle_timeout", "1");
    let Some(proxy) = kernel_proxy(&options) else { return };
    let mut console = Console::new(&proxy);
    let load = Load::start(&proxy, 4);
    until("all servers work", || server_pids(&mut console).len() == 4);
    until("the kernel path carries", || Counters::read(&mut console).get("replies_kernel") > 100);
    load.stop();
    // One client keeps one server busy; the kernel path released the others, and they are closed.
    let load = Load::start(&proxy, 1);
    until("idle servers are closed", || server_pids(&mut console).len() == 1);
    let busy = server_pids(&mut console);
    until("twice the time is over", || {
        load.goes_on();
        proxy.log().matches("server idle timeout").count() >= 3
    });
    assert_eq!(server_pids(&mut console), busy, "it was not idle");
    load.stop();
    until("it is closed, too", || server_pids(&mut console).is_empty());
}

#[test]
fn kill() {
    let Some(postgres) = postgres() else { return };
    let Some((_proxy, mut console, mut client)) = in_transaction(postgres, |options| options) else { return };
    console.table("KILL postgres");
    assert_eq!(client.last_words(), Refusal::fatal("admin forced disconnect"));
    console.until_quiet("postgres");
    until("its server is closed", || server_pids(&mut console).is_empty());
    assert_eq!(figure(&mut console, "linked_now"), "0");
}

#[test]
fn a_cancel_request() {
    let Some(postgres) = postgres() else { return };
    let Some(proxy) = kernel_proxy(&options(postgres).pool_size(2)) else { return };
    let (mut console, mut client) = (Console::new(&proxy), Wire::new(&proxy));
    let load = Load::start(&proxy, 1);
    for turn in 0..5 {
        warm_up(&mut console, &mut client);
        client.start("select pg_sleep(600)");
        let asleep = "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'";
        until("it runs", || postgres.psql(asleep).unwrap() != "0");
        client.cancel();
        let reply = client.reply();
        assert_eq!((reply.refusal.unwrap().sqlstate.as_str(), reply.status), ("57014", b'I'), "turn {turn}");
        assert_eq!(client.value("select 'not canceled'"), "not canceled");
        // One that comes too late hits nobody.
        client.cancel();
        load.goes_on();
    }
    load.stop();
    console.until_quiet("postgres");
}

#[test]
fn query_wait_timeout() {
    let Some(postgres) = postgres() else { return };
    let change = |options: ProxyOptions| options.setting("query_wait_timeout", "1");
    let Some((proxy, mut console, mut client)) = in_transaction(postgres, change) else { return };
    let mut waiting = Wire::new(&proxy);
    waiting.start("select 1");
    assert_eq!(waiting.last_words(), Refusal::fatal("query_wait_timeout"));
    assert_eq!(client.query("commit").status, b'I');
    warm_up(&mut console, &mut client);
    until_logged(&proxy, "query_wait_timeout");
}

#[test]
fn clients_are_served_in_the_order_in_which_they_wait() {
    let Some(postgres) = postgres() else { return };
    let Some((proxy, mut console, mut client)) = in_transaction(postgres, |options| options) else { return };
    let mut waiting: Vec<Wire> = (0..8).map(|_| Wire::new(&proxy)).collect();
    for (nth, wire) in (1..).zip(&mut waiting) {
        wire.start("select (extract(epoch from clock_timestamp()) * 1000000)::bigint");
        console.until_pool("postgres", "cl_waiting", nth);
    }
    client.query("commit");
    // One that comes now, and that the kernel path could serve, does not overtake them.
    let last: u64 = client.value("select (extract(epoch from clock_timestamp()) * 1000000)::bigint").parse().unwrap();
    let mut times: Vec<u64> = waiting.iter_mut().map(|wire| wire.reply().value().parse().unwrap()).collect();
    times.push(last);
    assert!(times.is_sorted(), "{times:?}");
}

/// A Query between an extended query and its Sync is skipped when that fails: it has no ReadyForQuery of its own.
#[test]
fn a_query_that_is_skipped_keeps_no_server() {
    let Some(postgres) = postgres() else { return };
    let Some(proxy) = kernel_proxy(&options(postgres).pool_size(1)) else { return };
    let (mut console, mut client) = (Console::new(&proxy), Wire::new(&proxy));
    let parse = message(b'P', &[&cstr("")[..], &cstr("no sql"), &[0; 2]].concat());
    for requests in [vec![parse.clone(), message(b'Q', &cstr("select 1"))], vec![parse]] {
        warm_up(&mut console, &mut client);
        client.send_raw(&[requests.concat(), message(b'S', b"")].concat());
        assert_eq!(client.reply().kinds, "EZ");
        console.until_quiet("postgres");
        until("the server is released", || figure(&mut console, "linked_now") == "0");
        assert_eq!(Wire::new(&proxy).value("select 'next'"), "next");
    }
}

/// Statistics of a workload with known counts.
fn totals(postgres: &Postgres, kernel_path: &str) -> Option<Vec<(String, String)>> {
    let options = options(postgres).setting("kernel_path", kernel_path).pool_size(1);
    let proxy = if kernel_path == "off" { proxy(&options) } else { kernel_proxy(&options)? };
    let mut client = Wire::login(&proxy, POSTGRES);
    let mut console = Console::new(&proxy);
    for number in 0..100 {
        assert_eq!(client.value(&format!("select {}", 1000 + number)), (1000 + number).to_string());
    }
    for sql in ["begin", "select 1", "commit", "select 1/0", "select 1; select 2", ""] {
        client.query(sql);
    }
    // Several transactions at once: they end within one reply.
    let query = message(b'Q', &cstr("select 7"));
    let extended = [
        message(b'P', &[&cstr("")[..], &cstr("select 7"), &[0; 2]].concat()),
        message(b'B', &[0; 8]),
        message(b'E', &[0; 5]),
        message(b'S', b""),
    ]
    .concat();
    for requests in [query.repeat(5), extended.repeat(5)] {
        client.send_raw(&requests);
        (0..5).for_each(|_| assert_eq!(client.reply().status, b'I'));
    }
    console.until_quiet("postgres");
    let carried = Counters::read(&mut console);
    assert_eq!(carried.get("replies_kernel") > 90, kernel_path != "off", "{carried:?}");
    let stats = console.table("SHOW STATS");
    let row = stats.find("database", "postgres").unwrap();
    let value = |name: &str| (name.to_owned(), row[name].to_owned());
    Some(COUNTED.iter().map(|name| value(name)).collect())
}

/// All but times, which differ, and assignments: pipelined requests may be served by more than one link.
const COUNTED: [&str; 4] = ["total_xact_count", "total_query_count", "total_received", "total_sent"];

#[test]
fn statistics_are_the_same_on_both_paths() {
    let Some(postgres) = postgres() else { return };
    let Some(kernel) = totals(postgres, "auto") else { return };
    assert_eq!(kernel, totals(postgres, "off").unwrap());
}
