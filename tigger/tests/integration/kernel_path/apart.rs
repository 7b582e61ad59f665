//! Other proxies, other namespaces, and what is left in the kernel when the process dies.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
};

use socket2::{Domain, Socket, Type};
use tigger_testkit::{Host, Proxy, ProxyOptions, Signal, run, skipped};

use super::{Counters, kernel_proxy, path_of, warm_up};
use crate::support::{Console, DEADLINE, options, postgres, until};
use crate::wire::{Wire, cstr, message};

/// What the process holds of BPF: kind and number of each program, map and link, from the descriptors' descriptions.
fn held(proxy: &Proxy) -> BTreeSet<(&'static str, String)> {
    let descriptors = fs::read_dir(format!("/proc/{}/fdinfo", proxy.pid())).unwrap().flatten();
    let texts = descriptors.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts
        .flat_map(|text| {
            // A link tells its program, too.
            let number = |name: &str| Some(text.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned());
            KINDS.into_iter().filter_map(|(kind, name)| Some((kind, number(name)?))).collect::<Vec<_>>()
        })
        .collect()
}

const KINDS: [(&str, &str); 3] = [("prog", "prog_id:"), ("map", "map_id:"), ("link", "link_id:")];

/// Whether the kernel still knows it.
fn exists((kind, number): &(&str, String)) -> bool {
    let shown = run(Command::new("bpftool").args([kind, "show", "id", number]), DEADLINE).unwrap();
    shown.status.success()
}

#[test]
fn nothing_stays_behind_when_the_process_is_killed() {
    let Some(postgres) = postgres() else { return };
    let Some(proxy) = kernel_proxy(&options(postgres)) else { return };
    if !run(Command::new("bpftool").arg("version"), DEADLINE).is_ok_and(|run| run.status.success()) {
        return skipped("nothing_stays_behind_when_the_process_is_killed", "bpftool is not installed");
    }
    let (mut console, mut client) = (Console::new(&proxy), Wire::new(&proxy));
    warm_up(&mut console, &mut client);
    let mut busy = Wire::new(&proxy);
    busy.query("begin");
    busy.start("select pg_sleep(1234)");
    let held = held(&proxy);
    for (kind, at_least) in [("prog", 3), ("map", 10), ("link", 1)] {
        let count = held.iter().filter(|(held, _)| *held == kind).count();
        assert!(count >= at_least, "{count} of kind {kind}: {held:?}");
    }
    assert!(held.iter().all(exists), "{held:?}");
    proxy.signal(Signal::SIGKILL).unwrap();
    proxy.wait_exit().unwrap();
    client.assert_closed();
    busy.assert_closed();
    // The kernel frees them a little later. No new connection is captured from now on ...
    until("the link is gone", || !held.iter().filter(|(kind, _)| *kind == "link").any(exists));
    // ... but a captured socket keeps the program, and that its maps, until its process closes it. A backend that is busy
    // does so when it is done, as with any client that is gone.
    drop((client, busy, console));
    let ours = "from pg_stat_activity where query = 'select pg_sleep(1234)'";
    postgres.psql(&format!("select pg_terminate_backend(pid) {ours}")).unwrap();
    until("all of it is gone", || !held.iter().any(exists));
}

/// Many clients over each of these proxies; each gets what it asked for.
fn mingle(proxies: &[&Proxy]) {
    let mut clients: Vec<Wire> = (0..24).map(|nth| Wire::new(proxies[nth % proxies.len()])).collect();
    for turn in 0..50 {
        for (nth, client) in clients.iter_mut().enumerate() {
            client.start(&format!("select 'client {nth} turn {turn}', repeat('x', {})", nth * 100));
        }
        for (nth, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.reply().value(), format!("client {nth} turn {turn}"));
        }
    }
}

#[test]
fn two_proxies_before_one_server() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).pool_size(3);
    let Some(first) = kernel_proxy(&options) else { return };
    let Some(second) = kernel_proxy(&options) else { return };
    mingle(&[&first, &second]);
    for proxy in [&first, &second] {
        let (mut console, mut client) = (Console::new(proxy), Wire::new(proxy));
        warm_up(&mut console, &mut client);
        let counters = Counters::read(&mut console);
        // Twelve clients, the one above and the console's are this one's, and no other.
        assert_eq!(counters.get("capture_failed"), 0, "{counters:?}");
        assert!(counters.get("replies_kernel") > 0, "{counters:?}");
        console.until_quiet("postgres");
    }
    // When one goes, the other is not disturbed.
    let (mut console, mut client) = (Console::new(&second), Wire::new(&second));
    first.signal(Signal::SIGKILL).unwrap();
    first.wait_exit().unwrap();
    warm_up(&mut console, &mut client);
}

#[test]
fn a_chain_of_proxies() {
    let Some(postgres) = postgres() else { return };
    let Some(last) = kernel_proxy(&options(postgres).pool_size(3)) else { return };
    let line = format!("* = host=127.0.0.1 port={}", last.port());
    let Some(first) = kernel_proxy(&ProxyOptions::new().database(&line).pool_size(5)) else { return };
    mingle(&[&first]);
    mingle(&[&first, &last]);
    let mut consoles = [Console::new(&first), Console::new(&last)];
    for console in &mut consoles {
        let counters = Counters::read(console);
        assert!(counters.get("replies_kernel") + counters.get("replies_user") > 0, "{counters:?}");
        assert_eq!(counters.get("capture_failed"), 0, "each takes other ends: {counters:?}");
        console.until_quiet("postgres");
    }
    // A large result, and one that is not read to the end.
    let mut client = Wire::new(&first);
    let text = client.value("select repeat('y', 3000000)");
    assert!(text.len() == 3_000_000 && text.bytes().all(|byte| byte == b'y'));
    let mut gone = Wire::new(&first);
    gone.start("select repeat('z', 1000) from generate_series(1, 100000)");
    drop(gone);
    assert_eq!(client.value("select 'still right'"), "still right");
}

/// A connection between two given ports of 127.0.0.1, and both its ends.
fn forge(listener: &TcpListener, from: SocketAddr) -> (TcpStream, TcpStream) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&listener.local_addr().unwrap().into()).unwrap();
    // As the clients that the kernel path takes.
    socket.set_nonblocking(true).unwrap();
    let (accepted, peer) = listener.accept().unwrap();
    assert_eq!(peer, from);
    accepted.set_read_timeout(Some(DEADLINE)).unwrap();
    (socket.into(), accepted)
}

/// Anybody can make a network namespace with a 127.0.0.1 of its own, and in it a connection between the same two ports as
/// one that the kernel path has captured.
#[test]
fn a_forged_connection_is_nobody() {
    let Some(postgres) = postgres() else { return };
    let [forger] = match Host::simulate(["forger"]) {
        Ok(hosts) => hosts,
        Err(reason) => return skipped("a_forged_connection_is_nobody", &reason.to_string()),
    };
    let Some(proxy) = kernel_proxy(&options(postgres)) else { return };
    let mut console = Console::new(&proxy);
    let near = SocketAddr::from(([127, 0, 0, 1], proxy.port()));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let far = socket.local_addr().unwrap().as_socket().unwrap();
    let listener = forger.inside(|| TcpListener::bind(near).unwrap()).unwrap();
    // One was there before the real one, and one comes after it.
    let before = Counters::read(&mut console).get("captured");
    let early = forger.inside(|| forge(&listener, far)).unwrap();
    assert_eq!(Counters::read(&mut console).get("captured"), before);

    socket.set_nonblocking(true).unwrap();
    drop(socket.connect(&near.into()));
    let mut client = Wire::polled(socket.into(), proxy.port()).logs_in();
    warm_up(&mut console, &mut client);
    let captured = Counters::read(&mut console).get("captured");
    assert!(captured > before);
    forged_in_vain(early, &mut client);
    assert_eq!(path_of(&mut console, "postgres"), "kernel");

    let late = forger.inside(|| forge(&listener, far)).unwrap();
    assert_eq!(Counters::read(&mut console).get("captured"), captured);
    forged_in_vain(late, &mut client);
    warm_up(&mut console, &mut client);
    assert_eq!(Counters::read(&mut console).get("captured"), captured);
}

/// What the forger says reaches its own other end only, before, amid and after the client's own query; and what the client
/// gets is its own.
fn forged_in_vain((mut forged, mut accepted): (TcpStream, TcpStream), client: &mut Wire) {
    let evil = message(b'Q', &cstr("select 'evil'"));
    let mut heard = vec![0; evil.len()];
    for number in 0..20 {
        forged.write_all(&evil).unwrap();
        client.start(&format!("select 'own {number}', pg_sleep(0.001)"));
        forged.write_all(&evil).unwrap();
        assert_eq!(client.reply().value(), format!("own {number}"));
        for _ in 0..2 {
            accepted.read_exact(&mut heard).unwrap();
            assert_eq!(heard, evil);
        }
    }
    let nothing = forged.read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock, "the forger got a byte");
    // The ports are free again for another one.
    Socket::from(forged).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}
