//! What was measured, and the figures drawn from it. All comparisons are made within a round and only then put together,
//! so that a machine which slows down between rounds does not favour anyone.

use std::fmt;

use serde::Serialize;

use crate::{
    kernel::KernelShare,
    machine::Machine,
    rows::Row,
    scenario::{Rival, Scenario, Section},
    spread::Spread,
};

/// One run of the benchmark.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) quick: bool,
    /// How busy other programs kept the machine at the start of each round.
    pub(crate) background_percent: Option<Spread>,
    pub(crate) rows: Vec<RowReport>,
}

/// All measurements of one row and their summary.
#[derive(Debug, Serialize)]
pub(crate) struct RowReport {
    pub(crate) name: String,
    pub(crate) scenario: Scenario,
    #[serde(skip)]
    pub(crate) rivals: &'static [Rival],
    /// Why nothing was measured.
    pub(crate) skipped: Option<String>,
    /// The ratios, for readers of the JSON.
    summary: Vec<Ratio>,
    pub(crate) samples: Vec<Sample>,
}

impl Report {
    /// Whether other programs took so much of the machine that the figures say little.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.background_percent.is_some_and(|percent| percent.max > BACKGROUND_PERCENT_MAX)
    }

    /// Rows of a section that were not skipped.
    pub(crate) fn rows_of(&self, section: Section) -> impl Iterator<Item = &RowReport> {
        self.rows.iter().filter(move |row| row.scenario.group.section() == section && row.skipped.is_none())
    }
}

/// One measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) round: u32,
    pub(crate) rival: Rival,
    pub(crate) outcome: Outcome,
}

/// How one measurement ended.
#[derive(Debug, Serialize)]
pub(crate) enum Outcome {
    Throughput(Throughput),
    Idle(Idle),
    Timers(Timers),
    Skipped { why: String },
    Failed { failures: u64, why: String },
}

/// What pgbench and `/proc` told.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Throughput {
    pub(crate) tps: f64,
    pub(crate) transactions: u64,
    pub(crate) failures: u64,
    pub(crate) errors: Vec<String>,
    pub(crate) latency_avg_ms: f64,
    pub(crate) connect_ms: f64,
    pub(crate) latency_us: Option<LatencyUs>,
    /// CPU time of the whole machine per transaction, pgbench and PostgreSQL included.
    pub(crate) machine_cpu_us: f64,
    /// CPU time of the pooler alone per transaction.
    pub(crate) pooler_cpu_us: Option<f64>,
    /// What the kernel path carried, where Tigger tells.
    pub(crate) kernel: Option<KernelShare>,
}

/// Percentiles over all transactions of one measurement.
#[derive(Debug, Serialize)]
pub(crate) struct LatencyUs {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
}

/// Memory of a pooler with idle clients.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) clients: u64,
    /// Resident memory after one client came and went.
    pub(crate) before_kib: u64,
    /// Resident memory with all clients logged in.
    pub(crate) after_kib: u64,
    /// Clients that were asked for a query at the end.
    pub(crate) queries: u64,
    pub(crate) failures: u64,
    pub(crate) error: Option<String>,
}

/// How much later than it should a time-out came, for the first of all clients to which it came.
#[derive(Debug, Serialize)]
pub(crate) struct Timers {
    pub(crate) clients: u64,
    /// Of so many clients.
    pub(crate) timed_out: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) failures: u64,
}

/// A figure of a measurement with pgbench. CPU time is per transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Metric {
    Tps,
    MachineCpuUs,
    PoolerCpuUs,
    P50Us,
    P90Us,
    P99Us,
}

/// One rival's figure divided by another's.
#[derive(Debug, Serialize)]
struct Ratio {
    metric: Metric,
    of: Rival,
    to: Rival,
    spread: Spread,
}

impl RowReport {
    /// Without samples yet.
    pub(crate) fn new(row: &Row, skipped: Option<String>) -> Self {
        let (scenario, rivals) = (row.scenario, row.rivals);
        Self { name: scenario.name(), scenario, rivals, skipped, summary: Vec::new(), samples: Vec::new() }
    }

    /// Compares every pooler with every other rival, when all samples are there.
    pub(crate) fn summarise(&mut self) {
        let mut summary = Vec::new();
        for metric in SUMMARY {
            for of in self.rivals.iter().copied().filter(|rival| rival.is_pooler()) {
                for to in self.rivals.iter().copied().filter(|&rival| rival != of) {
                    summary.extend(self.ratio(metric, of, to).map(|spread| Ratio { metric, of, to, spread }));
                }
            }
        }
        self.summary = summary;
    }

    /// A rival's figure over the rounds.
    pub(crate) fn spread(&self, metric: Metric, rival: Rival) -> Option<Spread> {
        Spread::of(self.samples.iter().filter(|sample| sample.rival == rival).filter_map(|sample| metric.of(sample)))
    }

    /// One rival's figure divided by another's in the same round, over the rounds.
    pub(crate) fn ratio(&self, metric: Metric, of: Rival, to: Rival) -> Option<Spread> {
        let rounds = self.samples.iter().filter(|sample| sample.rival == of);
        Spread::of(rounds.filter_map(|sample| {
            let other = self.samples.iter().find(|other| other.rival == to && other.round == sample.round)?;
            Some(metric.of(sample)? / metric.of(other)?)
        }))
    }

    /// Failed transactions, aborted clients and refused logins, over all rounds.
    pub(crate) fn failures(&self, rival: Rival) -> u64 {
        let outcomes = self.samples.iter().filter(|sample| sample.rival == rival).map(|sample| &sample.outcome);
        outcomes.map(Outcome::failures).sum()
    }

    /// The first measurement of idle clients.
    pub(crate) fn idle(&self, rival: Rival) -> Option<&Idle> {
        self.samples.iter().filter(|sample| sample.rival == rival).find_map(|sample| match &sample.outcome {
            Outcome::Idle(idle) => Some(idle),
            _ => None,
        })
    }

    /// The first measurement of time-outs.
    pub(crate) fn timers(&self, rival: Rival) -> Option<&Timers> {
        self.samples.iter().filter(|sample| sample.rival == rival).find_map(|sample| match &sample.outcome {
            Outcome::Timers(timers) => Some(timers),
            _ => None,
        })
    }

    /// What the kernel path carried of what clients of Tigger sent, in words; `None` without such a rival.
    pub(crate) fn kernel_share(&self) -> Option<String> {
        let shares = self.samples.iter().filter_map(|sample| match &sample.outcome {
            Outcome::Throughput(throughput) => throughput.kernel,
            _ => None,
        });
        let told = self.rivals.contains(&Rival::Tigger) && self.skipped.is_none();
        told.then(|| KernelShare::describe(&shares.collect::<Vec<_>>()))
    }

    /// Why measurements were left out or gave no figures.
    pub(crate) fn remarks(&self) -> impl Iterator<Item = String> {
        let skipped = self.skipped.iter().map(|why| format!("{}: skipped, {why}", self.name));
        skipped.chain(self.samples.iter().filter_map(|Sample { round, rival, outcome }| match outcome {
            Outcome::Skipped { why } => Some(format!("{}, {}: skipped, {why}", self.name, rival.name())),
            Outcome::Failed { why, .. } => Some(format!("{}, {}, round {}: {why}", self.name, rival.name(), round + 1)),
            Outcome::Throughput(Throughput { failures: 0, .. })
            | Outcome::Idle(Idle { error: None, .. })
            | Outcome::Timers(_) => None,
            Outcome::Throughput(Throughput { errors, .. }) => {
                Some(format!("{}, {}: {}", self.name, rival.name(), errors.join("; ")))
            }
            Outcome::Idle(Idle { error: Some(error), .. }) => Some(format!("{}, {}: {error}", self.name, rival.name())),
        }))
    }
}

impl Metric {
    /// In words, as far as promises are about it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tps => "throughput",
            Self::MachineCpuUs => "CPU time of the machine",
            Self::PoolerCpuUs => "CPU time of the pooler",
            Self::P50Us => "median latency",
            Self::P90Us => "latency of the slowest 10 %",
            Self::P99Us => "latency of the slowest 1 %",
        }
    }

    fn of(self, sample: &Sample) -> Option<f64> {
        let Outcome::Throughput(throughput) = &sample.outcome else { return None };
        let latency = throughput.latency_us.as_ref();
        match self {
            Self::Tps => Some(throughput.tps),
            Self::MachineCpuUs => Some(throughput.machine_cpu_us),
            Self::PoolerCpuUs => throughput.pooler_cpu_us,
            Self::P50Us => latency.map(|latency| latency.p50 as f64),
            Self::P90Us => latency.map(|latency| latency.p90 as f64),
            Self::P99Us => latency.map(|latency| latency.p99 as f64),
        }
    }
}

impl Outcome {
    fn failures(&self) -> u64 {
        match self {
            Self::Throughput(Throughput { failures, .. })
            | Self::Idle(Idle { failures, .. })
            | Self::Timers(Timers { failures, .. })
            | Self::Failed { failures, .. } => *failures,
            Self::Skipped { .. } => 0,
        }
    }
}

impl Idle {
    /// What each client added to the pooler's resident memory.
    pub(crate) fn kib_per_client(&self) -> f64 {
        self.after_kib.saturating_sub(self.before_kib) as f64 / self.clients as f64
    }
}

impl fmt::Display for Outcome {
    /// For the progress line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Throughput(throughput) => write!(f, "{:.0}/s", throughput.tps),
            Self::Idle(idle) => write!(f, "{:.1} KiB each", idle.kib_per_client()),
            Self::Timers(timers) => write!(f, "{:.0} ms late at most", timers.max_ms),
            Self::Skipped { .. } => write!(f, "skipped"),
            Self::Failed { .. } => write!(f, "FAILED"),
        }
    }
}

/// Two runs of the same program differ by this much on a quiet machine anyway.
const BACKGROUND_PERCENT_MAX: f64 = 5.0;
const SUMMARY: [Metric; 4] = [Metric::Tps, Metric::MachineCpuUs, Metric::PoolerCpuUs, Metric::P99Us];

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{rows::ROWS, scenario::Workload};

    /// A report of a row with the given rates of its rivals per round, and as much CPU as there is in a second for them.
    pub(crate) fn row_named(name: &str) -> &'static Row {
        ROWS.iter().find(|row| row.scenario.name() == name).expect("a row has this name")
    }

    pub(crate) fn row_report(row: &Row, rounds: &[&[f64]]) -> RowReport {
        let mut report = RowReport::new(row, None);
        for (rates, round) in rounds.iter().zip(0..) {
            for (&tps, &rival) in rates.iter().zip(row.rivals) {
                let pooler_cpu_us = rival.is_pooler().then_some(1e5 / tps);
                let latency_us = Some(LatencyUs { p50: 100, p90: 200, p99: 300 });
                let outcome =
                    Throughput { tps, machine_cpu_us: 1e6 / tps, pooler_cpu_us, latency_us, ..Throughput::default() };
                report.samples.push(Sample { round, rival, outcome: Outcome::Throughput(outcome) });
            }
        }
        report
    }

    pub(crate) fn idle_report(row: &Row, after_kib: u64, failures: u64) -> RowReport {
        let idle =
            |after_kib| Idle { clients: 10_000, before_kib: 4096, after_kib, queries: 100, failures, error: None };
        let sample = |rival, after_kib| Sample { round: 0, rival, outcome: Outcome::Idle(idle(after_kib)) };
        let mut report = RowReport::new(row, None);
        report.samples = vec![sample(Rival::TiggerUser, after_kib), sample(Rival::PgBouncer, 20_480)];
        report
    }

    pub(crate) fn timers_report(row: &Row, max_ms: f64, failures: u64) -> RowReport {
        let timers = |max_ms| Timers { clients: 10_000, timed_out: 2000, p50_ms: 30.0, p99_ms: 60.0, max_ms, failures };
        let sample = |rival, max_ms| Sample { round: 0, rival, outcome: Outcome::Timers(timers(max_ms)) };
        let mut report = RowReport::new(row, None);
        report.samples = vec![sample(Rival::TiggerUser, max_ms), sample(Rival::PgBouncer, 400.0)];
        report
    }

    /// All rows, with one round in which each rival has the rate that `tps` says.
    pub(crate) fn report(tps: fn(Rival) -> f64, idle_kib: u64, failures: u64) -> Report {
        let rows = ROWS.iter().map(|row| match row.scenario.workload {
            Workload::Idle { .. } => idle_report(row, idle_kib, failures),
            Workload::Timers { .. } => timers_report(row, 99.0, failures),
            _ => row_report(row, &[&row.rivals.iter().map(|&rival| tps(rival)).collect::<Vec<_>>()]),
        });
        Report { machine: Machine::default(), quick: false, background_percent: None, rows: rows.collect() }
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        // The machine gets ten times slower, the ratio stays.
        let mut report = row_report(&ROWS[0], &[&[1000.0, 900.0, 600.0], &[100.0, 80.0, 40.0], &[100.0, 70.0, 35.0]]);
        let ratio = report.ratio(Metric::Tps, Rival::TiggerUser, Rival::Direct);
        assert_eq!(ratio, Some(Spread { median: 0.8, min: 0.7, max: 0.9 }));
        let cpu = report.ratio(Metric::MachineCpuUs, Rival::TiggerUser, Rival::PgBouncer).unwrap();
        assert!((cpu.median - 0.5).abs() < 1e-9, "{cpu:?}");
        assert_eq!(report.ratio(Metric::PoolerCpuUs, Rival::TiggerUser, Rival::Direct), None);
        assert_eq!(report.spread(Metric::Tps, Rival::PgBouncer), Some(Spread { median: 40.0, min: 35.0, max: 600.0 }));
        report.summarise();
        // Of each pooler to two others, and of the poolers to each other for their own CPU time.
        assert_eq!(report.summary.len(), 4 + 4 + 2 + 4);
    }

    #[test]
    fn failed_rounds_count_as_failures_and_give_no_figures() {
        let failed = Outcome::Failed { failures: 1000, why: "no report".to_owned() };
        let mut report = RowReport::new(&ROWS[0], None);
        report.samples.push(Sample { round: 0, rival: Rival::TiggerUser, outcome: failed });
        assert_eq!(report.failures(Rival::TiggerUser), 1000);
        assert_eq!(report.spread(Metric::Tps, Rival::TiggerUser), None);
        let remarks: Vec<String> = report.remarks().collect();
        assert_eq!(remarks, ["user path: simple, 1 client, Tigger (user), round 1: no report"]);
    }

    #[test]
    fn a_row_that_is_skipped_says_why() {
        let report = RowReport::new(row_named("beside PostgreSQL: simple, 32 clients"), Some("no root".to_owned()));
        let remarks: Vec<String> = report.remarks().collect();
        assert_eq!(remarks, ["beside PostgreSQL: simple, 32 clients: skipped, no root"]);
        assert_eq!(report.kernel_share(), None);
    }
}
