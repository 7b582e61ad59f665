//! Limits and times of a pool.

use std::time::Duration;

/// Limits and times of a pool, under PgBouncer's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Servers in ordinary times.
    pub pool_size: u32,
    /// Servers kept open even if nobody asks.
    pub min_pool_size: u32,
    /// Servers beyond `pool_size` for clients that waited `reserve_pool_timeout`.
    pub reserve_pool_size: u32,
    /// See `reserve_pool_size`; `None`: the reserve is not used.
    pub reserve_pool_timeout: Option<Duration>,
    /// Age at which a server nobody uses is closed; zero: after one use.
    pub server_lifetime: Duration,
    /// Idle time after which a server is closed; `None`: never.
    pub server_idle_timeout: Option<Duration>,
    /// Time without a sign of life after which an idle server is checked; `None`: never, or by the driver at each use.
    pub server_check_delay: Option<Duration>,
    /// Clients get the server that is idle longest instead of that in the lowest slot. The kernel path keeps to the slots.
    pub server_round_robin: bool,
    /// Pause between a failed login and the next.
    pub server_login_retry: Duration,
    /// Longest wait for a server; `None`: for ever.
    pub query_wait_timeout: Option<Duration>,
}
