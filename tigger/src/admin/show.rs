//! What SHOW shows: one table of tables, with PgBouncer's columns in its order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tigger_bypass::{Carried, Carries};
use tigger_proto::pool::{ClientId, ServerState, ServerView, Waiting};
use tigger_proto::replication::Replication;
use tigger_proto::wire::backend::{self, ColumnType};

use super::PGBOUNCER_VERSION;
use crate::config::{ADMIN_DATABASE, Choice, Database};
use crate::net::address::Address;
use crate::net::resolver::Known;
use crate::pooler::Pooler;
use crate::pooler::clients::{ClientInfo, LoggedIn};
use crate::pooler::pool::{Pool, PoolCore};
use crate::pooler::server_conn::ServerInfo;
use crate::pooler::stats::Tally;
use crate::process::unix_micros_of;

/// A result of SHOW.
pub(super) struct Table {
    /// The word after SHOW.
    pub(super) name: &'static str,
    /// `name:type` of each column; s text, i int4, q int8, N numeric.
    columns: &'static str,
    rows: fn(&Arc<Pooler>) -> Vec<Row>,
}

/// Values of a row; `None` is NULL.
type Row = Vec<Option<String>>;

pub(super) const TABLES: &[Table] = &[
    Table {
        name: "CLIENTS",
        columns: "type:s user:s database:s replication:s state:s addr:s port:i local_addr:s local_port:i \
                  connect_time:s request_time:s wait:i wait_us:i close_needed:i ptr:s link:s remote_pid:i \
                  tls:s application_name:s prepared_statements:i id:i path:s",
        rows: clients,
    },
    Table { name: "CONFIG", columns: "key:s value:s default:s changeable:s", rows: config },
    Table {
        name: "DATABASES",
        columns: "name:s host:s port:i database:s force_user:s pool_size:i min_pool_size:i reserve_pool_size:i \
                  server_lifetime:i pool_mode:s load_balance_hosts:s max_connections:i current_connections:i \
                  max_client_connections:i current_client_connections:i paused:i disabled:i",
        rows: databases,
    },
    Table { name: "DNS_HOSTS", columns: "hostname:s ttl:q addrs:s", rows: dns_hosts },
    // Zones are not asked for.
    Table { name: "DNS_ZONES", columns: "zonename:s serial:q count:i", rows: |_| Vec::new() },
    Table { name: "KERNEL_PATH", columns: "name:s value:s", rows: kernel_path },
    Table {
        name: "LATENCIES",
        columns: "database:s user:s queries:N p50_us:N p90_us:N p99_us:N max_us:N",
        rows: latencies,
    },
    Table { name: "LISTS", columns: "list:s items:i", rows: lists },
    Table {
        name: "POOLS",
        columns: "database:s user:s cl_active:i cl_waiting:i cl_active_cancel_req:i cl_waiting_cancel_req:i \
                  sv_active:i sv_active_cancel:i sv_being_canceled:i sv_idle:i sv_used:i sv_tested:i sv_login:i \
                  maxwait:i maxwait_us:i pool_mode:s load_balance_hosts:s",
        rows: pools,
    },
    Table { name: "SERVERS", columns: SOCKET_COLUMNS, rows: servers },
    Table { name: "STATE", columns: "key:s value:s", rows: state },
    Table {
        name: "STATS",
        columns: "database:s total_server_assignment_count:N total_xact_count:N total_query_count:N total_received:N \
                  total_sent:N total_xact_time:N total_query_time:N total_wait_time:N total_client_parse_count:N \
                  total_server_parse_count:N total_bind_count:N total_client_login_count:N \
                  avg_server_assignment_count:N avg_xact_count:N avg_query_count:N avg_recv:N avg_sent:N \
                  avg_xact_time:N avg_query_time:N avg_wait_time:N avg_client_parse_count:N avg_server_parse_count:N \
                  avg_bind_count:N avg_client_login_count:N",
        rows: stats,
    },
    Table { name: "TOTALS", columns: "name:s value:N", rows: totals },
    Table { name: "VERSION", columns: "version:s", rows: version },
];

const SOCKET_COLUMNS: &str = "type:s user:s database:s replication:s state:s addr:s port:i local_addr:s local_port:i \
                              connect_time:s request_time:s wait:i wait_us:i close_needed:i ptr:s link:s remote_pid:i \
                              tls:s application_name:s prepared_statements:i id:i";

/// The table that SHOW `name` asks for.
pub(super) fn find(name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name.eq_ignore_ascii_case(name))
}

impl Table {
    /// Appends RowDescription and rows.
    pub(super) fn write(&self, pooler: &Arc<Pooler>, out: &mut Vec<u8>) {
        let columns: Vec<_> = self.columns.split_whitespace().map(column).collect();
        backend::row_description(out, columns.iter().copied());
        for row in (self.rows)(pooler) {
            debug_assert_eq!(row.len(), columns.len(), "SHOW {}", self.name);
            backend::data_row(out, &row);
        }
    }
}

fn column(text: &'static str) -> (&'static str, ColumnType) {
    let (name, ty) = text.split_once(':').unwrap_or((text, "s"));
    let ty = match ty {
        "i" => ColumnType::Int4,
        "q" => ColumnType::Int8,
        "N" => ColumnType::Numeric,
        _ => ColumnType::Text,
    };
    (name, ty)
}

/// Names of the databases that a command is about.
pub(super) fn names(pooler: &Pooler, only: Option<&str>) -> Vec<Arc<str>> {
    match only {
        Some(name) => vec![name.into()],
        None => pooler.database_names().into_iter().map(Arc::from).collect(),
    }
}

macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$(Some($value.to_string())),*] };
}

fn version(_: &Arc<Pooler>) -> Vec<Row> {
    vec![row![format!("PgBouncer {PGBOUNCER_VERSION} (Tigger {})", env!("CARGO_PKG_VERSION"))]]
}

fn state(pooler: &Arc<Pooler>) -> Vec<Row> {
    let names = names(pooler, None);
    let paused = !names.is_empty() && names.iter().all(|name| pooler.database_state(name).is_paused());
    let yes = |value: bool| if value { "yes" } else { "no" };
    let suspended = pooler.suspension.current().is_some();
    vec![row!["active", yes(!paused && !suspended)], row!["paused", yes(paused)], row!["suspended", yes(suspended)]]
}

fn config(pooler: &Arc<Pooler>) -> Vec<Row> {
    let yes = |value: bool| Some(if value { "yes" } else { "no" }.to_owned());
    let row = |row: crate::config::ConfigRow| {
        vec![Some(row.key.to_owned()), row.value, row.default.map(str::to_owned), yes(row.changeable)]
    };
    pooler.config().rows().map(row).collect()
}

fn databases(pooler: &Arc<Pooler>) -> Vec<Row> {
    let config = pooler.config();
    let clients = pooler.clients.all();
    let mut rows: Vec<Row> = pooler
        .database_names()
        .iter()
        .filter_map(|name| Some(database_row(pooler, &*config.database(name)?)))
        .collect();
    let consoles = consoles(&clients);
    let mut console = row![
        ADMIN_DATABASE,
        "",
        config.settings.listen_port,
        ADMIN_DATABASE,
        ADMIN_DATABASE,
        2,
        0,
        0,
        3600,
        "statement",
        "",
        0,
        0,
        0,
        consoles,
        0,
        0
    ];
    console[1] = None;
    console[10] = None;
    rows.push(console);
    rows
}

fn database_row(pooler: &Pooler, line: &Database) -> Row {
    let config = pooler.config();
    let settings = config.pool_settings(line, line.user.as_deref().unwrap_or_default());
    let state = pooler.database_state(&line.name.as_str().into());
    let mut row = row![
        line.name,
        line.host_list(),
        line.port,
        line.server_dbname(),
        "",
        settings.pool_size,
        settings.min_pool_size,
        settings.reserve_pool_size,
        settings.server_lifetime.as_secs(),
        settings.pool_mode,
        "",
        settings.max_db_connections.unwrap_or(0),
        state.connections(),
        config.db_client_limit(line).unwrap_or(0),
        pooler.clients.of_database(&line.name),
        u8::from(state.is_paused()),
        0,
    ];
    row[4].clone_from(&line.user);
    row[10] = load_balance_hosts(line);
    row
}

/// NULL where there is nothing to choose, as in PgBouncer.
fn load_balance_hosts(line: &Database) -> Option<String> {
    (line.hosts.len() > 1).then(|| line.load_balance_hosts.word().to_owned())
}

fn consoles(clients: &[Arc<ClientInfo>]) -> usize {
    clients.iter().filter(|info| info.is_console()).count()
}

fn pools(pooler: &Arc<Pooler>) -> Vec<Row> {
    let clients = pooler.clients.all();
    let mut rows: Vec<Row> = pooler.pools().iter().map(|pool| pool_row(pool, &clients)).collect();
    let mut console =
        row![ADMIN_DATABASE, ADMIN_DATABASE, consoles(&clients), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "statement", ""];
    console[16] = None;
    rows.push(console);
    rows
}

fn pool_row(pool: &Arc<Pool>, clients: &[Arc<ClientInfo>]) -> Row {
    let now = Instant::now();
    let (servers, waiting, maxwait): (Vec<ServerView>, usize, _) = pool.run(|core: &mut PoolCore| {
        let oldest = core.waiting().next().map(|waiting: &Waiting<_>| now.saturating_duration_since(waiting.since));
        (core.servers().collect(), core.waiting_count(), oldest.unwrap_or_default())
    });
    let count = |state: fn(&ServerState) -> bool| servers.iter().filter(|view| state(&view.state)).count();
    let cancels: u32 = servers.iter().map(|view| view.cancels).sum();
    let mine = clients.iter().filter(|info| info.pool().is_some_and(|its| Arc::ptr_eq(&its, pool)));
    let active = mine.filter(|info| !info.is_waiting()).count();
    let mut row = row![
        pool.database,
        pool.user,
        active,
        waiting,
        cancels,
        0,
        count(|state| matches!(state, ServerState::Active(_))),
        cancels,
        count(|state| *state == ServerState::BeingCanceled),
        count(|state| *state == ServerState::Idle),
        0,
        count(|state| *state == ServerState::Tested),
        count(|state| *state == ServerState::Login),
        maxwait.as_secs(),
        maxwait.subsec_micros(),
        pool.link_rules().mode,
        "",
    ];
    row[16] = load_balance_hosts(&pool.config().database);
    row
}

/// What SHOW CLIENTS and SHOW SERVERS have in common.
struct Socket<'a> {
    kind: &'a str,
    user: &'a str,
    database: &'a str,
    replication: Option<Replication>,
    state: &'a str,
    remote: Address,
    local: Address,
    connected_at: u64,
    request_at: Instant,
    wait_us: u64,
    close_needed: bool,
    serial: u64,
    link: u64,
    remote_pid: u32,
    application_name: &'a str,
    prepared: usize,
}

impl Socket<'_> {
    fn row(&self) -> Row {
        let pointer = |serial: u64| if serial == 0 { String::new() } else { format!("{serial:#x}") };
        row![
            self.kind,
            self.user,
            self.database,
            self.replication.map_or("none", Replication::word),
            self.state,
            self.remote.host(),
            self.remote.port(),
            self.local.host(),
            self.local.port(),
            timestamp(self.connected_at),
            timestamp(unix_micros_of(self.request_at)),
            self.wait_us / 1_000_000,
            self.wait_us % 1_000_000,
            u8::from(self.close_needed),
            pointer(self.serial),
            pointer(self.link),
            self.remote_pid,
            "",
            self.application_name,
            self.prepared,
            self.serial,
        ]
    }
}

fn timestamp(micros: u64) -> String {
    i64::try_from(micros)
        .ok()
        .and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok())
        .map_or_else(String::new, |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

fn clients(pooler: &Arc<Pooler>) -> Vec<Row> {
    let links = kernel_links(pooler);
    let row = |info: &Arc<ClientInfo>| {
        let login = info.login()?;
        let waiting = info.is_waiting();
        let kernel = info.kernel();
        let carried_at = kernel.as_ref().and_then(|kernel| kernel.request_at());
        let asked_at = info.request_at.load();
        let request_at = carried_at.map_or(asked_at, |carried_at| carried_at.max(asked_at));
        let socket = Socket {
            kind: "C",
            user: &login.user,
            database: login.pool.as_ref().map_or(ADMIN_DATABASE, |pool| &pool.database),
            replication: login.replication,
            state: if waiting { "waiting" } else { "active" },
            remote: info.remote,
            local: info.local,
            connected_at: info.connected_at,
            request_at,
            wait_us: if waiting { request_at.elapsed().as_micros() as u64 } else { 0 },
            close_needed: false,
            serial: info.id.0,
            link: links.get(&info.id).copied().unwrap_or_else(|| info.server()),
            remote_pid: 0,
            application_name: &login.application_name,
            prepared: info.prepared.load(Ordering::Relaxed),
        };
        let mut row = socket.row();
        row.push(Some(path(pooler, info, &login)));
        Some(row)
    };
    pooler.clients.all().iter().filter_map(row).collect()
}

/// Serials of the servers to which the kernel path has linked clients.
fn kernel_links(pooler: &Pooler) -> HashMap<ClientId, u64> {
    let links = |pool: Arc<Pool>| {
        let linked: Vec<_> = pool
            .run(|core| core.servers().filter_map(|view| Some((core.linked_by_kernel(view.id)?, view.id))).collect());
        linked.into_iter().filter_map(move |(client, server)| Some((client, pool.server_info(server)?.serial)))
    };
    pooler.pools().into_iter().flat_map(links).collect()
}

/// Column `path`: which path serves a client, and why not the kernel's.
fn path(pooler: &Pooler, info: &ClientInfo, login: &LoggedIn) -> String {
    let why = match (info.kernel(), login.pool.as_deref()) {
        _ if info.is_listening() => "listens",
        (Some(kernel), _) if kernel.reason().is_empty() => {
            return match kernel.carries() {
                Carries::Both => "kernel",
                Carries::Requests => "kernel (requests)",
                Carries::Replies => "kernel (replies)",
            }
            .into();
        }
        (Some(kernel), _) => kernel.reason(),
        (None, None) => "console",
        (None, Some(_)) if login.replication.is_some() => "replication",
        (None, Some(_)) if pooler.kernel_path.unavailable().is_some() => "off",
        (None, Some(pool)) if pool.shared().is_none() => "disabled",
        (None, Some(_)) if info.remote.socket_addr().is_none() => "unix_socket",
        (None, Some(_)) => "remote",
    };
    format!("user ({why})")
}

fn servers(pooler: &Arc<Pooler>) -> Vec<Row> {
    pooler.pools().iter().flat_map(pool_servers).collect()
}

fn pool_servers(pool: &Arc<Pool>) -> Vec<Row> {
    let views: Vec<ServerView> = pool.run(|core| core.servers().collect());
    let row = |view: &ServerView| {
        let (state, link) = match view.state {
            ServerState::Login => ("login", 0),
            ServerState::Idle => ("idle", 0),
            ServerState::Active(client) => ("active", client.0),
            ServerState::Tested => ("tested", 0),
            ServerState::BeingCanceled => ("being_canceled", 0),
        };
        // A server that is logging in is not entered yet.
        Some(server_row(pool, &*pool.server_info(view.id)?, state, link, view.close_needed))
    };
    let listening = pool.listening_server().map(|info| server_row(pool, &info, "active", 0, false));
    views.iter().filter_map(row).chain(listening).collect()
}

fn server_row(pool: &Pool, info: &ServerInfo, state: &str, link: u64, close_needed: bool) -> Row {
    let application_name = Arc::clone(&info.application_name.lock().expect("nobody panics with this lock"));
    let socket = Socket {
        kind: "S",
        user: &pool.user,
        database: &pool.database,
        replication: info.replication,
        state,
        remote: info.remote,
        local: info.local,
        connected_at: info.connected_at,
        request_at: info.request_at.load(),
        wait_us: 0,
        close_needed,
        serial: info.serial,
        link,
        remote_pid: info.remote_pid,
        application_name: &application_name,
        prepared: info.prepared.load(Ordering::Relaxed),
    };
    socket.row()
}

fn kernel_path(pooler: &Arc<Pooler>) -> Vec<Row> {
    let path = &pooler.kernel_path;
    let on = path.unavailable().is_none();
    let programs = path.programs().iter().map(|(name, len)| format!("{name} ({len} instructions)"));
    let mut rows = vec![
        row!["enabled", if on { "yes" } else { "no" }],
        row!["reason", path.unavailable().unwrap_or_default()],
        row!["programs", programs.collect::<Vec<_>>().join(", ")],
    ];
    let pools = pooler.pools();
    let linked = |pool: &Arc<Pool>| pool.run(|core| core.linked_by_kernel_count());
    let carried = pools.iter().fold(Carried::default(), |sum, pool| sum.plus(&pool.carried()));
    let all = pooler.totals().values().map(|tally| tally.query_count).sum::<u64>();
    rows.extend([
        row!["linked_now", pools.iter().map(linked).sum::<usize>()],
        row!["requests_kernel", carried.requests],
        row!["requests_user", all.saturating_sub(carried.requests)],
        row!["replies_kernel", carried.queries],
        row!["replies_user", all.saturating_sub(carried.queries)],
    ]);
    if let Some(totals) = path.totals() {
        rows.push(row!["captured", totals.captured]);
        rows.push(row!["capture_failed", totals.capture_failed]);
        rows.extend(totals.reasons.iter().map(|(reason, count)| row![format!("left_{reason}"), count]));
    }
    rows
}

/// Upper limits, at most twice the time it was.
fn latencies(pooler: &Arc<Pooler>) -> Vec<Row> {
    let row = |pool: &Arc<Pool>| {
        let latencies = pool.latencies();
        let names = [pool.database.to_string(), pool.user.to_string(), latencies.count().to_string()].map(Some);
        let times = [50, 90, 99, 100].map(|percent| latencies.percentile(percent).map(|time| time.to_string()));
        names.into_iter().chain(times).collect()
    };
    pooler.pools().iter().map(row).collect()
}

fn lists(pooler: &Arc<Pooler>) -> Vec<Row> {
    let pools = pooler.pools();
    let clients = pooler.clients.all();
    let logging_in = clients.iter().filter(|info| info.login().is_none()).count();
    let servers: Vec<ServerState> = pools
        .iter()
        .flat_map(|pool| pool.run(|core| core.servers().map(|view| view.state).collect::<Vec<_>>()))
        .collect();
    vec![
        row!["databases", pooler.database_names().len() + 1],
        row!["users", pooler.users().len()],
        row!["peers", 0],
        row!["pools", pools.len() + 1],
        row!["peer_pools", 0],
        row!["free_clients", 0],
        row!["used_clients", clients.len() - logging_in],
        row!["login_clients", logging_in],
        row!["free_servers", 0],
        row!["used_servers", servers.len()],
        row!["dns_names", pooler.resolver.known(Instant::now()).len()],
        row!["dns_zones", 0],
        row!["dns_queries", pooler.resolver.queries()],
        row!["dns_pending", 0],
    ]
}

fn dns_hosts(pooler: &Arc<Pooler>) -> Vec<Row> {
    let row = |known: Known| {
        let addresses: Vec<String> = known.addresses.iter().map(|address| address.ip().to_string()).collect();
        row![known.name, known.lifetime.as_secs(), addresses.join(",")]
    };
    pooler.resolver.known(Instant::now()).into_iter().map(row).collect()
}

/// Counters of each database, of the console too, which PgBouncer counts as one.
fn all_totals(pooler: &Pooler) -> Vec<(String, Tally)> {
    let mut totals = pooler.totals();
    for name in pooler.config().databases.keys() {
        totals.entry(name.clone()).or_default();
    }
    totals.into_iter().chain([(ADMIN_DATABASE.to_owned(), Tally::default())]).collect()
}

fn stats(pooler: &Arc<Pooler>) -> Vec<Row> {
    let row = |(name, total): (String, Tally)| {
        let averages = pooler.averages(&name);
        let values = total.values().chain(averages.values());
        [name].into_iter().chain(values.map(|value| value.to_string())).map(Some).collect()
    };
    all_totals(pooler).into_iter().map(row).collect()
}

fn totals(pooler: &Arc<Pooler>) -> Vec<Row> {
    let all = all_totals(pooler);
    let total = all.iter().fold(Tally::default(), |sum, (_, tally)| sum.plus(tally));
    let average = all.iter().fold(Tally::default(), |sum, (name, _)| sum.plus(&pooler.averages(name)));
    let rows = |prefix: &'static str, tally: Tally| {
        TOTAL_NAMES
            .iter()
            .zip(tally.values().collect::<Vec<_>>())
            .map(move |(name, value)| row![format!("{prefix}_{name}"), value])
    };
    rows("total", total).chain(rows("avg", average)).collect()
}

/// Names in SHOW TOTALS, in the order of [`Tally::NAMES`].
const TOTAL_NAMES: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// PgBouncer's strings of column types: scripts go by position.
    #[test]
    fn column_types() {
        let check = |name: &str, expected: &str| {
            let table = find(name).unwrap();
            let types: String =
                table.columns.split_whitespace().map(|column| column.split_once(':').unwrap().1).collect();
            assert_eq!(types, expected, "{name}");
        };
        check("databases", "ssissiiiissiiiiii");
        check("pools", "ssiiiiiiiiiiiiiss");
        // With a column of our own at the end.
        check("CLIENTS", "ssssssisissiiississiis");
        check("SERVERS", "ssssssisissiiississii");
        check("CONFIG", "ssss");
        check("STATS", &format!("s{}", "N".repeat(24)));
        check("TOTALS", "sN");
        check("LISTS", "si");
        check("KERNEL_PATH", "ss");
        check("LATENCIES", "ssNNNNN");
        check("VERSION", "s");
        assert_eq!(Tally::NAMES.len(), TOTAL_NAMES.len());
    }
}
