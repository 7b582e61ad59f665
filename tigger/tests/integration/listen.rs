//! LISTEN and NOTIFY where clients have no servers of their own: one more server listens for all of them.

use tigger_testkit::{Postgres, Proxy, ProxyOptions};

use crate::kernel_path::{Counters, kernel_proxy, warm_up};
use crate::prepared::{bind, close, describe, execute, parse, sync};
use crate::support::{Console, options, own_postgres, postgres, proxy, until, until_logged};
use crate::wire::{Refusal, Wire, cstr, message};

/// One server for all clients.
fn shared(postgres: &Postgres) -> ProxyOptions {
    options(postgres).pool_size(1)
}

impl Wire {
    /// LISTEN and the like, which must succeed outside of a transaction.
    #[track_caller]
    fn listen(&mut self, sql: &str) {
        let reply = self.query(sql);
        assert_eq!((&*reply.kinds, reply.status), ("CZ", b'I'), "{sql}: {reply:?}");
        assert_eq!(reply.tags, [sql.split_whitespace().next().unwrap().to_uppercase()]);
    }

    /// The next message, which must be a notification: its channel and payload.
    #[track_caller]
    fn notification(&mut self) -> (String, String) {
        let (kind, body) = self.message().expect("the connection goes on");
        assert_eq!(kind, b'A', "{body:?}");
        let text = String::from_utf8(body[4..].to_vec()).unwrap();
        let mut parts = text.split('\0');
        (parts.next().unwrap().to_owned(), parts.next().unwrap().to_owned())
    }

    #[track_caller]
    fn assert_notified(&mut self, channel: &str, payload: &str) {
        assert_eq!(self.notification(), (channel.to_owned(), payload.to_owned()));
    }
}

fn heard(proxy: &Proxy) {
    heard_in(proxy, true);
}

fn heard_in(proxy: &Proxy, transactions: bool) {
    let [mut first, mut second, mut third] = [(); 3].map(|()| Wire::new(proxy));
    first.listen("LISTEN jobs");
    second.listen("listen \"Other Jobs\";");
    second.listen("LISTEN Jobs");
    second.listen("LISTEN jobs");
    third.query("notify jobs, '1'");
    third.query("select pg_notify('Other Jobs', '2')");
    first.assert_notified("jobs", "1");
    second.assert_notified("jobs", "1");
    second.assert_notified("Other Jobs", "2");
    // Those that listen go on with their own queries; what comes meanwhile waits for the end of their transaction.
    for sql in if transactions { ["begin", "notify jobs, '3'", "commit"].as_slice() } else { &["notify jobs, '3'"] } {
        first.query(sql);
    }
    first.assert_notified("jobs", "3");
    second.assert_notified("jobs", "3");
    first.listen("UNLISTEN jobs");
    second.listen("UNLISTEN *");
    third.query("notify jobs, '4'");
    assert_eq!(first.query("select 1").kinds, "TDCZ");
    // The last one who listened is gone, and so is the server that did.
    let mut console = Console::new(proxy);
    until("nobody listens", || console.table("SHOW SERVERS").iter().count() == 1);
    first.listen("LISTEN jobs");
    third.query("notify jobs, '5'");
    first.assert_notified("jobs", "5");
    assert_eq!(second.query("select 1").kinds, "TDCZ");
    // No server that clients share listens to anything.
    assert_eq!(third.value("select count(*) from pg_listening_channels()"), "0");
}

#[test]
fn notifications_reach_those_who_listen() {
    let Some(postgres) = postgres() else { return };
    heard(&proxy(&shared(postgres)));
    heard_in(
        &proxy(&shared(postgres).setting("pool_mode", "statement").setting("max_prepared_statements", "0")),
        false,
    );
}

#[test]
fn those_who_listen_are_served_by_the_user_path() {
    let Some(postgres) = postgres() else { return };
    let Some(proxy) = kernel_proxy(&shared(postgres)) else { return };
    let mut console = Console::new(&proxy);
    let (mut listener, mut other) = (Wire::new(&proxy), Wire::new(&proxy));
    warm_up(&mut console, &mut listener);
    let before = Counters::read(&mut console);
    listener.listen("LISTEN jobs");
    let after = Counters::read(&mut console);
    assert_eq!(after.get("left_command") - before.get("left_command"), 1);
    let path = |console: &mut Console| {
        let clients = console.table("SHOW CLIENTS");
        clients.iter().map(|row| row["path"].to_owned()).filter(|path| path == "user (listens)").count()
    };
    assert_eq!(path(&mut console), 1);
    warm_up(&mut console, &mut other);
    let before = Counters::read(&mut console);
    other.query("notify jobs, 'carried'");
    assert_eq!(Counters::read(&mut console).get("requests_kernel") - before.get("requests_kernel"), 1);
    listener.assert_notified("jobs", "carried");
    assert_eq!(listener.value("select 'still'"), "still");
    // Who does not listen any more is carried again.
    listener.listen("\n unlisten *");
    assert_eq!(path(&mut console), 0);
    listener.listen("LISTEN jobs");
    listener.query("discard all");
    until("nobody listens", || path(&mut console) == 0);
    warm_up(&mut console, &mut listener);
    heard(&proxy);
}

/// LISTEN in a form that is not known goes to a server that has other clients next: nobody gets what it is told.
fn strays(postgres: &Postgres, proxy: &Proxy) {
    let [mut stray, mut sender, mut other] = [(); 3].map(|()| Wire::new(proxy));
    let mut console = Console::new(proxy);
    // Both while it is somebody's and while it is idle.
    for busy in [true, false] {
        let before = other.value("select pg_backend_pid()");
        stray.query("/* not known */ LISTEN strays");
        stray.query("select 1; LISTEN strays");
        assert_eq!(stray.value("select pg_backend_pid()"), before);
        if busy {
            sender.query("begin");
            sender.query("notify strays, 'nobody'");
            sender.query("commit");
        } else {
            postgres.psql("notify strays, 'nobody'").unwrap();
        }
        until("another server", || {
            let reply = other.query("select pg_backend_pid()");
            assert!(!reply.kinds.contains('A'), "{reply:?}");
            reply.value() != before
        });
        for client in [&mut stray, &mut sender, &mut other] {
            assert_eq!(client.query("select 1").kinds, "TDCZ");
        }
        assert_eq!(other.value("select count(*) from pg_listening_channels()"), "0");
    }
    console.until_quiet("postgres");
}

#[test]
fn strays_reach_nobody() {
    let Some(postgres) = postgres() else { return };
    strays(postgres, &proxy(&shared(postgres)));
    strays(postgres, &proxy(&shared(postgres).setting("max_prepared_statements", "0")));
    strays(postgres, &proxy(&shared(postgres).setting("kernel_path", "off")));
}

#[test]
fn within_transactions() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&shared(postgres));
    let (mut client, mut other) = (Wire::new(&proxy), Wire::new(&proxy));
    client.query("begin");
    let reply = client.query("LISTEN jobs");
    assert_eq!((&*reply.kinds, reply.status), ("CZ", b'T'));
    let pid = client.value("select pg_backend_pid()");
    client.query("notify jobs, '1'");
    assert_eq!(client.query("commit").status, b'I');
    client.assert_notified("jobs", "1");
    assert_eq!(other.value("select pg_backend_pid()"), pid);
    client.query("begin");
    client.query("select wrong");
    let reply = client.query("LISTEN more");
    assert_eq!((reply.refusal.as_ref().unwrap().sqlstate.as_str(), reply.status), ("25P02", b'E'));
    client.query("rollback");
    other.query("notify more, 'nobody'; notify jobs, '2'");
    client.assert_notified("jobs", "2");
}

#[test]
fn pipelined_and_in_pieces() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&shared(postgres));
    let mut client = Wire::new(&proxy);
    let query = |sql: &str| message(b'Q', &cstr(sql));
    let all =
        [query("select 1"), query("LISTEN a"), query("notify a, 'x'"), query("UNLISTEN a"), query("select 2")].concat();
    client.send_raw(&all);
    let kinds: Vec<String> = (0..5).map(|_| client.reply().kinds).collect();
    assert_eq!(
        kinds.iter().map(|kinds| kinds.replace('A', "")).collect::<Vec<_>>(),
        ["TDCZ", "CZ", "CZ", "CZ", "TDCZ"]
    );
    for byte in query("LISTEN b") {
        client.send_raw(&[byte]);
    }
    assert_eq!(client.reply().tags, ["LISTEN"]);
    Wire::new(&proxy).query("notify b, 'y'");
    client.assert_notified("b", "y");
    // Behind an extended query that has no Sync yet nothing is carried out here.
    client.send_raw(&[message(b'P', &[cstr(""), cstr("select 1"), vec![0, 0]].concat()), query("LISTEN c")].concat());
    assert_eq!(client.reply().kinds, "1CZ");
}

/// The extended protocol: it takes effect with each Bind.
fn heard_extended(proxy: &Proxy, name: &str) {
    let (mut client, mut sender) = (Wire::new(proxy), Wire::new(proxy));
    let mut exchange = |client: &mut Wire, messages: &[Vec<u8>], kinds: &str| {
        client.send_raw(&[messages.concat(), sync()].concat());
        let reply = client.reply();
        assert_eq!((&*reply.kinds, reply.status), (kinds, b'I'), "{reply:?}");
        sender.query("notify ears, 'x'");
    };
    let (listen, unlisten) = (parse(name, "LISTEN ears"), parse("", "UNLISTEN ears"));
    exchange(&mut client, &[listen.clone(), describe(name), bind(name, &[]), execute()], "1tn2CZ");
    client.assert_notified("ears", "x");
    exchange(&mut client, &[unlisten, bind("", &[]), execute()], "12CZ");
    let listen = if name.is_empty() { listen } else { Vec::new() };
    let kinds = if name.is_empty() { "12CZ" } else { "2CZ" };
    exchange(&mut client, &[listen, bind(name, &[]), execute()], kinds);
    client.assert_notified("ears", "x");
    // Another statement of that name is another.
    let other = [if name.is_empty() { Vec::new() } else { close(name) }, parse(name, "select 1")].concat();
    let kinds = if name.is_empty() { "12DCZ" } else { "312DCZ" };
    exchange(&mut client, &[other, bind(name, &[]), execute()], kinds);
    client.assert_notified("ears", "x");
    // In one transaction with others, in pieces, and where it is skipped.
    let listen = [parse("", "listen \"more ears\""), bind("", &[]), execute(), sync()].concat();
    for byte in listen {
        client.send_raw(&[byte]);
    }
    assert_eq!(client.reply().kinds, "12CZ");
    sender.query("notify \"more ears\", 'y'");
    client.assert_notified("more ears", "y");
    client.query("begin");
    client.query("select 1/0");
    client.send_raw(&[parse("", "LISTEN late"), bind("", &[]), execute(), sync()].concat());
    assert_eq!(client.reply().refusal.unwrap().sqlstate, "25P02");
    client.query("rollback");
    assert_eq!(client.value("select count(*) from pg_listening_channels()"), "0");
}

#[test]
fn the_extended_protocol() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&shared(postgres));
    heard_extended(&proxy, "");
    heard_extended(&proxy, "listen");
    let without = self::proxy(&shared(postgres).setting("max_prepared_statements", "0"));
    heard_extended(&without, "");
    let Some(proxy) = kernel_proxy(&shared(postgres)) else { return };
    heard_extended(&proxy, "");
    heard_extended(&proxy, "listen");
    // A statement that is LISTEN is not one that the kernel path may bind, also when nobody listens any more.
    let (mut console, mut client, mut sender) = (Console::new(&proxy), Wire::new(&proxy), Wire::new(&proxy));
    client.send_raw(&[parse("ears", "LISTEN ears"), bind("ears", &[]), execute(), sync()].concat());
    assert_eq!(client.reply().kinds, "12CZ");
    client.listen("UNLISTEN *");
    warm_up(&mut console, &mut client);
    client.send_raw(&[bind("ears", &[]), execute(), sync()].concat());
    assert_eq!(client.reply().kinds, "2CZ");
    sender.query("notify ears, 'again'");
    client.assert_notified("ears", "again");
}

#[test]
fn session_pooling_is_as_it_was() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&shared(postgres).setting("pool_mode", "session"));
    let mut client = Wire::new(&proxy);
    client.listen("LISTEN jobs");
    assert_eq!(client.value("select * from pg_listening_channels()"), "jobs");
    assert_eq!(Console::new(&proxy).table("SHOW SERVERS").iter().count(), 1);
}

#[test]
fn a_listening_server_that_is_lost() {
    let Some(postgres) = own_postgres() else { return };
    let proxy = proxy(&shared(&postgres));
    let (mut listener, mut other) = (Wire::new(&proxy), Wire::new(&proxy));
    listener.listen("LISTEN jobs");
    assert_eq!(other.value("select 1"), "1");
    let mut servers =
        Console::new(&proxy).table("SHOW SERVERS").iter().map(|row| row["remote_pid"].to_owned()).collect::<Vec<_>>();
    let shared = other.value("select pg_backend_pid()");
    servers.retain(|pid| *pid != shared);
    assert_eq!(servers.len(), 1);
    other.query(&format!("select pg_terminate_backend({})", servers[0]));
    assert_eq!(listener.last_words().sqlstate, "57P01");
    listener.assert_closed();
    // Nobody else notices, and the next one who wants to listen does.
    assert_eq!(other.value("select pg_backend_pid()"), shared);
    let mut listener = Wire::new(&proxy);
    listener.listen("LISTEN jobs");
    other.query("notify jobs, 'again'");
    listener.assert_notified("jobs", "again");
}

#[test]
fn a_listening_server_that_must_go() {
    let Some(postgres) = own_postgres() else { return };
    let options = shared(&postgres);
    let proxy = proxy(&options);
    let mut console = Console::new(&proxy);
    let mut other = Wire::new(&proxy);
    let check = |console: &mut Console, command: &str, reason: &str| {
        let mut listener = Wire::new(&proxy);
        listener.listen("LISTEN jobs");
        console.table(command);
        assert_eq!(listener.last_words(), Refusal::fatal(reason));
        until("nobody listens", || postgres.psql(LISTENING).unwrap() == "0");
    };
    check(&mut console, "RECONNECT", "database configuration changed");
    proxy.rewrite(&options.database(&format!("postgres = host=localhost port={}", postgres.port()))).unwrap();
    check(&mut console, "RELOAD", "database configuration changed");
    check(&mut console, "PAUSE", "pause mode");
    // Who wants to listen now must wait.
    other.start("LISTEN jobs");
    console.until_pool("postgres", "cl_active", 1);
    assert_eq!(postgres.psql(LISTENING).unwrap(), "0");
    console.table("RESUME");
    assert_eq!(other.reply().tags, ["LISTEN"]);
    Wire::new(&proxy).query("notify jobs, 'after'");
    other.assert_notified("jobs", "after");
}

/// How many sessions of PostgreSQL have done nothing but LISTEN last.
const LISTENING: &str = "select count(*) from pg_stat_activity where query ilike 'listen jobs%'";

#[test]
fn what_cannot_be_listened_to() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&shared(postgres).setting("max_db_connections", "1"));
    // A key word: PostgreSQL says so.
    let reply = Wire::new(&proxy).query("LISTEN select");
    assert_eq!((reply.refusal.as_ref().unwrap().sqlstate.as_str(), reply.status), ("42601", b'I'));
    // Its names, and what it is sent, would be in another encoding.
    let mut latin =
        Wire::login(&proxy, &[("user", "postgres"), ("database", "postgres"), ("client_encoding", "LATIN1")]);
    let reply = latin.query("LISTEN jobs");
    assert_eq!((reply.refusal.as_ref().unwrap().sqlstate.as_str(), reply.status), ("0A000", b'I'));
    // An idle server makes room, one in use does not.
    let (mut client, mut other) = (Wire::new(&proxy), Wire::new(&proxy));
    other.query("begin");
    let reply = client.query("LISTEN jobs");
    assert_eq!((reply.refusal.as_ref().unwrap().sqlstate.as_str(), reply.status), ("53300", b'I'));
    assert_eq!(
        reply.refusal.as_ref().unwrap().text,
        "no more server connections allowed (max_db_connections, max_user_connections)"
    );
    other.query("commit");
    client.listen("LISTEN jobs");
    drop(client);
    // As soon as nobody listens there is room again.
    assert_eq!(other.value("select 1"), "1");
}

#[test]
fn a_database_that_is_down() {
    let Some(mut postgres) = own_postgres() else { return };
    let proxy = proxy(&shared(&postgres));
    let mut client = Wire::new(&proxy);
    assert_eq!(client.value("select 1"), "1");
    postgres.stop_immediate().unwrap();
    let reply = client.query("LISTEN jobs");
    assert_eq!((reply.refusal.as_ref().unwrap().text.as_str(), reply.status), ("connect failed", b'I'));
}

#[test]
fn a_client_that_does_not_read() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&shared(postgres));
    let (mut deaf, mut keen) = (Wire::new(&proxy), Wire::new(&proxy));
    deaf.listen("LISTEN loud");
    keen.listen("LISTEN loud");
    // More than all buffers on the way hold; the other one reads each message before the next are sent.
    let mut sender = Wire::new(&proxy);
    for first in (0..6000).step_by(50) {
        let sql = "select pg_notify('loud', n || repeat('x', 7900)) from generate_series";
        sender.query(&format!("{sql}({first}, {}) n", first + 49));
        for n in first..first + 50 {
            assert!(keen.notification().1.starts_with(&n.to_string()));
        }
    }
    until_logged(&proxy, "closing because: notifications are not read");
    let mut last = Refusal::default();
    while let Some((kind, body)) = deaf.message() {
        if kind == b'E' {
            last = Refusal::read(&body);
        }
    }
    assert!(last == Refusal::default() || last.sqlstate == "54000", "{last:?}");
}

#[test]
fn clients_that_come_and_go() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&shared(postgres));
    let mut sender = Wire::new(&proxy);
    for round in 0..30 {
        let mut listeners: Vec<Wire> = (0..3).map(|_| Wire::new(&proxy)).collect();
        for (n, listener) in listeners.iter_mut().enumerate() {
            listener.listen(&format!("LISTEN c{n}"));
            listener.listen("LISTEN everybody");
        }
        sender.query(&format!("notify everybody, '{round}'"));
        for listener in &mut listeners {
            listener.assert_notified("everybody", &round.to_string());
        }
    }
    drop(sender);
    let mut console = Console::new(&proxy);
    until("nobody listens", || console.table("SHOW SERVERS").iter().count() == 1);
}
