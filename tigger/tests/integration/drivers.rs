//! A driver, tokio-postgres: extended protocol, pipelining, portals, COPY, cancel; and what a driver does not send, on a
//! bare socket.

use std::{
    future::poll_fn,
    io::Cursor,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    thread,
};

use futures_util::{SinkExt, StreamExt, pin_mut};
use tigger_testkit::Proxy;
use tokio_postgres::{Client, Config, NoTls, error::SqlState, types::Type};

use crate::support::{Console, DEADLINE, assert_kernel_path_used, join, options, postgres, proxy, until};
use crate::wire::{Wire, cstr, message};

/// Runs a test that uses the driver. One that hangs fails, instead of holding up all others.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.unwrap() });
}

/// Polls all at once, so that all requests are sent before the first reply is read.
async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    poll_fn(|cx| {
        for (future, output) in all.iter_mut().filter(|(_, output)| output.is_none()) {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                *output = Some(value);
            }
        }
        if all.iter().all(|(_, output)| output.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    all.into_iter().filter_map(|(_, output)| output).collect()
}

/// COPY data of the type that a sink of tokio-postgres takes.
fn data(text: &str) -> Cursor<String> {
    Cursor::new(text.to_owned())
}

async fn connect(proxy: &Proxy) -> Client {
    let (client, connection) =
        Config::new().host("127.0.0.1").port(proxy.port()).user("postgres").connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// One query of the extended protocol with an unnamed statement.
async fn add_one(client: &Client, number: i32) -> i32 {
    client.query_typed("select $1::int4 + 1", &[(&number, Type::INT4)]).await.unwrap()[0].get(0)
}

#[test]
fn extended_queries() {
    run(async {
        let Some(postgres) = postgres() else { return };
        let proxy = proxy(&options(postgres).pool_size(1));
        let client = connect(&proxy).await;
        assert_eq!(add_one(&client, 41).await, 42);
        // A named statement: one client on one server.
        let statement = client.prepare("select $1::text || '!', g from generate_series(1, $2::int4) g").await.unwrap();
        for rows in [0, 1, 5000] {
            let result = client.query(&statement, &[&"ü", &rows]).await.unwrap();
            assert_eq!(result.len(), usize::try_from(rows).unwrap());
            assert!(result.iter().all(|row| row.get::<_, &str>(0) == "ü!"));
        }
        let error = client.query("select 1/$1::int4", &[&0]).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO));
        for number in 0..50 {
            assert_eq!(add_one(&client, number).await, number + 1);
        }
        assert_kernel_path_used(&mut Console::new(&proxy));
    });
}

#[test]
fn pipelined_queries_get_their_own_replies() {
    run(async {
        let Some(postgres) = postgres() else { return };
        let proxy = proxy(&options(postgres).pool_size(3));
        let clients = join_all((0..8).map(|_| connect(&proxy))).await;
        // Each client has 500 queries in flight, and all clients at once.
        let all = clients.iter().enumerate().map(|(nth, client)| async move {
            let first = i32::try_from(nth).unwrap() * 10_000;
            let replies = join_all((first..first + 500).map(|number| add_one(client, number))).await;
            assert_eq!(replies, (first + 1..first + 501).collect::<Vec<_>>());
        });
        join_all(all).await;
        Console::new(&proxy).until_quiet("postgres");
    });
}

#[test]
fn an_error_among_pipelined_queries_hits_only_its_own() {
    run(async {
        let Some(postgres) = postgres() else { return };
        let proxy = proxy(&options(postgres).pool_size(2));
        let client = connect(&proxy).await;
        let queries: Vec<_> = (0..100).map(|i| (i, format!("select 1 / {}", i % 7))).collect();
        let replies = join_all(queries.iter().map(|(_, query)| client.query_typed(query, &[]))).await;
        for ((i, _), reply) in queries.iter().zip(replies) {
            assert_eq!(reply.is_err(), i % 7 == 0, "query {i}: {reply:?}");
        }
    });
}

#[test]
fn portals() {
    run(async {
        let Some(postgres) = postgres() else { return };
        let proxy = proxy(&options(postgres).pool_size(1));
        let mut client = connect(&proxy).await;
        let transaction = client.transaction().await.unwrap();
        let portal = transaction.bind("select * from generate_series(1, 10)", &[]).await.unwrap();
        let mut seen: Vec<i32> = Vec::new();
        loop {
            let rows = transaction.query_portal(&portal, 3).await.unwrap();
            if rows.is_empty() {
                break;
            }
            seen.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
        }
        assert_eq!(seen, (1..=10).collect::<Vec<_>>());
        transaction.commit().await.unwrap();
    });
}

#[test]
fn copy_in_and_out() {
    run(async {
        let Some(postgres) = postgres() else { return };
        postgres.psql("drop table if exists driver_copy; create table driver_copy(a int)").unwrap();
        let proxy = proxy(&options(postgres).pool_size(1));
        let client = connect(&proxy).await;
        let sink = client.copy_in("copy driver_copy from stdin").await.unwrap();
        pin_mut!(sink);
        for chunk in 0..100 {
            let lines: String = (chunk * 1000..(chunk + 1) * 1000).map(|i| format!("{i}\n")).collect();
            sink.send(data(&lines)).await.unwrap();
        }
        assert_eq!(sink.finish().await.unwrap(), 100_000);
        let stream = client.copy_out("copy (select a from driver_copy order by a) to stdout").await.unwrap();
        pin_mut!(stream);
        let mut out: Vec<u8> = Vec::new();
        while let Some(chunk) = stream.next().await {
            out.extend_from_slice(&chunk.unwrap());
        }
        assert!(out == (0..100_000).map(|i| format!("{i}\n")).collect::<String>().as_bytes(), "{} bytes", out.len());
    });
}

#[test]
fn a_copy_that_fails_leaves_connection_and_server_usable() {
    run(async {
        let Some(postgres) = postgres() else { return };
        postgres.psql("drop table if exists driver_fail; create table driver_fail(a int)").unwrap();
        let proxy = proxy(&options(postgres).pool_size(1));
        let client = connect(&proxy).await;
        for round in 0..3 {
            let sink = client.copy_in("copy driver_fail from stdin").await.unwrap();
            pin_mut!(sink);
            sink.send(data("1\nnot a number\n")).await.unwrap();
            // The server stops listening after the error: all this comes when it has given up on the COPY.
            for _ in 0..20 {
                if sink.send(data(&"2\n".repeat(50_000))).await.is_err() {
                    break;
                }
            }
            let error = sink.finish().await.unwrap_err();
            assert_eq!(error.code(), Some(&SqlState::INVALID_TEXT_REPRESENTATION), "round {round}: {error:?}");
            assert_eq!(add_one(&client, round).await, round + 1);
        }
        // Given up by the client: tokio-postgres sends CopyFail.
        let sink = client.copy_in("copy driver_fail from stdin").await.unwrap();
        {
            pin_mut!(sink);
            sink.send(data("3\n")).await.unwrap();
        }
        let row = &client.query_typed("select count(*) from driver_fail", &[]).await.unwrap()[0];
        assert_eq!(row.get::<_, i64>(0), 0);
        Console::new(&proxy).until_quiet("postgres");
    });
}

#[test]
fn a_cancel_request_hits_the_query_of_its_client_only() {
    run(async {
        let Some(postgres) = postgres() else { return };
        let proxy = proxy(&options(postgres).pool_size(2));
        let (first, second) = (connect(&proxy).await, connect(&proxy).await);
        let tokens = [first.cancel_token(), second.cancel_token()];
        let sleep = |client: Client| async move {
            let error = client.query_typed("select pg_sleep(600)", &[]).await.unwrap_err();
            (client, error)
        };
        let running = [first, second].map(|client| tokio::spawn(sleep(client)));
        let mut console = Console::new(&proxy);
        console.until_pool("postgres", "sv_active", 2);
        for (nth, (token, query)) in tokens.iter().zip(running).enumerate() {
            token.cancel_query(NoTls).await.unwrap();
            let (client, error) = query.await.unwrap();
            assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{error:?}");
            console.until_pool("postgres", "sv_active", 1 - u64::try_from(nth).unwrap());
            // Nothing runs: nothing is canceled, neither now nor in the client's next query. The driver does not wait for
            // the proxy, which could take the request for one that is meant for the next query.
            token.cancel_query(NoTls).await.unwrap();
            until("the request has come", || proxy.log().matches("cancel request for idle client").count() > nth);
            assert_eq!(add_one(&client, 1).await, 2);
        }
    });
}

#[test]
fn cancel_requests_never_hit_the_next_client_of_the_server() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let (mut victim, mut bystander) = (Wire::new(&proxy), Wire::new(&proxy));
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, canceler) = (Arc::clone(&stop), victim.canceler());
    let canceling = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            canceler.cancel();
        }
    });
    let mut canceled = 0;
    for _ in 0..300 {
        // The victim's query may be canceled; whoever has the server next must not be.
        match victim.query("select pg_sleep(0.002)").refusal {
            None => {}
            Some(refusal) if refusal.sqlstate == "57014" => canceled += 1,
            Some(other) => panic!("{other:?}"),
        }
        bystander.value("select pg_sleep(0.0005)");
    }
    stop.store(true, Ordering::Relaxed);
    join(canceling);
    assert!(canceled > 10, "{canceled} of 300 queries were canceled");
}

#[test]
fn a_transaction_dropped_half_way_is_rolled_back_and_its_server_free() {
    run(async {
        let Some(postgres) = postgres() else { return };
        postgres.psql("drop table if exists driver_drop; create table driver_drop(a int)").unwrap();
        let proxy = proxy(&options(postgres).pool_size(1));
        let (mut client, other) = (connect(&proxy).await, connect(&proxy).await);
        let transaction = client.transaction().await.unwrap();
        transaction.batch_execute("insert into driver_drop values (1)").await.unwrap();
        drop(transaction);
        assert_eq!(add_one(&other, 1).await, 2);
        assert_eq!(client.query_typed("select * from driver_drop", &[]).await.unwrap().len(), 0);
    });
}

/// Parse, Bind, Execute of an unnamed statement.
fn extended(sql: &str) -> Vec<u8> {
    let parse = [cstr(""), cstr(sql), vec![0, 0]].concat();
    let bind = [cstr(""), cstr(""), vec![0; 6]].concat();
    let execute = [cstr(""), vec![0; 4]].concat();
    [message(b'P', &parse), message(b'B', &bind), message(b'E', &execute)].concat()
}

const SYNC: &[u8] = b"S\0\0\0\x04";
const FLUSH: &[u8] = b"H\0\0\0\x04";

#[test]
fn an_error_before_a_sync_skips_to_it() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let mut wire = Wire::new(&proxy);
    let pid = wire.value("select pg_backend_pid()");
    // One message group with an error in it, and one behind it that was sent at the same time.
    let groups =
        [extended("select 1"), extended("select 1/0"), extended("select 3"), SYNC.to_vec(), extended("select 4")];
    wire.send_raw(&[groups.concat().as_slice(), SYNC].concat());
    // Division by zero is found when the query is planned, at Bind.
    assert_eq!(wire.reply().kinds, "12DC1EZ");
    let reply = wire.reply();
    assert_eq!((reply.kinds.as_str(), reply.value().as_str()), ("12DCZ", "4"));
    assert_eq!(wire.value("select pg_backend_pid()"), pid);
}

#[test]
fn what_means_nothing_without_a_server_is_dropped_and_the_rest_served() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let mut wire = Wire::new(&proxy);
    // The end of a COPY that failed: the server has given up on it, or is another one by now.
    let stale = [message(b'd', b"1\n"), message(b'c', b""), message(b'f', &cstr("no more")), FLUSH.to_vec()].concat();
    for request in [message(b'Q', &cstr("select 1")), [extended("select 1").as_slice(), SYNC].concat()] {
        wire.send_raw(&[stale.as_slice(), &request].concat());
        assert_eq!(wire.reply().value(), "1");
    }
    wire.send_raw(&[stale.as_slice(), SYNC].concat());
    assert_eq!(wire.reply().kinds, "Z");
}

#[test]
fn flush_keeps_the_server_until_the_sync() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let (mut wire, mut other) = (Wire::new(&proxy), Wire::new(&proxy));
    wire.send_raw(&[extended("select 1").as_slice(), FLUSH].concat());
    let kinds: String = (0..4).map(|_| char::from(wire.message().unwrap().0)).collect();
    assert_eq!(kinds, "12DC");
    other.start("select 2");
    Console::new(&proxy).until_pool("postgres", "cl_waiting", 1);
    wire.send_raw(SYNC);
    assert_eq!(wire.reply().kinds, "Z");
    assert_eq!(other.reply().value(), "2");
}

#[test]
fn requests_in_pieces_of_one_byte() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let mut wire = Wire::new(&proxy);
    let stream = [message(b'Q', &cstr("select 1")), extended("select 2"), SYNC.to_vec()].concat();
    for byte in stream {
        wire.send_raw(&[byte]);
    }
    assert_eq!((wire.reply().value(), wire.reply().value()), ("1".into(), "2".into()));
}

#[test]
fn simple_queries_sent_ahead_are_answered_in_order() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(2));
    let mut clients: Vec<Wire> = (0..4).map(|_| Wire::new(&proxy)).collect();
    for (nth, client) in clients.iter_mut().enumerate() {
        let stream: Vec<u8> = (0..300).flat_map(|i| message(b'Q', &cstr(&format!("select '{nth}/{i}'")))).collect();
        client.send_raw(&stream);
    }
    for (nth, client) in clients.iter_mut().enumerate() {
        for i in 0..300 {
            assert_eq!(client.reply().value(), format!("{nth}/{i}"));
        }
    }
}
