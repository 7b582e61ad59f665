//! PostgreSQL's own programs replicate through Tigger: what they get is what they get without it.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use tempfile::TempDir;
use tigger_testkit::{Conninfo, Proxy, Psql, postgres_program, run};

use super::{replicable, until_no_wal_sender};
use crate::support::{Console, join, options, proxy, until};
use crate::wire::Wire;

/// Runs one of PostgreSQL's programs over `conninfo`; it must succeed.
#[track_caller]
fn program(name: &str, conninfo: &Conninfo, arguments: &[&str]) {
    let mut command = Command::new(postgres_program(name).unwrap());
    command.args(["--no-password", "--dbname", &conninfo.to_string()]).args(arguments);
    run(&mut command, LIMIT).unwrap().checked().unwrap();
}

/// Text of a path.
fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An ordinary client of the same pool, which never stops asking, until `stop` is there.
fn busy_client(proxy: &Proxy, stop: &Path) -> thread::JoinHandle<u32> {
    let (mut client, stop) = (Wire::new(proxy), stop.to_owned());
    thread::spawn(move || {
        let mut asked = 0;
        while !stop.exists() {
            asked += 1;
            assert_eq!(client.value(&format!("select {asked}")), asked.to_string());
        }
        asked
    })
}

#[test]
fn a_base_backup() {
    let Some(postgres) = replicable() else { return };
    postgres.psql("create table backed_up as select n, repeat('x', n % 500) from generate_series(1, 50000) n").unwrap();
    let proxy = proxy(&options(&postgres).pool_size(3));
    let directory = TempDir::new().unwrap();
    let (stop, backup) = (directory.path().join("stop"), directory.path().join("backup"));
    let busy = busy_client(&proxy, &stop);
    // One connection for the files, and one that streams the WAL meanwhile.
    program(
        "pg_basebackup",
        &proxy.conninfo(),
        &["--checkpoint=fast", "--wal-method=stream", "--pgdata", text(&backup)],
    );
    fs::write(&stop, "").unwrap();
    assert!(join(busy) > 0);
    // Its manifest has a checksum of each file, as PostgreSQL read it; the WAL is read by pg_waldump.
    let mut verify = Command::new(postgres_program("pg_verifybackup").unwrap());
    run(verify.arg(&backup), LIMIT).unwrap().checked().unwrap();
    until_no_wal_sender(&postgres);
    Console::new(&proxy).until_quiet("replication");
}

#[test]
fn received_wal_is_the_servers_wal() {
    let Some(postgres) = replicable() else { return };
    let proxy = proxy(&options(&postgres).pool_size(2));
    let directory = TempDir::new().unwrap();
    postgres.psql("select pg_create_physical_replication_slot('received', true)").unwrap();
    postgres
        .psql("select pg_switch_wal(); create table a as select repeat('x', 700) from generate_series(1, 60000)")
        .unwrap();
    postgres.psql("select pg_switch_wal(); checkpoint").unwrap();
    let end = postgres.psql("select pg_current_wal_lsn()").unwrap();
    let arguments = ["--slot=received", "--no-loop", "--directory", text(directory.path()), "--endpos", &end];
    program("pg_receivewal", &proxy.conninfo(), &arguments);
    let mut complete = 0;
    for segment in fs::read_dir(directory.path()).unwrap() {
        let path = segment.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.ends_with(".partial") {
            complete += 1;
            assert!(
                fs::read(&path).unwrap() == fs::read(postgres.data().join("pg_wal").join(name)).unwrap(),
                "{name} differs"
            );
        }
    }
    assert!(complete >= 3, "{complete} segments");
    program("pg_receivewal", &proxy.conninfo(), &["--drop-slot", "--slot=received"]);
    until_no_wal_sender(&postgres);
}

#[test]
fn a_logical_stream_is_what_it_is_without_us() {
    let Some(postgres) = replicable() else { return };
    let proxy = proxy(&options(&postgres).pool_size(2));
    let directory = TempDir::new().unwrap();
    let ways = [("direct", postgres.conninfo()), ("through", proxy.conninfo())];
    for (slot, conninfo) in &ways {
        program("pg_recvlogical", conninfo, &["--create-slot", "--slot", slot, "--plugin=test_decoding"]);
    }
    // Rows that fill several buffers among many small ones.
    postgres.psql("create table decoded(n int primary key, t text)").unwrap();
    let row = "insert into decoded select n, repeat(md5(n::text), case n % 1000 when 0 then 10000 else 3 end) \
               from generate_series(1, 20000) n";
    postgres.psql(row).unwrap();
    postgres.psql("update decoded set t = 'ü' where n % 7 = 0; delete from decoded where n % 5 = 0").unwrap();
    let end = postgres.psql("select pg_current_wal_lsn()").unwrap();
    let files = ways.each_ref().map(|(slot, conninfo)| {
        let file = directory.path().join(slot);
        let arguments = ["--start", "--slot", slot, "--no-loop", "--endpos", &end, "--file", text(&file)];
        program("pg_recvlogical", conninfo, &arguments);
        fs::read(&file).unwrap()
    });
    assert!(files[0].len() > 5_000_000, "{} bytes", files[0].len());
    assert!(files[0] == files[1], "the streams differ");
    until_no_wal_sender(&postgres);
}

/// A subscription of a database to another, through the proxy: table synchronisation, streaming, and a stream that is
/// killed and taken up again.
#[test]
fn a_subscription() {
    let Some(postgres) = replicable() else { return };
    let proxy = proxy(&options(&postgres).pool_size(6));
    let directory = TempDir::new().unwrap();
    let stop = directory.path().join("stop");
    let busy = busy_client(&proxy, &stop);
    let subscriber = |sql: &str| Psql::new(postgres.socket_conninfo().dbname("subscriber")).text(sql).unwrap();
    postgres.psql("create database subscriber").unwrap();
    postgres.psql("create table copied as select n from generate_series(1, 5000) n; create publication all_tables for all tables").unwrap();
    postgres.psql("select pg_create_logical_replication_slot('subscribed', 'pgoutput')").unwrap();
    subscriber("create table copied(n int)");
    subscriber(&format!(
        "create subscription subscribed connection '{}' publication all_tables with (slot_name = subscribed, create_slot = false)",
        proxy.conninfo().to_string().replace('\'', "")
    ));
    let count = || subscriber("select count(*) from copied");
    until("the table is copied", || count() == "5000");
    postgres.psql("insert into copied select generate_series(1, 1000)").unwrap();
    until("rows are streamed", || count() == "6000");
    for nth in 1..=3 {
        let killed = postgres.psql("select count(pg_terminate_backend(pid)) from pg_stat_replication").unwrap();
        assert_ne!(killed, "0");
        postgres.psql("insert into copied select generate_series(1, 1000)").unwrap();
        until("the stream goes on", || count() == (6000 + 1000 * nth).to_string());
    }
    assert_eq!(postgres.psql("select sum(n) from copied").unwrap(), subscriber("select sum(n) from copied"));
    fs::write(&stop, "").unwrap();
    assert!(join(busy) > 0);
    subscriber("drop subscription subscribed");
    until_no_wal_sender(&postgres);
    Console::new(&proxy).until_quiet("postgres");
}

/// Longest run of a program.
const LIMIT: Duration = Duration::from_secs(120);
