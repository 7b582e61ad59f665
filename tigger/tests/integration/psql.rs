//! `psql` through the proxy: the simple query protocol, COPY, big results, notices.

use tigger_testkit::{Conninfo, Psql};

use crate::support::{Console, options, postgres, proxy};
use crate::wire::Wire;

#[test]
fn queries_one_or_several_in_a_message() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    assert_eq!(proxy.psql("select 1 + 1").unwrap(), "2");
    assert_eq!(proxy.psql("select 1; select 'a', null; select 3").unwrap(), "1\na|\n3");
    assert_eq!(proxy.psql("").unwrap(), "");
    let run = Psql::new(proxy.conninfo()).run(&["select 1", "select 2 where false", "values (3), (4)"]).unwrap();
    assert_eq!(run.stdout, "1\n3\n4\n");
}

#[test]
fn an_error_ends_neither_connection_nor_server() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let psql = Psql::new(proxy.conninfo()).arg("--set=ON_ERROR_STOP=0");
    let pid = proxy.psql("select pg_backend_pid()").unwrap();
    let run = psql
        .run(&["select 1/0", "select 7", "begin", "selekt", "select 8", "rollback", "select pg_backend_pid()"])
        .unwrap();
    assert_eq!(run.stdout, format!("7\n{pid}\n"), "{run}");
    for text in ["division by zero", "syntax error at or near \"selekt\"", "current transaction is aborted"] {
        assert!(run.stderr.contains(text), "{run}");
    }
    // The whole message fails, not only its second statement.
    assert_eq!(psql.run(&["create table psql_gone(a int); select 1/0"]).unwrap().stdout, "");
    assert_eq!(proxy.psql("select to_regclass('psql_gone') is null").unwrap(), "t");
}

#[test]
fn results_of_10_mb_are_whole() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    let query = "select g, repeat(md5(g::text), 32) from generate_series(1, 10000) g";
    let (through, direct) = (proxy.psql(query).unwrap(), postgres.psql(query).unwrap());
    assert!(direct.len() > 10_000_000);
    assert!(through == direct, "{} bytes differ from {} bytes", through.len(), direct.len());
    // One message of 20 MB, and one query as long.
    assert_eq!(proxy.psql("select repeat('x', 20000000)").unwrap().len(), 20_000_000);
    let mut wire = Wire::new(&proxy);
    let long = format!("select length('{}')", "y".repeat(20_000_000));
    assert_eq!(wire.value(&long), "20000000");
}

#[test]
fn copy_out_of_more_than_100_mb_is_whole() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    let rows = "select g, repeat(md5(g::text), 32) from generate_series(1, 110000) g";
    let copy = format!("\\copy ({rows}) to program 'md5sum'");
    let hash = |conninfo: Conninfo| Psql::new(conninfo).run(&[&copy]);
    let through = hash(proxy.conninfo()).unwrap().checked().unwrap().stdout;
    assert_eq!(through, hash(postgres.conninfo()).unwrap().checked().unwrap().stdout);
    let sent: u64 =
        proxy.admin("SHOW STATS").unwrap().find("database", "postgres").unwrap()["total_sent"].parse().unwrap();
    assert!(sent > 100_000_000, "{sent} bytes");
}

#[test]
fn copy_in_and_back() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    postgres.psql("drop table if exists psql_copy; create table psql_copy(a int, b text)").unwrap();
    let psql = Psql::new(proxy.conninfo());
    let lines = "seq 1 300000 | sed \"s/.*/&\\tline number &/\"";
    let run = psql.run(&[&format!("\\copy psql_copy from program '{lines}'")]).unwrap().checked().unwrap();
    assert_eq!(run.stderr, "");
    assert_eq!(
        proxy.psql("select count(*), sum(a), count(distinct b) from psql_copy").unwrap(),
        "300000|45000150000|300000"
    );
    let back =
        psql.run(&["\\copy (select * from psql_copy order by a) to program 'md5sum'"]).unwrap().checked().unwrap();
    let direct = tigger_testkit::run(
        std::process::Command::new("sh").args(["-c", &format!("{lines} | md5sum")]),
        crate::support::DEADLINE,
    );
    assert_eq!(back.stdout, direct.unwrap().stdout);
    // An error in the data ends the COPY, not the connection.
    let run = Psql::new(proxy.conninfo())
        .arg("--set=ON_ERROR_STOP=0")
        .run(&["\\copy psql_copy from program 'seq 1 100000'", "select count(*) from psql_copy"])
        .unwrap();
    assert!(run.stderr.contains("missing data for column \"b\"") && run.stdout == "300000\n", "{run}");
    Console::new(&proxy).until_quiet("postgres");
}

#[test]
fn a_transaction_keeps_its_server() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(2));
    let mut others: Vec<Wire> = (0..4).map(|_| Wire::new(&proxy)).collect();
    let mut client = Wire::new(&proxy);
    assert_eq!(client.query("begin").status, b'T');
    let pid = client.value("select pg_backend_pid()");
    client.query("create temp table psql_mine on commit drop as select 42 as a");
    for other in &mut others {
        assert_ne!(other.value("select pg_backend_pid()"), pid);
        assert_eq!(client.value("select pg_backend_pid()"), pid);
    }
    assert_eq!(client.query("select 1/0").status, b'E');
    assert_ne!(others[0].value("select pg_backend_pid()"), pid);
    assert_eq!(client.query("rollback").status, b'I');
    // Freed: two transactions at once need both servers, so one of them has it.
    others[0].query("begin");
    others[1].query("begin");
    let pids = [0, 1].map(|i: usize| others[i].value("select pg_backend_pid()"));
    assert!(pids.contains(&pid), "{pid} not in {pids:?}");
}

#[test]
fn clients_share_one_server() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let mut clients: Vec<Wire> = (0..5).map(|_| Wire::new(&proxy)).collect();
    let pid = clients[0].value("select pg_backend_pid()");
    for round in 0..3 {
        for client in &mut clients {
            assert_eq!(client.value("begin; select pg_backend_pid(); commit"), pid, "round {round}");
        }
    }
    let mut console = Console::new(&proxy);
    assert_eq!(console.table("SHOW SERVERS").column("remote_pid"), [pid.as_str()]);
    assert_eq!(console.pool("postgres", "cl_active"), 5);
}

#[test]
fn notices_go_to_the_client_that_caused_them() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let mut bystander = Wire::new(&proxy);
    let run = Psql::new(proxy.conninfo())
        .run(&["do $$ begin for i in 1..50 loop raise notice 'notice % of 50', i; end loop; end $$", "select 5"])
        .unwrap();
    assert_eq!(run.stdout, "5\n");
    assert_eq!(run.stderr.matches("NOTICE:  notice ").count(), 50, "{run}");
    assert_eq!(bystander.query("select 6").kinds, "TDCZ");
}

#[test]
fn a_notification_reaches_its_listener_in_session_mode() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_mode("session"));
    let mut listener = Wire::new(&proxy);
    listener.query("listen tigger_test");
    // Nothing was asked: the notification must come on its own.
    postgres.psql("notify tigger_test, 'wake up'").unwrap();
    let (kind, body) = listener.message().unwrap();
    assert_eq!((kind, &body[4..]), (b'A', &b"tigger_test\0wake up\0"[..]));
}
