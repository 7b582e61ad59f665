//! Runs `pgbench` with a hard bound in time and reads its report and its per-transaction log (pgbench manual).

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};

use crate::{
    account::Account,
    conninfo::Conninfo,
    host::Host,
    programs::postgres_program,
    run::{Run, command, run},
};

/// How pgbench sends queries (`--protocol`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum QueryMode {
    /// One Query message each.
    #[default]
    Simple,
    /// Parse, Bind and Execute each.
    Extended,
    /// Parse once, then Bind and Execute with a named statement.
    Prepared,
}

impl QueryMode {
    /// pgbench's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

/// One `pgbench` invocation to be: select-only, 1 client, 1 thread, 2 s, unless set otherwise.
#[derive(Clone, Debug)]
pub struct Pgbench {
    conninfo: Conninfo,
    host: Host,
    clients: u32,
    threads: u32,
    seconds: u32,
    mode: QueryMode,
    rate: Option<u32>,
    latencies: bool,
    script: Vec<String>,
}

impl Pgbench {
    /// Connects with `conninfo`.
    pub fn new(conninfo: Conninfo) -> Self {
        let script = vec!["--select-only".to_owned()];
        Self {
            conninfo,
            host: Host::default(),
            clients: 1,
            threads: 1,
            seconds: 2,
            mode: QueryMode::Simple,
            rate: None,
            latencies: false,
            script,
        }
    }

    /// Runs on `host` instead of ours.
    #[must_use]
    pub fn on(mut self, host: &Host) -> Self {
        self.host = host.clone();
        self
    }

    /// Sets the number of clients (`-c`).
    #[must_use]
    pub fn clients(mut self, clients: u32) -> Self {
        self.clients = clients;
        self
    }

    /// Sets the number of threads (`-j`); more than clients are not used.
    #[must_use]
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = threads;
        self
    }

    /// Sets for how long it runs (`-T`).
    #[must_use]
    pub fn seconds(mut self, seconds: u32) -> Self {
        self.seconds = seconds;
        self
    }

    /// Sets how queries are sent (`-M`).
    #[must_use]
    pub fn mode(mut self, mode: QueryMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sends at this many transactions per second in all (`-R`) instead of as many as possible.
    #[must_use]
    pub fn rate(mut self, transactions_per_second: u32) -> Self {
        self.rate = Some(transactions_per_second);
        self
    }

    /// Logs the latency of every transaction, for [`PgbenchReport::latencies_us`].
    #[must_use]
    pub fn log_latencies(mut self) -> Self {
        self.latencies = true;
        self
    }

    /// Replaces `--select-only` by other arguments, such as `--file=…`.
    #[must_use]
    pub fn script(mut self, args: &[&str]) -> Self {
        self.script = args.iter().map(|&arg| arg.to_owned()).collect();
        self
    }

    /// Creates pgbench's tables. At scale 1 there are 100,000 accounts.
    pub fn init(conninfo: &Conninfo, scale: u32) -> Result<()> {
        Self::init_with(conninfo, scale, &[])
    }

    /// Creates pgbench's tables with further arguments, such as `--unlogged-tables`.
    pub fn init_with(conninfo: &Conninfo, scale: u32, args: &[&str]) -> Result<()> {
        let mut command = command(&postgres_program("pgbench")?);
        command.args(["--initialize", "--quiet", "--scale", &scale.to_string()]).args(args);
        command.arg(conninfo.to_string());
        run(conninfo.apply(&mut command), LIMIT)?.checked().context("pgbench --initialize")?;
        Ok(())
    }

    /// Runs. Failed transactions and aborted clients are counts in the report; an error means that there is no report.
    pub fn run(&self) -> Result<PgbenchReport> {
        let logs =
            tempfile::Builder::new().prefix("tigger-pgbench-").tempdir_in("/tmp").context("temporary directory")?;
        let mut command = self.host.command(&postgres_program("pgbench")?, Account::Ours);
        command.current_dir(logs.path()).args(&self.script).args(["--no-vacuum", "--protocol", self.mode.name()]);
        let threads = self.threads.min(self.clients);
        let numbers = [("--client", self.clients), ("--jobs", threads), ("--time", self.seconds)];
        for (name, number) in numbers.into_iter().chain(self.rate.map(|rate| ("--rate", rate))) {
            command.args([name, &number.to_string()]);
        }
        if self.latencies {
            command.args(["--log", &format!("--log-prefix={LOG_PREFIX}")]);
        }
        command.arg(self.conninfo.to_string());
        let limit = LIMIT + Duration::from_secs(self.seconds.into());
        let run = run(self.conninfo.apply(&mut command), limit)?;
        let mut report = PgbenchReport::parse(&run).with_context(|| format!("no report from pgbench: {run}"))?;
        if self.latencies {
            report.latencies_us = latencies_us(logs.path())?;
        }
        Ok(report)
    }
}

/// What pgbench reported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PgbenchReport {
    /// Transactions that were done.
    pub transactions: u64,
    /// Transactions that failed with a serialization or deadlock error.
    pub failed: u64,
    /// Clients that gave up, because of any other error or a lost connection.
    pub aborted_clients: u64,
    /// Transactions per second, without the time to connect.
    pub tps: f64,
    /// Average latency in milliseconds; with a rate, from when the transaction was due.
    pub latency_avg_ms: f64,
    /// Average time to connect all clients in milliseconds.
    pub connect_ms: f64,
    /// With [`Pgbench::log_latencies`]: all latencies in microseconds, sorted. With a rate, from when each was due.
    pub latencies_us: Vec<u64>,
    /// What it wrote to standard error: the errors of aborted clients.
    pub stderr: String,
}

impl PgbenchReport {
    /// Failed transactions and aborted clients together: 0 in a good run.
    pub fn failures(&self) -> u64 {
        self.failed + self.aborted_clients
    }

    fn parse(run: &Run) -> Option<Self> {
        let value = |prefix: &str| {
            let rest = run.stdout.lines().find_map(|line| line.strip_prefix(prefix))?;
            rest.split([' ', '/', '(']).find(|word| !word.is_empty())
        };
        let aborted =
            run.stderr.lines().filter(|line| line.contains(" aborted in ") || line.contains("connection to server"));
        let aborted_clients = match aborted.count() as u64 {
            0 if !run.status.success() => 1,
            clients => clients,
        };
        Some(Self {
            transactions: value("number of transactions actually processed:")?.parse().ok()?,
            failed: value("number of failed transactions:").map_or(Some(0), |failed| failed.parse().ok())?,
            aborted_clients,
            // All clients aborted: there is no such line.
            tps: value("tps =").map_or(Some(0.0), |tps| tps.parse().ok())?,
            latency_avg_ms: value("latency average =").map_or(Some(0.0), |latency| latency.parse().ok())?,
            connect_ms: value("initial connection time =").map_or(Some(0.0), |time| time.parse().ok())?,
            latencies_us: Vec::new(),
            stderr: run.stderr.clone(),
        })
    }
}

/// The value at `percent` (0 to 100) of sorted values, by nearest rank; 0 for none.
pub fn percentile(sorted: &[u64], percent: f64) -> u64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

/// Reads the log files of all threads.
fn latencies_us(directory: &Path) -> Result<Vec<u64>> {
    let mut latencies = Vec::new();
    for entry in fs::read_dir(directory).context("looking for pgbench's logs")? {
        let entry = entry.context("looking for pgbench's logs")?;
        if entry.file_name().to_string_lossy().starts_with(LOG_PREFIX) {
            let text = fs::read_to_string(entry.path()).context("reading a log of pgbench")?;
            latencies.extend(text.lines().filter_map(latency_us));
        }
    }
    latencies.sort_unstable();
    Ok(latencies)
}

/// A line is `client_id transaction_no time …`; the time is a word instead if the transaction failed or was skipped.
fn latency_us(line: &str) -> Option<u64> {
    line.split(' ').nth(2)?.parse().ok()
}

const LOG_PREFIX: &str = "transactions";
/// Bound for connecting and for the end, beside the time asked for.
const LIMIT: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::*;

    fn report(stdout: &str, stderr: &str, code: i32) -> Option<PgbenchReport> {
        let status = ExitStatus::from_raw(code << 8);
        PgbenchReport::parse(&Run { stdout: stdout.to_owned(), stderr: stderr.to_owned(), status })
    }

    #[test]
    fn a_good_report_is_read() {
        let stdout = "pgbench (15.18)\ntransaction type: <builtin: select only>\nnumber of clients: 8\nduration: 2 s\n\
            number of transactions actually processed: 43210\nnumber of failed transactions: 0 (0.000%)\n\
            latency average = 0.370 ms\ninitial connection time = 12.345 ms\n\
            tps = 21605.123456 (without initial connection time)\n";
        let expected = PgbenchReport {
            transactions: 43_210,
            tps: 21_605.123_456,
            latency_avg_ms: 0.37,
            connect_ms: 12.345,
            ..PgbenchReport::default()
        };
        assert_eq!(report(stdout, "", 0), Some(expected));
    }

    #[test]
    fn failures_are_counted() {
        let stdout = "number of transactions actually processed: 10/100\nnumber of failed transactions: 3 (3.000%)\n";
        let stderr = "pgbench: error: client 0 aborted in command 1 (SQL) of script 0; perhaps the backend died\n\
            pgbench: error: client 7 aborted in command 1 (SQL) of script 0; perhaps the backend died\n\
            pgbench: error: Run was aborted; the above results are incomplete.\n";
        let report = report(stdout, stderr, 2).unwrap();
        assert_eq!((report.transactions, report.failed, report.aborted_clients, report.failures()), (10, 3, 2, 5));
    }

    #[test]
    fn no_report_is_told_from_a_bad_one() {
        assert_eq!(report("", "pgbench: error: connection to server failed\n", 1), None);
        assert_eq!(report("number of transactions actually processed: 0\n", "", 2).unwrap().aborted_clients, 1);
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let sorted: Vec<u64> = (1..=100).collect();
        assert_eq!([50.0, 90.0, 99.0, 100.0].map(|percent| percentile(&sorted, percent)), [50, 90, 99, 100]);
        assert_eq!((percentile(&[7], 50.0), percentile(&[7], 0.0), percentile(&[], 99.0)), (7, 7, 0));
    }

    #[test]
    fn log_lines_without_a_latency_are_left_out() {
        assert_eq!(latency_us("0 199 2241 0 1175850568 995598 12"), Some(2241));
        assert_eq!(latency_us("0 200 skipped 0 1175850569 608"), None);
        assert_eq!(latency_us(""), None);
    }
}
