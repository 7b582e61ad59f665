//! Settings of pools: modes, sizes and limits, and what happens to a server between two clients.

use super::Setting;
use crate::config::kind::Kind;

/// Modes, sizes, limits, parameters, release of servers.
pub(super) const SETTINGS: &[Setting] = &[
    Setting::new(
        "pool_mode",
        Kind::PoolMode(Some(|s| &mut s.pool_mode)),
        Some("session"),
        "When a server goes back to its pool: in `session` mode when the client disconnects, in `transaction` mode \
         when its transaction ends, in `statement` mode after each query; there, transactions of several statements \
         are refused.",
    ),
    Setting::new(
        "max_client_conn",
        Kind::Count(Some(|s| &mut s.max_client_conn)),
        Some("100"),
        "Most client connections. The limit on open files must allow for these and for all servers.",
    ),
    Setting::new(
        "default_pool_size",
        Kind::Count(Some(|s| &mut s.default_pool_size)),
        Some("20"),
        "Most servers of a pool, which is one database with one user. `pool_size` of a user or a database overrides \
         it.",
    ),
    Setting::new(
        "min_pool_size",
        Kind::Count(Some(|s| &mut s.min_pool_size)),
        Some("0"),
        "Servers of a pool that are kept open even when idle. It counts for pools with a forced user or with at \
         least one client, and never above the pool's size.",
    ),
    Setting::new(
        "reserve_pool_size",
        Kind::Count(Some(|s| &mut s.reserve_pool_size)),
        Some("0"),
        "Servers that a pool may open beyond its size when clients have waited for `reserve_pool_timeout`; 0 means \
         none.",
    ),
    Setting::new(
        "reserve_pool_timeout",
        Kind::Timeout(Some(|s| &mut s.reserve_pool_timeout)),
        Some("5"),
        "Wait of a client after which its pool may use the reserve.",
    ),
    Setting::new(
        "max_db_connections",
        Kind::Limit(Some(|s| &mut s.max_db_connections)),
        Some("0"),
        "Most servers of a database as clients name it, over all users.",
    ),
    Setting::new(
        "max_db_client_connections",
        Kind::Limit(Some(|s| &mut s.max_db_client_connections)),
        Some("0"),
        "Most clients of a database as clients name it, over all users. Who comes when it is full is refused.",
    ),
    Setting::new(
        "max_user_connections",
        Kind::Limit(Some(|s| &mut s.max_user_connections)),
        Some("0"),
        "Most servers of a user, over all databases. The user is the one the server is logged in as.",
    ),
    Setting::new(
        "max_user_client_connections",
        Kind::Limit(Some(|s| &mut s.max_user_client_connections)),
        Some("0"),
        "Most clients of a user, over all databases. The user is the one the client logs in as. The admin console is open to \
         more.",
    ),
    Setting::new(
        "server_round_robin",
        Kind::Switch(Some(|s| &mut s.server_round_robin)),
        Some("0"),
        "Use the server that was idle longest, instead of few servers as often as possible, so that all are used alike. The \
         kernel path keeps using few of them.",
    ),
    Setting::new(
        "server_reset_query",
        Kind::Text(Some(|s| &mut s.server_reset_query)),
        Some("DISCARD ALL"),
        "SQL that is run on a server when it is released in session mode, to remove what the client left. Empty \
         means nothing is run.",
    ),
    Setting::new(
        "server_reset_query_always",
        Kind::Switch(Some(|s| &mut s.server_reset_query_always)),
        Some("0"),
        "Run `server_reset_query` after each release in all pool modes, for applications that use session features \
         where they must not.",
    ),
    Setting::new(
        "server_check_query",
        Kind::Text(Some(|s| &mut s.server_check_query)),
        Some("<empty>"),
        "SQL that shows whether an idle server is alive; `<empty>` sends an empty query, and an empty value checks \
         nothing. A server that fails, or does not answer within `server_connect_timeout`, is closed.",
    ),
    Setting::new(
        "server_check_delay",
        Kind::Seconds(Some(|s| &mut s.server_check_delay)),
        Some("30"),
        "Idle time up to which a server is used again without `server_check_query`. A server that is idle for longer is \
         checked as soon as that, and not only when a client needs it, as PgBouncer does. 0 checks each time a client gets \
         a server, which keeps the kernel path away.",
    ),
    Setting::new(
        "server_fast_close",
        Kind::Switch(Some(|s| &mut s.server_fast_close)),
        Some("0"),
        "Close a server that must be replaced (after `RECONNECT`, or when its database's line or the addresses of its host \
         have changed) at the end of its transaction, even when its client is in session mode; the client is told \
         `database configuration changed` and disconnected. In the other modes a server is replaced then anyway.",
    ),
    Setting::fixed(
        "track_extra_parameters",
        Kind::Names(Some(|s| &mut s.track_extra_parameters)),
        Some("IntervalStyle"),
        "Parameters that are kept for each client and set on each server it gets, besides `client_encoding`, \
         `DateStyle`, `TimeZone`, `standard_conforming_strings` and `application_name`. Only parameters that \
         PostgreSQL reports to clients can be tracked.",
    ),
    Setting::new(
        "ignore_startup_parameters",
        Kind::Names(Some(|s| &mut s.ignore_startup_parameters)),
        Some(""),
        "Startup parameters that are dropped. Without it, a client that sends a parameter which is not tracked is \
         refused. `extra_float_digits` is the usual candidate.",
    ),
    Setting::new(
        "application_name_add_host",
        Kind::Switch(Some(|s| &mut s.application_name_add_host)),
        Some("0"),
        "Add the client's address and port to `application_name` at login: `psql - 192.0.2.7:41234`. A client that gave no \
         name is called `app`; of one that came through the unix socket the process and this host are added. What the \
         client sets later stands as it is.",
    ),
    Setting::fixed(
        "disable_pqexec",
        Kind::Switch(Some(|s| &mut s.disable_pqexec)),
        Some("0"),
        "Refuse the simple query protocol, in which several statements can be smuggled into one.",
    ),
    Setting::new(
        "max_prepared_statements",
        Kind::Count(Some(|s| &mut s.max_prepared_statements)),
        Some("200"),
        "Named prepared statements kept on each server in transaction and statement mode, those used last; what a client \
         has prepared is there on whichever server it gets. 0 turns that off, and names go to servers as they are.",
    ),
];
