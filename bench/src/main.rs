//! `tigger-bench`: direct connections, Tigger (with and without the kernel path) and PgBouncer against the same
//! PostgreSQL, in turns within one run; see `rows` for what is measured and `promise` for what must come out.
//! It writes `results.json`, `results.md` and `throughput.svg` and says which of Tigger's promises held. A missed promise
//! is a result, not an error: the exit status tells only whether the harness worked.

#![forbid(unsafe_code)]

mod arguments;
mod chart;
mod idle;
mod kernel;
mod machine;
mod markdown;
mod promise;
mod report;
mod rig;
mod rows;
mod scenario;
mod spread;
mod timers;

use std::{fs, process::ExitCode};

use anyhow::{Context, Result};
use tigger_testkit::{raise_fd_limit, target_dir};

use crate::{
    arguments::Arguments,
    machine::Machine,
    report::{Report, RowReport, Sample},
    rig::Rig,
    rows::Row,
    scenario::{Rival, Workload},
    spread::Spread,
};

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tigger-bench failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let rows: Vec<&Row> = rows::ROWS.iter().filter(|row| arguments.rounds(row) > 0).collect();
    let fd_limit = raise_fd_limit()?;
    let machine = Machine::describe()?;
    eprintln!("starting servers and filling caches");
    let rig = Rig::start(&rows)?;
    rig.warm_up(&rows)?;

    let mut reports: Vec<RowReport> = rows.iter().map(|row| RowReport::new(row, rig.missing(row))).collect();
    let rounds = rows.iter().map(|row| arguments.rounds(row)).max().unwrap_or(0);
    let mut background = Vec::new();
    for round in 0..rounds {
        background.push(machine::background_percent(machine.cores)?);
        let measured = rows.iter().zip(&mut reports).filter(|(row, _)| round < arguments.rounds(row));
        for (row, report) in measured.filter(|(_, report)| report.skipped.is_none()) {
            eprint!("round {} of {}, {}:", round + 1, arguments.rounds(row), report.name);
            for rival in rivals_in_turn(row, round) {
                let outcome = match row.scenario.workload {
                    Workload::Idle { clients } => idle::measure(&rig, rival, clients, fd_limit)?,
                    Workload::Timers { clients } => {
                        timers::measure(&rig, rival, clients, arguments.seconds(row, rival), fd_limit)?
                    }
                    _ => rig.measure(row.scenario, rival, arguments.seconds(row, rival))?,
                };
                eprint!("  {} {outcome}", rival.name());
                report.samples.push(Sample { round, rival, outcome });
            }
            eprintln!();
        }
    }
    reports.iter_mut().for_each(RowReport::summarise);
    let background_percent = Spread::of(background);
    finish(&Report { machine, quick: arguments.quick, background_percent, rows: reports }, &arguments)
}

/// Each rival is first, second and last in turn, so that none always follows the same one.
fn rivals_in_turn(row: &Row, round: u32) -> impl Iterator<Item = Rival> {
    let rivals = row.rivals;
    (0..rivals.len()).map(move |turn| rivals[(round as usize + turn) % rivals.len()])
}

fn finish(report: &Report, arguments: &Arguments) -> Result<()> {
    let directory = match &arguments.out {
        Some(directory) => directory.clone(),
        None => target_dir()?.join("bench"),
    };
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let markdown = markdown::render(report);
    let json = serde_json::to_string_pretty(&report).context("results as JSON")?;
    for (name, text) in [("results.json", &json), ("results.md", &markdown), ("throughput.svg", &chart::render(report))]
    {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    println!("{markdown}");
    println!("Results and chart: {}", directory.display());
    Ok(())
}
