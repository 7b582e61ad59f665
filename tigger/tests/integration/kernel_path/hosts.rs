//! Clients and servers on other hosts, which network namespaces stand for: what of their traffic the kernel path has, and
//! that it is right.

use tigger_testkit::{Host, Postgres, PostgresOptions, Proxy, ProxyOptions, have_postgres, skipped};

use super::{Counters, assert_carried, figure, path_of};
use crate::support::{Console, proxy, until};
use crate::wire::Wire;

/// Where the programs are.
#[derive(Clone, Copy, Debug)]
enum Placement {
    BesidePostgres,
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
    for number in 0..200 {
        assert_eq!(client.value(&format!("select {number}")), number.to_string());
    }
    let counters = Counters::read(&mut console).since(&before);
    assert_carried(&counters, 200);
    assert_eq!(counters.get("requests_kernel"), 0, "{counters:?}");
    assert_eq!(path_of(&mut console, "postgres"), "kernel (replies)");
    // A transaction, an error in it, COPY in both directions, and what follows.
    for (sql, last) in [("begin", "BEGIN"), ("select 1", "SELECT 1"), ("commit", "COMMIT")] {
        assert_eq!(client.query(sql).tags, [last]);
    }
    for sql in ["begin", "select 1/0", "rollback"] {
        client.query(sql);
    }
    assert_eq!(client.query("copy (select generate_series(1, 3)) to stdout").tags, ["COPY 3"]);
    assert_eq!(client.value("select 'last'"), "last");
    let counters = Counters::read(&mut console).since(&before);
    assert_eq!(counters.get("left_copy"), 1, "{counters:?}");
    assert!(counters.get("replies_kernel") >= 200 + 6, "{counters:?}");
    console.until_quiet("postgres");
}

#[test]
fn stand_alone_nothing_is_carried() {
    let test = "stand_alone_nothing_is_carried";
    let Some(scene) = Scene::start(test, Placement::StandAlone, |options| options) else { return };
    let (mut console, mut client) = (Console::new(&scene.proxy), scene.client());
    for number in 0..50 {
        assert_eq!(client.value(&format!("select {number}")), number.to_string());
    }
    let counters = Counters::read(&mut console);
    assert_eq!((counters.get("replies_kernel"), counters.get("replies_user")), (0, 50), "{counters:?}");
    console.until_quiet("postgres");
}

/// In session pooling a server stays, and so does the way of its replies.
#[test]
fn a_session_beside_postgres() {
    let mode = |options: ProxyOptions| options.pool_mode("session");
    let Some(scene) = Scene::start("a_session_beside_postgres", Placement::BesidePostgres, mode) else { return };
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

/// Its server is not left behind, and nobody gets what was for it.
#[test]
fn a_client_on_another_host_that_goes_amid_its_reply() {
    let test = "a_client_on_another_host_that_goes_amid_its_reply";
    let few = |options: ProxyOptions| options.pool_size(2);
    let Some(scene) = Scene::start(test, Placement::BesidePostgres, few) else { return };
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
