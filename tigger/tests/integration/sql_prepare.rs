//! PREPARE, EXECUTE and DEALLOCATE in SQL where clients get one server after the other.

use tigger_testkit::{Postgres, Proxy, ProxyOptions};

use crate::kernel_path::{Counters, kernel_proxy, warm_up};
use crate::support::{Console, options, postgres, proxy};
use crate::wire::{Reply, Wire, cstr, message};

fn pooled(postgres: &Postgres, servers: u32, settings: &[(&str, &str)]) -> Proxy {
    let options = options(postgres).pool_size(servers);
    proxy(&settings.iter().fold(options, |options: ProxyOptions, (name, value)| options.setting(name, value)))
}

/// SQLSTATE, text and transaction status of a refusal.
#[track_caller]
fn refused(reply: &Reply) -> (&str, &str, char) {
    let refusal = reply.refusal.as_ref().expect("it is refused");
    (&refusal.sqlstate, &refusal.text, reply.status.into())
}

impl Wire {
    /// A command without rows, which must succeed.
    #[track_caller]
    fn done(&mut self, sql: &str, tag: &str) {
        let reply = self.query(sql);
        assert_eq!((&*reply.kinds, &*reply.tags), ("CZ", [tag.to_owned()].as_slice()), "{sql}: {reply:?}");
    }
}

/// What each client has prepared it finds on whichever server it gets.
fn follows(proxy: &Proxy) {
    let mut first = Wire::new(proxy);
    first.done("PREPARE Sum (int, int) AS select $1 + $2, pg_backend_pid()", "PREPARE");
    let pid = first.value("select pg_backend_pid()");
    let sum = |client: &mut Wire| client.query("execute sum(1, 2);").rows.remove(0);
    assert_eq!(sum(&mut first), [Some("3".to_owned()), Some(pid.clone())]);
    // Another client takes that server.
    let mut other = Wire::new(proxy);
    other.query("begin");
    assert_eq!(other.value("select pg_backend_pid()"), pid);
    let [result, elsewhere] = <[_; 2]>::try_from(sum(&mut first)).unwrap();
    assert!(result.as_deref() == Some("3") && elsewhere != Some(pid));
    // It does not have the other's, but may have one of the same name.
    assert_eq!(refused(&other.query("EXECUTE sum(1, 2)")), ("26000", "prepared statement \"sum\" does not exist", 'E'));
    other.query("rollback");
    other.done("prepare \"sum\" as select 'other'", "PREPARE");
    assert_eq!((other.value("EXECUTE sum"), sum(&mut first)[0].as_deref()), ("other".into(), Some("3")));
    other.done("DEALLOCATE sum", "DEALLOCATE");
    assert_eq!(refused(&other.query("EXECUTE sum")), ("26000", "prepared statement \"sum\" does not exist", 'I'));
    assert_eq!(refused(&other.query("DEALLOCATE sum")), ("26000", "prepared statement \"sum\" does not exist", 'I'));
    assert_eq!(sum(&mut first)[0].as_deref(), Some("3"));
}

#[test]
fn statements_follow_their_client() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 2, &[]);
    follows(&proxy);
    let clients = Console::new(&proxy).table("SHOW CLIENTS");
    assert!(clients.iter().all(|row| &row["prepared_statements"] == "0"));
}

#[test]
fn commands_are_left_by_the_kernel_path() {
    let Some(postgres) = postgres() else { return };
    let Some(proxy) = kernel_proxy(&options(postgres).pool_size(2)) else { return };
    follows(&proxy);
    let (mut console, mut client) = (Console::new(&proxy), Wire::new(&proxy));
    client.done("PREPARE p AS select 1", "PREPARE");
    warm_up(&mut console, &mut client);
    let before = Counters::read(&mut console);
    assert_eq!(client.value("EXECUTE p"), "1");
    assert_eq!(client.value("select 2"), "2");
    let since = Counters::read(&mut console).since(&before);
    // Where the reply before was still being delivered, that is why the next request was left.
    let delayed = since.get("left_in_flight");
    assert!(since.get("left_command") + delayed >= 1 && since.get("requests_user") >= 1, "{since:?}");
    assert_eq!(since.get("requests_kernel") + since.get("requests_user"), 2, "{since:?}");
    assert!(delayed > 0 || since.get("requests_kernel") == 1, "{since:?}");
}

#[test]
fn errors_are_as_without_a_pooler() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[]);
    let (mut through, mut direct) = (Wire::new(&proxy), Wire::connect_to("127.0.0.1", postgres.port()).logs_in());
    let mut check = |script: &[&str]| {
        for sql in script {
            let [ours, theirs] = [&mut through, &mut direct].map(|wire| wire.query(sql));
            // But for names of statements, which are others on servers.
            let anonymous = |text: &str| text.split('"').step_by(2).collect::<String>();
            let told =
                |reply: &Reply| reply.refusal.as_ref().map(|told| (told.sqlstate.clone(), anonymous(&told.text)));
            assert_eq!(told(&ours), told(&theirs), "{sql}");
            let seen = |reply: Reply| (reply.kinds, reply.tags, reply.rows, char::from(reply.status));
            assert_eq!(seen(ours), seen(theirs), "{sql}");
        }
    };
    check(&["PREPARE a AS select 1", "PREPARE a AS select 2", "EXECUTE a", "DEALLOCATE a", "EXECUTE a"]);
    check(&[
        "begin",
        "PREPARE a AS select 1",
        "EXECUTE a",
        "PREPARE a AS select 2",
        "EXECUTE a",
        "rollback",
        "EXECUTE a",
    ]);
    check(&["PREPARE b AS selekt", "PREPARE c AS select $1::int", "EXECUTE c", "EXECUTE c(1, 2)", "EXECUTE c('x')"]);
    check(&["begin", "PREPARE d AS select missing", "PREPARE d AS select 1", "commit", "EXECUTE d"]);
    check(&[
        "begin",
        "select 1/0",
        "EXECUTE c(1)",
        "DEALLOCATE c",
        "PREPARE e AS select 1",
        "rollback",
        "EXECUTE c(1)",
    ]);
    check(&["DEALLOCATE ALL", "EXECUTE c(1)", "PREPARE c AS select 3", "EXECUTE c", "DISCARD ALL", "EXECUTE c"]);
    check(&[
        "PREPARE f AS select 1;",
        " ; ",
        "DEALLOCATE PREPARE f",
        "PREPARE \"F g\"(int)AS select $1",
        "EXECUTE \"F g\"(7)",
    ]);
    // Not of the simple form: one server has it, as long as it is the same one.
    check(&[
        "PREPARE h AS select ';'",
        "EXECUTE h",
        "DEALLOCATE h",
        "PREPARE i AS select 1; EXECUTE i",
        "DEALLOCATE i",
    ]);
}

#[test]
fn pipelined_in_pieces_and_long() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[]);
    let query = |sql: &str| message(b'Q', &cstr(sql));
    let mut client = Wire::new(&proxy);
    let mut other = Wire::new(&proxy);
    let script =
        ["begin", "PREPARE p(text) AS select length($1)", "EXECUTE p('abc')", "DEALLOCATE p", "EXECUTE p", "rollback"];
    client.send_raw(&script.map(query).concat());
    let kinds: Vec<String> = script.iter().map(|_| client.reply().kinds).collect();
    assert_eq!(kinds, ["CZ", "CZ", "TDCZ", "CZ", "EZ", "CZ"]);
    client.done("PREPARE p(text) AS select length($1)", "PREPARE");
    let long = query(&format!("EXECUTE p('{}')", "x".repeat(200_000)));
    for present in [true, false] {
        if !present {
            other.done("DEALLOCATE ALL", "DEALLOCATE ALL");
        }
        for pieces in [1, 7, 1000, 300_000] {
            long.chunks(pieces).take(50).for_each(|piece| client.send_raw(piece));
            client.send_raw(&long[long.len().min(pieces * 50)..]);
            assert_eq!(client.reply().value(), "200000");
        }
    }
}

#[test]
fn servers_keep_those_used_last() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[("max_prepared_statements", "3")]);
    let mut client = Wire::new(&proxy);
    for n in 0..10 {
        client.done(&format!("PREPARE p{n} AS select {n}"), "PREPARE");
    }
    for n in [0, 9, 1, 0, 5, 5, 9] {
        assert_eq!(client.value(&format!("EXECUTE p{n}")), n.to_string());
        assert_eq!(client.value("select count(*) from pg_prepared_statements"), "3");
    }
}

#[test]
fn plans_that_a_table_has_outgrown() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[]);
    let mut client = Wire::new(&proxy);
    client.query("create table sql_prepare_plans (a int)");
    client.query("insert into sql_prepare_plans values (1)");
    client.done("PREPARE p AS select * from sql_prepare_plans", "PREPARE");
    assert_eq!(client.value("EXECUTE p"), "1");
    client.query("alter table sql_prepare_plans add b int default 2");
    let reply = client.query("EXECUTE p");
    assert_eq!(refused(&reply), ("0A000", "cached plan must not change result type", 'I'));
    assert_eq!(client.query("EXECUTE p").rows, [vec![Some("1".to_owned()), Some("2".to_owned())]]);
    client.query("drop table sql_prepare_plans");
}

#[test]
fn off() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[("max_prepared_statements", "0")]);
    let mut client = Wire::new(&proxy);
    client.done("PREPARE p AS select 1", "PREPARE");
    // As with PgBouncer, it is on this server, for everybody.
    assert_eq!(Wire::new(&proxy).value("EXECUTE p"), "1");
}
