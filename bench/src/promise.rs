//! What must hold for Tigger to be worth choosing, each with the figure that decides it.

use std::fmt;

use crate::{
    report::{Metric, Report, RowReport},
    scenario::{
        Group,
        Placement::{BesideApplication, BesidePostgres, StandAlone},
        Rival::{self, Direct, DirectUnix, PgBouncer, PgBouncerUnix, Tigger, TiggerUser},
        Scenario, Transaction, Workload,
    },
    spread::Spread,
};

/// One promise. New ones are new entries of [`PROMISES`].
pub(crate) struct Promise {
    scenario: Scenario,
    rival: Rival,
    demand: Demand,
}

/// What is demanded of the rival.
#[derive(Clone, Copy)]
enum Demand {
    /// Its figure divided by the other's, as the median over the rounds.
    Ratio(Metric, Rival, Limit),
    NoFailure,
    /// With all clients idle.
    Memory {
        mib_max: u64,
    },
    /// Time-outs come so late at most.
    Timers {
        ms_max: f64,
    },
}

#[derive(Clone, Copy)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

/// Whether a promise held, and the figure that tells.
#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) held: bool,
    pub(crate) figure: String,
}

impl Promise {
    /// `None` if what decides it was not measured.
    pub(crate) fn verdict(&self, report: &Report) -> Option<Verdict> {
        let row = report.rows.iter().find(|row| row.scenario == self.scenario)?;
        match self.demand {
            Demand::Ratio(metric, to, limit) => {
                let Spread { median, min, max } = row.ratio(metric, self.rival, to)?;
                Some(Verdict {
                    held: limit.allows(median),
                    figure: format!("{median:.3} times ({min:.2} to {max:.2})"),
                })
            }
            Demand::NoFailure => no_failure(row, self.rival),
            Demand::Memory { mib_max } => memory(row, self.rival, mib_max),
            Demand::Timers { ms_max } => timers(row, self.rival, ms_max),
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, ", self.scenario.name(), self.rival.name())?;
        match self.demand {
            Demand::Ratio(metric, to, limit) => write!(f, "{} {limit} times {}", metric.name(), to.name()),
            Demand::NoFailure => write!(f, "no failure"),
            Demand::Memory { mib_max } => write!(f, "at most {mib_max} MiB resident, and all work"),
            Demand::Timers { ms_max } => write!(f, "time-outs at most {ms_max} ms late"),
        }
    }
}

impl Limit {
    fn allows(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(limit) => write!(f, "at least {limit:.2}"),
            Self::AtMost(limit) => write!(f, "at most {limit:.2}"),
        }
    }
}

fn no_failure(row: &RowReport, rival: Rival) -> Option<Verdict> {
    let measured = row.samples.iter().any(|sample| sample.rival == rival);
    let failures = row.failures(rival);
    measured.then(|| Verdict { held: failures == 0, figure: format!("{failures} failures") })
}

fn memory(row: &RowReport, rival: Rival, mib_max: u64) -> Option<Verdict> {
    let idle = row.idle(rival)?;
    let held = idle.after_kib <= mib_max * 1024 && idle.failures == 0;
    let (mib, each) = (idle.after_kib as f64 / 1024.0, idle.kib_per_client());
    Some(Verdict { held, figure: format!("{mib:.1} MiB, {each:.1} KiB a client, {} failures", idle.failures) })
}

fn timers(row: &RowReport, rival: Rival, ms_max: f64) -> Option<Verdict> {
    let timers = row.timers(rival)?;
    let held = timers.max_ms <= ms_max && timers.failures == 0;
    let (p50, p99, max) = (timers.p50_ms, timers.p99_ms, timers.max_ms);
    Some(Verdict { held, figure: format!("{max:.0} ms (p50 {p50:.0}, p99 {p99:.0}), {} failures", timers.failures) })
}

const fn user(transaction: Transaction, clients: u32, demand: Demand) -> Promise {
    let workload = Workload::Closed { transaction, clients };
    Promise { scenario: Scenario { group: Group::UserPath, workload }, rival: TiggerUser, demand }
}

const fn local(transaction: Transaction, clients: u32, demand: Demand) -> Promise {
    let workload = Workload::Closed { transaction, clients };
    Promise { scenario: Scenario { group: Group::BothLocal, workload }, rival: Tigger, demand }
}

const fn other(group: Group, rival: Rival, demand: Demand) -> Promise {
    let workload = Workload::Closed { transaction: Transaction::Simple, clients: 32 };
    Promise { scenario: Scenario { group, workload }, rival, demand }
}

const fn throughput(times: f64, of: Rival) -> Demand {
    Demand::Ratio(Metric::Tps, of, Limit::AtLeast(times))
}

const fn machine_cpu(times: f64, of: Rival) -> Demand {
    Demand::Ratio(Metric::MachineCpuUs, of, Limit::AtMost(times))
}

const fn process_cpu(times: f64, of: Rival) -> Demand {
    Demand::Ratio(Metric::PoolerCpuUs, of, Limit::AtMost(times))
}

const BESIDE_POSTGRES: Group = Group::OtherHosts(BesidePostgres);
const BESIDE_APPLICATION: Group = Group::OtherHosts(BesideApplication);

/// All promises, in the order of the report.
pub(crate) const PROMISES: [Promise; 24] = [
    user(Transaction::Simple, 32, throughput(1.0, PgBouncer)),
    user(Transaction::Extended, 32, throughput(1.0, PgBouncer)),
    user(Transaction::Simple, 32, machine_cpu(1.0, PgBouncer)),
    user(Transaction::Extended, 32, machine_cpu(1.0, PgBouncer)),
    user(Transaction::Simple, 1000, Demand::NoFailure),
    user(Transaction::Simple, 1000, throughput(1.0, PgBouncer)),
    Promise {
        scenario: Scenario { group: Group::UserPath, workload: Workload::Idle { clients: 10_000 } },
        rival: TiggerUser,
        demand: Demand::Memory { mib_max: 40 },
    },
    Promise {
        scenario: Scenario { group: Group::UserPath, workload: Workload::Timers { clients: 10_000 } },
        rival: TiggerUser,
        demand: Demand::Timers { ms_max: 100.0 },
    },
    local(Transaction::Simple, 16, throughput(1.0, DirectUnix)),
    local(Transaction::Simple, 32, throughput(1.25, Direct)),
    local(Transaction::Simple, 32, throughput(1.45, PgBouncer)),
    local(Transaction::Simple, 100, throughput(1.6, Direct)),
    local(Transaction::Extended, 32, throughput(1.2, Direct)),
    local(Transaction::Prepared, 32, throughput(1.15, Direct)),
    local(Transaction::Prepared, 32, Demand::NoFailure),
    local(Transaction::ReadWrite, 32, throughput(1.05, Direct)),
    local(Transaction::Simple, 32, machine_cpu(0.8, Direct)),
    local(Transaction::Simple, 32, process_cpu(0.05, PgBouncer)),
    other(BESIDE_POSTGRES, Tigger, throughput(1.05, PgBouncer)),
    other(BESIDE_POSTGRES, Tigger, throughput(1.05, PgBouncerUnix)),
    other(BESIDE_POSTGRES, Tigger, process_cpu(0.6, PgBouncer)),
    other(BESIDE_APPLICATION, Tigger, throughput(1.05, PgBouncer)),
    other(BESIDE_APPLICATION, Tigger, process_cpu(0.6, PgBouncer)),
    other(Group::OtherHosts(StandAlone), TiggerUser, throughput(1.0, PgBouncer)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::tests::{report, row_report},
        rows::ROWS,
    };

    /// The promises that were missed.
    fn missed(tps: fn(Rival) -> f64, idle_kib: u64, failures: u64) -> Vec<String> {
        let report = report(tps, idle_kib, failures);
        let held = |promise: &Promise| promise.verdict(&report).expect("all is measured").held;
        texts(PROMISES.iter().filter(|promise| !held(promise)))
    }

    fn texts<'a>(promises: impl Iterator<Item = &'a Promise>) -> Vec<String> {
        promises.map(Promise::to_string).collect()
    }

    #[test]
    fn promises_hold_or_are_missed_by_their_figure() {
        let even = |rival| if matches!(rival, Direct | DirectUnix) { 100.0 } else { 80.0 };
        let fast = |rival| if rival == Tigger { 2000.0 } else { 80.0 };
        let slow = |rival| if matches!(rival, Tigger | TiggerUser) { 79.0 } else { 80.0 };
        let is_ratio = |promise: &&Promise| matches!(promise.demand, Demand::Ratio(..));
        let is_memory = |promise: &&Promise| matches!(promise.demand, Demand::Memory { .. });
        let is_timers = |promise: &&Promise| matches!(promise.demand, Demand::Timers { .. });
        let memory = texts(PROMISES.iter().filter(is_memory));
        let of_many = texts(PROMISES.iter().filter(|promise| is_memory(promise) || is_timers(promise)));
        assert_eq!(missed(fast, 40_960, 0), texts([].iter()));
        assert_eq!((missed(fast, 40_961, 0), missed(fast, 40_960, 1)), (memory, of_many));
        let of_kernel_path = PROMISES.iter().filter(is_ratio).filter(|promise| promise.rival == Tigger);
        assert_eq!(missed(even, 40_960, 0), texts(of_kernel_path));
        assert_eq!(missed(slow, 40_960, 0), texts(PROMISES.iter().filter(is_ratio)));
    }

    #[test]
    fn a_promise_says_what_it_demands() {
        for expected in [
            "user path: simple, 32 clients: Tigger (user), throughput at least 1.00 times PgBouncer",
            "user path: simple, 1000 clients: Tigger (user), no failure",
            "user path: 10000 idle clients: Tigger (user), at most 40 MiB resident, and all work",
            "both local: simple, 32 clients: Tigger, CPU time of the pooler at most 0.05 times PgBouncer",
        ] {
            assert!(PROMISES.iter().any(|promise| promise.to_string() == expected), "{expected}");
        }
        let report = report(|_| 100.0, 0, 0);
        let verdict = PROMISES[0].verdict(&report).unwrap();
        assert_eq!(verdict, Verdict { held: true, figure: "1.000 times (1.00 to 1.00)".to_owned() });
    }

    #[test]
    fn what_was_not_measured_has_no_verdict() {
        let mut report = report(|_| 100.0, 0, 0);
        report.rows = ROWS.iter().map(|row| row_report(row, &[])).collect();
        assert!(PROMISES.iter().all(|promise| promise.verdict(&report).is_none()));
        report.rows.clear();
        assert!(PROMISES.iter().all(|promise| promise.verdict(&report).is_none()));
    }
}
