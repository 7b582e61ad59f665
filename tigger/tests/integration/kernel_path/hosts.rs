//! Clients and servers on other hosts, which network namespaces stand for: what of their traffic the kernel path has, and
//! that it is right.

use tigger_testkit::{Host, Postgres, PostgresOptions, Proxy, ProxyOptions, have_postgres, skipped};

use super::{Counters, ask, assert_carried, figure, path_of, times};
use crate::stale_plans::described;
use crate::support::{Console, proxy, until};
use crate::wire::Wire;

/// Where the programs are.
#[derive(Clone, Copy, Debug)]
enum Placement {
    BesidePostgres,
    BesideApplication,
    StandAlone,
}

/// An application's host, and a proxy before a PostgreSQL as placed.
struct Scene {
    // Dropped in this order.
    proxy: Proxy,
    postgres: Postgres,
    application: Host,
}

impl Scene {
    /// `None`, and counted, where there is no kernel path or hosts cannot be simulated.
    fn start(test: &str, placement: Placement, more: impl FnOnce(ProxyOptions) -> ProxyOptions) -> Option<Self> {
        if !have_postgres() {
            skipped(test, "PostgreSQL is not installed");
            return None;
        }
        let [application, pooler, server] = match Host::simulate(["application", "pooler", "server"]) {
            Ok(hosts) => hosts,
            Err(reason) => {
                skipped(test, &format!("{reason:#}"));
                return None;
            }
        };
        let postgres = Postgres::start(&PostgresOptions::default().on(&server)).unwrap();
        let pooler = match placement {
            Placement::BesidePostgres => server,
            Placement::BesideApplication => application.clone(),
            Placement::StandAlone => pooler,
        };
        let options = ProxyOptions::new().on(&pooler).server("*", &postgres).default_setting("kernel_path", "auto");
        let proxy = proxy(&more(options));
        let reason = figure(&mut Console::new(&proxy), "reason");
        if !reason.is_empty() {
            skipped(test, &reason);
            return None;
        }
        Some(Self { proxy, postgres, application })
    }

    fn client(&self) -> Wire {
        Wire::new_from(&self.application, &self.proxy)
    }
}

#[test]
fn beside_postgres_the_replies_are_carried() {
    let test = "beside_postgres_the_replies_are_carried";
    let Some(scene) = Scene::start(test, Placement::BesidePostgres, |options| options) else { return };
    let (mut console, mut client) = (Console::new(&scene.proxy), scene.client());
    assert_eq!(client.value("select 'first'"), "first");
    let before = Counters::read(&mut console);
    ask(&mut client, 200);
    let counters = Counters::read(&mut console).since(&before);
    assert_carried(&counters, 200);
    assert_eq!(counters.get("requests_kernel"), 0, "{counters:?}");
    assert_eq!(path_of(&mut console, "postgres"), "kernel (replies)");
    ask_otherwise(&mut client);
    let counters = Counters::read(&mut console).since(&before);
    assert_eq!(counters.get("left_copy"), 1, "{counters:?}");
    assert!(counters.get("replies_kernel") >= 200 + 6, "{counters:?}");
    console.until_quiet("postgres");
}

#[test]
fn beside_the_application_the_requests_are_carried() {
    let test = "beside_the_application_the_requests_are_carried";
    let Some(scene) = Scene::start(test, Placement::BesideApplication, |options| options) else { return };
    let (mut console, mut client) = (Console::new(&scene.proxy), scene.client());
    // The first makes the server known to the kernel path.
    assert_eq!(client.value("select 'first'"), "first");
    let before = Counters::read(&mut console);
    ask(&mut client, 200);
    let counters = Counters::read(&mut console).since(&before);
    assert_requests_carried(&counters, 200);
    assert_eq!(path_of(&mut console, "postgres"), "kernel (requests)");
    ask_otherwise(&mut client);
    // Each of a transaction, too, and what asked for the COPY.
    assert_requests_carried(&Counters::read(&mut console).since(&before), 200 + 8);
    console.until_quiet("postgres");
}

/// Eight queries: a transaction, one with an error in it, a COPY, and what follows.
#[track_caller]
fn ask_otherwise(client: &mut Wire) {
    for (sql, last) in [("begin", "BEGIN"), ("select 1", "SELECT 1"), ("commit", "COMMIT")] {
        assert_eq!(client.query(sql).tags, [last]);
    }
    for sql in ["begin", "select 1/0", "rollback"] {
        client.query(sql);
    }
    assert_eq!(client.query("copy (select generate_series(1, 3)) to stdout").tags, ["COPY 3"]);
    assert_eq!(client.value("select 'last'"), "last");
}

/// As `assert_carried`, for requests to servers on other hosts.
#[track_caller]
fn assert_requests_carried(counters: &Counters, all: u64) {
    let (kernel, user) = (counters.get("requests_kernel"), counters.get("requests_user"));
    assert_eq!(kernel + user, all, "{counters:?}");
    assert!(user * 20 <= all, "{user} of {all} requests were left to the user path: {counters:?}");
    assert_eq!(counters.get("replies_kernel"), 0, "{counters:?}");
}

/// The time of a query and of a transaction begins when the kernel path sends the request, not when the reply comes.
#[test]
fn times_of_carried_requests() {
    let test = "times_of_carried_requests";
    let Some(scene) = Scene::start(test, Placement::BesideApplication, |options| options) else { return };
    let (mut console, mut client) = (Console::new(&scene.proxy), scene.client());
    client.value("select 'first'");
    let before = Counters::read(&mut console);
    let start = times(&mut console);
    client.query("begin");
    client.query("select pg_sleep(0.05)");
    client.query("select pg_sleep(0.05)");
    client.query("commit");
    assert_requests_carried(&Counters::read(&mut console).since(&before), 4);
    let end = times(&mut console);
    assert!(end[0] - start[0] >= 100_000 && end[1] - start[1] >= 100_000, "{start:?} {end:?}");
}

#[test]
fn stand_alone_nothing_is_carried() {
    let test = "stand_alone_nothing_is_carried";
    let Some(scene) = Scene::start(test, Placement::StandAlone, |options| options) else { return };
    let (mut console, mut client) = (Console::new(&scene.proxy), scene.client());
    ask(&mut client, 50);
    let counters = Counters::read(&mut console);
    assert_eq!((counters.get("replies_kernel"), counters.get("replies_user")), (0, 50), "{counters:?}");
    console.until_quiet("postgres");
}

/// A request that is sent once more, whichever path had the first.
#[test]
fn outgrown_plans_are_repaired_between_hosts() {
    let test = "outgrown_plans_are_repaired_between_hosts";
    for placement in [Placement::BesidePostgres, Placement::BesideApplication, Placement::StandAlone] {
        let Some(scene) = Scene::start(test, placement, |options| options.pool_size(2)) else { return };
        let (mut client, mut other) = (scene.client(), scene.client());
        other.query("create table outgrown as select 1 as a");
        client.prepare("S_1", "select * from outgrown where $1::int4 = 1");
        for round in 0..10 {
            // Until the statement is where the kernel path finds it.
            for _ in 0..4 {
                assert_eq!(client.exchange(&described("S_1")).rows[0].len(), 1 + round, "{placement:?}");
            }
            other.query(&format!("alter table outgrown add c{round} int"));
            let reply = client.exchange(&described("S_1"));
            assert_eq!((reply.kinds.as_str(), reply.rows[0].len()), ("2TDCZ", 2 + round), "{placement:?}");
        }
        Console::new(&scene.proxy).until_quiet("postgres");
    }
}

/// In session pooling a server stays, and so does the way of its replies.
#[test]
fn a_session_beside_postgres() {
    a_session("a_session_beside_postgres", Placement::BesidePostgres, assert_carried);
}

#[test]
fn a_session_beside_the_application() {
    a_session("a_session_beside_the_application", Placement::BesideApplication, assert_requests_carried);
}

fn a_session(test: &str, placement: Placement, assert_carried: fn(&Counters, u64)) {
    let mode = |options: ProxyOptions| options.pool_mode("session");
    let Some(scene) = Scene::start(test, placement, mode) else { return };
    let (mut console, mut client) = (Console::new(&scene.proxy), scene.client());
    let pid = client.value("select pg_backend_pid()");
    let before = Counters::read(&mut console);
    for _ in 0..50 {
        assert_eq!(client.value("select pg_backend_pid()"), pid);
    }
    assert_carried(&Counters::read(&mut console).since(&before), 50);
    assert_eq!(figure(&mut console, "linked_now"), "1");
    drop(client);
    console.until_quiet("postgres");
    assert_eq!(scene.client().value("select pg_backend_pid()"), pid);
}

/// The server's end of the connection is gone: the client is told, and the next one gets another.
#[test]
fn a_server_on_another_host_that_dies() {
    let test = "a_server_on_another_host_that_dies";
    let Some(scene) = Scene::start(test, Placement::BesideApplication, |options| options) else { return };
    let (mut console, mut client) = (Console::new(&scene.proxy), scene.client());
    client.value("select 'first'");
    for _ in 0..5 {
        let pid = client.value("select pg_backend_pid()");
        client.start("select pg_sleep(1234)");
        let ours = format!("from pg_stat_activity where pid = {pid} and query like '%1234%'");
        until("the query runs", || scene.postgres.psql(&format!("select count(*) {ours}")).unwrap() == "1");
        scene.postgres.psql(&format!("select pg_terminate_backend(pid) {ours}")).unwrap();
        let refusal = client.last_words();
        assert!(refusal.sqlstate == "57P01" || refusal.text == "server conn crashed?", "{refusal:?}");
        client = scene.client();
        assert_eq!(client.value("select 'next'"), "next");
    }
    console.until_quiet("postgres");
}

/// A client that does not read gets no more from the kernel path than the limit, and all of it in the end.
#[test]
fn a_large_result_to_another_host() {
    let limit = |options: ProxyOptions| options.setting("kernel_path_reply_limit", "65536");
    let Some(scene) = Scene::start("a_large_result_to_another_host", Placement::BesidePostgres, limit) else { return };
    let (mut console, mut client) = (Console::new(&scene.proxy), scene.client());
    assert_eq!(client.value("select 'first'"), "first");
    let before = Counters::read(&mut console);
    client.start("select repeat('x', 1000) from generate_series(1, 20000)");
    // It is the sender who waits: nothing is read before it does.
    until("the server is blocked", || {
        scene.postgres.psql("select count(*) from pg_stat_activity where wait_event = 'ClientWrite'").unwrap() == "1"
    });
    let reply = client.reply();
    assert_eq!(reply.rows.len(), 20_000);
    assert!(reply.rows.iter().all(|row| row[0].as_ref().is_some_and(|text| text.len() == 1000)));
    let counters = Counters::read(&mut console).since(&before);
    assert!(counters.get("left_reply_long") > 0, "{counters:?}");
    assert_eq!(client.value("select 'next'"), "next");
    console.until_quiet("postgres");
}

#[test]
fn a_client_on_another_host_that_goes_amid_its_reply() {
    clients_that_go("a_client_on_another_host_that_goes_amid_its_reply", Placement::BesidePostgres);
}

#[test]
fn a_client_that_goes_amid_its_reply_from_another_host() {
    clients_that_go("a_client_that_goes_amid_its_reply_from_another_host", Placement::BesideApplication);
}

/// Their servers are not left behind, and nobody gets what was for them.
fn clients_that_go(test: &str, placement: Placement) {
    let few = |options: ProxyOptions| options.pool_size(2);
    let Some(scene) = Scene::start(test, placement, few) else { return };
    let mut console = Console::new(&scene.proxy);
    let mut other = scene.client();
    for turn in 0..30 {
        let mut client = scene.client();
        client.start(&format!("select repeat('{}', 1000) from generate_series(1, {})", turn % 10, 1 + turn * 500));
        if turn % 2 == 0 {
            client.message();
        }
        drop(client);
        assert_eq!(other.value(&format!("select 'turn {turn}'")), format!("turn {turn}"));
    }
    console.until_quiet("postgres");
    assert_eq!(Counters::read(&mut console).get("left_short"), 0);
}
