//! `pgbench` through the proxy: many clients on few servers, without one failure and without a leaked server.

use std::sync::OnceLock;

use tigger_testkit::{Pgbench, Postgres, PostgresOptions, QueryMode};

use crate::kernel_path::{Counters, kernel_proxy};
use crate::support::{Console, assert_kernel_path_used, options, own_postgres, postgres, proxy};

/// A server with pgbench's tables; TPC-B is a heavy load, so nothing else runs on it.
fn bench() -> Option<&'static Postgres> {
    static BENCH: OnceLock<Postgres> = OnceLock::new();
    postgres()?;
    Some(BENCH.get_or_init(|| {
        let bench = Postgres::start(&PostgresOptions::default()).unwrap();
        Pgbench::init(&bench.conninfo(), 2).unwrap();
        bench
    }))
}

/// Runs the script and checks what must hold after any run.
fn check(pool_mode: &str, pool_size: u32, clients: u32, mode: QueryMode, script: &[&str]) {
    let Some(bench) = bench() else { return };
    let proxy = proxy(&options(bench).pool_mode(pool_mode).pool_size(pool_size));
    let report =
        Pgbench::new(proxy.conninfo()).clients(clients).threads(2).seconds(2).mode(mode).script(script).run().unwrap();
    assert_eq!(report.failures(), 0, "{}", report.stderr);
    assert!(report.transactions > u64::from(clients), "{report:?}");
    let mut console = Console::new(&proxy);
    console.until_quiet("postgres");
    console.until_pool("postgres", "cl_active", 0);
    let servers = console.table("SHOW DATABASES").find("name", "postgres").unwrap()["current_connections"].to_owned();
    assert!(servers.parse::<u32>().unwrap() <= pool_size, "{servers} servers");
    let stats = console.table("SHOW STATS");
    let transactions: u64 = stats.find("database", "postgres").unwrap()["total_xact_count"].parse().unwrap();
    assert!(transactions >= report.transactions, "{transactions} counted, {} made", report.transactions);
    if pool_mode != "statement" {
        assert_kernel_path_used(&mut console);
    }
}

/// As many servers as clients, so that nobody waits: nearly all is the kernel path's, where there is one.
#[test]
fn nearly_all_is_carried() {
    let Some(bench) = bench() else { return };
    for mode in [QueryMode::Simple, QueryMode::Extended] {
        let Some(proxy) = kernel_proxy(&options(bench).pool_size(8)) else { return };
        let report = Pgbench::new(proxy.conninfo())
            .clients(8)
            .threads(2)
            .seconds(2)
            .mode(mode)
            .script(SELECT_ONLY)
            .run()
            .unwrap();
        assert_eq!(report.failures(), 0, "{}", report.stderr);
        let mut console = Console::new(&proxy);
        console.until_quiet("postgres");
        let counters = Counters::read(&mut console);
        let (kernel, user) = (counters.get("replies_kernel"), counters.get("replies_user"));
        assert!(kernel + user >= report.transactions && kernel > 19 * user, "{mode:?}: {counters:?}");
    }
}

const SELECT_ONLY: &[&str] = &["--select-only"];
const TPC_B: &[&str] = &["--builtin=tpcb-like"];

#[test]
fn select_only_simple() {
    check("transaction", 5, 40, QueryMode::Simple, SELECT_ONLY);
}

#[test]
fn select_only_extended() {
    check("transaction", 5, 40, QueryMode::Extended, SELECT_ONLY);
}

#[test]
fn select_only_statement_mode() {
    check("statement", 5, 40, QueryMode::Extended, SELECT_ONLY);
}

#[test]
fn tpc_b_keeps_its_sums() {
    let Some(bench) = bench() else { return };
    check("transaction", 5, 40, QueryMode::Simple, TPC_B);
    check("transaction", 5, 40, QueryMode::Extended, TPC_B);
    // A transaction torn apart over two servers would leave one of these sums behind.
    let sums = "select (select sum(abalance) from pgbench_accounts) = sum(delta),
        (select sum(bbalance) from pgbench_branches) = sum(delta),
        (select sum(tbalance) from pgbench_tellers) = sum(delta), count(*) > 100 from pgbench_history";
    assert_eq!(bench.psql(sums).unwrap(), "t|t|t|t");
}

#[test]
fn prepared_in_session_mode() {
    check("session", 20, 20, QueryMode::Prepared, TPC_B);
}

#[test]
fn a_new_connection_for_every_transaction() {
    let Some(postgres) = own_postgres() else { return };
    Pgbench::init(&postgres.conninfo(), 1).unwrap();
    let proxy = proxy(&options(&postgres).pool_size(5));
    let report = Pgbench::new(proxy.conninfo())
        .clients(10)
        .threads(2)
        .seconds(2)
        .script(&["--select-only", "--connect"])
        .run()
        .unwrap();
    assert_eq!(report.failures(), 0, "{}", report.stderr);
    let mut console = Console::new(&proxy);
    console.until_quiet("postgres");
    console.until_pool("postgres", "cl_active", 0);
    let logins =
        console.table("SHOW STATS").find("database", "postgres").unwrap()["total_client_login_count"].to_owned();
    assert!(logins.parse::<u64>().unwrap() >= report.transactions, "{logins} logins");
}
