//! What is measured: one row of the result per entry of [`ROWS`]. New comparisons are new entries.

use crate::scenario::{Group, Placement, Rival, Scenario, Transaction, Workload};

/// One row of the result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) scenario: Scenario,
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

const fn closed(
    group: Group,
    transaction: Transaction,
    clients: u32,
    quick_rounds: u32,
    rivals: &'static [Rival],
) -> Row {
    let scenario = Scenario { group, workload: Workload::Closed { transaction, clients } };
    let (quick_seconds, direct_connect_seconds) = if clients < 1000 { (2, 0) } else { (3, 5) };
    Row { scenario, rivals, seconds: 4, quick_seconds, direct_connect_seconds, rounds: 5, quick_rounds }
}

const fn user(transaction: Transaction, clients: u32, quick_rounds: u32) -> Row {
    closed(Group::UserPath, transaction, clients, quick_rounds, &USER_PATH)
}

const fn local(transaction: Transaction, clients: u32, quick_rounds: u32) -> Row {
    closed(Group::BothLocal, transaction, clients, quick_rounds, &BOTH_LOCAL)
}

const fn other(placement: Placement, rivals: &'static [Rival]) -> Row {
    closed(Group::OtherHosts(placement), Transaction::Simple, 32, 0, rivals)
}

/// The user path is compared with what does the same work, whatever the kernel path can do on the machine.
const USER_PATH: [Rival; 3] = [Rival::Direct, Rival::TiggerUser, Rival::PgBouncer];
const IDLE: [Rival; 2] = [Rival::TiggerUser, Rival::PgBouncer];
const BOTH_LOCAL: [Rival; 5] = [Rival::Direct, Rival::DirectUnix, Rival::Tigger, Rival::TiggerUser, Rival::PgBouncer];
/// PgBouncer has them from 1.21 on, which distributions do not all have.
const PREPARED: [Rival; 4] = [Rival::Direct, Rival::DirectUnix, Rival::Tigger, Rival::TiggerUser];
const OTHER_HOSTS: [Rival; 4] = [Rival::Direct, Rival::Tigger, Rival::TiggerUser, Rival::PgBouncer];
const BESIDE_POSTGRES: [Rival; 5] =
    [Rival::Direct, Rival::Tigger, Rival::TiggerUser, Rival::PgBouncer, Rival::PgBouncerUnix];

/// The plan of `make bench`; `make bench QUICK=1` takes what has quick rounds.
pub(crate) const ROWS: [Row; 22] = [
    user(Transaction::Simple, 1, 0),
    user(Transaction::Simple, 8, 0),
    user(Transaction::Simple, 32, 3),
    user(Transaction::Simple, 100, 0),
    user(Transaction::Simple, 1000, 1),
    user(Transaction::Extended, 1, 0),
    user(Transaction::Extended, 8, 0),
    user(Transaction::Extended, 32, 3),
    user(Transaction::Extended, 100, 0),
    user(Transaction::Extended, 1000, 0),
    Row {
        // Well below what each of them can do on two cores.
        scenario: Scenario {
            group: Group::UserPath,
            workload: Workload::Rate { transaction: Transaction::Simple, clients: 32, tps: 2000 },
        },
        rivals: &USER_PATH,
        seconds: 5,
        quick_seconds: 3,
        direct_connect_seconds: 0,
        rounds: 5,
        quick_rounds: 0,
    },
    Row {
        scenario: Scenario { group: Group::UserPath, workload: Workload::Idle { clients: 10_000 } },
        rivals: &IDLE,
        seconds: 0,
        quick_seconds: 0,
        direct_connect_seconds: 0,
        rounds: 1,
        quick_rounds: 1,
    },
    Row {
        scenario: Scenario { group: Group::UserPath, workload: Workload::Timers { clients: 10_000 } },
        rivals: &IDLE,
        // The time-out itself: longer than all logins take.
        seconds: 20,
        quick_seconds: 20,
        direct_connect_seconds: 0,
        rounds: 1,
        quick_rounds: 0,
    },
    local(Transaction::Simple, 16, 0),
    local(Transaction::Simple, 32, 3),
    local(Transaction::Simple, 100, 0),
    local(Transaction::Extended, 32, 0),
    closed(Group::BothLocal, Transaction::Prepared, 32, 0, &PREPARED),
    local(Transaction::ReadWrite, 32, 0),
    other(Placement::BesidePostgres, &BESIDE_POSTGRES),
    other(Placement::BesideApplication, &OTHER_HOSTS),
    other(Placement::StandAlone, &OTHER_HOSTS),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_rows_apart() {
        let mut names: Vec<String> = ROWS.iter().map(|row| row.scenario.name()).collect();
        assert_eq!(names[2], "user path: simple, 32 clients");
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
