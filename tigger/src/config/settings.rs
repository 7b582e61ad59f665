//! Section `[pgbouncer]`: the checked [`Settings`], and the one table of all settings from which parsing, `SHOW CONFIG`
//! and the manual are made.

use std::path::PathBuf;
use std::time::Duration;

use tigger_proto::wire::version::Version;

use super::choice::{AuthType, KernelPath, PoolMode, StartupParameters};
use super::kind::Kind;

mod login;
mod network;
mod pooling;
mod process;
mod timeouts;
mod tls;

/// Declares the structure and its blank value, so that [`Settings::default`] can fill it from the table alone.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// All settings that something uses, checked. What each means is said in the table, under the same name.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Settings { $($(#[$doc])* pub $name: $type,)* }

        impl Settings {
            fn blank() -> Self {
                Self { $($name: Default::default(),)* }
            }
        }
    };
}

settings! {
    /// Users with all rights at the admin console.
    admin_users: Vec<String>,
    /// File with users and secrets.
    auth_file: Option<PathBuf>,
    /// Time after which an unused automatic database is forgotten.
    autodb_idle_timeout: Duration,
    /// Add the client's address to its `application_name`.
    application_name_add_host: bool,
    /// Longest time for SUSPEND to send what is pending; `None` = not limited.
    suspend_timeout: Option<Duration>,
    /// How long addresses of a host are kept.
    dns_max_ttl: Duration,
    /// How long it is kept that a host has no address.
    dns_nxdomain_ttl: Duration,
    /// How often the addresses of hosts are looked up again; `None` = only for new servers.
    dns_zone_check_period: Option<Duration>,
    /// Time after which an unused pool is forgotten; `None` = never.
    pool_idle_timeout: Option<Duration>,
    /// How clients prove who they are.
    auth_type: AuthType,
    /// Longest wait of a cancel request for a connection; `None` = not limited.
    cancel_wait_timeout: Option<Duration>,
    /// Longest idleness of a client; `None` = not limited.
    client_idle_timeout: Option<Duration>,
    /// Longest idleness in a transaction; `None` = not limited.
    idle_transaction_timeout: Option<Duration>,
    /// Longest query; `None` = not limited.
    query_timeout: Option<Duration>,
    /// Wait for a server after which a client is told; `None` = never.
    query_wait_notify: Option<Duration>,
    /// Longest transaction; `None` = not limited.
    transaction_timeout: Option<Duration>,
    /// Longest time from connecting to the end of the login; `None` = not limited.
    client_login_timeout: Option<Duration>,
    /// Most servers of a pool.
    default_pool_size: u32,
    /// Refuse the simple query protocol.
    disable_pqexec: bool,
    /// Startup parameters that are dropped instead of refused.
    ignore_startup_parameters: Vec<String>,
    /// Addresses to listen on; `*` = all; empty = no TCP.
    listen_addr: Vec<String>,
    /// Whether queries and results may move inside the kernel.
    kernel_path: KernelPath,
    /// Bytes of replies that the kernel path may have queued for a client.
    kernel_path_reply_limit: u32,
    /// Length of the kernel's queue of new connections.
    listen_backlog: u32,
    /// Port to listen on, also in the name of the unix socket.
    listen_port: u16,
    /// Log logins.
    log_connections: bool,
    /// Log the ends of connections.
    log_disconnections: bool,
    /// Log the errors sent to clients.
    log_pooler_errors: bool,
    /// Log statistics each `stats_period`.
    log_stats: bool,
    /// Log file.
    logfile: Option<PathBuf>,
    /// Most clients.
    max_client_conn: u32,
    /// Named prepared statements kept on each server; 0 = they are not tracked.
    max_prepared_statements: u32,
    /// Most servers of a database; `None` = not limited.
    max_db_connections: Option<u32>,
    /// Most clients of a database; `None` = not limited.
    max_db_client_connections: Option<u32>,
    /// Largest message in bytes.
    max_packet_size: u32,
    /// Most servers of a user; `None` = not limited.
    max_user_connections: Option<u32>,
    /// Most clients of a user; `None` = not limited.
    max_user_client_connections: Option<u32>,
    /// Servers of a pool kept open.
    min_pool_size: u32,
    /// File that holds the process id.
    pidfile: Option<PathBuf>,
    /// When a server goes back to its pool.
    pool_mode: PoolMode,
    /// Longest wait of a client for a server; `None` = not limited.
    query_wait_timeout: Option<Duration>,
    /// Servers of a pool beyond its size when clients wait.
    reserve_pool_size: u32,
    /// Wait after which the reserve is used; `None` = never.
    reserve_pool_timeout: Option<Duration>,
    /// Iterations of SCRAM secrets made here.
    scram_iterations: u32,
    /// Idle time up to which a server is used again unchecked; zero = checked at each use.
    server_check_delay: Duration,
    /// SQL that shows whether an idle server is alive; `None` = nothing is checked.
    server_check_query: Option<String>,
    /// Longest time to connect and log in to a server; `None` = not limited.
    server_connect_timeout: Option<Duration>,
    /// Sessions end when their server must be replaced.
    server_fast_close: bool,
    /// Time after which an idle server is closed; `None` = never.
    server_idle_timeout: Option<Duration>,
    /// Age at which an unused server is closed; zero = after one use.
    server_lifetime: Duration,
    /// Newest protocol that servers are asked for.
    server_max_protocol_version: Version,
    /// Pause after a failed login to a server.
    server_login_retry: Duration,
    /// SQL run when a server is released; `None` = nothing.
    server_reset_query: Option<String>,
    /// Run `server_reset_query` in all pool modes.
    server_reset_query_always: bool,
    /// Use the server that was idle longest.
    server_round_robin: bool,
    /// What becomes of start-up parameters that are not tracked.
    startup_parameters: StartupParameters,
    /// Period of averages and of logged statistics.
    stats_period: Duration,
    /// Users who may run `SHOW` at the admin console.
    stats_users: Vec<String>,
    /// Accept connections only once their first bytes have come.
    tcp_defer_accept: bool,
    /// Turn on TCP keepalive.
    tcp_keepalive: bool,
    /// Lost probes after which a connection is dead; `None` = the system's.
    tcp_keepcnt: Option<u32>,
    /// Idle time before the first probe; `None` = the system's.
    tcp_keepidle: Option<Duration>,
    /// Time between probes; `None` = the system's.
    tcp_keepintvl: Option<Duration>,
    /// Bytes of the kernel's buffers of each socket; 0 = the system's.
    tcp_socket_buffer: u32,
    /// Milliseconds that sent data may stay unacknowledged; 0 = the system's.
    tcp_user_timeout: u32,
    /// Parameters kept for each client besides the usual ones.
    track_extra_parameters: Vec<String>,
    /// Directory of the unix socket; with `@` in front abstract; `None` = no unix socket.
    unix_socket_dir: Option<String>,
    /// Group of the unix socket.
    unix_socket_group: Option<String>,
    /// Access mode of the unix socket.
    unix_socket_mode: u32,
    /// User to become after the start.
    user: Option<String>,
    /// Level of detail of the log, 0 to 3.
    verbose: u32,
    /// Threads that serve connections; 0 = one for each core.
    worker_threads: u32,
}

impl Default for Settings {
    /// The values of an empty `[pgbouncer]` section.
    fn default() -> Self {
        let mut settings = Self::blank();
        for setting in all() {
            if let Some(text) = setting.default {
                setting.apply(text, &mut settings).expect("each default fits its kind, a test shows it");
            }
        }
        settings
    }
}

/// One setting of the table.
pub(super) struct Setting {
    /// Name as written.
    pub name: &'static str,
    /// Kind of the value, and the field of [`Settings`] it fills.
    pub kind: Kind<Settings>,
    /// Value without a line in the file, as it would be written; `None` = unset.
    pub default: Option<&'static str>,
    /// Whether a reload can change it.
    pub reloadable: bool,
    /// What the manual says, one paragraph.
    pub doc: &'static str,
}

impl Setting {
    const fn new(name: &'static str, kind: Kind<Settings>, default: Option<&'static str>, doc: &'static str) -> Self {
        Self { name, kind, default, reloadable: true, doc }
    }

    /// A setting that is read only at the start of the process.
    const fn fixed(name: &'static str, kind: Kind<Settings>, default: Option<&'static str>, doc: &'static str) -> Self {
        Self { name, kind, default, reloadable: false, doc }
    }

    /// Stores the value of `text` and returns it as it is shown.
    ///
    /// # Errors
    /// The reason why the text is refused.
    pub(super) fn apply(&self, text: &str, settings: &mut Settings) -> Result<String, String> {
        self.kind.apply(text, settings)
    }

    /// The default as `SHOW CONFIG` shows a value.
    pub(super) fn shown_default(&self) -> Option<String> {
        let text = self.default?;
        Some(self.apply(text, &mut Settings::blank()).expect("each default fits its kind, a test shows it"))
    }

    /// Whether a shown value is another than the default. Unset and empty are the same.
    pub(super) fn differs_from_default(&self, shown: &str) -> bool {
        self.shown_default().unwrap_or_default() != shown
    }

    /// Whether `SET` can change it. The name of the file is reported only.
    pub(super) fn is_changeable(&self) -> bool {
        self.reloadable && self.name != "conffile"
    }
}

/// Settings of one chapter of the manual.
pub(super) struct Group {
    /// Heading.
    pub title: &'static str,
    /// The settings, in the order of the manual.
    pub settings: &'static [Setting],
}

/// The table, in the order of the manual.
pub(super) const GROUPS: &[Group] = &[
    Group { title: "Process and log", settings: process::SETTINGS },
    Group { title: "Listening and network", settings: network::SETTINGS },
    Group { title: "Pools and limits", settings: pooling::SETTINGS },
    Group { title: "Login and admin console", settings: login::SETTINGS },
    Group { title: "Timeouts", settings: timeouts::SETTINGS },
    Group { title: "TLS", settings: tls::SETTINGS },
    Group { title: "Settings that PgBouncer does not have", settings: process::OWN_SETTINGS },
];

/// All settings.
pub(super) fn all() -> impl Iterator<Item = &'static Setting> {
    GROUPS.iter().flat_map(|group| group.settings)
}

/// The setting of that name. Names are case-sensitive, as in PgBouncer.
pub(super) fn find(name: &str) -> Option<&'static Setting> {
    all().find(|setting| setting.name == name)
}
