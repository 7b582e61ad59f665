//! What is measured: one row of the result per entry of [`ROWS`]. New comparisons are new entries.

use serde::Serialize;
use tigger_testkit::QueryMode;

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Rival {
    /// Clients connect to PostgreSQL.
    Direct,
    /// Clients connect to Tigger.
    Tigger,
    /// Clients connect to PgBouncer.
    PgBouncer,
}

impl Rival {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tigger => "Tigger",
            Self::PgBouncer => "PgBouncer",
        }
    }
}

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Each client sends its next transaction when the last is answered.
    Closed { mode: QueryMode, clients: u32 },
    /// All clients together send so many transactions per second, whether or not the answers come in time.
    Rate { mode: QueryMode, clients: u32, tps: u32 },
    /// Clients log in and stay idle.
    Idle { clients: u32 },
}

/// One row of the result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) workload: Workload,
    pub(crate) rivals: &'static [Rival],
    /// Length of one measurement.
    pub(crate) seconds: u32,
    /// Length of one measurement with `--quick`.
    pub(crate) quick_seconds: u32,
    /// Added for direct connections: pgbench's time starts before it connects, and PostgreSQL starts a process for each.
    pub(crate) direct_connect_seconds: u32,
    pub(crate) rounds: u32,
    /// Rounds with `--quick`; 0 leaves the row out.
    pub(crate) quick_rounds: u32,
}

impl Row {
    pub(crate) fn name(&self) -> String {
        match self.workload {
            Workload::Closed { mode, clients: 1 } => format!("{}, 1 client", mode.name()),
            Workload::Closed { mode, clients } => format!("{}, {clients} clients", mode.name()),
            Workload::Rate { mode, clients, tps } => format!("{} at {tps}/s, {clients} clients", mode.name()),
            Workload::Idle { clients } => format!("{clients} idle clients"),
        }
    }
}

const fn closed(mode: QueryMode, clients: u32, quick_rounds: u32) -> Row {
    let workload = Workload::Closed { mode, clients };
    let (quick_seconds, direct_connect_seconds) = if clients < 1000 { (2, 0) } else { (3, 5) };
    Row { workload, rivals: &ALL, seconds: 4, quick_seconds, direct_connect_seconds, rounds: 5, quick_rounds }
}

const ALL: [Rival; 3] = [Rival::Direct, Rival::Tigger, Rival::PgBouncer];
const POOLERS: [Rival; 2] = [Rival::Tigger, Rival::PgBouncer];

/// The plan of `make bench`; `make bench QUICK=1` takes what has quick rounds.
pub(crate) const ROWS: [Row; 12] = [
    closed(QueryMode::Simple, 1, 1),
    closed(QueryMode::Simple, 8, 0),
    closed(QueryMode::Simple, 32, 3),
    closed(QueryMode::Simple, 100, 0),
    closed(QueryMode::Simple, 1000, 2),
    closed(QueryMode::Extended, 1, 0),
    closed(QueryMode::Extended, 8, 0),
    closed(QueryMode::Extended, 32, 3),
    closed(QueryMode::Extended, 100, 0),
    closed(QueryMode::Extended, 1000, 0),
    Row {
        // Well below what each of them can do on two cores.
        workload: Workload::Rate { mode: QueryMode::Simple, clients: 32, tps: 2000 },
        rivals: &ALL,
        seconds: 5,
        quick_seconds: 3,
        direct_connect_seconds: 0,
        rounds: 5,
        quick_rounds: 1,
    },
    Row {
        workload: Workload::Idle { clients: 10_000 },
        rivals: &POOLERS,
        seconds: 0,
        quick_seconds: 0,
        direct_connect_seconds: 0,
        rounds: 1,
        quick_rounds: 1,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_rows_apart() {
        let mut names: Vec<String> = ROWS.iter().map(Row::name).collect();
        assert_eq!(names[2], "simple, 32 clients");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), ROWS.len());
    }

    #[test]
    fn a_quick_run_ends_within_two_minutes() {
        let round = |row: &Row| row.rivals.len() as u32 * row.quick_seconds + row.direct_connect_seconds;
        let seconds: u32 = ROWS.iter().map(|row| row.quick_rounds * round(row)).sum();
        assert!(seconds <= 80, "{seconds} s of measuring leave no time for starting");
    }
}
