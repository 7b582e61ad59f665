//! SHOW at the admin console: PgBouncer's columns in its order, values that make sense, and who may ask.

use tigger_testkit::{Psql, Row, Table};

use crate::support::{Console, options, postgres, proxy, until};
use crate::wire::{Refusal, Wire, message};

const SOCKETS: &str = "type user database replication state addr port local_addr local_port connect_time request_time \
    wait wait_us close_needed ptr link remote_pid tls application_name prepared_statements id";

/// Every SHOW that Tigger has, with PgBouncer's columns, and our own behind them.
const COLUMNS: &[(&str, &str)] = &[
    (
        "CLIENTS",
        "type user database replication state addr port local_addr local_port connect_time request_time wait wait_us \
         close_needed ptr link remote_pid tls application_name prepared_statements id path",
    ),
    ("KERNEL_PATH", "name value"),
    ("LATENCIES", "database user queries p50_us p90_us p99_us max_us"),
    ("SERVERS", SOCKETS),
    ("CONFIG", "key value default changeable"),
    (
        "DATABASES",
        "name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime pool_mode \
         load_balance_hosts max_connections current_connections max_client_connections current_client_connections \
         paused disabled",
    ),
    ("LISTS", "list items"),
    (
        "POOLS",
        "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel \
         sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode load_balance_hosts",
    ),
    ("STATE", "key value"),
    (
        "STATS",
        "database total_server_assignment_count total_xact_count total_query_count total_received total_sent \
         total_xact_time total_query_time total_wait_time total_client_parse_count total_server_parse_count \
         total_bind_count total_client_login_count avg_server_assignment_count avg_xact_count avg_query_count avg_recv \
         avg_sent avg_xact_time avg_query_time avg_wait_time avg_client_parse_count avg_server_parse_count \
         avg_bind_count avg_client_login_count",
    ),
    ("TOTALS", "name value"),
    ("VERSION", "version"),
];

#[test]
fn columns() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    Wire::new(&proxy).query("select 1");
    let mut console = Console::new(&proxy);
    for (name, columns) in COLUMNS {
        let table = console.table(&format!("SHOW {name}"));
        assert_eq!(table.columns, columns.split_whitespace().collect::<Vec<_>>(), "SHOW {name}");
        assert!(table.rows.iter().all(|row| row.len() == table.columns.len()), "SHOW {name}");
    }
    // Every way of writing it.
    for command in ["show pools", "  Show\n\tPooLs  ", "SHOW POOLS;", "SELECT pools", "show \"pools\""] {
        assert_eq!(console.table(command).columns[0], "database", "{command:?}");
    }
}

fn number(row: &Row<'_>, column: &str) -> u64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} is {:?}", &row[column]))
}

#[test]
fn pools_clients_and_servers_tell_the_same_story() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).pool_size(1));
    let [mut active, mut waiting, idle] = [(); 3].map(|()| Wire::new(&proxy));
    let pid = active.value("select pg_backend_pid()");
    active.query("begin");
    waiting.start("select 1");
    let mut console = Console::new(&proxy);
    until("the longest wait is shown", || {
        let pools = console.table("SHOW POOLS");
        let row = pools.find("database", "postgres").unwrap();
        number(&row, "maxwait") * 1_000_000 + number(&row, "maxwait_us") > 100_000
    });
    let pools = console.table("SHOW POOLS");
    let row = pools.find("database", "postgres").unwrap();
    let counts = ["cl_active", "cl_waiting", "sv_active", "sv_idle", "sv_used", "sv_tested", "sv_login"];
    assert_eq!(counts.map(|column| number(&row, column)), [2, 1, 1, 0, 0, 0, 0]);
    assert_eq!((&row["user"], &row["pool_mode"]), ("postgres", "transaction"));
    assert_eq!(
        pools.find("database", "pgbouncer").map(|row| row["pool_mode"].to_owned()).as_deref(),
        Some("statement")
    );

    let servers = console.table("SHOW SERVERS");
    let clients = console.table("SHOW CLIENTS");
    let [server] = servers.iter().collect::<Vec<_>>()[..] else { panic!("{servers:?}") };
    assert_eq!((&server["type"], &server["state"], &server["remote_pid"]), ("S", "active", pid.as_str()));
    assert_eq!((&server["port"], &server["addr"]), (postgres.port().to_string().as_str(), "127.0.0.1"));
    let states = |table: &Table| {
        let mut states: Vec<String> =
            table.iter().filter(|row| &row["database"] == "postgres").map(|row| row["state"].to_owned()).collect();
        states.sort();
        states
    };
    assert_eq!(states(&clients), ["active", "active", "waiting"]);
    let linked = clients.iter().find(|row| !row["link"].is_empty()).unwrap();
    assert_eq!(&linked["link"], &server["ptr"], "the client names its server");
    assert_eq!(&server["link"], &linked["ptr"], "and the server its client");
    for row in clients.iter().chain(servers.iter()) {
        assert!(row["connect_time"].ends_with(" UTC") && row["connect_time"].len() == 23, "{row:?}");
        assert!(row["connect_time"] <= row["request_time"], "{row:?}");
        assert_eq!((&row["tls"], &row["close_needed"], &row["replication"]), ("", "0", "none"));
    }
    let waits = clients.find("state", "waiting").unwrap();
    assert!(number(&waits, "wait") * 1_000_000 + number(&waits, "wait_us") > 100_000);

    let lists = console.table("SHOW LISTS");
    let item = |name: &str| number(&lists.find("list", name).unwrap(), "items");
    assert_eq!(["pools", "used_clients", "login_clients", "used_servers"].map(item), [2, 4, 0, 1]);
    let databases = console.table("SHOW DATABASES");
    let row = databases.find("name", "postgres").unwrap();
    assert_eq!(
        ["pool_size", "current_connections", "current_client_connections", "paused", "disabled"]
            .map(|column| number(&row, column)),
        [1, 1, 3, 0, 0]
    );
    active.query("commit");
    assert_eq!(waiting.reply().value(), "1");
    drop(idle);
    console.until_pool("postgres", "cl_active", 2);
}

#[test]
fn stats_count_what_was_done() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).setting("stats_period", "1"));
    let mut console = Console::new(&proxy);
    let mut client = Wire::new(&proxy);
    for _ in 0..10 {
        client.query("begin");
        client.query("select repeat('x', 10000)");
        client.query("select pg_sleep(0.001)");
        client.query("commit");
    }
    client.query("select 1; select 2");
    // Counted when the server is given back.
    console.until_quiet("postgres");
    let stats = console.table("SHOW STATS");
    let row = stats.find("database", "postgres").unwrap();
    assert_eq!(
        ["total_xact_count", "total_query_count", "total_server_assignment_count", "total_client_login_count"]
            .map(|column| number(&row, column)),
        [11, 41, 11, 1]
    );
    let (received, sent) = (number(&row, "total_received"), number(&row, "total_sent"));
    assert!((500..5_000).contains(&received) && (100_000..110_000).contains(&sent), "{received} in, {sent} out");
    let (xact, query) = (number(&row, "total_xact_time"), number(&row, "total_query_time"));
    assert!(10_000 <= query && query <= xact && xact < 60_000_000, "{query} us of queries in {xact} us");
    until("averages are shown", || {
        client.query("select 1");
        let stats = console.table("SHOW STATS");
        number(&stats.find("database", "postgres").unwrap(), "avg_query_count") > 0
    });
    let totals = console.table("SHOW TOTALS");
    assert!(number(&totals.find("name", "total_query_count").unwrap(), "value") >= 41);
    assert!(number(&totals.find("name", "total_server_bytes").unwrap(), "value") >= sent.min(received));
    crate::support::until_logged(&proxy, "stats: ");
    assert!(proxy.log().contains(" xacts/s, ") && proxy.log().contains(" queries/s, "));
}

#[test]
fn config_and_version() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).setting("query_wait_timeout", "7").pool_size(9));
    let mut console = Console::new(&proxy);
    let config = console.table("SHOW CONFIG");
    let row = |key: &str| {
        let row = config.find("key", key).unwrap_or_else(|| panic!("no {key}"));
        (row["value"].to_owned(), row["default"].to_owned(), row["changeable"].to_owned())
    };
    let expect = |value: &str, default: &str, changeable: &str| (value.into(), default.into(), changeable.into());
    assert_eq!(row("query_wait_timeout"), expect("7", "120", "yes"));
    assert_eq!(row("default_pool_size"), expect("9", "20", "yes"));
    assert_eq!(row("pool_mode"), expect("transaction", "session", "yes"));
    assert_eq!(row("listen_port"), expect(&proxy.port().to_string(), "6432", "no"));
    assert_eq!(row("server_reset_query"), expect("DISCARD ALL", "DISCARD ALL", "yes"));
    let version = console.table("SHOW VERSION").rows[0][0].clone();
    assert!(version.starts_with("PgBouncer 1."), "{version}");
    assert_eq!(console.table("SHOW STATE").rows, [["active", "yes"], ["paused", "no"], ["suspended", "no"]]);
}

#[test]
fn what_a_console_client_is_told_at_login() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    let mut console = Console::new(&proxy);
    let parameters = console.wire().parameters.clone();
    assert!(parameters["server_version"].ends_with("/bouncer"), "{parameters:?}");
    assert_eq!(parameters["client_encoding"], "UTF8");
    // What drivers ask right after the login.
    assert_eq!(console.table("show timezone").rows, [["GMT"]]);
    for command in ["SET client_encoding TO 'UTF8'", "set datestyle = 'ISO'", "SET standard_conforming_strings=on;"] {
        let reply = console.wire().query(command);
        assert_eq!((reply.kinds.as_str(), reply.tags.as_slice()), ("NCZ", &["SET".to_owned()][..]), "{command}");
    }
    let reply = console.wire().query("show help");
    assert_eq!((reply.kinds.as_str(), reply.tags.as_slice()), ("NCZ", &["SHOW".to_owned()][..]));
    assert_eq!(console.wire().query(";").kinds, "IZ");
}

#[test]
fn who_may_do_what() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    let refused = |text: &str| Refusal { severity: "ERROR".into(), sqlstate: "08P01".into(), text: text.into() };
    let mut stats = Wire::login(&proxy, &[("user", "stats"), ("database", "pgbouncer")]);
    assert_eq!(stats.query("SHOW POOLS").refusal, None);
    for command in ["PAUSE", "resume", "RELOAD", "SHUTDOWN", "kill postgres", "RECONNECT;"] {
        assert_eq!(stats.query(command).refusal, Some(refused("admin access needed")), "{command}");
    }
    assert_eq!(stats.query("SHOW VERSION").status, b'I');
    let not_allowed = Wire::try_login(&proxy, &[("user", "alice"), ("database", "pgbouncer")]).unwrap_err();
    assert_eq!(not_allowed, Refusal::fatal("not allowed"));
    let unknown = Wire::try_login(&proxy, &[("user", "mallory"), ("database", "pgbouncer")]).unwrap_err();
    assert_eq!(unknown, Refusal::fatal("\"trust\" authentication failed"));
    let mut console = Console::new(&proxy);
    for command in ["nonsense", "SHOW nonsense", "PAUSE a b", "SHOW POOLS; SHOW STATS", "select 1", "SHUTDOWN now"] {
        let text = format!("invalid command '{command}', use SHOW HELP;");
        assert_eq!(console.refused(command), refused(&text));
    }
    assert_eq!(console.refused("PAUSE missing"), refused("no such database: missing"));
    assert_eq!(console.refused("PAUSE pgbouncer"), refused("cannot pause admin db: pgbouncer"));
    assert_eq!(console.refused("KILL pgbouncer"), refused("cannot kill admin db: pgbouncer"));
    assert_eq!(console.refused("RESUME"), refused("pooler is not paused/suspended"));
    assert_eq!(console.refused("RESUME postgres"), refused("database postgres is not paused"));
}

#[test]
fn the_extended_protocol_is_refused() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    for kind in *b"PBDECS" {
        let mut console = Console::new(&proxy);
        console.wire().send_raw(&message(kind, b"\0show pools\0\0\0"));
        let expected = Refusal::fatal("extended query protocol not supported by admin console");
        assert_eq!(console.wire().last_words(), expected, "{}", char::from(kind));
    }
    let mut console = Console::new(&proxy);
    console.wire().send_raw(&message(b'?', b""));
    assert_eq!(console.wire().last_words(), Refusal::fatal("unknown pkt"));
    assert!(Psql::new(proxy.conninfo().dbname("pgbouncer")).text("show version").unwrap().starts_with("PgBouncer"));
}
