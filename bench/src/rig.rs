//! The servers under test, all up for the whole run, and one measurement with pgbench.

use anyhow::{Context, Result};
use tigger_testkit::{
    Pgbench, PgbenchReport, Postgres, PostgresOptions, Proxy, ProxyKind, ProxyOptions, machine_cpu_ticks, percentile,
    ticks_per_second,
};

use crate::{
    report::{LatencyUs, Outcome, Throughput},
    rows::{Rival, Workload},
};

/// One PostgreSQL, and both poolers in front of it with the same settings.
pub(crate) struct Rig {
    // Dropped in this order: poolers before their server.
    tigger: Proxy,
    pgbouncer: Proxy,
    postgres: Postgres,
}

impl Rig {
    pub(crate) fn start() -> Result<Self> {
        let postgres = Postgres::start(&PostgresOptions::default().max_connections(SERVER_CONNECTIONS_MAX))?;
        Pgbench::init(&postgres.conninfo(), 1)?;
        let start = |rival| start_pooler(rival, &postgres);
        Ok(Self { tigger: start(Rival::Tigger)?, pgbouncer: start(Rival::PgBouncer)?, postgres })
    }

    /// A pooler of its own beside the rig's, whose memory nothing has touched yet. There is none for direct connections.
    pub(crate) fn fresh_pooler(&self, rival: Rival) -> Result<Proxy> {
        start_pooler(rival, &self.postgres)
    }

    /// Fills caches and pools.
    pub(crate) fn warm_up(&self) -> Result<()> {
        for rival in [Rival::Direct, Rival::Tigger, Rival::PgBouncer] {
            self.pgbench(rival, 32).seconds(1).run().with_context(|| format!("warming up {}", rival.name()))?;
        }
        Ok(())
    }

    /// Measures one rival once. A pgbench that cannot even report is an outcome with all clients failed.
    pub(crate) fn measure(&self, rival: Rival, workload: Workload, seconds: u32) -> Result<Outcome> {
        let (Workload::Closed { mode, clients } | Workload::Rate { mode, clients, .. }) = workload else {
            anyhow::bail!("pgbench has no idle clients")
        };
        let mut pgbench = self.pgbench(rival, clients).seconds(seconds).mode(mode);
        if let Workload::Rate { tps, .. } = workload {
            pgbench = pgbench.rate(tps).log_latencies();
        }
        let pooler_ticks = || self.pooler(rival).map(Proxy::cpu_ticks).transpose();
        let (machine_before, pooler_before) = (machine_cpu_ticks()?, pooler_ticks()?);
        let report = match pgbench.run() {
            Ok(report) => report,
            Err(error) => return Ok(Outcome::Failed { failures: clients.into(), why: format!("{error:#}") }),
        };
        let machine_ticks = machine_cpu_ticks()? - machine_before;
        let pooler_ticks = pooler_ticks()?.zip(pooler_before).map(|(after, before)| after - before);
        Ok(Outcome::Throughput(throughput(&report, machine_ticks, pooler_ticks)))
    }

    fn pooler(&self, rival: Rival) -> Option<&Proxy> {
        match rival {
            Rival::Direct => None,
            Rival::Tigger => Some(&self.tigger),
            Rival::PgBouncer => Some(&self.pgbouncer),
        }
    }

    fn pgbench(&self, rival: Rival, clients: u32) -> Pgbench {
        let conninfo = self.pooler(rival).map_or_else(|| self.postgres.conninfo(), Proxy::conninfo);
        Pgbench::new(conninfo).clients(clients).threads(PGBENCH_THREADS)
    }
}

fn start_pooler(rival: Rival, postgres: &Postgres) -> Result<Proxy> {
    let options = ProxyOptions::new()
        .server("*", postgres)
        .pool_mode("transaction")
        .pool_size(POOL_SIZE)
        .setting("max_client_conn", &CLIENTS_MAX.to_string())
        // Logging each of thousands of connections is not what is compared.
        .setting("log_connections", "0")
        .setting("log_disconnections", "0");
    match rival {
        Rival::Direct => anyhow::bail!("direct connections have no pooler"),
        Rival::Tigger => Proxy::start(ProxyKind::Tigger, &options.setting("worker_threads", "2")),
        Rival::PgBouncer => Proxy::start(ProxyKind::PgBouncer, &options),
    }
}

fn throughput(report: &PgbenchReport, machine_ticks: u64, pooler_ticks: Option<u64>) -> Throughput {
    let per_transaction_us = |ticks: u64| ticks as f64 * 1e6 / ticks_per_second() as f64 / report.transactions as f64;
    let latencies = &report.latencies_us;
    let latency_us = (!latencies.is_empty()).then(|| LatencyUs {
        p50: percentile(latencies, 50.0),
        p90: percentile(latencies, 90.0),
        p99: percentile(latencies, 99.0),
    });
    Throughput {
        tps: report.tps,
        transactions: report.transactions,
        failures: report.failures(),
        errors: report.stderr.lines().take(ERROR_LINES_MAX).map(str::to_owned).collect(),
        latency_avg_ms: report.latency_avg_ms,
        connect_ms: report.connect_ms,
        latency_us,
        machine_cpu_us: per_transaction_us(machine_ticks),
        pooler_cpu_us: pooler_ticks.map(per_transaction_us),
    }
}

/// For 1000 direct clients, both pools of 20 and a fresh pooler's.
const SERVER_CONNECTIONS_MAX: u32 = 1100;
const POOL_SIZE: u32 = 20;
const CLIENTS_MAX: u32 = 12_000;
const PGBENCH_THREADS: u32 = 2;
/// So many lines of pgbench's errors are kept in the results.
const ERROR_LINES_MAX: usize = 5;
