//! Settings that are times after which something is given up.

use super::Setting;
use crate::config::kind::Kind;

/// Timeouts of clients, servers and pools.
pub(super) const SETTINGS: &[Setting] = &[
    Setting::new(
        "query_wait_timeout",
        Kind::Timeout(Some(|s| &mut s.query_wait_timeout)),
        Some("120"),
        "Longest time a client waits for a server before it is disconnected. Off, it waits for ever.",
    ),
    Setting::new(
        "query_wait_notify",
        Kind::WholeSeconds(Some(|s| &mut s.query_wait_notify)),
        Some("5"),
        "Wait after which a client is told by a notice that it waits.",
    ),
    Setting::new(
        "client_login_timeout",
        Kind::Timeout(Some(|s| &mut s.client_login_timeout)),
        Some("60"),
        "Longest time from connecting to the end of the login.",
    ),
    Setting::new(
        "client_idle_timeout",
        Kind::Timeout(Some(|s| &mut s.client_idle_timeout)),
        Some("0"),
        "Time after which a client that is idle, and linked to no server, is disconnected.",
    ),
    Setting::new(
        "idle_transaction_timeout",
        Kind::Timeout(Some(|s| &mut s.idle_transaction_timeout)),
        Some("0"),
        "Time after which a client that is idle in a transaction is disconnected.",
    ),
    Setting::new(
        "transaction_timeout",
        Kind::Timeout(Some(|s| &mut s.transaction_timeout)),
        Some("0"),
        "Time after which a client in a transaction is disconnected.",
    ),
    Setting::new(
        "query_timeout",
        Kind::Timeout(Some(|s| &mut s.query_timeout)),
        Some("0"),
        "Time after which a query is cancelled by closing the connection. Meant for network failures: PostgreSQL's \
         `statement_timeout` should be a little shorter.",
    ),
    Setting::new(
        "cancel_wait_timeout",
        Kind::Timeout(Some(|s| &mut s.cancel_wait_timeout)),
        Some("10"),
        "Longest time a cancel request waits for a connection to the server.",
    ),
    Setting::new(
        "server_connect_timeout",
        Kind::Timeout(Some(|s| &mut s.server_connect_timeout)),
        Some("15"),
        "Longest time for connecting and logging in to a server.",
    ),
    Setting::new(
        "server_login_retry",
        Kind::Seconds(Some(|s| &mut s.server_login_retry)),
        Some("15"),
        "Pause after a failed login to a server. Clients that come meanwhile get the cached error at once.",
    ),
    Setting::new(
        "server_lifetime",
        Kind::Seconds(Some(|s| &mut s.server_lifetime)),
        Some("3600"),
        "Age at which a server that serves no client is closed. 0 closes a server after one use.",
    ),
    Setting::new(
        "server_idle_timeout",
        Kind::Timeout(Some(|s| &mut s.server_idle_timeout)),
        Some("600"),
        "Time after which an idle server is closed.",
    ),
    Setting::new(
        "autodb_idle_timeout",
        Kind::Seconds(Some(|s| &mut s.autodb_idle_timeout)),
        Some("3600"),
        "Time after which an unused database that was made from the entry `*` is forgotten, with its statistics.",
    ),
    Setting::new(
        "pool_idle_timeout",
        Kind::Timeout(Some(|s| &mut s.pool_idle_timeout)),
        Some("0"),
        "Time after which a pool without clients and servers is forgotten, with its statistics.",
    ),
    Setting::new(
        "suspend_timeout",
        Kind::Timeout(Some(|s| &mut s.suspend_timeout)),
        Some("10"),
        "Longest time for `SUSPEND` to send what is pending; clients for which it takes longer are disconnected, with \
         `suspend_timeout`. 0 means no limit.",
    ),
];
