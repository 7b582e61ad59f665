//! The demo behind `make run`: a throw-away PostgreSQL, Tigger in front of it, a short pgbench of both ways, then it
//! stays for you to try until Ctrl-C. It measures too briefly to be a benchmark: that is `make bench`.

#![forbid(unsafe_code)]

use std::{env, io::ErrorKind, net::TcpListener, process::ExitCode};

use anyhow::{Context, Result, bail, ensure};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use tigger_testkit::{
    Conninfo, Pgbench, PgbenchReport, Postgres, PostgresOptions, Proxy, ProxyKind, ProxyOptions, kernel_share,
    raise_fd_limit,
};

fn main() -> ExitCode {
    // From here on Ctrl-C does not kill us: what runs is stopped first.
    let mut signals = match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("Cannot wait for signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    match demo(&mut signals) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if signals.pending().next().is_some() => {
            eprintln!("\nInterrupted: all is stopped.");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("The demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(signals: &mut Signals) -> Result<()> {
    let once = match env::args().nth(1).as_deref() {
        None => false,
        Some("--once") => true,
        Some(other) => bail!("unknown argument {other}: there is only --once"),
    };
    let port = port()?;
    raise_fd_limit()?;
    println!("Starting a throw-away PostgreSQL and Tigger in front of it ...");
    let postgres = Postgres::start(&PostgresOptions::default())?;
    Pgbench::init(&postgres.conninfo(), 1)?;
    let options = ProxyOptions::new().server("*", &postgres).pool_mode("transaction").pool_size(POOL_SIZE).port(port);
    let proxy = Proxy::start(ProxyKind::Tigger, &options)?;

    println!("pgbench --select-only, {CLIENTS} clients, {SECONDS} s each way ...");
    let direct = bench(postgres.conninfo())?;
    let through = bench(proxy.conninfo())?;
    print!("{}", table(&direct, &through));
    let servers: u32 = postgres.psql(COUNT_SERVERS)?.parse().context("counting server connections")?;
    let path = kernel_share(&proxy.admin("SHOW KERNEL_PATH")?);
    println!("Tigger used {servers} server connections (pool size {POOL_SIZE}). {path}\n");
    ensure!(
        through.transactions > 0 && through.failures() == 0,
        "not all went well through Tigger:\n{}",
        through.stderr
    );
    ensure!(servers <= POOL_SIZE, "Tigger opened more server connections than its pool may have");
    if once {
        return Ok(());
    }

    println!("Try it:\n  psql -h 127.0.0.1 -p {port} -U postgres postgres");
    println!("The admin console:\n  psql -h 127.0.0.1 -p {port} -U postgres pgbouncer -c 'show pools'");
    println!("Its configuration and log are in {}. Ctrl-C ends all and removes it.", proxy.socket_dir().display());
    signals.forever().next();
    println!("\nStopping Tigger and PostgreSQL ...");
    Ok(())
}

/// The port for Tigger, known to be free.
fn port() -> Result<u16> {
    let port = match env::var("PORT") {
        Ok(text) => {
            text.parse().ok().filter(|&port| port != 0).with_context(|| format!("PORT={text} is not a TCP port"))?
        }
        Err(_) => 6432,
    };
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(port),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            bail!(
                "port {port} is taken (by a PgBouncer service?): stop that, or choose another with PORT=7432 make run"
            )
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on 127.0.0.1 port {port}")),
    }
}

fn bench(conninfo: Conninfo) -> Result<PgbenchReport> {
    Pgbench::new(conninfo).clients(CLIENTS).threads(2).seconds(SECONDS).run()
}

fn table(direct: &PgbenchReport, through: &PgbenchReport) -> String {
    let mut text = format!("\n{:16} {:>10} {:>12} {:>10}\n", "", "tps", "latency", "failures");
    for (name, report) in [("direct", direct), ("through Tigger", through)] {
        let latency = format!("{:.3} ms", report.latency_avg_ms);
        text += &format!("{name:16} {:>10.0} {latency:>12} {:>10}\n", report.tps, report.failures());
    }
    let ratios = (through.tps / direct.tps, through.latency_avg_ms / direct.latency_avg_ms);
    text + &format!("{:16} {:>10.2} {:>12.2}\n\n", "ratio", ratios.0, ratios.1)
}

const CLIENTS: u32 = 16;
const SECONDS: u32 = 4;
const POOL_SIZE: u32 = 20;
const COUNT_SERVERS: &str =
    "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_both_ways_and_their_ratio() {
        let report = |tps, latency_avg_ms| PgbenchReport { tps, latency_avg_ms, ..PgbenchReport::default() };
        let table = table(&report(20_000.0, 0.8), &report(15_000.0, 1.0));
        let words: Vec<&str> = table.split_ascii_whitespace().collect();
        let expected = "tps latency failures direct 20000 0.800 ms 0 through Tigger 15000 1.000 ms 0 ratio 0.75 1.25";
        assert_eq!(words.join(" "), expected);
    }
}
