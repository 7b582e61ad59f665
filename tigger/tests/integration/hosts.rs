//! A database on several hosts.

use std::collections::BTreeMap;

use tigger_testkit::{Postgres, Proxy};

use crate::support::{Console, own_postgres, proxy};
use crate::wire::{Refusal, Wire};

/// A proxy for one database on the sockets of these servers, and on a directory without one where there is none.
fn on_hosts(servers: &[Option<&Postgres>], keys: &str, settings: &[(&str, &str)]) -> Proxy {
    let port = servers.iter().flatten().next().unwrap().port();
    let directory = |server: &Option<&Postgres>| match server {
        Some(postgres) => postgres.socket_dir().display().to_string(),
        None => "/nowhere".to_owned(),
    };
    let hosts: Vec<String> = servers.iter().map(directory).collect();
    let options = tigger_testkit::ProxyOptions::new()
        .database(&format!("postgres = host={} port={port} {keys}", hosts.join(",")))
        .pool_size(4);
    proxy(&settings.iter().fold(options, |options, (name, value)| options.setting(name, value)))
}

/// How many of the pool's servers are in which data directory: all are opened, because each client holds one.
fn spread(proxy: &Proxy, clients: usize) -> Vec<usize> {
    let mut wires: Vec<_> = (0..clients).map(|_| Wire::new(proxy)).collect();
    let mut places = BTreeMap::<String, usize>::new();
    for wire in &mut wires {
        wire.query("begin");
        *places.entry(wire.value("select current_setting('data_directory')")).or_default() += 1;
    }
    places.into_values().collect()
}

#[test]
fn servers_are_on_the_next_host_in_turn() {
    let Some(first) = own_postgres() else { return };
    // Sockets in two directories, of two servers with the same port number.
    let Some(second) = same_port(&first) else { return };
    let both = [Some(&first), Some(&second)];
    let proxy = on_hosts(&both, "", &[]);
    assert_eq!(spread(&proxy, 4), [2, 2]);
    let mut console = Console::new(&proxy);
    let databases = console.table("SHOW DATABASES");
    let row = databases.find("name", "postgres").unwrap();
    assert_eq!(row["host"], format!("{},{}", first.socket_dir().display(), second.socket_dir().display()));
    assert_eq!(&row["load_balance_hosts"], "round-robin");
    assert_eq!(spread(&on_hosts(&both, "load_balance_hosts=disable", &[]), 4), [4]);
    // A cancel request goes where its server is.
    let mut wire = Wire::new(&proxy);
    for _ in 0..4 {
        wire.start("select pg_sleep(1000)");
        console.until_pool("postgres", "sv_active", 1);
        wire.cancel();
        assert_eq!(wire.reply().refusal.unwrap().sqlstate, "57014");
        // Another server each time.
        assert_eq!(wire.query("select pg_terminate_backend(pg_backend_pid())").status, 0);
        wire = Wire::new(&proxy);
    }
}

#[test]
fn with_disable_another_host_is_taken_when_one_fails() {
    let Some(postgres) = own_postgres() else { return };
    let retry = [("server_login_retry", "0.1")];
    let proxy = on_hosts(&[None, Some(&postgres)], "load_balance_hosts=disable", &retry);
    // Its coming is what has the next host tried; it waits for that, or is told at once that the last try failed.
    let told = Refusal::fatal("server login has been failing, cached error: connect failed (server_login_retry)");
    let mut wire = loop {
        match Wire::try_login(&proxy, crate::wire::POSTGRES) {
            Ok(wire) => break wire,
            Err(refusal) => assert_eq!(refusal, told),
        }
    };
    assert_eq!(wire.value("select 1"), "1");
    assert_eq!(spread(&proxy, 3), [3]);
}

/// A second server, whose socket also has the name that it would have with the port of the first: a database has one port.
fn same_port(first: &Postgres) -> Option<Postgres> {
    let second = own_postgres()?;
    let name = |postgres: &Postgres| format!(".s.PGSQL.{}", postgres.port());
    std::os::unix::fs::symlink(name(&second), second.socket_dir().join(name(first))).unwrap();
    Some(second)
}
