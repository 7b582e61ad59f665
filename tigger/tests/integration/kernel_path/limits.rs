//! What is too much for it: large replies and requests, clients that do not read; and that it costs nothing when idle.

use std::{env, fs};

use tigger_testkit::{Proxy, ProxyOptions, raise_fd_limit};

use super::{Counters, assert_carried, kernel_proxy, warm_up};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Console, DEADLINE, options, own_postgres, postgres, until};
use crate::wire::{POSTGRES, Wire, cstr, message, startup};

/// A proxy with a small limit, its console and a client that is carried.
fn with_limit(postgres: &tigger_testkit::Postgres) -> Option<(Proxy, Console, Wire)> {
    let proxy = kernel_proxy(&options(postgres).setting("kernel_path_reply_limit", "20000"))?;
    let (mut console, mut client) = (Console::new(&proxy), Wire::new(&proxy));
    warm_up(&mut console, &mut client);
    Some((proxy, console, client))
}

#[test]
fn a_reply_beyond_the_limit_ends_on_the_user_path() {
    let Some(postgres) = postgres() else { return };
    let Some((_proxy, mut console, mut client)) = with_limit(postgres) else { return };
    // One message, and many.
    for sql in ["select repeat('x', 3000000)", "select repeat('x', 1000) from generate_series(1, 3000)"] {
        let before = Counters::read(&mut console);
        let reply = client.query(sql);
        let bytes = reply.rows.iter().flatten().flatten().flat_map(|value| value.bytes());
        assert_eq!((reply.status, bytes.filter(|byte| *byte == b'x').count()), (b'I', 3_000_000));
        let counters = Counters::read(&mut console).since(&before);
        assert!(counters.get("left_reply_long") > 0 && counters.get("replies_user") == 1, "{counters:?}");
        console.until_quiet("postgres");
        warm_up(&mut console, &mut client);
    }
}

#[test]
fn a_request_beyond_the_limit_takes_the_user_path() {
    let Some(postgres) = postgres() else { return };
    let Some((_proxy, mut console, mut client)) = with_limit(postgres) else { return };
    let before = Counters::read(&mut console);
    for len in [25_000, 3_000_000] {
        assert_eq!(client.value(&format!("select length('{}')", "x".repeat(len))), len.to_string());
    }
    let counters = Counters::read(&mut console).since(&before);
    assert!(counters.get("left_request_long") > 0 && counters.get("replies_user") == 2, "{counters:?}");
    warm_up(&mut console, &mut client);
}

/// Megabytes of a reply that nobody reads: `BIG_REPLY_MIB=2048` makes it a soak test, which needs the machine for itself.
fn big_reply() -> (usize, bool) {
    let soak = env::var("BIG_REPLY_MIB").ok().and_then(|size| size.parse().ok());
    (soak.unwrap_or(200), soak.is_some())
}

/// Bytes that all TCP sockets of the machine hold (proc(5): in pages).
fn tcp_memory() -> usize {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
    let pages = line.rsplit(' ').next().unwrap().parse::<usize>().unwrap();
    pages * 4096
}

/// A reply to `sql`, rows of a thousand bytes each, that is not read until the server has to wait; then each row is
/// looked at. `kind` is the type of the messages with rows, `skip` what comes before the text in each.
fn check_slow_reader(sql: &str, kind: u8, skip: usize) {
    let Some(postgres) = own_postgres() else { return };
    let Some(proxy) = kernel_proxy(&options(&postgres)) else { return };
    let (mut console, mut client) = (Console::new(&proxy), Wire::new(&proxy));
    warm_up(&mut console, &mut client);
    let (mib, soak) = big_reply();
    let rows = mib * 1048;
    let (memory, rss) = (tcp_memory(), proxy.rss_kib().unwrap());
    client.start(&sql.replace("ROWS", &rows.to_string()));
    let waits = "select count(*) from pg_stat_activity where wait_event = 'ClientWrite'";
    until("the server waits for its reader", || postgres.psql(waits).unwrap() == "1");
    // Other tests have sockets, too.
    let allowed = if soak { (256 << 10) + (32 << 20) } else { mib << 19 };
    let (grown, rss_grown) = (tcp_memory().saturating_sub(memory), proxy.rss_kib().unwrap().saturating_sub(rss));
    assert!(grown < allowed, "{} KiB wait in sockets", grown >> 10);
    assert!(rss_grown < 8 << 10, "{rss_grown} KiB wait in the process");
    for row in 1..=rows {
        let body = loop {
            match client.message().unwrap() {
                (found, body) if found == kind => break body,
                (b'T' | b'H', _) => {}
                other => panic!("row {row}: {other:?}"),
            }
        };
        assert_eq!(std::str::from_utf8(&body[skip..]).unwrap().trim_end_matches('\n'), format!("{row:x>1000}"));
    }
    assert_eq!(client.reply().status, b'I');
    assert!(Counters::read(&mut console).get("left_reply_long") + Counters::read(&mut console).get("left_copy") > 0);
    warm_up(&mut console, &mut client);
}

#[test]
fn a_select_that_is_not_read() {
    check_slow_reader("select lpad(g::text, 1000, 'x') from generate_series(1, ROWS) g", b'D', 6);
}

#[test]
fn a_copy_that_is_not_read() {
    check_slow_reader("copy (select lpad(g::text, 1000, 'x') from generate_series(1, ROWS) g) to stdout", b'd', 0);
}

/// One read gives what was redirected or what came over TCP. A client that waits for edges takes a short read for the end
/// of what is there, and must notice the rest all the same.
#[test]
fn a_reader_that_waits_for_edges() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).setting("kernel_path_reply_limit", "20000");
    let Some(proxy) = kernel_proxy(&options) else { return };
    let mut console = Console::new(&proxy);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        stream.write_all(&startup(3 << 16, POSTGRES)).await.unwrap();
        read_to_ready(&mut stream).await;
        let query = |sql: &str| message(b'Q', &cstr(sql));
        for _ in 0..20 {
            stream.write_all(&query("select 'warm'")).await.unwrap();
            read_to_ready(&mut stream).await;
        }
        for _ in 0..5 {
            // A little more than the limit, which is read when all of it has come.
            let left = Counters::read(&mut console).get("left_reply_long");
            stream.write_all(&query("select repeat('x', 21000)")).await.unwrap();
            until("it is left", || Counters::read(&mut console).get("left_reply_long") > left);
            console.until_quiet("postgres");
            assert!(read_to_ready(&mut stream).await > 21_000);
            stream.write_all(&query("select 'next'")).await.unwrap();
            read_to_ready(&mut stream).await;
        }
    });
}

/// Reads up to ReadyForQuery; gives how many bytes that were.
async fn read_to_ready(stream: &mut tokio::net::TcpStream) -> usize {
    let (mut buffer, mut end, mut all) = (vec![0; 1 << 20], Vec::new(), 0);
    while !end.ends_with(b"Z\0\0\0\x05I") {
        let read = tokio::time::timeout(DEADLINE, stream.read(&mut buffer)).await;
        let n = read.expect("it notices that there is more").unwrap();
        assert!(n > 0, "closed");
        all += n;
        end.extend_from_slice(&buffer[..n]);
        end.drain(..end.len().saturating_sub(6));
    }
    all
}

/// The same of a server that is no PostgreSQL, but another proxy that reads like that.
#[test]
fn a_server_that_waits_for_edges() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0))).unwrap();
    let database = format!("postgres = host=127.0.0.1 port={} user=postgres", listener.local_addr().unwrap().port());
    let options = ProxyOptions::new().database(&database).pool_size(1).setting("kernel_path_reply_limit", "20000");
    let Some(proxy) = kernel_proxy(&options) else { return };
    let (go_on, may_go_on) = tokio::sync::mpsc::channel(1);
    let server = runtime.spawn(serve_by_edges(listener, may_go_on));
    let (mut console, mut client) = (Console::new(&proxy), Wire::new(&proxy));
    let query = |sql: &str| message(b'Q', &cstr(sql));
    for _ in 0..5 {
        client.query("warm");
        client.query("begin");
        client.query("hold");
        let before = Counters::read(&mut console);
        // The first is redirected; the second is too long for that, and goes to the server over TCP.
        client.send_raw(&query("first"));
        client.send_raw(&query(&"x".repeat(30_000)));
        until("it is left", || Counters::read(&mut console).since(&before).get("left_request_long") == 1);
        // Some more looks at the console give it the time to send.
        (0..20).for_each(|_| drop(console.table("SHOW SERVERS")));
        go_on.blocking_send(()).unwrap();
        assert_eq!((client.reply().status, client.reply().status), (b'T', b'T'));
        client.query("commit");
        console.until_quiet("postgres");
    }
    server.abort();
}

/// Serves one connection: after `hold` it reads on when it is told to.
async fn serve_by_edges(listener: tokio::net::TcpListener, mut go_on: tokio::sync::mpsc::Receiver<()>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let (mut buffer, mut unread, mut started, mut status) = (vec![0; 1 << 20], Vec::new(), false, *b"I");
    loop {
        let n = stream.read(&mut buffer).await.unwrap();
        if n == 0 {
            return;
        }
        unread.extend_from_slice(&buffer[..n]);
        let (mut replies, mut hold) = (Vec::new(), false);
        loop {
            let header = if started { 1 } else { 0 };
            let Some(len) = unread.get(header..header + 4) else { break };
            let end = header + u32::from_be_bytes(len.try_into().unwrap()) as usize;
            if unread.len() < end {
                break;
            }
            let request: Vec<u8> = unread.drain(..end).collect();
            if !started {
                started = true;
                replies.extend([message(b'R', &[0; 4]), message(b'K', &[0; 8])].concat());
            } else if request[0] == b'Q' {
                match &request[5..request.len() - 1] {
                    b"begin" => status = *b"T",
                    b"commit" => status = *b"I",
                    text => hold = text == b"hold",
                }
                replies.extend(message(b'C', &cstr("SELECT 1")));
            } else {
                return;
            }
            replies.extend(message(b'Z', &status));
        }
        stream.write_all(&replies).await.unwrap();
        if hold {
            go_on.recv().await.unwrap();
        }
    }
}

#[test]
fn ten_thousand_clients_over_twenty_servers() {
    let Some(postgres) = postgres() else { return };
    // Each takes a descriptor here and one in the proxy.
    let most = raise_fd_limit().unwrap().saturating_sub(1_000).min(10_000);
    let options = options(postgres).pool_size(20).setting("max_client_conn", "12000");
    let options = options.setting("log_connections", "0").setting("log_disconnections", "0");
    let Some(proxy) = kernel_proxy(&options) else { return };
    let mut console = Console::new(&proxy);
    let mut clients: Vec<Wire> = (0..most).map(|_| Wire::new(&proxy)).collect();
    assert_eq!(console.pool("postgres", "cl_active"), most);
    let before = Counters::read(&mut console);
    // All at once: nearly all have to wait, and each gets its own.
    for (number, client) in clients.iter_mut().enumerate() {
        client.start(&format!("select 'client {number}'"));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.reply().value(), format!("client {number}"));
    }
    let burst = Counters::read(&mut console).since(&before);
    assert_eq!(burst.get("replies_kernel") + burst.get("replies_user"), most);
    assert!(burst.get("replies_kernel") > 0, "{burst:?}");
    // One after the other.
    let before = Counters::read(&mut console);
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.value(&format!("select 'again {number}'")), format!("again {number}"));
    }
    assert_carried(&Counters::read(&mut console).since(&before), most);
    assert!(console.table("SHOW SERVERS").rows.len() <= 20);
    console.until_quiet("postgres");
}

#[test]
fn it_does_not_spin_after_work() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).pool_size(10).setting("server_idle_timeout", "2").setting("max_client_conn", "200");
    let Some(proxy) = kernel_proxy(&options) else { return };
    let mut console = Console::new(&proxy);
    let mut clients: Vec<Wire> = (0..100).map(|_| Wire::new(&proxy)).collect();
    for turn in 0..20 {
        clients.iter_mut().for_each(|client| client.start(&format!("select {turn}")));
        clients.iter_mut().for_each(|client| assert_eq!(client.reply().value(), turn.to_string()));
    }
    let servers = console.table("SHOW SERVERS").rows.len();
    assert!(Counters::read(&mut console).get("replies_kernel") > 0);
    let before = proxy.cpu_ticks().unwrap();
    // The time until idle servers are closed passes with nothing to do.
    until("idle servers are closed", || proxy.log().matches("server idle timeout").count() >= servers);
    let ticks = proxy.cpu_ticks().unwrap() - before;
    assert!(ticks <= 20, "{ticks} ticks of CPU time in two seconds of idleness");
}
