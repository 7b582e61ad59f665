//! What was measured on and with, so that a result can be judged and repeated.

use std::{
    env, fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use serde::Serialize;
use tigger_testkit::{machine_cpu_ticks, pgbouncer_binary, postgres_program, run, ticks_per_second, tigger_binary};

/// The machine, the versions of all programs and the command.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) kernel: String,
    pub(crate) postgres: String,
    pub(crate) pgbouncer: String,
    pub(crate) tigger: String,
    pub(crate) command: String,
    /// Seconds since 1970.
    pub(crate) started_at_s: u64,
}

impl Machine {
    pub(crate) fn describe() -> Result<Self> {
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Our own path is of no interest to others.
        let args: Vec<String> = env::args().skip(1).collect();
        // "postgres (PostgreSQL) 15.8 (Debian …)"
        let postgres = version(&postgres_program("postgres")?)?;
        Ok(Self {
            cores: thread::available_parallelism().context("counting cores")?.get(),
            processor: name.map_or("unknown processor", |(_, name)| name).to_owned(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            postgres: format!(
                "PostgreSQL {}",
                postgres.split_ascii_whitespace().nth(2).unwrap_or("of unknown version")
            ),
            pgbouncer: version(&pgbouncer_binary()?)?,
            tigger: version(&tigger_binary()?)?,
            command: format!("tigger-bench {}", args.join(" ")).trim_end().to_owned(),
            started_at_s: since_1970.as_secs(),
        })
    }
}

/// How busy the machine is with other programs while ours rest, in percent of all cores. It watches for half a second.
pub(crate) fn background_percent(cores: usize) -> Result<f64> {
    let (ticks, start) = (machine_cpu_ticks()?, Instant::now());
    thread::sleep(Duration::from_millis(500));
    let busy_s = (machine_cpu_ticks()? - ticks) as f64 / ticks_per_second() as f64;
    Ok(100.0 * busy_s / (start.elapsed().as_secs_f64() * cores as f64))
}

/// The first line that `program --version` prints.
fn version(program: &Path) -> Result<String> {
    let run = run(Command::new(program).arg("--version"), Duration::from_secs(10))?.checked()?;
    Ok(run.stdout.lines().next().unwrap_or_default().trim().to_owned())
}
