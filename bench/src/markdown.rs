//! The result as Markdown, aligned so that it also reads well in a terminal.

use crate::{
    promise::{PROMISES, Verdict},
    report::{Metric, Report, RowReport},
    rows::{Rival, Workload},
    spread::Spread,
};

/// The whole report.
pub(crate) fn render(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "## Tigger benchmark{}\n\n{} cores ({}), Linux {}; {}; {}; {}. `{}`\n",
        if report.quick { " (quick)" } else { "" },
        machine.cores,
        machine.processor,
        machine.kernel,
        machine.postgres,
        machine.pgbouncer,
        machine.tigger,
        machine.command
    );
    let sections = [
        (THROUGHPUT, table(&THROUGHPUT_HEADER, &closed(report, throughput))),
        (CPU, table(&CPU_HEADER, &closed(report, cpu))),
        (LATENCY, table(&LATENCY_HEADER, &per_rival(report, latency))),
        (IDLE, table(&IDLE_HEADER, &per_rival(report, idle))),
    ];
    for (title, table) in sections.iter().filter(|(_, table)| !table.is_empty()) {
        text += &format!("\n{title}\n\n{table}");
    }
    let remarks: Vec<String> = report.rows.iter().flat_map(RowReport::remarks).collect();
    if !remarks.is_empty() {
        text += &format!("\nRemarks:\n\n{}", remarks.iter().map(|remark| format!("- {remark}\n")).collect::<String>());
    }
    if let Some(Spread { min, max, .. }) = report.background_percent {
        text +=
            &format!("\nOther programs kept the machine {min:.0} to {max:.0} % busy at the starts of the rounds.\n");
    }
    let warning = if report.is_disturbed() { " (of little meaning now: other programs disturbed the run)" } else { "" };
    text + &format!("\nMust hold{warning}:\n\n") + &promises(report)
}

fn promises(report: &Report) -> String {
    let line = |(text, verdict): (&str, Option<Verdict>)| match verdict {
        Some(Verdict { held, figure }) => format!("- {} {text}: {figure}\n", if held { "held" } else { "MISSED" }),
        None => format!("- not measured: {text}\n"),
    };
    PROMISES.iter().map(|promise| line((promise.text, promise.verdict(report)))).collect()
}

fn closed(report: &Report, cells: fn(&RowReport) -> Vec<String>) -> Vec<Vec<String>> {
    report.rows.iter().filter(|row| matches!(row.workload, Workload::Closed { .. })).map(cells).collect()
}

fn per_rival(report: &Report, cells: fn(&RowReport, Rival) -> Option<Vec<String>>) -> Vec<Vec<String>> {
    let rivals = |row: &'static [Rival]| row.iter().copied();
    report.rows.iter().flat_map(|row| rivals(row.rivals).filter_map(move |rival| cells(row, rival))).collect()
}

fn throughput(row: &RowReport) -> Vec<String> {
    let tps = |rival| median(row.spread(Metric::Tps, rival), 0);
    let failures = row.rivals.iter().map(|&rival| row.failures(rival).to_string()).collect::<Vec<_>>().join(" / ");
    vec![
        row.name.clone(),
        tps(Rival::Direct),
        tps(Rival::Tigger),
        tps(Rival::PgBouncer),
        ratio(row.ratio(Metric::Tps, Rival::Tigger, Rival::Direct)),
        ratio(row.ratio(Metric::Tps, Rival::PgBouncer, Rival::Direct)),
        ratio(row.ratio(Metric::Tps, Rival::Tigger, Rival::PgBouncer)),
        failures,
    ]
}

fn cpu(row: &RowReport) -> Vec<String> {
    let cpu = |metric, rival| median(row.spread(metric, rival), 1);
    vec![
        row.name.clone(),
        cpu(Metric::MachineCpuUs, Rival::Direct),
        cpu(Metric::MachineCpuUs, Rival::Tigger),
        cpu(Metric::MachineCpuUs, Rival::PgBouncer),
        ratio(row.ratio(Metric::MachineCpuUs, Rival::Tigger, Rival::PgBouncer)),
        cpu(Metric::PoolerCpuUs, Rival::Tigger),
        cpu(Metric::PoolerCpuUs, Rival::PgBouncer),
        ratio(row.ratio(Metric::PoolerCpuUs, Rival::Tigger, Rival::PgBouncer)),
    ]
}

fn latency(row: &RowReport, rival: Rival) -> Option<Vec<String>> {
    let Workload::Rate { .. } = row.workload else { return None };
    let figures =
        [(Metric::Tps, 0), (Metric::P50Us, 0), (Metric::P90Us, 0), (Metric::P99Us, 0), (Metric::MachineCpuUs, 1)];
    let cells = figures.map(|(metric, digits)| median(row.spread(metric, rival), digits));
    let names = [row.name.clone(), rival.name().to_owned()];
    Some(names.into_iter().chain(cells).chain([row.failures(rival).to_string()]).collect())
}

fn idle(row: &RowReport, rival: Rival) -> Option<Vec<String>> {
    let idle = row.idle(rival)?;
    Some(vec![
        row.name.clone(),
        rival.name().to_owned(),
        idle.before_kib.to_string(),
        idle.after_kib.to_string(),
        format!("{:.2}", idle.kib_per_client()),
        idle.queries.to_string(),
        idle.failures.to_string(),
    ])
}

fn median(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(|| "-".to_owned(), |spread| format!("{:.digits$}", spread.median))
}

fn ratio(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "-".to_owned(), |Spread { median, min, max }| format!("{median:.2} ({min:.2}..{max:.2})"))
}

/// A Markdown table, columns of figures right-aligned. Without rows it is empty.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let header: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
    let columns: Vec<Column> = (0..header.len()).map(|index| Column::of(index, &header, rows)).collect();
    let line = |cells: &[String]| {
        let cells = columns.iter().zip(cells).map(|(column, cell)| column.cell(cell));
        format!("|{}\n", cells.collect::<String>())
    };
    let rule = format!("|{}\n", columns.iter().map(Column::rule).collect::<String>());
    line(&header) + &rule + &rows.iter().map(|row| line(row)).collect::<String>()
}

/// How a column of a table is set.
struct Column {
    width: usize,
    figures: bool,
}

impl Column {
    fn of(index: usize, header: &[String], rows: &[Vec<String>]) -> Self {
        let cells = || rows.iter().map(|row| &row[index]);
        let width = cells().chain([&header[index]]).map(|cell| cell.chars().count()).max().unwrap_or(0);
        Self { width, figures: !cells().any(|cell| cell.contains(char::is_alphabetic)) }
    }

    fn cell(&self, cell: &str) -> String {
        let width = self.width;
        if self.figures { format!(" {cell:>width$} |") } else { format!(" {cell:<width$} |") }
    }

    fn rule(&self) -> String {
        let dashes = "-".repeat(self.width + 1);
        if self.figures { format!("{dashes}:|") } else { format!("-{dashes}|") }
    }
}

const THROUGHPUT: &str = "Throughput in transactions per second; ratios are medians over rounds (least..greatest):";
const THROUGHPUT_HEADER: [&str; 8] = [
    "pgbench -S",
    "direct",
    "Tigger",
    "PgBouncer",
    "Tigger / direct",
    "PgBouncer / direct",
    "Tigger / PgBouncer",
    "failures d / T / P",
];
const CPU: &str = "CPU time in µs per transaction, connecting included: of the whole machine (pgbench and PostgreSQL, too), of the pooler alone:";
const CPU_HEADER: [&str; 8] = [
    "pgbench -S",
    "all, direct",
    "all, Tigger",
    "all, PgBouncer",
    "Tigger / PgBouncer",
    "Tigger alone",
    "PgBouncer alone",
    "Tigger / PgBouncer",
];
const LATENCY: &str = "Latency in µs at a fixed rate, from when each transaction was due:";
const LATENCY_HEADER: [&str; 8] = ["pgbench -S -R", "rival", "tps", "p50", "p90", "p99", "CPU µs per tx", "failures"];
const IDLE: &str = "Resident memory of a pooler with idle clients, in KiB:";
const IDLE_HEADER: [&str; 7] = ["clients", "rival", "before", "after", "per client", "then queried", "failures"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        machine::Machine,
        report::tests::{idle_report, row_report},
        rows::ROWS,
    };

    #[test]
    fn the_report_has_every_section() {
        let rounds = [[1000.0, 900.0, 600.0], [1000.0, 800.0, 500.0], [1000.0, 850.0, 550.0]];
        let mut rows: Vec<RowReport> = ROWS[..11].iter().map(|row| row_report(row, &rounds)).collect();
        rows.push(idle_report(30_000, 0));
        let text = render(&Report {
            machine: Machine::default(),
            quick: true,
            background_percent: Spread::of([1.0, 30.0]),
            rows,
        });
        for expected in [
            "| simple, 32 clients     |   1000 |    850 |       550 | 0.85 (0.80..0.90) |",
            "| simple at 2000/s, 32 clients | PgBouncer |",
            "|  200 | 300 |",
            "| 10000 idle clients | Tigger    |",
            "Other programs kept the machine 1 to 30 % busy",
            "Must hold (of little meaning now",
            "- held 32 clients, extended: throughput at least PgBouncer's: 1.545 times PgBouncer's (1.50 to 1.60)",
        ] {
            let squeezed = |text: &str| text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
            assert!(squeezed(&text).contains(&squeezed(expected)), "{expected} not in\n{text}");
        }
        assert!(!text.contains("Remarks") && !text.contains("MISSED"), "{text}");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["long name".to_owned(), "1".to_owned()], vec!["µ".to_owned(), "22222".to_owned()]];
        let expected = "| name      |     n |\n|-----------|------:|\n| long name |     1 |\n| µ         | 22222 |\n";
        assert_eq!(table(&["name", "n"], &rows), expected);
    }
}
