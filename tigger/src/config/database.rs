//! One line of `[databases]`: where clients of a database are routed, and what applies there instead of the settings.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::choice::{KernelPath, LoadBalanceHosts, PoolMode};
use super::connection_string::{self, Key};
use super::ini::Entry;
use super::kind::Kind;
use super::secret::Secret;
use super::{ConfigError, Warning};

/// A database as clients name it. A field that is `None` means: the setting of the same name applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Name that clients use; `*` in the fallback entry itself.
    pub name: String,
    /// Made from the fallback entry `*` for the name a client asked for.
    pub auto: bool,
    /// Name at the server, if it differs; see [`Database::server_dbname`].
    pub dbname: Option<String>,
    /// Where the server is; never empty in a checked configuration.
    pub hosts: Vec<Host>,
    /// Which of them a new server is on.
    pub load_balance_hosts: LoadBalanceHosts,
    /// Port of the server, or the number in the name of its unix socket.
    pub port: u16,
    /// User for all server connections, instead of the client's: one pool for the database.
    pub user: Option<String>,
    /// Password for `user`; without it the one of `auth_file` is used.
    pub password: Option<Secret>,
    /// Most servers of a pool, instead of `default_pool_size`.
    pub pool_size: Option<u32>,
    /// Servers kept open.
    pub min_pool_size: Option<u32>,
    /// Servers beyond `pool_size` when clients wait.
    pub reserve_pool_size: Option<u32>,
    /// Most servers of all pools of this database.
    pub max_db_connections: Option<u32>,
    /// Most clients of this database.
    pub max_db_client_connections: Option<u32>,
    /// SQL run on each new server.
    pub connect_query: Option<String>,
    /// When a server goes back to its pool.
    pub pool_mode: Option<PoolMode>,
    /// Age at which an unused server is closed.
    pub server_lifetime: Option<Duration>,
    /// Longest wait for a server; zero = no limit.
    pub query_wait_timeout: Option<Duration>,
    /// Whether queries and results may move inside the kernel.
    pub kernel_path: Option<KernelPath>,
    /// Bytes of replies that the kernel path may have queued for a client.
    pub kernel_path_reply_limit: Option<u32>,
    /// Start parameter for the server.
    pub client_encoding: Option<String>,
    /// Start parameter for the server.
    pub datestyle: Option<String>,
    /// Start parameter for the server.
    pub timezone: Option<String>,
    /// Start parameter for the server.
    pub application_name: Option<String>,
}

impl Database {
    /// A database at `host` with nothing else said: what the line `name = host=… ` gives.
    pub fn new(name: impl Into<String>, host: Host) -> Self {
        Self {
            name: name.into(),
            auto: false,
            dbname: None,
            hosts: vec![host],
            load_balance_hosts: LoadBalanceHosts::default(),
            port: 5432,
            user: None,
            password: None,
            pool_size: None,
            min_pool_size: None,
            reserve_pool_size: None,
            max_db_connections: None,
            max_db_client_connections: None,
            connect_query: None,
            pool_mode: None,
            server_lifetime: None,
            query_wait_timeout: None,
            kernel_path: None,
            kernel_path_reply_limit: None,
            client_encoding: None,
            datestyle: None,
            timezone: None,
            application_name: None,
        }
    }

    /// Name of the database at the server: `dbname`, or the name clients use.
    pub fn server_dbname(&self) -> &str {
        self.dbname.as_deref().unwrap_or(&self.name)
    }

    /// True when a server connected under `other` could as well have been connected under this line.
    pub fn reaches_same_server(&self, other: &Self) -> bool {
        let key = |line: &Self| (line.hosts.clone(), line.port, line.server_dbname().to_owned(), line.user.clone());
        key(self) == key(other)
            && self.password == other.password
            && self.connect_query == other.connect_query
            && self.startup_parameters().eq(other.startup_parameters())
    }

    /// The hosts as they were written.
    pub fn host_list(&self) -> String {
        self.hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(",")
    }

    /// Parameters that the line sets for each new server connection, besides user and database.
    pub fn startup_parameters(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("client_encoding", &self.client_encoding),
            ("datestyle", &self.datestyle),
            ("timezone", &self.timezone),
            ("application_name", &self.application_name),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    /// Reads one line. `unix_socket_dir` is the place of the server when the line names no host, as in PgBouncer.
    pub(super) fn parse(
        entry: &Entry,
        unix_socket_dir: Option<&str>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, ConfigError> {
        let error = |message: String| ConfigError::new(entry.place.clone(), message);
        if entry.key == ADMIN_DATABASE {
            return Err(error(format!("database name {ADMIN_DATABASE:?} is reserved")));
        }
        let mut database = Self::new(&entry.key, Host::Unix(String::new()));
        database.hosts.clear();
        connection_string::fill(KEYS, &entry.value, &entry.place, &mut database, warnings)?;
        if database.port == 0 {
            return Err(error("invalid port: 0".to_owned()));
        }
        if database.hosts.is_empty() {
            let dir = unix_socket_dir
                .ok_or_else(|| error(format!("database {:?} has no host, and unix_socket_dir is empty", entry.key)))?;
            database.hosts.push(Host::Unix(dir.to_owned()));
        }
        Ok(database)
    }

    /// The fallback entry turned into a database of the name a client asked for.
    pub(super) fn for_name(&self, name: &str) -> Self {
        Self { name: name.to_owned(), auto: true, ..self.clone() }
    }
}

/// Where a server, or a peer, is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// Host name or address.
    Tcp(String),
    /// Directory of a unix socket; with `@` in front it is in the abstract namespace of Linux.
    Unix(String),
}

impl Host {
    /// Reads one host: a text that starts with `/` or `@` is a directory.
    ///
    /// # Errors
    /// An empty text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" => Err("empty host".to_owned()),
            dir if dir.starts_with(['/', '@']) => Ok(Self::Unix(dir.to_owned())),
            name => Ok(Self::Tcp(name.to_owned())),
        }
    }

    /// Name of the socket in a unix socket directory, as PostgreSQL names it; `None` for TCP.
    pub fn unix_socket(&self, port: u16) -> Option<PathBuf> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(dir) => Some(PathBuf::from(dir).join(format!(".s.PGSQL.{port}"))),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(text) | Self::Unix(text) => f.write_str(text),
        }
    }
}

/// Name of the database that is the admin console.
pub const ADMIN_DATABASE: &str = "pgbouncer";

/// Name of the entry that stands for every database without one.
pub(super) const FALLBACK: &str = "*";

/// All keys of a line in `[databases]`.
pub(super) const KEYS: &[Key<Database>] = &[
    Key {
        name: "dbname",
        kind: Kind::Text(Some(|d| &mut d.dbname)),
        doc: "Name of the database at the server. Without it, the name that the client asked for.",
    },
    Key {
        name: "host",
        kind: Kind::Hosts(Some(|d| &mut d.hosts)),
        doc: "Name or address of the server. A value that starts with `/` is the directory of a unix socket; with `@` the \
              socket is in the abstract namespace. Without a host the unix socket in `unix_socket_dir` is used. A list \
              separated by commas: see `load_balance_hosts`. Of a name with several addresses, each new server begins \
              with the next one, and tries all; see `dns_max_ttl`.",
    },
    Key {
        name: "port",
        kind: Kind::Port(Some(|d| &mut d.port)),
        doc: "Port of the server, 5432 if not given. With a unix socket it is the number in the socket's name.",
    },
    Key {
        name: "user",
        kind: Kind::Text(Some(|d| &mut d.user)),
        doc: "User for all server connections of this database, which then has one pool. Without it servers are logged in \
              as the client's user, with a pool for each user.",
    },
    Key {
        name: "password",
        kind: Kind::Concealed(Some(|d| &mut d.password)),
        doc: "Password for `user`. Without it the secret in `auth_file` is used.",
    },
    Key { name: "auth_user", kind: Kind::Text(None), doc: "Overrides the setting `auth_user`." },
    Key {
        name: "auth_query",
        kind: Kind::Text(None),
        doc: "Overrides the setting `auth_query`. The query stands in single quotes.",
    },
    Key { name: "auth_dbname", kind: Kind::Text(None), doc: "Overrides the setting `auth_dbname`." },
    Key {
        name: "pool_size",
        kind: Kind::CountOverride(Some(|d| &mut d.pool_size)),
        doc: "Most servers in each pool of this database, instead of `default_pool_size`. A `pool_size` of the user wins.",
    },
    Key {
        name: "min_pool_size",
        kind: Kind::CountOverride(Some(|d| &mut d.min_pool_size)),
        doc: "Overrides the setting `min_pool_size`.",
    },
    Key {
        name: "reserve_pool_size",
        kind: Kind::CountOverride(Some(|d| &mut d.reserve_pool_size)),
        doc: "Overrides the setting `reserve_pool_size`. That of the user wins.",
    },
    Key {
        name: "reserve_pool",
        kind: Kind::CountOverride(Some(|d| &mut d.reserve_pool_size)),
        doc: "Old name of `reserve_pool_size`.",
    },
    Key {
        name: "connect_query",
        kind: Kind::Text(Some(|d| &mut d.connect_query)),
        doc: "SQL that is run once on each new server before clients may use it. It stands in single quotes. An error is logged \
              and changes nothing, but it must not leave a transaction open. What it sets lasts until `server_reset_query` \
              runs.",
    },
    Key {
        name: "pool_mode",
        kind: Kind::PoolModeOverride(Some(|d| &mut d.pool_mode)),
        doc: "Overrides the setting `pool_mode`. That of the user wins.",
    },
    Key {
        name: "query_wait_timeout",
        kind: Kind::TimeoutOverride(Some(|d| &mut d.query_wait_timeout)),
        doc: "Overrides the setting `query_wait_timeout`. That of the user wins.",
    },
    Key {
        name: "load_balance_hosts",
        kind: Kind::LoadBalanceHosts(Some(|d| &mut d.load_balance_hosts)),
        doc: "Which of several hosts a new server is on: with `round-robin` the next one in the list, with `disable` the same \
              one until a connection to it fails, and then the next. Not given, `round-robin`.",
    },
    Key {
        name: "max_db_connections",
        kind: Kind::Limit(Some(|d| &mut d.max_db_connections)),
        doc: "Most servers of all pools of this database together. 0 means that the setting applies.",
    },
    Key {
        name: "max_db_client_connections",
        kind: Kind::Limit(Some(|d| &mut d.max_db_client_connections)),
        doc: "Most clients of this database. 0 means that the setting applies.",
    },
    Key {
        name: "server_lifetime",
        kind: Kind::Timeout(Some(|d| &mut d.server_lifetime)),
        doc: "Overrides the setting `server_lifetime`. Here 0 means that the setting applies.",
    },
    Key {
        name: "kernel_path",
        kind: Kind::KernelPathOverride(Some(|d| &mut d.kernel_path)),
        doc: "Overrides the setting `kernel_path`. That of the user wins. PgBouncer does not have it.",
    },
    Key {
        name: "kernel_path_reply_limit",
        kind: Kind::CountOverride(Some(|d| &mut d.kernel_path_reply_limit)),
        doc: "Overrides the setting `kernel_path_reply_limit`. That of the user wins. PgBouncer does not have it.",
    },
    Key {
        name: "client_encoding",
        kind: Kind::Text(Some(|d| &mut d.client_encoding)),
        doc: "Value of `client_encoding` asked of each new server.",
    },
    Key {
        name: "datestyle",
        kind: Kind::Text(Some(|d| &mut d.datestyle)),
        doc: "Value of `DateStyle` asked of each new server.",
    },
    Key {
        name: "timezone",
        kind: Kind::Text(Some(|d| &mut d.timezone)),
        doc: "Value of `TimeZone` asked of each new server.",
    },
    Key {
        name: "application_name",
        kind: Kind::Text(Some(|d| &mut d.application_name)),
        doc: "Value of `application_name` asked of each new server.",
    },
];
