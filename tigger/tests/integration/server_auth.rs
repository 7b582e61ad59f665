//! How the proxy proves itself to PostgreSQL.

use std::sync::OnceLock;

use tigger_testkit::{Postgres, ProxyOptions, Psql};

use crate::support::{options, postgres, proxy, until_logged};
use crate::wire::Wire;

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
    let options = options(postgres).user(user, &secret(postgres, user)).setting("server_login_retry", "1");
    let proxy = proxy(&options.setting("client_login_timeout", "2"));
    assert!(Wire::try_login(&proxy, &[("user", user), ("database", "postgres")]).is_err());
    until_logged(&proxy, "server login failed: wrong password type");
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
