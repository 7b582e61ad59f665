//! Named prepared statements in transaction and statement pooling: they are there on whichever server a client gets.

use tigger_testkit::{Postgres, Proxy, ProxyOptions};

use crate::kernel_path::{Counters, assert_carried, kernel_proxy};
use crate::support::{Console, options, postgres, proxy};
use crate::wire::{Refusal, Reply, Wire, cstr, message};

/// A Parse of a statement whose parameters have no declared types.
pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[cstr(name), cstr(sql), vec![0, 0]].concat())
}

/// A Bind of the unnamed portal with parameters as text.
pub(crate) fn bind(name: &str, parameters: &[&str]) -> Vec<u8> {
    let mut body = [cstr(""), cstr(name), vec![0, 0]].concat();
    body.extend(u16::try_from(parameters.len()).unwrap().to_be_bytes());
    for parameter in parameters {
        body.extend(u32::try_from(parameter.len()).unwrap().to_be_bytes());
        body.extend_from_slice(parameter.as_bytes());
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

/// Describe of a statement.
pub(crate) fn describe(name: &str) -> Vec<u8> {
    message(b'D', &[b"S".to_vec(), cstr(name)].concat())
}

/// Describe of the unnamed portal.
pub(crate) fn describe_portal() -> Vec<u8> {
    message(b'D', b"P\0")
}

pub(crate) fn execute() -> Vec<u8> {
    message(b'E', &[0, 0, 0, 0, 0])
}

/// Close of a statement.
pub(crate) fn close(name: &str) -> Vec<u8> {
    message(b'C', &[b"S".to_vec(), cstr(name)].concat())
}

pub(crate) fn flush() -> Vec<u8> {
    message(b'H', b"")
}

pub(crate) fn sync() -> Vec<u8> {
    message(b'S', b"")
}

impl Wire {
    /// Sends these messages and a Sync, at once; all that comes up to its ReadyForQuery.
    pub(crate) fn exchange(&mut self, messages: &[Vec<u8>]) -> Reply {
        self.send_raw(&[messages.concat(), sync()].concat());
        self.reply()
    }

    /// Executes a prepared statement with one parameter and one result.
    #[track_caller]
    fn run(&mut self, name: &str, parameter: &str) -> String {
        self.exchange(&[bind(name, &[parameter]), execute()]).value()
    }

    #[track_caller]
    pub(crate) fn prepare(&mut self, name: &str, sql: &str) {
        assert_eq!(self.exchange(&[parse(name, sql)]).kinds, "1Z");
    }
}

/// A proxy with so many servers, on which clients that hold one get others.
pub(crate) fn pooled(postgres: &Postgres, servers: u32, settings: &[(&str, &str)]) -> Proxy {
    let options = options(postgres).pool_size(servers);
    proxy(&settings.iter().fold(options, |options: ProxyOptions, (name, value)| options.setting(name, value)))
}

/// Statements on the server that the client has now.
fn on_server(wire: &mut Wire) -> String {
    wire.value("select count(*) from pg_prepared_statements")
}

#[test]
fn statements_follow_their_client() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 2, &[]);
    let mut first = Wire::new(&proxy);
    first.prepare("S_1", "select $1::text || pg_backend_pid()");
    let mut pids = vec![first.run("S_1", "")];
    // Another client takes that server, so that the next is one without the statement.
    let mut other = Wire::new(&proxy);
    other.query("begin");
    let held = other.value("select pg_backend_pid()");
    assert_eq!(held, pids[0]);
    pids.push(first.run("S_1", ""));
    assert_ne!(pids[0], pids[1]);
    // It was described on the other one already, and does not have to be parsed.
    assert_eq!(first.exchange(&[describe("S_1"), bind("S_1", &["x"]), execute()]).kinds, "tT2DCZ");
    other.query("commit");
    let mut console = Console::new(&proxy);
    let stats = console.table("SHOW STATS");
    let stats = stats.find("database", "postgres").unwrap();
    assert_eq!(
        [&stats["total_client_parse_count"], &stats["total_server_parse_count"], &stats["total_bind_count"]],
        ["1", "2", "3"]
    );
    assert_eq!(
        console.table("SHOW SERVERS").iter().map(|row| row["prepared_statements"].to_owned()).max().unwrap(),
        "1"
    );
    assert_eq!(
        console.table("SHOW CLIENTS").iter().map(|row| row["prepared_statements"].to_owned()).max().unwrap(),
        "1"
    );
}

#[test]
fn clients_share_what_is_the_same() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[]);
    let (mut first, mut second) = (Wire::new(&proxy), Wire::new(&proxy));
    first.prepare("S_1", "select $1::int4 + 1");
    // The same text under another name, and another text under the same name.
    second.prepare("S_2", "select $1::int4 + 1");
    second.prepare("S_1", "select $1::int4 + 2");
    assert_eq!(
        (first.run("S_1", "1"), second.run("S_2", "1"), second.run("S_1", "1")),
        ("2".into(), "2".into(), "3".into())
    );
    assert_eq!(on_server(&mut first), "2");
    // The names of others do not reach the server at all, and closing is forgetting a name.
    assert_eq!(second.exchange(&[close("S_2"), close("never")]).kinds, "33Z");
    assert_eq!(on_server(&mut first), "2");
    second.prepare("S_2", "select $1::int4 + 3");
    assert_eq!((first.run("S_1", "1"), second.run("S_2", "1")), ("2".into(), "4".into()));
}

#[test]
fn names_of_any_length() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[]);
    let mut wire = Wire::new(&proxy);
    for len in [1, 2, 3, 10, 59, 60, 63, 64, 200, 2000, 10_000] {
        let name = "n".repeat(len);
        wire.prepare(&name, "select $1::text || 'x'");
        assert_eq!(wire.run(&name, &len.to_string()), format!("{len}x"));
    }
    let too_long = "n".repeat(20_000);
    wire.send_raw(&[describe(&too_long), sync()].concat());
    assert_eq!(wire.last_words(), Refusal::fatal("broken Describe packet"));
}

#[test]
fn the_server_keeps_those_used_last() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[("max_prepared_statements", "3")]);
    let mut wire = Wire::new(&proxy);
    for number in 0..10 {
        wire.prepare(&format!("s{number}"), &format!("select $1::int4 + {number}"));
    }
    assert_eq!(on_server(&mut wire), "3");
    // In one pipeline, each pushes another out.
    let all: Vec<_> = (0..10).flat_map(|number| [bind(&format!("s{number}"), &["100"]), execute()]).collect();
    let reply = wire.exchange(&all);
    assert_eq!(reply.rows, (100..110).map(|sum| vec![Some(sum.to_string())]).collect::<Vec<_>>());
    assert_eq!(reply.kinds, format!("{}Z", "2DC".repeat(10)));
    assert_eq!(on_server(&mut wire), "3");
}

#[test]
fn errors_undo_what_they_skip() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[]);
    let mut wire = Wire::new(&proxy);
    let missing = |reply: Reply| reply.refusal.map(|refusal| refusal.sqlstate);
    // A Parse that fails leaves its name free.
    assert_eq!(missing(wire.exchange(&[parse("a", "selekt"), bind("a", &[]), execute()])), Some("42601".into()));
    wire.prepare("a", "select $1::int4 * 2");
    // What is behind an error has not happened: neither the Parse of b nor the Close of a.
    let reply = wire.exchange(&[parse("", "select 1/0"), bind("", &[]), execute(), parse("b", "select 1"), close("a")]);
    assert_eq!((reply.kinds.clone(), missing(reply)), ("1EZ".into(), Some("22012".into())));
    assert_eq!(wire.run("a", "4"), "8");
    wire.prepare("b", "select $1::int4 * 3");
    assert_eq!(wire.run("b", "4"), "12");
    // In a failed transaction PostgreSQL refuses a Parse, also of what it has.
    wire.query("begin");
    wire.query("select 1/0");
    assert_eq!(missing(wire.exchange(&[parse("c", "select $1::int4 * 3")])), Some("25P02".into()));
    wire.query("rollback");
    assert_eq!((wire.run("a", "1"), wire.run("b", "1")), ("2".into(), "3".into()));
}

#[test]
fn names_that_are_taken_or_missing_end_the_client() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[]);
    let check = |messages: &[Vec<u8>], text: &str| {
        let mut wire = Wire::new(&proxy);
        wire.prepare("a", "select 1");
        wire.send_raw(&[messages.concat(), sync()].concat());
        assert_eq!(wire.last_words(), Refusal::fatal(text));
    };
    check(&[parse("a", "select 2")], "prepared statement name is already in use");
    check(&[bind("b", &[])], "prepared statement did not exist");
    check(&[describe("b")], "prepared statement did not exist");
    check(&[message(b'P', b"no end")], "broken Parse packet");
    check(&[message(b'P', b"a\0select 1\0\0\x01")], "broken Parse packet");
    check(&[message(b'B', b"\0no end")], "broken Bind packet");
    check(&[message(b'C', b"Sno end")], "broken Close packet");
    // Nobody else notices.
    assert_eq!(Wire::new(&proxy).value("select 1"), "1");
}

#[test]
fn how_many_a_client_may_have() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[]);
    let mut wire = Wire::new(&proxy);
    let names: Vec<String> = (0..65_536).map(|nth| format!("{nth:05}")).collect();
    for names in names.chunks(4096) {
        let parses: Vec<_> = names.iter().map(|name| parse(name, "select $1::text")).collect();
        assert_eq!(wire.exchange(&parses).kinds, format!("{}Z", "1".repeat(parses.len())));
    }
    // One may go for another.
    assert_eq!(wire.exchange(&[close("00000"), parse("other", "select $1::text")]).kinds, "31Z");
    assert_eq!(wire.run("65535", "last"), "last");
    wire.send_raw(&[parse("00000", "select $1::text"), sync()].concat());
    let refusal = wire.last_words();
    assert_eq!((refusal.sqlstate.as_str(), refusal.text.as_str()), ("54000", "too many prepared statements"));
}

#[test]
fn prepared_behind_a_copy_that_fails() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[]);
    let mut wire = Wire::new(&proxy);
    wire.query("begin; create temporary table copied(a int) on commit drop");
    wire.start("copy copied from stdin");
    assert_eq!(wire.message().unwrap().0, b'G');
    // A Sync in the middle of the data, which the server has ignored or will answer: the error does not tell.
    let copy = [message(b'd', b"no number\n"), sync(), message(b'c', b"")];
    wire.send_raw(&[copy.concat(), parse("a", "select 1"), sync()].concat());
    let refusal = wire.last_words();
    let text = "prepared statements behind a COPY that fails in a pipeline are not supported";
    assert_eq!((refusal.sqlstate.as_str(), refusal.text.as_str()), ("0A000", text));
    assert_eq!(Wire::new(&proxy).value("select 1"), "1");
}

#[test]
fn discard_all_and_deallocate_all_remove_them() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[]);
    for command in ["deallocate all", "discard all"] {
        let mut other = Wire::new(&proxy);
        other.prepare("mine", "select $1::text || 'mine'");
        let mut wire = Wire::new(&proxy);
        wire.prepare("a", "select $1::text || 'a'");
        assert_eq!(wire.query(command).tags, [command.to_uppercase()]);
        assert_eq!(on_server(&mut wire), "0");
        // The name is free again; others keep theirs, which come back when they are used.
        wire.prepare("a", "select $1::text || 'b'");
        assert_eq!((wire.run("a", "-"), other.run("mine", "-")), ("-b".into(), "-mine".into()));
        assert_eq!(wire.query(command).tags, [command.to_uppercase()]);
        wire.send_raw(&[bind("a", &["-"]), sync()].concat());
        assert_eq!(wire.last_words(), Refusal::fatal("prepared statement did not exist"));
    }
}

#[test]
fn a_parse_of_many_chunks() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 2, &[]);
    let mut wire = Wire::new(&proxy);
    let long = format!("select length('{}') + $1::int4", "x".repeat(1_000_000));
    wire.prepare("long", &long);
    let mut other = Wire::new(&proxy);
    other.query("begin");
    assert_eq!(wire.run("long", "1"), "1000001");
    other.query("rollback");
    // A parameter of many chunks goes through as it comes.
    wire.prepare("len", "select length($1::text)");
    assert_eq!(wire.run("len", &"y".repeat(3_000_000)), "3000000");
    wire.send_raw(&message(b'P', &[cstr("l"), vec![b' '; 17 << 20], vec![0, 0, 0]].concat()));
    let refusal = wire.last_words();
    assert_eq!((refusal.sqlstate.as_str(), refusal.text.as_str()), ("54000", "prepared statement is too long"));
}

#[test]
fn statement_pooling_has_them_too() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 2, &[("pool_mode", "statement")]);
    let mut wire = Wire::new(&proxy);
    wire.prepare("a", "select $1::text || 'a'");
    for number in 0..20 {
        assert_eq!(wire.run("a", &number.to_string()), format!("{number}a"));
    }
}

#[test]
fn statements_that_a_server_has_are_carried_by_the_kernel_path() {
    let Some(postgres) = postgres() else { return };
    let Some(proxy) = kernel_proxy(&options(postgres).pool_size(2)) else { return };
    let mut console = Console::new(&proxy);
    let mut wires: Vec<_> = (0..4).map(|_| Wire::new(&proxy)).collect();
    for (number, wire) in wires.iter_mut().enumerate() {
        // Names as drivers give them; the same text under names of different lengths is two statements on the servers.
        wire.prepare(
            ["S_1", "S_2", "_pg3_0", "stmtcache_0123456789abcdef0123456789abcdef0123456789abcdef"][number],
            "select $1::text || '!'",
        );
        wire.prepare("other", "select $1::int4 * 2");
    }
    let names = ["S_1", "S_2", "_pg3_0", "stmtcache_0123456789abcdef0123456789abcdef0123456789abcdef"];
    let mut round = |rounds: usize| {
        for turn in 0..rounds {
            for (wire, name) in wires.iter_mut().zip(names) {
                let token = format!("{turn} of {name}");
                assert_eq!(wire.run(name, &token), format!("{token}!"));
                // Several in one send, described as well, and the unnamed one among them.
                let reply = wire.exchange(&[
                    describe("other"),
                    bind("other", &[&turn.to_string()]),
                    execute(),
                    parse("", "select 1"),
                    bind("", &[]),
                    execute(),
                    bind(name, &["z"]),
                    execute(),
                ]);
                assert_eq!(reply.kinds, "tT2DC12DC2DCZ");
                assert_eq!(
                    reply.rows,
                    [vec![Some((turn * 2).to_string())], vec![Some("1".into())], vec![Some("z!".into())]]
                );
            }
        }
    };
    // Until each server has each statement.
    round(10);
    let before = Counters::read(&mut console);
    round(50);
    assert_carried(&Counters::read(&mut console).since(&before), 4 * 50 * 2);
    let stats = console.table("SHOW STATS");
    let stats = stats.find("database", "postgres").unwrap();
    assert_eq!((&stats["total_bind_count"], &stats["total_client_parse_count"]), ("720", "8"));
}

#[test]
fn the_kernel_path_uses_only_what_the_server_has() {
    let Some(postgres) = postgres() else { return };
    let Some(proxy) = kernel_proxy(&options(postgres).pool_size(1).setting("max_prepared_statements", "2")) else {
        return;
    };
    let mut wire = Wire::new(&proxy);
    for name in ["a1", "b1", "c1"] {
        wire.prepare(name, &format!("select $1::text || '{name}'"));
    }
    for turn in 0..30 {
        // What the kernel path has used last is kept: of the other two one is pushed out each time.
        for name in ["a1", ["b1", "c1"][turn % 2], "a1", "a1"] {
            assert_eq!(wire.run(name, "-"), format!("-{name}"));
        }
    }
    let stats = Console::new(&proxy).table("SHOW STATS");
    let parses: u64 = stats.find("database", "postgres").unwrap()["total_server_parse_count"].parse().unwrap();
    assert!(parses <= 3 + 1 + 30, "{parses}");
    // Gone with a command, whoever sends it.
    assert_eq!(wire.query("deallocate all").tags, ["DEALLOCATE ALL"]);
    wire.prepare("a1", "select $1::text || 'new'");
    assert_eq!((wire.run("a1", "-"), wire.run("a1", "+")), ("-new".into(), "+new".into()));
    wire.query("begin");
    assert_eq!(wire.run("a1", "-"), "-new");
    assert_eq!(wire.query("discard all").refusal.unwrap().sqlstate, "25001");
    wire.query("rollback");
    assert_eq!(wire.run("a1", "-"), "-new");
}

#[test]
fn without_tracking_names_are_the_servers() {
    let Some(postgres) = postgres() else { return };
    let proxy = pooled(postgres, 1, &[("max_prepared_statements", "0")]);
    let mut wire = Wire::new(&proxy);
    wire.prepare("a", "select $1::text || 'a'");
    assert_eq!(wire.value("select name from pg_prepared_statements"), "a");
    // A second client is told by PostgreSQL.
    let refusal = Wire::new(&proxy).exchange(&[parse("a", "select 1")]).refusal.unwrap();
    assert_eq!((refusal.severity.as_str(), refusal.sqlstate.as_str()), ("ERROR", "42P05"));
}
