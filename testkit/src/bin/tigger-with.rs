//! Runs a program with a throw-away PostgreSQL, direct or with Tigger in front of it, for scripts that try clients:
//! `tigger-with VARIANT PROGRAM [ARGUMENT ...]`. The program finds the server in the usual variables (`PGHOST` and so
//! on). When it ends, so do the servers, and its exit status is ours. What it does is not looked at.

#![forbid(unsafe_code)]

use std::{
    env,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use tigger_testkit::{
    Auth, Postgres, PostgresOptions, Proxy, ProxyKind, ProxyOptions, Psql, kernel_share, raise_fd_limit,
};

fn main() -> ExitCode {
    match with_servers() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("tigger-with: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn with_servers() -> Result<u8> {
    let mut args = env::args_os().skip(1);
    let (Some(variant), Some(program)) = (args.next(), args.next()) else { bail!("{USAGE}") };
    let variant = variant.to_str().and_then(Variant::parse).context(USAGE)?;
    raise_fd_limit()?;
    let postgres = Postgres::start(&PostgresOptions::default().auth(Auth::ScramSha256).max_connections(200))?;
    let proxy = variant.proxy(&postgres)?;
    let port = proxy.as_ref().map_or(postgres.port(), Proxy::port).to_string();
    let place = [("PGHOST", postgres.host()), ("PGPORT", &port), ("PGDATABASE", "postgres")];
    let status = Command::new(&program)
        .args(args)
        .envs(place.into_iter().chain([("PGUSER", "postgres"), ("PGPASSWORD", PASSWORD)]))
        .status()
        .with_context(|| format!("starting {}", program.display()))?;
    if let Some(proxy) = proxy.filter(|_| variant.has_kernel_path()) {
        let console = Psql::new(proxy.conninfo().dbname("pgbouncer").password(PASSWORD));
        eprintln!("{}", kernel_share(&console.table("SHOW KERNEL_PATH")?));
    }
    // A program that a signal ended has no status.
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

/// What is between the program and PostgreSQL.
#[derive(Clone, Copy)]
enum Variant {
    Direct,
    Tigger { pool_mode: &'static str, pool_size: u32, kernel_path: &'static str },
}

impl Variant {
    fn parse(name: &str) -> Option<Self> {
        let (mode, kernel_path) = name.strip_suffix("+kernel").map_or((name, "off"), |mode| (mode, "require"));
        match mode {
            "direct" if kernel_path == "off" => Some(Self::Direct),
            // A server for each of many clients.
            "session" => Some(Self::Tigger { pool_mode: "session", pool_size: 150, kernel_path }),
            // So few that clients which come together have to share them.
            "transaction" => Some(Self::Tigger { pool_mode: "transaction", pool_size: 5, kernel_path }),
            _ => None,
        }
    }

    fn has_kernel_path(self) -> bool {
        matches!(self, Self::Tigger { kernel_path: "require", .. })
    }

    fn proxy(self, postgres: &Postgres) -> Result<Option<Proxy>> {
        let Self::Tigger { pool_mode, pool_size, kernel_path } = self else { return Ok(None) };
        let options = ProxyOptions::new()
            .server("*", postgres)
            .auth_type("scram-sha-256")
            .user("postgres", PASSWORD)
            .pool_mode(pool_mode)
            .pool_size(pool_size)
            .setting("kernel_path", kernel_path);
        Proxy::start(ProxyKind::Tigger, &options).map(Some)
    }
}

/// The superuser's, on the throw-away server and so on Tigger.
const PASSWORD: &str = "postgres";

const USAGE: &str =
    "usage: tigger-with direct|session|session+kernel|transaction|transaction+kernel PROGRAM [ARGUMENT ...]";
