//! Session parameters follow a client from server to server: two clients with different values share one server, and
//! each always sees its own.

use tigger_testkit::Psql;

use crate::support::{Console, assert_failed, options, postgres, proxy};
use crate::wire::{POSTGRES, Refusal, Wire};

/// Tracked parameters with two values each, as PostgreSQL spells them.
const TRACKED: &[(&str, &str, &str)] = &[
    ("client_encoding", "UTF8", "LATIN1"),
    ("DateStyle", "ISO, DMY", "German, DMY"),
    ("TimeZone", "Asia/Tokyo", "Europe/Berlin"),
    ("standard_conforming_strings", "on", "off"),
    ("application_name", "first", "it's \\ \"odd\""),
    ("IntervalStyle", "iso_8601", "sql_standard"),
];

fn login(proxy: &tigger_testkit::Proxy, more: &[(&str, &str)]) -> Wire {
    Wire::login(proxy, &[POSTGRES, more].concat())
}

#[test]
fn each_client_sees_its_own_values() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    for &(name, first, second) in TRACKED {
        let mut clients = [first, second].map(|value| (login(&proxy, &[(name, value)]), value));
        let mut other = login(&proxy, &[]);
        for (client, value) in &mut clients {
            assert_eq!(client.parameters[name], *value, "ParameterStatus at login");
        }
        for round in 0..3 {
            for (client, value) in &mut clients {
                assert_eq!(client.value(&format!("show {name}")), *value, "{name}, round {round}");
            }
            let default = other.parameters[name].clone();
            assert_eq!(other.value(&format!("show {name}")), default, "default of {name}, round {round}");
        }
    }
    assert_eq!(Console::new(&proxy).table("SHOW SERVERS").rows.len(), 1);
}

#[test]
fn all_parameters_at_once() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let values = |which: fn(&(&'static str, &'static str, &'static str)) -> &'static str| -> Vec<(&str, &str)> {
        TRACKED.iter().map(|row| (row.0, which(row))).collect()
    };
    let (first, second) = (values(|row| row.1), values(|row| row.2));
    let mut clients = [(login(&proxy, &first), first), (login(&proxy, &second), second)];
    for _ in 0..3 {
        for (client, values) in &mut clients {
            for (name, value) in values {
                assert_eq!(client.value(&format!("show {name}")), *value, "{name}");
            }
        }
    }
}

#[test]
fn a_set_follows_its_client() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let (mut client, mut other) = (login(&proxy, &[]), login(&proxy, &[("TimeZone", "Asia/Tokyo")]));
    let default = client.parameters["TimeZone"].clone();
    for zone in ["America/Lima", "Europe/Paris"] {
        client.query(&format!("set timezone = '{zone}'"));
        assert_eq!(client.parameters["TimeZone"], zone, "reported to the client");
        assert_eq!(other.value("show timezone"), "Asia/Tokyo");
        assert_eq!(client.value("show timezone"), zone);
    }
    // Rolled back, and local to a transaction.
    client.query("begin; set timezone = 'Asia/Tokyo'; rollback");
    client.query("begin; set local timezone = 'Asia/Tokyo'; commit");
    other.value("select 1");
    assert_eq!(client.value("show timezone"), "Europe/Paris");
    client.query("reset timezone");
    other.value("select 1");
    assert_eq!(client.value("show timezone"), default);
}

#[test]
fn the_console_shows_application_names() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let mut client = login(&proxy, &[("application_name", "at login")]);
    let name = |console: &mut Console, command: &str, kind: &str| {
        let table = console.table(command);
        let row = table.iter().find(|row| &row["type"] == kind && &row["database"] == "postgres");
        row.unwrap()["application_name"].to_owned()
    };
    let mut console = Console::new(&proxy);
    assert_eq!(name(&mut console, "SHOW CLIENTS", "C"), "at login");
    client.value("select 1");
    let in_postgres = "select count(*) from pg_stat_activity where application_name = 'renamed here'";
    client.query("set application_name = 'renamed here'");
    assert_eq!(name(&mut console, "SHOW CLIENTS", "C"), "renamed here");
    assert_eq!(name(&mut console, "SHOW SERVERS", "S"), "renamed here");
    assert_eq!(postgres.psql(in_postgres).unwrap(), "1");
}

#[test]
fn the_console_shows_the_application_name_a_server_was_given() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let mut client = login(&proxy, &[("application_name", "given by set")]);
    client.value("select 1");
    assert_eq!(Console::new(&proxy).table("SHOW SERVERS").column("application_name"), ["given by set"]);
}

#[test]
fn the_address_of_a_client_in_its_application_name() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1).setting("application_name_add_host", "1"));
    let mut console = Console::new(&proxy);
    for (given, name) in
        [(&[][..], "app"), (&[("application_name", "psql")], "psql"), (&[("application_name", "")], "")]
    {
        let mut client = login(&proxy, given);
        let clients = console.table("SHOW CLIENTS");
        let row = clients.find("database", "postgres").unwrap();
        let expected = format!("{name} - 127.0.0.1:{}", &row["port"]);
        assert_eq!(&row["application_name"], expected);
        assert_eq!(client.parameters["application_name"], expected);
        assert_eq!(client.value("show application_name"), expected);
        client.query("set application_name = 'own'");
        assert_eq!(client.value("show application_name"), "own");
        drop(client);
        crate::support::until("it is gone", || console.table("SHOW CLIENTS").find("database", "postgres").is_none());
    }
    let mut local = Wire::connect_unix(proxy.socket_dir(), proxy.port());
    local.send_raw(&crate::wire::startup(3 << 16, POSTGRES));
    local.logged_in().unwrap();
    let name = local.value("show application_name");
    assert!(name.starts_with(&format!("app - unix({}@", std::process::id())), "{name}");
    // PostgreSQL cuts it at 63 bytes, which a long name of this host may reach.
    assert!(name.ends_with(&format!("):{}", proxy.port())) || name.len() == 63, "{name}");
}

#[test]
fn options_at_login() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1).setting("ignore_startup_parameters", "extra_float_digits, geqo"));
    let mut client = login(
        &proxy,
        &[("options", "-c timezone=Asia/Tokyo --datestyle=German,\\ DMY -cgeqo=off -c extra_float_digits=1")],
    );
    let mut other = login(&proxy, &[]);
    for _ in 0..2 {
        assert_eq!(
            client.value("select current_setting('timezone') || ' ' || date '2026-01-31'"),
            "Asia/Tokyo 31.01.2026"
        );
        assert_ne!(other.value("show timezone"), "Asia/Tokyo");
    }
    let conninfo = proxy.conninfo().option("options", "-c timezone=Asia/Tokyo");
    assert_eq!(Psql::new(conninfo).text("show timezone").unwrap(), "Asia/Tokyo");
}

#[test]
fn unsupported_startup_parameters_are_refused() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    let check = |name: &str, value: &str, text: &str| {
        let refusal = Wire::try_login(&proxy, &[POSTGRES, &[(name, value)]].concat()).unwrap_err();
        assert_eq!(refusal, Refusal::fatal(text), "{name}={value}");
    };
    check("search_path", "public", "unsupported startup parameter: search_path");
    check("options", "-c statement_timeout=1s", "unsupported startup parameter in options: statement_timeout");
    let form = "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed";
    check("options", "-d 3", form);
    check("options", "-c", form);
    let run = Psql::new(proxy.conninfo().option("options", "-c work_mem=1MB")).run(&["select 1"]).unwrap();
    assert_failed(&run, "FATAL:  unsupported startup parameter in options: work_mem");
}

#[test]
fn ignored_startup_parameters_change_nothing() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).setting("ignore_startup_parameters", "search_path, options"));
    let mut client = login(&proxy, &[("search_path", "elsewhere"), ("options", "--anything at all")]);
    assert_eq!(client.value("show search_path"), "\"$user\", public");
}

#[test]
fn a_value_the_server_refuses_ends_the_client_alone() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let mut good = login(&proxy, &[("TimeZone", "Asia/Tokyo")]);
    // The proxy cannot know: the login succeeds, as in PgBouncer.
    let mut bad = login(&proxy, &[("TimeZone", "Mars/Olympus Mons")]);
    bad.start("select 1");
    assert_eq!(bad.last_words(), Refusal::fatal("invalid server parameter"));
    assert_eq!(good.value("show timezone"), "Asia/Tokyo");
}

#[test]
fn a_value_cannot_carry_sql() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    postgres.psql("drop table if exists parameters_target; create table parameters_target()").unwrap();
    for value in ["'; drop table parameters_target; --", "\\'; drop table parameters_target; --", "\\\\'"] {
        for strings in ["on", "off"] {
            let parameters = [("application_name", value), ("standard_conforming_strings", strings)];
            let mut client = login(&proxy, &parameters);
            let mut other = login(&proxy, &[("standard_conforming_strings", "on")]);
            assert_eq!(client.value("show application_name"), value);
            other.value("select 1");
            assert_eq!(client.value("show application_name"), value);
        }
    }
    assert_eq!(postgres.psql("select count(*) from parameters_target").unwrap(), "0");
}

#[test]
fn server_settings_of_a_database_line_are_the_default() {
    let Some(postgres) = postgres() else { return };
    let line = format!(
        "zoned = host={} port={} dbname=postgres timezone=Asia/Tokyo client_encoding=LATIN1 datestyle='German, DMY' \
         application_name='from the line'",
        postgres.host(),
        postgres.port()
    );
    let proxy = proxy(&options(postgres).database(&line).pool_size(1));
    let mut client = Wire::login(&proxy, &[("user", "postgres"), ("database", "zoned")]);
    let mut other = Wire::login(&proxy, &[("user", "postgres"), ("database", "zoned"), ("TimeZone", "Europe/Rome")]);
    assert_eq!(other.value("show timezone"), "Europe/Rome");
    for (name, value) in [
        ("timezone", "Asia/Tokyo"),
        ("client_encoding", "LATIN1"),
        ("datestyle", "German, DMY"),
        ("application_name", "from the line"),
    ] {
        assert_eq!(client.value(&format!("show {name}")), value);
    }
}
