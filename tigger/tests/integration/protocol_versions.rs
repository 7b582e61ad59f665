//! Versions of the protocol on both sides: 3.0, and 3.2 with its long cancel keys. PostgreSQL 18 and its libpq are fetched by
//! `scripts/postgres18.sh`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::{path::PathBuf, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tigger_testkit::{
    Conninfo, Postgres, PostgresOptions, Proxy, ProxyOptions, postgres_18_programs, postgres_program, skipped,
};

use crate::support::{
    Console, DEADLINE, assert_kernel_path_used, can_run, join, options, postgres, proxy, until, until_logged,
};
use crate::wire::{CANCEL_REQUEST, POSTGRES, Wire, message, startup};

/// The programs of PostgreSQL 18; `None`, and counted, where they are not.
fn programs_18() -> Option<PathBuf> {
    let programs = postgres_18_programs().ok().filter(|_| can_run());
    if programs.is_none() {
        skipped(thread::current().name().unwrap_or("a test"), "PostgreSQL 18 is not there (scripts/postgres18.sh)");
    }
    programs
}

fn postgres_18() -> Option<Postgres> {
    Some(Postgres::start(&PostgresOptions::default().programs(&programs_18()?)).unwrap())
}

/// A client asks for a minor version and options, and is told `negotiated` unless that is empty. Then all works; its key has
/// `key_len` bytes.
#[track_caller]
fn check(servers: &Postgres, proxy: &Proxy, asked: (u32, &[(&str, &str)]), negotiated: &[u8], key_len: usize) {
    let mut wire = Wire::connect(proxy);
    wire.send_raw(&startup(3 << 16 | asked.0, &[POSTGRES, asked.1].concat()));
    if !negotiated.is_empty() {
        assert_eq!(wire.message(), Some((b'v', negotiated.to_vec())));
    }
    let reply = wire.reply();
    assert!(reply.status == b'I' && !reply.kinds.contains('v'), "{reply:?}");
    assert_eq!(wire.key.len(), key_len);
    check_cancel(servers, &mut wire);
}

/// A cancel request reaches the client's query.
#[track_caller]
fn check_cancel(servers: &Postgres, client: &mut Wire) {
    client.query("begin");
    let pid = client.value("select pg_backend_pid()");
    client.start("select pg_sleep(600)");
    until("the query runs", || sleeps(servers, &format!("pid = {pid}")));
    client.cancel();
    assert_eq!(client.reply().refusal.unwrap().sqlstate, "57014");
    client.query("rollback");
    assert_eq!(client.value("select 1"), "1");
}

fn sleeps(servers: &Postgres, whose: &str) -> bool {
    let sql = format!("select count(*) from pg_stat_activity where wait_event = 'PgSleep' and {whose}");
    servers.psql(&sql).unwrap() == "1"
}

/// All that clients may ask for, in front of these servers, which are asked for each version.
fn check_all(servers: &Postgres) {
    for version in ["3.0", "3.2"] {
        let proxy = proxy(&options(servers).pool_size(2).setting("server_max_protocol_version", version));
        let check = |asked, negotiated, key_len| check(servers, &proxy, asked, negotiated, key_len);
        check((0, &[]), b"", 8);
        check((2, &[]), b"", 36);
        // Nobody speaks 3.1.
        check((1, &[]), b"\0\x03\0\0\0\0\0\0", 8);
        check((3, &[]), b"\0\x03\0\x02\0\0\0\0", 36);
        check((9999, &[]), b"\0\x03\0\x02\0\0\0\0", 36);
        check((0, &[("_pq_.odd", "1")]), b"\0\x03\0\0\0\0\0\x01_pq_.odd\0", 8);
        check((2, &[("_pq_.a", "1"), ("_pq_.b", "")]), b"\0\x03\0\x02\0\0\0\x02_pq_.a\0_pq_.b\0", 36);
        let mut console = Console::new(&proxy);
        console.until_quiet("postgres");
        assert_kernel_path_used(&mut console);
    }
}

#[test]
fn servers_of_an_old_version() {
    let Some(postgres) = postgres() else { return };
    check_all(postgres);
}

#[test]
fn servers_of_version_18() {
    let Some(postgres) = postgres_18() else { return };
    assert!(postgres.psql("show server_version").unwrap().starts_with("18."));
    check_all(&postgres);
}

/// The console's clients have keys, too.
#[test]
fn the_console() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    for (minor, key_len) in [(0, 8), (2, 36)] {
        let mut wire = Wire::connect(&proxy);
        wire.send_raw(&startup(3 << 16 | minor, &[("user", "postgres"), ("database", "pgbouncer")]));
        wire.logged_in().unwrap();
        assert_eq!((wire.key.len(), wire.query("SHOW VERSION").rows.len()), (key_len, 1));
    }
}

/// libpq 18, which insists on 3.2 here, and its cancel requests. It is loaded by Debian's psql.
#[test]
fn libpq_18() {
    let Some(programs) = programs_18() else { return };
    let (Some(old), Some(new)) = (postgres(), postgres_18()) else { return };
    let psql = |conninfo: &Conninfo, sql: &str| {
        let mut command = Command::new(postgres_program("psql").unwrap());
        let conninfo = conninfo.clone().option("min_protocol_version", "3.2").option("max_protocol_version", "3.2");
        command.args([
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "--dbname",
            &conninfo.to_string(),
            "--command",
            sql,
        ]);
        command.env("LD_LIBRARY_PATH", programs.with_file_name("lib"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let output = |child: std::process::Child| {
        let output = child.wait_with_output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    // It means what it says.
    let refused = output(psql(&old.conninfo(), "select 1"));
    assert!(refused.contains("protocol version"), "{refused}");
    for servers in [old, &new] {
        let proxy = proxy(&options(servers).setting("server_max_protocol_version", "3.2"));
        assert_eq!(output(psql(&proxy.conninfo(), "select 1 + 1")), "2\n");
        let conninfo = proxy.conninfo().option("application_name", "libpq_18");
        let sleeping = psql(&conninfo, "select pg_sleep(600)");
        until("the query runs", || sleeps(servers, "application_name = 'libpq_18'"));
        kill(Pid::from_raw(sleeping.id().cast_signed()), Signal::SIGINT).unwrap();
        let text = output(sleeping);
        assert!(text.contains("canceling statement due to user request"), "{text}");
    }
}

/// A server that expects this version, answers with its own, and gives a key of this length. It says what secret a cancel
/// request shows.
fn fake_server(expected: u32, answer: &'static [u8], key_len: usize) -> (u16, thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = thread::spawn(move || {
        let accept = || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            let packet = read_packet(&mut socket);
            (socket, packet)
        };
        let (mut server, packet) = accept();
        assert_eq!(packet[4..8], expected.to_be_bytes());
        let key: Vec<u8> = (0..key_len).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let ready = [message(b'R', &[0; 4]), message(b'K', &key), message(b'Z', b"I")].concat();
        server.write_all(&[answer, &ready].concat()).unwrap();
        // The query that the client sends, and then the request to cancel it.
        let mut kind = [0; 1];
        server.read_exact(&mut kind).unwrap();
        assert_eq!(kind, *b"Q");
        let (canceling, packet) = accept();
        assert_eq!(packet[4..8], CANCEL_REQUEST.to_be_bytes());
        drop(canceling);
        let error = [&b"SERROR\0"[..], b"C57014\0", b"Mcanceled\0", b"\0"].concat();
        server.write_all(&[message(b'E', &error), message(b'Z', b"I")].concat()).unwrap();
        packet[8..].to_vec()
    });
    (port, thread)
}

fn read_packet(socket: &mut TcpStream) -> Vec<u8> {
    let mut packet = vec![0; 4];
    socket.read_exact(&mut packet).unwrap();
    let len = u32::from_be_bytes(packet[..4].try_into().unwrap()) as usize;
    packet.resize(len, 0);
    socket.read_exact(&mut packet[4..]).unwrap();
    packet
}

#[test]
fn keys_of_any_length_come_back_to_their_server() {
    const NEGOTIATED_3_0: &[u8] = b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0";
    for (version, code, answer, key_len) in [
        ("3.0", 196_608, &b""[..], 8),
        ("3.2", 196_610, b"", 36),
        ("3.2", 196_610, b"", 260),
        ("3.2", 196_610, b"", 9),
        ("3.2", 196_610, NEGOTIATED_3_0, 8),
    ] {
        let (port, server) = fake_server(code, answer, key_len);
        let options = ProxyOptions::new().database(&format!("postgres = host=127.0.0.1 port={port}"));
        let proxy = proxy(&options.setting("server_max_protocol_version", version));
        let mut client = Wire::connect(&proxy).speaks(2, &[]);
        client.start("select 1");
        Console::new(&proxy).until_pool("postgres", "sv_active", 1);
        client.cancel();
        assert_eq!(client.reply().refusal.unwrap().text, "canceled");
        let key: Vec<u8> = (0..key_len).map(|n| u8::try_from(n % 251).unwrap()).collect();
        assert!(join(server) == key, "{version}, {key_len} bytes");
    }
}

#[test]
fn what_servers_may_not_answer() {
    for (answer, text) in [
        (&b"v\0\0\0\x0c\0\x03\0\x03\0\0\0\0"[..], "bad protocol negotiation from server"),
        (b"v\0\0\0\x0c\0\x03\0\x01\0\0\0\0", "bad protocol negotiation from server"),
        (b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0b1234567", "bad cancel key from server"),
        (b"R\0\0\0\x08\0\0\0\0K\0\0\x01\x09", "bad cancel key from server"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let options = ProxyOptions::new().database(&format!("postgres = host=127.0.0.1 port={port}"));
        let proxy = proxy(&options.setting("server_max_protocol_version", "3.2"));
        let mut client = Wire::connect(&proxy);
        client.send_raw(&startup(3 << 16, POSTGRES));
        let (mut server, _) = listener.accept().unwrap();
        read_packet(&mut server);
        server.write_all(answer).unwrap();
        server.write_all(&[0; 300]).unwrap();
        until_logged(&proxy, &format!("login failed: {text}"));
    }
}
