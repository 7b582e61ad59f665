//! The result as Markdown: a section per group of rows, then what must hold.

mod table;

use self::table::table;
use crate::{
    promise::{PROMISES, Promise, Verdict},
    report::{Metric, Report, RowReport},
    scenario::{
        Rival::{self, Direct, DirectUnix, PgBouncer, PgBouncerUnix, Tigger, TiggerUser},
        Section, Workload,
    },
    spread::Spread,
};

/// The whole report.
pub(crate) fn render(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "## Tigger benchmark{}\n\n{} cores ({}), Linux {}; {}; {}; {}. `{}`\n\n{LEGEND}\n",
        if report.quick { " (quick)" } else { "" },
        machine.cores,
        machine.processor,
        machine.kernel,
        machine.postgres,
        machine.pgbouncer,
        machine.tigger,
        machine.command
    );
    for columns in &SECTIONS {
        text += &section(report, columns);
    }
    let remarks: Vec<String> = report.rows.iter().flat_map(RowReport::remarks).collect();
    if !remarks.is_empty() {
        text += &format!("\n### Remarks\n\n{}", list(&remarks));
    }
    if let Some(Spread { min, max, .. }) = report.background_percent {
        text +=
            &format!("\nOther programs kept the machine {min:.0} to {max:.0} % busy at the starts of the rounds.\n");
    }
    let warning = if report.is_disturbed() { " (of little meaning now: other programs disturbed the run)" } else { "" };
    let promises: Vec<String> = PROMISES.iter().map(|promise| promise_line(promise, report)).collect();
    text + &format!("\n### Must hold{warning}\n\n{}", list(&promises))
}

/// The columns of a section's tables of closed-loop rows, beside the row's name and the failures.
struct Columns {
    section: Section,
    throughput: &'static [Column],
    cpu: &'static [Column],
}

/// One column of figures.
enum Column {
    Median(Metric, Rival),
    Ratio(Metric, Rival, Rival),
}

impl Column {
    fn header(&self) -> String {
        let (Self::Median(metric, _) | Self::Ratio(metric, ..)) = self;
        let whose = match metric {
            Metric::MachineCpuUs => "all, ",
            Metric::PoolerCpuUs => "alone, ",
            _ => "",
        };
        match self {
            Self::Median(_, rival) => format!("{whose}{}", rival.name()),
            Self::Ratio(_, of, to) => format!("{whose}{} / {}", of.name(), to.name()),
        }
    }

    fn cell(&self, row: &RowReport) -> String {
        match *self {
            Self::Median(metric, rival) => median(row, metric, rival),
            Self::Ratio(metric, of, to) => row
                .ratio(metric, of, to)
                .map_or_else(none, |Spread { median, min, max }| format!("{median:.2} ({min:.2}..{max:.2})")),
        }
    }
}

/// The title and all that was to be measured; nothing without rows. What was skipped is among the remarks.
fn section(report: &Report, columns: &Columns) -> String {
    let rows: Vec<&RowReport> = report.rows_of(columns.section).collect();
    if rows.is_empty() {
        return String::new();
    }
    let mut text = format!("\n### {}\n", columns.section.title());
    for (title, table) in [
        (THROUGHPUT, closed(&rows, columns.throughput, true)),
        (CPU, closed(&rows, columns.cpu, false)),
        (LATENCY, per_rival(&rows, &LATENCY_HEADER, latency)),
        (IDLE, per_rival(&rows, &IDLE_HEADER, idle)),
        (TIMERS, per_rival(&rows, &TIMERS_HEADER, timers)),
    ] {
        if !table.is_empty() {
            text += &format!("\n{title}\n\n{table}");
        }
    }
    let kernel: Vec<String> =
        rows.iter().filter_map(|row| Some(format!("{}: {}", row.name, row.kernel_share()?))).collect();
    if kernel.is_empty() { text } else { text + &format!("\n{KERNEL}\n\n{}", list(&kernel)) }
}

fn closed(rows: &[&RowReport], columns: &[Column], failures: bool) -> String {
    let mut header = vec!["pgbench".to_owned()];
    header.extend(columns.iter().map(Column::header));
    header.extend(failures.then(|| "failures".to_owned()));
    let line = |row: &&RowReport| {
        let mut cells = vec![label(row)];
        cells.extend(columns.iter().map(|column| column.cell(row)));
        let each = || row.rivals.iter().map(|&rival| row.failures(rival).to_string()).collect::<Vec<_>>();
        cells.extend(failures.then(|| each().join(" / ")));
        cells
    };
    let rows: Vec<Vec<String>> = rows.iter().filter(|row| row.scenario.workload.is_closed()).map(line).collect();
    table(&header, &rows)
}

fn per_rival(rows: &[&RowReport], header: &[&str], cells: fn(&RowReport, Rival) -> Option<Vec<String>>) -> String {
    let header: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
    let lines = rows.iter().flat_map(|row| row.rivals.iter().filter_map(|&rival| cells(row, rival)));
    table(&header, &lines.collect::<Vec<_>>())
}

fn latency(row: &RowReport, rival: Rival) -> Option<Vec<String>> {
    let Workload::Rate { .. } = row.scenario.workload else { return None };
    let figures = [Metric::Tps, Metric::P50Us, Metric::P90Us, Metric::P99Us, Metric::MachineCpuUs];
    let cells = figures.map(|metric| median(row, metric, rival));
    let names = [label(row), rival.name().to_owned()];
    Some(names.into_iter().chain(cells).chain([row.failures(rival).to_string()]).collect())
}

fn idle(row: &RowReport, rival: Rival) -> Option<Vec<String>> {
    let idle = row.idle(rival)?;
    Some(vec![
        label(row),
        rival.name().to_owned(),
        idle.before_kib.to_string(),
        idle.after_kib.to_string(),
        format!("{:.2}", idle.kib_per_client()),
        idle.queries.to_string(),
        idle.failures.to_string(),
    ])
}

fn timers(row: &RowReport, rival: Rival) -> Option<Vec<String>> {
    let timers = row.timers(rival)?;
    let times = [timers.p50_ms, timers.p99_ms, timers.max_ms].map(|ms| format!("{ms:.0}"));
    let names = [label(row), rival.name().to_owned(), timers.timed_out.to_string()];
    Some(names.into_iter().chain(times).chain([timers.failures.to_string()]).collect())
}

/// What tells the row from the others of its section.
fn label(row: &RowReport) -> String {
    match row.scenario.group.placement() {
        None => row.scenario.workload.to_string(),
        Some(_) => row.name.clone(),
    }
}

fn median(row: &RowReport, metric: Metric, rival: Rival) -> String {
    let digits = match metric {
        Metric::MachineCpuUs | Metric::PoolerCpuUs => 1,
        Metric::Tps | Metric::P50Us | Metric::P90Us | Metric::P99Us => 0,
    };
    row.spread(metric, rival).map_or_else(none, |spread| format!("{:.digits$}", spread.median))
}

fn none() -> String {
    "-".to_owned()
}

fn promise_line(promise: &Promise, report: &Report) -> String {
    match promise.verdict(report) {
        Some(Verdict { held: true, figure }) => format!("held {promise}: {figure}"),
        Some(Verdict { held: false, figure }) => format!("MISSED {promise}: {figure}"),
        None => format!("not measured: {promise}"),
    }
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("- {line}\n")).collect()
}

const SECTIONS: [Columns; 3] = [
    Columns {
        section: Section::UserPath,
        throughput: &[
            Column::Median(Metric::Tps, Direct),
            Column::Median(Metric::Tps, TiggerUser),
            Column::Median(Metric::Tps, PgBouncer),
            Column::Ratio(Metric::Tps, TiggerUser, Direct),
            Column::Ratio(Metric::Tps, PgBouncer, Direct),
            Column::Ratio(Metric::Tps, TiggerUser, PgBouncer),
        ],
        cpu: &[
            Column::Median(Metric::MachineCpuUs, Direct),
            Column::Median(Metric::MachineCpuUs, TiggerUser),
            Column::Median(Metric::MachineCpuUs, PgBouncer),
            Column::Ratio(Metric::MachineCpuUs, TiggerUser, PgBouncer),
            Column::Median(Metric::PoolerCpuUs, TiggerUser),
            Column::Median(Metric::PoolerCpuUs, PgBouncer),
            Column::Ratio(Metric::PoolerCpuUs, TiggerUser, PgBouncer),
        ],
    },
    Columns {
        section: Section::BothLocal,
        throughput: &[
            Column::Median(Metric::Tps, Direct),
            Column::Median(Metric::Tps, DirectUnix),
            Column::Median(Metric::Tps, Tigger),
            Column::Median(Metric::Tps, TiggerUser),
            Column::Median(Metric::Tps, PgBouncer),
            Column::Ratio(Metric::Tps, Tigger, Direct),
            Column::Ratio(Metric::Tps, Tigger, DirectUnix),
            Column::Ratio(Metric::Tps, Tigger, TiggerUser),
            Column::Ratio(Metric::Tps, Tigger, PgBouncer),
        ],
        cpu: &[
            Column::Median(Metric::MachineCpuUs, Direct),
            Column::Median(Metric::MachineCpuUs, DirectUnix),
            Column::Median(Metric::MachineCpuUs, Tigger),
            Column::Median(Metric::MachineCpuUs, PgBouncer),
            Column::Ratio(Metric::MachineCpuUs, Tigger, Direct),
            Column::Median(Metric::PoolerCpuUs, Tigger),
            Column::Median(Metric::PoolerCpuUs, PgBouncer),
            Column::Ratio(Metric::PoolerCpuUs, Tigger, PgBouncer),
        ],
    },
    Columns {
        section: Section::OtherHosts,
        throughput: &[
            Column::Median(Metric::Tps, Direct),
            Column::Median(Metric::Tps, Tigger),
            Column::Median(Metric::Tps, TiggerUser),
            Column::Median(Metric::Tps, PgBouncer),
            Column::Median(Metric::Tps, PgBouncerUnix),
            Column::Ratio(Metric::Tps, Tigger, PgBouncer),
            Column::Ratio(Metric::Tps, Tigger, PgBouncerUnix),
            Column::Ratio(Metric::Tps, TiggerUser, PgBouncer),
        ],
        cpu: &[
            Column::Median(Metric::MachineCpuUs, Direct),
            Column::Median(Metric::MachineCpuUs, Tigger),
            Column::Median(Metric::MachineCpuUs, PgBouncer),
            Column::Ratio(Metric::MachineCpuUs, Tigger, PgBouncer),
            Column::Median(Metric::PoolerCpuUs, Tigger),
            Column::Median(Metric::PoolerCpuUs, PgBouncer),
            Column::Ratio(Metric::PoolerCpuUs, Tigger, PgBouncer),
        ],
    },
];
const LEGEND: &str = "Tigger is with `kernel_path = auto`, Tigger (user) with `kernel_path = off`; direct (Unix) and PgBouncer (Unix) connect \
     to PostgreSQL over its Unix socket, all others over TCP. Ratios are medians over rounds (least..greatest).";
const THROUGHPUT: &str = "Throughput in transactions per second; failures in the order of the rivals:";
const CPU: &str = "CPU time in µs per transaction, connecting included: of the whole machine (pgbench and PostgreSQL, too), of the pooler alone:";
const LATENCY: &str = "Latency in µs at a fixed rate, from when each transaction was due:";
const LATENCY_HEADER: [&str; 8] = ["pgbench -R", "rival", "tps", "p50", "p90", "p99", "CPU µs per tx", "failures"];
const IDLE: &str = "Resident memory of a pooler with idle clients, in KiB:";
const IDLE_HEADER: [&str; 7] = ["clients", "rival", "before", "after", "per client", "then queried", "failures"];
const TIMERS: &str = "How many ms too late the first of all clients are disconnected by `client_idle_timeout`:";
const TIMERS_HEADER: [&str; 7] = ["clients", "rival", "timed out", "p50", "p99", "max", "failures"];
const KERNEL: &str = "What the kernel carried for Tigger, by its `SHOW KERNEL_PATH`:";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests;

    fn rate(rival: Rival) -> f64 {
        match rival {
            Direct | DirectUnix => 1000.0,
            Tigger => 2000.0,
            TiggerUser => 850.0,
            PgBouncer | PgBouncerUnix => 500.0,
        }
    }

    #[track_caller]
    fn contains(text: &str, expected: &str) {
        let squeezed = |text: &str| text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed(text).contains(&squeezed(expected)), "{expected} not in\n{text}");
    }

    #[test]
    fn the_report_has_every_section() {
        let mut report = tests::report(rate, 30_000, 0);
        report.background_percent = Spread::of([1.0, 30.0]);
        let text = render(&report);
        for expected in [
            "| simple, 32 clients | 1000 | 850 | 500 | 0.85 (0.85..0.85) | 0.50 (0.50..0.50) | 1.70 (1.70..1.70) | 0 / 0 / 0 |",
            "| simple at 2000/s, 32 clients | PgBouncer | 500 | 100 | 200 | 300 |",
            "| 10000 idle clients | Tigger (user) | 4096 | 30000 |",
            "| timeouts of 10000 clients | Tigger (user) | 2000 | 30 | 60 | 99 | 0 |",
            "| read-write, 32 clients | 1000 | 1000 | 2000 | 850 | 500 | 2.00 (2.00..2.00) |",
            "| stand-alone: simple, 32 clients | 1000 | 2000 | 850 | 500 | - |",
            "- both local: simple, 32 clients: n/a",
            "Other programs kept the machine 1 to 30 % busy",
            "Must hold (of little meaning now",
            "- held user path: extended, 32 clients: Tigger (user), throughput at least 1.00 times PgBouncer: 1.700 times",
        ] {
            contains(&text, expected);
        }
        assert!(!text.contains("Remarks") && !text.contains("not measured"), "{text}");
    }

    #[test]
    fn what_was_not_chosen_has_no_section_and_what_was_skipped_a_remark() {
        let mut report = tests::report(rate, 0, 0);
        report.rows =
            vec![RowReport::new(tests::row_named("beside PostgreSQL: simple, 32 clients"), Some("no root".to_owned()))];
        let text = render(&report);
        assert!(!text.contains("### User path") && !text.contains("### Other hosts"), "{text}");
        contains(&text, "- beside PostgreSQL: simple, 32 clients: skipped, no root");
        contains(&text, "- not measured: beside PostgreSQL: simple, 32 clients: Tigger, throughput at least 1.05");
    }
}
