//! How the proxy proves itself to PostgreSQL.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::OnceLock,
    thread,
};

use tigger_testkit::{Postgres, ProxyOptions, Psql};

use crate::support::{options, postgres, proxy, until_logged};
use crate::wire::{Refusal, Wire, message};

/// The stored secret of the role `method`, whose password is `geheim`. The `pg_hba.conf` of the shared server asks each
/// of these roles for the method in its name.
fn secret(postgres: &Postgres, method: &str) -> String {
    static SECRETS: OnceLock<[String; 3]> = OnceLock::new();
    let make = |method: &str| {
        let encryption = if method == "md5" { "md5" } else { "scram-sha-256" };
        let sql = format!(
            "set password_encryption = '{encryption}'; create role \"{method}\" login password 'geheim'; \
             select rolpassword from pg_authid where rolname = '{method}'"
        );
        postgres.psql(&sql).unwrap()
    };
    let all = SECRETS.get_or_init(|| METHODS.map(make));
    all[METHODS.iter().position(|known| *known == method).unwrap()].clone()
}

const METHODS: [&str; 3] = ["password", "md5", "scram-sha-256"];

fn whoami(options: &ProxyOptions, user: &str) -> String {
    Psql::new(proxy(options).conninfo().user(user)).text("select session_user").unwrap()
}

#[test]
fn every_method_with_a_plain_password() {
    let Some(postgres) = postgres() else { return };
    for method in METHODS {
        secret(postgres, method);
        assert_eq!(whoami(&options(postgres).user(method, "geheim"), method), method);
    }
}

#[test]
fn md5_with_an_md5_secret() {
    let Some(postgres) = postgres() else { return };
    let md5 = secret(postgres, "md5");
    assert!(md5.starts_with("md5"), "{md5}");
    assert_eq!(whoami(&options(postgres).user("md5", &md5), "md5"), "md5");
}

#[test]
fn scram_secrets_pass_through() {
    let Some(postgres) = postgres() else { return };
    let user = "scram-sha-256";
    let proxy = proxy(&options(postgres).auth_type("scram-sha-256").user(user, &secret(postgres, user)));
    let conninfo = proxy.conninfo().user(user).password("geheim");
    assert_eq!(Psql::new(conninfo.clone()).text("select session_user").unwrap(), user);
    // Also a server that is opened later, when no client has just proved itself.
    let mut console = proxy.conninfo().dbname("pgbouncer");
    console = console.user(user).password("geheim");
    assert!(Psql::new(console).run(&["reconnect"]).unwrap().stderr.contains("not allowed"));
    postgres
        .psql(&format!("select pg_terminate_backend(pid, 60000) from pg_stat_activity where usename = '{user}'"))
        .unwrap();
    assert_eq!(Psql::new(conninfo).text("select session_user").unwrap(), user);
}

#[test]
fn a_scram_secret_alone_opens_no_server() {
    let Some(postgres) = postgres() else { return };
    let user = "scram-sha-256";
    // The client proved nothing, so there is no key.
    let proxy = proxy(&options(postgres).user(user, &secret(postgres, user)));
    let refused = Wire::try_login(&proxy, &[("user", user), ("database", "postgres")]).unwrap_err();
    assert_eq!(refused, Refusal::fatal("server login failed: wrong password type"));
    until_logged(&proxy, "server login failed: wrong password type");
}

/// What a server answers to what one read has brought.
type Answer = fn(&[u8]) -> Vec<u8>;

/// A server of our own: each function answers what one read has brought, and after the last it hangs up. It goes with the
/// process.
fn serve(answers: &'static [Answer]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let converse = move |mut stream: TcpStream| {
        for answer in answers {
            let mut asked = [0; 4096];
            match stream.read(&mut asked) {
                Ok(len @ 1..) => drop(stream.write_all(&answer(&asked[..len]))),
                _ => return,
            }
        }
    };
    thread::spawn(move || listener.incoming().flatten().for_each(converse));
    port
}

fn authentication(code: u32, data: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), data].concat())
}

/// The first SCRAM message of a server: the nonce of the client's, with more behind it; a salt, and how often to hash.
fn scram_first(asked: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(&asked[5..]).unwrap();
    let (_, nonce) = text.split_once("r=").unwrap();
    authentication(11, format!("r={nonce}more,s=c2FsdA==,i=4096").as_bytes())
}

#[test]
fn what_a_server_does_wrong_is_told() {
    let Some(postgres) = postgres() else { return };
    const OFFER: Answer = |_| authentication(10, b"SCRAM-SHA-256\0\0");
    // What a client is told that waits for the first server, if anything, and the next one in any case.
    let cases: [(&[Answer], bool, &str); 6] = [
        (
            &[|_| authentication(10, b"SCRAM-SHA-1\0OTHER\0\0")],
            true,
            "server login failed: none of the server's SASL authentication mechanisms are supported",
        ),
        (
            &[OFFER, scram_first, |_| authentication(12, b"v=bm90IHJpZ2h0LCBub3QgcmlnaHQsIG5vdCByaWdodCE=")],
            true,
            "server login failed: invalid server signature",
        ),
        // GSSAPI.
        (&[|_| authentication(7, b"")], true, "server login failed: unsupported authentication method 7"),
        (&[OFFER, |_| authentication(0, b"")], true, "server login failed: unexpected authentication request"),
        (&[|_| message(b'Z', b"I")], false, "unexpected message from server during login"),
        (&[|_| Vec::new()], false, "server login failed: server closed the connection"),
    ];
    for (answers, is_final, text) in cases {
        let line = format!("odd = host=127.0.0.1 port={}", serve(answers));
        let options = options(postgres).user("alice", "geheim").database(&line);
        let proxy = proxy(&if is_final { options } else { options.setting("client_login_timeout", "1") });
        let login = || Wire::try_login(&proxy, &[("user", "alice"), ("database", "odd")]).unwrap_err();
        let first = if is_final { text } else { "client_login_timeout (server down)" };
        assert_eq!(login(), Refusal::fatal(first), "{text}");
        until_logged(&proxy, &format!("login failed: {text}"));
        let cached = format!("server login has been failing, cached error: {text} (server_login_retry)");
        assert_eq!(login(), Refusal::fatal(&cached));
    }
}

#[test]
fn what_the_server_says_is_passed_on() {
    let Some(postgres) = postgres() else { return };
    for method in METHODS {
        secret(postgres, method);
        let proxy = proxy(&options(postgres).user(method, "falsch"));
        let refused = Wire::try_login(&proxy, &[("user", method), ("database", "postgres")]).unwrap_err();
        assert_eq!(refused.text, format!("password authentication failed for user \"{method}\""));
        assert_eq!(refused.sqlstate, "28P01");
        // The next one is not sent to the server at all.
        let refused = Wire::try_login(&proxy, &[("user", method), ("database", "postgres")]).unwrap_err();
        let cached = format!("password authentication failed for user \"{method}\"");
        let text = format!("server login has been failing, cached error: {cached} (server_login_retry)");
        assert_eq!((refused.text, refused.sqlstate.as_str()), (text, "08P01"));
    }
}

#[test]
fn a_password_of_the_database_line_counts_before_the_userlist() {
    let Some(postgres) = postgres() else { return };
    secret(postgres, "md5");
    let (host, port) = (postgres.host(), postgres.port());
    let line = format!("app = host={host} port={port} dbname=postgres user=md5 password=geheim");
    let proxy = proxy(&options(postgres).database(&line).user("md5", "falsch"));
    assert_eq!(Psql::new(proxy.conninfo().dbname("app")).text("select session_user").unwrap(), "md5");
}
