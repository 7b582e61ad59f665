//! The servers under test, all up for the whole run, and one measurement with pgbench.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use tigger_testkit::{
    Host, Pgbench, PgbenchReport, Postgres, PostgresOptions, Proxy, ProxyKind, ProxyOptions, machine_cpu_ticks,
    percentile, ticks_per_second,
};

use crate::{
    kernel::{Counters, KernelShare},
    report::{LatencyUs, Outcome, Throughput},
    rows::Row,
    scenario::{Placement, Rival, Scenario, Transaction, Workload},
};

/// What some rows need: PostgreSQL here and on another host, and the poolers in front of them with the same settings.
pub(crate) struct Rig {
    // Dropped in this order: poolers before their servers.
    poolers: BTreeMap<(Option<Placement>, Rival), Proxy>,
    here: Postgres,
    others: Others,
}

/// The hosts of rows whose programs are not all on one.
enum Others {
    Unused,
    /// They cannot be simulated on this machine.
    Missing {
        why: String,
    },
    Up {
        postgres: Postgres,
        application: Host,
        pooler: Host,
        server: Host,
    },
}

/// Where the programs of a row are.
struct Scene<'a> {
    postgres: &'a Postgres,
    client: Host,
    pooler: Host,
}

impl Rig {
    /// Starts what the rows need.
    pub(crate) fn start(rows: &[&Row]) -> Result<Self> {
        let here = start_postgres(&Host::default())?;
        if rows.iter().any(|row| row.scenario.workload.transaction() == Some(Transaction::ReadWrite)) {
            here.psql(&format!("create database {READ_WRITE_DATABASE}"))?;
            let conninfo = here.socket_conninfo().dbname(READ_WRITE_DATABASE);
            Pgbench::init_with(&conninfo, READ_WRITE_SCALE, &["--unlogged-tables"])?;
        }
        let others_used = rows.iter().any(|row| row.scenario.group.placement().is_some());
        let others = if others_used { Others::start()? } else { Others::Unused };
        let mut rig = Self { poolers: BTreeMap::new(), here, others };
        for row in rows {
            let placement = row.scenario.group.placement();
            for &rival in row.rivals.iter().filter(|rival| rival.is_pooler()) {
                if let Some(scene) = rig.scene(placement)
                    && !rig.poolers.contains_key(&(placement, rival))
                {
                    let pooler = start_pooler(rival, &scene, &[])?;
                    rig.poolers.insert((placement, rival), pooler);
                }
            }
        }
        Ok(rig)
    }

    /// Why the row cannot be measured here, if so.
    pub(crate) fn missing(&self, row: &Row) -> Option<String> {
        match (&self.others, row.scenario.group.placement()) {
            (Others::Missing { why }, Some(_)) => Some(why.clone()),
            _ => None,
        }
    }

    /// A pooler of its own beside the rig's, whose memory nothing has touched yet. There is none for direct connections.
    pub(crate) fn fresh_pooler(&self, rival: Rival) -> Result<Proxy> {
        self.fresh_pooler_with(rival, &[])
    }

    /// The same with further settings.
    pub(crate) fn fresh_pooler_with(&self, rival: Rival, settings: &[(&str, &str)]) -> Result<Proxy> {
        start_pooler(rival, &self.scene(None).context("nothing runs here")?, settings)
    }

    /// Fills caches and pools: each rival once in each place with each database.
    pub(crate) fn warm_up(&self, rows: &[&Row]) -> Result<()> {
        let mut warm = Vec::new();
        for row in rows.iter().filter(|row| self.missing(row).is_none()) {
            let Scenario { group, workload } = row.scenario;
            let Some(transaction) = workload.transaction() else { continue };
            for &rival in row.rivals {
                let way = (group.placement(), rival, database(transaction));
                if !warm.contains(&way) {
                    let run = self.pgbench(group.placement(), rival, transaction, 32)?.seconds(1).run();
                    run.with_context(|| format!("warming up {}, {}", row.scenario.name(), rival.name()))?;
                    warm.push(way);
                }
            }
        }
        Ok(())
    }

    /// Measures one rival once. A pgbench that cannot even report is an outcome with all clients failed.
    pub(crate) fn measure(&self, scenario: Scenario, rival: Rival, seconds: u32) -> Result<Outcome> {
        let (Workload::Closed { transaction, clients } | Workload::Rate { transaction, clients, .. }) =
            scenario.workload
        else {
            anyhow::bail!("pgbench has no idle clients")
        };
        let placement = scenario.group.placement();
        let mut pgbench = self.pgbench(placement, rival, transaction, clients)?.seconds(seconds);
        if let Workload::Rate { tps, .. } = scenario.workload {
            pgbench = pgbench.rate(tps).log_latencies();
        }
        let pooler = self.poolers.get(&(placement, rival));
        let pooler_ticks = || pooler.map(Proxy::cpu_ticks).transpose();
        let kernel = || pooler.filter(|_| rival == Rival::Tigger).and_then(Counters::read);
        let kernel_before = kernel();
        let (machine_before, pooler_before) = (machine_cpu_ticks()?, pooler_ticks()?);
        let report = match pgbench.run() {
            Ok(report) => report,
            Err(error) => return Ok(Outcome::Failed { failures: clients.into(), why: format!("{error:#}") }),
        };
        let used = Used {
            machine_ticks: machine_cpu_ticks()? - machine_before,
            pooler_ticks: pooler_ticks()?.zip(pooler_before).map(|(after, before)| after - before),
            kernel: kernel_before.and_then(|before| Some(kernel()?.share_since(before))),
        };
        Ok(Outcome::Throughput(throughput(&report, &used)))
    }

    fn scene(&self, placement: Option<Placement>) -> Option<Scene<'_>> {
        let Some(placement) = placement else {
            return Some(Scene { postgres: &self.here, client: Host::default(), pooler: Host::default() });
        };
        let Others::Up { postgres, application, pooler, server } = &self.others else { return None };
        let pooler = match placement {
            Placement::BesidePostgres => server,
            Placement::BesideApplication => application,
            Placement::StandAlone => pooler,
        };
        Some(Scene { postgres, client: application.clone(), pooler: pooler.clone() })
    }

    fn pgbench(
        &self,
        placement: Option<Placement>,
        rival: Rival,
        transaction: Transaction,
        clients: u32,
    ) -> Result<Pgbench> {
        let scene = self.scene(placement).context("there are no other hosts")?;
        let conninfo = match rival {
            Rival::Direct => scene.postgres.conninfo_from(&scene.client),
            Rival::DirectUnix => scene.postgres.socket_conninfo(),
            _ => self.poolers.get(&(placement, rival)).context("no such pooler")?.conninfo_from(&scene.client),
        };
        let pgbench =
            Pgbench::new(conninfo.dbname(database(transaction))).on(&scene.client).script(&[transaction.script()]);
        Ok(pgbench.mode(transaction.mode()).clients(clients).threads(PGBENCH_THREADS))
    }
}

impl Others {
    fn start() -> Result<Self> {
        let [application, pooler, server] = match Host::simulate(["application", "pooler", "server"]) {
            Ok(hosts) => hosts,
            Err(error) => return Ok(Self::Missing { why: format!("{error:#}") }),
        };
        Ok(Self::Up { postgres: start_postgres(&server)?, application, pooler, server })
    }
}

/// Where a transaction's tables are: those that only read share theirs.
fn database(transaction: Transaction) -> &'static str {
    match transaction {
        Transaction::Simple | Transaction::Extended | Transaction::Prepared => "postgres",
        Transaction::ReadWrite => READ_WRITE_DATABASE,
    }
}

fn start_postgres(host: &Host) -> Result<Postgres> {
    let options = PostgresOptions::default().on(host).max_connections(SERVER_CONNECTIONS_MAX);
    let postgres = Postgres::start(&options.setting("shared_buffers", SHARED_BUFFERS))?;
    Pgbench::init(&postgres.socket_conninfo(), 1)?;
    Ok(postgres)
}

fn start_pooler(rival: Rival, scene: &Scene<'_>, settings: &[(&str, &str)]) -> Result<Proxy> {
    ensure!(rival.is_pooler(), "direct connections have no pooler");
    let options = ProxyOptions::new()
        .on(&scene.pooler)
        .pool_mode("transaction")
        .pool_size(POOL_SIZE)
        .setting("max_client_conn", &CLIENTS_MAX.to_string())
        // Logging each of thousands of connections is not what is compared.
        .setting("log_connections", "0")
        .setting("log_disconnections", "0");
    let options = settings.iter().fold(options, |options, (name, value)| options.setting(name, value));
    let options = match rival {
        Rival::PgBouncerUnix => options.server_over_socket("*", scene.postgres),
        _ => options.server("*", scene.postgres),
    };
    let tigger = |kernel_path| {
        let options = options.clone().setting("worker_threads", "2").setting("kernel_path", kernel_path);
        Proxy::start(ProxyKind::Tigger, &options)
    };
    match rival {
        Rival::Tigger => tigger("auto"),
        Rival::TiggerUser => tigger("off"),
        _ => Proxy::start(ProxyKind::PgBouncer, &options),
    }
}

/// What a measurement took beside time.
struct Used {
    machine_ticks: u64,
    pooler_ticks: Option<u64>,
    kernel: Option<KernelShare>,
}

fn throughput(report: &PgbenchReport, used: &Used) -> Throughput {
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
        machine_cpu_us: per_transaction_us(used.machine_ticks),
        pooler_cpu_us: used.pooler_ticks.map(per_transaction_us),
        kernel: used.kernel,
    }
}

/// For 1000 direct clients, the pools of 20 of three poolers for two databases, and a fresh pooler's.
const SERVER_CONNECTIONS_MAX: u32 = 1200;
const POOL_SIZE: u32 = 20;
const CLIENTS_MAX: u32 = 12_000;
const PGBENCH_THREADS: u32 = 2;
/// So many lines of pgbench's errors are kept in the results.
const ERROR_LINES_MAX: usize = 5;
/// Room for all that the read-write transactions touch.
const SHARED_BUFFERS: &str = "1GB";
const READ_WRITE_DATABASE: &str = "readwrite";
/// Every transaction updates one of so many branches: enough of them that the clients seldom wait for one another.
const READ_WRITE_SCALE: u32 = 50;
