//! What the configuration says about a pool and its links.

use std::sync::Arc;
use std::time::Duration;

use tigger_proto::client::ClientLimits;
use tigger_proto::pool::{PoolLimits, PoolMode};
use tigger_proto::wire::version::Version;

use super::tested::Check;
use crate::config::{self, Config, Database};
use crate::net::connect::TcpOptions;

/// What the configuration says about a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    /// The database's line.
    pub database: Arc<Database>,
    /// What each link needs.
    pub link: LinkRules,
    /// Sizes and times.
    pub limits: PoolLimits,
    /// SQL run at release, if this mode runs it.
    pub reset_query: Option<String>,
    /// Whether servers still answer is seen by this; `None`: it is not looked at.
    pub check: Option<Check>,
    /// The newest protocol that is asked for.
    pub protocol: Version,
    /// Longest time to connect and log in.
    pub connect_timeout: Option<Duration>,
    /// Whether the kernel path may serve its clients.
    pub kernel_path: config::KernelPath,
    /// Bytes that the kernel path may queue for a client.
    pub kernel_path_reply_limit: u32,
    /// Options of server sockets.
    pub tcp: TcpOptions,
    /// Log connects.
    pub log_connections: bool,
    /// Log disconnects.
    pub log_disconnections: bool,
}

impl PoolConfig {
    /// For the pool of the database with this `line`, and of this user.
    pub(super) fn of(config: &Config, line: Arc<Database>, user: &str) -> Self {
        let settings = &config.settings;
        let pool = config.pool_settings(&line, user);
        let resets = pool.pool_mode == PoolMode::Session || settings.server_reset_query_always;
        Self {
            database: line,
            link: LinkRules {
                mode: pool.pool_mode,
                limits: ClientLimits {
                    packet_len_max: settings.max_packet_size,
                    simple_query: !settings.disable_pqexec,
                    // In session mode the names of a client and those of its server are the same.
                    prepared_max: if pool.pool_mode == PoolMode::Session {
                        0
                    } else {
                        settings.max_prepared_statements
                    },
                    listens: pool.pool_mode != PoolMode::Session,
                },
            },
            limits: PoolLimits {
                pool_size: pool.pool_size,
                min_pool_size: pool.min_pool_size,
                reserve_pool_size: pool.reserve_pool_size,
                reserve_pool_timeout: pool.reserve_pool_timeout,
                server_lifetime: pool.server_lifetime,
                server_idle_timeout: settings.server_idle_timeout,
                server_check_delay: Check::new(settings).map(|check| check.delay).filter(|delay| !delay.is_zero()),
                server_round_robin: settings.server_round_robin,
                server_login_retry: settings.server_login_retry,
                query_wait_timeout: pool.query_wait_timeout,
            },
            reset_query: settings.server_reset_query.clone().filter(|_| resets),
            check: Check::new(settings),
            protocol: settings.server_max_protocol_version,
            connect_timeout: settings.server_connect_timeout,
            kernel_path: pool.kernel_path,
            kernel_path_reply_limit: pool.kernel_path_reply_limit,
            tcp: TcpOptions::new(settings),
            log_connections: settings.log_connections,
            log_disconnections: settings.log_disconnections,
        }
    }

    /// True when a server is checked each time that a client gets it.
    pub fn checks_each_use(&self) -> bool {
        self.check.as_ref().is_some_and(|check| check.delay.is_zero())
    }
}

/// What the configuration says about a client and its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRules {
    /// When servers are released.
    pub mode: PoolMode,
    /// What clients may send.
    pub limits: ClientLimits,
}

impl LinkRules {
    /// Those of a replication client of the same pool.
    #[must_use]
    pub fn for_replication(self) -> Self {
        Self { mode: PoolMode::Session, limits: ClientLimits { prepared_max: 0, listens: false, ..self.limits } }
    }
}
