//! Which path serves whom.

use std::{
    fs,
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tigger_testkit::{Postgres, ProxyOptions, free_port, run, skipped};

use super::{Counters, ask, assert_carried, figure, kernel_proxy, path_of, times, warm_up};
use crate::support::{Console, DEADLINE, assert_failed, options, postgres, proxy, proxy_by, until_logged};
use crate::wire::{Wire, cstr, message};

#[test]
fn a_client_that_asks_and_waits_is_carried() {
    let Some(postgres) = postgres() else { return };
    let Some(proxy) = kernel_proxy(&options(postgres)) else { return };
    let (mut console, mut client) = (Console::new(&proxy), Wire::new(&proxy));
    warm_up(&mut console, &mut client);
    let before = Counters::read(&mut console);
    ask(&mut client, 200);
    let carried = Counters::read(&mut console).since(&before);
    assert_carried(&carried, 200);
    assert_eq!(carried.get("requests_kernel") + carried.get("requests_user"), 200);
    assert_eq!(path_of(&mut console, "postgres"), "kernel");
    // A transaction, too.
    for sql in ["begin", "select 1", "commit"] {
        client.query(sql);
    }
    assert!(Counters::read(&mut console).since(&before).get("replies_kernel") > carried.get("replies_kernel"));
    assert_eq!(figure(&mut console, "linked_now"), "0");
    console.until_quiet("postgres");
}

/// Both paths count how long servers worked.
#[test]
fn latencies() {
    let Some(postgres) = postgres() else { return };
    let Some(proxy) = kernel_proxy(&options(postgres)) else { return };
    let (mut console, mut client) = (Console::new(&proxy), Wire::new(&proxy));
    warm_up(&mut console, &mut client);
    let latencies = |console: &mut Console| {
        let table = console.table("SHOW LATENCIES");
        let row = table.find("database", "postgres").unwrap();
        ["queries", "p50_us", "max_us"].map(|name| row[name].parse::<u64>().unwrap())
    };
    let before = latencies(&mut console)[0];
    let carried = Counters::read(&mut console);
    client.query("select pg_sleep(0.05)");
    for _ in 0..50 {
        client.query("select 1");
    }
    assert_carried(&Counters::read(&mut console).since(&carried), 51);
    // On the user path.
    client.query("copy (select pg_sleep(0.1)) to stdout");
    let [queries, half, most] = latencies(&mut console);
    assert_eq!(queries, before + 52);
    assert!(half < 50_000 && (100_000..10_000_000).contains(&most), "{half} {most}");
}

/// Where a pair is taken back for a request, what it did before that request is no part of the query.
#[test]
fn idleness_is_no_part_of_a_query() {
    let Some(postgres) = postgres() else { return };
    let Some(proxy) = kernel_proxy(&options(postgres).pool_mode("session")) else { return };
    let (mut console, mut client) = (Console::new(&proxy), Wire::new(&proxy));
    warm_up(&mut console, &mut client);
    let (before, start) = (Counters::read(&mut console), times(&mut console));
    postgres.psql("select pg_sleep(0.5)").unwrap();
    let query = message(b'Q', &cstr("select 1"));
    client.send_raw(&query[..1]);
    client.send_raw(&query[1..]);
    assert_eq!(client.reply().value(), "1");
    let left = Counters::read(&mut console).since(&before);
    assert_eq!((left.get("left_split"), left.get("replies_user")), (1, 1), "{left:?}");
    let end = times(&mut console);
    assert!(end[0] - start[0] < 500_000 && end[1] - start[1] < 500_000, "{start:?} {end:?}");
}

#[test]
fn where_it_is_off() {
    let Some(postgres) = postgres() else { return };
    let line = |more: &str| format!("postgres = host={} port={}{more}", postgres.host(), postgres.port());
    let base = || ProxyOptions::new().setting("kernel_path", "auto");
    // The user's setting wins over the database's, and that over the global one.
    let cases = [
        (base().database(&line("")).setting("kernel_path", "off"), "user (off)"),
        (base().database(&line(" kernel_path=off")), "user (disabled)"),
        (base().database(&line("")).user_line("postgres = kernel_path=off"), "user (disabled)"),
        (base().database(&line("")).pool_mode("statement"), "user (disabled)"),
        (base().database(&line(" kernel_path=off")).user_line("postgres = kernel_path=auto"), "kernel"),
    ];
    for (options, path) in cases {
        let Some(proxy) = off_proxy(&options, path) else { return };
        let (mut console, mut client) = (Console::new(&proxy), Wire::new(&proxy));
        if path == "kernel" {
            warm_up(&mut console, &mut client);
        }
        let before = Counters::read(&mut console);
        ask(&mut client, 20);
        let carried = Counters::read(&mut console).since(&before);
        assert_eq!(carried.get("replies_kernel") > 0, path == "kernel", "{options:?}: {carried:?}");
        assert_eq!(path_of(&mut console, "postgres"), path, "{options:?}");
    }
}

/// A proxy that may have been told to have no kernel path.
fn off_proxy(options: &ProxyOptions, path: &str) -> Option<tigger_testkit::Proxy> {
    if path == "user (off)" { Some(proxy(options)) } else { kernel_proxy(options) }
}

/// The program, without the rights that the kernel path needs; `None`, and counted, where they cannot be given up.
fn powerless() -> Option<Script> {
    let setpriv = "setpriv --bounding-set=-all --inh-caps=-all";
    let can = run(Command::new("sh").args(["-c", &format!("{setpriv} true")]), DEADLINE);
    if !can.is_ok_and(|run| run.status.success()) {
        skipped("without the rights", "setpriv cannot give up rights here");
        return None;
    }
    Some(Script::new(&format!("exec {setpriv} {} \"$@\"", env!("CARGO_BIN_EXE_tigger"))))
}

/// A shell script in /tmp that goes with the value.
struct Script(PathBuf);

impl Script {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tigger-it-script-{}-{}", std::process::id(), free_port()));
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

#[test]
fn without_the_rights() {
    let Some(postgres) = postgres() else { return };
    let Some(program) = powerless() else { return };
    // It may not write into the directory of another account.
    let options = options(postgres).setting("unix_socket_dir", "");
    let auto = proxy_by(program.path(), &options.clone().setting("kernel_path", "auto"));
    until_logged(&auto, "kernel path: off (");
    assert!(auto.log().contains("CAP_BPF"), "{}", auto.log());
    let (mut console, mut client) = (Console::new(&auto), Wire::new(&auto));
    assert_eq!(client.value("select 1"), "1");
    assert_eq!(path_of(&mut console, "postgres"), "user (off)");
    assert!(figure(&mut console, "reason").contains("CAP_BPF"));
    // The same configuration, required.
    let ini = fs::read_to_string(auto.socket_dir().join("proxy.ini")).unwrap();
    let required = ini.replace("kernel_path = auto", "kernel_path = require");
    assert_ne!(required, ini);
    fs::write(auto.socket_dir().join("required.ini"), required).unwrap();
    let mut command = Command::new(program.path());
    let refused = run(command.current_dir(auto.socket_dir()).arg("required.ini"), DEADLINE).unwrap();
    assert_failed(&refused, "kernel_path = require, but ");
    assert_failed(&refused, "CAP_BPF");
}

#[test]
fn a_client_over_a_unix_socket() {
    let Some(postgres) = postgres() else { return };
    let mut wire = |proxy: &tigger_testkit::Proxy| Wire::connect_unix(proxy.socket_dir(), proxy.port());
    assert_on_user_path(postgres, &mut wire, "user (unix_socket)");
}

/// The kernel's receive for captured sockets returns early from a wait that a signal interrupts.
#[test]
fn a_client_whose_socket_blocks() {
    let Some(postgres) = postgres() else { return };
    let mut wire = |proxy: &tigger_testkit::Proxy| {
        let socket = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Wire::over(socket, proxy.port())
    };
    assert_replies_carried(postgres, &mut wire);
}

#[test]
fn a_client_whose_socket_blocks_later() {
    let Some(postgres) = postgres() else { return };
    let mut wire = |proxy: &tigger_testkit::Proxy| {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], proxy.port()));
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM.nonblocking(), None).unwrap();
        // EINPROGRESS: over loopback it is connected by the time it can be asked.
        drop(socket.connect(&address.into()));
        assert!(socket.take_error().unwrap().is_none());
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Wire::over(TcpStream::from(socket), proxy.port())
    };
    assert_replies_carried(postgres, &mut wire);
}

/// The replies to a client that connects so are carried, and its requests are not.
fn assert_replies_carried(postgres: &Postgres, connect: &mut dyn FnMut(&tigger_testkit::Proxy) -> Wire) {
    let Some(proxy) = kernel_proxy(&options(postgres)) else { return };
    let mut console = Console::new(&proxy);
    let mut client = connect(&proxy).logs_in();
    warm_up(&mut console, &mut client);
    let before = Counters::read(&mut console);
    ask(&mut client, 50);
    let counters = Counters::read(&mut console).since(&before);
    assert_carried(&counters, 50);
    assert_eq!(counters.get("requests_kernel"), 0, "{counters:?}");
    assert_eq!(path_of(&mut console, "postgres"), "kernel (replies)");
}

/// Nothing of a client that connects so is carried, and all of it works.
fn assert_on_user_path(postgres: &Postgres, connect: &mut dyn FnMut(&tigger_testkit::Proxy) -> Wire, path: &str) {
    let Some(proxy) = kernel_proxy(&options(postgres)) else { return };
    let mut console = Console::new(&proxy);
    let mut client = connect(&proxy).logs_in();
    ask(&mut client, 50);
    let counters = Counters::read(&mut console);
    assert_eq!((counters.get("replies_kernel"), counters.get("replies_user")), (0, 50), "{counters:?}");
    assert_eq!(path_of(&mut console, "postgres"), path);
}

#[test]
fn a_server_over_a_unix_socket() {
    let Some(postgres) = postgres() else { return };
    let options = ProxyOptions::new().server_over_socket("postgres", postgres);
    let Some(proxy) = kernel_proxy(&options) else { return };
    let (mut console, mut client) = (Console::new(&proxy), Wire::new(&proxy));
    ask(&mut client, 50);
    let counters = Counters::read(&mut console);
    assert_eq!((counters.get("replies_kernel"), counters.get("replies_user")), (0, 50), "{counters:?}");
    assert!(counters.get("left_no_server") > 0, "{counters:?}");
}
