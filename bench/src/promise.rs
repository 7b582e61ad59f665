//! What must hold for Tigger to be worth choosing, each with the figure that decides it.

use tigger_testkit::QueryMode;

use crate::{
    report::{Metric, Report, RowReport},
    rows::{Rival, Workload},
    spread::Spread,
};

/// One promise. New ones are new entries of [`PROMISES`].
pub(crate) struct Promise {
    pub(crate) text: &'static str,
    verdict: fn(&Report) -> Option<Verdict>,
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
        (self.verdict)(report)
    }
}

/// All promises, in the order of the report.
pub(crate) const PROMISES: [Promise; 7] = [
    Promise {
        text: "32 clients, simple: throughput at least PgBouncer's",
        verdict: |report| throughput(closed(report, QueryMode::Simple, 32)?),
    },
    Promise {
        text: "32 clients, extended: throughput at least PgBouncer's",
        verdict: |report| throughput(closed(report, QueryMode::Extended, 32)?),
    },
    Promise {
        text: "32 clients, simple: CPU of the machine per transaction at most PgBouncer's",
        verdict: |report| machine_cpu(closed(report, QueryMode::Simple, 32)?),
    },
    Promise {
        text: "32 clients, extended: CPU of the machine per transaction at most PgBouncer's",
        verdict: |report| machine_cpu(closed(report, QueryMode::Extended, 32)?),
    },
    Promise {
        text: "1000 clients, simple: no failure",
        verdict: |report| no_failure(closed(report, QueryMode::Simple, 1000)?),
    },
    Promise {
        text: "1000 clients, simple: throughput at least PgBouncer's",
        verdict: |report| throughput(closed(report, QueryMode::Simple, 1000)?),
    },
    Promise { text: "10,000 idle clients: at most 40 MiB resident, and all work", verdict: idle_memory },
];

fn closed(report: &Report, mode: QueryMode, clients: u32) -> Option<&RowReport> {
    report.rows.iter().find(|row| row.workload == Workload::Closed { mode, clients })
}

fn throughput(row: &RowReport) -> Option<Verdict> {
    let ratio = row.ratio(Metric::Tps, Rival::Tigger, Rival::PgBouncer)?;
    Some(verdict(ratio.median >= 1.0, ratio))
}

fn machine_cpu(row: &RowReport) -> Option<Verdict> {
    let ratio = row.ratio(Metric::MachineCpuUs, Rival::Tigger, Rival::PgBouncer)?;
    Some(verdict(ratio.median <= 1.0, ratio))
}

fn verdict(held: bool, Spread { median, min, max }: Spread) -> Verdict {
    Verdict { held, figure: format!("{median:.3} times PgBouncer's ({min:.2} to {max:.2})") }
}

fn no_failure(row: &RowReport) -> Option<Verdict> {
    let failures = row.failures(Rival::Tigger);
    Some(Verdict { held: failures == 0, figure: format!("{failures} failures") })
}

fn idle_memory(report: &Report) -> Option<Verdict> {
    let idle = report.rows.iter().find_map(|row| row.idle(Rival::Tigger))?;
    let held = idle.after_kib <= IDLE_KIB_MAX && idle.failures == 0;
    let (mib, each) = (idle.after_kib as f64 / 1024.0, idle.kib_per_client());
    Some(Verdict { held, figure: format!("{mib:.1} MiB, {each:.1} KiB a client, {} failures", idle.failures) })
}

const IDLE_KIB_MAX: u64 = 40 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        machine::Machine,
        report::tests::{idle_report, row_report},
        rows::ROWS,
    };

    fn held(rates: [f64; 3], idle_kib: u64, idle_failures: u64) -> Vec<Option<bool>> {
        let mut rows: Vec<_> = ROWS[..11].iter().map(|row| row_report(row, &[rates])).collect();
        rows.push(idle_report(idle_kib, idle_failures));
        let report = Report { machine: Machine::default(), quick: false, background_percent: None, rows };
        PROMISES.iter().map(|promise| promise.verdict(&report).map(|verdict| verdict.held)).collect()
    }

    #[test]
    fn promises_hold_or_are_missed_by_their_figure() {
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(held([100.0, 80.0, 80.0], 40_960, 0), [yes, yes, yes, yes, yes, yes, yes]);
        assert_eq!(held([100.0, 79.0, 80.0], 40_961, 0), [no, no, no, no, yes, no, no]);
        assert_eq!(held([100.0, 80.0, 80.0], 40_960, 1).last(), Some(&no));
    }

    #[test]
    fn what_was_not_measured_has_no_verdict() {
        let report = Report { machine: Machine::default(), quick: true, background_percent: None, rows: Vec::new() };
        assert!(PROMISES.iter().all(|promise| promise.verdict(&report).is_none()));
    }
}
