//! Replication connections: each client has a server of its own, beside the ordinary clients of the same pool.

mod programs;

use tigger_testkit::{Postgres, PostgresOptions, ProxyOptions};

use crate::support::{Console, can_run, options, proxy, until, until_logged};
use crate::wire::{Refusal, Wire, startup};

const LOGICAL: &[(&str, &str)] = &[("user", "postgres"), ("database", "postgres"), ("replication", "database")];
const PHYSICAL: &[(&str, &str)] = &[("user", "postgres"), ("database", "postgres"), ("replication", "true")];

/// A server that can be replicated in each way.
fn replicable() -> Option<Postgres> {
    let options = PostgresOptions::default()
        .setting("wal_level", "logical")
        .setting("max_wal_senders", "20")
        .setting("max_replication_slots", "20")
        .setting("wal_retrieve_retry_interval", "100ms")
        .hba("host replication bob all reject");
    can_run().then(|| {
        let postgres = Postgres::start(&options).unwrap();
        postgres.psql("create role alice login; create role bob login replication").unwrap();
        postgres
    })
}

fn until_no_wal_sender(postgres: &Postgres) {
    let count = "select count(*) from pg_stat_activity where backend_type = 'walsender'";
    until("no WAL sender is left", || postgres.psql(count).unwrap() == "0");
}

/// What `column` is for all clients, or servers, that replicate.
fn replicating(console: &mut Console, show: &str, column: &str) -> Vec<String> {
    let table = console.table(show);
    table.iter().filter(|row| &row["replication"] != "none").map(|row| row[column].to_owned()).collect()
}

/// Starts streaming and reads the CopyBothResponse.
fn start_streaming(client: &mut Wire, command: &str) {
    client.start(command);
    let (kind, body) = client.message().unwrap();
    assert_eq!(kind, b'W', "{}", String::from_utf8_lossy(&body));
}

#[test]
fn start_up_parameters_that_are_applied() {
    let Some(postgres) = replicable() else { return };
    let proxy = proxy(&options(&postgres).setting("startup_parameters", "apply"));
    for kind in [LOGICAL, PHYSICAL] {
        let mut client = Wire::login(&proxy, &[kind, &[("work_mem", "123kB")]].concat());
        assert_eq!(client.value("SHOW work_mem"), "123kB");
        let refused = Wire::try_login(&proxy, &[kind, &[("work_mem", "much")]].concat()).unwrap_err();
        assert_eq!(refused.sqlstate, "22023", "{refused:?}");
    }
    assert_eq!(Wire::new(&proxy).value("SHOW work_mem"), "4MB");
}

#[test]
fn a_server_of_its_own_for_the_whole_session() {
    let Some(postgres) = replicable() else { return };
    let proxy = proxy(&options(&postgres).pool_size(3));
    let mut console = Console::new(&proxy);
    let started = [LOGICAL, &[("options", "-c enable_seqscan=off"), ("application_name", "abc")]].concat();
    let mut ordinary = Wire::new(&proxy);
    let ordinary_pid = ordinary.value("select pg_backend_pid()");
    let mut client = Wire::login(&proxy, &started);
    assert_eq!(client.parameters["application_name"], "abc");
    until_logged(&proxy, "login attempt: db=postgres user=postgres tls=no replication=database");
    // In a pool in transaction mode: what it sets stays.
    client.query("set extra_float_digits = 3");
    assert_eq!(client.value("show extra_float_digits"), "3");
    assert_eq!(
        (client.value("show enable_seqscan"), client.value("show application_name")),
        ("off".into(), "abc".into())
    );
    // Commands that are carried out for ordinary clients are its server's.
    client.query("prepare own as select 7");
    assert_eq!(client.value("execute own"), "7");
    let refused = client.query("listen own").refusal.unwrap();
    assert_eq!(refused.text, "cannot execute LISTEN within a background process");
    assert_eq!(client.query("IDENTIFY_SYSTEM").columns, ["systemid", "timeline", "xlogpos", "dbname"]);
    let pid = client.value("select pg_backend_pid()");
    assert_ne!(pid, ordinary_pid);
    let mut physical = Wire::login(&proxy, PHYSICAL);
    until_logged(&proxy, "replication=yes");
    assert_eq!(physical.value("SHOW application_name"), "");
    assert_eq!(physical.query("IDENTIFY_SYSTEM").columns, ["systemid", "timeline", "xlogpos", "dbname"]);
    assert_eq!(physical.query("select 1").refusal.unwrap().sqlstate, "0A000", "SQL in physical replication");
    for show in ["SHOW CLIENTS", "SHOW SERVERS"] {
        assert_eq!(replicating(&mut console, show, "replication"), ["logical", "physical"], "{show}");
        assert_eq!(replicating(&mut console, show, "state"), ["active", "active"], "{show}");
    }
    let paths = replicating(&mut console, "SHOW CLIENTS", "path");
    assert_eq!(paths, ["user (replication)", "user (replication)"]);
    // The ordinary client is still served by its server, and by no other.
    for _ in 0..10 {
        assert_eq!(ordinary.value("select pg_backend_pid()"), ordinary_pid);
    }
    assert_eq!(ordinary.parameters["application_name"], "");
    assert_eq!(console.pool("postgres", "sv_active"), 2);
    drop((client, physical));
    until_logged(&proxy, "closing because: replication client was closed");
    until_no_wal_sender(&postgres);
    console.until_quiet("postgres");
    assert_eq!(replicating(&mut console, "SHOW SERVERS", "type"), [""; 0]);
    assert_eq!(ordinary.value("select pg_backend_pid()"), ordinary_pid);
}

#[test]
fn what_is_refused() {
    let Some(postgres) = replicable() else { return };
    let proxy = proxy(&options(&postgres));
    let login = |user: &str, replication: &str| {
        Wire::try_login(&proxy, &[("user", user), ("database", "postgres"), ("replication", replication)])
    };
    // What PostgreSQL says, it says to the client.
    let lacks_privilege = login("alice", "database").unwrap_err();
    assert_eq!((lacks_privilege.severity.as_str(), lacks_privilege.sqlstate.as_str()), ("FATAL", "42501"));
    let rejected = login("bob", "on").unwrap_err();
    assert_eq!(rejected.sqlstate, "28000");
    assert!(rejected.text.contains("pg_hba.conf rejects replication connection"), "{rejected:?}");
    assert_eq!(
        login("bob", "database").unwrap().value("select current_user"),
        "bob",
        "that is for physical replication"
    );
    // It is the client's affair alone: others of the pool log in, at once.
    for user in ["alice", "bob"] {
        let mut other = Wire::login(&proxy, &[("user", user), ("database", "postgres")]);
        assert_eq!(other.value("select current_user"), user);
    }
    let refusal = login("postgres", "perhaps").unwrap_err();
    assert_eq!(
        (refusal.sqlstate.as_str(), refusal.text.as_str()),
        ("22023", "invalid value for parameter \"replication\": \"perhaps\"")
    );
    assert_eq!(login("postgres", "off").unwrap().value("select 1"), "1");
}

#[test]
fn room_in_the_pool() {
    let Some(postgres) = replicable() else { return };
    let proxy = proxy(&options(&postgres).pool_size(2));
    let mut console = Console::new(&proxy);
    let (mut first, mut second) = (Wire::new(&proxy), Wire::new(&proxy));
    first.query("begin");
    second.query("begin");
    second.query("commit");
    // The idle server makes room.
    let replicating = Wire::login(&proxy, LOGICAL);
    until_logged(&proxy, "closing because: evicted");
    // The next waits until the one before it leaves; an ordinary client gets what is released meanwhile.
    let mut next = Wire::connect(&proxy);
    next.send_raw(&startup(3 << 16, LOGICAL));
    console.until_pool("postgres", "cl_waiting", 1);
    drop(replicating);
    next.logged_in().unwrap();
    first.query("commit");
    assert_eq!(second.value("select 1"), "1");
    // While it is its turn, a released server makes room.
    first.query("begin");
    let mut last = Wire::connect(&proxy);
    last.send_raw(&startup(3 << 16, LOGICAL));
    console.until_pool("postgres", "cl_waiting", 1);
    second.start("select 2");
    console.until_pool("postgres", "cl_waiting", 2);
    first.query("commit");
    last.logged_in().unwrap();
    drop(next);
    assert_eq!(second.reply().value(), "2");
    drop(last);
    until_no_wal_sender(&postgres);
    console.until_quiet("postgres");
}

#[test]
fn a_login_that_is_given_up() {
    let Some(postgres) = replicable() else { return };
    let proxy = proxy(&options(&postgres).pool_size(1).setting("client_login_timeout", "1"));
    let mut console = Console::new(&proxy);
    let first = Wire::login(&proxy, LOGICAL);
    // One hangs up, one has waited for too long.
    let mut leaving = Wire::connect(&proxy);
    leaving.send_raw(&startup(3 << 16, LOGICAL));
    console.until_pool("postgres", "cl_waiting", 1);
    drop(leaving);
    console.until_pool("postgres", "cl_waiting", 0);
    let refusal = Wire::try_login(&proxy, LOGICAL).unwrap_err();
    assert_eq!(refusal, Refusal::fatal("client_login_timeout (server down)"));
    drop(first);
    // Nothing was leaked: there is room for one.
    assert_eq!(Wire::login(&proxy, LOGICAL).value("select 1"), "1");
}

#[test]
fn a_cancel_request_hits_its_own_server() {
    let Some(postgres) = replicable() else { return };
    let proxy = proxy(&options(&postgres).pool_size(2));
    let mut client = Wire::login(&proxy, LOGICAL);
    let mut other = Wire::new(&proxy);
    other.start("select pg_sleep(2), 'not canceled'");
    client.start("select pg_sleep(600)");
    let running =
        "select count(*) from pg_stat_activity where query like '%pg_sleep(600)%' and backend_type = 'walsender'";
    until("it runs", || postgres.psql(running).unwrap() == "1");
    client.cancel();
    assert_eq!(client.reply().refusal.unwrap().sqlstate, "57014");
    assert_eq!(client.value("select 1"), "1");
    assert_eq!(other.reply().rows[0][1].as_deref(), Some("not canceled"));
}

#[test]
fn streaming_ends_on_either_side() {
    let Some(postgres) = replicable() else { return };
    let proxy = proxy(&options(&postgres).pool_size(4));
    let mut console = Console::new(&proxy);
    // PostgreSQL 15 ends each further stream of a connection at once, so each is on one of its own.
    let stream = || {
        let mut client = Wire::login(&proxy, LOGICAL);
        client.query("CREATE_REPLICATION_SLOT ending TEMPORARY LOGICAL test_decoding");
        start_streaming(&mut client, "START_REPLICATION SLOT ending LOGICAL 0/0");
        client
    };
    // The client ends the stream, and goes on with the same server.
    let mut client = stream();
    client.send(b'c', b"");
    let reply = client.reply();
    assert!(reply.kinds.contains('c') && reply.kinds.ends_with("CZ") && reply.status == b'I', "{reply:?}");
    assert_eq!(client.value("select 1"), "1");
    drop(client);
    until_no_wal_sender(&postgres);
    // A query sent behind the end of the stream is answered after it.
    let mut client = stream();
    client.send(b'c', b"");
    client.start("select 'behind'");
    assert_eq!(client.reply().status, b'I');
    assert_eq!(client.reply().value(), "behind");
    drop(client);
    until_no_wal_sender(&postgres);
    // PostgreSQL ends the stream, and says so.
    let mut client = stream();
    postgres.psql("select pg_terminate_backend(pid) from pg_stat_replication").unwrap();
    let refusal = client.last_words();
    assert!(refusal.sqlstate == "57P01" || refusal.text == "server conn crashed?", "{refusal:?}");
    until_logged(&proxy, "closing because: server conn crashed?");
    // A client goes in mid-stream; its server must not go on.
    until_no_wal_sender(&postgres);
    drop(stream());
    until_no_wal_sender(&postgres);
    console.until_quiet("postgres");
    let slots = "select count(*) from pg_replication_slots";
    assert_eq!(postgres.psql(slots).unwrap(), "0");
}

#[test]
fn administrators_end_it() {
    let Some(postgres) = replicable() else { return };
    let proxy = proxy(&options(&postgres).pool_size(4));
    let mut console = Console::new(&proxy);
    let mut check = |command: &str, text: &str| {
        let mut client = Wire::login(&proxy, PHYSICAL);
        // Where nothing follows: into the middle of a piece of WAL no error is sent.
        let end = client.query("IDENTIFY_SYSTEM").rows[0][2].clone().unwrap();
        start_streaming(&mut client, &format!("START_REPLICATION PHYSICAL {end}"));
        console.table(command);
        assert_eq!(client.last_words(), Refusal::fatal(text), "{command}");
        until_no_wal_sender(&postgres);
        console.until_quiet("postgres");
    };
    check("RECONNECT", "database configuration changed");
    check("KILL", "admin forced disconnect");
}

#[test]
fn a_pause_waits_for_it() {
    let Some(postgres) = replicable() else { return };
    let proxy = proxy(&options(&postgres).pool_size(4));
    let mut console = Console::new(&proxy);
    let mut client = Wire::login(&proxy, LOGICAL);
    let mut pausing = Console::new(&proxy);
    pausing.wire().start("PAUSE");
    until("it is paused", || console.table("SHOW DATABASES").find("name", "postgres").unwrap()["paused"] == *"1");
    let mut next = Wire::connect(&proxy);
    next.send_raw(&startup(3 << 16, LOGICAL));
    console.until_pool("postgres", "cl_waiting", 1);
    // Who has a server goes on with it.
    assert_eq!(client.value("select 1"), "1");
    assert_eq!(console.pool("postgres", "sv_active"), 1);
    drop(client);
    assert_eq!(pausing.wire().reply().tags, ["PAUSE"]);
    assert_eq!((console.table("SHOW SERVERS").rows.len(), console.pool("postgres", "cl_waiting")), (0, 1));
    console.table("RESUME");
    next.logged_in().unwrap();
    assert_eq!(next.value("select 2"), "2");
}

#[test]
fn it_counts_as_a_connection_of_its_database_and_user() {
    let Some(postgres) = replicable() else { return };
    for setting in ["max_db_connections", "max_user_connections"] {
        let proxy = proxy(&options(&postgres).setting(setting, "1"));
        let mut console = Console::new(&proxy);
        // In another pool of the same database, or of the same user.
        let (user, database) =
            if setting == "max_db_connections" { ("alice", "postgres") } else { ("postgres", "template1") };
        let mut other = Wire::login(&proxy, &[("user", user), ("database", database)]);
        assert_eq!(other.value("select current_user"), user);
        // Its idle server makes room.
        let mut replicating = Wire::login(&proxy, LOGICAL);
        until_logged(&proxy, "closing because: evicted");
        assert_eq!(replicating.value("select 1"), "1");
        // Its own makes none.
        other.start("select current_database()");
        let waiting = |console: &mut Console| {
            let pools = console.table("SHOW POOLS");
            let row = pools.iter().find(|row| &row["user"] == user && &row["database"] == database).unwrap();
            (row["cl_waiting"].to_owned(), row["sv_login"].to_owned())
        };
        until("the other waits", || waiting(&mut console) == ("1".to_owned(), "0".to_owned()));
        assert_eq!(replicating.value("select 2"), "2");
        drop(replicating);
        assert_eq!(other.reply().value(), database, "{setting}");
    }
}

#[test]
fn a_reload_ends_it_where_the_server_is_another() {
    let Some(postgres) = replicable() else { return };
    let line = |dbname: &str| format!("postgres = host={} port={} dbname={dbname}", postgres.host(), postgres.port());
    let with =
        |lines: &[&str]| lines.iter().fold(ProxyOptions::new(), |options, line| options.database(line)).pool_size(1);
    let proxy = proxy(&with(&[&line("postgres")]));
    let mut console = Console::new(&proxy);
    let mut reload = |options: &ProxyOptions| {
        proxy.rewrite(options).unwrap();
        console.table("RELOAD");
    };
    let mut client = Wire::login(&proxy, LOGICAL);
    let mut next = Wire::connect(&proxy);
    next.send_raw(&startup(3 << 16, LOGICAL));
    Console::new(&proxy).until_pool("postgres", "cl_waiting", 1);
    // Nothing that concerns it.
    reload(&with(&[&line("postgres"), "more = host=127.0.0.1"]));
    assert_eq!(client.value("select current_database()"), "postgres");
    reload(&with(&[&line("template1")]));
    assert_eq!(client.last_words(), Refusal::fatal("database configuration changed"));
    // The one that waits gets its server where the database is now.
    next.logged_in().unwrap();
    assert_eq!(next.value("select current_database()"), "template1");
    let mut last = Wire::connect(&proxy);
    last.send_raw(&startup(3 << 16, LOGICAL));
    Console::new(&proxy).until_pool("postgres", "cl_waiting", 1);
    reload(&with(&["more = host=127.0.0.1"]));
    assert_eq!(next.last_words(), Refusal::fatal("database removed"));
    assert_eq!(last.logged_in().unwrap_err(), Refusal::fatal("database removed"));
    until_no_wal_sender(&postgres);
}

#[test]
fn timeouts_of_queries_do_not_apply() {
    let Some(postgres) = replicable() else { return };
    let options = options(&postgres).setting("query_timeout", "1").setting("transaction_timeout", "1");
    let proxy = proxy(&options.setting("client_idle_timeout", "1"));
    let mut client = Wire::login(&proxy, PHYSICAL);
    start_streaming(&mut client, "START_REPLICATION PHYSICAL 0/1000000");
    let mut other = Wire::new(&proxy);
    other.start("select pg_sleep(600)");
    assert_eq!(other.last_words(), Refusal::fatal("query timeout"));
    client.send(b'c', b"");
    let reply = client.reply();
    assert_eq!((reply.refusal.as_ref(), reply.status), (None, b'I'), "{}", reply.kinds);
}

#[test]
fn a_client_that_does_not_read_holds_up_its_server_alone() {
    let Some(postgres) = replicable() else { return };
    let proxy = proxy(&options(&postgres).pool_size(2));
    let mut client = Wire::login(&proxy, PHYSICAL);
    let start = client.query("IDENTIFY_SYSTEM").rows[0][2].clone().unwrap();
    client.query("CREATE_REPLICATION_SLOT slow TEMPORARY PHYSICAL RESERVE_WAL");
    start_streaming(&mut client, &format!("START_REPLICATION SLOT slow PHYSICAL {start}"));
    let before = proxy.rss_kib().unwrap();
    postgres.psql("create table filler as select repeat('x', 1000) from generate_series(1, 100000)").unwrap();
    let end = postgres.psql("select pg_current_wal_lsn()").unwrap();
    // The WAL sender waits for us, and we for the client: what was sent stays far behind what there is.
    let (mut last, mut same) = (String::new(), 0);
    until("the WAL sender makes no headway", || {
        let sent = postgres.psql("select sent_lsn from pg_stat_replication").unwrap();
        same = if sent == last { same + 1 } else { 0 };
        last = sent;
        same == 20
    });
    assert!(lsn(&end) - lsn(&last) > 50 << 20, "{last} was sent of {end}");
    assert_eq!(Wire::new(&proxy).value("select 1"), "1");
    let grown = proxy.rss_kib().unwrap().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB for a client that does not read");
    // Then it reads, and misses nothing: each piece begins where the last one ended.
    let (mut at, end) = (lsn(&start), lsn(&end));
    while at < end {
        let (kind, body) = client.message().unwrap();
        assert_eq!(kind, b'd');
        if body[0] == b'w' {
            assert_eq!(u64::from_be_bytes(body[1..9].try_into().unwrap()), at);
            at += (body.len() - 25) as u64;
        }
    }
    let mut console = Console::new(&proxy);
    until("all bytes are counted, while the stream goes on", || {
        let stats = console.table("SHOW STATS");
        let sent: u64 = stats.find("database", "postgres").unwrap()["total_sent"].parse().unwrap();
        sent >= end - lsn(&start)
    });
}

/// The position behind `X/Y`.
fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap();
    let number = |text| u64::from_str_radix(text, 16).unwrap();
    number(high) << 32 | number(low)
}
