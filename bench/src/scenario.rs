//! The words of the benchmark: who is compared, where the programs are, what the clients do.

use std::fmt;

use serde::Serialize;
use tigger_testkit::QueryMode;

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Rival {
    /// Clients connect to PostgreSQL over TCP.
    Direct,
    /// Clients connect to PostgreSQL over its Unix socket.
    DirectUnix,
    /// Clients connect to Tigger as it is: with the kernel path where that is possible.
    Tigger,
    /// Clients connect to Tigger with `kernel_path = off`.
    TiggerUser,
    /// Clients connect to PgBouncer.
    PgBouncer,
    /// Clients connect to a PgBouncer that connects to PostgreSQL over its Unix socket.
    PgBouncerUnix,
}

impl Rival {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::DirectUnix => "direct (Unix)",
            Self::Tigger => "Tigger",
            Self::TiggerUser => "Tigger (user)",
            Self::PgBouncer => "PgBouncer",
            Self::PgBouncerUnix => "PgBouncer (Unix)",
        }
    }

    pub(crate) fn is_pooler(self) -> bool {
        !matches!(self, Self::Direct | Self::DirectUnix)
    }
}

/// One transaction of pgbench: which script, and how its queries are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Transaction {
    /// `-S`: one row by its key, one Query message.
    Simple,
    /// `-S -M extended`: the same with Parse, Bind and Execute.
    Extended,
    /// `-S -M prepared`: Parse once under a name, then Bind and Execute.
    Prepared,
    /// pgbench's default, like TPC-B: seven Query messages, three updates and an insert among them.
    ReadWrite,
}

impl Transaction {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
            Self::ReadWrite => "read-write",
        }
    }

    /// pgbench's `--protocol`.
    pub(crate) fn mode(self) -> QueryMode {
        match self {
            Self::Simple | Self::ReadWrite => QueryMode::Simple,
            Self::Extended => QueryMode::Extended,
            Self::Prepared => QueryMode::Prepared,
        }
    }

    /// pgbench's choice of the script.
    pub(crate) fn script(self) -> &'static str {
        match self {
            Self::Simple | Self::Extended | Self::Prepared => "--builtin=select-only",
            Self::ReadWrite => "--builtin=tpcb-like",
        }
    }
}

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Workload {
    /// Each client sends its next transaction when the last is answered.
    Closed { transaction: Transaction, clients: u32 },
    /// All clients together send so many transactions per second, whether or not the answers come in time.
    Rate { transaction: Transaction, clients: u32, tps: u32 },
    /// Clients log in and stay idle.
    Idle { clients: u32 },
    /// The same until they are disconnected by `client_idle_timeout`.
    Timers { clients: u32 },
}

impl Workload {
    pub(crate) fn is_closed(self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// What each client does again and again, if anything.
    pub(crate) fn transaction(self) -> Option<Transaction> {
        match self {
            Self::Closed { transaction, .. } | Self::Rate { transaction, .. } => Some(transaction),
            Self::Idle { .. } | Self::Timers { .. } => None,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { transaction, clients: 1 } => write!(f, "{}, 1 client", transaction.name()),
            Self::Closed { transaction, clients } => write!(f, "{}, {clients} clients", transaction.name()),
            Self::Rate { transaction, clients, tps } => {
                write!(f, "{} at {tps}/s, {clients} clients", transaction.name())
            }
            Self::Idle { clients } => write!(f, "{clients} idle clients"),
            Self::Timers { clients } => write!(f, "timeouts of {clients} clients"),
        }
    }
}

/// Which question a row answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Group {
    /// All on one host: what Tigger's process does by itself.
    UserPath,
    /// All on one host: what the kernel path is worth.
    BothLocal,
    /// Not all on one host: what the kernel path is worth with one end or none on the pooler's host.
    OtherHosts(Placement),
}

/// Where the pooler is when the application and PostgreSQL are on two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Placement {
    BesidePostgres,
    BesideApplication,
    /// On a third host.
    StandAlone,
}

impl Group {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::UserPath => "user path",
            Self::BothLocal => "both local",
            Self::OtherHosts(Placement::BesidePostgres) => "beside PostgreSQL",
            Self::OtherHosts(Placement::BesideApplication) => "beside the application",
            Self::OtherHosts(Placement::StandAlone) => "stand-alone",
        }
    }

    /// `None`: all is on one host.
    pub(crate) fn placement(self) -> Option<Placement> {
        match self {
            Self::UserPath | Self::BothLocal => None,
            Self::OtherHosts(placement) => Some(placement),
        }
    }

    pub(crate) fn section(self) -> Section {
        match self {
            Self::UserPath => Section::UserPath,
            Self::BothLocal => Section::BothLocal,
            Self::OtherHosts(_) => Section::OtherHosts,
        }
    }
}

/// A part of the report and of the chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    UserPath,
    BothLocal,
    OtherHosts,
}

impl Section {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::UserPath => "User path: Tigger with kernel_path = off, all on one host",
            Self::BothLocal => "Both ends local: all on one host",
            Self::OtherHosts => "Other hosts: application and PostgreSQL on two (network namespaces)",
        }
    }
}

/// What one row measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Scenario {
    pub(crate) group: Group,
    pub(crate) workload: Workload,
}

impl Scenario {
    pub(crate) fn name(self) -> String {
        format!("{}: {}", self.group.name(), self.workload)
    }
}
