//! Settings of the process itself, its log and its statistics, and the settings that PgBouncer does not have.

use super::Setting;
use crate::config::kind::Kind;

/// Process, log, statistics.
pub(super) const SETTINGS: &[Setting] = &[
    Setting::new(
        "logfile",
        Kind::File(Some(|s| &mut s.logfile)),
        Some(""),
        "File to which the log is written; it is opened again at a reload, so that it can be rotated. Unset: \
         standard error only.",
    ),
    Setting::fixed(
        "pidfile",
        Kind::File(Some(|s| &mut s.pidfile)),
        Some(""),
        "File that receives the process id at the start and is removed at the end.",
    ),
    Setting::fixed(
        "user",
        Kind::Text(Some(|s| &mut s.user)),
        None,
        "System user to become after the start. It needs a start as root, or as that user already.",
    ),
    Setting::new(
        "conffile",
        Kind::File(None),
        None,
        "The file this configuration was read from. It is reported only: a value in the file is ignored.",
    ),
    Setting::fixed(
        "job_name",
        Kind::Text(None),
        Some("pgbouncer"),
        "Name of the service where the operating system wants one.",
    ),
    Setting::fixed("service_name", Kind::Text(None), None, "Another name of `job_name`."),
    Setting::new(
        "verbose",
        Kind::Count(Some(|s| &mut s.verbose)),
        Some("0"),
        "How much is logged: 0 is the normal log, each step up to 3 adds detail. The switch `-v` adds \
         to it.",
    ),
    Setting::new(
        "log_connections",
        Kind::Switch(Some(|s| &mut s.log_connections)),
        Some("1"),
        "Log each login of a client and each new connection to a server.",
    ),
    Setting::new(
        "log_disconnections",
        Kind::Switch(Some(|s| &mut s.log_disconnections)),
        Some("1"),
        "Log each end of a connection with its reason.",
    ),
    Setting::new(
        "log_pooler_errors",
        Kind::Switch(Some(|s| &mut s.log_pooler_errors)),
        Some("1"),
        "Log the errors that the pooler itself sends to clients.",
    ),
    Setting::new(
        "log_stats",
        Kind::Switch(Some(|s| &mut s.log_stats)),
        Some("1"),
        "Write a line of statistics to the log each `stats_period`.",
    ),
    Setting::new(
        "stats_period",
        Kind::Period(Some(|s| &mut s.stats_period)),
        Some("60"),
        "Period over which the averages of the `SHOW` commands are taken, and after which statistics are logged.",
    ),
    Setting::new("syslog", Kind::Switch(None), Some("0"), "Send the log to syslog."),
    Setting::new(
        "syslog_facility",
        Kind::Text(None),
        Some("daemon"),
        "Facility for syslog: `auth`, `authpriv`, `daemon`, `user`, or `local0` to `local7`.",
    ),
    Setting::new("syslog_ident", Kind::Text(None), Some("pgbouncer"), "Name under which lines are sent to syslog."),
];

/// Settings that PgBouncer does not have.
pub(super) const OWN_SETTINGS: &[Setting] = &[
    Setting::fixed(
        "worker_threads",
        Kind::Count(Some(|s| &mut s.worker_threads)),
        Some("0"),
        "Threads that serve connections; 0 means one for each processor core. PgBouncer has one thread, and needs \
         several processes with `so_reuseport` for more.",
    ),
    Setting::fixed(
        "kernel_path",
        Kind::KernelPath(Some(|s| &mut s.kernel_path)),
        Some("auto"),
        "Whether queries and results may move inside the kernel, without waking this process: with `auto` where that \
         is possible, with `off` never. With `require` the process does not start where it is not possible. See \
         [kernel-path.md](kernel-path.md).",
    ),
    Setting::new(
        "server_max_protocol_version",
        Kind::Version(Some(|s| &mut s.server_max_protocol_version)),
        Some("3.0"),
        "Newest version of the protocol that is asked for at logins to servers, as libpq's `max_protocol_version`. With \
         `3.2` PostgreSQL 18 gives keys for cancel requests that cannot be guessed; older servers answer that they speak \
         3.0, but very old ones, and some proxies, refuse the login. What clients speak does not depend on it. After a \
         reload it holds for new server connections.",
    ),
    Setting::new(
        "kernel_path_reply_limit",
        Kind::Count(Some(|s| &mut s.kernel_path_reply_limit)),
        Some("262144"),
        "Most bytes that the kernel path passes to a client that has not read them, and to a server within one \
         request. What is larger goes through this process, which waits for a slow reader.",
    ),
    Setting::new(
        "startup_parameters",
        Kind::StartupParameters(Some(|s| &mut s.startup_parameters)),
        Some("pgbouncer"),
        "What becomes of a startup parameter, also one in `options`, that is neither tracked nor in \
         `ignore_startup_parameters`: with `pgbouncer` the client is refused, as by PgBouncer. With `apply` it is set on \
         each server that the client gets, and given its default again before another client gets that server. What the \
         client sets later itself stays on the server, as with every parameter that is not tracked. A value that \
         PostgreSQL refuses ends the client at its first query, with PostgreSQL's error.",
    ),
];
