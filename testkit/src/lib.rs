//! Starts real things for tests, benchmarks and the demo: PostgreSQL servers, Tigger, PgBouncer, `psql`, `pgbench`.
//! Everything started is ended by pid when its value is dropped, also when a test panics; a small guardian process does
//! the same when the whole test process is killed. It does not speak the PostgreSQL protocol and contains no test.
//!
//! ```no_run
//! use tigger_testkit::{Postgres, PostgresOptions, Proxy, ProxyKind, ProxyOptions};
//!
//! # fn main() -> anyhow::Result<()> {
//! let postgres = Postgres::start(&PostgresOptions::default())?;
//! let proxy = Proxy::start(ProxyKind::Tigger, &ProxyOptions::new().server("*", &postgres).pool_mode("transaction"))?;
//! assert_eq!(proxy.psql("select 1")?, "1");
//! assert_eq!(&proxy.admin("show pools")?.find("database", "postgres").expect("the pool")["pool_mode"], "transaction");
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod account;
mod conninfo;
mod daemon;
mod guardian;
mod host;
mod kernel_share;
mod limits;
mod pgbench;
mod port;
mod postgres;
mod process_info;
mod programs;
mod proxy;
mod psql;
mod run;
mod skipped;
mod table;

pub use conninfo::Conninfo;
pub use host::Host;
pub use kernel_share::kernel_share;
pub use limits::raise_fd_limit;
pub use nix::sys::signal::Signal;
pub use pgbench::{Pgbench, PgbenchReport, QueryMode, percentile};
pub use port::free_port;
pub use postgres::{Auth, Postgres, PostgresOptions};
pub use process_info::{ProcessInfo, machine_cpu_ticks, ticks_per_second};
pub use programs::{
    have_pgbouncer, have_postgres, pgbouncer_binary, postgres_18_programs, postgres_program, target_dir, tigger_binary,
};
pub use proxy::{Proxy, ProxyKind, ProxyOptions};
pub use psql::Psql;
pub use run::{Run, run};
pub use skipped::skipped;
pub use table::{Row, Table};
