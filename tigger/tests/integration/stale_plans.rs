//! Prepared statements whose table has changed: PostgreSQL refuses them ("cached plan must not change result type"). What the
//! client cannot tell is repaired; who knows the columns from before gets the error.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::kernel_path::{Counters, kernel_proxy};
use crate::prepared::{bind, describe, describe_portal, execute, flush, parse, pooled, sync};
use crate::support::{Console, options, postgres, until};
use crate::wire::{Reply, Wire};

/// A table of this name, and a statement that reads all its columns.
fn changing(wire: &mut Wire, table: &str) -> String {
    wire.query(&format!("drop table if exists {table}"));
    wire.query(&format!("create table {table} as select 1 as a"));
    format!("select * from {table} where $1::int4 = 1")
}

fn add_column(wire: &mut Wire, table: &str, number: usize) {
    let sql = format!("alter table {table} add c{number} int default {number}");
    assert_eq!(wire.query(&sql).tags, ["ALTER TABLE"]);
}

/// Executes a statement with one parameter, and asks what its result looks like.
pub(crate) fn described(name: &str) -> [Vec<u8>; 3] {
    [bind(name, &["1"]), describe_portal(), execute()]
}

/// How many columns each row has.
#[track_caller]
fn columns(reply: &Reply) -> usize {
    assert_eq!(reply.refusal, None);
    let [row] = reply.rows.as_slice() else { panic!("not one row: {reply:?}") };
    row.len()
}

#[track_caller]
fn assert_refused(reply: &Reply) {
    let refusal = reply.refusal.as_ref().expect("an error");
    assert_eq!((&*refusal.sqlstate, &*refusal.text), ("0A000", "cached plan must not change result type"));
}

/// PostgreSQL refuses to execute a prepared statement whose result has other columns than when it was prepared. Each client
/// learns that at most once, as on a server of its own, and preparing it again helps.
#[test]
fn statements_are_prepared_again_after_their_table_has_changed() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 2, &[]);
    let mut wires: Vec<_> = (0..3).map(|_| Wire::new(&proxy)).collect();
    let query = &changing(&mut wires[0], "changing");
    for wire in &mut wires {
        wire.prepare("S_1", query);
    }
    for round in 0..10 {
        // On both servers.
        wires[0].query("begin");
        for wire in &mut wires {
            assert_eq!(wire.exchange(&[bind("S_1", &["1"]), execute()]).rows.len(), 1, "{round}");
        }
        wires[0].query("commit");
        assert_eq!(wires[1].query(&format!("alter table changing add column c{round} int")).tags, ["ALTER TABLE"]);
        let reply = wires[1].exchange(&[bind("S_1", &["1"]), execute()]);
        assert_eq!(reply.refusal.map(|refusal| refusal.sqlstate).as_deref(), Some("0A000"), "{round}");
        // From now on nobody meets it, neither on that server nor on the other.
        wires[0].query("begin");
        wires[2].query("begin");
        for wire in [0, 2] {
            let reply = wires[wire].exchange(&[bind("S_1", &["1"]), execute()]);
            assert_eq!(reply.rows.iter().map(Vec::len).collect::<Vec<_>>(), [2 + round], "{round} {reply:?}");
        }
        wires[0].query("commit");
        wires[2].query("commit");
        // A driver may prepare the same text under another name.
        let name = format!("again{round}");
        wires[1].prepare(&name, query);
        assert_eq!(wires[1].exchange(&[bind(&name, &["1"]), execute()]).rows.len(), 1);
        assert_eq!(wires[1].exchange(&[bind("S_1", &["1"]), execute()]).rows.len(), 1);
    }
    wires[0].query("drop table changing");
}

#[test]
fn who_asks_for_a_description_does_not_notice() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 2, &[]);
    let (mut wire, mut other) = (Wire::new(&proxy), Wire::new(&proxy));
    let query = changing(&mut other, "described");
    wire.prepare("S_1", &query);
    for round in 0..10 {
        assert_eq!(columns(&wire.exchange(&described("S_1"))), 1 + round);
        add_column(&mut other, "described", round);
        let reply = wire.exchange(&described("S_1"));
        assert_eq!((reply.kinds.as_str(), columns(&reply)), ("2TDCZ", 2 + round));
        // Several executions, of two statements.
        let name = format!("S_2{round}");
        wire.prepare(&name, &query);
        assert_eq!(columns(&wire.exchange(&described(&name))), 2 + round);
        add_column(&mut other, "described", 200 + round);
        let reply = wire.exchange(&[described("S_1").concat(), described(&name).concat()]);
        assert_eq!((reply.kinds.as_str(), reply.rows[1].len()), ("2TDC2TDCZ", 3 + round));
        other.query(&format!("alter table described drop c{}", 200 + round));
    }
    other.query("drop table described");
}

/// With a server of its own it would be the first to prepare the statement.
#[test]
fn who_has_just_prepared_what_another_had() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[]);
    let mut first = Wire::new(&proxy);
    let query = changing(&mut first, "shared_plan");
    first.prepare("S_1", &query);
    for round in 0..5 {
        assert_eq!(columns(&first.exchange(&described("S_1"))), 1 + round);
        add_column(&mut first, "shared_plan", round);
        let mut other = Wire::new(&proxy);
        if round % 2 == 0 {
            let reply = other.exchange(&[parse("S_9", &query), describe("S_9")]);
            assert_eq!((reply.kinds.as_str(), reply.refusal), ("1tTZ", None));
        } else {
            let reply = other.exchange(&[parse("S_9", &query), described("S_9").concat()]);
            assert_eq!((reply.kinds.as_str(), columns(&reply)), ("12TDCZ", 2 + round));
        }
        assert_eq!(columns(&other.exchange(&[bind("S_9", &["1"]), execute()])), 2 + round);
    }
    first.query("drop table shared_plan");
}

#[test]
fn what_cannot_be_repaired_is_refused() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[]);
    let mut wire = Wire::new(&proxy);
    let query = changing(&mut wire, "refused_plan");
    wire.prepare("S_1", &query);
    let mut rounds = 0..;
    let mut outgrow = |wire: &mut Wire| {
        assert_eq!(wire.exchange(&described("S_1")).refusal, None);
        add_column(wire, "refused_plan", rounds.next().unwrap());
    };
    // It knows the columns from before.
    outgrow(&mut wire);
    let reply = wire.exchange(&[bind("S_1", &["1"]), execute()]);
    assert_refused(&reply);
    assert_eq!(reply.kinds, "EZ");
    // In a transaction, which has failed.
    outgrow(&mut wire);
    wire.query("begin");
    let reply = wire.exchange(&described("S_1"));
    assert_refused(&reply);
    assert_eq!(reply.status, b'E');
    wire.query("rollback");
    // More was sent behind it.
    outgrow(&mut wire);
    let group = [described("S_1").concat(), sync()].concat();
    wire.send_raw(&[group.as_slice(), &group].concat());
    assert_refused(&wire.reply());
    assert_refused(&wire.reply());
    // Something before it is answered.
    outgrow(&mut wire);
    let reply = wire.exchange(&[parse("", "select 1"), described("S_1").concat()]);
    assert_refused(&reply);
    assert_eq!(reply.kinds, "1EZ");
    // It was too long to be kept.
    outgrow(&mut wire);
    let long = "1".to_owned() + &" ".repeat(10_000);
    let reply = wire.exchange(&[bind("S_1", &[&long]), describe_portal(), execute()]);
    assert_refused(&reply);
    // The server was waited for.
    outgrow(&mut wire);
    wire.send_raw(&[described("S_1").concat(), flush()].concat());
    let (kind, _) = wire.message().unwrap();
    assert_eq!(kind, b'E');
    wire.send_raw(&sync());
    assert_eq!(wire.reply().kinds, "Z");
    // Each time it helps to ask again.
    assert_eq!(wire.exchange(&described("S_1")).refusal, None);
    wire.query("drop table refused_plan");
}

/// The kernel path keeps what it has carried, and the user path sends it once more.
#[test]
fn on_the_kernel_path() {
    let Some(postgres) = postgres() else { return };
    let Some(proxy) = kernel_proxy(&options(postgres).pool_size(2)) else { return };
    let mut console = Console::new(&proxy);
    let (mut wire, mut other) = (Wire::new(&proxy), Wire::new(&proxy));
    let query = changing(&mut other, "carried_plan");
    wire.prepare("S_1", &query);
    for round in 0..10 {
        // Until both servers have the statement and the kernel path carries it.
        let mut before = Counters::read(&mut console);
        until("the kernel path carries it", || {
            assert_eq!(columns(&wire.exchange(&described("S_1"))), 1 + round);
            let now = Counters::read(&mut console);
            let carried = now.get("replies_kernel") > before.get("replies_kernel");
            before = now;
            carried
        });
        add_column(&mut other, "carried_plan", round);
        let reply = wire.exchange(&described("S_1"));
        assert_eq!((reply.kinds.as_str(), columns(&reply)), ("2TDCZ", 2 + round));
    }
    let carried = Counters::read(&mut console);
    assert!(carried.get("left_reply") >= 10, "{carried:?}");
    // It carries requests that it cannot keep, too.
    let long = "1".to_owned() + &" ".repeat(1000);
    for _ in 0..10 {
        assert_eq!(columns(&wire.exchange(&[bind("S_1", &[&long]), describe_portal(), execute()])), 11);
    }
    add_column(&mut other, "carried_plan", 10);
    assert_refused(&wire.exchange(&[bind("S_1", &[&long]), describe_portal(), execute()]));
    assert_eq!(columns(&wire.exchange(&described("S_1"))), 12);
    other.query("drop table carried_plan");
}

/// Tables change while many execute.
#[test]
fn under_load() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 3, &[]);
    let mut other = Wire::new(&proxy);
    let query = changing(&mut other, "busy_plan");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in 0..6 {
            let (proxy, query, done) = (&proxy, format!("{query} and {client} = {client}"), &done);
            scope.spawn(move || {
                let mut wire = Wire::new(proxy);
                wire.prepare("S_1", &query);
                while !done.load(Ordering::Relaxed) {
                    let reply = wire.exchange(&described("S_1"));
                    assert_eq!(reply.kinds, "2TDCZ", "{reply:?}");
                }
            });
        }
        for round in 0..40 {
            add_column(&mut other, "busy_plan", round);
        }
        done.store(true, Ordering::Relaxed);
    });
    other.query("drop table busy_plan");
}
