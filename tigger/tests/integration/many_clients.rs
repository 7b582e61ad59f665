//! Many clients at once: what an idle one costs, and what happens when there is no room for one more.

use std::fs;

use tigger_testkit::{Proxy, raise_fd_limit};

use crate::support::{self, Console, options, postgres, proxy, proxy_by, until, until_logged};
use crate::wire::{POSTGRES, Wire};

#[test]
fn thousands_of_idle_clients_cost_little_and_all_work() {
    let Some(postgres) = postgres() else { return };
    // Each takes a descriptor here and one in the proxy.
    let most = raise_fd_limit().unwrap().saturating_sub(1_000).min(5_000);
    assert!(most >= 2_000, "the limit on open files is too low for this test: ulimit -n 4096");
    let proxy = proxy(&options(postgres).setting("max_client_conn", "10000").setting("log_connections", "0"));
    let mut clients: Vec<Wire> = (0..500).map(|_| Wire::new(&proxy)).collect();
    let before = proxy.rss_kib().unwrap();
    clients.extend((500..most).map(|_| Wire::new(&proxy)));
    let grown = proxy.rss_kib().unwrap().saturating_sub(before);
    let each = grown as f64 / (most - 500) as f64;
    assert!(each <= 4.0, "{each:.2} KiB for each of {most} clients");
    let mut console = Console::new(&proxy);
    assert_eq!(console.pool("postgres", "cl_active"), most);
    clients.iter_mut().for_each(|client| client.start("select 1"));
    for client in &mut clients {
        assert_eq!(client.reply().value(), "1");
    }
    assert!(console.table("SHOW SERVERS").rows.len() <= 20);
    console.until_quiet("postgres");
    // Memory does not grow with use either.
    let worked = proxy.rss_kib().unwrap().saturating_sub(before);
    let each = worked as f64 / (most - 500) as f64;
    assert!(each <= 4.0, "{each:.2} KiB for each of {most} clients that have worked");
    drop(clients);
    console.until_pool("postgres", "cl_active", 0);
}

/// A program that starts Tigger with at most 72 open files.
fn starved(postgres: &tigger_testkit::Postgres) -> Proxy {
    let script = std::env::temp_dir().join(format!("tigger-it-starved-{}", std::process::id()));
    let text = format!("#!/bin/sh\nulimit -n 72\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_tigger"));
    assert!(support::script(&script, &text).status.success());
    let options = options(postgres).pool_size(2).setting("max_client_conn", "1000");
    let proxy = proxy_by(&script, &options);
    fs::remove_file(&script).unwrap();
    proxy
}

#[test]
fn without_file_descriptors_clients_are_refused_and_the_rest_goes_on() {
    let Some(postgres) = postgres() else { return };
    let proxy = starved(postgres);
    let mut first = Wire::new(&proxy);
    assert_eq!(first.value("select 1"), "1");
    let mut clients: Vec<Wire> = (0..100).map(|_| Wire::connect(&proxy)).collect();
    until_logged(&proxy, "out of file descriptors");
    // Each is either let in or hung up on; none waits for ever.
    let mut inside = Vec::new();
    let mut refused = 0;
    for mut client in clients.drain(..) {
        client.send_raw(&crate::wire::startup(3 << 16, POSTGRES));
        match client.message() {
            Some((b'R', _)) => {
                client.logged_in().unwrap();
                inside.push(client);
            }
            Some(other) => panic!("{other:?}"),
            None => refused += 1,
        }
    }
    assert!(inside.len() > 20 && refused > 20, "{} are in, {refused} were refused", inside.len());
    for client in inside.iter_mut().chain([&mut first]) {
        assert_eq!(client.value("select 2"), "2");
    }
    // One line for each that was refused: a loop around accept would write thousands.
    let lines = proxy.log().matches("out of file descriptors").count();
    assert!((1..=refused + 5).contains(&lines), "{lines} lines for {refused} refused clients");
    drop(inside);
    until("there is room again", || proxy.psql("select 3").is_ok());
    assert_eq!(first.value("select 4"), "4");
    let lines = proxy.log().matches("out of file descriptors").count();
    until("clients come in", || (0..10).all(|_| proxy.psql("select 5").is_ok()));
    assert_eq!(proxy.log().matches("out of file descriptors").count(), lines, "it recovered");
}

#[test]
fn an_idle_process_does_not_spin() {
    let Some(postgres) = postgres() else { return };
    let proxy =
        proxy(&options(postgres).setting("server_idle_timeout", "2").setting("max_client_conn", "1000").pool_size(5));
    let mut clients: Vec<Wire> = (0..200).map(|_| Wire::new(&proxy)).collect();
    clients.iter_mut().take(5).for_each(|client| drop(client.query("begin")));
    clients.iter_mut().take(5).for_each(|client| drop(client.query("commit")));
    let mut half = Wire::new(&proxy);
    half.send_raw(b"Q\0\0\0\x0dsel");
    let before = proxy.cpu_ticks().unwrap();
    // The time until idle servers are closed passes with nothing to do.
    until("idle servers are closed", || proxy.log().matches("server idle timeout").count() >= 4);
    let ticks = proxy.cpu_ticks().unwrap() - before;
    assert!(ticks <= 40, "{ticks} ticks of CPU time in two seconds of idleness");
}
