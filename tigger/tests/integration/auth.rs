//! How clients prove who they are to the proxy, and what they are told when they cannot.

use tigger_testkit::{Conninfo, Postgres, ProxyOptions, Psql, skipped};
use tokio_postgres::{Config, NoTls};

use crate::support::{Console, assert_failed, options, own_postgres, postgres, proxy};
use crate::wire::{POSTGRES, Refusal, Wire, cstr};

/// Outcome of a login with tokio-postgres: the user, or code and text of the error.
fn log_in(port: u16, user: &str, password: &str, database: &str) -> Result<String, (String, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut config = Config::new();
        config.host("127.0.0.1").port(port).user(user).password(password).dbname(database);
        let refused = |error: tokio_postgres::Error| {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}")).clone();
            assert_eq!(error.severity(), "FATAL");
            (error.code().code().to_owned(), error.message().to_owned())
        };
        let (client, connection) = config.connect(NoTls).await.map_err(refused)?;
        tokio::spawn(connection);
        Ok(client.query_typed("select session_user::text", &[]).await.unwrap()[0].get(0))
    })
}

/// Secrets of `alice` with the password `geheim`, as `auth_file` may hold them.
fn secrets(postgres: &Postgres) -> [(&'static str, String); 3] {
    let md5 = postgres.psql("select 'md5' || md5('geheim' || 'alice')").unwrap();
    let scram = "begin; create role scram_source password 'geheim'; select rolpassword from pg_authid \
        where rolname = 'scram_source'; rollback";
    let scram = postgres.psql(scram).unwrap();
    assert!(scram.starts_with("SCRAM-SHA-256$"), "{scram}");
    [("plain", "geheim".into()), ("md5", md5), ("scram", scram)]
}

/// All pools are opened as `alice`, whom the shared server trusts.
fn guarded(postgres: &Postgres, auth_type: &str, secret: &str) -> ProxyOptions {
    options(postgres).auth_type(auth_type).user("alice", secret)
}

#[test]
fn passwords() {
    let Some(postgres) = postgres() else { return };
    let secrets = secrets(postgres);
    let failed = |text: &str| Err(("08P01".to_owned(), text.to_owned()));
    let (password, sasl) = ("password authentication failed", "SASL authentication failed");
    // Method, kind of secret, and the error for a wrong password.
    let cases = [
        ("plain", "plain", password),
        ("plain", "md5", password),
        ("plain", "scram", password),
        ("md5", "plain", password),
        ("md5", "md5", password),
        // A SCRAM secret cannot serve MD5: such users are asked for SCRAM.
        ("md5", "scram", sasl),
        ("scram-sha-256", "plain", sasl),
        ("scram-sha-256", "scram", sasl),
    ];
    for (auth_type, kind, wrong) in cases {
        let (_, secret) = secrets.iter().find(|(name, _)| *name == kind).unwrap();
        let proxy = proxy(&guarded(postgres, auth_type, secret));
        let check = |user: &str, typed: &str, expected: Result<String, (String, String)>| {
            assert_eq!(log_in(proxy.port(), user, typed, "postgres"), expected, "{auth_type}, {kind}, {user}/{typed}");
        };
        check("alice", "geheim", Ok("alice".into()));
        check("alice", "Geheim", failed(wrong));
        // Somebody who does not exist is asked and refused in the same way as with the wrong password.
        check("mallory", "geheim", failed(if auth_type == "scram-sha-256" { sasl } else { password }));
        // No password is stored for this user: none is right.
        check("bob", "geheim", failed(if auth_type == "scram-sha-256" { sasl } else { password }));
        let run = Psql::new(proxy.conninfo().user("alice").password("falsch")).run(&["select 1"]).unwrap();
        assert_failed(&run, &format!("FATAL:  {wrong}"));
        assert_eq!(Psql::new(proxy.conninfo().user("alice").password("geheim")).text("select 1").unwrap(), "1");
        let log = proxy.log();
        assert!(log.contains(&format!("closing because: {wrong}")), "{log}");
        assert!(!log.contains("geheim") && !log.contains(secret.as_str()), "a secret in the log:\n{log}");
    }
}

#[test]
fn an_md5_secret_cannot_serve_scram() {
    let Some(postgres) = postgres() else { return };
    let [_, (_, md5), _] = secrets(postgres);
    let proxy = proxy(&guarded(postgres, "scram-sha-256", &md5));
    let refused = log_in(proxy.port(), "alice", "geheim", "postgres").unwrap_err();
    assert_eq!(refused, ("08P01".into(), "SASL authentication failed".into()));
}

#[test]
fn an_empty_password() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&guarded(postgres, "plain", "geheim"));
    let mut wire = Wire::connect(&proxy);
    wire.send_raw(&crate::wire::startup(3 << 16, &[("user", "alice"), ("database", "postgres")]));
    assert_eq!(wire.message().unwrap(), (b'R', vec![0, 0, 0, 3]));
    wire.send(b'p', &cstr(""));
    assert_eq!(wire.last_words(), Refusal::fatal("empty password returned by client"));
}

#[test]
fn trust() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    assert_eq!(log_in(proxy.port(), "alice", "", "postgres"), Ok("alice".into()));
    let refused = Wire::try_login(&proxy, &[("user", "mallory"), ("database", "postgres")]).unwrap_err();
    assert_eq!(refused, Refusal::fatal("\"trust\" authentication failed"));
    assert!(proxy.log().contains("closing because: \"trust\" authentication failed"));
}

#[test]
fn any() {
    let Some(postgres) = postgres() else { return };
    let forced = format!("forced = host={} port={} dbname=postgres user=bob", postgres.host(), postgres.port());
    let proxy = proxy(&options(postgres).auth_type("any").database(&forced));
    // Whoever comes is the forced user; without one there is nobody to be.
    assert_eq!(log_in(proxy.port(), "mallory", "", "forced"), Ok("bob".into()));
    let refused = Wire::try_login(&proxy, &[("user", "mallory"), ("database", "postgres")]).unwrap_err();
    assert_eq!(refused, Refusal::fatal("bouncer config error"));
}

#[test]
fn an_unknown_database_is_told_only_after_the_password() {
    let Some(postgres) = postgres() else { return };
    let options = ProxyOptions::new().server("known", postgres).auth_type("md5").user("alice", "geheim");
    let proxy = proxy(&options);
    let refused = |text: &str| Err(("08P01".to_owned(), text.to_owned()));
    assert_eq!(log_in(proxy.port(), "alice", "wrong", "secret_db"), refused("password authentication failed"));
    assert_eq!(log_in(proxy.port(), "alice", "geheim", "secret_db"), refused("no such database: secret_db"));
}

#[test]
fn a_sasl_mechanism_that_was_not_offered() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&guarded(postgres, "scram-sha-256", "geheim"));
    for mechanism in ["SCRAM-SHA-1", "SCRAM-SHA-256-PLUS", ""] {
        let mut wire = Wire::connect(&proxy);
        wire.send_raw(&crate::wire::startup(3 << 16, &[("user", "alice"), ("database", "postgres")]));
        assert_eq!(wire.message(), Some((b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0".to_vec())));
        wire.send(b'p', &[cstr(mechanism), b"\0\0\0\x08n,,n=,r=".to_vec()].concat());
        let text = "client selected an invalid SASL authentication mechanism";
        assert_eq!(wire.last_words(), Refusal::fatal(text), "{mechanism:?}");
    }
}

#[test]
fn a_forced_user_and_its_password() {
    let Some(postgres) = postgres() else { return };
    postgres.psql("drop role if exists forced_user; create role forced_user login password 'their secret'").unwrap();
    let (host, port) = (postgres.host(), postgres.port());
    let line = format!("app = host={host} port={port} dbname=postgres user=forced_user password='their secret'");
    let proxy = proxy(&guarded(postgres, "md5", "geheim").database(&line));
    assert_eq!(log_in(proxy.port(), "alice", "geheim", "app"), Ok("forced_user".into()));
    let databases = proxy.conninfo().user("alice").password("geheim");
    assert_failed(&Psql::new(databases.dbname("pgbouncer")).run(&["show databases"]).unwrap(), "FATAL:  not allowed");
    let line = Console::new(&crate::support::proxy(&options(postgres).database(&line))).table("SHOW DATABASES");
    assert_eq!(&line.find("name", "app").unwrap()["force_user"], "forced_user");
}

#[test]
fn the_fallback_database() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).database("alias = host=127.0.0.1 port=1"));
    let text = "select current_database()";
    assert_eq!(Psql::new(proxy.conninfo().dbname("template1")).text(text).unwrap(), "template1");
    // The server's own words and code.
    let refused = Wire::try_login(&proxy, &[("user", "postgres"), ("database", "missing")]).unwrap_err();
    assert_eq!((refused.sqlstate.as_str(), refused.text.as_str()), ("3D000", "database \"missing\" does not exist"));
    assert!(proxy.log().contains("registered new auto-database: template1"));
}

#[test]
fn unix_sockets_on_both_sides() {
    let Some(postgres) = postgres() else { return };
    let server = format!("* = host={} port={}", postgres.socket_dir().display(), postgres.port());
    let proxy = proxy(&ProxyOptions::new().database(&server));
    let socket = Conninfo::new(&proxy.socket_dir().to_string_lossy(), proxy.port());
    assert_eq!(Psql::new(socket.clone()).text("select inet_server_addr() is null").unwrap(), "t");
    let mut wire = Wire::connect_unix(proxy.socket_dir(), proxy.port());
    wire.send_raw(&crate::wire::startup(3 << 16, POSTGRES));
    wire.logged_in().unwrap();
    wire.start("select pg_sleep(600)");
    // The user pgbouncer of our own account needs no password and no line anywhere.
    let admin = Psql::new(socket.user("pgbouncer").dbname("pgbouncer"));
    let clients = admin.table("SHOW CLIENTS").unwrap();
    let row = clients.find("database", "postgres").unwrap();
    assert_eq!((&row["addr"], &row["port"]), ("unix", &*proxy.port().to_string()));
    assert_eq!(admin.table("SHOW SERVERS").unwrap().column("addr"), ["unix"]);
    let mut console = Console::new(&proxy);
    console.until_pool("postgres", "sv_active", 1);
    // A cancel request over TCP for a client on a Unix socket, to a server on one.
    wire.cancel();
    assert_eq!(wire.reply().refusal.unwrap().sqlstate, "57014");
    // Over TCP the name alone opens nothing.
    let refused = Wire::try_login(&proxy, &[("user", "pgbouncer"), ("database", "pgbouncer")]).unwrap_err();
    assert_eq!(refused, Refusal::fatal("\"trust\" authentication failed"));
}

/// Over the Unix socket, the user `pgbouncer` of the account that runs the proxy is its administrator without a password,
/// whatever the others must show, and nobody else is.
#[test]
fn our_own_account_is_the_administrator() {
    let Some(postgres) = postgres() else { return };
    for auth_type in ["trust", "plain", "md5", "scram-sha-256"] {
        let proxy = proxy(&guarded(postgres, auth_type, "geheim").setting("admin_users", ""));
        let socket = Conninfo::new(&proxy.socket_dir().to_string_lossy(), proxy.port()).password("geheim");
        let psql = |user, database| Psql::new(socket.clone().user(user).dbname(database));
        let state = psql("pgbouncer", "pgbouncer").table("SHOW STATE").unwrap();
        assert_eq!(&state.find("key", "active").unwrap()["value"], "yes");
        // It may do more than look.
        assert_eq!(psql("pgbouncer", "pgbouncer").run(&["PAUSE", "RESUME"]).unwrap().status.code(), Some(0));
        assert_eq!(proxy.log().matches("pgbouncer access from unix socket").count(), 2);
        let refused = match auth_type {
            "trust" => "FATAL:  \"trust\" authentication failed",
            "scram-sha-256" => "FATAL:  SASL authentication failed",
            _ => "FATAL:  password authentication failed",
        };
        // The name is worth nothing in other databases, over TCP, nor from another account; the account alone neither.
        assert_failed(&psql("pgbouncer", "postgres").run(&["select 1"]).unwrap(), refused);
        let tcp = Psql::new(proxy.conninfo().user("pgbouncer").dbname("pgbouncer").password("geheim"));
        assert_failed(&tcp.run(&["SHOW STATE"]).unwrap(), refused);
        assert_failed(&psql("alice", "pgbouncer").run(&["SHOW STATE"]).unwrap(), "FATAL:  not allowed");
        match psql("pgbouncer", "pgbouncer").as_other_account().unwrap() {
            Some(other) => assert_failed(&other.run(&["SHOW STATE"]).unwrap(), refused),
            None => skipped("our_own_account_is_the_administrator", "only root can be another account"),
        }
    }
}

#[test]
fn ipv6_on_both_sides() {
    let Some(postgres) = own_postgres() else { return };
    if !postgres.log().contains("listening on IPv6 address \"::1\"") {
        skipped("ipv6_on_both_sides", "there is no ::1");
        return;
    }
    let server = format!("* = host=::1 port={}", postgres.port());
    let proxy = proxy(&ProxyOptions::new().database(&server).setting("listen_addr", "127.0.0.1, ::1"));
    let psql = Psql::new(Conninfo::new("::1", proxy.port()));
    assert_eq!(psql.text("select host(inet_client_addr())").unwrap(), "::1");
    assert_eq!(proxy.psql("select host(inet_server_addr())").unwrap(), "::1", "an IPv4 client on the IPv6 server");
    let mut wire = Wire::connect_to("::1", proxy.port());
    wire.send_raw(&crate::wire::startup(3 << 16, POSTGRES));
    wire.logged_in().unwrap();
    let mut console = Console::new(&proxy);
    assert_eq!(&console.table("SHOW CLIENTS").find("database", "postgres").unwrap()["addr"], "::1");
    assert_eq!(console.table("SHOW SERVERS").column("addr"), ["::1"]);
}
