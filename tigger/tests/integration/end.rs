//! SHUTDOWN at the admin console, in its three ways.

use tigger_testkit::Proxy;

use crate::support::{Console, options, postgres, proxy, until_logged};
use crate::wire::{Refusal, Wire};

#[track_caller]
fn assert_ends_well(proxy: &Proxy) {
    let status = proxy.wait_exit().unwrap();
    assert_eq!(status.code(), Some(0), "{status}\n{}", proxy.log());
}

#[test]
fn shutdown_at_once() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    let [mut busy, mut idle] = [(); 2].map(|()| Wire::new(&proxy));
    busy.start("select pg_sleep(1)");
    let mut console = Console::new(&proxy);
    console.until_pool("postgres", "sv_active", 1);
    console.wire().start("SHUTDOWN");
    for wire in [&mut busy, &mut idle] {
        assert_eq!(wire.last_words(), Refusal::fatal("server shutting down"));
    }
    assert_ends_well(&proxy);
    assert!(proxy.log().contains("SHUTDOWN command issued"));
}

#[test]
fn shutdown_wait_for_servers() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    let [mut busy, mut idle] = [(); 2].map(|()| Wire::new(&proxy));
    busy.query("begin");
    let mut console = Console::new(&proxy);
    console.wire().start("SHUTDOWN WAIT_FOR_SERVERS");
    until_logged(&proxy, "SHUTDOWN");
    assert_eq!(busy.value("select 1"), "1");
    idle.start("select 2");
    assert_eq!(busy.value("select 3"), "3");
    assert!(proxy.exited().unwrap().is_none());
    busy.query("commit");
    assert_eq!(idle.last_words(), Refusal::fatal("server shutting down"));
    assert_ends_well(&proxy);
}

#[test]
fn shutdown_wait_for_clients() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    let mut client = Wire::new(&proxy);
    let mut console = Console::new(&proxy);
    console.table("SHUTDOWN WAIT_FOR_CLIENTS");
    assert_eq!(client.value("select 1"), "1");
    client.query("begin");
    drop(console);
    assert_eq!(client.query("commit").status, b'I');
    assert!(proxy.exited().unwrap().is_none());
    client.send(b'X', b"");
    client.assert_closed();
    assert_ends_well(&proxy);
}

#[test]
fn a_console_does_not_hold_up_the_end() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    let client = Wire::new(&proxy);
    let mut console = Console::new(&proxy);
    console.table("SHUTDOWN WAIT_FOR_CLIENTS");
    drop(client);
    // The administrator who asked for the end stays connected.
    assert_ends_well(&proxy);
}

#[test]
fn a_client_that_does_not_read_does_not_hold_up_the_end() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    let mut lazy = Wire::new(&proxy);
    lazy.start("select repeat('x', 1000) from generate_series(1, 100000)");
    let mut console = Console::new(&proxy);
    console.until_pool("postgres", "sv_active", 1);
    console.wire().start("SHUTDOWN");
    assert_ends_well(&proxy);
}
