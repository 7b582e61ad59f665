//! One line of `[users]`: what applies to a user instead of the database's line and the settings. It holds no secret:
//! that is `auth_file`.

use std::time::Duration;

use super::choice::{KernelPath, PoolMode};
use super::connection_string::{self, Key};
use super::ini::Entry;
use super::kind::Kind;
use super::{ConfigError, Warning};

/// Settings of one user. A field that is `None` means: the database's line or the setting applies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// Most servers in each pool of the user.
    pub pool_size: Option<u32>,
    /// Servers beyond `pool_size` when clients wait.
    pub reserve_pool_size: Option<u32>,
    /// When a server goes back to its pool.
    pub pool_mode: Option<PoolMode>,
    /// Most servers of all pools of the user.
    pub max_user_connections: Option<u32>,
    /// Most clients of the user.
    pub max_user_client_connections: Option<u32>,
    /// Longest wait for a server; zero = no limit.
    pub query_wait_timeout: Option<Duration>,
    /// Longest query.
    pub query_timeout: Option<Duration>,
    /// Longest transaction.
    pub transaction_timeout: Option<Duration>,
    /// Longest idleness in a transaction.
    pub idle_transaction_timeout: Option<Duration>,
    /// Longest idleness of a client.
    pub client_idle_timeout: Option<Duration>,
    /// Whether queries and results may move inside the kernel.
    pub kernel_path: Option<KernelPath>,
    /// Bytes of replies that the kernel path may have queued for a client.
    pub kernel_path_reply_limit: Option<u32>,
}

impl User {
    pub(super) fn parse(entry: &Entry, warnings: &mut Vec<Warning>) -> Result<Self, ConfigError> {
        let mut user = Self::default();
        connection_string::fill(KEYS, &entry.value, &entry.place, &mut user, warnings)?;
        Ok(user)
    }
}

/// All keys of a line in `[users]`.
pub(super) const KEYS: &[Key<User>] = &[
    Key {
        name: "pool_size",
        kind: Kind::CountOverride(Some(|u| &mut u.pool_size)),
        doc: "Most servers in each pool of this user. It wins over the database's `pool_size`.",
    },
    Key {
        name: "reserve_pool_size",
        kind: Kind::CountOverride(Some(|u| &mut u.reserve_pool_size)),
        doc: "Servers beyond `pool_size` in each pool of this user. It wins over the database's.",
    },
    Key {
        name: "pool_mode",
        kind: Kind::PoolModeOverride(Some(|u| &mut u.pool_mode)),
        doc: "Pool mode for this user. It wins over the database's.",
    },
    Key {
        name: "max_user_connections",
        kind: Kind::Limit(Some(|u| &mut u.max_user_connections)),
        doc: "Most servers of all pools of this user together. 0 means that the setting applies.",
    },
    Key {
        name: "max_user_client_connections",
        kind: Kind::Limit(Some(|u| &mut u.max_user_client_connections)),
        doc: "Most clients of this user. 0 means that the setting applies.",
    },
    Key {
        name: "query_timeout",
        kind: Kind::Timeout(Some(|u| &mut u.query_timeout)),
        doc: "Overrides the setting `query_timeout`. Here 0 means that the setting applies.",
    },
    Key {
        name: "query_wait_timeout",
        kind: Kind::TimeoutOverride(Some(|u| &mut u.query_wait_timeout)),
        doc: "Overrides `query_wait_timeout` of the database's line and of the settings.",
    },
    Key {
        name: "idle_transaction_timeout",
        kind: Kind::Timeout(Some(|u| &mut u.idle_transaction_timeout)),
        doc: "Overrides the setting `idle_transaction_timeout`. Here 0 means that the setting applies.",
    },
    Key {
        name: "transaction_timeout",
        kind: Kind::Timeout(Some(|u| &mut u.transaction_timeout)),
        doc: "Overrides the setting `transaction_timeout`. Here 0 means that the setting applies.",
    },
    Key {
        name: "client_idle_timeout",
        kind: Kind::Timeout(Some(|u| &mut u.client_idle_timeout)),
        doc: "Overrides the setting `client_idle_timeout`. Here 0 means that the setting applies.",
    },
    Key {
        name: "kernel_path",
        kind: Kind::KernelPathOverride(Some(|u| &mut u.kernel_path)),
        doc: "Overrides `kernel_path` of the database's line and of the settings. PgBouncer does not have it.",
    },
    Key {
        name: "kernel_path_reply_limit",
        kind: Kind::CountOverride(Some(|u| &mut u.kernel_path_reply_limit)),
        doc: "Overrides `kernel_path_reply_limit` of the database's line and of the settings. PgBouncer does not have it.",
    },
];
